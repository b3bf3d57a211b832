// The version of this build, as the build system has it.
#pragma once

namespace bpftime {

inline constexpr char kVersion[] = BPFTIME_VERSION;

}  // namespace bpftime
