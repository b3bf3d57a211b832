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

const Json& member(const Json& object, const char* name) {
  static const Json kEmpty = "";
  const auto it = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && it != object.end() ? *it : kEmpty;
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

std::string programs_text(const Json& probe) {
  std::string out;
  for (const Json& program : array_of(probe, "programs"))
    out += fmt::format(" {}[{}]", or_else(field(program, "name"), "?"), or_else(field(program, "id"), "?"));
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
  for (const Json& program : array_of(probe, "programs")) {
    line += fmt::format("\n             prog {} {} [{}]", field(program, "id"), field(program, "name"),
                        field(program, "kind"));
  }
  const std::string reason = field(probe, "reason");
  if (!reason.empty()) line += "\n             because " + reason;
  return line + "\n";
}

std::string show_map(const Json& map) {
  return fmt::format(
      "{}: {}  name {}  flags {}\n\tkey {}B  value {}B  max_entries {}  memlock {}B{}\n", field(map, "id"),
      field(map, "type"), field(map, "name"), or_else(hex_field(map, "flags"), "0x0"), field(map, "key_size"),
      field(map, "value_size"), field(map, "max_entries"), or_else(field(map, "bytes_memlock"), "0"),
      field(map, "frozen") == "true" ? "  frozen" : "");
}

std::string show_program(const Json& program) {
  std::string line = fmt::format("{}: {}  name {}\n\txlated {}B  jited {}B", field(program, "id"),
                                 field(program, "type"), field(program, "name"), number(program, "insns") * 8,
                                 or_else(field(program, "jited_bytes"), "0"));
  std::string maps;
  for (const Json& id : array_of(program, "map_ids")) maps += (maps.empty() ? "" : ",") + text_of(id);
  if (!maps.empty()) line += "  map_ids " + maps;
  line += "\n\tverified by " + or_else(field(program, "verified_by"), "nobody");
  return line + "\n";
}

std::string show_link(const Json& link) {
  std::string line =
      fmt::format("{}: perf_event  prog {}\n\t{} {}+{}", field(link, "id"), field(link, "program_id"),
                  field(link, "retprobe") == "true" ? "uretprobe" : "uprobe", field(link, "path"),
                  hex_field(link, "offset"));
  const std::string pid = field(link, "pid");
  if (!pid.empty() && pid != "-1") line += "  pid " + pid;
  const std::string cookie = field(link, "cookie");
  if (!cookie.empty() && cookie != "0") line += "  cookie " + cookie;
  if (field(link, "enabled") == "false") line += "  disabled";
  return line + "\n";
}

// Hexadecimal digits in pairs: "0a00" is "0a 00"; anything else stays.
std::string spaced_bytes(const Json& value) {
  std::string out;
  if (value.is_array()) {
    for (const Json& byte : value) {
      std::string text =
          byte.is_number_unsigned() ? fmt::format("{:02x}", byte.get<uint64_t>() & 0xff) : text_of(byte);
      if (text.starts_with("0x")) text.erase(0, 2);
      out += (out.empty() ? "" : " ") + text;
    }
    return out;
  }
  const std::string text = text_of(value);
  if (text.size() % 2 != 0 || text.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    return text;
  for (size_t i = 0; i < text.size(); i += 2) out += (i == 0 ? "" : " ") + text.substr(i, 2);
  return out;
}

std::string entry_text(const Json& entry) {
  std::string line = "key: " + spaced_bytes(member(entry, "key"));
  const Json& values = array_of(entry, "values");
  if (values.empty()) return line + "  value: " + spaced_bytes(member(entry, "value")) + "\n";
  line += "\n";
  for (const Json& value : values) {
    line +=
        fmt::format("value (CPU {:0>2}): {}\n", field(value, "cpu"), spaced_bytes(member(value, "value")));
  }
  return line;
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
    out += "\n";
    for (const Json& probe : array_of(target, "probes")) out += probe_text(probe);
    for (const Json& reason : array_of(target, "not_seen")) out += "    not seen: " + text_of(reason) + "\n";
  }
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

std::string show_text(const std::string& object, const Json& answer) {
  std::string out;
  if (object == "map") {
    for (const Json& map : array_of(answer, "maps")) out += show_map(map);
  } else if (object == "prog") {
    for (const Json& program : array_of(answer, "programs")) out += show_program(program);
  } else {
    for (const Json& link : array_of(answer, "links")) out += show_link(link);
  }
  return out;
}

std::string dump_text(const Json& answer) {
  if (answer.contains("text")) {
    std::string text = field(answer, "text");
    if (text.empty() || text.back() != '\n') text += '\n';
    return text;
  }
  std::string out;
  for (const char* name : {"instructions", "lines"}) {
    for (const Json& line : array_of(answer, name)) out += text_of(line) + "\n";
  }
  if (answer.contains("entries")) {
    const Json& entries = array_of(answer, "entries");
    for (const Json& entry : entries) out += entry_text(entry);
    out += fmt::format("Found {} element{}\n", entries.size(), entries.size() == 1 ? "" : "s");
  }
  return out;
}

}  // namespace bpftime::cli
