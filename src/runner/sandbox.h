// What is left to a runner of the system: its socket, memory, and what helpers ask the kernel for.
#pragma once

namespace bpftime::runner {

// From here on every other system call of the process answers EPERM. False: the kernel has no seccomp filters.
bool enter_sandbox();

}  // namespace bpftime::runner
