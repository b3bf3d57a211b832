/* Prints, as a header for firewall.bpf.c, where nginx keeps what the firewall reads. Built against the headers of
 * nginx-dev with the distribution's own configuration, so that the numbers are those of the distribution's binary.
 * The binary itself is stripped: it has neither DWARF nor BTF to ask. */
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static void print_offset(const char *name, size_t offset) { printf("#define %s %zu\n", name, offset); }

int main(void) {
  ngx_http_request_t request;
  const unsigned char *bytes = (const unsigned char *)&request;
  printf("/* Made by nginx_layout.c from the headers of nginx %s. Bytes from the start of ngx_http_request_t. */\n",
         NGINX_VERSION);
  print_offset("NGX_REQUEST_URI", offsetof(ngx_http_request_t, uri));
  print_offset("NGX_REQUEST_ARGS", offsetof(ngx_http_request_t, args));
  print_offset("NGX_REQUEST_SIZE", sizeof(ngx_http_request_t));
  print_offset("NGX_STR_LEN", offsetof(ngx_str_t, len));
  print_offset("NGX_STR_DATA", offsetof(ngx_str_t, data));
  /* offsetof refuses bit-fields: set it alone and look. */
  memset(&request, 0, sizeof(request));
  request.internal = 1;
  for (size_t i = 0; i < sizeof(request); ++i) {
    if (bytes[i] == 0) continue;
    print_offset("NGX_REQUEST_INTERNAL", i);
    printf("#define NGX_REQUEST_INTERNAL_MASK 0x%02x\n", bytes[i]);
  }
  return 0;
}
