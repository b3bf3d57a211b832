// A program with USDT probes: one with a semaphore, one without, arguments of several sizes and kinds of operands.
//   usdt_host [ROUNDS]   prints "waiting", and for each SIGUSR1 fires ROUNDS times and prints how the semaphore stands
#define _GNU_SOURCE
#define _SDT_HAS_SEMAPHORES 1
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sdt.h>

__extension__ unsigned short sample_request_semaphore __attribute__((unused))
__attribute__((section(".probes")));
// Every probe of the file needs one then.
__extension__ unsigned short sample_plain_semaphore __attribute__((unused))
__attribute__((section(".probes")));
__extension__ unsigned short sample_twice_semaphore __attribute__((unused))
__attribute__((section(".probes")));

static int table[4] = {11, -22, 33, -44};

__attribute__((noinline)) static long serve(int number, long size, const char* name, signed char small) {
  volatile int local = number * 3;
  long sum = number + size;
  // As programs do: what costs is done only while somebody looks.
  if (sample_request_semaphore) STAP_PROBE5(sample, request, number, size, name, small, local);
  sum ^= sum << 3;
  int word = table[number & 3];
  __asm__ volatile("" : "+r"(word));  // in a register: libbpf understands no index registers
  STAP_PROBE2(sample, plain, sum, word);
  return sum;
}

__attribute__((noinline)) static long first(long a) {
  STAP_PROBE1(sample, twice, a);
  return a + 1;
}
__attribute__((noinline)) static long second(long a) {
  STAP_PROBE1(sample, twice, a * 2);
  return a + 2;
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 10;
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  sigprocmask(SIG_BLOCK, &wanted, NULL);
  volatile long sink = 0;
  for (;;) {
    int got;
    printf("waiting: semaphores %d %d %d\n", sample_request_semaphore, sample_plain_semaphore,
           sample_twice_semaphore);
    fflush(stdout);
    sigwait(&wanted, &got);
    for (int i = 0; i < rounds; ++i) {
      sink += serve(i, 100000000000l + i, "a name", (signed char)-i);
      sink += first(i) + second(i);
    }
    printf("fired\n");
    fflush(stdout);
  }
}
