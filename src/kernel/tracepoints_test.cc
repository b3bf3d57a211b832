// Tracepoints on system calls: what perf_event_open, links and BPF_RAW_TRACEPOINT_OPEN take and refuse.
#include "program/tracepoints.h"

#include <gtest/gtest.h>
#include <linux/perf_event.h>
#include <unistd.h>

#include "kernel/kernel.h"
#include "kernel/testing.h"

namespace bpftime::kernel {
namespace {

constexpr uint64_t kWindow = 0x400000000000;
const std::vector<bpf_insn> kReturns = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0},
                                        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};

// Reads 8 bytes of its context.
std::vector<bpf_insn> reads_context(int16_t offset) {
  return {{BPF_LDX | BPF_MEM | BPF_DW, 0, 1, offset, 0}, kReturns[0], kReturns[1]};
}

class TracepointTest : public ::testing::Test {
 protected:
  TracepointTest() : kernel_(observer_, kWindow) {}
  void SetUp() override { ASSERT_TRUE(kernel_.start().ok()); }

  BpfReply open(uint64_t id, bool disabled = false, int32_t pid = -1, int32_t cpu = 0) {
    wire::PerfEventOpen request{};
    perf_event_attr attr{};
    attr.size = sizeof attr;
    attr.type = PERF_TYPE_TRACEPOINT;
    attr.config = id;
    attr.disabled = disabled;
    std::memcpy(request.attr, &attr, sizeof attr);
    request.pid = pid;
    request.cpu = cpu;
    return kernel_.perf_event_open(request, "");
  }
  uint64_t id_of(const char* name) { return program::find_tracepoint("syscalls", name)->id(); }
  BpfReply open_raw(const char* name, int prog_fd) {
    Call call;
    call.in[offsetof(bpf_attr, raw_tracepoint.name)] = {name, name + std::strlen(name) + 1};
    call.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, raw_tracepoint.prog_fd)}] = prog_fd;
    return call.run(kernel_, BPF_RAW_TRACEPOINT_OPEN);
  }
  BpfReply load(uint32_t type, const std::vector<bpf_insn>& insns = kReturns) {
    return load_program(kernel_, insns, {}, type);
  }

  Remembering observer_;
  Kernel kernel_;
};

// What Linux 6.18 answered: programs belong to the tracepoint, not to the event.
TEST_F(TracepointTest, RunWhateverTheirEventSays) {
  BpfReply prog = load(BPF_PROG_TYPE_TRACEPOINT);
  ASSERT_EQ(prog.result, 0) << prog.text;
  BpfReply event = open(id_of("sys_enter_openat"), /*disabled=*/true, ::getpid(), -1);
  ASSERT_EQ(event.result, 0) << event.text;
  EXPECT_TRUE(kernel_.system_call_probes().empty());
  BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  ASSERT_EQ(kernel_.system_call_probes().size(), 1u);
  EXPECT_EQ(kernel_.system_call_probes()[0].event->tracepoint, (program::Tracepoint{false, 257}));
  EXPECT_EQ(kernel_.system_call_probes()[0].event->path, "syscalls:sys_enter_openat");
  EXPECT_TRUE(kernel_.probes().empty());
  event.fd.reset();
  link.fd.reset();
  settle(kernel_);
  EXPECT_TRUE(kernel_.system_call_probes().empty());
}

TEST_F(TracepointTest, OfOtherKindsAreRefused) {
  EXPECT_EQ(open(782).result, -EINVAL);
  EXPECT_EQ(open(~uint64_t{0}).result, -EINVAL);
  BpfReply prog = load(BPF_PROG_TYPE_RAW_TRACEPOINT);
  EXPECT_EQ(open_raw("sched_switch", prog.fd.get()).result, -ENOENT);
  EXPECT_EQ(open_raw("", prog.fd.get()).result, -ENOENT);
  EXPECT_EQ(open_raw("sys_enter", -1).result, -EBADF);
}

TEST_F(TracepointTest, TakeProgramsOfTheirTypeOnly) {
  BpfReply kprobe = load(BPF_PROG_TYPE_KPROBE), tracepoint = load(BPF_PROG_TYPE_TRACEPOINT);
  BpfReply event = open(id_of("sys_enter_openat"));
  EXPECT_EQ(create_link(kernel_, kprobe.fd.get(), event.fd.get()).result, -EINVAL);
  EXPECT_EQ(open_raw("sys_enter", tracepoint.fd.get()).result, -EINVAL);
  BpfReply uprobe = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  EXPECT_EQ(create_link(kernel_, tracepoint.fd.get(), uprobe.fd.get()).result, -EINVAL);
}

TEST_F(TracepointTest, GiveNoMoreThanTheirRecord) {
  BpfReply last = load(BPF_PROG_TYPE_TRACEPOINT, reads_context(40));
  BpfReply beyond = load(BPF_PROG_TYPE_TRACEPOINT, reads_context(48));
  BpfReply far_beyond = load(BPF_PROG_TYPE_TRACEPOINT, reads_context(4096));
  ASSERT_EQ(far_beyond.result, 0) << far_beyond.text;
  BpfReply event = open(id_of("sys_enter_openat"));
  EXPECT_EQ(create_link(kernel_, beyond.fd.get(), event.fd.get()).result, -EACCES);
  EXPECT_EQ(create_link(kernel_, far_beyond.fd.get(), event.fd.get()).result, -EACCES);
  BpfReply link = create_link(kernel_, last.fd.get(), event.fd.get());
  EXPECT_EQ(link.result, 0) << link.text;
  BpfReply both_words = load(BPF_PROG_TYPE_RAW_TRACEPOINT, reads_context(8));
  BpfReply third_word = load(BPF_PROG_TYPE_RAW_TRACEPOINT, reads_context(16));
  EXPECT_EQ(open_raw("sys_exit", both_words.fd.get()).result, 0);
  EXPECT_EQ(open_raw("sys_exit", third_word.fd.get()).result, -EINVAL);
}

// Of a signal's record, what is known here can be read.
TEST_F(TracepointTest, OfSignalsRefuseWhatTheyDoNotKnow) {
  const auto point = program::find_tracepoint("signal", "signal_generate");
  ASSERT_TRUE(point);
  EXPECT_EQ(program::tracepoint_of_id(point->id()), point);
  EXPECT_FALSE(program::find_tracepoint("signal", "signal_deliver"));
  BpfReply event = open(point->id());
  ASSERT_EQ(event.result, 0) << event.text;
  for (const int16_t unknown : {16, 24, 40}) {
    BpfReply prog = load(BPF_PROG_TYPE_TRACEPOINT, reads_context(unknown));
    ASSERT_EQ(prog.result, 0) << prog.text;
    BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
    EXPECT_EQ(link.result, -EOPNOTSUPP);
    EXPECT_NE(link.text.find("only sig, errno and pid"), std::string::npos) << link.text;
  }
  BpfReply beyond = load(BPF_PROG_TYPE_TRACEPOINT, reads_context(48));
  EXPECT_EQ(create_link(kernel_, beyond.fd.get(), event.fd.get()).result, -EACCES);
  BpfReply known = load(BPF_PROG_TYPE_TRACEPOINT, reads_context(32));
  BpfReply link = create_link(kernel_, known.fd.get(), event.fd.get());
  EXPECT_EQ(link.result, 0) << link.text;
  ASSERT_EQ(kernel_.system_call_probes().size(), 1u);
  EXPECT_EQ(kernel_.system_call_probes()[0].event->path, "signal:signal_generate");
}

TEST_F(TracepointTest, RawOnesLiveAsLongAsTheirLink) {
  BpfReply prog = load(BPF_PROG_TYPE_RAW_TRACEPOINT);
  BpfReply link = open_raw("sys_exit", prog.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  prog.fd.reset();
  settle(kernel_);
  ASSERT_EQ(kernel_.system_call_probes().size(), 1u);
  EXPECT_EQ(kernel_.system_call_probes()[0].event->tracepoint, (program::Tracepoint{true, -1}));
  link.fd.reset();
  settle(kernel_);
  EXPECT_TRUE(kernel_.system_call_probes().empty());
  EXPECT_EQ(kernel_.objects().size(), 1u);  // the trace ring
}

}  // namespace
}  // namespace bpftime::kernel
