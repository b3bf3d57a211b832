// Has a program run once (BPF_PROG_TEST_RUN) and prints what came of it. A stock libbpf tool.
//   endless endless|answers
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "endless.skel.h"

int main(int argc, char** argv) {
  struct endless_bpf* skel = endless_bpf__open_and_load();
  if (!skel) {
    fprintf(stderr, "endless: cannot load: %s\n", strerror(errno));
    return 1;
  }
  const int endless = argc > 1 && strcmp(argv[1], "endless") == 0;
  LIBBPF_OPTS(bpf_test_run_opts, options);
  printf("running\n");
  fflush(stdout);
  const int error =
      bpf_prog_test_run_opts(bpf_program__fd(endless ? skel->progs.endless : skel->progs.answers), &options);
  printf("%d %u\n", error, options.retval);
  endless_bpf__destroy(skel);
  return 0;
}
