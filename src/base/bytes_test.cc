#include "base/bytes.h"

#include <gtest/gtest.h>

#include <vector>

namespace bpftime {
namespace {

TEST(ByteReader, ReadsWholeValuesOrNothing) {
  const std::vector<uint8_t> data = {1, 0, 2, 0, 3};
  ByteReader reader(data);
  EXPECT_EQ(reader.read<uint16_t>(), 1);
  EXPECT_EQ(reader.read<uint16_t>(), 2);
  EXPECT_EQ(reader.read<uint16_t>(), std::nullopt);
  EXPECT_EQ(reader.offset(), 4u);
  EXPECT_EQ(reader.read<uint8_t>(), 3);
  EXPECT_TRUE(reader.at_end());
}

TEST(ByteReader, RefusesOffsetsThatWouldOverflow) {
  const std::vector<uint8_t> data(16);
  EXPECT_EQ(read_at<uint64_t>(data, SIZE_MAX), std::nullopt);
  EXPECT_EQ(read_at<uint64_t>(data, SIZE_MAX - 3), std::nullopt);
  EXPECT_EQ(read_at<uint64_t>(data, 9), std::nullopt);
  EXPECT_TRUE(read_at<uint64_t>(data, 8).has_value());
  ByteReader reader(data);
  EXPECT_FALSE(reader.read_bytes(SIZE_MAX).has_value());
}

TEST(StringAt, NeedsATerminatorInside) {
  const std::vector<uint8_t> data = {'a', 0, 'b'};
  EXPECT_EQ(string_at(data, 0), "a");
  EXPECT_EQ(string_at(data, 1), "");
  EXPECT_EQ(string_at(data, 2), std::nullopt);
  EXPECT_EQ(string_at(data, 3), std::nullopt);
}

}  // namespace
}  // namespace bpftime
