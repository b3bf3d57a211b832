// bpftimed: the keeper, which starts itself again as the worker. Started by the CLI; see docs/architecture.md.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/log.h"
#include "base/version.h"
#include "daemon/keeper.h"
#include "daemon/worker.h"

namespace {

constexpr char kHelp[] =
    "bpftimed: the daemon behind bpftime; one per user, started by the CLI on first use\n"
    "\n"
    "usage: bpftimed [--runtime-dir DIR] [--idle-seconds N] [--run-seconds N]\n"
    "  --runtime-dir DIR  where the socket lies (default: as `bpftime doctor` shows)\n"
    "  --idle-seconds N   leave after so long without clients, programs and maps (default: 20)\n"
    "  --run-seconds N    end a program that nobody calls (bpf_prog_test_run, clocks) after so long "
    "(default: 10)\n"
    "  --version, --help\n";

// The number that follows the option at `i`, if it is `name`; moves `i` to it.
bool number_of(const char* name, int argc, char** argv, int& i, uint64_t& number) {
  if (std::strcmp(argv[i], name) != 0 || i + 1 >= argc || std::strspn(argv[i + 1], "0123456789") == 0)
    return false;
  number = std::strtoull(argv[++i], nullptr, 10);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  bool worker = false;
  std::string path;
  bpftime::daemon::Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--worker") == 0) {
      worker = true;
    } else if (std::strcmp(argv[i], "--runtime-dir") == 0 && i + 1 < argc) {
      path = argv[++i];
    } else if (number_of("--idle-seconds", argc, argv, i, options.idle_seconds) ||
               number_of("--run-seconds", argc, argv, i, options.run_seconds)) {
      continue;
    } else if (std::strcmp(argv[i], "--version") == 0) {
      std::printf("bpftimed %s\n", bpftime::kVersion);
      return 0;
    } else if (std::strcmp(argv[i], "--help") == 0) {
      std::fputs(kHelp, stdout);
      return 0;
    } else {
      std::fprintf(stderr, "bpftimed: %s: not an option; try --help\n", argv[i]);
      return 2;
    }
  }
  ::umask(077);
  // Each object is a descriptor: as many as we may have.
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  // Map contents and code of other processes pass through here: no core dumps, no ptrace by other users.
  ::prctl(PR_SET_DUMPABLE, 0);
  auto directory = path.empty() ? bpftime::find_runtime_directory() : bpftime::open_runtime_directory(path);
  if (!directory) {
    bpftime::log_error(directory.error().message);
    return 1;
  }
  if (worker) return bpftime::daemon::Worker(*directory, options).run();
  return bpftime::daemon::run_keeper(*directory, options);
}
