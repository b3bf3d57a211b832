// System calls without libc: results are the kernel's, -errno included.
#pragma once

#include <stdint.h>

namespace bpftime::agent {

inline long system_call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
               : "rcx", "r11", "memory");
  return result;
}

template <typename T>
long system_argument(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

// The thread pointer. glibc and musl both keep it at its own address.
inline uint64_t thread_pointer() {
  uint64_t value;
  asm("mov %%fs:0, %0" : "=r"(value));
  return value;
}

}  // namespace bpftime::agent
