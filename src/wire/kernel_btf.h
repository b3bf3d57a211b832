// What stands for the kernel's types where there are none to be read: clients' libbpf splits a host's BTF from it, so the daemon,
// which makes that, and the client must mean the same bytes. One type, `int`: libbpf refuses a BTF without any.
#pragma once

#include <linux/btf.h>

#include <cstdint>
#include <string_view>

namespace bpftime::wire {

inline constexpr std::string_view kKernelBtfPath = "/sys/kernel/btf/vmlinux";

struct KernelBtfStandIn {
  btf_header header{BTF_MAGIC, BTF_VERSION, 0, sizeof(btf_header), 0, 16, 16, 5};
  btf_type type{1, BTF_KIND_INT << 24, {4}};
  uint32_t encoding = BTF_INT_SIGNED << 24 | 32;
  char strings[5] = {'\0', 'i', 'n', 't', '\0'};
  char padding[3] = {};  // behind the end; not served

  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(this), sizeof *this - sizeof padding};
  }
};
static_assert(sizeof(KernelBtfStandIn) == 48);
inline constexpr KernelBtfStandIn kKernelBtfStandIn;

}  // namespace bpftime::wire
