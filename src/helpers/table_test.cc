#include "helpers/table.h"

#include <gtest/gtest.h>

#include "helpers/runtime_images.h"

namespace bpftime::helpers {
namespace {

TEST(Table, FindsEveryRowByItsId) {
  for (const Helper& helper : all()) {
    EXPECT_EQ(find(helper.id), &helper) << helper.name;
    EXPECT_TRUE(helper.name.starts_with("bpf_"));
    EXPECT_TRUE(helper.symbol.starts_with("bpftime_helper_"));
  }
}

TEST(Table, DoesNotFindWhatIsNotThere) {
  for (uint32_t id : {0u, 13u /* clone_redirect */, 211u, 195896080u /* CO-RE poison */, 2001000000u, ~0u}) {
    EXPECT_EQ(find(id), nullptr) << id;
  }
}

TEST(RuntimeImages, AreBitcodeAndElf) {
  const auto bitcode = runtime_bitcode();
  ASSERT_GT(bitcode.size(), 1000u);
  EXPECT_EQ(bitcode[0], 'B');
  EXPECT_EQ(bitcode[1], 'C');
  EXPECT_EQ(bitcode.size() % 4, 0u);
  const auto object = runtime_object();
  ASSERT_GT(object.size(), 1000u);
  EXPECT_EQ(object[0], 0x7f);
  EXPECT_EQ(object[1], 'E');
}

}  // namespace
}  // namespace bpftime::helpers
