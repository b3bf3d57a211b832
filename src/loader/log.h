// What the loader may say, and only to stderr: see rule 1 of real.h.
#pragma once

#include <string>

namespace bpftime::loader {

// BPFTIME_LOADER_LOG=1: one line per interposed call that is ours.
bool logging();
void log_line(const std::string& message);

// Said once until the daemon answers again: without it every later EIO would be a riddle.
void complain_once(const std::string& message);
void complaint_resolved();

}  // namespace bpftime::loader
