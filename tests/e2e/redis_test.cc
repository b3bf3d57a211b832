// Debian's redis-server, unmodified: entry and return of `call`, counted against what the server says of itself.
#include "harness.h"

namespace bpftime::e2e {
namespace {

class Redis : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    if (run({"which", "redis-server"}).code != 0) GTEST_SKIP() << "redis-server is not installed";
    port_ = std::to_string(free_port());
  }
  Arguments server() const {
    return {"/usr/bin/redis-server", "--port", port_, "--save", "", "--daemonize", "no"};
  }
  std::string cli(Arguments arguments) const {
    arguments.insert(arguments.begin(), {"redis-cli", "-p", port_});
    return run(arguments).output;
  }
  void wait_until_serving() {
    ASSERT_TRUE(eventually([&] { return cli({"ping"}) == "PONG\n"; }));
  }
  // Calls of all commands since CONFIG RESETSTAT, that command itself and this INFO included.
  uint64_t calls_by_server() const {
    uint64_t total = 1;  // this INFO counts itself after it has answered
    const std::string text = cli({"info", "commandstats"});
    for (size_t at = text.find("calls="); at != std::string::npos; at = text.find("calls=", at + 1))
      if (text[at - 1] != '_') total += std::stoull(text.substr(at + 6));
    return total;
  }
  void load_generator() const {
    EXPECT_EQ(
        run({"redis-benchmark", "-p", port_, "-q", "-n", "2000", "-c", "8", "-t", "set,get,lpush"}).code, 0);
  }

  std::string port_;
};

TEST_F(Redis, StartedUnderUsCountsEveryCommand) {
  Child tool = load_tool({program("uprobe_stat"), "latency", "/usr/bin/redis-server", "call"});
  Arguments start = server();
  start.insert(start.begin(), "start");
  Child redis = bpftime_child(start);
  wait_until_serving();
  const auto before = calls_by_server();
  load_generator();
  const auto after = calls_by_server();
  const auto seen = finish_tool(tool);
  EXPECT_GE(after - before, 6000u);
  EXPECT_EQ(seen["calls"], after);
  EXPECT_EQ(seen["timed"], after);
  EXPECT_EQ(seen["by_tgid"].size(), 1u);
  EXPECT_TRUE(eventually([&] { return text_differences(redis.pid()).empty(); }));
}

TEST_F(Redis, AttachedWhileServingCountsFromThereOn) {
  Child redis(server(), options());
  wait_until_serving();
  Child tool = load_tool({program("uprobe_stat"), "latency", "/usr/bin/redis-server", "call"});
  const Finished attached = bpftime({"attach", std::to_string(redis.pid())});
  ASSERT_EQ(attached.code, 0) << attached.error;
  EXPECT_EQ(active_probes(redis.pid()), 1u);
  cli({"config", "resetstat"});
  load_generator();
  const auto calls = calls_by_server();
  const auto seen = finish_tool(tool);
  EXPECT_EQ(seen["calls"], calls);
  EXPECT_EQ(seen["timed"], calls);
  EXPECT_TRUE(eventually([&] { return text_differences(redis.pid()).empty(); }));
}

}  // namespace
}  // namespace bpftime::e2e
