// Checks every bpf(2) command makes of its attr.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>

#include "kernel/kernel.h"

namespace bpftime::kernel {

// Bytes the command does not know must be zero (the kernel's CHECK_ATTR): else EINVAL.
inline std::optional<BpfReply> check_attr_tail(const BpfRequest& request, size_t known) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(request.attr);
  const bool clear = std::all_of(bytes + std::min(known, sizeof(bpf_attr)), bytes + sizeof(bpf_attr),
                                 [](uint8_t byte) { return byte == 0; });
  if (clear) return std::nullopt;
  return BpfReply::fail(EINVAL, "bpf command " + std::to_string(request.command) +
                                    ": attr has bytes set beyond offset " + std::to_string(known));
}

// bpf_obj_name_cpy: letters, digits, '_' and '.', terminated within 16 bytes.
inline std::optional<std::string> object_name(const char (&name)[BPF_OBJ_NAME_LEN]) {
  std::string out;
  for (char c : name) {
    if (c == 0) return out;
    const bool allowed =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
    if (!allowed) return std::nullopt;
    out.push_back(c);
  }
  return std::nullopt;
}

// bpf_verifier_log_attr_valid: buffer and size come together, a buffer needs a level, known levels only.
inline bool log_attr_valid(uint64_t buffer, uint32_t size, uint32_t level) {
  constexpr uint32_t kKnownLevels = 15;  // BPF_LOG_LEVEL1 | LEVEL2 | STATS | FIXED
  return (buffer != 0) == (size != 0) && (buffer == 0 || level != 0) && (level & ~kKnownLevels) == 0 &&
         size <= UINT32_MAX >> 2;
}

// errno for a descriptor that is not what it should be: -1 stands for a number that is not open at all.
inline int wrong_fd(int fd) { return fd < 0 ? EBADF : EINVAL; }

inline constexpr size_t offset_after(size_t offset, size_t size) { return offset + size; }

}  // namespace bpftime::kernel
