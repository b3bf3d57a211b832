// The kernel's view of signals, without libc's headers.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::agent {

inline constexpr int kSigill = 4, kSigtrap = 5, kSigbus = 7, kSigsegv = 11, kSignals = 64, kSigkill = 9,
                     kSigstop = 19;
inline constexpr long kSignalBlock = 0, kSignalUnblock = 1, kSignalSetMask = 2;  // SIG_*
constexpr uint64_t signal_bit(int signal) { return uint64_t{1} << (signal - 1); }
inline constexpr int kGuarded[] = {kSigsegv, kSigbus, kSigtrap, kSigill};
inline constexpr uint64_t kGuardedSignals =
    signal_bit(kSigbus) | signal_bit(kSigsegv) | signal_bit(kSigtrap) | signal_bit(kSigill);

inline constexpr uint64_t kDefaultAction = 0, kIgnore = 1;  // SIG_DFL, SIG_IGN
inline constexpr uint64_t kSiginfo = 4, kOnStack = 0x08000000, kRestart = 0x10000000, kNodefer = 0x40000000,
                          kResetHandler = 0x80000000, kRestorer = 0x04000000;  // SA_*

// struct kernel_sigaction.
struct KernelAction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

// struct sigaction of glibc and of musl.
struct LibcAction {
  uint64_t handler;
  uint64_t mask[16];
  int32_t flags;
  uint64_t restorer;
};
static_assert(offsetof(LibcAction, flags) == 136 && sizeof(LibcAction) == 152);

struct LibcMask {
  uint64_t word[16];  // the kernel knows the first
};

// siginfo_t as far as we look.
struct SignalInfo {
  int32_t signal, error, code, padding;
  uint8_t rest[112];
};
static_assert(sizeof(SignalInfo) == 128);

// ucontext_t: offsets asserted against libc's in guard_test.cc.
inline constexpr size_t kContextLink = 8;  // the kernel writes 0 and reads nothing
inline constexpr size_t kContextRip = 168;
inline constexpr size_t kContextMask = 296;

}  // namespace bpftime::agent
