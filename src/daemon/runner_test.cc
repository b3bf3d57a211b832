// The runner process as its worker sees it: answers in order, one that never ends, one that dies, and who is to blame.
#include "daemon/runner.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <vector>

#include "wire/target_context.h"

namespace bpftime::daemon {
namespace {

using Bytes = std::vector<uint8_t>;

// Machine code with the convention of wire/invocation.h, as the compiler would have placed it.
const Bytes kContextWord = {0x48, 0x8b, 0x07, 0xc3};  // mov (%rdi), %rax; ret
const Bytes kEndless = {0xeb, 0xfe};                  // jmp itself
const Bytes kDies = {0x0f, 0x0b};                     // ud2

constexpr uint64_t kNothing = 0;
constexpr uint64_t kLong = 600'000, kShort = 50;  // ms
constexpr uint64_t kWindow = wire::window_address(0);

class RunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* bin = std::getenv("BPFTIME_BIN_DIR");
    if (bin == nullptr || ::access((std::string(bin) + "/bpftime-runner").c_str(), X_OK) != 0)
      GTEST_SKIP() << "BPFTIME_BIN_DIR with bpftime-runner is not set";
    path_ = std::string(bin) + "/bpftime-runner";
  }
  std::unique_ptr<Runner> runner(uint64_t run_max_ms) const {
    return std::make_unique<Runner>(path_, kWindow, run_max_ms);
  }
  // A program of that code; each has its own place.
  kernel::Prog& program(const Bytes& code) {
    auto& made = *programs_.emplace_back(std::make_unique<kernel::Prog>());
    made.id = static_cast<uint32_t>(programs_.size());
    made.code_address = made.code_entry = kWindow + wire::kMapsOffset + (uint64_t{made.id} << 20);
    auto memory = create_memfd("code", kPageSize, 0);
    EXPECT_TRUE(memory.ok());
    EXPECT_EQ(::pwrite(memory->get(), code.data(), code.size(), 0), static_cast<ssize_t>(code.size()));
    made.code_memory = std::move(*memory);
    return made;
  }
  static std::vector<kernel::TargetMemory> memory_of(const kernel::Prog& program) {
    kernel::TargetMemory memory;
    memory.address = program.code_address;
    memory.size = kPageSize;
    memory.fd = program.code_memory.get();
    memory.executable = true;
    return {memory};
  }
  static kernel::ProgramRun run_of(kernel::Prog& program, const uint64_t& word, int32_t cpu = -1) {
    kernel::ProgramRun run;
    run.program = &program;
    run.context = {reinterpret_cast<const uint8_t*>(&word), sizeof word};
    run.cpu = cpu;
    return run;
  }
  static uint32_t begin(Runner& runner, kernel::Prog& program, uint64_t word = 0, int32_t cpu = -1) {
    auto number = runner.begin(run_of(program, word, cpu), memory_of(program));
    EXPECT_TRUE(number.ok()) << (number.ok() ? "" : number.error().message);
    return number.ok() ? *number : 0;
  }
  // As the worker's loop does it, until so many have ended.
  static std::vector<Runner::Ended> wait_for(Runner& runner, size_t count) {
    std::vector<Runner::Ended> all;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (all.size() < count && std::chrono::steady_clock::now() < deadline) {
      pollfd ready{runner.fd(), POLLIN, 0};
      ::poll(&ready, 1, 5);
      runner.on_readable();
      runner.expire();
      for (auto& ended : runner.take_ended()) all.push_back(std::move(ended));
    }
    EXPECT_EQ(all.size(), count);
    return all;
  }

 private:
  std::string path_;
  std::vector<std::unique_ptr<kernel::Prog>> programs_;
};

TEST_F(RunnerTest, AnswersInOrder) {
  const auto runner = this->runner(kLong);
  kernel::Prog& word = program(kContextWord);
  EXPECT_EQ(runner->fd(), -1) << "nobody has asked for anything";
  const uint32_t first = begin(*runner, word, 41), second = begin(*runner, word, 42);
  const auto ended = wait_for(*runner, 2);
  ASSERT_EQ(ended.size(), 2u);
  EXPECT_EQ(ended[0].number, first);
  EXPECT_EQ(ended[1].number, second);
  EXPECT_EQ(*ended[0].result, 41u);
  EXPECT_EQ(*ended[1].result, 42u);
  EXPECT_TRUE(runner->take_ended().empty());
  EXPECT_TRUE(runner->take_dead().empty());
}

TEST_F(RunnerTest, HasNoCpuThatIsNotThere) {
  const auto runner = this->runner(kLong);
  kernel::Prog& word = program(kContextWord);
  begin(*runner, word, 1, 1023);
  const auto ended = wait_for(*runner, 1);
  ASSERT_EQ(ended.size(), 1u);
  ASSERT_FALSE(ended[0].result.ok());
  EXPECT_EQ(ended[0].result.error().code, ENXIO);
}

TEST_F(RunnerTest, ARunThatTakesTooLongIsEnded) {
  const auto runner = this->runner(kShort);
  kernel::Prog& endless = program(kEndless);
  begin(*runner, endless);
  const pid_t pid = runner->pid();
  const auto ended = wait_for(*runner, 1);
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_EQ(ended[0].result.error().code, EIO);
  EXPECT_FALSE(ended[0].innocent);
  EXPECT_EQ(runner->pid(), -1);
  EXPECT_EQ(runner->take_dead(), std::vector<uint32_t>{static_cast<uint32_t>(pid)})
      << "map work it may have left unfinished";
}

// The guilty one has failed; who waited behind it is told that it never ran.
TEST_F(RunnerTest, WhoWaitsBehindTheGuiltyIsInnocent) {
  const auto runner = this->runner(kLong);
  kernel::Prog &endless = program(kEndless), &word = program(kContextWord);
  begin(*runner, word);  // a process has its parent's name until it runs its own program
  ASSERT_EQ(wait_for(*runner, 1).size(), 1u);
  endless.facts.emplace();
  kernel::ProgramRun run = run_of(endless, kNothing);
  run.pid = static_cast<uint32_t>(::getpid());
  const auto guilty = runner->begin(run, memory_of(endless));
  ASSERT_TRUE(guilty.ok());
  const uint32_t innocent = begin(*runner, word, 7);
  // While it runs for somebody it has that one's name; before, it has only been asked to.
  const auto name_of = [](pid_t pid) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/comm");
    std::string name;
    std::getline(in, name);
    return name;
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (name_of(runner->pid()) != name_of(::getpid()) && std::chrono::steady_clock::now() < deadline)
    ::usleep(1000);
  ASSERT_EQ(::kill(runner->pid(), SIGKILL), 0);
  const auto ended = wait_for(*runner, 2);
  ASSERT_EQ(ended.size(), 2u);
  EXPECT_EQ(ended[0].number, *guilty);
  EXPECT_FALSE(ended[0].innocent);
  EXPECT_EQ(ended[1].number, innocent);
  EXPECT_TRUE(ended[1].innocent);
  EXPECT_EQ(ended[0].result.error().code, EIO);
  EXPECT_EQ(ended[1].result.error().code, EIO);
}

TEST_F(RunnerTest, ARunWithTimeLeftIsNotEnded) {
  const auto runner = this->runner(kLong);
  kernel::Prog& endless = program(kEndless);
  begin(*runner, endless);
  const pid_t pid = runner->pid();
  runner->expire();
  runner->on_readable();
  EXPECT_EQ(runner->pid(), pid);
  EXPECT_TRUE(runner->take_ended().empty());
}

// By its own fault, and by somebody's signal.
TEST_F(RunnerTest, ADeadProcessIsReplaced) {
  const auto runner = this->runner(kLong);
  kernel::Prog &dies = program(kDies), &endless = program(kEndless), &word = program(kContextWord);
  for (kernel::Prog* guilty : {&dies, &endless}) {
    begin(*runner, *guilty);
    if (guilty == &endless) {
      ASSERT_EQ(::kill(runner->pid(), SIGKILL), 0);
    }
    const auto failed = wait_for(*runner, 1);
    ASSERT_EQ(failed.size(), 1u);
    EXPECT_EQ(failed[0].result.error().code, EIO);
    EXPECT_EQ(runner->fd(), -1);
    EXPECT_EQ(runner->take_dead().size(), 1u);
    begin(*runner, word, 5);
    const auto ended = wait_for(*runner, 1);
    ASSERT_EQ(ended.size(), 1u);
    EXPECT_EQ(*ended[0].result, 5u);
  }
}

// Clocks: nobody waits for them, and one that brought the runner down is not tried again until it is forgotten.
TEST_F(RunnerTest, AClockThatKillsItIsNotStartedAgain) {
  const auto runner = this->runner(kLong);
  kernel::Prog &dies = program(kDies), &word = program(kContextWord), &endless = program(kEndless);
  constexpr uint64_t kKey = 7, kOther = 8, kBusy = 9;
  const auto start = [&](kernel::Prog& program, uint64_t key) {
    return runner->start(run_of(program, 0), memory_of(program), key);
  };
  EXPECT_TRUE(start(dies, kKey));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!runner->failed(kKey) && std::chrono::steady_clock::now() < deadline) {
    pollfd ready{runner->fd(), POLLIN, 0};
    ::poll(&ready, 1, 5);
    runner->on_readable();
  }
  EXPECT_TRUE(runner->failed(kKey));
  EXPECT_FALSE(start(dies, kKey));
  EXPECT_TRUE(start(word, kOther));
  runner->forget(kKey);
  EXPECT_TRUE(start(word, kKey));
  EXPECT_TRUE(start(endless, kBusy));
  EXPECT_FALSE(start(endless, kBusy)) << "the run before it has not ended";
  EXPECT_TRUE(runner->take_ended().empty()) << "nobody waits for any of them";
}

}  // namespace
}  // namespace bpftime::daemon
