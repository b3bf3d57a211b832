#include "verifier/testing/checked_interpreter.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "program/instructions.h"
#include "program/interpreter.h"
#include "verifier/prototypes.h"

namespace bpftime::verifier::testing {
namespace {

using program::Insn;

constexpr uint64_t kFirstBase = 0x100000000000;
constexpr uint64_t kSpacing = 1ull << 34;  // pointers may leave their object by 2^29 and a little
constexpr uint32_t kElementsMax = 64;
constexpr uint32_t kFrameRegister = 10;
constexpr int64_t kErrnoMax = 4095;

bool is_array(uint32_t type) { return type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY; }

uint64_t immediate(const Insn& insn) { return static_cast<uint64_t>(static_cast<int64_t>(insn.imm)); }

bool is_skb_type(uint32_t type) {
  return type == BPF_PROG_TYPE_SOCKET_FILTER || type == BPF_PROG_TYPE_SCHED_CLS ||
         type == BPF_PROG_TYPE_SCHED_ACT || type == BPF_PROG_TYPE_CGROUP_SKB || type == BPF_PROG_TYPE_SK_SKB;
}

}  // namespace

CheckedMachine::CheckedMachine(const Request& request, const Facts& facts, uint64_t seed)
    : request_(request), facts_(facts), random_(seed), starts_(program::subprogram_starts(request.program)) {
  maps_.resize(request.maps.size());
  inner_maps_.resize(request.maps.size());
}

void CheckedMachine::set_context(const std::vector<uint8_t>& bytes) { context_bytes_ = bytes; }

bool CheckedMachine::trap(const std::string& why) {
  if (result_.kind == RunResult::kFinished) {
    result_.kind = RunResult::kTrapped;
    result_.why = why;
    result_.insn = pc_;
  }
  return false;
}

bool CheckedMachine::inconclusive(const std::string& why) {
  result_.kind = RunResult::kInconclusive;
  result_.why = why;
  result_.insn = pc_;
  return false;
}

uint32_t CheckedMachine::subprogram_at(uint32_t insn) const {
  return static_cast<uint32_t>(std::upper_bound(starts_.begin(), starts_.end(), insn) - starts_.begin() - 1);
}

uint32_t CheckedMachine::add_region(Kind kind, uint32_t index, uint32_t size, bool random_bytes) {
  Region region;
  region.kind = kind;
  region.index = index;
  region.size = size;
  region.base = kFirstBase + kSpacing * regions_.size();
  region.bytes.resize(size);
  if (random_bytes) {
    for (uint32_t at = 0; at < size; at += 8) {
      const uint64_t word = random_.chance(40) ? random_.below(64) : random_.edge_u64();
      std::memcpy(region.bytes.data() + at, &word, std::min<uint32_t>(8, size - at));
    }
  }
  regions_.push_back(std::move(region));
  return static_cast<uint32_t>(regions_.size() - 1);
}

Concrete CheckedMachine::pointer_to(uint32_t region, int64_t offset) const {
  return {regions_[region].base + static_cast<uint64_t>(offset), region};
}

const wire::MapSpec& CheckedMachine::spec_of(uint32_t map, bool inner) const {
  const MapConstraint& constraint = request_.maps[map];
  return inner && constraint.inner ? *constraint.inner : constraint.spec;
}

CheckedMachine::MapState& CheckedMachine::map_state(uint32_t map, bool inner) {
  MapState& state = inner ? inner_maps_[map] : maps_[map];
  if (state.made) return state;
  state.made = true;
  const MapConstraint& constraint = request_.maps[map];
  const wire::MapSpec& spec = spec_of(map, inner);
  const uint32_t count = is_array(spec.type) ? std::min(spec.max_entries, kElementsMax) : 2;
  std::vector<uint32_t> elements;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t id = add_region(Kind::kMapValue, map, spec.value_size, true);
    Region& region = regions_[id];
    region.inner = inner;
    region.writable = (spec.flags & BPF_F_RDONLY_PROG) == 0;
    region.readable = (spec.flags & BPF_F_WRONLY_PROG) == 0;
    if (constraint.frozen && i == 0) {
      std::copy_n(constraint.contents.begin(), std::min<size_t>(constraint.contents.size(), region.size),
                  region.bytes.begin());
    }
    elements.push_back(id);
  }
  const uint32_t handle = add_region(Kind::kMap, map, 0, false);
  regions_[handle].inner = inner;
  state.elements = std::move(elements);
  state.handle = handle;
  return state;
}

void CheckedMachine::enter(uint32_t target, uint32_t return_to) {
  ConcreteFrame frame;
  frame.subprogram = subprogram_at(target);
  frame.return_to = return_to;
  frame.stack_region = add_region(Kind::kStack, static_cast<uint32_t>(frames_.size()), kStackBytes, true);
  Region& stack = regions_[frame.stack_region];
  stack.initialised.assign(kStackBytes, false);
  stack.provenance.assign(kStackBytes / 8, kNoRegion);
  // What the compiler zeroes because the proof says it may be read before it is written.
  const uint32_t zeroed = facts_.zeroed_bytes[frame.subprogram];
  for (uint32_t i = 0; i < std::min(zeroed, kStackBytes); ++i) {
    stack.bytes[kStackBytes - 1 - i] = 0;
    stack.initialised[kStackBytes - 1 - i] = true;
  }
  for (Concrete& value : frame.registers) value = {random_.next(), kNoRegion};
  if (!frames_.empty()) {
    for (uint32_t r = 1; r <= 5; ++r) frame.registers[r] = frames_.back().registers[r];
  }
  frame.registers[kFrameRegister] = pointer_to(frame.stack_region, kStackBytes);
  frames_.push_back(std::move(frame));
  pc_ = target;
}

size_t CheckedMachine::open_records() const {
  return static_cast<size_t>(
      std::count_if(regions_.begin(), regions_.end(), [](const Region& r) { return r.record && r.live; }));
}

RunResult CheckedMachine::run(uint64_t insns_max) {
  context_ =
      add_region(Kind::kContext, 0, request_.program.type == BPF_PROG_TYPE_TRACEPOINT ? 8192 : 1024, true);
  std::copy_n(context_bytes_.begin(), std::min<size_t>(context_bytes_.size(), 1024),
              regions_[context_].bytes.begin());
  regions_[context_].writable = is_skb_type(request_.program.type);
  packet_ = add_region(Kind::kPacket, 0, random_.below(120), true);
  enter(0, 0);
  reg(1) = pointer_to(context_);
  while (!finished_ && result_.kind == RunResult::kFinished) {
    if (pc_ >= request_.program.insns.size()) {
      trap("control left the program");
      break;
    }
    if (result_.executed >= facts_.instructions_max) {
      trap("more instructions than the proved " + std::to_string(facts_.instructions_max));
      break;
    }
    if (result_.executed >= insns_max) {
      inconclusive("runs long");
      break;
    }
    if (!facts_.insns[pc_].reached) {
      trap("runs what was found unreachable");
      break;
    }
    ++result_.executed;
    if (!before(pc_) || !step()) break;
  }
  return result_;
}

// ---- memory ----

bool CheckedMachine::check(const Concrete& pointer, int64_t offset, uint32_t size, bool write,
                           uint32_t* region, uint32_t* at) {
  if (pointer.region == kNoRegion) return trap("access through a number");
  const Region* found = &regions_[pointer.region];
  uint32_t id = pointer.region;
  const auto place = static_cast<int64_t>(pointer.value - found->base) + offset;
  if (!found->live) return trap("access to a dead object");
  if (place < 0 || place + static_cast<int64_t>(size) > static_cast<int64_t>(found->size)) {
    return trap("access at " + std::to_string(place) + " of " + std::to_string(size) +
                " bytes outside an object of " + std::to_string(found->size));
  }
  if (write ? !found->writable : !found->readable)
    return trap(write ? "write to read-only memory" : "read of write-only memory");
  auto where = static_cast<uint32_t>(place);
  while (found->parent != kNoRegion) {
    where += found->parent_offset;
    id = found->parent;
    found = &regions_[id];
    if (!found->live) return trap("access to a dead object through a slice");
  }
  if (found->kind == Kind::kStack) {
    const ConcreteFrame& frame = frames_[found->index];
    const uint32_t used = facts_.stack_bytes[frame.subprogram];
    if (size != 0 && kStackBytes - where > (used + 7) / 8 * 8) {
      return trap("stack used down to " + std::to_string(kStackBytes - where) + " bytes, proved " +
                  std::to_string(used));
    }
  }
  *region = id;
  *at = where;
  return true;
}

bool CheckedMachine::read(const Concrete& pointer, int64_t offset, uint32_t size, uint64_t* value,
                          uint32_t* provenance) {
  uint32_t id, at;
  if (!check(pointer, offset, size, false, &id, &at)) return false;
  const Region& region = regions_[id];
  *value = 0;
  std::memcpy(value, region.bytes.data() + at, size);
  *provenance = kNoRegion;
  if (region.kind != Kind::kStack) return true;
  for (uint32_t i = at; i < at + size; ++i) {
    if (!region.initialised[i])
      return trap("read of stack byte -" + std::to_string(kStackBytes - i) + ", never written nor zeroed");
  }
  if (size == 8 && at % 8 == 0) *provenance = region.provenance[at / 8];
  return true;
}

bool CheckedMachine::write(const Concrete& pointer, int64_t offset, uint32_t size, const Concrete& value) {
  uint32_t id, at;
  if (!check(pointer, offset, size, true, &id, &at)) return false;
  Region& region = regions_[id];
  std::memcpy(region.bytes.data() + at, &value.value, size);
  if (region.kind != Kind::kStack) return true;
  for (uint32_t i = at; i < at + size; ++i) {
    region.initialised[i] = true;
    region.provenance[i / 8] = kNoRegion;
  }
  if (size == 8 && at % 8 == 0) region.provenance[at / 8] = value.region;
  return true;
}

bool CheckedMachine::read_bytes(const Concrete& pointer, uint32_t size) {
  uint32_t id, at;
  if (!check(pointer, 0, size, false, &id, &at)) return false;
  const Region& region = regions_[id];
  for (uint32_t i = at; region.kind == Kind::kStack && i < at + size; ++i) {
    if (!region.initialised[i])
      return trap("a helper reads stack byte -" + std::to_string(kStackBytes - i) +
                  ", never written nor zeroed");
  }
  return true;
}

bool CheckedMachine::write_random(const Concrete& pointer, uint32_t size) {
  for (uint32_t i = 0; i < size; ++i) {
    if (!write(pointer, i, 1, {random_.next() & 0xff, kNoRegion})) return false;
  }
  uint32_t id, at;
  return size != 0 || check(pointer, 0, 0, true, &id, &at);
}

// ---- instructions ----

bool CheckedMachine::step() {
  const Insn& insn = request_.program.insns[pc_];
  switch (BPF_CLASS(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return step_alu(insn);
    case BPF_JMP:
    case BPF_JMP32:
      return step_jump(insn);
    case BPF_LDX:
    case BPF_ST:
    case BPF_STX:
      return step_memory(insn);
    default:
      return step_wide(insn);
  }
}

bool CheckedMachine::step_alu(const Insn& insn) {
  Concrete& dst = reg(insn.dst_reg);
  const bool by_register = BPF_SRC(insn.code) == BPF_X && BPF_OP(insn.code) != BPF_END;
  const Concrete operand = by_register ? reg(insn.src_reg) : Concrete{immediate(insn), kNoRegion};
  const uint8_t op = BPF_OP(insn.code);
  uint32_t region = kNoRegion;
  if (BPF_CLASS(insn.code) == BPF_ALU64) {
    if (op == BPF_MOV && insn.off == 0) region = operand.region;
    if (op == BPF_ADD)
      region = dst.region == kNoRegion       ? operand.region
               : operand.region == kNoRegion ? dst.region
                                             : kNoRegion;
    if (op == BPF_SUB && operand.region == kNoRegion) region = dst.region;
  }
  dst = {program::execute_arithmetic(insn, dst.value, operand.value), region};
  ++pc_;
  return true;
}

bool CheckedMachine::step_jump(const Insn& insn) {
  switch (BPF_OP(insn.code)) {
    case BPF_EXIT:
      return step_exit();
    case BPF_JA:
      pc_ = static_cast<uint32_t>(*program::jump_target(insn, pc_));
      return true;
    case BPF_CALL:
      if (program::is_local_call(insn)) {
        if (frames_.size() >= kFramesMax) return trap("more than 8 frames");
        const uint32_t return_to = pc_ + 1;
        enter(static_cast<uint32_t>(*program::call_target(insn, pc_)), return_to);
        return true;
      }
      if (insn.src_reg != 0) return inconclusive("host function");
      return step_helper(static_cast<uint32_t>(insn.imm));
    default:
      break;
  }
  const uint64_t operand = BPF_SRC(insn.code) == BPF_X ? reg(insn.src_reg).value : immediate(insn);
  const bool taken = program::execute_comparison(insn, reg(insn.dst_reg).value, operand);
  const InsnFacts& known = facts_.insns[pc_];
  if (taken ? known.never_taken() : known.always_taken())
    return trap("a branch goes the way it was proved not to");
  pc_ = taken ? static_cast<uint32_t>(*program::jump_target(insn, pc_)) : pc_ + 1;
  return true;
}

bool CheckedMachine::step_exit() {
  if (frames_.size() == 1) {
    if (open_records() != 0) return trap("ends with a record that was not given back");
    if (lock_held_) return trap("ends with a lock held");
    result_.result = reg(0).value;
    result_.is_address = reg(0).region != kNoRegion;
    finished_ = true;
    return true;
  }
  ConcreteFrame callee = std::move(frames_.back());
  frames_.pop_back();
  Region& stack = regions_[callee.stack_region];
  stack.live = false;
  stack.bytes.clear();
  std::erase_if(dynptrs_, [&](const Dynptr& d) { return d.stack_region == callee.stack_region; });
  if (callee.is_callback) return next_round(std::move(callee));
  for (uint32_t r = 1; r <= 5; ++r) reg(r) = {random_.next(), kNoRegion};
  reg(0) = callee.registers[0];
  pc_ = callee.return_to;
  return true;
}

bool CheckedMachine::read_context(uint32_t offset, uint32_t size, Concrete* out) {
  const uint32_t type = request_.program.type;
  const Region& packet = regions_[packet_];
  const uint32_t data = type == BPF_PROG_TYPE_XDP ? 0 : is_skb_type(type) ? 76 : UINT32_MAX;
  if (data == UINT32_MAX || size != 4) {
    // A socket: none, which it may be.
    if (is_skb_type(type) && offset == 168) {
      *out = {0, kNoRegion};
      return true;
    }
    return false;
  }
  if (offset == data) *out = {packet.base, packet_};
  if (offset == data + 4) *out = {packet.base + packet.size, packet_};
  const uint32_t meta = type == BPF_PROG_TYPE_XDP ? 8 : 140;
  if (offset == meta) *out = {packet.base, packet_};
  return offset == data || offset == data + 4 || offset == meta;
}

bool CheckedMachine::step_memory(const Insn& insn) {
  const uint32_t size = program::access_bytes(insn);
  if (BPF_CLASS(insn.code) == BPF_STX && BPF_MODE(insn.code) == BPF_ATOMIC) return step_atomic(insn, size);
  if (BPF_CLASS(insn.code) == BPF_LDX) {
    const Concrete base = reg(insn.src_reg);
    Concrete loaded;
    const int64_t place =
        base.region == context_ ? static_cast<int64_t>(base.value - regions_[context_].base) + insn.off : -1;
    if (place < 0 || !read_context(static_cast<uint32_t>(place), size, &loaded)) {
      if (!read(base, insn.off, size, &loaded.value, &loaded.region)) return false;
      if (BPF_MODE(insn.code) == program::kModeMemSx) {
        const uint32_t shift = 64 - size * 8;
        loaded.value = static_cast<uint64_t>(static_cast<int64_t>(loaded.value << shift) >> shift);
      }
    }
    reg(insn.dst_reg) = loaded;
  } else {
    const Concrete value =
        BPF_CLASS(insn.code) == BPF_ST ? Concrete{immediate(insn), kNoRegion} : reg(insn.src_reg);
    if (!write(reg(insn.dst_reg), insn.off, size, value)) return false;
  }
  ++pc_;
  return true;
}

bool CheckedMachine::step_atomic(const Insn& insn, uint32_t size) {
  constexpr int32_t kLoadAcquire = 0x100, kStoreRelease = 0x110;
  if (insn.imm == kLoadAcquire || insn.imm == kStoreRelease)
    return inconclusive("load-acquire or store-release");
  const Concrete base = reg(insn.dst_reg);
  uint64_t old_value;
  uint32_t provenance;
  if (!read(base, insn.off, size, &old_value, &provenance)) return false;
  if ((base.value + static_cast<uint64_t>(int64_t{insn.off})) % size != 0 &&
      regions_[base.region].kind != Kind::kPacket) {
    return trap("misaligned atomic");
  }
  const uint64_t mask = size == 8 ? ~0ull : 0xffffffffull;
  const uint64_t operand = reg(insn.src_reg).value & mask;
  if (insn.imm == BPF_CMPXCHG) {
    const bool equal = old_value == (reg(0).value & mask);
    if (!write(base, insn.off, size, {equal ? operand : old_value, kNoRegion})) return false;
    reg(0) = {old_value, kNoRegion};
  } else {
    const uint64_t changed = program::combine_atomic(insn.imm, old_value, operand) & mask;
    if (!write(base, insn.off, size, {changed, kNoRegion})) return false;
    if (insn.imm & BPF_FETCH) reg(insn.src_reg) = {old_value, kNoRegion};
  }
  ++pc_;
  return true;
}

bool CheckedMachine::step_wide(const Insn& insn) {
  if (!program::is_load_imm64(insn)) {  // packet loads: the byte, or the end of the program
    if (random_.chance(30)) {
      if (open_records() != 0) return trap("a packet load may end the program with a record open");
      finished_ = true;
      return true;
    }
    for (uint32_t r = 1; r <= 5; ++r) reg(r) = {random_.next(), kNoRegion};
    const uint32_t bits = program::access_bytes(insn) * 8;
    reg(0) = {random_.edge_u64() & (~0ull >> (64 - bits)), kNoRegion};
    ++pc_;
    return true;
  }
  const Insn& second = request_.program.insns[pc_ + 1];
  Concrete& dst = reg(insn.dst_reg);
  const auto index = static_cast<uint32_t>(insn.imm);
  switch (insn.src_reg) {
    case 0:
      dst = {program::imm64(insn, second), kNoRegion};
      break;
    case BPF_PSEUDO_FUNC: {
      const uint32_t region =
          add_region(Kind::kFunction, static_cast<uint32_t>(*program::call_target(insn, pc_)), 0, false);
      reg(insn.dst_reg) = pointer_to(region);
      break;
    }
    case BPF_PSEUDO_MAP_FD: {
      const uint32_t handle = map_state(index, false).handle;
      reg(insn.dst_reg) = pointer_to(handle);
      break;
    }
    case BPF_PSEUDO_MAP_VALUE: {
      const MapState& state = map_state(index, false);
      if (state.elements.empty()) return trap("map without a value");
      reg(insn.dst_reg) = pointer_to(state.elements[0], static_cast<uint32_t>(second.imm));
      break;
    }
    default:
      return inconclusive("host global");
  }
  pc_ += 2;
  return true;
}

// ---- helpers ----

void CheckedMachine::finish_call(Concrete result) {
  for (uint32_t r = 1; r <= 5; ++r) reg(r) = {random_.next(), kNoRegion};
  reg(0) = result;
  ++pc_;
}

bool CheckedMachine::lookup() {
  const Concrete map = reg(1), key = reg(2);
  if (map.region == kNoRegion || regions_[map.region].kind != Kind::kMap) return trap("lookup in no map");
  const uint32_t index = regions_[map.region].index;
  const bool inner = regions_[map.region].inner;
  const wire::MapSpec& spec = spec_of(index, inner);
  if (!read_bytes(key, spec.key_size)) return false;
  if (spec.type == BPF_MAP_TYPE_ARRAY_OF_MAPS || spec.type == BPF_MAP_TYPE_HASH_OF_MAPS) {
    const bool none = random_.chance(20);
    finish_call(none ? Concrete{} : pointer_to(map_state(index, true).handle));
    return true;
  }
  const MapState& state = map_state(index, inner);
  if (is_array(spec.type)) {
    uint64_t number;
    uint32_t ignored;
    if (!read(key, 0, 4, &number, &ignored)) return false;
    if (number >= spec.max_entries) {
      finish_call({});
      return true;
    }
    if (number >= state.elements.size()) return inconclusive("large array");
    finish_call(pointer_to(state.elements[number]));
    return true;
  }
  if (spec.value_size == 0) return inconclusive("lookup in a map of another type");
  const bool none = random_.chance(25);
  finish_call(none ? Concrete{} : pointer_to(state.elements[random_.below(2)]));
  return true;
}

bool CheckedMachine::start_callback(uint32_t id) {
  ConcreteFrame call;
  call.helper = id;
  call.return_to = pc_ + 1;
  call.is_callback = true;
  const Concrete function = reg(2);
  if (function.region == kNoRegion || regions_[function.region].kind != Kind::kFunction)
    return trap("callback is no function");
  call.function = regions_[function.region].index;
  call.context = reg(3);
  if (id == BPF_FUNC_loop) {
    const auto rounds = static_cast<uint32_t>(reg(1).value);
    if (rounds > kLoopTripsMax || reg(4).value != 0) {
      finish_call({static_cast<uint64_t>(rounds > kLoopTripsMax ? -E2BIG : -EINVAL), kNoRegion});
      return true;
    }
    call.rounds = rounds;
  } else {
    const Region& map = regions_[reg(1).region];
    call.map = map.index;
    call.inner_map = map.inner;
    const wire::MapSpec& spec = spec_of(map.index, map.inner);
    if (reg(4).value != 0) {
      finish_call({static_cast<uint64_t>(-EINVAL), kNoRegion});
      return true;
    }
    call.rounds = is_array(spec.type) ? std::min(spec.max_entries, kElementsMax)
                                      : random_.below(std::min(spec.max_entries, 3u) + 1);
  }
  call.registers[0] = {0, kNoRegion};
  return next_round(std::move(call));
}

// After a round (or before the first): the next one, or back behind the call.
bool CheckedMachine::next_round(ConcreteFrame callee) {
  const bool stop = callee.round != 0 && callee.registers[0].value != 0;
  if (callee.round != 0 && callee.registers[0].value > 1) return trap("a callback returns more than 1");
  if (stop || callee.round >= callee.rounds) {
    pc_ = callee.return_to - 1;
    finish_call({callee.round, kNoRegion});
    return true;
  }
  if (frames_.size() >= kFramesMax) return trap("more than 8 frames");
  const uint32_t round = callee.round++;
  enter(callee.function, callee.return_to);
  ConcreteFrame& frame = frames_.back();
  frame.is_callback = true;
  frame.helper = callee.helper;
  frame.function = callee.function;
  frame.round = callee.round;
  frame.rounds = callee.rounds;
  frame.map = callee.map;
  frame.inner_map = callee.inner_map;
  frame.context = callee.context;
  for (uint32_t r = 1; r <= 5; ++r) reg(r) = {random_.next(), kNoRegion};
  if (callee.helper == BPF_FUNC_loop) {
    reg(1) = {round, kNoRegion};
    reg(2) = callee.context;
    return true;
  }
  const MapState& state = map_state(callee.map, callee.inner_map);
  const uint32_t handle = state.handle, element = state.elements[round % state.elements.size()];
  const uint32_t key =
      add_region(Kind::kMapKey, callee.map, spec_of(callee.map, callee.inner_map).key_size, true);
  regions_[key].writable = false;
  reg(1) = pointer_to(handle);
  reg(2) = pointer_to(key);
  reg(3) = pointer_to(element);
  reg(4) = callee.context;
  return true;
}

bool CheckedMachine::dynptr_helper(uint32_t id) {
  const bool makes = id == BPF_FUNC_dynptr_from_mem || id == BPF_FUNC_ringbuf_reserve_dynptr;
  const uint32_t which = makes ? 4 : id == BPF_FUNC_dynptr_read ? 3 : 1;
  uint32_t stack, at;
  if (!check(reg(which), 0, 16, true, &stack, &at)) return false;
  const auto found = std::find_if(dynptrs_.begin(), dynptrs_.end(),
                                  [&](const Dynptr& d) { return d.stack_region == stack && d.at == at; });
  if (makes) {
    if (found != dynptrs_.end()) {
      if (found->record) return trap("a dynptr that owns a record is overwritten");
      dynptrs_.erase(found);
    }
    for (uint32_t i = 0; i < 16; ++i) {
      regions_[stack].initialised[at + i] = true;
      regions_[stack].provenance[(at + i) / 8] = kNoRegion;
    }
    Dynptr made;
    made.stack_region = stack;
    made.at = at;
    bool failed = random_.chance(20);
    if (id == BPF_FUNC_dynptr_from_mem) {
      made.size = static_cast<uint32_t>(reg(2).value);
      uint32_t target, offset;
      if (!check(reg(1), 0, made.size, false, &target, &offset)) return false;
      made.target = target;
      made.offset = offset;
    } else {
      made.size = static_cast<uint32_t>(reg(2).value);
      made.record = true;
      failed = failed || made.size > 4096;
      if (!failed) {
        made.target = add_region(Kind::kMemory, 0, made.size, true);
        regions_[made.target].record = true;
      }
    }
    if (failed) made.target = kNoRegion;
    dynptrs_.push_back(made);
    finish_call({static_cast<uint64_t>(failed ? -EINVAL : 0), kNoRegion});
    return true;
  }
  if (found == dynptrs_.end()) return trap("no dynptr there");
  const Dynptr dynptr = *found;
  const bool is_null = dynptr.target == kNoRegion;
  switch (id) {
    case BPF_FUNC_ringbuf_submit_dynptr:
    case BPF_FUNC_ringbuf_discard_dynptr:
      if (!is_null) regions_[dynptr.target].live = false;
      dynptrs_.erase(found);
      finish_call({});
      return true;
    case BPF_FUNC_dynptr_read: {
      const auto length = static_cast<uint32_t>(reg(2).value);
      const uint64_t offset = reg(4).value;
      if (!is_null && !regions_[dynptr.target].live) return trap("dynptr of a dead object");
      const bool good = !is_null && offset <= dynptr.size && length <= dynptr.size - offset;
      if (good ? !write_random(reg(1), length) : !write_random(reg(1), 0)) return false;
      // The kernel clears the buffer when the dynptr gives nothing.
      for (uint32_t i = 0; !good && i < length; ++i) {
        if (!write(reg(1), i, 1, {0, kNoRegion})) return false;
      }
      finish_call({static_cast<uint64_t>(good ? 0 : -E2BIG), kNoRegion});
      return true;
    }
    case BPF_FUNC_dynptr_write:
      if (!read_bytes(reg(3), static_cast<uint32_t>(reg(4).value))) return false;
      finish_call({static_cast<uint64_t>(random_.chance(50) ? 0 : -E2BIG), kNoRegion});
      return true;
    default: {  // dynptr_data
      const auto length = static_cast<uint32_t>(reg(3).value);
      const uint64_t offset = reg(2).value;
      if (is_null || offset > dynptr.size || length > dynptr.size - offset) {
        finish_call({});
        return true;
      }
      const uint32_t slice = add_region(Kind::kMemory, 0, 0, false);
      regions_[slice].size = length;
      regions_[slice].parent = dynptr.target;
      regions_[slice].parent_offset = dynptr.offset + static_cast<uint32_t>(offset);
      finish_call(pointer_to(slice));
      return true;
    }
  }
}

bool CheckedMachine::step_helper(uint32_t id) {
  switch (id) {
    case BPF_FUNC_map_lookup_elem:
      return lookup();
    case BPF_FUNC_loop:
    case BPF_FUNC_for_each_map_elem:
      return start_callback(id);
    case BPF_FUNC_ringbuf_reserve: {
      const auto size = static_cast<uint32_t>(reg(2).value);
      if (random_.chance(20) || size > 4096) {
        finish_call({});
        return true;
      }
      const uint32_t record = add_region(Kind::kMemory, 0, size, true);
      regions_[record].record = true;
      finish_call(pointer_to(record));
      return true;
    }
    case BPF_FUNC_ringbuf_submit:
    case BPF_FUNC_ringbuf_discard: {
      const Concrete record = reg(1);
      if (record.region == kNoRegion || !regions_[record.region].record || !regions_[record.region].live ||
          record.value != regions_[record.region].base) {
        return trap("gives back what is no open record");
      }
      regions_[record.region].live = false;
      finish_call({});
      return true;
    }
    case BPF_FUNC_tail_call:
      if (open_records() != 0) return trap("tail call with a record open");
      if (random_.chance(40)) {
        finished_ = true;
        return true;
      }
      finish_call({random_.next(), kNoRegion});
      return true;
    case BPF_FUNC_spin_lock:
    case BPF_FUNC_spin_unlock: {
      const bool take = id == BPF_FUNC_spin_lock;
      if (lock_held_ == take) return trap(take ? "takes a second lock" : "releases no lock");
      lock_held_ = take;
      finish_call({});
      return true;
    }
    case BPF_FUNC_get_smp_processor_id:
      finish_call(
          {random_.below(static_cast<uint32_t>(std::max(1l, sysconf(_SC_NPROCESSORS_CONF)))), kNoRegion});
      return true;
    case BPF_FUNC_get_prandom_u32:
      finish_call({random_.edge_u64() & 0xffffffff, kNoRegion});
      return true;
    case BPF_FUNC_dynptr_from_mem:
    case BPF_FUNC_ringbuf_reserve_dynptr:
    case BPF_FUNC_ringbuf_submit_dynptr:
    case BPF_FUNC_ringbuf_discard_dynptr:
    case BPF_FUNC_dynptr_read:
    case BPF_FUNC_dynptr_write:
    case BPF_FUNC_dynptr_data:
      return dynptr_helper(id);
    default:
      return generic_helper(id);
  }
}

// Any helper that only takes numbers and memory and gives a number: as its prototype says.
bool CheckedMachine::generic_helper(uint32_t id) {
  const Prototype* prototype = find_prototype(id, request_.program.type);
  if (prototype == nullptr) return trap("calls an unknown helper");
  const std::string unmodelled = "helper " + std::to_string(id);
  if (prototype->result != ResultKind::kInteger && prototype->result != ResultKind::kVoid)
    return inconclusive(unmodelled);
  uint32_t key_size = 0, value_size = 0;
  uint64_t length = 0;
  for (uint32_t i = 0; i < 5; ++i) {
    const Concrete argument = reg(i + 1);
    const auto size_argument = i < 4 ? static_cast<uint32_t>(reg(i + 2).value) : 0;
    const auto memory = [&](bool may_be_null, bool written) {
      length = size_argument;
      if (argument.region == kNoRegion && argument.value == 0 && (may_be_null || size_argument == 0))
        return true;
      return written ? write_random(argument, size_argument) : read_bytes(argument, size_argument);
    };
    bool good = true;
    switch (prototype->arguments[i]) {
      case ArgKind::kNone:
      case ArgKind::kAnything:
      case ArgKind::kSize:
      case ArgKind::kSizeOrZero:
        break;
      case ArgKind::kConstMap: {
        if (argument.region == kNoRegion || regions_[argument.region].kind != Kind::kMap)
          return trap("argument is no map");
        const wire::MapSpec& spec = spec_of(regions_[argument.region].index, regions_[argument.region].inner);
        key_size = spec.key_size;
        value_size = spec.value_size;
        break;
      }
      case ArgKind::kMapKey:
        good = read_bytes(argument, key_size);
        break;
      case ArgKind::kMapValue:
        good = read_bytes(argument, value_size);
        break;
      case ArgKind::kUninitMapValue:
        good = write_random(argument, value_size);
        break;
      case ArgKind::kMem:
        good = memory(false, false);
        break;
      case ArgKind::kMemOrNull:
        good = memory(true, false);
        break;
      case ArgKind::kUninitMem:
        good = memory(false, true);
        break;
      case ArgKind::kUninitMemOrNull:
        good = memory(true, true);
        break;
      case ArgKind::kIntOut:
        good = write_random(argument, 4);
        break;
      case ArgKind::kLongOut:
        good = write_random(argument, 8);
        break;
      case ArgKind::kContext:
        if (argument.region != context_) return trap("argument is not the context");
        break;
      default:
        return inconclusive(unmodelled);
    }
    if (!good) return false;
  }
  uint64_t result = random_.edge_u64();
  switch (id) {  // results Linux bounds by the buffer
    case BPF_FUNC_probe_read_str:
    case BPF_FUNC_probe_read_user_str:
    case BPF_FUNC_probe_read_kernel_str:
    case BPF_FUNC_get_stack:
    case BPF_FUNC_get_task_stack:
      result = random_.chance(30) ? static_cast<uint64_t>(-1 - static_cast<int64_t>(random_.below(kErrnoMax)))
                                  : random_.below(static_cast<uint32_t>(length) + 1);
      break;
    default:
      break;
  }
  finish_call({result, kNoRegion});
  return true;
}

}  // namespace bpftime::verifier::testing
