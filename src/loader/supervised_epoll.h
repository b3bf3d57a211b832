// epoll in a supervised process (supervisor.h): a ring's eventfd stands in the process's own set, edge-triggered and with the
// process's own data, so that its epoll_wait is the kernel's business alone.
//
// Where this differs from Linux: what was reported is reported again only when something new arrives, as with EPOLLET, and
// a set may wake its owner once more than there is data. Who reads until nothing is left, as libbpf, cilium and aya do,
// sees no difference.
#pragma once

#include <sys/epoll.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace bpftime::loader {

class RemoteHost;

// As epoll_ctl_call in readiness.h. `event` is an address in the host.
std::optional<int64_t> supervised_epoll_ctl(RemoteHost& host, int epfd, int operation, int fd,
                                            uint64_t event);

// Descriptors of the processes that have watches, to be polled, and what to do when one of them has ended.
std::vector<int> watching_processes();
void forget_watching_process(int process_fd);

}  // namespace bpftime::loader
