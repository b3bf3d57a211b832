#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "symbols/symbols.h"
#include "target/proc_files.h"
#include "target/stopped.h"
#include "target/victim/victim_runner.h"

namespace bpftime::target {
namespace {

std::string guest_path() {
  const std::string victim = Victim::binary();
  return victim.substr(0, victim.rfind('/')) + "/libtarget_guest.so";
}

Process open_process(pid_t pid) {
  auto process = Process::open(pid);
  EXPECT_TRUE(process.ok()) << process.error().message;
  return std::move(*process);
}

// Loads the guest and checks that its constructor ran in the victim; returns its load address, 0 on failure.
uint64_t load_and_check(const Victim& victim) {
  const Process process = open_process(victim.pid());
  auto address = load_library(process, guest_path());
  EXPECT_TRUE(address.ok()) << address.error().message;
  if (!address) return 0;
  auto elf = symbols::ElfFile::open(guest_path());
  const auto flag = elf->find_symbol("guest_constructed");
  EXPECT_TRUE(flag);
  auto bytes = process.read(*address + flag->address, 4);
  EXPECT_TRUE(bytes.ok()) << bytes.error().message;
  EXPECT_EQ(*bytes, (std::vector<uint8_t>{0x57, 0x6e, 0, 0}));
  return *address;
}

size_t entries(const std::string& path) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    (void)entry;
    ++count;
  }
  return count;
}

class LoadLibrary : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(LoadLibrary, RunsConstructorAndLeavesTheVictimAtItsWork) {
  Victim victim(GetParam());
  ASSERT_TRUE(victim.works_on(1));
  const size_t descriptors = entries(proc_path(victim.pid(), "/fd"));
  const size_t mappings = (*open_process(victim.pid()).regions()).size();
  ASSERT_NE(load_and_check(victim), 0u);
  // A second time it is there already.
  ASSERT_NE(load_and_check(victim), 0u);
  EXPECT_TRUE(victim.works_on(20));
  const bool quiet = GetParam().front() == "poll" || GetParam().front() == "nanosleep";
  if (quiet) {
    EXPECT_EQ(entries(proc_path(victim.pid(), "/fd")), descriptors);
    // The library's own segments and what malloc mapped: no stack or stub of ours.
    EXPECT_LE((*open_process(victim.pid()).regions()).size(), mappings + 8);
  }
  victim.finish();
}

INSTANTIATE_TEST_SUITE_P(
    Victims, LoadLibrary,
    testing::Values(std::vector<std::string>{"poll"}, std::vector<std::string>{"spin"},
                    std::vector<std::string>{"nanosleep"}, std::vector<std::string>{"blocked", "poll"},
                    std::vector<std::string>{"malloc"},
                    std::vector<std::string>{"malloc", "malloc", "malloc", "malloc"},
                    std::vector<std::string>{"spin", "malloc", "epoll", "signals", "throw"},
                    std::vector<std::string>{"futex", "pselect"}, std::vector<std::string>{"threads", "fork"},
                    std::vector<std::string>{"emfile", "nanosleep"}, std::vector<std::string>{"errors"},
                    std::vector<std::string>{"popen", "popen", "malloc"},
                    std::vector<std::string>{"resolve", "resolve", "iconv"},
                    std::vector<std::string>{"iconv", "locale", "flush"},
                    std::vector<std::string>{"flush", "flush", "locale"},
                    std::vector<std::string>{"dlopen", "dlopen", "throwjump", "endings"},
                    std::vector<std::string>{"timers", "timers"},
                    std::vector<std::string>{"endings", "endings", "cancel"},
                    std::vector<std::string>{"narrow"}, std::vector<std::string>{"handler"},
                    std::vector<std::string>{"altstack", "malloc"},
                    std::vector<std::string>{"coroutines", "coroutines", "malloc"},
                    std::vector<std::string>{"throwjump", "throwjump", "fork"}),
    [](const auto& info) {
      std::string name;
      for (const auto& mode : info.param) name += mode;
      return name;
    });

TEST(LoadLibraryInto, LiesWhereWishedIfThatIsFree) {
  Victim victim({"poll", "malloc"});
  const Process process = open_process(victim.pid());
  const auto regions = *process.regions();
  const auto program = std::find_if(regions.begin(), regions.end(), [](const MappedRegion& region) {
    return region.path.ends_with("target_victim");
  });
  ASSERT_NE(program, regions.end());
  const auto gap = find_gap_near(regions, program->start, program->end, 1 << 20);
  ASSERT_TRUE(gap.ok()) << gap.error().message;
  auto loaded = load_library(process, guest_path(), {*gap});
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(*loaded, *gap);
  EXPECT_TRUE(victim.works_on(20));
  victim.finish();
}

TEST(LoadLibraryInto, LiesElsewhereIfThatIsTaken) {
  Victim victim({"poll"});
  const Process process = open_process(victim.pid());
  const auto regions = *process.regions();
  for (const uint64_t taken : {regions.front().start, uint64_t{0x7fff'ffff'f000}, uint64_t{0x1000}}) {
    auto loaded = load_library(process, guest_path(), {taken});
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_NE(*loaded, taken);
  }
  EXPECT_TRUE(victim.works_on(20));
  victim.finish();
}

TEST(LoadLibraryInto, FilteredProcessAsRootOnly) {
  Victim victim({"filter", "poll"});
  if (::geteuid() == 0) {
    EXPECT_NE(load_and_check(victim), 0u);
  } else {
    auto loaded = load_library(open_process(victim.pid()), guest_path());
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.error().code, EPERM) << loaded.error().message;
  }
  EXPECT_TRUE(victim.works_on(5));
  victim.finish();
}

TEST(LoadLibraryInto, ProcessOfAnotherUserThatCannotReadTheFile) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  char directory[] = "/tmp/bpftime-guest-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);  // mode 0700: by path it is out of reach
  const std::string copy = std::string(directory) + "/guest.so";
  std::filesystem::copy_file(guest_path(), copy);
  Victim victim({"poll"}, [] {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(97);
  });
  const size_t descriptors = entries(proc_path(victim.pid(), "/fd"));
  auto loaded = load_library(open_process(victim.pid()), copy);
  EXPECT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(entries(proc_path(victim.pid(), "/fd")), descriptors);
  EXPECT_TRUE(victim.works_on(5));
  victim.finish();
  std::filesystem::remove_all(directory);
}

TEST(LoadLibraryInto, ProcessStoppedBySigstop) {
  Victim victim({"poll", "spin"});
  // Past the start of its thread, where no stack can be followed.
  ASSERT_TRUE(eventually([&] { return entries(proc_path(victim.pid(), "/task")) == 2; }));
  ASSERT_TRUE(victim.works_on(100));
  ::kill(victim.pid(), SIGSTOP);
  ASSERT_TRUE(eventually([&] { return thread_state(victim.pid(), victim.pid()) == 'T'; }));
  EXPECT_NE(load_and_check(victim), 0u);
  EXPECT_TRUE(eventually([&] { return thread_state(victim.pid(), victim.pid()) == 'T'; }));
  ::kill(victim.pid(), SIGCONT);
  EXPECT_TRUE(victim.works_on(5));
  victim.finish();
}

TEST(LoadLibraryInto, EmptyRootDirectoryCanBeMappedIntoButNotLoadedInto) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to change the root directory";
  Victim victim({"chroot", "poll"});
  const Process process = open_process(victim.pid());
  {
    auto file = create_memfd("x", 4096, 0);
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    EXPECT_TRUE(stopped->map(0x6ef000000000, 4096, 1, 2, file->get(), 0).ok());
  }
  auto loaded = load_library(process, guest_path());
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, ENOEXEC) << loaded.error().message;
  EXPECT_TRUE(victim.works_on(5));
  const std::string root = std::filesystem::read_symlink(proc_path(victim.pid(), "/root"));
  victim.finish();
  if (root.starts_with("/tmp/bpftime-root-")) std::filesystem::remove_all(root);
}

TEST(LoadLibraryInto, StrippedProgram) {
  char directory[] = "/tmp/bpftime-stripped-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  const std::string program = std::string(directory) + "/victim";
  const std::string command = "strip -o " + program + " " + Victim::binary();
  const bool stripped = std::system(command.c_str()) == 0;
  if (stripped) {
    Victim victim({"malloc", "poll"}, {}, program);
    EXPECT_NE(load_and_check(victim), 0u);
    EXPECT_TRUE(victim.works_on(5));
    victim.finish();
  }
  std::filesystem::remove_all(directory);
  if (!stripped) GTEST_SKIP() << "no strip";
}

std::string victim_with_own_malloc() { return Victim::binary() + "_own_malloc"; }

TEST(LoadLibraryInto, ProgramWithAnAllocatorOfItsOwn) {
  Victim victim({"throw", "throw", "poll"}, {}, victim_with_own_malloc());
  EXPECT_NE(load_and_check(victim), 0u);
  EXPECT_TRUE(victim.works_on(20));
  victim.finish();
}

TEST(LoadLibraryInto, ProgramThatIsAlwaysInItsOwnAllocatorIsRefused) {
  Victim victim({"malloc", "malloc"}, {}, victim_with_own_malloc());
  auto loaded = load_library(open_process(victim.pid()), guest_path(), {0, std::chrono::milliseconds(200)});
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, EAGAIN) << loaded.error().message;
  EXPECT_NE(loaded.error().message.find("allocator"), std::string::npos) << loaded.error().message;
  EXPECT_TRUE(victim.works_on(20));
  victim.finish();
}

TEST(LoadLibraryInto, RefusesWithTheLoadersWords) {
  Victim victim({"poll"});
  const Process process = open_process(victim.pid());
  const size_t descriptors = entries(proc_path(victim.pid(), "/fd"));
  char path[] = "/tmp/bpftime-not-elf-XXXXXX";
  Fd file(::mkstemp(path));
  ASSERT_EQ(::write(file.get(), "not a library", 13), 13);
  auto loaded = load_library(process, path);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, ENOEXEC);
  EXPECT_NE(loaded.error().message.find("file too short"), std::string::npos) << loaded.error().message;
  ::unlink(path);
  EXPECT_EQ(load_library(process, "/nonexistent/library.so").error().code, ENOENT);
  EXPECT_EQ(entries(proc_path(victim.pid(), "/fd")), descriptors);
  EXPECT_TRUE(victim.works_on(5));
  victim.finish();
}

TEST(StoppedCall, ReturnsTheResultAndRestoresVectorRegisters) {
  Victim victim({"spin"});
  const Process process = open_process(victim.pid());
  auto elf = symbols::ElfFile::open(Victim::binary());
  uint64_t base = 0;
  const auto regions = process.regions();
  ASSERT_TRUE(regions.ok());
  for (const MappedRegion& region : *regions) {
    if (base == 0 && region.path.ends_with("target_victim")) base = region.start;
  }
  const auto address = [&](const char* name) { return base + elf->find_symbol(name)->address; };
  for (int round = 0; round < 100; ++round) {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    const uint64_t arguments[] = {7, 2, static_cast<uint64_t>(round)};
    auto result = stopped->call(address("victim_combine"), arguments);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(*result, 720 + round);
    EXPECT_EQ(*stopped->system_call(39 /* getpid */, {}), victim.pid());
  }
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    auto crashed = stopped->call(address("victim_crash"), {});
    ASSERT_FALSE(crashed.ok());
    EXPECT_EQ(crashed.error().code, EFAULT) << crashed.error().message;
    auto hung = stopped->call(address("victim_hang"), {});
    ASSERT_FALSE(hung.ok());
    EXPECT_EQ(hung.error().code, ETIMEDOUT) << hung.error().message;
    auto again = stopped->call(address("victim_combine"), std::vector<uint64_t>{1, 1, 1});
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_EQ(*again, 111);
  }
  EXPECT_TRUE(victim.works_on(5));
  victim.finish();
}

// Killed while dlopen runs in the victim: dlopen finishes and the thread goes on.
TEST(LoadLibraryInto, OurDeathMeanwhileLeavesTheVictimRunningRight) {
  unsigned seed = static_cast<unsigned>(::getpid());
  std::printf("seed %u\n", seed);
  for (int round = 0; round < 30; ++round) {
    Victim victim({"spin", "malloc"});
    const pid_t tracer = ::fork();
    if (tracer == 0) {
      auto process = Process::open(victim.pid());
      if (process) (void)load_library(*process, guest_path());
      ::_exit(0);
    }
    ::usleep(2000 + ::rand_r(&seed) % 30'000);
    ::kill(tracer, SIGKILL);
    ::waitpid(tracer, nullptr, 0);
    ASSERT_TRUE(victim.works_on(10)) << "round " << round << " state "
                                     << thread_state(victim.pid(), victim.pid()).value_or('-');
    ASSERT_NE(load_and_check(victim), 0u);  // no loader lock is left held
    victim.finish();
  }
}

}  // namespace
}  // namespace bpftime::target
