// One source for BPF and x86-64 (workloads.h). ENGINE_PREFIX keeps the native builds apart.
#include "engine/workloads.h"

#ifdef __bpf__
// A section per workload: what lies in it is one program, local functions included, without relocations.
#define WORKLOAD(name) \
  __attribute__((section(#name "/entry"), used)) uint64_t name(const struct engine_input* input)
#define LOCAL(name) __attribute__((section(#name "/entry"), noinline)) static
#define MAP_LOOKUP ((void* (*)(const void*, const void*))1)
extern const char array;  // the only reference outside a section: engine_bench.cc puts the map there
#else
#define ENGINE_JOIN2(a, b) a##b
#define ENGINE_JOIN(a, b) ENGINE_JOIN2(a, b)
#define WORKLOAD(name) uint64_t ENGINE_JOIN(ENGINE_PREFIX, name)(const struct engine_input* input)
#define LOCAL(name) __attribute__((noinline)) static
#endif

WORKLOAD(log2_words) {
  const uint32_t* words = (const uint32_t*)input->memory;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < input->size; i++) {
    uint32_t v = words[i], r, shift;
    r = (v > 0xffff) << 4;
    v >>= r;
    shift = (v > 0xff) << 3;
    v >>= shift;
    r |= shift;
    shift = (v > 0xf) << 2;
    v >>= shift;
    r |= shift;
    shift = (v > 0x3) << 1;
    v >>= shift;
    r |= shift;
    sum += r | (v >> 1);
  }
  return sum;
}

WORKLOAD(prime) {
  uint64_t count = 0;
  for (uint64_t n = 2; n < input->size; n++) {
    uint64_t d = 2;
    while (d * d <= n && n % d != 0) d++;
    count += d * d > n;
  }
  return count;
}

WORKLOAD(copy_bytes) {
  const uint8_t* from = input->memory;
  uint8_t* to = input->memory + ENGINE_MEMORY_SIZE / 2;
  const uint64_t size = input->size;  // the bytes written might be input's own, for all clang knows
  for (uint64_t i = 0; i < size; i++) to[i] = from[i];
  return to[size - 1];
}

WORKLOAD(compare_strings) {
  // The bytes and, after them, their copy: equal to the end.
  const uint8_t *a = input->memory, *b = input->memory + ENGINE_MEMORY_SIZE / 2;
  uint64_t i = 0;
  while (i < input->size && a[i] == b[i]) i++;
  return i == input->size ? 0 : (uint64_t)a[i] - b[i];
}

// Bodies that no table of constants can replace.
#define CASE1(n)                                        \
  case (n):                                             \
    x += 0x9e3779b9u * (uint64_t)(n) + (x >> 3);        \
    break;                                              \
  case (n) + 1:                                         \
    x ^= x << ((n) % 13 + 1);                           \
    break;                                              \
  case (n) + 2:                                         \
    x = x * (2 * (n) + 3) + 1;                          \
    break;                                              \
  case (n) + 3:                                         \
    x = (x >> ((n) % 29 + 1)) | (x << (63 - (n) % 29)); \
    break;
#define CASE4(n) CASE1(n) CASE1((n) + 4) CASE1((n) + 8) CASE1((n) + 12)
#define CASE16(n) CASE4(n) CASE4((n) + 16) CASE4((n) + 32) CASE4((n) + 48)

WORKLOAD(switch_256) {
  const uint8_t* bytes = input->memory;
  uint64_t x = 1;
  for (uint64_t i = 0; i < input->size; i++) {
    switch (bytes[i]) {
      CASE16(0)
      CASE16(64)
      CASE16(128)
      CASE16(192)
    }
  }
  return x;
}

WORKLOAD(checksum) {
  const uint16_t* words = (const uint16_t*)input->memory;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < input->size / 2; i++) sum += words[i];
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

WORKLOAD(binary_search) {
  const uint32_t* keys = (const uint32_t*)input->memory;
  uint64_t found = 0;
  for (uint64_t i = 0; i < input->size; i++) {
    const uint64_t wanted = (i * 2654435761u) & 0xffffffff;
    uint64_t low = 0, high = 1024;
    while (low < high) {
      const uint64_t middle = (low + high) / 2;
      if (keys[middle] < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    found += low;
  }
  return found;
}

WORKLOAD(fibonacci) {
  uint64_t a = 0, b = 1;
  for (uint64_t i = 0; i < input->size; i++) {
    const uint64_t next = a + b;
    a = b;
    b = next ^ (a >> 60);
  }
  return a;
}

static inline uint64_t big16(const uint8_t* at) { return (uint64_t)at[0] << 8 | at[1]; }
static inline uint64_t big32(const uint8_t* at) { return big16(at) << 16 | big16(at + 2); }

// 64 packets of 64 bytes; their types come from the memory's own bytes.
WORKLOAD(parse_packets) {
  uint64_t result = 0;
  for (uint64_t i = 0; i < input->size; i++) {
    const uint8_t *packet = input->memory + i * 64, *end = packet + 64;
    const uint8_t* ip = packet + 14;
    uint64_t type = big16(packet + 12) & 3;
    if (type == 3) {  // a VLAN tag
      ip += 4;
      type = big16(packet + 16) & 1;
    }
    if (type == 2) {
      result += 1;
      continue;
    }
    const uint8_t* transport;
    uint64_t protocol;
    if (type == 0) {
      const uint64_t words = ip[0] & 0xf;
      if (words < 5) {
        result += 3;
        continue;
      }
      transport = ip + words * 4;
      protocol = ip[9] & 1;
      result ^= big32(ip + 12) + big32(ip + 16);
    } else {
      transport = ip + 24;
      protocol = ip[6] & 1;
      for (int word = 0; word < 4; word++) result ^= big32(ip + 8 + word * 4);
    }
    if (protocol == 0) {
      if (transport + 20 > end) continue;
      result += big16(transport) * 31 + big16(transport + 2) + ((transport[13] & 2) != 0);
    } else {
      if (transport + 8 > end) continue;
      result += big16(transport) * 17 + big16(transport + 4);
    }
  }
  return result;
}

WORKLOAD(dense_branches) {
  const uint8_t* bytes = input->memory;
  uint64_t words = 0, numbers = 0, lines = 0, other = 0, inside = 0;
  for (uint64_t i = 0; i < input->size; i++) {
    const uint8_t c = bytes[i] & 0x7f;
    if (c == '\n' || c == '\r') {
      lines++;
      inside = 0;
    } else if (c == ' ' || c == '\t') {
      inside = 0;
    } else if (c >= '0' && c <= '9') {
      if (inside != 2) numbers++;
      inside = 2;
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_') {
      if (inside == 0) words++;
      inside = 1;
    } else {
      other += c > 0x40 ? 2 : 1;
      inside = 0;
    }
  }
  return words + (numbers << 12) + (lines << 24) + (other << 36);
}

WORKLOAD(helper_calls) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < input->size; i++) {
    uint32_t key = (uint32_t)i & 1023;
#ifdef __bpf__
    uint64_t* value = MAP_LOOKUP(&array, &key);
#else
    uint64_t* values = (uint64_t*)input->memory;
    uint64_t* value = key < ENGINE_MEMORY_SIZE / 8 ? &values[key] : 0;
#endif
    if (!value) return 0;
    *value += i;
    sum += *value;
  }
  return sum;
}

// A program starts with its section, so the functions it calls come after it.
LOCAL(local_calls) uint64_t mix(uint64_t a, uint64_t b);
LOCAL(local_calls) uint64_t twice(uint64_t a, const uint8_t* bytes);
WORKLOAD(local_calls) {
  uint64_t x = 1;
  for (uint64_t i = 0; i < input->size / 2; i++) x = twice(x + i, input->memory);
  return x;
}

LOCAL(local_calls) uint64_t mix(uint64_t a, uint64_t b) {
  a ^= b << 7;
  return a * 0x9e3779b97f4a7c15u + (b >> 3);
}
LOCAL(local_calls) uint64_t twice(uint64_t a, const uint8_t* bytes) {
  return mix(a, bytes[a & 255]) ^ mix(bytes[(a >> 8) & 255], a);
}
