#include "verifier/source_lines.h"

#include <linux/btf.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "program/btf_types.h"
#include "program/instructions.h"

namespace bpftime::verifier {
namespace {

// The loaded form of bpf_func_info and bpf_line_info; records may be longer when what follows is zero.
struct FunctionRecord {
  uint32_t insn, type_id;
};
struct LineRecord {
  uint32_t insn, file_name, text, line_column;
};
constexpr uint32_t kRecordSizeMax = 252;  // MAX_FUNCINFO_REC_SIZE, MAX_LINEINFO_REC_SIZE

std::string number(uint64_t value) { return std::to_string(value); }

// Entries of subprograms, ascending. Works on any instructions: the shape is checked elsewhere.
std::vector<uint32_t> starts_of(const program::Program& program) {
  std::vector<uint32_t> starts = {0};
  for (program::InsnCursor at(program); !at.done(); at.advance()) {
    const auto target = program::call_target(at.insn(), at.index());
    if (target && *target > 0 && *target < static_cast<int64_t>(program.insns.size()))
      starts.push_back(static_cast<uint32_t>(*target));
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  return starts;
}

std::optional<BtfSections> split(Bytes blob) {
  const auto header = read_at<btf_header>(blob, 0);
  if (!header || header->magic != BTF_MAGIC || header->hdr_len > blob.size()) return std::nullopt;
  const Bytes rest = blob.subspan(header->hdr_len);
  const auto section = [&](uint32_t offset, uint32_t size) -> std::optional<Bytes> {
    if (offset > rest.size() || size > rest.size() - offset) return std::nullopt;
    return rest.subspan(offset, size);
  };
  const auto types = section(header->type_off, header->type_len);
  const auto strings = section(header->str_off, header->str_len);
  if (!types || !strings || strings->empty() || strings->back() != 0) return std::nullopt;
  return BtfSections{*types, *strings};
}

// What a record table must be before its records are read; `what` as Linux names it.
std::optional<Error> check_table(Bytes table, uint32_t record_size, uint32_t known, const char* what) {
  if (record_size < known || record_size > kRecordSizeMax || record_size % 4 != 0 ||
      table.size() % record_size != 0)
    return Error{EINVAL, std::string("invalid ") + what + " rec size " + number(record_size)};
  for (size_t at = 0; at < table.size(); at += record_size) {
    const Bytes tail = table.subspan(at + known, record_size - known);
    if (std::any_of(tail.begin(), tail.end(), [](uint8_t byte) { return byte != 0; }))
      return Error{E2BIG, std::string("nonzero tailing record in ") + what};
  }
  return std::nullopt;
}

std::string_view trim_newline(std::string_view text) { return text.substr(0, text.find_first_of("\r\n")); }

}  // namespace

Result<SourceLines> SourceLines::read(const Request& request) {
  SourceLines out;
  if (request.func_info.empty() && request.line_info.empty()) return out;
  const auto btf = split(request.btf);
  if (!btf) return Error{EINVAL, "BTF of the program: no valid header"};
  const std::vector<uint32_t> starts = starts_of(request.program);
  if (auto done = out.read_functions(request, *btf, starts); !done) return done.error();
  if (auto done = out.read_lines(request, *btf, starts); !done) return done.error();
  return out;
}

Result<void> SourceLines::read_functions(const Request& request, const BtfSections& btf,
                                         const std::vector<uint32_t>& starts) {
  const Bytes table = request.func_info;
  if (table.empty()) return {};
  if (auto bad = check_table(table, request.func_info_record_size, sizeof(FunctionRecord), "func info"))
    return *bad;
  program::btf::Types types;
  types.strings = btf.strings;
  if (auto read = program::btf::read_types(btf.types, types); !read) return read;
  for (size_t at = 0; at < table.size(); at += request.func_info_record_size) {
    const FunctionRecord record = *read_at<FunctionRecord>(table, at);
    if (functions_.empty() && record.insn != 0)
      return Error{EINVAL, "nonzero insn_off " + number(record.insn) + " for the first func info record"};
    if (!functions_.empty() && record.insn <= functions_.back().insn)
      return Error{EINVAL, "same or smaller insn offset (" + number(record.insn) +
                               ") than previous func info record (" + number(functions_.back().insn) + ")"};
    if (!types.exists(record.type_id) || types.records[record.type_id].kind() != BTF_KIND_FUNC)
      return Error{EINVAL, "invalid type id " + number(record.type_id) + " in func info"};
    functions_.push_back({record.insn, types.name(types.records[record.type_id].fixed.name_off)});
  }
  if (functions_.size() != starts.size())
    return Error{EINVAL, "number of funcs in func_info doesn't match number of subprogs"};
  for (size_t i = 0; i < starts.size(); ++i)
    if (functions_[i].insn != starts[i])
      return Error{EINVAL, "func_info BTF section doesn't match subprog layout in BPF program"};
  return {};
}

Result<void> SourceLines::read_lines(const Request& request, const BtfSections& btf,
                                     const std::vector<uint32_t>& starts) {
  const Bytes table = request.line_info;
  if (table.empty()) return {};
  if (auto bad = check_table(table, request.line_info_record_size, sizeof(LineRecord), "line_info"))
    return *bad;
  const auto& insns = request.program.insns;
  size_t next_start = 0;
  lines_.reserve(table.size() / request.line_info_record_size);
  for (size_t at = 0; at < table.size(); at += request.line_info_record_size) {
    const LineRecord record = *read_at<LineRecord>(table, at);
    const std::string where = "line_info[" + number(lines_.size()) + "]";
    const uint32_t previous = lines_.empty() ? 0 : lines_.back().insn;
    if ((!lines_.empty() && record.insn <= previous) || record.insn >= insns.size())
      return Error{EINVAL, "Invalid " + where + ".insn_off:" + number(record.insn) + " (prev_offset:" +
                               number(previous) + " prog->len:" + number(insns.size()) + ")"};
    if (insns[record.insn].code == 0) return Error{EINVAL, "Invalid insn code at " + where + ".insn_off"};
    const auto text = string_at(btf.strings, record.text);
    const auto file = string_at(btf.strings, record.file_name);
    if (!text || !file) return Error{EINVAL, "Invalid " + where + ".line_off or .file_name_off"};
    if (next_start < starts.size()) {
      if (record.insn == starts[next_start])
        ++next_start;
      else if (starts[next_start] < record.insn)
        return Error{EINVAL, "missing bpf_line_info for func#" + number(next_start)};
    }
    lines_.push_back({record.insn, *file, trim_newline(*text), BPF_LINE_INFO_LINE_NUM(record.line_column),
                      BPF_LINE_INFO_LINE_COL(record.line_column)});
  }
  if (next_start != starts.size())
    return Error{EINVAL, "missing bpf_line_info for " + number(starts.size() - next_start) +
                             " funcs starting from func#" + number(next_start)};
  return {};
}

const SourceLine* SourceLines::find(uint32_t insn) const {
  // Every subprogram begins with a record (read_lines), so the last record before an instruction is of its subprogram.
  auto after = std::upper_bound(lines_.begin(), lines_.end(), insn,
                                [](uint32_t index, const SourceLine& line) { return index < line.insn; });
  return after == lines_.begin() ? nullptr : &*std::prev(after);
}

std::string_view SourceLines::function_of(uint32_t insn) const {
  auto after =
      std::upper_bound(functions_.begin(), functions_.end(), insn,
                       [](uint32_t index, const Function& function) { return index < function.insn; });
  return after == functions_.begin() ? std::string_view() : std::prev(after)->name;
}

bool read_source_lines(const Request& request, SourceLines& lines, Verdict& verdict) {
  auto read = SourceLines::read(request);
  if (read) {
    lines = std::move(*read);
    return true;
  }
  if (request.options.disabled_rules.test(static_cast<size_t>(Rule::kBTF001))) return true;
  Diagnosis diagnosis{.rule = Rule::kBTF001};
  diagnosis.error = verdict.error = read.error().code;
  diagnosis.message = read.error().message;
  verdict.diagnoses.push_back(std::move(diagnosis));
  return false;
}

}  // namespace bpftime::verifier
