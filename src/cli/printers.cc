#include "cli/printers.h"

#include <fmt/core.h>

#include <cstdint>

#include "cli/trace_stream.h"

namespace bpftime::cli {
namespace {

constexpr Json::error_handler_t kReplace = Json::error_handler_t::replace;

const Json& array_of(const Json& object, const char* name) {
  static const Json kEmpty = Json::array();
  const auto it = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && it != object.end() && it->is_array() ? *it : kEmpty;
}

std::string text_of(const Json& value) {
  if (value.is_string()) return printable(value.get<std::string>());
  return value.dump(-1, ' ', false, kReplace);
}

uint64_t number(const Json& object, const char* name) {
  const auto it = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && it != object.end() && it->is_number_integer() ? it->get<uint64_t>() : 0;
}

// A number field in hexadecimal; other types as they are.
std::string hex_field(const Json& object, const char* name) {
  const std::string text = field(object, name);
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) return text;
  return fmt::format("{:#x}", number(object, name));
}

std::string or_else(const std::string& text, const char* instead) { return text.empty() ? instead : text; }

// Where they are counted; a program nobody could notice is not even called.
std::string hits_text(const Json& program) {
  std::string out = field(program, "hits").empty() ? "" : "  hits " + field(program, "hits");
  if (field(program, "elided") == "true") out += "  not called: it has no effect";
  return out;
}

std::string programs_text(const Json& probe) {
  std::string out;
  for (const Json& program : array_of(probe, "programs"))
    out += fmt::format(" {}[{}]", or_else(field(program, "name"), "?"), or_else(field(program, "id"), "?")) +
           hits_text(program);
  return out;
}

// Events of system calls are seen at many places of a process.
std::string system_call_text(const Json& probe) {
  std::string out = fmt::format("    {:<8} {} at {} calls:{}", or_else(field(probe, "state"), "?"),
                                field(probe, "path"), field(probe, "sites"), programs_text(probe));
  if (!field(probe, "reason").empty()) out += ": " + field(probe, "reason");
  out += "\n";
  for (const Json& reason : array_of(probe, "not_seen"))
    out += "             not seen: " + text_of(reason) + "\n";
  return out;
}

std::string probe_text(const Json& probe) {
  if (probe.is_object() && probe.contains("sites")) return system_call_text(probe);
  std::string place = or_else(field(probe, "function"), "?");
  std::string line = fmt::format("    {:<8} {} at {}+{}", or_else(field(probe, "state"), "?"), place,
                                 field(probe, "path"), hex_field(probe, "offset"));
  if (!hex_field(probe, "address").empty()) line += " (" + hex_field(probe, "address") + ")";
  if (field(probe, "method") == "trap") line += ", by a trap: shorter than a jump";
  for (const Json& program : array_of(probe, "programs")) {
    line += fmt::format("\n             prog {} {} [{}]", field(program, "id"), field(program, "name"),
                        field(program, "kind")) +
            hits_text(program);
  }
  const std::string reason = field(probe, "reason");
  if (!reason.empty()) line += "\n             because " + reason;
  return line + "\n";
}

// Programs that run by the clock, in no target.
std::string clock_text(const Json& clock) {
  constexpr double kMillisecond = 1e6;
  std::string out =
      fmt::format("clock  every {:g} ms", static_cast<double>(number(clock, "period_ns")) / kMillisecond);
  const std::string cpu = field(clock, "cpu");
  out += cpu.empty() || cpu == "-1" ? "\n" : ", CPU " + cpu + "\n";
  for (const Json& program : array_of(clock, "programs")) {
    out += fmt::format("    {:<8} prog {} {} [{}]", field(program, "state"), field(program, "id"),
                       field(program, "name"), field(program, "kind")) +
           hits_text(program) + "\n";
    if (!field(program, "reason").empty()) out += "             because " + field(program, "reason") + "\n";
  }
  return out;
}

}  // namespace

std::string field(const Json& object, const char* name) {
  if (!object.is_object()) return {};
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? std::string() : text_of(*it);
}

void print_json(const Json& json) { fmt::print("{}\n", json.dump(2, ' ', false, kReplace)); }

std::string attach_text(const std::string& command, const Json& result) {
  std::string line = command + "ed " + field(result, "pid");
  if (!field(result, "name").empty()) line += " (" + field(result, "name") + ")";
  if (result.contains("probes")) {
    size_t active = 0;
    for (const Json& probe : array_of(result, "probes")) active += field(probe, "state") != "skipped" ? 1 : 0;
    line += fmt::format(": {} probe{}", active, active == 1 ? "" : "s");
  }
  line += "\n";
  for (const Json& probe : array_of(result, "probes")) {
    if (field(probe, "state") == "skipped") line += probe_text(probe);
  }
  return line;
}

std::string list_text(const Json& answer) {
  std::string out;
  for (const Json& target : array_of(answer, "targets")) {
    out += fmt::format("target {} ({})", field(target, "pid"), field(target, "name"));
    const std::string lineage = field(target, "lineage");
    if (!lineage.empty() && lineage != field(target, "pid")) out += ", forked from " + lineage;
    if (const uint64_t faults = number(target, "faults"); faults != 0)
      out += fmt::format(", {} fault{} (bad pointers that read 0)", faults, faults == 1 ? "" : "s");
    out += "\n";
    for (const Json& probe : array_of(target, "probes")) out += probe_text(probe);
    for (const Json& reason : array_of(target, "not_seen")) out += "    not seen: " + text_of(reason) + "\n";
  }
  for (const Json& clock : array_of(answer, "clocks")) out += clock_text(clock);
  for (const Json& loader : array_of(answer, "loaders")) {
    out += fmt::format("tool   {} ({})\n", field(loader, "pid"), field(loader, "name"));
  }
  if (out.empty()) out = "no targets and no tools; try `bpftime load` and `bpftime start`\n";
  return out;
}

std::string status_text(const Json& answer) {
  return fmt::format(
      "bpftimed {} (protocol {}), worker {}, keeper {}, up {} s\n"
      "  directory {}\n"
      "  {} maps, {} programs, {} links; {} targets, {} tools\n",
      field(answer, "version"), field(answer, "abi_version"), field(answer, "worker_pid"),
      field(answer, "keeper_pid"), field(answer, "uptime_s"), field(answer, "runtime_directory"),
      or_else(field(answer, "maps"), "0"), or_else(field(answer, "programs"), "0"),
      or_else(field(answer, "links"), "0"), or_else(field(answer, "targets"), "0"),
      or_else(field(answer, "loaders"), "0"));
}

}  // namespace bpftime::cli
