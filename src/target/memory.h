// A process's memory through /proc/PID/mem, and the code in it that remote system calls use.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "target/process.h"

namespace bpftime::target {

bool read_memory(const Fd& memory, uint64_t address, void* into, size_t size);
// Also into read-only pages: the kernel copies them for this process (FOLL_FORCE of a tracer).
bool write_memory(const Fd& memory, uint64_t address, const void* from, size_t size);

// Byte sequences in the target's own executable mappings. 0: not found.
struct Gadgets {
  uint64_t system_call = 0;         // syscall
  uint64_t system_call_return = 0;  // syscall; ret
  uint64_t signal_return = 0;       // mov $15, %eax (or %rax); syscall: what a signal handler returns to
};
Gadgets find_gadgets(const Fd& memory, const std::vector<MappedRegion>& regions);

// Whether [start, end) is private writable memory of one mapping: a forced write elsewhere would go through guard pages.
bool is_private_writable(const std::vector<MappedRegion>& regions, uint64_t start, uint64_t end);

}  // namespace bpftime::target
