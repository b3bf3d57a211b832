// A stock tool driven by lines on standard input: makes and drops perf events and links one descriptor at a time, so that
// tests can ask what each close does. Every line begins with a number N, and its answer ends with "done N".
//   link_tool FILE FUNCTION [MAP_ID]      MAP_ID: write into another loader's log
// Lines:  attach COOKIE PID entry|return   new event and link; prints its index
//         attach_ioctl PID                 new event, program set by ioctl, not enabled
//         enable I | disable I | close_link I | close_event I | dup_link I
//         fork                             a child inherits everything and waits; prints its pid
//         names I                          the file as the link, then as the event, is asked for it
//         mapid | dump (prints and empties the log) | quit
#include "link_tool.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "link_tool.skel.h"

#define LINKS_MAX 64

static struct link_tool_bpf* skel;
static int events[LINKS_MAX], links[LINKS_MAX], count;
static const char* file;
static unsigned long long offset;

static unsigned long long number_in(const char* path) {
  unsigned long long value = 0;
  char text[64] = "";
  FILE* in = fopen(path, "r");
  if (in && fgets(text, sizeof(text), in)) sscanf(text, text[0] == 'c' ? "config:%llu" : "%llu", &value);
  if (in) fclose(in);
  return value;
}

// The file offset of a function the file exports; 0: none.
static unsigned long long offset_of(const char* path, const char* function) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0) return 0;
  const char* base = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (base == MAP_FAILED) return 0;
  const Elf64_Ehdr* elf = (const void*)base;
  const Elf64_Shdr* sections = (const void*)(base + elf->e_shoff);
  const Elf64_Phdr* segments = (const void*)(base + elf->e_phoff);
  for (int i = 0; i < elf->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_DYNSYM) continue;
    const Elf64_Sym* symbols = (const void*)(base + sections[i].sh_offset);
    const char* names = base + sections[sections[i].sh_link].sh_offset;
    for (unsigned long s = 0; s < sections[i].sh_size / sizeof(*symbols); ++s) {
      if (strcmp(names + symbols[s].st_name, function) != 0) continue;
      for (int p = 0; p < elf->e_phnum; ++p)
        if (segments[p].p_type == PT_LOAD && symbols[s].st_value - segments[p].p_vaddr < segments[p].p_filesz)
          return symbols[s].st_value - segments[p].p_vaddr + segments[p].p_offset;
    }
  }
  return 0;
}

static int open_event(int pid, int is_return) {
  struct perf_event_attr attr = {.size = sizeof(attr),
                                 .type = number_in("/sys/bus/event_source/devices/uprobe/type")};
  if (is_return) attr.config |= 1ull << number_in("/sys/bus/event_source/devices/uprobe/format/retprobe");
  attr.uprobe_path = (unsigned long)file;
  attr.probe_offset = offset;
  return syscall(SYS_perf_event_open, &attr, pid, pid == -1 ? 0 : -1, -1, 8 /* close on exec */);
}

static void attach(unsigned long long cookie, int pid, int is_return) {
  LIBBPF_OPTS(bpf_link_create_opts, options, .perf_event.bpf_cookie = cookie);
  int program = bpf_program__fd(is_return ? skel->progs.on_return : skel->progs.on_call);
  events[count] = open_event(pid, is_return);
  links[count] =
      events[count] < 0 ? -errno : bpf_link_create(program, events[count], BPF_PERF_EVENT, &options);
  if (links[count] >= 0 && ioctl(events[count], PERF_EVENT_IOC_ENABLE, 0) != 0) links[count] = -errno;
  if (links[count] < 0)
    printf("failed %s\n", strerror(-links[count]));
  else
    printf("index %d\n", count++);
}

static void attach_by_ioctl(int pid) {
  links[count] = -1;
  events[count] = open_event(pid, 0);
  if (events[count] < 0 || ioctl(events[count], PERF_EVENT_IOC_DISABLE, 0) != 0 ||
      ioctl(events[count], PERF_EVENT_IOC_SET_BPF, bpf_program__fd(skel->progs.on_call)) != 0)
    printf("failed %s\n", strerror(errno));
  else
    printf("index %d\n", count++);
}

static void dump(void) {
  struct log_entry entry, none = {0};
  unsigned int key = 0, entries = 0;
  int map = bpf_map__fd(skel->maps.call_log);
  if (bpf_map_lookup_elem(map, &key, &entry) == 0) entries = entry.cookie;
  printf("log");
  for (key = 1; key <= entries && key < LOG_ENTRIES; ++key)
    if (bpf_map_lookup_elem(map, &key, &entry) == 0)
      printf(" %llu:%u%s", entry.cookie, entry.tgid, entry.is_return ? "r" : "");
  printf("\n");
  key = 0;
  bpf_map_update_elem(map, &key, &none, BPF_ANY);
}

static void print_names(int i) {
  // struct bpf_link_info as of Linux 6.6: file_name and name_len of a perf event's link are its words 3 and 4.
  char of_link[256] = "", of_event[256] = "";
  unsigned long long info[12] = {[3] = (unsigned long)of_link, [4] = sizeof(of_link)};
  unsigned int size = sizeof(info), length = sizeof(of_event), program, type;
  unsigned long long at, address;
  int error = bpf_obj_get_info_by_fd(links[i], info, &size);
  printf("link %d %s %u\n", error, of_link, (unsigned int)info[4]);
  error = bpf_task_fd_query(getpid(), events[i], 0, of_event, &length, &program, &type, &at, &address);
  printf("event %d %s %u\n", error, of_event, length);
}

static void print_map_id(void) {
  struct bpf_map_info info = {0};
  unsigned int size = sizeof(info);
  bpf_obj_get_info_by_fd(bpf_map__fd(skel->maps.call_log), &info, &size);
  printf("mapid %u\n", info.id);
}

static void obey(char* line) {
  char what[32] = "", kind[16] = "";
  unsigned long long cookie = 0;
  int i = 0, pid = -1;
  sscanf(line, "%31s %d", what, &i);
  if (strcmp(what, "attach") == 0 && sscanf(line, "%*s %llu %d %15s", &cookie, &pid, kind) == 3)
    attach(cookie, pid, strcmp(kind, "return") == 0);
  else if (strcmp(what, "attach_ioctl") == 0)
    attach_by_ioctl(i);
  else if (strcmp(what, "enable") == 0)
    printf("%d\n", ioctl(events[i], PERF_EVENT_IOC_ENABLE, 0));
  else if (strcmp(what, "disable") == 0)
    printf("%d\n", ioctl(events[i], PERF_EVENT_IOC_DISABLE, 0));
  else if (strcmp(what, "close_link") == 0)
    printf("%d\n", close(links[i]));
  else if (strcmp(what, "close_event") == 0)
    printf("%d\n", close(events[i]));
  else if (strcmp(what, "dup_link") == 0)
    printf("%d\n", dup(links[i]) >= 0 ? 0 : -1);
  else if (strcmp(what, "names") == 0)
    print_names(i);
  else if (strcmp(what, "mapid") == 0)
    print_map_id();
  else if (strcmp(what, "dump") == 0)
    dump();
  else if (strcmp(what, "fork") == 0) {
    fflush(stdout);
    pid = fork();
    if (pid == 0)
      for (;;) pause();
    printf("child %d\n", pid);
  }
}

int main(int argc, char** argv) {
  char line[256];
  if (argc < 3) return 2;
  setvbuf(stdout, NULL, _IOFBF, 65536);
  file = argv[1];
  offset = offset_of(argv[1], argv[2]);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  skel = link_tool_bpf__open();
  if (!skel || offset == 0) return 1;
  if (argc > 3) {
    int fd = bpf_map_get_fd_by_id(atoi(argv[3]));
    if (fd < 0 || bpf_map__reuse_fd(skel->maps.call_log, fd) != 0) return 1;
    close(fd);
  }
  if (link_tool_bpf__load(skel) != 0) return 1;
  printf("ready\n");
  fflush(stdout);
  while (fgets(line, sizeof(line), stdin)) {
    char* rest = line;
    long number = strtol(line, &rest, 10);
    if (strcmp(rest, " quit\n") == 0) break;
    obey(rest);
    printf("done %ld\n", number);
    fflush(stdout);
  }
  return 0;  // descriptors go with the process
}
