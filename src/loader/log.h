// What the loader may say, and only to stderr: see rule 1 of real.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bpftime::loader {

// BPFTIME_LOADER_LOG=1: one line per interposed call that is ours; =failures (`bpftime load -v`): of those that failed.
bool logs(int64_t result);
// "bpf(MAP_CREATE): EINVAL: why". `result` as the call returns it, -errno on failure.
void log_call(const std::string& call, int64_t result, std::string_view why);

// Said once until the daemon answers again: without it every later EIO would be a riddle.
void complain_once(const std::string& message);
void complaint_resolved();

}  // namespace bpftime::loader
