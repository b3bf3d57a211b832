/* The firewall as an nginx module: what one writes without us. Built twice: with the engine inside
 * (ngx_http_firewall_module.so), and with FIREWALL_WASM, where the engine is wasm made into C by wasm2c and is asked through
 * copies into its memory (ngx_http_firewall_wasm_module.so). Both trust what they run with the whole server.
 *
 *   firewall_rules FILE;   http: the table made by `rules.py table`; requests that a rule fits are answered with 403
 *   firewall_status;       location: counters, "VERDICT COUNT" a line, of all workers since the configuration was read
 */
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <sys/mman.h>

#include "rules_match.h"

#ifdef FIREWALL_WASM
#include "firewall_wasm2c.h"
#include "wasm-rt-impl.h"
#define FIREWALL_MODULE ngx_http_firewall_wasm_module
#else
#define FIREWALL_MODULE ngx_http_firewall_module
#endif

typedef struct {
  struct fw_table *table;
  ngx_atomic_t *counters; /* FW_VERDICTS of them, shared by master and workers */
#ifdef FIREWALL_WASM
  Z_firewall_instance_t engine;
  u8 *path, *args; /* in the engine's memory, which does not move: it never grows */
#endif
} firewall_conf_t;

ngx_module_t FIREWALL_MODULE;

#ifdef FIREWALL_WASM

static ngx_int_t start_engine(firewall_conf_t *conf) {
  wasm_rt_init();
  Z_firewall_init_module();
  Z_firewall_instantiate(&conf->engine);
  u8 *memory = Z_firewallZ_memory(&conf->engine)->data;
  conf->path = memory + Z_firewallZ_path_at(&conf->engine);
  conf->args = memory + Z_firewallZ_args_at(&conf->engine);
  ngx_memcpy(memory + Z_firewallZ_table_at(&conf->engine), conf->table, sizeof(*conf->table));
  return NGX_OK;
}

static ngx_uint_t verdict_of(firewall_conf_t *conf, ngx_http_request_t *r) {
  if (r->uri.len > FW_PATH_MAX || r->args.len > FW_ARGS_MAX) return FW_TOO_LONG;
  /* A trap comes back here. The signal mask is put right then, not saved by a system call on every request. */
  wasm_rt_set_unwind_target(&wasm_rt_jmp_buf);
  if (sigsetjmp(wasm_rt_jmp_buf, 0) != 0) {
    sigset_t faults;
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV);
    sigaddset(&faults, SIGBUS);
    sigprocmask(SIG_UNBLOCK, &faults, NULL);
    return FW_TOO_LONG;
  }
  ngx_memcpy(conf->path, r->uri.data, r->uri.len);
  ngx_memcpy(conf->args, r->args.data, r->args.len);
  return Z_firewallZ_check(&conf->engine, (u32)r->uri.len, (u32)r->args.len) % FW_VERDICTS;
}

#else

static ngx_int_t start_engine(firewall_conf_t *conf) {
  (void)conf;
  return NGX_OK;
}

static ngx_uint_t verdict_of(firewall_conf_t *conf, ngx_http_request_t *r) {
  ngx_uint_t verdict = fw_match_path(conf->table, r->uri.data, r->uri.len);
  return verdict != FW_PASS ? verdict : fw_match_args(conf->table, r->args.data, r->args.len);
}

#endif

static ngx_int_t on_access(ngx_http_request_t *r) {
  firewall_conf_t *conf = ngx_http_get_module_main_conf(r, FIREWALL_MODULE);
  /* An internal redirect comes here a second time; it was judged when it came from the client. */
  if (r->internal) return NGX_DECLINED;
  ngx_uint_t verdict = verdict_of(conf, r);
  (void)ngx_atomic_fetch_add(&conf->counters[verdict], 1);
  return verdict == FW_PASS ? NGX_DECLINED : NGX_HTTP_FORBIDDEN;
}

static ngx_int_t on_status(ngx_http_request_t *r) {
  firewall_conf_t *conf = ngx_http_get_module_main_conf(r, FIREWALL_MODULE);
  ngx_buf_t *buffer = ngx_create_temp_buf(r->pool, FW_VERDICTS * 32);
  ngx_chain_t out = {buffer, NULL};
  if (buffer == NULL || ngx_http_discard_request_body(r) != NGX_OK) return NGX_HTTP_INTERNAL_SERVER_ERROR;
  for (ngx_uint_t i = 0; conf->counters != NULL && i < FW_VERDICTS; ++i)
    if (conf->counters[i] != 0)
      buffer->last = ngx_sprintf(buffer->last, "%ui %uA\n", i, conf->counters[i]);
  buffer->last_buf = r == r->main;
  buffer->last_in_chain = 1;
  if (buffer->last == buffer->pos) buffer->memory = buffer->temporary = 0;
  r->headers_out.status = NGX_HTTP_OK;
  r->headers_out.content_length_n = buffer->last - buffer->pos;
  ngx_int_t sent = ngx_http_send_header(r);
  if (sent == NGX_ERROR || sent > NGX_OK || r->header_only) return sent;
  return ngx_http_output_filter(r, &out);
}

static ngx_int_t read_table(ngx_conf_t *cf, ngx_str_t *path, struct fw_table *table) {
  ngx_fd_t fd = ngx_open_file(path->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);
  if (fd == NGX_INVALID_FILE) {
    ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, "firewall_rules: cannot open \"%V\"", path);
    return NGX_ERROR;
  }
  ssize_t got = ngx_read_fd(fd, table, sizeof(*table));
  ngx_close_file(fd);
  if (got != (ssize_t)sizeof(*table) || table->magic != FW_MAGIC || table->rules > FW_RULES_MAX) {
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "firewall_rules: \"%V\" is no table; make one with `rules.py table`", path);
    return NGX_ERROR;
  }
  return NGX_OK;
}

static char *set_rules(ngx_conf_t *cf, ngx_command_t *command, void *raw) {
  firewall_conf_t *conf = raw;
  ngx_str_t path = ((ngx_str_t *)cf->args->elts)[1];
  (void)command;
  if (conf->table != NULL) return "is duplicate";
  if (ngx_conf_full_name(cf->cycle, &path, 1) != NGX_OK) return NGX_CONF_ERROR;
  conf->table = ngx_palloc(cf->pool, sizeof(*conf->table));
  conf->counters = mmap(NULL, FW_VERDICTS * sizeof(ngx_atomic_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (conf->table == NULL || conf->counters == MAP_FAILED) return NGX_CONF_ERROR;
  if (read_table(cf, &path, conf->table) != NGX_OK || start_engine(conf) != NGX_OK) return NGX_CONF_ERROR;
  return NGX_CONF_OK;
}

static char *set_status(ngx_conf_t *cf, ngx_command_t *command, void *raw) {
  ngx_http_core_loc_conf_t *location = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
  (void)command, (void)raw;
  location->handler = on_status;
  return NGX_CONF_OK;
}

static void *create_conf(ngx_conf_t *cf) { return ngx_pcalloc(cf->pool, sizeof(firewall_conf_t)); }

static ngx_int_t after_configuration(ngx_conf_t *cf) {
  firewall_conf_t *conf = ngx_http_conf_get_module_main_conf(cf, FIREWALL_MODULE);
  ngx_http_core_main_conf_t *core = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
  if (conf->table == NULL) return NGX_OK;
  ngx_http_handler_pt *handler = ngx_array_push(&core->phases[NGX_HTTP_ACCESS_PHASE].handlers);
  if (handler == NULL) return NGX_ERROR;
  *handler = on_access;
  return NGX_OK;
}

static ngx_command_t commands[] = {
    {ngx_string("firewall_rules"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1, set_rules, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL},
    {ngx_string("firewall_status"), NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS, set_status, 0, 0, NULL},
    ngx_null_command};

static ngx_http_module_t context = {NULL, after_configuration, create_conf, NULL, NULL, NULL, NULL, NULL};

ngx_module_t FIREWALL_MODULE = {NGX_MODULE_V1, &context, commands, NGX_HTTP_MODULE,      NULL, NULL, NULL, NULL, NULL, NULL,
                                NULL,          NGX_MODULE_V1_PADDING};

/* What nginx looks for in a dynamic module. */
ngx_module_t *ngx_modules[] = {&FIREWALL_MODULE, NULL};
#ifdef FIREWALL_WASM
char *ngx_module_names[] = {"ngx_http_firewall_wasm_module", NULL};
#else
char *ngx_module_names[] = {"ngx_http_firewall_module", NULL};
#endif
char *ngx_module_order[] = {NULL};
