// extension OBJECT [SYMBOL]: loads the program `extension` of OBJECT and attaches it to SYMBOL of nginx: a stock libbpf loader. What
// the verifier says goes to standard error. SIGUSR1 prints how many requests the program has looked at; SIGTERM ends it.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static int complain(const char *what) {
  fprintf(stderr, "extension: %s: %s\n", what, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  const char *symbol = argc > 2 ? argv[2] : "ngx_http_handler";
  if (argc < 2) {
    fprintf(stderr, "usage: extension OBJECT [SYMBOL]\n");
    return 2;
  }
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  struct bpf_object *object = bpf_object__open_file(argv[1], NULL);
  if (!object) return complain(argv[1]);
  if (bpf_object__load(object)) return complain("refused");
  struct bpf_program *program = bpf_object__find_program_by_name(object, "extension");
  struct bpf_map *counter = bpf_object__find_map_by_name(object, ".bss.seen");
  if (!program || !counter) return complain("no program `extension` or no counter");
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = symbol);
  struct bpf_link *link = bpf_program__attach_uprobe_opts(program, -1, "/usr/sbin/nginx", 0, &options);
  if (!link) return complain("cannot attach");
  fprintf(stderr, "extension: attached\n");
  for (int signal_number = 0; signal_number != SIGTERM;) {
    if (sigwait(&signals, &signal_number)) break;
    __u64 seen = 0;
    __u32 zero = 0;
    if (bpf_map__value_size(counter) != sizeof(seen) || bpf_map_lookup_elem(bpf_map__fd(counter), &zero, &seen))
      return complain("cannot read the counter");
    printf("%llu\n", seen);
    fflush(stdout);
  }
  bpf_link__destroy(link);
  bpf_object__close(object);
  return 0;
}
