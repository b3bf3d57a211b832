// Line and function information: what is read of it, and that malformed records are refused as Linux refuses them.
#include "verifier/source_lines.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <functional>

#include "verifier/kernel_opinion.h"
#include "verifier/testing/requests.h"

namespace bpftime::verifier {
namespace {

using testing::Source;

// main: r1 = 0 ll; call f1; exit. f1: r0 = 0; exit.
Request two_functions(const std::vector<Source>& lines = {{0, "a.c", "int main(void)", 3, 0},
                                                          {2, "a.c", "  f1();", 4, 3},
                                                          {4, "b.h", "int f1(void)", 9, 0}}) {
  Request request = testing::request({testing::load_map(1, 0), testing::second_slot(), testing::call_local(1),
                                      testing::exit(), testing::mov64(0, 0), testing::exit()},
                                     BPF_PROG_TYPE_SOCKET_FILTER);
  request.program.insns[0].src_reg = 0;  // a plain constant
  request.program.insns[0].imm = 0;
  testing::add_lines(request, lines, {0, 4});
  return request;
}

TEST(SourceLines, FindsTheLineOfEveryInstruction) {
  const Request request = two_functions();
  const auto lines = SourceLines::read(request);
  ASSERT_TRUE(lines) << lines.error().message;
  EXPECT_EQ(lines->find(0)->line, 3u);
  EXPECT_EQ(lines->find(1)->line, 3u);
  EXPECT_EQ(lines->find(3)->line, 4u);
  EXPECT_EQ(lines->find(3)->column, 3u);
  EXPECT_EQ(lines->find(3)->text, "  f1();");
  EXPECT_EQ(lines->find(5)->file, "b.h");
  EXPECT_EQ(lines->function_of(3), "test");
  EXPECT_EQ(lines->function_of(4), "f1");
}

TEST(SourceLines, WhatIsNotKnownIsEmpty) {
  Request request = two_functions();
  const auto lines = SourceLines::read(request);
  ASSERT_TRUE(lines);
  request.func_info.clear();
  request.line_info.clear();
  const auto none = SourceLines::read(request);
  ASSERT_TRUE(none);
  EXPECT_TRUE(none->empty());
  EXPECT_EQ(none->find(0), nullptr);
  EXPECT_EQ(none->function_of(0), "");
}

TEST(SourceLines, TextEndsAtTheLine) {
  const Request request =
      two_functions({{0, "a.c", "int main(void)\r\nint more;", 3, 0}, {4, "b.h", "", 9, 0}});
  const auto lines = SourceLines::read(request);
  ASSERT_TRUE(lines);
  EXPECT_EQ(lines->find(0)->text, "int main(void)");
  EXPECT_EQ(lines->find(4)->text, "");
}

void set32(std::vector<uint8_t>& table, size_t offset, uint32_t value) {
  std::memcpy(table.data() + offset, &value, sizeof(value));
}

struct Malformed {
  const char* name;
  std::function<void(Request&)> change;
  int error;
  const char* message;
};

const Malformed kMalformed[] = {
    {"first function not at 0", [](Request& r) { set32(r.func_info, 0, 1); }, EINVAL,
     "nonzero insn_off 1 for the first func info record"},
    {"functions not ascending", [](Request& r) { set32(r.func_info, 8, 0); }, EINVAL,
     "same or smaller insn offset (0) than previous func info record (0)"},
    {"function of no such type", [](Request& r) { set32(r.func_info, 12, 77); }, EINVAL,
     "invalid type id 77 in func info"},
    {"function of another kind of type", [](Request& r) { set32(r.func_info, 12, 1); }, EINVAL,
     "invalid type id 1 in func info"},
    {"too few functions", [](Request& r) { r.func_info.resize(8); }, EINVAL,
     "number of funcs in func_info doesn't match number of subprogs"},
    {"function elsewhere", [](Request& r) { set32(r.func_info, 8, 3); }, EINVAL,
     "func_info BTF section doesn't match subprog layout in BPF program"},
    {"function record too short", [](Request& r) { r.func_info_record_size = 4; }, EINVAL,
     "invalid func info rec size 4"},
    {"lines not ascending", [](Request& r) { set32(r.line_info, 16, 0); }, EINVAL,
     "Invalid line_info[1].insn_off:0 (prev_offset:0 prog->len:6)"},
    {"line beyond the program", [](Request& r) { set32(r.line_info, 32, 6); }, EINVAL,
     "Invalid line_info[2].insn_off:6 (prev_offset:2 prog->len:6)"},
    {"line within a two-slot load", [](Request& r) { set32(r.line_info, 16, 1); }, EINVAL,
     "Invalid insn code at line_info[1].insn_off"},
    {"line text out of range", [](Request& r) { set32(r.line_info, 8, 1u << 20); }, EINVAL,
     "Invalid line_info[0].line_off or .file_name_off"},
    {"file name out of range", [](Request& r) { set32(r.line_info, 4, 1u << 20); }, EINVAL,
     "Invalid line_info[0].line_off or .file_name_off"},
    {"function without a line", [](Request& r) { set32(r.line_info, 32, 5); }, EINVAL,
     "missing bpf_line_info for func#1"},
    {"last function without a line", [](Request& r) { r.line_info.resize(32); }, EINVAL,
     "missing bpf_line_info for 1 funcs starting from func#1"},
};

TEST(SourceLines, MalformedRecordsAreRefused) {
  for (const Malformed& malformed : kMalformed) {
    Request request = two_functions();
    malformed.change(request);
    const auto lines = SourceLines::read(request);
    ASSERT_FALSE(lines) << malformed.name;
    EXPECT_EQ(lines.error().code, malformed.error) << malformed.name;
    EXPECT_EQ(lines.error().message, malformed.message);
    const Verdict verdict = verify(request);
    EXPECT_EQ(verdict.error, malformed.error) << malformed.name;
    ASSERT_FALSE(verdict.diagnoses.empty()) << malformed.name;
    EXPECT_EQ(verdict.diagnoses[0].rule, Rule::kBTF001) << malformed.name;
  }
}

TEST(SourceLines, WithTheRuleSwitchedOffMalformedRecordsCountAsAbsent) {
  Request request = two_functions();
  request.line_info.resize(32);
  request.options.disabled_rules.set(static_cast<size_t>(Rule::kBTF001));
  EXPECT_EQ(verify(request).error, 0);
}

TEST(SourceLines, LongerRecordsMustEndInZeroes) {
  Request request = two_functions();
  std::vector<uint8_t> longer;
  for (size_t at = 0; at < request.line_info.size(); at += 16) {
    longer.insert(longer.end(), request.line_info.begin() + at, request.line_info.begin() + at + 16);
    longer.insert(longer.end(), 4, 0);
  }
  request.line_info = longer;
  request.line_info_record_size = 20;
  EXPECT_TRUE(SourceLines::read(request));
  request.line_info[19] = 1;
  const auto lines = SourceLines::read(request);
  ASSERT_FALSE(lines);
  EXPECT_EQ(lines.error().code, E2BIG);
}

TEST(SourceLines, LinuxSaysTheSame) {
  if (!kernel_verifier_usable()) GTEST_SKIP() << "bpf(2) is not permitted here";
  Request good = two_functions();
  good.log_level = 1;
  good.log_size_max = 1 << 16;
  auto accepted = ask_kernel(good);
  ASSERT_TRUE(accepted) << accepted.error().message;
  ASSERT_EQ(accepted->error, 0) << accepted->log;
  for (const Malformed& malformed : kMalformed) {
    Request request = good;
    malformed.change(request);
    const auto opinion = ask_kernel(request);
    ASSERT_TRUE(opinion) << malformed.name;
    EXPECT_EQ(opinion->error, malformed.error) << malformed.name << ": " << opinion->log;
    // The record that is too short is given a count that does not fit, too, when it is cut up for the kernel.
    EXPECT_TRUE(opinion->log.find(malformed.message) != std::string::npos)
        << malformed.name << ": " << opinion->log;
  }
}

TEST(SourceLines, BrokenBtfIsAnError) {
  Request request = two_functions();
  for (size_t size = 0; size < request.btf.size(); ++size) {
    Request cut = request;
    cut.btf.resize(size);
    EXPECT_FALSE(SourceLines::read(cut)) << size;
  }
}

}  // namespace
}  // namespace bpftime::verifier
