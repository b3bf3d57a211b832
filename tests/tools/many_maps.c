// Makes maps until it is refused, closes them and makes one more.
//   many_maps COUNT
// Prints how many there were, the error, and the error of the one more: 0 for none.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int make(void) {
  union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
  return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}

int main(int argc, char** argv) {
  const int most = argc > 1 ? atoi(argv[1]) : 1000000;
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  int* maps = calloc((size_t)most, sizeof *maps);
  int count = 0, error = 0;
  while (count < most && !error) {
    maps[count] = make();
    if (maps[count] < 0)
      error = errno;
    else
      ++count;
  }
  for (int i = 0; i < count; ++i) close(maps[i]);
  free(maps);
  // That they are gone is seen a little later.
  int again = EMFILE;
  const time_t until = time(NULL) + 20;
  do {
    again = make() < 0 ? errno : 0;
  } while (again && time(NULL) < until);
  printf("%d maps, then %d; %d\n", count, error, again);
  return 0;
}
