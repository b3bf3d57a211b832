// verifier_corpus: our verdict beside the label and beside the running kernel's, for whoever works on the engine.
//   verifier_corpus [pairs|mutants] [--all]     what differs, one line each, grouped; --all: non-portable ones too
//   verifier_corpus --show ID                   one case: disassembly, both logs (a part of the id or title is enough)
//   verifier_corpus --labels                    where the running kernel disagrees with the recorded label
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "program/program.h"
#include "verifier/testing/corpus.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier::testing {
namespace {

std::vector<Case> load_or_exit(bool mutants) {
  auto cases = mutants ? load_mutants() : load_pairs();
  if (!cases) {
    std::fprintf(stderr, "error: %s\n", cases.error().message.c_str());
    std::exit(2);
  }
  return std::move(*cases);
}

void print_log(const char* who, const std::string& log, const std::string& verdict) {
  std::printf("---- %s ----\n%s==> %s\n", who, log.c_str(), verdict.c_str());
}

void show(const Case& test, KernelOracle& kernel) {
  std::printf("%s  %s  \"%s\"\ntype %s, flags %u, expected %s%s\n", test.id.c_str(), test.family.c_str(),
              test.title.c_str(), program_type_name(test.request.program.type).c_str(), test.request.flags,
              test.accepted ? "accept" : "reject", test.portable ? "" : ", not portable");
  for (size_t i = 0; i < test.request.maps.size(); ++i) {
    std::printf("map %zu: %s\n", i, test.request.maps[i].name.c_str());
  }
  std::printf("%s", program::disassemble(test.request.program).c_str());
  if (!test.unusable.empty()) std::printf("note: %s\n", test.unusable.c_str());
  if (KernelOracle::unusable().empty()) {
    const KernelVerdict answer = kernel.ask(test.request, 2);
    print_log("kernel", answer.log, answer.error == 0 ? "accepted" : std::strerror(answer.error));
  }
  Request request = test.request;
  request.log_level = 2;
  request.log_size_max = 1 << 20;
  const Verdict verdict = verify(request);
  print_log("ours", verdict.log,
            summary(verdict) + (verdict.diagnoses.empty()
                                    ? ""
                                    : "  (insn " + std::to_string(verdict.diagnoses.front().insn) + ", " +
                                          verdict.diagnoses.front().message + ")"));
}

int show_matching(const std::string& wanted) {
  KernelOracle kernel;
  int found = 0;
  for (const bool mutants : {false, true}) {
    for (const Case& test : load_or_exit(mutants)) {
      const bool matches =
          test.id == wanted || (!mutants && (test.id.rfind(wanted, 0) == 0 || test.title == wanted));
      if (!matches) continue;
      show(test, kernel);
      ++found;
    }
  }
  if (found == 0) std::fprintf(stderr, "error: no case %s\n", wanted.c_str());
  return found == 0;
}

int compare_labels() {
  KernelOracle kernel;
  size_t asked = 0, differ = 0;
  for (const bool mutants : {false, true}) {
    for (const Case& test : load_or_exit(mutants)) {
      if (!test.unusable.empty()) continue;
      ++asked;
      const KernelVerdict answer = kernel.ask_why(test.request);
      if ((answer.error == 0) == test.accepted) continue;
      ++differ;
      std::printf("%s %s: label %s (%s), kernel %s (%s)\n", test.id.c_str(), test.title.c_str(),
                  test.accepted ? "accept" : "reject", test.kernel_last_line.c_str(),
                  answer.error == 0 ? "accept" : std::strerror(answer.error), answer.last_line.c_str());
    }
  }
  std::printf("%zu asked, %zu differ\n", asked, differ);
  return 0;
}

int compare(bool mutants, bool all) {
  size_t right_rejects = 0, rejects = 0, right_accepts = 0, accepts = 0;
  std::map<std::string, std::vector<std::string>> groups;
  for (const Case& test : load_or_exit(mutants)) {
    if (!test.portable && !all) continue;
    const Verdict verdict = verify(test.request);
    const bool ours = verdict.error == 0;
    (test.accepted ? accepts : rejects)++;
    if (ours == test.accepted) (test.accepted ? right_accepts : right_rejects)++;
    if (ours == test.accepted) continue;
    const std::string group = ours ? "WE ACCEPT, kernel: " + message_class(test.kernel_last_line)
                                   : "WE REFUSE, kernel accepts: " + message_class(summary(verdict));
    groups[group].push_back(test.id + "  " + test.family + " " + test.title +
                            (ours ? "  " + test.kernel_last_line : "  " + summary(verdict)));
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> sorted(groups.begin(), groups.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  for (const auto& [group, members] : sorted) {
    std::printf("%zu  %s\n", members.size(), group.c_str());
    for (size_t i = 0; i < members.size() && i < 8; ++i) std::printf("      %s\n", members[i].c_str());
  }
  std::printf("%s: %zu of %zu rejects refused, %zu of %zu accepts accepted\n", mutants ? "mutants" : "pairs",
              right_rejects, rejects, right_accepts, accepts);
  return 0;
}

int run(int argc, char** argv) {
  setenv("BPFTIME_SOURCE_DIR", BPFTIME_SOURCE_DIR, 0);
  bool all = false, mutants = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--show" && i + 1 < argc) return show_matching(argv[i + 1]);
    if (argument == "--labels") return compare_labels();
    if (argument == "--all") all = true;
    if (argument == "mutants") mutants = true;
  }
  return compare(mutants, all);
}

}  // namespace
}  // namespace bpftime::verifier::testing

int main(int argc, char** argv) { return bpftime::verifier::testing::run(argc, argv); }
