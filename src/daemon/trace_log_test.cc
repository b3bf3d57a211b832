#include "daemon/trace_log.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/mman.h>

#include "helpers/trace_record.h"
#include "maps/map.h"

namespace bpftime::daemon {
namespace {

class TraceLogTest : public ::testing::Test {
 protected:
  TraceLogTest() {
    ring_.spec = {BPF_MAP_TYPE_RINGBUF, 0, 0, 1 << 16, 0, 1};
    fd_ = std::move(*create_memfd("bpf-map", maps::memory_size(ring_.spec), 0));
    ring_.memory = std::move(*Mapping::shared(fd_, maps::memory_size(ring_.spec), PROT_READ | PROT_WRITE));
    maps::initialize(view());
  }
  maps::MapView view() { return {ring_.memory.data(), &ring_.spec}; }
  void put(std::string text, uint16_t claimed, size_t size_delta = 0) {
    helpers::TraceRecord record{};
    record.time_ns = 12'000'345'678;
    record.lineage = 5;
    record.tid = 77;
    record.cpu = 3;
    std::strncpy(record.comm, "ngi\nnx", sizeof record.comm);
    record.text_length = claimed;
    std::vector<uint8_t> bytes(helpers::kTraceTextOffset + text.size() - size_delta);
    std::memcpy(bytes.data(), &record, std::min<size_t>(bytes.size(), helpers::kTraceTextOffset));
    if (size_delta == 0) std::memcpy(bytes.data() + helpers::kTraceTextOffset, text.data(), text.size());
    bool wake = false;
    ASSERT_EQ(maps::ring_output(view(), bytes.data(), bytes.size(), 0, 1, &wake), 0);
  }

  kernel::Map ring_;
  Fd fd_;
  TraceLog log_;
};

TEST_F(TraceLogTest, LooksLikeTracePipe) {
  put("hello 1\n", 8);
  log_.drain(ring_);
  ASSERT_EQ(log_.entries().size(), 1u);
  EXPECT_EQ(log_.entries()[0].text,
            "          ngi?nx-77      [003] .....    12.000345: bpf_trace_printk: hello 1\n");
  EXPECT_EQ(log_.entries()[0].lineage, 5u);
}

TEST_F(TraceLogTest, ForgedRecordsAreDropped) {
  put("short", 1000);
  put("", 0, 10);
  put("good", 4);
  log_.drain(ring_);
  ASSERT_EQ(log_.entries().size(), 1u);
  EXPECT_NE(log_.entries()[0].text.find("good"), std::string::npos);
}

TEST_F(TraceLogTest, OldestLinesGoFirst) {
  const std::string text(1000, 'x');
  for (int i = 0; i < 6000; ++i) {
    put(text, text.size());
    log_.drain(ring_);
  }
  EXPECT_EQ(log_.last_number(), 6000u);
  EXPECT_LT(log_.entries().size(), 6000u);
  EXPECT_EQ(log_.entries().back().number, 6000u);
}

}  // namespace
}  // namespace bpftime::daemon
