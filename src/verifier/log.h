// The log bpf(2) callers read in their log_buf, in the notation of Linux's verifier: libbpf and its kin parse its end.
//
// Levels as Linux has them (bits): 1 the instructions of the refused path with what each changed; 2 all paths, with whole
// states where a path is taken up again; 4 statistics; 8 keep the start of a log that does not fit, not its end.
//
// The log of a refused program ends in Linux's words: the failing instruction, the error, the statistics. Our own
// explanation (render.h) stands in front of these lines: libbpf looks for what it can translate (the mark of a CO-RE
// relocation that failed) in the last ten lines, and veristat for the statistics in the last four.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "verifier/source_lines.h"
#include "verifier/state.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {

// Used by the explorer, when request.log_level != 0 (Engine::log), in this order:
//   path_continued() when a path that was put aside is taken up; instruction() before each instruction is simulated;
//   path_put_aside() for each pending branch pushed (Engine::push_branch), path_pruned() when a state is contained in a
//   stored one; finish() once, after the last of it. Pending branches are taken up last pushed first.
class LogWriter {
 public:
  // Both must outlive the writer.
  LogWriter(const Request& request, const SourceLines& lines);

  // `state`: before the instruction. What differs from the state logged last goes behind the previous line.
  void instruction(uint32_t insn, const State& state);
  void path_put_aside();
  // At level 1 what was logged since that path was put aside is dropped: that path turned out well.
  void path_continued(uint32_t from, uint32_t to, const State& state);
  void path_pruned(uint32_t insn);
  // A line of its own: "propagating r1", "Func#1 is safe". `text` without newline.
  void line(std::string_view text);

  // Ends the log and stores it in verdict.log and verdict.log_true_size (bytes with the terminating NUL, as bpf(2) tells
  // it). The verdict's error, diagnoses and statistics must be final. Sets verdict.error to ENOSPC when there is a buffer
  // (request.log_size_max != 0) that the log did not fit in, as Linux does.
  void finish(Verdict& verdict);

 private:
  enum : uint32_t { kPaths = 1, kAllPaths = 2, kStatistics = 4, kFixed = 8 };
  bool logs_instructions() const { return (request_.log_level & (kPaths | kAllPaths)) != 0; }
  bool logs_all_paths() const { return (request_.log_level & kAllPaths) != 0; }
  bool keeps_start() const { return (request_.log_level & kFixed) != 0; }
  size_t capacity() const;
  void append(std::string_view text);
  void rewind(uint64_t position);
  void put_changes(uint32_t insn, const State& state);
  void put_source(uint32_t insn);
  void put_explanation(const Verdict& verdict, const std::string& ending);
  void store(Verdict& verdict);

  const Request& request_;
  const SourceLines& lines_;
  // Positions count from the log's beginning, whatever of it is kept.
  std::string text_;             // from start_ on; of a log that does not fit, the part that will be shown
  uint64_t start_ = 0;           // what was dropped in front of text_
  uint64_t end_ = 0;             // the log's length now …
  uint64_t length_max_ = 0;      // … and at its longest, without NUL
  std::vector<uint64_t> marks_;  // where the log was when each pending path was put aside
  std::string last_;             // the state logged last, as text
  size_t last_frames_ = 0;
  bool have_last_ = false;
  uint64_t last_line_ = 0;              // where the last instruction's line begins
  bool line_is_open_ = false;           // the log ends in that line, to which changes may be added
  const SourceLine* source_ = nullptr;  // printed last
};

}  // namespace bpftime::verifier
