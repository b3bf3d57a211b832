// Shared by both halves of rings.
#pragma once
#define RINGS 2  // inner rings; one slot more stays empty
#define MARK 0x6d61726bu

struct record {
  unsigned int mark, how;
  unsigned long long number;
};
struct order {
  unsigned long long amount, number;
};
