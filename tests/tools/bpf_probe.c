// Asks bpf(2), perf_event_open(2) and their descriptors many small questions and prints one line per answer:
// name, result ("fd", "ok" or a number), errno. Run once on the kernel and once under `bpftime load` it must print the
// same. No libbpf: what is asked stands here.
//   bpf_probe FILE OFFSET [DEAD_PID]     FILE: an ELF with a function at OFFSET
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct bpf_insn insn;
static char log_text[65536];
static const char* probed_file;
static unsigned long long probed_offset;

#define INSN(c, d, s, o, i) ((insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV_IMM(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOV_REG(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define ADD_IMM(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define CALL(i) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, i)
#define EXIT() INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define LD64(d, s, a, b) INSN(BPF_LD | BPF_IMM | BPF_DW, d, s, 0, a), INSN(0, 0, 0, 0, b)
#define ST_MEM(size, d, o, i) INSN(BPF_ST | (size) | BPF_MEM, d, 0, o, i)

static const char* error_name(int error) {
  const char* name = strerrorname_np(error);
  return error == 524 ? "ENOTSUPP" : name ? name : "?";
}

// A descriptor, success, or -1 with errno.
static int say_fd(const char* name, long result) {
  printf("%s %s %s\n", name, result >= 0 ? "fd" : "-1", result >= 0 ? "0" : error_name(errno));
  return (int)result;
}
static long say(const char* name, long result) {
  printf("%s %ld %s\n", name, result, result >= 0 ? "0" : error_name(errno));
  return result;
}
static void say_value(const char* name, unsigned long long value) { printf("%s = %llu\n", name, value); }
static void say_text(const char* name, const char* text) { printf("%s = %s\n", name, text); }

static long bpf(int command, void* attr, unsigned size) { return syscall(SYS_bpf, command, attr, size); }
static long bpf_attr_call(int command, union bpf_attr* attr) { return bpf(command, attr, sizeof *attr); }

static int map_create(unsigned type, unsigned key, unsigned value, unsigned entries, unsigned flags,
                      const char* name) {
  union bpf_attr attr = {
      .map_type = type, .key_size = key, .value_size = value, .max_entries = entries, .map_flags = flags};
  if (name) strncpy(attr.map_name, name, sizeof attr.map_name);
  return bpf_attr_call(BPF_MAP_CREATE, &attr);
}

static int prog_load_with(unsigned type, const insn* insns, unsigned count, const char* name, unsigned level,
                          void* log, unsigned log_size) {
  union bpf_attr attr = {
      .prog_type = type, .insn_cnt = count, .insns = (uint64_t)insns, .license = (uint64_t) "GPL"};
  attr.log_level = level;
  attr.log_buf = (uint64_t)log;
  attr.log_size = log_size;
  if (name) strncpy(attr.prog_name, name, sizeof attr.prog_name);
  return bpf_attr_call(BPF_PROG_LOAD, &attr);
}
#define LOAD(type, ...)                                                               \
  ({                                                                                  \
    insn insns_[] = {__VA_ARGS__};                                                    \
    prog_load_with(type, insns_, sizeof insns_ / sizeof insns_[0], NULL, 0, NULL, 0); \
  })

static int element(int command, int fd, const void* key, void* value, unsigned long long flags) {
  union bpf_attr attr = {.map_fd = fd, .key = (uint64_t)key, .value = (uint64_t)value, .flags = flags};
  return bpf_attr_call(command, &attr);
}

static int link_create(int prog, int target, unsigned type, unsigned flags, unsigned long long cookie) {
  union bpf_attr attr = {};
  attr.link_create.prog_fd = prog;
  attr.link_create.target_fd = target;
  attr.link_create.attach_type = type;
  attr.link_create.flags = flags;
  attr.link_create.perf_event.bpf_cookie = cookie;
  return bpf_attr_call(BPF_LINK_CREATE, &attr);
}

static unsigned uprobe_type(void) {
  unsigned type = 0;
  FILE* file = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  if (file) {
    if (fscanf(file, "%u", &type) != 1) type = 0;
    fclose(file);
  }
  return type;
}

static long uprobe_open(const char* path, unsigned long long offset, int pid, int cpu, int group,
                        unsigned long flags) {
  struct perf_event_attr attr = {.size = sizeof attr, .type = uprobe_type()};
  attr.config1 = (uint64_t)path;
  attr.config2 = offset;
  return syscall(SYS_perf_event_open, &attr, pid, cpu, group, flags);
}

static long output_open(int pid, int cpu, int group, unsigned long flags) {
  struct perf_event_attr attr = {
      .size = sizeof attr, .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_BPF_OUTPUT};
  attr.sample_type = PERF_SAMPLE_RAW;
  attr.sample_period = 1;
  attr.wakeup_events = 1;
  return syscall(SYS_perf_event_open, &attr, pid, cpu, group, flags);
}

// ---- BTF ----

struct btf_blob {
  struct btf_header header;
  unsigned char rest[256];
};

static int btf_load_with(const void* types, unsigned types_size, const char* strings, unsigned strings_size,
                         void* log, unsigned log_size, unsigned level) {
  struct btf_blob blob = {.header = {.magic = BTF_MAGIC, .version = 1, .hdr_len = sizeof(struct btf_header)}};
  memcpy(blob.rest, types, types_size);
  memcpy(blob.rest + types_size, strings, strings_size);
  blob.header.type_len = types_size;
  blob.header.str_off = types_size;
  blob.header.str_len = strings_size;
  union bpf_attr attr = {.btf = (uint64_t)&blob, .btf_size = sizeof blob.header + types_size + strings_size};
  attr.btf_log_buf = (uint64_t)log;
  attr.btf_log_size = log_size;
  attr.btf_log_level = level;
  return bpf_attr_call(BPF_BTF_LOAD, &attr);
}

#define TYPE_INFO(kind, flag, count) ((kind) << 24 | (unsigned)(flag) << 31 | (count))
#define TYPE_INT(name, size, encoding) name, TYPE_INFO(BTF_KIND_INT, 0, 0), size, encoding
#define BTF(strings, ...)                                                      \
  ({                                                                           \
    const unsigned types_[] = {__VA_ARGS__};                                   \
    btf_load_with(types_, sizeof types_, strings, sizeof strings, NULL, 0, 0); \
  })

static int int_btf(void) { return BTF("\0int", TYPE_INT(1, 4, 32 | BTF_INT_SIGNED << 24)); }

static void probe_btf(void) {
  const int plain = say_fd("btf int", int_btf());
  say_fd("btf func",
         BTF("\0int\0x\0a", TYPE_INT(1, 4, 32 | BTF_INT_SIGNED << 24), 0,
             TYPE_INFO(BTF_KIND_FUNC_PROTO, 0, 1), 0, 7, 1, 5, TYPE_INFO(BTF_KIND_FUNC, 0, 0), 2));
  say_fd("btf global func",
         BTF("\0int\0x\0a", TYPE_INT(1, 4, 32 | BTF_INT_SIGNED << 24), 0,
             TYPE_INFO(BTF_KIND_FUNC_PROTO, 0, 1), 0, 7, 1, 5, TYPE_INFO(BTF_KIND_FUNC, 0, 1), 2));
  say_fd("btf func with bad linkage",
         BTF("\0int\0x\0a", TYPE_INT(1, 4, 32 | BTF_INT_SIGNED << 24), 0,
             TYPE_INFO(BTF_KIND_FUNC_PROTO, 0, 1), 0, 7, 1, 5, TYPE_INFO(BTF_KIND_FUNC, 0, 7), 2));
  say_fd("btf datasec",
         BTF("\0x\0.data", TYPE_INT(0, 4, 32 | BTF_INT_SIGNED << 24), 1, TYPE_INFO(BTF_KIND_VAR, 0, 0), 1, 0,
             3, TYPE_INFO(BTF_KIND_DATASEC, 0, 1), 4, 2, 0, 4));
  say_fd("btf ?datasec",
         BTF("\0x\0?.data", TYPE_INT(0, 4, 32 | BTF_INT_SIGNED << 24), 1, TYPE_INFO(BTF_KIND_VAR, 0, 0), 1, 0,
             3, TYPE_INFO(BTF_KIND_DATASEC, 0, 1), 4, 2, 0, 4));
  say_fd("btf float", BTF("\0float", 1, TYPE_INFO(BTF_KIND_FLOAT, 0, 0), 4));
  say_fd("btf float of 3 bytes", BTF("\0float", 1, TYPE_INFO(BTF_KIND_FLOAT, 0, 0), 3));
  say_fd("btf decl_tag", BTF("\0x\0tag", TYPE_INT(0, 4, 32 | BTF_INT_SIGNED << 24), 1,
                             TYPE_INFO(BTF_KIND_VAR, 0, 0), 1, 0, 3, TYPE_INFO(17, 0, 0), 2, -1));
  say_fd("btf type_tag", BTF("\0tag", TYPE_INT(0, 4, 32 | BTF_INT_SIGNED << 24), 1, TYPE_INFO(18, 0, 0), 1, 0,
                             TYPE_INFO(BTF_KIND_PTR, 0, 0), 2));
  say_fd("btf enum64", BTF("\0enum64", 1, TYPE_INFO(19, 0, 0), 8));
  say_fd("btf enum64 as libbpf", BTF("\0enum64\0v", 1, TYPE_INFO(19, 0, 1), 8, 8, 0, 0));
  say_fd("btf unknown kind", BTF("\0x", 1, TYPE_INFO(31, 0, 0), 4));
  say_fd("btf reference to nothing", BTF("\0x", 0, TYPE_INFO(BTF_KIND_PTR, 0, 0), 7));
  say_fd("btf loop",
         BTF("\0x", 0, TYPE_INFO(BTF_KIND_CONST, 0, 0), 2, 0, TYPE_INFO(BTF_KIND_CONST, 0, 0), 1));
  say_fd("btf name outside strings", BTF("\0x", TYPE_INT(100, 4, 32)));
  say_fd("btf no strings", btf_load_with((unsigned[]){TYPE_INT(0, 4, 32)}, 16, "", 0, NULL, 0, 0));
  unsigned bad[] = {0, TYPE_INFO(BTF_KIND_PTR, 0, 0), 7};
  memset(log_text, 0, sizeof log_text);
  say_fd("btf bad with log", btf_load_with(bad, sizeof bad, "\0x", 3, log_text, sizeof log_text, 1));
  say_value("btf bad log has text", log_text[0] != 0);
  say_fd("btf bad with small log", btf_load_with(bad, sizeof bad, "\0x", 3, log_text, 8, 1));
  say_fd("btf log without level", btf_load_with(bad, sizeof bad, "\0x", 3, log_text, sizeof log_text, 0));
  say_fd("btf level without log", btf_load_with(bad, sizeof bad, "\0x", 3, NULL, 0, 1));
  union bpf_attr attr = {.btf = 8, .btf_size = 64};
  say_fd("btf bad pointer", bpf_attr_call(BPF_BTF_LOAD, &attr));
  attr.btf_size = 0;
  say_fd("btf size 0", bpf_attr_call(BPF_BTF_LOAD, &attr));
  attr.btf_size = 17 << 20;
  say_fd("btf too large", bpf_attr_call(BPF_BTF_LOAD, &attr));
  unsigned char garbage[64] = {1, 2, 3};
  attr.btf = (uint64_t)garbage;
  attr.btf_size = sizeof garbage;
  say_fd("btf garbage", bpf_attr_call(BPF_BTF_LOAD, &attr));

  struct bpf_btf_info info = {};
  unsigned char text[256];
  char name[16] = "x";
  info.btf = (uint64_t)text;
  info.btf_size = sizeof text;
  info.name = (uint64_t)name;
  info.name_len = sizeof name;
  union bpf_attr ask = {.info = {.bpf_fd = plain, .info_len = sizeof info, .info = (uint64_t)&info}};
  say("btf info", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("btf info size", info.btf_size);
  say_value("btf info length", ask.info.info_len);
  say_value("btf info name length", info.name_len);
  say_value("btf info kernel_btf", info.kernel_btf);
  say_text("btf info name", name);
  say_value("btf info blob magic", text[0] | text[1] << 8);
  info.btf_size = 10;
  info.name_len = sizeof name;
  say("btf info with a small buffer", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("btf info size told", info.btf_size);
  info.name_len = 0;
  say("btf info with a name of no length", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  info.btf = 8;
  info.btf_size = 64;
  info.name_len = sizeof name;
  say("btf info with a bad buffer", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  union bpf_attr by_id = {.btf_id = info.id};
  const int again = say_fd("btf by id", bpf_attr_call(BPF_BTF_GET_FD_BY_ID, &by_id));
  close(again);
  by_id.btf_id = 0x7ffffff0;
  say_fd("btf by no id", bpf_attr_call(BPF_BTF_GET_FD_BY_ID, &by_id));
  close(plain);
}

// ---- maps ----

static void probe_map_create(void) {
  static const struct {
    const char* name;
    unsigned type, key, value, entries, flags;
  } maps[] = {
      {"hash", BPF_MAP_TYPE_HASH, 4, 8, 10, 0},
      {"hash no prealloc", BPF_MAP_TYPE_HASH, 4, 8, 10, BPF_F_NO_PREALLOC},
      {"hash key 0", BPF_MAP_TYPE_HASH, 0, 8, 10, 0},
      {"hash value 0", BPF_MAP_TYPE_HASH, 4, 0, 10, 0},
      {"hash entries 0", BPF_MAP_TYPE_HASH, 4, 8, 0, 0},
      {"hash key 600", BPF_MAP_TYPE_HASH, 600, 8, 10, 0},
      {"hash mmapable", BPF_MAP_TYPE_HASH, 4, 8, 10, BPF_F_MMAPABLE},
      {"hash value huge", BPF_MAP_TYPE_HASH, 4, 0x7fffffff, 10, 0},
      {"hash bad flag", BPF_MAP_TYPE_HASH, 4, 8, 10, 1u << 30},
      {"hash rdonly and wronly", BPF_MAP_TYPE_HASH, 4, 8, 10, BPF_F_RDONLY | BPF_F_WRONLY},
      {"hash rdonly_prog and wronly_prog", BPF_MAP_TYPE_HASH, 4, 8, 10,
       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG},
      {"hash zero seed", BPF_MAP_TYPE_HASH, 4, 8, 10, BPF_F_ZERO_SEED},
      {"array", BPF_MAP_TYPE_ARRAY, 4, 8, 10, 0},
      {"array mmapable", BPF_MAP_TYPE_ARRAY, 4, 8, 10, BPF_F_MMAPABLE},
      {"array key 8", BPF_MAP_TYPE_ARRAY, 8, 8, 10, 0},
      {"array entries 0", BPF_MAP_TYPE_ARRAY, 4, 8, 0, 0},
      {"array value 0", BPF_MAP_TYPE_ARRAY, 4, 0, 1, 0},
      {"array no prealloc", BPF_MAP_TYPE_ARRAY, 4, 8, 10, BPF_F_NO_PREALLOC},
      {"array value huge", BPF_MAP_TYPE_ARRAY, 4, 0xfffffff0, 10, 0},
      {"array numa node", BPF_MAP_TYPE_ARRAY, 4, 8, 10, BPF_F_NUMA_NODE},
      {"percpu array", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 10, 0},
      {"percpu array mmapable", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 10, BPF_F_MMAPABLE},
      {"percpu array too large", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 40000, 10, 0},
      {"perf event array", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2, 0},
      {"perf event array value 8", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 8, 2, 0},
      {"perf event array entries 0", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 0, 0},
      {"ringbuf", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0},
      {"ringbuf with key", BPF_MAP_TYPE_RINGBUF, 4, 0, 4096, 0},
      {"ringbuf 5000", BPF_MAP_TYPE_RINGBUF, 0, 0, 5000, 0},
      {"ringbuf 2048", BPF_MAP_TYPE_RINGBUF, 0, 0, 2048, 0},
      {"ringbuf 0", BPF_MAP_TYPE_RINGBUF, 0, 0, 0, 0},
      {"ringbuf mmapable", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, BPF_F_MMAPABLE},
      {"percpu hash", BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 10, 0},
      {"percpu hash numa node", BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 10, BPF_F_NUMA_NODE},
      {"percpu hash too large", BPF_MAP_TYPE_PERCPU_HASH, 4, 40000, 10, 0},
      {"lru hash", BPF_MAP_TYPE_LRU_HASH, 4, 8, 10, 0},
      {"lru hash no prealloc", BPF_MAP_TYPE_LRU_HASH, 4, 8, 10, BPF_F_NO_PREALLOC},
      {"lru hash per CPU", BPF_MAP_TYPE_LRU_HASH, 4, 8, 10, BPF_F_NO_COMMON_LRU},
      {"lru percpu hash", BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 8, 10, 0},
      {"hash with lists per CPU", BPF_MAP_TYPE_HASH, 4, 8, 10, BPF_F_NO_COMMON_LRU},
      {"lpm trie", BPF_MAP_TYPE_LPM_TRIE, 8, 8, 10, BPF_F_NO_PREALLOC},
      {"lpm trie preallocated", BPF_MAP_TYPE_LPM_TRIE, 8, 8, 10, 0},
      {"lpm trie key 4", BPF_MAP_TYPE_LPM_TRIE, 4, 8, 10, BPF_F_NO_PREALLOC},
      {"lpm trie key 300", BPF_MAP_TYPE_LPM_TRIE, 300, 8, 10, BPF_F_NO_PREALLOC},
      {"queue", BPF_MAP_TYPE_QUEUE, 0, 8, 10, 0},
      {"queue with key", BPF_MAP_TYPE_QUEUE, 4, 8, 10, 0},
      {"stack", BPF_MAP_TYPE_STACK, 0, 8, 10, 0},
      {"stack zero seed", BPF_MAP_TYPE_STACK, 0, 8, 10, BPF_F_ZERO_SEED},
      {"bloom filter", BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 10, 0},
      {"bloom filter with key", BPF_MAP_TYPE_BLOOM_FILTER, 4, 8, 10, 0},
      {"type 0", 0, 4, 4, 4, 0},
      {"type 999", 999, 4, 4, 4, 0},
  };
  for (unsigned i = 0; i < sizeof maps / sizeof maps[0]; ++i) {
    char name[80];
    snprintf(name, sizeof name, "map %s", maps[i].name);
    close(say_fd(name,
                 map_create(maps[i].type, maps[i].key, maps[i].value, maps[i].entries, maps[i].flags, NULL)));
  }
  close(say_fd("map name of 15", map_create(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, "abcdefghij_.123")));
  close(say_fd("map name of 16", map_create(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, "abcdefghij_.1234")));
  close(say_fd("map name with a space", map_create(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, "a b")));
  close(say_fd("map name with a dash", map_create(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, "a-b")));
  // attr's size and tail.
  struct {
    union bpf_attr attr;
    unsigned char tail[64];
  } longer = {.attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1}};
  close(say_fd("map attr longer, zero", bpf(BPF_MAP_CREATE, &longer, sizeof longer)));
  unsigned char page[5000] = {};
  memcpy(page, &longer.attr, sizeof longer.attr);
  page[4000] = 1;
  close(say_fd("map attr longer, garbage", bpf(BPF_MAP_CREATE, page, 4096)));
  page[4000] = 0;
  close(say_fd("map attr of a page", bpf(BPF_MAP_CREATE, page, 4096)));
  close(say_fd("map attr of more than a page", bpf(BPF_MAP_CREATE, page, 5000)));
  close(say_fd("map attr of 20 bytes", bpf(BPF_MAP_CREATE, page, 20)));
  close(say_fd("map attr of 4 bytes", bpf(BPF_MAP_CREATE, page, 4)));
  close(say_fd("map attr of 0 bytes", bpf(BPF_MAP_CREATE, page, 0)));
  page[120] = 1;  // inside the union, nothing MAP_CREATE knows
  close(say_fd("map attr with unknown field", bpf(BPF_MAP_CREATE, page, 128)));
  close(say_fd("map attr at a bad address", bpf(BPF_MAP_CREATE, (void*)8, 64)));
  close(say_fd("map attr null", bpf(BPF_MAP_CREATE, NULL, 64)));
  const int btf = int_btf();
  union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
  attr.btf_fd = btf;
  attr.btf_key_type_id = 1;
  attr.btf_value_type_id = 1;
  close(say_fd("map with BTF", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  attr.btf_value_type_id = 9;
  close(say_fd("map with BTF of no type", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  attr.btf_value_type_id = 1;
  attr.value_size = 8;
  close(say_fd("map with BTF of another size", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  attr.value_size = 4;
  attr.btf_value_type_id = 0;
  close(say_fd("map with BTF key only", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  attr.btf_value_type_id = 1;
  attr.btf_fd = 999;
  close(say_fd("map with bad BTF fd", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  attr.btf_fd = 1;
  close(say_fd("map with BTF fd of a pipe", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  attr.btf_key_type_id = attr.btf_value_type_id = 0;
  close(say_fd("map with unused BTF fd", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  union bpf_attr ring = {
      .map_type = BPF_MAP_TYPE_RINGBUF, .max_entries = 4096, .btf_fd = btf, .btf_value_type_id = 1};
  close(say_fd("ringbuf with BTF", bpf_attr_call(BPF_MAP_CREATE, &ring)));
  union bpf_attr perf = {.map_type = BPF_MAP_TYPE_PERF_EVENT_ARRAY,
                         .key_size = 4,
                         .value_size = 4,
                         .max_entries = 1,
                         .btf_fd = btf,
                         .btf_key_type_id = 1,
                         .btf_value_type_id = 1};
  close(say_fd("perf event array with BTF", bpf_attr_call(BPF_MAP_CREATE, &perf)));
  close(btf);
}

static void elements_of(const char* kind, int fd) {
  char name[80];
  unsigned key = 1, next = 0;
  unsigned long long value[256] = {7};
#define ELEMENT(what, call) (snprintf(name, sizeof name, "%s " what, kind), say(name, call))
  ELEMENT("lookup absent", element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, 0));
  ELEMENT("update NOEXIST", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_NOEXIST));
  ELEMENT("update NOEXIST again", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_NOEXIST));
  ELEMENT("update EXIST", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_EXIST));
  ELEMENT("update ANY", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_ANY));
  ELEMENT("update flags 3", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, 3));
  ELEMENT("update LOCK", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, BPF_F_LOCK));
  ELEMENT("update flags 8", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, 8));
  ELEMENT("lookup", element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, 0));
  say_value("  value", value[0]);
  ELEMENT("lookup flags 1", element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, 1));
  ELEMENT("lookup LOCK", element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, BPF_F_LOCK));
  ELEMENT("lookup bad key", element(BPF_MAP_LOOKUP_ELEM, fd, (void*)8, value, 0));
  ELEMENT("lookup null key", element(BPF_MAP_LOOKUP_ELEM, fd, NULL, value, 0));
  ELEMENT("lookup bad value", element(BPF_MAP_LOOKUP_ELEM, fd, &key, (void*)8, 0));
  ELEMENT("update bad key", element(BPF_MAP_UPDATE_ELEM, fd, (void*)8, value, 0));
  ELEMENT("update bad value", element(BPF_MAP_UPDATE_ELEM, fd, &key, (void*)8, 0));
  ELEMENT("next of null", element(BPF_MAP_GET_NEXT_KEY, fd, NULL, &next, 0));
  ELEMENT("next", element(BPF_MAP_GET_NEXT_KEY, fd, &key, &next, 0));
  ELEMENT("next into bad memory", element(BPF_MAP_GET_NEXT_KEY, fd, NULL, (void*)8, 0));
  ELEMENT("next of bad key", element(BPF_MAP_GET_NEXT_KEY, fd, (void*)8, &next, 0));
  ELEMENT("next with flags", element(BPF_MAP_GET_NEXT_KEY, fd, &key, &next, 1));
  ELEMENT("delete", element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  ELEMENT("delete again", element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  ELEMENT("delete with value", element(BPF_MAP_DELETE_ELEM, fd, &key, value, 0));
  ELEMENT("lookup and delete absent", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, value, 0));
  ELEMENT("update", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, 0));
  ELEMENT("lookup and delete", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, value, 0));
  ELEMENT("lookup and delete flags", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, value, 1));
  key = 100;
  ELEMENT("update key 100", element(BPF_MAP_UPDATE_ELEM, fd, &key, value, 0));
  ELEMENT("lookup key 100", element(BPF_MAP_LOOKUP_ELEM, fd, &key, value, 0));
  ELEMENT("delete key 100", element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  ELEMENT("next of key 100", element(BPF_MAP_GET_NEXT_KEY, fd, &key, &next, 0));
  int full = 0;
  for (key = 0; key < 40 && full == 0; ++key)
    full = element(BPF_MAP_UPDATE_ELEM, fd, &key, value, 0) ? errno : 0;
  snprintf(name, sizeof name, "%s full", kind);
  say_text(name, error_name(full));
}

// Queues, stacks and bloom filters: values without keys.
static void values_of(const char* kind, unsigned type) {
  char name[80];
  unsigned key = 0;
  const int fd = map_create(type, 0, 8, 3, 0, NULL);
  unsigned long long value = 7;
  ELEMENT("peek, empty", element(BPF_MAP_LOOKUP_ELEM, fd, NULL, &value, 0));
  say_value("  value", value);
  ELEMENT("pop, empty", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, NULL, &value, 0));
  for (value = 1; value < 6; ++value) ELEMENT("push", element(BPF_MAP_UPDATE_ELEM, fd, NULL, &value, 0));
  ELEMENT("push NOEXIST", element(BPF_MAP_UPDATE_ELEM, fd, NULL, &value, BPF_NOEXIST));
  ELEMENT("push EXIST", element(BPF_MAP_UPDATE_ELEM, fd, NULL, &value, BPF_EXIST));
  ELEMENT("push LOCK", element(BPF_MAP_UPDATE_ELEM, fd, NULL, &value, BPF_F_LOCK));
  ELEMENT("push flags 8", element(BPF_MAP_UPDATE_ELEM, fd, NULL, &value, 8));
  ELEMENT("push bad value", element(BPF_MAP_UPDATE_ELEM, fd, NULL, (void*)8, 0));
  ELEMENT("push with a key", element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
  value = 2;
  ELEMENT("peek", element(BPF_MAP_LOOKUP_ELEM, fd, NULL, &value, 0));
  say_value("  value", value);
  ELEMENT("peek with a key", element(BPF_MAP_LOOKUP_ELEM, fd, &key, &value, 0));
  ELEMENT("peek flags 1", element(BPF_MAP_LOOKUP_ELEM, fd, NULL, &value, 1));
  ELEMENT("peek bad value", element(BPF_MAP_LOOKUP_ELEM, fd, NULL, (void*)8, 0));
  ELEMENT("pop flags 1", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, NULL, &value, 1));
  ELEMENT("pop LOCK", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, NULL, &value, BPF_F_LOCK));
  for (int i = 0; i < 4; ++i) {
    ELEMENT("pop", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, NULL, &value, 0));
    say_value("  value", value);
  }
  ELEMENT("delete", element(BPF_MAP_DELETE_ELEM, fd, NULL, NULL, 0));
  ELEMENT("delete with a key", element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  ELEMENT("next", element(BPF_MAP_GET_NEXT_KEY, fd, NULL, &key, 0));
  close(fd);
}

static void probe_prefixes(void) {
  struct {
    unsigned length;
    unsigned char address[4];
  } key = {8, {10, 1, 2, 3}}, next;
  const int fd = map_create(BPF_MAP_TYPE_LPM_TRIE, sizeof key, 8, 3, BPF_F_NO_PREALLOC, NULL);
  unsigned long long value = 8;
  say("lpm update", element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
  key.length = 24, value = 24;
  say("lpm update longer", element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_NOEXIST));
  say("lpm update NOEXIST again", element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_NOEXIST));
  key.length = 33;
  say("lpm update too long", element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
  say("lpm lookup too long", element(BPF_MAP_LOOKUP_ELEM, fd, &key, &value, 0));
  say("lpm delete too long", element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  key.length = 32;
  say("lpm lookup", element(BPF_MAP_LOOKUP_ELEM, fd, &key, &value, 0));
  say_value("  value", value);
  key.address[2] = 9;
  say("lpm lookup elsewhere", element(BPF_MAP_LOOKUP_ELEM, fd, &key, &value, 0));
  say_value("  value", value);
  say("lpm lookup and delete", element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, &value, 0));
  say("lpm third", element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
  key.length = 31;
  say("lpm fourth", element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0));
  for (long more = say("lpm first key", element(BPF_MAP_GET_NEXT_KEY, fd, NULL, &next, 0)); more == 0;
       key = next, more = say("lpm next key", element(BPF_MAP_GET_NEXT_KEY, fd, &key, &next, 0))) {
    say_value("  length", next.length);
    say_value("  third byte", next.address[2]);
    key = next;
  }
  say("lpm delete", element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  say("lpm delete again", element(BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0));
  close(fd);
}

static void probe_map_extra(void) {
  for (unsigned i = 0; i < 2; ++i) {
    static const unsigned types[] = {BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_QUEUE};
    for (unsigned long long extra = 0; extra < 20; extra += 5) {
      union bpf_attr attr = {.map_type = types[i], .value_size = 8, .max_entries = 10};
      attr.map_extra = extra;
      const int fd = say_fd(i == 0 ? "bloom extra" : "queue extra", bpf_attr_call(BPF_MAP_CREATE, &attr));
      struct bpf_map_info info = {};
      union bpf_attr ask = {};
      ask.info.bpf_fd = fd;
      ask.info.info_len = sizeof info;
      ask.info.info = (unsigned long)&info;
      say("  info", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
      say_value("  extra", info.map_extra);
      close(fd);
    }
  }
  const int lru = map_create(BPF_MAP_TYPE_LRU_HASH, 4, 8, 11, BPF_F_NO_COMMON_LRU, NULL);
  struct bpf_map_info info = {};
  union bpf_attr ask = {};
  ask.info.bpf_fd = lru;
  ask.info.info_len = sizeof info;
  ask.info.info = (unsigned long)&info;
  say("lru info", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("  entries", info.max_entries);
  close(lru);
  const int btf = int_btf();
  static const unsigned keyless[] = {BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK, BPF_MAP_TYPE_BLOOM_FILTER};
  for (unsigned i = 0; i < 3; ++i) {
    union bpf_attr attr = {.map_type = keyless[i], .value_size = 4, .max_entries = 10};
    attr.btf_fd = btf;
    attr.btf_value_type_id = 1;
    close(say_fd("keyless map with BTF", bpf_attr_call(BPF_MAP_CREATE, &attr)));
  }
  close(btf);
}

static void probe_elements(void) {
  const int hash = map_create(BPF_MAP_TYPE_HASH, 4, 8, 10, 0, NULL);
  elements_of("hash", hash);
  const int array = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 10, 0, NULL);
  elements_of("array", array);
  const int percpu = map_create(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 10, 0, NULL);
  elements_of("percpu", percpu);
  const int percpu_hash = map_create(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 10, 0, NULL);
  elements_of("percpu hash", percpu_hash);
  const int lru = map_create(BPF_MAP_TYPE_LRU_HASH, 4, 8, 1000, 0, NULL);
  elements_of("lru hash", lru);
  const int lru_percpu = map_create(BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 8, 1000, 0, NULL);
  elements_of("lru percpu hash", lru_percpu);
  close(percpu_hash), close(lru), close(lru_percpu);
  values_of("queue", BPF_MAP_TYPE_QUEUE);
  values_of("stack", BPF_MAP_TYPE_STACK);
  values_of("bloom filter", BPF_MAP_TYPE_BLOOM_FILTER);
  probe_prefixes();
  probe_map_extra();
  const int ring = map_create(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, NULL);
  elements_of("ringbuf", ring);
  const int perf = map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0, NULL);
  elements_of("perf array", perf);
  say("null key of a ringbuf", element(BPF_MAP_LOOKUP_ELEM, ring, NULL, log_text, 0));
  unsigned key = 0, value;
  const int event = output_open(-1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  value = event;
  say("perf array takes an event", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, 0));
  say("perf array takes it again", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, 0));
  say("perf array NOEXIST", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, BPF_NOEXIST));
  say("perf array EXIST", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, BPF_EXIST));
  key = 4;
  say("perf array index 4", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, 0));
  key = 1;
  value = hash;
  say("perf array takes no map", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, 0));
  value = 999;
  say("perf array takes no bad fd", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, 0));
  const int uprobe = uprobe_open(probed_file, probed_offset, -1, 0, -1, 0);
  value = uprobe;
  say("perf array takes no uprobe", element(BPF_MAP_UPDATE_ELEM, perf, &key, &value, 0));
  key = 0;
  say("perf array delete", element(BPF_MAP_DELETE_ELEM, perf, &key, NULL, 0));
  say("perf array delete again", element(BPF_MAP_DELETE_ELEM, perf, &key, NULL, 0));
  close(uprobe);
  close(event);

  unsigned long long number = 5;
  say("element of a bad fd", element(BPF_MAP_LOOKUP_ELEM, 999, &key, &number, 0));
  say("element of fd -1", element(BPF_MAP_LOOKUP_ELEM, -1, &key, &number, 0));
  say("element of a pipe", element(BPF_MAP_LOOKUP_ELEM, 1, &key, &number, 0));
  const int btf = int_btf();
  say("element of a BTF", element(BPF_MAP_UPDATE_ELEM, btf, &key, &number, 0));
  close(btf);
  for (int i = 0; i < 3; ++i) {
    static const unsigned flags[] = {BPF_F_RDONLY, BPF_F_WRONLY, BPF_F_RDONLY_PROG};
    static const char* names[] = {"rdonly", "wronly", "rdonly_prog"};
    char name[64];
    const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 2, flags[i], NULL);
    snprintf(name, sizeof name, "%s update", names[i]);
    say(name, element(BPF_MAP_UPDATE_ELEM, map, &key, &number, 0));
    snprintf(name, sizeof name, "%s lookup", names[i]);
    say(name, element(BPF_MAP_LOOKUP_ELEM, map, &key, &number, 0));
    snprintf(name, sizeof name, "%s next", names[i]);
    say(name, element(BPF_MAP_GET_NEXT_KEY, map, &key, &value, 0));
    snprintf(name, sizeof name, "%s delete", names[i]);
    say(name, element(BPF_MAP_DELETE_ELEM, map, &key, NULL, 0));
    union bpf_attr freeze = {.map_fd = map};
    snprintf(name, sizeof name, "%s freeze", names[i]);
    say(name, bpf_attr_call(BPF_MAP_FREEZE, &freeze));
    close(map);
  }
  close(hash), close(array), close(percpu), close(ring), close(perf);
}

static void say_mmap(const char* name, void* at, size_t size) {
  say(name, at == MAP_FAILED ? -1 : 0);
  if (at != MAP_FAILED) munmap(at, size);
}

static void probe_mmap_and_freeze(void) {
  const int map =
      map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 600, BPF_F_MMAPABLE, "libbpf_mmap");  // 4800 bytes: 2 pages
  say_mmap("mmap rw", mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0), 8192);
  say_mmap("mmap 1 page", mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 0), 4096);
  say_mmap("mmap 4800", mmap(NULL, 4800, PROT_READ, MAP_SHARED, map, 0), 4800);
  say_mmap("mmap second page", mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 4096), 4096);
  say_mmap("mmap past the end", mmap(NULL, 12288, PROT_READ, MAP_SHARED, map, 0), 12288);
  say_mmap("mmap at the end", mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 8192), 4096);
  say_mmap("mmap odd offset", mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 100), 4096);
  say_mmap("mmap private", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, map, 0), 4096);
  say_mmap("mmap exec", mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, map, 0), 4096);
  say_mmap("mmap length 0", mmap(NULL, 0, PROT_READ, MAP_SHARED, map, 0), 0);
  const int plain = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 600, 0, NULL);
  say_mmap("mmap not mmapable", mmap(NULL, 4096, PROT_READ, MAP_SHARED, plain, 0), 4096);
  const int hash = map_create(BPF_MAP_TYPE_HASH, 4, 8, 600, 0, NULL);
  say_mmap("mmap hash", mmap(NULL, 4096, PROT_READ, MAP_SHARED, hash, 0), 4096);
  const int ring = map_create(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, NULL);
  say_mmap("mmap ring consumer rw", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0), 4096);
  say_mmap("mmap ring producer ro", mmap(NULL, 4096 * 3, PROT_READ, MAP_SHARED, ring, 4096), 4096 * 3);
  say_mmap("mmap ring producer rw", mmap(NULL, 4096 * 3, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 4096),
           4096 * 3);
  say_mmap("mmap ring too long", mmap(NULL, 4096 * 4, PROT_READ, MAP_SHARED, ring, 4096), 4096 * 4);
  say_mmap("mmap ring all ro", mmap(NULL, 4096 * 4, PROT_READ, MAP_SHARED, ring, 0), 4096 * 4);
  say_mmap("mmap ring private", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, ring, 0), 4096);
  const int readonly = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE | BPF_F_RDONLY_PROG, NULL);
  say_mmap("mmap rdonly_prog rw", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, readonly, 0), 4096);
  say_mmap("mmap rdonly_prog ro", mmap(NULL, 4096, PROT_READ, MAP_SHARED, readonly, 0), 4096);

  unsigned key = 0;
  unsigned long long value = 3;
  union bpf_attr freeze = {.map_fd = map};
  unsigned long long* window = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  say("update a mapped map", element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0));
  say_value("  seen through the mapping", window[0]);
  window[1] = 44;
  key = 1;
  say("lookup in a mapped map", element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0));
  say_value("  written through the mapping", value);
  say("freeze with a writable mapping", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  munmap(window + 512, 4096);
  say("freeze with half a writable mapping", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  say("mprotect to read-only", mprotect(window, 4096, PROT_READ));
  say("freeze with a mapping made read-only", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  munmap(window, 4096);
  window = mmap(NULL, 8192, PROT_READ, MAP_SHARED, map, 0);
  say("freeze with a read-only mapping", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  say("freeze twice", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  munmap(window, 8192);
  say("update frozen", element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0));
  say("delete frozen", element(BPF_MAP_DELETE_ELEM, map, &key, NULL, 0));
  say("lookup frozen", element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0));
  say_mmap("mmap frozen rw", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0), 4096);
  say_mmap("mmap frozen ro", mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 0), 4096);
  freeze.map_fd = readonly;
  say("freeze rdonly_prog", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  freeze.map_fd = hash;
  say("freeze hash", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  say("update frozen hash", element(BPF_MAP_UPDATE_ELEM, hash, &key, &value, 0));
  freeze.map_fd = 999;
  say("freeze bad fd", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  freeze.map_fd = 1;
  say("freeze a pipe", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  freeze.map_fd = plain;
  freeze.key = 1;
  say("freeze with more", bpf_attr_call(BPF_MAP_FREEZE, &freeze));
  close(map), close(plain), close(hash), close(ring), close(readonly);
}

static void probe_poll(void) {
  static const struct {
    const char* name;
    unsigned type, key, value, entries;
  } maps[] = {{"hash", BPF_MAP_TYPE_HASH, 4, 4, 4},
              {"array", BPF_MAP_TYPE_ARRAY, 4, 4, 4},
              {"perf array", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4},
              {"ringbuf", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096}};
  const int set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  char name[64];
  for (int i = 0; i < 4; ++i) {
    const int map = map_create(maps[i].type, maps[i].key, maps[i].value, maps[i].entries, 0, NULL);
    snprintf(name, sizeof name, "epoll %s", maps[i].name);
    say(name, epoll_ctl(set, EPOLL_CTL_ADD, map, &event));
    snprintf(name, sizeof name, "epoll %s again", maps[i].name);
    say(name, epoll_ctl(set, EPOLL_CTL_ADD, map, &event));
    snprintf(name, sizeof name, "epoll wait with %s", maps[i].name);
    say(name, epoll_wait(set, &event, 1, 0));
    event.events = EPOLLIN | EPOLLET;
    snprintf(name, sizeof name, "epoll modify %s", maps[i].name);
    say(name, epoll_ctl(set, EPOLL_CTL_MOD, map, &event));
    snprintf(name, sizeof name, "epoll delete %s", maps[i].name);
    say(name, epoll_ctl(set, EPOLL_CTL_DEL, map, NULL));
    snprintf(name, sizeof name, "epoll delete %s again", maps[i].name);
    say(name, epoll_ctl(set, EPOLL_CTL_DEL, map, NULL));
    snprintf(name, sizeof name, "read %s", maps[i].name);
    say(name, read(map, log_text, 8));
    snprintf(name, sizeof name, "write %s", maps[i].name);
    say(name, write(map, "x", 1));
    close(map);
  }
  const int output = output_open(-1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  say("epoll output event", epoll_ctl(set, EPOLL_CTL_ADD, output, &event));
  say("epoll wait with output event", epoll_wait(set, &event, 1, 0));
  close(output);
  const int btf = int_btf();
  say("epoll BTF", epoll_ctl(set, EPOLL_CTL_ADD, btf, &event));
  close(btf);
  const int prog = LOAD(BPF_PROG_TYPE_KPROBE, MOV_IMM(0, 0), EXIT());
  say("epoll program", epoll_ctl(set, EPOLL_CTL_ADD, prog, &event));
  close(prog);
  close(set);
}

// ---- programs ----

static void probe_programs(void) {
  say_fd("prog trivial", LOAD(BPF_PROG_TYPE_KPROBE, MOV_IMM(0, 0), EXIT()));
  say_fd("prog socket filter", LOAD(BPF_PROG_TYPE_SOCKET_FILTER, MOV_IMM(0, 0), EXIT()));
  say_fd("prog tracepoint", LOAD(BPF_PROG_TYPE_TRACEPOINT, MOV_IMM(0, 0), EXIT()));
  say_fd("prog memcg probe", LOAD(BPF_PROG_TYPE_SOCKET_FILTER, CALL(160), EXIT()));
  say_fd("prog cookie probe", LOAD(BPF_PROG_TYPE_TRACEPOINT, CALL(174), EXIT()));
  say_fd("prog cookie in kprobe", LOAD(BPF_PROG_TYPE_KPROBE, CALL(174), EXIT()));
  say_fd("prog cookie in a socket filter", LOAD(BPF_PROG_TYPE_SOCKET_FILTER, CALL(174), EXIT()));
  say_fd("prog probe_read_kernel probe", LOAD(BPF_PROG_TYPE_TRACEPOINT, MOV_REG(1, 10), ADD_IMM(1, -8),
                                              MOV_IMM(2, 8), MOV_IMM(3, 0), CALL(113), EXIT()));
  insn two[] = {MOV_IMM(0, 0), EXIT()};
  say_fd("prog named", prog_load_with(BPF_PROG_TYPE_SOCKET_FILTER, two, 2, "libbpf_nametest", 0, NULL, 0));
  say_fd("prog with bad name", prog_load_with(BPF_PROG_TYPE_SOCKET_FILTER, two, 2, "a b", 0, NULL, 0));
  const int data = map_create(BPF_MAP_TYPE_ARRAY, 4, 32, 1, 0, NULL);
  say_fd("prog global data", LOAD(BPF_PROG_TYPE_SOCKET_FILTER, LD64(1, BPF_PSEUDO_MAP_VALUE, data, 16),
                                  ST_MEM(BPF_DW, 1, 0, 42), MOV_IMM(0, 0), EXIT()));
  say_fd("prog global data past the end",
         LOAD(BPF_PROG_TYPE_SOCKET_FILTER, LD64(1, BPF_PSEUDO_MAP_VALUE, data, 32), ST_MEM(BPF_DW, 1, 0, 42),
              MOV_IMM(0, 0), EXIT()));
  say_fd("prog with a map",
         LOAD(BPF_PROG_TYPE_KPROBE, LD64(1, BPF_PSEUDO_MAP_FD, data, 0), MOV_IMM(0, 0), EXIT()));
  say_fd("prog with bad map fd",
         LOAD(BPF_PROG_TYPE_KPROBE, LD64(1, BPF_PSEUDO_MAP_FD, 999, 0), MOV_IMM(0, 0), EXIT()));
  say_fd("prog with a pipe as map",
         LOAD(BPF_PROG_TYPE_KPROBE, LD64(1, BPF_PSEUDO_MAP_FD, 1, 0), MOV_IMM(0, 0), EXIT()));
  const int kprobe = LOAD(BPF_PROG_TYPE_KPROBE, MOV_IMM(0, 0), EXIT());
  union bpf_attr bind = {};
  bind.prog_bind_map.prog_fd = kprobe;
  bind.prog_bind_map.map_fd = data;
  say("bind map", bpf_attr_call(BPF_PROG_BIND_MAP, &bind));
  say("bind map again", bpf_attr_call(BPF_PROG_BIND_MAP, &bind));
  bind.prog_bind_map.flags = 1;
  say("bind map flags", bpf_attr_call(BPF_PROG_BIND_MAP, &bind));
  bind.prog_bind_map.flags = 0;
  bind.prog_bind_map.map_fd = 999;
  say("bind bad map", bpf_attr_call(BPF_PROG_BIND_MAP, &bind));
  bind.prog_bind_map.map_fd = kprobe;
  say("bind a program as map", bpf_attr_call(BPF_PROG_BIND_MAP, &bind));
  bind.prog_bind_map.map_fd = data;
  bind.prog_bind_map.prog_fd = data;
  say("bind to a map", bpf_attr_call(BPF_PROG_BIND_MAP, &bind));
  bind.prog_bind_map.prog_fd = 999;
  say("bind to a bad program", bpf_attr_call(BPF_PROG_BIND_MAP, &bind));

  // Refused, and the log.
  insn unset[] = {EXIT()};
  insn jump[] = {INSN(BPF_JMP | BPF_JA, 0, 0, 5, 0), EXIT()};
  insn fall[] = {MOV_IMM(0, 0)};
  insn opcode[] = {INSN(0xff, 0, 0, 0, 0), EXIT()};
  insn reg[] = {INSN(BPF_ALU64 | BPF_MOV | BPF_K, 12, 0, 0, 0), EXIT()};
  insn reserved[] = {INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 3, 0), EXIT()};
  insn half[] = {INSN(BPF_LD | BPF_IMM | BPF_DW, 0, 0, 0, 0)};
  insn null[] = {MOV_IMM(1, 0), ST_MEM(BPF_DW, 1, 0, 0), MOV_IMM(0, 0), EXIT()};
  insn stack[] = {ST_MEM(BPF_DW, 10, -520, 0), MOV_IMM(0, 0), EXIT()};
  insn helper[] = {CALL(9999), EXIT()};
  insn poisoned[] = {CALL(195896080), EXIT()};
  insn dead[] = {MOV_IMM(0, 0), INSN(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0), CALL(195896080), MOV_IMM(0, 0),
                 EXIT()};
  insn forbidden[] = {CALL(51), EXIT()};
  insn loop[] = {MOV_IMM(0, 0), INSN(BPF_JMP | BPF_JA, 0, 0, -2, 0), EXIT()};
  insn unreachable[] = {MOV_IMM(0, 0), EXIT(), MOV_IMM(0, 0), EXIT()};
  const struct {
    const char* name;
    const insn* insns;
    unsigned count;
    const char* says;
  } bad[] = {
      {"r0 unset", unset, 1, "R0 !read_ok"},
      {"jump out", jump, 2, "jump out of range"},
      {"falls off", fall, 1, "last insn"},
      {"opcode", opcode, 2, "opcode ff"},
      {"register 12", reg, 2, ""},
      {"reserved field", reserved, 2, "reserved fields"},
      {"half ldimm64", half, 1, "ld_imm64"},
      {"null store", null, 4, "invalid mem access"},
      {"stack overflow", stack, 3, "invalid write to stack"},
      {"unknown helper", helper, 2, "invalid func"},
      {"poisoned", poisoned, 2, "invalid func"},
      {"poisoned in dead code", dead, 5, ""},
      {"helper of another type", forbidden, 2, "program of this type cannot use helper"},
      {"endless loop", loop, 3, "infinite loop"},
      {"unreachable", unreachable, 4, "unreachable"},
  };
  for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
    char name[80];
    memset(log_text, 0, sizeof log_text);
    snprintf(name, sizeof name, "refuse %s", bad[i].name);
    say_fd(name, prog_load_with(BPF_PROG_TYPE_KPROBE, bad[i].insns, bad[i].count, NULL, 1, log_text,
                                sizeof log_text));
    snprintf(name, sizeof name, "  log says \"%s\"", bad[i].says);
    say_value(name, strstr(log_text, bad[i].says) != NULL);
    snprintf(name, sizeof name, "  without log: %s", bad[i].name);
    close(say_fd(name, prog_load_with(BPF_PROG_TYPE_KPROBE, bad[i].insns, bad[i].count, NULL, 0, NULL, 0)));
  }
  // Log levels and buffers.
  insn longer[] = {MOV_IMM(0, 0), MOV_IMM(1, 1), MOV_IMM(2, 2), MOV_IMM(3, 3),
                   MOV_IMM(4, 4), MOV_IMM(5, 5), EXIT()};
#define LOG_PROBE(name, level, buffer, size)                                                              \
  memset(log_text, 'x', 4096);                                                                            \
  log_text[0] = 0;                                                                                        \
  close(say_fd("log " name, prog_load_with(BPF_PROG_TYPE_KPROBE, longer, 7, NULL, level, buffer, size))); \
  say_value("  text", log_text[0] != 0)
  LOG_PROBE("level 1", 1, log_text, sizeof log_text);
  LOG_PROBE("level 2", 2, log_text, sizeof log_text);
  LOG_PROBE("level 4", 4, log_text, sizeof log_text);
  LOG_PROBE("level 8", 8, log_text, sizeof log_text);
  LOG_PROBE("level 16", 16, log_text, sizeof log_text);
  LOG_PROBE("level 1, 16 bytes", 1, log_text, 16);
  LOG_PROBE("level 2, 128 bytes", 2, log_text, 128);
  say_value("  terminated", strnlen(log_text, 128) < 128);
  LOG_PROBE("level 2, 16 bytes", 2, log_text, 16);
  LOG_PROBE("level 1, no buffer", 1, NULL, 0);
  LOG_PROBE("level 0, buffer", 0, log_text, 4096);
  LOG_PROBE("level 1, null of 4096", 1, NULL, 4096);
  LOG_PROBE("level 1, size 0", 1, log_text, 0);
  LOG_PROBE("level 1, huge size", 1, log_text, 0xffffffff);
  LOG_PROBE("level 2, bad address", 2, (void*)8, 4096);

  // attr.
  union bpf_attr attr = {
      .prog_type = BPF_PROG_TYPE_KPROBE, .insn_cnt = 2, .insns = (uint64_t)two, .license = (uint64_t) "GPL"};
  close(say_fd("prog attr", bpf(BPF_PROG_LOAD, &attr, 128)));
  close(say_fd("prog attr of 40 bytes", bpf(BPF_PROG_LOAD, &attr, 40)));
  close(say_fd("prog attr of 24 bytes", bpf(BPF_PROG_LOAD, &attr, 24)));
#define PROG_PROBE(name, change)                                       \
  do {                                                                 \
    union bpf_attr attr_ = attr, *a = &attr_;                          \
    change;                                                            \
    close(say_fd("prog with " name, bpf_attr_call(BPF_PROG_LOAD, a))); \
  } while (0)
  PROG_PROBE("no instructions", a->insn_cnt = 0);
  PROG_PROBE("too many instructions", a->insn_cnt = 2000000);
  PROG_PROBE("instructions at a bad address", a->insns = 8);
  PROG_PROBE("no license", a->license = 0);
  PROG_PROBE("license at a bad address", a->license = 8);
  PROG_PROBE("another license", a->license = (uint64_t) "Proprietary");
  PROG_PROBE("unknown flags", a->prog_flags = 1u << 20);
  PROG_PROBE("sleepable flag", a->prog_flags = 1u << 4);
  PROG_PROBE("strict alignment", a->prog_flags = 1);
  PROG_PROBE("type 999", a->prog_type = 999);
  PROG_PROBE("type 0", a->prog_type = 0);
  PROG_PROBE("kernel version 1", a->kern_version = 1);
  PROG_PROBE("expected attach type 999", a->expected_attach_type = 999);
  PROG_PROBE("bad BTF fd", a->prog_btf_fd = 999);
  PROG_PROBE("bad BTF fd and func_info", (a->prog_btf_fd = 999, a->func_info_cnt = 1,
                                          a->func_info_rec_size = 8, a->func_info = (uint64_t)log_text));
  PROG_PROBE("ifindex", a->prog_ifindex = 1);
  PROG_PROBE("attach_btf_id", a->attach_btf_id = 1);
  PROG_PROBE("attach_prog_fd", a->attach_prog_fd = 999);
  PROG_PROBE("fd_array at a bad address", a->fd_array = 8);
  insn gpl[] = {MOV_REG(1, 10), ADD_IMM(1, -8), MOV_IMM(2, 8), MOV_IMM(3, 0),
                CALL(113),      MOV_IMM(0, 0),  EXIT()};
  PROG_PROBE("a GPL helper and another license",
             (a->insns = (uint64_t)gpl, a->insn_cnt = 7, a->license = (uint64_t) "MIT"));

  struct bpf_prog_info info = {};
  unsigned ids[4] = {};
  const int with_map = LOAD(BPF_PROG_TYPE_KPROBE, LD64(1, BPF_PSEUDO_MAP_FD, data, 0), MOV_IMM(0, 0), EXIT());
  info.map_ids = (uint64_t)ids;
  info.nr_map_ids = 4;
  union bpf_attr ask = {.info = {.bpf_fd = with_map, .info_len = sizeof info, .info = (uint64_t)&info}};
  say("prog info", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("prog info type", info.type);
  say_value("prog info maps", info.nr_map_ids);
  say_value("prog info map id given", ids[0] != 0);
  say_value("prog info gpl", info.gpl_compatible);
  say_value("prog info xlated", info.xlated_prog_len);
  say_value("prog info verified", info.verified_insns);
  say_value("prog info uid", info.created_by_uid);
  say_value("prog info length", ask.info.info_len);
  info.nr_map_ids = 0;
  info.map_ids = 0;
  ask.info.info_len = 16;
  say("prog info short", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("prog info length", ask.info.info_len);
  unsigned char many[512] = {};
  ask.info.info = (uint64_t)many;
  ask.info.info_len = sizeof many;
  say("prog info long", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  memset(many, 0, sizeof many);
  many[500] = 1;
  ask.info.info_len = sizeof many;
  say("prog info long with garbage", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  ask.info.info_len = 0;
  say("prog info length 0", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  union bpf_attr by_id = {.prog_id = info.id};
  close(say_fd("prog by id", bpf_attr_call(BPF_PROG_GET_FD_BY_ID, &by_id)));
  by_id.prog_id = 0x7ffffff0;
  close(say_fd("prog by no id", bpf_attr_call(BPF_PROG_GET_FD_BY_ID, &by_id)));
  by_id.prog_id = info.id;
  by_id.open_flags = 1;
  close(say_fd("prog by id with open_flags", bpf_attr_call(BPF_PROG_GET_FD_BY_ID, &by_id)));
  close(kprobe), close(data), close(with_map);
}

static void probe_infos_and_ids(void) {
  const int map = map_create(BPF_MAP_TYPE_HASH, 4, 8, 77, BPF_F_NO_PREALLOC, "named.map_1");
  struct bpf_map_info info = {};
  union bpf_attr ask = {.info = {.bpf_fd = map, .info_len = sizeof info, .info = (uint64_t)&info}};
  say("map info", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("map info length", ask.info.info_len);
  say_value("map info type", info.type);
  say_value("map info entries", info.max_entries);
  say_value("map info flags", info.map_flags);
  say_text("map info name", info.name);
  const unsigned id = info.id;
  ask.info.info_len = 8;
  memset(&info, 0, sizeof info);
  say("map info short", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("map info length", ask.info.info_len);
  say_value("map info max_entries untouched", info.max_entries);
  ask.info.info_len = sizeof info;
  ask.info.info = 8;
  say("map info bad pointer", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  ask.info.info = (uint64_t)&info;
  ask.info.bpf_fd = 999;
  say("info bad fd", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  ask.info.bpf_fd = 1;
  say("info of a pipe", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  const int event = uprobe_open(probed_file, probed_offset, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  ask.info.bpf_fd = event;
  say("info of an event", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  close(event);
  union bpf_attr garbage = {.info = {.bpf_fd = map, .info_len = sizeof info, .info = (uint64_t)&info}};
  ((unsigned char*)&garbage)[40] = 1;
  say("info with garbage", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &garbage));

  union bpf_attr next = {.start_id = id - 1};
  say("map next id", bpf_attr_call(BPF_MAP_GET_NEXT_ID, &next));
  say_value("map next id is ours", next.next_id == id);
  next.start_id = 0x7ffffff0;
  say("map next id at the end", bpf_attr_call(BPF_MAP_GET_NEXT_ID, &next));
  next.start_id = 0x80000000;
  say("map next id too large", bpf_attr_call(BPF_MAP_GET_NEXT_ID, &next));
  memset(&next, 0, sizeof next);
  next.open_flags = 1;
  say("map next id with open_flags", bpf_attr_call(BPF_MAP_GET_NEXT_ID, &next));
  union bpf_attr by_id = {.map_id = id};
  unsigned key = 1;
  unsigned long long value = 9;
  int same = say_fd("map by id", bpf_attr_call(BPF_MAP_GET_FD_BY_ID, &by_id));
  say("update through it", element(BPF_MAP_UPDATE_ELEM, same, &key, &value, 0));
  value = 0;
  say("lookup through the first", element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0));
  say_value("  value", value);
  say_value("close-on-exec", fcntl(same, F_GETFD));
  close(same);
  by_id.open_flags = BPF_F_RDONLY;
  same = say_fd("map by id, read-only", bpf_attr_call(BPF_MAP_GET_FD_BY_ID, &by_id));
  say("update through it", element(BPF_MAP_UPDATE_ELEM, same, &key, &value, 0));
  say("lookup through it", element(BPF_MAP_LOOKUP_ELEM, same, &key, &value, 0));
  close(same);
  by_id.open_flags = BPF_F_WRONLY;
  same = say_fd("map by id, write-only", bpf_attr_call(BPF_MAP_GET_FD_BY_ID, &by_id));
  say("update through it", element(BPF_MAP_UPDATE_ELEM, same, &key, &value, 0));
  say("lookup through it", element(BPF_MAP_LOOKUP_ELEM, same, &key, &value, 0));
  close(same);
  by_id.open_flags = 1u << 20;
  close(say_fd("map by id with bad flags", bpf_attr_call(BPF_MAP_GET_FD_BY_ID, &by_id)));
  by_id.open_flags = 0;
  by_id.map_id = 0;
  close(say_fd("map by id 0", bpf_attr_call(BPF_MAP_GET_FD_BY_ID, &by_id)));
  by_id.map_id = id;
  close(map);
  int gone = 0;  // objects may go a moment after their last descriptor
  for (int i = 0; i < 2000 && !gone; ++i) {
    const int fd = bpf_attr_call(BPF_MAP_GET_FD_BY_ID, &by_id);
    if (fd < 0)
      gone = errno;
    else
      close(fd);
    usleep(1000);
  }
  say_text("map by id after close", error_name(gone));
  by_id.link_id = 0x7ffffff0;
  by_id.open_flags = 0;
  close(say_fd("link by no id", bpf_attr_call(BPF_LINK_GET_FD_BY_ID, &by_id)));
  static const int commands[] = {37, 60, 999, -1};
  for (int i = 0; i < 4; ++i) {
    char name[32];
    union bpf_attr attr = {};
    snprintf(name, sizeof name, "command %d", commands[i]);
    say(name, bpf_attr_call(commands[i], &attr) >= 0 ? 0 : -1);
  }
}

// ---- perf events and links ----

static void probe_perf_open(int dead) {
  close(say_fd("uprobe", uprobe_open(probed_file, probed_offset, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)));
  close(say_fd("uprobe of a process",
               uprobe_open(probed_file, probed_offset, getpid(), -1, -1, PERF_FLAG_FD_CLOEXEC)));
  close(say_fd("uprobe of this process", uprobe_open(probed_file, probed_offset, 0, -1, -1, 0)));
  close(say_fd("uprobe of a process on a cpu", uprobe_open(probed_file, probed_offset, getpid(), 0, -1, 0)));
  close(say_fd("uprobe missing file", uprobe_open("/nonexistent/file", 0, -1, 0, -1, 0)));
  close(say_fd("uprobe empty path", uprobe_open("", 0, -1, 0, -1, 0)));
  close(say_fd("uprobe null path", uprobe_open(NULL, 0, -1, 0, -1, 0)));
  close(say_fd("uprobe bad path pointer", uprobe_open((char*)8, 0, -1, 0, -1, 0)));
  close(say_fd("uprobe directory", uprobe_open("/usr", 0, -1, 0, -1, 0)));
  close(say_fd("uprobe device", uprobe_open("/dev/null", 0, -1, 0, -1, 0)));
  close(say_fd("uprobe not a directory", uprobe_open("/etc/passwd/x", 0, -1, 0, -1, 0)));
  close(say_fd("uprobe offset past the file", uprobe_open(probed_file, 1ull << 40, -1, 0, -1, 0)));
  close(say_fd("uprobe no process no cpu", uprobe_open(probed_file, probed_offset, -1, -1, -1, 0)));
  close(say_fd("uprobe dead process", uprobe_open(probed_file, probed_offset, dead, -1, -1, 0)));
  close(say_fd("uprobe process -2", uprobe_open(probed_file, probed_offset, -2, 0, -1, 0)));
  close(say_fd("uprobe cpu 5000", uprobe_open(probed_file, probed_offset, -1, 5000, -1, 0)));
  close(say_fd("uprobe cpu -2", uprobe_open(probed_file, probed_offset, -1, -2, -1, 0)));
  close(say_fd("uprobe bad flags", uprobe_open(probed_file, probed_offset, -1, 0, -1, 1u << 10)));
  close(say_fd("uprobe bad group", uprobe_open(probed_file, probed_offset, -1, 0, 999, 0)));
  close(say_fd("uprobe group of a pipe", uprobe_open(probed_file, probed_offset, -1, 0, 1, 0)));
  close(say_fd("output", output_open(-1, 0, -1, PERF_FLAG_FD_CLOEXEC)));
  close(say_fd("output no process no cpu", output_open(-1, -1, -1, 0)));
  close(say_fd("output cpu 5000", output_open(-1, 5000, -1, 0)));
  close(say_fd("output dead process", output_open(dead, -1, -1, 0)));
  close(say_fd("output bad flags", output_open(-1, 0, -1, 1u << 10)));
  struct perf_event_attr attr = {
      .size = sizeof attr, .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_BPF_OUTPUT};
#define PERF_PROBE(name, change)                                                     \
  do {                                                                               \
    struct perf_event_attr attr_ = attr, *a = &attr_;                                \
    change;                                                                          \
    close(say_fd("perf attr " name, syscall(SYS_perf_event_open, a, -1, 0, -1, 0))); \
  } while (0)
  PERF_PROBE("size 0", a->size = 0);
  PERF_PROBE("size 64", a->size = 64);
  PERF_PROBE("size 40", a->size = 40);
  PERF_PROBE("size 5000", a->size = 5000);
  PERF_PROBE("sample_type bad", a->sample_type = 1ull << 40);
  PERF_PROBE("read_format bad", a->read_format = 1ull << 40);
  close(say_fd("perf attr at a bad address", syscall(SYS_perf_event_open, 8L, -1, 0, -1, 0)));
  const int no_cloexec = uprobe_open(probed_file, probed_offset, -1, 0, -1, 0);
  say_value("uprobe without CLOEXEC", fcntl(no_cloexec, F_GETFD));
  close(no_cloexec);
  const int cloexec = uprobe_open(probed_file, probed_offset, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  say_value("uprobe with CLOEXEC", fcntl(cloexec, F_GETFD));
  close(cloexec);
}

static void probe_perf_use(void) {
  const int event = uprobe_open(probed_file, probed_offset, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  const int kprobe = LOAD(BPF_PROG_TYPE_KPROBE, MOV_IMM(0, 0), EXIT());
  const int other = LOAD(BPF_PROG_TYPE_KPROBE, MOV_IMM(0, 1), EXIT());
  const int filter = LOAD(BPF_PROG_TYPE_SOCKET_FILTER, MOV_IMM(0, 0), EXIT());
  const int tracepoint = LOAD(BPF_PROG_TYPE_TRACEPOINT, MOV_IMM(0, 0), EXIT());
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, NULL);
  const int output = output_open(-1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  unsigned long long id = 0, id2 = 0;
  say("ioctl ID", ioctl(event, PERF_EVENT_IOC_ID, &id));
  say("ioctl ID of another", ioctl(output, PERF_EVENT_IOC_ID, &id2));
  say_value("  ids differ", id != id2 && id != 0);
  say("ioctl ID to a bad address", ioctl(event, PERF_EVENT_IOC_ID, 8));
  say("ioctl ENABLE", ioctl(event, PERF_EVENT_IOC_ENABLE, 0));
  say("ioctl ENABLE again", ioctl(event, PERF_EVENT_IOC_ENABLE, 0));
  say("ioctl DISABLE", ioctl(event, PERF_EVENT_IOC_DISABLE, 0));
  say("ioctl RESET", ioctl(event, PERF_EVENT_IOC_RESET, 0));
  say("ioctl REFRESH", ioctl(event, PERF_EVENT_IOC_REFRESH, 1));
  say("ioctl unknown", ioctl(event, _IO('$', 99), 0));
  say("ioctl of another kind", ioctl(event, 0x5401, log_text));
  unsigned query[6] = {4, 0};
  say("ioctl QUERY_BPF", ioctl(event, PERF_EVENT_IOC_QUERY_BPF, query));
  say("ioctl SET_BPF bad fd", ioctl(event, PERF_EVENT_IOC_SET_BPF, 999));
  say("ioctl SET_BPF fd -1", ioctl(event, PERF_EVENT_IOC_SET_BPF, -1));
  say("ioctl SET_BPF map", ioctl(event, PERF_EVENT_IOC_SET_BPF, map));
  say("ioctl SET_BPF pipe", ioctl(event, PERF_EVENT_IOC_SET_BPF, 1));
  say("ioctl SET_BPF socket filter", ioctl(event, PERF_EVENT_IOC_SET_BPF, filter));
  say("ioctl SET_BPF tracepoint program", ioctl(event, PERF_EVENT_IOC_SET_BPF, tracepoint));
  say("ioctl SET_BPF", ioctl(event, PERF_EVENT_IOC_SET_BPF, kprobe));
  say("ioctl SET_BPF twice", ioctl(event, PERF_EVENT_IOC_SET_BPF, kprobe));
  say("ioctl SET_BPF another", ioctl(event, PERF_EVENT_IOC_SET_BPF, other));
  query[0] = 4;
  say("ioctl QUERY_BPF of one", ioctl(event, PERF_EVENT_IOC_QUERY_BPF, query));
  say_value("  count", query[1]);
  query[0] = 0;
  query[1] = 0;
  say("ioctl QUERY_BPF without room", ioctl(event, PERF_EVENT_IOC_QUERY_BPF, query));
  say_value("  count", query[1]);
  query[0] = 1000;
  say("ioctl QUERY_BPF with 1000", ioctl(event, PERF_EVENT_IOC_QUERY_BPF, query));
  say("ioctl QUERY_BPF of output", (query[0] = 4, ioctl(output, PERF_EVENT_IOC_QUERY_BPF, query)));
  say("link on an event with a program", link_create(kprobe, event, BPF_PERF_EVENT, 0, 0));
  say("ioctl SET_BPF on output", ioctl(output, PERF_EVENT_IOC_SET_BPF, kprobe));
  say("ioctl SET_OUTPUT", ioctl(event, PERF_EVENT_IOC_SET_OUTPUT, 999));
  say("ioctl SET_OUTPUT to itself", ioctl(output, PERF_EVENT_IOC_SET_OUTPUT, output));
  say("ioctl SET_OUTPUT to an event without a ring", ioctl(event, PERF_EVENT_IOC_SET_OUTPUT, output));
  say("ioctl SET_OUTPUT to nothing", ioctl(output, PERF_EVENT_IOC_SET_OUTPUT, -1l));
  say("ioctl PAUSE_OUTPUT without a ring", ioctl(output, PERF_EVENT_IOC_PAUSE_OUTPUT, 1));
  unsigned long long period = 0;
  say("ioctl PERIOD 0", ioctl(event, PERF_EVENT_IOC_PERIOD, &period));
  say("ioctl SET_FILTER", ioctl(event, PERF_EVENT_IOC_SET_FILTER, "x"));
  say("ioctl on a map", ioctl(map, PERF_EVENT_IOC_ENABLE, 0));
  say_mmap("mmap uprobe", mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0), 0);
  say_mmap("mmap output 3 pages of data", mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, output, 0),
           4 * 4096);
  say_mmap("mmap output private", mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, output, 0),
           5 * 4096);
  say_mmap("mmap output offset", mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, output, 4096),
           5 * 4096);
  void* ring = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, output, 0);
  say("mmap output", ring == MAP_FAILED ? -1 : 0);
  if (ring != MAP_FAILED) {
    const struct perf_event_mmap_page* page = ring;
    say_value("  data_offset", page->data_offset);
    say_value("  data_size", page->data_size);
    say_value("  data_head", page->data_head);
  }
  say_mmap("mmap output again, other size",
           mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, output, 0), 3 * 4096);
  say_mmap("mmap output again", mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, output, 0),
           5 * 4096);
  say("ioctl SET_OUTPUT to nothing, mapped", ioctl(output, PERF_EVENT_IOC_SET_OUTPUT, -1l));
  say("ioctl PAUSE_OUTPUT", ioctl(output, PERF_EVENT_IOC_PAUSE_OUTPUT, 1));
  char buffer[64];
  say("read output", read(output, buffer, sizeof buffer));
  say("read uprobe, small", read(event, buffer, 4));
  say("lseek event", lseek(event, 0, SEEK_SET) < 0 ? -1 : 0);
  close(event);

  const int fresh = uprobe_open(probed_file, probed_offset, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  say("link probe", link_create(tracepoint, -1, BPF_PERF_EVENT, 0, 0));
  say("link bad event", link_create(kprobe, 999, BPF_PERF_EVENT, 0, 0));
  say("link to a map", link_create(kprobe, map, BPF_PERF_EVENT, 0, 0));
  say("link to a pipe", link_create(kprobe, 1, BPF_PERF_EVENT, 0, 0));
  say("link of a bad program", link_create(999, fresh, BPF_PERF_EVENT, 0, 0));
  say("link of a map", link_create(map, fresh, BPF_PERF_EVENT, 0, 0));
  say("link flags", link_create(kprobe, fresh, BPF_PERF_EVENT, 1, 0));
  say("link socket filter", link_create(filter, fresh, BPF_PERF_EVENT, 0, 0));
  say("link tracepoint program", link_create(tracepoint, fresh, BPF_PERF_EVENT, 0, 0));
  say("link bad attach type", link_create(kprobe, fresh, 999, 0, 0));
  say("link other attach type", link_create(kprobe, fresh, BPF_CGROUP_INET_INGRESS, 0, 0));
  say("link to output", link_create(kprobe, output, BPF_PERF_EVENT, 0, 0));
  const int link = say_fd("link", link_create(kprobe, fresh, BPF_PERF_EVENT, 0, 42));
  say("link same program again", link_create(kprobe, fresh, BPF_PERF_EVENT, 0, 42) < 0 ? -1 : 0);
  say("link another cookie", link_create(kprobe, fresh, BPF_PERF_EVENT, 0, 43) < 0 ? -1 : 0);
  say("link another program", link_create(other, fresh, BPF_PERF_EVENT, 0, 42) < 0 ? -1 : 0);
  say("ioctl SET_BPF beside a link", ioctl(fresh, PERF_EVENT_IOC_SET_BPF, other));
  struct bpf_link_info info = {};
  union bpf_attr ask = {.info = {.bpf_fd = link, .info_len = sizeof info, .info = (uint64_t)&info}};
  say("link info", bpf_attr_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
  say_value("link info type", info.type);
  say_value("link info length", ask.info.info_len);
  const unsigned link_id = info.id;
  union bpf_attr by_id = {.link_id = link_id};
  close(say_fd("link by id", bpf_attr_call(BPF_LINK_GET_FD_BY_ID, &by_id)));
  by_id.open_flags = 1;
  close(say_fd("link by id with open_flags", bpf_attr_call(BPF_LINK_GET_FD_BY_ID, &by_id)));
  union bpf_attr detach = {};
  detach.link_detach.link_fd = link;
  say("link detach", bpf_attr_call(BPF_LINK_DETACH, &detach));
  detach.link_detach.link_fd = map;
  say("link detach a map", bpf_attr_call(BPF_LINK_DETACH, &detach));
  detach.link_detach.link_fd = 999;
  say("link detach bad fd", bpf_attr_call(BPF_LINK_DETACH, &detach));
  union bpf_attr update = {};
  update.link_update.link_fd = link;
  update.link_update.new_prog_fd = other;
  say("link update", bpf_attr_call(BPF_LINK_UPDATE, &update));
  close(link), close(fresh), close(kprobe), close(other), close(filter), close(tracepoint), close(map),
      close(output);
}

// BPF_PROG_TEST_RUN of a program that returns the low half of its first argument.
static void probe_test_run(void) {
  const insn first_word[] = {{BPF_LDX | BPF_MEM | BPF_DW, 0, 1, 0, 0}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  const insn zero[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  const int reader = prog_load_with(BPF_PROG_TYPE_RAW_TRACEPOINT, first_word, 2, "reads", 0, NULL, 0);
  const int blind = prog_load_with(BPF_PROG_TYPE_RAW_TRACEPOINT, zero, 2, "blind", 0, NULL, 0);
  const int kprobe = prog_load_with(BPF_PROG_TYPE_KPROBE, zero, 2, "kprobe", 0, NULL, 0);
  unsigned long long words[16] = {4711};
  const union bpf_attr good = {.test = {.prog_fd = reader, .ctx_in = (uint64_t)words, .ctx_size_in = 8}};
  union bpf_attr attr = good;
  say("test run", bpf_attr_call(BPF_PROG_TEST_RUN, &attr));
  say_value("test run result", attr.test.retval);
#define RUN(name, ...)                                              \
  do {                                                              \
    union bpf_attr attr = good;                                     \
    __VA_ARGS__;                                                    \
    say("test run " name, bpf_attr_call(BPF_PROG_TEST_RUN, &attr)); \
  } while (0)
  RUN("without context", attr.test.ctx_in = 0, attr.test.ctx_size_in = 0);
  RUN("of the blind without context", attr.test.prog_fd = blind, attr.test.ctx_in = 0,
      attr.test.ctx_size_in = 0);
  RUN("with 12 words", attr.test.ctx_size_in = 96);
  RUN("with 13 words", attr.test.ctx_size_in = 104);
  RUN("with 4 bytes", attr.test.ctx_size_in = 4);
  RUN("with a size alone", attr.test.ctx_in = 0);
  RUN("with a buffer alone", attr.test.ctx_size_in = 0);
  RUN("with a bad buffer", attr.test.ctx_in = 1);
  RUN("with ctx_out", attr.test.ctx_out = (uint64_t)words, attr.test.ctx_size_out = 8);
  RUN("with repeat", attr.test.repeat = 1);
  RUN("with duration", attr.test.duration = 1);
  RUN("with data_in", attr.test.data_in = (uint64_t)words, attr.test.data_size_in = 8);
  RUN("on CPU 0", attr.test.flags = BPF_F_TEST_RUN_ON_CPU);
  RUN("on CPU 9999", attr.test.flags = BPF_F_TEST_RUN_ON_CPU, attr.test.cpu = 9999);
  RUN("on a CPU without the flag", attr.test.cpu = 1);
  RUN("of a kprobe program", attr.test.prog_fd = kprobe);
  RUN("of a pipe", attr.test.prog_fd = 1);
  RUN("of no descriptor", attr.test.prog_fd = 999);
  close(reader), close(blind), close(kprobe);
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  probed_file = argv[1];
  probed_offset = strtoull(argv[2], NULL, 0);
  pid_t dead = fork();
  if (dead == 0) _exit(0);
  waitpid(dead, NULL, 0);
  probe_btf();
  probe_map_create();
  probe_elements();
  probe_mmap_and_freeze();
  probe_poll();
  probe_programs();
  probe_infos_and_ids();
  probe_perf_open(dead);
  probe_perf_use();
  probe_test_run();
  return 0;
}
