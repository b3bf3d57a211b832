/* What the BPF program and its loader share. */
#ifndef FIREWALL_H
#define FIREWALL_H

#include "rules_match.h"

/* The table is held twice: a new one is written where nobody walks, then `active` (0 or 1) names it. A request that is being
 * looked at meanwhile is judged by the table it began with, unless rules change twice within its few microseconds. */
#define FW_TABLES 2u

#endif
