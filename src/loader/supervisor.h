// Answers for programs that nothing can be preloaded into: statically linked ones, those of other C libraries, and Go's, which
// make their system calls themselves. A process beside the program, the supervisor, is told by the kernel (seccomp user
// notification) of the few calls that can be ours; it answers them with the same code as the preloaded library (host.h), or
// says that the kernel shall go on.
//
// The program is the process that called; it keeps its pid, its terminal and its parent. The supervisor is nobody's child and
// ends with the last process that has the filter. See docs/decisions/0072-a-supervisor-for-programs-without-libc.md.
#pragma once

#include "base/result.h"

namespace bpftime::loader {

// Starts a supervisor for this process and all it becomes and makes; to be followed by exec. The environment is what the
// preloaded library would find. This process must have one thread only.
// Errors: EPERM with the reason when another filter of this process (a container's) decides on bpf(2) first.
Result<void> supervise_this_process(bool pretend_root);

}  // namespace bpftime::loader
