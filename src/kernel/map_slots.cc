// Maps whose values are objects: PROG_ARRAY, ARRAY_OF_MAPS, HASH_OF_MAPS, CGROUP_ARRAY.
//
// Rules for whoever edits this file:
//  1. What a slot leads to must lie in every target that maps the map before the slot says so (Observer::reach), and the
//     slot must be empty before anything it led to may go.
//  2. The keeper's record of the map comes between: what it names is in the targets, whether or not the slot says so yet.
//  3. Memory that slots lead to (codes, references) is never changed and its address never used again.
#include "kernel/map_slots.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "kernel/attr.h"
#include "maps/cgroup_array.h"
#include "maps/map.h"
#include "maps/map_of_maps.h"
#include "maps/types.h"

namespace bpftime::kernel {

namespace {

using maps::kReferencesMax;
constexpr uint32_t kNotSupported = 524;  // ENOTSUPP

maps::MapView view_of(const Map& map) { return {map.memory.data(), &map.spec}; }

uint32_t index_of(const std::vector<uint8_t>& key) { return maps::array_index(key.data()); }

// The key the caller sent; nullopt: none, or not all of it.
std::optional<std::vector<uint8_t>> key_of(const BpfRequest& request, const Map& map) {
  const Bytes key = request.in(offsetof(bpf_attr, key));
  if (key.size() != map.spec.key_size) return std::nullopt;
  return std::vector<uint8_t>(key.begin(), key.end());
}

// Types that may stand in a map of maps: those with map_meta_equal in Linux.
bool may_be_inner(uint32_t type) { return maps::type_facts(type).may_be_inner; }

Result<void> fits_owner(const Map& array, const Prog& program) {
  if (program.host)
    return Error{EINVAL, "program " + program.name + ": programs of extension classes are not tail-called"};
  if (array.owner_type && *array.owner_type != program.source.program.type)
    return Error{EINVAL, "map " + array.name + ": for programs of another type than " + program.name};
  return {};
}

// The control group's path in its hierarchy, as /proc/PID/cgroup tells it.
Result<std::string> cgroup_path(int fd) {
  struct statfs fs {};
  constexpr long kCgroup2Magic = 0x63677270;
  if (fd < 0 || ::fstatfs(fd, &fs) != 0 || fs.f_type != kCgroup2Magic)
    return Error{EBADF, "value is no control group (version 2)"};
  char path[4096];
  const ssize_t size = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path - 1);
  if (size <= 0) return Error{EBADF, "the control group has no path"};
  const std::string full(path, static_cast<size_t>(size));
  // The mount it is seen through: the longest mount point of that file system above it.
  std::string best, root;
  if (FILE* mounts = ::fopen("/proc/self/mountinfo", "re")) {
    char at_root[2048], point[2048], rest[4096];
    char* line = nullptr;
    size_t room = 0;
    while (::getline(&line, &room, mounts) > 0) {
      if (std::sscanf(line, "%*d %*d %*s %2047s %2047s %4095[^\n]", at_root, point, rest) != 3) continue;
      if (std::string(rest).find(" - cgroup2 ") == std::string::npos) continue;
      const std::string mount(point);
      const bool above = full == mount || full.starts_with(mount + "/") || mount == "/";
      if (above && mount.size() >= best.size()) best = mount, root = at_root;
    }
    ::free(line);
    ::fclose(mounts);
  }
  if (best.empty()) return Error{EBADF, full + " lies in no mounted hierarchy"};
  std::string out = (root == "/" ? "" : root) + full.substr(best == "/" ? 0 : best.size());
  if (out.empty()) out = "/";
  if (out.size() > maps::kCgroupPathMax) return Error{ENAMETOOLONG, "path of the group too long"};
  return out;
}

}  // namespace

BpfReply element_error(int error, const char* operation, const Map& map, const std::string& why) {
  return BpfReply::fail(error, operation + (": map " + map.name) + ": " + why);
}

std::string no_such_index(const Map& map, uint32_t index) {
  return "no index " + std::to_string(index) + ": there are " + std::to_string(map.spec.max_entries);
}

Result<void> check_prog_arrays(const Prog& program) {
  for (const auto& map : program.maps) {
    if (map->spec.type != BPF_MAP_TYPE_PROG_ARRAY) continue;
    if (auto fits = fits_owner(*map, program); !fits) return fits;
    map->owner_type = program.source.program.type;
  }
  return {};
}

// The template of a map of maps (bpf_map_meta_alloc). Only its likeness is kept.
Result<void> Kernel::set_inner(const BpfRequest& request, Map& map) {
  if (!is_map_of_maps(map.spec.type)) return {};
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, inner_map_fd));
  auto inner = object_of<Map>(fd, ObjectKind::kMap);
  if (!inner) return Error{wrong_fd(fd), "create map " + map.name + ": inner_map_fd is no map"};
  if (inner->inner) return Error{EINVAL, "create map " + map.name + ": maps of maps of maps do not exist"};
  if (!may_be_inner(inner->spec.type))
    return Error{static_cast<int>(kNotSupported), "create map " + map.name + ": maps of type " +
                                                      std::to_string(inner->spec.type) +
                                                      " cannot be inside another"};
  map.inner = inner->spec;
  return {};
}

// The memory of a map of objects: of its own, ours alone to write. What the client holds stays empty.
Result<void> Kernel::make_private(Map& map) {
  const uint64_t size = maps::memory_size(map.spec);
  auto memory = create_memfd("bpf-map-objects", size, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  if (!memory) return memory.error();
  auto read_only = memory->reopen(O_RDONLY);
  if (!read_only) return read_only.error();
  auto mapped = Mapping::shared(*memory, size, PROT_READ | PROT_WRITE);
  if (!mapped) return mapped.error();
  map.memory = std::move(*mapped);
  map.sealed = std::move(*read_only);
  return {};
}

// ---- what slots lead to ----

Result<void> Kernel::place_code(Prog& prog) {
  if (prog.code_address != 0) return {};
  if (auto compiled = ensure_code(prog); !compiled) return compiled;
  // Programs that need the stack which those before them may have used, and extensions, have no entry for others.
  const auto with_tail_entry = code_for_others(prog);
  const compiler::MachineCode& code = with_tail_entry ? *with_tail_entry : *prog.code;
  const uint64_t size = round_up(code.image.size(), kPageSize);
  if (size + kPageSize > context_address_ + wire::kWindowSize - next_map_address_)
    return Error{ENOMEM, "program " + prog.name + ": the address window of this daemon is used up"};
  auto memory = create_memfd("bpf-prog-code", size, 0);
  if (!memory) return memory.error();
  const auto& image = code.image;
  if (::pwrite(memory->get(), image.data(), image.size(), 0) != static_cast<ssize_t>(image.size()) ||
      ::fcntl(memory->get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return Error::from_errno("place program " + prog.name);
  auto read_only = memory->reopen(O_RDONLY);
  if (!read_only) return read_only.error();
  prog.code_memory = std::move(*read_only);
  prog.code_address = next_map_address_;
  prog.code_entry = prog.code_address + code.entry_offset;
  if (with_tail_entry) prog.tail_entry = prog.code_address + code.tail_entry_offset;
  next_map_address_ += size + kPageSize;
  observer_.object_changed(prog);
  return {};
}

Result<void> Kernel::ensure_references() {
  if (references_) return {};
  auto made =
      make_own_map("inner_maps", {BPF_MAP_TYPE_ARRAY, 4, sizeof(maps::MapReference), kReferencesMax, 0, 1},
                   /*internal=*/true);
  if (!made) return made.error();
  if (auto own = make_private(**made); !own) return own;
  references_ = *made;
  observer_.object_changed(*references_);
  return {};
}

Result<void> Kernel::ensure_reference(Map& map) {
  if (map.reference != 0) return {};
  if (auto made = ensure_references(); !made) return made;
  auto* table = reinterpret_cast<maps::MapReference*>(references_->memory.data());
  // Used ones stay used, whoever is gone: a program may stand behind a look-up for a long time.
  auto* free = std::find_if(table, table + kReferencesMax, [](const auto& r) { return r.base == nullptr; });
  if (free == table + kReferencesMax)
    return Error{ENOSPC, "map " + map.name +
                             ": too many maps have been in maps of maps; try `bpftime daemon restart`"};
  free->spec = map.spec;
  free->base = reinterpret_cast<uint8_t*>(map.address);
  map.reference = references_->address + static_cast<uint64_t>(free - table) * sizeof(maps::MapReference);
  observer_.object_changed(map);
  return {};
}

namespace {

// Two megabytes of address space that most programs have no use for.
bool prints_trace(const Prog& prog) {
  constexpr int32_t kTraceVprintk = 177;  // not in older linux/bpf.h
  const auto& insns = prog.source.program.insns;
  return std::any_of(insns.begin(), insns.end(), [](const program::Insn& insn) {
    return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == 0 &&
           (insn.imm == BPF_FUNC_trace_printk || insn.imm == kTraceVprintk);
  });
}

}  // namespace

std::vector<TargetMemory> Kernel::memory_of(const std::vector<std::shared_ptr<Prog>>& programs) const {
  std::vector<TargetMemory> out;
  std::set<const Object*> seen;
  std::vector<std::shared_ptr<Object>> pending(programs.begin(), programs.end());
  while (!pending.empty()) {
    const auto object = std::move(pending.back());
    pending.pop_back();
    if (!object || !seen.insert(object.get()).second) continue;
    if (object->kind == ObjectKind::kProgram) {
      const auto& prog = static_cast<const Prog&>(*object);
      pending.insert(pending.end(), prog.maps.begin(), prog.maps.end());
      pending.push_back(prog.runs);
      if (prints_trace(prog)) pending.push_back(trace_ring_);
      const auto size = prog.code_memory ? file_size(prog.code_memory) : Result<uint64_t>(0);
      if (prog.code_address != 0 && size && *size != 0)
        out.push_back({prog.code_address, *size, prog.code_memory.get(), false, true});
      continue;
    }
    const auto& map = static_cast<const Map&>(*object);
    out.push_back({map.address, maps::memory_size(map.spec), map.sealed ? map.sealed.get() : map.fd.get(),
                   !map.sealed, false});
    for (const auto& [key, value] : map.slots) pending.push_back(value);
    if (map.inner) pending.push_back(references_);
  }
  return out;
}

// ---- slots ----

void Kernel::write_slot(Map& map, const std::vector<uint8_t>& key, const Object* value) {
  if (map.spec.type != BPF_MAP_TYPE_PROG_ARRAY) {
    const auto* inner = static_cast<const Map*>(value);
    maps::map_of_maps_set(view_of(map), key.data(), inner != nullptr ? inner->reference : 0);
    return;
  }
  auto* slot = maps::prog_array_slot(view_of(map), index_of(key));
  const auto* prog = static_cast<const Prog*>(value);
  maps::store_relaxed(&slot->prog_id, prog != nullptr ? prog->id : 0);
  maps::store_release(&slot->code, prog != nullptr ? prog->tail_entry : 0);
}

BpfReply Kernel::set_slot(const std::shared_ptr<Map>& map, const std::vector<uint8_t>& key,
                          const std::shared_ptr<Object>& value) {
  const auto refuse = [&](const Error& error) {
    return element_error(error.code, "map update", *map, error.message);
  };
  std::vector<std::shared_ptr<Prog>> programs;
  std::vector<TargetMemory> memory;
  if (value->kind == ObjectKind::kProgram) {
    auto prog = std::static_pointer_cast<Prog>(value);
    if (auto placed = place_code(*prog); !placed) return refuse(placed.error());
    if (prog->tail_entry == 0)
      return refuse({E2BIG, "program " + prog->name +
                                ": needs too much stack to be tail-called; use smaller local variables"});
    memory = memory_of({prog});
  } else {
    auto& inner = static_cast<Map&>(*value);
    if (auto made = ensure_reference(inner); !made) return refuse(made.error());
    memory.push_back({inner.address, maps::memory_size(inner.spec),
                      inner.sealed ? inner.sealed.get() : inner.fd.get(), !inner.sealed, false});
    memory.push_back({references_->address, maps::memory_size(references_->spec), references_->sealed.get(),
                      false, false});
  }
  if (auto reached = observer_.reach(*map, memory); !reached) return refuse(reached.error());
  map->slots[key] = value;
  observer_.object_changed(*map);
  write_slot(*map, key, value.get());
  return {};
}

BpfReply Kernel::slot_update(const BpfRequest& request, const std::shared_ptr<Map>& map) {
  const auto key = key_of(request, *map);
  if (!key)
    return element_error(EFAULT, "map update", *map,
                         "no key of " + std::to_string(map->spec.key_size) + " bytes");
  const uint64_t flags = request.attr->flags;
  const uint32_t type = map->spec.type;
  const bool hash = type == BPF_MAP_TYPE_HASH_OF_MAPS;
  if ((flags & BPF_F_LOCK) != 0)
    return element_error(EINVAL, "map update", *map,
                         "there is no lock in its values; try without BPF_F_LOCK");
  if (!hash && flags != BPF_ANY)
    return element_error(EINVAL, "map update", *map, "maps of this type take no flags; try BPF_ANY");
  if (!hash && index_of(*key) >= map->spec.max_entries)
    return element_error(E2BIG, "map update", *map, no_such_index(*map, index_of(*key)));
  if (type == BPF_MAP_TYPE_CGROUP_ARRAY) return cgroup_update(request, *map, index_of(*key));
  const int fd = request.fd(wire::FdPlace::kValue, 0);
  if (type == BPF_MAP_TYPE_PROG_ARRAY) {
    auto prog = object_of<Prog>(fd, ObjectKind::kProgram);
    if (!prog) return element_error(wrong_fd(fd), "map update", *map, "the value is no program's descriptor");
    if (auto fits = fits_owner(*map, *prog); !fits)
      return BpfReply::fail(EINVAL, "map update: " + fits.error().message);
    map->owner_type = prog->source.program.type;
    return set_slot(map, *key, prog);
  }
  auto inner = object_of<Map>(fd, ObjectKind::kMap);
  if (!inner) return element_error(wrong_fd(fd), "map update", *map, "the value is no map's descriptor");
  if (inner->inner || !maps::same_inner_map(*map->inner, inner->spec))
    return element_error(
        EINVAL, "map update", *map,
        "map " + inner->name +
            " differs from the inner map it was made with; try one of its type, sizes and flags");
  if (hash) {
    const bool there = map->slots.contains(*key);
    if (flags > BPF_EXIST)
      return element_error(EINVAL, "map update", *map,
                           "unknown flags; try BPF_ANY, BPF_NOEXIST or BPF_EXIST");
    if (there && flags == BPF_NOEXIST)
      return element_error(EEXIST, "map update", *map, "the key exists; try BPF_ANY");
    if (!there && flags == BPF_EXIST)
      return element_error(ENOENT, "map update", *map, "no such key; try BPF_ANY");
    if (!there && map->slots.size() >= map->spec.max_entries)
      return element_error(
          E2BIG, "map update", *map,
          "all " + std::to_string(map->spec.max_entries) + " entries are in use; try deleting one");
  }
  return set_slot(map, *key, inner);
}

BpfReply Kernel::cgroup_update(const BpfRequest& request, Map& map, uint32_t index) {
  const int fd = request.fd(wire::FdPlace::kValue, 0);
  auto path = cgroup_path(fd);
  if (!path) return element_error(path.error().code, "map update", map, path.error().message);
  struct stat status {};
  if (::fstat(fd, &status) != 0)
    return element_error(EBADF, "map update", map, "the value is no control group's descriptor");
  auto* slot = const_cast<maps::CgroupSlot*>(maps::cgroup_array_slot(view_of(map), index));
  maps::store_release(&slot->length, 0u);
  slot->id = status.st_ino;  // cgroup2's inode numbers are its groups' ids
  std::copy(path->begin(), path->end(), slot->path);
  maps::store_release(&slot->length, static_cast<uint32_t>(path->size()));
  return {};
}

BpfReply Kernel::slot_delete(const BpfRequest& request, const std::shared_ptr<Map>& map) {
  const auto key = key_of(request, *map);
  if (!key)
    return element_error(EFAULT, "map delete", *map,
                         "no key of " + std::to_string(map->spec.key_size) + " bytes");
  if (map->spec.type != BPF_MAP_TYPE_HASH_OF_MAPS && index_of(*key) >= map->spec.max_entries)
    return element_error(E2BIG, "map delete", *map, no_such_index(*map, index_of(*key)));
  const auto empty = [&] { return element_error(ENOENT, "map delete", *map, "nothing has that key"); };
  if (map->spec.type == BPF_MAP_TYPE_CGROUP_ARRAY) {
    auto* slot = const_cast<maps::CgroupSlot*>(maps::cgroup_array_slot(view_of(*map), index_of(*key)));
    if (slot->length == 0) return empty();
    maps::store_release(&slot->length, 0u);
    return {};
  }
  const auto held = map->slots.find(*key);
  if (held == map->slots.end()) return empty();
  write_slot(*map, *key, nullptr);
  map->slots.erase(held);
  observer_.object_changed(*map);
  return {};
}

BpfReply Kernel::slot_lookup(const BpfRequest& request) {
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd));
  auto map = object_of<Map>(fd, ObjectKind::kMap);
  if (!map) return BpfReply::fail(wrong_fd(fd), "map look-up: no such map");
  if ((::fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
    return element_error(EPERM, "map look-up", *map, "the descriptor is write-only");
  if (!holds_objects(map->spec.type) || map->spec.type == BPF_MAP_TYPE_CGROUP_ARRAY)
    return element_error(kNotSupported, "map look-up", *map,
                         "maps of this type are read in place, or not at all");
  const auto key = key_of(request, *map);
  if (!key)
    return element_error(EFAULT, "map look-up", *map,
                         "no key of " + std::to_string(map->spec.key_size) + " bytes");
  const auto held = map->slots.find(*key);
  if (held == map->slots.end()) return element_error(ENOENT, "map look-up", *map, "nothing has that key");
  if (request.out_size(offsetof(bpf_attr, value)) < sizeof(uint32_t))
    return element_error(EFAULT, "map look-up", *map, "no room for the value, an id of 4 bytes");
  const Bytes id = as_bytes(held->second->id);
  BpfReply reply;
  reply.out.push_back({offsetof(bpf_attr, value), {id.begin(), id.end()}});
  return reply;
}

// Hashes of maps only: the loader counts the slots of arrays itself.
BpfReply Kernel::slot_next_key(const BpfRequest& request) {
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd));
  auto map = object_of<Map>(fd, ObjectKind::kMap);
  if (!map) return BpfReply::fail(wrong_fd(fd), "next key: no such map");
  if ((::fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
    return element_error(EPERM, "next key", *map, "the descriptor is write-only");
  if (map->spec.type != BPF_MAP_TYPE_HASH_OF_MAPS)
    return element_error(kNotSupported, "next key", *map, "maps of this type are read in place");
  auto next = map->slots.begin();
  if (const auto key = key_of(request, *map); key && map->slots.contains(*key))
    next = map->slots.upper_bound(*key);
  if (next == map->slots.end()) return element_error(ENOENT, "next key", *map, "that was the last");
  if (request.out_size(offsetof(bpf_attr, next_key)) < next->first.size())
    return element_error(EFAULT, "next key", *map, "no room for it");
  BpfReply reply;
  reply.out.push_back({offsetof(bpf_attr, next_key), next->first});
  return reply;
}

// A worker that took over: objects by their ids, now that all are back.
void Kernel::recover_slots() {
  for (const auto& map : objects_.all<Map>(ObjectKind::kMap)) {
    // What the worker before us was doing when it died.
    if (is_map_of_maps(map->spec.type)) maps::repair(view_of(*map), maps::kDaemonOwner);
    const auto kind = map->spec.type == BPF_MAP_TYPE_PROG_ARRAY ? ObjectKind::kProgram : ObjectKind::kMap;
    for (const auto& [key, id] : std::exchange(map->recovered_slots, {})) {
      auto object = objects_.find(kind, id);
      if (!object) continue;
      map->slots[key] = object;
      write_slot(*map, key, object.get());
    }
  }
}

// As Linux: when no client can reach a program array any more it is emptied, since it may hold programs that hold it.
void Kernel::clear_unheld_arrays() {
  for (const auto& map : objects_.all<Map>(ObjectKind::kMap)) {
    if (map->spec.type != BPF_MAP_TYPE_PROG_ARRAY || map->held_outside || !map->pins.empty() ||
        map->slots.empty())
      continue;
    for (const auto& [key, program] : map->slots) write_slot(*map, key, nullptr);
    map->slots.clear();
    objects_.ask_for_sweep();
    observer_.object_changed(*map);
  }
}

}  // namespace bpftime::kernel
