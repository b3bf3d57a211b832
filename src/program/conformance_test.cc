#include "program/testing/conformance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "program/interpreter.h"

namespace bpftime::program {
namespace {

using testing::Vector;

// What became of a vector: empty if r0 was as expected, else who refused it or how it differed.
std::string run(const Vector& vector) {
  if (!vector.parse_error.empty()) return "parser: " + vector.parse_error;
  const auto valid = validate(vector.program);
  if (!valid) {
    if (testing::refused_by_linux(vector.name) == nullptr) return "validator: " + valid.error().message;
  }
  std::vector<uint8_t> memory = vector.memory;
  const auto begin = reinterpret_cast<uint64_t>(memory.data());
  InterpreterEnvironment environment;
  environment.helper = testing::conformance_helper;
  environment.may_access = [&](uint64_t address, uint32_t size, bool) {
    return address >= begin && size <= memory.size() && address - begin <= memory.size() - size;
  };
  const auto r0 = interpret(vector.program, memory.empty() ? 0 : begin, memory.size(), environment);
  if (!r0) return "interpreter: " + r0.error().message;
  if (!vector.expected) return {};
  if (*r0 == *vector.expected) return {};
  char text[64];
  snprintf(text, sizeof(text), "r0 = 0x%llx, not 0x%llx", static_cast<unsigned long long>(*r0),
           static_cast<unsigned long long>(*vector.expected));
  return text;
}

void expect_all_pass(const std::string& directory) {
  const auto vectors = testing::load_vectors(directory);
  ASSERT_TRUE(vectors.ok()) << vectors.error().message;
  for (const Vector& vector : *vectors) {
    EXPECT_EQ(run(vector), "") << vector.name;
    EXPECT_TRUE(vector.expected.has_value()) << vector.name;
    if (const char* reason = testing::refused_by_linux(vector.name)) {
      printf("exception: %s: %s\n", vector.name.c_str(), reason);
      EXPECT_FALSE(validate(vector.program).ok()) << vector.name << " is no exception";
    }
  }
  printf("%zu vectors of %s\n", vectors->size(), directory.c_str());
}

// A negative is refused by the parser or the validator. One exception: a vector whose only fault is a
// wrong expected value.
void expect_all_refused(const std::string& directory, bool check_reason) {
  const auto vectors = testing::load_vectors(directory);
  ASSERT_TRUE(vectors.ok()) << vectors.error().message;
  for (const Vector& vector : *vectors) {
    const std::string why = run(vector);
    if (vector.name == "incorrect_return_value_high_bits") {
      EXPECT_EQ(why, "r0 = 0x8877665544332211, not 0x8977665544332211");
      continue;
    }
    EXPECT_TRUE(why.starts_with("parser: ") || why.starts_with("validator: ")) << vector.name << ": " << why;
    // Our own vectors name the reason; the corpus' words are another implementation's.
    if (check_reason) {
      EXPECT_THAT(why, ::testing::HasSubstr(vector.expected_error)) << vector.name;
    }
  }
  printf("%zu negatives of %s\n", vectors->size(), directory.c_str());
}

TEST(Conformance, OwnVectorsPass) {
  const std::string directory = testing::own_vectors_directory();
  if (directory.empty()) GTEST_SKIP() << "BPFTIME_SOURCE_DIR does not name the source tree";
  expect_all_pass(directory + "/tests");
}

TEST(Conformance, OwnNegativesAreRefused) {
  const std::string directory = testing::own_vectors_directory();
  if (directory.empty()) GTEST_SKIP() << "BPFTIME_SOURCE_DIR does not name the source tree";
  expect_all_refused(directory + "/negative", /*check_reason=*/true);
}

TEST(Conformance, CorpusPasses) {
  const std::string directory = testing::corpus_directory();
  if (directory.empty()) GTEST_SKIP() << "no bpf_conformance corpus (BPFTIME_CORPORA)";
  expect_all_pass(directory + "/tests");
}

TEST(Conformance, CorpusNegativesAreRefused) {
  const std::string directory = testing::corpus_directory();
  if (directory.empty()) GTEST_SKIP() << "no bpf_conformance corpus (BPFTIME_CORPORA)";
  expect_all_refused(directory + "/negative", /*check_reason=*/false);
}

}  // namespace
}  // namespace bpftime::program
