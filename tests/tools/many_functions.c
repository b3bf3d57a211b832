// A thousand functions to be probed. For every SIGUSR1 it calls each once and says so; ends with SIGTERM.
#include <signal.h>
#include <stdio.h>

#define ONE(n)                                            \
  __attribute__((noinline, used)) long many_##n(long x) { \
    __asm__ volatile("imul $3, %0" : "+r"(x));            \
    return x + n;                                         \
  }
#define TEN(n) \
  ONE(n##0) ONE(n##1) ONE(n##2) ONE(n##3) ONE(n##4) ONE(n##5) ONE(n##6) ONE(n##7) ONE(n##8) ONE(n##9)
#define HUNDRED(n) \
  TEN(n##0) TEN(n##1) TEN(n##2) TEN(n##3) TEN(n##4) TEN(n##5) TEN(n##6) TEN(n##7) TEN(n##8) TEN(n##9)
#define THOUSAND \
  HUNDRED(1)     \
  HUNDRED(2) HUNDRED(3) HUNDRED(4) HUNDRED(5) HUNDRED(6) HUNDRED(7) HUNDRED(8) HUNDRED(9) HUNDRED(10)
THOUSAND
#undef ONE
#define ONE(n) many_##n,
static long (*const functions[])(long) = {THOUSAND};

int main(void) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("waiting");
  int received = 0;
  for (int round = 1; sigwait(&signals, &received) == 0 && received == SIGUSR1; round++) {
    long wrong = 0;
    for (unsigned i = 0; i < sizeof functions / sizeof *functions; i++)
      wrong += functions[i](i) != 3 * (long)i + 100 + (long)i;
    printf("round %d done, %ld wrong\n", round, wrong);
  }
  return 0;
}
