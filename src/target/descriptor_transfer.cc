// A descriptor of ours into the stopped process: a socket pair made in the target, of which we fetch one end by pidfd_getfd,
// and SCM_RIGHTS over it. No path is opened in the target, so its root directory and credentials do not matter.
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "target/proc_files.h"
#include "target/stopped_state.h"

namespace bpftime::target {
namespace {

// What recvmsg needs, laid out in the borrowed thread's scratch memory. Pointers are the target's addresses.
struct ReceiveArea {
  msghdr header;
  iovec vector;
  alignas(8) char control[CMSG_SPACE(sizeof(int))];
  char data[8];
};
static_assert(sizeof(ReceiveArea) <= kScratchBytes);

bool send_with_descriptor(int socket, int fd) {
  char data = 'd';
  iovec vector{&data, 1};
  alignas(8) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  cmsghdr* message = CMSG_FIRSTHDR(&header);
  message->cmsg_level = SOL_SOCKET;
  message->cmsg_type = SCM_RIGHTS;
  message->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(message), &fd, sizeof(fd));
  return ::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

}  // namespace

// A target at its soft limit of descriptors gets up to its hard limit while it is stopped.
Result<void> StoppedProcess::State::raise_descriptor_limit() {
  const Error full = process_error(pid, EMFILE, "it has no free descriptor; try raising its RLIMIT_NOFILE");
  if (limit_raised) return full;
  auto area = borrowed->scratch();
  if (!area) return area.error();
  const uint64_t get[] = {0, RLIMIT_NOFILE, 0, *area};
  auto got = system_call(SYS_prlimit64, get);
  if (!got) return got.error();
  if (*got != 0 || !read_memory(memory, *area, limit_before, sizeof(limit_before))) return full;
  if (limit_before[0] >= limit_before[1]) return full;
  const uint64_t raised[2] = {limit_before[1], limit_before[1]};
  if (!write_memory(memory, *area, raised, sizeof(raised))) return full;
  const uint64_t set[] = {0, RLIMIT_NOFILE, *area, 0};
  auto done = system_call(SYS_prlimit64, set);
  if (!done) return done.error();
  if (*done != 0) return full;
  limit_raised = true;
  return {};
}

Result<void> StoppedProcess::State::ensure_socket() {
  if (target_socket >= 0) return {};
  auto thread = borrow();
  if (!thread) return thread.error();
  auto area = (*thread)->scratch();
  if (!area) return area.error();
  const uint64_t pair_arguments[] = {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, *area};
  auto made = system_call(SYS_socketpair, pair_arguments);
  while (made && *made == -EMFILE) {
    if (auto raised = raise_descriptor_limit(); !raised) return raised.error();
    made = system_call(SYS_socketpair, pair_arguments);
  }
  if (!made) return made.error();
  if (*made != 0) {
    const int code = static_cast<int>(-*made);
    return process_error(pid, code, std::string("no socket pair in it: ") + std::strerror(code));
  }
  int ends[2] = {-1, -1};
  if (!read_memory(memory, *area, ends, sizeof(ends)))
    return process_error(pid, EFAULT, "its stack is not readable");
  our_socket = Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), ends[1], 0)));
  const Error failure =
      Error::from_errno("process " + std::to_string(pid) + ": fetch a descriptor (pidfd_getfd)");
  target_socket = ends[0];
  const uint64_t close_arguments[] = {static_cast<uint64_t>(ends[1])};
  (void)system_call(SYS_close, close_arguments);
  if (!our_socket) {
    close_socket();
    return failure;
  }
  return {};
}

Result<int64_t> StoppedProcess::State::send_descriptor(int fd) {
  if (auto socket = ensure_socket(); !socket) return socket.error();
  auto area = borrowed->scratch();
  if (!area) return area.error();
  for (;;) {
    if (!send_with_descriptor(our_socket.get(), fd)) {
      return Error::from_errno("process " + std::to_string(pid) + ": send a descriptor");
    }
    ReceiveArea receive{};
    const auto in_target = [&](const void* field) {
      return reinterpret_cast<void*>(
          *area + (static_cast<const char*>(field) - reinterpret_cast<const char*>(&receive)));
    };
    receive.vector = {in_target(receive.data), sizeof(receive.data)};
    receive.header.msg_iov = static_cast<iovec*>(in_target(&receive.vector));
    receive.header.msg_iovlen = 1;
    receive.header.msg_control = in_target(receive.control);
    receive.header.msg_controllen = sizeof(receive.control);
    if (!write_memory(memory, *area, &receive, sizeof(receive)))
      return process_error(pid, EFAULT, "its stack is not writable");
    const uint64_t arguments[] = {static_cast<uint64_t>(target_socket), *area,
                                  MSG_CMSG_CLOEXEC | MSG_DONTWAIT};
    auto received = system_call(SYS_recvmsg, arguments);
    if (!received) return received.error();
    if (*received < 0) {
      const int code = static_cast<int>(-*received);
      return process_error(pid, code, std::string("receive a descriptor: ") + std::strerror(code));
    }
    if (!read_memory(memory, *area, &receive, sizeof(receive)))
      return process_error(pid, EFAULT, "its stack is not readable");
    cmsghdr message;
    std::memcpy(&message, receive.control, sizeof(message));
    if ((receive.header.msg_flags & MSG_CTRUNC) == 0 &&
        receive.header.msg_controllen >= CMSG_LEN(sizeof(int)) && message.cmsg_type == SCM_RIGHTS) {
      int number = -1;
      std::memcpy(&number, receive.control + CMSG_LEN(0), sizeof(number));
      return int64_t{number};
    }
    // The kernel drops a descriptor for which there is no number and says so only by MSG_CTRUNC.
    if (auto raised = raise_descriptor_limit(); !raised) return raised.error();
  }
}

void StoppedProcess::State::close_socket() {
  our_socket.reset();
  if (!borrowed) return;
  if (target_socket >= 0) {
    const uint64_t arguments[] = {static_cast<uint64_t>(target_socket)};
    (void)system_call(SYS_close, arguments);
    target_socket = -1;
  }
  if (limit_raised) {
    auto area = borrowed->scratch();
    if (area && write_memory(memory, *area, limit_before, sizeof(limit_before))) {
      const uint64_t set[] = {0, RLIMIT_NOFILE, *area, 0};
      (void)system_call(SYS_prlimit64, set);
    }
    limit_raised = false;
  }
}

}  // namespace bpftime::target
