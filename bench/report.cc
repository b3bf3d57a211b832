#include "report.h"

#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

namespace bpftime::bench {
namespace {

using Json = nlohmann::json;

struct Spread {
  double median = 0, min = 0, max = 0;
};

Spread spread(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

std::string text(const std::vector<double>& values) {
  if (values.empty()) return "–";
  const Spread s = spread(values);
  char out[64];
  std::snprintf(out, sizeof out, "%.1f (%.1f–%.1f)", s.median, s.min, s.max);
  return out;
}

// printf pads bytes; these hold dashes of three.
std::string padded(const std::string& text, size_t width) {
  const size_t columns = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
  return text + std::string(width > columns ? width - columns : 1, ' ');
}

void row(const std::string& first, const std::string& bare, const std::string& kernel,
         const std::string& ours, const std::string& ratio) {
  std::printf("| %s| %s| %s| %s| %s|\n", padded(first, 38).c_str(), padded(bare, 16).c_str(),
              padded(kernel, 24).c_str(), padded(ours, 20).c_str(), padded(ratio, 12).c_str());
}

void print_losses(const ModeResult& result, const char* who, const Variant& variant) {
  for (const std::string& loss : variant.losses) {
    std::printf("LOST EVENTS: %s, %s, %s\n", result.mode.title.c_str(), who, loss.c_str());
  }
}

void print_hot_path(const HotPath& hot_path) {
  std::printf(
      "\nNanoseconds per call or operation: median (min–max); kernel and ours over the bare call of the same "
      "round.\n\n");
  row("program", "bare call", "kernel", "ours", "kernel/ours");
  std::printf("|---|---|---|---|---|\n");
  for (const ModeResult& result : hot_path.results) {
    std::string ratio = "–";
    const double kernel = spread(result.kernel.over_bare_ns).median,
                 ours = spread(result.ours.over_bare_ns).median;
    if (kernel > 0 && ours > 0) ratio = std::to_string(std::lround(kernel / ours));
    row(result.mode.title, text(result.bare_ns), text(result.kernel.over_bare_ns),
        text(result.ours.over_bare_ns), ratio);
  }
  std::printf("\n");
  for (const ModeResult& result : hot_path.results) {
    if (result.no_kernel.empty()) continue;
    std::printf("Not in the kernel here: %s (%s)\n\n", result.mode.title.c_str(), result.no_kernel.c_str());
  }
  bool lost = false, counting = false;
  std::vector<double> kernel_attach, our_attach;
  for (const ModeResult& result : hot_path.results) {
    print_losses(result, "kernel", result.kernel);
    print_losses(result, "ours", result.ours);
    lost |= !result.kernel.losses.empty() || !result.ours.losses.empty();
    counting |= result.mode.events_per_call > 0;
    kernel_attach.insert(kernel_attach.end(), result.kernel.attach_us.begin(), result.kernel.attach_us.end());
    our_attach.insert(our_attach.end(), result.ours.attach_us.begin(), result.ours.attach_us.end());
  }
  if (counting && !lost) std::printf("Every program that counts has counted every call, in every round.\n");
  std::printf("Attaching a loaded program, µs, as the tool sees it: kernel %s, ours %s\n",
              text(kernel_attach).c_str(), text(our_attach).c_str());
  for (const ModeResult& result : hot_path.results)
    if (!result.ours.change_us.empty())
      std::printf("In row \"%s\", the change of the running victim alone (plan, write, barriers), µs: %s\n",
                  result.mode.title.c_str(), text(result.ours.change_us).c_str());
}

void print_footprint(const char* how, const Footprint& footprint) {
  std::printf("| %s| %6.1f KiB | %6.1f KiB | %6.1f KiB |\n", padded(how, 24).c_str(),
              footprint.file_bytes / 1024.0, footprint.memory_bytes / 1024.0,
              footprint.resident_bytes / 1024.0);
}

Json json_of(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  const Spread s = spread(values);
  return {{"median", s.median}, {"min", s.min}, {"max", s.max}, {"values", values}};
}

Json json_of(const Variant& variant) {
  if (variant.over_bare_ns.empty()) return nullptr;
  return {{"over_bare_ns", json_of(variant.over_bare_ns)},
          {"attach_us", json_of(variant.attach_us)},
          {"change_us", json_of(variant.change_us)},
          {"lost", variant.losses}};
}

Json json_of(const Footprint& footprint) {
  Json mappings = Json::array();
  for (const Mapping& mapping : footprint.mappings) {
    mappings.push_back({{"path", mapping.path},
                        {"size_bytes", mapping.size_bytes},
                        {"resident_bytes", mapping.resident_bytes}});
  }
  return {{"file_bytes", footprint.file_bytes},
          {"memory_bytes", footprint.memory_bytes},
          {"resident_bytes", footprint.resident_bytes},
          {"mappings", mappings}};
}

}  // namespace

Machine this_machine(const std::string& commit) {
  Machine out{"unknown", "unknown", "", commit, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)), 0};
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    out.cpu = line.substr(line.find(": ") + 2);
    break;
  }
  utsname name{};
  if (::uname(&name) == 0) out.kernel = std::string(name.release) + " " + name.machine;
  char date[32];
  const time_t now = ::time(nullptr);
  tm utc{};
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", ::gmtime_r(&now, &utc));
  out.date = date;
  if (::getloadavg(&out.load, 1) != 1) out.load = -1;
  return out;
}

void print(const Report& report) {
  const Machine& machine = report.machine;
  std::printf("%s, %d CPUs, Linux %s, %s, commit %s, load before the run %.1f\n", machine.cpu.c_str(),
              machine.cpus, machine.kernel.c_str(), machine.date.c_str(), machine.commit.c_str(),
              machine.load);
  print_hot_path(report.hot_path);

  std::printf("\nOurs in a process without probes:\n\n");
  std::printf("| %s| mapped files| other memory| resident   |\n|---|---|---|---|\n", padded("", 24).c_str());
  print_footprint("bpftime attach PID", report.attached);
  print_footprint("bpftime start PROGRAM", report.started);

  if (report.many) {
    const ManyProbes& many = *report.many;
    std::printf(
        "\n%d probes in one process, ms: with one change (`bpftime attach`) %s; link by link %s, let go %s; "
        "it grew by %.1f MiB of address space, %.1f MiB resident\n",
        kManyProbes, text(many.at_once_ms).c_str(), text(many.one_by_one_ms).c_str(),
        text(many.let_go_ms).c_str(), many.address_space_mib, many.resident_mib);
  }

  std::vector<double> over;
  for (size_t i = 0; i < report.start.plain_ms.size(); ++i) {
    over.push_back(report.start.started_ms[i] - report.start.plain_ms[i]);
  }
  std::printf("\nStarting and ending /bin/true, ms: plain %s; bpftime start %s; difference %s\n",
              text(report.start.plain_ms).c_str(), text(report.start.started_ms).c_str(), text(over).c_str());
}

std::string json(const Report& report) {
  const Machine& machine = report.machine;
  Json programs = Json::array();
  for (const ModeResult& result : report.hot_path.results) {
    programs.push_back({{"mode", result.mode.id},
                        {"title", result.mode.title},
                        {"function", result.mode.function},
                        {"operations", result.mode.operations},
                        {"unit", result.mode.attach_only ? "us" : "ns"},
                        {"aim", result.mode.aim_ns ? Json(*result.mode.aim_ns) : Json(nullptr)},
                        {"calls", {{"kernel", result.mode.calls_kernel}, {"ours", result.mode.calls_ours}}},
                        {"batches", result.mode.batches},
                        {"bare_ns", json_of(result.bare_ns)},
                        {"no_kernel", result.no_kernel},
                        {"kernel", json_of(result.kernel)},
                        {"ours", json_of(result.ours)}});
  }
  Json out = {{"machine",
               {{"cpu", machine.cpu},
                {"cpus", machine.cpus},
                {"kernel", machine.kernel},
                {"date", machine.date},
                {"commit", machine.commit},
                {"load", machine.load}}},
              {"programs", programs},
              {"footprint", {{"attached", json_of(report.attached)}, {"started", json_of(report.started)}}},
              {"start_ms",
               {{"plain", json_of(report.start.plain_ms)}, {"started", json_of(report.start.started_ms)}}}};
  if (report.many)
    out["many_probes"] = {{"probes", kManyProbes},
                          {"at_once_ms", json_of(report.many->at_once_ms)},
                          {"one_by_one_ms", json_of(report.many->one_by_one_ms)},
                          {"let_go_ms", json_of(report.many->let_go_ms)},
                          {"address_space_mib", report.many->address_space_mib},
                          {"resident_mib", report.many->resident_mib}};
  return out.dump(2) + "\n";
}

}  // namespace bpftime::bench
