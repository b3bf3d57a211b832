// A stock libbpf tool around task_stat.bpf.c. Runs unchanged on the kernel and under `bpftime load`.
//   task_stat FILE FUNCTION
// Prints each report compared with what /proc says, so that two runs print the same; addresses relative to the first of their stack,
// those of other files as "far". Ends with SIGTERM.
#include "task_stat.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "task_stat.skel.h"

static volatile sig_atomic_t stopping;
static int stacks;
static unsigned long long function;

static void on_signal(int signal) { stopping = 1; }

static void print_stack(const char* name, const unsigned long long* ips, int count) {
  printf("  %s", name);
  for (int i = 0; i < count && ips[i] != 0; ++i) {
    const long long offset = (long long)(ips[i] - function);
    if (offset > -65536 && offset < 65536)
      printf(" %+lld", offset);
    else
      printf(" far");
  }
  printf("\n");
}

static int on_report(void* context, void* data, size_t size) {
  const struct report* r = data;
  char path[64], text[512] = "";
  struct stat ns = {0};
  snprintf(path, sizeof path, "/proc/%u/ns/mnt", r->tgid);
  stat(path, &ns);
  snprintf(path, sizeof path, "/proc/%u/stat", r->tgid);
  FILE* file = fopen(path, "r");
  if (file) {
    fread(text, 1, sizeof text - 1, file);
    fclose(file);
  }
  unsigned parent = 0;
  unsigned long long start = 0;
  const char* after = strrchr(text, ')');
  if (after) {
    sscanf(after + 2, "%*c %u", &parent);
    sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
           &start);
  }
  if (!r->on_return) function = r->stack[0];
  printf("%s\n", r->on_return ? "return" : "entry");
  printf("  ids %d parent %d leader %d mount %d uid %u start %d cgroup %d\n",
         r->task_pid == r->pid && r->task_tgid == r->tgid, r->parent_tgid == parent, r->leader_pid == r->tgid,
         r->mount_ns == ns.st_ino, r->uid, r->start_boottime_ns / 10000000 == start, r->cgroup_id != 0);
  printf("  name %s %d text %s %d\n", r->name, r->name_length, r->text, r->text_length);
  printf("  stack bytes %d kernel %d id %s kernel id %d\n", r->stack_bytes, r->kernel_stack_bytes,
         r->stack_id >= 0 ? "good" : strerror(-r->stack_id), r->kernel_stack_id);
  print_stack("stack", r->stack, STACK_WORDS);
  unsigned long long ips[STACK_WORDS] = {0};
  const int ids[] = {r->stack_id, r->other_stack_id};
  for (int i = 0; i < 2; ++i) {
    if (bpf_map_lookup_elem(stacks, &ids[i], ips) != 0)
      printf("  no stack %s\n", strerror(errno));
    else
      print_stack(i ? "stored without the first" : "stored", ips, STACK_WORDS);
  }
  fflush(stdout);
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  struct sigaction action = {.sa_handler = on_signal};  // no SA_RESTART: waits end
  sigaction(SIGTERM, &action, NULL);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct task_stat_bpf* skel = task_stat_bpf__open_and_load();
  if (!skel) {
    fprintf(stderr, "task_stat: cannot load: %s\n", strerror(errno));
    return 1;
  }
  stacks = bpf_map__fd(skel->maps.stacks);
  LIBBPF_OPTS(bpf_uprobe_opts, enter, .func_name = argv[2]);
  LIBBPF_OPTS(bpf_uprobe_opts, leave, .func_name = argv[2], .retprobe = true);
  struct bpf_link* one = bpf_program__attach_uprobe_opts(skel->progs.on_enter, -1, argv[1], 0, &enter);
  struct bpf_link* two = bpf_program__attach_uprobe_opts(skel->progs.on_return, -1, argv[1], 0, &leave);
  struct ring_buffer* ring = ring_buffer__new(bpf_map__fd(skel->maps.reports), on_report, NULL, NULL);
  if (!one || !two || !ring) {
    fprintf(stderr, "task_stat: cannot attach: %s\n", strerror(errno));
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  while (!stopping) ring_buffer__poll(ring, -1);
  ring_buffer__free(ring);
  bpf_link__destroy(one);
  bpf_link__destroy(two);
  task_stat_bpf__destroy(skel);
  return 0;
}
