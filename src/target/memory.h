// A process's memory through /proc/PID/mem, and the code in it that remote system calls use.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "target/process.h"
#include "target/stopped.h"

namespace bpftime::target {

bool read_memory(const Fd& memory, uint64_t address, void* into, size_t size);
// Also into read-only pages: the kernel copies them for this process (FOLL_FORCE of a tracer).
bool write_memory(const Fd& memory, uint64_t address, const void* from, size_t size);

// Byte sequences in the target's own executable mappings.
using Gadgets = CallCode;
Gadgets find_gadgets(const Fd& memory, const std::vector<MappedRegion>& regions);

// Whether what was found once is still there.
bool still_there(const Fd& memory, const Gadgets& gadgets);

// Whether [start, end) is private writable memory of one mapping: a forced write elsewhere would go through guard pages.
bool is_private_writable(const std::vector<MappedRegion>& regions, uint64_t start, uint64_t end);

}  // namespace bpftime::target
