// A diagnosis as people read it: text like a good compiler's, and the same as plain fields for JSON.
//
//   error[NUL001]: `r0` may be null
//     --> fw.bpf.c:42:13   (insn 17, program `process_begin`)
//      |
//   41 |  struct conf *c = bpf_map_lookup_elem(&conf, &key);
//      |                   ------------------------------- null comes from this call (insn 12)
//   42 |  if (c->enabled)
//      |      ^^^^^^^^^^ 4-byte load at offset 0
//      = state: r0 = map_value(conf, 8 bytes) or null, offset 0
//      = path : 38 taken -> 41
//      = help : test it first: `if (!p) return 0;`
//
// Source text and names come from the object: whatever is not printable is replaced, lines are cut at kSourceTextMax.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "verifier/diagnosis.h"
#include "verifier/source_lines.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {

inline constexpr size_t kSourceTextMax = 240;  // characters shown of a source line

// Where an instruction comes from.
struct RenderedPlace {
  uint32_t insn = 0;
  std::string disassembly;        // "(61) r1 = *(u32 *)(r0 +0)"
  std::string function;           // by func_info; empty: unknown
  std::string file;               // empty: no line information; then line, column and text are empty, too
  uint32_t line = 0, column = 0;  // from 1; column 0: unknown
  uint32_t start = 0, width = 0;  // the expression around `column`: its first column and its characters
  std::string text;
};

struct RenderedCause {
  RenderedPlace place;
  std::string text;
};

struct RenderedStep {
  RenderedPlace from, to;
  bool taken = false;
  uint32_t times = 1;  // the same step that many times in a row
};

struct RenderedDiagnosis {
  std::string rule, title;  // "NUL001", "pointer may be null"
  int error = 0;            // errno
  std::string program;
  std::string message;
  std::string linux_message;  // what Linux's log says; empty: the same
  RenderedPlace place;
  std::string label;                  // what the instruction does: "4-byte load at offset 0"
  std::vector<RenderedCause> causes;  // nearest first
  std::vector<std::string> state;
  std::vector<RenderedStep> path;         // oldest first
  std::vector<RenderedPlace> call_chain;  // call sites, outermost first
  std::string help;
  std::string grant;  // capability rules: what in which class would allow it; else empty
  std::vector<std::string> notes;
};

RenderedDiagnosis render(const Diagnosis& diagnosis, const Request& request, const SourceLines& lines);

// Ends in a newline. `colour`: with terminal escapes.
std::string to_text(const RenderedDiagnosis& rendered, const Request& request, bool colour);

// One instruction, "(bf) r2 = r10"; "(no instruction)" for an index out of range.
std::string instruction_text(const program::Program& program, uint32_t insn);

// `text` with control characters replaced, cut at `size_max`.
std::string printable(std::string_view text, size_t size_max = kSourceTextMax);

}  // namespace bpftime::verifier
