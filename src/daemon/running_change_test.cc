// Probes that come and go on functions other threads hammer: the real attacher against a forked child.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <random>
#include <thread>

#include "daemon/attacher.h"
#include "kernel/testing.h"
#include "wire/target_context.h"

asm(R"(
    .text
    .macro hammered name
    .globl \name
    .type \name,@function
\name:
    .endm
    .macro ends name
    .size \name, . - \name
    .endm
    .align 16
    hammered hammered_plain       # (a, b): boundaries at 1 and 4
    push %rbx
    mov %rdi, %rbx
    lea 1(%rbx,%rsi), %rax
    pop %rbx
    ret
    ends hammered_plain
    .align 16
    hammered hammered_loop        # (n): jumps into its own first five bytes
    xor %eax, %eax
1:  inc %eax
    inc %eax
    dec %edi
    jnz 1b
    ret
    ends hammered_loop
    .align 16
    hammered hammered_short       # (a): shorter than a jump, the next begins at once
    mov %edi, %eax
    ret
    ends hammered_short
    hammered hammered_inside      # (a, b): flags and the red zone live across +0x0f
    mov %rdi, -8(%rsp)
    mov %rsi, -120(%rsp)
    mov %rsi, %rax
    cmp %rsi, %rdi
    .globl hammered_inside_site
hammered_inside_site:
    mov %rdi, %rdx
    mov %rsi, %rcx
    adc -8(%rsp), %rax
    xor -120(%rsp), %rax
    xor %rdx, %rax
    xor %rcx, %rax
    ret
    ends hammered_inside
    .align 16
    hammered hammered_pushes      # (a): boundaries at 2, 3 and 4
    push %r12
    push %rbp
    push %rbx
    sub $16, %rsp
    lea 5(%rdi), %rax
    add $16, %rsp
    pop %rbx
    pop %rbp
    pop %r12
    ret
    ends hammered_pushes
    .align 16
    nop
)");

extern "C" uint64_t hammered_plain(uint64_t a, uint64_t b);
extern "C" uint32_t hammered_loop(uint32_t n);
extern "C" uint32_t hammered_short(uint32_t a);
extern "C" uint64_t hammered_inside(uint64_t a, uint64_t b);
extern "C" uint64_t hammered_pushes(uint64_t a);
extern "C" const uint8_t hammered_inside_site[];

namespace bpftime::daemon {
namespace {

struct Progress {
  std::atomic<uint64_t> rounds[8], signals, wrong;
  std::atomic<bool> one_core;
};
Progress* progress;

uint64_t inside_by_hand(uint64_t a, uint64_t b) { return ((b + a + (a < b ? 1 : 0)) ^ b) ^ a ^ b; }

void hammer_once(uint64_t i) {
  const uint64_t a = i * 0x9e3779b97f4a7c15, b = a >> 7 ^ i;
  bool right = hammered_plain(a, b) == a + b + 1;
  right = right && hammered_loop(1 + i % 7) == 2 * (1 + i % 7);
  right = right && hammered_short(static_cast<uint32_t>(a)) == static_cast<uint32_t>(a);
  right = right && hammered_inside(a, b) == inside_by_hand(a, b);
  right = right && hammered_pushes(a) == a + 5;
  if (!right) ++progress->wrong;
}

[[noreturn]] void be_the_victim(int threads) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct sigaction action {};
  action.sa_handler = [](int) { hammer_once(++progress->signals); };
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  itimerval every{{0, 700}, {0, 700}};
  setitimer(ITIMER_REAL, &every, nullptr);
  std::vector<std::thread> hammers;
  const auto work = [](int number) {
    bool on_one = false;
    for (uint64_t i = 0;; ++i) {
      hammer_once(i);
      progress->rounds[number].fetch_add(1, std::memory_order_relaxed);
      if (i % 1024 != 0 || on_one == progress->one_core) continue;
      on_one = !on_one;
      cpu_set_t set;
      CPU_ZERO(&set);
      for (int cpu = 0; cpu < (on_one ? 1 : CPU_SETSIZE); ++cpu) CPU_SET(cpu, &set);
      sched_setaffinity(0, sizeof set, &set);
    }
  };
  for (int i = 1; i < threads; ++i) hammers.emplace_back(work, i);
  work(0);
  abort();
}

class RunningChange : public ::testing::Test {
 protected:
  void SetUp() override {
    progress = static_cast<Progress*>(
        mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  void TearDown() override {
    if (victim_ > 0) {
      kill(victim_, SIGKILL);
      waitpid(victim_, nullptr, 0);
    }
  }
  void start(int threads) {
    victim_ = fork();
    if (victim_ == 0) be_the_victim(threads);
    ASSERT_TRUE(kernel_.start().ok());
    AttacherConfig config;
    config.window = wire::window_address(geteuid());
    config.instance = static_cast<uint64_t>(getpid());
    config.uid = geteuid();
    const char* directory = std::getenv("BPFTIME_BIN_DIR");
    char self[4096] = {};
    const std::string own = realpath("/proc/self/exe", self);
    config.agent_path =
        (directory ? std::string(directory) : own.substr(0, own.rfind('/'))) + "/libbpftime-agent.so";
    attacher_ = std::make_unique<Attacher>(kernel_, std::move(config));
  }

  struct Probe {
    const void* site;
    kernel::BpfReply event, link;
    bool on;
  };
  void load_program() {
    map_ = kernel::create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE);
    ASSERT_EQ(map_.result, 0) << map_.text;
    counted_ =
        static_cast<std::atomic<uint64_t>*>(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, map_.fd.get(), 0));
    ASSERT_NE(counted_, MAP_FAILED);
    // ++map[0], atomically
    const std::vector<bpf_insn> insns = {{BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, 0},
                                         {0, 0, 0, 0, 0},
                                         {BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 1},
                                         {BPF_STX | BPF_ATOMIC | BPF_DW, 1, 2, 0, BPF_ADD},
                                         {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0},
                                         {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
    program_ = kernel::load_program(kernel_, insns, {{0, map_.fd.get()}});
    ASSERT_EQ(program_.result, 0) << program_.text;
  }
  static uint64_t file_offset(const void* address) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      uint64_t start, end, offset;
      if (sscanf(line.c_str(), "%lx-%lx %*s %lx", &start, &end, &offset) != 3) continue;
      const auto at = reinterpret_cast<uint64_t>(address);
      if (at >= start && at < end) return at - start + offset;
    }
    return 0;
  }
  Probe probe(const void* site) {
    Probe out{site, kernel::open_uprobe(kernel_, "/proc/self/exe", file_offset(site), victim_, -1), {}, true};
    EXPECT_EQ(out.event.result, 0) << out.event.text;
    out.link = kernel::create_link(kernel_, program_.fd.get(), out.event.fd.get());
    EXPECT_EQ(out.link.result, 0) << out.link.text;
    return out;
  }
  void set(Probe& probe, bool on) {
    if (probe.on == on) return;
    const auto request = on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE;
    ASSERT_EQ(kernel_.perf_ioctl(probe.event.fd.get(), request, 0, -1).result, 0);
    probe.on = on;
  }
  // The victim's text as it was forked: our own.
  bool text_is_restored() {
    const auto* start = reinterpret_cast<const uint8_t*>(hammered_plain);
    auto process = target::Process::open(victim_);
    auto now = process->read(reinterpret_cast<uint64_t>(start), 256);
    return now.ok() && std::equal(now->begin(), now->end(), start);
  }
  std::string skipped() {
    for (const auto& report : attacher_->reports())
      for (const auto& probe : report.probes)
        if (!probe.skipped.empty()) return probe.function + ": " + probe.skipped;
    return "";
  }
  uint64_t rounds() {
    uint64_t all = 0;
    for (const auto& each : progress->rounds) all += each;
    return all;
  }
  void expect_alive() {
    int status = 0;
    ASSERT_EQ(waitpid(victim_, &status, WNOHANG), 0) << "the victim ended with status " << status;
    ASSERT_EQ(progress->wrong.load(), 0u);
  }

  pid_t victim_ = 0;
  kernel::Remembering observer_;
  kernel::Kernel kernel_{observer_, wire::window_address(geteuid())};
  std::unique_ptr<Attacher> attacher_;
  kernel::BpfReply map_, program_;
  std::atomic<uint64_t>* counted_ = nullptr;
};

uint64_t median(std::vector<uint64_t>& of) {
  if (of.empty()) return 0;
  std::nth_element(of.begin(), of.begin() + static_cast<ptrdiff_t>(of.size() / 2), of.end());
  return of[of.size() / 2];
}

TEST_F(RunningChange, ComesAndGoesUnderLoad) {
  const char* wanted = std::getenv("BPFTIME_TEST_PAIRS");
  const uint64_t pairs_wanted = wanted ? std::strtoull(wanted, nullptr, 10) : 500;
  const uint32_t seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  start(3);
  load_program();
  const void* sites[] = {reinterpret_cast<void*>(hammered_plain), reinterpret_cast<void*>(hammered_loop),
                         reinterpret_cast<void*>(hammered_short), hammered_inside_site,
                         reinterpret_cast<void*>(hammered_pushes)};
  std::vector<Probe> probes;
  for (const void* site : sites) probes.push_back(probe(site));
  auto first = attacher_->attach(victim_);
  ASSERT_TRUE(first.ok()) << first.error().message;
  ASSERT_EQ(skipped(), "");
  ASSERT_FALSE(text_is_restored());
  uint64_t pairs = 0, changes = 0, stops = 0;
  uint32_t chosen_before = ~0u;
  std::vector<uint64_t> held, whole;
  for (uint64_t round = 0; pairs < pairs_wanted; ++round) {
    if (round % 64 == 0) progress->one_core = !progress->one_core;
    const uint32_t chosen = round % 16 == 0 ? 0 : random() % (1u << probes.size());
    if (chosen == chosen_before) continue;
    chosen_before = chosen;
    for (size_t i = 0; i < probes.size(); ++i) {
      const bool on = (chosen >> i & 1) != 0;
      pairs += probes[i].on && !on;
      set(probes[i], on);
    }
    const auto before = attacher_->running_changes();
    auto done = attacher_->reconcile(victim_);
    if (!done) expect_alive();
    ASSERT_TRUE(done.ok()) << done.error().message << " round " << round;
    ++changes;
    if (attacher_->running_changes() == before) {
      ++stops;
    } else {
      if (attacher_->last_running_change().held_ns != 0)
        held.push_back(attacher_->last_running_change().held_ns);
      whole.push_back(attacher_->last_running_change().whole_ns);
    }
    if (chosen == 0) {
      ASSERT_TRUE(text_is_restored()) << "round " << round;
    }
    if (round % 16 == 0) expect_alive();
    if (HasFatalFailure()) return;
  }
  for (Probe& each : probes) set(each, false);
  ASSERT_TRUE(attacher_->reconcile(victim_).ok());
  EXPECT_TRUE(text_is_restored());
  const uint64_t before = rounds();
  for (int i = 0; i < 1000 && rounds() < before + 100; ++i) usleep(10000);
  EXPECT_GE(rounds(), before + 100);
  expect_alive();
  EXPECT_GT(counted_->load(), 0u);
  EXPECT_GT(progress->signals.load(), 0u);
  // Most changes are of a running process; the first after the guard went are not.
  EXPECT_LT(stops, changes / 10 + 2);
  std::printf("%lu pairs in %lu changes, %lu by stopping, %lu without holding a thread; else one was held %lu us; "
              "%lu us in all (medians)\n",
              pairs, changes, stops, attacher_->outside_changes(), median(held) / 1000, median(whole) / 1000);
  std::printf("hits %lu, hammer rounds %lu, signals %lu\n", counted_->load(), rounds(),
              progress->signals.load());
}

}  // namespace
}  // namespace bpftime::daemon
