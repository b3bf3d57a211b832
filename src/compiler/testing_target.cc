#include "compiler/testing_target.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "wire/checked_load.h"

namespace bpftime::compiler::testing {
namespace {

// What the agent's routines promise, by asking the kernel.
long safe_copy(void* destination, const void* source, uint64_t size) {
  const iovec to{destination, size}, from{const_cast<void*>(source), size};
  return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == static_cast<ssize_t>(size) ? 0 : -EFAULT;
}

long safe_copy_string(char* destination, const void* source, uint64_t size) {
  const auto* from = static_cast<const char*>(source);
  for (uint64_t i = 0; i < size; i++) {
    if (safe_copy(destination + i, from + i, 1) != 0) return -EFAULT;
    if (destination[i] == '\0') return static_cast<long>(i + 1);
  }
  destination[size - 1] = '\0';
  return static_cast<long>(size);
}

// The agent's part for loads in the code itself. Anything else that faults is the test's own end.
void repair_checked_load(int signal, siginfo_t*, void* context) {
  auto* registers = reinterpret_cast<uint64_t*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs);
  if (!wire::repair_checked_load(registers)) ::signal(signal, SIG_DFL);
}

int32_t find_tid_offset() {
  const auto* words = reinterpret_cast<const uint32_t*>(pthread_self());
  for (int32_t i = 0; i < 512; i++) {
    if (words[i] == static_cast<uint32_t>(gettid())) return i * 4;
  }
  return 0;
}

}  // namespace

Target::Target() : next_map_(address() + wire::kMapsOffset) {
  void* at = reinterpret_cast<void*>(address());
  void* memory = mmap(at, wire::kIdentityOffset + wire::kIdentitySize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (memory != at) return;
  context_ = static_cast<wire::TargetContext*>(memory);
  madvise(identity(), wire::kIdentitySize, MADV_WIPEONFORK);
  context_->header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, sizeof(wire::TargetContext)};
  context_->lineage = 4711;
  context_->rseq_offset = __rseq_size != 0 ? __rseq_offset : 0;
  context_->tid_offset = find_tid_offset();
  context_->flags = wire::kTscClock;  // as the daemon finds out; what it changes is tested
  void* vdso = dlopen("linux-vdso.so.1", RTLD_NOLOAD | RTLD_NOW);
  if (vdso != nullptr)
    context_->vdso_clock_gettime = reinterpret_cast<uint64_t>(dlsym(vdso, "__vdso_clock_gettime"));
  struct sigaction action {};
  action.sa_sigaction = repair_checked_load;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  ::sigaction(SIGSEGV, &action, nullptr);
  ::sigaction(SIGBUS, &action, nullptr);
  context_->safe_copy = reinterpret_cast<uint64_t>(&safe_copy);
  context_->safe_copy_string = reinterpret_cast<uint64_t>(&safe_copy_string);
}

Target::~Target() {
  for (const auto& binding : bindings_) {
    munmap(reinterpret_cast<void*>(binding->address), maps::memory_size(binding->spec));
  }
  if (context_ != nullptr) munmap(context_, wire::kIdentityOffset + wire::kIdentitySize);
}

uint64_t Target::address() const { return wire::window_address(getuid()); }

wire::TargetIdentity* Target::identity() {
  return reinterpret_cast<wire::TargetIdentity*>(address() + wire::kIdentityOffset);
}

uint32_t Target::add_map(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries,
                         uint32_t flags) {
  auto binding = std::make_unique<MapBinding>();
  binding->spec = {type,        key_size, value_size,
                   max_entries, flags,    static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_CONF))};
  if (type == BPF_MAP_TYPE_BLOOM_FILTER) binding->spec.cpu_count = 0;  // no map_extra
  EXPECT_EQ(maps::check_spec(binding->spec), 0);
  const uint64_t size = maps::memory_size(binding->spec);
  void* at = reinterpret_cast<void*>(next_map_);
  void* memory =
      mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  EXPECT_EQ(memory, at);
  binding->address = next_map_;
  binding->id = static_cast<uint32_t>(bindings_.size());
  next_map_ += (size + 0x1fffff) & ~uint64_t{0x1fffff};
  bindings_.push_back(std::move(binding));
  maps::initialize(map(static_cast<uint32_t>(bindings_.size() - 1)));
  return static_cast<uint32_t>(bindings_.size() - 1);
}

maps::MapView Target::map(uint32_t index) const {
  return {reinterpret_cast<uint8_t*>(bindings_[index]->address), &bindings_[index]->spec};
}

Result<Code> Target::compile(std::vector<program::Insn> insns, const verifier::Facts* facts) {
  program::Program program;
  program.name = "test";
  program.type = program_type_;
  program.insns = std::move(insns);
  if (auto valid = program::validate(program); !valid) return valid.error();
  std::vector<MapBinding> bindings;
  for (const auto& binding : bindings_) bindings.push_back(*binding);
  CompileOptions options;
  options.facts = facts;
  options.context_address = address();
  if (trace_ring_ >= 0) options.trace_ring = bindings_[static_cast<size_t>(trace_ring_)].get();
  return Code::compile(program, bindings, options);
}

uint64_t Target::run(std::vector<program::Insn> insns, void* ctx, wire::Invocation invocation) {
  const auto code = compile(std::move(insns));
  EXPECT_TRUE(code.ok()) << code.error().message;
  if (!code.ok()) return 0xdead;
  EXPECT_EQ(code->forbidden_instruction(), "");
  return code->run(reinterpret_cast<uint64_t>(ctx), reinterpret_cast<uint64_t>(&invocation));
}

std::vector<program::Insn> load_map(int dst, uint32_t index) {
  return {raw(BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_FD, 0, static_cast<int32_t>(index)), raw(0)};
}

std::vector<program::Insn> load_imm(int dst, uint64_t value) {
  return {raw(BPF_LD | BPF_IMM | BPF_DW, dst, 0, 0, static_cast<int32_t>(value)),
          raw(0, 0, 0, 0, static_cast<int32_t>(value >> 32))};
}

}  // namespace bpftime::compiler::testing
