// Who is running, when it has to be asked.
#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {

extern "C" {

uint32_t bpftime_slow_tid() { return may_call_system() ? static_cast<uint32_t>(system_call(kSysGettid)) : 0; }

uint32_t bpftime_slow_tgid() {
  if (!may_call_system()) return known_tid();  // the thread that forked is the only one yet
  const uint32_t asked = static_cast<uint32_t>(system_call(kSysGetpid));
  identity()->tgid = asked;
  return asked;
}

}  // extern "C"

}  // namespace bpftime::runtime
