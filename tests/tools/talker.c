// A program to be probed: exports `talk`, calls it from several threads on request, and says who called.
//   talker THREADS CALLS [in-turn]
// Every SIGUSR1 is one round: each thread calls talk("t<thread> c<call>") CALLS times; in turn: the next begins when one has
// ended. SIGTERM ends it.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int calls;
static volatile unsigned long heard;

__attribute__((noinline, visibility("default"))) unsigned long talk(const char* text) {
  unsigned long sum = 0;
  for (const char* at = text; *at; ++at) sum = sum * 31 + (unsigned char)*at;
  heard = sum;
  return sum;
}

static void* speak(void* argument) {
  const int thread = (int)(long)argument;
  char name[16], text[32];
  snprintf(name, sizeof name, "talker-%d", thread);
  prctl(PR_SET_NAME, name);
  printf("thread %d tid %ld\n", thread, syscall(SYS_gettid));
  fflush(stdout);
  for (int i = 0; i < calls; ++i) {
    snprintf(text, sizeof text, "t%d c%d", thread, i);
    talk(text);
  }
  return NULL;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  calls = argc > 2 ? atoi(argv[2]) : 1;
  const int in_turn = argc > 3 && strcmp(argv[3], "in-turn") == 0;
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  sigaddset(&wanted, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &wanted, NULL);
  printf("waiting\n");
  fflush(stdout);
  for (int round = 1;; ++round) {
    int signal;
    if (sigwait(&wanted, &signal) != 0 || signal == SIGTERM) return 0;
    pthread_t* started = calloc(threads, sizeof *started);
    for (long i = 0; i < threads; ++i) {
      pthread_create(&started[i], NULL, speak, (void*)i);
      if (in_turn) pthread_join(started[i], NULL);
    }
    for (int i = 0; i < threads && !in_turn; ++i) pthread_join(started[i], NULL);
    free(started);
    printf("round %d done\n", round);
    fflush(stdout);
  }
}
