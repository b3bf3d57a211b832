// Calls bpf(2) and perf_event_open(2) with arguments nobody should trust and prints what each answers. Runs unchanged on the
// kernel and under `bpftime load`: the answers must be the same.
#include <errno.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char* what, long result) {
  printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "ok");
  if (result > 2) close(result);
}

static long bpf(int command, void* attr, unsigned int size) { return syscall(SYS_bpf, command, attr, size); }

static void map(const char* what, unsigned int type, unsigned int key, unsigned int value,
                unsigned int entries, unsigned int flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_type = type;
  attr.key_size = key;
  attr.value_size = value;
  attr.max_entries = entries;
  attr.map_flags = flags;
  tell(what, bpf(BPF_MAP_CREATE, &attr, sizeof(attr)));
}

static void btf(const char* what, const void* bytes, unsigned int size) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.btf = (unsigned long)bytes;
  attr.btf_size = size;
  tell(what, bpf(BPF_BTF_LOAD, &attr, sizeof(attr)));
}

static void maps(void) {
  map("map without a type", 0, 4, 4, 1, 0);
  map("map of no known type", 4000, 4, 4, 1, 0);
  map("array with a key of 8", BPF_MAP_TYPE_ARRAY, 8, 4, 1, 0);
  map("array without entries", BPF_MAP_TYPE_ARRAY, 4, 4, 0, 0);
  map("array without values", BPF_MAP_TYPE_ARRAY, 4, 0, 1, 0);
  map("array with every flag", BPF_MAP_TYPE_ARRAY, 4, 4, 1, ~0u);
  map("array larger than memory", BPF_MAP_TYPE_ARRAY, 4, 1u << 20, 1u << 31, 0);
  map("array with the largest value", BPF_MAP_TYPE_ARRAY, 4, ~0u, 1, 0);
  map("hash without keys", BPF_MAP_TYPE_HASH, 0, 4, 1, 0);
  map("hash with a gigantic key", BPF_MAP_TYPE_HASH, ~0u, 4, 1, 0);
  map("ring of an odd size", BPF_MAP_TYPE_RINGBUF, 0, 0, 5000, 0);
  map("ring with keys", BPF_MAP_TYPE_RINGBUF, 4, 0, 4096, 0);
  map("ring of half a page", BPF_MAP_TYPE_RINGBUF, 0, 0, 2048, 0);
  map("ring of nothing", BPF_MAP_TYPE_RINGBUF, 0, 0, 0, 0);
  map("hash whose entries overflow", BPF_MAP_TYPE_HASH, 4, 1u << 30, 1u << 31, 0);
  map("per-CPU array with the largest value", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 1u << 20, 4, 0);
  map("trie with a key of no data", BPF_MAP_TYPE_LPM_TRIE, 4, 4, 4, BPF_F_NO_PREALLOC);
  map("trie with a gigantic key", BPF_MAP_TYPE_LPM_TRIE, 4096, 4, 4, BPF_F_NO_PREALLOC);
  map("trie all allocated at once", BPF_MAP_TYPE_LPM_TRIE, 8, 4, 4, 0);
  map("queue with keys", BPF_MAP_TYPE_QUEUE, 4, 4, 4, 0);
  map("queue larger than memory", BPF_MAP_TYPE_QUEUE, 0, 1u << 22, ~0u, 0);
  map("stacks of an odd size", BPF_MAP_TYPE_STACK_TRACE, 4, 12, 4, 0);
  map("stacks deeper than any", BPF_MAP_TYPE_STACK_TRACE, 4, 8 * 128, 4, 0);
  map("stacks without number", BPF_MAP_TYPE_STACK_TRACE, 4, 8, (1u << 31) + 1,
      0);  // half of it would be 16 GiB
  map("programs with long keys", BPF_MAP_TYPE_PROG_ARRAY, 8, 4, 4, 0);
  map("bloom filter with keys", BPF_MAP_TYPE_BLOOM_FILTER, 4, 4, 4, 0);
  map("bloom filter without values", BPF_MAP_TYPE_BLOOM_FILTER, 0, 0, 4, 0);
}

// Every type of map with types of key and value, with a value's only, and with types of another size.
static void typed_maps(void) {
  struct {
    struct btf_header header;
    struct {
      struct btf_type type;
      unsigned int bits;
    } ints[2];
    char strings[8];
  } data;
  memset(&data, 0, sizeof(data));
  data.header.magic = BTF_MAGIC;
  data.header.version = BTF_VERSION;
  data.header.hdr_len = sizeof(data.header);
  data.header.type_len = sizeof(data.ints);
  data.header.str_off = sizeof(data.ints);
  data.header.str_len = sizeof(data.strings);
  strcpy(data.strings + 1, "int");
  for (int i = 0; i < 2; ++i) {
    data.ints[i].type.name_off = 1;
    data.ints[i].type.info = BTF_KIND_INT << 24;
    data.ints[i].type.size = i == 0 ? 4 : 8;
    data.ints[i].bits = i == 0 ? 32 : 64;
  }
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.btf = (unsigned long)&data;
  attr.btf_size = sizeof(data);
  const int btf_fd = (int)bpf(BPF_BTF_LOAD, &attr, sizeof(attr));
  static const unsigned int types[] = {BPF_MAP_TYPE_HASH,         BPF_MAP_TYPE_ARRAY,
                                       BPF_MAP_TYPE_PROG_ARRAY,   BPF_MAP_TYPE_PERF_EVENT_ARRAY,
                                       BPF_MAP_TYPE_PERCPU_HASH,  BPF_MAP_TYPE_PERCPU_ARRAY,
                                       BPF_MAP_TYPE_STACK_TRACE,  BPF_MAP_TYPE_CGROUP_ARRAY,
                                       BPF_MAP_TYPE_LRU_HASH,     BPF_MAP_TYPE_LRU_PERCPU_HASH,
                                       BPF_MAP_TYPE_LPM_TRIE,     BPF_MAP_TYPE_QUEUE,
                                       BPF_MAP_TYPE_STACK,        BPF_MAP_TYPE_RINGBUF,
                                       BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_ARRAY_OF_MAPS,
                                       BPF_MAP_TYPE_HASH_OF_MAPS};
  static const struct {
    const char* what;
    unsigned int key, value;
  } cases[] = {{"int and int", 1, 1},      {"no key", 0, 1},        {"too long a key", 2, 1},
               {"too long a value", 1, 2}, {"no such type", 1, 99}, {"a key alone", 1, 0}};
  for (unsigned int t = 0; t < sizeof(types) / sizeof(types[0]); ++t)
    for (unsigned int c = 0; c < sizeof(cases) / sizeof(cases[0]); ++c) {
      memset(&attr, 0, sizeof(attr));
      attr.map_type = types[t];
      attr.key_size = attr.value_size = attr.max_entries = 4;
      if (types[t] == BPF_MAP_TYPE_STACK_TRACE) attr.value_size = 8;
      if (types[t] == BPF_MAP_TYPE_RINGBUF) attr.key_size = attr.value_size = 0, attr.max_entries = 4096;
      if (types[t] == BPF_MAP_TYPE_QUEUE || types[t] == BPF_MAP_TYPE_STACK ||
          types[t] == BPF_MAP_TYPE_BLOOM_FILTER)
        attr.key_size = 0;
      if (types[t] == BPF_MAP_TYPE_LPM_TRIE) attr.key_size = 8, attr.map_flags = BPF_F_NO_PREALLOC;
      int inner = -1;
      if (types[t] == BPF_MAP_TYPE_ARRAY_OF_MAPS || types[t] == BPF_MAP_TYPE_HASH_OF_MAPS) {
        union bpf_attr of;
        memset(&of, 0, sizeof(of));
        of.map_type = BPF_MAP_TYPE_ARRAY;
        of.key_size = of.value_size = of.max_entries = 4;
        inner = (int)bpf(BPF_MAP_CREATE, &of, sizeof(of));
        attr.inner_map_fd = inner;
      }
      attr.btf_fd = btf_fd;
      attr.btf_key_type_id = cases[c].key;
      attr.btf_value_type_id = cases[c].value;
      const long made = bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
      printf("map of type %u, %s: %s\n", types[t], cases[c].what,
             made >= 0      ? "made"
             : errno == 524 ? "ENOTSUPP"
                            : strerrorname_np(errno));
      if (made >= 0) close((int)made);
      if (inner >= 0) close(inner);
    }
  close(btf_fd);
}

// Counts and sizes that lie about what is there.
static void batches(void) {
  unsigned int keys[4] = {0, 1, 2, 3}, values[4] = {0};
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_type = BPF_MAP_TYPE_ARRAY;
  attr.key_size = attr.value_size = attr.max_entries = 4;
  const int array = (int)bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
  attr.map_type = BPF_MAP_TYPE_QUEUE;
  attr.key_size = 0;
  const int queue = (int)bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
  const struct {
    const char* what;
    int command, fd;
    void *keys, *values;
    unsigned int count;
    unsigned long flags;
  } cases[] = {
      {"batch of nothing", BPF_MAP_UPDATE_BATCH, array, keys, values, 0, 0},
      {"batch without keys", BPF_MAP_UPDATE_BATCH, array, NULL, values, 4, 0},
      {"batch without values", BPF_MAP_UPDATE_BATCH, array, keys, NULL, 4, 0},
      {"batch with flags", BPF_MAP_UPDATE_BATCH, array, keys, values, 4, 1ul << 40},
      {"batch of keys that are not there", BPF_MAP_UPDATE_BATCH, array, (void*)16, values, 4, 0},
      {"batch of a queue", BPF_MAP_UPDATE_BATCH, queue, keys, values, 4, 0},
      {"look-up of a queue's batch", BPF_MAP_LOOKUP_BATCH, queue, keys, values, 4, 0},
      {"batch of array entries to delete", BPF_MAP_DELETE_BATCH, array, keys, values, 4, 0},
      {"batch in no map", BPF_MAP_UPDATE_BATCH, 4000, keys, values, 4, 0},
  };
  for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    memset(&attr, 0, sizeof(attr));
    attr.batch.map_fd = cases[i].fd;
    attr.batch.keys = (unsigned long)cases[i].keys;
    attr.batch.values = (unsigned long)cases[i].values;
    attr.batch.count = cases[i].count;
    attr.batch.elem_flags = cases[i].flags;
    const long result = bpf(cases[i].command, &attr, sizeof(attr));
    printf("%s: %s, %u done\n", cases[i].what,
           result == 0    ? "0"
           : errno == 524 ? "ENOTSUPP"
                          : strerrorname_np(errno),
           attr.batch.count);
  }
  close(array);
  close(queue);
}

static void attrs(void) {
  union bpf_attr attr;
  char large[8192];
  memset(&attr, 0, sizeof(attr));
  memset(large, 0, sizeof(large));
  tell("no such command", bpf(4000, &attr, sizeof(attr)));
  tell("attr of more than a page", bpf(BPF_MAP_CREATE, large, sizeof(large)));
  large[1000] = 1;
  tell("attr with a tail", bpf(BPF_MAP_CREATE, large, 2000));
  tell("attr that is not there", bpf(BPF_MAP_CREATE, (void*)16, sizeof(attr)));
  attr.map_fd = 4000;
  tell("lookup in no descriptor", bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr)));
  attr.map_fd = 0;
  tell("lookup in what is no map", bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr)));
}

static void programs(void) {
  static struct bpf_insn bad[2] = {{.code = 0xff}, {.code = BPF_JMP | BPF_EXIT}};
  static struct bpf_insn jump[2] = {{.code = BPF_JMP | BPF_JA, .off = 30000}, {.code = BPF_JMP | BPF_EXIT}};
  static struct bpf_insn open_end[1] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}};
  const struct {
    const char* what;
    const void* insns;
    unsigned int count;
  } cases[] = {
      {"program without instructions", bad, 0},      {"program of too many instructions", bad, 1u << 30},
      {"program that is not there", (void*)16, 2},   {"program of an unknown instruction", bad, 2},
      {"program that jumps out of itself", jump, 2}, {"program without an end", open_end, 1}};
  for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_KPROBE;
    attr.insns = (unsigned long)cases[i].insns;
    attr.insn_cnt = cases[i].count;
    attr.license = (unsigned long)"GPL";
    tell(cases[i].what, bpf(BPF_PROG_LOAD, &attr, sizeof(attr)));
  }
}

static void btfs(void) {
  struct {
    struct btf_header header;
    struct btf_type type;
    char strings[8];
  } data;
  memset(&data, 0, sizeof(data));
  btf("BTF of no bytes", &data, 0);
  btf("BTF of zeros", &data, sizeof(data));
  memset(&data, 0xff, sizeof(data));
  btf("BTF of ones", &data, sizeof(data));
  btf("BTF that is not there", (void*)16, 100);
  btf("BTF of too many bytes", &data, 1u << 30);
  memset(&data, 0, sizeof(data));
  data.header.magic = BTF_MAGIC;
  data.header.version = BTF_VERSION;
  data.header.hdr_len = sizeof(data.header);
  data.header.type_len = sizeof(data.type);
  data.header.str_off = sizeof(data.type);
  data.header.str_len = sizeof(data.strings);
  data.type.info = BTF_KIND_PTR << 24;
  data.type.type = 1;
  btf("BTF of a pointer to itself", &data, sizeof(data));
  data.type.info = BTF_KIND_STRUCT << 24 | 0xffff;
  btf("BTF of a structure beyond its end", &data, sizeof(data));
  data.type.info = 31u << 24;
  btf("BTF of an unknown kind", &data, sizeof(data));
  data.type.info = BTF_KIND_PTR << 24;
  data.type.type = 0;
  data.type.name_off = 0x7fffffff;
  btf("BTF of a name beyond the strings", &data, sizeof(data));
  data.header.str_len = 0x7fffffff;
  btf("BTF of strings beyond its end", &data, sizeof(data));
}

static void probes(const char* file) {
  struct perf_event_attr attr;
  int type = -1;
  FILE* sysfs = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  if (!sysfs || fscanf(sysfs, "%d", &type) != 1) type = -1;
  if (sysfs) fclose(sysfs);
  const struct {
    const char* what;
    unsigned long path, offset;
  } cases[] = {{"probe in a file that is not there", (unsigned long)"/no/such/file", 0},
               {"probe in a directory", (unsigned long)"/", 0},
               {"probe in a path that is not there", 16, 0},
               {"probe in no path", 0, 0},
               {"probe in an empty path", (unsigned long)"", 0},
               {"probe beyond the end", (unsigned long)file, 1ul << 40}};
  for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    memset(&attr, 0, sizeof(attr));
    attr.type = type;
    attr.size = sizeof(attr);
    attr.config1 = cases[i].path;
    attr.config2 = cases[i].offset;
    tell(cases[i].what, syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC));
  }
}

int main(int argc, char** argv) {
  maps();
  typed_maps();
  batches();
  attrs();
  programs();
  btfs();
  probes(argc > 1 ? argv[1] : "/bin/true");
  return 0;
}
