#include "target/stopped.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "target/proc_files.h"
#include "target/victim/victim_runner.h"

namespace bpftime::target {
namespace {

std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    names.insert(entry.path().filename());
  return names;
}

Process open_process(pid_t pid) {
  auto process = Process::open(pid);
  EXPECT_TRUE(process.ok()) << process.error().message;
  return std::move(*process);
}

// A memfd with "hello" at its second page.
Fd greeting_file() {
  auto file = create_memfd("greeting", 8192, 0);
  EXPECT_TRUE(file.ok());
  EXPECT_EQ(::pwrite(file->get(), "hello", 5, 4096), 5);
  return std::move(*file);
}

constexpr uint64_t kSomewhere = 0x6ef000000000;

TEST(StoppedProcess, RunsOnUnharmedAfterFiveHundredRounds) {
  Victim victim({"spin", "nanosleep", "epoll", "poll", "futex", "malloc", "signals", "pselect"});
  const Process process = open_process(victim.pid());
  // One thread of each, and a writer for the poller.
  ASSERT_TRUE(eventually([&] { return process.threads().ok() && process.threads()->size() == 9; }));
  for (int round = 0; round < 500; ++round) {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    ASSERT_EQ(stopped->threads().size(), 9u);
    if (round % 3 == 0) {
      auto pid = stopped->system_call(SYS_getpid, {});
      ASSERT_TRUE(pid.ok()) << pid.error().message;
      ASSERT_EQ(*pid, victim.pid());
    }
  }
  EXPECT_TRUE(victim.works_on(100));
  // Without our help epoll_wait would fail with EINTR at every stop. The calls' own signal handler is SIGALRM's.
  RecordProperty("interrupted", static_cast<int>(victim.progress().interrupted.load()));
  victim.finish();
}

TEST(StoppedProcess, NoCallSeesAnInterruptionThatOnlyWeCaused) {
  Victim victim({"nanosleep", "epoll", "poll", "futex"});
  const Process process = open_process(victim.pid());
  for (int round = 0; round < 300; ++round) {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    ASSERT_TRUE(stopped->system_call(SYS_gettid, {}).ok());
  }
  EXPECT_TRUE(victim.works_on(10));
  EXPECT_EQ(victim.progress().interrupted.load(), 0u);
  victim.finish();
}

TEST(StoppedProcess, MapsADescriptorAndLeavesNoTrace) {
  Victim victim({"poll", "spin"});
  const Process process = open_process(victim.pid());
  const auto descriptors = names_in(proc_path(victim.pid(), "/fd"));
  const auto tasks = names_in(proc_path(victim.pid(), "/task"));
  const Fd file = greeting_file();
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    auto mapped = stopped->map(kSomewhere, 4096, PROT_READ, MAP_SHARED, file.get(), 4096);
    ASSERT_TRUE(mapped.ok()) << mapped.error().message;
    auto anonymous = stopped->map(kSomewhere + 0x10000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0);
    ASSERT_TRUE(anonymous.ok()) << anonymous.error().message;
    auto bytes = stopped->read(kSomewhere, 5);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(std::string(bytes->begin(), bytes->end()), "hello");
    // Taken already.
    auto again = stopped->map(kSomewhere, 4096, PROT_READ, MAP_SHARED, file.get(), 0);
    ASSERT_FALSE(again.ok());
    EXPECT_EQ(again.error().code, EEXIST) << again.error().message;
    EXPECT_FALSE(stopped->map(0x1000, 4096, PROT_READ, MAP_PRIVATE, 9999, 0).ok());  // no descriptor of ours
    EXPECT_TRUE(stopped->unmap(kSomewhere + 0x10000, 8192).ok());
    EXPECT_FALSE(stopped->read(kSomewhere + 0x10000, 1).ok());
  }
  EXPECT_EQ(names_in(proc_path(victim.pid(), "/fd")), descriptors);
  EXPECT_EQ(names_in(proc_path(victim.pid(), "/task")), tasks);
  auto found = find_processes_mapping("greeting", kSomewhere);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(*found, std::vector<pid_t>{victim.pid()});
  EXPECT_TRUE(find_processes_mapping("greeting", kSomewhere + 4096)->empty());
  EXPECT_TRUE(find_processes_mapping("greetin", kSomewhere)->empty());
  EXPECT_TRUE(victim.works_on(10));
  victim.finish();
}

TEST(StoppedProcess, MapsSeveralOrNone) {
  Victim victim({"poll"});
  const Fd file = greeting_file();
  auto stopped = StoppedProcess::stop(open_process(victim.pid()));
  ASSERT_TRUE(stopped.ok()) << stopped.error().message;
  std::vector<StoppedProcess::MapRequest> requests;
  for (uint64_t i = 0; i < 5; ++i) {
    requests.push_back({kSomewhere + i * 0x10000, 4096, PROT_READ, MAP_SHARED, file.get(), 0});
  }
  ASSERT_TRUE(stopped->map_all(requests).ok());
  EXPECT_TRUE(stopped->read(kSomewhere + 0x40000, 1).ok());
  for (auto& request : requests) request.address += 0x1000000;
  requests[4].address = kSomewhere;  // taken
  EXPECT_FALSE(stopped->map_all(requests).ok());
  EXPECT_FALSE(stopped->read(kSomewhere + 0x1000000, 1).ok());
}

TEST(StoppedProcess, FullDescriptorTableIsRaisedToItsHardLimitOrReported) {
  Victim victim({"emfile", "poll"});
  const Process process = open_process(victim.pid());
  const auto descriptors = names_in(proc_path(victim.pid(), "/fd"));
  const std::string limits = *read_proc_file(proc_path(victim.pid(), "/limits"));
  const Fd file = greeting_file();
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    auto mapped = stopped->map(kSomewhere, 4096, PROT_READ, MAP_SHARED, file.get(), 0);
    EXPECT_TRUE(mapped.ok()) << mapped.error().message;
  }
  EXPECT_EQ(names_in(proc_path(victim.pid(), "/fd")), descriptors);
  EXPECT_EQ(*read_proc_file(proc_path(victim.pid(), "/limits")), limits);
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    // Now the hard limit is in the way as well.
    struct {
      uint64_t soft, hard;
    } low{32, 32};
    const uint64_t address = kSomewhere + 0x100000;
    ASSERT_TRUE(stopped->map(address, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0).ok());
    ASSERT_TRUE(stopped->write(address, as_bytes(low)).ok());
    const uint64_t set[] = {0, 7 /* RLIMIT_NOFILE */, address, 0};
    ASSERT_EQ(*stopped->system_call(SYS_prlimit64, set), 0);
    auto mapped = stopped->map(kSomewhere + 0x10000, 4096, PROT_READ, MAP_SHARED, file.get(), 0);
    ASSERT_FALSE(mapped.ok());
    EXPECT_EQ(mapped.error().code, EMFILE) << mapped.error().message;
  }
  EXPECT_EQ(names_in(proc_path(victim.pid(), "/fd")), descriptors);
  EXPECT_TRUE(victim.works_on(10));
}

TEST(StoppedProcess, WritesReadOnlyCodeForThisProcessOnly) {
  Victim victim({"poll"});
  Victim other({"poll"});
  const Process process = open_process(victim.pid());
  auto regions = process.regions();
  ASSERT_TRUE(regions.ok());
  for (const MappedRegion& region : *regions) {
    if (!region.executable || region.path.find("target_victim") == std::string::npos) continue;
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    const auto before = *stopped->read(region.end - 8, 8);  // padding after the text
    const uint8_t marker[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    ASSERT_TRUE(stopped->write(region.end - 8, marker).ok());
    EXPECT_EQ(*stopped->read(region.end - 8, 8), std::vector<uint8_t>(marker, marker + 8));
    auto copy = open_process(victim.pid()).open_mapped_file(region);
    ASSERT_TRUE(copy.ok()) << copy.error().message;
    uint8_t on_disk[8];
    ASSERT_EQ(
        ::pread(copy->get(), on_disk, 8, static_cast<off_t>(region.offset + (region.end - region.start) - 8)),
        8);
    EXPECT_EQ(std::vector<uint8_t>(on_disk, on_disk + 8), before);
    EXPECT_FALSE(stopped->write(0x10, marker).ok());
    return;
  }
  FAIL() << "no text mapping found";
}

TEST(StoppedProcess, SurvivesThreadAndProcessCreation) {
  Victim victim({"threads", "fork", "threads", "spin"});
  const Process process = open_process(victim.pid());
  for (int round = 0; round < 200; ++round) {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    const auto held = stopped->threads();
    for (const std::string& name : names_in(proc_path(victim.pid(), "/task"))) {
      const pid_t tid = std::stoi(name);
      const bool found = std::any_of(held.begin(), held.end(), [tid](const auto& t) { return t.tid == tid; });
      const auto state = thread_state(victim.pid(), tid);
      EXPECT_TRUE(found || !state || *state == 'X' || *state == 'Z') << "thread not held, state " << *state;
    }
    ASSERT_EQ(*stopped->system_call(SYS_getpid, {}), victim.pid());
  }
  EXPECT_TRUE(victim.works_on(20));
  victim.finish();
}

TEST(StoppedProcess, WaitsForVforkToEnd) {
  Victim victim({"spawn", "spin"});
  const Process process = open_process(victim.pid());
  for (int round = 0; round < 50; ++round) {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    ASSERT_EQ(*stopped->system_call(SYS_getpid, {}), victim.pid());
  }
  EXPECT_TRUE(victim.works_on(20));
  victim.finish();
}

// Executes `sleep` when told to; the mark of a program is its own.
TEST(StoppedProcess, KnowsAProgramFromTheNextInTheSameProcess) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char word;
    if (::read(ends[0], &word, 1) == 1) ::execlp("sleep", "sleep", "1000", nullptr);
    ::_exit(1);
  }
  const Process process = open_process(child);
  const auto before = process.program();
  ASSERT_TRUE(before.ok()) << before.error().message;
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    EXPECT_TRUE(stopped->still_runs(*before));
  }
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  ASSERT_TRUE(eventually([&] { return process.status()->name == "sleep"; }));
  auto stopped = StoppedProcess::stop(process);
  ASSERT_TRUE(stopped.ok()) << stopped.error().message;
  EXPECT_FALSE(stopped->still_runs(*before));
  EXPECT_TRUE(stopped->still_runs(*process.program()));
  ::close(ends[0]);
  ::close(ends[1]);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

// Children that execute another program at once: whatever is made to run in them must be of the program that they run.
TEST(StoppedProcess, OneThreadOfAProcessThatExecutesAnotherProgram) {
  int refused = 0;
  for (int round = 0; round < 200; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::execlp("true", "true", nullptr);
      ::_exit(1);
    }
    auto process = Process::open(child);
    CallCode code;
    for (int i = 0; process.ok() && process->alive() && i < 20; ++i) {
      const auto program = process->program();
      auto one = program ? StoppedProcess::stop_one(*process, *program, code)
                         : Result<StoppedProcess>(program.error());
      refused += !one.ok();
      if (one) (void)one->system_call(SYS_getpid, {});
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status << " round " << round;
  }
  std::printf("%d attempts refused\n", refused);
}

// Other threads run, and what lies below a coroutine's stack is theirs.
TEST(StoppedProcess, OneThreadOnANarrowStackWritesNothingBelowIt) {
  Victim victim({"narrow"});
  const Process process = open_process(victim.pid());
  CallCode code;
  ASSERT_TRUE(victim.works_on(10));
  for (int round = 0; round < 150; ++round) {
    auto one = StoppedProcess::stop_one(process, *process.program(), code);
    ASSERT_TRUE(one.ok()) << one.error().message;
    for (int i = 0; i < 5; ++i) ASSERT_EQ(*one->system_call(SYS_getpid, {}), victim.pid());
  }
  EXPECT_TRUE(victim.works_on(10));
  victim.finish();
}

TEST(StoppedProcess, AllSignalsBlockedStaysBlocked) {
  Victim victim({"blocked", "poll", "spin"});
  ::kill(victim.pid(), SIGUSR1);  // would kill it
  const auto mask = [&] {
    const std::string status = *read_proc_file(proc_path(victim.pid(), "/status"));
    return status.substr(status.find("SigPnd"), status.find("SigIgn") - status.find("SigPnd"));
  };
  const std::string before = mask();
  const Process process = open_process(victim.pid());
  for (int round = 0; round < 20; ++round) {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    ASSERT_TRUE(stopped->system_call(SYS_getpid, {}).ok());
  }
  EXPECT_EQ(mask(), before);
  EXPECT_TRUE(victim.works_on(10));
  victim.finish();
}

TEST(StoppedProcess, JobControlStopOutlivesUs) {
  Victim victim({"spin", "epoll"});
  ::kill(victim.pid(), SIGSTOP);
  ASSERT_TRUE(eventually([&] { return thread_state(victim.pid(), victim.pid()) == 'T'; }));
  const Process process = open_process(victim.pid());
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    ASSERT_EQ(*stopped->system_call(SYS_getpid, {}), victim.pid());
  }
  const auto tids = process.threads();
  ASSERT_TRUE(tids.ok());
  for (const pid_t tid : tids.value()) {
    EXPECT_TRUE(eventually([&] { return thread_state(victim.pid(), tid) == 'T'; })) << tid;
  }
  const uint64_t rounds = victim.progress().rounds.load();
  EXPECT_EQ(victim.progress().rounds.load(), rounds);
  ::kill(victim.pid(), SIGCONT);
  EXPECT_TRUE(victim.works_on(10));
  // SIGSTOP and SIGCONT that arrive while it is held.
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok());
    ::kill(victim.pid(), SIGSTOP);
    ASSERT_EQ(*stopped->system_call(SYS_getpid, {}), victim.pid());
  }
  EXPECT_TRUE(eventually([&] { return thread_state(victim.pid(), victim.pid()) == 'T'; }));
  ::kill(victim.pid(), SIGCONT);
  EXPECT_TRUE(victim.works_on(10));
  victim.finish();
}

TEST(StoppedProcess, RefusesWhatItCannotHave) {
  EXPECT_EQ(Process::open(0x3ffffffe).error().code, ESRCH);
  EXPECT_EQ(Process::open(-1).error().code, ESRCH);
  EXPECT_EQ(StoppedProcess::stop(open_process(::getpid())).error().code, EINVAL);
  Victim victim({"poll"});
  const Process process = open_process(victim.pid());
  {
    auto first = StoppedProcess::stop(process);
    ASSERT_TRUE(first.ok());
    auto second = StoppedProcess::stop(process);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code, EBUSY) << second.error().message;
    EXPECT_NE(second.error().message.find(std::to_string(::getpid())), std::string::npos)
        << second.error().message;
  }
  EXPECT_TRUE(StoppedProcess::stop(process).ok());
  ::kill(victim.pid(), SIGKILL);
  ASSERT_TRUE(eventually([&] { return !process.alive(); }));
  EXPECT_EQ(StoppedProcess::stop(process).error().code, ESRCH);
  EXPECT_EQ(process.regions().error().code, ESRCH);
}

TEST(StoppedProcess, DeathWhileHeldIsAnErrorNotAHang) {
  Victim victim({"spin", "poll"});
  const Process process = open_process(victim.pid());
  auto stopped = StoppedProcess::stop(process);
  ASSERT_TRUE(stopped.ok());
  ASSERT_TRUE(stopped->system_call(SYS_getpid, {}).ok());
  ::kill(victim.pid(), SIGKILL);
  ASSERT_TRUE(eventually([&] { return !stopped->system_call(SYS_getpid, {}).ok(); }));
  EXPECT_EQ(stopped->system_call(SYS_getpid, {}).error().code, ESRCH);
}

TEST(StoppedProcess, SeccompFilterIsSuspendedOrRespected) {
  Victim victim({"filter", "poll"});
  const Process process = open_process(victim.pid());
  ASSERT_EQ(process.status()->seccomp_mode, 2);
  {
    auto stopped = StoppedProcess::stop(process);
    ASSERT_TRUE(stopped.ok()) << stopped.error().message;
    auto result = stopped->system_call(SYS_getppid, {});  // the filter kills on this
    if (::geteuid() == 0) {
      ASSERT_TRUE(result.ok()) << result.error().message;
      EXPECT_EQ(*result, ::getpid());
      const Fd file = greeting_file();
      EXPECT_TRUE(stopped->map(kSomewhere, 4096, PROT_READ, MAP_SHARED, file.get(), 0).ok());
    } else {
      ASSERT_FALSE(result.ok());
      EXPECT_EQ(result.error().code, EPERM);
      EXPECT_NE(result.error().message.find("seccomp"), std::string::npos) << result.error().message;
    }
  }
  EXPECT_TRUE(victim.works_on(10));
  victim.finish();
}

TEST(StoppedProcess, OtherUsersProcessIsRefusedByName) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to make two users";
  Victim victim({"poll"});
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(3);
    auto process = Process::open(victim.pid());
    if (!process) ::_exit(process.error().code == EPERM ? 0 : 4);
    auto stopped = StoppedProcess::stop(*process);
    ::_exit(!stopped.ok() && stopped.error().code == EPERM ? 0 : 5);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(victim.works_on(1));
}

// The tracer is killed with -9 at random moments while it makes remote system calls.
TEST(StoppedProcess, OurDeathAtAnyMomentLeavesTheVictimRunningRight) {
  Victim victim({"spin", "poll", "epoll", "malloc", "nanosleep"});
  unsigned seed = static_cast<unsigned>(::getpid());
  std::printf("seed %u\n", seed);
  const Fd file = greeting_file();
  for (int round = 0; round < 200; ++round) {
    const pid_t tracer = ::fork();
    if (tracer == 0) {
      auto process = Process::open(victim.pid());
      if (!process) ::_exit(1);
      for (uint64_t i = 0;; ++i) {
        auto stopped = StoppedProcess::stop(*process);
        if (!stopped) continue;
        (void)stopped->system_call(SYS_getpid, {});
        if (stopped->map(kSomewhere, 4096, PROT_READ, MAP_PRIVATE, file.get(), 0))
          (void)stopped->unmap(kSomewhere, 4096);
      }
    }
    ::usleep(500 + ::rand_r(&seed) % 15'000);
    ::kill(tracer, SIGKILL);
    ::waitpid(tracer, nullptr, 0);
    ASSERT_TRUE(victim.works_on(5)) << "round " << round;
    ASSERT_EQ(victim.progress().failures.load(), 0u) << victim.progress().first_failure;
  }
  victim.finish();
}

}  // namespace
}  // namespace bpftime::target
