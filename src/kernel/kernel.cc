#include "kernel/kernel.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "kernel/attr.h"
#include "kernel/perf_ring.h"
#include "maps/map.h"
#include "program/btf.h"
#include "wire/target_context.h"

namespace bpftime::kernel {

namespace {

constexpr uint32_t kTraceRingBytes = 1u << 20;
constexpr char kAnnouncements[] = "announcements";

}  // namespace

Kernel::Kernel(Observer& observer, uint64_t context_address)
    : observer_(observer),
      context_address_(context_address),
      next_map_address_(context_address + wire::kMapsOffset) {}

BpfReply Kernel::bpf(const BpfRequest& request) {
  BpfReply reply = answer(request);
  const auto command = request.command;  // those after which some object refers to less
  if (command == BPF_MAP_UPDATE_ELEM || command == BPF_MAP_DELETE_ELEM || command == BPF_LINK_UPDATE ||
      command == BPF_LINK_DETACH)
    objects_.ask_for_sweep();
  return reply;
}

BpfReply Kernel::answer(const BpfRequest& request) {
  switch (request.command) {
    case BPF_MAP_CREATE:
      return map_create(request);
    case BPF_MAP_UPDATE_ELEM:
      return map_update_fd_value(request);
    case BPF_MAP_DELETE_ELEM:
      return map_delete_fd_value(request);
    case BPF_MAP_LOOKUP_ELEM:
      return slot_lookup(request);
    case BPF_MAP_GET_NEXT_KEY:
      return slot_next_key(request);
    case BPF_MAP_FREEZE:
      return map_freeze(request);
    case BPF_OBJ_PIN:
      return obj_pin(request);
    case BPF_OBJ_GET:
      return obj_get(request);
    case BPF_BTF_LOAD:
      return btf_load(request);
    case BPF_PROG_LOAD:
      return prog_load(request);
    case BPF_PROG_BIND_MAP:
      return prog_bind_map(request);
    case BPF_PROG_TEST_RUN:
      return prog_test_run(request);
    case BPF_LINK_CREATE:
      return link_create(request);
    case BPF_RAW_TRACEPOINT_OPEN:
      return raw_tracepoint_open(request);
    case BPF_LINK_UPDATE:
      return link_update(request);
    case BPF_LINK_DETACH:
      return link_detach(request);
    case BPF_ENABLE_STATS:
      return enable_stats(request);
    case BPF_TASK_FD_QUERY:
      return task_fd_query(request);
    case BPF_OBJ_GET_INFO_BY_FD:
      return object_info(request);
    case BPF_MAP_GET_NEXT_ID:
      return object_next_id(request, ObjectKind::kMap);
    case BPF_PROG_GET_NEXT_ID:
      return object_next_id(request, ObjectKind::kProgram);
    case BPF_BTF_GET_NEXT_ID:
      return object_next_id(request, ObjectKind::kBtf);
    case BPF_LINK_GET_NEXT_ID:
      return object_next_id(request, ObjectKind::kLink);
    case BPF_MAP_GET_FD_BY_ID:
      return object_by_id(request, ObjectKind::kMap);
    case BPF_PROG_GET_FD_BY_ID:
      return object_by_id(request, ObjectKind::kProgram);
    case BPF_BTF_GET_FD_BY_ID:
      return object_by_id(request, ObjectKind::kBtf);
    case BPF_LINK_GET_FD_BY_ID:
      return object_by_id(request, ObjectKind::kLink);
    default:
      return BpfReply::fail(EINVAL, "bpf command " + std::to_string(request.command) +
                                        ": not supported; it may be about what only the kernel has "
                                        "(docs/support-matrix.md)");
  }
}

BpfReply Kernel::hand_out(const std::shared_ptr<Object>& object, int flags) {
  auto fd = ObjectTable::hand_out(*object, flags);
  if (!fd) return BpfReply::fail(fd.error().code, fd.error().message);
  object->held_outside = true;
  BpfReply reply;
  reply.fd = std::move(*fd);
  return reply;
}

Result<void> Kernel::reserve_map_address(Map& map) {
  const uint64_t size = maps::memory_size(map.spec);
  const uint64_t end = context_address_ + wire::kWindowSize;
  // Addresses are never reused: a thread may still stand in code that knows the old map. A guard page between maps.
  if (size > end - next_map_address_)
    return Error{ENOMEM,
                 "map " + map.name + ": " + std::to_string(size) +
                     " bytes: the address window of this daemon is used up; try `bpftime daemon restart`"};
  map.address = next_map_address_;
  next_map_address_ += size + kPageSize;
  return {};
}

Result<void> Kernel::enter(const std::shared_ptr<Object>& object, uint64_t content_size, bool growable) {
  if (auto made = objects_.create_storage(*object, content_size, growable); !made) return made;
  if (auto written = ObjectTable::write_trailer(*object); !written) return written;
  if (auto inserted = objects_.insert(object); !inserted) return inserted;
  return {};
}

Result<void> Kernel::start() {
  for (const auto& map : objects_.all<Map>(ObjectKind::kMap)) {
    if (map->internal && map->name == kHitsMap) recover_stats(map);
    if (map->internal)
      (map->spec.type == BPF_MAP_TYPE_RINGBUF ? trace_ring_
       : map->name == kAnnouncements          ? announcements_
                                              : references_) = map;
  }
  if (objects_.next_id(ObjectKind::kStats, 0) != 0)
    if (auto made = make_hits_map(); !made) log_warning(made.error().message);
  recover_slots();
  if (trace_ring_) return {};
  auto ring = make_own_map("trace", {BPF_MAP_TYPE_RINGBUF, 0, 0, kTraceRingBytes, 0, 1}, /*internal=*/true);
  if (!ring) return ring.error();
  trace_ring_ = *ring;
  return {};
}

std::shared_ptr<Map> Kernel::announcements() {
  if (announcements_) return announcements_;
  auto made = make_own_map(kAnnouncements, {BPF_MAP_TYPE_ARRAY, 4, sizeof(wire::Announcements), 1, 0, 1},
                           /*internal=*/true);
  if (!made) return nullptr;
  announcements_ = *made;
  observer_.readiness_wanted(announcements_);
  return announcements_;
}

TargetMemory Kernel::memory_of_map(const Map& map) {
  return {map.address, maps::memory_size(map.spec), map.fd.get(), /*writable=*/true, /*executable=*/false};
}

// A map no client made. `internal`: nor does any see it.
Result<std::shared_ptr<Map>> Kernel::make_own_map(const std::string& name, const wire::MapSpec& spec,
                                                  bool internal) {
  auto map = std::make_shared<Map>();
  map->kind = ObjectKind::kMap;
  map->name = name;
  map->internal = internal;
  map->held_outside = internal;
  map->spec = spec;
  if (auto reserved = reserve_map_address(*map); !reserved) return reserved.error();
  if (auto entered = enter(map, maps::memory_size(map->spec) - wire::kTrailerSize); !entered)
    return entered.error();
  auto memory = Mapping::shared(map->fd, maps::memory_size(map->spec), PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  map->memory = std::move(*memory);
  maps::initialize({map->memory.data(), &map->spec});
  observer_.object_changed(*map);
  return map;
}

namespace {
// Whether programs run because of it: tools disable a uprobe before they close it, and closing then changes nothing any more.
bool is_seen(const PerfEvent& event) {
  return (event.enabled || event.perf_kind != PerfKind::kUprobe) &&
         !(event.by_link.empty() && event.by_ioctl.empty());
}

// The event is not held: what somebody points to is not collected.
UprobePlace place_of(const std::shared_ptr<PerfEvent>& event) {
  return {event->file, event->build_id, event->offset, event};
}
}  // namespace

void Kernel::collect() {
  bool probes_differ = false;  // not at uprobes alone
  std::vector<UprobePlace> places;
  const auto differs = [&](const std::shared_ptr<PerfEvent>& event) {
    probes_differ |= event->perf_kind != PerfKind::kUprobe;
    places.push_back(place_of(event));
  };
  if (objects_.take_names_touched() || objects_.sweep_is_due()) drop_unlinked_pins();
  const bool swept = objects_.collect([&](const std::shared_ptr<Object>& object) {
    if (object->kind == ObjectKind::kLink) {
      auto& link = static_cast<Link&>(*object);
      probes_differ |= !link.event;
      if (link.event && is_seen(*link.event)) differs(link.event);
      if (link.event)
        std::erase_if(link.event->by_link, [&](const AttachedProgram& a) { return a.link_id == link.id; });
    }
    if (const auto event = std::dynamic_pointer_cast<PerfEvent>(object); event && is_seen(*event)) {
      event->by_ioctl.clear();  // nobody can reach it any more
      event->by_link.clear();
      differs(event);
    }
    if (object->kind == ObjectKind::kStats) probes_differ |= !counting();
    if (object->kind == ObjectKind::kProgram) hits_.forget_program(object->id);
    if (object->kind == ObjectKind::kMap)
      static_cast<Map&>(*object).slots.clear();  // may lead back to itself
    observer_.object_gone(*object);
  });
  if (swept) clear_unheld_arrays();
  if (probes_differ) {
    observer_.probes_changed();
  } else if (!places.empty()) {
    observer_.uprobes_changed(places);
  }
}

void Kernel::tell_of_change(const std::shared_ptr<PerfEvent>& event) {
  if (event->perf_kind == PerfKind::kUprobe) {
    observer_.uprobes_changed({place_of(event)});
  } else {
    observer_.probes_changed();
  }
}

namespace {

bool is_enabled_uprobe(const PerfEvent& event) {
  return event.perf_kind == PerfKind::kUprobe && event.enabled;
}

// Adds the event, if it is wanted and has programs.
void add_probe(const std::shared_ptr<PerfEvent>& event, bool (*wanted)(const PerfEvent&),
               std::vector<Probe>& out) {
  if (!wanted(*event) || (event->by_ioctl.empty() && event->by_link.empty())) return;
  Probe probe{event, event->by_ioctl};
  probe.programs.insert(probe.programs.end(), event->by_link.begin(), event->by_link.end());
  std::sort(probe.programs.begin(), probe.programs.end(),
            [](const auto& a, const auto& b) { return a.order < b.order; });
  out.push_back(std::move(probe));
}

}  // namespace

std::vector<Probe> Kernel::probes() const { return probes_of(is_enabled_uprobe); }

std::vector<Probe> Kernel::probes_among(const std::vector<std::shared_ptr<PerfEvent>>& events) {
  std::vector<Probe> out;
  for (const auto& event : events) add_probe(event, is_enabled_uprobe, out);
  return out;
}

// As Linux: programs at tracepoints belong to the tracepoint, so they run whether or not the event that brought them is
// enabled, and whatever process or CPU it names.
std::vector<Probe> Kernel::system_call_probes() const {
  return probes_of([](const PerfEvent& event) {
    return event.perf_kind == PerfKind::kTracepoint || event.perf_kind == PerfKind::kRawTracepoint;
  });
}

std::vector<Probe> Kernel::clocks() const {
  return probes_of([](const PerfEvent& event) {
    return event.perf_kind == PerfKind::kClock && event.enabled && event.period_ns != 0;
  });
}

std::vector<Probe> Kernel::probes_of(bool (*wanted)(const PerfEvent&)) const {
  std::vector<Probe> out;
  objects_.each(ObjectKind::kPerfEvent, [&](const auto& object) {
    if (wanted(static_cast<const PerfEvent&>(*object)))
      add_probe(std::static_pointer_cast<PerfEvent>(object), wanted, out);
  });
  objects_.each(ObjectKind::kLink, [&](const auto& object) {
    for (const auto& place : static_cast<const Link&>(*object).places) add_probe(place, wanted, out);
  });
  return out;
}

namespace {
// Records of rings inside maps of maps are found again by the table of all such maps.
bool has_inner_rings(const Prog& prog) {
  return std::any_of(prog.maps.begin(), prog.maps.end(),
                     [](const auto& map) { return map->inner && map->inner->type == BPF_MAP_TYPE_RINGBUF; });
}
}  // namespace

template <typename Make>
auto Kernel::with_options(const Prog& prog, Make make) const {
  std::vector<compiler::MapBinding> bindings;
  for (const auto& map : prog.maps) bindings.push_back({map->spec, map->address, map->id});
  const compiler::MapBinding trace{trace_ring_->spec, trace_ring_->address, trace_ring_->id};
  compiler::CompileOptions options;
  options.context_address = context_address_;
  options.trace_ring = &trace;
  options.facts = &*prog.facts;
  options.constraints = prog.host ? &prog.host->constraints : nullptr;
  if (prog.runs) {
    options.run_counter_address = prog.runs->address;
    options.run_counters = prog.runs->spec.max_entries;
    options.check_promises = prog.host && prog.host->check_promises;
  }
  if (references_ && has_inner_rings(prog)) options.inner_maps = references_->address;
  return make(std::span<const compiler::MapBinding>(bindings), options);
}

Result<void> Kernel::ensure_code(Prog& prog) {
  if (prog.code) return {};
  if (auto known = ensure_facts(prog); !known) return known.error();
  if (has_inner_rings(prog)) {
    if (auto made = ensure_references(); !made) return made;
  }
  auto code = with_options(prog, [&](auto maps, const auto& options) {
    return compiler::compile(prog.source.program, maps, options);
  });
  if (!code) return Error{code.error().code, "compile program " + prog.name + ": " + code.error().message};
  prog.code = std::move(*code);
  return {};
}

Result<compiler::MachineCode> Kernel::code_for_others(const Prog& prog) const {
  return with_options(prog, [&](auto maps, compiler::CompileOptions options) {
    options.tail_entry = true;
    return compiler::compile(prog.source.program, maps, options);
  });
}

Result<std::vector<compiler::CodeLine>> Kernel::code_lines(Prog& prog) {
  if (auto compiled = ensure_code(prog); !compiled) return compiled.error();
  if (auto known = ensure_facts(prog); !known) return known.error();
  return with_options(prog, [&](auto maps, const auto& options) {
    return compiler::line_table(prog.source.program, maps, options, *prog.code);
  });
}

size_t Kernel::drain_perf_array(Map& map) {
  const maps::MapView view{map.memory.data(), &map.spec};
  std::vector<uint8_t> record(64 * 1024 + sizeof(maps::PerfRecordHeader));
  size_t moved = 0;
  std::vector<PerfEvent*> touched;
  for (;;) {
    const int64_t size = maps::ring_consume(view, record.data(), record.size());
    if (size < 0) break;
    ++moved;
    const Bytes bytes(record.data(), static_cast<size_t>(size));
    const auto header = read_at<maps::PerfRecordHeader>(bytes, 0);
    if (!header || header->size > bytes.size() - sizeof *header) continue;
    auto slot = map.perf_slots.find(header->slot);
    if (slot == map.perf_slots.end()) continue;
    write_perf_sample(*slot->second, bytes.subspan(sizeof *header, header->size));
    touched.push_back(slot->second.get());
  }
  for (const auto& [slot, event] : map.perf_slots)
    if (const uint64_t lost = maps::perf_take_lost(view, slot)) {
      add_perf_lost(*event, lost);
      touched.push_back(event.get());
    }
  for (PerfEvent* event : touched)
    if (event->readiness) ::eventfd_write(event->readiness.get(), 1);
  return moved;
}

BpfReply Kernel::readiness(int fd) {
  auto object = objects_.find_fd(fd);
  if (!object) return BpfReply::fail(EBADF, "readiness: not one of our objects");
  Fd* where = nullptr;
  if (object->kind == ObjectKind::kPerfEvent) where = &static_cast<PerfEvent&>(*object).readiness;
  if (object->kind == ObjectKind::kMap) {
    auto& map = static_cast<Map&>(*object);
    if (map.spec.type == BPF_MAP_TYPE_RINGBUF || map.spec.type == BPF_MAP_TYPE_USER_RINGBUF)
      where = &map.readiness;
  }
  if (where == nullptr) return BpfReply::fail(EPERM, "readiness: this object cannot be polled");
  if (!*where) {
    *where = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!*where) return BpfReply::fail(errno, "readiness: no eventfd");
    observer_.object_changed(*object);
    observer_.readiness_wanted(object);
  }
  auto copy = where->duplicate();
  if (!copy) return BpfReply::fail(copy.error().code, copy.error().message);
  BpfReply reply;
  reply.fd = std::move(*copy);
  return reply;
}

// Tools look for the kernel's types among the BTF objects (bpftrace has no other way). Without the file there are none.
void Kernel::find_kernel_btf() {
  if (kernel_btf_) return;
  const Fd file(::open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC));
  const auto size = file ? file_size(file) : Result<uint64_t>(Error{ENOENT, ""});
  if (!size || *size == 0 || *size > program::kBtfSizeMax) return;
  auto btf = std::make_shared<Btf>();
  btf->kind = ObjectKind::kBtf;
  btf->name = "vmlinux";
  btf->of_kernel = true;
  btf->blob.resize(*size);
  for (size_t done = 0; done < btf->blob.size();) {
    const ssize_t part = ::read(file.get(), btf->blob.data() + done, btf->blob.size() - done);
    if (part <= 0) return;
    done += static_cast<size_t>(part);
  }
  if (!enter(btf, 0)) return;
  auto held = ObjectTable::hand_out(*btf, O_RDWR);
  if (!held) return;
  kernel_btf_held_ = std::move(*held);
  kernel_btf_ = std::move(btf);
}

BpfReply Kernel::object_next_id(const BpfRequest& request, ObjectKind kind) {
  if (auto bad = check_attr_tail(request, offsetof(bpf_attr, next_id) + 4)) return *std::move(bad);
  if (kind == ObjectKind::kBtf) find_kernel_btf();
  bpf_attr attr = *request.attr;
  if (attr.start_id >= INT32_MAX) return BpfReply::fail(EINVAL, "next id: start id out of range");
  attr.next_id = attr.start_id;
  for (bool hidden = true; hidden;) {
    attr.next_id = objects_.next_id(kind, attr.next_id);
    const auto object = attr.next_id == 0 ? nullptr : objects_.find(kind, attr.next_id);
    hidden = object && kind == ObjectKind::kBtf && static_cast<const Btf&>(*object).of_host &&
             (request.policy == nullptr || request.policy->btf != object);
  }
  if (attr.next_id == 0)
    return BpfReply::fail(ENOENT, "next id: no object after " + std::to_string(attr.start_id));
  BpfReply reply;
  const auto bytes = as_bytes(attr.next_id);
  // Only the answer goes back: the caller's attr may be shorter than ours.
  reply.out.push_back({wire::kAttrItself, std::vector<uint8_t>(offsetof(bpf_attr, next_id) + bytes.size())});
  std::memcpy(reply.out[0].bytes.data(), &attr, reply.out[0].bytes.size());
  return reply;
}

BpfReply Kernel::object_by_id(const BpfRequest& request, ObjectKind kind) {
  // Only maps have modes; BTF's flags and token (6.15) are none we know. CHECK_ATTR ends at the id for the others.
  constexpr size_t kTokenEnd = offsetof(bpf_attr, open_flags) + 8;
  const size_t known = kind == ObjectKind::kMap   ? offsetof(bpf_attr, open_flags) + 4
                       : kind == ObjectKind::kBtf ? kTokenEnd
                                                  : offsetof(bpf_attr, map_id) + 4;
  if (auto bad = check_attr_tail(request, known)) return *std::move(bad);
  const uint32_t flags = kind == ObjectKind::kMap ? request.attr->open_flags : 0;
  if (kind == ObjectKind::kBtf && request.attr->open_flags != 0)
    return BpfReply::fail(EINVAL, "BTF " + std::to_string(request.attr->btf_id) + ": unknown flags");
  if ((flags & ~(BPF_F_RDONLY | BPF_F_WRONLY)) != 0 || flags == (BPF_F_RDONLY | BPF_F_WRONLY))
    return BpfReply::fail(EINVAL, "object " + std::to_string(request.attr->map_id) + ": unknown flags");
  auto object = objects_.find(kind, request.attr->map_id);
  if (!object)
    return BpfReply::fail(ENOENT, "object " + std::to_string(request.attr->map_id) + ": no such id");
  return hand_out(object, access_mode(flags));
}

}  // namespace bpftime::kernel
