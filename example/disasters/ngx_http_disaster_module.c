/* Three mistakes of published disasters, in kind, as they are made: in a native module that the server must trust. Written down
 * once per place; the .bpf.c files here make the same three as extensions.
 *
 *   disaster loop|overflow|stack;    location: does what the name says with the request's arguments, then answers 200
 */
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

ngx_module_t ngx_http_disaster_module;

typedef struct {
  void (*mistake)(ngx_http_request_t *r);
} disaster_conf_t;

/* A CDN's nginx outage: pattern code that can stop advancing. Counts what is not a wildcard; at a '*' it forgets to go on. */
static void loop(ngx_http_request_t *r) {
  volatile ngx_uint_t count = 0;
  ngx_uint_t i = 0;
  while (i < r->args.len) {
    if (r->args.data[i] == '*') continue;
    count++;
    i++;
  }
}

static size_t three_digits(u_char *text) { return (text[0] & 15) * 100 + (text[1] & 15) * 10 + (text[2] & 15); }

/* CVE-2021-44790, Apache httpd: a part's length is the distance of two marks less eight bytes of boundary that ought to lie
 * between them. Where they do not, the length wraps round. Here the marks are in the arguments: FIRST-LAST. */
static void overflow(ngx_http_request_t *r) {
  if (r->args.len < 7) return;
  size_t first = three_digits(r->args.data), last = three_digits(r->args.data + 4);
  size_t length = last - first - 8;
  u_char *part = ngx_palloc(r->pool, length + 9); /* wraps round once more: room for a few bytes */
  if (part != NULL) ngx_memcpy(part, r->args.data + first, length);
}

/* CVE-2024-31449, Redis's Lua library: digits wanted, negative for capitals. The least number has no positive: the bound does
 * not hold, and the loop begins far outside the buffer. */
static void stack(ngx_http_request_t *r) {
  u_char buffer[8];
  volatile u_char *out = buffer;
  const char *digits = "0123456789abcdef";
  unsigned value = 0xbadcafe;
  int n = (int)strtol((char *)r->args.data, NULL, 10);
  if (n < 0) {
    n = -n;
    digits = "0123456789ABCDEF";
  }
  if (n > 8) n = 8;
  for (int i = n; --i >= 0;) {
    out[i] = digits[value & 15];
    value >>= 4;
  }
}

static ngx_int_t on_request(ngx_http_request_t *r) {
  disaster_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_disaster_module);
  ngx_str_t type = ngx_string("text/plain");
  ngx_http_complex_value_t answer = {.value = ngx_string("survived\n")};
  conf->mistake(r);
  return ngx_http_send_response(r, NGX_HTTP_OK, &type, &answer);
}

static char *set_disaster(ngx_conf_t *cf, ngx_command_t *command, void *raw) {
  ngx_str_t *kind = (ngx_str_t *)cf->args->elts + 1;
  disaster_conf_t *conf = raw;
  ngx_http_core_loc_conf_t *location = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
  (void)command;
  conf->mistake = ngx_strcmp(kind->data, "loop") == 0 ? loop : ngx_strcmp(kind->data, "overflow") == 0 ? overflow : stack;
  location->handler = on_request;
  return NGX_CONF_OK;
}

static void *create_conf(ngx_conf_t *cf) { return ngx_pcalloc(cf->pool, sizeof(disaster_conf_t)); }

static ngx_command_t commands[] = {
    {ngx_string("disaster"), NGX_HTTP_LOC_CONF | NGX_CONF_TAKE1, set_disaster, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL}, ngx_null_command};
static ngx_http_module_t context = {NULL, NULL, NULL, NULL, NULL, NULL, create_conf, NULL};
ngx_module_t ngx_http_disaster_module = {NGX_MODULE_V1, &context, commands, NGX_HTTP_MODULE,      NULL, NULL, NULL, NULL, NULL, NULL,
                                         NULL,          NGX_MODULE_V1_PADDING};
ngx_module_t *ngx_modules[] = {&ngx_http_disaster_module, NULL};
char *ngx_module_names[] = {"ngx_http_disaster_module", NULL};
char *ngx_module_order[] = {NULL};
