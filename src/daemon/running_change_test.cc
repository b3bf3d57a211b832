// Probes that come and go on functions other threads hammer: the real attacher against a forked child.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
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

// Every write to a target, and to its code memory, comes by here.
namespace {
int64_t writes_to_live = -1;  // this process dies in the place of the write after that; -1: it does not
int64_t writes_made = 0;
}  // namespace
extern "C" ssize_t pwrite(int fd, const void* bytes, size_t size, off_t at) {
  if (writes_to_live >= 0 && writes_made == writes_to_live) kill(getpid(), SIGKILL);
  ++writes_made;
  return syscall(SYS_pwrite64, fd, bytes, size, at);
}

namespace bpftime::daemon {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

struct Progress {
  std::atomic<uint64_t> rounds[8], signals, wrong;
  std::atomic<bool> one_core;
  std::atomic<uint64_t> mapped, answer;  // be_a_host_of_files()
  std::atomic<int> wanted;
  std::atomic<bool> hold;  // hammered_waits()
  std::atomic<uint64_t> inside, outside;
};
Progress* progress;

// Does not return while it is held.
extern "C" __attribute__((noinline, used)) long hammered_waits() {
  ++progress->inside;
  while (progress->hold) usleep(1000);
  asm volatile("" ::: "memory");
  return 42;
}

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

// Is one of the victim's threads: each time it is to be held, it calls.
[[noreturn]] void be_held() {
  for (;; usleep(1000)) {
    if (!progress->hold) continue;
    if (hammered_waits() != 42) ++progress->wrong;
    ++progress->outside;
  }
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
  hammers.emplace_back(be_held);
  work(0);
  abort();
}

// Maps the page at `offset` of one of `files`, as progress->wanted says, to one and the same place and calls what is there.
[[noreturn]] void be_a_host_of_files(void* place, uint64_t offset, const Fd (&files)[2], uint64_t function) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int mapped = -1;;) {
    if (const int wanted = progress->wanted; wanted != mapped) {
      mmap(place, kPageSize, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, files[wanted].get(),
           static_cast<off_t>(offset));
      mapped = wanted;
      ++progress->mapped;
    }
    const auto call = reinterpret_cast<decltype(&hammered_plain)>(static_cast<char*>(place) + function);
    progress->answer = call(1, 2);
    ++progress->rounds[0];
  }
}

// Remembers where uprobes changed, for who wants to change only those places.
struct Noting : kernel::Remembering {
  std::vector<kernel::UprobePlace> places;
  void uprobes_changed(const std::vector<kernel::UprobePlace>& changed) override {
    places.insert(places.end(), changed.begin(), changed.end());
    probes_changed();
  }
  std::vector<kernel::UprobePlace> take() { return std::exchange(places, {}); }
};

class RunningChange : public ::testing::Test {
 protected:
  void SetUp() override {
    progress = static_cast<Progress*>(
        mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  void TearDown() override { end_victim(); }
  void end_victim() {
    if (victim_ <= 0) return;
    kill(victim_, SIGKILL);
    waitpid(victim_, nullptr, 0);
    victim_ = 0;
  }
  void die_at_every_write(bool few);
  void begin_victim(int threads) {
    victim_ = fork();
    if (victim_ == 0) be_the_victim(threads);
  }
  void start(int threads, size_t code_growth_max = 512) {
    begin_victim(threads);
    ASSERT_TRUE(kernel_.start().ok());
    attacher_ = std::make_unique<Attacher>(kernel_, configuration(code_growth_max));
  }
  AttacherConfig configuration(size_t code_growth_max) {
    AttacherConfig config;
    config.code_growth_max = code_growth_max;
    config.window = wire::window_address(geteuid());
    config.instance = instance_;
    config.uid = geteuid();
    const char* directory = std::getenv("BPFTIME_BIN_DIR");
    char self[4096] = {};
    const std::string own = realpath("/proc/self/exe", self);
    config.agent_path =
        (directory ? std::string(directory) : own.substr(0, own.rfind('/'))) + "/libbpftime-agent.so";
    return config;
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
  Probe probe(const void* site, uint64_t cookie = 0) {
    Probe out{site, kernel::open_uprobe(kernel_, "/proc/self/exe", file_offset(site), victim_, -1), {}, true};
    EXPECT_EQ(out.event.result, 0) << out.event.text;
    out.link = kernel::create_link(kernel_, program_.fd.get(), out.event.fd.get(), cookie);
    EXPECT_EQ(out.link.result, 0) << out.link.text;
    return out;
  }
  Probe return_probe(const void* site) {
    perf_event_attr attr{};
    attr.size = sizeof attr;
    attr.type = wire::kUprobePmuType;
    attr.config = 1;  // on return
    attr.config2 = file_offset(site);
    wire::PerfEventOpen request{};
    std::memcpy(request.attr, &attr, sizeof attr);
    request.pid = victim_;
    request.cpu = -1;
    Probe out{site, kernel_.perf_event_open(request, "/proc/self/exe"), {}, true};
    EXPECT_EQ(out.event.result, 0) << out.event.text;
    out.link = kernel::create_link(kernel_, program_.fd.get(), out.event.fd.get(), 0);
    EXPECT_EQ(out.link.result, 0) << out.link.text;
    return out;
  }
  // Where the victim has the library of return slots mapped; 0: nowhere.
  uint64_t near_slots() {
    std::ifstream maps("/proc/" + std::to_string(victim_) + "/maps");
    for (std::string line; std::getline(maps, line);)
      if (line.find("/libbpftime-near.so") != std::string::npos) return std::stoull(line, nullptr, 16);
    return 0;
  }
  void probe_returns() {
    auto first = attacher_->attach(victim_);
    ASSERT_TRUE(first.ok()) << first.error().message;
    load_program();
    for (int round = 0; round < 20 && !HasFailure(); ++round) {
      std::vector<Probe> probes;
      probes.push_back(return_probe(reinterpret_cast<void*>(hammered_plain)));
      probes.push_back(return_probe(reinterpret_cast<void*>(hammered_pushes)));
      auto on = attacher_->reconcile(victim_);
      ASSERT_TRUE(on.ok()) << on.error().message;
      ASSERT_EQ(skipped(), "");
      expect_progress(1000);
      for (Probe& one : probes) set(one, false);
      auto off = attacher_->reconcile(victim_);
      ASSERT_TRUE(off.ok()) << off.error().message;
      ASSERT_TRUE(text_is_restored());
      probes.clear();
      kernel::settle(kernel_);
    }
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
    if (!now || std::equal(now->begin(), now->end(), start)) return now.ok();
    for (size_t i = 0; i < now->size(); ++i)
      if ((*now)[i] != start[i]) std::printf("+%zu: %02x is %02x\n", i, start[i], (*now)[i]);
    return false;
  }
  // Whether each site holds another first byte than in us, whom the victim was forked from, just when its probe is on.
  bool text_is_as_wanted(const std::vector<Probe>& probes) {
    const auto* start = reinterpret_cast<const uint8_t*>(hammered_plain);
    uint8_t now[256];
    const iovec local{now, sizeof now}, remote{const_cast<uint8_t*>(start), sizeof now};
    if (process_vm_readv(victim_, &local, 1, &remote, 1, 0) != sizeof now) return false;
    return std::all_of(probes.begin(), probes.end(), [&](const Probe& probe) {
      const auto* site = static_cast<const uint8_t*>(probe.site);
      return (now[site - start] != *site) == probe.on;
    });
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
  // It goes on: what is patched is hit `hits` times more at least, and all threads get on.
  void expect_progress(uint64_t hits) {
    const uint64_t rounds_before = rounds(), hits_before = counted_->load();
    const auto there = [&] {
      return rounds() >= rounds_before + 100 && counted_->load() >= hits_before + hits;
    };
    for (int i = 0; i < 30000 && !there(); ++i) usleep(1000);
    EXPECT_GE(rounds(), rounds_before + 100);
    EXPECT_GE(counted_->load(), hits_before + hits);
    expect_alive();
  }
  size_t mappings() {
    std::ifstream maps("/proc/" + std::to_string(victim_) + "/maps");
    size_t count = 0;
    for (std::string line; std::getline(maps, line);) ++count;
    return count;
  }
  void expect_alive() {
    int status = 0;
    ASSERT_EQ(waitpid(victim_, &status, WNOHANG), 0) << "the victim ended with status " << status;
    ASSERT_EQ(progress->wrong.load(), 0u);
  }

  const uint64_t instance_ = static_cast<uint64_t>(getpid());  // of all daemons of one test
  pid_t victim_ = 0;
  Noting observer_;
  kernel::Kernel kernel_{observer_, wire::window_address(geteuid())};
  std::unique_ptr<Attacher> attacher_;
  kernel::BpfReply map_, program_;
  std::atomic<uint64_t>* counted_ = nullptr;
};

// A probe that comes back finds the plan and the trampoline it had, but not where another function has come in the place
// of its own.
TEST_F(RunningChange, AnotherFileComesToTheSamePlace) {
  const uint64_t at = file_offset(reinterpret_cast<void*>(hammered_plain));
  const uint64_t offset = at / kPageSize * kPageSize;
  constexpr uint8_t kOriginal[] = {0x53, 0x48, 0x89, 0xfb, 0x48,
                                   0x8d, 0x44, 0x33, 0x01};  // … lea 1(%rbx,%rsi)
  constexpr uint64_t kAdded = sizeof kOriginal - 1;          // where the 1 is
  ASSERT_TRUE(std::equal(std::begin(kOriginal), std::end(kOriginal),
                         reinterpret_cast<const uint8_t*>(hammered_plain)));
  std::ifstream self("/proc/self/exe", std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(self)), {});
  Fd files[2];
  std::string paths[2];
  for (int i = 0; i < 2; ++i) {
    bytes.at(at + kAdded) = static_cast<char>(1 + i);
    paths[i] = testing::TempDir() + "place-" + std::to_string(getpid()) + "-" + std::to_string(i);
    std::ofstream(paths[i], std::ios::binary) << bytes;
    files[i] = Fd(open(paths[i].c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(files[i]);
  }
  void* place = mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(place, MAP_FAILED);
  victim_ = fork();
  if (victim_ == 0) be_a_host_of_files(place, offset, files, at - offset);
  ASSERT_TRUE(kernel_.start().ok());
  attacher_ = std::make_unique<Attacher>(kernel_, configuration(512));
  load_program();
  ASSERT_TRUE(attacher_->attach(victim_).ok());
  for (const int which : {0, 1, 0, 0, 1}) {
    SCOPED_TRACE("file " + std::to_string(which));
    const uint64_t mapped = progress->mapped;
    if (progress->wanted.exchange(which) != which || mapped == 0)
      for (int i = 0; i < 30000 && progress->mapped == mapped; ++i) usleep(1000);
    Probe one{hammered_inside_site, kernel::open_uprobe(kernel_, paths[which], at, victim_, -1), {}, true};
    one.link = kernel::create_link(kernel_, program_.fd.get(), one.event.fd.get());
    ASSERT_EQ(one.link.result, 0) << one.link.text;
    auto on = attacher_->reconcile(victim_);
    ASSERT_TRUE(on.ok()) << on.error().message;
    ASSERT_EQ(skipped(), "");
    expect_progress(1);
    EXPECT_EQ(progress->answer, 4u + static_cast<uint64_t>(which));
    set(one, false);
    ASSERT_TRUE(attacher_->reconcile(victim_).ok());
    one = {};
    kernel::settle(kernel_);
  }
  munmap(place, kPageSize);
  for (const auto& path : paths) unlink(path.c_str());
}

uint64_t median(std::vector<uint64_t>& of) {
  if (of.empty()) return 0;
  std::nth_element(of.begin(), of.begin() + static_cast<ptrdiff_t>(of.size() / 2), of.end());
  return of[of.size() / 2];
}

// Every probe asks for a trampoline of its own, since its cookie is another. The first test here: the victim is a fork of the
// daemon, and what an earlier daemon's heap says of code memory would look like addresses on a stack.
TEST_F(RunningChange, CodeMemoryIsUsedAgain) {
  constexpr uint64_t kPairs = 200, kWarm = 60;
  start(3, /*code_growth_max=*/50);
  load_program();
  const void* sites[] = {reinterpret_cast<void*>(hammered_plain), reinterpret_cast<void*>(hammered_short),
                         reinterpret_cast<void*>(hammered_pushes)};
  auto first = attacher_->attach(victim_);
  ASSERT_TRUE(first.ok()) << first.error().message;
  // All the while a call is in flight whose probe has gone: it comes back to code memory at the end.
  {
    Probe held = return_probe(reinterpret_cast<void*>(hammered_waits));
    ASSERT_TRUE(attacher_->reconcile(victim_).ok());
    ASSERT_EQ(skipped(), "");
    progress->hold = true;
    for (int i = 0; i < 30000 && progress->inside == 0; ++i) usleep(1000);
    ASSERT_EQ(progress->inside, 1u);
    set(held, false);
    ASSERT_TRUE(attacher_->reconcile(victim_).ok());
  }
  kernel::settle(kernel_);
  size_t mappings_then = 0;
  for (uint64_t i = 0; i < kPairs; ++i) {
    Probe one = probe(sites[i % std::size(sites)], 1 + i);
    auto on = attacher_->reconcile(victim_);
    ASSERT_TRUE(on.ok()) << on.error().message;
    if (i % 50 == 0) expect_progress(1);
    set(one, false);
    auto off = attacher_->reconcile(victim_);
    ASSERT_TRUE(off.ok()) << off.error().message;
    ASSERT_TRUE(text_is_restored());
    one = {};
    kernel::settle(kernel_);
    if (i == kWarm) mappings_then = mappings();
    if (HasFailure()) return;
  }
  progress->hold = false;
  for (int i = 0; i < 30000 && progress->outside == 0; ++i) usleep(1000);
  EXPECT_EQ(progress->outside, 1u);
  expect_progress(0);
  EXPECT_LE(mappings(), mappings_then);
  if (kSanitized) GTEST_SKIP() << "the victim's shadow memory is more than is looked through for code in use";
  // What was handed out and is not back is little more than what stands between two looks.
  EXPECT_GT(attacher_->code_blocks_released(), kPairs / 4);
  std::printf("%lu blocks of code memory given back in %lu pairs\n", attacher_->code_blocks_released(),
              kPairs);
}

// No trampoline saves vector state: code that would change some, whatever made it, comes into no process.
TEST_F(RunningChange, CodeThatUsesVectorRegistersIsRefused) {
  start(1);
  load_program();
  const Probe one = probe(reinterpret_cast<void*>(hammered_plain));
  for (const auto& program : kernel_.objects().all<kernel::Prog>(kernel::ObjectKind::kProgram)) {
    ASSERT_TRUE(program->code.has_value());
    const uint8_t code[] = {0x66, 0x0f, 0xef, 0xc0,
                            0x31, 0xc0, 0xc3};  // pxor %xmm0,%xmm0; xor %eax,%eax; ret
    std::copy(std::begin(code), std::end(code), program->code->image.begin() + program->code->entry_offset);
  }
  auto attached = attacher_->attach(victim_);
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  EXPECT_NE(skipped().find("programs may use general registers only"), std::string::npos) << skipped();
  EXPECT_TRUE(text_is_restored());
  expect_alive();
}

TEST_F(RunningChange, ReturnsOfTheProgramGoThroughSlotsNearIt) {
  start(3);
  probe_returns();
  const auto site = reinterpret_cast<uint64_t>(hammered_plain), near = near_slots();
  ASSERT_NE(near, 0u);
  EXPECT_LT(std::max(site, near) - std::min(site, near), uint64_t{1} << 32);
}

TEST_F(RunningChange, ReturnsAreProbedWithoutThatLibrary) {
  char directory[] = "/tmp/bpftime-agent-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  start(3);
  AttacherConfig config = configuration(512);
  const std::string copy = std::string(directory) + "/libbpftime-agent.so";
  std::filesystem::copy_file(config.agent_path, copy);
  config.agent_path = copy;
  attacher_ = std::make_unique<Attacher>(kernel_, config);
  probe_returns();
  EXPECT_EQ(near_slots(), 0u);
  std::filesystem::remove_all(directory);
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
  std::vector<uint64_t> held, whole, reconciled;
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
    const auto begin = std::chrono::steady_clock::now();
    const auto places = observer_.take();
    if (round % 8 < 5) {
      attacher_->reconcile_places(places);
    } else {
      auto done = attacher_->reconcile(victim_);
      if (!done) expect_alive();
      ASSERT_TRUE(done.ok()) << done.error().message << " round " << round;
    }
    reconciled.push_back(static_cast<uint64_t>((std::chrono::steady_clock::now() - begin).count()));
    ASSERT_EQ(attacher_->target_count(), 1u) << "round " << round;
    ASSERT_TRUE(text_is_as_wanted(probes)) << "round " << round;
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
  expect_progress(0);
  EXPECT_GT(counted_->load(), 0u);
  EXPECT_GT(progress->signals.load(), 0u);
  // Most changes are of a running process; the first after the guard went are not.
  EXPECT_LT(stops, changes / 10 + 2);
  std::printf(
      "%lu pairs in %lu changes, %lu by stopping, %lu without holding a thread, %lu of these without a look "
      "at "
      "all; else one was held %lu us; "
      "changes took %lu us, %lu us with the look at the process (medians)\n",
      pairs, changes, stops, attacher_->outside_changes(), attacher_->few_changes(), median(held) / 1000,
      median(whole) / 1000, median(reconciled) / 1000);
  std::printf("hits %lu, hammer rounds %lu, signals %lu\n", counted_->load(), rounds(),
              progress->signals.load());
}

// The daemon dies before each write of a change of a running target: the target stays right, the next daemon goes on.
// `few`: of a change of some places, made without a look at all.
void RunningChange::die_at_every_write(bool few) {
  ASSERT_TRUE(kernel_.start().ok());
  begin_victim(2);
  load_program();
  const void* sites[] = {reinterpret_cast<void*>(hammered_plain), reinterpret_cast<void*>(hammered_short),
                         reinterpret_cast<void*>(hammered_pushes)};
  bool completed = false;
  int64_t deaths = 0;
  // All of them take minutes: some now, beginning anywhere; the rest with label long.
  const bool all = std::getenv("BPFTIME_TEST_PAIRS") != nullptr;
  const int64_t step = all ? 1 : 18;
  for (int64_t allowed = all ? 0 : std::random_device{}() % step; !completed && !HasFailure();
       allowed += step) {
    SCOPED_TRACE("after " + std::to_string(allowed) + " writes");
    if (victim_ == 0) begin_victim(2);
    std::vector<Probe> probes;
    for (const void* site : sites) probes.push_back(probe(site));
    const pid_t daemon = fork();
    if (daemon == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      Attacher attacher(kernel_, configuration(512));
      if (!attacher.attach(victim_)) _exit(2);
      if (few && !attacher.reconcile(victim_)) _exit(2);
      observer_.take();
      writes_to_live = allowed;
      writes_made = 0;
      for (const bool on : {false, true}) {
        for (Probe& each : probes)
          if (kernel_
                  .perf_ioctl(each.event.fd.get(), on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0, -1)
                  .result != 0)
            _exit(3);
        if (few) attacher.reconcile_places(observer_.take());
        if (!few && !attacher.reconcile(victim_)) _exit(4);
      }
      _exit(attacher.running_changes() >= 2 ? 0 : 5);
    }
    int status = 0;
    ASSERT_EQ(waitpid(daemon, &status, 0), daemon);
    completed = WIFEXITED(status);
    if (completed) {
      ASSERT_EQ(WEXITSTATUS(status), 0) << "the change was to be made while the victim runs";
    }
    deaths += !completed;
    expect_progress(0);
    // The next daemon completes the change, then takes it back.
    attacher_ = std::make_unique<Attacher>(kernel_, configuration(512));
    attacher_->reconcile_all();
    EXPECT_EQ(skipped(), "");
    expect_progress(1);
    for (Probe& each : probes) set(each, false);
    attacher_->withdraw();
    EXPECT_TRUE(text_is_restored());
    expect_progress(0);
    attacher_.reset();
    end_victim();
    probes.clear();
    kernel::settle(kernel_);
  }
  EXPECT_TRUE(completed);
  EXPECT_GT(deaths, 20 / step);
  std::printf("died in the place of %ld writes\n", deaths);
}

TEST_F(RunningChange, DiesAtEveryWrite) { die_at_every_write(/*few=*/false); }

TEST_F(RunningChange, DiesAtEveryWriteOfAFewPlaces) { die_at_every_write(/*few=*/true); }

}  // namespace
}  // namespace bpftime::daemon
