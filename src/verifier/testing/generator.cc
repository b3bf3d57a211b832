#include "verifier/testing/generator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>

#include "verifier/testing/btf_builder.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"

namespace bpftime::verifier::testing {
namespace {

constexpr uint8_t kFp = 10;
constexpr uint8_t kSizes[] = {BPF_B, BPF_H, BPF_W, BPF_DW};

int32_t bytes_of(uint8_t size) { return size == BPF_B ? 1 : size == BPF_H ? 2 : size == BPF_W ? 4 : 8; }

// What the generator believes a register holds; never more than it made true.
struct Held {
  enum Kind : uint8_t { kNothing, kNumber, kContext, kMapValue } kind = kNothing;
  uint64_t max = UINT64_MAX;  // kNumber
  int32_t size = 0;           // kMapValue: bytes behind the pointer
  bool writable = true;
};

// Loads of the context that each program type has: {offset, size}.
struct Field {
  int16_t offset;
  uint8_t size;
};

const std::vector<Field>& context_fields(uint32_t type) {
  static const std::vector<Field> pt_regs = {{0, BPF_DW},   {32, BPF_DW},  {80, BPF_DW}, {96, BPF_DW},
                                             {112, BPF_DW}, {128, BPF_DW}, {80, BPF_W},  {160, BPF_DW}};
  static const std::vector<Field> tracepoint = {
      {8, BPF_DW}, {16, BPF_W}, {24, BPF_DW}, {20, BPF_H}, {9, BPF_B}};
  static const std::vector<Field> raw = {{0, BPF_DW}, {8, BPF_DW}, {16, BPF_DW}};
  static const std::vector<Field> skb = {{0, BPF_W}, {4, BPF_W}, {16, BPF_W}, {48, BPF_W}, {8, BPF_W}};
  static const std::vector<Field> xdp = {{12, BPF_W}, {16, BPF_W}};
  static const std::vector<Field> perf = {{0, BPF_DW}, {80, BPF_DW}, {168, BPF_DW}, {176, BPF_DW}};
  switch (type) {
    case BPF_PROG_TYPE_KPROBE:
      return pt_regs;
    case BPF_PROG_TYPE_TRACEPOINT:
      return tracepoint;
    case BPF_PROG_TYPE_RAW_TRACEPOINT:
      return raw;
    case BPF_PROG_TYPE_XDP:
      return xdp;
    case BPF_PROG_TYPE_PERF_EVENT:
      return perf;
    default:
      return skb;
  }
}

class Generator {
 public:
  Generator(uint64_t seed, const GeneratorOptions& options) : random_(seed), options_(options) {}

  Request run() {
    request_.program.name = "generated";
    request_.license = "GPL";
    const uint32_t dice = random_.below(100);
    request_.program.type = dice < 30   ? BPF_PROG_TYPE_KPROBE
                            : dice < 45 ? BPF_PROG_TYPE_TRACEPOINT
                            : dice < 52 ? BPF_PROG_TYPE_RAW_TRACEPOINT
                            : dice < 57 ? BPF_PROG_TYPE_PERF_EVENT
                            : dice < 75 ? BPF_PROG_TYPE_SOCKET_FILTER
                                        : BPF_PROG_TYPE_XDP;
    if (options_.mistake_percent != 0 && random_.chance(50)) mistakes_left_ = 1 + random_.below(2);
    exit_ = b_.label();
    main_program();
    write_functions();
    request_.program.insns = b_.finish();
    write_types();
    return std::move(request_);
  }

 private:
  // ---- knobs ----
  // Whether to do this detail wrong.
  bool oops() {
    if (mistakes_left_ == 0 || !random_.chance(options_.mistake_percent)) return false;
    --mistakes_left_;
    return true;
  }
  bool is_tracing() const {
    return request_.program.type != BPF_PROG_TYPE_SOCKET_FILTER && request_.program.type != BPF_PROG_TYPE_XDP;
  }

  uint32_t map(std::string_view kind) {
    for (size_t i = 0; i < request_.maps.size(); ++i) {
      if (request_.maps[i].name == kind.substr(0, wire::kNameMax - 1)) return static_cast<uint32_t>(i);
    }
    request_.maps.push_back(*standard_map(kind));
    return static_cast<uint32_t>(request_.maps.size() - 1);
  }

  // ---- the model ----
  void forget_scratch() {
    for (uint8_t r = 0; r <= 5; ++r) held_[r] = {};
  }
  void helper(int32_t id) {
    b_.call(id);
    forget_scratch();
    held_[0] = {Held::kNumber};
  }
  uint8_t saved_register() {
    for (int attempt = 0; attempt < 8; ++attempt) {
      const auto r = static_cast<uint8_t>(6 + random_.below(4));
      if (held_[r].kind == Held::kContext && random_.chance(90)) continue;
      if (pinned_ & (1u << r)) continue;
      return r;
    }
    return 9;
  }
  // An 8-aligned place on the stack, as a negative offset, with `size` bytes above it.
  int16_t place_on_stack(int32_t size) {
    const int32_t slots = (size + 7) / 8;
    return static_cast<int16_t>(
        -8 * (slots + static_cast<int32_t>(random_.below(static_cast<uint32_t>(stack_slots_)))));
  }
  void init_stack(int16_t offset, int32_t size) {
    for (int32_t at = 0; at < size; at += 8) {
      const auto where = static_cast<int16_t>(offset + at);
      if (random_.chance(70)) {
        b_.store_imm(BPF_DW, kFp, where, random_.chance(50) ? 0 : random_.edge_imm());
      } else {
        b_.mov_imm(3, random_.edge_imm());
        b_.store(BPF_DW, kFp, where, 3);
      }
    }
    held_[3] = {};
  }
  void stack_pointer(uint8_t reg, int16_t offset) {
    b_.mov(reg, kFp);
    b_.alu_imm(BPF_ADD, reg, offset);
    held_[reg] = {};
  }
  void context_to_r1() {
    for (uint8_t r = 6; r <= 9; ++r) {
      if (held_[r].kind == Held::kContext) {
        if (r != 1) b_.mov(1, r);
        return;
      }
    }
    b_.mov_imm(1, 0);  // the context is gone: whatever follows is refused
  }
  bool has_context() const {
    return std::any_of(held_.begin() + 6, held_.begin() + 10,
                       [](const Held& h) { return h.kind == Held::kContext; });
  }
  void leave_if(uint8_t op, uint8_t reg, int32_t imm, bool is64 = true) {
    b_.jump_imm(op, reg, imm, out(), is64);
  }
  // Where to go when a check fails: out of the program, or out of the part that holds something.
  Builder::Label out() { return outs_.empty() ? exit_ : outs_.back(); }

  // A number nobody knows, in a register of its own.
  uint8_t unknown_number() {
    const uint8_t reg = saved_register();
    const uint32_t dice = random_.below(100);
    const uint8_t pointer = map_value_register(8);
    if (dice < 40 && pointer != 0) {
      const uint8_t size = kSizes[random_.below(4)];
      if (size != BPF_DW && random_.chance(25)) {
        b_.raw(make_insn(static_cast<uint8_t>(BPF_LDX | program::kModeMemSx | size), reg, pointer, 0, 0));
        held_[reg] = {Held::kNumber};
      } else {
        b_.load(size, reg, pointer, 0);
        held_[reg] = {Held::kNumber, size == BPF_DW ? UINT64_MAX : (1ull << (8 * bytes_of(size))) - 1};
      }
    } else if (dice < 60 && has_context()) {
      const Field& field = random_.pick(context_fields(request_.program.type));
      context_to_r1();
      b_.load(field.size, reg, 1, field.offset);
      held_[reg] = {Held::kNumber,
                    field.size == BPF_DW ? UINT64_MAX : (1ull << (8 * bytes_of(field.size))) - 1};
    } else {
      helper(random_.pick<int32_t>(
          {BPF_FUNC_get_prandom_u32, BPF_FUNC_ktime_get_ns, BPF_FUNC_get_smp_processor_id}));
      b_.mov(reg, 0);
      held_[reg] = {Held::kNumber};
    }
    return reg;
  }
  uint8_t any_number() {
    for (int attempt = 0; attempt < 6; ++attempt) {
      const auto r = static_cast<uint8_t>(6 + random_.below(4));
      if (held_[r].kind == Held::kNumber) return r;
    }
    if (random_.chance(60)) return unknown_number();
    const uint8_t reg = saved_register();
    b_.mov_imm(reg, random_.edge_imm());
    held_[reg] = {Held::kNumber};
    return reg;
  }
  // The same, of a number nothing else relies on (loop counters).
  uint8_t number_to_change() {
    const uint8_t reg = any_number();
    return pinned_ & (1u << reg) ? unknown_number() : reg;
  }
  // A register that points to at least `size` bytes of a map's value, or 0.
  uint8_t map_value_register(int32_t size) {
    for (int attempt = 0; attempt < 6; ++attempt) {
      const auto r = static_cast<uint8_t>(6 + random_.below(4));
      if (held_[r].kind == Held::kMapValue && held_[r].size >= size) return r;
    }
    return 0;
  }

  // Brings reg into [0, max] in one of the ways compilers and people write it.
  void bound(uint8_t reg, int32_t max) {
    if (oops()) max += random_.pick({1, 1, 2, 8});
    const bool power = ((max + 1) & max) == 0;
    switch (random_.below(power ? 9 : 7)) {
      case 0:
        leave_if(BPF_JGT, reg, max);
        break;
      case 1:
        leave_if(BPF_JGE, reg, max + 1);
        break;
      case 2: {  // signed, both ends
        if (!oops()) leave_if(BPF_JSLT, reg, 0);
        leave_if(BPF_JSGT, reg, max);
        break;
      }
      case 3: {  // the other way round
        const Builder::Label good = b_.label();
        b_.jump_imm(BPF_JLT, reg, max + 1, good, true);
        b_.go(out());
        b_.place(good);
        break;
      }
      case 4:  // 32-bit compare of a number that was cut to 32 bits
        if (!oops()) b_.mov32(reg, reg);
        leave_if(BPF_JGT, reg, max, false);
        break;
      case 5:
        b_.alu_imm(BPF_MOD, reg, max + 1);
        break;
      case 6: {  // against a register
        const uint8_t limit = 5;
        b_.mov_imm(limit, max);
        b_.jump(BPF_JGT, reg, limit, out());
        held_[limit] = {};
        break;
      }
      case 7:
        b_.alu_imm(BPF_AND, reg, max);
        break;
      default:
        b_.alu32_imm(BPF_AND, reg, max);
    }
    held_[reg] = {Held::kNumber, static_cast<uint64_t>(max)};
  }

  // ---- templates ----
  void arithmetic() {
    static constexpr uint8_t kOps[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR,   BPF_AND, BPF_LSH,
                                       BPF_RSH, BPF_MOD, BPF_XOR, BPF_MOV, BPF_ARSH, BPF_NEG, BPF_END};
    const uint32_t rounds = 1 + random_.below(4);
    for (uint32_t i = 0; i < rounds; ++i) {
      uint8_t dst = number_to_change();
      const uint8_t op = kOps[random_.below(std::size(kOps))];
      const bool is64 = random_.chance(55);
      const uint8_t code_class = is64 ? BPF_ALU64 : BPF_ALU;
      if (oops()) dst = random_.pick<uint8_t>({0, 4, 9, 10});
      held_[dst] = {Held::kNumber};
      if (op == BPF_NEG) {
        b_.raw(make_insn(code_class | BPF_NEG, dst, 0, 0, 0));
      } else if (op == BPF_END) {
        const uint8_t order = is64 ? BPF_TO_LE : random_.pick<uint8_t>({BPF_TO_LE, BPF_TO_BE});
        b_.raw(make_insn(static_cast<uint8_t>(code_class | BPF_END | order), dst, 0, 0,
                         random_.pick({16, 32, 64})));
      } else if (random_.chance(50)) {
        arithmetic_with_constant(op, code_class, dst);
      } else {
        const uint8_t src = any_number();
        int16_t off = 0;
        if ((op == BPF_DIV || op == BPF_MOD) && random_.chance(35)) off = 1;
        if (op == BPF_MOV && random_.chance(35))
          off = is64 ? random_.pick<int16_t>({8, 16, 32}) : random_.pick<int16_t>({8, 16});
        b_.raw(make_insn(static_cast<uint8_t>(code_class | op | BPF_X), dst, src, off, 0));
      }
    }
  }
  void arithmetic_with_constant(uint8_t op, uint8_t code_class, uint8_t dst) {
    int32_t imm = random_.edge_imm();
    const bool shift = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
    const int32_t width = code_class == BPF_ALU64 ? 64 : 32;
    if (shift && !oops()) imm = static_cast<int32_t>(random_.below(static_cast<uint32_t>(width)));
    if ((op == BPF_DIV || op == BPF_MOD) && imm == 0 && !oops()) imm = 3;
    const int16_t off = (op == BPF_DIV || op == BPF_MOD) && random_.chance(35) ? 1 : 0;
    b_.raw(make_insn(static_cast<uint8_t>(code_class | op | BPF_K), dst, 0, off, imm));
  }

  uint8_t random_condition() {
    return random_.pick<uint8_t>({BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSET, BPF_JSGT,
                                  BPF_JSGE, BPF_JSLT, BPF_JSLE});
  }

  // if (number OP number) { template } [else { template }]
  void condition() {
    if (depth_ >= 3) return arithmetic();
    const uint8_t a = any_number();
    const Builder::Label after = b_.label();
    if (random_.chance(60)) {
      b_.jump_imm(random_condition(), a, random_.edge_imm(), after, random_.chance(60));
    } else {
      b_.jump(random_condition(), a, any_number_kept(a), after, random_.chance(60));
    }
    branch(after);
  }
  uint8_t any_number_kept(uint8_t other) {  // without writing instructions that change `other`
    for (int attempt = 0; attempt < 6; ++attempt) {
      const auto r = static_cast<uint8_t>(6 + random_.below(4));
      if (held_[r].kind == Held::kNumber) return r;
    }
    return other;
  }
  void branch(Builder::Label after) {
    const auto before = held_;
    ++depth_;
    const uint32_t rounds = 1 + random_.below(2);
    for (uint32_t i = 0; i < rounds; ++i) one_template();
    --depth_;
    if (random_.chance(40)) {
      const Builder::Label end = b_.label();
      if (random_.chance(85)) {
        b_.go(end);
      } else {
        b_.go_far(end);
      }
      b_.place(after);
      const auto first = held_;
      held_ = before;
      ++depth_;
      one_template();
      --depth_;
      b_.place(end);
      merge(first);
    } else {
      b_.place(after);
      merge(before);
    }
  }
  void merge(const std::array<Held, 11>& other) {
    for (size_t r = 0; r < held_.size(); ++r) {
      if (held_[r].kind != other[r].kind) {
        held_[r] = {};
      } else {
        held_[r].max = std::max(held_[r].max, other[r].max);
        held_[r].size = std::min(held_[r].size, other[r].size);
        held_[r].writable = held_[r].writable && other[r].writable;
      }
    }
  }

  // value = bpf_map_lookup_elem(&map, &key); if (!value) leave
  void lookup() {
    struct Choice {
      const char* kind;
      int32_t key, value;
    };
    static constexpr Choice kChoices[] = {{"map_hash_8b", 8, 8},       {"map_hash_16b", 8, 16},
                                          {"map_hash_48b", 8, 48},     {"map_array_48b", 4, 48},
                                          {"map_array_many", 4, 32},   {"map_lru_hash", 4, 24},
                                          {"map_percpu_array", 4, 16}, {"map_percpu_hash", 8, 8},
                                          {"map_array_small", 4, 1},   {"map_array_ro", 4, 48}};
    const Choice& choice = kChoices[random_.below(std::size(kChoices))];
    const int16_t key = place_on_stack(8);
    if (!oops()) init_stack(key, 8);
    stack_pointer(2, oops() ? random_.pick<int16_t>({0, -1, -3, -516}) : key);
    if (oops()) {
      b_.mov_imm(1, 0);
    } else {
      b_.load_map(1, map(choice.kind));
    }
    helper(BPF_FUNC_map_lookup_elem);
    const uint8_t reg = saved_register();
    const bool check_copy = random_.chance(30);
    if (check_copy) b_.mov(reg, 0);
    if (!oops()) {
      if (random_.chance(80)) {
        leave_if(BPF_JEQ, check_copy && random_.chance(50) ? reg : 0, 0);
      } else {
        const Builder::Label good = b_.label();
        b_.jump_imm(BPF_JNE, 0, 0, good);
        b_.go(out());
        b_.place(good);
      }
    }
    if (!check_copy) b_.mov(reg, 0);
    held_[0] = {};
    held_[reg] = {Held::kMapValue, 0, choice.value, std::string_view(choice.kind) != "map_array_ro"};
  }
  void direct_value() {
    const uint8_t reg = saved_register();
    const int32_t offset = oops() ? random_.pick({48, 49, 100}) : random_.between(0, 40);
    b_.load_map_value(reg, map("map_array_48b"), offset);
    held_[reg] = {Held::kMapValue, 0, 48 - offset};
  }
  uint8_t need_map_value(int32_t size) {
    uint8_t reg = map_value_register(size);
    for (int attempt = 0; reg == 0 && attempt < 6; ++attempt) {
      if (random_.chance(75)) {
        lookup();
      } else {
        direct_value();
      }
      reg = map_value_register(size);
    }
    return reg;
  }

  // Reads, writes and atomics at constant places.
  void access_value() {
    const uint8_t pointer = need_map_value(1);
    if (pointer == 0) return;
    const Held held = held_[pointer];
    const uint32_t rounds = 1 + random_.below(3);
    for (uint32_t i = 0; i < rounds; ++i) {
      const uint8_t size = kSizes[random_.below(4)];
      if (bytes_of(size) > held.size) continue;
      int32_t offset = random_.between(0, held.size - bytes_of(size));
      if (random_.chance(20)) offset = held.size - bytes_of(size);
      if (oops()) offset = random_.pick({held.size - bytes_of(size) + 1, -1, held.size, 0x7fff});
      access(size, pointer, static_cast<int16_t>(offset), held.writable || oops());
    }
  }
  void access(uint8_t size, uint8_t pointer, int16_t offset, bool writable) {
    static constexpr int32_t kAtomics[] = {BPF_ADD,
                                           BPF_OR,
                                           BPF_AND,
                                           BPF_XOR,
                                           BPF_ADD | BPF_FETCH,
                                           BPF_OR | BPF_FETCH,
                                           BPF_AND | BPF_FETCH,
                                           BPF_XOR | BPF_FETCH,
                                           BPF_XCHG,
                                           BPF_CMPXCHG};
    const uint32_t dice = writable ? random_.below(100) : 0;
    if (dice < 35) {
      const auto dst = static_cast<uint8_t>(random_.below(6));
      b_.load(size, dst, pointer, offset);
      held_[dst] = {};
    } else if (dice < 60) {
      b_.store_imm(size, pointer, offset, random_.edge_imm());
    } else if (dice < 85) {
      b_.mov_imm(4, random_.edge_imm());
      b_.store(size, pointer, offset, 4);
    } else {
      const bool wide = size == BPF_DW;
      const int32_t aligned = oops() ? offset : offset & ~(wide ? 7 : 3);
      b_.mov_imm(0, 1);
      b_.mov_imm(4, random_.edge_imm());
      b_.atomic(oops() ? BPF_H
                : wide ? BPF_DW
                       : BPF_W,
                pointer, static_cast<int16_t>(aligned), 4, kAtomics[random_.below(std::size(kAtomics))]);
      held_[4] = {};
    }
  }

  // value[index] with a bounded index.
  void indexed_access() {
    const uint8_t pointer = need_map_value(16);
    if (pointer == 0) return;
    const Held value = held_[pointer];
    const uint32_t pinned_before = pinned_;
    pinned_ |= 1u << pointer;
    const uint8_t index = unknown_number();
    pinned_ = pinned_before;
    if (index == pointer) return;
    const uint8_t size = kSizes[random_.below(4)];
    const int32_t shift = static_cast<int32_t>(random_.below(3));
    const int32_t room = value.size - bytes_of(size);
    const int32_t offset = random_.between(0, std::min(room, 8));
    int32_t index_max = (room - offset) >> shift;
    if (random_.chance(30)) {  // a mask
      int32_t mask = 1;
      while (mask * 2 - 1 <= index_max) mask *= 2;
      index_max = mask - 1;
    }
    bound(index, index_max);
    if (shift != 0) b_.alu_imm(BPF_LSH, index, shift);
    const uint8_t base = random_.chance(70) || (pinned_ & (1u << pointer)) ? 1 : pointer;
    if (base == 1) b_.mov(1, pointer);
    const bool subtract = random_.chance(10);
    if (subtract) b_.alu_imm(BPF_ADD, base, value.size - bytes_of(size) - offset);
    b_.alu(subtract ? BPF_SUB : BPF_ADD, base, index);
    access(size, base, static_cast<int16_t>(oops() ? offset + 1 : offset), value.writable);
    held_[index] = {Held::kNumber};
    if (base == pointer) held_[pointer] = {};
  }

  // buffer[index] on the stack.
  void indexed_stack() {
    const int32_t slots = 2 + static_cast<int32_t>(random_.below(4));
    const int16_t buffer = static_cast<int16_t>(-8 * slots);
    init_stack(buffer, 8 * slots);
    const uint8_t index = unknown_number();
    const uint8_t size = random_.chance(60) ? BPF_B : BPF_DW;
    bound(index, size == BPF_B ? 8 * slots - 1 : slots - 1);
    if (size == BPF_DW) b_.alu_imm(BPF_LSH, index, 3);
    stack_pointer(1, buffer);
    b_.alu(BPF_ADD, 1, index);
    if (random_.chance(50)) {
      b_.load(size, 0, 1, 0);
    } else {
      b_.store_imm(size, 1, 0, 7);
    }
    held_[index] = {Held::kNumber};
    held_[0] = held_[1] = {};
  }

  // Registers to the stack and back, whole and in part.
  void spill() {
    const auto reg = static_cast<uint8_t>(6 + random_.below(4));
    if (held_[reg].kind == Held::kNothing || (pinned_ & (1u << reg))) return arithmetic();
    const int16_t at = place_on_stack(8);
    const Held held = held_[reg];
    const bool number = held.kind == Held::kNumber;
    const uint8_t width =
        number && random_.chance(50) ? random_.pick<uint8_t>({BPF_W, BPF_H, BPF_B}) : BPF_DW;
    b_.store(width, kFp, at, reg);
    if (oops()) b_.store_imm(BPF_B, kFp, static_cast<int16_t>(at + random_.between(0, 7)), 1);
    if (random_.chance(50)) b_.mov_imm(reg, 0);
    const uint8_t to = random_.chance(70) ? reg : saved_register();
    const uint8_t read = number && random_.chance(40) ? kSizes[random_.below(4)] : oops() ? BPF_W : width;
    b_.load(read, to, kFp, at);
    if (to != reg && random_.chance(50)) {
      // the copy on the stack and the register are one number: testing one bounds the other
      if (number && read == BPF_DW && width == BPF_DW) leave_if(BPF_JGT, reg, 15);
    }
    held_[to] = read == width && read == BPF_DW ? held : Held{Held::kNumber};
  }

  void loop() {
    if (depth_ >= 2) return arithmetic();
    const uint8_t counter = saved_register();
    const int32_t stride = random_.pick({1, 1, 1, 2, 3, 4, -1});
    const int32_t trips = 1 + static_cast<int32_t>(random_.below(depth_ == 0 ? 12 : 4));
    const int32_t first = stride < 0 ? trips : 0, last = stride < 0 ? 0 : trips * stride;
    b_.mov_imm(counter, first);
    held_[counter] = {Held::kNumber, static_cast<uint64_t>(std::max(first, last))};
    pinned_ |= 1u << counter;
    const Builder::Label head = b_.label();
    const auto before = held_;
    b_.place(head);
    // What the body changes is unknown at the head of the second round: only what stays is used.
    for (uint8_t r = 6; r <= 9; ++r) {
      if (held_[r].kind == Held::kNumber && r != counter) held_[r] = {Held::kNumber};
    }
    for (uint8_t r = 0; r <= 5; ++r) held_[r] = {};
    const uint8_t pointer = map_value_register(1);
    uint32_t also = 0;
    for (uint8_t r = 6; r <= 9; ++r) {
      if (held_[r].kind != Held::kNumber && !(pinned_ & (1u << r))) also |= 1u << r;
    }
    pinned_ |= also;
    ++depth_;
    if (pointer != 0 && random_.chance(50)) {
      access_value();
    } else {
      const uint32_t dice = random_.below(3);
      if (dice == 0) arithmetic();
      if (dice == 1) condition();
      if (dice == 2) helper(BPF_FUNC_ktime_get_ns);
    }
    --depth_;
    pinned_ &= ~also;
    pinned_ &= ~(1u << counter);
    if (held_[counter].kind != Held::kNumber) return;  // cannot happen: pinned
    if (!oops()) b_.alu_imm(BPF_ADD, counter, stride);
    const uint8_t op = stride < 0 ? random_.pick<uint8_t>({BPF_JNE, BPF_JSGT})
                                  : random_.pick<uint8_t>({BPF_JLT, BPF_JSLT, BPF_JNE});
    b_.jump_imm(op, counter, last, head, random_.chance(70));
    for (uint8_t r = 0; r <= 9; ++r) {
      if (held_[r].kind != before[r].kind) held_[r] = {};
      if (held_[r].kind == Held::kNumber) held_[r].max = UINT64_MAX;
    }
    if (held_[counter].kind == Held::kNothing) held_[counter] = {Held::kNumber};
  }

  // f(number, &value or &buffer)
  void local_call() {
    if (functions_.size() >= 6) return arithmetic();
    Function function{b_.label(), Function::kPlain, 0, oops()};
    const uint8_t number = any_number();
    b_.mov(1, number);
    const uint8_t pointer = map_value_register(8);
    if (pointer != 0 && random_.chance(50)) {
      b_.mov(2, pointer);
      function.bytes = held_[pointer].size;
      function.writable = held_[pointer].writable;
    } else {
      const int16_t buffer = place_on_stack(16);
      init_stack(buffer, 16);
      stack_pointer(2, buffer);
      function.bytes = 16;
    }
    b_.call_local(function.label);
    functions_.push_back(function);
    forget_scratch();
    const uint8_t result = saved_register();
    b_.mov(result, 0);
    held_[result] = {Held::kNumber};
  }

  void ring_record() {
    const int32_t size = 8 * (1 + static_cast<int32_t>(random_.below(4)));
    b_.load_map(1, map("map_ringbuf"));
    b_.mov_imm(2, size);
    b_.mov_imm(3, 0);
    helper(BPF_FUNC_ringbuf_reserve);
    const Builder::Label none = b_.label();
    if (!oops()) b_.jump_imm(BPF_JEQ, 0, 0, none);
    const uint8_t record = saved_register();
    b_.mov(record, 0);
    const auto before = held_;
    held_[record] = {Held::kMapValue, 0, size};
    pinned_ |= 1u << record;
    const Builder::Label give_back = b_.label();
    outs_.push_back(oops() ? exit_ : give_back);
    ++depth_;
    const uint32_t rounds = random_.below(3);
    for (uint32_t i = 0; i < rounds; ++i) one_template();
    const uint8_t width = kSizes[random_.below(4)];
    access(width, record, static_cast<int16_t>(oops() ? size : random_.between(0, size - 8)), true);
    --depth_;
    outs_.pop_back();
    pinned_ &= ~(1u << record);
    b_.place(give_back);
    if (!oops()) {
      b_.mov(1, record);
      if (oops()) b_.alu_imm(BPF_ADD, 1, 8);
      b_.mov_imm(2, 0);
      helper(random_.chance(60) ? BPF_FUNC_ringbuf_submit : BPF_FUNC_ringbuf_discard);
    }
    if (oops()) b_.store_imm(BPF_W, record, 0, 1);  // use after
    b_.place(none);
    forget_scratch();
    merge(before);
    held_[record] = {};
  }

  void context_read() {
    if (!has_context()) return arithmetic();
    const Field& field = random_.pick(context_fields(request_.program.type));
    const uint8_t to = saved_register();
    context_to_r1();
    uint8_t size = field.size;
    int16_t offset = field.offset;
    if (oops()) offset = random_.pick<int16_t>({-8, 7, 1000, 0x7ff8, 3});
    if (oops()) size = kSizes[random_.below(4)];
    if (oops()) b_.alu_imm(BPF_ADD, 1, 8);
    b_.load(size, to, 1, offset);
    held_[to] = {Held::kNumber};
    if (oops()) b_.store(BPF_DW, 1, 0, to);
  }

  // memcpy-like helpers with a length that is known only roughly.
  void buffer_helper() {
    const int32_t room = 8 * (1 + static_cast<int32_t>(random_.below(6)));
    const uint8_t value = random_.chance(40) ? map_value_register(8) : 0;
    const int32_t size = value != 0 ? held_[value].size : room;
    const uint32_t pinned_before = pinned_;
    if (value != 0) pinned_ |= 1u << value;
    const bool variable = random_.chance(60);
    uint8_t length = 0;
    if (variable) {
      length = unknown_number();
      bound(length, size);
      if (random_.chance(30)) leave_if(BPF_JEQ, length, 0);
    }
    pinned_ = pinned_before;
    const int16_t buffer = static_cast<int16_t>(-room);
    if (value == 0 && random_.chance(60)) init_stack(buffer, room);
    const auto pointer_to = [&](uint8_t reg) {
      if (value != 0) {
        b_.mov(reg, value);
      } else {
        stack_pointer(reg, buffer);
      }
    };
    const auto length_to = [&](uint8_t reg) {
      if (variable && length != 0) {
        b_.mov(reg, length);
      } else {
        b_.mov_imm(reg, oops() ? size + 1 : oops() ? 0 : random_.between(1, size));
      }
    };
    const uint32_t dice = random_.below(is_tracing() ? 6 : 4);
    const bool writable = value == 0 || held_[value].writable;
    if (dice == 0) {  // ringbuf_output(map, data, size, flags)
      b_.load_map(1, map("map_ringbuf"));
      pointer_to(2);
      length_to(3);
      b_.mov_imm(4, 0);
      helper(BPF_FUNC_ringbuf_output);
    } else if (dice == 1 && has_context() && request_.program.type != BPF_PROG_TYPE_SOCKET_FILTER) {
      context_to_r1();
      b_.load_map(2, map("map_event_output"));
      b_.mov_imm(3, -1);
      pointer_to(4);
      length_to(5);
      helper(BPF_FUNC_perf_event_output);
    } else if (dice == 2) {
      pointer_to(1);
      length_to(2);
      b_.mov_imm(3, 0);
      b_.mov_imm(4, 0);
      b_.mov_imm(5, 0);
      helper(BPF_FUNC_trace_printk);
    } else if (dice == 3 && writable) {
      pointer_to(1);
      length_to(2);
      helper(BPF_FUNC_get_current_comm);
    } else if (dice >= 4 && writable) {
      pointer_to(1);
      length_to(2);
      b_.mov_imm(3, 0);
      if (any_number_or_none() != 0) b_.mov(3, any_number_or_none());
      helper(random_.pick<int32_t>({BPF_FUNC_probe_read_user, BPF_FUNC_probe_read_kernel,
                                    BPF_FUNC_probe_read_user_str, BPF_FUNC_probe_read_kernel_str}));
    }
  }
  uint8_t any_number_or_none() const {
    for (uint8_t r = 6; r <= 9; ++r) {
      if (held_[r].kind == Held::kNumber) return r;
    }
    return 0;
  }

  // bpf_map_update_elem, delete, push, peek.
  void map_change() {
    const int16_t key = -8;
    const int16_t value = -64;
    init_stack(key, 8);
    const uint32_t dice = random_.below(4);
    if (dice == 0) {
      b_.load_map(1, map("map_hash_8b"));
      stack_pointer(2, key);
      helper(BPF_FUNC_map_delete_elem);
    } else if (dice <= 2) {
      init_stack(value, 48);
      b_.load_map(
          1,
          map(random_.pick<const char*>({"map_hash_48b", "map_array_48b", "map_hash_16b", "map_lru_hash"})));
      stack_pointer(2, key);
      stack_pointer(3, oops() ? static_cast<int16_t>(-4) : value);
      const uint8_t pointer = map_value_register(48);
      if (pointer != 0 && random_.chance(30)) b_.mov(3, pointer);
      b_.mov_imm(4, 0);
      helper(BPF_FUNC_map_update_elem);
    } else {
      b_.load_map(1, map("map_queue"));
      stack_pointer(2, key);
      b_.mov_imm(3, 0);
      helper(random_.pick<int32_t>({BPF_FUNC_map_push_elem, BPF_FUNC_map_pop_elem, BPF_FUNC_map_peek_elem}));
    }
  }

  // bpf_loop and bpf_for_each_map_elem.
  void callback() {
    if (functions_.size() >= 6) return arithmetic();
    const int16_t context = place_on_stack(16);
    init_stack(context, 16);
    const bool each = random_.chance(40);
    Function function{b_.label(), each ? Function::kEach : Function::kLoop, 0, oops()};
    if (each) {
      const bool array = random_.chance(50);
      b_.load_map(1, map(array ? "map_array_many" : "map_hash_16b"));
      function.bytes = array ? 32 : 16;
    } else if (random_.chance(50)) {
      b_.mov_imm(1, random_.between(0, 100));
    } else {
      b_.mov(1, any_number());
    }
    b_.load_function(2, function.label);
    if (random_.chance(20) && !each) {
      b_.mov_imm(3, 0);
      function.context_bytes = 0;
    } else {
      stack_pointer(3, context);
      function.context_bytes = 16;
    }
    b_.mov_imm(4, oops() ? 1 : 0);
    helper(each ? BPF_FUNC_for_each_map_elem : BPF_FUNC_loop);
    functions_.push_back(function);
    needs_types_ = true;
  }

  void dynptr() {
    const bool ring = random_.chance(50);
    const int16_t at = static_cast<int16_t>(-8 * (2 + static_cast<int32_t>(random_.below(20))));
    const Builder::Label give_back = b_.label();
    const auto before = held_;
    if (ring) {
      b_.load_map(1, map("map_ringbuf"));
      b_.mov_imm(2, 16);
      b_.mov_imm(3, 0);
      stack_pointer(4, at);
      helper(BPF_FUNC_ringbuf_reserve_dynptr);
    } else {
      b_.load_map_value(1, map("map_array_48b"), 0);
      b_.mov_imm(2, oops() ? 64 : 32);
      b_.mov_imm(3, 0);
      stack_pointer(4, at);
      helper(BPF_FUNC_dynptr_from_mem);
    }
    if (oops()) b_.store_imm(BPF_DW, kFp, at, 0);
    const int16_t data = static_cast<int16_t>(at - 16);
    const uint32_t dice = random_.below(3);
    if (dice == 0) {
      stack_pointer(1, at);
      b_.mov_imm(2, 0);
      b_.mov_imm(3, oops() ? 0 : 8);
      helper(BPF_FUNC_dynptr_data);
      if (!oops()) b_.jump_imm(BPF_JEQ, 0, 0, give_back);
      b_.store_imm(BPF_DW, 0, oops() ? 4 : 0, 1);
    } else if (dice == 1) {
      stack_pointer(1, data);
      b_.mov_imm(2, 16);
      stack_pointer(3, at);
      b_.mov_imm(4, 0);
      b_.mov_imm(5, 0);
      helper(BPF_FUNC_dynptr_read);
    } else {
      init_stack(data, 16);
      stack_pointer(1, at);
      b_.mov_imm(2, 0);
      stack_pointer(3, data);
      b_.mov_imm(4, 16);
      b_.mov_imm(5, 0);
      helper(BPF_FUNC_dynptr_write);
    }
    b_.place(give_back);
    if (ring && !oops()) {
      stack_pointer(1, oops() ? static_cast<int16_t>(at - 8) : at);
      b_.mov_imm(2, 0);
      helper(random_.chance(50) ? BPF_FUNC_ringbuf_submit_dynptr : BPF_FUNC_ringbuf_discard_dynptr);
    }
    forget_scratch();
    merge(before);
  }

  // A constant of frozen read-only data decides: the poisoned side is never looked at.
  void frozen_constant() {
    uint32_t index = 0;
    for (; index < request_.maps.size(); ++index) {
      if (request_.maps[index].frozen) break;
    }
    if (index == request_.maps.size()) {
      std::vector<uint8_t> bytes(16);
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_.below(4));
      request_.maps.push_back(frozen_array(bytes));
    }
    const std::vector<uint8_t>& bytes = request_.maps[index].contents;
    const uint8_t size = kSizes[random_.below(4)];
    const int32_t at = random_.between(0, 16 - bytes_of(size)) & ~(bytes_of(size) - 1);
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, static_cast<size_t>(bytes_of(size)));
    b_.load_map_value(1, index, at);
    b_.load(size, 2, 1, 0);
    const Builder::Label alive = b_.label();
    b_.jump_imm(BPF_JEQ, 2, static_cast<int32_t>(value) + (oops() ? 1 : 0), alive, size != BPF_DW);
    const uint32_t dice = random_.below(3);
    if (dice == 0) b_.call(195896080);  // what a failed CO-RE relocation leaves
    if (dice == 1) b_.load(BPF_DW, 0, 0, 0);
    if (dice == 2) b_.mov_imm(kFp - 1, 0);
    if (random_.chance(50)) {
      b_.mov_imm(0, 0);
      b_.exit();
    }
    if (dice == 2) held_[9] = {};
    b_.place(alive);
    forget_scratch();
  }

  void tail_call() {
    if (!has_context() || !outs_.empty()) return arithmetic();
    context_to_r1();
    b_.load_map(2, map("prog1"));
    b_.mov_imm(3, random_.between(0, 5));
    helper(BPF_FUNC_tail_call);
  }

  void spin_lock() {
    if (request_.program.type != BPF_PROG_TYPE_XDP && !oops()) return arithmetic();
    const int16_t key = place_on_stack(8);
    init_stack(key, 8);
    stack_pointer(2, key);
    b_.load_map(1, map("map_spin_lock"));
    helper(BPF_FUNC_map_lookup_elem);
    leave_if(BPF_JEQ, 0, 0);
    const uint8_t reg = saved_register();
    b_.mov(reg, 0);
    held_[reg] = {};
    b_.mov(1, reg);
    b_.alu_imm(BPF_ADD, 1, oops() ? 0 : 4);
    helper(BPF_FUNC_spin_lock);
    b_.store_imm(BPF_W, reg, oops() ? 4 : 0, 1);
    if (oops()) helper(BPF_FUNC_ktime_get_ns);
    if (oops()) return;
    b_.mov(1, reg);
    b_.alu_imm(BPF_ADD, 1, 4);
    helper(BPF_FUNC_spin_unlock);
  }

  void packet() {
    if (request_.program.type != BPF_PROG_TYPE_XDP || !has_context()) return arithmetic();
    context_to_r1();
    b_.load(BPF_W, 2, 1, 0);
    b_.load(BPF_W, 3, 1, 4);
    const int32_t size = random_.between(1, 40);
    b_.mov(4, 2);
    b_.alu_imm(BPF_ADD, 4, size);
    const Builder::Label after = b_.label();
    if (!oops()) b_.jump(random_.chance(85) ? BPF_JGT : BPF_JGE, 4, 3, after);
    const uint8_t width = kSizes[random_.below(4)];
    const int32_t at = oops() ? size : std::max(0, size - bytes_of(width));
    if (bytes_of(width) <= size) b_.load(width, 5, 2, static_cast<int16_t>(at));
    if (bytes_of(width) <= size && random_.chance(40)) b_.store_imm(width, 2, 0, 1);
    b_.place(after);
    forget_scratch();
  }

  void legacy_load() {
    if (request_.program.type != BPF_PROG_TYPE_SOCKET_FILTER || !outs_.empty() ||
        held_[6].kind != Held::kContext) {
      return arithmetic();
    }
    const uint8_t size = random_.pick<uint8_t>({BPF_B, BPF_H, BPF_W});
    if (random_.chance(50)) {
      b_.raw(make_insn(static_cast<uint8_t>(BPF_LD | BPF_ABS | size), 0, 0, 0, random_.between(0, 100)));
    } else {
      b_.raw(make_insn(static_cast<uint8_t>(BPF_LD | BPF_IND | size), 0, any_number(), 0,
                       random_.between(0, 100)));
    }
    forget_scratch();
    held_[0] = {Held::kNumber};
  }

  void inner_map() {
    const int16_t key = place_on_stack(8);
    init_stack(key, 8);
    stack_pointer(2, key);
    b_.load_map(1, map("map_in_map"));
    helper(BPF_FUNC_map_lookup_elem);
    if (!oops()) leave_if(BPF_JEQ, 0, 0);
    b_.mov(1, 0);
    if (oops()) b_.alu_imm(BPF_ADD, 1, 4);
    stack_pointer(2, key);
    helper(BPF_FUNC_map_lookup_elem);
    leave_if(BPF_JEQ, 0, 0);
    const uint8_t reg = saved_register();
    b_.mov(reg, 0);
    held_[reg] = {Held::kMapValue, 0, 4};
  }

  // Two numbers that differ by a constant: testing one bounds the other.
  void linked_numbers() {
    const uint8_t pointer = need_map_value(16);
    if (pointer == 0) return;
    const Held value = held_[pointer];
    const uint32_t pinned_before = pinned_;
    pinned_ |= 1u << pointer;
    const uint8_t number = unknown_number();
    pinned_ = pinned_before;
    if (number == pointer) return;
    const int32_t delta = random_.between(0, 4);
    b_.mov(4, number);
    if (delta != 0) b_.alu_imm(BPF_ADD, 4, delta);
    const int32_t max = value.size - 1;
    // Bounds the copy; the original is smaller by delta, if nothing wrapped.
    leave_if(random_.pick<uint8_t>({BPF_JGT, BPF_JGT, BPF_JSGT}), 4, oops() ? max + 1 : max);
    const bool use_copy = random_.chance(40);
    if (!use_copy && random_.chance(70)) leave_if(BPF_JLT, 4, delta);
    b_.mov(1, pointer);
    b_.alu(BPF_ADD, 1, use_copy ? 4 : number);
    b_.load(BPF_B, 0, 1, 0);
    held_[0] = held_[1] = held_[4] = {};
  }

  // Things no compiler writes: each breaks a rule of its own.
  void nonsense() {
    if (!oops()) return arithmetic();
    switch (random_.below(16)) {
      case 0:
        b_.raw(make_insn(random_.pick<uint8_t>({0xff, 0x8d, 0xe7, 0x06, 0x60}), 0, 0, 0, 0));
        break;
      case 1:
        b_.raw(make_insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 3, 0, 0));
        break;
      case 2:
        b_.raw(make_insn(BPF_JMP | BPF_JA, 0, 0, random_.pick<int16_t>({1000, -1000}), 0));
        break;
      case 3: {
        const Builder::Label over = b_.label();
        b_.go(over);
        b_.mov_imm(0, 1);  // nothing leads here
        b_.place(over);
        break;
      }
      case 4: {
        const Builder::Label self = b_.label();
        b_.place(self);
        b_.go(self);
        break;
      }
      case 5:
        b_.mov_imm(kFp, 0);
        break;
      case 6:
        b_.alu_imm(BPF_MUL, saved_register(), 3);
        b_.mov(2, kFp);
        b_.alu_imm(BPF_MUL, 2, 3);
        break;
      case 7:
        b_.mov(2, kFp);
        b_.alu32_imm(BPF_ADD, 2, -8);
        break;
      case 8:
        b_.store_imm(BPF_DW, kFp, random_.pick<int16_t>({0, 8, -520, -516}), 0);
        break;
      case 9:
        b_.store_imm(BPF_W, kFp, -6, 0);
        break;
      case 10:
        b_.call(random_.pick<int32_t>({0, 500, 999999, BPF_FUNC_override_return, BPF_FUNC_skb_store_bytes}));
        break;
      case 11:
        b_.raw(make_insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, 1));
        break;
      case 12:
        b_.mov(0, kFp);
        b_.jump_imm(BPF_JEQ, 0, 5, out());
        b_.go(out());
        break;
      case 13:
        b_.mov_imm(3, 0);
        b_.load(BPF_DW, 3, 3, 0);
        break;
      case 14: {  // one instruction, two kinds of memory
        const uint8_t number = any_number();
        const Builder::Label other = b_.label();
        if (!has_context()) break;
        context_to_r1();
        b_.jump_imm(BPF_JEQ, number, 0, other);
        stack_pointer(1, -8);
        b_.store_imm(BPF_DW, kFp, -8, 0);
        b_.place(other);
        b_.load(BPF_W, 0, 1, request_.program.type == BPF_PROG_TYPE_XDP ? 12 : 0);
        break;
      }
      default: {  // pointer far out of range
        stack_pointer(1, -8);
        b_.alu_imm(BPF_ADD, 1, 0x20000000);
        b_.alu_imm(BPF_ADD, 1, 0x20000000);
      }
    }
    forget_scratch();
  }

  void one_template() {
    using Template = void (Generator::*)();
    struct Row {
      uint32_t weight;
      Template write;
    };
    static constexpr Row kRows[] = {
        {10, &Generator::arithmetic},   {8, &Generator::condition},       {6, &Generator::lookup},
        {2, &Generator::direct_value},  {9, &Generator::access_value},    {10, &Generator::indexed_access},
        {5, &Generator::indexed_stack}, {6, &Generator::spill},           {6, &Generator::loop},
        {5, &Generator::local_call},    {5, &Generator::ring_record},     {5, &Generator::context_read},
        {7, &Generator::buffer_helper}, {4, &Generator::map_change},      {4, &Generator::callback},
        {4, &Generator::dynptr},        {4, &Generator::frozen_constant}, {2, &Generator::tail_call},
        {3, &Generator::spin_lock},     {4, &Generator::packet},          {2, &Generator::legacy_load},
        {2, &Generator::inner_map},     {5, &Generator::linked_numbers},  {6, &Generator::nonsense},
    };
    uint32_t total = 0;
    for (const Row& row : kRows) total += row.weight;
    uint32_t dice = random_.below(total);
    for (const Row& row : kRows) {
      if (dice < row.weight) return (this->*row.write)();
      dice -= row.weight;
    }
  }

  void main_program() {
    held_[1] = {Held::kContext};
    b_.mov(6, 1);
    held_[6] = {Held::kContext};
    for (uint8_t r = 7; r <= 9; ++r) {
      if (random_.chance(50)) {
        b_.mov_imm(r, random_.edge_imm());
        held_[r] = {Held::kNumber};
      }
    }
    const uint32_t count = static_cast<uint32_t>(random_.between(
        static_cast<int32_t>(options_.templates_min), static_cast<int32_t>(options_.templates_max)));
    for (uint32_t i = 0; i < count; ++i) one_template();
    b_.place(exit_);
    if (oops()) {
      b_.mov(0, random_.pick<uint8_t>({10, 5, 6}));
    } else {
      b_.mov_imm(0, random_.chance(90) || request_.program.type == BPF_PROG_TYPE_PERF_EVENT ? 0 : 1);
    }
    if (!oops()) b_.exit();
  }

  struct Function {
    Builder::Label label;
    enum Kind : uint8_t { kPlain, kLoop, kEach } kind;
    int32_t bytes;
    bool mistake;
    bool writable = true;
    int32_t context_bytes = 0;
    size_t start = 0;
  };

  void write_functions() {
    for (size_t i = 0; i < functions_.size(); ++i) {
      Function& function = functions_[i];
      function.start = b_.size();
      b_.place(function.label);
      if (function.kind == Function::kPlain) {
        write_plain_function(functions_[i], i);
      } else {
        write_callback(functions_[i]);
      }
    }
  }
  void write_plain_function(const Function& function, size_t i) {
    const uint8_t size = kSizes[random_.below(4)];
    const int32_t at = std::max(0, function.bytes - bytes_of(size));
    if (bytes_of(size) <= function.bytes) {
      b_.load(
          size, 0, 2,
          static_cast<int16_t>(function.mistake && random_.chance(50) ? at + 1 : at & ~(bytes_of(size) - 1)));
    } else {
      b_.mov_imm(0, 2);
    }
    if (random_.chance(40)) {
      b_.store(BPF_DW, kFp, -8, 1);
      b_.load(BPF_DW, 3, kFp, -8);
      b_.alu(BPF_XOR, 0, 3);
    }
    if (random_.chance(20))
      b_.store_imm(BPF_DW, kFp, static_cast<int16_t>(-8 * (1 + random_.below(function.mistake ? 60 : 8))), 0);
    if (random_.chance(30)) {
      const Builder::Label skip = b_.label();
      b_.jump_imm(random_condition(), 1, random_.edge_imm(), skip, random_.chance(50));
      b_.alu(BPF_ADD, 0, 1);
      b_.place(skip);
    }
    if (random_.chance(20) && i + 1 < functions_.size() && functions_[i + 1].kind == Function::kPlain &&
        functions_[i + 1].bytes <= function.bytes && (function.writable || !functions_[i + 1].writable)) {
      b_.call_local(functions_[i + 1].label);
    } else if (function.mistake && random_.chance(30)) {
      b_.call_local(function.label);  // recursion
    }
    if (function.mistake && random_.chance(30)) b_.mov(0, kFp);
    b_.exit();
  }
  void write_callback(const Function& function) {
    const uint8_t context = function.kind == Function::kLoop ? 2 : 4;
    if (function.context_bytes != 0) {
      b_.load(BPF_DW, 0, context, 0);
      b_.alu_imm(BPF_ADD, 0, 1);
      b_.store(BPF_DW, context, static_cast<int16_t>(function.mistake ? 16 : 0), 0);
    }
    if (function.kind == Function::kEach) {
      b_.load(BPF_W, 1, 3, static_cast<int16_t>(function.bytes - 4));
      b_.store_imm(BPF_W, 3, 0, 1);
    }
    const uint32_t dice = random_.below(3);
    if (dice == 0 && function.context_bytes != 0) {
      b_.load(BPF_B, 0, context, 8);
      b_.alu_imm(BPF_AND, 0, function.mistake ? 3 : 1);
    } else {
      b_.mov_imm(0, function.mistake ? 2 : static_cast<int32_t>(dice & 1));
    }
    b_.exit();
  }

  // Callbacks need function records, and those need types.
  void write_types() {
    if (!needs_types_) return;
    BtfBuilder btf;
    const uint32_t integer = btf.add_int("int", 4, true);
    const uint32_t pointer = btf.add_pointer(0);
    const uint32_t main_prototype = btf.add_prototype(integer, {{"ctx", pointer}});
    const uint32_t prototype = btf.add_prototype(integer, {{"a", integer}, {"b", pointer}});
    std::vector<uint32_t> records = {0, btf.add_function("entry", main_prototype, BTF_FUNC_GLOBAL)};
    for (size_t i = 0; i < functions_.size(); ++i) {
      records.push_back(static_cast<uint32_t>(functions_[i].start));
      records.push_back(btf.add_function("f" + std::to_string(i), prototype, BTF_FUNC_STATIC));
    }
    request_.btf = btf.blob();
    request_.func_info_record_size = 8;
    const auto* bytes = reinterpret_cast<const uint8_t*>(records.data());
    request_.func_info.assign(bytes, bytes + records.size() * sizeof(uint32_t));
  }

  static constexpr uint32_t BTF_FUNC_STATIC = 0, BTF_FUNC_GLOBAL = 1;

  Random random_;
  GeneratorOptions options_;
  Request request_;
  Builder b_;
  Builder::Label exit_ = 0;
  std::vector<Builder::Label> outs_;
  std::array<Held, 11> held_{};
  std::vector<Function> functions_;
  uint32_t mistakes_left_ = 0;
  uint32_t depth_ = 0;
  uint32_t pinned_ = 0;  // registers that may not be overwritten now
  int32_t stack_slots_ = 8;
  bool needs_types_ = false;
};

}  // namespace

Request generate(uint64_t seed, const GeneratorOptions& options) { return Generator(seed, options).run(); }

}  // namespace bpftime::verifier::testing
