#include "many_probes.h"

#include <signal.h>

#include <cstdio>
#include <fstream>
#include <sstream>

namespace bpftime::bench {
namespace {

constexpr std::chrono::seconds kLimit{300};

// MiB of address space and of memory in use.
std::pair<double, double> memory_of(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  long mapped = 0, resident = 0;
  for (std::string line; std::getline(status, line);) {
    std::sscanf(line.c_str(), "VmSize: %ld", &mapped);
    std::sscanf(line.c_str(), "VmRSS: %ld", &resident);
  }
  return {static_cast<double>(mapped) / 1024, static_cast<double>(resident) / 1024};
}

// "attached 1000 in 123 us" -> ms
double milliseconds(const std::string& line, const std::string& what) {
  std::istringstream words(line.starts_with(what + " ") ? line.substr(what.size()) : "");
  int count = 0;
  std::string in;
  double us = 0;
  if (!(words >> count >> in >> us) || count != kManyProbes) throw Trouble("many_probes says " + line);
  return us / 1000;
}

}  // namespace

ManyProbes measure_many_probes(const std::string& bin, const std::string& work, int rounds) {
  const std::string functions = bin + "/many_functions", offsets = work + "/offsets";
  output_of({"sh", "-c", "nm \"$0\" | sed -n 's/ T many_.*//p' > \"$1\"", functions, offsets},
            work + "/nm.err");
  Process victim({functions}, work + "/many_functions.err");
  victim.read_line();
  const auto before = memory_of(victim.pid());
  const auto command = [&](const char* name) {
    const uint64_t start = now_ns();
    output_of({bin + "/bpftime", name, std::to_string(victim.pid())}, work + "/bpftime.err");
    return static_cast<double>(now_ns() - start) / 1e6;
  };
  command("attach");
  ManyProbes out;
  Process tool({bin + "/bpftime", "load", "sh", "-c", "exec \"$0\" \"$1\" -1 < \"$2\"", bin + "/many_probes",
                functions, offsets},
               work + "/many_probes.err");
  out.one_by_one_ms.push_back(milliseconds(tool.read_line(kLimit), "attached"));
  tool.read_line(kLimit);  // ready
  const auto with = memory_of(victim.pid());
  out.address_space_mib = with.first - before.first;
  out.resident_mib = with.second - before.second;
  for (int round = 0; round < rounds; ++round) {
    command("detach");
    out.at_once_ms.push_back(command("attach"));
  }
  ::kill(tool.pid(), SIGUSR2);
  out.let_go_ms.push_back(milliseconds(tool.read_line(kLimit), "let go"));
  out.one_by_one_ms.push_back(milliseconds(tool.read_line(kLimit), "attached"));
  tool.finish(true);
  return out;
}

}  // namespace bpftime::bench
