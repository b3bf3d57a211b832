// A program that calls malloc and knows exactly how often: every call of the process after main began is its own.
//   victim [-n CALLS] [-r CALLS_PER_SECOND] [-w]
// -n: stop after that many (default: never); -r: pace (default 10; 0: as fast as it can); -w: wait for a line on stdin first,
// and for its end afterwards, so that whoever counts can do so while the process lives.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stopping;
static char output[4096];  // without it stdio would call malloc for its buffer

static void on_signal(int signal_number) {
  (void)signal_number;
  stopping = 1;
}

static void wait_for_line(void) {
  char byte = 0;
  while (!stopping && read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') {
  }
}

int main(int argc, char **argv) {
  uint64_t wanted = UINT64_MAX, rate = 10, calls = 0;
  int wait = 0, option;
  while ((option = getopt(argc, argv, "n:r:w")) != -1) {
    if (option == 'n') {
      wanted = strtoull(optarg, NULL, 10);
    } else if (option == 'r') {
      rate = strtoull(optarg, NULL, 10);
    } else if (option == 'w') {
      wait = 1;
    } else {
      fprintf(stderr, "usage: victim [-n CALLS] [-r CALLS_PER_SECOND] [-w]\n");
      return 2;
    }
  }
  setvbuf(stdout, output, _IOLBF, sizeof(output));
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_handler = on_signal;  // no SA_RESTART: a signal ends the waiting, too
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);

  printf("victim: pid %d\n", (int)getpid());
  if (wait) wait_for_line();
  // The compiler may not remove or merge the calls: they go through a pointer it cannot see through.
  void *(*volatile allocate)(size_t) = malloc;
  while (calls < wanted && !stopping) {
    free(allocate(1024));
    calls++;
    if (rate == 0 || calls % rate != 0) continue;
    printf("victim: %llu malloc calls\n", (unsigned long long)calls);
    struct timespec second = {1, 0};
    if (calls < wanted) nanosleep(&second, NULL);
  }
  printf("victim: made %llu malloc calls\n", (unsigned long long)calls);
  if (wait) wait_for_line();
  return 0;
}
