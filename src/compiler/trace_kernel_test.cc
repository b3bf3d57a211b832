// bpf_trace_printk's formatting against the kernel's own: bpf_snprintf shares it, and runs under
// BPF_PROG_TEST_RUN.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compiler/testing_target.h"
#include "helpers/trace_record.h"
#include "program/testing/kernel.h"

namespace bpftime::compiler {
namespace {

using namespace testing;

constexpr int32_t kSnprintf = 165;
constexpr uint32_t kTextSize = 256;

long bpf(int command, bpf_attr& attr) { return syscall(SYS_bpf, command, &attr, sizeof(attr)); }

// A one-element array; `frozen`: its contents are constants to the verifier.
Fd make_array(uint32_t value_size, const void* value, bool frozen) {
  bpf_attr create{};
  create.map_type = BPF_MAP_TYPE_ARRAY;
  create.key_size = 4;
  create.value_size = value_size;
  create.max_entries = 1;
  create.map_flags = frozen ? BPF_F_RDONLY_PROG : 0;
  Fd map(static_cast<int>(bpf(BPF_MAP_CREATE, create)));
  const uint32_t key = 0;
  bpf_attr update{};
  update.map_fd = static_cast<uint32_t>(map.get());
  update.key = reinterpret_cast<uint64_t>(&key);
  update.value = reinterpret_cast<uint64_t>(value);
  bpf(BPF_MAP_UPDATE_ELEM, update);
  bpf_attr freeze{};
  freeze.map_fd = static_cast<uint32_t>(map.get());
  if (frozen) bpf(BPF_MAP_FREEZE, freeze);
  return map;
}

std::vector<program::Insn> load_value(int dst, const Fd& map, uint32_t offset = 0) {
  return {raw(BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_VALUE, 0, map.get()),
          raw(0, 0, 0, 0, static_cast<int32_t>(offset))};
}

// What the kernel makes of it; "refused" when it does not load. `arguments` must be numbers.
std::string kernel_format(const std::string& format, const std::vector<uint64_t>& arguments) {
  std::vector<char> text(kTextSize);
  memcpy(text.data(), format.c_str(), format.size() + 1);
  const Fd formats = make_array(kTextSize, text.data(), true);
  std::vector<char> zero(kTextSize);
  const Fd out = make_array(kTextSize, zero.data(), false);
  program::Program program;
  program.name = "format";
  Sequence code;
  for (size_t i = 0; i < arguments.size(); i++) {
    code << load_imm(1, arguments[i]) << store(BPF_DW, 10, -24 + static_cast<int>(i) * 8, 1);
  }
  code << load_value(1, out) << mov(2, kTextSize) << load_value(3, formats) << mov_reg(4, 10) << add(4, -24)
       << mov(5, static_cast<int32_t>(arguments.size() * 8));
  if (arguments.empty()) code << mov(4, 0);
  code << call(kSnprintf) << mov(0, 0) << exit_insn();
  program.insns = code;
  const auto answer = program::testing::kernel_load(program);
  if (answer.error != 0) return "refused";
  uint8_t packet[64] = {};
  bpf_attr run{};
  run.test.prog_fd = static_cast<uint32_t>(answer.fd.get());
  run.test.data_in = reinterpret_cast<uint64_t>(packet);
  run.test.data_size_in = sizeof(packet);
  if (bpf(BPF_PROG_TEST_RUN, run) != 0) return "not run: " + std::string(strerror(errno));
  const uint32_t key = 0;
  bpf_attr lookup{};
  lookup.map_fd = static_cast<uint32_t>(out.get());
  lookup.key = reinterpret_cast<uint64_t>(&key);
  lookup.value = reinterpret_cast<uint64_t>(text.data());
  if (bpf(BPF_MAP_LOOKUP_ELEM, lookup) != 0) return "not read";
  return text.data();
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
