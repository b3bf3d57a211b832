// The *_BATCH commands here and in the kernel: the same calls on the same maps, the same results, counts and elements.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "loader/calls.h"
#include "loader/objects.h"
#include "maps/test_support.h"

namespace bpftime::loader {
namespace {

using maps::test::kernel_bpf;

// A map as the daemon makes it.
struct TestMap {
  wire::MapSpec spec;
  Fd fd;

  explicit TestMap(wire::MapSpec geometry) : spec(geometry) {
    const uint64_t size = maps::memory_size(spec);
    auto made = create_memfd("bpf-map", size, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    EXPECT_TRUE(made.ok());
    fd = std::move(*made);
    wire::ObjectTrailer trailer{};
    trailer.header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, size};
    trailer.kind = wire::ObjectKind::kMap;
    trailer.id = 1;
    trailer.map = spec;
    const auto at = static_cast<off_t>(size - wire::kTrailerSize);
    EXPECT_EQ(::pwrite(fd.get(), &trailer, sizeof trailer, at), static_cast<ssize_t>(sizeof trailer));
  }
};

// One side: our map or the kernel's.
struct Side {
  bool ours;
  int fd;
  int64_t call(uint32_t command, union bpf_attr& attr, uint32_t size = sizeof(union bpf_attr)) const {
    return ours ? bpf_call(command, reinterpret_cast<uint64_t>(&attr), size)
                : kernel_bpf(static_cast<int>(command), &attr);
  }
};

struct Answer {
  int64_t result;
  uint32_t count;
  std::vector<uint8_t> keys, values, cursor;
};

Answer batch(const Side& side, uint32_t command, const wire::MapSpec& spec, uint32_t count,
             const std::vector<uint8_t>* cursor, std::vector<uint8_t> keys, std::vector<uint8_t> values,
             uint64_t elem_flags = 0, uint64_t flags = 0) {
  Answer answer{0, 0, std::move(keys), std::move(values),
                std::vector<uint8_t>(std::max<size_t>(spec.key_size, 8))};
  union bpf_attr attr = {};
  attr.batch.map_fd = static_cast<uint32_t>(side.fd);
  attr.batch.in_batch = cursor != nullptr ? reinterpret_cast<uint64_t>(cursor->data()) : 0;
  attr.batch.out_batch = reinterpret_cast<uint64_t>(answer.cursor.data());
  attr.batch.keys = reinterpret_cast<uint64_t>(answer.keys.data());
  attr.batch.values = reinterpret_cast<uint64_t>(answer.values.data());
  attr.batch.count = count;
  attr.batch.elem_flags = elem_flags;
  attr.batch.flags = flags;
  answer.result = side.call(command, attr);
  answer.count = attr.batch.count;
  return answer;
}

using Contents = std::multimap<std::vector<uint8_t>, std::vector<uint8_t>>;

// Everything in the map, in batches of `step` that grow when a bucket does not fit.
Contents read_all(const Side& side, uint32_t command, const wire::MapSpec& spec, uint32_t step,
                  int64_t* last) {
  const uint64_t value_size = maps::user_value_size(spec);
  Contents out;
  std::vector<uint8_t> cursor;
  for (int rounds = 0; rounds < 10000; ++rounds) {
    const Answer answer =
        batch(side, command, spec, step, cursor.empty() ? nullptr : &cursor,
              std::vector<uint8_t>(uint64_t{step} * spec.key_size), std::vector<uint8_t>(step * value_size));
    *last = answer.result;
    if (answer.result != 0 && answer.result != -ENOENT && answer.result != -ENOSPC) break;
    for (uint32_t i = 0; i < answer.count; ++i) {
      const auto key = answer.keys.begin() + uint64_t{i} * spec.key_size;
      const auto value = answer.values.begin() + static_cast<ptrdiff_t>(i * value_size);
      out.emplace(std::vector<uint8_t>(key, key + spec.key_size),
                  std::vector<uint8_t>(value, value + static_cast<ptrdiff_t>(value_size)));
    }
    if (answer.result == -ENOENT) break;
    if (answer.result == -ENOSPC) {
      EXPECT_EQ(answer.count, 0u);
      step *= 2;
    } else {
      cursor = answer.cursor;
    }
  }
  return out;
}

class Batches : public testing::TestWithParam<wire::MapSpec> {
 protected:
  void SetUp() override {
    if (const std::string reason = maps::test::kernel_unusable(); !reason.empty()) GTEST_SKIP() << reason;
    spec_ = GetParam();
    spec_.cpu_count = maps::test::possible_cpus();
    if (maps::check_spec(spec_) != 0) GTEST_SKIP() << "type " << spec_.type << " is not supported here";
    ours_map_ = std::make_unique<TestMap>(spec_);
    kernel_map_ = Fd(static_cast<int>(maps::test::kernel_create(spec_)));
    ASSERT_TRUE(kernel_map_);
    ours_ = {true, ours_map_->fd.get()};
    kernel_ = {false, kernel_map_.get()};
  }
  std::vector<uint8_t> keys(uint32_t first, uint32_t count) const {
    std::vector<uint8_t> out(uint64_t{count} * spec_.key_size);
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t number = first + i;
      uint8_t* key = out.data() + uint64_t{i} * spec_.key_size;
      if (spec_.type == BPF_MAP_TYPE_LPM_TRIE) {
        key[0] = 32, key[4] = static_cast<uint8_t>(number), key[5] = static_cast<uint8_t>(number >> 8);
      } else {
        std::memcpy(key, &number, 4);
      }
    }
    return out;
  }
  std::vector<uint8_t> values(uint32_t count, uint8_t seed) const {
    std::vector<uint8_t> out(count * maps::user_value_size(spec_));
    // Whole words: what stands in the padding of per-CPU values is nobody's.
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(i / 8 + seed);
    return out;
  }
  // The same call on both; results and counts agree.
  void both(uint32_t command, uint32_t count, const std::vector<uint8_t>& keys,
            const std::vector<uint8_t>& values, uint64_t elem_flags = 0, uint64_t flags = 0) {
    const Answer a = batch(ours_, command, spec_, count, nullptr, keys, values, elem_flags, flags);
    const Answer b = batch(kernel_, command, spec_, count, nullptr, keys, values, elem_flags, flags);
    EXPECT_EQ(a.result, b.result) << "command " << command << " count " << count << " flags " << elem_flags
                                  << "/" << flags;
    EXPECT_EQ(a.count, b.count) << "command " << command << " count " << count;
    last_ = a.result;
  }
  void same_contents(uint32_t command, uint32_t step) {
    int64_t last_a = 0, last_b = 0;
    const Contents a = read_all(ours_, command, spec_, step, &last_a);
    const Contents b = read_all(kernel_, command, spec_, step, &last_b);
    EXPECT_EQ(last_a, last_b) << "command " << command;
    EXPECT_EQ(a, b) << "command " << command << " step " << step << ": " << a.size() << " against "
                    << b.size();
    seen_ = a.size();
  }

  wire::MapSpec spec_{};
  std::unique_ptr<TestMap> ours_map_;
  Fd kernel_map_;
  Side ours_{}, kernel_{};
  int64_t last_ = 0;
  size_t seen_ = 0;
};

TEST_P(Batches, AnswersEqualTheKernels) {
  const uint32_t entries = spec_.max_entries;
  both(BPF_MAP_UPDATE_BATCH, 40, keys(0, 40), values(40, 1));
  EXPECT_EQ(last_, 0);
  for (const uint32_t step : {1u, 7u, 64u, 1000u}) same_contents(BPF_MAP_LOOKUP_BATCH, step);
  EXPECT_GE(seen_, 40u);
  // Too many, twice the same, flags, nothing.
  both(BPF_MAP_UPDATE_BATCH, entries + 5, keys(0, entries + 5), values(entries + 5, 2));
  EXPECT_NE(last_, 0);
  same_contents(BPF_MAP_LOOKUP_BATCH, 50);
  for (const uint32_t command :
       {BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_AND_DELETE_BATCH, BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH}) {
    for (const uint64_t flags : {1, 4, 8}) both(command, 3, keys(0, 3), values(3, 3), flags);
    both(command, 0, {}, {});
    both(command, 0, {}, {}, 1);
  }
  both(BPF_MAP_DELETE_BATCH, 5, keys(3, 5), {});
  both(BPF_MAP_DELETE_BATCH, 5, keys(6, 5), {});  // some are gone already: stops at the first
  same_contents(BPF_MAP_LOOKUP_BATCH, 50);
  for (const uint32_t step : {1u, 9u}) {
    same_contents(BPF_MAP_LOOKUP_AND_DELETE_BATCH, step);
    both(BPF_MAP_UPDATE_BATCH, 30, keys(100, 30), values(30, 4));
  }
  same_contents(BPF_MAP_LOOKUP_AND_DELETE_BATCH, 50);
  same_contents(BPF_MAP_LOOKUP_BATCH, 50);
}

TEST_P(Batches, LyingCountsAndPointersAreRefused) {
  const auto some = values(40, 1);
  both(BPF_MAP_UPDATE_BATCH, 40, keys(0, 40), some);
  for (const Side& side : {ours_, kernel_}) {
    SCOPED_TRACE(side.ours ? "ours" : "kernel");
    // Room for 40 at the end of readable memory, a count of four thousand million.
    const size_t page = 4096, bytes = 16 * page;
    auto* memory = static_cast<uint8_t*>(
        ::mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(memory + bytes, page, PROT_NONE);
    const auto first = keys(0, 40);
    uint8_t* end = memory + bytes;
    std::memcpy(end - first.size(), first.data(), first.size());
    uint64_t cursor[64] = {};
    union bpf_attr attr = {};
    attr.batch.map_fd = static_cast<uint32_t>(side.fd);
    attr.batch.out_batch = reinterpret_cast<uint64_t>(cursor);
    attr.batch.keys = reinterpret_cast<uint64_t>(end - first.size());
    attr.batch.values = reinterpret_cast<uint64_t>(memory);
    attr.batch.count = 0xffffffff;
    EXPECT_EQ(side.call(BPF_MAP_UPDATE_BATCH, attr), -EFAULT);
    EXPECT_EQ(attr.batch.count, 40u);
    attr.batch.count = 40;
    attr.batch.values = 16;
    EXPECT_EQ(side.call(BPF_MAP_LOOKUP_BATCH, attr), -EFAULT);
    EXPECT_EQ(attr.batch.count, 0u);
    attr.batch.count = 40;
    attr.batch.in_batch = 16;
    EXPECT_EQ(side.call(BPF_MAP_LOOKUP_BATCH, attr), -EFAULT);
    // A cursor nobody gave.
    std::memset(cursor, 0xff, sizeof cursor);
    attr.batch.in_batch = reinterpret_cast<uint64_t>(cursor);
    attr.batch.values = reinterpret_cast<uint64_t>(memory);
    attr.batch.count = 40;
    const int64_t lost = side.call(BPF_MAP_LOOKUP_BATCH, attr);
    if (maps::batch_buckets(spec_) != 0) {
      EXPECT_EQ(lost, -ENOENT);
    }
    ::munmap(memory, bytes + page);
  }
}

INSTANTIATE_TEST_SUITE_P(Maps, Batches,
                         testing::Values(wire::MapSpec{BPF_MAP_TYPE_HASH, 4, 8, 200, 0, 0},
                                         wire::MapSpec{BPF_MAP_TYPE_HASH, 12, 24, 300, BPF_F_NO_PREALLOC, 0},
                                         wire::MapSpec{BPF_MAP_TYPE_ARRAY, 4, 16, 200, 0, 0},
                                         wire::MapSpec{BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 200, 0, 0},
                                         wire::MapSpec{BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 200, 0, 0},
                                         wire::MapSpec{BPF_MAP_TYPE_LPM_TRIE, 8, 8, 200, BPF_F_NO_PREALLOC,
                                                       0}));

TEST(BatchRefusals, DescriptorsAttributesAndTypes) {
  union bpf_attr attr = {};
  attr.batch.map_fd = 77777;
  const auto call = [&](uint32_t command, uint32_t size = sizeof attr) {
    return bpf_call(command, reinterpret_cast<uint64_t>(&attr), size);
  };
  EXPECT_EQ(call(BPF_MAP_LOOKUP_BATCH), -EBADF);
  const Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  attr.batch.map_fd = static_cast<uint32_t>(file.get());
  EXPECT_EQ(call(BPF_MAP_LOOKUP_BATCH), -EINVAL);
  TestMap map({BPF_MAP_TYPE_HASH, 4, 8, 16, 0, 2});
  attr.batch.map_fd = static_cast<uint32_t>(map.fd.get());
  EXPECT_EQ(call(BPF_MAP_LOOKUP_BATCH), 0) << "no elements asked for";
  reinterpret_cast<uint8_t*>(&attr)[60] = 1;  // beyond flags
  EXPECT_EQ(call(BPF_MAP_LOOKUP_BATCH), -EINVAL);
  reinterpret_cast<uint8_t*>(&attr)[60] = 0;
  auto reader = map.fd.reopen(O_RDONLY);
  ASSERT_TRUE(reader.ok());
  attr.batch.map_fd = static_cast<uint32_t>(reader->get());
  for (const uint32_t command : {BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH, BPF_MAP_LOOKUP_AND_DELETE_BATCH})
    EXPECT_EQ(call(command), -EPERM);
  TestMap ring({BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, 2});
  attr.batch.map_fd = static_cast<uint32_t>(ring.fd.get());
  EXPECT_EQ(call(BPF_MAP_LOOKUP_BATCH), -524);
}

}  // namespace
}  // namespace bpftime::loader
