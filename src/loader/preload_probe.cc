// An ordinary libbpf program for preload_test: it knows nothing of us. One verb per run; prints what it sees.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

namespace {

int maps() {
  const int fd = bpf_map_create(BPF_MAP_TYPE_HASH, "numbers", 4, 8, 16, nullptr);
  std::printf("create %s\n", fd >= 0 ? "ok" : std::strerror(errno));
  std::printf("cloexec %d\n", ::fcntl(fd, F_GETFD) & FD_CLOEXEC);
  uint32_t key = 3, next = 0;
  uint64_t value = 33, got = 0;
  std::printf("lookup %d\n", bpf_map_lookup_elem(fd, &key, &got));
  std::printf("update %d\n", bpf_map_update_elem(fd, &key, &value, BPF_ANY));
  // libbpf 1.8 moves every map onto a placeholder and closes the first number.
  const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, 50);
  ::close(fd);
  std::printf("closed %d\n", bpf_map_lookup_elem(fd, &key, &got));
  errno = 77;
  const int found = bpf_map_lookup_elem(moved, &key, &got);
  std::printf("moved %d %llu errno %d\n", found, static_cast<unsigned long long>(got), errno);
  const int stepped = bpf_map_get_next_key(moved, nullptr, &next);
  std::printf("next %d %u\n", stepped, next);
  std::printf("batch %d\n", bpf_map_lookup_batch(moved, nullptr, &next, &key, &got, &next, nullptr));
  std::printf("delete %d\n", bpf_map_delete_elem(moved, &key));
  return 0;
}

int forking() {
  const int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "before", 4, 8, 4, nullptr);
  uint32_t key = 0;
  uint64_t value = 1;
  (void)bpf_map_update_elem(fd, &key, &value, BPF_ANY);
  const pid_t child = ::fork();
  if (child == 0) {
    value = 2;
    const int own = bpf_map_create(BPF_MAP_TYPE_ARRAY, "child", 4, 8, 4, nullptr);
    const int shared = bpf_map_update_elem(fd, &key, &value, BPF_ANY);
    ::_exit(own >= 0 && shared == 0 ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  const int after = bpf_map_create(BPF_MAP_TYPE_ARRAY, "after", 4, 8, 4, nullptr);
  (void)bpf_map_lookup_elem(fd, &key, &value);
  std::printf("child %d parent %s value %llu\n", status, after >= 0 ? "ok" : "failed",
              static_cast<unsigned long long>(value));
  return 0;
}

// A host that closes every descriptor it does not know (daemonizing) takes our connection with it.
int closing() {
  const int first = bpf_map_create(BPF_MAP_TYPE_ARRAY, "first", 4, 8, 4, nullptr);
  for (int fd = 3; fd < 2000; ++fd) ::close(fd);
  const int second = bpf_map_create(BPF_MAP_TYPE_ARRAY, "second", 4, 8, 4, nullptr);
  ::syscall(SYS_close_range, 3, ~0u, 0);
  const int third = bpf_map_create(BPF_MAP_TYPE_ARRAY, "third", 4, 8, 4, nullptr);
  std::printf("%s %s %s\n", first >= 0 ? "ok" : "failed", second >= 0 ? "ok" : "failed",
              third >= 0 ? "ok" : "failed");
  return 0;
}

int on_record(void*, void* data, size_t size) {
  std::printf("record %.*s\n", static_cast<int>(size), static_cast<const char*>(data));
  return 0;
}

int ring() {
  const int fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "events", 0, 0, 8192, nullptr);
  struct ring_buffer* buffer = ring_buffer__new(fd, on_record, nullptr, nullptr);
  if (buffer == nullptr) return std::printf("ring_buffer__new: %s\n", std::strerror(errno)), 1;
  const int polled = ring_buffer__poll(buffer, 20000);
  std::printf("polled %d\n", polled);
  std::printf("again %d\n", ring_buffer__poll(buffer, 0));
  ring_buffer__free(buffer);
  ::close(fd);
  return 0;
}

// A vfork child closes the ring in its own table; the parent's watch must live on.
int vforking() {
  const int fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "events", 0, 0, 8192, nullptr);
  struct ring_buffer* buffer = ring_buffer__new(fd, on_record, nullptr, nullptr);
  if (buffer == nullptr) return 1;
  const pid_t child = ::vfork();
  if (child == 0) {
    ::close(fd);
    ::_exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  std::printf("child %d polled %d\n", status, ring_buffer__poll(buffer, 20000));
  return 0;
}

void on_sample(void*, int cpu, void* data, uint32_t) {
  std::printf("sample %d %.5s\n", cpu, static_cast<const char*>(data));
}

int perf() {
  const int fd = bpf_map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, "events", 4, 4, 1, nullptr);
  struct perf_buffer* buffer = perf_buffer__new(fd, 2, on_sample, nullptr, nullptr, nullptr);
  if (buffer == nullptr) return std::printf("perf_buffer__new: %s\n", std::strerror(errno)), 1;
  std::printf("polled %d\n", perf_buffer__poll(buffer, 20000));
  struct pollfd list = {perf_buffer__buffer_fd(buffer, 0), POLLIN, 0};
  std::printf("poll %d\n", ::poll(&list, 1, 0));
  perf_buffer__free(buffer);
  return 0;
}

int load() {
  char log[256] = "untouched";
  struct bpf_insn code[] = {{0xb7, 0, 0, 0, 0}, {0x95, 0, 0, 0, 0}};
  LIBBPF_OPTS(bpf_prog_load_opts, options, .log_level = 1, .log_size = sizeof(log), .log_buf = log);
  const int fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "prog", "GPL", code, 2, &options);
  std::printf("load %d %s\n", fd, log);
  return 0;
}

int uprobe() {
  char text[32] = {};
  FILE* file = std::fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  if (file == nullptr || std::fgets(text, sizeof(text), file) == nullptr) return 1;
  std::fclose(file);
  struct perf_event_attr attr = {};
  attr.size = sizeof(attr);
  attr.type = static_cast<uint32_t>(std::atoi(text));
  attr.config1 = reinterpret_cast<uint64_t>("/proc/self/exe");
  attr.config2 = 0x1234;
  const auto open_event = [&] {
    return static_cast<int>(::syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC));
  };
  const int fd = open_event();
  std::printf("open %s\n", fd >= 0 ? "ok" : std::strerror(errno));
  uint64_t id = 0;
  std::printf("enable %d id %d", ::ioctl(fd, PERF_EVENT_IOC_ENABLE, 0), ::ioctl(fd, PERF_EVENT_IOC_ID, &id));
  std::printf(" %llu\n", static_cast<unsigned long long>(id));
  attr.config1 = 1;
  const int bad = open_event();
  std::printf("bad path %d %s\n", bad, std::strerror(errno));
  // An event of the kernel's own stays the kernel's.
  attr = {};
  attr.size = sizeof(attr);
  attr.type = PERF_TYPE_SOFTWARE;
  attr.config = PERF_COUNT_SW_DUMMY;
  const int kernel = open_event();
  uint64_t count = 1;
  std::printf("kernel %d\n", kernel < 0 ? -errno : static_cast<int>(::read(kernel, &count, sizeof(count))));
  return 0;
}

int threads() {
  std::thread many[8];
  int failures[8] = {};
  for (int i = 0; i < 8; ++i)
    many[i] = std::thread([&failures, i] {
      for (int round = 0; round < 50; ++round) {
        const int fd = bpf_map_create(BPF_MAP_TYPE_HASH, "t", 4, 8, 16, nullptr);
        uint32_t key = 1;
        uint64_t value = 2;
        if (fd < 0 || bpf_map_update_elem(fd, &key, &value, 0) != 0) ++failures[i];
        ::close(fd);
      }
    });
  int total = 0;
  for (int i = 0; i < 8; ++i) many[i].join(), total += failures[i];
  std::printf("failures %d\n", total);
  return 0;
}

int memlock() {
  const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
  std::printf("memlock %d\n", ::setrlimit(RLIMIT_MEMLOCK, &all));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* verb = argc > 1 ? argv[1] : "";
  const struct {
    const char* name;
    int (*run)();
  } verbs[] = {{"maps", maps},       {"fork", forking},   {"closing", closing}, {"ring", ring},
               {"vfork", vforking},  {"perf", perf},      {"load", load},       {"uprobe", uprobe},
               {"threads", threads}, {"memlock", memlock}};
  for (const auto& entry : verbs)
    if (std::strcmp(entry.name, verb) == 0) return entry.run();
  return 2;
}
