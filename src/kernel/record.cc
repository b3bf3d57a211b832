// Objects as bytes and descriptors: what the keeper holds so that a new worker goes on where another died.
// Records never leave the daemon's two processes; still, reading is bounds-checked, and those of another build are refused.
#include "kernel/record.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "kernel/kernel.h"
#include "kernel/map_slots.h"
#include "maps/map.h"

namespace bpftime::kernel {

namespace {

void put_common(Writer& out, const Object& object) {
  out.put(RecordVersion{})
      .put(object.kind)
      .put(object.id)
      .put(object.created_by_uid)
      .put(object.created_ns)
      .put(object.name);
  out.put(static_cast<uint32_t>(object.pins.size()));
}

void get_common(Reader& in, Object& object) {
  object.id = in.get<uint32_t>();
  object.created_by_uid = in.get<uint32_t>();
  object.created_ns = in.get<uint64_t>();
  object.name = in.text();
  object.recovered_pins = in.get<uint32_t>();
}

template <typename T>
uint32_t id_of(const std::shared_ptr<T>& object) {
  return object ? object->id : 0;
}

void put_attached(Writer& out, const std::vector<AttachedProgram>& list) {
  out.put(static_cast<uint32_t>(list.size()));
  for (const auto& attached : list) out.put(attached.program->id).put(attached.cookie).put(attached.order);
}

void put_map(Writer& out, const Map& map) {
  out.put(map.spec).put(map.address).put(map.frozen).put(map.internal).put(id_of(map.btf));
  out.put(map.btf_key_type_id).put(map.btf_value_type_id).put(map.fields);
  out.put(map.readiness.valid()).put(map.sealed.valid());
  out.put(static_cast<uint32_t>(map.perf_slots.size()));
  for (const auto& [slot, event] : map.perf_slots) out.put(slot).put(event->id);
  out.put(map.inner.has_value()).put(map.inner.value_or(wire::MapSpec{}));
  out.put(map.owner_type.has_value()).put(map.owner_type.value_or(0)).put(map.reference);
  out.put(static_cast<uint32_t>(map.slots.size()));
  for (const auto& [key, object] : map.slots) out.put(key).put(object->id);
}

void put_prog(Writer& out, const Prog& prog) {
  const auto& source = prog.source;
  out.put(source.program.type).put(source.expected_attach_type).put(source.kernel_version).put(source.flags);
  out.put(source.license).put(prog.verified_by).put(id_of(prog.btf));
  const auto& insns = source.program.insns;
  const auto* bytes = reinterpret_cast<const uint8_t*>(insns.data());
  out.put(std::vector<uint8_t>(bytes, bytes + insns.size() * sizeof(program::Insn)));
  out.put(source.func_info_record_size).put(source.func_info);
  for (const auto* list : {&prog.maps, &prog.bound_maps}) {
    out.put(static_cast<uint32_t>(list->size()));
    for (const auto& map : *list) out.put(map->id);
  }
  out.put(prog.code_address).put(prog.code_entry).put(prog.tail_entry).put(prog.code_memory.valid());
  out.put(id_of(prog.runs)).put(prog.host != nullptr);
  if (prog.host) put_host_class(out, *prog.host);
}

void put_event(Writer& out, const PerfEvent& event) {
  out.put(event.perf_kind).put(event.pid).put(event.cpu).put(event.enabled).put(event.return_probe);
  out.put(event.tracepoint.on_exit).put(event.tracepoint.number);
  out.put(event.path).put(event.offset).put(event.counter).put(event.file).put(event.build_id);
  out.put(event.period_ns).put(event.by_frequency);
  out.put(event.lost).put(event.ring.size()).put(event.readiness.valid()).put(event.sample_type);
  put_attached(out, event.by_ioctl);
}

void put_places(Writer& out, const Link& link) {
  const PerfEvent& any = *link.places[0];
  out.put(any.path).put(any.file).put(any.build_id).put(any.pid).put(any.return_probe);
  out.put(static_cast<uint32_t>(link.places.size()));
  for (const auto& place : link.places)
    out.put(place->offset).put(place->counter).put(place->by_link[0].cookie);
}

}  // namespace

std::vector<uint8_t> Kernel::serialize(const Object& object) {
  Writer out;
  put_common(out, object);
  switch (object.kind) {
    case ObjectKind::kBtf:
      out.put(static_cast<const Btf&>(object).blob).put(static_cast<const Btf&>(object).of_host);
      break;
    case ObjectKind::kMap:
      put_map(out, static_cast<const Map&>(object));
      break;
    case ObjectKind::kProgram:
      put_prog(out, static_cast<const Prog&>(object));
      break;
    case ObjectKind::kPerfEvent:
      put_event(out, static_cast<const PerfEvent&>(object));
      break;
    case ObjectKind::kLink: {
      const auto& link = static_cast<const Link&>(object);
      uint64_t order = 0;
      const PerfEvent& any = link.event ? *link.event : *link.places[0];
      for (const auto& attached : any.by_link)
        if (attached.link_id == link.id) order = attached.order;
      out.put(link.program->id).put(id_of(link.event)).put(link.cookie).put(order);
      if (!link.event) put_places(out, link);
      break;
    }
    case ObjectKind::kStats:
    case ObjectKind::kNone:
      break;
  }
  return out.take();
}

uint64_t Kernel::record_key(const Object& object) {
  // Events other than output events hold programs, programs hold maps, maps hold BPF output events.
  uint64_t rank = 0;
  switch (object.kind) {
    case ObjectKind::kNone:
    case ObjectKind::kBtf:
    case ObjectKind::kStats:
      rank = 0;
      break;
    case ObjectKind::kPerfEvent:
      rank = static_cast<const PerfEvent&>(object).perf_kind == PerfKind::kBpfOutput ? 1 : 4;
      break;
    case ObjectKind::kMap:
      rank = 2;
      break;
    case ObjectKind::kProgram:
      rank = 3;
      break;
    case ObjectKind::kLink:
      rank = 5;
      break;
  }
  return rank << 32 | object.id;
}

std::vector<int> Kernel::descriptors(const Object& object) {
  std::vector<int> out = {object.fd.get()};
  if (object.kind == ObjectKind::kMap) {
    const auto& map = static_cast<const Map&>(object);
    if (map.readiness) out.push_back(map.readiness.get());
    if (map.sealed) out.push_back(map.sealed.get());
  }
  if (object.kind == ObjectKind::kProgram && static_cast<const Prog&>(object).code_memory)
    out.push_back(static_cast<const Prog&>(object).code_memory.get());
  if (object.kind == ObjectKind::kPerfEvent && static_cast<const PerfEvent&>(object).readiness)
    out.push_back(static_cast<const PerfEvent&>(object).readiness.get());
  for (const Fd& pin : object.pins) out.push_back(pin.get());
  return out;
}

namespace {

Result<std::shared_ptr<Object>> recover_map(Reader& in, std::vector<Fd>& fds, const ObjectTable& objects) {
  auto map = std::make_shared<Map>();
  get_common(in, *map);
  map->spec = in.get<wire::MapSpec>();
  map->address = in.get<uint64_t>();
  map->frozen = in.get<bool>();
  map->internal = in.get<bool>();
  map->btf = std::static_pointer_cast<Btf>(objects.find(ObjectKind::kBtf, in.get<uint32_t>()));
  map->btf_key_type_id = in.get<uint32_t>();
  map->btf_value_type_id = in.get<uint32_t>();
  map->fields = in.get<wire::ValueFields>();
  size_t next_fd = 1;
  if (in.get<bool>() && fds.size() > next_fd) map->readiness = std::move(fds[next_fd++]);
  if (in.get<bool>() && fds.size() > next_fd) map->sealed = std::move(fds[next_fd++]);
  const uint32_t slots = in.get<uint32_t>();
  for (uint32_t i = 0; in.ok && i < slots; ++i) {
    const uint32_t slot = in.get<uint32_t>();
    auto event =
        std::static_pointer_cast<PerfEvent>(objects.find(ObjectKind::kPerfEvent, in.get<uint32_t>()));
    if (event) map->perf_slots[slot] = event;
  }
  const bool has_inner = in.get<bool>();
  const auto inner = in.get<wire::MapSpec>();
  if (has_inner) map->inner = inner;
  const bool has_owner = in.get<bool>();
  const auto owner = in.get<uint32_t>();
  if (has_owner) map->owner_type = owner;
  map->reference = in.get<uint64_t>();
  const uint32_t objects_held = in.get<uint32_t>();
  for (uint32_t i = 0; in.ok && i < objects_held; ++i) {
    auto key = in.block();
    map->recovered_slots.emplace_back(std::move(key), in.get<uint32_t>());
  }
  const bool own_memory = map->sealed && (holds_objects(map->spec.type) || map->internal);
  auto writable = own_memory ? map->sealed.reopen(O_RDWR) : Result<Fd>(Fd());
  if (!writable) return writable.error();
  auto memory =
      Mapping::shared(own_memory ? *writable : fds[0], maps::memory_size(map->spec), PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  map->memory = std::move(*memory);
  return std::shared_ptr<Object>(map);
}

Result<std::shared_ptr<Object>> recover_prog(Reader& in, std::vector<Fd>& fds, const ObjectTable& objects) {
  auto prog = std::make_shared<Prog>();
  get_common(in, *prog);
  auto& source = prog->source;
  source.program.name = prog->name;
  source.program.type = in.get<uint32_t>();
  source.expected_attach_type = in.get<uint32_t>();
  source.kernel_version = in.get<uint32_t>();
  source.flags = in.get<uint32_t>();
  source.license = in.text();
  prog->verified_by = in.text();
  prog->btf = std::static_pointer_cast<Btf>(objects.find(ObjectKind::kBtf, in.get<uint32_t>()));
  const auto insns = in.block();
  source.program.insns.resize(insns.size() / sizeof(program::Insn));
  std::memcpy(source.program.insns.data(), insns.data(), source.program.insns.size() * sizeof(program::Insn));
  source.func_info_record_size = in.get<uint32_t>();
  const auto func_info = in.block();
  source.func_info.assign(func_info.begin(), func_info.end());
  for (auto* list : {&prog->maps, &prog->bound_maps}) {
    const uint32_t count = in.get<uint32_t>();
    for (uint32_t i = 0; in.ok && i < count; ++i) {
      auto map = std::static_pointer_cast<Map>(objects.find(ObjectKind::kMap, in.get<uint32_t>()));
      if (!map) return Error{ENOENT, "recover program " + prog->name + ": a map is missing"};
      list->push_back(map);
    }
  }
  prog->code_address = in.get<uint64_t>();
  prog->code_entry = in.get<uint64_t>();
  prog->tail_entry = in.get<uint64_t>();
  if (in.get<bool>() && fds.size() > 1) prog->code_memory = std::move(fds[1]);
  prog->runs = std::static_pointer_cast<Map>(objects.find(ObjectKind::kMap, in.get<uint32_t>()));
  if (in.get<bool>()) prog->host = std::make_shared<HostClass>(get_host_class(in));
  return std::shared_ptr<Object>(prog);
}

Result<std::shared_ptr<Object>> recover_event(Reader& in, std::vector<Fd>& fds, const ObjectTable& objects,
                                              uint64_t* last_order) {
  auto event = std::make_shared<PerfEvent>();
  get_common(in, *event);
  event->perf_kind = in.get<PerfKind>();
  event->pid = in.get<int32_t>();
  event->cpu = in.get<int32_t>();
  event->enabled = in.get<bool>();
  event->return_probe = in.get<bool>();
  event->tracepoint.on_exit = in.get<bool>();
  event->tracepoint.number = in.get<int32_t>();
  event->path = in.text();
  event->offset = in.get<uint64_t>();
  event->counter = in.get<uint64_t>();
  event->file = in.get<InodeId>();
  event->build_id = in.text();
  event->period_ns = in.get<uint64_t>();
  event->by_frequency = in.get<bool>();
  event->lost = in.get<uint64_t>();
  const uint64_t ring_size = in.get<uint64_t>();
  if (in.get<bool>() && fds.size() > 1) event->readiness = std::move(fds[1]);
  event->sample_type = in.get<uint64_t>();
  const uint32_t count = in.get<uint32_t>();
  for (uint32_t i = 0; in.ok && i < count; ++i) {
    auto prog = std::static_pointer_cast<Prog>(objects.find(ObjectKind::kProgram, in.get<uint32_t>()));
    const auto cookie = in.get<uint64_t>();
    const auto order = in.get<uint64_t>();
    *last_order = std::max(*last_order, order);
    if (prog) event->by_ioctl.push_back({prog, cookie, 0, order});
  }
  if (ring_size != 0) {
    auto ring = Mapping::shared(fds[0], ring_size, PROT_READ | PROT_WRITE);
    if (!ring) return ring.error();
    event->ring = std::move(*ring);
  }
  return std::shared_ptr<Object>(event);
}

void recover_places(Reader& in, Link& link, uint64_t order) {
  PerfEvent common;
  common.path = in.text();
  common.file = in.get<InodeId>();
  common.build_id = in.text();
  common.pid = in.get<int32_t>();
  common.return_probe = in.get<bool>();
  const auto count = in.get<uint32_t>();
  for (uint32_t i = 0; in.ok && i < count; ++i) {
    auto place = make_place(common);
    place->offset = in.get<uint64_t>();
    place->counter = in.get<uint64_t>();
    place->by_link.push_back({link.program, in.get<uint64_t>(), link.id, order});
    link.places.push_back(std::move(place));
  }
}

Result<std::shared_ptr<Object>> recover_link(Reader& in, const ObjectTable& objects, uint64_t* last_order) {
  auto link = std::make_shared<Link>();
  get_common(in, *link);
  link->program = std::static_pointer_cast<Prog>(objects.find(ObjectKind::kProgram, in.get<uint32_t>()));
  const auto event_id = in.get<uint32_t>();
  link->event = std::static_pointer_cast<PerfEvent>(objects.find(ObjectKind::kPerfEvent, event_id));
  link->cookie = in.get<uint64_t>();
  const auto order = in.get<uint64_t>();
  *last_order = std::max(*last_order, order);
  if (link->program && event_id == 0) recover_places(in, *link, order);
  if (!link->program || (!link->event && link->places.empty()))
    return Error{ENOENT, "recover link: its program or event is missing"};
  if (link->event) link->event->by_link.push_back({link->program, link->cookie, link->id, order});
  return std::shared_ptr<Object>(link);
}

std::string text_of(RecordVersion version) {
  return std::to_string(version.abi) + "." + std::to_string(version.layout);
}

}  // namespace

Result<void> Kernel::recover(Bytes record, std::vector<Fd> fds) {
  if (fds.empty()) return Error{EINVAL, "recover object: no descriptor"};
  Reader in{ByteReader(record)};
  if (const auto version = in.get<RecordVersion>(); in.ok && version != RecordVersion{})
    return Error{ESTALE, "recover object: its record was written by another version of bpftimed (" +
                             text_of(version) + ", this is " + text_of({}) +
                             "): dropped; start the tool that made it anew"};
  const auto kind = in.get<ObjectKind>();
  Result<std::shared_ptr<Object>> made = Error{EINVAL, "recover object: unknown kind"};
  switch (kind) {
    case ObjectKind::kBtf: {
      auto btf = std::make_shared<Btf>();
      get_common(in, *btf);
      btf->blob = in.block();
      btf->of_host = in.get<bool>();
      made = std::shared_ptr<Object>(btf);
      break;
    }
    case ObjectKind::kMap:
      made = recover_map(in, fds, objects_);
      break;
    case ObjectKind::kProgram:
      made = recover_prog(in, fds, objects_);
      break;
    case ObjectKind::kPerfEvent:
      made = recover_event(in, fds, objects_, &attach_order_);
      break;
    case ObjectKind::kLink:
      made = recover_link(in, objects_, &attach_order_);
      break;
    case ObjectKind::kStats: {
      auto stats = std::make_shared<Object>();
      get_common(in, *stats);
      made = stats;
      break;
    }
    case ObjectKind::kNone:
      break;
  }
  if (!made) return made.error();
  if (!in.ok) return Error{EINVAL, "recover object: record is cut short"};
  auto object = *made;
  object->kind = kind;
  object->fd = std::move(fds[0]);
  if (object->recovered_pins > fds.size() - 1) return Error{EINVAL, "recover object: its pins are missing"};
  for (size_t i = fds.size() - object->recovered_pins; i < fds.size(); ++i)
    object->pins.push_back(std::move(fds[i]));
  auto inode = inode_of(object->fd.get());
  if (!inode) return inode.error();
  object->inode = *inode;
  if (kind == ObjectKind::kMap) {
    const auto& map = static_cast<const Map&>(*object);
    next_map_address_ = std::max(next_map_address_, map.address + maps::memory_size(map.spec) + kPageSize);
  }
  if (kind == ObjectKind::kProgram) {
    const auto& prog = static_cast<const Prog&>(*object);
    const auto size = prog.code_memory ? file_size(prog.code_memory) : Result<uint64_t>(0);
    if (size) next_map_address_ = std::max(next_map_address_, prog.code_address + *size + kPageSize);
  }
  return objects_.insert(std::move(object));
}

}  // namespace bpftime::kernel
