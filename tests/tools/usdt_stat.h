// Shared by both halves of usdt_stat.
#pragma once

#define ARGUMENTS_MAX 6

struct usdt_event {
  unsigned long long cookie;
  int count;
  int results[ARGUMENTS_MAX];
  long arguments[ARGUMENTS_MAX];
};
