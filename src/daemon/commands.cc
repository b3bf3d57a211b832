#include "daemon/commands.h"

#include <linux/bpf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/version.h"
#include "compiler/compiler.h"
#include "daemon/worker.h"
#include "maps/map.h"
#include "rewrite/rewrite.h"

namespace bpftime::daemon {

using kernel::ObjectKind;
using nlohmann::json;

namespace {

using Answer = Result<json>;

std::string comm_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

// Runs here, while they are counted (BPF_ENABLE_STATS); of extensions else those in all processes (Prog::runs).
std::optional<uint64_t> hits_of(const kernel::Kernel& kernel, const ProgramReport& program) {
  if (!program.counters.empty()) {
    uint64_t sum = 0;
    for (const uint64_t counter : program.counters) sum += kernel.hits_at(counter).runs;
    return sum;
  }
  const auto object = kernel.objects().find(ObjectKind::kProgram, program.id);
  return object ? kernel::run_count(static_cast<const kernel::Prog&>(*object)) : std::nullopt;
}

json probe_json(const kernel::Kernel& kernel, const ProbeReport& probe) {
  json programs = json::array();
  for (const auto& program : probe.programs) {
    programs.push_back({{"id", program.id},
                        {"name", program.name},
                        {"kind", program.on_return ? "uretprobe" : "uprobe"},
                        {"elided", program.elided}});
    if (const auto hits = hits_of(kernel, program)) programs.back()["hits"] = *hits;
  }
  if (probe.system_call) {
    for (auto& program : programs) program["kind"] = "tracepoint";
    return {{"path", probe.path},
            {"programs", programs},
            {"sites", probe.sites},
            {"not_seen", probe.not_seen},
            {"state", probe.skipped.empty() ? "active" : "skipped"},
            {"reason", probe.skipped}};
  }
  json out = {{"path", probe.path},         {"offset", probe.offset},
              {"function", probe.function}, {"address", probe.address},
              {"programs", programs},       {"state", probe.skipped.empty() ? "active" : "skipped"},
              {"reason", probe.skipped}};
  if (probe.trap) out["method"] = "trap";
  return out;
}

json target_json(const kernel::Kernel& kernel, const TargetReport& target) {
  json probes = json::array();
  for (const auto& probe : target.probes) probes.push_back(probe_json(kernel, probe));
  return {{"pid", target.pid},       {"name", target.name},         {"lineage", target.lineage},
          {"faults", target.faults}, {"not_seen", target.not_seen}, {"probes", probes}};
}

Result<pid_t> pid_argument(const json& request) {
  if (!request.contains("pid") || !request["pid"].is_number_integer())
    return Error{EINVAL, "command: pid missing"};
  const auto pid = request["pid"].get<int64_t>();
  if (pid <= 0 || pid > INT32_MAX)
    return Error{ESRCH, "process " + std::to_string(pid) + ": no such process"};
  return static_cast<pid_t>(pid);
}

Answer attach(Worker& worker, const json& request) {
  auto pid = pid_argument(request);
  if (!pid) return pid.error();
  const json session = request.value("session", json());
  auto report = worker.attacher().attach(*pid, session.is_number_unsigned() ? session.get<uint64_t>() : 0);
  worker.follow_targets();
  if (!report) return report.error();
  return target_json(worker.kernel(), *report);
}

Answer detach(Worker& worker, const json& request) {
  auto pid = pid_argument(request);
  if (!pid) return pid.error();
  if (auto done = worker.attacher().detach(*pid); !done) return done.error();
  return json{{"pid", *pid}};
}

json clock_json(const ClockReport& clock) {
  json programs = json::array();
  for (const auto& program : clock.programs) {
    programs.push_back({{"id", program.id}, {"name", program.name}, {"kind", "perf_event"}});
    if (program.hits) programs.back()["hits"] = *program.hits;
    programs.back()["state"] = program.stopped ? "stopped" : "active";
    if (program.stopped) programs.back()["reason"] = "it crashed, or ran too long; it is not run again";
  }
  return {{"event", clock.event}, {"period_ns", clock.period_ns}, {"cpu", clock.cpu}, {"programs", programs}};
}

Answer list(Worker& worker, const json&) {
  json targets = json::array(), loaders = json::array(), clocks = json::array();
  for (const auto& clock : worker.clocks().reports()) clocks.push_back(clock_json(clock));
  for (const auto& target : worker.attacher().reports())
    targets.push_back(target_json(worker.kernel(), target));
  for (const auto& [fd, client] : worker.connections())
    if (client.hello && client.hello->kind == wire::ClientKind::kLoader)
      loaders.push_back({{"pid", client.peer().pid}, {"name", comm_of(client.peer().pid)}});
  return json{{"targets", targets},
              {"clocks", clocks},
              {"loaders", loaders},
              {"counting", worker.kernel().counting()}};
}

Answer status(Worker& worker, const json&) {
  const auto& objects = worker.kernel().objects();
  size_t loaders = 0, maps = 0;
  for (const auto& [fd, client] : worker.connections())
    loaders += client.hello && client.hello->kind == wire::ClientKind::kLoader;
  for (const auto& map : objects.all<kernel::Map>(ObjectKind::kMap)) maps += !map->internal;
  const auto& attacher = worker.attacher();
  const auto& last = attacher.last_running_change();
  const json changes = {{"running", attacher.running_changes()},
                        {"outside", attacher.outside_changes()},
                        {"stopping", attacher.stopping_changes()},
                        {"last_us", static_cast<double>(last.whole_ns) / 1000},
                        {"last_held_us", static_cast<double>(last.held_ns) / 1000}};
  return json{{"version", kVersion},
              {"abi_version", wire::kAbiVersion},
              {"worker_pid", ::getpid()},
              {"keeper_pid", ::getppid()},
              {"uptime_s", worker.uptime_s()},
              {"runtime_directory", worker.directory().path},
              {"maps", maps},
              {"changes", changes},
              {"programs_compiled", compiler::programs_compiled()},
              {"programs", objects.all<kernel::Prog>(ObjectKind::kProgram).size()},
              {"links", objects.all<kernel::Link>(ObjectKind::kLink).size()},
              {"targets", worker.attacher().reports().size()},
              {"loaders", loaders}};
}

Answer stop(Worker& worker, const json&) {
  worker.ask_to_stop();
  return json{{"worker_pid", ::getpid()}, {"keeper_pid", ::getppid()}};
}

Answer restart(Worker& worker, const json&) {
  worker.ask_to_restart();
  return json{{"worker_pid", ::getpid()}, {"keeper_pid", ::getppid()}};
}

// The lines come before this answer: whoever asked has them all.
Answer flush_trace(Worker& worker, const json&) {
  worker.flush_trace();
  return json::object();
}

const char* program_type_name(uint32_t type) {
  switch (type) {
    case BPF_PROG_TYPE_SOCKET_FILTER:
      return "socket_filter";
    case BPF_PROG_TYPE_KPROBE:
      return "kprobe";
    case BPF_PROG_TYPE_TRACEPOINT:
      return "tracepoint";
    case BPF_PROG_TYPE_PERF_EVENT:
      return "perf_event";
    case BPF_PROG_TYPE_RAW_TRACEPOINT:
      return "raw_tracepoint";
    default:
      return "unknown";
  }
}

json program_json(const kernel::Prog& prog) {
  json map_ids = json::array();
  for (const auto& map : prog.maps) map_ids.push_back(map->id);
  json out{{"id", prog.id},
           {"type", program_type_name(prog.source.program.type)},
           {"name", prog.name},
           {"insns", prog.source.program.insns.size()},
           {"jited_bytes", prog.code ? prog.code->image.size() : 0},
           {"map_ids", map_ids},
           {"verified_by", prog.verified_by}};
  if (prog.host) out["class"] = prog.host->constraints.class_name;
  if (const auto runs = kernel::run_count(prog)) out["hits"] = *runs;
  if (const auto broken = kernel::broken_promises(prog)) out["broken_promises"] = *broken;
  if (prog.facts && !prog.facts->promises_used.empty()) out["relies_on"] = prog.facts->promises_used;
  return out;
}

json link_json(const kernel::Link& link) {
  const kernel::PerfEvent& event = link.event ? *link.event : *link.places[0];
  json out{{"id", link.id},
           {"program_id", link.program->id},
           {"path", event.path},
           {"offset", event.offset},
           {"retprobe", event.return_probe},
           {"pid", event.pid},
           {"cookie", link.event ? link.cookie : event.by_link[0].cookie},
           {"enabled", event.enabled}};
  if (!link.event) out["places"] = link.places.size();  // the rest is of the first
  return out;
}

template <typename T>
json show_all(Worker& worker, ObjectKind kind, const json& request, json (*print)(const T&)) {
  json out = json::array();
  for (const auto& object : worker.kernel().objects().all<T>(kind)) {
    if (request.contains("id") && request["id"] != object->id) continue;
    out.push_back(print(*object));
  }
  return out;
}

// Of programs and links, what bpf(2) does not tell.
Answer show(Worker& worker, const json& request) {
  const std::string what = request.value("object", "");
  json found;
  std::string key;
  if (what == "prog") {
    key = "programs";
    found = show_all<kernel::Prog>(worker, ObjectKind::kProgram, request, program_json);
  } else if (what == "link") {
    key = "links";
    found = show_all<kernel::Link>(worker, ObjectKind::kLink, request, link_json);
  } else {
    return Error{EINVAL, "show: " + what + ": not a kind of object; try prog or link"};
  }
  if (request.contains("id") && found.empty())
    return Error{ENOENT,
                 what + " " + request["id"].dump() + ": no such id; `bpftime " + what + " show` lists them"};
  return json{{key, found}};
}

// A program's machine code as text. It is compiled now if it never was attached.
Answer dump(Worker& worker, const json& request) {
  if (!request.contains("id") || !request["id"].is_number_unsigned())
    return Error{EINVAL, "dump: id missing"};
  const auto id = request["id"].get<uint32_t>();
  auto object = worker.kernel().objects().find(ObjectKind::kProgram, id);
  if (!object)
    return Error{ENOENT, "prog " + std::to_string(id) + ": no such id; `bpftime prog show` lists them"};
  auto& program = static_cast<kernel::Prog&>(*object);
  if (auto compiled = worker.kernel().ensure_code(program); !compiled) return compiled.error();
  // Of instructions only: what follows them is data.
  const auto text =
      Bytes(program.code->image).first(std::min<size_t>(program.code->text_size, program.code->image.size()));
  json lines = json::array();
  auto table = worker.kernel().code_lines(program);
  if (!table) log_warning(table.error().message);
  if (table)
    for (const auto& line : *table) lines.push_back({line.offset, line.insn});
  return json{{"text", rewrite::listing(text)},
              {"lines", lines},
              {"bytes", std::vector<uint8_t>(text.begin(), text.end())}};
}

Answer doctor(Worker&, const json&) {
  return json{{"kernel_verifier", verifier::kernel_verifier_usable()}, {"euid", ::geteuid()}};
}

// Reads a policy and says what it would do. Grants nothing.
Answer policy(Worker& worker, const json& request) {
  auto opened = open_policy(worker.kernel(), request.value("path", ""), request.value("host", ""));
  if (!opened) return opened.error();
  const OpenPolicy& policy = **opened;
  json classes = json::array(), extensions = json::array();
  for (const auto& each : policy.classes)
    classes.push_back(
        {{"name", each->constraints.class_name}, {"entry", each->entry.name}, {"place", each->policy_place}});
  for (const auto& each : policy.extensions)
    extensions.push_back({{"program", each.program},
                          {"function", each.function},
                          {"class", each.class_name},
                          {"entry", each.entry},
                          {"symbol", each.symbol},
                          {"offset", each.offset},
                          {"system_call", each.system_call},
                          {"place", each.place}});
  return json{{"policy", policy.path},       {"host", policy.host},
              {"build_id", policy.build_id}, {"classes", classes},
              {"extensions", extensions},    {"audit_log", worker.directory().audit_log()}};
}

}  // namespace

Result<std::string> run_command(Worker& worker, Connection& client, std::string_view text) {
  static const std::map<std::string, std::function<Answer(Worker&, const json&)>> kCommands = {
      {"attach", attach}, {"detach", detach},           {"list", list},    {"status", status},
      {"stop", stop},     {"restart", restart},         {"show", show},    {"dump", dump},
      {"doctor", doctor}, {"flush-trace", flush_trace}, {"policy", policy}};
  try {
    const json request = json::parse(text);
    if (!request.is_object()) return Error{EPROTO, "command: not a JSON object"};
    const std::string name = request.value("command", "");
    if (name == "hold-probes" || name == "release-probes") {
      name == "hold-probes" ? worker.hold_probes(client) : worker.release_probes(client);
      return std::string("{}");
    }
    const auto command = kCommands.find(name);
    if (command == kCommands.end())
      return Error{EPROTO, "command " + request.value("command", "?") +
                               ": not known to this daemon; try `bpftime daemon restart`"};
    auto answer = command->second(worker, request);
    if (!answer) return answer.error();
    return answer->dump(-1, ' ', false, json::error_handler_t::replace);
  } catch (const json::exception& error) {
    return Error{EPROTO, std::string("command: ") + error.what()};
  }
}

}  // namespace bpftime::daemon
