// The process the end-to-end tests probe: does what lines on standard input say, answers each with "done N".
// Links nothing of ours. Probed functions: victim_call, victim_through.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "victim_waits.h"

extern char** environ;

// (counter): one more, in a restartable sequence. Its functions: the whole, whose first bytes lie before it, and it alone.
asm(R"(
    .pushsection __rseq_cs, "aw"
    .balign 32
victim_sequence:
    .long 0, 0
    .quad victim_restartable_part, victim_committed - victim_restartable_part, victim_aborted
    .popsection
    .text
    .globl victim_restartable
    .type victim_restartable, @function
victim_restartable:
    .skip 32, 0x90
    mov __rseq_offset@GOTPCREL(%rip), %rdx
    mov (%rdx), %rdx
0:  lea victim_sequence(%rip), %rax
    mov %rax, %fs:8(%rdx)
    .size victim_restartable, . - victim_restartable
    .globl victim_restartable_part
    .type victim_restartable_part, @function
victim_restartable_part:
    mov (%rdi), %rcx
    lea 1(%rcx), %rcx
    mov %rcx, (%rdi)
victim_committed:
    movq $0, %fs:8(%rdx)
    ret
    .byte 0x0f, 0xb9, 0x3d
    .long 0x53053053
victim_aborted:
    jmp 0b
    .size victim_restartable_part, . - victim_restartable_part
)");
extern "C" void victim_restartable(long* counter);

extern "C" {

// Looks only at the pointer's value: callers may pass one that points nowhere.
__attribute__((noinline, visibility("default"))) long victim_call(const char* text, long add) {
  asm volatile("" : "+r"(text), "+r"(add));
  return reinterpret_cast<long>(text) * 3 + add;
}

__attribute__((noinline, visibility("default"))) long victim_through(void (*function)(void*),
                                                                     void* argument) {
  volatile long kept = 42;
  function(argument);
  asm volatile("" ::: "memory");
  return kept;
}

}  // extern "C"

void say(const char* format, ...) {
  char text[4096];
  va_list list;
  va_start(list, format);
  const int size = vsnprintf(text, sizeof text, format, list);
  va_end(list);
  (void)!::write(1, text, size);
}

namespace {

long call(long times, const char* text = "hello") {
  long wrong = 0;
  for (long i = 0; i < times; ++i) wrong += victim_call(text, i) != reinterpret_cast<long>(text) * 3 + i;
  return wrong;
}

void reap(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  say("child %d ended %d\n", child, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// ---- threads ----

std::atomic<bool> hammering;
std::atomic<long> hammered, hammered_wrong;
std::vector<pthread_t> hammerers;

void nothing(void* argument) { asm volatile("" ::"r"(argument) : "memory"); }

void* hammer(void*) {
  while (hammering) {
    hammered_wrong += call(100);
    hammered_wrong += victim_through(nothing, nullptr) != 42;
    hammered += 100;
  }
  return nullptr;
}

void* idle(void*) {
  for (;;) ::pause();
}

// ---- signals ----

volatile sig_atomic_t handled;
sigjmp_buf back;

void on_fault(int signal, siginfo_t* info, void*) {
  handled = handled + 1;
  if (info->si_code > 0) siglongjmp(back, signal);
}

void own_handler(bool alternate) {
  static char stack[65536];
  if (alternate) {
    const stack_t ss = {stack, 0, sizeof stack};
    ::sigaltstack(&ss, nullptr);
  }
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | (alternate ? SA_ONSTACK : 0);
  ::sigaction(SIGSEGV, &action, nullptr);
}

void print_handler() {
  struct sigaction action = {};
  ::sigaction(SIGSEGV, nullptr, &action);
  say("handler %s flags %x\n",
      action.sa_sigaction == on_fault ? "own"
      : action.sa_handler == SIG_DFL  ? "default"
                                      : "other",
      static_cast<unsigned>(action.sa_flags & ~0x04000000));
}

void fault() {
  if (sigsetjmp(back, 1) == 0) *reinterpret_cast<volatile char*>(16) = 1;
  say("handled %d\n", static_cast<int>(handled));
}

void print_mask() {
  sigset_t mask;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  say("masked segv %d bus %d usr1 %d\n", sigismember(&mask, SIGSEGV), sigismember(&mask, SIGBUS),
      sigismember(&mask, SIGUSR1));
}

void change_mask(int how, bool all) {
  sigset_t mask;
  sigemptyset(&mask);
  if (all) sigfillset(&mask);
  sigaddset(&mask, SIGSEGV);
  ::pthread_sigmask(how, &mask, nullptr);
}

// Past libc, as runtimes of other languages do it.
void raw_signals(bool mask) {
  if (mask) {
    const uint64_t all = ~uint64_t{0};
    say("raw %ld\n", ::syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, nullptr, sizeof all));
    return;
  }
  const uint64_t by_default[4] = {};
  long result = 0;
  for (int signal : {SIGSEGV, SIGBUS, SIGTRAP, SIGILL})
    result |= ::syscall(SYS_rt_sigaction, signal, by_default, nullptr, sizeof(uint64_t));
  say("raw %ld\n", result);
}

// Changes what the thread has blocked once the handler returns.
void block_on_return(int, siginfo_t*, void* context) {
  sigset_t& mask = static_cast<ucontext_t*>(context)->uc_sigmask;
  for (int signal : {SIGSEGV, SIGBUS, SIGTRAP, SIGILL}) sigaddset(&mask, signal);
}

std::string line_number;  // of the line read last
bool leaving;

void obey_inside(void*);
void obey_in_handler(int) { obey_inside(nullptr); }

// Stays in the first handler that interrupts code of no file, which is a probe's.
void obey_in_probes_handler(int, siginfo_t*, void* context) {
  Dl_info file;
  const auto at = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  if (leaving || ::dladdr(reinterpret_cast<void*>(at), &file) != 0) return;
  obey_inside(nullptr);
}

void interrupt_probes() {
  struct sigaction action = {}, before = {};
  action.sa_sigaction = obey_in_probes_handler;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGALRM, &action, &before);
  constexpr itimerval kOften{{0, 100}, {0, 100}}, kNever{};
  ::setitimer(ITIMER_REAL, &kOften, nullptr);
  while (!leaving) call(100);
  ::setitimer(ITIMER_REAL, &kNever, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  leaving = false;
  say("left\n");
}

// By a system call of its own: a handler inside raise() stands on an inner function of libc, where nothing is loaded.
void raise_to(int signal, const struct sigaction& action) {
  struct sigaction before = {};
  ::sigaction(signal, &action, &before);
  ::syscall(SYS_tgkill, ::getpid(), static_cast<pid_t>(::syscall(SYS_gettid)), signal);
  ::sigaction(signal, &before, nullptr);
}

// ---- seccomp ----

// Refuses what a careless tracer would need: sockets, mmap, mprotect, open.
void confine() {
  auto refuse = [](unsigned number) {
    return std::vector<sock_filter>{BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
                                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
  };
  std::vector<sock_filter> filter = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (unsigned number : {SYS_socketpair, SYS_recvmsg, SYS_mmap, SYS_mprotect, SYS_openat, SYS_getuid,
                          SYS_prctl, SYS_gettid, SYS_getpid})
    for (const auto& step : refuse(number)) filter.push_back(step);
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  say("confined %ld\n", ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

// ---- ways out of a function that are not its return ----

struct Noisy {
  const char* name;
  ~Noisy() { say("unwound %s\n", name); }
};

void thrower(void*) { throw std::runtime_error("thrown"); }
void deep_thrower(void*) {
  const Noisy noisy{"inner"};
  victim_through(thrower, nullptr);
}
void rethrower(void*) {
  try {
    victim_through(thrower, nullptr);
  } catch (...) {
    say("rethrowing\n");
    throw;
  }
}
jmp_buf jump_target;
void jumper(void* value) { longjmp(jump_target, static_cast<int>(reinterpret_cast<long>(value))); }
void nested_jumper(void* value) { victim_through(jumper, value); }

void catch_from(const char* name, void (*function)(void*)) {
  try {
    const Noisy noisy{name};
    victim_through(function, nullptr);
    say("%s: not thrown\n", name);
  } catch (const std::exception& error) {
    say("%s: caught %s\n", name, error.what());
  }
}

std::atomic<bool> canceller_waits;
void wait_for_cancel(void*) {
  const Noisy noisy{"cancelled frame"};
  canceller_waits = true;
  for (;;) ::usleep(1000);
}
void* cancellee(void*) {
  victim_through(wait_for_cancel, nullptr);
  return nullptr;
}
void exit_thread(void*) { ::pthread_exit(reinterpret_cast<void*>(7)); }
void* exiter(void*) {
  victim_through(exit_thread, nullptr);
  return nullptr;
}

void ways_out() {
  catch_from("direct", thrower);
  catch_from("frame up", deep_thrower);
  catch_from("rethrow", rethrower);
  for (int round = 0; round < 3; ++round) {
    const int value = setjmp(jump_target);
    if (value == 0) victim_through(nested_jumper, reinterpret_cast<void*>(static_cast<long>(round + 1)));
    say("jumped %d\n", value);
  }
  pthread_t thread;
  void* result = nullptr;
  canceller_waits = false;
  ::pthread_create(&thread, nullptr, cancellee, nullptr);
  while (!canceller_waits) ::usleep(1000);
  ::pthread_cancel(thread);
  ::pthread_join(thread, &result);
  say("cancelled %d\n", result == PTHREAD_CANCELED);
  ::pthread_create(&thread, nullptr, exiter, nullptr);
  ::pthread_join(thread, &result);
  say("exited %ld\n", reinterpret_cast<long>(result));
  say("after %ld %ld\n", victim_through(nothing, nullptr), call(10));
}

// ---- lines obeyed inside probed functions and handlers ----

bool forked_inside;

bool obey_next();
void obey_inside(void*) {
  say("done %s\n", line_number.c_str());
  while (!leaving && obey_next()) {
  }
}
void deeper(void* levels) {
  const long left = reinterpret_cast<long>(levels);
  const long result = victim_through(left > 1 ? deeper : obey_inside, reinterpret_cast<void*>(left - 1));
  if (result == 42) return;
  say("returned %ld\n", result);
  ::_exit(3);
}

void become_true(void*) {
  const char* arguments[] = {"true", nullptr};
  ::execve("/bin/true", const_cast<char**>(arguments), environ);
  ::_exit(127);
}

// ---- lines ----

void obey(const std::string& line) {
  char word[32] = "", text[512] = "";
  long number = 0;
  sscanf(line.c_str(), "%31s %ld", word, &number);
  sscanf(line.c_str(), "%*s %511s", text);
  const std::string what = word;
  if (what == "call") say("wrong %ld\n", call(number));
  if (what == "bad") say("wrong %ld\n", call(number, reinterpret_cast<const char*>(0x10)));
  if (what == "restartable") {
    long counter = 0;
    for (long i = 0; i < number; ++i) victim_restartable(&counter);
    say("counted %ld\n", counter);
  }
  if (what == "through")
    for (; number > 0; --number) victim_through(nothing, nullptr);
  if (what == "ways_out") ways_out();
  if (what == "mask") print_mask();
  if (what == "block_all") change_mask(SIG_BLOCK, true);
  if (what == "block_segv") change_mask(SIG_BLOCK, false);
  if (what == "unblock_all") change_mask(SIG_UNBLOCK, true);
  if (what == "raw_block") raw_signals(true);
  if (what == "raw_default") raw_signals(false);
  if (what == "own_handler") own_handler(false);
  if (what == "own_handler_on_stack") own_handler(true);
  if (what == "handler") print_handler();
  if (what == "fault") fault();
  if (what == "raise") {
    ::raise(SIGSEGV);
    say("handled %d\n", static_cast<int>(handled));
  }
  if (what == "block_by_frame") {
    struct sigaction action = {};
    action.sa_sigaction = block_on_return;
    action.sa_flags = SA_SIGINFO;
    raise_to(static_cast<int>(number), action);
  }
  if (what == "stay_in_handler") {  // obeys there until "leave"; with a number: under a mask of everything
    struct sigaction action = {};
    action.sa_handler = obey_in_handler;
    if (number != 0) sigfillset(&action.sa_mask);
    raise_to(SIGUSR1, action);
    leaving = false;
    say("left\n");
  }
  if (what == "interrupt_probes") interrupt_probes();  // obeys there until "leave"
  if (what == "wait") wait_for_signal(line.substr(line.find(' ') + 1));
  if (what == "waits") wait_in_all_ways();
  if (what == "cancel_waits") cancel_waits();
  if (what == "threads") {
    for (pthread_t thread; number > 0; --number) ::pthread_create(&thread, nullptr, idle, nullptr);
  }
  if (what == "hammer") {
    hammering = true;
    hammerers.resize(number);
    for (pthread_t& thread : hammerers) ::pthread_create(&thread, nullptr, hammer, nullptr);
  }
  if (what == "hammer_stop") {
    hammering = false;
    for (pthread_t& thread : hammerers) ::pthread_join(thread, nullptr);
    say("hammered %ld wrong %ld\n", hammered.load(), hammered_wrong.load());
  }
  if (what == "fork" || what == "raw_clone") {
    const pid_t child =
        what == "fork" ? ::fork() : static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (child == 0) ::_exit(call(number) == 0 ? 0 : 1);
    reap(child);
  }
  if (what == "fork_stay") {  // a child that calls once every millisecond until killed
    const pid_t child = ::fork();
    for (; child == 0; ::usleep(1000)) call(1);
    say("child %d\n", child);
  }
  if (what == "vfork") {
    const pid_t child = ::vfork();
    if (child == 0) become_true(nullptr);
    reap(child);
  }
  if (what == "vfork_through") {  // the child's call never returns
    const pid_t child = ::vfork();
    if (child == 0) victim_through(become_true, nullptr);
    reap(child);
  }
  if (what == "inside") {  // obeys from so many calls deep, until "leave"
    deeper(reinterpret_cast<void*>(number));
    if (forked_inside) ::_exit(call(1) == 0 ? 0 : 1);
    leaving = false;
    say("left\n");
  }
  if (what == "leave") leaving = true;
  if (what == "fork_leave") {  // a child returns from where its parent is
    const pid_t child = ::fork();
    if (child == 0) {
      leaving = forked_inside = true;
      return;
    }
    reap(child);
  }
  if (what == "vfork_call") {
    const pid_t child = ::vfork();
    if (child == 0) ::_exit(static_cast<int>(call(number)));
    reap(child);
  }
  if (what == "daemonize") {
    if (::fork() != 0) ::_exit(0);
    ::setsid();
    if (::fork() != 0) ::_exit(0);
    say("daemon %d\n", ::getpid());
  }
  if (what == "exec") {
    const char* arguments[] = {"victim", "again", nullptr};
    ::execve("/proc/self/exe", const_cast<char**>(arguments), environ);
    say("exec: %s\n", strerror(errno));
  }
  if (what == "closefrom") ::syscall(SYS_close_range, 3u, ~0u, 0u);
  if (what == "setuid") say("setuid %d\n", ::setresuid(number, number, number));
  if (what == "confine") confine();
  if (what == "chroot") say("chroot %d\n", ::chroot(text) != 0 ? errno : ::chdir("/"));
  if (what == "stop") ::raise(SIGSTOP);
  if (what == "reserve") {  // all windows but the last page: larger reservations are a sanitizer's
    constexpr size_t kBase = 0x400000000000, kSize = 0x100000000000 - 4096;
    void* at = ::mmap(reinterpret_cast<void*>(kBase), kSize, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    say("reserved %d\n", at == reinterpret_cast<void*>(kBase));
  }
}

// One byte at a time: what is not read yet must survive exec.
bool read_line(std::string* line) {
  line->clear();
  char c;
  for (;;) {
    const ssize_t got = ::read(0, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got != 1) return false;
    if (c == '\n') return true;
    line->push_back(c);
  }
}

// False: there is none.
bool obey_next() {
  std::string line;
  if (!read_line(&line)) return false;
  // The line starts with its number, so that the answer's end is known across exec.
  const size_t space = line.find(' ');
  line_number = line.substr(0, space);
  obey(line.substr(space + 1));
  if (!leaving) say("done %s\n", line_number.c_str());
  return true;
}

}  // namespace

int main(int argc, char**) {
  say(argc > 1 ? "again\n" : "ready\n");
  while (obey_next()) {
  }
  return 0;
}
