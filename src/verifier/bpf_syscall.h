// bpf(2) itself, without libbpf: the verifier links nothing.
#pragma once

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace bpftime::verifier {

// bpf_attr as newer kernels know it: the installed header may end before fields we want. Zero-filled; the
// kernel ignores zero bytes it does not know.
struct LongAttr {
  union {
    bpf_attr attr;
    uint8_t raw[256];
  };
  LongAttr() { std::memset(raw, 0, sizeof(raw)); }

  // PROG_LOAD: the u32 after core_relo_rec_size, written by Linux 6.4 and newer.
  uint32_t log_true_size() const {
    uint32_t size;
    std::memcpy(&size, raw + kLogTrueSizeOffset, sizeof(size));
    return size;
  }

 private:
  static constexpr size_t kLogTrueSizeOffset = offsetof(bpf_attr, core_relo_rec_size) + sizeof(uint32_t);
  static_assert(kLogTrueSizeOffset == 140);
};
static_assert(sizeof(bpf_attr) <= 256);

// -1 with errno, or what the command returns.
inline int bpf_call(int command, LongAttr& attr, uint32_t size = sizeof(bpf_attr)) {
  return static_cast<int>(syscall(__NR_bpf, command, attr.raw, size));
}

inline uint64_t to_pointer(const void* memory) { return reinterpret_cast<uint64_t>(memory); }

// Object names: what the kernel takes (alphanumeric, '_', '.'), cut to 15; other characters become '_'.
inline void set_name(char (&field)[BPF_OBJ_NAME_LEN], std::string_view name) {
  size_t i = 0;
  for (; i < name.size() && i + 1 < sizeof(field); ++i) {
    const char c = name[i];
    const bool allowed =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.';
    field[i] = allowed ? c : '_';
  }
  field[i] = 0;
}

}  // namespace bpftime::verifier
