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
inline constexpr uint64_t kWindowBase = 0x110000000000;  // above AddressSanitizer's shadow
inline constexpr uint64_t kWindowSize = uint64_t{1} << 36;
inline constexpr uint32_t kWindowCount = 1024;
constexpr uint64_t window_address(uint32_t uid) {
  return kWindowBase + uint64_t{(uid * 2654435761u) >> 22} * kWindowSize;
}

}  // namespace bpftime::wire
