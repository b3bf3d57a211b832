// A program to be probed: calls `callee` through a chain of functions with frame pointers, once per SIGUSR1.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

__attribute__((noinline, visibility("default"))) long callee(long depth) {
  asm volatile("" : "+r"(depth));
  return depth * 2;
}

__attribute__((noinline)) long chain(long left) {
  const long value = left > 0 ? chain(left - 1) : callee(left);
  asm volatile("" ::: "memory");
  return value + 1;
}

int main(void) {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  sigaddset(&wanted, SIGTERM);
  sigprocmask(SIG_BLOCK, &wanted, NULL);
  prctl(PR_SET_NAME, "the-caller");
  printf("waiting\n");
  fflush(stdout);
  for (int signal; sigwait(&wanted, &signal) == 0 && signal == SIGUSR1;) {
    chain(5);
    printf("called\n");
    fflush(stdout);
  }
  return 0;
}
