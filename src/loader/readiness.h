// epoll, poll and select on ring buffers and perf events. Their descriptors are memfds, which the
// kernel cannot poll: a companion eventfd from the daemon says "look again", shared memory says whether
// there is data.
//
// Rules for whoever edits this:
//  1. The eventfd is only ever waited for edge-triggered and never read: each write to it is an edge to every
//  epoll it is
//     in, so any number of waiters, sets and processes can share it and none can steal another's wake-up.
//  2. Memory is looked at before sleeping and after each wake-up. There is no timed polling.
//  3. The host sees level-triggered (or EPOLLET, EPOLLONESHOT as it asked) events with its own data.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "base/fd.h"
#include "base/memfd.h"

namespace bpftime::loader {

// How readiness eventfds are obtained; replaced by tests. Default: kReadiness of the daemon.
using EventfdSource = std::function<Result<Fd>(int fd)>;
void set_eventfd_source(EventfdSource source);

// What tells of the ring or perf event behind `fd` that something has happened. nullopt: it cannot be waited for.
struct Wakeup {
  InodeId inode;  // of the object
  Fd eventfd;     // rule 1
  bool ready;     // now
};
std::optional<Result<Wakeup>> wakeup_of(int fd);
bool can_be_polled(int fd);

// Results are as the system call's, -errno on failure. nullopt: nothing of ours in it, ask the kernel.
std::optional<int> epoll_ctl_call(int epfd, int operation, int fd, const struct epoll_event* event);
// `timeout`: relative, nullptr waits for ever.
std::optional<int> epoll_wait_call(int epfd, struct epoll_event* events, int capacity,
                                   const struct timespec* timeout, const sigset_t* mask);
std::optional<int> poll_call(struct pollfd* fds, nfds_t count, const struct timespec* timeout,
                             const sigset_t* mask);
std::optional<int> select_call(int count, fd_set* reads, fd_set* writes, fd_set* exceptions,
                               const struct timespec* timeout, const sigset_t* mask);

// The host closes or replaces `fd`: as in the kernel it leaves the sets it is in; a set disappears.
void readiness_forget_descriptor(int fd);
void readiness_forget_all();

void readiness_before_fork();
void readiness_after_fork();

}  // namespace bpftime::loader
