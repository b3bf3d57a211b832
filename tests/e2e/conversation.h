// A child that takes orders: one line to its standard input, everything up to "done N" back.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <memory>

#include "harness.h"

namespace bpftime::e2e {

class Conversation {
 public:
  Conversation(const Arguments& arguments, Child::Options options) {
    ::signal(SIGPIPE, SIG_IGN);  // a child that died is a failure of its test, not ours
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    const int reading = ends[0];
    options.before_exec = [reading, also = options.before_exec] {
      ::dup2(reading, STDIN_FILENO);
      if (also) also();
    };
    to_ = ends[1];
    child_ = std::make_unique<Child>(arguments, options);
    ::close(reading);
  }
  Conversation(Conversation&& other) noexcept
      : child_(std::move(other.child_)),
        to_(std::exchange(other.to_, -1)),
        number_(other.number_),
        read_(other.read_) {}
  ~Conversation() {
    if (to_ >= 0) ::close(to_);
  }

  // Until it has said so.
  ::testing::AssertionResult ready() {
    const bool came = child_->wait_for_output("ready\n");
    read_ = child_->output().find("ready\n") + 6;
    if (came) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << child_->output() << child_->error();
  }
  pid_t pid() const { return child_->pid(); }
  Child& child() { return *child_; }

  void send(const std::string& line) {
    const std::string text = std::to_string(++number_) + " " + line + "\n";
    if (::write(to_, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
      ADD_FAILURE() << line << ": not written";
  }
  // What came since the last answer. A forked child may answer in place of one that has ended.
  std::string answer() {
    const std::string end = "done " + std::to_string(number_) + "\n";
    const bool came = eventually([&] { return child_->output().find(end, read_) != std::string::npos; });
    const std::string& all = child_->output();
    EXPECT_TRUE(came) << "no answer " << number_ << ": " << all << child_->error();
    const size_t at = came ? all.find(end, read_) : all.size();
    const std::string text = all.substr(read_, at - read_);
    read_ = came ? at + end.size() : at;
    return text;
  }
  std::string ask(const std::string& line) {
    send(line);
    return answer();
  }
  // The number after `word` in the answer to `line`.
  long number(const std::string& line, const std::string& word) {
    const std::string text = ask(line);
    const size_t at = text.find(word + " ");
    if (at == std::string::npos) {
      ADD_FAILURE() << line << ": " << text;
      return -1;
    }
    return std::stol(text.substr(at + word.size() + 1));
  }

 private:
  std::unique_ptr<Child> child_;
  int to_ = -1;
  int number_ = 0;
  size_t read_ = 0;
};

// Tests of the purpose-built victim (tests/tools/victim.cc) with the stock tools.
class VictimTest : public EndToEnd {
 protected:
  std::string victim_path = program("victim");

  Conversation victim(Child::Options extra = {}) {
    Child::Options all = options();
    all.before_exec = extra.before_exec;
    Conversation out({victim_path}, all);
    EXPECT_TRUE(out.ready());
    return out;
  }
  Conversation victim_started() {
    Conversation out({program("bpftime"), "start", victim_path}, options());
    EXPECT_TRUE(out.ready());
    return out;
  }
  void attach(Conversation& target) {
    const Finished done = bpftime({"attach", std::to_string(target.pid())});
    ASSERT_EQ(done.code, 0) << done.error;
  }
  // uprobe_stat of one function.
  Child stat_tool(const std::string& mode, const std::string& function = "victim_call", Arguments more = {}) {
    Arguments all = {program("uprobe_stat"), mode, victim_path, function};
    all.insert(all.end(), more.begin(), more.end());
    return load_tool(all);
  }
  Conversation link_tool(Arguments more = {}) {
    Arguments all = load({program("link_tool"), victim_path, "victim_call"});
    all.insert(all.begin(), program("bpftime"));
    all.insert(all.end(), more.begin(), more.end());
    Conversation out(all, options());
    EXPECT_TRUE(out.ready());
    return out;
  }
  static bool restored(pid_t pid) { return text_differences(pid).empty(); }
  // Waits for untouched text; says how long that took, which no test depends on.
  static ::testing::AssertionResult becomes_restored(pid_t pid, const char* after) {
    const auto before = std::chrono::steady_clock::now();
    if (!eventually([&] { return restored(pid); }))
      return ::testing::AssertionFailure()
             << "still patched: " << ::testing::PrintToString(text_differences(pid));
    const auto took =
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - before);
    std::cerr << "restored after " << after << ": " << took.count() / 1000.0 << " ms\n";
    return ::testing::AssertionSuccess();
  }
  nlohmann::json daemon_status() { return bpftime_json({"daemon", "status"}); }
  bool no_objects() {
    const auto status = daemon_status();
    return status["maps"] == 0 && status["programs"] == 0 && status["links"] == 0 && status["loaders"] == 0;
  }
};

}  // namespace bpftime::e2e
