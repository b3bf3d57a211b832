// Shared by link_tool.bpf.c and link_tool.c.
#pragma once

#define LOG_ENTRIES 512

// Slot 0's `cookie` counts the entries that follow it.
struct log_entry {
  unsigned long long cookie;
  unsigned int tgid, is_return;
};
