// Bare, kernel and ours in one interleaved run; docs/benchmarks.md says how to read it. Asserts nothing.
//   probes_bench [--rounds N] [--only MODE] [--json FILE] [--commit NAME]
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "report.h"

namespace bpftime::bench {
namespace {

constexpr int kRounds = 12;  // a multiple of three: each variant comes first equally often
constexpr int kStartRounds = 30;
constexpr char kManyRow[] = "many_probes";

struct Options {
  int rounds = kRounds;
  std::optional<std::string> only;
  std::string json, commit = "unknown";
};

// A daemon of our own in a fresh directory: neither sees nor disturbs what else this user probes.
class Workshop {
 public:
  explicit Workshop(std::string bin) : bin_(std::move(bin)) {
    const char* base = std::getenv("TMPDIR");
    std::string name = std::string(base != nullptr ? base : "/tmp") + "/bpftime-bench.XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw Trouble("no temporary directory: " + name);
    path_ = name;
    ::mkdir((path_ + "/run").c_str(), 0700);
    ::setenv("BPFTIME_RUNTIME_DIR", (path_ + "/run").c_str(), 1);
  }
  ~Workshop() {
    try {
      bpftime({"daemon", "stop"});
    } catch (const Trouble& trouble) {
      std::fprintf(stderr, "note: %s\n", trouble.what());
    }
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string bpftime(Arguments arguments) {
    arguments.insert(arguments.begin(), bin_ + "/bpftime");
    return output_of(arguments, path_ + "/bpftime.err");
  }

 private:
  std::string bin_, path_;
};

Report measure(const Options& options) {
  const std::string bin = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  Workshop workshop(bin);
  Report report{this_machine(options.commit), {}, {}, {}, {}, {}};

  std::fprintf(stderr, "==> a process without probes\n");
  const std::string program = bin + "/bench_victim";
  {
    Process started({bin + "/bpftime", "start", program}, workshop.path() + "/started.err");
    started.read_line();
    report.started = footprint_of(started.pid());
    started.finish(false);
  }
  Process victim({program}, workshop.path() + "/victim.err");
  const std::string greeting = victim.read_line();
  workshop.bpftime({"attach", std::to_string(victim.pid())});
  report.attached = footprint_of(victim.pid());
  report.start = measure_start(bin + "/bpftime", workshop.path(), kStartRounds);

  std::fprintf(stderr, "==> probed calls, %d rounds\n", options.rounds);
  report.hot_path = measure_hot_path(victim, {bin, workshop.path(), greeting, options.rounds, options.only});
  victim.finish(false);
  if (!options.only || *options.only == kManyRow) {
    std::fprintf(stderr, "==> %d probes in one process\n", kManyProbes);
    report.many = measure_many_probes(bin, workshop.path(), options.rounds);
  }
  return report;
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const char* value = i + 1 < argc ? argv[++i] : nullptr;
    if (value != nullptr && name == "--rounds" && std::atoi(value) > 0) {
      options.rounds = std::atoi(value);
    } else if (value != nullptr && name == "--only") {
      options.only = value;
    } else if (value != nullptr && name == "--json") {
      options.json = value;
    } else if (value != nullptr && name == "--commit") {
      options.commit = value;
    } else {
      std::fprintf(stderr, "usage: probes_bench [--rounds N] [--only MODE] [--json FILE] [--commit NAME]\n");
      return 2;
    }
  }
  const Report report = measure(options);
  print(report);
  if (!options.json.empty() && !(std::ofstream(options.json) << json(report))) {
    throw Trouble("cannot write " + options.json);
  }
  return 0;
}

}  // namespace
}  // namespace bpftime::bench

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);  // a victim that ended is reported, not suffered
  try {
    return bpftime::bench::run(argc, argv);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "error: bench: %s\n", problem.what());
    return 1;
  }
}
