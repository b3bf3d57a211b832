// For tests: makes the test process look like a target to compiled programs, as the daemon does by ptrace.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compiler/testing.h"
#include "maps/map.h"
#include "wire/invocation.h"
#include "wire/target_context.h"

namespace bpftime::compiler::testing {

// The window with context, identity page and maps. One at a time; unmapped at the end.
class Target {
 public:
  Target();
  ~Target();
  Target(const Target&) = delete;

  bool ok() const { return context_ != nullptr; }
  wire::TargetContext* context() { return context_; }
  wire::TargetIdentity* identity();
  uint64_t address() const;

  // A zeroed map at its final address. Index: position among all maps made, for `load_map`.
  uint32_t add_map(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries,
                   uint32_t flags = 0);
  maps::MapView map(uint32_t index) const;
  const MapBinding& binding(uint32_t index) const { return *bindings_[index]; }
  uint32_t map_count() const { return static_cast<uint32_t>(bindings_.size()); }
  void use_program_type(uint32_t type) { program_type_ = type; }
  void use_trace_ring(uint32_t index) { trace_ring_ = static_cast<int>(index); }

  // `facts`: of a proof; without one nothing is known of what calls are given.
  Result<Code> compile(std::vector<program::Insn> insns, const verifier::Facts* facts = nullptr);
  // Compiles and runs once with `invocation`; a failed compile is a test failure and returns 0xdead.
  uint64_t run(std::vector<program::Insn> insns, void* ctx = nullptr, wire::Invocation invocation = {});

 private:
  wire::TargetContext* context_ = nullptr;
  uint64_t next_map_;
  std::vector<std::unique_ptr<MapBinding>> bindings_;
  int trace_ring_ = -1;
  uint32_t program_type_ = 0;
};

// Instruction sequences.
std::vector<program::Insn> load_map(int dst, uint32_t index);
std::vector<program::Insn> load_imm(int dst, uint64_t value);
// Concatenates single instructions and sequences.
class Sequence {
 public:
  Sequence& operator<<(const program::Insn& insn) {
    insns_.push_back(insn);
    return *this;
  }
  Sequence& operator<<(const std::vector<program::Insn>& insns) {
    insns_.insert(insns_.end(), insns.begin(), insns.end());
    return *this;
  }
  operator std::vector<program::Insn>() const { return insns_; }

 private:
  std::vector<program::Insn> insns_;
};

constexpr program::Insn store_imm(int size, int dst, int offset, int32_t value) {
  return raw(BPF_ST | BPF_MEM | size, dst, 0, offset, value);
}
constexpr program::Insn store(int size, int dst, int offset, int src) {
  return raw(BPF_STX | BPF_MEM | size, dst, src, offset);
}
constexpr program::Insn load(int size, int dst, int src, int offset) {
  return raw(BPF_LDX | BPF_MEM | size, dst, src, offset);
}
constexpr program::Insn jump_eq(int reg, int32_t value, int offset) {
  return raw(BPF_JMP | BPF_JEQ | BPF_K, reg, 0, offset, value);
}

}  // namespace bpftime::compiler::testing
