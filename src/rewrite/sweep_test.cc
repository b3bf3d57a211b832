// Plans a probe at every function real programs export; says why the rest cannot be had.
#include <elf.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "rewrite/rewrite.h"

namespace bpftime::rewrite {
namespace {

struct Function {
  uint64_t address, size;
};

// A reader of trusted system files only: section headers, .dynsym and executable PT_LOADs.
class SystemBinary {
 public:
  explicit SystemBinary(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
  }
  bool readable() const { return bytes_.size() > sizeof(Elf64_Ehdr); }

  std::vector<Function> functions() const {
    const auto header = at<Elf64_Ehdr>(0);
    std::vector<Function> out;
    std::set<uint64_t> seen;
    for (int i = 0; i < header.e_shnum; ++i) {
      const auto section = at<Elf64_Shdr>(header.e_shoff + i * sizeof(Elf64_Shdr));
      if (section.sh_type != SHT_DYNSYM) continue;
      for (uint64_t offset = 0; offset < section.sh_size; offset += sizeof(Elf64_Sym)) {
        const auto symbol = at<Elf64_Sym>(section.sh_offset + offset);
        if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) continue;
        if (seen.insert(symbol.st_value).second) out.push_back({symbol.st_value, symbol.st_size});
      }
    }
    return out;
  }

  // Code from `address` on, with what follows the function as padding.
  Bytes code(uint64_t address, uint64_t size) const {
    const auto header = at<Elf64_Ehdr>(0);
    for (int i = 0; i < header.e_phnum; ++i) {
      const auto segment = at<Elf64_Phdr>(header.e_phoff + i * sizeof(Elf64_Phdr));
      if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
      if (address < segment.p_vaddr || address >= segment.p_vaddr + segment.p_filesz) continue;
      const uint64_t left = segment.p_vaddr + segment.p_filesz - address;
      return Bytes(bytes_).subspan(segment.p_offset + (address - segment.p_vaddr), std::min(size, left));
    }
    return {};
  }

 private:
  template <typename T>
  T at(uint64_t offset) const {
    return read_at<T>(Bytes(bytes_), offset).value_or(T{});
  }
  std::vector<uint8_t> bytes_;
};

class Sweep : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Binaries, Sweep,
                         ::testing::Values("/usr/sbin/nginx", "/usr/bin/redis-server",
                                           "/lib/x86_64-linux-gnu/libc.so.6",
                                           "/usr/lib/x86_64-linux-gnu/libssl.so.3",
                                           "/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "/usr/bin/python3.11",
                                           "/usr/lib/jvm/default-java/lib/server/libjvm.so", "/usr/bin/node"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = isalnum(c) ? c : '_';
                           return name;
                         });

// An address for the trampoline where the daemon would map memory, or 0.
uint64_t trampoline_for(const TrampolineRule& rule) {
  constexpr uint64_t kBelow = uint64_t{0x34} << 24, kSize = uint64_t{12} << 20;
  for (const uint64_t distance : {kBelow, uint64_t{0x2c} << 24, uint64_t{0x16} << 24}) {
    const uint64_t start = rule.site - distance + (uint64_t{2} << 20);
    if (const auto at = rule.next(start, start + kSize)) return *at;
  }
  return 0;
}

TEST_P(Sweep, MostFunctionsCanBeProbed) {
  const SystemBinary binary(GetParam());
  if (!binary.readable()) GTEST_SKIP() << GetParam() << " is not installed";
  int all = 0, long_enough = 0, jumps = 0, traps = 0, not_at_all = 0;
  std::map<std::string, int> reasons;
  for (const Function& function : binary.functions()) {
    SiteRequest request;
    request.address = 0x555555554000 + function.address;
    request.function_size = function.size;
    request.code = binary.code(function.address, function.size + 16);
    if (request.code.empty()) continue;
    ++all;
    long_enough += function.size >= 5;
    std::string why;
    auto shape = inspect_site(request);
    if (shape.ok() && shape->punned_jump && (request.trampoline_address = trampoline_for(shape->rule)) != 0) {
      request.method = PatchMethod::kPunnedJump;
    } else {
      why = shape.ok() ? shape->why_no_jump : shape.error().message;
      request.method = PatchMethod::kTrap;
      request.trampoline_address = request.address - (uint64_t{0x34} << 24);
    }
    auto plan = shape.ok() ? plan_probe(request) : Result<SitePlan>(shape.error());
    if (plan.ok()) {
      ASSERT_EQ(plan->method, request.method);
      ASSERT_LE(plan->patched.size(), 24u);
      jumps += function.size >= 5 && plan->method == PatchMethod::kPunnedJump;
      traps += plan->method == PatchMethod::kTrap;
    } else {
      ++not_at_all;
      why = plan.error().message;
    }
    if (!why.empty()) ++reasons[why.substr(0, why.find('+'))];
  }
  ASSERT_GT(long_enough, 100);
  std::printf(
      "%s: %d functions; of %d of 5 bytes and more %d with a jump (%.2f %%); with a trap %d, not at all %d\n",
      GetParam(), all, long_enough, jumps, 100.0 * jumps / long_enough, traps, not_at_all);
  for (const auto& [reason, count] : reasons) std::printf("  %5d × %s\n", count, reason.c_str());
  EXPECT_GE(jumps * 100, long_enough * 97);
  EXPECT_LE(not_at_all * 1000, all * 2);
}

}  // namespace
}  // namespace bpftime::rewrite
