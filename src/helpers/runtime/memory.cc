// Copies without string instructions (their direction flag belongs to the host) and without vector registers.
#include "helpers/runtime/runtime.h"

namespace {

struct __attribute__((packed)) Word {
  uint64_t value;
};
struct __attribute__((packed)) FourWords {
  uint64_t values[4];
};

}  // namespace

extern "C" {

void* bpftime_memcpy(void* destination, const void* source, uint64_t size) {
  auto* to = static_cast<uint8_t*>(destination);
  const auto* from = static_cast<const uint8_t*>(source);
  // Each word is stored before the next is loaded: right also where the source overlaps from above.
  for (; size >= sizeof(FourWords);
       size -= sizeof(FourWords), to += sizeof(FourWords), from += sizeof(FourWords)) {
    for (int i = 0; i < 4; i++) {
      reinterpret_cast<FourWords*>(to)->values[i] = reinterpret_cast<const FourWords*>(from)->values[i];
    }
  }
  for (; size >= sizeof(Word); size -= sizeof(Word), to += sizeof(Word), from += sizeof(Word)) {
    reinterpret_cast<Word*>(to)->value = reinterpret_cast<const Word*>(from)->value;
  }
  for (; size > 0; size--) *to++ = *from++;
  return destination;
}

void* bpftime_memmove(void* destination, const void* source, uint64_t size) {
  auto* to = static_cast<uint8_t*>(destination);
  const auto* from = static_cast<const uint8_t*>(source);
  if (reinterpret_cast<uint64_t>(to) - reinterpret_cast<uint64_t>(from) >= size) {
    return bpftime_memcpy(destination, source, size);
  }
  for (; size >= sizeof(Word); size -= sizeof(Word)) {
    reinterpret_cast<Word*>(to + size - sizeof(Word))->value =
        reinterpret_cast<const Word*>(from + size - sizeof(Word))->value;
  }
  for (; size > 0; size--) to[size - 1] = from[size - 1];
  return destination;
}

void* bpftime_memset(void* destination, int value, uint64_t size) {
  auto* to = static_cast<uint8_t*>(destination);
  const uint64_t word = 0x0101010101010101u * static_cast<uint8_t>(value);
  for (; size >= sizeof(Word); size -= sizeof(Word), to += sizeof(Word))
    reinterpret_cast<Word*>(to)->value = word;
  for (; size > 0; size--) *to++ = static_cast<uint8_t>(value);
  return destination;
}

}  // extern "C"
