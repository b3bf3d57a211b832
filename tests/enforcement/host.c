/* The host of the enforcement matrix: one member, argument, function and variable of each kind that rules differ for. Only its
 * types and records are used; it never runs. */
#include <bpftime/eim.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct {
  size_t len;
  unsigned char* data;
} text_t;

enum method { METHOD_GET = 1, METHOD_PUT = 2, METHOD_DELETE = 4 };

struct point {
  int x, y;
};

struct node {
  int value;
  text_t name;
  struct node* next;
};

struct connection {
  int fd;
  text_t peer;
  struct node* nodes;
};

struct request {
  int status;
  enum method method;
  text_t uri, cookie;
  unsigned short ports[4];
  struct point points[3];
  text_t parts[2];
  union {
    unsigned int word;
    unsigned char bytes[4];
  } id;
  union {
    long number;
    struct node* node;
  } value;
  bool keep_alive;
  unsigned int internal : 1, depth : 5;
  const int version;
  struct {
    int hits, misses;
  } counts;
  struct connection* connection;
  void* opaque;
  int (*handler)(struct request* r, int code);
};

struct handle;

struct large {
  long words[4];
};

int host_pid = 1;
struct {
  long total, refused;
} host_counts;
struct request host_current;

int process_request(struct request* r) { return r->status; }
void handle_request(struct request* r, unsigned char flags) { r->status += flags; }
int find_request(struct request* r) { return r == NULL; }
long write_bytes(const void* bytes, unsigned int count) { return bytes != NULL && count != 0; }
double compute_ratio(struct request* r) { return r->status; }
struct connection* pick_connection(struct request* r) {
  return r->connection;
}
unsigned char check_method(enum method method) { return method == METHOD_PUT; }
struct large make_large(int number) {
  return (struct large){{number}};
}

long host_time(void) { return 1; }
int host_index(void) { return 1; }
int host_plain(void) { return 1; }
int host_try(void) { return 0; }
int finalize(struct request* r, int rc) { return r->status + rc; }
int set_method(enum method method) { return method == METHOD_GET; }
void set_window(unsigned int low, unsigned int high) { host_counts.total = low + high; }
void write_log(const char* format, const void* bytes, unsigned int count) {
  host_counts.total = format[0] + ((const char*)bytes)[count];
}
void read_body(void* bytes, unsigned int count) { ((char*)bytes)[count] = 0; }
struct connection* the_connection(struct request* r) {
  return r->connection;
}
struct connection* find_connection(struct request* r) {
  return r->connection;
}
void close_connection(struct connection* c) { c->fd = -1; }
struct handle* open_handle(void) {
  return (struct handle*)&host_counts;
}
void close_handle(struct handle* handle) { (void)handle; }
int slow(void) { return 1; }

EIM_STATE_DEFINE(readPid, read, host_pid);
EIM_STATE_DEFINE(writePid, write, host_pid);
EIM_STATE_DEFINE(readCounts, read, host_counts);
EIM_STATE_DEFINE(countRefused, write, host_counts.refused);
EIM_STATE_DEFINE(readCurrent, read, host_current);

EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(host_time, HF_RET_POSITIVE);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(host_index, HF_RET_RANGE(0, 7));
EIM_HFUNC_DEFINE(host_plain);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(host_try, HF_RET_ERRNO);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(finalize, HF_ARG_NONNULL(0), HF_ARG_RANGE(1, 100, 599), HF_RET_ERRNO);
EIM_HFUNC_DEFINE(set_method);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(set_window, HF_ARG_LESS_THAN(0, 1));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(write_log, HF_ARG_CONST_STRING(0), HF_ARG_BUFFER_IN(1, 2));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(read_body, HF_ARG_NONNULL(0), HF_ARG_BUFFER_OUT(0, 1));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(the_connection, HF_ARG_NONNULL(0), HF_RET_NONNULL);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(find_connection, HF_ARG_NONNULL(0), HF_RET_MAYBE_NULL);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(close_connection, HF_ARG_NONNULL(0));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(open_handle, HF_RET_MAYBE_NULL, HF_ACQUIRES);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(close_handle, HF_ARG_NONNULL(0), HF_RELEASES(0));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(slow, HF_COST(1000));

EIM_EXTENSION_ENTRY_DEFINE(processBegin, process_request, int, struct request*);
EIM_ENTRY_ARGS(processBegin, r);
EIM_ENTRY_PROMISES(processBegin, HF_ARG_NONNULL(0));
EIM_EXTENSION_ENTRY_DEFINE(handleRequest, handle_request, void, struct request*, unsigned char);
EIM_ENTRY_ARGS(handleRequest, r, flags);
EIM_ENTRY_PROMISES(handleRequest, HF_ARG_NONNULL(0), HF_ARG_RANGE(1, 0, 7));
EIM_EXTENSION_ENTRY_DEFINE(findRequest, find_request, int, struct request*);
EIM_ENTRY_ARGS(findRequest, r);
EIM_EXTENSION_ENTRY_DEFINE(writeBytes, write_bytes, long, const void*, unsigned int);
EIM_ENTRY_ARGS(writeBytes, bytes, count);
EIM_ENTRY_PROMISES(writeBytes, HF_ARG_NONNULL(0), HF_ARG_BUFFER_IN(0, 1));
EIM_EXTENSION_ENTRY_DEFINE(computeRatio, compute_ratio, double, struct request*);
EIM_EXTENSION_ENTRY_DEFINE(pickConnection, pick_connection, struct connection*, struct request*);
EIM_EXTENSION_ENTRY_DEFINE(checkMethod, check_method, unsigned char, enum method);
EIM_EXTENSION_ENTRY_DEFINE(makeLarge, make_large, struct large, int);

EIM_BUFFER(text_t, data, len);

int main(void) { return 0; }
