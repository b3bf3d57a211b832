// Ring buffers: against a model, with a consumer that reads as libbpf does, and against the kernel's own ring
// buffer fed by a program (BPF_PROG_TEST_RUN).
#include <sys/socket.h>

#include <vector>

#include "maps/program_side.h"
#include "maps/test_support.h"

namespace bpftime::maps::test {
namespace {

// What libbpf's ringbuf_process_ring does with its two mappings: consumer page, and producer page with the
// data behind. Returns the payloads seen; `limit` records at most.
std::vector<std::vector<uint8_t>> consume_as_libbpf(uint8_t* consumer_page, const uint8_t* producer_page,
                                                    uint64_t mask, size_t limit) {
  std::vector<std::vector<uint8_t>> records;
  auto* consumer = reinterpret_cast<uint64_t*>(consumer_page);
  auto* producer = reinterpret_cast<const uint64_t*>(producer_page);
  const uint8_t* data = producer_page + 4096;
  uint64_t position = __atomic_load_n(consumer, __ATOMIC_ACQUIRE);
  while (position < __atomic_load_n(producer, __ATOMIC_ACQUIRE) && records.size() < limit) {
    auto* header = reinterpret_cast<const uint32_t*>(data + (position & mask));
    uint32_t length = __atomic_load_n(header, __ATOMIC_ACQUIRE);
    if (length & kRecordBusy) break;
    uint32_t bare = length & ~kRecordDiscarded;
    position += (uint64_t{bare} + 8 + 7) / 8 * 8;
    auto* payload = reinterpret_cast<const uint8_t*>(header) + 8;
    if (!(length & kRecordDiscarded)) records.emplace_back(payload, payload + bare);
    __atomic_store_n(consumer, position, __ATOMIC_RELEASE);
  }
  return records;
}

// ---- the model: what the kernel's ring does, as one process's plain data ----
enum class State : uint8_t { kOpen, kKept, kDiscarded };
struct ModelRecord {
  uint64_t start, length, offset;  // offset of the payload in the map
  State state;
  uint8_t fill;
};
struct Model {
  uint64_t reserved, consumed;
  uint64_t first, last;  // records [first, last) are not consumed; indexes modulo the array's size
  ModelRecord records[8192];
  bool waiting;
  uint64_t operations, hard, second_process;
  uint64_t failures;
  char failure[160];
};

class ModelRun {
 public:
  ModelRun(const SharedMap& shared, Model& model)
      : map_(shared.view()), size_(shared.spec().max_entries), model_(model) {}

  void step(std::mt19937_64& random) {
    model_.operations++;
    switch (random() % 8) {
      case 0:
      case 1:
      case 2:
        return reserve(random);
      case 3:
      case 4:
        return commit(random);
      case 5:
        return output(random);
      case 6:
        return consume(random);
      default:
        return random() % 2 ? query(random) : prepare();
    }
  }

 private:
  void expect(bool holds, const char* what, uint64_t ours, uint64_t model) {
    if (holds || model_.failures++ != 0) return;
    snprintf(model_.failure, sizeof(model_.failure), "%s: ours %llu, model %llu at operation %llu", what,
             static_cast<unsigned long long>(ours), static_cast<unsigned long long>(model),
             static_cast<unsigned long long>(model_.operations));
  }
  ModelRecord& at(uint64_t index) { return model_.records[index % std::size(model_.records)]; }

  // The kernel's rule (__bpf_ringbuf_reserve): at most size - 1 bytes may be in use.
  bool fits(uint64_t length) const {
    if (length > kRecordSizeMax) return false;
    uint64_t total = (length + 15) / 8 * 8;
    return total <= size_ && model_.reserved + total - model_.consumed <= size_ - 1;
  }
  uint64_t random_length(std::mt19937_64& random) const {
    switch (random() % 16) {
      case 0:
        return random() % (2 * size_);
      case 1:
        return size_ - random() % 24;
      case 2:
        return uint64_t{1} << (random() % 64);
      default:
        return random() % (size_ / 8);
    }
  }
  ModelRecord& push(uint64_t length, uint64_t offset, uint8_t fill, State state) {
    ModelRecord& record = at(model_.last++);
    record = {model_.reserved, length, offset, state, fill};
    model_.reserved += (length + 15) / 8 * 8;
    return record;
  }
  bool wakes(const ModelRecord& record, uint64_t flags) {
    if (!model_.waiting) return false;
    bool wake = (flags & kRingForceWakeup) || (!(flags & kRingNoWakeup) && record.start == model_.consumed);
    if (wake) model_.waiting = false;
    return wake;
  }

  void reserve(std::mt19937_64& random) {
    uint64_t length = random_length(random), flags = random() % 16 == 0 ? random() % 4 : 0;
    auto* record =
        static_cast<uint8_t*>(ring_reserve(map_, length, flags, static_cast<uint32_t>(1 + random() % 3)));
    bool possible = flags == 0 && fits(length);
    expect((record != nullptr) == possible, "reserve", record != nullptr, possible);
    if (!possible) model_.hard++;
    if (record == nullptr || !possible) return;
    uint8_t fill = static_cast<uint8_t>(random());
    memset(record, fill, length);
    push(length, static_cast<uint64_t>(record - map_.base), fill, State::kOpen);
  }
  void commit(std::mt19937_64& random) {
    std::vector<uint64_t> open;
    for (uint64_t i = model_.first; i < model_.last; i++) {
      if (at(i).state == State::kOpen) open.push_back(i);
    }
    if (open.empty()) return;
    ModelRecord& record = at(open[random() % open.size()]);
    bool discard = random() % 4 == 0;
    uint64_t flags = random() % 4;
    bool wake = ring_commit(map_, map_.base + record.offset, flags, discard);
    bool expected = wakes(record, flags);
    expect(wake == expected, "commit wakes", wake, expected);
    record.state = discard ? State::kDiscarded : State::kKept;
  }
  void output(std::mt19937_64& random) {
    static uint8_t data[1 << 17];
    uint64_t length = random() % sizeof(data) % (random() % 2 ? size_ / 8 : 2 * size_), flags = random() % 5;
    uint8_t fill = static_cast<uint8_t>(random());
    memset(data, fill, length);
    bool wake = false;
    int64_t result = ring_output(map_, data, length, flags, 1, &wake);
    int64_t expected = flags > 3 ? -EINVAL : fits(length) ? 0 : -EAGAIN;
    expect(result == expected, "output", static_cast<uint64_t>(-result), static_cast<uint64_t>(-expected));
    if (expected != 0) model_.hard++;
    if (expected != 0 || result != 0) return;
    bool expected_wake = wakes(push(length, 0, fill, State::kKept), flags);
    expect(wake == expected_wake, "output wakes", wake, expected_wake);
  }
  void consume(std::mt19937_64& random) {
    size_t limit = random() % 4;
    std::vector<std::vector<uint8_t>> records;
    if (random() % 2) {
      records = consume_as_libbpf(map_.base, map_.base + 4096, size_ - 1, limit);
    } else {
      std::vector<uint8_t> buffer(size_);
      while (records.size() < limit) {
        int64_t length = ring_consume(map_, buffer.data(), buffer.size());
        if (length < 0) {
          expect(length == -EAGAIN, "consume", static_cast<uint64_t>(-length), EAGAIN);
          break;
        }
        records.emplace_back(buffer.begin(), buffer.begin() + length);
      }
    }
    size_t taken = 0;
    // A consumer that stops at its limit has not looked at what follows; one that found too little
    // took discards too.
    while (model_.first < model_.last && at(model_.first).state != State::kOpen && taken < limit) {
      const ModelRecord& record = at(model_.first++);
      model_.consumed = record.start + (record.length + 15) / 8 * 8;
      if (record.state == State::kDiscarded) continue;
      bool same =
          taken < records.size() && records[taken] == std::vector<uint8_t>(record.length, record.fill);
      expect(same, "record", taken, records.size());
      taken++;
    }
    expect(taken == records.size(), "records", records.size(), taken);
  }
  void query(std::mt19937_64& random) {
    uint64_t flags = random() % 5;
    uint64_t expected[] = {model_.reserved - model_.consumed, size_, model_.consumed, model_.reserved, 0};
    expect(ring_query(map_, flags) == expected[flags], "query", ring_query(map_, flags), expected[flags]);
  }
  void prepare() {
    bool has_data, expected = model_.first < model_.last && at(model_.first).state != State::kOpen;
    ring_prepare_wait(map_, &has_data);
    model_.waiting = true;
    expect(has_data == expected, "has data", has_data, expected);
  }

  MapView map_;
  uint64_t size_;
  Model& model_;
};

// Batches alternate between this process and a forked one.
void alternate(int batches, const std::function<void(int, bool)>& batch) {
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  pid_t child = start_child([&] {
    close(sockets[0]);
    int number;
    while (read(sockets[1], &number, sizeof(number)) == sizeof(number)) {
      batch(number, true);
      if (write(sockets[1], &number, sizeof(number)) != sizeof(number)) return 1;
    }
    return 0;
  });
  close(sockets[1]);
  for (int number = 0; number < batches; number++) {
    if (number % 2 == 0) {
      batch(number, false);
      continue;
    }
    ASSERT_EQ(write(sockets[0], &number, sizeof(number)), static_cast<ssize_t>(sizeof(number)));
    ASSERT_EQ(read(sockets[0], &number, sizeof(number)), static_cast<ssize_t>(sizeof(number)));
  }
  close(sockets[0]);
  EXPECT_EQ(wait_child(child), 0);
}

TEST(RingBuffer, BehavesAsTheModel) {
  uint64_t seed = test_seed();
  for (uint32_t size : {4096u, 8192u, 65536u}) {
    SharedMap shared({kTypeRingbuf, 0, 0, size, 0, 2});
    Shared<Model> model;
    alternate(static_cast<int>(test_rounds(300)), [&](int number, bool second) {
      std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(number));
      ModelRun run(shared, *model);
      for (int i = 0; i < 100; i++) run.step(random);
      if (second) model->second_process += 100;
    });
    ASSERT_EQ(model->failures, 0u) << model->failure << ", ring of " << size;
    printf("%llu operations, %llu failing, %llu in the second process\n",
           static_cast<unsigned long long>(model->operations), static_cast<unsigned long long>(model->hard),
           static_cast<unsigned long long>(model->second_process));
    EXPECT_GE(model->hard * 5, model->operations);
  }
}

// ---- against the kernel ----

struct Request {
  uint64_t kind;  // 0: bpf_ringbuf_output(data, size, flags); 1: bpf_ringbuf_query(flags)
  uint64_t size, flags, result;
  uint8_t data[1024];
};

bpf_insn instruction(uint8_t code, uint8_t dst, uint8_t src, int16_t offset, int32_t immediate) {
  bpf_insn insn = {};
  insn.code = code;
  insn.dst_reg = dst & 15;
  insn.src_reg = src & 15;
  insn.off = offset;
  insn.imm = immediate;
  return insn;
}

// A program that does what the request in the only value of an array map says.
int64_t load_ring_program(int64_t map_fd, int64_t request_fd) {
  constexpr uint8_t kMov = BPF_ALU64 | BPF_MOV | BPF_X, kLoad = BPF_LDX | BPF_MEM | BPF_DW,
                    kStore = BPF_STX | BPF_MEM | BPF_DW;
  constexpr int kOutput = 130, kQuery = 134;
  bpf_insn program[] = {
      instruction(BPF_LD | BPF_IMM | BPF_DW, 6, BPF_PSEUDO_MAP_VALUE, 0, static_cast<int32_t>(request_fd)),
      instruction(0, 0, 0, 0, 0),
      instruction(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, static_cast<int32_t>(map_fd)),
      instruction(0, 0, 0, 0, 0),
      instruction(kLoad, 7, 6, offsetof(Request, kind), 0),
      instruction(BPF_JMP | BPF_JNE | BPF_K, 7, 0, 7, 0),
      instruction(kMov, 2, 6, 0, 0),
      instruction(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, offsetof(Request, data)),
      instruction(kLoad, 3, 6, offsetof(Request, size), 0),
      instruction(BPF_JMP | BPF_JGT | BPF_K, 3, 0, 6, sizeof(Request::data)),
      instruction(kLoad, 4, 6, offsetof(Request, flags), 0),
      instruction(BPF_JMP | BPF_CALL, 0, 0, 0, kOutput),
      instruction(BPF_JMP | BPF_JA, 0, 0, 2, 0),
      instruction(kLoad, 2, 6, offsetof(Request, flags), 0),
      instruction(BPF_JMP | BPF_CALL, 0, 0, 0, kQuery),
      instruction(kStore, 6, 0, offsetof(Request, result), 0),
      instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  static char log[16384];
  union bpf_attr attr = {};
  attr.prog_type = BPF_PROG_TYPE_SYSCALL;
  attr.prog_flags = BPF_F_SLEEPABLE;
  attr.insns = reinterpret_cast<uint64_t>(program);
  attr.insn_cnt = std::size(program);
  attr.license = reinterpret_cast<uint64_t>("Dual MIT/GPL");
  attr.log_buf = reinterpret_cast<uint64_t>(log);
  attr.log_size = sizeof(log);
  attr.log_level = 1;
  int64_t fd = kernel_bpf(BPF_PROG_LOAD, &attr);
  if (fd < 0) printf("%s\n", log);
  return fd;
}

struct RingStatistics {
  uint64_t operations, hard, second_process, failures;
  char failure[160];
};

TEST(RingBuffer, OutputQueryAndRecordsEqualTheKernels) {
  std::string reason = kernel_unusable();
  if (!reason.empty()) GTEST_SKIP() << reason;
  uint64_t seed = test_seed();
  constexpr uint32_t kSize = 4096;
  MapSpec spec = {kTypeRingbuf, 0, 0, kSize, 0, possible_cpus()};
  int64_t kernel = kernel_create(spec);
  ASSERT_GE(kernel, 0);
  MapSpec request_spec = {kTypeArray, 4, sizeof(Request), 1, kFlagMmapable, 0};
  int64_t request_map = kernel_create(request_spec);
  ASSERT_GE(request_map, 0);
  void* mapped = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, static_cast<int>(request_map), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  Request& request = *static_cast<Request*>(mapped);
  int64_t program = load_ring_program(kernel, request_map);
  if (program == -EPERM) GTEST_SKIP() << "BPF_PROG_LOAD is not permitted here";
  ASSERT_GE(program, 0) << strerror(static_cast<int>(-program));
  auto* consumer = static_cast<uint8_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, static_cast<int>(kernel), 0));
  auto* producer = static_cast<uint8_t*>(
      mmap(nullptr, 4096 + 2 * kSize, PROT_READ, MAP_SHARED, static_cast<int>(kernel), 4096));
  ASSERT_TRUE(consumer != MAP_FAILED && producer != MAP_FAILED);
  SharedMap ours(spec);
  MapView map = ours.view();
  Shared<RingStatistics> statistics;
  auto step = [&](std::mt19937_64& random) {
    statistics->operations++;
    const char* what = nullptr;
    if (random() % 5 == 0) {
      size_t limit = random() % 6;
      if (consume_as_libbpf(map.base, map.base + 4096, kSize - 1, limit) !=
          consume_as_libbpf(consumer, producer, kSize - 1, limit)) {
        what = "records";
      }
    } else {
      request = {random() % 8 == 0,
                 random() % (sizeof(Request::data) + 1),
                 random() % 4 == 0 ? random() % 6 : 0,
                 0,
                 {}};
      for (uint8_t& byte : request.data) byte = static_cast<uint8_t>(random());
      union bpf_attr attr = {};
      attr.test.prog_fd = static_cast<uint32_t>(program);
      bool wake;
      int64_t result = request.kind == 0
                           ? ring_output(map, request.data, request.size, request.flags, 1, &wake)
                           : static_cast<int64_t>(ring_query(map, request.flags));
      int64_t error = kernel_bpf(BPF_PROG_TEST_RUN, &attr);
      if (error < 0) {
        what = "BPF_PROG_TEST_RUN failed";
      } else if (result != static_cast<int64_t>(request.result)) {
        what = request.kind == 0 ? "output" : "query";
      }
      if (result < 0) statistics->hard++;
    }
    if (what != nullptr && statistics->failures++ == 0)
      snprintf(statistics->failure, sizeof(statistics->failure), "%s", what);
  };
  alternate(static_cast<int>(test_rounds(600)), [&](int number, bool second) {
    std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(number));
    for (int i = 0; i < 100; i++) step(random);
    if (second) statistics->second_process += 100;
  });
  EXPECT_EQ(statistics->failures, 0u) << statistics->failure;
  printf("%llu operations, %llu failing, %llu in the second process\n",
         static_cast<unsigned long long>(statistics->operations),
         static_cast<unsigned long long>(statistics->hard),
         static_cast<unsigned long long>(statistics->second_process));
  EXPECT_GE(statistics->hard * 5, statistics->operations);
  munmap(consumer, 4096);
  munmap(producer, 4096 + 2 * kSize);
  munmap(mapped, 4096);
  close(static_cast<int>(request_map));
  close(static_cast<int>(program));
  close(static_cast<int>(kernel));
}

TEST(RingBuffer, ManyOpenReservationsReportFullInsteadOfForgetting) {
  SharedMap shared({kTypeRingbuf, 0, 0, 1u << 20, 0, 2});
  MapView map = shared.view();
  void* first = ring_reserve(map, 8, 0, 1);
  ASSERT_NE(first, nullptr);
  bool wake;
  uint64_t value = 7, accepted = 0;
  while (accepted < 2 * kRingWindowMax && ring_output(map, &value, 8, 0, 2, &wake) == 0) accepted++;
  EXPECT_EQ(accepted, kRingWindowMax - 1);
  EXPECT_FALSE(ring_has_data(map));
  ring_commit(map, first, 0, true);
  uint64_t received = 0;
  while (ring_consume(map, &value, 8) == 8) received++;
  EXPECT_EQ(received, accepted);
  EXPECT_EQ(ring_output(map, &value, 8, 0, 2, &wake), 0);
}

TEST(RingBuffer, WhatOnePublisherLeavesTheNextCommitPublishes) {
  SharedMap shared({kTypeRingbuf, 0, 0, 4096, 0, 2});
  MapView map = shared.view();
  Ring ring = program_side::ring_of(map);
  auto* first = static_cast<uint8_t*>(ring_reserve(map, 8, 0, 1));
  uint64_t value = 1;
  bool wake;
  for (int i = 0; i < 9; i++) ASSERT_EQ(ring_output(map, &value, 8, 0, 1, &wake), 0);
  // Finish the first as ring_commit does, but with a publisher that gives up after four records.
  *reinterpret_cast<uint64_t*>(first - 8) = 8;
  ring.table[1].low |= kDone;
  EXPECT_EQ(ring_publish(ring, 0, 1, 4), 4 * 16u);
  EXPECT_EQ(ring.producer->position, 4 * 16u);
  ASSERT_EQ(ring_output(map, &value, 8, 0, 1, &wake), 0);
  EXPECT_EQ(ring.producer->position, 11 * 16u);
}

// What whoever watches for a consumer finds after it has looked away.
TEST(RingBuffer, WhatWouldHaveWokenIsFoundLater) {
  SharedMap shared({kTypeRingbuf, 0, 0, 4096, 0, 2});
  MapView map = shared.view();
  uint64_t value = 1, unread = 0;
  bool wake, has_data;
  uint32_t word = ring_prepare_wait(map, &has_data);
  EXPECT_FALSE(ring_unread_wakes(map, &unread));
  ring_end_wait(map);
  ASSERT_EQ(ring_output(map, &value, 8, kRingNoWakeup, 1, &wake), 0);
  ASSERT_EQ(ring_output(map, &value, 8, 0, 1, &wake), 0);
  EXPECT_FALSE(wake);
  EXPECT_EQ(ring_prepare_wait(map, &has_data), word);
  EXPECT_FALSE(ring_unread_wakes(map, &unread))
      << "the oldest asked for no wake-up, the next was not the oldest";
  EXPECT_EQ(ring_consume(map, &value, 8), 8);
  EXPECT_TRUE(ring_unread_wakes(map, &unread)) << "and now it is";
  EXPECT_EQ(unread, 16u);
  // Forced: the word changes though nobody was announced.
  ring_end_wait(map);
  ASSERT_EQ(ring_output(map, &value, 8, kRingForceWakeup, 1, &wake), 0);
  EXPECT_FALSE(wake);
  EXPECT_NE(ring_prepare_wait(map, &has_data), word);
  ASSERT_EQ(ring_output(map, &value, 8, kRingForceWakeup, 1, &wake), 0);
  EXPECT_TRUE(wake);
  while (ring_consume(map, &value, 8) == 8) {
  }
  EXPECT_FALSE(ring_unread_wakes(map, &unread));
  // A discarded record wakes as Linux has it, one whose consumer lies harms nobody.
  void* record = ring_reserve(map, 8, 0, 1);
  ring_commit(map, record, kRingNoWakeup, true);
  EXPECT_FALSE(ring_unread_wakes(map, &unread));
  *program_side::ring_of(map).consumer = ~uint64_t{0};
  (void)ring_unread_wakes(map, &unread);
}

TEST(PerfEventArray, OutputAnswersAsBpfPerfEventOutput) {
  SharedMap shared({kTypePerfEventArray, 4, 4, 2, 0, 2});
  MapView map = shared.view();
  uint64_t data = 5, record[2];
  bool wake;
  EXPECT_EQ(perf_output(map, kPerfIndexMask, &data, 8, 0, 1, &wake), -ENOENT);
  perf_set_slot(map, 1, true);
  EXPECT_EQ(perf_output(map, kPerfIndexMask, &data, 8, 1, 1, &wake), 0);
  EXPECT_EQ(perf_output(map, 0, &data, 8, 1, 1, &wake), -ENOENT);
  EXPECT_EQ(perf_output(map, 2, &data, 8, 1, 1, &wake), -E2BIG);
  EXPECT_EQ(perf_output(map, kPerfIndexMask, &data, 8, 7, 1, &wake), -E2BIG);
  EXPECT_EQ(perf_output(map, kPerfIndexMask + 1, &data, 8, 1, 1, &wake), -EINVAL);
  EXPECT_EQ(ring_consume(map, record, 16), 16);
  EXPECT_EQ(record[0], uint64_t{8} << 32 | 1);
  EXPECT_EQ(record[1], 5u);
  uint64_t sent = 0;
  while (perf_output(map, 1, &data, 8, 1, 1, &wake) == 0) sent++;
  EXPECT_EQ(sent, 2 * kStagingPerCpu / 24);
  EXPECT_EQ(perf_output(map, 1, &data, 8, 1, 1, &wake), -ENOSPC);
  EXPECT_EQ(perf_take_lost(map, 1), 2u);
  EXPECT_EQ(perf_take_lost(map, 1), 0u);
  EXPECT_EQ(perf_output(map, 1, &data, uint64_t{1} << 63, 1, 1, &wake), -ENOSPC);
  perf_set_slot(map, 1, false);
  EXPECT_EQ(perf_output(map, 1, &data, 8, 1, 1, &wake), -ENOENT);
}

}  // namespace
}  // namespace bpftime::maps::test
