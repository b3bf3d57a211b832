// poll(2) and ppoll(2) in a supervised process (supervisor.h) on lists with rings or perf events in them. The others' are the
// kernel's, and so is select(2): who waits with that for a ring is told at once, as of any regular file.
#pragma once

#include <linux/seccomp.h>

#include <cstdint>
#include <optional>

namespace bpftime::loader {

// Whether answering may take as long as the caller wants to wait. Asked while answering (host.h).
bool polls_for_ours(const struct seccomp_data& call);

// The answer; nullopt: the kernel's business.
std::optional<int64_t> supervised_poll(const struct seccomp_data& call);

}  // namespace bpftime::loader
