// Whether a thread may be made to call dlopen where it stands.
#pragma once

#include <sys/user.h>

#include <string>

#include "symbols/unwind.h"

namespace bpftime::target {

// Empty: safe. Else why not, to be read after "thread N …". dlopen allocates and takes the loader's locks, so no frame of the
// thread may be inside the allocator, the loader, or what holds their locks across calls (fork, exit, thread creation).
std::string why_not_safe(const symbols::Backtrace& backtrace, const user_regs_struct& registers);

}  // namespace bpftime::target
