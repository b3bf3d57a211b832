// A host that can be extended: answers requests read from standard input, one line "METHOD /uri" each, with a status.
// What extensions may be granted is declared at the end of this file; nothing of it costs anything while it runs.
#include <bpftime/eim.h>
#include <time.h>

#include <cstdio>
#include <cstring>
#include <string>

enum Method { METHOD_GET = 1, METHOD_PUT = 2, METHOD_DELETE = 3 };

struct Text {
  size_t len;
  const char* data;
};

struct Connection {
  int fd;
  unsigned int served;  // requests so far
};

struct Request {
  Method method;
  int status;
  Text uri;
  unsigned short priority;
  Connection* connection;
};

extern "C" {
int host_verbosity = 1;
long host_refused = 0;

time_t host_time() { return time(nullptr); }

// Ends a request with an error page. 0, or -errno.
int host_finalize(Request* request, int status) {
  if (request->status != 0) return -16;
  request->status = status;
  return 0;
}

void host_log(const char* bytes, unsigned int count) {
  if (host_verbosity > 0) std::printf("log: %.*s\n", static_cast<int>(count), bytes);
}

// The status of a request: 200, 404, or what an extension answers in place of this function.
__attribute__((noinline)) int host_process_request(Request* request) {
  ++request->connection->served;
  if (request->status != 0) return request->status;
  return request->uri.len > 1 &&
                 std::memcmp(request->uri.data, "/missing", request->uri.len < 8 ? request->uri.len : 8) == 0
             ? 404
             : 200;
}
}

static bool parse(const std::string& line, Request& request) {
  const size_t space = line.find(' ');
  if (space == std::string::npos || space + 1 >= line.size()) return false;
  const std::string method = line.substr(0, space);
  request.method = method == "PUT" ? METHOD_PUT : method == "DELETE" ? METHOD_DELETE : METHOD_GET;
  request.uri = {line.size() - space - 1, line.data() + space + 1};
  return true;
}

int main() {
  Connection connection = {0, 0};
  char buffer[4096];
  while (std::fgets(buffer, sizeof(buffer), stdin) != nullptr) {
    std::string line(buffer, std::strcspn(buffer, "\r\n"));
    Request request = {METHOD_GET, 0, {0, nullptr}, 0, &connection};
    const int status = parse(line, request) ? host_process_request(&request) : 400;
    if (status == 403) ++host_refused;
    std::printf("%d %s\n", status, line.c_str());
    std::fflush(stdout);
  }
  std::printf("served %u, refused %ld\n", connection.served, host_refused);
  return 0;
}

// What extensions may be granted.
EIM_EXTENSION_ENTRY_DEFINE(processBegin, host_process_request, int, Request*);
EIM_ENTRY_ARGS(processBegin, r);
EIM_ENTRY_PROMISES(processBegin, HF_ARG_NONNULL(0));
EIM_BUFFER(Text, data, len);
EIM_STATE_DEFINE(readVerbosity, read, host_verbosity);
EIM_STATE_DEFINE(countRefused, write, host_refused);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(host_time, HF_RET_POSITIVE, HF_COST(50));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(host_finalize, HF_ARG_NONNULL(0), HF_ARG_RANGE(1, 400, 599), HF_RET_ERRNO);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(host_log, HF_ARG_BUFFER_IN(0, 1), HF_ARG_RANGE(1, 0, 256), HF_MAY_BLOCK,
                                  HF_COST(1000));
