// What every structure shared between processes starts with, and where things lie in a target's address space.
// Rules for whoever edits src/wire:
//  1. Freestanding: only <stdint.h>/<stddef.h>; no constructors, no virtuals, no pointers. Sizes and offsets asserted.
//  2. A change of layout or meaning raises kAbiVersion. A daemon must still be able to detach agents of older versions:
//     fields of TargetContext up to and including `patches` never move.
//  3. Readers treat every field as hostile: copy it, then check the copy.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::wire {

inline constexpr uint32_t kMagic = 0x66707462;  // "btpf"
inline constexpr uint16_t kAbiVersion = 5;
inline constexpr uint16_t kArchX86_64 = 62;  // EM_X86_64

struct SharedHeader {
  uint32_t magic;
  uint16_t abi_version;
  uint16_t arch;
  uint64_t size;  // bytes of the whole structure

  constexpr bool matches(uint64_t expected_size) const {
    return magic == kMagic && abi_version == kAbiVersion && arch == kArchX86_64 && size == expected_size;
  }
};
static_assert(sizeof(SharedHeader) == 16);

// Each user's daemon owns one 64 GiB window of target address space, between the usual places of executables (0x4000000,
// 0x55…) and libraries (0x7f…). Programs are compiled against fixed addresses in it, so one piece of code serves all targets.
// All windows together are the 16 TiB that nobody else wants: the shadow and the heap of every sanitizer lie outside
// (docs/decisions/0001), and where V8 draws its addresses from ends below.
inline constexpr uint64_t kWindowBase = 0x400000000000;
inline constexpr uint64_t kWindowSize = uint64_t{1} << 36;
inline constexpr uint32_t kWindowCount = 256;
inline constexpr uint64_t kWindowsEnd = kWindowBase + kWindowCount * kWindowSize;
constexpr uint64_t window_address(uint32_t uid) {
  return kWindowBase + uint64_t{(uid * 2654435761u) >> 24} * kWindowSize;
}

}  // namespace bpftime::wire
