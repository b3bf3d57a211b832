// Where instructions come from: line_info and func_info as PROG_LOAD takes them (the loaded form of .BTF.ext).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {

struct SourceLine {
  uint32_t insn = 0;  // first instruction of the line
  std::string_view file;
  std::string_view text;          // as in the file; leading blanks kept, newlines cut off; may be empty
  uint32_t line = 0, column = 0;  // from 1; 0: unknown
};

struct BtfSections {
  Bytes types, strings;  // the strings end in NUL
};

// Borrows names and text from the request, which must outlive it.
class SourceLines {
 public:
  SourceLines() = default;  // knows nothing

  // Reads the records of the request. Errors as Linux's check_btf_func and check_btf_line: errno and words
  // (`message` is the kernel's log line). A request without BTF or records gives an empty table.
  static Result<SourceLines> read(const Request& request);

  bool empty() const { return lines_.empty(); }
  // The last record at or before `insn` in its subprogram; nullptr: unknown.
  const SourceLine* find(uint32_t insn) const;

  // Of the subprogram that starts at or before `insn`, by func_info; empty: unknown.
  std::string_view function_of(uint32_t insn) const;

 private:
  Result<void> read_functions(const Request& request, const BtfSections& btf,
                              const std::vector<uint32_t>& starts);
  Result<void> read_lines(const Request& request, const BtfSections& btf,
                          const std::vector<uint32_t>& starts);

  struct Function {
    uint32_t insn;
    std::string_view name;
  };
  std::vector<SourceLine> lines_;    // ascending by insn
  std::vector<Function> functions_;  // ascending by insn
};

// read() for a verdict: false and a diagnosis (rule BTF001) when the records are refused. With the rule switched off they
// count as absent.
bool read_source_lines(const Request& request, SourceLines& lines, Verdict& verdict);

}  // namespace bpftime::verifier
