// Reads instruction-set test vectors ("-- asm", "-- raw", "-- mem", "-- result", "-- error" sections) for
// every engine that claims to execute BPF. Test-only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "program/program.h"

namespace bpftime::program::testing {

// One vector. To run it: copy `memory`, call with r1 = its address and r2 = its length (both 0 without
// memory), helpers from conformance_helper(), compare r0.
struct Vector {
  std::string name;         // file name without extension
  std::string parse_error;  // not empty: the text is no program, everything below is void
  Program program;          // type 0
  std::vector<uint8_t> memory;
  std::optional<uint64_t> expected;  // r0; none: the vector must be refused somewhere
  std::string expected_error;        // text of the "-- error" section, informative
};

// Assembles the corpus's notation: "mov32 %r0, -1", "ldxw %r0, [%r1+4]", "lock fetch add [%r10-8], %r1",
// "call local f", "jeq %r1, 0xA, label" or "+2", labels "name:"; the label "exit" is the last exit. "#"
// starts a comment.
Result<std::vector<Insn>> assemble(std::string_view text);

Vector parse_vector(const std::string& name, std::string_view text);

// Every *.data file of `directory`, by name. ENOENT when there is none.
Result<std::vector<Vector>> load_vectors(const std::string& directory);

// $BPFTIME_CORPORA or ../shared/corpora beside the source tree, then /bpf_conformance; empty when not found.
std::string corpus_directory();
// The project's own vectors; empty when the source tree is not found.
std::string own_vectors_directory();

// The one helper the vectors use: number 5 returns its first argument (a non-zero value: "go
// on"). Others: EINVAL.
Result<uint64_t> conformance_helper(uint32_t id, const uint64_t args[5]);

// Vectors of the corpus that the standard defines but Linux does not load: they run unvalidated and
// `reason` is printed.
struct Exception {
  const char* name;
  const char* reason;
};
extern const Exception kRefusedByLinux[];
extern const size_t kRefusedByLinuxCount;
// The reason if `name` is in the table, else null.
const char* refused_by_linux(std::string_view name);

}  // namespace bpftime::program::testing
