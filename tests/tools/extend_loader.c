// An ordinary libbpf loader: extend_loader OBJECT PROGRAM HOST FUNCTION. Says "attached", then waits for its end.
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  struct bpf_object* object = bpf_object__open_file(argv[1], NULL);
  if (object == NULL) return 1;
  struct bpf_program *program, *wanted = NULL;
  bpf_object__for_each_program(program, object) {
    const int is_wanted = strcmp(bpf_program__name(program), argv[2]) == 0;
    bpf_program__set_autoload(program, is_wanted);
    if (is_wanted) wanted = program;
  }
  if (wanted == NULL || bpf_object__load(object) != 0) return 1;
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = argv[4]);
  if (bpf_program__attach_uprobe_opts(wanted, -1, argv[3], 0, &options) == NULL) return 1;
  puts("attached");
  fflush(stdout);
  pause();
  return 0;
}
