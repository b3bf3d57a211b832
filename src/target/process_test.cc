#include "target/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <thread>

#include "target/maps_parser.h"
#include "target/signal_frame.h"
#include "target/stopped.h"
#include "target/tracee.h"
#include "target/victim/victim_runner.h"

namespace bpftime::target {
namespace {

TEST(MapsParser, ReadsEveryField) {
  auto region = parse_maps_line(
      "7f0c2a000000-7f0c2a021000 rw-s 00001000 fd:1a 1234                       /a b/c\\012d (deleted)");
  ASSERT_TRUE(region);
  EXPECT_EQ(region->start, 0x7f0c2a000000u);
  EXPECT_EQ(region->end, 0x7f0c2a021000u);
  EXPECT_TRUE(region->readable && region->writable && region->shared && !region->executable);
  EXPECT_EQ(region->offset, 0x1000u);
  EXPECT_EQ(region->device, makedev(0xfd, 0x1a));
  EXPECT_EQ(region->inode, 1234u);
  EXPECT_EQ(region->path, "/a b/c\\012d (deleted)");
  EXPECT_EQ(parse_maps_line("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]")->path,
            "[vsyscall]");
  EXPECT_EQ(parse_maps_line("1000-2000 r-xp 00000000 00:00 0")->path, "");
}

TEST(MapsParser, RefusesWhatIsNotALine) {
  for (const char* line :
       {"", "-", "1000", "1000-", "1000-2000", "1000-2000 r-xp", "2000-1000 r-xp 0 0:0 0", "x-y r-xp 0 0:0 0",
        "1000-2000 r-xp 0", "1000-2000 r-xp 0 0", "1000-2000 r-xp 0 0:0", "1000-2000 r-xp 0 0:0 x",
        "11112222333344445-2000 r-xp 0 0:0 0"}) {
    EXPECT_FALSE(parse_maps_line(line)) << line;
  }
  EXPECT_EQ(parse_maps("junk\n1000-2000 r-xp 00000000 00:00 0\n\n3000-").size(), 1u);
}

TEST(StatParser, NameMayContainAnything) {
  std::string fields;
  for (int i = 4; i <= 40; ++i) fields += " " + std::to_string(i);
  EXPECT_EQ(parse_stat("12 (a) R 1 ) (x) S" + fields)->start_time, 22u);
  EXPECT_EQ(parse_stat("12 (a b) t" + fields)->state, 't');
  EXPECT_FALSE(parse_stat("12 (a"));
  EXPECT_FALSE(parse_stat("12 (a)"));
  EXPECT_FALSE(parse_stat("12 (a) S 1 2"));
  EXPECT_FALSE(parse_stat(""));
}

TEST(Parsers, SurviveDamage) {
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const std::string line =
      "7f0c2a000000-7f0c2a021000 rw-p 00001000 fd:01 1234 /lib/x\nName:\tx\nTgid:\t1\nUid:\t1\t2\t3\t4\n";
  for (int round = 0; round < 20'000; ++round) {
    std::string text = line.substr(0, random() % (line.size() + 1));
    for (int i = 0; i < 3 && !text.empty(); ++i) text[random() % text.size()] = static_cast<char>(random());
    (void)parse_maps(text);
    (void)parse_status(text);
    (void)parse_stat(text);
  }
}

TEST(Status, FiltersAreJudgedByOurOwn) {
  auto self = Process::open(::getpid())->status();
  ASSERT_TRUE(self.ok());
  Status status = *self;
  EXPECT_EQ(filtered_unlike_us(status), self->seccomp_mode != 0 && self->seccomp_filters <= 0)
      << "our own are ours";
  status.seccomp_mode = 2;
  status.seccomp_filters = std::max<int64_t>(self->seccomp_filters, 0) + 1;
  EXPECT_TRUE(filtered_unlike_us(status)) << "one more";
  status.seccomp_filters = -1;
  EXPECT_TRUE(filtered_unlike_us(status)) << "a kernel that does not count";
  status.seccomp_mode = 1;
  EXPECT_TRUE(filtered_unlike_us(status));
  status.seccomp_mode = 0;
  status.seccomp_filters = 0;
  EXPECT_FALSE(filtered_unlike_us(status));
}

TEST(Process, KnowsItself) {
  auto self = Process::open(::getpid());
  ASSERT_TRUE(self.ok()) << self.error().message;
  EXPECT_TRUE(self->alive());
  EXPECT_GT(self->start_time(), 0u);
  auto status = self->status();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->tgid, static_cast<uint32_t>(::getpid()));
  EXPECT_EQ(status->parent, static_cast<uint32_t>(::getppid()));
  EXPECT_EQ(status->effective_uid, ::geteuid());
  EXPECT_EQ(self->threads()->size(), 1u);

  struct stat exe;
  ASSERT_EQ(::stat("/proc/self/exe", &exe), 0);
  const auto regions = self->regions();
  ASSERT_TRUE(regions.ok());
  int found = 0;
  for (const MappedRegion& region : *regions) {
    if (region.inode != exe.st_ino || !region.executable) continue;
    ++found;
    if (::geteuid() == 0) {
      EXPECT_EQ(region.device, exe.st_dev);
    }
    auto file = self->open_mapped_file(region);
    ASSERT_TRUE(file.ok()) << file.error().message;
    auto bytes = self->read(region.start, 64);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(std::memcmp(bytes->data(), reinterpret_cast<void*>(region.start), 64), 0);
  }
  EXPECT_GT(found, 0);
  EXPECT_EQ(self->read(8, 8).error().code, EFAULT);
  EXPECT_EQ(self->read(0, UINT64_MAX).error().code, E2BIG);
}

TEST(Process, SpeaksPlainlyAboutStrangers) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read every process";
  auto init = Process::open(1);
  if (!init) {
    EXPECT_EQ(init.error().code, EPERM);
    return;
  }
  auto regions = init->regions();
  ASSERT_FALSE(regions.ok());
  EXPECT_EQ(regions.error().code, EPERM) << regions.error().message;
}

MappedRegion taken(uint64_t start, uint64_t end, const std::string& path = "/x") {
  return MappedRegion{start, end, 0, 0, 0, true, false, true, false, path};
}

TEST(FindGapNear, IsReachableAndFree) {
  constexpr uint64_t kCode = 0x7f0000000000, kMegabyte = 1 << 20, kGigabyte = 1ull << 30;
  std::vector<MappedRegion> regions = {taken(kCode, kCode + 2 * kMegabyte)};
  auto gap = find_gap_near(regions, kCode, kCode + 2 * kMegabyte, 10'000);
  ASSERT_TRUE(gap.ok()) << gap.error().message;
  EXPECT_EQ(*gap % 4096, 0u);
  EXPECT_TRUE(*gap + 12'288 <= kCode || *gap >= kCode + 2 * kMegabyte);
  EXPECT_LT(kCode + 2 * kMegabyte - *gap, 2 * kGigabyte);
  // All taken but a hole of 16 pages 1 GiB below.
  const uint64_t hole = kCode - kGigabyte;
  regions = {taken(0x10000, hole), taken(hole + 16 * 4096, 0x7ffffffff000)};
  gap = find_gap_near(regions, kCode, kCode + kMegabyte, 14 * 4096);
  ASSERT_TRUE(gap.ok()) << gap.error().message;
  EXPECT_GE(*gap, hole);
  EXPECT_LE(*gap + 14 * 4096, hole + 16 * 4096);
  EXPECT_EQ(find_gap_near(regions, kCode, kCode + kMegabyte, 17 * 4096).error().code, ENOMEM);
  // The hole is out of reach.
  EXPECT_EQ(find_gap_near(regions, kCode + 2 * kGigabyte, kCode + 2 * kGigabyte + 4096, 4096).error().code,
            ENOMEM);
  EXPECT_FALSE(find_gap_near({}, 4096, 4096, 4096).ok());
  EXPECT_FALSE(find_gap_near({}, 0, 3 * kGigabyte, 4096).ok());
  EXPECT_TRUE(find_gap_near({}, 0x400000, 0x500000, 4096).ok());  // low, non-PIE
}

TEST(FindGapNear, HoldsForOurOwnMappings) {
  auto self = Process::open(::getpid());
  const auto regions = self->regions();
  ASSERT_TRUE(regions.ok());
  for (const MappedRegion& region : *regions) {
    if (!region.executable || region.path == "[vsyscall]") continue;
    auto gap = find_gap_near(*regions, region.start, region.end, 1 << 20);
    ASSERT_TRUE(gap.ok()) << gap.error().message << " " << region.path;
    void* page = ::mmap(reinterpret_cast<void*>(*gap), 1 << 20, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    EXPECT_EQ(reinterpret_cast<uint64_t>(page), *gap);
    ::munmap(page, 1 << 20);
  }
}

TEST(SpuriousEintr, OnlyOfCallsThatTheKernelDoesNotRestart) {
  user_regs_struct registers{};
  registers.orig_rax = 232;  // epoll_wait
  registers.rax = static_cast<uint64_t>(-EINTR);
  EXPECT_TRUE(undo_spurious_eintr(registers));
  EXPECT_EQ(static_cast<int64_t>(registers.rax), kRestartNoHandler);
  registers.rax = static_cast<uint64_t>(-EAGAIN);
  EXPECT_FALSE(undo_spurious_eintr(registers));
  registers.orig_rax = 3;  // close: closed although it says EINTR
  registers.rax = static_cast<uint64_t>(-EINTR);
  EXPECT_FALSE(undo_spurious_eintr(registers));
  registers.orig_rax = ~uint64_t{0};  // not in a system call
  EXPECT_FALSE(undo_spurious_eintr(registers));
}

TEST(SignalFrame, HoldsTheRestartedCall) {
  user_regs_struct registers{};
  registers.rip = 0x1002;
  registers.orig_rax = 35;
  registers.rax = static_cast<uint64_t>(kRestartBlock);
  EXPECT_EQ(restarted(registers).rip, 0x1000u);
  EXPECT_EQ(restarted(registers).rax, 35u);
  registers.rax = 7;
  EXPECT_EQ(restarted(registers).rip, 0x1002u);
  const SignalFrame frame = build_signal_frame(0x7ffff000, 0x1234, registers, 0, {});
  EXPECT_EQ(frame.stack_pointer % 16, 8u);
  EXPECT_LE(frame.start + frame.bytes.size(), 0x7ffff000u);
}

// A child that does `work` and then says so, and sleeps until it is killed.
class Worker {
 public:
  explicit Worker(const std::function<void()>& work) {
    int ends[2];
    if (pipe(ends) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      work();
      if (write(ends[1], "", 1) != 1) _exit(1);
      for (;;) pause();
    }
    char said;
    EXPECT_EQ(read(ends[0], &said, 1), 1);
    close(ends[0]);
    close(ends[1]);
  }
  ~Worker() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

TEST(Process, KnowsWhatAnyThreadBlocks) {
  const auto block = [](int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
  };
  const auto blocked = [](pid_t pid, uint32_t threads) {
    auto process = Process::open(pid);
    auto status = process->status();
    EXPECT_EQ(status->threads, threads);
    auto one = process->blocked_in_any_thread(), other = process->blocked_in_any_thread(&*status);
    EXPECT_EQ(*one, *other);
    return *one;
  };
  constexpr uint64_t kTrap = uint64_t{1} << (SIGTRAP - 1), kUser = uint64_t{1} << (SIGUSR1 - 1);
  Worker alone([&] { block(SIGUSR1); });
  EXPECT_EQ(blocked(alone.pid(), 1) & (kTrap | kUser), kUser);
  Worker many([&] {
    std::atomic<bool> there{false};
    std::thread([&] {
      block(SIGTRAP);
      there = true;
      for (;;) pause();
    }).detach();
    while (!there) std::this_thread::yield();
  });
  EXPECT_EQ(blocked(many.pid(), 2) & (kTrap | kUser), kTrap);
}

TEST(StatusView, FollowsTheProcessToItsEnd) {
  const pid_t child = fork();
  if (child == 0) {
    raise(SIGSTOP);
    execl("/bin/sleep", "sleep", "1000", nullptr);
    _exit(1);
  }
  waitpid(child, nullptr, WUNTRACED);
  const auto process = Process::open(child);
  const auto view = StatusView::of(*process);
  ASSERT_TRUE(view.ok()) << view.error().message;
  const auto as_itself = process->status();
  EXPECT_EQ(view->now()->name, as_itself->name);
  EXPECT_EQ(view->now()->blocked, as_itself->blocked);
  EXPECT_EQ(view->now()->tgid, static_cast<uint32_t>(child));
  kill(child, SIGCONT);
  for (int i = 0; i < 20000 && view->now()->name != "sleep"; ++i) usleep(1000);
  EXPECT_EQ(view->now()->name, "sleep");
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(view->now().error().code, ESRCH);
}

TEST(CodeView, SeesWhatIsMappedToBeExecutedAndAnotherProgram) {
  for (const char* change : {"nothing", "data", "code", "exec"}) {
    Worker worker([&] {
      struct sigaction action {};
      static const char* what;
      what = change;
      action.sa_handler = [](int) {
        const int file = open("/proc/self/exe", O_RDONLY);
        const int protection = *what == 'c' ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE;
        if (*what == 'e') execl("/bin/sleep", "sleep", "1000", nullptr);
        if (*what != 'n') (void)!mmap(nullptr, 4096, protection, MAP_PRIVATE, file, 0);
        kill(getpid(), SIGSTOP);
      };
      sigaction(SIGUSR1, &action, nullptr);
    });
    auto process = Process::open(worker.pid());
    auto view = CodeView::of(*process, *process->regions());
    ASSERT_TRUE(view.ok()) << view.error().message;
    EXPECT_TRUE(view->unchanged());
    kill(worker.pid(), SIGUSR1);
    const bool differs = *change == 'c' || *change == 'e';
    if (*change == 'e') {
      for (int i = 0; i < 20000 && process->status()->name != "sleep"; ++i) usleep(1000);
    } else {
      waitpid(worker.pid(), nullptr, WUNTRACED);
    }
    EXPECT_EQ(view->unchanged(), !differs) << change;
  }
}

TEST(ProcessMemory, IsItsParentsUntilAChildByVforkExecutesItsProgram) {
  static char stack[64 << 10];
  const auto pause = [](void*) -> int {
    for (;;) ::syscall(SYS_pause);
  };
  for (const int shared : {CLONE_VM, 0}) {
    const pid_t child = ::clone(pause, stack + sizeof(stack), shared | SIGCHLD, nullptr);
    ASSERT_GT(child, 0);
    auto process = Process::open(child);
    ASSERT_TRUE(process.ok()) << process.error().message;
    EXPECT_EQ(process->shares_parents_memory(), shared != 0);
    ::kill(child, SIGKILL);
    ASSERT_TRUE(eventually([&] { return !process->alive(); }));
    EXPECT_EQ(process->program().error().code, ESRCH);
    ::waitpid(child, nullptr, 0);
  }
}

}  // namespace
}  // namespace bpftime::target
