#include "daemon/connection.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "base/memfd.h"

namespace bpftime::daemon {
namespace {

class ConnectionTest : public ::testing::Test {
 protected:
  ConnectionTest() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
      throw std::runtime_error("socketpair");
    client_ = Fd(pair[0]);
    connection_.emplace(Fd(pair[1]), Peer{1, 2});
  }
  void write(Bytes bytes) {
    ASSERT_EQ(::send(client_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  static wire::MessageHeader header(uint32_t length, uint32_t fds = 0) {
    return {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, wire::MessageType::kBpf, length, fds, 9};
  }

  Fd client_;
  std::optional<Connection> connection_;
  std::string why_;
};

TEST_F(ConnectionTest, MessageArrivesByteByByte) {
  const auto head = header(3);
  std::vector<uint8_t> bytes(as_bytes(head).begin(), as_bytes(head).end());
  bytes.insert(bytes.end(), {1, 2, 3});
  for (uint8_t byte : bytes) {
    EXPECT_FALSE(connection_->next().has_value());
    write(Bytes(&byte, 1));
    ASSERT_TRUE(connection_->receive(&why_)) << why_;
  }
  auto message = connection_->next();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->sequence, 9u);
  EXPECT_EQ(message->body, (std::vector<uint8_t>{1, 2, 3}));
  EXPECT_FALSE(connection_->next().has_value());
}

TEST_F(ConnectionTest, TwoMessagesInOneWriteWithTheirOwnDescriptors) {
  auto memory = create_memfd("x", 4096, 0);
  ASSERT_TRUE(memory.ok());
  const int fds[] = {memory->get()};
  const std::vector<uint8_t> body(5);
  for (int i = 0; i < 2; ++i)
    ASSERT_TRUE(wire::send_message(client_.get(), wire::MessageType::kBpf, i, body, fds,
                                   wire::Deadline::after_ms(1000))
                    .ok());
  ASSERT_TRUE(connection_->receive(&why_)) << why_;
  for (uint32_t i = 0; i < 2; ++i) {
    auto message = connection_->next();
    ASSERT_TRUE(message.has_value());
    EXPECT_EQ(message->sequence, i);
    ASSERT_EQ(message->fds.size(), 1u);
    EXPECT_EQ(*inode_of(message->fds[0].get()), *inode_of(memory->get()));
  }
}

TEST_F(ConnectionTest, OtherVersionIsNamed) {
  auto head = header(0);
  head.abi_version = wire::kAbiVersion + 1;
  write(as_bytes(head));
  EXPECT_FALSE(connection_->receive(&why_));
  EXPECT_NE(why_.find("version " + std::to_string(wire::kAbiVersion + 1)), std::string::npos) << why_;
}

TEST_F(ConnectionTest, GarbageAndImpossibleLengthsEndTheConnection) {
  auto head = header(wire::kMessageBodyMax + 1);
  write(as_bytes(head));
  EXPECT_FALSE(connection_->receive(&why_));
  EXPECT_FALSE(connection_->next().has_value());
}

TEST_F(ConnectionTest, EndOfStreamIsNoError) {
  client_.reset();
  EXPECT_FALSE(connection_->receive(&why_));
  EXPECT_EQ(why_, "closed");
}

TEST_F(ConnectionTest, RandomBytesNeverYieldAMessage) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(32 * 1024);
  for (auto& byte : bytes) byte = random();
  bytes[0] = 0;  // never the magic
  write(bytes);
  EXPECT_FALSE(connection_->receive(&why_));
  EXPECT_FALSE(connection_->next().has_value());
}

}  // namespace
}  // namespace bpftime::daemon
