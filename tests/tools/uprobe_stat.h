// Shared by both halves of uprobe_stat.
#pragma once

#define HISTOGRAM_SLOTS 40

struct event {
  unsigned int tgid, tid, uid, pad;
  unsigned long long cookie, ip, argument;
  char comm[16];
  int text_length;
  char text[44];
};
