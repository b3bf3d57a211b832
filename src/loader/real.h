// What lies under the interposer: the next definition of each libc function, and bare system calls.
//
// Rules for whoever edits src/loader:
//  1. The loader runs inside strangers' tools. It never aborts, exits, throws past a hook, or prints
//     (but see log.h).
//  2. A hook first asks "can this be ours?" cheaply and without allocating; if not, it tail-calls
//     the real function.
//  3. Inside our own code every hook passes through (Inside): our own open, mmap or poll must never come
//     back to us.
//  4. errno: on success as the host left it, on failure set once, at the end.
//  5. Our descriptors are real memfds, so dup, fcntl, fork and SCM_RIGHTS need no hook. Only what keeps *our*
//     copies of an object alive (mappings, eventfds) is dropped in the close hooks.
//  6. Locks are held for table look-ups only, never across a call to the daemon or a blocking call
//     (but Connection's own).
#pragma once

#include <cerrno>
#include <cstdint>

namespace bpftime::loader {

// The system call itself: -errno on failure, errno untouched, no cancellation point, no libc.
inline long raw_syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#else
#error "the loader's system call stub is written for x86-64 only"
#endif
}

// -errno to libc's convention.
inline long to_libc(long result) {
  if (result >= -4095 && result < 0) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}

// dlsym(RTLD_NEXT, name), or nullptr when there is none or when the look-up itself came back to a hook.
void* find_real(const char* name);

// The real function of the given name and type, looked up on first use. Thread-safe: the answer is
// always the same.
template <typename Function>
Function* real(const char* name, Function*& cache) {
  Function* found = __atomic_load_n(&cache, __ATOMIC_RELAXED);
  if (found == nullptr) {
    found = reinterpret_cast<Function*>(find_real(name));
    if (found != nullptr) __atomic_store_n(&cache, found, __ATOMIC_RELAXED);
  }
  return found;
}

// True while this thread runs the loader's own code.
bool inside();

// Marks this thread as running the loader's own code; leaves errno as it was.
class Inside {
 public:
  Inside();
  ~Inside();
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  int saved_errno_;
};

}  // namespace bpftime::loader
