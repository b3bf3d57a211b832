// The firewall's user side: a stock libbpf tool, built with the program that observes (firewall) and, with FIREWALL_BLOCK, with
// the one that blocks (firewall_block), which needs a policy: `bpftime load --policy firewall.policy.yaml firewall_block …`.
//
//   firewall --table FILE [--binary PATH] [--symbol NAME]
//
// Loads the program, fills its rules from FILE (made by `rules.py table`), attaches it to nginx. SIGHUP reads FILE again, while
// nginx serves; SIGUSR1 prints the counters, so does the end. Counters are a line of JSON on standard output:
//   {"unreadable": 0, "verdicts": {"0": 17, "3": 1}}
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "firewall.h"
#ifdef FIREWALL_BLOCK
#include "firewall_block.skel.h"
#define UNREADABLE(skeleton) 0ULL  // reads in place, within what is proved
#else
#include "firewall.skel.h"
#define UNREADABLE(skeleton) (skeleton)->bss->unreadable
#endif

static int complain(const char *what, const char *subject) {
  fprintf(stderr, "firewall: %s: %s: %s\n", what, subject, strerror(errno));
  return -1;
}

static int read_table(const char *path, struct fw_table *table) {
  FILE *file = fopen(path, "rb");
  if (!file) return complain("cannot open the table", path);
  size_t got = fread(table, 1, sizeof(*table), file);
  int longer = fgetc(file) != EOF;
  fclose(file);
  errno = EINVAL;
  if (got != sizeof(*table) || longer || table->magic != FW_MAGIC || table->rules > FW_RULES_MAX)
    return complain("not a table of rules.py", path);
  return 0;
}

// Writes the rules where nobody walks, then lets requests use them. What was counted under the old rules' numbers is kept:
// the numbers of the new ones may differ, whoever changes the rules reads the counters first.
static int set_rules(struct firewall_bpf *skeleton, const char *path) {
  static struct fw_table table;
  __u32 zero = 0, active = 0;
  if (read_table(path, &table)) return -1;
  if (bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.active), &zero, &active)) return complain("cannot read", "active");
  active = !active;
  if (bpf_map_update_elem(bpf_map__fd(skeleton->maps.tables), &active, &table, BPF_ANY) ||
      bpf_map_update_elem(bpf_map__fd(skeleton->maps.active), &zero, &active, BPF_ANY))
    return complain("cannot write", "the rules");
  fprintf(stderr, "firewall: %u rules\n", table.rules);
  return 0;
}

static void print_counts(struct firewall_bpf *skeleton) {
  int first = 1;
  printf("{\"unreadable\": %llu, \"verdicts\": {", UNREADABLE(skeleton));
  for (__u32 verdict = 0; verdict < FW_VERDICTS; ++verdict) {
    __u64 count = 0;
    bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.hits), &verdict, &count);
    if (count == 0) continue;
    printf("%s\"%u\": %" PRIu64, first ? "" : ", ", verdict, (uint64_t)count);
    first = 0;
  }
  printf("}}\n");
  fflush(stdout);
}

int main(int argc, char **argv) {
  const char *table = NULL, *binary = "/usr/sbin/nginx", *symbol = "ngx_http_handler";
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--table")) table = argv[i + 1];
    if (!strcmp(argv[i], "--binary")) binary = argv[i + 1];
    if (!strcmp(argv[i], "--symbol")) symbol = argv[i + 1];
  }
  if (!table) {
    fprintf(stderr, "usage: firewall --table FILE [--binary PATH] [--symbol NAME]\n");
    return 2;
  }
  // Blocked before anything starts, taken with sigwait: nothing is done in a handler, nothing is missed.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int *s = (const int[]){SIGHUP, SIGUSR1, SIGINT, SIGTERM, 0}; *s; ++s) sigaddset(&signals, *s);
  sigprocmask(SIG_BLOCK, &signals, NULL);

  struct firewall_bpf *skeleton = firewall_bpf__open_and_load();
  if (!skeleton) return complain("cannot load", "the program"), 1;
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = symbol);
  struct bpf_link *link = NULL;
  if (set_rules(skeleton, table) == 0) {
    link = bpf_program__attach_uprobe_opts(bpf_object__next_program(skeleton->obj, NULL), -1, binary, 0, &options);
    if (!link) complain("cannot attach to", binary);
  }
  if (!link) {
    firewall_bpf__destroy(skeleton);
    return 1;
  }
  fprintf(stderr, "firewall: attached\n");
  for (int signal_number = 0; signal_number != SIGINT && signal_number != SIGTERM;) {
    if (sigwait(&signals, &signal_number)) break;
    if (signal_number == SIGHUP) set_rules(skeleton, table);
    if (signal_number == SIGUSR1) print_counts(skeleton);
  }
  bpf_link__destroy(link);
  print_counts(skeleton);
  firewall_bpf__destroy(skeleton);
  return 0;
}
