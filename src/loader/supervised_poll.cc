#include "loader/supervised_poll.h"

#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <vector>

#include "loader/host.h"
#include "loader/objects.h"
#include "loader/readiness.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

constexpr uint64_t kListMax = 4096;  // longer ones are not looked through

struct timespec from_ms(int ms) {
  return {ms / 1000, (ms % 1000) * 1000000L};
}

}  // namespace

bool polls_for_ours(const struct seccomp_data& call) {
  if ((call.nr != SYS_poll && call.nr != SYS_ppoll) || !any_object_seen()) return false;
  if (call.args[1] == 0 || call.args[1] > kListMax) return false;
  std::vector<struct pollfd> list(call.args[1]);
  if (!read_user(list.data(), call.args[0], list.size() * sizeof(struct pollfd))) return false;
  return std::any_of(list.begin(), list.end(), [](const struct pollfd& entry) {
    return entry.fd >= 0 && can_be_polled(local_fd(entry.fd));
  });
}

std::optional<int64_t> supervised_poll(const struct seccomp_data& call) {
  auto* const list = reinterpret_cast<struct pollfd*>(call.args[0]);
  const auto count = static_cast<nfds_t>(call.args[1]);
  if (call.nr == SYS_poll) {
    const int ms = static_cast<int>(call.args[2]);
    const struct timespec timeout = from_ms(ms);
    return poll_call(list, count, ms < 0 ? nullptr : &timeout, nullptr);
  }
  struct timespec timeout = {};
  if (call.args[2] != 0 && !read_user(&timeout, call.args[2], sizeof timeout)) return -EFAULT;
  return poll_call(list, count, call.args[2] == 0 ? nullptr : &timeout,
                   reinterpret_cast<const sigset_t*>(call.args[3]));
}

}  // namespace bpftime::loader
