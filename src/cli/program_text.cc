#include "cli/program_text.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>

#include "cli/btf_values.h"
#include "cli/connection.h"
#include "cli/object_verbs.h"
#include "cli/trace_stream.h"
#include "program/program.h"

namespace bpftime::cli {
namespace {

// One instruction (two slots for a 64-bit constant) as the disassembler says it.
struct Line {
  uint32_t insn;
  std::string text;  // "(b7) r0 = 0"
};

// References to maps carry ids here, where the disassembler expects places in a list.
std::string with_map_ids(std::string text) {
  if (const size_t at = text.find("map[idx:"); at != std::string::npos) text.replace(at, 8, "map[id:");
  return text;
}

std::vector<Line> lines_of(const std::vector<bpf_insn>& insns) {
  program::Program program;
  program.insns = insns;
  std::istringstream text(program::disassemble(program));
  std::vector<Line> out;
  for (std::string line; std::getline(text, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    out.push_back({static_cast<uint32_t>(std::stoul(line)), with_map_ids(line.substr(colon + 2))});
  }
  return out;
}

struct Source {
  std::string text, file;
  uint32_t line = 0, column = 0;
};

class SourceTable {
 public:
  SourceTable(const ProgramText& text, const BtfTypes* types) : text_(text), types_(types) {}

  std::string prototype(uint32_t insn) const {
    if (types_ == nullptr) return {};
    for (const bpf_func_info& each : text_.functions)
      if (each.insn_off == insn) return types_->prototype(each.type_id);
    return {};
  }
  // The line that begins with this instruction, and its text is not empty.
  std::optional<Source> at(uint32_t insn) const {
    if (types_ == nullptr) return std::nullopt;
    const auto found = std::find_if(text_.lines.begin(), text_.lines.end(),
                                    [&](const bpf_line_info& each) { return each.insn_off == insn; });
    if (found == text_.lines.end()) return std::nullopt;
    return source_of(*found);
  }
  // The line that an instruction in its middle belongs to: the instruction it begins with.
  std::optional<uint32_t> begin_of(uint32_t insn) const {
    std::optional<uint32_t> out;
    for (const bpf_line_info& each : text_.lines)
      if (each.insn_off <= insn && (!out || each.insn_off > *out)) out = each.insn_off;
    return out;
  }

 private:
  std::optional<Source> source_of(const bpf_line_info& info) const {
    std::string line = types_->text(info.line_off);
    const size_t begin = line.find_first_not_of(" \t");
    if (begin == std::string::npos) return std::nullopt;
    line.erase(0, begin);
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    return Source{line, types_->text(info.file_name_off), info.line_col >> 10, info.line_col & 0x3ff};
  }

  const ProgramText& text_;
  const BtfTypes* types_;
};

Bytes bytes_of(const ProgramText& text, uint32_t insn) {
  const bool wide = text.insns[insn].code == (BPF_LD | BPF_IMM | BPF_DW) && insn + 1 < text.insns.size();
  return Bytes(reinterpret_cast<const uint8_t*>(&text.insns[insn]), wide ? 16 : 8);
}

OrderedJson opcodes_json(const bpf_insn& insn, Bytes bytes) {
  // Of an instruction of two slots everything from the constant on, as bpftool has it.
  return OrderedJson{{"code", fmt::format("0x{:02x}", insn.code)},
                     {"src_reg", fmt::format("0x{:x}", static_cast<unsigned>(insn.src_reg))},
                     {"dst_reg", fmt::format("0x{:x}", static_cast<unsigned>(insn.dst_reg))},
                     {"off", hex_json(bytes.subspan(2, 2))},
                     {"imm", hex_json(bytes.subspan(4))}};
}

void add_source(OrderedJson& out, const Source& source, const DumpOptions& options) {
  out["src"] = source.text;
  if (!options.line_numbers) return;
  if (!source.file.empty()) out["file"] = source.file;
  if (source.line != 0) out["line_num"] = source.line;
  if (source.column != 0) out["line_col"] = source.column;
}

void print_source(const Source& source, const DumpOptions& options) {
  fmt::print("; {}", printable(source.text));
  if (options.line_numbers)
    fmt::print(" [file:{} line_num:{} line_col:{}]", printable(source.file), source.line, source.column);
  fmt::print("\n");
}

OrderedJson line_json(const Line& line, const SourceTable& sources, const ProgramText& text,
                      const DumpOptions& options) {
  OrderedJson out = OrderedJson::object();
  if (const std::string prototype = sources.prototype(line.insn); !prototype.empty())
    out["proto"] = prototype;
  if (const auto source = sources.at(line.insn)) add_source(out, *source, options);
  out["disasm"] = line.text;
  if (options.opcodes) out["opcodes"] = opcodes_json(text.insns[line.insn], bytes_of(text, line.insn));
  return out;
}

void print_line(const Line& line, const SourceTable& sources, const ProgramText& text,
                const DumpOptions& options) {
  if (const std::string prototype = sources.prototype(line.insn); !prototype.empty())
    fmt::print("{}:\n", printable(prototype));
  if (const auto source = sources.at(line.insn)) print_source(*source, options);
  fmt::print("{:4}: {}\n", line.insn, line.text);
  if (options.opcodes) {
    fmt::print("      ");
    for (const uint8_t byte : bytes_of(text, line.insn)) fmt::print(" {:02x}", byte);
    fmt::print("\n");
  }
}

// A line of a disassembly, "  10:\tmov (%rdi,%rax), %rcx", as pc, operation and operands.
OrderedJson machine_json(const std::string& line) {
  const size_t colon = std::min(line.find(':'), line.size());
  std::string pc = line.substr(0, colon), rest = line.substr(std::min(colon + 1, line.size()));
  pc.erase(0, std::min(pc.find_first_not_of(' '), pc.size()));
  rest.erase(0, std::min(rest.find_first_not_of(" \t"), rest.size()));
  const size_t space = rest.find(' ');
  OrderedJson operands = OrderedJson::array();
  if (space != std::string::npos) {
    int depth = 0;  // commas inside brackets belong to one operand
    std::string operand;
    for (const char c : rest.substr(space + 1)) {
      depth += c == '(' || c == '[' ? 1 : c == ')' || c == ']' ? -1 : 0;
      if (c == ',' && depth == 0) {
        operands.push_back(operand);
        operand.clear();
      } else if (c != ' ' || !operand.empty()) {
        operand.push_back(c);
      }
    }
    operands.push_back(operand);
  }
  return OrderedJson{{"pc", "0x" + pc}, {"operation", rest.substr(0, space)}, {"operands", operands}};
}

std::string symbol_of(const bpf_prog_info& info) {
  std::string name = "bpf_prog_";
  for (const uint8_t byte : info.tag) name += fmt::format("{:02x}", byte);
  return name + (info.name[0] != 0 ? "_" + name_text(info.name) : "");
}

// Machine code as the daemon tells it: text, bytes, and which instructions its parts come from.
struct Machine {
  std::string text;
  std::vector<uint8_t> bytes;
  std::map<uint32_t, uint32_t> insn_at;  // by offset; holds until the next
};

Result<Machine> machine_of(const bpf_prog_info& info) {
  auto answer = ask_daemon(Json{{"command", "dump"}, {"id", info.id}});
  if (!answer) return answer.error();
  try {
    Machine out{answer->value("text", ""), answer->value("bytes", std::vector<uint8_t>()), {}};
    for (const auto& [offset, insn] : answer->value("lines", std::vector<std::pair<uint32_t, uint32_t>>()))
      out.insn_at[offset] = insn;
    return out;
  } catch (const Json::exception& error) {
    return Error{EPROTO, std::string("prog dump: the daemon's answer: ") + error.what()};
  }
}

struct MachineLine {
  std::string text;
  uint32_t offset = 0, end = 0;  // bytes
};

std::vector<MachineLine> lines_of(const Machine& machine) {
  std::vector<MachineLine> out;
  std::istringstream lines(machine.text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    const auto offset = static_cast<uint32_t>(std::strtoul(line.c_str(), nullptr, 16));
    if (!out.empty()) out.back().end = offset;
    out.push_back({line, offset, static_cast<uint32_t>(machine.bytes.size())});
  }
  return out;
}

Bytes bytes_of(const Machine& machine, const MachineLine& line) {
  const size_t begin = std::min<size_t>(line.offset, machine.bytes.size());
  const size_t end = std::min<size_t>(line.end, machine.bytes.size());
  return Bytes(machine.bytes).subspan(begin, end > begin ? end - begin : 0);
}

}  // namespace

Result<void> dump_xlated(const Fd& fd, const bpf_prog_info& info, const DumpOptions& options) {
  auto text = program_text(fd);
  if (!text) return text.error();
  std::optional<BtfTypes> types;
  if (info.btf_id != 0)
    if (auto fetched = BtfTypes::fetch(info.btf_id)) types = std::move(*fetched);
  const SourceTable sources(*text, types ? &*types : nullptr);
  OrderedJson list = OrderedJson::array();
  for (const Line& line : lines_of(text->insns)) {
    if (line.insn >= text->insns.size()) continue;
    if (options.json) {
      list.push_back(line_json(line, sources, *text, options));
    } else {
      print_line(line, sources, *text, options);
    }
  }
  if (options.json) print_json_line(list);
  return {};
}

// Our compiler moves and merges code, so a line of source is told wherever code of another one begins, not once.
Result<void> dump_jited(const Fd& fd, const bpf_prog_info& info, const DumpOptions& options) {
  auto machine = machine_of(info);
  if (!machine) return machine.error();
  auto source = program_text(fd);
  std::optional<BtfTypes> types;
  if (info.btf_id != 0 && source)
    if (auto fetched = BtfTypes::fetch(info.btf_id)) types = std::move(*fetched);
  const ProgramText nothing;
  const SourceTable sources(source ? *source : nothing, types ? &*types : nullptr);
  const std::string prototype = sources.prototype(0);
  OrderedJson list = OrderedJson::array();
  if (!options.json && !prototype.empty()) fmt::print("{}:\n", printable(prototype));
  if (!options.json) fmt::print("{}:\n", printable(symbol_of(info)));
  std::optional<uint32_t> told;
  for (const MachineLine& line : lines_of(*machine)) {
    std::optional<Source> begins;
    if (const auto insn = machine->insn_at.find(line.offset); insn != machine->insn_at.end()) {
      const auto begin = sources.begin_of(insn->second);
      if (begin && begin != told) begins = sources.at(*begin);
      if (begins) told = begin;
    }
    const Bytes bytes = bytes_of(*machine, line);
    if (options.json) {
      OrderedJson one = OrderedJson::object();
      if (begins) add_source(one, *begins, options);
      one.update(machine_json(line.text));
      if (options.opcodes) one["opcodes"] = hex_json(bytes);
      list.push_back(std::move(one));
      continue;
    }
    if (begins) print_source(*begins, options);
    fmt::print("{}\n", line.text);
    if (options.opcodes) {
      fmt::print("\t");
      for (const uint8_t byte : bytes) fmt::print("{:02x} ", byte);
      fmt::print("\n");
    }
  }
  if (!options.json) return {};
  OrderedJson out = OrderedJson::object();
  if (!prototype.empty()) out["proto"] = prototype;
  out["name"] = symbol_of(info);
  out["insns"] = list;
  print_json_line(OrderedJson::array({out}));
  return {};
}

Result<std::vector<uint8_t>> xlated_bytes(const Fd& fd) {
  auto text = program_text(fd);
  if (!text) return text.error();
  const auto* bytes = reinterpret_cast<const uint8_t*>(text->insns.data());
  return std::vector<uint8_t>(bytes, bytes + text->insns.size() * sizeof(bpf_insn));
}

Result<std::vector<uint8_t>> jited_bytes(const Fd& fd, const bpf_prog_info& info) {
  // Compiles it, if that has not been done.
  if (auto machine = machine_of(info); !machine) return machine.error();
  return machine_code(fd);
}

}  // namespace bpftime::cli
