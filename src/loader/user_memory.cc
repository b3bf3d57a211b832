#include "loader/user_memory.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "loader/host.h"
#include "loader/real.h"

namespace bpftime::loader {
namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kProbedMax = 16 * kPage;  // what is larger is left to process_vm_*

// Pages of one call; a writable one is readable, too.
struct KnownPages {
  static constexpr unsigned kPages = 4;
  uint64_t pages[kPages];
  bool writable[kPages];
  unsigned next;
  int calls;  // nested

  uint64_t stack_from, stack_to;  // of this thread's stack the part its frames lie in: nobody unmaps that

  bool in_frames(uint64_t first, uint64_t last) const { return first >= stack_from && last < stack_to; }
  bool has(uint64_t page, bool to_write) const {
    for (unsigned i = 0; i < kPages; ++i)
      if (pages[i] == page && (writable[i] || !to_write)) return true;
    return false;
  }
  void add(uint64_t page, bool to_write) {
    if (calls == 0) return;
    pages[next % kPages] = page;
    writable[next % kPages] = to_write;
    ++next;
  }
};
__thread KnownPages known __attribute__((tls_model("initial-exec")));

// Where this thread's stack lies, asked once: its first byte (nothing between 0 and it: not known) and the one behind its last.
struct Stack {
  uint64_t low, high;
};
__thread Stack stack __attribute__((tls_model("initial-exec")));

Stack find_stack() {
  constexpr Stack kNone = {1, 1};
  pthread_attr_t attributes;
  if (::pthread_getattr_np(::pthread_self(), &attributes) != 0) return kNone;
  void* low = nullptr;
  size_t size = 0;
  const bool found = ::pthread_attr_getstack(&attributes, &low, &size) == 0;
  ::pthread_attr_destroy(&attributes);
  const auto address = reinterpret_cast<uint64_t>(low);
  return found ? Stack{address, address + size} : kNone;
}

// The kernel copies its second argument before it refuses the first.
bool readable(uint64_t page) {
  constexpr long kNoSuchHow = -1, kMaskBytes = 8;
  return raw_syscall(SYS_rt_sigprocmask, kNoSuchHow, static_cast<long>(page), 0, kMaskBytes) != -EFAULT;
}

// [from, to) lies in one page and is about to be overwritten.
bool writable(uint64_t from, uint64_t to) {
  constexpr long kMaskBytes = 8, kCpuBytes = 4;
  if (to - from >= kMaskBytes)  // the kernel writes the mask there
    return raw_syscall(SYS_rt_sigprocmask, 0, 0, static_cast<long>(from), kMaskBytes) != -EFAULT;
  if (to - from >= kCpuBytes) {  // the number of the CPU
    const long result = raw_syscall(SYS_getcpu, static_cast<long>(from));
    if (result == 0 || result == -EFAULT) return result == 0;
  }
  // Adds zero to a word of the page, atomically: whoever else writes there is not disturbed.
  static uint32_t nobody_waits_here;
  constexpr long kAddZeroNeverEqual = FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_LT, -2048);
  return raw_syscall(SYS_futex, reinterpret_cast<long>(&nobody_waits_here),
                     FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0, static_cast<long>(from & ~uint64_t{3}),
                     kAddZeroNeverEqual) != -EFAULT;
}

// Asks the kernel for each page: far cheaper than having it copy.
bool usable(uint64_t address, size_t size, bool to_write) {
  const uint64_t last = address + size - 1;
  if (last < address || address < kPage) return false;  // null means something else to the calls below
  if (known.in_frames(address, last)) return true;
  for (uint64_t page = address & ~(kPage - 1);; page += kPage) {
    if (!known.has(page, to_write)) {
      const uint64_t from = std::max(address, page), to = std::min(last, page + kPage - 1) + 1;
      if (!(to_write ? writable(from, to) : readable(page))) return false;
      known.add(page, to_write);
    }
    if (last - page < kPage) return true;
  }
}

bool copy_by_kernel(long number, void* local, uint64_t address, size_t size) {
  struct iovec here = {local, size};
  struct iovec there = {reinterpret_cast<void*>(address), size};
  const long pid = raw_syscall(SYS_getpid);
  const long copied =
      raw_syscall(number, pid, reinterpret_cast<long>(&here), 1, reinterpret_cast<long>(&there), 1, 0);
  return copied == static_cast<long>(size);
}

}  // namespace

UserMemoryCall::UserMemoryCall() {
  if (known.calls > 0) {
    ++known.calls;
    return;
  }
  known = {};
  known.calls = 1;
  const auto frame = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  known.add(frame & ~(kPage - 1), true);
  if (stack.low == 0) stack = find_stack();
  // Hosts run on stacks of their own making, too.
  if (frame < stack.low || frame >= stack.high) return;
  known.stack_from = frame;
  known.stack_to = stack.high;
}
UserMemoryCall::~UserMemoryCall() {
  if (--known.calls == 0) known = {};
}

// As the kernel does, strings are read beyond their end, within the page. In a tool built with a sanitizer memcpy would be
// its own, and report that.
static void copy_unwatched(void* destination, const void* source, size_t size) {
  asm volatile("rep movsb" : "+D"(destination), "+S"(source), "+c"(size) : : "memory");
}

bool read_user(void* destination, uint64_t address, size_t size) {
  if (size == 0) return true;
  if (RemoteHost* host = remote_host()) return host->read(destination, address, size);
  if (size > kProbedMax) return copy_by_kernel(SYS_process_vm_readv, destination, address, size);
  if (!usable(address, size, false)) return false;
  copy_unwatched(destination, reinterpret_cast<const void*>(address), size);
  return true;
}

bool write_user(uint64_t address, const void* source, size_t size) {
  if (size == 0) return true;
  if (RemoteHost* host = remote_host()) return host->write(address, source, size);
  if (size > kProbedMax)
    return copy_by_kernel(SYS_process_vm_writev, const_cast<void*>(source), address, size);
  if (!usable(address, size, true)) return false;
  copy_unwatched(reinterpret_cast<void*>(address), source, size);
  return true;
}

std::optional<std::string> read_user_string(uint64_t address, size_t limit) {
  std::string out;
  char chunk[256];
  while (out.size() < limit) {
    // Never across a page in one step: the string may end just before an unmapped page.
    const size_t to_page_end = 4096 - (address & 4095);
    const size_t step = std::min({sizeof(chunk), to_page_end, limit - out.size()});
    if (!read_user(chunk, address, step)) return std::nullopt;
    const auto* end = static_cast<const char*>(std::memchr(chunk, 0, step));
    if (end != nullptr) return out.append(chunk, static_cast<size_t>(end - chunk));
    out.append(chunk, step);
    address += step;
  }
  return out;
}

}  // namespace bpftime::loader
