// The program whose function is probed: times batches of calls on request. Knows nothing of any probe.
// Prints "pid PID probed ADDRESS probed_nop ADDRESS rotated_0 ADDRESS" first; then, for each line "WAY COUNT" it reads, the
// nanoseconds that COUNT calls took in that way:
//   probed, probed_nop   the function, in a loop
//   rotated              64 functions in turn
//   two_threads          the function, in two threads with no argument in common; each thread's calls count, and its time
//   evicted              the function, each time after everything it needs has left the caches; COUNT times the median
//   call_max, call_min   sched_get_priority_max and _min of libc, which do next to nothing: two system calls
//   call_by_number       sched_get_priority_min through syscall(2), whose system call instruction serves every number
//   spin                 the function, for COUNT milliseconds; for who wants to disturb a busy process
// Ends with its input.
#define _GNU_SOURCE
#include <bpftime/eim.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// int NAME(int a, const char* b) { return a + *b; }, as compilers write it with a frame pointer; in assembly,
// since they may as well put another instruction first.
#define FUNCTION(name, first)                          \
  int name(int a, const char* b);                      \
  __asm__(                                             \
      ".text\n"                                        \
      ".p2align 4\n"                                   \
      ".globl " #name                                  \
      "\n"                                             \
      ".type " #name ", @function\n" #name ":\n" first \
      "  push %rbp\n"                                  \
      "  mov %rsp, %rbp\n"                             \
      "  movsbl (%rsi), %eax\n"                        \
      "  add %edi, %eax\n"                             \
      "  pop %rbp\n"                                   \
      "  ret\n"                                        \
      ".size " #name ", .-" #name "\n")

// The kernel emulates push %rbp, which is fair to it; most other instructions it would single-step, at many
// times the cost.
FUNCTION(probed, "");
// Behind a 5-byte nop, where recent kernels need no trap at all.
FUNCTION(probed_nop, "  .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n");

// Each with a site of its own.
// clang-format off
#define ROTATED(n) FUNCTION(rotated_##n, "")
#define EIGHT(tens) \
  ROTATED(tens##0); ROTATED(tens##1); ROTATED(tens##2); ROTATED(tens##3); \
  ROTATED(tens##4); ROTATED(tens##5); ROTATED(tens##6); ROTATED(tens##7)
EIGHT(); EIGHT(1); EIGHT(2); EIGHT(3); EIGHT(4); EIGHT(5); EIGHT(6); EIGHT(7);
#define NAMES(tens) \
  rotated_##tens##0, rotated_##tens##1, rotated_##tens##2, rotated_##tens##3, \
  rotated_##tens##4, rotated_##tens##5, rotated_##tens##6, rotated_##tens##7
// clang-format on
// Numbered in octal, without a leading zero.
static int (*const rotated[64])(int, const char*) = {NAMES(),  NAMES(1), NAMES(2), NAMES(3),
                                                     NAMES(4), NAMES(5), NAMES(6), NAMES(7)};

// Stays on one CPU: moving would cost more than what is measured. The last one, away from interrupts' usual
// place.
static void stay(void) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0; --cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID,
                &now);  // with what the kernel does for us, without what others do meanwhile
  return (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec;
}

static uint64_t wall_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec;
}

static char text[16] = "fifteen letters";
static volatile int sink;

static uint64_t loop(int (*function)(int, const char*), unsigned long calls) {
  int sum = 0;
  const uint64_t start = now_ns();
  for (unsigned long i = 0; i < calls; ++i) sum += function((int)i, text);
  const uint64_t end = now_ns();
  sink = sum;
  return end - start;
}

// What a policy may let programs do at the function: needed for those that write to memory.
EIM_EXTENSION_ENTRY_DEFINE(probedCall, probed, int, int, const char*);
EIM_ENTRY_ARGS(probedCall, a, b);

static uint64_t call_max(unsigned long calls) {
  const uint64_t start = now_ns();
  for (unsigned long i = 0; i < calls; ++i) sink = sched_get_priority_max(SCHED_OTHER);
  return now_ns() - start;
}
static uint64_t call_min(unsigned long calls) {
  const uint64_t start = now_ns();
  for (unsigned long i = 0; i < calls; ++i) sink = sched_get_priority_min(SCHED_OTHER);
  return now_ns() - start;
}
static uint64_t call_by_number(unsigned long calls) {
  const uint64_t start = now_ns();
  for (unsigned long i = 0; i < calls; ++i) sink = (int)syscall(SYS_sched_get_priority_min, SCHED_OTHER);
  return now_ns() - start;
}

static uint64_t rotate(unsigned long calls) {
  int sum = 0;
  const uint64_t start = now_ns();
  for (unsigned long i = 0; i < calls; ++i) sum += rotated[i & 63]((int)i, text);
  const uint64_t end = now_ns();
  sink = sum;
  return end - start;
}

#define KEYS_PER_THREAD 512  // of HASH_KEYS: neither thread sees the other's
struct worker {
  pthread_t thread;
  int cpu, first;
  unsigned long calls;
  uint64_t ns;
};

static void* work(void* argument) {
  struct worker* worker = argument;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(worker->cpu, &one);
  pthread_setaffinity_np(pthread_self(), sizeof one, &one);
  int sum = 0;
  const uint64_t start = now_ns();
  for (unsigned long i = 0; i < worker->calls; ++i)
    sum += probed(worker->first + (int)(i & (KEYS_PER_THREAD - 1)), text);
  worker->ns = now_ns() - start;
  sink = sum;
  return NULL;
}

static cpu_set_t allowed;

static uint64_t two_threads(unsigned long calls) {
  struct worker workers[2];
  int made = 0;
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && made < 2; --cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    workers[made] = (struct worker){.cpu = cpu, .first = made * KEYS_PER_THREAD, .calls = calls / 2};
    pthread_create(&workers[made].thread, NULL, work, &workers[made]);
    ++made;
  }
  uint64_t total = 0;
  for (int i = 0; i < made; ++i) {
    pthread_join(workers[i].thread, NULL);
    total += workers[i].ns;
  }
  return made == 2 ? total : 0;
}

#define EVICTING_BYTES (48u << 20)  // more than the last level holds for one CPU
#define EVICTED_MAX 1000

static int compare(const void* a, const void* b) {
  const uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return x < y ? -1 : x > y;
}

static uint64_t ticks(void) {
  uint32_t low, high;
  __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
  return (uint64_t)high << 32 | low;
}

static uint64_t evict_and_call(unsigned long calls) {
  static char* memory;
  static uint64_t taken[EVICTED_MAX];
  if (memory == NULL && (memory = calloc(1, EVICTING_BYTES)) == NULL) return 0;
  if (calls > EVICTED_MAX) calls = EVICTED_MAX;
  const uint64_t wall_start = wall_ns(), ticks_start = ticks();
  for (unsigned long i = 0; i < calls; ++i) {
    for (size_t at = 0; at < EVICTING_BYTES; at += 64) ++*(volatile char*)&memory[at];
    const uint64_t start = ticks();
    sink = probed((int)i, text);
    taken[i] = ticks() - start;
  }
  const double ns_per_tick = (double)(wall_ns() - wall_start) / (double)(ticks() - ticks_start);
  qsort(taken, calls, sizeof taken[0], compare);
  return (uint64_t)((double)taken[calls / 2] * ns_per_tick * (double)calls);
}

static uint64_t spin(unsigned long milliseconds) {
  uint64_t calls = 0;
  const uint64_t start = wall_ns();
  while (wall_ns() - start < milliseconds * 1000000u) {
    loop(probed, 10000);
    calls += 10000;
  }
  return (wall_ns() - start) * milliseconds / calls;
}

static uint64_t run(const char* way, unsigned long count) {
  if (strcmp(way, "probed_nop") == 0) return loop(probed_nop, count);
  if (strcmp(way, "rotated") == 0) return rotate(count);
  if (strcmp(way, "two_threads") == 0) return two_threads(count);
  if (strcmp(way, "evicted") == 0) return evict_and_call(count);
  if (strcmp(way, "call_max") == 0) return call_max(count);
  if (strcmp(way, "call_min") == 0) return call_min(count);
  if (strcmp(way, "call_by_number") == 0) return call_by_number(count);
  if (strcmp(way, "spin") == 0) return spin(count);
  return loop(probed, count);
}

int main(void) {
  char way[32];
  unsigned long count;
  sched_getaffinity(0, sizeof allowed, &allowed);
  stay();
  printf("pid %d probed %#lx probed_nop %#lx rotated_0 %#lx\n", getpid(), (unsigned long)probed,
         (unsigned long)probed_nop, (unsigned long)rotated[0]);
  fflush(stdout);
  while (scanf("%31s %lu", way, &count) == 2) {
    printf("%lu\n", (unsigned long)run(way, count));
    fflush(stdout);
  }
  return 0;
}
