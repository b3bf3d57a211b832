// Programs to start from: of the corpora, the conformance vectors, the generator. Test-only.
#pragma once

#include <string>
#include <vector>

#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

struct Seed {
  std::string origin;
  Request request;
};

// Program types that the runtime runs.
bool runs_here(uint32_t program_type);

// Pairs of the corpus that can be asked: portable ones and those of types that run here. Empty without the corpus.
std::vector<Seed> corpus_seeds();
// Conformance vectors (the corpus's and our own) that need no memory, as XDP programs.
std::vector<Seed> vector_seeds();

}  // namespace bpftime::verifier::testing
