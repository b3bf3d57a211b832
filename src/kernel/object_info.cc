// BPF_OBJ_GET_INFO_BY_FD: what each kind of object tells about itself.
#include <cstring>

#include "kernel/attr.h"
#include "kernel/jited_lines.h"
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

template <typename T>
T caller_info(const BpfRequest& request) {
  T info{};
  const Bytes given = request.in(kInfoField);
  if (!given.empty()) std::memcpy(&info, given.data(), std::min(given.size(), sizeof info));
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

// Instructions as Linux shows them: references to maps carry ids, not places in our list of them.
std::vector<program::Insn> shown_insns(const Prog& prog) {
  std::vector<program::Insn> insns = prog.source.program.insns;
  for (size_t i = 0; i < insns.size(); ++i) {
    if (insns[i].code != (BPF_LD | BPF_IMM | BPF_DW)) continue;
    const bool map = insns[i].src_reg == BPF_PSEUDO_MAP_FD || insns[i].src_reg == BPF_PSEUDO_MAP_VALUE;
    const auto index = static_cast<uint32_t>(insns[i].imm);
    if (map && index < prog.maps.size()) insns[i].imm = static_cast<int32_t>(prog.maps[index]->id);
    ++i;
  }
  return insns;
}

// Records of BTF, cut to what Linux 6.18 knows of them: `size` bytes each.
std::vector<uint8_t> cut_records(Bytes records, uint32_t record_size, uint32_t size) {
  std::vector<uint8_t> out;
  if (record_size < size) return out;
  for (size_t at = 0; at + record_size <= records.size(); at += record_size)
    out.insert(out.end(), records.begin() + static_cast<ptrdiff_t>(at),
               records.begin() + static_cast<ptrdiff_t>(at + size));
  return out;
}

// set_info_rec_size: sizes as we have them, or no size where nothing is asked for.
bool record_sizes_agree(const bpf_prog_info& asked) {
  const auto agrees = [](uint32_t count, uint32_t size, uint32_t ours) {
    return size == ours || (count == 0 && size == 0);
  };
  return agrees(asked.nr_func_info, asked.func_info_rec_size, sizeof(bpf_func_info)) &&
         agrees(asked.nr_line_info, asked.line_info_rec_size, sizeof(bpf_line_info)) &&
         agrees(asked.nr_jited_line_info, asked.jited_line_info_rec_size, sizeof(uint64_t));
}

// The address of each line's code where the program lies at one place in all targets; else, as every target has its copy, from 0 on.
std::vector<uint64_t> jited_lines(const Prog& prog, Bytes line_info,
                                  std::span<const compiler::CodeLine> code) {
  std::vector<uint32_t> first_insns;
  for (size_t at = 0; at + sizeof(bpf_line_info) <= line_info.size(); at += sizeof(bpf_line_info))
    first_insns.push_back(read_at<bpf_line_info>(line_info, at)->insn_off);
  std::vector<uint64_t> out;
  for (const uint32_t offset : jited_line_offsets(first_insns, code, prog.code->text_size))
    out.push_back(prog.code_address + offset);
  return out;
}

// `code_lines`: asked only when the caller has room for lines of machine code.
template <typename CodeLines>
BpfReply prog_info(const BpfRequest& request, const Prog& prog, const HitCount& stats, CodeLines code_lines) {
  const auto asked = caller_info<bpf_prog_info>(request);
  if (!record_sizes_agree(asked))
    return BpfReply::fail(EINVAL, "program info: size of BTF records: not that of the kernel's");
  const auto insns = shown_insns(prog);
  const auto functions =
      cut_records(prog.source.func_info, prog.source.func_info_record_size, sizeof(bpf_func_info));
  const auto lines =
      cut_records(prog.source.line_info, prog.source.line_info_record_size, sizeof(bpf_line_info));
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
  info.func_info = asked.func_info;
  info.line_info = asked.line_info;
  info.nr_func_info = functions.size() / sizeof(bpf_func_info);
  info.nr_line_info = lines.size() / sizeof(bpf_line_info);
  info.func_info_rec_size = sizeof(bpf_func_info);
  info.line_info_rec_size = sizeof(bpf_line_info);
  info.jited_line_info_rec_size = sizeof(uint64_t);
  // Subprograms are merged into the one function that a program becomes.
  info.nr_jited_ksyms = info.nr_jited_func_lens = info.nr_prog_tags = 1;
  info.jited_ksyms = asked.jited_ksyms;
  info.jited_func_lens = asked.jited_func_lens;
  info.prog_tags = asked.prog_tags;
  info.jited_line_info = asked.jited_line_info;
  std::vector<uint64_t> addresses;
  if (prog.code) {
    info.nr_jited_line_info = info.nr_line_info;
    if (request.out_size(kNestedBase + offsetof(bpf_prog_info, jited_line_info)) != 0) {
      addresses = jited_lines(prog, lines, code_lines());
      info.nr_jited_line_info = static_cast<uint32_t>(addresses.size());
    }
  }
  info.run_cnt = run_count(prog).value_or(stats.runs);
  info.run_time_ns = stats.ns;
  BpfReply reply = info_reply(request, info);
  auto nested = [&](uint32_t field, const void* data, size_t size) {
    const uint32_t room = request.out_size(kNestedBase + field);
    const auto* bytes = static_cast<const uint8_t*>(data);
    if (room != 0) reply.out.push_back({kNestedBase + field, {bytes, bytes + std::min<size_t>(room, size)}});
  };
  nested(offsetof(bpf_prog_info, map_ids), map_ids.data(), map_ids.size() * sizeof(uint32_t));
  nested(offsetof(bpf_prog_info, xlated_prog_insns), insns.data(), info.xlated_prog_len);
  nested(offsetof(bpf_prog_info, func_info), functions.data(), functions.size());
  nested(offsetof(bpf_prog_info, line_info), lines.data(), lines.size());
  const uint64_t address = prog.code_address;
  const uint32_t text_size = prog.code ? prog.code->text_size : 0;
  nested(offsetof(bpf_prog_info, jited_ksyms), &address, sizeof address);
  nested(offsetof(bpf_prog_info, jited_func_lens), &text_size, sizeof text_size);
  nested(offsetof(bpf_prog_info, prog_tags), info.tag, sizeof info.tag);
  nested(offsetof(bpf_prog_info, jited_line_info), addresses.data(), addresses.size() * sizeof(uint64_t));
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
  info.kernel_btf = btf.is_kernels();
  // As Linux: how long the name is, whatever the room. What clients load has none.
  info.name_len = btf.is_kernels() ? static_cast<uint32_t>(btf.name.size()) : 0;
  BpfReply reply = info_reply(request, info);
  const uint32_t room = request.out_size(kNestedBase + offsetof(bpf_btf_info, btf));
  if (room != 0)
    reply.out.push_back({kNestedBase + offsetof(bpf_btf_info, btf),
                         {btf.blob.begin(), btf.blob.begin() + std::min<size_t>(room, btf.blob.size())}});
  const uint32_t name_room = request.out_size(kNestedBase + offsetof(bpf_btf_info, name));
  if (name_room != 0) {
    const std::string name =
        btf.is_kernels() ? btf.name.substr(0, name_room - 1) : "";  // a client's BTF has none
    reply.out.push_back(
        {kNestedBase + offsetof(bpf_btf_info, name), {name.c_str(), name.c_str() + name.size() + 1}});
  }
  return reply;
}

// struct bpf_link_info of Linux 6.18; linux/bpf.h may be older.
struct LinkInfo {
  uint32_t type, id, prog_id, reserved;
  union {
    struct {
      uint64_t tp_name;
      uint32_t tp_name_len;
    } raw_tracepoint;
    struct {
      uint32_t type, reserved;  // enum bpf_perf_event_type
      uint64_t name;
      uint32_t name_len, offset;  // tracepoints: no offset
      uint64_t cookie, ref_ctr_offset;
    } perf_event;
    struct {
      uint64_t path, offsets, ref_ctr_offsets, cookies;
      uint32_t path_size, count, flags, pid;
    } uprobe_multi;
  };
};
static_assert(sizeof(LinkInfo) == 64 && offsetof(LinkInfo, uprobe_multi.count) == 52 &&
              offsetof(LinkInfo, perf_event.cookie) == 40);

BpfReply places_info(const BpfRequest& request, const Link& link, LinkInfo info) {
  const auto asked = caller_info<LinkInfo>(request).uprobe_multi;
  const PerfEvent& any = *link.places[0];
  const bool wants_places = asked.offsets != 0 || asked.ref_ctr_offsets != 0 || asked.cookies != 0;
  if ((asked.path == 0) != (asked.path_size == 0) || (wants_places && asked.count == 0))
    return BpfReply::fail(EINVAL, "link info: pointers and their sizes go together");
  const uint32_t path_size = static_cast<uint32_t>(any.path.size() + 1);
  if (asked.path_size != 0 && asked.path_size < path_size)
    return BpfReply::fail(ENAMETOOLONG, "link info: no room for the path");
  info.uprobe_multi = asked;
  info.uprobe_multi.path_size = path_size;
  info.uprobe_multi.count = static_cast<uint32_t>(link.places.size());
  info.uprobe_multi.flags = any.return_probe ? 1 : 0;
  info.uprobe_multi.pid = any.pid > 0 ? static_cast<uint32_t>(any.pid) : 0;
  const bool cut = wants_places && asked.count < link.places.size();
  // As Linux: with too little room, what fits is stored all the same, and the structure itself is not.
  BpfReply reply =
      cut ? BpfReply::fail(ENOSPC, "link info: no room for all places") : info_reply(request, info);
  const auto nested = [&](size_t field, std::vector<uint8_t> bytes) {
    const auto at = static_cast<uint32_t>(kNestedBase + field);
    bytes.resize(std::min<size_t>(bytes.size(), request.out_size(at)));
    if (!bytes.empty()) reply.out.push_back({at, std::move(bytes)});
  };
  const auto words = [&](auto&& of) {
    std::vector<uint8_t> out;
    for (const auto& place : link.places) {
      const uint64_t word = of(*place);
      const Bytes bytes = as_bytes(word);
      out.insert(out.end(), bytes.begin(), bytes.end());
    }
    return out;
  };
  nested(offsetof(LinkInfo, uprobe_multi.path), {any.path.c_str(), any.path.c_str() + path_size});
  nested(offsetof(LinkInfo, uprobe_multi.offsets), words([](const PerfEvent& p) { return p.offset; }));
  nested(offsetof(LinkInfo, uprobe_multi.ref_ctr_offsets),
         words([](const PerfEvent& p) { return p.counter; }));
  nested(offsetof(LinkInfo, uprobe_multi.cookies),
         words([](const PerfEvent& p) { return p.by_link[0].cookie; }));
  return reply;
}

BpfReply perf_event_info(const BpfRequest& request, const Link& link, LinkInfo info) {
  constexpr uint32_t kUprobe = 1, kUretprobe = 2, kTracepoint = 5;  // BPF_PERF_EVENT_*
  const PerfEvent& event = *link.event;
  const auto asked = caller_info<LinkInfo>(request).perf_event;
  const bool uprobe = event.perf_kind == PerfKind::kUprobe;
  if (!uprobe && event.perf_kind != PerfKind::kTracepoint) return info_reply(request, info);
  if ((asked.name == 0) != (asked.name_len == 0))
    return BpfReply::fail(EINVAL, "link info: name and its length go together");
  const std::string name = uprobe ? event.given : event.tracepoint.name();
  info.perf_event.type = !uprobe ? kTracepoint : event.return_probe ? kUretprobe : kUprobe;
  info.perf_event.name = asked.name;
  info.perf_event.name_len = static_cast<uint32_t>(name.size() + 1);
  info.perf_event.offset = uprobe ? static_cast<uint32_t>(event.offset) : 0;
  info.perf_event.cookie = link.cookie;
  info.perf_event.ref_ctr_offset = event.counter;
  const bool cut_short = asked.name_len != 0 && asked.name_len <= name.size();
  BpfReply reply =
      cut_short ? BpfReply::fail(ENOSPC, "link info: no room for the name") : info_reply(request, info);
  constexpr uint32_t kName = kNestedBase + offsetof(LinkInfo, perf_event.name);
  if (const uint32_t room = request.out_size(kName); room != 0) {
    const std::string cut = name.substr(0, room - 1);
    reply.out.push_back({kName, {cut.c_str(), cut.c_str() + cut.size() + 1}});
  }
  return reply;
}

BpfReply link_info(const BpfRequest& request, const Link& link) {
  LinkInfo info{};
  info.type = link_type(link);
  info.id = link.id;
  info.prog_id = link.program->id;
  if (!link.event) return places_info(request, link, info);
  if (info.type != BPF_LINK_TYPE_RAW_TRACEPOINT) return perf_event_info(request, link, info);
  // The name goes where the caller has room for it, cut if need be; how long it is, NUL included, is told in any case.
  const auto asked = caller_info<LinkInfo>(request);
  const std::string& name = link.event->path;
  if ((asked.raw_tracepoint.tp_name == 0) != (asked.raw_tracepoint.tp_name_len == 0))
    return BpfReply::fail(EINVAL, "link info: name and its length go together");
  info.raw_tracepoint.tp_name = asked.raw_tracepoint.tp_name;
  info.raw_tracepoint.tp_name_len = static_cast<uint32_t>(name.size() + 1);
  BpfReply reply = info_reply(request, info);
  constexpr uint32_t kName = kNestedBase + offsetof(LinkInfo, raw_tracepoint.tp_name);
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
                                                            : info_tail_zero<LinkInfo>(request);
  if (!known) return BpfReply::fail(E2BIG, "object info: structure has bytes set beyond what is known here");
  switch (object->kind) {
    case ObjectKind::kMap:
      return map_info(request, static_cast<const Map&>(*object));
    case ObjectKind::kProgram:
      return prog_info(request, static_cast<const Prog&>(*object),
                       run_stats(static_cast<const Prog&>(*object)),
                       [&]() -> std::vector<compiler::CodeLine> {
                         auto lines = code_lines(static_cast<Prog&>(*object));
                         return lines ? std::move(*lines) : std::vector<compiler::CodeLine>();
                       });
    case ObjectKind::kBtf:
      return btf_info(request, static_cast<const Btf&>(*object));
    case ObjectKind::kLink:
      return link_info(request, static_cast<const Link&>(*object));
    default:
      return BpfReply::fail(EINVAL, "object info: perf events and statistics have none");
  }
}

}  // namespace bpftime::kernel
