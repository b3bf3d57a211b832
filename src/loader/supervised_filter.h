// Which system calls of a supervised process are ours to answer, as a seccomp filter: all others cost nothing.
#pragma once

#include "base/fd.h"

namespace bpftime::loader {

// bpf(2) command by which a process learns that it is supervised, and the answer.
inline constexpr long kSupervisedCommand = 0x62707466, kSupervisedAnswer = 0x6270;

// Puts the filter on this process, for ever, and on everything it becomes and makes; no privileges are gained by exec any more
// (PR_SET_NO_NEW_PRIVS). The descriptor gets the calls. EBUSY: the process has a supervisor.
// `pretend_root`: geteuid() is 0.
Result<Fd> install_supervised_filter(bool pretend_root);

}  // namespace bpftime::loader
