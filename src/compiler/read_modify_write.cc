#include "compiler/read_modify_write.h"

#include <algorithm>
#include <bitset>
#include <optional>
#include <set>
#include <vector>

#include "compiler/function_translator.h"
#include "maps/types.h"
#include "program/instructions.h"

namespace bpftime::compiler {
namespace {

constexpr size_t kStretchMax = 512;  // instructions between the calls

using Bytes = std::bitset<kFrameSize>;  // of the frame, from its lowest

// What one instruction does to the frame.
struct FrameUse {
  Bytes reads, writes, may_write;  // `writes` surely
};

std::optional<Bytes> frame_bytes(int64_t offset, uint64_t size) {
  const int64_t first = static_cast<int64_t>(kFrameSize) + offset;
  if (first < 0 || size > kFrameSize || first + static_cast<int64_t>(size) > static_cast<int64_t>(kFrameSize))
    return std::nullopt;
  Bytes out;
  for (uint64_t i = 0; i < size; i++) out.set(static_cast<size_t>(first) + i);
  return out;
}

bool is_alu(const Insn& insn) { return BPF_CLASS(insn.code) == BPF_ALU64 || BPF_CLASS(insn.code) == BPF_ALU; }
bool is_call(const Insn& insn) { return insn.code == (BPF_JMP | BPF_CALL); }
bool is_helper(const Insn& insn, uint32_t id) {
  return is_call(insn) && insn.src_reg == 0 && static_cast<uint32_t>(insn.imm) == id;
}
bool is_immediate_add(const Insn& insn) { return insn.code == (BPF_ALU64 | BPF_ADD | BPF_K); }
bool writes_register(const Insn& insn, uint32_t reg) {
  return (program::register_use(insn).writes >> reg & 1) != 0;
}

// Helpers that only answer, the same or a later answer when they are asked again.
bool only_answers(uint32_t id) {
  switch (id) {
    case BPF_FUNC_ktime_get_ns:
    case BPF_FUNC_ktime_get_boot_ns:
    case BPF_FUNC_ktime_get_coarse_ns:
    case BPF_FUNC_get_prandom_u32:
    case BPF_FUNC_get_smp_processor_id:
    case BPF_FUNC_get_current_pid_tgid:
    case BPF_FUNC_get_current_uid_gid:
    case BPF_FUNC_get_current_task:
    case BPF_FUNC_get_current_cgroup_id:
    case BPF_FUNC_jiffies64:
      return true;
    default:
      return false;
  }
}

class Finder {
 public:
  Finder(const program::Program& program, uint32_t start, uint32_t end, std::span<const MapBinding> maps,
         const verifier::Facts& facts)
      : program_(program), start_(start), end_(end), maps_(maps), facts_(facts) {}

  std::map<uint32_t, uint32_t> find() {
    std::map<uint32_t, uint32_t> out;
    const auto worth_it = [&](uint32_t index) { return is_helper(insn(index), BPF_FUNC_map_update_elem); };
    bool any = false;
    for (uint32_t i = start_; i < end_; i = next(i)) any |= worth_it(i);
    if (!any || !follow_frame_addresses()) return out;
    find_predecessors();
    for (uint32_t i = start_; i < end_; i = next(i))
      if (worth_it(i))
        if (const auto lookup = lookup_of(i)) out[i] = *lookup;
    return out;
  }

 private:
  const Insn& insn(uint32_t index) const { return program_.insns[index]; }
  uint32_t next(uint32_t index) const { return index + (is_wide(insn(index)) ? 2 : 1); }
  bool reached(uint32_t index) const { return index < facts_.insns.size() && facts_.insns[index].reached; }

  const MapBinding* map_of(uint32_t index) const {
    if (!reached(index) || !facts_.insns[index].same_map || facts_.insns[index].map >= maps_.size())
      return nullptr;
    return &maps_[facts_.insns[index].map];
  }

  // Which registers may ever hold a frame address. False: one may be in memory, or with a function of the program's; then any
  // pointer may be one.
  bool follow_frame_addresses() {
    frame_address_.set(kFramePointer);
    for (size_t before = 0; before != frame_address_.count();) {
      before = frame_address_.count();
      for (uint32_t i = start_; i < end_; i = next(i)) {
        const Insn& at = insn(i);
        const bool stores = BPF_CLASS(at.code) == BPF_STX && frame_address_[at.src_reg];
        if (stores || is_local_call(at) || (is_wide(at) && at.src_reg == BPF_PSEUDO_FUNC)) return false;
        if (is_alu(at) && BPF_SRC(at.code) == BPF_X && frame_address_[at.src_reg])
          frame_address_.set(at.dst_reg);
      }
    }
    return true;
  }

  void find_predecessors() {
    for (uint32_t i = start_; i < end_; i = next(i)) {
      if (!reached(i)) continue;  // never comes to what follows
      const Insn& at = insn(i);
      const auto target = jump_target(at, i);
      if (target) {
        predecessors_[static_cast<uint32_t>(*target)].push_back(i);
        labels_.insert(static_cast<uint32_t>(*target));
      }
      if (!program::ends_flow(at) && next(i) < end_) predecessors_[next(i)].push_back(i);
    }
  }

  // The instruction that gave `reg` what it holds at `index`, and what was added since; nullopt: not known. Only straight back.
  struct Origin {
    uint32_t index;
    int64_t added;
  };
  std::optional<Origin> origin(uint32_t index, uint32_t reg) const {
    int64_t added = 0;
    while (index > start_ && !labels_.contains(index)) {
      index -= index >= start_ + 2 && is_wide(insn(index - 2)) ? 2 : 1;
      const Insn& at = insn(index);
      if (!writes_register(at, reg)) continue;
      if (!is_immediate_add(at)) return Origin{index, added};
      added += at.imm;
    }
    return std::nullopt;
  }
  // A helper's argument: an address in the frame, as offset from r10.
  std::optional<int64_t> frame_argument(uint32_t index, uint32_t reg) const {
    const auto from = origin(index, reg);
    if (!from) return std::nullopt;
    const Insn& at = insn(from->index);
    if (at.code != (BPF_ALU64 | BPF_MOV | BPF_X) || at.off != 0 || at.src_reg != kFramePointer)
      return std::nullopt;
    return from->added;
  }
  std::optional<int64_t> constant_argument(uint32_t index, uint32_t reg) const {
    const auto from = origin(index, reg);
    if (!from || from->added != 0) return std::nullopt;
    const Insn& at = insn(from->index);
    if (at.code != (BPF_ALU64 | BPF_MOV | BPF_K) && at.code != (BPF_ALU | BPF_MOV | BPF_K))
      return std::nullopt;
    return at.imm;
  }
  bool may_be_frame_address(uint32_t index, uint32_t reg) const {
    const auto from = origin(index, reg);
    if (!from) return true;
    const Insn& at = insn(from->index);
    if (BPF_CLASS(at.code) == BPF_LDX) return false;
    return !is_alu(at) || BPF_OP(at.code) != BPF_MOV ||
           (BPF_SRC(at.code) == BPF_X && frame_address_[at.src_reg]);
  }

  // The frame bytes the argument `reg` of `size` bytes points to.
  std::optional<Bytes> argument_bytes(uint32_t index, uint32_t reg, uint64_t size) const {
    const auto offset = frame_argument(index, reg);
    return offset ? frame_bytes(*offset, size) : std::nullopt;
  }

  // Of an instruction that may stand between the calls; nullopt: it may not.
  std::optional<FrameUse> use_of(uint32_t index) const {
    const Insn& at = insn(index);
    FrameUse use;
    switch (BPF_CLASS(at.code)) {
      case BPF_ALU:
      case BPF_ALU64:
        return use;
      case BPF_LD:
        return is_wide(at) ? std::optional(use) : std::nullopt;
      case BPF_LDX: {
        if (BPF_MODE(at.code) != BPF_MEM && BPF_MODE(at.code) != kMemsx) return std::nullopt;
        if (at.src_reg != kFramePointer)
          return frame_address_[at.src_reg] ? std::nullopt : std::optional(use);
        const auto bytes = frame_bytes(at.off, program::access_bytes(at));
        if (!bytes) return std::nullopt;
        use.reads = *bytes;
        return use;
      }
      case BPF_ST:
      case BPF_STX: {
        if (BPF_MODE(at.code) != BPF_MEM || at.dst_reg != kFramePointer) return std::nullopt;
        const auto bytes = frame_bytes(at.off, program::access_bytes(at));
        if (!bytes) return std::nullopt;
        use.writes = use.may_write = *bytes;
        return use;
      }
      default:
        return is_call(at) ? use_of_call(index) : jump_target(at, index) ? std::optional(use) : std::nullopt;
    }
  }

  std::optional<FrameUse> use_of_call(uint32_t index) const {
    const Insn& at = insn(index);
    if (at.src_reg != 0) return std::nullopt;
    FrameUse use;
    const auto id = static_cast<uint32_t>(at.imm);
    if (only_answers(id)) return use;
    if (id == BPF_FUNC_map_lookup_elem) {
      const MapBinding* map = map_of(index);
      const auto key = map != nullptr ? argument_bytes(index, BPF_REG_2, map->spec.key_size) : std::nullopt;
      if (!key) return std::nullopt;
      use.reads = *key;
      return use;
    }
    const bool reads_memory =
        id == BPF_FUNC_probe_read || id == BPF_FUNC_probe_read_user || id == BPF_FUNC_probe_read_kernel;
    const bool reads_string = id == BPF_FUNC_probe_read_str || id == BPF_FUNC_probe_read_user_str ||
                              id == BPF_FUNC_probe_read_kernel_str;
    if (!reads_memory && !reads_string && id != BPF_FUNC_get_current_comm) return std::nullopt;
    const auto size = constant_argument(index, BPF_REG_2);
    if (!size || *size < 0) return std::nullopt;
    if (id != BPF_FUNC_get_current_comm && may_be_frame_address(index, BPF_REG_3)) return std::nullopt;
    const auto buffer = argument_bytes(index, BPF_REG_1, static_cast<uint64_t>(*size));
    if (!buffer) return std::nullopt;
    use.may_write = *buffer;
    if (reads_memory) use.writes = *buffer;  // zeroes, where it fails
    return use;
  }

  std::optional<uint32_t> lookup_of(uint32_t update) const {
    const MapBinding* map = map_of(update);
    if (map == nullptr || !maps::updates_unchanged(map->spec)) return std::nullopt;
    const auto key = frame_argument(update, BPF_REG_2);
    if (!key || constant_argument(update, BPF_REG_4) != BPF_ANY) return std::nullopt;
    const auto key_bytes = frame_bytes(*key, map->spec.key_size);
    const auto value_bytes = argument_bytes(update, BPF_REG_3, map->spec.value_size);
    if (!key_bytes || !value_bytes) return std::nullopt;
    const auto is_lookup = [&](uint32_t index) {
      return is_helper(insn(index), BPF_FUNC_map_lookup_elem) && map_of(index) == map &&
             frame_argument(index, BPF_REG_2) == key;
    };
    // Back on all ways; all must come to the one look-up.
    std::optional<uint32_t> lookup;
    std::map<uint32_t, FrameUse> stretch;
    FrameUse& at_update = stretch[update];
    at_update.reads = *key_bytes | *value_bytes;
    std::vector<uint32_t> left = {update};
    while (!left.empty()) {
      const uint32_t index = left.back();
      left.pop_back();
      const auto from = predecessors_.find(index);
      if (index == start_ || from == predecessors_.end() || stretch.size() > kStretchMax) return std::nullopt;
      for (const uint32_t before : from->second) {
        if (is_lookup(before)) {
          if (lookup && *lookup != before) return std::nullopt;
          lookup = before;
          continue;
        }
        if (before == update) return std::nullopt;
        if (stretch.contains(before)) continue;
        const auto use = use_of(before);
        if (!use) return std::nullopt;
        stretch[before] = *use;
        left.push_back(before);
      }
    }
    if (!lookup || !repeatable(stretch, *lookup, *key_bytes)) return std::nullopt;
    return lookup;
  }

  // Whether it does the same again when it starts with the frame it left: it reads nothing that it has written, but what it
  // writes anew before.
  bool repeatable(const std::map<uint32_t, FrameUse>& stretch, uint32_t lookup, const Bytes& key) const {
    Bytes written_ever;
    for (const auto& [index, use] : stretch) written_ever |= use.may_write;
    if ((written_ever & key).any()) return false;
    std::map<uint32_t, Bytes> written_before;
    for (const auto& [index, use] : stretch) written_before[index].set();
    for (bool changed = true; changed;) {
      changed = false;
      for (const auto& [index, use] : stretch) {
        Bytes before;
        before.set();
        for (const uint32_t from : predecessors_.at(index))
          before &= from == lookup ? Bytes() : written_before.at(from) | stretch.at(from).writes;
        changed |= before != written_before[index];
        written_before[index] = before;
      }
    }
    return std::all_of(stretch.begin(), stretch.end(), [&](const auto& each) {
      return (each.second.reads & written_ever & ~written_before[each.first]).none();
    });
  }

  const program::Program& program_;
  const uint32_t start_, end_;
  const std::span<const MapBinding> maps_;
  const verifier::Facts& facts_;
  std::bitset<16> frame_address_;  // registers that may hold one
  std::map<uint32_t, std::vector<uint32_t>> predecessors_;
  std::set<uint32_t> labels_;  // instructions that are jumped to
};

}  // namespace

std::map<uint32_t, uint32_t> find_read_modify_writes(const program::Program& program, uint32_t start,
                                                     uint32_t end, std::span<const MapBinding> maps,
                                                     const verifier::Facts* facts) {
  if (facts == nullptr) return {};
  return Finder(program, start, end, maps, *facts).find();
}

}  // namespace bpftime::compiler
