// geteuid(): many eBPF tools refuse to start as anybody but root, because the kernel would refuse them. Here they need no right
// at all, so they are told what lets them go on. The answer changes nothing but the tool's mind: every system call is still
// made, and judged, as the user who made it. It is given where the question can only mean "may I use eBPF?":
//   - in a process that has libbpf or libbcc among its shared libraries (bpftrace, bpftool, python with bcc), and
//   - everywhere under `bpftime load --pretend-root` (tools with libbpf inside).
// A shell or a package manager under `bpftime load` is told the truth.
#include <link.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "loader/calls.h"

namespace bpftime::loader {
namespace {

int is_bpf_library(struct dl_phdr_info* info, size_t, void*) {
  const char* slash = std::strrchr(info->dlpi_name, '/');
  const char* name = slash != nullptr ? slash + 1 : info->dlpi_name;
  return std::strncmp(name, "libbpf.so", 9) == 0 || std::strncmp(name, "libbcc", 6) == 0 ? 1 : 0;
}

}  // namespace

bool pretends_root() {
  static const bool asked_to = [] {
    const char* value = std::getenv("BPFTIME_PRETEND_ROOT");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  if (asked_to) return true;
  // Libraries come by dlopen, too (python), but do not go.
  static std::atomic<bool> client{false};
  if (!client.load(std::memory_order_relaxed) && ::dl_iterate_phdr(is_bpf_library, nullptr) != 0)
    client = true;
  return client.load(std::memory_order_relaxed);
}

}  // namespace bpftime::loader
