#include "verifier/kernel_opinion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "program/testing/conformance.h"
#include "verifier/shadow_maps.h"

namespace bpftime::verifier {
namespace {

using program::Insn;
using program::testing::assemble;
using ::testing::HasSubstr;

constexpr uint32_t kRdonlyProg = BPF_F_RDONLY_PROG;

class KernelOpinionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kernel_verifier_usable())
      GTEST_SKIP() << "bpf(2) loads nothing here: not root, or the kernel has none";
  }
};

Request make_request(const char* assembly) {
  Request request;
  request.program.name = "under_test";
  request.program.type = BPF_PROG_TYPE_KPROBE;
  request.program.insns = *assemble(assembly);
  request.license = "Dual MIT/GPL";
  return request;
}

MapConstraint make_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags = 0) {
  MapConstraint map;
  map.name = "map";
  map.spec = {type, key, value, entries, flags, 1};
  return map;
}

// Puts `r<reg> = map[index]` (or its first value) in front of the rest.
void prepend_map(Request& request, uint8_t reg, uint32_t index, bool value) {
  const uint8_t kind = value ? BPF_PSEUDO_MAP_VALUE : BPF_PSEUDO_MAP_FD;
  const std::vector<Insn> load = {{BPF_LD | BPF_IMM | BPF_DW, reg, kind, 0, static_cast<int32_t>(index)}, {}};
  request.program.insns.insert(request.program.insns.begin(), load.begin(), load.end());
}

size_t open_descriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

TEST_F(KernelOpinionTest, AcceptsAGoodProgram) {
  const auto verdict = ask_kernel(make_request("mov %r0, 0\nexit"));
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, 0);
  EXPECT_EQ(verdict->verified_insns, 2u);
  EXPECT_EQ(verdict->log, "");
}

TEST_F(KernelOpinionTest, RefusesABadOneInTheKernelsWords) {
  Request request = make_request("ldxdw %r0, [%r2]\nexit");
  request.log_level = 1;
  request.log_size_max = 1 << 20;
  const auto verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, EACCES);
  EXPECT_THAT(verdict->log, HasSubstr("R2 !read_ok"));
  EXPECT_THAT(verdict->log, HasSubstr("processed 1 insns"));
  EXPECT_EQ(verdict->verified_insns, 0u);
}

TEST_F(KernelOpinionTest, SaysWhenTheLogDoesNotFit) {
  Request request = make_request("mov %r0, 0\nexit");
  request.log_level = 2;
  request.log_size_max = 1 << 20;
  const auto whole = ask_kernel(request);
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(whole->error, 0);
  EXPECT_GT(whole->log.size(), 40u);
  request.log_size_max = 40;
  const auto cut = ask_kernel(request);
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut->error, ENOSPC);
  EXPECT_LT(cut->log.size(), 40u);
  if (whole->log_true_size != 0) {  // Linux 6.4 and newer
    EXPECT_EQ(whole->log_true_size, whole->log.size() + 1);
    EXPECT_EQ(cut->log_true_size, whole->log_true_size);
  }
}

// Needs more than the first buffer: asked again with a bigger one.
TEST_F(KernelOpinionTest, GrowsTheLogBuffer) {
  std::string assembly = "mov %r0, 0\n";
  for (int i = 0; i < 4000; ++i) assembly += "add %r0, 1\n";
  Request request = make_request((assembly + "exit").c_str());
  request.log_level = 2;
  request.log_size_max = UINT32_MAX;
  const auto verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->error, 0);
  EXPECT_GT(verdict->log.size(), 64u << 10);
}

// `if (constant) poisoned_call()`: what CO-RE leaves behind for fields and kernels that are not there.
Request poisoned_branch() {
  Request request = make_request(
      "ldxw %r1, [%r1]\n"
      "jeq %r1, 0, +1\n"
      "call 195896080\n"
      "mov %r0, 0\n"
      "exit");
  prepend_map(request, 1, 0, true);
  request.maps = {make_map(BPF_MAP_TYPE_ARRAY, 4, 64, 1, kRdonlyProg)};
  request.maps[0].frozen = true;
  request.maps[0].contents.assign(64, 0);
  request.log_level = 1;
  request.log_size_max = 1 << 16;
  return request;
}

TEST_F(KernelOpinionTest, AcceptsAPoisonedCallBehindAFalseConstant) {
  const auto verdict = ask_kernel(poisoned_branch());
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, 0) << verdict->log;
}

TEST_F(KernelOpinionTest, RefusesAPoisonedCallThatMayRun) {
  Request other_constant = poisoned_branch();
  other_constant.maps[0].contents[0] = 1;
  Request not_frozen = poisoned_branch();
  not_frozen.maps[0].frozen = false;
  Request unknown_contents = poisoned_branch();
  unknown_contents.maps[0].contents.clear();
  for (const Request& request : {other_constant, not_frozen, unknown_contents}) {
    const auto verdict = ask_kernel(request);
    ASSERT_TRUE(verdict.ok()) << verdict.error().message;
    EXPECT_EQ(verdict->error, EINVAL);
    EXPECT_THAT(verdict->log, HasSubstr("invalid func unknown#195896080"));
  }
}

// Lookup with a key on the stack, then a read from the value at `offset`.
Request lookup(uint32_t type, uint32_t value_size, int offset) {
  Request request = make_request(
      ("mov %r2, %r10\nadd %r2, -4\nstw [%r10-4], 0\ncall 1\njne %r0, 0, +1\nexit\nldxb %r0, [%r0+" +
       std::to_string(offset) + "]\nmov %r0, 0\nexit")
          .c_str());
  prepend_map(request, 1, 0, false);
  request.maps = {make_map(type, 4, value_size, 1)};
  request.log_level = 1;
  request.log_size_max = 1 << 16;
  return request;
}

TEST_F(KernelOpinionTest, KnowsTheMapsGeometry) {
  for (const uint32_t type :
       {BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_LRU_HASH}) {
    const auto inside = ask_kernel(lookup(type, 16, 15));
    ASSERT_TRUE(inside.ok()) << inside.error().message;
    EXPECT_EQ(inside->error, 0) << inside->log;
    const auto outside = ask_kernel(lookup(type, 16, 16));
    ASSERT_TRUE(outside.ok());
    EXPECT_EQ(outside->error, EACCES);
    EXPECT_THAT(outside->log, HasSubstr("invalid access to map value"));
  }
}

TEST_F(KernelOpinionTest, MakesNoHugeShadows) {
  Request request = lookup(BPF_MAP_TYPE_HASH, 4096, 0);
  request.maps[0].spec.max_entries = 100'000'000;  // 400 GB if made as asked
  auto verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, 0);
  request = lookup(BPF_MAP_TYPE_ARRAY, 4096, 0);
  request.maps[0].spec.max_entries = 100'000'000;
  verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, 0);
}

TEST(ShadowSpec, KeepsWhatDecidesVerdicts) {
  const auto array_of = [](uint32_t entries) {
    return shadow_spec({BPF_MAP_TYPE_ARRAY, 4, 8, entries, 0, 1}).max_entries;
  };
  EXPECT_EQ(array_of(1), 1u);
  EXPECT_EQ(array_of(2), 2u);
  EXPECT_EQ(array_of(100'000), 100'000u);
  EXPECT_EQ(array_of(UINT32_MAX), (16u << 20) / 8);
  // However large a value is, several entries never become one: one would allow direct access
  // and constant folding.
  EXPECT_EQ(shadow_spec({BPF_MAP_TYPE_ARRAY, 4, 1u << 30, 1000, 0, 1}).max_entries, 2u);
  EXPECT_EQ(shadow_spec({BPF_MAP_TYPE_ARRAY, 4, UINT32_MAX, 1000, 0, 1}).max_entries, 2u);
  EXPECT_EQ(shadow_spec({BPF_MAP_TYPE_HASH, 4, 8, 1, BPF_F_NO_PREALLOC, 1}).flags,
            uint32_t{BPF_F_NO_PREALLOC});
  EXPECT_EQ(shadow_spec({BPF_MAP_TYPE_HASH, 4, 8, 1, BPF_F_RDONLY, 1}).flags, 0u);
  EXPECT_EQ(shadow_spec({BPF_MAP_TYPE_ARRAY, 4, 8, 1, kRdonlyProg, 1}).flags, kRdonlyProg);
}

TEST_F(KernelOpinionTest, RefusesMapIndexesOutOfRange) {
  for (const uint32_t index : {1u, UINT32_MAX}) {
    Request request = make_request("mov %r0, 0\nexit");
    prepend_map(request, 1, index, false);
    request.maps = {make_map(BPF_MAP_TYPE_ARRAY, 4, 8, 1)};
    const auto verdict = ask_kernel(request);
    ASSERT_FALSE(verdict.ok());
    EXPECT_EQ(verdict.error().code, EINVAL);
  }
}

TEST_F(KernelOpinionTest, NamesTheMapThatHasNoShadow) {
  Request request = make_request("mov %r0, 0\nexit");
  prepend_map(request, 1, 0, false);
  request.maps = {make_map(BPF_MAP_TYPE_ARRAY, 3, 8, 1)};  // array keys have four bytes
  const auto verdict = ask_kernel(request);
  ASSERT_FALSE(verdict.ok());
  EXPECT_EQ(verdict.error().code, EINVAL);
  EXPECT_THAT(verdict.error().message, HasSubstr("map map"));
}

TEST_F(KernelOpinionTest, PassesFlagsAndAttachTypes) {
  // Sleepable is refused for what cannot sleep, and allowed for uprobes.
  Request request = make_request("mov %r0, 0\nexit");
  request.flags = BPF_F_SLEEPABLE;
  auto verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->error, 0);
  request.program.type = BPF_PROG_TYPE_SOCKET_FILTER;
  verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->error, EINVAL);
  request.flags = 0;
  request.expected_attach_type = 4711;
  request.program.type = BPF_PROG_TYPE_CGROUP_SKB;
  verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->error, EINVAL);
}

TEST_F(KernelOpinionTest, ChecksTheLicense) {
  Request request =
      make_request("mov %r1, %r10\nadd %r1, -8\nmov %r2, 8\nmov %r3, 0\ncall 113\nmov %r0, 0\nexit");
  auto verdict = ask_kernel(request);  // probe_read_kernel is for GPL programs
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->error, 0);
  request.license = "proprietary";
  verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->error, EINVAL);
}

TEST_F(KernelOpinionTest, LeavesNoDescriptorOpen) {
  const size_t before = open_descriptors();
  Request request = poisoned_branch();
  ASSERT_TRUE(ask_kernel(request).ok());
  request.maps[0].contents[0] = 1;
  ASSERT_TRUE(ask_kernel(request).ok());
  request.maps[0].spec.key_size = 3;
  ASSERT_FALSE(ask_kernel(request).ok());
  EXPECT_EQ(open_descriptors(), before);
}

// A program's BTF by hand: 1 int, 2 int (void), 3 function `entry`; strings with a file name and
// a source line.
struct ProgramBtf {
  std::vector<uint8_t> blob;
  uint32_t file_off = 0, line_off = 0;
};

ProgramBtf make_btf() {
  std::string strings = std::string("\0int\0entry\0", 11);
  ProgramBtf btf;
  btf.file_off = static_cast<uint32_t>(strings.size());
  strings += std::string("tool.bpf.c") + '\0';
  btf.line_off = static_cast<uint32_t>(strings.size());
  strings += std::string("return 0; /* source */") + '\0';
  const uint32_t types[] = {1, 1u << 24,  4, 1u << 24 | 32,  // int, signed, 32 bits
                            0, 13u << 24, 1,                 // int (void)
                            5, 12u << 24, 2};                // static function
  const uint32_t header[] = {
      0x0001eb9f, 24, 0, sizeof(types), sizeof(types), static_cast<uint32_t>(strings.size())};
  const auto append = [&](const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    btf.blob.insert(btf.blob.end(), bytes, bytes + size);
  };
  append(header, sizeof(header));
  append(types, sizeof(types));
  append(strings.data(), strings.size());
  return btf;
}

std::vector<uint8_t> words(std::initializer_list<uint32_t> values) {
  std::vector<uint8_t> bytes(values.size() * 4);
  std::memcpy(bytes.data(), values.begin(), bytes.size());
  return bytes;
}

TEST_F(KernelOpinionTest, ShowsSourceLinesFromBtf) {
  const ProgramBtf btf = make_btf();
  Request request = make_request("mov %r0, 0\nexit");
  request.btf = btf.blob;
  request.func_info = words({0, 3});
  request.func_info_record_size = 8;
  request.line_info = words({0, btf.file_off, btf.line_off, 7 << 10});
  request.line_info_record_size = 16;
  request.log_level = 2;
  request.log_size_max = 1 << 16;
  auto verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, 0) << verdict->log;
  EXPECT_THAT(verdict->log, HasSubstr("return 0; /* source */"));
  request.func_info = words({0, 1});  // an integer is no function
  verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->error, EINVAL);
  EXPECT_THAT(verdict->log, HasSubstr("invalid type id"));
}

TEST_F(KernelOpinionTest, GivesMapsTheirBtfOrDoesWithout) {
  Request request = lookup(BPF_MAP_TYPE_ARRAY, 4, 0);
  request.maps[0].btf = make_btf().blob;
  request.maps[0].btf_key_type_id = 1;
  request.maps[0].btf_value_type_id = 1;
  auto verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, 0);
  request.maps[0].spec.value_size = 8;  // not what the BTF says
  verdict = ask_kernel(request);
  EXPECT_FALSE(verdict.ok());
  // Perf event arrays take no BTF: ENOTSUPP, then without.
  request = make_request("mov %r0, 0\nexit");
  prepend_map(request, 1, 0, false);
  request.maps = {make_map(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2)};
  request.maps[0].btf = make_btf().blob;
  request.maps[0].btf_key_type_id = request.maps[0].btf_value_type_id = 1;
  verdict = ask_kernel(request);
  ASSERT_TRUE(verdict.ok()) << verdict.error().message;
  EXPECT_EQ(verdict->error, 0);
}

void verify_as_nobody() {
  if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(2);
  const auto verdict = ask_kernel(make_request("mov %r0, 0\nexit"));
  const bool right =
      !verdict.ok() && verdict.error().code == EPERM &&
      verdict.error().message ==
          "program under_test: the kernel's verifier cannot be asked: bpf(2) is not permitted here";
  _exit(right ? 0 : verdict.ok() ? 3 : 1);
}

// In a process of its own: the answer of kernel_verifier_usable() is remembered per process.
TEST(VerifierDeathTest, SaysWhenNobodyCanBeAsked) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      verify_as_nobody(),
      [](int status) {
        // 3: unprivileged users may load programs here (kernel.unprivileged_bpf_disabled=0)
        return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3);
      },
      "");
}

}  // namespace
}  // namespace bpftime::verifier
