#include "cli/event_pipe.h"

#include <fmt/core.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "cli/map_entries.h"
#include "cli/object_verbs.h"
#include "loader/calls.h"
#include "loader/readiness.h"

namespace bpftime::cli {
namespace {

constexpr size_t kRingPages = 16;
constexpr size_t kRecordMax = 1u << 16;  // perf_event_header::size has 16 bits

volatile sig_atomic_t stopped = 0;
void stop(int) { stopped = 1; }

struct Ring {
  Fd event;
  int cpu = 0, index = 0;
  uint8_t* memory = nullptr;  // the page of positions, then the data
  size_t size = 0;            // of the data
  Ring() = default;
  Ring(Ring&& other) noexcept
      : event(std::move(other.event)), cpu(other.cpu), index(other.index), size(other.size) {
    std::swap(memory, other.memory);
  }
  ~Ring() {
    if (memory != nullptr) ::munmap(memory, size + static_cast<size_t>(::getpagesize()));
  }
};

Error failed(const char* what, int cpu, int64_t result) {
  return Error{static_cast<int>(-result), fmt::format("map event_pipe: {} for CPU {}: {}", what, cpu,
                                                      std::strerror(static_cast<int>(-result)))};
}

Result<Ring> open_ring(const Fd& array, int cpu, int index) {
  Ring ring;
  ring.cpu = cpu;
  ring.index = index;
  perf_event_attr attr{};
  attr.type = PERF_TYPE_SOFTWARE;
  attr.size = sizeof attr;
  attr.config = PERF_COUNT_SW_BPF_OUTPUT;
  attr.sample_type = PERF_SAMPLE_RAW | PERF_SAMPLE_TIME;
  attr.sample_period = 1;
  attr.wakeup_events = 1;
  const auto opened =
      loader::perf_event_open_call(reinterpret_cast<uint64_t>(&attr), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
  if (!opened || *opened < 0) return failed("output event", cpu, opened.value_or(-ENOSYS));
  ring.event = Fd(static_cast<int>(*opened));
  const size_t page = static_cast<size_t>(::getpagesize());
  ring.size = kRingPages * page;
  const auto refused =
      loader::before_mmap(ring.size + page, PROT_READ | PROT_WRITE, MAP_SHARED, ring.event.get(), 0);
  if (refused) return failed("its ring", cpu, *refused);
  void* memory = ::mmap(nullptr, ring.size + page, PROT_READ | PROT_WRITE, MAP_SHARED, ring.event.get(), 0);
  if (memory == MAP_FAILED) return failed("its ring", cpu, -errno);
  ring.memory = static_cast<uint8_t*>(memory);
  const auto key = static_cast<uint32_t>(index), value = static_cast<uint32_t>(ring.event.get());
  bpf_attr update{};
  update.map_fd = static_cast<uint32_t>(array.get());
  update.key = reinterpret_cast<uint64_t>(&key);
  update.value = reinterpret_cast<uint64_t>(&value);
  if (auto done = bpf(BPF_MAP_UPDATE_ELEM, update, fmt::format("map event_pipe: slot {}", index)); !done)
    return done.error();
  return ring;
}

void print_sample(const Ring& ring, uint64_t time_ns, Bytes data, bool json) {
  if (json) {
    print_json_line(OrderedJson{{"cpu", ring.cpu},
                                {"index", ring.index},
                                {"timestamp", time_ns},
                                {"size", data.size()},
                                {"data", hex_json(data)}});
  } else {
    fmt::print("== @{}.{:09} CPU: {} index: {} =====\n{}\n", time_ns / 1'000'000'000, time_ns % 1'000'000'000,
               ring.cpu, ring.index, hex_text(data));
  }
}

void print_record(const Ring& ring, uint32_t type, Bytes body, bool json) {
  if (type == PERF_RECORD_SAMPLE) {  // u64 time, u32 size, data
    const auto time = read_at<uint64_t>(body, 0);
    const auto size = read_at<uint32_t>(body, 8);
    if (time && size && *size <= body.size() - 12) print_sample(ring, *time, body.subspan(12, *size), json);
  } else if (type == PERF_RECORD_LOST) {  // u64 id, u64 lost
    const uint64_t lost = read_at<uint64_t>(body, 8).value_or(0);
    if (json) {
      print_json_line(OrderedJson{{"lost", {{"cpu", ring.cpu}, {"index", ring.index}, {"count", lost}}}});
    } else {
      fmt::print("lost {} events\n", lost);
    }
  } else if (json) {
    print_json_line(OrderedJson{{"unknown", {{"cpu", ring.cpu}, {"type", type}}}});
  } else {
    fmt::print("unknown event type={} size={}\n", type, body.size() + sizeof(perf_event_header));
  }
}

// The daemon is trusted no more than any writer: positions and lengths are checked before use.
Result<void> drain(const Ring& ring, bool json) {
  auto* page = reinterpret_cast<perf_event_mmap_page*>(ring.memory);
  const uint8_t* data = ring.memory + ::getpagesize();
  uint64_t tail = page->data_tail;
  const uint64_t head = __atomic_load_n(&page->data_head, __ATOMIC_ACQUIRE);
  const auto copy = [&](uint64_t from, uint8_t* to, size_t size) {
    for (size_t i = 0; i < size; ++i) to[i] = data[(from + i) % ring.size];
  };
  std::vector<uint8_t> record(kRecordMax);
  while (tail != head) {
    perf_event_header header;
    if (head - tail > ring.size || head - tail < sizeof header)
      return Error{EPROTO, "map event_pipe: ring: positions make no sense"};
    copy(tail, reinterpret_cast<uint8_t*>(&header), sizeof header);
    if (header.size < sizeof header || header.size > head - tail)
      return Error{EPROTO, "map event_pipe: ring: a record longer than what was written"};
    const size_t body = header.size - sizeof header;
    copy(tail + sizeof header, record.data(), body);
    print_record(ring, header.type, Bytes(record.data(), body), json);
    tail += header.size;
    __atomic_store_n(&page->data_tail, tail, __ATOMIC_RELEASE);
  }
  return {};
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = stop;  // no SA_RESTART: poll is to end
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &action, nullptr);
}

}  // namespace

Result<void> pipe_events(const Fd& array, uint32_t slots, const PipeOptions& options) {
  std::vector<Ring> rings;
  const uint32_t cpus = options.cpu >= 0 ? 1 : std::min(slots, possible_cpus());
  for (uint32_t i = 0; i < cpus; ++i) {
    const int cpu = options.cpu >= 0 ? options.cpu : static_cast<int>(i);
    auto ring = open_ring(array, cpu, options.index >= 0 ? options.index : cpu);
    if (!ring) return ring.error();
    rings.push_back(std::move(*ring));
  }
  catch_signals();
  std::vector<pollfd> waiting;
  for (const Ring& ring : rings) waiting.push_back({ring.event.get(), POLLIN, 0});
  while (stopped == 0) {
    constexpr timespec kLook{0, 200'000'000};  // a signal between the check and the wait is seen this late
    const auto woken = loader::poll_call(waiting.data(), waiting.size(), &kLook, nullptr);
    const int result = woken ? *woken : ::ppoll(waiting.data(), waiting.size(), &kLook, nullptr);
    if (result < 0 && errno != EINTR && result != -EINTR)
      return Error{woken ? -result : errno,
                   "map event_pipe: wait: " + std::string(std::strerror(woken ? -result : errno))};
    for (const Ring& ring : rings)
      if (auto done = drain(ring, options.json); !done) return done;
    if (std::fflush(stdout) != 0) return Error{EPIPE, "map event_pipe: standard output: closed"};
  }
  return {};
}

}  // namespace bpftime::cli
