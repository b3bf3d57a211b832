// Which program stands behind a descriptor: BPF_TASK_FD_QUERY of any process's descriptors (`bpftool perf`), and
// PERF_EVENT_IOC_QUERY_BPF of one's own tracepoint event.
#include <fcntl.h>
#include <signal.h>

#include <cstring>

#include "kernel/attr.h"
#include "kernel/kernel.h"

namespace bpftime::kernel {

namespace {

constexpr int kNotSupported = 524;  // ENOTSUPP, not EOPNOTSUPP

struct Answer {
  uint32_t program, type;
  std::string name;
  uint64_t offset = 0, address = 0;
};

const AttachedProgram* program_of(const PerfEvent& event) {
  if (!event.by_ioctl.empty()) return &event.by_ioctl[0];
  return event.by_link.empty() ? nullptr : &event.by_link[0];
}

// The name goes where there is room for it, cut if need be; how long it is is told in any case.
BpfReply tell(const BpfRequest& request, const Answer& answer) {
  BpfReply reply;
  bpf_attr attr = *request.attr;
  const uint32_t room =
      std::min(attr.task_fd_query.buf_len, request.out_size(offsetof(bpf_attr, task_fd_query.buf)));
  attr.task_fd_query.prog_id = answer.program;
  attr.task_fd_query.fd_type = answer.type;
  attr.task_fd_query.probe_offset = answer.offset;
  attr.task_fd_query.probe_addr = answer.address;
  attr.task_fd_query.buf_len = static_cast<uint32_t>(answer.name.size());
  if (attr.task_fd_query.buf != 0 && room != 0) {
    const std::string cut = answer.name.substr(0, room - 1);
    reply.out.push_back({offsetof(bpf_attr, task_fd_query.buf), {cut.c_str(), cut.c_str() + cut.size() + 1}});
    if (cut.size() != answer.name.size()) reply.result = -ENOSPC;
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(&attr);
  const size_t end = offsetof(bpf_attr, task_fd_query.probe_addr) + sizeof attr.task_fd_query.probe_addr;
  reply.out.push_back({wire::kAttrItself, {bytes, bytes + std::min<size_t>(end, request.attr_size)}});
  return reply;
}

}  // namespace

BpfReply Kernel::task_fd_query(const BpfRequest& request) {
  const auto& asked = request.attr->task_fd_query;
  if (auto bad = check_attr_tail(request, offsetof(bpf_attr, task_fd_query.probe_addr) + 8))
    return *std::move(bad);
  if (asked.flags != 0) return BpfReply::fail(EINVAL, "query descriptor: unknown flags");
  const auto pid = static_cast<int32_t>(asked.pid);
  if (pid <= 0 || (::kill(pid, 0) != 0 && errno == ESRCH))
    return BpfReply::fail(ENOENT, "query descriptor: no such process");
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(asked.fd);
  const Fd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd) return BpfReply::fail(EBADF, "query descriptor: no such descriptor");
  const auto object = objects_.find_fd(fd.get());
  if (object && object->kind == ObjectKind::kLink &&
      link_type(static_cast<const Link&>(*object)) == BPF_LINK_TYPE_RAW_TRACEPOINT) {
    const auto& link = static_cast<const Link&>(*object);
    return tell(request, {link.program->id, BPF_FD_TYPE_RAW_TRACEPOINT, link.event->path});
  }
  if (!object || object->kind != ObjectKind::kPerfEvent)
    return BpfReply::fail(kNotSupported, "query descriptor: it is no event");
  const auto& event = static_cast<const PerfEvent&>(*object);
  const AttachedProgram* attached = program_of(event);
  if (attached == nullptr) return BpfReply::fail(ENOENT, "query descriptor: no program runs at this event");
  const uint32_t id = attached->program->id;
  if (event.perf_kind == PerfKind::kTracepoint)
    return tell(request, {id, BPF_FD_TYPE_TRACEPOINT, event.tracepoint.name()});
  if (event.perf_kind != PerfKind::kUprobe)
    return BpfReply::fail(EOPNOTSUPP, "query descriptor: not for events of this kind");
  return tell(request, {id, event.return_probe ? BPF_FD_TYPE_URETPROBE : BPF_FD_TYPE_UPROBE, event.given,
                        event.offset, event.counter});
}

// As Linux: of all events of the same tracepoint, since programs belong to that.
BpfReply Kernel::query_programs(const PerfEvent& event, uint64_t room) const {
  constexpr uint64_t kProgramsMax = 64;  // BPF_TRACE_MAX_PROGS
  if (event.perf_kind != PerfKind::kTracepoint)
    return BpfReply::fail(EINVAL, "perf ioctl QUERY_BPF: not a tracepoint");
  if (room > kProgramsMax) return BpfReply::fail(E2BIG, "perf ioctl QUERY_BPF: too much room");
  BpfReply reply;
  for (const Probe& probe : system_call_probes()) {
    if (probe.event->perf_kind != PerfKind::kTracepoint || probe.event->path != event.path) continue;
    for (const auto& attached : probe.programs) {
      const Bytes id = as_bytes(attached.program->id);
      reply.rest.insert(reply.rest.end(), id.begin(), id.end());
      ++reply.result;
    }
  }
  return reply;
}

}  // namespace bpftime::kernel
