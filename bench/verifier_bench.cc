// Our verifier's time beside the running kernel's on the same programs: the corpus's portable pairs, generated ones, and two
// of a million instructions. `--json FILE` writes the numbers too.
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "verifier/testing/builder.h"
#include "verifier/testing/corpus.h"
#include "verifier/testing/generator.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier::testing {
namespace {

constexpr int kRounds = 7;
constexpr size_t kGenerated = 400;

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Measured {
  std::string what;
  size_t programs = 0;
  double ours_us = 0, kernel_us = 0;  // 0: the kernel was not asked
  int ours_error = 0, kernel_error = 0;
};

// The best of some runs of each program, interleaved; of those the median.
Measured measure(const std::string& what, const std::vector<Request>& requests, KernelOracle* kernel,
                 int rounds) {
  Measured measured{what, requests.size()};
  std::vector<double> ours, kernels;
  for (const Request& request : requests) {
    double our_best = 1e18, kernel_best = 1e18;
    for (int i = 0; i < rounds; ++i) {
      const uint64_t start = now_ns();
      measured.ours_error = verify(request).error;
      our_best = std::min(our_best, static_cast<double>(now_ns() - start) / 1000);
      if (kernel == nullptr) continue;
      const KernelVerdict answer = kernel->ask(request);
      measured.kernel_error = answer.error;
      kernel_best = std::min(kernel_best, static_cast<double>(answer.time_ns) / 1000);
    }
    ours.push_back(our_best);
    if (kernel != nullptr) kernels.push_back(kernel_best);
  }
  measured.ours_us = median(ours);
  measured.kernel_us = median(kernels);
  return measured;
}

std::vector<Request> portable_pairs() {
  std::vector<Request> requests;
  if (auto pairs = load_pairs()) {
    for (Case& test : *pairs) {
      if (test.portable && test.unusable.empty()) requests.push_back(std::move(test.request));
    }
  }
  return requests;
}

Request plain(const Builder& builder) {
  Request request;
  request.program.type = BPF_PROG_TYPE_SOCKET_FILTER;
  request.program.insns = builder.finish();
  request.license = "GPL";
  return request;
}

// A million instructions processed: a loop with a branch in it.
Request long_loop() {
  Builder b;
  const Builder::Label head = b.label(), skip = b.label();
  b.call(BPF_FUNC_get_prandom_u32);
  b.mov(6, 0);
  b.mov_imm(7, 0);
  b.place(head);
  b.alu_imm(BPF_ADD, 7, 1);
  b.mov(1, 7);
  b.alu_imm(BPF_AND, 1, 7);
  b.jump_imm(BPF_JEQ, 1, 3, skip);
  b.store(BPF_DW, 10, -8, 7);
  b.place(skip);
  b.jump_imm(BPF_JLT, 7, 160'000, head);
  b.mov_imm(0, 0);
  b.exit();
  return plain(b);
}

// A million instructions long.
Request long_program() {
  Builder b;
  b.call(BPF_FUNC_get_prandom_u32);
  b.mov(6, 0);
  for (int i = 0; b.size() < 999'980; ++i) {
    b.alu_imm(BPF_ADD, 6, 3);
    b.store(BPF_DW, 10, static_cast<int16_t>(-8 - 8 * (i % 32)), 6);
    b.load(BPF_DW, 1, 10, static_cast<int16_t>(-8 - 8 * (i % 32)));
    b.alu_imm(BPF_XOR, 1, i);
    b.mov(2, 1);
  }
  b.mov_imm(0, 0);
  b.exit();
  return plain(b);
}

void print(const Measured& m) {
  std::printf("| %-44s | %8zu | %12.1f | %12.1f |", m.what.c_str(), m.programs, m.ours_us, m.kernel_us);
  if (m.programs == 1) std::printf(" errno: ours %d, kernel %d", m.ours_error, m.kernel_error);
  std::printf("\n");
}

int run(int argc, char** argv) {
  setenv("BPFTIME_SOURCE_DIR", BPFTIME_SOURCE_DIR, 0);
  std::string path;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) path = argv[i + 1];
  }
  KernelOracle oracle;
  KernelOracle* kernel = KernelOracle::unusable().empty() ? &oracle : nullptr;
  if (kernel == nullptr) std::printf("the kernel is not asked: %s\n", KernelOracle::unusable().c_str());
  std::vector<Request> generated;
  for (uint64_t seed = 0; seed < kGenerated; ++seed) generated.push_back(generate(seed));
  std::vector<Measured> all;
  const std::vector<Request> pairs = portable_pairs();
  if (pairs.empty())
    std::printf("no corpus: portable pairs are not measured; BPFTIME_CORPORA names its folder\n");
  std::printf("\nVerification, microseconds a program: median of the best of %d runs.\n\n", kRounds);
  std::printf(
      "| programs                                     |   number |         ours |       kernel "
      "|\n|---|---|---|---|\n");
  if (!pairs.empty()) all.push_back(measure("portable pairs of the corpus", pairs, kernel, kRounds));
  all.push_back(measure("generated, median 62 instructions", generated, kernel, kRounds));
  all.push_back(measure("a loop: a million instructions processed", {long_loop()}, kernel, 1));
  all.push_back(measure("a million instructions long", {long_program()}, kernel, 1));
  for (const Measured& m : all) print(m);
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  std::printf("\npeak memory of this process: %ld MiB\n", usage.ru_maxrss / 1024);
  if (path.empty()) return 0;
  nlohmann::json json;
  for (const Measured& m : all) {
    json["programs"].push_back({{"what", m.what},
                                {"number", m.programs},
                                {"ours_us", m.ours_us},
                                {"kernel_us", m.kernel_us},
                                {"ours_errno", m.ours_error},
                                {"kernel_errno", m.kernel_error}});
  }
  json["peak_memory_mib"] = usage.ru_maxrss / 1024;
  std::ofstream(path) << json.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace bpftime::verifier::testing

int main(int argc, char** argv) { return bpftime::verifier::testing::run(argc, argv); }
