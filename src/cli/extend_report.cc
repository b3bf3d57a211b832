#include "cli/extend_report.h"

#include <fmt/core.h>

#include <utility>

#include "cli/printers.h"
#include "cli/trace_stream.h"

namespace bpftime::cli {
namespace {

uint64_t number(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

const Json& list_in(const Json& object, const char* name) {
  static const Json kNone = Json::array();
  const auto found = object.find(name);
  return found != object.end() && found->is_array() ? *found : kNone;
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string text_of(const Json& event) {
  const std::string kind = field(event, "event"), program = field(event, "program"),
                    why = field(event, "why");
  if (kind == "policy-refused") return "policy refused: " + why;
  if (kind == "policy")
    return fmt::format("policy {} for {}", base_name(field(event, "policy")), field(event, "host"));
  if (kind == "loaded")
    return fmt::format("loaded {} (class {}, {} instructions)", program, field(event, "class"),
                       field(event, "insns"));
  if (kind == "refused")
    return fmt::format("refused {} (class {}, {}): {}",
                       program.empty() ? base_name(field(event, "object")) : program, field(event, "class"),
                       field(event, "place"), why);
  if (kind == "failed") return fmt::format("not attached: {}: {}", program, why);
  if (kind == "attached") return fmt::format("attached {} to {}", program, field(event, "entry"));
  return "";
}

}  // namespace

void ExtendReport::line(const Json& event, const std::string& text) {
  if (json_)
    fmt::print(out_, "{}\n", event.dump(-1, ' ', false, Json::error_handler_t::replace));
  else if (!text.empty())
    fmt::print(out_, "bpftime: {}\n", printable(text));
  std::fflush(out_);
}

void ExtendReport::event(const Json& event) { line(event, text_of(event)); }

void ExtendReport::note(const std::string& kind, const std::string& text, Json more) {
  more["event"] = kind;
  more["text"] = text;
  line(more, text);
}

void ExtendReport::follow(const Json& loaded) {
  programs_[number(loaded, "id")].name = field(loaded, "program");
}

void ExtendReport::forget_programs() {
  programs_.clear();
  totals_told_.clear();
}

void ExtendReport::look_at_target(const Json& target) {
  const std::string pid = field(target, "pid");
  for (const Json& probe : list_in(target, "probes")) {
    std::string names;
    for (const Json& program : list_in(probe, "programs")) {
      const auto known = programs_.find(number(program, "id"));
      if (known != programs_.end()) names += (names.empty() ? "" : ", ") + known->second.name;
    }
    if (names.empty()) continue;
    const bool active = field(probe, "state") == "active";
    if (active) lineages_.insert(number(target, "lineage"));
    const bool is_event = !probe.contains("function");  // of system calls
    const std::string place = field(probe, is_event ? "path" : "function");
    const std::string where = fmt::format("{} ({})", pid, field(target, "name"));
    const std::string text = active
                                 ? fmt::format("running in {} at {}: {}", where, place, names)
                                 : fmt::format("skipped in {}: {}: {}", where, names, field(probe, "reason"));
    std::string& told = states_[pid + "/" + (is_event ? place : field(probe, "offset"))];
    if (told == text) continue;
    told = text;
    line({{"event", active ? "running" : "skipped"}, {"pid", target["pid"]}, {"probe", probe}}, text);
  }
  const uint64_t faults = number(target, "faults");
  if (faults <= faults_[pid]) return;
  line({{"event", "faults"}, {"pid", target["pid"]}, {"faults", faults}},
       fmt::format("faults in {} ({}): {} loads through bad pointers of the host, which read 0", pid,
                   field(target, "name"), faults));
  faults_[pid] = faults;
}

void ExtendReport::look(const Json& list, const Json& programs) {
  for (const Json& target : list_in(list, "targets")) look_at_target(target);
  for (const Json& program : list_in(programs, "programs")) {
    const auto known = programs_.find(number(program, "id"));
    if (known == programs_.end()) continue;
    known->second.hits = number(program, "hits");
    look_at_promises(known->second, program);
  }
  for (const auto& [id, program] : programs_)
    if (program.hits != program.hits_told) return totals();
}

// What its proof takes on trust, once; and what of it turned out not to hold.
void ExtendReport::look_at_promises(Program& known, const Json& program) {
  if (!std::exchange(known.relied, true)) {
    std::string promises;
    for (const Json& each : list_in(program, "relies_on"))
      if (each.is_string()) promises += (promises.empty() ? "" : "; ") + each.get<std::string>();
    if (!promises.empty())
      line({{"event", "relies"}, {"program", known.name}, {"on", program["relies_on"]}},
           fmt::format("{} relies on the host: {}", known.name, promises));
  }
  const uint64_t broken = number(program, "broken_promises");
  if (broken <= known.broken) return;
  known.broken = broken;
  line(
      {{"event", "broken-promises"}, {"program", known.name}, {"broken", broken}},
      fmt::format("promise broken: the host returned what it had promised not to, to {}: {} runs ended there",
                  known.name, broken));
}

bool ExtendReport::knows(int pid) const {
  const auto found = states_.lower_bound(std::to_string(pid) + "/");
  return found != states_.end() && found->first.starts_with(std::to_string(pid) + "/");
}

void ExtendReport::totals() {
  std::string text;
  Json hits = Json::object();
  for (auto& [id, program] : programs_) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", program.name, program.hits);
    hits[program.name] = program.hits;
    program.hits_told = program.hits;
  }
  if (std::exchange(totals_told_, text) == text) return;
  if (!programs_.empty()) line({{"event", "hits"}, {"hits", hits}}, "hits: " + text);
}

}  // namespace bpftime::cli
