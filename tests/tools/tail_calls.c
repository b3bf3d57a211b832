// A stock libbpf tool around tail_calls.bpf.c. Runs unchanged on the kernel and under `bpftime load`.
//   tail_calls FILE FUNCTION
// Each SIGUSR1 is the next step: the gap in the chain is filled, then another place emptied, while the programs run. SIGTERM
// prints what was counted and ends.
#include "tail_calls.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>

#include "steps.h"
#include "tail_calls.skel.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  sigset_t before;
  take_steps(&before);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct tail_calls_bpf* skel = tail_calls_bpf__open_and_load();
  if (!skel) {
    fprintf(stderr, "tail_calls: cannot load: %s\n", strerror(errno));
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = argv[2]);
  struct bpf_link* link = bpf_program__attach_uprobe_opts(skel->progs.on_talk, -1, argv[1], 0, &options);
  if (!link) {
    fprintf(stderr, "tail_calls: cannot attach: %s\n", strerror(errno));
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  const int programs = bpf_map__fd(skel->maps.programs), late = bpf_program__fd(skel->progs.late);
  for (int step = 0; !stopping;) {
    sigsuspend(&before);
    if (!asked) continue;
    asked = 0;
    const unsigned key = step == 0 ? LATE : AGAIN;
    const int result =
        step == 0 ? bpf_map_update_elem(programs, &key, &late, BPF_ANY) : bpf_map_delete_elem(programs, &key);
    printf("step %d: %d\n", ++step, result);
    fflush(stdout);
  }
  const struct tail_calls_bpf__bss* bss = skel->bss;
  printf(
      "{\"events\": %llu, \"rounds\": %llu, \"ended\": %llu, \"firsts\": %llu, \"lates\": %llu, "
      "\"lasts\": %llu, \"fell_through\": %llu, \"outside\": %llu, \"texts\": %llu}\n",
      bss->events, bss->rounds, bss->ended, bss->firsts, bss->lates, bss->lasts, bss->fell_through,
      bss->outside, bss->texts);
  fflush(stdout);
  bpf_link__destroy(link);
  tail_calls_bpf__destroy(skel);
  return 0;
}
