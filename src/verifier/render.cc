#include "verifier/render.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "program/instructions.h"

namespace bpftime::verifier {
namespace {

constexpr size_t kStepsShown = 8;       // of the path, the last
constexpr uint32_t kContextBefore = 3;  // instructions shown before the failing one when there is no source
constexpr size_t kNameMax = 128;

using program::Insn;

// ---- what an instruction does, in words ----

std::string bytes_of(uint8_t code) {
  switch (BPF_SIZE(code)) {
    case BPF_B:
      return "1-byte ";
    case BPF_H:
      return "2-byte ";
    case BPF_W:
      return "4-byte ";
    default:
      return "8-byte ";
  }
}

std::string register_name(uint32_t number) { return "r" + std::to_string(number); }

std::string label_of(const Insn& insn) {
  const std::string place = " at offset " + std::to_string(insn.off) + " of ";
  switch (BPF_CLASS(insn.code)) {
    case BPF_LDX:
      return bytes_of(insn.code) + "load" + place + register_name(insn.src_reg);
    case BPF_ST:
    case BPF_STX:
      return bytes_of(insn.code) + (BPF_MODE(insn.code) == BPF_ATOMIC ? "atomic access" : "store") + place +
             register_name(insn.dst_reg);
    case BPF_LD:
      return program::is_load_imm64(insn) ? "constant" : "packet load";
    case BPF_ALU:
      return "32-bit arithmetic on " + register_name(insn.dst_reg);
    case BPF_ALU64:
      return "arithmetic on " + register_name(insn.dst_reg);
    default:
      break;
  }
  if (BPF_OP(insn.code) == BPF_EXIT) return "return";
  return BPF_OP(insn.code) == BPF_CALL ? "call" : "branch";
}

// ---- places ----

bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

size_t skip_brackets(std::string_view text, size_t at) {
  int depth = 0;
  for (size_t i = at; i < text.size(); ++i) {
    if (text[i] == '(' || text[i] == '[') ++depth;
    if ((text[i] == ')' || text[i] == ']') && --depth == 0) return i + 1;
  }
  return text.size();
}

// How far the expression that begins at `at` goes: a name with its members, indexes and arguments. Compilers tell only
// where it begins.
size_t expression_end(std::string_view text, size_t at) {
  size_t i = at;
  while (i < text.size() && (text[i] == '*' || text[i] == '&' || text[i] == '!' || text[i] == '-')) ++i;
  const size_t name = i;
  while (i < text.size() && is_name(text[i])) ++i;
  if (i == name) return std::min(text.size(), at + 1);
  const std::string_view word = text.substr(name, i - name);
  if (word == "if" || word == "for" || word == "while" || word == "return" || word == "switch") return i;
  while (i < text.size()) {
    if (text[i] == '(' || text[i] == '[') {
      i = skip_brackets(text, i);
    } else if (text[i] == '.' || text.substr(i, 2) == "->") {
      i += text[i] == '.' ? 1 : 2;
      while (i < text.size() && is_name(text[i])) ++i;
    } else {
      break;
    }
  }
  return i;
}

// Where the expression begins that `at` is a member of: compilers point at `enabled` of `c->enabled`.
size_t expression_begin(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && is_name(text[at])) {
    size_t before = at;
    if (text[before - 1] == '.')
      before -= 1;
    else if (before >= 2 && text.substr(before - 2, 2) == "->")
      before -= 2;
    else
      break;
    const size_t end = before;
    while (before > 0 && is_name(text[before - 1])) --before;
    if (before == end) break;  // a bracket: too much to guess
    at = before;
  }
  return at;
}

RenderedPlace place_of(uint32_t insn, const Request& request, const SourceLines& lines) {
  RenderedPlace place;
  place.insn = insn;
  place.disassembly = instruction_text(request.program, insn);
  place.function = printable(lines.function_of(insn), kNameMax);
  const SourceLine* source = lines.find(insn);
  if (source == nullptr) return place;
  place.file = printable(source->file);
  place.line = source->line;
  place.text = printable(source->text);
  // A column beyond the text is no column.
  if (source->column == 0 || source->column > place.text.size()) return place;
  place.column = source->column;
  const size_t begin = expression_begin(place.text, place.column - 1);
  place.start = static_cast<uint32_t>(begin + 1);
  place.width = static_cast<uint32_t>(std::max<size_t>(1, expression_end(place.text, begin) - begin));
  return place;
}

RenderedStep step_of(const Branch& branch, const Request& request, const SourceLines& lines) {
  RenderedStep step;
  step.taken = branch.taken;
  step.from = place_of(branch.insn, request, lines);
  uint32_t to = branch.insn + 1;
  if (branch.taken && branch.insn < request.program.insns.size())
    if (auto target = program::jump_target(request.program.insns[branch.insn], branch.insn))
      to = static_cast<uint32_t>(*target);
  step.to = place_of(to, request, lines);
  return step;
}

bool is_capability(const Diagnosis& diagnosis) { return info(diagnosis.rule).id.starts_with("EIM"); }

std::string grant_of(const Diagnosis& diagnosis, const Request& request) {
  if (!is_capability(diagnosis)) return {};
  if (diagnosis.grant.empty()) return {};
  const bool named = request.constraints != nullptr && !request.constraints->class_name.empty();
  return "add `" + printable(diagnosis.grant) + "` to class `" +
         (named ? printable(request.constraints->class_name, kNameMax) : std::string("?")) +
         "` in the policy";
}

// Calls that libbpf puts in place of what it could not resolve for the kernel that runs here.
void explain_poison(const Diagnosis& diagnosis, const Request& request, RenderedDiagnosis& out) {
  constexpr int32_t kFailedRelocation = 0xbad2310;
  if (diagnosis.rule != Rule::kFUN001 || diagnosis.insn >= request.program.insns.size()) return;
  if (request.program.insns[diagnosis.insn].imm != kFailedRelocation) return;
  out.message = "this needs a kernel type or field that does not exist here (CO-RE relocation)";
  out.label = "not resolved";
  out.help = "guard it with bpf_core_field_exists() or bpf_core_type_exists()";
}

// ---- text ----

struct Colours {
  const char *error = "", *cause = "", *bold = "", *off = "";
};

constexpr Colours kPlain;
constexpr Colours kTerminal = {"\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"};

// One remark at a place: `main` is the failure itself, the others are causes.
struct Mark {
  const RenderedPlace* place;
  std::string text;
  bool main;
};

class TextWriter {
 public:
  TextWriter(const RenderedDiagnosis& rendered, const Request& request, const Colours& colours)
      : rendered_(rendered), request_(request), colours_(colours) {}

  std::string write() {
    out_ = std::string(colours_.error) + "error[" + rendered_.rule + "]" + colours_.off + colours_.bold +
           ": " + rendered_.message + colours_.off + "\n";
    collect_marks();
    if (rendered_.place.line != 0)
      put_source();
    else
      put_instructions();
    put_details();
    return std::move(out_);
  }

 private:
  void collect_marks() {
    marks_.push_back({&rendered_.place, rendered_.label, true});
    for (const RenderedCause& cause : rendered_.causes)
      marks_.push_back(
          {&cause.place, cause.text + " (insn " + std::to_string(cause.place.insn) + ")", false});
  }

  void put_location(const RenderedPlace& place, const std::string& remark) {
    out_ += std::string(width_, ' ') + "--> ";
    if (!place.file.empty()) {
      out_ += place.file + ":" + std::to_string(place.line);
      if (place.column != 0) out_ += ":" + std::to_string(place.column);
    }
    out_ += remark + "\n";
  }

  std::string subject() const {
    std::string text =
        "insn " + std::to_string(rendered_.place.insn) + ", program `" + rendered_.program + "`";
    const std::string& function = rendered_.place.function;
    if (!function.empty() && !function.starts_with(rendered_.program))
      text += ", function `" + function + "`";
    return text;
  }

  // "41 |", or "   |".
  void gutter(const std::string& number = {}) {
    out_ += std::string(colours_.cause) + std::string(width_ - std::min(width_, number.size()), ' ') +
            number + " |" + colours_.off;
  }

  void put_underline(const Mark& mark) {
    gutter();
    out_ += "  ";
    const RenderedPlace& place = *mark.place;
    const size_t from = place.start == 0 ? place.text.find_first_not_of(" \t") : place.start - 1;
    for (size_t i = 0; i < std::min(from, place.text.size()); ++i) out_ += place.text[i] == '\t' ? '\t' : ' ';
    const size_t width = std::max<uint32_t>(1, place.width);
    out_ += std::string(mark.main ? colours_.error : colours_.cause) +
            std::string(width, mark.main ? '^' : '-') + " " + mark.text + colours_.off + "\n";
  }

  // The lines of one file in order, each with its marks; "..." where lines are left out.
  void put_file(const std::string& file) {
    std::map<uint32_t, std::vector<const Mark*>> by_line;
    for (const Mark& mark : marks_)
      if (mark.place->file == file && mark.place->line != 0) by_line[mark.place->line].push_back(&mark);
    uint32_t before = 0;
    for (const auto& [line, marks] : by_line) {
      if (before != 0 && line > before + 1) out_ += std::string(width_, ' ') + "...\n";
      before = line;
      gutter(std::to_string(line));
      out_ += "  " + marks.front()->place->text + "\n";
      for (const Mark* mark : marks) put_underline(*mark);
    }
  }

  void put_source() {
    uint32_t last = 0;
    for (const Mark& mark : marks_) last = std::max(last, mark.place->line);
    width_ = std::to_string(last).size();
    put_location(rendered_.place, "   (" + subject() + ")");
    gutter();
    out_ += "\n";
    put_file(rendered_.place.file);
    std::vector<std::string> done = {rendered_.place.file};
    for (const Mark& mark : marks_) {
      if (mark.place->line == 0 || std::find(done.begin(), done.end(), mark.place->file) != done.end())
        continue;
      done.push_back(mark.place->file);
      put_location(*mark.place, "");
      put_file(mark.place->file);
    }
    for (const Mark& mark : marks_)
      if (mark.place->line == 0) detail("cause", mark.place->disassembly + ": " + mark.text);
  }

  // Without source: the failing instruction with those before it, and the causes.
  void put_instructions() {
    const uint32_t at = rendered_.place.insn;
    std::map<uint32_t, std::vector<const Mark*>> shown;
    for (const Mark& mark : marks_) shown[mark.place->insn].push_back(&mark);
    const bool exists = at < request_.program.insns.size();
    for (uint32_t i = exists ? at - std::min(at, kContextBefore) : at; i < at; ++i)
      if (!is_second_slot(i)) shown[i];
    width_ = std::to_string(shown.rbegin()->first).size();
    put_location(rendered_.place, subject());
    gutter();
    out_ += "\n";
    uint32_t expected = shown.begin()->first;
    for (const auto& [insn, marks] : shown) {
      if (insn > expected) out_ += std::string(width_, ' ') + "...\n";
      expected = insn + (is_second_slot(insn + 1) ? 2u : 1u);
      const std::string text = instruction_text(request_.program, insn);
      gutter(std::to_string(insn));
      out_ += "  " + text + "\n";
      for (const Mark* mark : marks) {
        gutter();
        out_ += "  " + std::string(mark->main ? colours_.error : colours_.cause) +
                std::string(text.size(), mark->main ? '^' : '-') + " " + mark->text + colours_.off + "\n";
      }
    }
  }

  bool is_second_slot(uint32_t insn) const {
    const auto& insns = request_.program.insns;
    return insn > 0 && insn < insns.size() && insns[insn].code == 0 &&
           program::is_load_imm64(insns[insn - 1]);
  }

  void detail(const char* name, const std::string& text) {
    std::string padded = name;
    padded.resize(5, ' ');
    out_ += std::string(width_, ' ') + " = " + colours_.bold + padded + colours_.off + ": " + text + "\n";
  }

  static std::string short_place(const RenderedPlace& place) {
    return place.line != 0 ? std::to_string(place.line) : "insn " + std::to_string(place.insn);
  }

  std::string path_text() const {
    std::string text;
    const size_t count = rendered_.path.size();
    const size_t first = count > kStepsShown ? count - kStepsShown : 0;
    if (first != 0) text = "… ";
    for (size_t i = first; i < count; ++i) {
      const RenderedStep& step = rendered_.path[i];
      if (i != first) text += ", ";
      text += short_place(step.from) + (step.taken ? " taken -> " + short_place(step.to) : " not taken");
      if (step.times > 1) text += " (" + std::to_string(step.times) + " times)";
    }
    return text;
  }

  void put_details() {
    for (const std::string& state : rendered_.state) detail("state", state);
    if (!rendered_.call_chain.empty()) {
      std::string text;
      for (const RenderedPlace& place : rendered_.call_chain) {
        const std::string name = place.function.empty() ? "" : "`" + place.function + "` ";
        text += name + "at " + short_place(place) + " -> ";
      }
      const std::string& here = rendered_.place.function;
      detail("calls", text + (here.empty() ? "here" : "`" + here + "`"));
    }
    if (!rendered_.path.empty()) detail("path", path_text());
    if (!rendered_.linux_message.empty()) {
      std::string text = rendered_.linux_message;
      std::replace(text.begin(), text.end(), '\n', ';');
      detail("linux", printable(text, 1024));
    }
    if (!rendered_.grant.empty()) detail("grant", rendered_.grant);
    detail("help", rendered_.help);
    for (const std::string& note : rendered_.notes) detail("note", note);
  }

  const RenderedDiagnosis& rendered_;
  const Request& request_;
  const Colours& colours_;
  std::vector<Mark> marks_;
  size_t width_ = 1;  // of the line numbers
  std::string out_;
};

}  // namespace

std::string printable(std::string_view text, size_t size_max) {
  std::string out(text.substr(0, size_max));
  for (char& c : out)
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) c = '?';
  return out;
}

std::string instruction_text(const program::Program& program, uint32_t insn) {
  if (insn >= program.insns.size()) return "(no instruction)";
  program::Program one;
  one.insns.assign(program.insns.begin() + insn,
                   program.insns.begin() + std::min<size_t>(insn + 2, program.insns.size()));
  const std::string text = program::disassemble(one);  // "   0: (bf) r2 = r10\n…"
  const size_t begin = text.find('(');
  return begin == text.npos ? "(no instruction)" : text.substr(begin, text.find('\n') - begin);
}

RenderedDiagnosis render(const Diagnosis& diagnosis, const Request& request, const SourceLines& lines) {
  const RuleInfo& rule = info(diagnosis.rule);
  RenderedDiagnosis out;
  out.rule = rule.id;
  out.title = rule.title;
  out.error = diagnosis.error != 0 ? diagnosis.error : rule.error;
  out.program = printable(request.program.name, kNameMax);
  out.message = printable(diagnosis.message.empty() ? std::string(rule.title) : diagnosis.message, 4096);
  if (diagnosis.linux_message != diagnosis.message) out.linux_message = diagnosis.linux_message;
  out.place = place_of(diagnosis.insn, request, lines);
  out.label = diagnosis.insn < request.program.insns.size() ? label_of(request.program.insns[diagnosis.insn])
                                                            : "no such instruction";
  for (const Cause& cause : diagnosis.causes)
    out.causes.push_back({place_of(cause.insn, request, lines), printable(cause.text)});
  for (const std::string& state : diagnosis.state) out.state.push_back(printable(state, 1024));
  for (const Branch& branch : diagnosis.path) {
    const bool again = !out.path.empty() && out.path.back().from.insn == branch.insn &&
                       out.path.back().taken == branch.taken;
    if (again)
      ++out.path.back().times;
    else
      out.path.push_back(step_of(branch, request, lines));
  }
  for (uint32_t site : diagnosis.call_chain) out.call_chain.push_back(place_of(site, request, lines));
  out.help = diagnosis.help.empty() ? std::string(rule.help) : printable(diagnosis.help, 1024);
  out.grant = grant_of(diagnosis, request);
  explain_poison(diagnosis, request, out);
  if (lines.empty()) out.notes.push_back("no line information; compile with -g to see source lines");
  return out;
}

std::string to_text(const RenderedDiagnosis& rendered, const Request& request, bool colour) {
  return TextWriter(rendered, request, colour ? kTerminal : kPlain).write();
}

std::string summary(const Diagnosis& diagnosis) {
  return std::string(info(diagnosis.rule).id) + ": " + diagnosis.message + " (instruction " +
         std::to_string(diagnosis.insn) + ")";
}

}  // namespace bpftime::verifier
