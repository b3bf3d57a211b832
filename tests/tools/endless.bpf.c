// A program that ends, as every verified one, but not today.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "endless.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define TURNS (1 << 23)  // BPF_MAX_LOOPS

static long inner(unsigned int turn, void *context) {
  bpf_get_prandom_u32();  // something no compiler leaves out
  return 0;
}
static long outer(unsigned int turn, void *context) {
  bpf_loop(TURNS, inner, 0, 0);
  return 0;
}

SEC("raw_tp")
int endless(void *context) { return bpf_loop(TURNS, outer, 0, 0); }

SEC("raw_tp")
int answers(void *context) { return 42; }
