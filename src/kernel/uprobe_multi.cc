// BPF_LINK_CREATE with BPF_TRACE_UPROBE_MULTI: one link, one program, many uprobes of one file.
#include <signal.h>
#include <sys/stat.h>

#include <fstream>

#include "kernel/attr.h"
#include "kernel/kernel.h"
#include "symbols/symbols.h"
#include "wire/target_context.h"

namespace bpftime::kernel {

namespace {

// bpf_attr::link_create.uprobe_multi of Linux 6.18; linux/bpf.h may be older.
constexpr uint32_t kUnion = offsetof(bpf_attr, link_create.target_btf_id);
struct Request {
  uint64_t path, offsets, ref_ctr_offsets, cookies;
  uint32_t cnt, flags;
  int32_t pid;
};
static_assert(kUnion == 16 && offsetof(Request, pid) == 40);

constexpr uint32_t kTraceUprobeMulti = 48;
constexpr uint32_t kReturn = 1;                // BPF_F_UPROBE_MULTI_RETURN
constexpr uint32_t kLinuxPlacesMax = 1 << 20;  // MAX_UPROBE_MULTI_CNT

bool is_process(int32_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; status >> word;)
    if (word == "Tgid:") return status >> word && word == std::to_string(pid);
  return false;
}

// `count` words behind a pointer. Empty and false: not readable.
bool read_words(const BpfRequest& request, uint32_t at, uint32_t count, std::vector<uint64_t>& out) {
  const Bytes given = request.in(at);
  if (given.size() != count * sizeof(uint64_t)) return false;
  out.resize(count);
  std::memcpy(out.data(), given.data(), given.size());
  return true;
}

}  // namespace

std::shared_ptr<PerfEvent> make_place(const PerfEvent& common) {
  auto place = std::make_shared<PerfEvent>();
  place->kind = ObjectKind::kPerfEvent;
  place->perf_kind = PerfKind::kUprobe;
  place->name = common.return_probe ? "uretprobe" : "uprobe";
  place->path = common.path;
  place->file = common.file;
  place->build_id = common.build_id;
  place->pid = common.pid;
  place->return_probe = common.return_probe;
  return place;
}

// In the order of bpf_uprobe_multi_link_attach, so that of two mistakes the same is told.
BpfReply Kernel::uprobe_multi_link(const BpfRequest& request, const std::shared_ptr<Prog>& prog) {
  const auto refuse = [](int error, const std::string& why) {
    return BpfReply::fail(error, "create uprobe_multi link: " + why);
  };
  Request asked;
  std::memcpy(&asked, reinterpret_cast<const uint8_t*>(request.attr) + kUnion, sizeof asked);
  if (prog->source.program.type != BPF_PROG_TYPE_KPROBE ||
      prog->source.expected_attach_type != kTraceUprobeMulti)
    return refuse(EINVAL, "program " + prog->name + " was not loaded for such links");
  if (request.attr->link_create.flags != 0 || (asked.flags & ~kReturn) != 0)
    return refuse(EINVAL, "unknown flags");
  if (asked.path == 0 || asked.offsets == 0 || asked.cnt == 0 || asked.pid < 0)
    return refuse(EINVAL, "no path, no offsets, or no process");
  if (asked.cnt > kLinuxPlacesMax) return refuse(E2BIG, std::to_string(asked.cnt) + " places");
  const Bytes path = request.in(kUnion + offsetof(Request, path));
  if (path.empty()) return refuse(EFAULT, "path not readable");

  PerfEvent common;
  common.path.assign(path.begin(), std::find(path.begin(), path.end(), 0));
  common.pid = asked.pid > 0 ? asked.pid : -1;
  common.return_probe = (asked.flags & kReturn) != 0;
  struct stat st;
  if (::stat(common.path.c_str(), &st) != 0) return refuse(errno, common.path + ": " + std::strerror(errno));
  if (!S_ISREG(st.st_mode)) return refuse(EBADF, common.path + ": not a regular file");
  if (asked.pid > 0 && !is_process(asked.pid))
    return refuse(ESRCH, "process " + std::to_string(asked.pid) + ": no such process");
  if (asked.cnt > wire::kPatchesMax)
    return refuse(E2BIG, std::to_string(asked.cnt) + " places; a process can have " +
                             std::to_string(wire::kPatchesMax) + " (docs/support-matrix.md)");
  std::vector<uint64_t> offsets, counters(asked.cnt), cookies(asked.cnt);
  if (!read_words(request, kUnion + offsetof(Request, offsets), asked.cnt, offsets) ||
      (asked.ref_ctr_offsets != 0 &&
       !read_words(request, kUnion + offsetof(Request, ref_ctr_offsets), asked.cnt, counters)) ||
      (asked.cookies != 0 && !read_words(request, kUnion + offsetof(Request, cookies), asked.cnt, cookies)))
    return refuse(EFAULT, "offsets, counters or cookies not readable");
  for (uint32_t i = 0; i < asked.cnt; ++i)
    if (static_cast<int64_t>(offsets[i]) < 0 || static_cast<int64_t>(counters[i]) < 0 ||
        offsets[i] > static_cast<uint64_t>(st.st_size) || counters[i] % sizeof(uint16_t) != 0)
      return refuse(EINVAL, "offset " + std::to_string(offsets[i]) + ": not in the file");
  common.file = {st.st_dev, st.st_ino};
  if (auto elf = symbols::ElfFile::open(common.path)) common.build_id = elf->build_id();
  if (auto compiled = ensure_code(*prog); !compiled)
    return BpfReply::fail(compiled.error().code, compiled.error().message);

  auto link = std::make_shared<Link>();
  link->kind = ObjectKind::kLink;
  link->created_by_uid = request.uid;
  link->program = prog;
  if (auto entered = enter(link, 0); !entered)
    return BpfReply::fail(entered.error().code, entered.error().message);
  const uint64_t order = ++attach_order_;
  for (uint32_t i = 0; i < asked.cnt; ++i) {
    auto place = make_place(common);
    place->offset = offsets[i];
    place->counter = counters[i];
    place->by_link.push_back({prog, cookies[i], link->id, order});
    link->places.push_back(std::move(place));
  }
  observer_.object_changed(*link);
  observer_.probes_changed();
  return hand_out(link);
}

}  // namespace bpftime::kernel
