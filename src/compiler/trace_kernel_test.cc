// bpf_trace_printk's formatting against the kernel's own: bpf_snprintf shares it, and
// runs under BPF_PROG_TEST_RUN.
#include <gtest/gtest.h>

#include "compiler/testing_kernel.h"
#include "helpers/trace_record.h"
#include "program/testing/kernel.h"

namespace bpftime::compiler {
namespace {

using namespace testing;

constexpr int32_t kSnprintf = 165;
constexpr uint32_t kTextSize = 256;

// What the kernel makes of it; "refused" when it does not load. `arguments` must be numbers.
std::string kernel_format(const std::string& format, const std::vector<uint64_t>& arguments) {
  std::vector<uint8_t> text(kTextSize);
  memcpy(text.data(), format.c_str(), format.size() + 1);
  const RunResult run = run_in_kernel(
      [&] {
        Sequence code;
        for (size_t i = 0; i < arguments.size(); i++)
          code << load_imm(1, arguments[i]) << store(BPF_DW, 10, -24 + static_cast<int>(i) * 8, 1);
        code << mov_reg(1, 6) << mov(2, kTextSize) << mov_reg(3, 7) << mov_reg(4, 10) << add(4, -24)
             << mov(5, static_cast<int32_t>(arguments.size() * 8));
        if (arguments.empty()) code << mov(4, 0);
        return code << call(kSnprintf) << mov(0, 0) << exit_insn();
      },
      text);
  if (!run.loaded) return "refused";
  return run.refused.empty() ? run.text(0) : run.refused;
}

TEST(TraceFormat, EqualsTheKernels) {
  if (const std::string reason = program::testing::kernel_unusable(); !reason.empty()) GTEST_SKIP() << reason;
  Target target;
  ASSERT_TRUE(target.ok());
  const uint32_t ring = target.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 8192);
  target.use_trace_ring(ring);
  const auto ours = [&](const std::string& format, const std::vector<uint64_t>& arguments) -> std::string {
    Sequence code;
    code << load_imm(1, reinterpret_cast<uint64_t>(format.c_str()))
         << mov(2, static_cast<int32_t>(format.size() + 1));
    for (size_t i = 0; i < 3; i++)
      code << load_imm(static_cast<int>(3 + i), i < arguments.size() ? arguments[i] : 0);
    if (static_cast<int64_t>(target.run(code << call(BPF_FUNC_trace_printk) << exit_insn())) < 0)
      return "refused";
    char buffer[512] = {};
    const int64_t size = maps::ring_consume(target.map(ring), buffer, sizeof(buffer));
    return std::string(buffer + helpers::kTraceTextOffset,
                       static_cast<size_t>(size) - helpers::kTraceTextOffset);
  };
  size_t refused = 0, compared = 0;
  const uint64_t values[] = {0, 42, static_cast<uint64_t>(-42), 0x80000000, 0xdeadbeefcafe};
  for (const char* flags : {"", "0", "-", "+", " 5", "05", "-5", "+05", "012", "+-7", ".3", "#"}) {
    for (const char* kind : {"d", "i",  "u", "x", "X", "ld", "lu", "lx", "lld", "llu",  "llX",
                             "c", "px", "%", "n", "f", "hd", "zu", "",   "lc",  "lllx", "o"}) {
      const std::string format = "<%" + std::string(flags) + kind + "> %%";
      // "%%" after flags counts no argument; the kernel wants as many as it counts.
      const bool literal = std::string(kind) == "%" && *flags == '\0';
      const uint64_t value = values[compared % std::size(values)];
      if (std::string_view(kind).ends_with('c') && (value & 0xff) == 0)
        continue;  // a NUL ends the kernel's text
      const std::vector<uint64_t> arguments =
          literal ? std::vector<uint64_t>{} : std::vector<uint64_t>{value};
      const std::string expected = kernel_format(format, arguments);
      EXPECT_EQ(ours(format, arguments), expected) << format << " of " << value;
      compared++;
      refused += expected == "refused";
    }
  }
  printf("%zu formats compared, %zu of them refused\n", compared, refused);
  EXPECT_GT(compared - refused, 100u);
}

}  // namespace
}  // namespace bpftime::compiler
