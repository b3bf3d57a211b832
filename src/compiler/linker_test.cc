#include "compiler/linker.h"

#include <elf.h>
#include <gtest/gtest.h>

namespace bpftime::compiler {
namespace {

constexpr std::string_view kEntries[] = {"x"};

TEST(LinkImage, RefusesWhatIsNoObject) {
  const std::vector<uint8_t> none, zeroes(4096);
  EXPECT_FALSE(link_image({}, kEntries).ok());
  for (const Bytes object : {Bytes(none), Bytes(zeroes)})
    EXPECT_FALSE(link_image({&object, 1}, kEntries).ok());
}

TEST(LinkImage, RefusesASectionTableOutOfRange) {
  Elf64_Ehdr header{};
  header.e_type = ET_REL;
  header.e_machine = EM_X86_64;
  for (const uint64_t offset : {uint64_t{0}, uint64_t{64}, ~uint64_t{0}, ~uint64_t{0} - 63}) {
    header.e_shoff = offset;
    header.e_shnum = 0xff00 - 1;
    const Bytes object = as_bytes(header);
    EXPECT_FALSE(link_image({&object, 1}, kEntries).ok());
  }
}

}  // namespace
}  // namespace bpftime::compiler
