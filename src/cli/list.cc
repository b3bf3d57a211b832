// bpftime list: who is entered, with which probes, and which tools are loaded.
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include "cli/bpf_door.h"
#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

struct ListOptions {
  bool hits = false;
  double seconds = 1;
};

sigset_t block_interrupts() {
  sigset_t interrupts;
  ::sigemptyset(&interrupts);
  ::sigaddset(&interrupts, SIGINT);
  ::sigaddset(&interrupts, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &interrupts, nullptr);
  return interrupts;
}

// Until the time is over, or somebody interrupts: what was counted until then is shown.
void wait_for(double seconds, const sigset_t& interrupts) {
  const auto whole = static_cast<time_t>(seconds);
  const timespec time{whole, static_cast<long>((seconds - static_cast<double>(whole)) * 1e9)};
  ::sigtimedwait(&interrupts, nullptr, &time);
}

// What bpftool and others do to have the kernel count: programs count as long as somebody holds this descriptor.
Result<Fd> count_runs() {
  if (auto opened = open_bpf_door(); !opened) return opened.error();
  bpf_attr attr{};
  attr.enable_stats.type = BPF_STATS_RUN_TIME;
  auto fd = bpf(BPF_ENABLE_STATS, attr, "list --hits");
  if (!fd) return fd.error();
  return Fd(static_cast<int>(*fd));
}

// Who counts is a tool to the daemon, but none that anybody loaded.
void forget_ourselves(Json& answer) {
  if (!answer.contains("loaders") || !answer["loaders"].is_array()) return;
  Json others = Json::array();
  for (const Json& loader : answer["loaders"])
    if (field(loader, "pid") != std::to_string(::getpid())) others.push_back(loader);
  answer["loaders"] = others;
}

int list(const ListOptions& options, bool json) {
  Fd counting;
  if (options.hits) {
    const sigset_t interrupts = block_interrupts();
    auto fd = count_runs();
    if (!fd) return report(fd.error());
    counting = std::move(*fd);
    wait_for(options.seconds, interrupts);
  }
  auto answer = ask_daemon(Json{{"command", "list"}});
  if (!answer) return report(answer.error());
  forget_ourselves(*answer);
  if (json) {
    print_json(*answer);
  } else {
    fmt::print("{}", list_text(*answer));
  }
  return kOk;
}

}  // namespace

void add_list(CLI::App& app, CommandLine& line) {
  constexpr double kSecondsMax = 1e6;
  CLI::App* verb =
      add_verb(app, "list", "Show targets with their probes, and the loaded tools",
               "  bpftime list\n  bpftime list --hits\n  bpftime list --hits --for 0.2 --json\n"
               "Every probe is shown in every target, in place or with the reason why not. Faults are\n"
               "loads through bad pointers, which read 0. Hits are counted only while somebody asks:\n"
               "with --hits, for a second or as long as --for says; or while another tool holds\n"
               "statistics enabled. Those of extensions are always counted, in all processes together.\n");
  auto options = std::make_shared<ListOptions>();
  verb->add_flag("--hits", options->hits, "Count how often each program runs at each place, and show that");
  verb->add_option("--for", options->seconds, "How many seconds to count")
      ->needs("--hits")
      ->check(CLI::Range(0.0, kSecondsMax));
  verb->callback([&line, options] { line.run = [&line, options] { return list(*options, line.json); }; });
}

}  // namespace bpftime::cli
