#include "loader/real.h"

#include <dlfcn.h>

namespace bpftime::loader {
namespace {

// initial-exec: no lazy allocation on first use, which would recurse when the host's malloc is
// what called us.
__attribute__((tls_model("initial-exec"))) thread_local int depth = 0;
__attribute__((tls_model("initial-exec"))) thread_local bool resolving = false;

}  // namespace

void* find_real(const char* name) {
  if (resolving) return nullptr;
  resolving = true;
  const int saved = errno;
  void* found = ::dlsym(RTLD_NEXT, name);
  errno = saved;
  resolving = false;
  return found;
}

bool inside() { return depth > 0; }

Inside::Inside() : saved_errno_(errno) { ++depth; }

Inside::~Inside() {
  --depth;
  errno = saved_errno_;
}

}  // namespace bpftime::loader
