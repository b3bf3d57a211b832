// Extension classes in bpf(2): which class a program is in, what its host functions and variables are, and what holds for a
// class as a whole.
#include <algorithm>
#include <bit>

#include "kernel/kernel.h"

namespace bpftime::kernel {

namespace {

constexpr size_t kNameMax = BPF_OBJ_NAME_LEN - 1;  // bytes of a program's or map's name that reach bpf(2)
constexpr uint64_t kStackBytes = 512;
constexpr uint32_t kNoSlot = UINT32_MAX;

uint32_t slot_of(const HostClass& host, uint32_t btf_id) {
  for (uint32_t slot = 0; slot < host.symbols.size(); ++slot)
    if (host.symbols[slot].btf_id == btf_id) return slot;
  return kNoSlot;
}

bool is_host_function(const program::Insn& insn) {
  return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_KFUNC_CALL;
}

bool is_shared(const HostClass& host, const Map& map) {
  return std::any_of(host.shared_maps.begin(), host.shared_maps.end(),
                     [&](const std::string& name) { return name.substr(0, kNameMax) == map.name; });
}

// Programs that a worker took over have a copy each.
bool is_same_class(const HostClass& a, const HostClass& b) {
  return &a == &b || (a.policy == b.policy && a.constraints.class_name == b.constraints.class_name);
}

// What `memory <` counts together.
bool is_counted_with(const HostClass& a, const HostClass& b) {
  return &a == &b || (is_same_class(a, b) && !a.owner.empty() && a.owner == b.owner);
}

bool uses(const Prog& program, const std::shared_ptr<Map>& map) {
  return std::find(program.maps.begin(), program.maps.end(), map) != program.maps.end();
}

}  // namespace

std::shared_ptr<const HostClass> HostPolicy::class_of(const std::string& program, const std::string& selected,
                                                      uint32_t type) const {
  const auto fits = [&](const HostClass& host) {
    const uint32_t wanted = host.at_system_call ? BPF_PROG_TYPE_TRACEPOINT : BPF_PROG_TYPE_KPROBE;
    return type == 0 || type == wanted;
  };
  for (const auto& each : classes)
    if (!selected.empty() && each->constraints.class_name == selected && fits(*each)) return each;
  if (!selected.empty()) return nullptr;
  for (const auto& [name, host] : by_program)
    if (name.substr(0, kNameMax) == program) return fits(*host) ? host : nullptr;
  return classes.size() == 1 && fits(*classes[0]) ? classes[0] : nullptr;
}

Result<void> Kernel::add_host_btf(HostPolicy& policy, std::vector<uint8_t> blob) {
  auto btf = std::make_shared<Btf>();
  btf->kind = ObjectKind::kBtf;
  btf->name = "host";
  btf->of_host = true;
  btf->blob = std::move(blob);
  if (auto entered = enter(btf, 0); !entered) return entered;
  auto held = ObjectTable::hand_out(*btf, 2 /* O_RDWR */);
  if (!held) return held.error();
  observer_.object_changed(*btf);
  policy.btf_held = std::move(*held);
  policy.btf = std::move(btf);
  return {};
}

Result<void> Kernel::count_runs(Prog& prog) {
  constexpr uint32_t kCountersMax = 256;
  const uint32_t counters = std::min(std::bit_ceil(possible_cpus()), kCountersMax);
  auto made =
      make_own_map(prog.name.substr(0, kNameMax - 5) + ".runs",
                   {BPF_MAP_TYPE_ARRAY, 4, compiler::kRunCounterStride, counters, 0, possible_cpus()}, false);
  if (!made) return made.error();
  prog.runs = std::move(*made);
  return {};
}

std::optional<uint64_t> run_count(const Prog& program) {
  if (!program.runs) return std::nullopt;
  uint64_t sum = 0;
  const Bytes memory(program.runs->memory.data(), program.runs->memory.size());
  for (uint32_t i = 0; i < program.runs->spec.max_entries; ++i)
    sum += read_at<uint64_t>(memory, uint64_t{i} * compiler::kRunCounterStride).value_or(0);
  return sum;
}

std::optional<uint64_t> broken_promises(const Prog& program) {
  if (!program.runs || !program.host || !program.host->check_promises) return std::nullopt;
  const Bytes memory(program.runs->memory.data(), program.runs->memory.size());
  return read_at<uint64_t>(memory, compiler::kBrokenPromisesOffset);
}

Result<void> Kernel::resolve_host(const BpfRequest& request, Prog& prog,
                                  std::vector<program::Insn>& insns) const {
  // The BTF libbpf resolved against: this connection's, or the same from before the worker was restarted.
  const auto is_ours = [&](int fd) {
    const auto btf = object_of<Btf>(fd, ObjectKind::kBtf);
    return btf && btf->of_host && request.policy != nullptr &&
           (btf == request.policy->btf || btf->blob == request.policy->btf->blob);
  };
  const auto slot = [&](uint32_t index, int fd, uint32_t btf_id) -> Result<int32_t> {
    const std::string where = "instruction " + std::to_string(index) + ": ";
    if (!is_ours(fd))
      return Error{EINVAL, where + "type id " + std::to_string(btf_id) + " is none of the host's"};
    if (!prog.host)
      return Error{
          EACCES,
          where + "uses the host, but the program is in no class of the policy; name it there as `function`"};
    const uint32_t found = slot_of(*prog.host, btf_id);
    if (found == kNoSlot)
      return Error{EINVAL, where + "type id " + std::to_string(btf_id) +
                               " is no function or variable the host offers"};
    return static_cast<int32_t>(found);
  };
  for (uint32_t i = 0; i < insns.size(); ++i) {
    program::Insn& insn = insns[i];
    const bool is_wide = insn.code == (BPF_LD | BPF_IMM | BPF_DW);
    // Without a policy the verifier has the word on both.
    if (request.policy != nullptr && is_host_function(insn)) {
      const int fd = insn.off > 0 ? request.fd(wire::FdPlace::kFdArray, static_cast<uint32_t>(insn.off)) : -1;
      auto found = slot(i, fd, static_cast<uint32_t>(insn.imm));
      if (!found) return found.error();
      insn.imm = *found;
      insn.off = 0;
    }
    if (request.policy != nullptr && is_wide && insn.src_reg == BPF_PSEUDO_BTF_ID && i + 1 < insns.size()) {
      auto found = slot(i, request.fd(wire::FdPlace::kInstruction, i + 1), static_cast<uint32_t>(insn.imm));
      if (!found) return found.error();
      insn.imm = *found;
      insns[i + 1].imm = 0;
    }
    if (is_wide) ++i;
  }
  return {};
}

Result<void> Kernel::check_class_maps(const Prog& prog) const {
  if (!prog.host) return {};
  const HostClass& host = *prog.host;
  const auto others = objects_.all<Prog>(ObjectKind::kProgram);
  std::vector<std::shared_ptr<Map>> maps = prog.maps;
  uint64_t bytes = kStackBytes;
  for (const auto& other : others) {
    if (other->host && is_counted_with(*other->host, host)) {
      bytes += kStackBytes;
      for (const auto& map : other->maps)
        if (std::find(maps.begin(), maps.end(), map) == maps.end()) maps.push_back(map);
      continue;
    }
    if (!other->host || is_same_class(*other->host, host)) continue;
    for (const auto& map : prog.maps) {
      // Constants steer nobody.
      if (map->sealed || !uses(*other, map) || (is_shared(host, *map) && is_shared(*other->host, *map)))
        continue;
      const std::string grant = "shared(" + map->name + ")";
      return Error{EACCES, "map " + map->name + " is used by program " + other->name + " of class \"" +
                               other->host->constraints.class_name + "\"; add \"" + grant +
                               "\" to both classes (" + host.policy_place + ", " + other->host->policy_place +
                               ")"};
    }
  }
  for (const auto& map : maps) bytes += map->memory.size();
  if (host.constraints.memory_below == 0 || bytes < host.constraints.memory_below) return {};
  return Error{EACCES, "EIM: the maps and stacks of class \"" + host.constraints.class_name + "\" take " +
                           std::to_string(bytes) + " bytes, and fewer than " +
                           std::to_string(host.constraints.memory_below) +
                           " are granted; raise \"memory <\" (" + host.policy_place + ")"};
}

}  // namespace bpftime::kernel
