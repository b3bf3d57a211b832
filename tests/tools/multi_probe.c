// Asks BPF_LINK_CREATE with BPF_TRACE_UPROBE_MULTI many small questions, then counts what its probes see. One line per
// answer; on the kernel and under `bpftime load` they must be the same. No libbpf: older ones know no such links.
//   multi_probe FILE OFFSET OFFSET… [- PID]   then waits for SIGTERM and prints the count per cookie (1, 2, …)
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define UPROBE_MULTI 48
#define PLACES_MAX 4096
#define RETURN 1

typedef struct bpf_insn insn;
#define INSN(c, d, s, o, i) ((insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})

struct multi {
  uint32_t prog_fd, target_fd, attach_type, flags;
  uint64_t path, offsets, ref_ctr_offsets, cookies;
  uint32_t cnt, multi_flags;
  int32_t pid;
  uint32_t behind[5];
};
struct multi_info {
  uint32_t type, id, prog_id, reserved;
  uint64_t path, offsets, ref_ctr_offsets, cookies;
  uint32_t path_size, count, flags, pid;
};

static volatile sig_atomic_t stopping;
static void on_signal(int signal) { (void)signal, stopping = 1; }

static const char* error_name(void) { return errno == 524 ? "ENOTSUPP" : strerrorname_np(errno); }
static int say(const char* name, long result) {
  printf("%s: %s\n", name, result < 0 ? error_name() : "ok");
  return (int)result;
}
static void ask(const char* name, struct multi attr) {
  const int fd = say(name, syscall(SYS_bpf, BPF_LINK_CREATE, &attr, 64));
  if (fd >= 0) close(fd);
}
static long command(int number, union bpf_attr* attr) { return syscall(SYS_bpf, number, attr, sizeof *attr); }

static int load(const insn* insns, unsigned count, unsigned type, unsigned attach_type) {
  union bpf_attr attr = {
      .prog_type = type, .insn_cnt = count, .insns = (uint64_t)insns, .license = (uint64_t) "GPL"};
  attr.expected_attach_type = attach_type;
  return command(BPF_PROG_LOAD, &attr);
}

// counts[bpf_get_attach_cookie()]++
static int load_counter(int map, unsigned attach_type) {
  const insn insns[] = {
      INSN(BPF_JMP | BPF_CALL, 0, 0, 0, 174),
      INSN(BPF_STX | BPF_MEM | BPF_W, 10, 0, -4, 0),
      INSN(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
      INSN(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4),
      INSN(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, map),
      INSN(0, 0, 0, 0, 0),
      INSN(BPF_JMP | BPF_CALL, 0, 0, 0, 1),
      INSN(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0),
      INSN(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, 1),
      INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD),
      INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
      INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  return load(insns, sizeof insns / sizeof *insns, BPF_PROG_TYPE_KPROBE, attach_type);
}

static void ask_bad_ones(const struct multi good, int plain, int map) {
  struct multi attr;
#define WITH(name, ...) attr = good, __VA_ARGS__, ask(name, attr)
  static uint64_t large[2] = {1ull << 62, 0}, negative[2] = {-1ull, 0}, odd[2] = {1, 1};
  WITH("does it exist? path /", attr.path = (uint64_t) "/", attr.cnt = 1);
  WITH("does it exist? pid -1", attr.path = (uint64_t) "/", attr.cnt = 1, attr.pid = -1);
  WITH("program loaded for perf links", attr.prog_fd = plain);
  WITH("program is a map", attr.prog_fd = map);
  WITH("no program", attr.prog_fd = 999);
  WITH("perf link with such a program", attr.attach_type = BPF_PERF_EVENT);
  WITH("link flags", attr.flags = 1);
  WITH("flags", attr.multi_flags = 2);
  WITH("no path", attr.path = 0);
  WITH("bad path", attr.path = 8);
  WITH("no such path", attr.path = (uint64_t) "/no/such/file");
  WITH("a directory", attr.path = (uint64_t) "/usr");
  WITH("a device", attr.path = (uint64_t) "/dev/null");
  WITH("no offsets", attr.offsets = 0);
  WITH("bad offsets", attr.offsets = 8);
  WITH("no places", attr.cnt = 0);
  WITH("too many places", attr.cnt = (1 << 20) + 1);
  WITH("4 billion places", attr.cnt = ~0u);
  WITH("offset behind the end", attr.offsets = (uint64_t)large);
  WITH("negative offset", attr.offsets = (uint64_t)negative, attr.cnt = 1);
  WITH("bad cookies", attr.cookies = 8);
  WITH("bad counters", attr.ref_ctr_offsets = 8);
  WITH("negative counter", attr.ref_ctr_offsets = (uint64_t)negative, attr.cnt = 1);
  WITH("odd counter", attr.ref_ctr_offsets = (uint64_t)odd, attr.cnt = 1);
  pid_t dead = fork();
  if (dead == 0) _exit(0);
  waitpid(dead, NULL, 0);
  WITH("dead process", attr.pid = dead);
  WITH("process 4 billion", attr.pid = INT32_MAX);
  WITH("bytes behind", attr.behind[0] = 1);
  WITH("no cookies", attr.cookies = 0);
  WITH("at returns", attr.multi_flags = RETURN);
  WITH("of this process", attr.pid = getpid());
}

static long info_of(int link, struct multi_info* info) {
  union bpf_attr attr = {.info = {.bpf_fd = link, .info_len = sizeof *info, .info = (uint64_t)info}};
  return command(BPF_OBJ_GET_INFO_BY_FD, &attr);
}

static void ask_infos(int link, unsigned count) {
  static uint64_t offsets[PLACES_MAX], counters[PLACES_MAX], cookies[PLACES_MAX];
  char path[4096] = "";
  struct multi_info info = {};
  say("info", info_of(link, &info));
  printf("type %u count %u flags %u pid %u\n", info.type, info.count, info.flags, info.pid);
  info = (struct multi_info){.path = (uint64_t)path,
                             .path_size = sizeof path,
                             .offsets = (uint64_t)offsets,
                             .ref_ctr_offsets = (uint64_t)counters,
                             .cookies = (uint64_t)cookies,
                             .count = PLACES_MAX};
  say("info, all of it", info_of(link, &info));
  printf("path %s size %u\n", path, info.path_size);
  for (unsigned i = 0; i < count && i < 8; ++i)
    printf("place %llx %llu %llu\n", (unsigned long long)offsets[i], (unsigned long long)counters[i],
           (unsigned long long)cookies[i]);
  memset(cookies, 0, sizeof cookies);
  info = (struct multi_info){.cookies = (uint64_t)cookies, .count = 1};
  say("info, room for one", info_of(link, &info));
  printf("cookies %llu %llu\n", (unsigned long long)cookies[0], (unsigned long long)cookies[1]);
  info = (struct multi_info){.cookies = (uint64_t)cookies};
  say("info, no room", info_of(link, &info));
  info = (struct multi_info){.path = (uint64_t)path};
  say("info, no room for the path", info_of(link, &info));
  info = (struct multi_info){.path = (uint64_t)path, .path_size = 2};
  say("info, little room for the path", info_of(link, &info));
  info = (struct multi_info){.offsets = 8, .count = PLACES_MAX};
  say("info, bad offsets", info_of(link, &info));
}

static void ask_changes(int link, int prog, int map) {
  union bpf_attr detach = {};
  detach.link_detach.link_fd = link;
  say("detach", command(BPF_LINK_DETACH, &detach));
  union bpf_attr update = {};
  update.link_update.link_fd = link;
  update.link_update.new_prog_fd = prog;
  say("update", command(BPF_LINK_UPDATE, &update));
  update.link_update.flags = 4;  // BPF_F_REPLACE
  update.link_update.old_prog_fd = prog;
  say("update, replacing", command(BPF_LINK_UPDATE, &update));
  update.link_update.old_prog_fd = 999;
  say("update, replacing nothing", command(BPF_LINK_UPDATE, &update));
  update.link_update.flags = 0;
  say("update with an old program", command(BPF_LINK_UPDATE, &update));
  update.link_update.old_prog_fd = 0;
  update.link_update.new_prog_fd = map;
  say("update to a map", command(BPF_LINK_UPDATE, &update));
  update.link_update.flags = 64;
  say("update, flags", command(BPF_LINK_UPDATE, &update));
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  signal(SIGTERM, on_signal);
  static uint64_t offsets[PLACES_MAX], cookies[PLACES_MAX];
  unsigned count = 0;
  int pid = 0;
  for (int i = 2; i < argc && count < PLACES_MAX; ++i) {
    if (strcmp(argv[i], "-") == 0) {
      pid = i + 1 < argc ? atoi(argv[i + 1]) : 0;
      break;
    }
    offsets[count] = strtoull(argv[i], NULL, 0);
    cookies[count] = count + 1;
    ++count;
  }
  union bpf_attr make = {
      .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = PLACES_MAX + 1};
  const int map = say("map", command(BPF_MAP_CREATE, &make));
  const int prog = say("program", load_counter(map, UPROBE_MULTI));
  const int plain = say("plain program", load_counter(map, 0));
  const struct multi good = {.prog_fd = prog,
                             .attach_type = UPROBE_MULTI,
                             .path = (uint64_t)argv[1],
                             .offsets = (uint64_t)offsets,
                             .cookies = (uint64_t)cookies,
                             .cnt = count};
  ask_bad_ones(good, plain, map);
  struct multi attr = good;
  attr.pid = pid;
  const int link = say("link", syscall(SYS_bpf, BPF_LINK_CREATE, &attr, 64));
  attr.multi_flags = RETURN;
  const int returns = say("link of returns", syscall(SYS_bpf, BPF_LINK_CREATE, &attr, 64));
  if (pid == 0) ask_infos(link, count);
  ask_changes(link, prog, map);
  printf("ready\n");
  fflush(stdout);
  while (!stopping) pause();
  for (unsigned key = 0; key <= count; ++key) {
    uint64_t value = 0;
    union bpf_attr look = {.map_fd = map, .key = (uint64_t)&key, .value = (uint64_t)&value};
    command(BPF_MAP_LOOKUP_ELEM, &look);
    if (count <= 16 || value == 0) printf("cookie %u: %llu\n", key, (unsigned long long)value);
  }
  printf("end\n");
  close(returns), close(link);
  return 0;
}
