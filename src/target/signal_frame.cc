#include "target/signal_frame.h"

#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>

#include "target/tracee.h"

namespace bpftime::target {
namespace {

// From the kernel's asm/sigcontext.h and asm/ucontext.h (interface facts; the headers clash with glibc's).
constexpr uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;  // FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2
constexpr uint64_t kUcFpXstate = 1, kUcSigcontextSs = 2, kUcStrictRestoreSs = 4;
constexpr size_t kLegacyBytes = 512, kHeaderBytes = 64;
constexpr size_t kSoftwareReserved =
    464;  // offset in the FXSAVE area; ptrace puts the mask of all features there
constexpr uint64_t kTileData = uint64_t{1}
                               << 18;  // AMX: allocated on first use, absent from most threads' frames

struct SoftwareBytes {
  uint32_t magic1, extended_size;
  uint64_t features;
  uint32_t state_size;
  uint32_t padding[7];
};
static_assert(sizeof(SoftwareBytes) == 48);

struct KernelUcontext {
  uint64_t flags, link;
  uint64_t stack_base;
  uint32_t stack_flags, pad;
  uint64_t stack_size;
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
  uint16_t cs, gs, fs, ss;
  uint64_t err, trapno, oldmask, cr2, fpstate;
  uint64_t reserved[8];
  uint64_t signal_mask;
};
static_assert(sizeof(KernelUcontext) == 304);

struct Frame {
  uint64_t return_address;
  KernelUcontext context;
  uint8_t siginfo[128];
};
static_assert(sizeof(Frame) == 440);

template <typename T>
T load(const std::vector<uint8_t>& bytes, size_t offset) {
  T value{};
  if (offset + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// Bytes of the standard-format XSAVE area that hold `features`.
size_t state_size_of(uint64_t features) {
  size_t size = kLegacyBytes + kHeaderBytes;
  for (unsigned feature = 2; feature < 63; ++feature) {
    if ((features >> feature & 1) == 0) continue;
    unsigned bytes = 0, offset = 0, c = 0, d = 0;
    if (__get_cpuid_count(0xd, feature, &bytes, &offset, &c, &d) == 0 || (c & 1) != 0)
      continue;  // supervisor state
    size = std::max<size_t>(size, offset + bytes);
  }
  return size;
}

// The floating point part of the frame, as the kernel itself would have written it.
std::vector<uint8_t> floating_point_part(const std::vector<uint8_t>& extended_state) {
  if (extended_state.size() < kLegacyBytes + kHeaderBytes) return {};
  uint64_t features = load<uint64_t>(extended_state, kSoftwareReserved);
  const uint64_t in_use = load<uint64_t>(extended_state, kLegacyBytes);
  if ((in_use & kTileData) == 0) features &= ~kTileData;
  const size_t size = std::min(state_size_of(features), extended_state.size());
  std::vector<uint8_t> part(size + sizeof(kMagic2));
  std::copy_n(extended_state.begin(), size, part.begin());
  SoftwareBytes software{
      kMagic1, static_cast<uint32_t>(size + sizeof(kMagic2)), features, static_cast<uint32_t>(size), {}};
  std::memcpy(part.data() + kSoftwareReserved, &software, sizeof(software));
  std::memcpy(part.data() + size, &kMagic2, sizeof(kMagic2));
  return part;
}

KernelUcontext context_of(const user_regs_struct& r, uint64_t signal_mask, uint64_t fpstate) {
  KernelUcontext c{};
  c.flags = kUcSigcontextSs | kUcStrictRestoreSs | (fpstate != 0 ? kUcFpXstate : 0);
  // An alternate stack of size 0 is refused by the kernel, silently: the thread keeps the one it has.
  c.r8 = r.r8, c.r9 = r.r9, c.r10 = r.r10, c.r11 = r.r11, c.r12 = r.r12, c.r13 = r.r13, c.r14 = r.r14,
  c.r15 = r.r15;
  c.rdi = r.rdi, c.rsi = r.rsi, c.rbp = r.rbp, c.rbx = r.rbx, c.rdx = r.rdx, c.rax = r.rax, c.rcx = r.rcx,
  c.rsp = r.rsp;
  c.rip = r.rip, c.eflags = r.eflags;
  c.cs = static_cast<uint16_t>(r.cs), c.ss = static_cast<uint16_t>(r.ss);
  c.fpstate = fpstate;
  c.signal_mask = signal_mask;
  return c;
}

}  // namespace

user_regs_struct restarted(const user_regs_struct& registers) {
  user_regs_struct r = registers;
  if (static_cast<int64_t>(r.orig_rax) < 0 || !is_restart_code(static_cast<int64_t>(r.rax))) return r;
  r.rip -= 2;  // back onto the `syscall` instruction
  // Also for ERESTART_RESTARTBLOCK: rt_sigreturn forgets what restart_syscall would continue, so the call begins anew.
  r.rax = r.orig_rax;
  return r;
}

SignalFrame build_signal_frame(uint64_t top, uint64_t return_to, const user_regs_struct& registers,
                               uint64_t signal_mask, const std::vector<uint8_t>& extended_state) {
  const std::vector<uint8_t> fpstate = floating_point_part(extended_state);
  const uint64_t fpstate_at = (top - fpstate.size()) & ~uint64_t{63};  // XRSTOR needs 64-byte alignment
  SignalFrame result;
  result.stack_pointer =
      ((fpstate_at - sizeof(Frame)) & ~uint64_t{15}) - 8;  // rsp ≡ 8 (mod 16) at a function's entry
  result.start = (result.stack_pointer - kScratchBytes) & ~uint64_t{15};
  result.bytes.resize(top - result.start);
  Frame frame{};
  frame.return_address = return_to;
  frame.context = context_of(restarted(registers), signal_mask, fpstate.empty() ? 0 : fpstate_at);
  std::memcpy(result.bytes.data() + (result.stack_pointer - result.start), &frame, sizeof(frame));
  if (!fpstate.empty())
    std::memcpy(result.bytes.data() + (fpstate_at - result.start), fpstate.data(), fpstate.size());
  return result;
}

}  // namespace bpftime::target
