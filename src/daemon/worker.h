// The worker: serves loaders, targets and the CLI. May die at any instruction; the keeper starts another, which goes on
// from the keeper's records and from the registries the targets carry.
#pragma once

#include <linux/bpf.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/runtime_dir.h"
#include "daemon/attacher.h"
#include "daemon/audit.h"
#include "daemon/clocks.h"
#include "daemon/connection.h"
#include "daemon/keeper_protocol.h"
#include "daemon/options.h"
#include "daemon/policies.h"
#include "daemon/ring_watcher.h"
#include "daemon/runner.h"
#include "daemon/trace_log.h"
#include "daemon/trace_pipes.h"
#include "kernel/kernel.h"

namespace bpftime::daemon {

class Worker : public kernel::Observer {
 public:
  Worker(RuntimeDirectory directory, const Options& options);
  ~Worker() override;

  // Until stopped, idle for long, or the keeper is gone. Returns the exit code.
  int run();

  // What commands.cc needs.
  kernel::Kernel& kernel() { return kernel_; }
  Attacher& attacher() { return *attacher_; }
  const Clocks& clocks() const { return clocks_; }
  const RuntimeDirectory& directory() const { return directory_; }
  const std::map<int, Connection>& connections() const { return connections_; }
  // Until a released or dropped connection was the last to hold them, no site in any target changes; then all do at once.
  void hold_probes(Connection& client);
  void release_probes(Connection& client);
  uint64_t uptime_s() const;
  void ask_to_stop() { stop_asked_ = true; }
  // Another worker takes over, with every object: an upgrade.
  void ask_to_restart() { stop_asked_ = restart_asked_ = true; }
  void follow_targets();
  // Sends subscribers what programs have printed until now, without waiting to be woken.
  void flush_trace();

 private:
  RuntimeDirectory directory_;
  Fd epoll_, channel_, listener_;
  kernel::Kernel kernel_;
  std::unique_ptr<Attacher> attacher_;
  std::map<int, Connection> connections_;
  struct Watched {
    Fd eventfd;  // ours to read; invalid when the client alone is told
    std::unique_ptr<RingWatcher> watcher;
  };
  std::map<uint32_t, Watched> watched_;  // by map id
  std::map<int, uint32_t> drained_;      // eventfd to map id: perf event arrays and the trace ring
  struct Followed {
    pid_t pid;
    Fd pidfd;
  };
  Runner runner_;
  Clocks clocks_;
  pid_t runner_watched_ = -1;  // whose socket is in epoll_
  // A BPF_PROG_TEST_RUN whose caller waits: the reply comes when the program has run.
  struct AwaitedRun {
    std::shared_ptr<kernel::Prog> program;
    std::vector<uint8_t> context;  // what `run` points to
    kernel::ProgramRun run;
    bool again = false;
    int client = -1;
    uint32_t sequence = 0;
    bpf_attr attr{};
  };
  std::map<uint32_t, AwaitedRun> runs_;  // by the runner's number
  std::optional<uint32_t> run_begun_;    // during the request that begins it
  std::map<int, Followed> followed_;     // targets, by the pidfd (our own) whose event tells of their end
  TraceLog trace_;
  TracePipes pipes_;
  AuditLog audit_;
  bool probes_held_back_ = false;  // they changed while somebody held them
  uint64_t trace_sent_ = 0;
  uint64_t started_s_ = 0;
  uint64_t last_busy_s_ = 0;
  uint64_t last_scan_s_ = 0;
  bool recovering_ = true;
  uint16_t keeper_version_ = wire::kAbiVersion;
  bool stop_asked_ = false;
  bool restart_asked_ = false;
  const Options options_;

  // kernel::Observer
  void object_changed(const kernel::Object& object) override;
  void object_gone(const kernel::Object& object) override;
  void probes_changed() override;
  void uprobes_changed(const std::vector<kernel::UprobePlace>& places) override;
  void readiness_wanted(const std::shared_ptr<kernel::Object>& object) override;
  Result<void> reach(const kernel::Map& map, const std::vector<kernel::TargetMemory>& memory) override;
  Result<uint64_t> run(const kernel::ProgramRun& run) override;

  bool recover();
  Result<void> tell_keeper(KeeperMessage message, Bytes body, std::span<const int> fds, uint64_t timeout_ms);
  void watch(int fd);
  void watch_pipe(int writer);
  void accept_clients();
  void on_event(int fd);
  void on_client(int fd);
  void drop(int fd);
  void drain(int fd);
  void libraries_changed(kernel::Map& announcements);
  void drain_perf_arrays();  // into their readers' buffers
  void housekeeping();
  void update_clocks();
  void follow_runner();
  Result<void> begin_run(AwaitedRun awaited);
  void reply_to_runs();
  bool idle() const;
  bool probes_held() const;
  void send_trace();

  // One request, one reply. False: drop the client.
  bool handle(Connection& client, const wire::Message& message);
  bool handle_bpf(Connection& client, const wire::Message& message);
  bool handle_policy(Connection& client, const wire::Message& message);
  bool handle_perf_event_open(Connection& client, const wire::Message& message);
  bool handle_perf(Connection& client, const wire::Message& message);
  bool handle_command(Connection& client, const wire::Message& message);
  bool handle_target_hello(Connection& client, const wire::Message& message);
  bool handle_trace_subscribe(Connection& client, const wire::Message& message);
  // The reply to a request for one of the files trace_pipe and trace.
  kernel::BpfReply open_trace(uint32_t flags);
  bool send_reply(Connection& client, uint32_t sequence, kernel::BpfReply reply);
};

}  // namespace bpftime::daemon
