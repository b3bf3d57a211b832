#include "program/interpreter.h"

#include <array>
#include <bit>
#include <cstring>

#include "program/instructions.h"

namespace bpftime::program {
namespace {

constexpr uint32_t kFramesMax = 8;
constexpr uint32_t kFrameSize = 512;

// Pointers of BPF programs are 64-bit numbers; they may be unaligned.
uint64_t load(uint64_t address, uint32_t size) {
  uint64_t value = 0;  // little-endian host: the low bytes come first
  std::memcpy(&value, reinterpret_cast<const void*>(address), size);
  return value;
}

void store(uint64_t address, uint32_t size, uint64_t value) {
  std::memcpy(reinterpret_cast<void*>(address), &value, size);
}
static_assert(std::endian::native == std::endian::little);

uint64_t sign_extend(uint64_t value, uint32_t bits) {
  const uint32_t shift = 64 - bits;
  return static_cast<uint64_t>(static_cast<int64_t>(value << shift) >> shift);
}

// Division by zero gives 0; INT_MIN / -1 gives INT_MIN. Modulo by zero leaves the dividend; INT_MIN %
// -1 gives 0.
template <typename Unsigned>
Unsigned divide(Unsigned a, Unsigned b, bool is_signed) {
  using Signed = std::make_signed_t<Unsigned>;
  if (b == 0) return 0;
  if (!is_signed) return a / b;
  if (b == static_cast<Unsigned>(-1)) return static_cast<Unsigned>(0) - a;
  return static_cast<Unsigned>(static_cast<Signed>(a) / static_cast<Signed>(b));
}

template <typename Unsigned>
Unsigned modulo(Unsigned a, Unsigned b, bool is_signed) {
  using Signed = std::make_signed_t<Unsigned>;
  if (b == 0) return a;
  if (!is_signed) return a % b;
  if (b == static_cast<Unsigned>(-1)) return 0;
  return static_cast<Unsigned>(static_cast<Signed>(a) % static_cast<Signed>(b));
}

// Two-operand arithmetic in 32 or 64 bits. Shift counts are taken modulo the width.
template <typename Unsigned>
Unsigned arithmetic(const Insn& insn, Unsigned a, Unsigned b) {
  using Signed = std::make_signed_t<Unsigned>;
  constexpr Unsigned kShiftMask = sizeof(Unsigned) * 8 - 1;
  switch (BPF_OP(insn.code)) {
    case BPF_ADD:
      return a + b;
    case BPF_SUB:
      return a - b;
    case BPF_MUL:
      return a * b;
    case BPF_DIV:
      return divide(a, b, insn.off == 1);
    case BPF_MOD:
      return modulo(a, b, insn.off == 1);
    case BPF_OR:
      return a | b;
    case BPF_AND:
      return a & b;
    case BPF_XOR:
      return a ^ b;
    case BPF_LSH:
      return a << (b & kShiftMask);
    case BPF_RSH:
      return a >> (b & kShiftMask);
    case BPF_ARSH:
      return static_cast<Unsigned>(static_cast<Signed>(a) >> (b & kShiftMask));
    case BPF_NEG:
      return static_cast<Unsigned>(0) - a;
    default:  // BPF_MOV
      return insn.off == 0 ? b : static_cast<Unsigned>(sign_extend(b, insn.off));
  }
}

// le/be (ALU) convert between host and given order and truncate; bswap (ALU64) always swaps and truncates.
uint64_t byte_order(const Insn& insn, uint64_t value) {
  const bool swap = BPF_CLASS(insn.code) == BPF_ALU64 || BPF_SRC(insn.code) == BPF_TO_BE;
  switch (insn.imm) {
    case 16:
      return swap ? __builtin_bswap16(static_cast<uint16_t>(value)) : static_cast<uint16_t>(value);
    case 32:
      return swap ? __builtin_bswap32(static_cast<uint32_t>(value)) : static_cast<uint32_t>(value);
    default:
      return swap ? __builtin_bswap64(value) : value;
  }
}

template <typename Unsigned>
bool compare(uint8_t operation, Unsigned a, Unsigned b) {
  using Signed = std::make_signed_t<Unsigned>;
  const auto sa = static_cast<Signed>(a);
  const auto sb = static_cast<Signed>(b);
  switch (operation) {
    case BPF_JEQ:
      return a == b;
    case BPF_JNE:
      return a != b;
    case BPF_JGT:
      return a > b;
    case BPF_JGE:
      return a >= b;
    case BPF_JLT:
      return a < b;
    case BPF_JLE:
      return a <= b;
    case BPF_JSET:
      return (a & b) != 0;
    case BPF_JSGT:
      return sa > sb;
    case BPF_JSGE:
      return sa >= sb;
    case BPF_JSLT:
      return sa < sb;
    default:  // BPF_JSLE
      return sa <= sb;
  }
}

uint64_t combine(int32_t operation, uint64_t old_value, uint64_t operand) {
  switch (operation & ~BPF_FETCH) {
    case BPF_ADD:
      return old_value + operand;
    case BPF_AND:
      return old_value & operand;
    case BPF_OR:
      return old_value | operand;
    case BPF_XOR:
      return old_value ^ operand;
    default:  // exchange
      return operand;
  }
}

// Read-modify-write of a naturally aligned T. A compare-and-exchange loop serves every operation: plain
// beats fast here.
template <typename T>
uint64_t atomic_update(uint64_t address, int32_t operation, uint64_t operand) {
  T* const cell = reinterpret_cast<T*>(address);
  T old_value = __atomic_load_n(cell, __ATOMIC_SEQ_CST);
  while (!__atomic_compare_exchange_n(cell, &old_value,
                                      static_cast<T>(combine(operation, old_value, operand)), false,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return old_value;
}

template <typename T>
uint64_t atomic_exchange_if(uint64_t address, uint64_t expected, uint64_t desired) {
  T old_value = static_cast<T>(expected);
  __atomic_compare_exchange_n(reinterpret_cast<T*>(address), &old_value, static_cast<T>(desired), false,
                              __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return old_value;  // what was in memory, whether or not it was replaced
}

struct Frame {
  size_t return_index = 0;
  std::array<uint64_t, 4> saved = {};  // r6..r9 of the caller
};

class Machine {
 public:
  Machine(const Program& program, const InterpreterEnvironment& environment)
      : insns_(program.insns), environment_(environment) {}

  Result<uint64_t> run(uint64_t r1, uint64_t r2) {
    reg_[1] = r1;
    reg_[2] = r2;
    reg_[kFrameRegister] = frame_top(0);
    for (uint64_t executed = 0; !finished_; ++executed) {
      if (executed >= environment_.insns_max) return fail("instruction limit reached", ELOOP);
      if (pc_ >= insns_.size()) return fail("fell off the end", EINVAL);
      if (auto stepped = step(); !stepped) return stepped.error();
    }
    return reg_[0];
  }

 private:
  // Frames grow downwards from the end of stack_; frame 0 is the entry's.
  uint64_t frame_top(size_t depth) const {
    return reinterpret_cast<uint64_t>(stack_.data()) + stack_.size() - depth * kFrameSize;
  }

  Error fail(const std::string& why, int code) const {
    return Error{code, "instruction " + std::to_string(pc_) + ": " + why};
  }

  // An access is allowed inside the live frames, and outside the stack when the environment says so.
  Result<void> check_access(uint64_t address, uint32_t size, bool write) const {
    const auto stack_begin = reinterpret_cast<uint64_t>(stack_.data());
    const uint64_t live_begin = frame_top(depth_) - kFrameSize;
    const uint64_t stack_end = frame_top(0);
    if (address >= live_begin && address < stack_end && size <= stack_end - address) return {};
    const bool touches_stack = address < stack_end && address + size > stack_begin && address + size >= size;
    if (touches_stack || (environment_.may_access && !environment_.may_access(address, size, write))) {
      return fail(std::string("bad ") + (write ? "write" : "read") + " of " + std::to_string(size) + " bytes",
                  EFAULT);
    }
    return {};
  }

  Result<void> step() {
    const Insn& insn = insns_[pc_];
    switch (BPF_CLASS(insn.code)) {
      case BPF_ALU:
      case BPF_ALU64:
        step_alu(insn);
        ++pc_;
        return {};
      case BPF_JMP:
      case BPF_JMP32:
        return step_jump(insn);
      case BPF_LDX:
      case BPF_ST:
      case BPF_STX:
        if (auto accessed = step_memory(insn); !accessed) return accessed;
        ++pc_;
        return {};
      default:
        return step_load(insn);
    }
  }

  // 32-bit results are zero-extended; immediates are sign-extended to 64 bits first.
  void step_alu(const Insn& insn) {
    uint64_t& dst = reg_[insn.dst_reg];
    dst = execute_arithmetic(insn, dst, BPF_SRC(insn.code) == BPF_X ? reg_[insn.src_reg] : immediate(insn));
  }

  Result<void> step_jump(const Insn& insn) {
    switch (BPF_OP(insn.code)) {
      case BPF_EXIT:
        step_exit();
        return {};
      case BPF_CALL:
        return step_call(insn);
      default:
        break;
    }
    pc_ = is_taken(insn) ? static_cast<size_t>(*jump_target(insn, pc_)) : pc_ + 1;
    return {};
  }

  bool is_taken(const Insn& insn) const {
    if (BPF_OP(insn.code) == BPF_JA) return true;
    return execute_comparison(insn, reg_[insn.dst_reg],
                              BPF_SRC(insn.code) == BPF_X ? reg_[insn.src_reg] : immediate(insn));
  }

  void step_exit() {
    if (depth_ == 0) {
      finished_ = true;
      return;
    }
    const Frame& frame = frames_[depth_--];
    for (size_t i = 0; i < frame.saved.size(); ++i) reg_[6 + i] = frame.saved[i];
    reg_[kFrameRegister] = frame_top(depth_);
    pc_ = frame.return_index;
  }

  Result<void> step_call(const Insn& insn) {
    if (is_local_call(insn)) return enter(static_cast<size_t>(*call_target(insn, pc_)));
    if (insn.src_reg == BPF_PSEUDO_KFUNC_CALL) return fail("kernel function call", EOPNOTSUPP);
    if (!environment_.helper) return fail("helper call without helpers", EINVAL);
    // callx (never valid for validate(), but RFC 9669 describes it): the helper's id comes from a register.
    const uint32_t id = BPF_SRC(insn.code) == BPF_X ? static_cast<uint32_t>(reg_[insn.dst_reg]) : insn.imm;
    Result<uint64_t> value = environment_.helper(id, &reg_[1]);
    if (!value) return value.error();
    reg_[0] = *value;
    ++pc_;
    return {};
  }

  Result<void> enter(size_t target) {
    if (depth_ + 1 >= kFramesMax) return fail("call stack too deep", EINVAL);
    Frame& frame = frames_[++depth_];
    frame.return_index = pc_ + 1;
    for (size_t i = 0; i < frame.saved.size(); ++i) frame.saved[i] = reg_[6 + i];
    reg_[kFrameRegister] = frame_top(depth_);
    std::memset(reinterpret_cast<void*>(frame_top(depth_) - kFrameSize), 0, kFrameSize);
    pc_ = target;
    return {};
  }

  Result<void> step_memory(const Insn& insn) {
    const uint32_t size = access_bytes(insn);
    const bool is_load = BPF_CLASS(insn.code) == BPF_LDX;
    const uint64_t base = reg_[is_load ? insn.src_reg : insn.dst_reg];
    const uint64_t address = base + static_cast<uint64_t>(static_cast<int64_t>(insn.off));
    if (auto allowed = check_access(address, size, !is_load); !allowed) return allowed;
    if (is_load) {
      const uint64_t value = load(address, size);
      reg_[insn.dst_reg] = BPF_MODE(insn.code) == kModeMemSx ? sign_extend(value, size * 8) : value;
      return {};
    }
    if (BPF_MODE(insn.code) == BPF_ATOMIC) return step_atomic(insn, address, size);
    store(address, size, BPF_CLASS(insn.code) == BPF_ST ? immediate(insn) : reg_[insn.src_reg]);
    return {};
  }

  Result<void> step_atomic(const Insn& insn, uint64_t address, uint32_t size) {
    if (address % size != 0) return fail("misaligned atomic access", EINVAL);  // as the verifier refuses it
    const uint64_t operand = reg_[insn.src_reg];
    if (insn.imm == BPF_CMPXCHG) {
      reg_[0] = size == 8 ? atomic_exchange_if<uint64_t>(address, reg_[0], operand)
                          : atomic_exchange_if<uint32_t>(address, reg_[0], operand);
      return {};
    }
    const uint64_t old_value = size == 8 ? atomic_update<uint64_t>(address, insn.imm, operand)
                                         : atomic_update<uint32_t>(address, insn.imm, operand);
    if (insn.imm & BPF_FETCH) reg_[insn.src_reg] = old_value;
    return {};
  }

  Result<void> step_load(const Insn& insn) {
    if (!is_load_imm64(insn)) return fail("packet load", EOPNOTSUPP);
    if (pc_ + 1 >= insns_.size()) return fail("truncated 64-bit immediate load", EINVAL);
    const Insn& second = insns_[pc_ + 1];
    switch (insn.src_reg) {
      case 0:
        reg_[insn.dst_reg] = imm64(insn, second);
        break;
      case BPF_PSEUDO_FUNC:
        reg_[insn.dst_reg] = static_cast<uint64_t>(*call_target(insn, pc_));
        break;
      case BPF_PSEUDO_MAP_FD:
      case BPF_PSEUDO_MAP_IDX:
      case BPF_PSEUDO_MAP_VALUE:
      case BPF_PSEUDO_MAP_IDX_VALUE: {
        if (!environment_.map_address) return fail("map reference without maps", EINVAL);
        const bool value = insn.src_reg == BPF_PSEUDO_MAP_VALUE || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
        reg_[insn.dst_reg] = environment_.map_address(insn.imm, second.imm, value);
        break;
      }
      default:
        return fail("kernel variable", EOPNOTSUPP);
    }
    pc_ += 2;
    return {};
  }

  static uint64_t immediate(const Insn& insn) {
    return static_cast<uint64_t>(static_cast<int64_t>(insn.imm));
  }

  const std::vector<Insn>& insns_;
  const InterpreterEnvironment& environment_;
  alignas(16) std::array<uint8_t, kFramesMax* kFrameSize> stack_ = {};
  std::array<uint64_t, kRegisters> reg_ = {};
  std::array<Frame, kFramesMax> frames_ = {};
  size_t depth_ = 0;
  size_t pc_ = 0;
  bool finished_ = false;
};

}  // namespace

uint64_t execute_arithmetic(const Insn& insn, uint64_t dst, uint64_t operand) {
  if (BPF_OP(insn.code) == BPF_END) return byte_order(insn, dst);
  if (BPF_CLASS(insn.code) == BPF_ALU64) return arithmetic<uint64_t>(insn, dst, operand);
  return arithmetic<uint32_t>(insn, static_cast<uint32_t>(dst), static_cast<uint32_t>(operand));
}

bool execute_comparison(const Insn& insn, uint64_t dst, uint64_t operand) {
  if (BPF_CLASS(insn.code) == BPF_JMP) return compare<uint64_t>(BPF_OP(insn.code), dst, operand);
  return compare<uint32_t>(BPF_OP(insn.code), static_cast<uint32_t>(dst), static_cast<uint32_t>(operand));
}

uint64_t combine_atomic(int32_t operation, uint64_t old_value, uint64_t operand) {
  return combine(operation, old_value, operand);
}

Result<uint64_t> interpret(const Program& program, uint64_t r1, uint64_t r2,
                           const InterpreterEnvironment& environment) {
  return Machine(program, environment).run(r1, r2);
}

}  // namespace bpftime::program
