#include "daemon/clocks.h"

#include <linux/bpf_perf_event.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"

namespace bpftime::daemon {

namespace {

// struct bpf_perf_event_data: nobody was interrupted, so all registers are zero.
struct ClockContext {
  wire::PtRegs registers;
  uint64_t sample_period, address;
};
static_assert(sizeof(ClockContext) == sizeof(bpf_perf_event_data));
static_assert(sizeof(ClockContext) <= runner::kContextMax);

timespec timespec_of(uint64_t ns) {
  constexpr uint64_t kSecond = 1'000'000'000;
  return {static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)};
}

// One per event and program.
uint64_t key_of(const kernel::PerfEvent& event, const kernel::Prog& program) {
  return uint64_t{event.id} << 32 | program.id;
}

// Where runs for that key are counted; none (0): a run that a tool asked for.
kernel::HitPlace place_of(uint64_t key, uint32_t program) {
  return {.address = key >> 32, .program = program};
}

}  // namespace

void Clocks::update() {
  std::map<uint32_t, Timer> wanted;
  for (auto& probe : kernel_.clocks()) {
    const uint32_t id = probe.event->id;
    const uint64_t period_ns = probe.event->period_ns;
    const auto known = timers_.find(id);
    if (known != timers_.end() && known->second.period_ns == period_ns) {
      wanted.emplace(id, Timer{std::move(known->second.fd), std::move(probe), period_ns});
      continue;
    }
    Fd fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    const itimerspec every{timespec_of(period_ns), timespec_of(period_ns)};
    if (!fd || ::timerfd_settime(fd.get(), 0, &every, nullptr) != 0) {
      log_warning("clock event " + std::to_string(id) + ": " + std::strerror(errno));
      continue;
    }
    new_.push_back(fd.get());
    wanted.emplace(id, Timer{std::move(fd), std::move(probe), period_ns});
  }
  for (const auto& [id, timer] : timers_)
    if (!wanted.contains(id))
      for (const auto& attached : timer.probe.programs)
        runner_.forget(key_of(*timer.probe.event, *attached.program));
  timers_ = std::move(wanted);
  by_fd_.clear();
  for (const auto& [id, timer] : timers_) by_fd_[timer.fd.get()] = id;
}

std::vector<int> Clocks::take_new() { return std::exchange(new_, {}); }

void Clocks::fire(int fd) {
  uint64_t periods = 0;
  if (::read(fd, &periods, sizeof periods) != static_cast<ssize_t>(sizeof periods)) return;
  const Timer& timer = timers_.at(by_fd_.at(fd));
  const auto& event = *timer.probe.event;
  for (const auto& attached : timer.probe.programs) {
    kernel::Prog& program = *attached.program;
    if (auto placed = kernel_.place_code(program); !placed) {
      log_warning("clock event " + std::to_string(event.id) + ": " + placed.error().message);
      continue;
    }
    ClockContext context{};
    context.sample_period = timer.period_ns;
    kernel::ProgramRun run;
    run.program = &program;
    run.context = as_bytes(context);
    run.cookie = attached.cookie;
    run.cpu = event.cpu;
    (void)runner_.start(run, kernel_.memory_of({attached.program}), key_of(event, program));
  }
}

void Clocks::count_runs() {
  const auto runs = runner_.take_ran();
  if (!kernel_.counting()) return;
  const auto& map = kernel_.hits_map();
  for (const auto& run : runs) {
    const uint64_t address = kernel_.hit_counter(place_of(run.key.value_or(0), run.program));
    if (address == 0) continue;
    // As trampolines do it; but this place is counted by nobody else.
    auto* counter = reinterpret_cast<kernel::Hits::Counter*>(map->memory.data() + (address - map->address));
    ++counter->begun;
    ++counter->ended;
    counter->cycles += run.cycles;
  }
}

std::vector<ClockReport> Clocks::reports() const {
  std::vector<ClockReport> out;
  for (const auto& [id, timer] : timers_) {
    ClockReport report{id, timer.period_ns, timer.probe.event->cpu, {}};
    for (const auto& attached : timer.probe.programs) {
      const kernel::Prog& program = *attached.program;
      const uint64_t key = key_of(*timer.probe.event, program);
      std::optional<uint64_t> hits;
      if (kernel_.counting()) hits = kernel_.hits_at(kernel_.hit_counter(place_of(key, program.id))).runs;
      report.programs.push_back({program.id, program.name, hits, runner_.failed(key)});
    }
    out.push_back(std::move(report));
  }
  return out;
}

}  // namespace bpftime::daemon
