// Asks bpf(2) about maps, type by type: what batches, maps of maps, user rings and values with locks and timers in them
// answer. One line per answer: name, result ("fd" or a number), errno. Run on the kernel and under `bpftime load` it must
// print the same.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "map_kinds.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char* error_name(int error) {
  const char* name = strerrorname_np(error);
  return error == 524 ? "ENOTSUPP" : name ? name : "?";
}
static long say(const char* what, const char* of, long result) {
  printf("%s: %s %ld %s\n", of, what, result, result >= 0 ? "0" : error_name(errno));
  return result;
}
static int say_fd(const char* what, const char* of, long result) {
  printf("%s: %s %s %s\n", of, what, result >= 0 ? "fd" : "-1", result >= 0 ? "0" : error_name(errno));
  return (int)result;
}
static void say_value(const char* what, const char* of, unsigned long long value) {
  printf("%s: %s = %llu\n", of, what, value);
}
static long bpf(int command, union bpf_attr* attr) {
  errno = 0;
  return syscall(SYS_bpf, command, attr, sizeof *attr);
}
static long element(int command, int fd, const void* key, void* value, uint64_t flags) {
  union bpf_attr attr = {.map_fd = fd, .key = (uint64_t)key, .value = (uint64_t)value, .flags = flags};
  return bpf(command, &attr);
}

static int make_inner(const struct kind* k, int inner) {
  union bpf_attr attr = {.map_type = k->type,
                         .key_size = k->key,
                         .value_size = k->value,
                         .max_entries = k->entries,
                         .map_flags = k->flags,
                         .inner_map_fd = inner};
  return (int)bpf(BPF_MAP_CREATE, &attr);
}
static int is_outer(const struct kind* k) {
  return k->type == BPF_MAP_TYPE_ARRAY_OF_MAPS || k->type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

// ---- batches ----

static unsigned keys[64];
static unsigned long long values[4096];
static unsigned char cursor[64], next_cursor[64];

static long batch(int command, int fd, int goes_on, unsigned* count, uint64_t elem_flags, uint64_t flags) {
  union bpf_attr attr = {};
  attr.batch.in_batch = goes_on ? (uint64_t)cursor : 0;
  attr.batch.out_batch = (uint64_t)next_cursor;
  attr.batch.keys = (uint64_t)keys;
  attr.batch.values = (uint64_t)values;
  attr.batch.count = *count;
  attr.batch.map_fd = fd;
  attr.batch.elem_flags = elem_flags;
  attr.batch.flags = flags;
  const long result = bpf(command, &attr);
  *count = attr.batch.count;
  memcpy(cursor, next_cursor, sizeof cursor);
  return result;
}
static void say_batch(const char* of, const char* what, int command, int fd, int goes_on, unsigned count,
                      uint64_t elem_flags, uint64_t flags) {
  const long result = batch(command, fd, goes_on, &count, elem_flags, flags);
  say(what, of, result);
  say_value("  count", of, count);
}

static void batches_of(const struct kind* k) {
  int inner = -1;
  if (is_outer(k)) inner = make_inner(&(struct kind){"", BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0}, 0);
  const int fd = say_fd("create", k->name, make_inner(k, inner < 0 ? 0 : inner));
  for (unsigned i = 0; i < COUNT(keys); ++i) keys[i] = i, values[i] = i;
  if (k->key == 8)
    for (unsigned i = 0; i < COUNT(keys) / 2; ++i) keys[2 * i] = 32, keys[2 * i + 1] = i;
  if (k->value == 4)
    for (unsigned i = 0; i < COUNT(keys); ++i) ((int*)values)[i] = inner;
  say_batch(k->name, "update batch of none", BPF_MAP_UPDATE_BATCH, fd, 0, 0, 0, 0);
  say_batch(k->name, "update batch", BPF_MAP_UPDATE_BATCH, fd, 0, 3, 0, 0);
  say_batch(k->name, "update batch, locked", BPF_MAP_UPDATE_BATCH, fd, 0, 3, BPF_F_LOCK, 0);
  say_batch(k->name, "update batch, unknown element flags", BPF_MAP_UPDATE_BATCH, fd, 0, 3, 8, 0);
  say_batch(k->name, "update batch, NOEXIST", BPF_MAP_UPDATE_BATCH, fd, 0, 3, BPF_NOEXIST, 0);
  say_batch(k->name, "update batch, flags", BPF_MAP_UPDATE_BATCH, fd, 0, 3, 0, 1);
  say_batch(k->name, "lookup batch", BPF_MAP_LOOKUP_BATCH, fd, 0, 32, 0, 0);
  say_batch(k->name, "lookup batch, locked", BPF_MAP_LOOKUP_BATCH, fd, 0, 32, BPF_F_LOCK, 0);
  say_batch(k->name, "lookup batch, element flags", BPF_MAP_LOOKUP_BATCH, fd, 0, 32, 1, 0);
  say_batch(k->name, "lookup batch, flags", BPF_MAP_LOOKUP_BATCH, fd, 0, 32, 0, 1);
  say_batch(k->name, "lookup batch of none", BPF_MAP_LOOKUP_BATCH, fd, 0, 0, 0, 0);
  // All of it by ones and twos: how many come in which call is the hash's business, how many in all is not.
  for (unsigned step = 1; step <= 16; step *= 4) {
    unsigned total = 0, count = step;
    long result = batch(BPF_MAP_LOOKUP_BATCH, fd, 0, &count, 0, 0);
    for (unsigned round = 0; round < 200 && (result == 0 || errno == ENOSPC); ++round) {
      total += result == 0 ? count : 0;
      count = errno == ENOSPC ? 32 : step;
      result = batch(BPF_MAP_LOOKUP_BATCH, fd, round != 0 || total != 0, &count, 0, 0);
    }
    if (result != 0 && errno == ENOENT) total += count;
    say("lookup batches end", k->name, result);
    say_value("  elements", k->name, total);
  }
  union bpf_attr bad = {};
  bad.batch.map_fd = fd;
  bad.batch.count = 2;
  bad.batch.in_batch = 8;
  say("lookup batch at bad addresses", k->name, bpf(BPF_MAP_LOOKUP_BATCH, &bad));
  say("update batch at bad addresses", k->name, bpf(BPF_MAP_UPDATE_BATCH, &bad));
  memset(cursor, 0xff, sizeof cursor);
  say_batch(k->name, "lookup batch behind the end", BPF_MAP_LOOKUP_BATCH, fd, 1, 4, 0, 0);
  say_batch(k->name, "lookup and delete batch, flags", BPF_MAP_LOOKUP_AND_DELETE_BATCH, fd, 0, 32, 0, 4);
  say_batch(k->name, "lookup and delete batch", BPF_MAP_LOOKUP_AND_DELETE_BATCH, fd, 0, 32, 0, 0);
  say_batch(k->name, "lookup and delete batch again", BPF_MAP_LOOKUP_AND_DELETE_BATCH, fd, 0, 32, 0, 0);
  for (unsigned i = 0; i < COUNT(keys); ++i) keys[i] = i;
  if (k->key == 8)
    for (unsigned i = 0; i < COUNT(keys) / 2; ++i) keys[2 * i] = 32, keys[2 * i + 1] = i;
  say_batch(k->name, "delete batch", BPF_MAP_DELETE_BATCH, fd, 0, 2, 0, 0);
  say_batch(k->name, "delete batch again", BPF_MAP_DELETE_BATCH, fd, 0, 2, 0, 0);
  say_batch(k->name, "delete batch, element flags", BPF_MAP_DELETE_BATCH, fd, 0, 2, 2, 0);
  say_batch(k->name, "delete batch of none", BPF_MAP_DELETE_BATCH, fd, 0, 0, 0, 0);
  close(fd), close(inner);
}

// ---- maps of maps ----

static void inner_maps(void) {
  const struct kind* outers[] = {&kinds[COUNT(kinds) - 2], &kinds[COUNT(kinds) - 1]};
  for (unsigned o = 0; o < 2; ++o) {
    const struct kind* outer = outers[o];
    int pipe_fds[2];
    if (pipe(pipe_fds) != 0) return;
    close(say_fd("inner fd 0, a pipe or less", outer->name, make_inner(outer, pipe_fds[0])));
    close(say_fd("inner fd -1", outer->name, make_inner(outer, -1)));
    close(say_fd("inner fd 999", outer->name, make_inner(outer, 999)));
    const int zero = dup(0);
    close(0);
    close(say_fd("inner fd 0, closed", outer->name, make_inner(outer, 0)));
    dup2(pipe_fds[0], 0);
    close(say_fd("inner fd 0, a pipe", outer->name, make_inner(outer, 0)));
    dup2(zero, 0);
    close(zero), close(pipe_fds[0]), close(pipe_fds[1]);
    for (unsigned i = 0; i < COUNT(kinds); ++i) {
      char name[80];
      const struct kind* k = &kinds[i];
      const int leaf = make_inner(&(struct kind){"", BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0}, 0);
      const int first = make_inner(k, is_outer(k) ? leaf : 0), second = make_inner(k, is_outer(k) ? leaf : 0);
      struct kind larger = *k;
      larger.entries *= 2;
      const int third = make_inner(&larger, is_outer(k) ? leaf : 0);
      snprintf(name, sizeof name, "%s of %s", outer->name, k->name);
      const int fd = say_fd("create", name, make_inner(outer, first));
      unsigned key = 1, id = 0;
      int value = second;
      if (fd >= 0) {
        say("update", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
        value = third;
        say("update with a larger map", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
        say("lookup", name, element(BPF_MAP_LOOKUP_ELEM, fd, &key, &id, 0));
        value = leaf;
        say("update with an array", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
        value = 1;
        say("update with a file", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
        value = 999;
        say("update with no descriptor", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
        say("delete", name, element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
        say("delete again", name, element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
      }
      close(fd), close(first), close(second), close(third), close(leaf);
    }
  }
}

// ---- user rings ----

static void user_ring(void) {
  const char* const name = "user ring";
  const int fd = make_inner(&(struct kind){"", BPF_MAP_TYPE_USER_RINGBUF, 0, 0, 4096, 0}, 0);
  const struct {
    const char* what;
    size_t size;
    int protection, flags;
    off_t offset;
  } maps[] = {
      {"consumer page", 4096, PROT_READ, MAP_SHARED, 0},
      {"consumer page, writable", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 0},
      {"consumer page, private", 4096, PROT_READ, MAP_PRIVATE, 0},
      {"producer page and data", 4096 * 3, PROT_READ | PROT_WRITE, MAP_SHARED, 4096},
      {"producer page", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 4096},
      {"data", 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 8192},
      {"all, read-only", 4096 * 4, PROT_READ, MAP_SHARED, 0},
      {"all, writable", 4096 * 4, PROT_READ | PROT_WRITE, MAP_SHARED, 0},
      {"beyond", 4096 * 4, PROT_READ | PROT_WRITE, MAP_SHARED, 4096},
  };
  for (unsigned i = 0; i < COUNT(maps); ++i) {
    errno = 0;
    void* at = mmap(NULL, maps[i].size, maps[i].protection, maps[i].flags, fd, maps[i].offset);
    printf("%s: mmap %s %s %s\n", name, maps[i].what, at == MAP_FAILED ? "-1" : "ok",
           at == MAP_FAILED ? error_name(errno) : "0");
  }
  uint64_t* position = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
  struct pollfd one = {.fd = fd, .events = POLLIN | POLLOUT};
  say("poll", name, poll(&one, 1, 0));
  say_value("poll tells", name, (unsigned)one.revents);
  *position = 4088;
  one.revents = 0;
  say("poll nearly full", name, poll(&one, 1, 0));
  say_value("poll nearly full tells", name, (unsigned)one.revents);
  *position = 4096;
  one.revents = 0;
  say("poll full", name, poll(&one, 1, 0));
  say_value("poll full tells", name, (unsigned)one.revents);
  *position = 8;
  const int set = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLOUT, .data.u64 = 7}, got = {};
  say("epoll add", name, epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  say("epoll wait, room", name, epoll_wait(set, &got, 1, 0));
  *position = 4096;
  say("epoll wait, full", name, epoll_wait(set, &got, 1, 0));
  say_value("epoll tells", name, got.events);
  say_value("epoll hands back", name, got.data.u64);
  event.events = EPOLLIN;
  say("epoll modify", name, epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
  say("epoll wait for input", name, epoll_wait(set, &got, 1, 0));
  union bpf_attr freeze = {.map_fd = fd};
  say("freeze", name, bpf(BPF_MAP_FREEZE, &freeze));
  close(set), close(fd);
}

// ---- values with locks and timers ----

enum { kInt = 1, kLock, kTimer, kWork, kValue };  // type ids; what is special lies in structs of those names
static const char strings[] = "\0int\0bpf_spin_lock\0bpf_timer\0bpf_wq\0value\0a\0b\0c\0d\0alias\0";
enum { kNameInt = 1, kNameLock = 5, kNameTimer = 19, kNameWork = 29, kNameValue = 36, kNameA = 42 };

struct blob {
  struct btf_header header;
  uint32_t words[200];
};
static struct blob blob;
static unsigned used;

static void put(unsigned name, unsigned kind, unsigned vlen, unsigned size) {
  blob.words[used++] = name;
  blob.words[used++] = kind << 24 | vlen;
  blob.words[used++] = size;
}
static void put_member(unsigned index, unsigned type, unsigned byte) {
  blob.words[used++] = kNameA + 2 * index;
  blob.words[used++] = type;
  blob.words[used++] = byte * 8;
}
// Types 1 to 4; the caller adds the value's.
static void start_types(void) {
  memset(&blob, 0, sizeof blob);
  used = 0;
  put(kNameInt, BTF_KIND_INT, 0, 4);
  blob.words[used++] = 32;
  put(kNameLock, BTF_KIND_STRUCT, 1, 4);
  put_member(0, kInt, 0);
  put(kNameTimer, BTF_KIND_STRUCT, 1, 16);
  put_member(0, kInt, 0);
  put(kNameWork, BTF_KIND_STRUCT, 1, 16);
  put_member(0, kInt, 0);
}
static int load_types(void) {
  struct btf_header* h = &blob.header;
  *h = (struct btf_header){.magic = BTF_MAGIC, .version = 1, .hdr_len = sizeof *h};
  h->type_len = h->str_off = used * 4;
  h->str_len = sizeof strings;
  memcpy(&blob.words[used], strings, sizeof strings);
  union bpf_attr attr = {.btf = (uint64_t)&blob, .btf_size = sizeof *h + used * 4 + sizeof strings};
  return (int)bpf(BPF_BTF_LOAD, &attr);
}
static int typed_map(unsigned type, unsigned value_size, unsigned flags, int btf, unsigned value_type) {
  const int keyed = type != BPF_MAP_TYPE_QUEUE;
  union bpf_attr attr = {.map_type = type,
                         .key_size = keyed ? 4 : 0,
                         .value_size = value_size,
                         .max_entries = 4,
                         .map_flags = flags,
                         .btf_fd = btf,
                         .btf_key_type_id = keyed ? kInt : 0,
                         .btf_value_type_id = value_type};
  return (int)bpf(BPF_MAP_CREATE, &attr);
}

// struct value { int a; <field> b; int c; } with the special field at byte `at` of `size`.
static int value_with(unsigned field, unsigned at, unsigned size) {
  start_types();
  put(kNameValue, BTF_KIND_STRUCT, 2, size);
  if (at == 0) put_member(0, field, 0), put_member(1, kInt, size - 4);
  if (at != 0) put_member(0, kInt, 0), put_member(1, field, at);
  return load_types();
}

static void fields_of_maps(void) {
  const struct {
    const char* what;
    unsigned field, at, size;
  } fields[] = {
      {"lock", kLock, 4, 16}, {"timer", kTimer, 8, 32}, {"work", kWork, 8, 32}, {"lock first", kLock, 0, 8}};
  for (unsigned f = 0; f < COUNT(fields); ++f) {
    const int btf = value_with(fields[f].field, fields[f].at, fields[f].size);
    const unsigned types[] = {BPF_MAP_TYPE_HASH,     BPF_MAP_TYPE_ARRAY,        BPF_MAP_TYPE_PERCPU_HASH,
                              BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_LRU_PERCPU_HASH};
    for (unsigned t = 0; t < COUNT(types); ++t) {
      char name[80];
      snprintf(name, sizeof name, "%s in map type %u", fields[f].what, types[t]);
      close(say_fd("create", name, typed_map(types[t], fields[f].size, 0, btf, kValue)));
      close(say_fd("create for programs to read", name,
                   typed_map(types[t], fields[f].size, BPF_F_RDONLY_PROG, btf, kValue)));
    }
    close(btf);
  }
}

// Where Linux finds a lock or timer: what is hidden reads as zero, what has a lock can be updated under it.
static void shape(const char* name, unsigned value_type, unsigned size) {
  const int btf = say_fd("types", name, load_types());
  const int fd = say_fd("create", name, typed_map(BPF_MAP_TYPE_ARRAY, size, 0, btf, value_type));
  unsigned key = 1, value[16];
  memset(value, 0xab, sizeof value);
  say("update, locked", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK));
  say("update", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, 0));
  say("lookup", name, element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, 0));
  for (unsigned i = 0; i < size / 4 && i < 16; ++i) say_value("word", name, value[i]);
  close(fd), close(btf);
}
static void put_array(unsigned element_type, unsigned count) {
  put(0, BTF_KIND_ARRAY, 0, 0);
  blob.words[used++] = element_type;
  blob.words[used++] = kInt;
  blob.words[used++] = count;
}

static void shapes_of_values(void) {
  start_types();
  put(kNameValue, BTF_KIND_STRUCT, 2, 32);
  put_member(0, kTimer, 0), put_member(1, kTimer, 16);
  shape("two timers", kValue, 32);
  start_types();
  put(kNameValue, BTF_KIND_STRUCT, 2, 24);
  put_member(0, kLock, 0), put_member(1, kTimer, 8);
  shape("a lock and a timer", kValue, 24);
  start_types();
  put(kNameValue, BTF_KIND_STRUCT, 2, 24);
  put_member(0, kInt, 0), put_member(1, kTimer, 4);
  shape("a timer at 4", kValue, 24);
  start_types();
  put(kNameA, BTF_KIND_STRUCT, 2, 8);  // type 5
  put_member(0, kInt, 0), put_member(1, kLock, 4);
  put(kNameValue, BTF_KIND_STRUCT, 2, 12);
  put_member(0, kInt, 0), put_member(1, 5, 4);
  shape("a lock inside", 6, 12);
  start_types();
  put_array(kLock, 1);  // type 5
  put(kNameValue, BTF_KIND_STRUCT, 2, 8);
  put_member(0, kInt, 0), put_member(1, 5, 4);
  shape("an array of one lock", 6, 8);
  start_types();
  put_array(kLock, 2);
  put(kNameValue, BTF_KIND_STRUCT, 2, 12);
  put_member(0, kInt, 0), put_member(1, 5, 4);
  shape("an array of two locks", 6, 12);
  start_types();
  put(kNameA + 8, BTF_KIND_TYPEDEF, 0, kLock);  // type 5
  put(kNameValue, BTF_KIND_STRUCT, 2, 8);
  put_member(0, kInt, 0), put_member(1, 5, 4);
  shape("another name for a lock", 6, 8);
  start_types();
  put(kNameValue, BTF_KIND_STRUCT, 2, 8);
  put_member(0, kInt, 0), put_member(1, kLock, 4);
  put(kNameA + 8, BTF_KIND_TYPEDEF, 0, kValue);  // type 6
  shape("another name for the value", 6, 8);
  start_types();
  put(kNameValue, BTF_KIND_UNION, 2, 4);
  put_member(0, kInt, 0), put_member(1, kLock, 0);
  shape("a union", kValue, 4);
  start_types();
  put(kNameA, BTF_KIND_UNION, 2, 4);  // type 5
  put_member(0, kInt, 0), put_member(1, kLock, 0);
  put(kNameValue, BTF_KIND_STRUCT, 2, 8);
  put_member(0, kInt, 0), put_member(1, 5, 4);
  shape("a lock in a union inside", 6, 8);
  start_types();
  shape("a lock alone", kLock, 4);
  start_types();
  put(kNameValue, BTF_KIND_STRUCT, 3, 40);
  put_member(0, kWork, 0), put_member(1, kTimer, 16), put_member(2, kLock, 32);
  shape("all three", kValue, 40);
}

// What callers see of a value with a lock at 4 and a timer at 8, and what F_LOCK means.
static void locked_values(unsigned type, const char* name) {
  start_types();
  put(kNameValue, BTF_KIND_STRUCT, 4, 32);
  put_member(0, kInt, 0), put_member(1, kLock, 4), put_member(2, kTimer, 8), put_member(3, kInt, 24);
  const int btf = load_types();
  const int fd = say_fd("create", name, typed_map(type, 32, 0, btf, kValue));
  unsigned key = 1, value[8], batch_keys[4];
  unsigned char batch_values[4 * 32];
#define FILL() memset(value, 0xab, sizeof value)
#define SHOW(what) \
  for (unsigned i = 0; i < 8; ++i) say_value(what, name, value[i])
  FILL();
  say("update, locked, EXIST", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK | BPF_EXIST));
  say("update, locked", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK));
  say("lookup", name, element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, 0));
  SHOW("value");
  FILL();
  say("update", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, 0));
  say("lookup, locked", name, element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, BPF_F_LOCK));
  SHOW("value");
  say("lookup, locked and more", name, element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, BPF_F_LOCK | 1));
  say("update, locked, NOEXIST", name,
      element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK | BPF_NOEXIST));
  say("update, locked, EXIST", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK | BPF_EXIST));
  say("update, locked, unknown", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK | 8));
  key = 77;
  say("lookup absent, locked", name, element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, BPF_F_LOCK));
  say("update far, locked", name, element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK));
  // The order of a hash is nobody's business: what the batch below reads first is as all others.
  say("delete far", name, element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  key = 1;
  union bpf_attr attr = {};
  attr.batch.out_batch = (uint64_t)next_cursor;
  attr.batch.keys = (uint64_t)batch_keys;
  attr.batch.values = (uint64_t)batch_values;
  attr.batch.count = 4;
  attr.batch.map_fd = fd;
  attr.batch.elem_flags = BPF_F_LOCK;
  memset(batch_values, 0xcd, sizeof batch_values);
  for (unsigned i = 0; i < 4; ++i) batch_keys[i] = i;
  say("update batch, locked", name, bpf(BPF_MAP_UPDATE_BATCH, &attr));
  say_value("update batch count", name, attr.batch.count);
  attr.batch.count = 4;
  memset(batch_values, 0xee, sizeof batch_values);
  say("lookup batch, locked", name, bpf(BPF_MAP_LOOKUP_BATCH, &attr));
  say_value("lookup batch count", name, attr.batch.count);
  for (unsigned i = 0; i < 32; ++i) say_value("first of the batch", name, batch_values[i]);
  FILL();
  say("lookup and delete, locked", name,
      element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, value, BPF_F_LOCK));
  SHOW("value");
  close(fd), close(btf);
}

int main(void) {
  setvbuf(stdout, NULL, _IOFBF, 1 << 16);
  for (unsigned i = 0; i < COUNT(kinds); ++i) batches_of(&kinds[i]);
  inner_maps();
  user_ring();
  fields_of_maps();
  shapes_of_values();
  locked_values(BPF_MAP_TYPE_ARRAY, "locked array");
  locked_values(BPF_MAP_TYPE_HASH, "locked hash");
  return 0;
}
