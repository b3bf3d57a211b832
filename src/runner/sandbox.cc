#include "runner/sandbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

namespace bpftime::runner {

namespace {

constexpr sock_filter statement(uint16_t code, uint32_t k) { return {code, 0, 0, k}; }
constexpr sock_filter skip_unless(uint32_t value, uint8_t skipped) {
  return {BPF_JMP | BPF_JEQ | BPF_K, 0, skipped, value};
}
constexpr sock_filter kAllow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
constexpr sock_filter kDeny = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM};
constexpr sock_filter load(size_t offset) {
  return statement(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
}

// The loop's own, then what helpers call (src/helpers/runtime).
constexpr long kAllowed[] = {
    SYS_recvmsg,      SYS_sendmsg,    SYS_close,   SYS_mmap,    SYS_munmap, SYS_sched_setaffinity,
    SYS_rt_sigreturn, SYS_exit_group, SYS_exit,    SYS_getpid,  SYS_gettid, SYS_getuid,
    SYS_getgid,       SYS_geteuid,    SYS_getegid, SYS_getppid, SYS_futex,  SYS_clock_gettime,
    SYS_getcpu};

void allow(std::vector<sock_filter>& out, long number) {
  out.push_back(skip_unless(static_cast<uint32_t>(number), 1));
  out.push_back(kAllow);
}

// `number`, if the low half of its first argument is one of `values`.
void allow_with(std::vector<sock_filter>& out, long number, std::initializer_list<uint32_t> values) {
  out.push_back(skip_unless(static_cast<uint32_t>(number), static_cast<uint8_t>(2 + 2 * values.size())));
  out.push_back(load(offsetof(seccomp_data, args)));
  for (const uint32_t value : values) {
    out.push_back(skip_unless(value, 1));
    out.push_back(kAllow);
  }
  out.push_back(kDeny);
}

}  // namespace

bool enter_sandbox() {
  // Another architecture's numbers mean other calls.
  std::vector<sock_filter> filter = {load(offsetof(seccomp_data, arch)),
                                     {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64},
                                     kDeny,
                                     load(offsetof(seccomp_data, nr))};
  for (const long number : kAllowed) allow(filter, number);
  allow_with(filter, SYS_process_vm_readv, {static_cast<uint32_t>(::getpid())});  // of ourselves
  allow_with(filter, SYS_prctl, {PR_GET_NAME, PR_SET_NAME});
  filter.push_back(kDeny);
  const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

}  // namespace bpftime::runner
