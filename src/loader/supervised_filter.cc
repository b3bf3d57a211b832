#include "loader/supervised_filter.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <vector>

#include "loader/real.h"

namespace bpftime::loader {
namespace {

// Always asked about. Paths lie in memory, where a filter cannot look.
constexpr long kAsked[] = {
    SYS_bpf,    SYS_perf_event_open, SYS_epoll_ctl,  SYS_open,     SYS_openat,    SYS_stat,    SYS_lstat,
    SYS_access, SYS_faccessat,       SYS_faccessat2, SYS_statfs,   SYS_mkdir,     SYS_mkdirat, SYS_rmdir,
    SYS_unlink, SYS_unlinkat,        SYS_rename,     SYS_renameat, SYS_renameat2, SYS_poll,    SYS_ppoll,
};

class Filter {
 public:
  Filter() {
    load(offsetof(struct seccomp_data, arch));
    // Of other architectures' calls we know no numbers.
    jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0);
    give(SECCOMP_RET_ALLOW);
    load(offsetof(struct seccomp_data, nr));
  }
  void ask_always(long number) { give_for(number, SECCOMP_RET_USER_NOTIF); }
  void give_for(long number, uint32_t action) {
    jump(BPF_JEQ, static_cast<uint32_t>(number), 0, 1);
    give(action);
  }
  // Asks about `number` where the argument's low word, masked, is `value`.
  void ask_if(long number, unsigned argument, uint32_t mask, uint32_t value) {
    jump(BPF_JEQ, static_cast<uint32_t>(number), 0, 5);
    load(offsetof(struct seccomp_data, args) + sizeof(uint64_t) * argument);
    code_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
    jump(BPF_JEQ, value, 0, 1);
    give(SECCOMP_RET_USER_NOTIF);
    give(SECCOMP_RET_ALLOW);
  }
  std::vector<struct sock_filter> take() {
    give(SECCOMP_RET_ALLOW);
    return std::move(code_);
  }

 private:
  std::vector<struct sock_filter> code_;
  void load(size_t offset) {
    code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
  }
  void jump(uint16_t test, uint32_t value, uint8_t yes, uint8_t no) {
    code_.push_back(BPF_JUMP(static_cast<uint16_t>(BPF_JMP | BPF_K | test), value, yes, no));
  }
  void give(uint32_t action) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }
};

std::vector<struct sock_filter> make_filter(bool pretend_root) {
  Filter filter;
  for (const long number : kAsked) filter.ask_always(number);
  filter.ask_if(SYS_ioctl, 1, 0xff00, '$' << 8);
  filter.ask_if(SYS_mmap, 3, MAP_ANONYMOUS, 0);
  filter.ask_if(SYS_setrlimit, 0, 0xffffffff, RLIMIT_MEMLOCK);
  filter.ask_if(SYS_prlimit64, 1, 0xffffffff, RLIMIT_MEMLOCK);
  // fstat(2) by another name needs no path.
  filter.ask_if(SYS_newfstatat, 3, AT_EMPTY_PATH, 0);
  filter.ask_if(SYS_statx, 2, AT_EMPTY_PATH, 0);
  // Fails with errno 0, which is to say: 0.
  if (pretend_root) filter.give_for(SYS_geteuid, SECCOMP_RET_ERRNO);
  return filter.take();
}

}  // namespace

Result<Fd> install_supervised_filter(bool pretend_root) {
  std::vector<struct sock_filter> code = make_filter(pretend_root);
  const struct sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Error::from_errno("supervise: no_new_privs");
  // Signals wait until the answer is there (Linux 5.19): else a call that one interrupts would be made twice.
  long fd = -EINVAL;
  for (const unsigned long more : {SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0ul})
    if (fd == -EINVAL)
      fd = raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                       static_cast<long>(SECCOMP_FILTER_FLAG_NEW_LISTENER | more),
                       reinterpret_cast<long>(&program));
  if (fd < 0) {
    errno = static_cast<int>(-fd);
    return Error::from_errno("supervise: seccomp filter");
  }
  return Fd(static_cast<int>(fd));
}

}  // namespace bpftime::loader
