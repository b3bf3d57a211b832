// A load of, or a store to, an address the program made up, in a few instructions: a fault skips it (wire/checked_load.h).
#pragma once

#include "helpers/runtime/runtime.h"
#include "wire/checked_load.h"

namespace bpftime::runtime {

inline constexpr uint64_t kTaskSize = 0x7ffffffff000;  // TASK_SIZE_MAX: user addresses end here

// Whether somebody is there to repair faults; without that nothing is read.
inline bool faults_are_repaired() { return __builtin_expect(context()->safe_copy != 0, 1); }

// T: 1, 2, 4 or 8 bytes. 0, or -EFAULT with `value` zero.
template <typename T>
inline int64_t load_checked(uint64_t address, T& value) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t loaded = 0;
  int64_t error = -kEfault;
  if (__builtin_expect(address < kTaskSize && faults_are_repaired(), 1)) {
    // The last instruction of the skipped part clears the error.
#define BPFTIME_LOAD(instruction)                                                            \
  asm volatile(BPFTIME_CHECKED_LOAD_MARK("2f - 1f") "1: " instruction "\n xorl %k1, %k1\n2:" \
               : "+r"(loaded), "+r"(error)                                                   \
               : "r"(address)                                                                \
               : "memory", "cc")
    if constexpr (sizeof(T) == 1) BPFTIME_LOAD("movzbl (%2), %k0");
    if constexpr (sizeof(T) == 2) BPFTIME_LOAD("movzwl (%2), %k0");
    if constexpr (sizeof(T) == 4) BPFTIME_LOAD("movl (%2), %k0");
    if constexpr (sizeof(T) == 8) BPFTIME_LOAD("movq (%2), %0");
#undef BPFTIME_LOAD
  }
  value = static_cast<T>(loaded);
  return error;
}

// The same for who asks no questions: zero where nothing can be read. One instruction: neither volatile nor a clobber of all
// memory, so that loops keep what they hold in registers and look once at what never changes; no comparison with kTaskSize,
// since what lies behind it faults as well; and nobody asks whether faults are repaired, because a program with such loads
// (MachineCode::repairs_faults) is put only where they are.
template <typename T>
inline uint64_t load_or_zero(uint64_t address) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t loaded;
#define BPFTIME_LOAD(instruction) \
  asm(BPFTIME_ZERO_LOAD_PREFIX instruction : "=r"(loaded) : "m"(*reinterpret_cast<const T*>(address)))
  if constexpr (sizeof(T) == 1) BPFTIME_LOAD("movzbl %1, %k0");
  if constexpr (sizeof(T) == 2) BPFTIME_LOAD("movzwl %1, %k0");
  if constexpr (sizeof(T) == 4) BPFTIME_LOAD("movl %1, %k0");
  if constexpr (sizeof(T) == 8) BPFTIME_LOAD("movq %1, %0");
#undef BPFTIME_LOAD
  if constexpr (sizeof(T) < 4) __builtin_assume(loaded <= static_cast<T>(-1));  // nobody need cut it again
  return loaded;
}

// The reverse. 0, or -EFAULT with nothing written.
template <typename T>
inline int64_t store_checked(uint64_t address, const void* source) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);
  T value;
  __builtin_memcpy(&value, source, sizeof value);
  int64_t error = -kEfault;
  if (__builtin_expect(address < kTaskSize && faults_are_repaired(), 1)) {
#define BPFTIME_STORE(instruction)                                                           \
  asm volatile(BPFTIME_CHECKED_LOAD_MARK("2f - 1f") "1: " instruction "\n xorl %k0, %k0\n2:" \
               : "+r"(error)                                                                 \
               : "r"(static_cast<uint64_t>(value)), "r"(address)                             \
               : "memory", "cc")
    if constexpr (sizeof(T) == 1) BPFTIME_STORE("movb %b1, (%2)");
    if constexpr (sizeof(T) == 2) BPFTIME_STORE("movw %w1, (%2)");
    if constexpr (sizeof(T) == 4) BPFTIME_STORE("movl %k1, (%2)");
    if constexpr (sizeof(T) == 8) BPFTIME_STORE("movq %1, (%2)");
#undef BPFTIME_STORE
  }
  return error;
}

}  // namespace bpftime::runtime
