// Extensions at a system call: what is opened by the relative name "secret" is refused, in the kernel's place.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct enter {
  unsigned long long common;
  long number;
  unsigned long arguments[6];
};

static __always_inline int is_secret(const struct enter *ctx) {
  const char wanted[7] = "secret";
  char path[8] = {};
  if (bpf_probe_read_user_str(path, sizeof path, (const void *)ctx->arguments[1]) != sizeof wanted) return 0;
  for (int i = 0; i < 6; ++i)
    if (path[i] != wanted[i]) return 0;
  return 1;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int no_secret(struct enter *ctx) {
  if (is_secret(ctx)) bpf_override_return((struct pt_regs *)ctx, -13);
  return 0;
}
