// Which registers of a system call's arguments code behind it looks at.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace bpftime::rewrite {

// Of the arguments that may lead to signal masks (GuardedCall::mask): bit n for argument n of which the code at text[at] may read the
// register before it writes it. Follows jumps within `text`; what it cannot follow reads all. Functions are taken to leave nothing
// to their callers in these registers, as the System V ABI has it.
uint8_t arguments_used_after(Bytes text, size_t at);

}  // namespace bpftime::rewrite
