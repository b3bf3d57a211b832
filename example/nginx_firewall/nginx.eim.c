/* What extensions of Debian's nginx may be granted, described from outside: compiled with nginx-dev's headers, this object is the
 * manifest of the distribution's stripped binary. Nothing of it is linked or run. */
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <bpftime/eim.h>

/* Every request comes by here, with its path decoded and normalised, before any phase looks at it; internal redirects come a
 * second time (r->internal). ngx_http_process_request, before it, cannot be ended: the client would wait for ever. */
EIM_EXTENSION_ENTRY_DEFINE(handleRequest, ngx_http_handler, void, ngx_http_request_t *);
EIM_ENTRY_ARGS(handleRequest, r);
EIM_ENTRY_PROMISES(handleRequest, HF_ARG_NONNULL(0));

/* The response's header fields are complete, and about to be sent. */
EIM_EXTENSION_ENTRY_DEFINE(sendHeader, ngx_http_send_header, ngx_int_t, ngx_http_request_t *);
EIM_ENTRY_ARGS(sendHeader, r);
EIM_ENTRY_PROMISES(sendHeader, HF_ARG_NONNULL(0));

/* Answers a request with an error page; the caller then returns without touching the request again. */
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(ngx_http_finalize_request, HF_ARG_NONNULL(0), HF_ARG_RANGE(1, 400, 599), HF_COST(500));
EIM_HFUNC_ARGS(ngx_http_finalize_request, r, rc);

EIM_STATE_DEFINE(workerPid, read, ngx_pid);

EIM_BUFFER(ngx_str_t, data, len);
