// bpftime-runner: a process in which programs run that no application calls: BPF_PROG_TEST_RUN and clock events. Started by
// the worker (daemon/runner.h), which maps the programs and their maps where they lie in every target. A program that crashes
// or never ends costs this process, and nothing else.
//
// Rules for whoever edits this file:
//  1. After enter_sandbox() only what sandbox.cc allows works. No files, no descriptors but the socket.
//  2. Programs are compiled for targets: what they read of the process is in wire::TargetContext, filled by make_context().
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

#include "runner/protocol.h"
#include "runner/sandbox.h"
#include "wire/checked_load.h"

namespace bpftime::runner {

namespace {

constexpr char kName[] = "bpftime-runner";

uint64_t window;
pid_t own_pid;
thread_local uint32_t current_tid;  // as programs see it (TargetContext::tid_offset)

wire::TargetContext* context() { return reinterpret_cast<wire::TargetContext*>(window); }
wire::TargetIdentity* identity() {
  return reinterpret_cast<wire::TargetIdentity*>(window + wire::kIdentityOffset);
}

// What the agent's routines of these names promise (wire::TargetContext), by asking the kernel.
long safe_copy(void* destination, const void* source, uint64_t size) {
  const iovec to{destination, size}, from{const_cast<void*>(source), size};
  return ::process_vm_readv(own_pid, &to, 1, &from, 1, 0) == static_cast<ssize_t>(size) ? 0 : -EFAULT;
}

long safe_copy_string(char* destination, const void* source, uint64_t size) {
  constexpr uint64_t kPage = 4096;
  const auto from = reinterpret_cast<uint64_t>(source);
  for (uint64_t done = 0; done < size;) {
    const uint64_t in_page = kPage - (from + done) % kPage;
    const uint64_t part = in_page < size - done ? in_page : size - done;
    if (safe_copy(destination + done, reinterpret_cast<const void*>(from + done), part) != 0) return -EFAULT;
    if (const void* end = ::memchr(destination + done, 0, part))
      return static_cast<const char*>(end) - destination + 1;
    done += part;
  }
  if (size != 0) destination[size - 1] = '\0';
  return static_cast<long>(size);
}

// Loads that may fault, in program code, read nothing (the agent's guard in other targets). Any other fault is the program's
// end and ours.
void on_fault(int signal, siginfo_t*, void* frame) {
  auto* registers = reinterpret_cast<uint64_t*>(static_cast<ucontext_t*>(frame)->uc_mcontext.gregs);
  const uint64_t address = registers[wire::kSignalRip];
  const bool in_program =
      address >= window + wire::kMapsOffset + wire::kCheckedLoadMark && address < window + wire::kWindowSize;
  if (!in_program || !wire::repair_checked_load(registers)) {
    ::syscall(SYS_exit_group, 128 + signal);
    return;
  }
  ++context()->faults_repaired;
}

bool make_context() {
  void* at = reinterpret_cast<void*>(window);
  // Not of the memfd targets have: the daemon must not take us for one.
  if (::mmap(at, wire::kIdentityOffset + wire::kIdentitySize, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at)
    return false;
  wire::TargetContext& made = *context();
  made.header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, sizeof made};
  made.lineage = static_cast<uint32_t>(own_pid);
  made.rseq_offset = __rseq_size != 0 ? __rseq_offset : 0;
  uint64_t thread_pointer;
  asm("movq %%fs:0, %0" : "=r"(thread_pointer));
  made.tid_offset = static_cast<int32_t>(reinterpret_cast<uint64_t>(&current_tid) - thread_pointer);
  if (void* vdso = ::dlopen("linux-vdso.so.1", RTLD_NOLOAD | RTLD_NOW))
    made.vdso_clock_gettime = reinterpret_cast<uint64_t>(::dlsym(vdso, "__vdso_clock_gettime"));
  made.safe_copy = reinterpret_cast<uint64_t>(&safe_copy);
  made.safe_copy_string = reinterpret_cast<uint64_t>(&safe_copy_string);
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return ::sigaction(SIGSEGV, &action, nullptr) == 0 && ::sigaction(SIGBUS, &action, nullptr) == 0;
}

void become(uint32_t pid, const char* name) {
  identity()->tgid = pid;
  current_tid = pid;
  ::prctl(PR_SET_NAME, name, 0, 0, 0);
}

int map(const Request& request, int fd) {
  void* at = reinterpret_cast<void*>(request.address);
  void* made = ::mmap(at, request.size, request.protection, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
  return made == at ? 0 : errno;
}

int run(const Request& request, Reply& reply) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (request.cpu >= 0 && request.cpu < CPU_SETSIZE) CPU_SET(static_cast<size_t>(request.cpu), &cpus);
  if (request.cpu < 0) ::memset(&cpus, 0xff, sizeof cpus);
  if (::sched_setaffinity(0, sizeof cpus, &cpus) != 0) return ENXIO;
  const bool for_another = request.pid != 0;
  if (for_another) become(request.pid, request.comm);
  identity()->start_time_ns = request.start_time_ns;
  identity()->start_boottime_ns = request.start_boottime_ns;
  if (request.has_facts != 0) context()->task = request.facts;
  // The program's own copies: it is told that nobody else writes them.
  alignas(16) uint8_t program_context[kContextMax];
  ::memcpy(program_context, request.context, sizeof program_context);
  const wire::Invocation invocation = request.invocation;
  using Entry = uint64_t (*)(void*, const wire::Invocation*);
  const uint64_t begun = __rdtsc();
  reply.result = reinterpret_cast<Entry>(request.entry)(program_context, &invocation);
  reply.cycles = __rdtsc() - begun;
  if (for_another) become(static_cast<uint32_t>(own_pid), kName);
  return 0;
}

// False: the worker is gone.
bool serve_one() {
  static Request request;
  iovec part{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(kSocketFd, &message, MSG_CMSG_CLOEXEC) != static_cast<ssize_t>(sizeof request)) return false;
  int fd = -1;
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message);
      header != nullptr && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof fd))
    ::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  Reply reply{request.number, 0, 0, 0};
  if (request.verb == Verb::kMap) reply.error = map(request, fd);
  if (request.verb == Verb::kUnmap && ::munmap(reinterpret_cast<void*>(request.address), request.size) != 0)
    reply.error = errno;
  if (request.verb == Verb::kRun) reply.error = run(request, reply);
  if (fd >= 0) ::close(fd);
  iovec answer{&reply, sizeof reply};
  msghdr out{};
  out.msg_iov = &answer;
  out.msg_iovlen = 1;
  return ::sendmsg(kSocketFd, &out, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof reply);
}

int serve(const char* window_text) {
  window = ::strtoull(window_text, nullptr, 16);
  own_pid = ::getpid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_DUMPABLE, 0);  // maps of other people's tools pass through here
  ::close_range(kSocketFd + 1, ~0u, 0);
  ::close_range(0, kSocketFd - 1, 0);
  if (!make_context()) return 3;
  become(static_cast<uint32_t>(own_pid), kName);
  if (!enter_sandbox()) return 4;
  while (serve_one()) {
  }
  return 0;
}

}  // namespace

}  // namespace bpftime::runner

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    ::fputs("bpftime-runner: runs BPF programs for bpftimed, which starts it by itself\n", stderr);
    return 2;
  }
  ::_exit(bpftime::runner::serve(argv[1]));
}
