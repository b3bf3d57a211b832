// For tools that go on step by step while their programs run: each SIGUSR1 asks for the next one, SIGTERM for the end.
#pragma once

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t stopping, asked;
static inline void on_step_signal(int signal) {
  if (signal == SIGUSR1)
    asked = 1;
  else
    stopping = 1;
}

// From now on both signals come only in sigsuspend(`before`), which is what was blocked until now.
static inline void take_steps(sigset_t* before) {
  struct sigaction action = {.sa_handler = on_step_signal};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGUSR1);
  sigprocmask(SIG_BLOCK, &mask, before);
}
