#include "verifier/log.h"

#include <algorithm>
#include <map>

#include "verifier/render.h"

namespace bpftime::verifier {
namespace {

constexpr size_t kChangesColumn = 38;  // where Linux begins what an instruction changed
constexpr size_t kKeptMin = 4096;      // of a log nobody reads: enough to go back to the last line

// "R1=scalar(var_off=(0x0; 0xff))" and so on: blanks within parentheses do not separate.
std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  int depth = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] == '(') ++depth;
    if (i < text.size() && text[i] == ')') --depth;
    if (i < text.size() && (text[i] != ' ' || depth > 0)) continue;
    if (i > begin) parts.push_back(text.substr(begin, i - begin));
    begin = i + 1;
  }
  return parts;
}

std::string_view name_of(std::string_view part) { return part.substr(0, part.find('=')); }

// The parts of `now` that `before` has not.
std::string changes(const std::string& before, const std::string& now) {
  std::map<std::string_view, std::string_view> known;
  for (std::string_view part : split(before)) known[name_of(part)] = part;
  std::string out;
  for (std::string_view part : split(now)) {
    const auto old = known.find(name_of(part));
    if (old == known.end() || old->second != part) out += " " + std::string(part);
  }
  return out;
}

std::string frame_prefix(size_t frames) {
  return frames > 1 ? " frame" + std::to_string(frames - 1) + ":" : std::string();
}

std::string_view base_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == path.npos ? path : path.substr(slash + 1);
}

}  // namespace

LogWriter::LogWriter(const Request& request, const SourceLines& lines) : request_(request), lines_(lines) {}

size_t LogWriter::capacity() const { return std::max<size_t>(request_.log_size_max, kKeptMin); }

void LogWriter::append(std::string_view text) {
  end_ += text.size();
  length_max_ = std::max(length_max_, end_);
  if (keeps_start()) {
    text_.append(text.substr(0, capacity() - std::min(capacity(), text_.size())));
    return;
  }
  text_.append(text);
  if (text_.size() <= 2 * capacity()) return;
  const size_t dropped = text_.size() - capacity();
  text_.erase(0, dropped);
  start_ += dropped;
}

void LogWriter::rewind(uint64_t position) {
  end_ = position;
  if (position < start_) {
    start_ = position;
    text_.clear();
  }
  text_.resize(std::min<size_t>(text_.size(), position - start_));
}

void LogWriter::line(std::string_view text) {
  append(text);
  append("\n");
  line_is_open_ = false;
}

// "R1=5 R2=ctx()" behind the last instruction's line; all of the state where there is none to compare with.
void LogWriter::put_changes(uint32_t insn, const State& state) {
  std::string now = state.describe(&request_.maps);
  const size_t frames = state.frames.size();
  if (!have_last_ || frames != last_frames_) {
    append(std::to_string(insn) + ":" + now + "\n");
    line_is_open_ = false;
  } else if (const std::string changed = changes(last_, now); !changed.empty()) {
    if (line_is_open_) {
      rewind(end_ - 1);  // the newline
      const size_t length = end_ - last_line_;
      append(std::string(length < kChangesColumn ? kChangesColumn - length : 1, ' ') + ";");
    } else {
      append(std::to_string(insn) + ":");
    }
    append(frame_prefix(frames) + changed + "\n");
    line_is_open_ = false;
  }
  last_ = std::move(now);
  last_frames_ = frames;
  have_last_ = true;
}

// "; int x = … @ file.c:12" where the line is another than the one before.
void LogWriter::put_source(uint32_t insn) {
  const SourceLine* source = lines_.find(insn);
  if (source == nullptr || source == source_) return;
  source_ = source;
  std::string_view text = source->text;
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  append("; " + printable(text) + " @ " + printable(base_name(source->file)) + ":" +
         std::to_string(source->line) + "\n");
}

void LogWriter::instruction(uint32_t insn, const State& state) {
  if (!logs_instructions()) return;
  put_changes(insn, state);
  put_source(insn);
  last_line_ = end_;
  append(std::to_string(insn) + ": " + instruction_text(request_.program, insn) + "\n");
  line_is_open_ = true;
}

void LogWriter::path_put_aside() {
  if (logs_instructions()) marks_.push_back(end_);
}

void LogWriter::path_continued(uint32_t from, uint32_t to, const State& state) {
  if (!logs_instructions()) return;
  if (!marks_.empty()) {
    if (!logs_all_paths()) {
      rewind(marks_.back());
      // The line's end was there before changes were added to it.
      if (!text_.empty() && start_ + text_.size() == end_) text_.back() = '\n';
    }
    marks_.pop_back();
  }
  if (logs_all_paths()) append("\n");
  last_ = state.describe(&request_.maps);
  last_frames_ = state.frames.size();
  append("from " + std::to_string(from) + " to " + std::to_string(to) + ":" + last_ + "\n");
  have_last_ = true;
  line_is_open_ = false;
  source_ = nullptr;
}

void LogWriter::path_pruned(uint32_t insn) {
  if (logs_all_paths()) line(std::to_string(insn) + ": safe");
}

// Between what led there and the lines Linux's log ends with. Left out where the buffer has no room for it: a log that
// fits on Linux fits here.
void LogWriter::put_explanation(const Verdict& verdict, const std::string& ending) {
  std::string text;
  for (const Diagnosis& diagnosis : verdict.diagnoses)
    text += to_text(render(diagnosis, request_, lines_), request_, false);
  // The line may have gone with a path that was put back.
  const bool has_line = logs_instructions() && have_last_ && last_line_ >= start_ &&
                        last_line_ <= start_ + text_.size() && !keeps_start();
  const bool fits = request_.log_size_max == 0 ||
                    std::max(length_max_, end_ + text.size() + ending.size()) < request_.log_size_max;
  if (!fits) return;
  const std::string last = has_line ? text_.substr(last_line_ - start_) : std::string();
  if (has_line) rewind(last_line_);
  append(text);
  append(last);
}

void LogWriter::finish(Verdict& verdict) {
  std::string ending;
  if (!verdict.diagnoses.empty()) {
    const Diagnosis& first = verdict.diagnoses.front();
    ending = (first.linux_message.empty() ? first.message : first.linux_message) + "\n";
  } else if (!logs_all_paths()) {
    rewind(0);  // nobody asks how an accepted program was judged
  }
  const Statistics& statistics = verdict.statistics;
  if ((request_.log_level & kStatistics) != 0) {
    ending += "verification time " + std::to_string(statistics.time_ns / 1000) + " usec\nstack depth ";
    for (size_t i = 0; i < verdict.facts.stack_bytes.size(); ++i)
      ending += (i == 0 ? "" : "+") + std::to_string(verdict.facts.stack_bytes[i]);
    ending += "\n";
  }
  ending += "processed " + std::to_string(statistics.insns_processed) + " insns (limit " +
            std::to_string(request_.options.limits.insns_processed) + ") max_states_per_insn " +
            std::to_string(statistics.states_per_insn_max) + " total_states " +
            std::to_string(statistics.states_stored) + " peak_states " +
            std::to_string(statistics.states_peak) + " mark_read 0\n";
  if (!verdict.diagnoses.empty()) put_explanation(verdict, ending);
  append(ending);
  store(verdict);
}

// As bpf_vlog_finalize: the size is that of the longest the log has ever been, though an accepted program's was dropped.
void LogWriter::store(Verdict& verdict) {
  const uint64_t true_size = length_max_ + 1;  // with NUL
  verdict.log_true_size = static_cast<uint32_t>(std::min<uint64_t>(true_size, UINT32_MAX));
  verdict.log.clear();
  if (request_.log_size_max == 0) return;
  const size_t room = request_.log_size_max - 1;
  if (text_.size() > room)
    verdict.log = keeps_start() ? text_.substr(0, room) : text_.substr(text_.size() - room);
  else
    verdict.log = std::move(text_);
  if (true_size > request_.log_size_max) verdict.error = ENOSPC;
}

}  // namespace bpftime::verifier
