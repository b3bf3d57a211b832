// victim MODE…: each mode is one or more threads that do checkable work until told to finish.
#include "target/victim/victim.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "target/victim/library_work.h"

using bpftime::target::VictimProgress;

extern char** environ;

namespace {

VictimProgress* g_progress;

void fail(const char* what) {
  if (g_progress->failures.fetch_add(1) == 0) {
    snprintf(g_progress->first_failure, sizeof(g_progress->first_failure), "%s (errno %d)", what, errno);
  }
}

bool finishing() { return g_progress->finish.load() != 0; }
void round_done() { g_progress->rounds.fetch_add(1); }

// Fills general registers, vector registers, flags and the red zone, spins in user mode, and compares.
// Returns the number of mismatches.
__attribute__((noinline)) uint64_t check_registers(uint64_t spins) {
  alignas(32) uint64_t vectors[4 * 16], after[4 * 16];
  for (size_t i = 0; i < 64; ++i) vectors[i] = 0x9e3779b97f4a7c15ull * (i + 1) ^ spins;
  uint64_t mismatches = 0;
  const bool avx = __builtin_cpu_supports("avx");
  struct {
    uint64_t spins, mismatches;
    const uint64_t* in;
    uint64_t* out;
    uint64_t avx;
  } args{spins, 0, vectors, after, avx};
  asm volatile(
      "push %%rbp\n push %%rbx\n"
      "mov %0, %%rax\n"
      "push %%rax\n"
      "mov 16(%%rax), %%rdx\n"
      "cmpq $0, 32(%%rax)\n je 1f\n"
      "vmovdqu 0(%%rdx), %%ymm0\n vmovdqu 32(%%rdx), %%ymm1\n vmovdqu 64(%%rdx), %%ymm2\n vmovdqu 96(%%rdx), "
      "%%ymm3\n"
      "vmovdqu 128(%%rdx), %%ymm4\n vmovdqu 160(%%rdx), %%ymm5\n vmovdqu 192(%%rdx), %%ymm6\n vmovdqu "
      "224(%%rdx), %%ymm7\n"
      "vmovdqu 256(%%rdx), %%ymm8\n vmovdqu 288(%%rdx), %%ymm9\n vmovdqu 320(%%rdx), %%ymm10\n vmovdqu "
      "352(%%rdx), %%ymm11\n"
      "vmovdqu 384(%%rdx), %%ymm12\n vmovdqu 416(%%rdx), %%ymm13\n vmovdqu 448(%%rdx), %%ymm14\n vmovdqu "
      "480(%%rdx), %%ymm15\n"
      "1:\n"
      "mov 0(%%rax), %%rcx\n"
      // Red zone: 16 words below rsp.
      ".set i, 1\n .rept 16\n movq $(0x5a5a00 + i), -8*i(%%rsp)\n .set i, i+1\n .endr\n"
      "mov $0x1111, %%eax\n mov $0x2222, %%ebx\n mov $0x3333, %%edx\n mov $0x4444, %%esi\n mov $0x5555, "
      "%%edi\n"
      "mov $0x6666, %%ebp\n mov $0x7777, %%r8d\n mov $0x8888, %%r9d\n mov $0x9999, %%r10d\n mov $0xaaaa, "
      "%%r11d\n"
      "mov $0xbbbb, %%r12d\n mov $0xcccc, %%r13d\n mov $0xdddd, %%r14d\n mov $0xeeee, %%r15d\n"
      "2: stc\n jnc 3f\n lea -1(%%rcx), %%rcx\n jrcxz 4f\n jmp 2b\n"
      "3: xor %%eax, %%eax\n"
      "4:\n"
      "xor $0x1111, %%rax\n xor $0x2222, %%rbx\n or %%rbx, %%rax\n xor $0x3333, %%rdx\n or %%rdx, %%rax\n"
      "xor $0x4444, %%rsi\n or %%rsi, %%rax\n xor $0x5555, %%rdi\n or %%rdi, %%rax\n xor $0x6666, %%rbp\n or "
      "%%rbp, %%rax\n"
      "xor $0x7777, %%r8\n or %%r8, %%rax\n xor $0x8888, %%r9\n or %%r9, %%rax\n xor $0x9999, %%r10\n or "
      "%%r10, %%rax\n"
      "xor $0xaaaa, %%r11\n or %%r11, %%rax\n xor $0xbbbb, %%r12\n or %%r12, %%rax\n xor $0xcccc, %%r13\n or "
      "%%r13, %%rax\n"
      "xor $0xdddd, %%r14\n or %%r14, %%rax\n xor $0xeeee, %%r15\n or %%r15, %%rax\n"
      ".set i, 1\n .rept 16\n mov -8*i(%%rsp), %%rbx\n xor $(0x5a5a00 + i), %%rbx\n or %%rbx, %%rax\n .set "
      "i, i+1\n .endr\n"
      "pop %%rbx\n"
      "mov %%rax, 8(%%rbx)\n"
      "mov 24(%%rbx), %%rdx\n"
      "cmpq $0, 32(%%rbx)\n je 5f\n"
      "vmovdqu %%ymm0, 0(%%rdx)\n vmovdqu %%ymm1, 32(%%rdx)\n vmovdqu %%ymm2, 64(%%rdx)\n vmovdqu %%ymm3, "
      "96(%%rdx)\n"
      "vmovdqu %%ymm4, 128(%%rdx)\n vmovdqu %%ymm5, 160(%%rdx)\n vmovdqu %%ymm6, 192(%%rdx)\n vmovdqu "
      "%%ymm7, 224(%%rdx)\n"
      "vmovdqu %%ymm8, 256(%%rdx)\n vmovdqu %%ymm9, 288(%%rdx)\n vmovdqu %%ymm10, 320(%%rdx)\n vmovdqu "
      "%%ymm11, 352(%%rdx)\n"
      "vmovdqu %%ymm12, 384(%%rdx)\n vmovdqu %%ymm13, 416(%%rdx)\n vmovdqu %%ymm14, 448(%%rdx)\n vmovdqu "
      "%%ymm15, 480(%%rdx)\n"
      "vzeroupper\n"
      "5:\n"
      "pop %%rbx\n pop %%rbp\n"
      :
      : "r"(&args)
      : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory",
        "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  mismatches += args.mismatches != 0;
  if (avx && memcmp(vectors, after, sizeof(vectors)) != 0) ++mismatches;
  return mismatches;
}

void spin() {
  while (!finishing()) {
    if (check_registers(100'000) != 0) fail("registers, flags or red zone changed");
    round_done();
  }
}

void count_interruption(const char* what) {
  if (errno == EINTR) {
    g_progress->interrupted.fetch_add(1);
  } else {
    fail(what);
  }
}

void wait_in_nanosleep() {
  while (!finishing()) {
    timespec wanted{0, 20'000'000}, before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    const bool interrupted = nanosleep(&wanted, nullptr) != 0;
    if (interrupted) count_interruption("nanosleep");
    clock_gettime(CLOCK_MONOTONIC, &after);
    const long slept = (after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec;
    if (!interrupted && slept < 20'000'000) fail("nanosleep returned early");
    round_done();
  }
}

void wait_in_epoll() {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  while (!finishing()) {
    epoll_event event;
    if (epoll_wait(epoll, &event, 1, 15) < 0) count_interruption("epoll_wait");
    round_done();
  }
  close(epoll);
}

void wait_in_poll() {
  int ends[2];
  if (pipe(ends) != 0) fail("pipe");
  while (!finishing()) {
    pollfd poll_fd{ends[0], POLLIN, 0};
    const int n = poll(&poll_fd, 1, 10);
    if (n < 0) count_interruption("poll");
    if (n > 0) fail("poll found data that nobody wrote");
    round_done();
  }
}

void wait_in_read_and_futex() {
  int ends[2];
  if (pipe(ends) != 0) fail("pipe");
  std::thread writer([&] {
    for (uint32_t i = 0;; ++i) {
      usleep(3000);
      const bool last = finishing();
      const uint32_t value = last ? ~0u : i;
      while (write(ends[1], &value, sizeof(value)) != sizeof(value)) count_interruption("write");
      if (last) return;
    }
  });
  for (uint32_t expected = 0;; ++expected) {
    uint32_t value = 0;
    while (read(ends[0], &value, sizeof(value)) != sizeof(value)) count_interruption("read");
    if (value == ~0u) break;
    if (value != expected) fail("read lost or repeated data");
    // A futex wait with a timeout of its own.
    uint32_t word = 0;
    timespec timeout{0, 1'000'000};
    if (syscall(SYS_futex, &word, 0 /* FUTEX_WAIT */, 0, &timeout, nullptr, 0) != 0 && errno != ETIMEDOUT) {
      count_interruption("futex");
    }
    round_done();
  }
  writer.join();
}

void wait_in_pselect() {
  sigset_t empty;
  sigemptyset(&empty);
  while (!finishing()) {
    timespec timeout{0, 5'000'000};
    if (pselect(0, nullptr, nullptr, nullptr, &timeout, &empty) < 0 && errno != EINTR) fail("pselect");
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, nullptr, &now);
    if (sigismember(&now, SIGUSR1)) fail("pselect left a strange signal mask");
    round_done();
  }
}

void allocate() {
  uint64_t seed = reinterpret_cast<uint64_t>(&seed);
  std::vector<std::pair<uint8_t*, size_t>> blocks(64);
  while (!finishing()) {
    for (int i = 0; i < 2000; ++i) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      auto& [block, size] = blocks[seed >> 58];
      const uint8_t mark = static_cast<uint8_t>(size * 7 + 1);
      if (block != nullptr && (block[0] != mark || block[size - 1] != mark)) fail("heap block damaged");
      free(block);
      size = 1 + (seed >> 20) % ((seed & 15) == 0 ? 200'000 : 2000);
      block = static_cast<uint8_t*>(malloc(size));
      block[0] = block[size - 1] = static_cast<uint8_t>(size * 7 + 1);
    }
    round_done();
  }
  for (auto& [block, size] : blocks) free(block);
}

void throw_exceptions() {
  while (!finishing()) {
    try {
      throw std::string("x");
    } catch (const std::string& s) {
      if (s != "x") fail("exception changed");
    }
    round_done();
  }
}

void create_threads() {
  while (!finishing()) {
    std::vector<std::thread> threads;
    std::atomic<int> sum{0};
    for (int i = 0; i < 8; ++i) threads.emplace_back([&sum] { sum.fetch_add(1); });
    for (auto& thread : threads) thread.join();
    if (sum != 8) fail("a thread did not run");
    round_done();
  }
}

void fork_children() {
  while (!finishing()) {
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) _exit(17);
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
      if (errno != EINTR) fail("waitpid");
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 17) fail("a child ended wrongly");
    round_done();
  }
}

void spawn_children() {
  while (!finishing()) {
    char name[] = "/bin/true";
    char* argv[] = {name, nullptr};
    pid_t child = 0;
    if (posix_spawn(&child, name, nullptr, nullptr, argv, environ) != 0) {
      fail("posix_spawn");
      continue;
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("a spawned child ended wrongly");
    round_done();
  }
}

void handle_signals() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_progress->signals.fetch_add(1); };
  sigaction(SIGALRM, &action, nullptr);
  itimerval timer{{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &timer, nullptr);
  while (!finishing()) {
    if (check_registers(20'000) != 0) fail("registers changed around a signal");
    round_done();
  }
  timer = {};
  setitimer(ITIMER_REAL, &timer, nullptr);
}

// A filter that kills on anything the victim itself does not need: mmap, socketpair, recvmsg among them.
void install_filter() {
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socketpair, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  sock_fprog filter{sizeof(program) / sizeof(program[0]), program};
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) fail("seccomp");
}

void block_all_signals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

// An empty root directory: no file, no /proc.
void change_root() {
  char directory[] = "/tmp/bpftime-root-XXXXXX";
  if (mkdtemp(directory) == nullptr || chroot(directory) != 0 || chdir("/") != 0) fail("chroot");
}

void use_all_descriptors() {
  const rlimit limit{32, 64};
  setrlimit(RLIMIT_NOFILE, &limit);
  while (dup(0) >= 0) {
  }
}

using Work = void (*)();
const std::map<std::string, Work> kThreadWork = {{"spin", spin},
                                                 {"nanosleep", wait_in_nanosleep},
                                                 {"epoll", wait_in_epoll},
                                                 {"poll", wait_in_poll},
                                                 {"malloc", allocate},
                                                 {"futex", wait_in_read_and_futex},
                                                 {"fork", fork_children},
                                                 {"threads", create_threads},
                                                 {"spawn", spawn_children},
                                                 {"signals", handle_signals},
                                                 {"pselect", wait_in_pselect},
                                                 {"throw", throw_exceptions}};
const std::map<std::string, Work> kSetup = {{"filter", install_filter},
                                            {"blocked", block_all_signals},
                                            {"chroot", change_root},
                                            {"emfile", use_all_descriptors}};

}  // namespace

const bpftime::target::VictimCalls bpftime::target::kVictimCalls = {finishing, round_done, fail};

// Called by the tests of StoppedProcess::call. Uses vector registers on purpose.
extern "C" __attribute__((visibility("default"), noinline, used)) long victim_combine(long a, long b,
                                                                                      long c) {
  volatile double x = a, y = b;
  asm volatile("pxor %%xmm7, %%xmm7\n pxor %%xmm15, %%xmm15\n" ::: "xmm7", "xmm15");
  return static_cast<long>(x * 100 + y * 10) + c;
}
extern "C" __attribute__((visibility("default"), noinline, used)) long victim_crash(long, long, long) {
  static volatile uintptr_t address = 8;  // g++ at O3 refuses the literal
  return *reinterpret_cast<volatile long*>(address);
}
extern "C" __attribute__((visibility("default"), noinline, used)) long victim_hang(long, long, long) {
  for (;;) asm volatile("pause");
}

int main(int argc, char** argv) {
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, bpftime::target::kVictimProgressFd, 0);
  if (page == MAP_FAILED) return 99;
  g_progress = static_cast<VictimProgress*>(page);
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // no stray victims
  std::vector<Work> works;
  for (int i = 1; i < argc; ++i) {
    if (auto setup = kSetup.find(argv[i]); setup != kSetup.end()) setup->second();
    if (auto work = kThreadWork.find(argv[i]); work != kThreadWork.end()) works.push_back(work->second);
    if (auto work = bpftime::target::kLibraryWork.find(argv[i]); work != bpftime::target::kLibraryWork.end())
      works.push_back(work->second);
  }
  std::vector<std::thread> threads;
  for (size_t i = 1; i < works.size(); ++i) threads.emplace_back(works[i]);
  g_progress->ready = 1;
  if (!works.empty()) works[0]();
  for (auto& thread : threads) thread.join();
  return g_progress->failures == 0 ? 0 : 1;
}
