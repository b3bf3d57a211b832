// BPF_PROG_TEST_RUN: one run of a raw tracepoint program, asked for by its loader (bpftrace's BEGIN and END are such runs).
#include "kernel/test_run.h"

#include "kernel/attr.h"

namespace bpftime::kernel {

namespace {

constexpr int kNotSupported = 524;        // ENOTSUPP
constexpr uint32_t kContextMax = 12 * 8;  // MAX_BPF_FUNC_ARGS words
constexpr uint32_t kRunOnCpu = 1;         // BPF_F_TEST_RUN_ON_CPU
constexpr size_t kKnownBytes = offsetof(bpf_attr, test.batch_size) + 4;

// bpf_prog_test_run: a buffer and its size come together.
bool buffers_fit(const bpf_attr& attr) {
  return (attr.test.ctx_size_in != 0) == (attr.test.ctx_in != 0) &&
         (attr.test.ctx_size_out != 0) == (attr.test.ctx_out != 0);
}

// bpf_prog_test_run_raw_tp: a context goes in, a number comes out, once.
bool asks_for_more(const bpf_attr& attr) {
  const auto& test = attr.test;
  return test.data_in != 0 || test.data_out != 0 || test.ctx_out != 0 || test.duration != 0 ||
         test.repeat != 0 || test.batch_size != 0;
}

}  // namespace

BpfReply Kernel::prog_test_run(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  if (auto bad = check_attr_tail(request, kKnownBytes)) return *std::move(bad);
  if (!buffers_fit(attr))
    return BpfReply::fail(EINVAL, "run program: context buffer and its size do not fit together");
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, test.prog_fd));
  auto prog = object_of<Prog>(fd, ObjectKind::kProgram);
  if (!prog) return BpfReply::fail(wrong_fd(fd), "run program: no such program");
  const std::string what = "run program " + prog->name + ": ";
  if (prog->source.program.type != BPF_PROG_TYPE_RAW_TRACEPOINT)
    return BpfReply::fail(kNotSupported, what + "only raw_tracepoint programs can be run by a call");
  if (asks_for_more(attr))
    return BpfReply::fail(EINVAL, what + "raw_tracepoint programs take a context and run once");
  if (auto known = ensure_facts(*prog); !known)
    return BpfReply::fail(known.error().code, known.error().message);
  if (attr.test.ctx_size_in < prog->facts->context_end || attr.test.ctx_size_in > kContextMax)
    return BpfReply::fail(EINVAL, what + "it reads " + std::to_string(prog->facts->context_end) +
                                      " bytes of context, given are " +
                                      std::to_string(attr.test.ctx_size_in));
  const bool on_cpu = (attr.test.flags & kRunOnCpu) != 0;
  if (!on_cpu && attr.test.cpu != 0) return BpfReply::fail(EINVAL, what + "a CPU, but not the flag for it");
  ProgramRun run;
  run.program = prog.get();
  run.context = request.in(offsetof(bpf_attr, test.ctx_in));
  if (run.context.size() != attr.test.ctx_size_in)
    return BpfReply::fail(EFAULT, what + "context not readable");
  if (on_cpu && attr.test.cpu >= possible_cpus())
    return BpfReply::fail(ENXIO, what + "CPU " + std::to_string(attr.test.cpu) + ": not on this machine");
  if (on_cpu) run.cpu = static_cast<int32_t>(attr.test.cpu);
  run.pid = request.pid;
  if (auto placed = place_code(*prog); !placed)
    return BpfReply::fail(placed.error().code, placed.error().message);
  const uint64_t begin = counting() ? monotonic_ns() : 0;
  auto result = observer_.run(run);
  if (result && begin != 0) hits_.add(prog->id, {1, monotonic_ns() - begin});
  if (!result) return BpfReply::fail(result.error().code, what + result.error().message);
  return run_reply(attr, *result);
}

// Only the answer goes back: the caller's attr may be shorter than ours.
BpfReply run_reply(const bpf_attr& attr, uint64_t result) {
  bpf_attr answer = attr;
  answer.test.retval = static_cast<uint32_t>(result);
  const auto* bytes = reinterpret_cast<const uint8_t*>(&answer);
  BpfReply reply;
  reply.out.push_back({wire::kAttrItself, {bytes, bytes + offsetof(bpf_attr, test.data_size_in)}});
  return reply;
}

}  // namespace bpftime::kernel
