// What a helper may use. inlined.cc becomes LLVM bitcode that is optimised with each program, called.cc an
// object that is linked to it.
//
// Rules for whoever edits src/helpers/runtime:
//  1. It runs inside strangers' processes, on their stacks, at any instruction: general registers only, no
//     libc, no locks, no globals but the constants below, little stack (wire::kProgramStackMax covers
//     program and helpers).
//  2. A helper is `BPFTIME_HELPER_FUNCTION(name)`: r1..r5 as the program passed them and the Invocation; r0
//     comes back. Pointers to BPF stack, maps and read-only data were proved good by the verifier. Everything
//     else is hostile.
//  3. No system call unless may_call_system(); the target may have a seccomp filter that kills.
//  4. Whatever the target's context says may be stale, never wrong enough to fault: the daemon checked it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "wire/invocation.h"
#include "wire/object.h"
#include "wire/target_context.h"

namespace bpftime::runtime {

// A map as compiled code sees it: the address of one of these constants, which the optimiser folds
// into the code.
struct MapRef {
  uint8_t* base;
  wire::MapSpec spec;
};

// Hidden: everything ends in one image, reached without a GOT.
#pragma GCC visibility push(hidden)

// Defined by the compiler, per program.
extern "C" {
extern const uint64_t bpftime_context_address;
extern const MapRef bpftime_trace_ring;  // base == nullptr: none
const MapRef* bpftime_ring_of(
    const void* record);  // which ring of the program's a reserved record lies in, or nullptr
}

#define BPFTIME_HELPER_FUNCTION(name)                                                                   \
  extern "C" uint64_t bpftime_helper_##name([[maybe_unused]] uint64_t r1, [[maybe_unused]] uint64_t r2, \
                                            [[maybe_unused]] uint64_t r3, [[maybe_unused]] uint64_t r4, \
                                            [[maybe_unused]] uint64_t r5,                               \
                                            [[maybe_unused]] const bpftime::wire::Invocation* invocation)

inline constexpr int64_t kEperm = 1, kEnoent = 2, kE2big = 7, kEagain = 11, kEfault = 14, kEinval = 22,
                         kEopnotsupp = 95;

inline wire::TargetContext* context() {
  return reinterpret_cast<wire::TargetContext*>(bpftime_context_address);
}
// A word of the context that no program changes, at `offset`: read once per program, whatever it stores meanwhile. The
// optimiser would read it again after every store.
template <uint64_t offset>
inline uint64_t context_word() {
  uint64_t value;
  asm("movq %c2(%1), %0" : "=r"(value) : "r"(context()), "i"(offset));
  return value;
}
inline wire::TargetIdentity* identity() {
  return reinterpret_cast<wire::TargetIdentity*>(bpftime_context_address + wire::kIdentityOffset);
}

template <typename T = void>
inline T* pointer(uint64_t value) {
  return reinterpret_cast<T*>(value);
}

inline bool may_call_system() { return (context()->flags & wire::kNoSystemCalls) == 0; }

inline int64_t system_call(int64_t number, uint64_t a1 = 0, uint64_t a2 = 0, uint64_t a3 = 0) {
  int64_t result;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a1), "S"(a2), "d"(a3) : "rcx", "r11", "memory");
  return result;
}
inline constexpr int64_t kSysGetpid = 39, kSysGetuid = 102, kSysGetgid = 104, kSysPrctl = 157,
                         kSysGettid = 186, kSysFutex = 202, kSysClockGettime = 228;

// Thread-local memory of libc, at a known distance from the thread pointer. Not volatile: read once per
// program is right for a thread id, and for the CPU too (the kernel does not migrate running programs).
template <int displacement = 0>
inline uint32_t thread_word(int64_t offset) {
  uint32_t value;
  asm("movl %%fs:%c2(%1), %0" : "=r"(value) : "r"(offset), "i"(displacement));
  return value;
}

// What libc keeps of the thread; 0: it is not known where.
inline uint32_t libc_tid() {
  const int32_t offset = context()->tid_offset;
  return offset != 0 ? thread_word(offset) : 0;
}

// 0: not known without asking the kernel, as in a child that has its parent's memory.
inline uint32_t known_tid() { return identity()->memory_shared == 0 ? libc_tid() : 0; }
inline uint32_t known_tgid() { return identity()->memory_shared == 0 ? identity()->tgid : 0; }

uint32_t current_cpu();
uint32_t current_tid();
uint32_t current_tgid();
int64_t current_comm(char comm[16]);  // 0, or -EPERM and zeroes

// Reads of addresses the program made up. 0 / length, or -EFAULT with `destination` zeroed.
int64_t read_memory(void* destination, uint64_t size, uint64_t address);
int64_t read_string(char* destination, uint64_t size, uint64_t address);
// The reverse. 0, or -EFAULT with the bytes before the fault written.
int64_t write_memory(uint64_t address, const void* source, uint64_t size);

extern "C" {
// In called.cc.
int64_t bpftime_hash_update(const MapRef* map, const void* key, const void* value, uint64_t flags);
int64_t bpftime_hash_remove(const MapRef* map, const void* key);
// The same for every type.
void* bpftime_map_lookup(const MapRef* map, const void* key);
int64_t bpftime_map_update(const MapRef* map, const void* key, const void* value, uint64_t flags);
int64_t bpftime_map_remove(const MapRef* map, const void* key);
// What the kernel knows, where memory does not.
uint32_t bpftime_slow_tid();
uint32_t bpftime_slow_tgid();
// What ring.h does at once in most cases, in the others.
void* bpftime_ring_reserve(const MapRef* ring, uint64_t size, uint64_t flags);
void bpftime_ring_commit_rest(const MapRef* ring, uint64_t flags, uint64_t start, uint64_t end,
                              uint32_t ticket);
void bpftime_wake(uint32_t* word);  // everyone who sleeps on it, in any process
uint64_t bpftime_clock(
    int clock);  // the kernel's; 0: it cannot be read without a system call that is not allowed
uint64_t bpftime_slow_clock(int clock);  // the same, and a new line for clock.h
// What the code generator calls for copies too long to unroll; also what __builtin_memset and
// friends become here.
void* bpftime_memcpy(void* destination, const void* source, uint64_t size);
void* bpftime_memmove(void* destination, const void* source, uint64_t size);
void* bpftime_memset(void* destination, int value, uint64_t size);
}

#pragma GCC visibility pop

}  // namespace bpftime::runtime
