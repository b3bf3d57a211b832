#include "wire/bpf_call.h"

#include <gtest/gtest.h>

#include <random>

namespace bpftime::wire {
namespace {

std::vector<uint8_t> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

TEST(BpfCall, GoldenLayout) {
  const uint8_t attr[] = {1, 2, 3, 4, 5, 6};
  BpfCallBuilder builder(5, attr);
  builder.add_blob(8, bytes_of("abc"), 9);
  ASSERT_TRUE(builder.add_fd(FdPlace::kAttr, 4, 77));
  const std::vector<uint8_t> golden = {
      5,   0,   0,   0, 6, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,  // BpfCall
      1,   2,   3,   4, 5, 6, 0, 0,                          // attr, padded
      8,   0,   0,   0, 3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0,  // Blob
      'a', 'b', 'c', 0, 0, 0, 0, 0,                          // its bytes, padded
      0,   0,   0,   0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // FdRef
  };
  EXPECT_EQ(builder.body(), golden);
  EXPECT_EQ(builder.fds(), std::vector<int>{77});
}

TEST(BpfCall, RoundTrip) {
  std::vector<uint8_t> attr(144, 0);
  attr[0] = 9;
  attr[20] = 1;
  BpfCallBuilder builder(5, attr);
  builder.add_blob(8, bytes_of("instructions"), 0);
  builder.add_blob(kNestedPointer + 24, {}, 4096);
  ASSERT_TRUE(builder.add_fd(FdPlace::kInstruction, 3, 10));
  ASSERT_TRUE(builder.add_fd(FdPlace::kInstruction, 1, 11));
  ASSERT_TRUE(builder.add_fd(FdPlace::kAttr, 3, 10));
  const auto body = builder.body();
  ASSERT_EQ(builder.fds().size(), 2u);
  auto call = decode_bpf_call(body, 2);
  ASSERT_TRUE(call.ok()) << call.error().message;
  EXPECT_EQ(call->command(), 5u);
  EXPECT_EQ(call->attr_size(), 144u);
  EXPECT_EQ(call->field<uint32_t>(0), 9u);
  EXPECT_EQ(call->field<uint64_t>(200), 0u);
  EXPECT_EQ(call->field<uint64_t>(4000), 0u);
  EXPECT_TRUE(call->tail_is_zero(21));
  EXPECT_TRUE(call->tail_is_zero(5000));
  EXPECT_FALSE(call->tail_is_zero(20));
  ASSERT_NE(call->blob(8), nullptr);
  EXPECT_EQ(call->blob(8)->bytes.size(), 12u);
  ASSERT_NE(call->blob(kNestedPointer + 24), nullptr);
  EXPECT_EQ(call->blob(kNestedPointer + 24)->out_length, 4096u);
  EXPECT_EQ(call->blob(16), nullptr);
  EXPECT_EQ(call->fd_index(FdPlace::kInstruction, 3), 0u);
  EXPECT_EQ(call->fd_index(FdPlace::kInstruction, 1), 1u);
  EXPECT_EQ(call->fd_index(FdPlace::kAttr, 3), 0u);
  EXPECT_EQ(call->fd_index(FdPlace::kAttr, 1), std::nullopt);
  // The same body with a descriptor missing is refused.
  EXPECT_FALSE(decode_bpf_call(body, 1).ok());
}

TEST(BpfCall, EveryTruncationIsRefused) {
  const uint8_t attr[] = {1, 2, 3, 4, 5, 6, 7, 8};
  BpfCallBuilder builder(5, attr);
  builder.add_blob(8, bytes_of("abcdefg"), 9);
  ASSERT_TRUE(builder.add_fd(FdPlace::kAttr, 4, 77));
  const auto body = builder.body();
  ASSERT_TRUE(decode_bpf_call(body, 1).ok());
  for (size_t size = 0; size < body.size(); ++size)
    EXPECT_FALSE(decode_bpf_call(Bytes(body).first(size), 1).ok()) << size;
}

TEST(BpfCall, TwoOfOneKindAreRefused) {
  BpfCallBuilder blobs(5, {});
  blobs.add_blob(8, {}, 0);
  blobs.add_blob(8, {}, 0);
  EXPECT_FALSE(decode_bpf_call(blobs.body(), 0).ok());
  BpfCallBuilder fds(5, {});
  ASSERT_TRUE(fds.add_fd(FdPlace::kAttr, 0, 1));
  ASSERT_TRUE(fds.add_fd(FdPlace::kAttr, 0, 2));
  EXPECT_FALSE(decode_bpf_call(fds.body(), 2).ok());
}

TEST(BpfCall, DescriptorsBeyondTheProtocolAreRefusedByTheBuilder) {
  BpfCallBuilder builder(5, {});
  for (uint32_t i = 0; i < kFdsMax; ++i)
    ASSERT_TRUE(builder.add_fd(FdPlace::kInstruction, i, static_cast<int>(i)));
  EXPECT_FALSE(builder.add_fd(FdPlace::kInstruction, kFdsMax, kFdsMax));
  EXPECT_TRUE(builder.add_fd(FdPlace::kInstruction, kFdsMax, 0));
}

TEST(BpfCall, ReplyRoundTrip) {
  ReplyBuilder builder(-EINVAL, "load: program: bad");
  builder.add_blob(24, bytes_of("log"));
  const uint8_t attr[] = {1, 2};
  builder.store_attr(attr);
  const auto body = builder.body();
  auto reply = parse_reply(body);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->result, -EINVAL);
  EXPECT_EQ(reply->text, "load: program: bad");
  auto blobs = decode_out_blobs(body);
  ASSERT_TRUE(blobs.ok()) << blobs.error().message;
  ASSERT_EQ(blobs->size(), 2u);
  EXPECT_EQ((*blobs)[0].attr_offset, 24u);
  EXPECT_EQ((*blobs)[0].bytes.size(), 3u);
  EXPECT_EQ((*blobs)[1].attr_offset, kAttrItself);
  for (size_t size = 0; size + 6 < body.size(); ++size)  // the last six bytes are padding
    EXPECT_FALSE(decode_out_blobs(Bytes(body).first(size)).ok()) << size;
}

TEST(BpfCall, ReplyWithBytesOfItsOwn) {
  ReplyBuilder builder(3);
  builder.append(bytes_of("{}"));
  const auto body = builder.body();
  auto reply = parse_reply(body);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->rest.size(), 2u);
  EXPECT_TRUE(decode_out_blobs(body)->empty());
}

TEST(BpfCall, SpoiledBytesNeverLeaveTheBody) {
  std::mt19937 random(20240611);
  std::vector<uint8_t> attr(40, 7);
  BpfCallBuilder builder(5, attr);
  builder.add_blob(8, std::vector<uint8_t>(100, 1), 64);
  ASSERT_TRUE(builder.add_fd(FdPlace::kAttr, 4, 77));
  const auto good = builder.body();
  for (int round = 0; round < 20000; ++round) {
    auto body = good;
    for (int i = 0; i < 3; ++i) body[random() % body.size()] = static_cast<uint8_t>(random());
    auto call = decode_bpf_call(body, 1);
    if (!call) continue;
    const BlobView* blob = call->blob(8);
    if (blob == nullptr) continue;
    EXPECT_GE(blob->bytes.data(), body.data());
    EXPECT_LE(blob->bytes.data() + blob->bytes.size(), body.data() + body.size());
  }
}

}  // namespace
}  // namespace bpftime::wire
