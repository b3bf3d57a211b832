// A stock libbpf tool's kernel half that reads the current task and the call stack, with types relocated by CO-RE as tools have
// them from vmlinux.h.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "task_stat.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct kuid {
  unsigned int val;
} __attribute__((preserve_access_index));
typedef struct {
  unsigned int val;
} kuid_t;
struct ns_common {
  unsigned int inum;
} __attribute__((preserve_access_index));
struct mnt_namespace {
  struct ns_common ns;
} __attribute__((preserve_access_index));
struct nsproxy {
  struct mnt_namespace *mnt_ns;
} __attribute__((preserve_access_index));
struct cred {
  kuid_t uid;
} __attribute__((preserve_access_index));
struct task_struct {
  int pid, tgid;
  struct task_struct *real_parent, *group_leader;
  char comm[16];
  __u64 start_boottime;
  const struct cred *cred;
  struct nsproxy *nsproxy;
} __attribute__((preserve_access_index));

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 64 * 1024);
} reports SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __uint(max_entries, 65536);  // two traces of one bucket are rare: the second would be refused (-EEXIST)
  __uint(key_size, sizeof(__u32));
  __uint(value_size, STACK_WORDS * sizeof(__u64));
} stacks SEC(".maps");

static __always_inline int report(struct pt_regs *ctx, unsigned int on_return) {
  struct report *out = bpf_ringbuf_reserve(&reports, sizeof *out, 0);
  if (!out) return 0;
  __builtin_memset(out, 0, sizeof *out);
  struct task_struct *task = (void *)bpf_get_current_task();
  const __u64 id = bpf_get_current_pid_tgid();
  out->on_return = on_return;
  out->pid = (__u32)id;
  out->tgid = id >> 32;
  out->task_pid = BPF_CORE_READ(task, pid);
  out->task_tgid = BPF_CORE_READ(task, tgid);
  out->parent_tgid = BPF_CORE_READ(task, real_parent, tgid);
  out->leader_pid = BPF_CORE_READ(task, group_leader, pid);
  out->mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
  out->uid = BPF_CORE_READ(task, cred, uid.val);
  out->start_boottime_ns = BPF_CORE_READ(task, start_boottime);
  out->name_length = BPF_CORE_READ_STR_INTO(&out->name, task, comm);
  out->cgroup_id = bpf_get_current_cgroup_id();
  out->text_length = BPF_SNPRINTF(out->text, sizeof out->text, "%d-%05x", on_return, 0xbeef);
  out->stack_bytes = bpf_get_stack(ctx, out->stack, sizeof out->stack, BPF_F_USER_STACK);
  __u64 kernel[2];
  out->kernel_stack_bytes = bpf_get_stack(ctx, kernel, sizeof kernel, 0);
  out->stack_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
  out->other_stack_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | 1);
  out->kernel_stack_id = bpf_get_stackid(ctx, &stacks, 0);
  bpf_ringbuf_submit(out, 0);
  return 0;
}

SEC("uprobe")
int on_enter(struct pt_regs *ctx) { return report(ctx, 0); }

SEC("uretprobe")
int on_return(struct pt_regs *ctx) { return report(ctx, 1); }
