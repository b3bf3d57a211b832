#include "daemon/trace_pipes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

namespace bpftime::daemon {
namespace {

class TracePipesTest : public ::testing::Test {
 protected:
  void print(int count, size_t length = 4) {
    for (int i = 0; i < count; ++i)
      log_.append(1, std::to_string(log_.last_number() + 1) + std::string(length, '.') + "\n");
    pipes_.fill(log_);
  }
  Fd open() {
    int watch = -1;
    auto reader = pipes_.open(log_, &watch);
    EXPECT_TRUE(reader.ok()) << reader.error().message;
    EXPECT_TRUE(pipes_.owns(watch));
    watch_ = watch;
    if (!reader) return Fd();
    ::fcntl(reader->get(), F_SETFL, O_NONBLOCK);
    return std::move(*reader);
  }
  // Everything there is to read.
  static std::string read(const Fd& fd) {
    std::string out;
    char buffer[4096];
    for (ssize_t got; (got = ::read(fd.get(), buffer, sizeof buffer)) > 0;) out.append(buffer, got);
    return out;
  }

  TraceLog log_;
  TracePipes pipes_;
  int watch_ = -1;
};

TEST_F(TracePipesTest, ReadersGetWhatIsUnreadAndWhatComes) {
  print(2);
  const Fd reader = open();
  EXPECT_EQ(read(reader), "1....\n2....\n");
  EXPECT_EQ(::read(reader.get(), &watch_, 1), -1);
  EXPECT_EQ(errno, EAGAIN) << "no end of file while the daemon lives";
  struct pollfd waiting = {reader.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, 0), 0);
  print(1);
  EXPECT_EQ(::poll(&waiting, 1, 0), 1);
  EXPECT_EQ(read(reader), "3....\n");
  EXPECT_EQ(pipes_.consumed(), 3u);
}

TEST_F(TracePipesTest, ReadingConsumes) {
  print(3);
  EXPECT_EQ(read(open()), "1....\n2....\n3....\n");
  EXPECT_EQ(read(open()), "") << "read by another before";
  print(1);
  EXPECT_EQ(read(open()), "4....\n") << "the abandoned pipe took it, but nobody read it there";
}

TEST_F(TracePipesTest, LinesLeftInAPipeAreNotLost) {
  print(3);
  {
    const Fd reader = open();
    char some[8];
    ASSERT_EQ(::read(reader.get(), some, sizeof some), 8);  // one line and a part of the next
  }
  pipes_.on_event(watch_, log_);
  EXPECT_TRUE(pipes_.empty());
  EXPECT_EQ(pipes_.consumed(), 2u);
  EXPECT_EQ(read(open()), "3....\n");
}

TEST_F(TracePipesTest, EveryReaderGetsEveryLine) {
  const Fd one = open(), two = open();
  print(2);
  EXPECT_EQ(read(one), "1....\n2....\n");
  EXPECT_EQ(read(two), "1....\n2....\n");
}

TEST_F(TracePipesTest, SlowReaderIsToldWhatItLost) {
  const Fd reader = open();
  print(7000, 1000);  // more than pipe and log hold
  std::string all = read(reader);
  EXPECT_GT(all.size(), 32u << 10);
  EXPECT_EQ(all.back(), '\n') << "no torn lines";
  for (int i = 0; i < 200; ++i) {
    pipes_.on_event(watch_, log_);
    all += read(reader);
  }
  const size_t lost = all.find("CPU:0 [LOST ");
  ASSERT_NE(lost, std::string::npos);
  const uint64_t count = std::stoull(all.substr(lost + 12));
  const auto lines = static_cast<uint64_t>(std::count(all.begin(), all.end(), '\n'));
  EXPECT_EQ(lines - 1 + count, 7000u) << "each line is read or counted";
  EXPECT_NE(all.find("\n7000."), std::string::npos);
}

TEST_F(TracePipesTest, ClearedLinesAreGone) {
  print(2);
  pipes_.clear(log_);
  EXPECT_EQ(read(open()), "");
  EXPECT_EQ(pipes_.consumed(), 2u);
}

TEST_F(TracePipesTest, ReadersAreBounded) {
  std::vector<Fd> readers;
  for (size_t i = 0; i < kTracePipesMax; ++i) readers.push_back(open());
  int watch = -1;
  auto refused = pipes_.open(log_, &watch);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, EMFILE);
  readers.pop_back();
  EXPECT_TRUE(pipes_.open(log_, &watch).ok()) << "the place of one that has gone";
}

}  // namespace
}  // namespace bpftime::daemon
