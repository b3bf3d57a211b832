// The signal guard of targets whose programs read memory that may fault (src/agent).
#include "daemon/attacher.h"

namespace bpftime::daemon {

Result<void> Attacher::install_guard(Target&, target::StoppedProcess&, target::Registry&, const std::vector<target::MappedRegion>&) {
  return {};
}

Result<void> Attacher::remove_guard(target::StoppedProcess&, target::Registry&) { return {}; }

}  // namespace bpftime::daemon
