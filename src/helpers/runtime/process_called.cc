// Who is running, when it has to be asked.
#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {

extern "C" {

uint32_t bpftime_slow_tid() {
  return may_call_system() ? static_cast<uint32_t>(system_call(kSysGettid)) : libc_tid();
}

uint32_t bpftime_slow_tgid() {
  const uint32_t tgid = identity()->tgid;
  if (!may_call_system()) return tgid != 0 ? tgid : libc_tid();  // the thread that forked is the only one yet
  const bool shared = identity()->memory_shared != 0;            // by the time a child runs here, it is
  const uint32_t asked = static_cast<uint32_t>(system_call(kSysGetpid));
  if (!shared) identity()->tgid = asked;
  return asked;
}

}  // extern "C"

}  // namespace bpftime::runtime
