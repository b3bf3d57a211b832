#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "program/program.h"
#include "program/testing/conformance.h"
#include "program/testing/kernel.h"

namespace bpftime::program {
namespace {

std::string text_of(const char* assembly) {
  Program program;
  program.insns = *testing::assemble(assembly);
  return disassemble(program);
}

TEST(Disassembler, WritesBpftoolsNotation) {
  EXPECT_EQ(text_of("mov %r0, -1\nadd32 %r1, %r2\narsh %r3, 7\nneg32 %r4\nbe16 %r5\nbswap32 %r6"),
            "   0: (b7) r0 = -1\n"
            "   1: (0c) w1 += w2\n"
            "   2: (c7) r3 s>>= 7\n"
            "   3: (84) w4 = -w4\n"
            "   4: (dc) r5 = be16 r5\n"
            "   5: (d7) r6 = bswap32 r6\n");
  EXPECT_EQ(text_of("sdiv %r0, 2\nsmod32 %r1, %r2\nmovsx864 %r3, %r4\nmovsx1632 %r3, %r4"),
            "   0: (37) r0 s/= 2\n"
            "   1: (9c) w1 s%= w2\n"
            "   2: (bf) r3 = (s8)r4\n"
            "   3: (bc) w3 = (s16)w4\n");
  EXPECT_EQ(text_of("ldxw %r0, [%r1+4]\nldxsb %r0, [%r1]\nstxdw [%r10-8], %r1\nstb [%r10-1], -2"),
            "   0: (61) r0 = *(u32 *)(r1 +4)\n"
            "   1: (91) r0 = *(s8 *)(r1 +0)\n"
            "   2: (7b) *(u64 *)(r10 -8) = r1\n"
            "   3: (72) *(u8 *)(r10 -1) = -2\n");
  EXPECT_EQ(text_of("lock add [%r10-8], %r1\nlock fetch or32 [%r10-8], %r1\nlock xchg [%r10-8], %r1\n"
                    "lock cmpxchg32 [%r10-8], %r1"),
            "   0: (db) lock *(u64 *)(r10 -8) += r1\n"
            "   1: (c3) r1 = atomic_fetch_or((u32 *)(r10 -8), r1)\n"
            "   2: (db) r1 = atomic64_xchg((u64 *)(r10 -8), r1)\n"
            "   3: (c3) r0 = atomic_cmpxchg((u32 *)(r10 -8), r0, r1)\n");
  EXPECT_EQ(text_of("jeq %r1, -1, +2\njslt32 %r1, %r2, -1\nja +1\nja32 +1\ncall 5\ncall local f\nf:\nexit"),
            "   0: (15) if r1 == 0xffffffff goto pc+2\n"
            "   1: (ce) if w1 s< w2 goto pc-1\n"
            "   2: (05) goto pc+1\n"
            "   3: (06) gotol pc+1\n"
            "   4: (85) call bpf_ktime_get_ns#5\n"
            "   5: (85) call pc+0\n"
            "   6: (95) exit\n");
}

TEST(Disassembler, NamesReferencesByIndex) {
  Program program;
  program.insns = {{BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 3},    {0, 0, 0, 0, 0},
                   {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, 3}, {0, 0, 0, 0, 16},
                   {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_FUNC, 0, 1},      {0, 0, 0, 0, 0},
                   {BPF_LD | BPF_IMM | BPF_DW, 1, 0, 0, 0x33221100},           {0, 0, 0, 0, 0x77665544}};
  EXPECT_EQ(disassemble(program),
            "   0: (18) r1 = map[idx:3]\n"
            "   2: (18) r1 = map[idx:3][0]+16\n"
            "   4: (18) r1 = subprog[+1]\n"
            "   6: (18) r1 = 0x7766554433221100\n");
}

// Any bytes, valid or not, have some text: the CLI shows what a client sent.
TEST(Disassembler, SurvivesEveryOpcode) {
  for (int code = 0; code < 256; ++code) {
    Program program;
    program.insns = {{static_cast<uint8_t>(code), 15, 15, -32768, -1}};
    EXPECT_FALSE(disassemble(program).empty()) << code;
  }
}

std::string output_of(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  std::array<char, 4096> buffer;
  for (size_t count; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    output.append(buffer.data(), count);
  pclose(pipe);
  return output;
}

uint32_t program_id(int fd) {
  bpf_prog_info info;
  std::memset(&info, 0, sizeof(info));
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  attr.info.bpf_fd = static_cast<uint32_t>(fd);
  attr.info.info_len = sizeof(info);
  attr.info.info = reinterpret_cast<uint64_t>(&info);
  return syscall(__NR_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) == 0 ? info.id : 0;
}

// No division (the kernel rewrites it) and no helper (it prints addresses): what is left, xlated shows as
// it was loaded.
TEST(Disassembler, AgreesWithBpftool) {
  if (const std::string reason = testing::kernel_unusable(); !reason.empty()) GTEST_SKIP() << reason;
  if (output_of("bpftool version 2>/dev/null").empty()) GTEST_SKIP() << "no bpftool";
  const char* const kPrograms[] = {
      "mov %r0, 1\nadd %r0, -5\nmul32 %r0, 3\nxor %r0, 0x7fffffff\nlsh %r0, 3\narsh32 %r0, 2\nneg %r0\nbe32 "
      "%r0\nle16 %r0\nexit",
      ("mov %r2, 7\nstxdw [%r10-8], %r2\nstw [%r10-16], 5\nlock add [%r10-8], %r2\nlock fetch xor [%r10-8], "
       "%r2\n"
       "lock xchg [%r10-8], %r2\nmov %r0, 0\nlock cmpxchg [%r10-8], %r2\nldxb %r0, [%r10-8]\nldxw %r3, "
       "[%r10-16]\nexit"),
      "ldxw %r0, [%r1]\njsgt %r0, 5, +1\nja +1\nmov32 %r0, 2\njset32 %r0, 0x10, +1\nadd %r0, 1\nlddw %r3, "
      "0x1122334455667788\nexit",
  };
  for (const char* assembly : kPrograms) {
    Program program;
    program.insns = *testing::assemble(assembly);
    program.type = BPF_PROG_TYPE_RAW_TRACEPOINT;
    const testing::KernelAnswer loaded = testing::kernel_load(program);
    ASSERT_TRUE(loaded.fd.valid()) << loaded.log;
    const std::string theirs =
        output_of("bpftool prog dump xlated id " + std::to_string(program_id(loaded.fd.get())) + " 2>&1");
    EXPECT_EQ(disassemble(program), theirs);
  }
}

}  // namespace
}  // namespace bpftime::program
