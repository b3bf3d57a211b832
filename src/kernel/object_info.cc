// BPF_OBJ_GET_INFO_BY_FD: what each kind of object tells about itself.
#include <cstring>

#include "kernel/attr.h"
#include "kernel/kernel.h"

namespace bpftime::kernel {

namespace {

constexpr size_t kInfoField = offsetof(bpf_attr, info.info);

// Pointers inside the info struct travel as attr offsets from here (wire/messages.h).
constexpr uint32_t kNestedBase = 0x10000;

uint64_t tag_of(const Prog& prog) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const auto& insn : prog.source.program.insns)
    for (uint8_t byte : as_bytes(insn)) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

// As the kernel shows them (bpf_insn_prepare_dump): maps by their ids, not by the descriptors of whoever loaded.
std::vector<program::Insn> dumped_insns(const Prog& prog) {
  std::vector<program::Insn> out = prog.source.program.insns;
  for (size_t i = 0; i + 1 < out.size(); ++i) {
    constexpr uint8_t kLoadImmediate = BPF_LD | BPF_IMM | BPF_DW;
    if (out[i].code != kLoadImmediate) continue;
    if ((out[i].src_reg == BPF_PSEUDO_MAP_FD || out[i].src_reg == BPF_PSEUDO_MAP_VALUE) &&
        static_cast<uint32_t>(out[i].imm) < prog.maps.size())
      out[i].imm = static_cast<int32_t>(prog.maps[static_cast<uint32_t>(out[i].imm)]->id);
    ++i;
  }
  return out;
}

template <typename T>
T caller_info(const BpfRequest& request) {
  T info{};
  const Bytes given = request.in(kInfoField);
  std::memcpy(&info, given.data(), std::min(given.size(), sizeof info));
  return info;
}

// bpf_check_uarg_tail_zero: a caller that knows a longer structure must not ask for what we cannot tell.
template <typename T>
bool info_tail_zero(const BpfRequest& request) {
  const Bytes given = request.in(kInfoField);
  const Bytes tail = given.subspan(std::min(given.size(), sizeof(T)));
  return std::all_of(tail.begin(), tail.end(), [](uint8_t byte) { return byte == 0; });
}

template <typename T>
BpfReply info_reply(const BpfRequest& request, const T& info) {
  const uint32_t length = std::min<uint32_t>(request.attr->info.info_len, sizeof info);
  const auto* bytes = reinterpret_cast<const uint8_t*>(&info);
  BpfReply reply;
  if (length != 0) reply.out.push_back({kInfoField, {bytes, bytes + length}});
  bpf_attr attr = *request.attr;
  attr.info.info_len = length;
  const size_t attr_length = offsetof(bpf_attr, info.info_len) + sizeof attr.info.info_len;
  const auto* attr_bytes = reinterpret_cast<const uint8_t*>(&attr);
  reply.out.push_back({wire::kAttrItself, {attr_bytes, attr_bytes + attr_length}});
  return reply;
}

void copy_name(char (&to)[BPF_OBJ_NAME_LEN], const std::string& name) {
  std::strncpy(to, name.c_str(), sizeof to - 1);
}

BpfReply map_info(const BpfRequest& request, const Map& map) {
  auto info = caller_info<bpf_map_info>(request);
  info = {};
  info.type = map.spec.type;
  info.id = map.id;
  info.key_size = map.spec.key_size;
  info.value_size = map.spec.value_size;
  info.max_entries = map.spec.max_entries;
  info.map_flags = map.spec.flags;
  if (map.spec.type == BPF_MAP_TYPE_BLOOM_FILTER) info.map_extra = map.spec.cpu_count;
  copy_name(info.name, map.name);
  if (map.btf) info.btf_id = map.btf->id;
  info.btf_key_type_id = map.btf_key_type_id;
  info.btf_value_type_id = map.btf_value_type_id;
  return info_reply(request, info);
}

BpfReply prog_info(const BpfRequest& request, const Prog& prog) {
  const auto asked = caller_info<bpf_prog_info>(request);
  bpf_prog_info info{};
  info.type = prog.source.program.type;
  info.id = prog.id;
  const uint64_t tag = tag_of(prog);
  std::memcpy(info.tag, &tag, sizeof info.tag);
  info.load_time = prog.created_ns;
  info.created_by_uid = prog.created_by_uid;
  copy_name(info.name, prog.name);
  info.gpl_compatible = prog.source.license.find("GPL") != std::string::npos;
  if (prog.btf) info.btf_id = prog.btf->id;
  info.verified_insns = prog.verified_insns != 0 ? prog.verified_insns : prog.source.program.insns.size();
  info.xlated_prog_len = prog.source.program.insns.size() * sizeof(program::Insn);
  if (prog.code) info.jited_prog_len = prog.code->image.size();
  std::vector<uint32_t> map_ids;
  for (const auto& map : prog.maps) map_ids.push_back(map->id);
  info.nr_map_ids = map_ids.size();
  info.map_ids = asked.map_ids;
  info.xlated_prog_insns = asked.xlated_prog_insns;
  info.jited_prog_insns = asked.jited_prog_insns;
  BpfReply reply = info_reply(request, info);
  auto nested = [&](uint32_t field, const void* data, size_t size) {
    const uint32_t room = request.out_size(kNestedBase + field);
    const auto* bytes = static_cast<const uint8_t*>(data);
    if (room != 0) reply.out.push_back({kNestedBase + field, {bytes, bytes + std::min<size_t>(room, size)}});
  };
  nested(offsetof(bpf_prog_info, map_ids), map_ids.data(), map_ids.size() * sizeof(uint32_t));
  const auto insns = dumped_insns(prog);
  nested(offsetof(bpf_prog_info, xlated_prog_insns), insns.data(), info.xlated_prog_len);
  if (prog.code)
    nested(offsetof(bpf_prog_info, jited_prog_insns), prog.code->image.data(), prog.code->image.size());
  return reply;
}

BpfReply btf_info(const BpfRequest& request, const Btf& btf) {
  const auto asked = caller_info<bpf_btf_info>(request);
  bpf_btf_info info{};
  if ((asked.name == 0) != (asked.name_len == 0))
    return BpfReply::fail(EINVAL, "BTF info: name and its length go together");
  info.btf = asked.btf;
  info.name = asked.name;
  info.btf_size = btf.blob.size();
  info.id = btf.id;
  info.kernel_btf = btf.of_host;
  // As Linux: how long the name is, whatever the room. What clients load has none.
  info.name_len = btf.of_host ? static_cast<uint32_t>(btf.name.size()) : 0;
  BpfReply reply = info_reply(request, info);
  const uint32_t room = request.out_size(kNestedBase + offsetof(bpf_btf_info, btf));
  if (room != 0)
    reply.out.push_back({kNestedBase + offsetof(bpf_btf_info, btf),
                         {btf.blob.begin(), btf.blob.begin() + std::min<size_t>(room, btf.blob.size())}});
  const uint32_t name_room = request.out_size(kNestedBase + offsetof(bpf_btf_info, name));
  if (name_room != 0) {
    const std::string name = btf.of_host ? btf.name.substr(0, name_room - 1) : "";  // a client's BTF has none
    reply.out.push_back(
        {kNestedBase + offsetof(bpf_btf_info, name), {name.c_str(), name.c_str() + name.size() + 1}});
  }
  return reply;
}

BpfReply link_info(const BpfRequest& request, const Link& link) {
  bpf_link_info info{};
  info.type = BPF_LINK_TYPE_PERF_EVENT;
  info.id = link.id;
  info.prog_id = link.program->id;
  const bool raw = link.event->perf_kind == PerfKind::kRawTracepoint;
  if (!raw) return info_reply(request, info);
  // The name goes where the caller has room for it, cut if need be; how long it is, NUL included, is told in any case.
  const auto asked = caller_info<bpf_link_info>(request);
  const std::string& name = link.event->path;
  if ((asked.raw_tracepoint.tp_name == 0) != (asked.raw_tracepoint.tp_name_len == 0))
    return BpfReply::fail(EINVAL, "link info: name and its length go together");
  info.type = BPF_LINK_TYPE_RAW_TRACEPOINT;
  info.raw_tracepoint.tp_name = asked.raw_tracepoint.tp_name;
  info.raw_tracepoint.tp_name_len = static_cast<uint32_t>(name.size() + 1);
  BpfReply reply = info_reply(request, info);
  constexpr uint32_t kName = kNestedBase + offsetof(bpf_link_info, raw_tracepoint.tp_name);
  if (const uint32_t room = request.out_size(kName); room != 0) {
    const std::string cut = name.substr(0, room - 1);
    reply.out.push_back({kName, {cut.c_str(), cut.c_str() + cut.size() + 1}});
  }
  return reply;
}

}  // namespace

BpfReply Kernel::object_info(const BpfRequest& request) {
  if (auto bad = check_attr_tail(request, offsetof(bpf_attr, info.info) + 8)) return *std::move(bad);
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, info.bpf_fd));
  auto object = objects_.find_fd(fd);
  if (!object)
    return BpfReply::fail(fd < 0 ? EBADFD : EINVAL, "object info: not one of our objects");  // sic: EBADFD
  const bool known = object->kind == ObjectKind::kMap       ? info_tail_zero<bpf_map_info>(request)
                     : object->kind == ObjectKind::kProgram ? info_tail_zero<bpf_prog_info>(request)
                     : object->kind == ObjectKind::kBtf     ? info_tail_zero<bpf_btf_info>(request)
                                                            : info_tail_zero<bpf_link_info>(request);
  if (!known) return BpfReply::fail(E2BIG, "object info: structure has bytes set beyond what is known here");
  switch (object->kind) {
    case ObjectKind::kMap:
      return map_info(request, static_cast<const Map&>(*object));
    case ObjectKind::kProgram:
      return prog_info(request, static_cast<const Prog&>(*object));
    case ObjectKind::kBtf:
      return btf_info(request, static_cast<const Btf&>(*object));
    case ObjectKind::kLink:
      return link_info(request, static_cast<const Link&>(*object));
    default:
      return BpfReply::fail(EINVAL, "object info: a perf event has none");
  }
}

}  // namespace bpftime::kernel
