// An ordinary libbpf loader: extend_loader OBJECT PROGRAMS HOST FUNCTION [MORE]. PROGRAMS: names with commas, of one object. Says
// "attached", then waits for its end; with MORE for a line on standard input first, opens the object once more, loads those of
// it, and says "more".
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int is_wanted(const char* name, const char* names) {
  const size_t length = strlen(name);
  for (const char* at = names; (at = strstr(at, name)) != NULL; at += length)
    if ((at == names || at[-1] == ',') && (at[length] == ',' || at[length] == '\0')) return 1;
  return 0;
}

static int load(const char* path, const char* names, const char* host, const char* function) {
  struct bpf_object* object = bpf_object__open_file(path, NULL);
  if (object == NULL) return 1;
  struct bpf_program* program;
  int wanted = 0;
  bpf_object__for_each_program(program, object) {
    const int is_one = is_wanted(bpf_program__name(program), names);
    bpf_program__set_autoload(program, is_one);
    wanted += is_one;
  }
  if (wanted == 0 || bpf_object__load(object) != 0) return 1;
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = function);
  bpf_object__for_each_program(program, object) {
    if (bpf_program__fd(program) >= 0 &&
        bpf_program__attach_uprobe_opts(program, -1, host, 0, &options) == NULL)
      return 1;
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) return 2;
  if (load(argv[1], argv[2], argv[3], argv[4]) != 0) return 1;
  puts("attached");
  fflush(stdout);
  if (argc == 6) {
    if (getchar() == EOF || load(argv[1], argv[5], argv[3], argv[4]) != 0) return 1;
    puts("more");
    fflush(stdout);
  }
  pause();
  return 0;
}
