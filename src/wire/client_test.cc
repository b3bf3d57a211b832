#include "wire/client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "base/memfd.h"

namespace bpftime::wire {
namespace {

Deadline soon() { return Deadline::after_ms(20000); }

struct Pair {
  Fd a, b;
  Pair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0) {
      a = Fd(fds[0]);
      b = Fd(fds[1]);
    }
  }
};

std::vector<uint8_t> reply_body(int64_t result, const std::string& text = "") {
  const Reply reply = {result, static_cast<uint32_t>(text.size()), 0};
  std::vector<uint8_t> body(sizeof(reply) + text.size());
  std::memcpy(body.data(), &reply, sizeof(reply));
  std::memcpy(body.data() + sizeof(reply), text.data(), text.size());
  return body;
}

TEST(Client, LargeBodyAndDescriptorsArriveWhole) {
  Pair pair;
  auto memory = create_memfd("test", 4096, 0);
  ASSERT_TRUE(memory.ok());
  std::vector<uint8_t> body(5u << 20);
  for (size_t i = 0; i < body.size(); ++i) body[i] = static_cast<uint8_t>(i * 31);
  std::thread sender([&] {
    const int fds[] = {memory->get(), memory->get()};
    EXPECT_TRUE(send_message(pair.a.get(), MessageType::kBpf, 7, body, fds, soon()).ok());
  });
  auto got = receive_message(pair.b.get(), soon());
  sender.join();
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->type, MessageType::kBpf);
  EXPECT_EQ(got->sequence, 7u);
  EXPECT_EQ(got->body, body);
  ASSERT_EQ(got->fds.size(), 2u);
  EXPECT_EQ(*inode_of(got->fds[0].get()), *inode_of(memory->get()));
  EXPECT_NE(::fcntl(got->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Client, LimitsAreCheckedBeforeSending) {
  Pair pair;
  std::vector<int> many(kFdsMax + 1, pair.a.get());
  auto sent = send_message(pair.a.get(), MessageType::kBpf, 1, {}, many, soon());
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().code, EMSGSIZE);
  many.pop_back();
  EXPECT_TRUE(send_message(pair.a.get(), MessageType::kBpf, 1, {}, many, soon()).ok());
  auto got = receive_message(pair.b.get(), soon());
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->fds.size(), kFdsMax);
}

TEST(Client, ClosedPeerIsAnErrorNotASignal) {
  Pair pair;
  pair.b.reset();
  auto sent = send_message(pair.a.get(), MessageType::kBpf, 1, {}, {}, soon());
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().code, EPIPE);
  auto got = receive_message(pair.a.get(), soon());
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code, ECONNRESET);
}

TEST(Client, SilentPeerMeetsTheDeadline) {
  Pair pair;
  auto got = receive_message(pair.a.get(), Deadline::after_ms(10));
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code, ETIMEDOUT);
}

TEST(Client, HostileHeadersAreRefused) {
  const MessageHeader good = {kMagic, kAbiVersion, kArchX86_64, MessageType::kReply, 0, 0, 1};
  const auto outcome = [&](const std::function<void(MessageHeader&)>& spoil) {
    Pair pair;
    MessageHeader header = good;
    spoil(header);
    EXPECT_EQ(::write(pair.a.get(), &header, sizeof(header)), static_cast<ssize_t>(sizeof(header)));
    pair.a.reset();
    auto got = receive_message(pair.b.get(), soon());
    return got.ok() ? 0 : got.error().code;
  };
  EXPECT_EQ(outcome([](MessageHeader&) {}), 0);
  EXPECT_EQ(outcome([](MessageHeader& h) { h.magic = 0; }), EPROTO);
  EXPECT_EQ(outcome([](MessageHeader& h) { h.abi_version++; }), EPROTO);
  EXPECT_EQ(outcome([](MessageHeader& h) { h.length = kMessageBodyMax + 1; }), EPROTO);
  EXPECT_EQ(outcome([](MessageHeader& h) { h.fd_count = 1; }), EPROTO);
  EXPECT_EQ(outcome([](MessageHeader& h) { h.length = 100; }), ECONNRESET);
}

TEST(Client, AnotherVersionIsHeardOnlyByWhoAsksForIt) {
  Pair pair;
  const auto say = [&] {
    EXPECT_TRUE(send_message(pair.a.get(), MessageType::kReply, 1, {}, {}, soon(), kAbiVersion + 1).ok());
  };
  say();
  auto got = receive_message(pair.b.get(), soon(), Versions::kAny);
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->version, kAbiVersion + 1);
  say();
  got = receive_message(pair.b.get(), soon());
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code, EPROTO);
  EXPECT_NE(got.error().message.find("version " + std::to_string(kAbiVersion + 1)), std::string::npos);
  EXPECT_NE(got.error().message.find("bpftime daemon restart"), std::string::npos);
}

TEST(Client, ReplyTextPastTheEndIsRefused) {
  auto body = reply_body(-22, "why");
  auto view = parse_reply(body);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->result, -22);
  EXPECT_EQ(view->text, "why");
  body.pop_back();
  EXPECT_FALSE(parse_reply(body).ok());
  EXPECT_FALSE(parse_reply(Bytes(body).first(8)).ok());
}

// A daemon that answers each message with `answer`, on a socket in a directory of its own.
class Server {
 public:
  using Answer = std::function<std::vector<uint8_t>(const Message&)>;
  explicit Server(Answer answer) : answer_(std::move(answer)) {
    char name[] = "/tmp/bpftime-client-XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = directory_ + "/socket";
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_.get(), 4), 0);
    thread_ = std::thread([this] {
      Fd peer(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      for (;;) {
        auto message = receive_message(peer.get(), soon());
        if (!message) return;
        (void)send_message(peer.get(), MessageType::kReply, message->sequence, answer_(*message), {}, soon());
      }
    });
  }
  ~Server() {
    thread_.join();
    ::unlink(path_.c_str());
    ::rmdir(directory_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  Answer answer_;
  std::string directory_, path_;
  Fd listener_;
  std::thread thread_;
};

TEST(Client, SaysHelloAndCalls) {
  Server server([](const Message& m) {
    return reply_body(m.type == MessageType::kHello ? 0 : static_cast<int64_t>(m.body.size()));
  });
  auto client = Client::connect(server.path(), Hello{ClientKind::kCli, 0}, soon());
  ASSERT_TRUE(client.ok()) << client.error().message;
  const uint8_t body[] = {1, 2, 3};
  auto answer = client->call(MessageType::kCommand, body, {}, soon());
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(parse_reply(answer->body)->result, 3);
  client->move_descriptor_above(200);
  EXPECT_GE(client->descriptor(), 200);
  EXPECT_TRUE(client->call(MessageType::kCommand, body, {}, soon()).ok());
}

TEST(Client, RefusedHelloCarriesTheDaemonsWords) {
  Server server([](const Message&) { return reply_body(-EACCES, "hello: uid 5: not yours"); });
  auto client = Client::connect(server.path(), Hello{ClientKind::kCli, 0}, soon());
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.error().code, EACCES);
  EXPECT_EQ(client.error().message, "hello: uid 5: not yours");
}

TEST(Client, NobodyListensIsSaidWithTheNextStep) {
  auto client = Client::connect("/nonexistent/socket", Hello{ClientKind::kCli, 0}, soon());
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.error().code, ENOENT);
  EXPECT_NE(client.error().message.find("bpftime daemon start"), std::string::npos);
  EXPECT_FALSE(Client::connect(std::string(300, 'x'), Hello{ClientKind::kCli, 0}, soon()).ok());
}

}  // namespace
}  // namespace bpftime::wire
