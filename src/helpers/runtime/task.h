// The synthetic task_struct (wire/task_facts.h): what readers of kernel memory see at its addresses.
#pragma once

#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {

inline bool is_task_address(uint64_t address) {
  return address - wire::kTaskBase < wire::kTaskIdMax * wire::kTaskStride;
}

extern "C" {
// In task.cc. 0 / length with its NUL, or -EFAULT and zeroes. Members nobody knows read as zero.
__attribute__((visibility("hidden"))) int64_t bpftime_read_task(void* destination, uint64_t size,
                                                                uint64_t address);
__attribute__((visibility("hidden"))) int64_t bpftime_read_task_string(char* destination, uint64_t size,
                                                                       uint64_t address);
}

}  // namespace bpftime::runtime
