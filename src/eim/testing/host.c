/* A host of every kind of member, for tests. With OTHER_LAYOUT: the same host in another version. */
#include <bpftime/eim.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

typedef struct {
  size_t len;
  unsigned char* data;
} text_t;

enum method { METHOD_GET = 1, METHOD_PUT = 2, METHOD_DELETE = 4 };

struct header {
  text_t key, value;
  struct header* next;
};

struct connection {
  int fd;
  const char* peer;
  struct request* request; /* a cycle */
};

struct request {
#ifdef OTHER_LAYOUT
  long more_in_front[3];
#endif
  int status;
  enum method method;
  text_t uri;
  bool keep_alive;
  unsigned int internal : 1, depth : 5;
  unsigned short ports[4];
  text_t parts[3];
  union {
    unsigned int word;
    unsigned char bytes[4];
  };
  union {
    long number;
    double ratio;
  } value;
  struct {
    int hits;
    struct header first;
  } headers;
  const int version;
  struct connection* connection;
  void* opaque;
  int (*handler)(struct request* request, int code);
  double score;
};

struct handle;

int host_pid = 4711;
const int host_version = 3;
struct {
  long total, refused;
} host_counts;

__attribute__((noinline)) int process_request(struct request* request) {
  host_counts.total += request->status;
  return request->status;
}
__attribute__((noinline)) void handle_request(struct request* request, unsigned char flags) {
  host_counts.refused += request->status + flags;
}
__attribute__((noinline)) unsigned char check(enum method method, signed char level) {
  return method == METHOD_PUT && level > 0;
}
time_t host_time(void) { return 1; }
int finalize_request(struct request* request, int rc) { return request->status + rc; }
long write_log(const char* format, const void* bytes, unsigned int count, int low, int high) {
  return format[0] + ((const char*)bytes)[0] + (long)count + low + high;
}
struct handle* open_handle(int number) {
  return number != 0 ? (struct handle*)&host_counts : NULL;
}
void close_handle(struct handle* handle) { (void)handle; }
static int answer(void) { return 42; }

EIM_STATE_DEFINE(readPid, read, host_pid);
EIM_STATE_DEFINE(writePid, write, host_pid);
EIM_STATE_DEFINE(readVersion, read, host_version);
EIM_STATE_DEFINE(countRefused, write, host_counts.refused);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(host_time, HF_RET_POSITIVE);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(finalize_request, HF_ARG_NONNULL(0), HF_ARG_RANGE(1, 100, 599), HF_COST(50),
                                  HF_RET_ERRNO);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(write_log, HF_ARG_CONST_STRING(0), HF_ARG_BUFFER_IN(1, 2),
                                  HF_ARG_RANGE(2, 0, 4096), HF_ARG_LESS_THAN(3, 4), HF_MAY_BLOCK,
                                  HF_RET_RANGE(-1, 4096));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(open_handle, HF_RET_MAYBE_NULL, HF_ACQUIRES);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(close_handle, HF_ARG_NONNULL(0), HF_RELEASES(0));
EIM_HFUNC_DEFINE(answer);
EIM_EXTENSION_ENTRY_DEFINE(processBegin, process_request, int, struct request*);
EIM_ENTRY_ARGS(processBegin, r);
EIM_EXTENSION_ENTRY_DEFINE(handleRequest, handle_request, void, struct request*, unsigned char);
EIM_ENTRY_PROMISES(handleRequest, HF_ARG_NONNULL(0), HF_ARG_RANGE(1, 0, 7));
EIM_EXTENSION_ENTRY_DEFINE(checkLevel, check, unsigned char, enum method, signed char);
EIM_BUFFER(text_t, data, len);

int main(int argc, char** argv) {
  struct request request = {.status = argc, .connection = NULL};
  (void)argv;
  handle_request(&request, 1);
  return process_request(&request) + check(METHOD_GET, 1) + answer();
}
