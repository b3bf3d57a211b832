// step_count PID COMMAND…: how many instructions PID executes in user space while COMMAND runs, and until it is idle again.
//
// Counted by single steps of the processor, so whatever is executed counts: the program, its libraries, machine code made at run
// time and code patched in from outside. No counter of the hardware is needed, and no copy of the program runs in its place
// as under valgrind, which could not see patches. PID must have one thread that does something. Thousands of times slower than the
// program itself: nothing about time can be learnt here.
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static const long kIdleUs = 200L * 1000;

static void fail(const char* what) {
  fprintf(stderr, "step_count: %s: %s\n", what, strerror(errno));
  exit(1);
}

static pid_t run(char** command) {
  pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (pid == 0) {
    execvp(command[0], command);
    fail(command[0]);
  }
  return pid;
}

static void on_alarm(int signal_number) { (void)signal_number; }

// The next stop of `traced`. 0: none for kIdleUs although the client has ended: it waits for events.
static int next_stop(pid_t traced, pid_t client, int* client_status, int* status) {
  for (;;) {
    // Blocks while the client lives: one of the two has something to say sooner or later.
    const int over = *client_status >= 0;
    struct itimerval limit = {{0, 0}, {0, kIdleUs}};
    if (over) setitimer(ITIMER_REAL, &limit, NULL);
    const pid_t pid = waitpid(over ? traced : -1, status, __WALL);
    if (pid == traced) return 1;
    if (pid == client) *client_status = *status;
    if (pid < 0 && errno == EINTR && over) return 0;
    if (pid < 0 && errno != EINTR) fail("waitpid");
  }
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: step_count PID COMMAND…\n");
    return 2;
  }
  const pid_t traced = atoi(argv[1]);
  int status = 0, client_status = -1;
  if (ptrace(PTRACE_SEIZE, traced, 0, PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, traced, 0, 0))
    fail("ptrace");
  if (waitpid(traced, &status, __WALL) != traced) fail("waitpid");
  sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);  // without SA_RESTART: ends a wait
  const pid_t client = run(argv + 2);

  uint64_t steps = 0;
  int deliver = 0;
  for (;;) {
    if (ptrace(PTRACE_SINGLESTEP, traced, 0, deliver)) fail("step");
    if (!next_stop(traced, client, &client_status, &status)) break;
    if (!WIFSTOPPED(status)) {
      fprintf(stderr, "step_count: the process has ended\n");
      return 1;
    }
    deliver = 0;
    if (status >> 16 == PTRACE_EVENT_STOP) continue;
    if (WSTOPSIG(status) == SIGTRAP)
      ++steps;
    else
      deliver = WSTOPSIG(status);
  }
  setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
  // The step through the system call that is now interrupted still has its trap to report: left alone after a detach,
  // that signal would kill the process.
  if (ptrace(PTRACE_INTERRUPT, traced, 0, 0) || waitpid(traced, &status, __WALL) != traced) fail("interrupt");
  while (status >> 16 == PTRACE_EVENT_STOP)
    if (ptrace(PTRACE_SINGLESTEP, traced, 0, 0) || waitpid(traced, &status, __WALL) != traced)
      fail("last step");
  if (ptrace(PTRACE_DETACH, traced, 0, 0)) fail("detach");
  if (!WIFEXITED(client_status) || WEXITSTATUS(client_status) != 0) {
    fprintf(stderr, "step_count: the command failed\n");
    return 1;
  }
  printf("%llu\n", (unsigned long long)steps);
  return 0;
}
