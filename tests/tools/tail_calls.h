// Shared by both halves of tail_calls.
#pragma once
enum {
  AGAIN,
  FIRST,
  LATE,
  LAST,
  SLOTS
};  // places in the program array; LATE is filled while the programs run
