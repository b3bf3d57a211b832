// The few memory primitives of the map core: word-wise copies and compares, relaxed and ordered atomics,
// 16-byte CAS. Freestanding: no libc, general registers only.
#pragma once

#include <stddef.h>
#include <stdint.h>

// On what programs call and a constant MapSpec folds to a few instructions: must be inlined
// into each program.
#define BPFTIME_MAPS_FOLD inline __attribute__((always_inline))
// What they seldom come to: kept out of their way.
#define BPFTIME_MAPS_COLD inline __attribute__((noinline, cold))

namespace bpftime::maps {

// Linux errno numbers; the core cannot include <errno.h> everywhere it is compiled.
inline constexpr int64_t kErrNoEntry = 2, kErrTooBig = 7, kErrAgain = 11, kErrNoMemory = 12, kErrBusy = 16,
                         kErrExists = 17, kErrInvalid = 22, kErrNoSpace = 28, kErrBadMessage = 74,
                         kErrOpNotSupported = 95,
                         kErrNotSupported = 524;  // the kernel's own ENOTSUPP, which bpf(2) lets through

// enum bpf_map_type, update flags and map flags of <linux/bpf.h>, those in use here.
inline constexpr uint32_t kTypeHash = 1, kTypeArray = 2, kTypeProgArray = 3, kTypePerfEventArray = 4,
                          kTypePercpuHash = 5, kTypePercpuArray = 6, kTypeStackTrace = 7,
                          kTypeCgroupArray = 8, kTypeLruHash = 9, kTypeLruPercpuHash = 10, kTypeLpmTrie = 11,
                          kTypeArrayOfMaps = 12, kTypeHashOfMaps = 13, kTypeQueue = 22, kTypeStack = 23,
                          kTypeRingbuf = 27, kTypeBloomFilter = 30, kTypeUserRingbuf = 31;
inline constexpr uint64_t kUpdateAny = 0, kUpdateNoExist = 1, kUpdateExist = 2, kUpdateLock = 4;
inline constexpr uint32_t kFlagNoPrealloc = 1, kFlagNoCommonLru = 1u << 1, kFlagNumaNode = 1u << 2,
                          kFlagReadOnly = 1u << 3, kFlagWriteOnly = 1u << 4, kFlagZeroSeed = 1u << 6,
                          kFlagReadOnlyProgram = 1u << 7, kFlagWriteOnlyProgram = 1u << 8,
                          kFlagMmapable = 1u << 10, kFlagPreserveElements = 1u << 11,
                          kFlagInnerMap = 1u << 12;
inline constexpr uint32_t kFlagsAccess =
    kFlagReadOnly | kFlagWriteOnly | kFlagReadOnlyProgram | kFlagWriteOnlyProgram;

inline constexpr uint64_t kPage = 4096;

constexpr uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) & ~(to - 1); }
constexpr uint64_t power_of_two_at_least(uint64_t value) {
  uint64_t power = 1;
  while (power < value) power <<= 1;
  return power;
}

// ---- atomics: every access to shared words goes through these, so that a racing peer means a stale value,
// not UB ----
template <typename T>
BPFTIME_MAPS_FOLD T load_relaxed(const T* at) {
  return __atomic_load_n(at, __ATOMIC_RELAXED);
}
template <typename T>
BPFTIME_MAPS_FOLD T load_acquire(const T* at) {
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
template <typename T>
BPFTIME_MAPS_FOLD void store_relaxed(T* at, T value) {
  __atomic_store_n(at, value, __ATOMIC_RELAXED);
}
template <typename T>
BPFTIME_MAPS_FOLD void store_release(T* at, T value) {
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
}
template <typename T>
BPFTIME_MAPS_FOLD bool compare_exchange(T* at, T expected, T desired) {
  return __atomic_compare_exchange_n(at, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

// ThreadSanitizer does not see what assembly orders: it is told.
#if defined(__SANITIZE_THREAD__)
#define BPFTIME_MAPS_TSAN(what) what
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BPFTIME_MAPS_TSAN(what) what
#endif
#endif
#ifdef BPFTIME_MAPS_TSAN
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#else
#define BPFTIME_MAPS_TSAN(what)
#endif

// Two words changed as one. The type is 16-byte aligned because lock cmpxchg16b faults otherwise.
struct alignas(16) WordPair {
  uint64_t low;
  uint64_t high;
};
// Returns true when `*at` was `expected` and is now `desired`; else `expected` receives what was there
// (one atomic read).
BPFTIME_MAPS_FOLD bool compare_exchange_pair(WordPair* at, WordPair& expected, WordPair desired) {
  bool done;
  BPFTIME_MAPS_TSAN(__tsan_release(at));
  __asm__ __volatile__("lock cmpxchg16b %1"
                       : "=@ccz"(done), "+m"(*at), "+a"(expected.low), "+d"(expected.high)
                       : "b"(desired.low), "c"(desired.high)
                       : "memory");
  BPFTIME_MAPS_TSAN(__tsan_acquire(at));
  return done;
}

// ---- copies. The map's side is 8-byte aligned and padded to words; the caller's side may be unaligned
// and exact ----
BPFTIME_MAPS_FOLD uint64_t read_word(const void* from) {
  uint64_t word;
  __builtin_memcpy(&word, from, 8);
  return word;
}
BPFTIME_MAPS_FOLD void write_word(void* to, uint64_t word) { __builtin_memcpy(to, &word, 8); }

// The last `size % 8` bytes of a caller's buffer as a zero-extended word; reads nothing behind its end.
BPFTIME_MAPS_FOLD uint64_t read_tail(const uint8_t* from, uint32_t bytes) {
  uint64_t word = 0;
  uint32_t at = 0;
  if (bytes & 4) {
    uint32_t part;
    __builtin_memcpy(&part, from, 4);
    word = part;
    at = 4;
  }
  if (bytes & 2) {
    uint16_t part;
    __builtin_memcpy(&part, from + at, 2);
    word |= uint64_t{part} << (8 * at);
    at += 2;
  }
  if (bytes & 1) word |= uint64_t{from[at]} << (8 * at);
  return word;
}

// Caller's buffer of `size` bytes into the map's words; the padding of the last word becomes zero.
BPFTIME_MAPS_FOLD void copy_in_padded(uint64_t* to, const void* from, uint32_t size) {
  const uint8_t* bytes = static_cast<const uint8_t*>(from);
  uint32_t words = size / 8;
  for (uint32_t i = 0; i < words; i++) store_relaxed(&to[i], read_word(bytes + uint64_t{i} * 8));
  if (size % 8 != 0) store_relaxed(&to[words], read_tail(bytes + uint64_t{words} * 8, size % 8));
}

// The same between buffers that both are exactly `size` bytes (ring payloads, array values: bytes behind
// are not ours).
BPFTIME_MAPS_FOLD void copy_bytes(void* to, const void* from, uint64_t size) {
  uint8_t* out = static_cast<uint8_t*>(to);
  const uint8_t* in = static_cast<const uint8_t*>(from);
  uint64_t at = 0;
  for (; at + 8 <= size; at += 8) write_word(out + at, read_word(in + at));
  if (size & 4) {
    uint32_t part;
    __builtin_memcpy(&part, in + at, 4);
    __builtin_memcpy(out + at, &part, 4);
    at += 4;
  }
  if (size & 2) {
    uint16_t part;
    __builtin_memcpy(&part, in + at, 2);
    __builtin_memcpy(out + at, &part, 2);
    at += 2;
  }
  if (size & 1) out[at] = in[at];
}

// The map's words to a caller's buffer of `size` bytes.
BPFTIME_MAPS_FOLD void copy_out(void* to, const uint64_t* from, uint32_t size) {
  uint8_t* bytes = static_cast<uint8_t*>(to);
  uint32_t words = size / 8;
  for (uint32_t i = 0; i < words; i++) write_word(bytes + uint64_t{i} * 8, load_relaxed(&from[i]));
  if (size % 8 == 0) return;
  const uint64_t last = load_relaxed(&from[words]);  // whole: others may be writing it
  copy_bytes(bytes + uint64_t{words} * 8, &last, size % 8);
}

// Any total order of keys will do. Returns <0, 0, >0 for stored key (padded words) against the caller's key.
BPFTIME_MAPS_FOLD int compare_key(const uint64_t* stored, const void* key, uint32_t size) {
  const uint8_t* bytes = static_cast<const uint8_t*>(key);
  uint32_t words = size / 8;
  for (uint32_t i = 0; i < words; i++) {
    uint64_t a = load_relaxed(&stored[i]), b = read_word(bytes + uint64_t{i} * 8);
    if (a != b) return a < b ? -1 : 1;
  }
  if (size % 8 != 0) {
    uint64_t a = load_relaxed(&stored[words]), b = read_tail(bytes + uint64_t{words} * 8, size % 8);
    if (a != b) return a < b ? -1 : 1;
  }
  return 0;
}

// Multiply-and-fold over the key's words (the mixing step of wyhash); 4, 8 and 16 byte keys cost one
// to two multiplies.
BPFTIME_MAPS_FOLD uint64_t mix(uint64_t a, uint64_t b) {
  unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}
BPFTIME_MAPS_FOLD uint32_t hash_key(const void* key, uint32_t size) {
  constexpr uint64_t kSecret0 = 0xa0761d6478bd642f, kSecret1 = 0xe7037ed1a0b428db;
  const uint8_t* bytes = static_cast<const uint8_t*>(key);
  uint64_t state = kSecret0 ^ size;
  uint32_t words = size / 8;
  for (uint32_t i = 0; i < words; i++) state = mix(state ^ read_word(bytes + uint64_t{i} * 8), kSecret1);
  if (size % 8 != 0) state = mix(state ^ read_tail(bytes + uint64_t{words} * 8, size % 8), kSecret1);
  return static_cast<uint32_t>(state ^ (state >> 32));
}

}  // namespace bpftime::maps
