// A stock libbpf tool around nested_maps.bpf.c. Runs unchanged on the kernel and under `bpftime load`.
//   nested_maps FILE FUNCTION
// Each SIGUSR1 is the next step: other maps take the places in the outer ones, while the programs run. SIGTERM prints what
// was counted and ends.
#include "nested_maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "nested_maps.skel.h"
#include "steps.h"

static unsigned id_of(int fd) {
  struct bpf_map_info info = {};
  unsigned size = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &size) ? 0 : info.id;
}

static void print_array(const char* name, int fd) {
  unsigned long long low = 0, high = 0;
  unsigned key = 1;
  bpf_map_lookup_elem(fd, &key, &low);
  key = 40;
  bpf_map_lookup_elem(fd, &key, &high);
  printf("\"%s\": [%llu, %llu], ", name, low, high);
}

static void print_table(const char* name, int fd) {
  unsigned long long keys[64], values[64], sum = 0;
  unsigned cursor, count = 64;
  const int error = bpf_map_lookup_batch(fd, NULL, &cursor, keys, values, &count, NULL);
  for (unsigned i = 0; i < count; ++i) sum += values[i] * (keys[i] + 1);
  printf("\"%s\": [%d, %u, %llu], ", name, error, count, sum);
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  sigset_t before;
  take_steps(&before);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct nested_maps_bpf* skel = nested_maps_bpf__open_and_load();
  if (!skel) {
    fprintf(stderr, "nested_maps: cannot load: %s\n", strerror(errno));
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = argv[2]);
  struct bpf_link* link = bpf_program__attach_uprobe_opts(skel->progs.on_talk, -1, argv[1], 0, &options);
  if (!link) {
    fprintf(stderr, "nested_maps: cannot attach: %s\n", strerror(errno));
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  const int in_array = bpf_map__fd(skel->maps.in_array), in_hash = bpf_map__fd(skel->maps.in_hash);
  const int first = bpf_map__fd(skel->maps.first_table), second = bpf_map__fd(skel->maps.second_table);
  char name[12] = "chosen";
  int late = -1;
  LIBBPF_OPTS(bpf_map_create_opts, inner_options, .map_flags = BPF_F_INNER_MAP);
  for (int step = 0; !stopping;) {
    sigsuspend(&before);
    if (!asked) continue;
    asked = 0;
    int result = 0;
    unsigned key = 2;
    switch (step++) {
      case 0:  // A map that was made after the program was put in place.
        late = bpf_map_create(BPF_MAP_TYPE_ARRAY, "late", 4, 8, 50, &inner_options);
        result = bpf_map_update_elem(in_array, &key, &late, BPF_ANY);
        result |= bpf_map_update_elem(in_hash, name, &first, BPF_NOEXIST);
        break;
      case 1:
        result = bpf_map_update_elem(in_hash, name, &second, BPF_EXIST);
        break;
      case 2:
        key = 0;
        result = bpf_map_delete_elem(in_array, &key);
        result |= bpf_map_delete_elem(in_hash, name);
        break;
    }
    printf("step %d: %d\n", step, result);
    fflush(stdout);
  }
  unsigned key = 2, id = 0;
  bpf_map_lookup_elem(in_array, &key, &id);
  printf("{\"events\": %llu, \"absent\": %llu, \"missed\": %llu, ", skel->bss->events, skel->bss->absent,
         skel->bss->missed);
  print_array("small", bpf_map__fd(skel->maps.small));
  print_array("large", bpf_map__fd(skel->maps.large));
  print_array("late", late);
  print_table("first", first);
  print_table("second", second);
  printf("\"id\": %s}\n", id == id_of(late) ? "true" : "false");
  fflush(stdout);
  bpf_link__destroy(link);
  nested_maps_bpf__destroy(skel);
  return 0;
}
