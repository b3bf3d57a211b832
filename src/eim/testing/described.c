/* Describes a host that cannot be rebuilt, from its public declarations alone. */
#include <bpftime/eim.h>
#include <stddef.h>

typedef struct {
  size_t len;
  unsigned char* data;
} text_t;
typedef struct request_s request_t;
struct request_s {
  int status;
  text_t uri;
};
void handle_request(request_t* r);
void finalize_request(request_t* r, long rc);
extern long host_pid;

EIM_STATE_DEFINE(readPid, read, host_pid);
EIM_EXTENSION_ENTRY_DEFINE(handleRequest, handle_request, void, request_t*);
EIM_ENTRY_ARGS(handleRequest, r);
EIM_ENTRY_PROMISES(handleRequest, HF_ARG_NONNULL(0));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(finalize_request, HF_ARG_NONNULL(0), HF_COST(1000));
EIM_HFUNC_ARGS(finalize_request, r, rc);
EIM_BUFFER(text_t, data, len);
