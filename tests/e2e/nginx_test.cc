// Debian's stripped nginx, unmodified, workers as www-data where we are root: calls of
// ngx_http_process_request against the lines of its access log, and many attach/detach rounds under load.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "harness.h"

namespace bpftime::e2e {
namespace {

constexpr char kNginx[] = "/usr/sbin/nginx";
constexpr size_t kWorkers = 2;

class Nginx : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    for (const char* needed : {kNginx, "/usr/bin/wrk", "/usr/bin/curl"})
      if (::access(needed, X_OK) != 0) GTEST_SKIP() << needed << " is not installed";
    port_ = std::to_string(free_port());
    prefix_ = directory() + "/nginx";
    std::filesystem::create_directories(prefix_ + "/logs");
    std::filesystem::create_directories(prefix_ + "/temp");
    std::ofstream config(prefix_ + "/nginx.conf");
    config << (::geteuid() == 0 ? "user www-data;\n" : "") << "daemon off;\n"
           << "master_process on;\nworker_processes " << kWorkers << ";\npid " << prefix_
           << "/nginx.pid;\nerror_log " << prefix_
           << "/logs/error.log notice;\nevents { worker_connections 256; }\nhttp {\n  access_log " << prefix_
           << "/logs/access.log;\n";
    for (const char* kind : {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"})
      config << "  " << kind << "_temp_path " << prefix_ << "/temp/" << kind << ";\n";
    config << "  server {\n    listen 127.0.0.1:" << port_ << ";\n    location /idle { stub_status; }\n"
           << "    location / { return 200 \"hello\\n\"; }\n  }\n}\n";
  }

  Arguments server() const { return {kNginx, "-c", prefix_ + "/nginx.conf", "-p", prefix_}; }
  std::string url(const std::string& path) const { return "http://127.0.0.1:" + port_ + path; }
  std::string get(const std::string& path) { return run({"curl", "-s", "-m", "10", url(path)}).output; }
  void wait_until_serving() {
    ASSERT_TRUE(eventually([&] { return get("/up") == "hello\n"; })) << "nginx does not serve";
  }

  std::vector<std::string> log_lines() const {
    std::ifstream file(prefix_ + "/logs/access.log");
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  size_t lines_with(const std::string& text) const {
    size_t count = 0;
    for (const auto& line : log_lines()) count += line.find(text) != std::string::npos;
    return count;
  }

  // Waits until no request but our own question is being served and every one of these questions is in the
  // log.
  void settle() {
    ASSERT_TRUE(eventually([&] {
      ++questions_;
      return get("/idle").starts_with("Active connections: 1 ");
    })) << "connections remain";
    ASSERT_TRUE(eventually([&] { return lines_with("GET /idle ") == questions_; }));
  }

  // Master and workers; workers that are shutting down excluded.
  std::vector<pid_t> processes(pid_t master) const {
    std::vector<pid_t> out = {master};
    std::ifstream file("/proc/" + std::to_string(master) + "/task/" + std::to_string(master) + "/children");
    for (pid_t pid; file >> pid;) {
      std::ifstream line("/proc/" + std::to_string(pid) + "/cmdline");
      std::string title;
      std::getline(line, title, '\0');
      if (title.starts_with("nginx: worker process") && title.find("shutting down") == std::string::npos)
        out.push_back(pid);
    }
    return out;
  }
  std::vector<pid_t> wait_for_processes(pid_t master) {
    EXPECT_TRUE(eventually([&] { return processes(master).size() == kWorkers + 1; }));
    return processes(master);
  }

  Child wrk(const std::string& duration) const {
    // Its own patience is 2 s, a lost second of a busy machine each.
    return Child({"wrk", "-t1", "-c8", "--timeout", "60s", "-d" + duration, url("/load")}, options());
  }
  // wrk's own summary: every request answered with 200, no connection lost.
  static void expect_clean(Child& wrk) {
    EXPECT_EQ(wrk.wait(), 0);
    EXPECT_NE(wrk.output().find("requests in"), std::string::npos) << wrk.output() << wrk.error();
    EXPECT_EQ(wrk.output().find("Socket errors"), std::string::npos) << wrk.output();
    EXPECT_EQ(wrk.output().find("Non-2xx"), std::string::npos) << wrk.output();
  }
  void load_generator() {
    Child load = wrk("1s");
    expect_clean(load);
  }

  static void expect_own_text(const std::vector<pid_t>& pids) {
    for (pid_t pid : pids)
      EXPECT_TRUE(eventually([&] { return text_differences(pid).empty(); }))
          << "process " << pid << ": " << ::testing::PrintToString(text_differences(pid));
  }
  static bool any_patched(const std::vector<pid_t>& pids) {
    for (pid_t pid : pids)
      if (!text_differences(pid).empty()) return true;
    return false;
  }
  Arguments with_pids(const char* verb, const std::vector<pid_t>& pids) const {
    Arguments out = {verb};
    for (pid_t pid : pids) out.push_back(std::to_string(pid));
    return out;
  }
  void quit(Child& nginx) {
    nginx.signal(SIGQUIT);
    EXPECT_EQ(nginx.wait(), 0) << nginx.error();
  }
  Child load_counter() {
    return load_tool({program("uprobe_stat"), "count", kNginx, "ngx_http_process_request"});
  }

  std::string port_, prefix_;
  size_t questions_ = 0;
};

TEST_F(Nginx, StartedUnderUsCountsTheAccessLog) {
  Child tool = load_counter();
  Arguments start = server();
  start.insert(start.begin(), "start");
  Child nginx = bpftime_child(start);
  wait_until_serving();
  const auto pids = wait_for_processes(nginx.pid());
  EXPECT_EQ(active_probes(0), kWorkers + 1);
  load_generator();
  settle();
  // Masters do not serve: the counts are the workers'.
  const auto seen = finish_tool(tool);
  expect_own_text(pids);
  quit(nginx);
  EXPECT_GT(lines_with("GET /load "), 100u);
  EXPECT_EQ(seen["calls"], log_lines().size());
  EXPECT_FALSE(seen["by_tgid"].contains(std::to_string(nginx.pid())));
}

TEST_F(Nginx, AttachedWhileServingCountsBetweenTwoMarkers) {
  Child nginx(server(), options());
  wait_until_serving();
  const auto pids = wait_for_processes(nginx.pid());
  {
    Child load = wrk("2s");
    ASSERT_TRUE(eventually([&] { return lines_with("GET /load ") > 0; }));
    const Finished attached = bpftime(with_pids("attach", pids));
    ASSERT_EQ(attached.code, 0) << attached.error;
    expect_clean(load);
  }
  settle();
  Child tool = load_counter();
  EXPECT_EQ(active_probes(0), pids.size());
  get("/marker-one");
  load_generator();
  settle();
  get("/marker-two");
  ASSERT_TRUE(eventually([&] { return lines_with("GET /marker-two ") == 1; }));
  const auto seen = finish_tool(tool);
  get("/after");
  expect_own_text(pids);
  quit(nginx);

  const auto lines = log_lines();
  size_t first = 0, last = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].find("GET /marker-one ") != std::string::npos) first = i;
    if (lines[i].find("GET /marker-two ") != std::string::npos) last = i;
  }
  EXPECT_GT(last - first, 100u);
  EXPECT_EQ(seen["calls"], last - first + 1);
}

TEST_F(Nginx, ReloadUnderProbesCountsTheNewWorkers) {
  Child tool = load_counter();
  Arguments start = server();
  start.insert(start.begin(), "start");
  Child nginx = bpftime_child(start);
  wait_until_serving();
  const auto before = wait_for_processes(nginx.pid());
  load_generator();
  const Finished reloaded = run({kNginx, "-c", prefix_ + "/nginx.conf", "-p", prefix_, "-s", "reload"});
  ASSERT_EQ(reloaded.code, 0) << reloaded.error;
  std::vector<pid_t> after;
  ASSERT_TRUE(eventually([&] {
    after = processes(nginx.pid());
    const std::set<pid_t> old(before.begin() + 1, before.end());
    size_t fresh = 0;
    for (pid_t pid : after) fresh += pid != nginx.pid() && !old.contains(pid);
    return fresh == kWorkers && after.size() == kWorkers + 1;
  }));
  load_generator();
  settle();
  EXPECT_EQ(active_probes(0), kWorkers + 1);
  const auto seen = finish_tool(tool);
  expect_own_text(after);
  quit(nginx);
  EXPECT_EQ(seen["calls"], log_lines().size());
  size_t from_new = 0;
  for (pid_t pid : after) from_new += seen["by_tgid"].value(std::to_string(pid), size_t{0});
  EXPECT_GT(from_new, 100u);
}

// BPFTIME_ROUNDS: 20 in the everyday run, 200 in the long one.
TEST_F(Nginx, RoundsOfAttachAndDetachUnderLoadLoseNothing) {
  const char* set = std::getenv("BPFTIME_ROUNDS");
  const int rounds = set != nullptr ? std::atoi(set) : 20;
  Child nginx(server(), options());
  wait_until_serving();
  const auto pids = wait_for_processes(nginx.pid());
  Child tool = load_tool({program("uprobe_stat"), "latency", kNginx, "ngx_http_process_request"});
  Child load = wrk("600s");
  ASSERT_TRUE(eventually([&] { return lines_with("GET /load ") > 0; }));
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    const Finished attached = bpftime(with_pids("attach", pids));
    ASSERT_EQ(attached.code, 0) << "round " << round << ": " << attached.error;
    if (round == 0) {
      EXPECT_EQ(active_probes(0), pids.size());
      EXPECT_TRUE(any_patched(pids)) << "the comparison would not notice";
    }
    const Finished detached = bpftime(with_pids("detach", pids));
    ASSERT_EQ(detached.code, 0) << "round " << round << ": " << detached.error;
    for (pid_t pid : pids) ASSERT_EQ(text_differences(pid), std::vector<std::string>()) << "round " << round;
  }
  load.signal(SIGINT);
  expect_clean(load);
  EXPECT_EQ(processes(nginx.pid()), pids) << "a worker died";
  EXPECT_EQ(active_probes(0), 0u);
  EXPECT_EQ(get("/still"), "hello\n");
  const auto seen = finish_tool(tool);
  EXPECT_GT(seen["calls"], 0);
  expect_own_text(pids);
  quit(nginx);
}

}  // namespace
}  // namespace bpftime::e2e
