#include "verifier/testing/pool.h"

#include "program/testing/conformance.h"
#include "verifier/testing/corpus.h"

namespace bpftime::verifier::testing {

bool runs_here(uint32_t type) {
  return type == BPF_PROG_TYPE_KPROBE || type == BPF_PROG_TYPE_TRACEPOINT ||
         type == BPF_PROG_TYPE_RAW_TRACEPOINT || type == BPF_PROG_TYPE_PERF_EVENT ||
         type == BPF_PROG_TYPE_SOCKET_FILTER || type == BPF_PROG_TYPE_XDP;
}

std::vector<Seed> corpus_seeds() {
  std::vector<Seed> seeds;
  auto pairs = load_pairs();
  if (!pairs) return seeds;
  for (Case& test : *pairs) {
    if (!test.unusable.empty() || !(test.portable || runs_here(test.request.program.type))) continue;
    seeds.push_back({test.family + " \"" + test.title + "\"", std::move(test.request)});
  }
  return seeds;
}

std::vector<Seed> vector_seeds() {
  std::vector<Seed> seeds;
  for (const std::string& directory :
       {program::testing::corpus_directory(), program::testing::own_vectors_directory()}) {
    if (directory.empty()) continue;
    for (const char* part : {"", "/tests", "/negative"}) {
      auto vectors = program::testing::load_vectors(directory + part);
      if (!vectors) continue;
      for (program::testing::Vector& vector : *vectors) {
        if (!vector.parse_error.empty() || !vector.memory.empty()) continue;
        Request request;
        request.program = std::move(vector.program);
        request.program.type = BPF_PROG_TYPE_XDP;
        request.license = "GPL";
        seeds.push_back({"vector " + vector.name, std::move(request)});
      }
    }
  }
  return seeds;
}

}  // namespace bpftime::verifier::testing
