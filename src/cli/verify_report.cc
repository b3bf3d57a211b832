#include "cli/verify_report.h"

#include <fmt/core.h>

#include <cstring>

namespace bpftime::cli {
namespace {

const char* word(const VerifiedProgram& program) {
  if (!program.not_judged.empty()) return "not judged";
  return program.verdict.error == 0 && !program.refused_by_kernel ? "accepted" : "refused";
}

Json place(const verifier::RenderedPlace& at) {
  Json out{{"insn", at.insn}, {"disassembly", at.disassembly}};
  if (!at.function.empty()) out["function"] = at.function;
  if (at.line == 0) return out;
  out["file"] = at.file;
  out["line"] = at.line;
  if (at.column != 0) {
    out["column"] = at.column;
    out["start"] = at.start;
    out["width"] = at.width;
  }
  out["text"] = at.text;
  return out;
}

// "18 us", "1.2 ms"
std::string duration(uint64_t ns) {
  return ns < 1'000'000 ? fmt::format("{} us", ns / 1000) : fmt::format("{:.1f} ms", double(ns) / 1e6);
}

std::string kernel_text(const VerifiedProgram& program) {
  if (!program.kernel)
    return program.kernel_note.empty() ? std::string() : "  kernel: not asked: " + program.kernel_note + "\n";
  if (program.kernel->error == 0)
    return fmt::format("  kernel: accepted, {} instructions processed\n", program.kernel->verified_insns);
  return fmt::format("  kernel: refused ({})\n", std::strerror(program.kernel->error));
}

Json program_json(const VerifiedProgram& program) {
  Json out{{"name", program.name},
           {"section", program.section},
           {"type", program.type},
           {"verdict", word(program)}};
  if (!program.not_judged.empty()) {
    out["reason"] = program.not_judged;
    return out;
  }
  const verifier::Verdict& verdict = program.verdict;
  out["insns"] = program.insns;
  out["insns_processed"] = verdict.statistics.insns_processed;
  out["states"] = verdict.statistics.states_stored;
  out["states_peak"] = verdict.statistics.states_peak;
  out["time_ns"] = program.time_ns;
  if (verdict.error == 0)
    out["instructions_max"] = verdict.facts.instructions_max;
  else
    out["errno"] = verdict.error;
  out["diagnoses"] = Json::array();
  if (!program.verdict.facts.promises_used.empty()) out["relies_on"] = program.verdict.facts.promises_used;
  for (const auto& diagnosis : program.diagnoses) out["diagnoses"].push_back(to_json(diagnosis));
  if (!verdict.log.empty()) out["log"] = verdict.log;
  if (program.kernel) {
    out["kernel"] = {{"errno", program.kernel->error}, {"insns_processed", program.kernel->verified_insns}};
    if (!program.kernel->log.empty()) out["kernel"]["log"] = program.kernel->log;
  } else if (!program.kernel_note.empty()) {
    out["kernel"] = {{"note", program.kernel_note}};
  }
  return out;
}

}  // namespace

Json to_json(const verifier::RenderedDiagnosis& diagnosis) {
  Json out{{"rule", diagnosis.rule},
           {"title", diagnosis.title},
           {"errno", diagnosis.error},
           {"program", diagnosis.program},
           {"message", diagnosis.message},
           {"linux_message", diagnosis.linux_message.empty() ? diagnosis.message : diagnosis.linux_message},
           {"place", place(diagnosis.place)},
           {"label", diagnosis.label}};
  out["causes"] = Json::array();
  for (const auto& cause : diagnosis.causes)
    out["causes"].push_back({{"place", place(cause.place)}, {"text", cause.text}});
  out["state"] = diagnosis.state;
  out["path"] = Json::array();
  for (const auto& step : diagnosis.path)
    out["path"].push_back(
        {{"from", place(step.from)}, {"to", place(step.to)}, {"taken", step.taken}, {"times", step.times}});
  out["call_chain"] = Json::array();
  for (const auto& site : diagnosis.call_chain) out["call_chain"].push_back(place(site));
  out["help"] = diagnosis.help;
  if (!diagnosis.grant.empty()) out["grant"] = diagnosis.grant;
  out["notes"] = diagnosis.notes;
  return out;
}

Json to_json(const VerifiedObject& object) {
  Json out{{"object", object.name}, {"programs", Json::array()}};
  if (!object.error.empty()) out["error"] = object.error;
  for (const auto& program : object.programs) out["programs"].push_back(program_json(program));
  return out;
}

std::string to_text(const VerifiedObject& object) {
  std::string out = object.name + ":\n";
  for (const VerifiedProgram& program : object.programs) {
    out += fmt::format("{:<10}  {} ({})", word(program), program.name, program.section);
    if (!program.not_judged.empty()) {
      out += ": " + program.not_judged + "\n";
      continue;
    }
    out += fmt::format(": {} instructions, {} processed", program.insns,
                       program.verdict.statistics.insns_processed);
    if (program.verdict.error == 0)
      out += fmt::format(", at most {} executed", program.verdict.facts.instructions_max);
    out += ", " + duration(program.time_ns) + "\n";
    out += program.verdict.log;
    for (const std::string& text : program.texts) out += text;
    if (program.verdict.error == 0)
      for (const std::string& promise : program.verdict.facts.promises_used)
        out += "            relies on the host: " + promise + "\n";
    out += kernel_text(program);
  }
  if (!object.error.empty()) out += "not loaded: " + object.error + "\n";
  return out;
}

std::string summary(const std::vector<VerifiedObject>& objects) {
  size_t accepted = 0, refused = 0, not_judged = 0, not_loaded = 0;
  for (const auto& object : objects) {
    not_loaded += object.error.empty() ? 0 : 1;
    for (const auto& program : object.programs) {
      const std::string verdict = word(program);
      ++(verdict == "accepted" ? accepted : verdict == "refused" ? refused : not_judged);
    }
  }
  std::string out = fmt::format("{} accepted, {} refused, {} not judged", accepted, refused, not_judged);
  if (not_loaded != 0) out += fmt::format("; {} objects could not be loaded", not_loaded);
  return out + "\n";
}

}  // namespace bpftime::cli
