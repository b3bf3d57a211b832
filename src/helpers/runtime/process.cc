// Who is running, and where.
#include "helpers/runtime/runtime.h"
#include "maps/cgroup_array.h"

namespace bpftime::runtime {
namespace {

// What the vDSO's getcpu finds: the limit of a GDT entry the kernel keeps per CPU (cpu | node << 12).
inline uint32_t segment_limit() {
  constexpr uint32_t kCpuNodeSelector = 15 * 8 + 3;
  uint32_t limit = 0;
  asm("lsl %1, %0" : "+r"(limit) : "r"(kCpuNodeSelector) : "cc");
  return limit;
}
inline uint32_t segment_limit_cpu() { return segment_limit() & 0xfff; }

}  // namespace

uint32_t current_cpu() {
  constexpr uint32_t kCpusPossible =
      8192;                  // CONFIG_NR_CPUS at most; rseq says -1 or -2 when it is not in use
  constexpr int kCpuId = 4;  // in struct rseq
  const auto rseq = static_cast<int64_t>(context_word<offsetof(wire::TargetContext, rseq_offset)>());
  if (__builtin_expect(rseq != 0, 1)) {
    const uint32_t cpu = thread_word<kCpuId>(rseq);
    if (__builtin_expect(cpu < kCpusPossible, 1)) return cpu;
  }
  return segment_limit_cpu();
}

uint32_t current_tid() {
  const uint32_t tid = known_tid();
  return __builtin_expect(tid != 0, 1) ? tid : bpftime_slow_tid();
}

uint32_t current_tgid() {
  const uint32_t tgid = known_tgid();
  return __builtin_expect(tgid != 0, 1) ? tgid : bpftime_slow_tgid();
}

int64_t current_comm(char comm[16]) {
  constexpr uint64_t kPrGetName = 16;
  for (int i = 0; i < 16; i++) comm[i] = 0;
  if (!may_call_system()) return -kEperm;
  system_call(kSysPrctl, kPrGetName, reinterpret_cast<uint64_t>(comm));
  return 0;
}

// Addresses of the synthetic task (runtime/task.cc).
BPFTIME_HELPER_FUNCTION(get_current_task) { return wire::task_address(current_tid()); }
BPFTIME_HELPER_FUNCTION(get_current_task_btf) { return wire::task_address(current_tid()); }

BPFTIME_HELPER_FUNCTION(get_smp_processor_id) { return current_cpu(); }

BPFTIME_HELPER_FUNCTION(get_current_pid_tgid) { return uint64_t{current_tgid()} << 32 | current_tid(); }

// Asked anew each time: set*id changes them under us, and a wrong answer is a security bug
// in somebody's policy.
BPFTIME_HELPER_FUNCTION(get_current_uid_gid) {
  if (!may_call_system()) return ~uint64_t{0};
  const auto gid = static_cast<uint32_t>(system_call(kSysGetgid));
  return uint64_t{gid} << 32 | static_cast<uint32_t>(system_call(kSysGetuid));
}

BPFTIME_HELPER_FUNCTION(get_current_comm) {
  char comm[16];
  const int64_t error = current_comm(comm);
  auto* buffer = pointer<char>(r1);
  const uint64_t size = static_cast<uint32_t>(r2);
  if (size == 0) return error;
  const uint64_t copied = size < 16 ? size - 1 : 15;
  for (uint64_t i = 0; i < copied; i++) buffer[i] = comm[i];
  for (uint64_t i = copied; i < size; i++) buffer[i] = 0;
  return error;
}

BPFTIME_HELPER_FUNCTION(get_numa_node_id) { return segment_limit() >> 12; }

// r1, r2: device and inode number of a pid namespace; r3: struct bpf_pidns_info, r4 its size. Numbers of any other namespace
// than the process's own are the kernel's to know.
BPFTIME_HELPER_FUNCTION(get_ns_current_pid_tgid) {
  struct Ids {
    uint32_t pid, tgid;
  };
  const uint32_t size = static_cast<uint32_t>(r4);
  const wire::TaskFacts& facts = context()->task;
  auto* ids = pointer<Ids>(r3);
  if (size != sizeof(Ids) || r2 == 0 || r1 != facts.namespace_device ||
      r2 != facts.namespace_ids[wire::kPidNs]) {
    bpftime_memset(ids, 0, size);
    return static_cast<uint64_t>(-kEinval);
  }
  *ids = {current_tid(), current_tgid()};
  return 0;
}

BPFTIME_HELPER_FUNCTION(get_current_cgroup_id) {
  const wire::TaskFacts& facts = context()->task;
  return facts.cgroup_level < wire::kCgroupLevelsMax ? facts.cgroup_ids[facts.cgroup_level] : 0;
}

// r1: level of the ancestor, 0 the root; a 32-bit number.
BPFTIME_HELPER_FUNCTION(get_current_ancestor_cgroup_id) {
  const wire::TaskFacts& facts = context()->task;
  const uint32_t level = static_cast<uint32_t>(r1);
  return level < wire::kCgroupLevelsMax && level <= facts.cgroup_level ? facts.cgroup_ids[level] : 0;
}

// r1: a CGROUP_ARRAY, r2: index, 32 bits.
BPFTIME_HELPER_FUNCTION(current_task_under_cgroup) {
  const auto* map = pointer<const MapRef>(r1);
  const auto* slot = maps::cgroup_array_slot({map->base, &map->spec}, static_cast<uint32_t>(r2));
  if (slot == nullptr) return static_cast<uint64_t>(-kE2big);
  if (maps::load_acquire(&slot->length) == 0) return static_cast<uint64_t>(-kEagain);
  const wire::TaskFacts& facts = context()->task;
  for (uint32_t level = 0; level < wire::kCgroupLevelsMax && level <= facts.cgroup_level; level++)
    if (facts.cgroup_ids[level] == slot->id) return 1;
  return 0;
}

// The class of net_cls: nobody sets one here.
BPFTIME_HELPER_FUNCTION(get_cgroup_classid) { return 0; }

// r1: the signal. The process never signals another than itself, and never init.
BPFTIME_HELPER_FUNCTION(send_signal) {
  constexpr int64_t kSysKill = 62;
  const uint32_t tgid = current_tgid();
  if (!may_call_system() || tgid <= 1) return static_cast<uint64_t>(-kEperm);
  return static_cast<uint64_t>(system_call(kSysKill, tgid, static_cast<uint32_t>(r1)));
}
BPFTIME_HELPER_FUNCTION(send_signal_thread) {
  constexpr int64_t kSysTgkill = 234;
  const uint32_t tgid = current_tgid();
  if (!may_call_system() || tgid <= 1) return static_cast<uint64_t>(-kEperm);
  return static_cast<uint64_t>(system_call(kSysTgkill, tgid, current_tid(), static_cast<uint32_t>(r1)));
}

// splitmix64 over a counter all threads share without care: a lost step repeats a number, which the
// thread id parts.
BPFTIME_HELPER_FUNCTION(get_prandom_u32) {
  uint64_t state = context()->random_state + 0x9e3779b97f4a7c15u;
  context()->random_state = state;
  state ^= uint64_t{libc_tid()} << 32 ^ identity()->tgid;
  state = (state ^ state >> 30) * 0xbf58476d1ce4e5b9u;
  state = (state ^ state >> 27) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>(state >> 32);
}

// A bare program (conformance mode) has no invocation; the optimiser removes the test everywhere else.
BPFTIME_HELPER_FUNCTION(get_func_ip) { return invocation != nullptr ? invocation->func_ip : 0; }

BPFTIME_HELPER_FUNCTION(get_attach_cookie) { return invocation != nullptr ? invocation->cookie : 0; }

}  // namespace bpftime::runtime
