// A host for extensions: answers "NUMBER PRIORITY" on each line of its input with what its entry returns and what became of its
// state; to "open FILE" with what became of that, to "fork" it forks, and the child answers from then on. PRIORITY 13: without a module. Some of its names are the kernel's, too. With OTHER_LAYOUT: the same host in another version.
#include <bpftime/eim.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct module {
  int id, weight;
};
struct request {
  int depth;
};
struct Text {
  size_t len;
  const char* data;
};
struct Request {
#ifdef OTHER_LAYOUT
  long in_front[5];
  int priority;
  struct module* module;
#endif
  int number;
#ifndef OTHER_LAYOUT
  int priority;
  struct module* module;
#endif
  struct request inner;
  struct Text uri;
};

int host_total = 5;
volatile int the_time = 42;

__attribute__((noinline)) int nginxTime(void) { return the_time; }
__attribute__((noinline)) int scale(int value, int factor) { return value * factor; }
__attribute__((noinline)) void* memcpy(void* to, const void* from, size_t count) {
  for (size_t i = 0; i < count; ++i) ((volatile char*)to)[i] = ((const volatile char*)from)[i];
  return to;
}
__attribute__((noinline)) int ngx_http_process_request(struct Request* r) { return r->number + r->priority; }

EIM_STATE_DEFINE(readTotal, read, host_total);
EIM_STATE_DEFINE(setTotal, write, host_total);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(nginxTime, HF_RET_POSITIVE);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(scale, HF_ARG_RANGE(1, 0, 100));
EIM_HFUNC_ARGS(scale, value, factor);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(memcpy, HF_ARG_BUFFER_OUT(0, 2), HF_ARG_BUFFER_IN(1, 2),
                                  HF_ARG_RANGE(2, 0, 64));
EIM_EXTENSION_ENTRY_DEFINE(processBegin, ngx_http_process_request, int, struct Request*);
EIM_ENTRY_ARGS(processBegin, r);
EIM_ENTRY_PROMISES(processBegin, HF_ARG_NONNULL(0));
EIM_BUFFER(struct Text, data, len);

int main(void) {
  struct module module = {1, 17};
  char line[256];
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("ready");
  while (fgets(line, sizeof line, stdin) != NULL) {
    struct Request request = {.module = &module, .inner = {3}, .uri = {strcspn(line, "\n"), line}};
    if (strncmp(line, "open ", 5) == 0) {
      line[strcspn(line, "\n")] = '\0';
      const int file = open(line + 5, O_RDONLY);
      printf("open %s: %d\n", line + 5, file < 0 ? errno : 0);
      if (file >= 0) close(file);
      continue;
    }
    int told;
    if (sscanf(line, "time %d", &told) == 1) {  // not positive: breaks a promise
      the_time = told;
      continue;
    }
    if (strcmp(line, "fork\n") == 0) {
      const pid_t child = fork();
      if (child > 0) return waitpid(child, NULL, 0) == child ? 0 : 1;
      printf("forked %d\n", (int)getpid());
      continue;
    }
    if (sscanf(line, "%d %d", &request.number, &request.priority) != 2) continue;
    if (request.priority == 13) request.module = NULL;
    const int result = ngx_http_process_request(&request);
    printf("result %d total %d\n", result, host_total);
  }
  return 0;
}
