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
  attrs();
  programs();
  btfs();
  probes(argc > 1 ? argv[1] : "/bin/true");
  return 0;
}
