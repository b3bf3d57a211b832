#include "cli/eim_check.h"

#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cli/bpf_objects.h"
#include "cli/exit_codes.h"
#include "cli/verify_report.h"
#include "eim/load.h"
#include "wire/kernel_btf.h"

namespace bpftime::cli {
namespace {

// What libbpf splits a module's BTF on.
program::BtfBase kernel_base() {
  std::ifstream file(std::string(wire::kKernelBtfPath), std::ios::binary);
  std::vector<uint8_t> bytes(std::istreambuf_iterator<char>(file), {});
  const std::string_view stand_in = wire::kKernelBtfStandIn.bytes();
  if (bytes.empty()) bytes.assign(stand_in.begin(), stand_in.end());
  const auto base = eim::btf_base_of(bytes);
  return base ? *base : program::BtfBase{};
}

int answer(const Error& error, bool json) {
  if (!json) return report(error);
  Json out = error_json(error);
  out["accepted"] = false;
  print_json(out);
  return exit_code_of(error);
}

int report_policy(const EimCheck& check, const eim::LoadedPolicy& loaded, bool json) {
  if (json) {
    Json classes = Json::array();
    for (const auto& grant : loaded.grants)
      classes.push_back({{"class", grant.class_name}, {"entry", grant.entry}});
    print_json(Json{
        {"accepted", true}, {"policy", check.policy}, {"build", loaded.host_build_id}, {"classes", classes}});
    return kOk;
  }
  for (const auto& grant : loaded.grants)
    fmt::print("{}: class {}: fine, for entry {}\n", check.policy, grant.class_name, grant.entry);
  return kOk;
}

// The class that the program runs in: named, or by the policy's extensions, whose files may lie elsewhere than this copy.
Result<const eim::Grant*> class_of(const EimCheck& check, const eim::LoadedPolicy& loaded,
                                   Selection& selection) {
  const auto base = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
  std::string name = check.class_name;
  for (const eim::Extension& extension : loaded.policy.extensions) {
    if (base(extension.program) != base(check.program) || (!name.empty() && extension.class_name != name))
      continue;
    if (name.empty()) name = extension.class_name;
    selection.program = extension.function;
    break;
  }
  if (name.empty())
    return Error{ENOENT, "eim check: " + check.program + ": no extension of " + check.policy +
                             " has this name; try --class CLASS"};
  if (const eim::Grant* grant = loaded.grant_of(name)) return grant;
  std::vector<std::string> names;
  for (const auto& grant : loaded.grants) names.push_back(grant.class_name);
  return Error{EINVAL,
               "eim check: " + name + ": no such class in " + check.policy + eim::nearest_hint(name, names)};
}

VerifiedProgram judge(ObjectProgram source, const eim::LoadedPolicy& loaded, const eim::Grant& grant) {
  VerifiedProgram program{.name = source.name, .section = source.section, .type = source.type};
  program.not_judged = source.not_judged;
  if (!source.request) {
    if (program.not_judged.empty()) program.not_judged = "libbpf did not get as far as this program";
    return program;
  }
  verifier::Request& request = *source.request;
  request.constraints = &grant.constraints;
  request.options.zero_stack = false;
  request.options.allow_pointer_leaks = false;
  program.insns = static_cast<uint32_t>(request.program.insns.size());
  program.verdict = verifier::verify(request);
  verifier::SourceLines lines;
  if (auto read = verifier::SourceLines::read(request)) lines = std::move(*read);
  for (const auto& diagnosis : program.verdict.diagnoses) {
    program.diagnoses.push_back(verifier::render(diagnosis, request, lines));
    if (!diagnosis.grant.empty())
      program.diagnoses.back().grant =
          eim::missing_hint(grant, loaded.manifest, loaded.policy, diagnosis.grant);
    program.texts.push_back(eim::without_host_prefix(
        verifier::to_text(program.diagnoses.back(), request, ::isatty(STDOUT_FILENO) != 0)));
  }
  return program;
}

int check_program(const EimCheck& check, const eim::LoadedPolicy& loaded, bool json) {
  Selection selection;
  const auto grant = class_of(check, loaded, selection);
  if (!grant) return answer(grant.error(), json);
  const ModuleBtf host{"host", loaded.host.blob};
  auto read = read_objects(check.program, selection, &host);
  if (!read) return answer(read.error(), json);
  bool refused = false;
  Json list = Json::array();
  std::vector<VerifiedObject> objects;
  for (BpfObject& object : *read) {
    objects.push_back({object.name, eim::without_host_prefix(object.error), {}});
    refused = refused || !object.error.empty();
    for (ObjectProgram& program : object.programs) {
      objects.back().programs.push_back(judge(std::move(program), loaded, **grant));
      const VerifiedProgram& judged = objects.back().programs.back();
      refused = refused || (judged.not_judged.empty() && judged.verdict.error != 0);
    }
    if (json) list.push_back(to_json(objects.back()));
    if (!json) fmt::print("{}", to_text(objects.back()));
  }
  if (json) {
    print_json(Json{{"accepted", !refused}, {"class", (*grant)->class_name}, {"objects", list}});
  } else {
    fmt::print("class {}: {}", (*grant)->class_name, summary(objects));
  }
  return refused ? kRefused : kOk;
}

}  // namespace

int eim_check(const EimCheck& check, bool json) {
  auto loaded = eim::load_policy(check.policy, check.program.empty() ? program::BtfBase{} : kernel_base());
  if (!loaded) return answer(loaded.error(), json);
  if (check.program.empty()) return report_policy(check, *loaded, json);
  // In a process of its own: libbpf is not made for hostile objects.
  const pid_t child = ::fork();
  if (child < 0) return check_program(check, *loaded, json);
  if (child == 0) {
    const int status = check_program(check, *loaded, json);
    ::_exit(std::fflush(stdout) == 0 ? status : kFailure);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  return report(Error{EINVAL, "eim check: " + check.program + ": crashed (" + ::strsignal(WTERMSIG(status)) +
                                  ") while reading it; the object is damaged, try building it again"});
}

}  // namespace bpftime::cli
