// verifier_differential: our verdict beside the running kernel's on programs nobody has looked at.
//   --source corpus|vectors|generated|all   what to start from (default all)
//   --count N      programs to compare (default 10000)      --seed S
//   --mutate 0|1   edit each one first (default 1; generated ones: 0)
//   --mistakes P   per cent of the generator's knobs that are wrong
//   --groups N     differences to print (default 40)        --no-shrink
//   --print SEED   the generated program of that seed, disassembled, with both verdicts
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "program/program.h"
#include "verifier/testing/differential.h"
#include "verifier/testing/generator.h"
#include "verifier/testing/mutator.h"
#include "verifier/testing/pool.h"

namespace bpftime::verifier::testing {
namespace {

struct Arguments {
  std::string source = "all";
  uint64_t count = 10'000, seed = 1, groups = 40;
  int mutate = -1;
  bool shrink = true, print = false;
  GeneratorOptions generator;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--no-shrink") {
      arguments.shrink = false;
      continue;
    }
    if (i + 1 >= argc) break;
    const std::string value = argv[++i];
    const uint64_t number = std::strtoull(value.c_str(), nullptr, 0);
    if (name == "--source") arguments.source = value;
    if (name == "--count") arguments.count = number;
    if (name == "--seed" || name == "--print") arguments.seed = number;
    if (name == "--print") arguments.print = true;
    if (name == "--mutate") arguments.mutate = static_cast<int>(number);
    if (name == "--mistakes") arguments.generator.mistake_percent = static_cast<uint32_t>(number);
    if (name == "--groups") arguments.groups = number;
  }
  return arguments;
}

int print_generated(const Arguments& arguments) {
  Request request = generate(arguments.seed, arguments.generator);
  for (size_t i = 0; i < request.maps.size(); ++i)
    std::printf("map %zu: %s\n", i, request.maps[i].name.c_str());
  std::printf("type %u\n%s", request.program.type, program::disassemble(request.program).c_str());
  KernelOracle kernel;
  const KernelVerdict answer = kernel.ask(request, 2);
  std::printf("---- kernel ----\n%s==> %s\n", answer.log.c_str(),
              answer.error == 0 ? "accepted" : std::strerror(answer.error));
  std::printf("---- ours ----\n==> %s\n", summary(verify(request)).c_str());
  return 0;
}

int run(int argc, char** argv) {
  setenv("BPFTIME_SOURCE_DIR", BPFTIME_SOURCE_DIR, 0);
  const Arguments arguments = parse(argc, argv);
  if (const std::string why = KernelOracle::unusable(); !why.empty()) {
    std::fprintf(stderr, "error: %s\n", why.c_str());
    return 2;
  }
  if (arguments.print) return print_generated(arguments);
  std::vector<Seed> seeds;
  const bool all = arguments.source == "all";
  if (all || arguments.source == "corpus") seeds = corpus_seeds();
  if (all || arguments.source == "vectors") {
    for (Seed& seed : vector_seeds()) seeds.push_back(std::move(seed));
  }
  const bool generated = all || arguments.source == "generated";
  if (seeds.empty() && !generated) {
    std::fprintf(stderr, "error: nothing to start from; try BPFTIME_CORPORA=DIRECTORY\n");
    return 2;
  }
  KernelOracle kernel;
  Differential differential(kernel);
  differential.explain_errno = true;
  for (uint64_t i = 0; i < arguments.count; ++i) {
    const uint64_t seed = arguments.seed * 1'000'003 + i;
    Random random(seed);
    const bool generate_one = generated && (seeds.empty() || random.chance(50));
    Seed start;
    if (generate_one) {
      start = {"generated " + std::to_string(seed), generate(seed, arguments.generator)};
    } else {
      start = random.pick(seeds);
    }
    const bool edit = arguments.mutate < 0 ? !generate_one || random.chance(30) : arguments.mutate == 1;
    if (edit) start.origin += " " + mutate(start.request, random);
    differential.compare(start.request, start.origin);
  }
  std::printf("%s", differential.table(arguments.groups, arguments.shrink).c_str());
  std::printf("\nerrno differs where both refuse:\n");
  for (const auto& [what, count] : differential.errno_differences)
    std::printf("%6zu  %s\n", count, what.c_str());
  std::printf("mean time: ours %.1f us, kernel %.1f us\n",
              1e-3 * static_cast<double>(differential.our_time_ns) / static_cast<double>(arguments.count),
              1e-3 * static_cast<double>(differential.kernel_time_ns) / static_cast<double>(arguments.count));
  return 0;
}

}  // namespace
}  // namespace bpftime::verifier::testing

int main(int argc, char** argv) { return bpftime::verifier::testing::run(argc, argv); }
