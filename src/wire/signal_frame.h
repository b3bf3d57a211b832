// What the daemon leaves in signal frames for the agent.
#pragma once

#include <stdint.h>

namespace bpftime::wire {

// In uc_link of a frame made before the signal guard came: its mask says what the host has blocked.
inline constexpr uint64_t kFrameOfHost = 0x62707466686f7374;

}  // namespace bpftime::wire
