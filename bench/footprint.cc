#include "footprint.h"

#include <cinttypes>
#include <cstdio>
#include <fstream>

namespace bpftime::bench {
namespace {

bool is_ours(const std::string& path) {
  return path.starts_with("/memfd:bpftime-") || path.find("/libbpftime-") != std::string::npos;
}

double run_ms(const Arguments& arguments, const std::string& errors) {
  const uint64_t start = now_ns();
  output_of(arguments, errors);
  return (now_ns() - start) / 1e6;
}

}  // namespace

Footprint footprint_of(pid_t pid) {
  Footprint out;
  std::ifstream file("/proc/" + std::to_string(pid) + "/smaps");
  uint64_t ours_end = 0;  // of the last mapping of ours
  bool counts = false;
  for (std::string line; std::getline(file, line);) {
    uint64_t start, end, kib;
    int path_at = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %*s %n", &start, &end, &path_at) ==
        2) {
      const std::string path = line.substr(path_at);
      counts = is_ours(path) || (path.empty() && start == ours_end);
      if (!counts) continue;
      ours_end = end;
      out.mappings.push_back({path, end - start, 0});
      (path.starts_with("/") && !path.starts_with("/memfd:") ? out.file_bytes : out.memory_bytes) +=
          end - start;
    } else if (counts && std::sscanf(line.c_str(), "Rss: %" SCNu64 " kB", &kib) == 1) {
      out.mappings.back().resident_bytes = kib * 1024;
      out.resident_bytes += kib * 1024;
    }
  }
  return out;
}

StartCost measure_start(const std::string& bpftime, const std::string& work, int rounds) {
  StartCost out;
  const std::string errors = work + "/start.err";
  const Arguments plain = {"/bin/true"}, started = {bpftime, "start", "/bin/true"};
  run_ms(plain, errors);
  run_ms(started, errors);
  for (int round = 0; round < rounds; ++round) {
    const bool plain_first = round % 2 == 0;
    if (plain_first) out.plain_ms.push_back(run_ms(plain, errors));
    out.started_ms.push_back(run_ms(started, errors));
    if (!plain_first) out.plain_ms.push_back(run_ms(plain, errors));
  }
  return out;
}

}  // namespace bpftime::bench
