// A host for extensions: answers "NUMBER PRIORITY" on each line of its input with what its entry returns and what became of its
// state. Some of its names are the kernel's, too. With OTHER_LAYOUT: the same host in another version.
#include <bpftime/eim.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

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

__attribute__((noinline)) int nginxTime(void) { return 42; }
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
    if (sscanf(line, "%d %d", &request.number, &request.priority) != 2) continue;
    const int result = ngx_http_process_request(&request);
    printf("result %d total %d\n", result, host_total);
  }
  return 0;
}
