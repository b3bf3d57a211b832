// What may still be read, and which numbers can decide the verdict: backward over each subprogram, callees first.
//
// For whoever edits this:
//  1. Err to "live" and to "relevant". Too much costs time; too little makes exploration, which goes on from states without
//     the rest, refuse good programs. It cannot make it accept bad ones.
//  2. Whatever the engine demands to have a value (TYP001) is live, even where the result is thrown away.
//  3. An address into the own frame is followed through registers exactly; once it is in memory or has an unknown offset it
//     may point anywhere into the frame. Callees are handed addresses in r1 to r5 only and cannot store those for later
//     (STK006), so a frame none of whose addresses is passed is out of the callee's reach.
#include <algorithm>
#include <array>
#include <queue>

#include "program/instructions.h"
#include "verifier/control_flow.h"
#include "verifier/prototypes.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

constexpr uint32_t kFirstSlotBit = 16;
constexpr uint32_t kSlots = kStackBytes / kSlotBytes;
constexpr uint32_t kRegisters = 11;

// Where in the own frame a register points: an offset from the top, or one of these.
using Place = int16_t;
constexpr Place kNowhere = INT16_MAX;
constexpr Place kAnywhere = INT16_MIN;

// What is known of the registers before an instruction.
struct Known {
  std::array<Place, kRegisters> places;
  // Bit i: register i may hold a pointer of any kind; one that pointers can be loaded through (context, host object).
  uint16_t pointers = 0, gives_pointers = 0;
};

Place shifted(Place place, int64_t by) {
  if (place == kNowhere || place == kAnywhere) return place;
  const int64_t moved = place + by;
  return moved < -2 * static_cast<int64_t>(kStackBytes) || moved > static_cast<int64_t>(kStackBytes)
             ? kAnywhere
             : static_cast<Place>(moved);
}

using Slots = std::bitset<kSlots>;

// The slots that bytes [low, high) of the frame lie in.
Slots slots_between(int64_t low, int64_t high) {
  Slots out;
  low = std::max<int64_t>(low, -static_cast<int64_t>(kStackBytes));
  high = std::min<int64_t>(high, 0);
  for (int64_t at = low; at < high; ++at) out.set(static_cast<size_t>(-at - 1) / kSlotBytes);
  return out;
}

Slots slots_at(Place place, int64_t offset, uint32_t size) {
  if (place == kNowhere) return {};
  if (place == kAnywhere) return Slots().set();
  return slots_between(place + offset, place + offset + size);
}

struct Needs {
  FrameBits live, relevant;
  bool operator==(const Needs&) const = default;
};

Slots slots_of(const FrameBits& bits) {
  Slots out;
  for (uint32_t i = 0; i < kSlots; ++i) out[i] = bits[kFirstSlotBit + i];
  return out;
}

void add_slots(FrameBits& bits, const Slots& slots) {
  if (slots.none()) return;
  for (uint32_t i = 0; i < kSlots; ++i)
    if (slots[i]) bits.set(kFirstSlotBit + i);
}

class Analysis {
 public:
  Analysis(const Request& request, ControlFlow& flow)
      : request_(request), flow_(flow), insns_(request.program.insns) {
    for (const MapConstraint& map : request.maps) {
      key_size_max_ = std::max(key_size_max_, map.spec.key_size);
      value_size_max_ = std::max(value_size_max_, map.spec.value_size);
      if (map.inner) {
        key_size_max_ = std::max(key_size_max_, map.inner->key_size);
        value_size_max_ = std::max(value_size_max_, map.inner->value_size);
      }
    }
  }

  void run() {
    flow_.live.assign(insns_.size() + 1, {});
    flow_.relevant.assign(insns_.size() + 1, {});
    known_.resize(insns_.size());
    visited_.assign(insns_.size(), false);
    queued_.assign(insns_.size(), false);
    reads_matter_.assign(flow_.subprograms.size(), false);
    writes_matter_.assign(flow_.subprograms.size(), false);
    find_predecessors();
    const std::vector<uint32_t> order = callees_first();
    for (const uint32_t subprogram : order) {
      // An address in memory can come back from there: once more with that known.
      spilled_.reset();
      spilled_pointers_.reset();
      in_callee_ = subprogram != 0;
      Slots before, pointers_before;
      do {
        before = spilled_;
        pointers_before = spilled_pointers_;
        find_known(flow_.subprograms[subprogram]);
      } while (spilled_ != before || spilled_pointers_ != pointers_before);
    }
    // What callers and callees need of each other only grows, so this ends.
    do {
      changed_ = false;
      for (const uint32_t subprogram : order) find_needs(subprogram);
    } while (changed_ && flow_.subprograms.size() > 1);
  }

 private:
  void find_predecessors() {
    for (program::InsnCursor at(request_.program); !at.done(); at.advance())
      if (const auto target = program::jump_target(at.insn(), at.index()))
        jumps_.emplace_back(static_cast<uint32_t>(*target), static_cast<uint32_t>(at.index()));
    std::sort(jumps_.begin(), jumps_.end());
    second_slot_.assign(insns_.size() + 1, false);
    for (program::InsnCursor at(request_.program); !at.done(); at.advance())
      if (program::is_load_imm64(at.insn())) second_slot_[at.index() + 1] = true;
  }

  std::vector<uint32_t> callees_first() {
    const size_t count = flow_.subprograms.size();
    std::vector<uint32_t> order;
    std::vector<uint8_t> seen(count, 0);
    std::vector<std::pair<uint32_t, size_t>> open;
    for (uint32_t root = 0; root < count; ++root) {
      if (seen[root]) continue;
      seen[root] = 1;
      open.emplace_back(root, 0);
      while (!open.empty()) {
        auto& [subprogram, next] = open.back();
        const std::vector<uint32_t>& callees = flow_.subprograms[subprogram].callees;
        if (next == callees.size()) {
          order.push_back(subprogram);
          open.pop_back();
          continue;
        }
        const uint32_t callee = callees[next++];
        if (seen[callee]) continue;
        seen[callee] = 1;
        open.emplace_back(callee, 0);
      }
    }
    return order;
  }

  uint32_t successors(uint32_t insn, uint32_t out[2]) const {
    const Insn& at = insns_[insn];
    uint32_t count = 0;
    if (!program::ends_flow(at)) out[count++] = insn + (program::is_load_imm64(at) ? 2 : 1);
    if (const auto target = program::jump_target(at, insn)) out[count++] = static_cast<uint32_t>(*target);
    return count;
  }

  // ---- forward: addresses ----

  void find_known(const Subprogram& subprogram) {
    std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>> work;
    std::fill(visited_.begin() + subprogram.start, visited_.begin() + subprogram.end, false);
    Known entry;
    entry.places.fill(kNowhere);
    entry.places[10] = 0;
    // r1 of the program is its context; arguments of a callee may be anything.
    entry.pointers = subprogram.start == 0 ? 1u << 10 | 1u << 1 : 1u << 10 | 0x3e;
    entry.gives_pointers = subprogram.start == 0 ? 1u << 1 : 0x3e;
    known_[subprogram.start] = entry;
    visited_[subprogram.start] = true;
    work.push(subprogram.start);
    while (!work.empty()) {
      const uint32_t insn = work.top();
      work.pop();
      queued_[insn] = false;
      const Known after = known_after(insn);
      uint32_t next[2];
      const uint32_t count = successors(insn, next);
      for (uint32_t i = 0; i < count; ++i) {
        if (!merge_known(next[i], after) || queued_[next[i]]) continue;
        queued_[next[i]] = true;
        work.push(next[i]);
      }
    }
  }

  // Whether that changed something.
  bool merge_known(uint32_t insn, const Known& from) {
    if (!visited_[insn]) {
      visited_[insn] = true;
      known_[insn] = from;
      return true;
    }
    Known& to = known_[insn];
    bool changed = (from.pointers & ~to.pointers) != 0 || (from.gives_pointers & ~to.gives_pointers) != 0;
    to.pointers |= from.pointers;
    to.gives_pointers |= from.gives_pointers;
    for (uint32_t reg = 0; reg < kRegisters; ++reg) {
      Place& place = to.places[reg];
      if (place == from.places[reg] || place == kAnywhere) continue;
      place = kAnywhere;
      changed = true;
    }
    return changed;
  }

  Known known_after(uint32_t insn) {
    Known now = known_[insn];
    const Insn& at = insns_[insn];
    switch (BPF_CLASS(at.code)) {
      case BPF_ALU:
        set(now, at.dst_reg, kNowhere, false, false);  // half an address is none
        break;
      case BPF_ALU64:
        after_arithmetic(at, now);
        break;
      case BPF_LDX:
        after_load(at, now);
        break;
      case BPF_STX:
        after_store(at, now);
        break;
      case BPF_LD:
        if (program::is_load_imm64(at)) {
          set(now, at.dst_reg, kNowhere, at.src_reg != 0, at.src_reg == BPF_PSEUDO_BTF_ID);
        } else {
          for (uint32_t reg = 0; reg <= 5; ++reg) set(now, reg, kNowhere, false, false);
        }
        break;
      case BPF_JMP:
        if (BPF_OP(at.code) == BPF_CALL) after_call(at, now);
        break;
      default:
        break;
    }
    return now;
  }

  static void set(Known& now, uint32_t reg, Place place, bool pointer, bool gives_pointers) {
    now.places[reg] = place;
    now.pointers = static_cast<uint16_t>((now.pointers & ~(1u << reg)) | (pointer ? 1u << reg : 0));
    now.gives_pointers =
        static_cast<uint16_t>((now.gives_pointers & ~(1u << reg)) | (gives_pointers ? 1u << reg : 0));
  }

  static bool has(uint16_t bits, uint32_t reg) { return (bits >> reg & 1) != 0; }

  static void after_arithmetic(const Insn& at, Known& now) {
    const uint8_t operation = BPF_OP(at.code);
    const bool from_reg = BPF_SRC(at.code) == BPF_X && operation != BPF_END && operation != BPF_NEG;
    const bool plus_or_minus = operation == BPF_ADD || operation == BPF_SUB;
    const uint32_t dst = at.dst_reg, src = at.src_reg;
    if (operation == BPF_MOV) {
      const bool copies = from_reg && at.off == 0;
      set(now, dst, copies ? now.places[src] : kNowhere, copies && has(now.pointers, src),
          copies && has(now.gives_pointers, src));
      return;
    }
    const bool touches = now.places[dst] != kNowhere || (from_reg && now.places[src] != kNowhere);
    Place place = touches ? kAnywhere : kNowhere;
    if (plus_or_minus && !from_reg)
      place = shifted(now.places[dst], operation == BPF_ADD ? at.imm : -static_cast<int64_t>(at.imm));
    const bool keeps = touches || plus_or_minus;
    set(now, dst, place, keeps && (has(now.pointers, dst) || (from_reg && has(now.pointers, src))),
        keeps && (has(now.gives_pointers, dst) || (from_reg && has(now.gives_pointers, src))));
  }

  void after_load(const Insn& at, Known& now) const {
    const Slots slots = slots_at(now.places[at.src_reg], at.off, program::access_bytes(at));
    const bool address = (slots & spilled_).any();
    bool pointer = address || (slots & spilled_pointers_).any();
    if (now.places[at.src_reg] == kNowhere && has(now.gives_pointers, at.src_reg))
      pointer |= context_gives_pointers() || in_callee_;
    set(now, at.dst_reg, address ? kAnywhere : kNowhere, pointer, pointer);
  }

  void after_store(const Insn& at, Known& now) {
    const Place place = now.places[at.dst_reg];
    const Slots slots = slots_at(place, at.off, program::access_bytes(at));
    if (BPF_MODE(at.code) == BPF_ATOMIC) {
      if ((at.imm & BPF_FETCH) == 0) return;
      const bool address = (slots & spilled_).any();
      const uint32_t result = at.imm == BPF_CMPXCHG ? 0 : at.src_reg;
      set(now, result, address ? kAnywhere : kNowhere, address, address);
      return;
    }
    if (now.places[at.src_reg] != kNowhere) spilled_ |= slots;
    if (has(now.pointers, at.src_reg)) spilled_pointers_ |= slots;
  }

  void after_call(const Insn& at, Known& now) const {
    for (uint32_t reg = 1; reg <= 5; ++reg) set(now, reg, kNowhere, false, false);
    bool pointer = true, gives_pointers = true;
    if (at.src_reg == 0) {
      const Prototype* prototype = find_prototype(static_cast<uint32_t>(at.imm), request_.program.type);
      const ResultKind result = prototype == nullptr ? ResultKind::kKernelObject : prototype->result;
      pointer = result != ResultKind::kInteger && result != ResultKind::kVoid;
      gives_pointers = pointer && result != ResultKind::kMapValue && result != ResultKind::kMapValueOrNull;
    }
    set(now, 0, kNowhere, pointer, gives_pointers);
  }

  // Whether loads from the context may give pointers: to the packet, or to what a typed entry is given.
  bool context_gives_pointers() const {
    switch (request_.program.type) {
      case BPF_PROG_TYPE_KPROBE:
      case BPF_PROG_TYPE_TRACEPOINT:
      case BPF_PROG_TYPE_RAW_TRACEPOINT:
      case BPF_PROG_TYPE_PERF_EVENT:
        return request_.constraints != nullptr;
      default:
        return true;
    }
  }

  // ---- backward: needs ----

  void find_needs(uint32_t subprogram) {
    const Subprogram& bounds = flow_.subprograms[subprogram];
    // From the end, so that most are looked at once. Descending order is a heap already.
    std::vector<uint32_t> all;
    all.reserve(bounds.end - bounds.start);
    for (uint32_t insn = bounds.end; insn-- > bounds.start;) {
      if (second_slot_[insn]) continue;
      all.push_back(insn);
      queued_[insn] = true;
    }
    std::priority_queue<uint32_t> work(std::less<uint32_t>(), std::move(all));
    while (!work.empty()) {
      const uint32_t insn = work.top();
      work.pop();
      queued_[insn] = false;
      Needs needs;
      uint32_t next[2];
      const uint32_t count = successors(insn, next);
      for (uint32_t i = 0; i < count; ++i) {
        needs.live |= flow_.live[next[i]];
        needs.relevant |= flow_.relevant[next[i]];
      }
      before(insn, subprogram, needs);
      needs.relevant &= needs.live;
      if (needs.live == flow_.live[insn] && needs.relevant == flow_.relevant[insn]) continue;
      flow_.live[insn] = needs.live;
      flow_.relevant[insn] = needs.relevant;
      changed_ = true;
      const auto again = [&](uint32_t predecessor) {
        if (predecessor < bounds.start || predecessor >= bounds.end || queued_[predecessor]) return;
        queued_[predecessor] = true;
        work.push(predecessor);
      };
      if (insn > bounds.start) again(second_slot_[insn - 1] ? insn - 2 : insn - 1);
      for (auto jump = std::lower_bound(jumps_.begin(), jumps_.end(), std::make_pair(insn, 0u));
           jump != jumps_.end() && jump->first == insn; ++jump)
        again(jump->second);
    }
  }

  static void need(Needs& needs, uint32_t reg, bool relevant) {
    needs.live.set(reg);
    if (relevant) needs.relevant.set(reg);
  }

  static void drop(Needs& needs, uint32_t bit) {
    needs.live.reset(bit);
    needs.relevant.reset(bit);
  }

  void before(uint32_t insn, uint32_t subprogram, Needs& needs) {
    const Insn& at = insns_[insn];
    switch (BPF_CLASS(at.code)) {
      case BPF_ALU:
      case BPF_ALU64:
        before_arithmetic(at, known_[insn], needs);
        break;
      case BPF_LDX: {
        const bool relevant = needs.relevant[at.dst_reg];
        drop(needs, at.dst_reg);
        need(needs, at.src_reg, true);
        // Through anything but its own frame, a callee may read its callers'.
        if (relevant && known_[insn].places[at.src_reg] == kNowhere) raise(reads_matter_, subprogram);
        read_slots(slots_at(known_[insn].places[at.src_reg], at.off, program::access_bytes(at)), relevant,
                   needs);
        break;
      }
      case BPF_ST:
      case BPF_STX:
        before_store(insn, subprogram, needs);
        break;
      case BPF_LD:
        if (program::is_load_imm64(at)) {
          drop(needs, at.dst_reg);
          break;
        }
        for (uint32_t reg = 0; reg <= 5; ++reg) drop(needs, reg);
        need(needs, 6, true);
        if (BPF_MODE(at.code) == BPF_IND) need(needs, at.src_reg, false);
        break;
      default:
        before_jump(insn, subprogram, needs);
        break;
    }
  }

  static void before_arithmetic(const Insn& at, const Known& known, Needs& needs) {
    const uint8_t operation = BPF_OP(at.code);
    const bool from_reg = BPF_SRC(at.code) == BPF_X && operation != BPF_END && operation != BPF_NEG;
    const bool relevant = needs.relevant[at.dst_reg];
    if (operation == BPF_MOV) {
      drop(needs, at.dst_reg);
    } else {
      needs.live.set(at.dst_reg);
    }
    if (!from_reg) return;
    // By how far a pointer moves is checked even where it is never followed.
    const bool moves = BPF_CLASS(at.code) == BPF_ALU64 && (operation == BPF_ADD || operation == BPF_SUB);
    need(needs, at.src_reg, relevant || (moves && has(known.pointers, at.dst_reg)));
    if (moves && has(known.pointers, at.src_reg)) needs.relevant.set(at.dst_reg);
  }

  static void read_slots(const Slots& slots, bool relevant, Needs& needs) {
    add_slots(needs.live, slots);
    if (relevant) add_slots(needs.relevant, slots);
  }

  void before_store(uint32_t insn, uint32_t subprogram, Needs& needs) {
    const Insn& at = insns_[insn];
    const Place place = known_[insn].places[at.dst_reg];
    const uint32_t size = program::access_bytes(at);
    const Slots slots = slots_at(place, at.off, size);
    const bool outside = place == kNowhere && subprogram != 0;
    const bool relevant = (slots & slots_of(needs.relevant)).any() || (outside && writes_matter_[subprogram]);
    if (BPF_MODE(at.code) == BPF_ATOMIC) {
      const bool fetches = (at.imm & BPF_FETCH) != 0;
      const uint32_t result = at.imm == BPF_CMPXCHG ? 0 : at.src_reg;
      const bool loaded_relevant = fetches && needs.relevant[result];
      read_slots(slots, loaded_relevant, needs);
      if (loaded_relevant && outside) raise(reads_matter_, subprogram);
      if (at.imm == BPF_CMPXCHG) need(needs, 0, relevant);
      // Bit-fields of the host are written so: which bits change decides (change_bits).
      const bool changes_bits = request_.constraints != nullptr && (at.imm == BPF_OR || at.imm == BPF_AND);
      need(needs, at.src_reg, relevant || changes_bits);
      need(needs, at.dst_reg, true);
      return;
    }
    const bool whole = place != kNowhere && place != kAnywhere && size == kSlotBytes &&
                       (place + at.off) % static_cast<int64_t>(kSlotBytes) == 0;
    if (whole) {
      for (uint32_t i = 0; i < kSlots; ++i)
        if (slots[i]) drop(needs, kFirstSlotBit + i);
    }
    if (BPF_CLASS(at.code) == BPF_STX) need(needs, at.src_reg, relevant);
    need(needs, at.dst_reg, true);
  }

  void before_jump(uint32_t insn, uint32_t subprogram, Needs& needs) {
    const Insn& at = insns_[insn];
    switch (BPF_OP(at.code)) {
      case BPF_JA:
        return;
      case BPF_EXIT:
        needs = {};
        // What the caller does with it is not known here; what ends the program may be constrained.
        need(needs, 0, subprogram != 0 || flow_.subprograms[subprogram].is_callback || return_is_checked());
        return;
      case BPF_CALL:
        before_call(insn, subprogram, needs);
        return;
      default:
        need(needs, at.dst_reg, true);
        if (BPF_SRC(at.code) == BPF_X) need(needs, at.src_reg, true);
    }
  }

  bool return_is_checked() const {
    switch (request_.program.type) {
      case BPF_PROG_TYPE_SOCKET_FILTER:
      case BPF_PROG_TYPE_KPROBE:
      case BPF_PROG_TYPE_TRACEPOINT:
      case BPF_PROG_TYPE_RAW_TRACEPOINT:
      case BPF_PROG_TYPE_PERF_EVENT:
      case BPF_PROG_TYPE_XDP:
        return request_.constraints != nullptr;
      default:
        return true;
    }
  }

  void raise(std::vector<bool>& flags, uint32_t subprogram) {
    changed_ |= !flags[subprogram];
    flags[subprogram] = true;
  }

  // `caller` runs `callee`; `passes`: with an address into its own frame. Whether numbers in that frame matter to it.
  bool link_frames(uint32_t caller, uint32_t callee, bool passes, const Needs& after) {
    const bool matters_here = passes && slots_of(after.relevant).any();
    if (matters_here || writes_matter_[caller] || reads_matter_[callee]) raise(writes_matter_, callee);
    if (reads_matter_[callee] && caller != 0) raise(reads_matter_, caller);
    return reads_matter_[callee];
  }

  void before_call(uint32_t insn, uint32_t subprogram, Needs& needs) {
    const Insn& at = insns_[insn];
    for (uint32_t reg = 0; reg <= 5; ++reg) drop(needs, reg);
    bool passes = false;
    for (uint32_t reg = 1; reg <= 5; ++reg) passes |= known_[insn].places[reg] != kNowhere;
    if (at.src_reg == BPF_PSEUDO_CALL) {
      const uint32_t callee = flow_.subprogram_of[static_cast<uint32_t>(*program::call_target(at, insn))];
      const uint32_t start = flow_.subprograms[callee].start;
      const bool matters = link_frames(subprogram, callee, passes, needs);
      if (passes) read_slots(Slots().set(), matters, needs);
      for (uint32_t reg = 1; reg <= 5; ++reg)
        if (flow_.live[start][reg]) need(needs, reg, flow_.relevant[start][reg]);
      return;
    }
    if (at.src_reg == BPF_PSEUDO_KFUNC_CALL) {
      before_host_call(insn, needs);
      return;
    }
    bool callback_matters = false;
    if (calls_callback(at)) {
      for (uint32_t i = 0; i < flow_.subprograms.size(); ++i)
        if (flow_.subprograms[i].is_callback) callback_matters |= link_frames(subprogram, i, passes, needs);
    }
    const Prototype* prototype = find_prototype(static_cast<uint32_t>(at.imm), request_.program.type);
    for (uint32_t i = 0; i < 5; ++i) {
      const ArgKind kind = prototype == nullptr ? ArgKind::kKernelObject : prototype->arguments[i];
      if (kind == ArgKind::kNone) break;
      // Flags and the like may be anything, but bpf_loop's number of rounds decides.
      need(needs, i + 1, kind != ArgKind::kAnything || at.imm == BPF_FUNC_loop);
      // A constant key of an array is looked at.
      const bool is_key = kind == ArgKind::kMapKey && at.imm == BPF_FUNC_map_lookup_elem;
      const Place place = known_[insn].places[i + 1];
      if (place == kNowhere) {
        if (is_key && subprogram != 0) raise(reads_matter_, subprogram);
        continue;
      }
      read_slots(argument_slots(kind, place), is_key || (kind == ArgKind::kStackOrNull && callback_matters),
                 needs);
    }
  }

  // How much of the frame a helper may touch through an argument that points to `place`: not below it.
  Slots argument_slots(ArgKind kind, Place place) const {
    if (place == kAnywhere || kind == ArgKind::kStackOrNull) return Slots().set();
    switch (kind) {
      case ArgKind::kMapKey:
        return slots_between(place, int64_t{place} + key_size_max_);
      case ArgKind::kMapValue:
      case ArgKind::kMapValueOrNull:
      case ArgKind::kUninitMapValue:
        return slots_between(place, int64_t{place} + value_size_max_);
      default:
        return slots_between(place, 0);
    }
  }

  void before_host_call(uint32_t insn, Needs& needs) const {
    size_t arguments = 5;
    if (request_.constraints != nullptr)
      for (const HostFunction& function : request_.constraints->functions)
        if (function.id == static_cast<uint32_t>(insns_[insn].imm)) arguments = function.arguments.size();
    for (uint32_t reg = 1; reg <= arguments && reg <= 5; ++reg) {
      need(needs, reg, true);
      const Place place = known_[insn].places[reg];
      if (place == kNowhere) continue;
      read_slots(place == kAnywhere ? Slots().set() : slots_between(place, 0), false, needs);
    }
  }

  const Request& request_;
  ControlFlow& flow_;
  const std::vector<Insn>& insns_;
  uint32_t key_size_max_ = 0, value_size_max_ = 0;
  std::vector<Known> known_;  // before each instruction
  std::vector<bool> visited_, queued_, second_slot_;
  std::vector<std::pair<uint32_t, uint32_t>> jumps_;  // target, instruction; ascending
  // Of the subprogram at hand: slots that may hold an address into its frame, or any pointer.
  Slots spilled_, spilled_pointers_;
  bool in_callee_ = false;
  // Per subprogram: whether numbers it reads in its callers' frames can matter, and whether those it writes there can.
  std::vector<bool> reads_matter_, writes_matter_;
  bool changed_ = false;
};

}  // namespace

void analyse_liveness(const Request& request, ControlFlow& flow) { Analysis(request, flow).run(); }

}  // namespace bpftime::verifier
