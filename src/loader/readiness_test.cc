#include "loader/readiness.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/memfd.h"
#include "loader/objects.h"
#include "maps/map.h"

namespace bpftime::loader {
namespace {

constexpr struct timespec kNow = {0, 0};
constexpr struct timespec kLong = {20, 0};  // a deadline, never reached when all is well

// A ring buffer or a perf event with a fake daemon's eventfd.
struct TestRing {
  Fd fd, signal;
  Mapping memory;
  bool perf;

  explicit TestRing(bool is_perf = false) : perf(is_perf) {
    const wire::MapSpec spec = {BPF_MAP_TYPE_RINGBUF, 0, 0, 8192, 0, 2};
    const uint64_t size = perf ? 3 * 4096 + wire::kTrailerSize : maps::memory_size(spec);
    fd = std::move(*create_memfd("bpf-map", size, perf ? 0 : F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
    memory = std::move(*Mapping::shared(fd, size, PROT_READ | PROT_WRITE));
    auto* trailer = reinterpret_cast<wire::ObjectTrailer*>(memory.data() + size - wire::kTrailerSize);
    trailer->header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, size};
    trailer->kind = perf ? wire::ObjectKind::kPerfEvent : wire::ObjectKind::kMap;
    if (!perf) trailer->map = spec;
    signal = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    // The daemon hands out duplicates of one eventfd.
    set_eventfd_source([this](int) { return signal.duplicate(); });
  }
  ~TestRing() {
    set_eventfd_source([](int) -> Result<Fd> { return Error{EIO, "gone"}; });
  }

  uint64_t* word(size_t offset) { return reinterpret_cast<uint64_t*>(memory.data() + offset); }
  uint64_t* produced() { return word(perf ? 1024 : 4096); }
  uint64_t* consumed() { return word(perf ? 1032 : 0); }
  void produce() {
    __atomic_fetch_add(produced(), 16, __ATOMIC_RELEASE);
    wake();
  }
  void wake() {
    const uint64_t one = 1;
    EXPECT_EQ(::write(signal.get(), &one, sizeof(one)), 8);
  }
  void consume() { __atomic_store_n(consumed(), *produced(), __ATOMIC_RELEASE); }
};

struct Epoll {
  Fd fd{::epoll_create1(EPOLL_CLOEXEC)};
  ~Epoll() { readiness_forget_descriptor(fd.get()); }
  int control(int operation, int target, uint32_t events = EPOLLIN, uint64_t data = 0) {
    struct epoll_event event = {};
    event.events = events;
    event.data.u64 = data;
    const auto ours = epoll_ctl_call(fd.get(), operation, target, &event);
    if (ours) return *ours;
    return ::epoll_ctl(fd.get(), operation, target, &event) == 0 ? 0 : -errno;
  }
  // The data of what is ready.
  std::vector<uint64_t> wait(const struct timespec& timeout = kNow, int capacity = 8) {
    std::vector<struct epoll_event> events(static_cast<size_t>(capacity));
    auto count = epoll_wait_call(fd.get(), events.data(), capacity, &timeout, nullptr);
    if (!count)
      count = ::epoll_wait(fd.get(), events.data(), capacity, static_cast<int>(timeout.tv_sec * 1000));
    std::vector<uint64_t> out;
    for (int i = 0; i < *count; ++i) out.push_back(events[static_cast<size_t>(i)].data.u64);
    return out;
  }
};

using Datas = std::vector<uint64_t>;

class Readiness : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(RingAndPerf, Readiness, testing::Bool());

// A signal that comes inside the call but before its sleep ends the sleep, as in Linux: tools wait without a limit for events or
// for the signal that is to end them.
TEST(ReadinessOfSignals, EndThePollTheyCameBefore) {
  static volatile sig_atomic_t handled;
  handled = 0;
  struct sigaction action = {}, before;
  action.sa_handler = [](int) { handled = handled + 1; };
  ASSERT_EQ(::sigaction(SIGTERM, &action, &before), 0);
  TestRing ring;
  set_eventfd_source([&](int) {
    ::raise(SIGTERM);
    return ring.signal.duplicate();
  });
  ASSERT_NE(find_object(ring.fd.get()), nullptr);  // as the call that made it does
  struct pollfd entry = {ring.fd.get(), POLLIN, 0};
  EXPECT_EQ(poll_call(&entry, 1, &kLong, nullptr), -EINTR);
  EXPECT_EQ(handled, 1);
  // Who waits with the signal blocked is not disturbed, and finds it pending.
  sigset_t blocked, pending;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ::raise(SIGTERM);
  EXPECT_EQ(handled, 2) << "the mask is the caller's again";
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &blocked, nullptr), 0);
  ::raise(SIGTERM);
  ring.produce();
  EXPECT_EQ(poll_call(&entry, 1, &kLong, nullptr), 1);
  ::sigpending(&pending);
  EXPECT_TRUE(sigismember(&pending, SIGTERM));
  EXPECT_EQ(handled, 2);
  ASSERT_EQ(::pthread_sigmask(SIG_UNBLOCK, &blocked, nullptr), 0);
  EXPECT_EQ(handled, 3);
  ::sigaction(SIGTERM, &before, nullptr);
}

TEST_P(Readiness, LevelTriggered) {
  TestRing ring(GetParam());
  Epoll epoll;
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN, 42), 0);
  EXPECT_EQ(epoll.wait(), Datas{});
  ring.produce();
  EXPECT_EQ(epoll.wait(), Datas{42});
  EXPECT_EQ(epoll.wait(), Datas{42});  // still there: level
  ring.consume();
  EXPECT_EQ(epoll.wait(), Datas{});
  ring.wake();  // spurious: a wake-up without data is no event
  EXPECT_EQ(epoll.wait(), Datas{});
}

TEST_P(Readiness, DataBeforeTheFirstWaitIsSeen) {
  TestRing ring(GetParam());
  __atomic_fetch_add(ring.produced(), 16, __ATOMIC_RELEASE);  // no wake-up: nobody was known to wait
  Epoll epoll;
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN, 1), 0);
  EXPECT_EQ(epoll.wait(), Datas{1});
}

TEST_P(Readiness, SleeperWakesForDataNotForNoise) {
  TestRing ring(GetParam());
  Epoll epoll;
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN, 7), 0);
  std::thread producer([&] {
    for (int i = 0; i < 100; ++i) ring.wake();
    ring.produce();
  });
  EXPECT_EQ(epoll.wait(kLong), Datas{7});
  producer.join();
}

TEST_P(Readiness, EdgeTriggeredReportsOncePerArrival) {
  TestRing ring(GetParam());
  Epoll epoll;
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN | EPOLLET, 3), 0);
  EXPECT_EQ(epoll.wait(), Datas{});
  ring.produce();
  EXPECT_EQ(epoll.wait(), Datas{3});
  EXPECT_EQ(epoll.wait(), Datas{});
  ring.produce();
  EXPECT_EQ(epoll.wait(), Datas{3});
}

TEST_P(Readiness, OneShotNeedsRearming) {
  TestRing ring(GetParam());
  Epoll epoll;
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN | EPOLLONESHOT, 3), 0);
  ring.produce();
  EXPECT_EQ(epoll.wait(), Datas{3});
  EXPECT_EQ(epoll.wait(), Datas{});
  ASSERT_EQ(epoll.control(EPOLL_CTL_MOD, ring.fd.get(), EPOLLIN | EPOLLONESHOT, 4), 0);
  EXPECT_EQ(epoll.wait(), Datas{4});
}

TEST_P(Readiness, ControlErrorsAreTheKernels) {
  TestRing ring(GetParam());
  Epoll epoll;
  EXPECT_EQ(epoll.control(EPOLL_CTL_DEL, ring.fd.get()), -ENOENT);
  EXPECT_EQ(epoll.control(EPOLL_CTL_MOD, ring.fd.get()), -ENOENT);
  EXPECT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get()), 0);
  EXPECT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get()), -EEXIST);
  EXPECT_EQ(epoll.control(EPOLL_CTL_DEL, ring.fd.get()), 0);
  ring.produce();
  EXPECT_EQ(epoll.wait(), Datas{});
  // Not ours: the kernel refuses plain memfds, and an eventfd is taken as ever.
  auto plain = create_memfd("plain", 8192, 0);
  EXPECT_EQ(epoll.control(EPOLL_CTL_ADD, plain->get()), -EPERM);
  EXPECT_EQ(epoll_ctl_call(epoll.fd.get(), EPOLL_CTL_ADD, ring.signal.get(), nullptr), std::nullopt);
  // A broken epoll descriptor stays an error and leaves nothing behind.
  struct epoll_event event = {};
  EXPECT_EQ(epoll_ctl_call(ring.signal.get(), EPOLL_CTL_ADD, ring.fd.get(), &event), -EINVAL);
  EXPECT_EQ(epoll_wait_call(ring.signal.get(), &event, 1, &kNow, nullptr), std::nullopt);
}

TEST_P(Readiness, NoEventfdNoWatch) {
  TestRing ring(GetParam());
  set_eventfd_source([](int) -> Result<Fd> { return Error{EIO, "no daemon"}; });
  Epoll epoll;
  EXPECT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get()), -EIO);
}

TEST_P(Readiness, SeveralSetsAllHear) {
  TestRing ring(GetParam());
  Epoll one, two;
  ASSERT_EQ(one.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN, 1), 0);
  ASSERT_EQ(two.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN, 2), 0);
  std::thread waiter([&] { EXPECT_EQ(two.wait(kLong), Datas{2}); });
  ring.produce();
  EXPECT_EQ(one.wait(kLong), Datas{1});
  waiter.join();
}

TEST_P(Readiness, HostEventsAndOursShareASet) {
  TestRing ring(GetParam());
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const Fd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  Epoll epoll;
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get(), EPOLLIN, 1), 0);
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, read_end.get(), EPOLLIN, 2), 0);
  ASSERT_EQ(::write(write_end.get(), "x", 1), 1);
  EXPECT_EQ(epoll.wait(kLong), Datas{2});
  ring.produce();
  auto both = epoll.wait(kLong);
  std::sort(both.begin(), both.end());
  EXPECT_EQ(both, (Datas{1, 2}));
  // With room for one, neither starves the other.
  Datas seen;
  for (int i = 0; i < 4; ++i)
    for (const uint64_t data : epoll.wait(kLong, 1)) seen.push_back(data);
  EXPECT_NE(std::count(seen.begin(), seen.end(), 1u), 0);
  EXPECT_NE(std::count(seen.begin(), seen.end(), 2u), 0);
}

TEST_P(Readiness, ClosingTheRingOrTheSetForgetsIt) {
  TestRing ring(GetParam());
  Epoll epoll;
  {
    const Fd copy(::dup(ring.fd.get()));
    ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, copy.get(), EPOLLIN, 9), 0);
    ring.produce();
    ASSERT_EQ(epoll.wait(), Datas{9});
    readiness_forget_descriptor(copy.get());
  }
  EXPECT_EQ(epoll.wait(), Datas{});
  // Closed behind our back and the number reused for something else: the stale watch yields to
  // the new descriptor.
  const int number = ::dup(ring.fd.get());
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, number, EPOLLIN, 9), 0);
  const Fd other(::eventfd(1, EFD_CLOEXEC));
  ASSERT_EQ(::dup3(other.get(), number, O_CLOEXEC), number);
  EXPECT_EQ(epoll.control(EPOLL_CTL_ADD, number, EPOLLIN, 10), 0);
  EXPECT_EQ(epoll.wait(), Datas{10});
  ::close(number);
}

// A signal that comes while the tool is not asleep in the kernel: here it has come before, and is let in by the wait.
TEST_P(Readiness, ASignalThatTellsToEndIsHeardWithoutSleeping) {
  TestRing ring(GetParam());
  Epoll epoll;
  ASSERT_EQ(epoll.control(EPOLL_CTL_ADD, ring.fd.get()), 0);
  static volatile sig_atomic_t heard;
  heard = 0;
  struct sigaction handler = {}, before = {};
  handler.sa_handler = [](int) { heard = 1; };
  ASSERT_EQ(::sigaction(SIGTERM, &handler, &before), 0);
  sigset_t term, none, mask_before;
  sigemptyset(&none);
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &term, &mask_before), 0);
  struct epoll_event events[4];
  const auto wait = [&](const sigset_t* mask) {
    return epoll_wait_call(epoll.fd.get(), events, 4, &kNow, mask);
  };
  ring.produce();
  EXPECT_EQ(wait(&none), 1);
  ::pthread_kill(::pthread_self(), SIGTERM);
  EXPECT_EQ(wait(nullptr), 1);  // blocked by the tool
  EXPECT_EQ(heard, 0);
  EXPECT_EQ(wait(&none), -EINTR);
  EXPECT_EQ(heard, 1);
  EXPECT_EQ(wait(&none), 1);  // what there was to read still is
  // One that nobody handles is no answer.
  handler.sa_handler = SIG_IGN;
  ASSERT_EQ(::sigaction(SIGTERM, &handler, nullptr), 0);
  ::pthread_kill(::pthread_self(), SIGTERM);
  EXPECT_EQ(wait(&none), 1);
  sigset_t now;
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &mask_before, &now), 0);
  EXPECT_EQ(sigismember(&now, SIGTERM), 1);
  EXPECT_EQ(sigismember(&now, SIGINT), sigismember(&mask_before, SIGINT));
  ::sigaction(SIGTERM, &before, nullptr);
}

TEST_P(Readiness, Poll) {
  TestRing ring(GetParam());
  ASSERT_NE(find_object(ring.fd.get()), nullptr);
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const Fd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  struct pollfd list[] = {
      {read_end.get(), POLLIN, 0}, {ring.fd.get(), POLLIN, 0}, {-1, POLLIN, 0}, {ring.fd.get(), POLLIN, 0}};
  EXPECT_EQ(poll_call(list, 4, &kNow, nullptr), 0);
  ring.wake();
  EXPECT_EQ(poll_call(list, 4, &kNow, nullptr), 0);
  std::thread producer([&] {
    for (int i = 0; i < 100; ++i) ring.wake();
    ring.produce();
  });
  EXPECT_EQ(poll_call(list, 4, &kLong, nullptr), 2);
  producer.join();
  EXPECT_EQ(list[0].revents, 0);
  EXPECT_EQ(list[1].revents, POLLIN);
  EXPECT_EQ(list[2].revents, 0);
  EXPECT_EQ(list[3].revents, POLLIN);
  ASSERT_EQ(::write(write_end.get(), "x", 1), 1);
  EXPECT_EQ(poll_call(list, 4, nullptr, nullptr), 3);
  EXPECT_EQ(list[0].revents, POLLIN);
  ring.consume();
  EXPECT_EQ(poll_call(list, 4, nullptr, nullptr), 1);
  EXPECT_EQ(list[1].revents, 0);
  EXPECT_EQ(list[1].fd, ring.fd.get());
  // None of ours in the list.
  EXPECT_EQ(poll_call(list, 1, &kNow, nullptr), std::nullopt);
}

TEST_P(Readiness, Select) {
  TestRing ring(GetParam());
  ASSERT_NE(find_object(ring.fd.get()), nullptr);
  const int fd = ring.fd.get();
  fd_set reads;
  FD_ZERO(&reads);
  FD_SET(fd, &reads);
  EXPECT_EQ(select_call(fd + 1, &reads, nullptr, nullptr, &kNow, nullptr), 0);
  EXPECT_FALSE(FD_ISSET(fd, &reads));
  ring.produce();
  FD_SET(fd, &reads);
  EXPECT_EQ(select_call(fd + 1, &reads, nullptr, nullptr, &kLong, nullptr), 1);
  EXPECT_TRUE(FD_ISSET(fd, &reads));
  FD_ZERO(&reads);
  FD_SET(0, &reads);
  EXPECT_EQ(select_call(fd + 1, &reads, nullptr, nullptr, &kNow, nullptr), std::nullopt);
}

}  // namespace
}  // namespace bpftime::loader
