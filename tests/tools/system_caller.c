// Makes system calls of every kind that a patched site could break, checks what it gets, and says "ok" or what was wrong.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char** environ;
static int failures;
#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      failures++;                                                         \
      printf("line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
    }                                                                     \
  } while (0)

static void open_files(void) {
  for (int i = 0; i < 3; i++) {
    char path[64];
    snprintf(path, sizeof path, "/nowhere/system_caller_%d", i);
    CHECK(open(path, O_RDONLY) == -1 && errno == ENOENT);
  }
  const int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK(close(fd) == 0);
}

static void look_at_files(void) {
  const char* path = "/nowhere/system_caller_stat";
  struct stat file;
  struct statx more;
  struct statfs system;
  CHECK(stat(path, &file) == -1 && errno == ENOENT);
  CHECK(lstat("/dev/null", &file) == 0 && S_ISCHR(file.st_mode));
  CHECK(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &more) == -1 && errno == ENOENT);
  CHECK(statfs(path, &system) == -1 && errno == ENOENT);
  CHECK(syscall(SYS_stat, path, &file) == -1 && errno == ENOENT);
  CHECK(syscall(SYS_lstat, "/dev/null", &file) == 0);
}

// Number known to nobody but the caller.
static void call_by_number(void) {
  const long fd = syscall(SYS_openat, AT_FDCWD, "/nowhere/system_caller_by_number", O_RDONLY);
  CHECK(fd == -1 && errno == ENOENT);
  CHECK(syscall(SYS_getpid) == getpid());
}

// By the kernel's own page, where it is mapped: emulated, and no system call's event.
static void call_by_page(void) {
  FILE* maps = fopen("/proc/self/maps", "re");
  char line[4096];
  int mapped = 0;
  CHECK(maps != NULL);
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL) mapped |= strstr(line, "[vsyscall]") != NULL;
  if (maps != NULL) fclose(maps);
  if (!mapped) return;
  time_t (*const page_time)(time_t*) = (time_t(*)(time_t*))0xffffffffff600400;
  const time_t before = time(NULL);
  const time_t now = page_time(NULL);
  CHECK(now >= before && now <= time(NULL));
}

static volatile sig_atomic_t signals;
static void on_signal(int number) {
  (void)number;
  signals++;
}

static void send_signals(void) {
  signal(SIGUSR1, on_signal);
  CHECK(kill(getpid(), 0) == 0);
  CHECK(kill(getpid(), SIGUSR1) == 0);
  CHECK(signals == 1);
}

static int ends[2];
static volatile int cleaned;
static void clean(void* argument) {
  (void)argument;
  cleaned = 1;
}
static void* read_for_ever(void* argument) {
  char byte;
  pthread_cleanup_push(clean, argument);
  for (;;) CHECK(read(ends[0], &byte, 1) == 1);
  pthread_cleanup_pop(0);
  return NULL;
}

// A cancellation point that blocks, and a restart.
static void cancel_and_restart(void) {
  pthread_t reader;
  CHECK(pipe(ends) == 0);
  CHECK(pthread_create(&reader, NULL, read_for_ever, NULL) == 0);
  for (int i = 0; i < 20; i++) {
    CHECK(pthread_kill(reader, SIGUSR1) == 0);  // signal() means SA_RESTART
    CHECK(write(ends[1], "x", 1) == 1);
    sched_yield();
  }
  CHECK(pthread_cancel(reader) == 0);
  void* result = NULL;
  CHECK(pthread_join(reader, &result) == 0);
  CHECK(result == PTHREAD_CANCELED && cleaned);
}

static int status_of(pid_t child) {
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void start_processes(void) {
  char* arguments[] = {"/bin/true", "system_caller_execs", NULL};
  pid_t child = fork();
  if (child == 0) {
    // The kernel can print only what is in this process's memory already.
    volatile size_t touched =
        strlen("/bin/nowhere/system_caller") + strlen(arguments[0]) + strlen(arguments[1]);
    (void)touched;
    execve("/bin/nowhere/system_caller", arguments, environ);
    execve(arguments[0], arguments, environ);
    _exit(99);
  }
  CHECK(status_of(child) == 0);
  child = vfork();
  if (child == 0) _exit(7);
  CHECK(status_of(child) == 7);
  arguments[1] = "system_caller_execs_after_vfork";
  child = vfork();
  if (child == 0) {
    execve("/bin/nowhere/system_caller", arguments, environ);
    execve(arguments[0], arguments, environ);
    _exit(99);
  }
  CHECK(status_of(child) == 0);
  arguments[1] = "system_caller_execs_by_spawn";
  CHECK(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) == 0);
  CHECK(status_of(child) == 0);
  CHECK(posix_spawn(&child, "/bin/nowhere/system_caller", NULL, NULL, arguments, environ) == ENOENT);
  CHECK(system("exec /bin/true system_caller_execs_by_system") == 0);
}

static void* run(void* argument) {
  for (int i = 0; i < 200; i++) open_files();
  return argument;
}

static void use_threads(void) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, run, NULL) == 0);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "wait") == 0) {  // to be attached to meanwhile
    sigset_t wake;
    int number;
    sigemptyset(&wake);
    sigaddset(&wake, SIGUSR2);
    sigprocmask(SIG_BLOCK, &wake, NULL);
    printf("waiting\n");
    fflush(stdout);
    CHECK(sigwait(&wake, &number) == 0);
  }
  open_files();
  look_at_files();
  call_by_number();
  call_by_page();
  send_signals();
  cancel_and_restart();
  start_processes();
  if (argc <= 1 || strcmp(argv[1], "few") != 0) use_threads();
  printf("%s\n", failures == 0 ? "ok" : "failed");
  return failures != 0;
}
