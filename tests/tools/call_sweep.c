// Walks through what bad calls of bpf(2) and perf_event_open(2) can look like, instead of picking some: each command with
// descriptors of each kind, with attrs of each length and with a stray byte at each place; each type of map with each flag
// and sizes that cannot be; each operation on elements with pointers and flags that make no sense. One line per answer. Run
// on the kernel and under `bpftime load` it must print the same.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "map_kinds.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void say(const char* of, const char* what, unsigned long long which, long result) {
  const char* name = result >= 0 ? "0" : errno == 524 ? "ENOTSUPP" : strerrorname_np(errno);
  printf("%s: %s %llx: %s\n", of, what, which, name ? name : "?");
}
static long bpf(int command, const void* attr, unsigned size) {
  errno = 0;
  return syscall(SYS_bpf, command, attr, size);
}

static const struct command {
  const char* name;
  int number;
} commands[] = {
    {"MAP_CREATE", BPF_MAP_CREATE},
    {"MAP_LOOKUP_ELEM", BPF_MAP_LOOKUP_ELEM},
    {"MAP_UPDATE_ELEM", BPF_MAP_UPDATE_ELEM},
    {"MAP_DELETE_ELEM", BPF_MAP_DELETE_ELEM},
    {"MAP_GET_NEXT_KEY", BPF_MAP_GET_NEXT_KEY},
    {"PROG_LOAD", BPF_PROG_LOAD},
    {"OBJ_PIN", BPF_OBJ_PIN},
    {"OBJ_GET", BPF_OBJ_GET},
    {"PROG_TEST_RUN", BPF_PROG_TEST_RUN},
    {"PROG_GET_NEXT_ID", BPF_PROG_GET_NEXT_ID},
    {"MAP_GET_NEXT_ID", BPF_MAP_GET_NEXT_ID},
    {"PROG_GET_FD_BY_ID", BPF_PROG_GET_FD_BY_ID},
    {"MAP_GET_FD_BY_ID", BPF_MAP_GET_FD_BY_ID},
    {"OBJ_GET_INFO_BY_FD", BPF_OBJ_GET_INFO_BY_FD},
    {"RAW_TRACEPOINT_OPEN", BPF_RAW_TRACEPOINT_OPEN},
    {"BTF_LOAD", BPF_BTF_LOAD},
    {"BTF_GET_FD_BY_ID", BPF_BTF_GET_FD_BY_ID},
    {"TASK_FD_QUERY", BPF_TASK_FD_QUERY},
    {"MAP_LOOKUP_AND_DELETE_ELEM", BPF_MAP_LOOKUP_AND_DELETE_ELEM},
    {"MAP_FREEZE", BPF_MAP_FREEZE},
    {"BTF_GET_NEXT_ID", BPF_BTF_GET_NEXT_ID},
    {"MAP_LOOKUP_BATCH", BPF_MAP_LOOKUP_BATCH},
    {"MAP_LOOKUP_AND_DELETE_BATCH", BPF_MAP_LOOKUP_AND_DELETE_BATCH},
    {"MAP_UPDATE_BATCH", BPF_MAP_UPDATE_BATCH},
    {"MAP_DELETE_BATCH", BPF_MAP_DELETE_BATCH},
    {"LINK_CREATE", BPF_LINK_CREATE},
    {"LINK_UPDATE", BPF_LINK_UPDATE},
    {"LINK_GET_FD_BY_ID", BPF_LINK_GET_FD_BY_ID},
    {"LINK_GET_NEXT_ID", BPF_LINK_GET_NEXT_ID},
    {"ENABLE_STATS", BPF_ENABLE_STATS},
    {"LINK_DETACH", BPF_LINK_DETACH},
    {"PROG_BIND_MAP", BPF_PROG_BIND_MAP},
};

static int create(const struct kind* k) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.map_type = k->type;
  attr.key_size = k->key;
  attr.value_size = k->value;
  attr.max_entries = k->entries;
  attr.map_flags = k->flags;
  int inner = -1;
  if (k->type == BPF_MAP_TYPE_ARRAY_OF_MAPS || k->type == BPF_MAP_TYPE_HASH_OF_MAPS) {
    const struct kind array = {"", BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0};
    attr.inner_map_fd = inner = create(&array);
  }
  const int fd = (int)bpf(BPF_MAP_CREATE, &attr, sizeof attr);
  const int error = errno;
  if (inner >= 0) close(inner);
  errno = error;
  return fd;
}
static void try_create(const char* what, unsigned long long which, const struct kind* k) {
  const int fd = create(k);
  say(k->name, what, which, fd);
  if (fd >= 0) close(fd);
}

static void sizes_and_flags(void) {
  static const unsigned keys[] = {0, 1, 3, 5, 8, 255, 512, 513, 4096, 1u << 16, 1u << 31, ~0u - 7, ~0u};
  // A value may be as large as memory allows: what lies between is left out.
  static const unsigned value_sizes[] = {0, 1, 3, 7, 12, 1016, 1024, 32768, 32769, 1u << 31, ~0u - 7, ~0u};
  static const unsigned entries[] = {0, 1, 3, 4095, 4097, 1u << 31, (1u << 31) + 1, ~0u};
  for (unsigned k = 0; k < COUNT(kinds); ++k) {
    const int ring = kinds[k].type == BPF_MAP_TYPE_RINGBUF || kinds[k].type == BPF_MAP_TYPE_USER_RINGBUF;
    for (unsigned bit = 0; bit < 32; ++bit) {
      struct kind bad = kinds[k];
      bad.flags ^= 1u << bit;
      try_create("flag", 1u << bit, &bad);
    }
    for (unsigned i = 0; i < COUNT(keys); ++i) {
      struct kind bad = kinds[k];
      bad.key = keys[i];
      try_create("key", keys[i], &bad);
    }
    for (unsigned i = 0; i < COUNT(value_sizes); ++i) {
      struct kind bad = kinds[k];
      bad.value = value_sizes[i];
      bad.entries = ring ? bad.entries : 1;
      try_create("value", value_sizes[i], &bad);
      bad.key = ~0u;
      try_create("value and the longest key", value_sizes[i], &bad);
    }
    for (unsigned i = 0; i < COUNT(entries); ++i) {
      struct kind bad = kinds[k];
      bad.entries = entries[i];
      if (entries[i] <= 4097) try_create("entries", entries[i], &bad);
      // Maps that would fit into memory are no bad input: these are of petabytes.
      const int sized = !ring && bad.value == 8 && bad.flags == 0 && bad.type != BPF_MAP_TYPE_BLOOM_FILTER;
      bad.value = 1u << 20;
      if (entries[i] > 4097 && sized) try_create("entries of a MiB", entries[i], &bad);
    }
  }
}

// What descriptors there are.
enum { kNone, kOpenFile, kPipe, kArray, kProgram, kBtf, kEvent, kKindsOfFd };
static const char* const fd_names[] = {"no descriptor", "a file", "a pipe",  "an array",
                                       "a program",     "BTF",    "an event"};
static int fds[kKindsOfFd];

static void open_fds(void) {
  int both[2];
  fds[kNone] = 999;
  fds[kOpenFile] = dup(0);
  if (pipe(both) != 0) exit(1);
  fds[kPipe] = both[0];
  fds[kArray] = create(&kinds[1]);
  static const struct bpf_insn insns[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K},
                                          {.code = BPF_JMP | BPF_EXIT}};
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (uintptr_t)insns;
  attr.insn_cnt = 2;
  attr.license = (uintptr_t) "GPL";
  fds[kProgram] = (int)bpf(BPF_PROG_LOAD, &attr, sizeof attr);
  static const unsigned btf[] = {0x0001eb9f, 24, 0, 16, 16, 5, 1, 1u << 24, 4, 32, 0x746e6900, 0};
  memset(&attr, 0, sizeof attr);
  attr.btf = (uintptr_t)btf;
  attr.btf_size = 24 + 16 + 5;
  fds[kBtf] = (int)bpf(BPF_BTF_LOAD, &attr, sizeof attr);
  struct perf_event_attr event;
  memset(&event, 0, sizeof event);
  event.size = sizeof event;
  event.type = PERF_TYPE_SOFTWARE;
  event.config = PERF_COUNT_SW_BPF_OUTPUT;
  fds[kEvent] = (int)syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  for (int i = kArray; i < kKindsOfFd; ++i)
    printf("%s: %s\n", fd_names[i], fds[i] >= 0 ? "made" : "not made");
}

static int takes_an_id(int command) {
  return command == BPF_PROG_GET_NEXT_ID || command == BPF_MAP_GET_NEXT_ID ||
         command == BPF_BTF_GET_NEXT_ID || command == BPF_LINK_GET_NEXT_ID ||
         command == BPF_PROG_GET_FD_BY_ID || command == BPF_MAP_GET_FD_BY_ID ||
         command == BPF_BTF_GET_FD_BY_ID || command == BPF_LINK_GET_FD_BY_ID;
}
static long call(const struct command* c, const void* attr, unsigned size) {
  const long result = bpf(c->number, attr, size);
  const int error = errno;
  if (result > 2) close((int)result);
  errno = error;
  return result;
}

// A descriptor of every kind in the first two and in the fields other commands have theirs in.
static void descriptors(const struct command* c) {
  static const unsigned places[] = {0, 4, 8, 12, 44, 52};
  if (takes_an_id(c->number)) return;
  for (unsigned p = 0; p < COUNT(places); ++p)
    for (unsigned i = 0; i < kKindsOfFd; ++i) {
      uint32_t words[42] = {0};
      words[places[p] / 4] = (uint32_t)fds[i];
      if (c->number == BPF_MAP_FREEZE && i == kArray && p == 0) continue;
      char name[80];
      snprintf(name, sizeof name, "%s of %s at", c->name, fd_names[i]);
      say("descriptor", name, places[p], call(c, words, sizeof words));
      words[places[p] / 4] = i == 0 ? ~0u : 0x80000000u + i;
      say("descriptor", "  negative", places[p], call(c, words, sizeof words));
    }
}

// Lengths that lie, in attrs of zeros; stray bytes behind and between what the command knows.
static void lengths(const struct command* c) {
  static unsigned char page[8192];
  static const unsigned sizes[] = {0,   1,   3,   4,   7,    8,    16,   20,       24,       48, 72,
                                   100, 144, 168, 169, 4095, 4096, 4097, 1u << 20, 1u << 31, ~0u};
  memset(page, 0, sizeof page);
  for (unsigned i = 0; i < COUNT(sizes); ++i) {
    if (takes_an_id(c->number) || c->number == BPF_ENABLE_STATS) continue;  // zeros make sense
    say("length", c->name, sizes[i], call(c, page, sizes[i]));
    say("length, nothing there", c->name, sizes[i], call(c, NULL, sizes[i]));
    say("length, not readable", c->name, sizes[i], call(c, (void*)8, sizes[i]));
  }
  for (unsigned at = 0; at < 176; at += 4) {
    memset(page, 0, sizeof page);
    // Never an id, nor a process's number; elsewhere not a descriptor's.
    const int id = takes_an_id(c->number) || c->number == BPF_ENABLE_STATS || c->number == BPF_TASK_FD_QUERY;
    *(uint32_t*)page = id ? 0x7ffffff0 : 999;
    page[at + 3] = 0x40;
    say("stray byte", c->name, at, call(c, page, 176));
  }
  memset(page, 0xff, sizeof page);
  for (unsigned size = 4; size <= 168; size += 4) say("all ones", c->name, size, call(c, page, size));
  page[168] = 1;
  say("all ones", c->name, 169, call(c, page, 169));
}

static long element(int command, int fd, const void* key, const void* value, uint64_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.map_fd = (uint32_t)fd;
  attr.key = (uintptr_t)key;
  attr.value = (uintptr_t)value;
  attr.flags = flags;
  return bpf(command, &attr, sizeof attr);
}

// Each operation on elements, through descriptors of each mode, with each flag and with pointers to nothing.
static void elements(const struct kind* k) {
  static const struct command operations[] = {{"lookup", BPF_MAP_LOOKUP_ELEM},
                                              {"update", BPF_MAP_UPDATE_ELEM},
                                              {"delete", BPF_MAP_DELETE_ELEM},
                                              {"next key", BPF_MAP_GET_NEXT_KEY},
                                              {"lookup and delete", BPF_MAP_LOOKUP_AND_DELETE_ELEM}};
  static const unsigned modes[] = {0, BPF_F_RDONLY, BPF_F_WRONLY};
  for (unsigned m = 0; m < COUNT(modes); ++m) {
    struct kind opened = *k;
    opened.flags |= modes[m];
    const int fd = create(&opened);
    say(k->name, "created, mode", modes[m], fd);
    for (unsigned o = 0; o < COUNT(operations); ++o) {
      char name[80];
      snprintf(name, sizeof name, "mode %x, %s", modes[m], operations[o].name);
      uint32_t key[4] = {1, 1};
      static uint64_t value[512];
      memset(value, 0, sizeof value);
      *(uint32_t*)value = 999;  // no descriptor
      const int number = operations[o].number;
      for (unsigned bit = 0; bit < 64; ++bit) {
        const long result = element(number, fd, k->key ? key : NULL, value, 1ull << bit);
        say(name, k->name, 1ull << bit, result);
      }
      const void* const bad[] = {NULL, (void*)8, (void*)-4096l, (void*)(1l << 60)};
      for (unsigned b = 0; b < COUNT(bad); ++b) {
        say(name, "bad key", b, element(number, fd, bad[b], value, 0));
        say(name, "bad value", b, element(number, fd, k->key ? key : NULL, bad[b], 0));
        say(name, "both bad", b, element(number, fd, bad[b], bad[b], 0));
      }
      // An index or prefix no map has.
      const int hashed = strstr(k->name, "hash") != NULL;  // of two keys, which is next is anybody's guess
      if (number == BPF_MAP_GET_NEXT_KEY && hashed) continue;
      memset(key, 0xff, sizeof key);
      say(name, "key of ones", 0, element(number, fd, key, value, 0));
      memset(key, 0, sizeof key);
      say(name, "key of zeros", 0, element(number, fd, key, value, 0));
    }
    if (fd >= 0) close(fd);
  }
}

static void batches(const struct kind* k) {
  static const struct command operations[] = {{"lookup batch", BPF_MAP_LOOKUP_BATCH},
                                              {"lookup and delete batch", BPF_MAP_LOOKUP_AND_DELETE_BATCH},
                                              {"update batch", BPF_MAP_UPDATE_BATCH},
                                              {"delete batch", BPF_MAP_DELETE_BATCH}};
  static const unsigned counts[] = {0, 1, 5, 1u << 20, 1u << 31, ~0u};
  static uint64_t keys[64], values[4096], cursor[8];
  const int fd = create(k);
  for (unsigned o = 0; o < COUNT(operations); ++o)
    for (unsigned c = 0; c < COUNT(counts); ++c) {
      // Counts larger than the buffers: these end at the end of what can be read.
      union bpf_attr attr;
      memset(&attr, 0, sizeof attr);
      attr.batch.map_fd = (uint32_t)fd;
      attr.batch.out_batch = (uintptr_t)cursor;
      attr.batch.count = counts[c];
      say(operations[o].name, k->name, counts[c], bpf(operations[o].number, &attr, sizeof attr));
      printf("  done %x\n", attr.batch.count);
      memset(&attr, 0, sizeof attr);
      attr.batch.map_fd = (uint32_t)fd;
      attr.batch.in_batch = 8;
      attr.batch.keys = (uintptr_t)keys;
      attr.batch.values = (uintptr_t)values;
      attr.batch.count = counts[c];
      if (o < 2)
        say(operations[o].name, "bad cursor", counts[c], bpf(operations[o].number, &attr, sizeof attr));
    }
  if (fd >= 0) close(fd);
}

static void events(void) {
  static unsigned char page[8192];
  static const unsigned sizes[] = {0, 1, 63, 64, 65, 72, 128, 136, 144, 4096, 4097, ~0u};
  struct perf_event_attr* attr = (struct perf_event_attr*)page;
  for (unsigned dirty = 0; dirty < 2; ++dirty)
    for (unsigned i = 0; i < COUNT(sizes); ++i) {
      memset(page, 0, sizeof page);
      attr->type = PERF_TYPE_SOFTWARE;
      attr->config = PERF_COUNT_SW_BPF_OUTPUT;
      attr->size = sizes[i];
      if (dirty && sizes[i] > 144 && sizes[i] <= 4096) page[sizes[i] - 1] = 1;
      const long fd = syscall(SYS_perf_event_open, attr, -1, 0, -1, 0);
      say("event, size", dirty ? "with a tail" : "clean", sizes[i], fd);
      if (fd >= 0) close((int)fd);
      if (fd < 0 && errno == E2BIG) printf("  size told: %u\n", attr->size != sizes[i]);
    }
  for (unsigned bit = 0; bit < 64; ++bit) {
    memset(page, 0, sizeof page);
    attr->size = 112;
    attr->type = PERF_TYPE_SOFTWARE;
    attr->config = PERF_COUNT_SW_BPF_OUTPUT;
    if (bit < 32) {  // what flags open is not bad input
      const long fd = syscall(SYS_perf_event_open, attr, -1, 0, -1, 1ul << (bit + (bit > 3 ? 0 : 4)));
      say("event", "flag", bit, fd);
      if (fd >= 0) close((int)fd);
    }
    attr->sample_type = 1ull << bit;
    const long fd = syscall(SYS_perf_event_open, attr, -1, 0, -1, 0);
    say("event", "sample type", bit, fd);
    if (fd >= 0) close((int)fd);
  }
}

int main(void) {
  setvbuf(stdout, NULL, _IOFBF, 1 << 16);
  sizes_and_flags();
  open_fds();
  for (unsigned c = 0; c < COUNT(commands); ++c) descriptors(&commands[c]), lengths(&commands[c]);
  for (unsigned k = 0; k < COUNT(kinds); ++k) elements(&kinds[k]), batches(&kinds[k]);
  events();
  return 0;
}
