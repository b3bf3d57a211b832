#include "program/testing/kernel.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace bpftime::program::testing {
namespace {

constexpr uint32_t kLogSize = 1 << 16;

KernelAnswer answer(int command, bpf_attr& attr, std::string& log) {
  KernelAnswer result;
  const long fd = syscall(__NR_bpf, command, &attr, sizeof(attr));
  if (fd < 0) {
    result.error = errno;
  } else {
    result.fd = Fd(static_cast<int>(fd));
  }
  result.log = log.c_str();
  return result;
}

}  // namespace

KernelAnswer kernel_load(const Program& program, bool want_log) {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  std::string log(want_log ? kLogSize : 0, '\0');
  attr.prog_type = program.type;
  if (attr.prog_type == BPF_PROG_TYPE_UNSPEC) attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  attr.insns = reinterpret_cast<uint64_t>(program.insns.data());
  attr.insn_cnt = static_cast<uint32_t>(program.insns.size());
  attr.license = reinterpret_cast<uint64_t>("Dual MIT/GPL");
  if (want_log) {
    attr.log_level = 1;
    attr.log_buf = reinterpret_cast<uint64_t>(log.data());
    attr.log_size = kLogSize;
  }
  return answer(BPF_PROG_LOAD, attr, log);
}

KernelAnswer kernel_load_btf(Bytes blob, bool want_log) {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  std::string log(want_log ? kLogSize : 0, '\0');
  attr.btf = reinterpret_cast<uint64_t>(blob.data());
  attr.btf_size = static_cast<uint32_t>(blob.size());
  if (want_log) {
    attr.btf_log_level = 1;
    attr.btf_log_buf = reinterpret_cast<uint64_t>(log.data());
    attr.btf_log_size = kLogSize;
  }
  return answer(BPF_BTF_LOAD, attr, log);
}

std::string kernel_unusable() {
  Program program;
  program.insns = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  const KernelAnswer loaded = kernel_load(program, false);
  return loaded.fd.valid() ? "" : std::string("bpf(2) loads nothing here: ") + std::strerror(loaded.error);
}

}  // namespace bpftime::program::testing
