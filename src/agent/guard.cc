// The signal guard: SIGSEGV and SIGBUS come to us first, so that loads that may fault can be repaired, SIGTRAP and SIGILL
// so that whoever meets a trapping byte of a patch is led on (traps.cc);
// everything else goes on exactly as the host would have had it. The host sees its own dispositions and
// masks: libc's sigaction and pthread_sigmask (which sigprocmask, signal, siglongjmp and the rest of libc
// call) are led here by patches (rewrite::plan_redirect), and the originals stay reachable through the
// variables below. Who makes the two system calls itself, as parts of libc do, or another that takes a signal mask, is led here
// where it would enter the kernel (bpftime_agent_guarded_call, by rewrite::SystemCallRequest::signal_guard).
//
// Rules for whoever edits this:
//  1. No locks, no heap, no libc; every function may run inside a signal handler that interrupted itself.
//  2. The guarded signals are never really blocked by the redirected functions: a repairable fault while
//  blocked would kill
//     the host. What the host believes to have blocked is kept per thread (Thread::host_masked).
//  3. A child of vfork or posix_spawn shares our memory but has signal dispositions of its own: what it does
//  there goes to
//     the kernel and must not change what we remember for its parent.
//  4. A fault that is not ours must leave the same core dump: default action means back to
//     the faulting instruction.
#include <asm/unistd.h>

#include "agent/arch/x86_64/system_call.h"
#include "agent/signals.h"
#include "agent/thread.h"
#include "agent/traps.h"
#include "wire/checked_load.h"
#include "wire/signal_frame.h"
#include "wire/target_context.h"

extern "C" {
extern __attribute__((visibility("hidden"))) const char bpftime_safe_begin[], bpftime_safe_end[],
    bpftime_safe_fixup[];
__attribute__((visibility("hidden"))) void bpftime_signal_return();

// Where the redirected functions run on as themselves; stored by the daemon before it patches.
int (*bpftime_agent_original_sigaction)(int, const bpftime::agent::LibcAction*,
                                        bpftime::agent::LibcAction*) = nullptr;
int (*bpftime_agent_original_sigmask)(int, const bpftime::agent::LibcMask*,
                                      bpftime::agent::LibcMask*) = nullptr;
long bpftime_agent_safe_copy(void* dst, const void* src, uint64_t len);
}

namespace bpftime::agent {
namespace {

using Handler = void (*)(int, SignalInfo*, uint8_t*);

// The host's disposition of one guarded signal. Readers take a copy while others may write: versions are kept
// in a ring, so a copy is torn only if the disposition changes kVersions times meanwhile.
class HostAction {
 public:
  KernelAction get() const { return versions_[__atomic_load_n(&current_, __ATOMIC_ACQUIRE) % kVersions]; }
  void set(const KernelAction& action) {
    const uint32_t next = __atomic_add_fetch(&last_, 1, __ATOMIC_ACQ_REL);
    versions_[next % kVersions] = action;
    __atomic_store_n(&current_, next, __ATOMIC_RELEASE);
  }

 private:
  static constexpr uint32_t kVersions = 16;
  KernelAction versions_[kVersions];
  uint32_t current_, last_;
};

HostAction host_actions[4];  // as in kGuarded
bool installed;
uint64_t host_action_masks[kSignals + 1];  // guarded bits in the sa_mask of the host's other handlers

// Our process id; alone on a page that is wiped on fork, but not for a child that shares our memory.
struct alignas(4096) WipedPage {
  int64_t process_id;
};
WipedPage own;

HostAction& host_action(int signal) {
  for (int i = 1; i < 4; ++i)
    if (kGuarded[i] == signal) return host_actions[i];
  return host_actions[0];
}
bool is_guarded(int signal) {
  return signal >= 1 && signal <= kSignals && (kGuardedSignals & signal_bit(signal)) != 0;
}
static_assert(sizeof kGuarded / sizeof *kGuarded == 4);

long kernel_action(int signal, const KernelAction* action, KernelAction* old) {
  return system_call(__NR_rt_sigaction, signal, system_argument(action), system_argument(old),
                     sizeof action->mask);
}

long kernel_mask(long how, uint64_t set, uint64_t* old) {
  return system_call(__NR_rt_sigprocmask, how, system_argument(&set), system_argument(old), sizeof set);
}

bool shares_parents_memory() {
  const wire::TargetContext* context = bpftime_agent_context;
  if (context != nullptr && (context->flags & wire::kNoSystemCalls) != 0) return false;  // cannot ask
  const long now = system_call(__NR_getpid);
  if (own.process_id == 0) own.process_id = now;
  return own.process_id != now;
}

uint64_t& word_at(uint8_t* context, size_t offset) { return *reinterpret_cast<uint64_t*>(context + offset); }

void on_guarded_signal(int signal, SignalInfo* info, uint8_t* context);

// Ours in the kernel, restarting system calls if the host's would.
KernelAction our_action(const KernelAction& host) {
  KernelAction ours{};
  ours.handler = reinterpret_cast<uint64_t>(on_guarded_signal);
  ours.flags = kSiginfo | kOnStack | kNodefer | kRestorer | (host.flags & kRestart);
  ours.restorer = reinterpret_cast<uint64_t>(bpftime_signal_return);
  return ours;
}

constexpr int32_t kKernelCode = 0x80;  // SI_KERNEL: what int3 raises

// The kernel's codes for what the thread itself did are positive; SI_USER is 0, SI_TKILL
// and SI_QUEUE negative.
bool is_fault(const SignalInfo& info) { return info.code > 0; }

// Whether `rip` lies in memory of ours, with room for a mark before it.
bool in_program_code(uint64_t rip) {
  const wire::TargetContext* context = bpftime_agent_context;
  if (context == nullptr) return false;
  for (uint32_t i = 0; i < context->arena_count && i < wire::kArenasMax; ++i) {
    const wire::ArenaRecord& arena = context->arenas[i];
    if (rip >= arena.address + wire::kCheckedLoadMark && rip < arena.address + arena.size) return true;
  }
  return false;
}

bool repair(int signal, SignalInfo* info, uint8_t* context) {
  uint64_t& rip = word_at(context, kContextRip);
  if (!is_fault(*info)) return false;
  if (signal == kSigill) return lead_on(rip);
  if (signal == kSigtrap) {
    if (info->code != kKernelCode) return false;  // single steps, hardware breakpoints: a debugger's
    uint64_t trap = rip - 1;                      // int3 leaves rip behind itself
    if (!lead_on(trap)) return false;
    rip = trap;
    return true;
  }
  if (rip >= reinterpret_cast<uint64_t>(bpftime_safe_begin) &&
      rip < reinterpret_cast<uint64_t>(bpftime_safe_end)) {
    rip = reinterpret_cast<uint64_t>(bpftime_safe_fixup);
  } else if (!in_program_code(rip) || !wire::repair_checked_load(&rip - wire::kSignalRip)) {
    return false;
  }
  if (bpftime_agent_context != nullptr) ++bpftime_agent_context->faults_repaired;
  return true;
}

// Sends `info` again to this thread, to arrive once the handler has returned: so it looks as if we had
// not been there.
void send_again(int signal, SignalInfo* info) {
  uint64_t old;
  kernel_mask(kSignalBlock, signal_bit(signal), &old);  // until sigreturn restores the interrupted mask
  const long pid = system_call(__NR_getpid), tid = system_call(__NR_gettid);
  if (system_call(__NR_rt_tgsigqueueinfo, pid, tid, signal, system_argument(info)) < 0) {
    system_call(__NR_tgkill, pid, tid, signal);
  }
}

void default_action(int signal, SignalInfo* info) {
  const KernelAction action{};
  kernel_action(signal, &action, nullptr);
  // A fault happens again by itself; int3 and single steps are over when they are told.
  if (!is_fault(*info) || signal == kSigtrap) send_again(signal, info);
}

// A handler returns to `mask`, as its frame has it. What it blocks of ours the host is to see blocked, no more. Frames made while
// the guard is here have nothing of ours in them, unless the host has put it there.
void open_frame(uint64_t& mask) {
  const auto guarded = static_cast<uint32_t>(mask & kGuardedSignals);
  if (guarded == 0) return;
  if (!shares_parents_memory()) bpftime_thread.host_masked |= guarded;
  mask &= ~kGuardedSignals;
}

void call_host(int signal, SignalInfo* info, uint8_t* context, const KernelAction& host) {
  if ((host.flags & kResetHandler) != 0) host_action(signal).set({});
  uint64_t mask = host.mask;
  if ((host.flags & kNodefer) == 0) mask |= signal_bit(signal);
  // The kernel mask goes back with sigreturn, the host's view of the guarded signals by hand. Whoever leaves
  // by longjmp keeps the handler's mask, and by siglongjmp sets the old one: as without us.
  const uint32_t before = bpftime_thread.host_masked;
  bpftime_thread.host_masked = before | static_cast<uint32_t>(mask & kGuardedSignals);
  uint64_t old;
  if ((mask & ~kGuardedSignals) != 0) kernel_mask(kSignalBlock, mask & ~kGuardedSignals, &old);
  reinterpret_cast<Handler>(host.handler)(signal, info, context);
  bpftime_thread.host_masked = before;
  open_frame(word_at(context, kContextMask));
}

void on_guarded_signal(int signal, SignalInfo* info, uint8_t* context) {
  if (repair(signal, info, context)) return;
  const KernelAction host = host_action(signal).get();
  const bool masked = (bpftime_thread.host_masked & signal_bit(signal)) != 0;
  if (masked && !is_fault(*info)) {
    bpftime_thread.host_pending |= static_cast<uint32_t>(signal_bit(signal));
    return;
  }
  // As the kernel does: a fault cannot be ignored or blocked away, it kills.
  if (host.handler == kDefaultAction || masked) return default_action(signal, info);
  if (host.handler == kIgnore) return is_fault(*info) ? default_action(signal, info) : void();
  call_host(signal, info, context, host);
}

// Handlers registered before us may block guarded signals while they run: no longer, but remember for
// the host's view.
void clear_masks_of_other_handlers() {
  for (int signal = 1; signal <= kSignals; ++signal) {
    KernelAction action;
    if (is_guarded(signal) || kernel_action(signal, nullptr, &action) != 0) continue;
    if (action.handler == kDefaultAction || action.handler == kIgnore) continue;
    host_action_masks[signal] = action.mask & kGuardedSignals;
    if (host_action_masks[signal] == 0) continue;
    action.mask &= ~kGuardedSignals;
    kernel_action(signal, &action, nullptr);
  }
}

void restore_masks_of_other_handlers() {
  for (int signal = 1; signal <= kSignals; ++signal) {
    KernelAction action;
    if (host_action_masks[signal] == 0 || kernel_action(signal, nullptr, &action) != 0) continue;
    action.mask |= host_action_masks[signal];
    kernel_action(signal, &action, nullptr);
    host_action_masks[signal] = 0;
  }
}

KernelAction from_libc(const LibcAction& action) {
  return {action.handler, static_cast<uint32_t>(action.flags), action.restorer, action.mask[0]};
}

// Changes the calling thread's mask: the kernel's gets all signals but the guarded ones, the host's view these. `old`: the
// host's view before. 0 or -errno.
long change_mask(long how, uint64_t set, uint64_t& old) {
  Thread& thread = bpftime_thread;
  const uint32_t before = thread.host_masked;
  const auto guarded = static_cast<uint32_t>(set & kGuardedSignals);
  const long result = kernel_mask(how, how == kSignalUnblock ? set : set & ~kGuardedSignals, &old);
  if (result != 0) return result;
  old |= before;
  const uint32_t after = how == kSignalBlock     ? before | guarded
                         : how == kSignalUnblock ? before & ~guarded
                                                 : guarded;
  if (after == before || shares_parents_memory()) return 0;
  thread.host_masked = after;
  const uint32_t deliver = thread.host_pending & ~thread.host_masked;
  if (deliver == 0) return 0;
  thread.host_pending &= ~deliver;
  for (const int signal : kGuarded) {
    if ((deliver & signal_bit(signal)) == 0) continue;
    system_call(__NR_tgkill, system_call(__NR_getpid), system_call(__NR_gettid), signal);
  }
  return 0;
}

template <typename T>
long read_host(T& out, uint64_t address) {
  return bpftime_agent_safe_copy(&out, reinterpret_cast<void*>(address), sizeof out);
}

// rt_sigprocmask as the kernel does it. The host's pointers may be bad.
long mask_call(long how, const uint64_t* set, uint64_t* old) {
  uint64_t wanted = 0, before = 0;
  long result;
  if (set == nullptr) {
    result = system_call(__NR_rt_sigprocmask, how, 0, system_argument(&before), sizeof before);
    before |= bpftime_thread.host_masked;
  } else {
    if (bpftime_agent_safe_copy(&wanted, set, sizeof wanted) != 0) return wire::kSignalCallIsTheKernels;
    result = change_mask(how, wanted, before);
  }
  if (result != 0 || old == nullptr) return result;
  return bpftime_agent_safe_copy(old, &before, sizeof before);
}

// rt_sigaction as the kernel does it, of whatever signal.
long action_call(int signal, const KernelAction* action, KernelAction* old) {
  KernelAction wanted{}, before{};
  if (action != nullptr && bpftime_agent_safe_copy(&wanted, action, sizeof wanted) != 0)
    return wire::kSignalCallIsTheKernels;
  const bool in_child = action != nullptr && shares_parents_memory();
  if (is_guarded(signal)) {
    // What executes a program soon gives its handlers up by that: until then ours has to stay.
    if (in_child && wanted.handler != kDefaultAction) return wire::kSignalCallIsTheKernels;
    before = host_action(signal).get();
    if (action != nullptr && !in_child) {
      host_action(signal).set(wanted);
      const KernelAction ours = our_action(wanted);
      kernel_action(signal, &ours, nullptr);
    }
  } else {
    const uint64_t guarded = wanted.mask & kGuardedSignals, guarded_before = host_action_masks[signal];
    wanted.mask &= ~kGuardedSignals;
    if (const long error = kernel_action(signal, action == nullptr ? nullptr : &wanted, &before); error != 0)
      return error;
    if (action != nullptr && !in_child) host_action_masks[signal] = guarded;
    before.mask |= guarded_before;
  }
  return old == nullptr ? 0 : bpftime_agent_safe_copy(old, &before, sizeof before);
}

// A mask that a call takes for as long as it lasts, in the three forms in which calls take it: `mask` itself, what pselect6 and
// io_pgetevents want (the first two words), and io_uring_getevents_arg (the first three). Never changed and never given up once
// there, because the kernel reads it again whenever it restarts the call: so equal ones are one, and there is only room for so
// many.
struct LentMask {
  uint64_t address, size, timeout;
  uint64_t mask;
  uint32_t state;  // 0: free, 1: being written, 2: whole
};
constexpr uint32_t kLentMasks = 512, kBeingWritten = 1, kWhole = 2;
LentMask lent_masks[kLentMasks];

// Null: there is no room.
const LentMask* lend(uint64_t mask, uint64_t size, uint64_t timeout) {
  const uint64_t hash = (mask ^ size * 31 ^ timeout) * 0x9e3779b97f4a7c15;
  for (uint32_t i = 0; i < kLentMasks; ++i) {
    LentMask& lent = lent_masks[((hash >> 40) + i) % kLentMasks];
    uint32_t state = __atomic_load_n(&lent.state, __ATOMIC_ACQUIRE);
    if (state == 0 && __atomic_compare_exchange_n(&lent.state, &state, kBeingWritten, false, __ATOMIC_ACQUIRE,
                                                  __ATOMIC_ACQUIRE)) {
      lent.address = reinterpret_cast<uint64_t>(&lent.mask);
      lent.size = size;
      lent.timeout = timeout;
      lent.mask = mask;
      __atomic_store_n(&lent.state, kWhole, __ATOMIC_RELEASE);
      return &lent;
    }
    // One that is being written may be ours, by what this handler has interrupted: not worth waiting for.
    if (state == kWhole && lent.mask == mask && lent.size == size && lent.timeout == timeout) return &lent;
  }
  return nullptr;
}

// `argument`, which a call takes its mask by, is made one that leaves our signals deliverable. Whatever the kernel refuses
// stays, for it to refuse.
void lend_mask(uint64_t& argument, uint64_t size) {
  uint64_t mask;
  if (argument == 0 || size != sizeof mask || read_host(mask, argument) != 0) return;
  if ((mask & kGuardedSignals) == 0) return;
  if (const LentMask* lent = lend(mask & ~kGuardedSignals, size, 0); lent != nullptr)
    argument = lent->address;
}

// The same of a mask behind a pointer to `words` words: its address, size, and what else there is.
void lend_mask_behind(uint64_t& argument, uint64_t words) {
  uint64_t all[3] = {}, mask;
  if (argument == 0 || bpftime_agent_safe_copy(all, reinterpret_cast<void*>(argument), words * 8) != 0)
    return;
  if (all[0] == 0 || static_cast<uint32_t>(all[1]) != sizeof mask || read_host(mask, all[0]) != 0) return;
  if ((mask & kGuardedSignals) == 0) return;
  if (const LentMask* lent = lend(mask & ~kGuardedSignals, all[1], all[2]); lent != nullptr)
    argument = reinterpret_cast<uint64_t>(lent);
}

void wait_call(long number, uint64_t* arguments) {
  constexpr uint64_t kGetEvents = 1, kExtended = 8, kRegistered = 64;  // IORING_ENTER_*
  switch (number) {
    case __NR_rt_sigsuspend:
      return lend_mask(arguments[0], arguments[1]);
    case __NR_ppoll:
      return lend_mask(arguments[3], arguments[4]);
    case __NR_epoll_pwait:
    case __NR_epoll_pwait2:
      return lend_mask(arguments[4], arguments[5]);
    case __NR_pselect6:
    case __NR_io_pgetevents:
      return lend_mask_behind(arguments[5], 2);
    case __NR_io_uring_enter:
      break;
    default:
      return;
  }
  const uint64_t flags = arguments[3];
  if ((flags & kGetEvents) == 0 || (flags & kRegistered) != 0)
    return;  // registered: in memory we do not know
  if ((flags & kExtended) == 0) return lend_mask(arguments[4], arguments[5]);
  if (arguments[5] == 3 * sizeof(uint64_t)) lend_mask_behind(arguments[4], 3);
}

void to_libc(const KernelAction& action, LibcAction* out) {
  out->handler = action.handler;
  for (uint64_t& word : out->mask) word = 0;
  out->mask[0] = action.mask;
  out->flags = static_cast<int32_t>(action.flags);
  out->restorer = action.restorer;
}

}  // namespace

extern "C" {

// Called by the daemon on a stopped thread. Idempotent. 0 or -errno.
long bpftime_agent_install_guard(wire::TargetContext* context) {
  bpftime_agent_context = context;
  if (!installed) {
    constexpr long kWipeOnFork = 18;  // MADV_WIPEONFORK
    if (const long error = system_call(__NR_madvise, system_argument(&own), sizeof own, kWipeOnFork);
        error != 0) {
      return error;
    }
    own.process_id = system_call(__NR_getpid);
    for (const int signal : kGuarded) {
      KernelAction host{};
      if (const long error = kernel_action(signal, nullptr, &host); error != 0) return error;
      host_action(signal).set(host);
      const KernelAction ours = our_action(host);
      if (const long error = kernel_action(signal, &ours, nullptr); error != 0) return error;
    }
    clear_masks_of_other_handlers();
    installed = true;
  }
  if (context != nullptr) context->guard_installed = 1;
  return 0;
}

// The reverse, when the redirects have been taken out and nothing that may fault is left. 0 or -errno.
long bpftime_agent_remove_guard() {
  if (!installed) return 0;
  if (bpftime_agent_context != nullptr) bpftime_agent_context->guard_installed = 0;
  for (const int signal : kGuarded) {
    KernelAction host = host_action(signal).get();
    // Registered through us it has no restorer: libc would have added its own, and without one the kernel kills
    // the process instead of calling the handler. Ours stays loaded.
    if (host.handler != kDefaultAction && host.handler != kIgnore && (host.flags & kRestorer) == 0) {
      host.flags |= kRestorer;
      host.restorer = reinterpret_cast<uint64_t>(&bpftime_signal_return);
    }
    if (const long error = kernel_action(signal, &host, nullptr); error != 0) return error;
  }
  restore_masks_of_other_handlers();
  installed = false;
  return 0;
}

// Where, from a thread's thread pointer (fs base), lies the uint32_t of guarded signals its host
// believes to have blocked (bit = signal - 1). For threads found with them really blocked: the daemon,
// which holds them stopped, stores the bits there and clears them in the mask (PTRACE_SETSIGMASK); the
// reverse before remove_guard.
long bpftime_agent_host_masked_offset() {
  return static_cast<long>(reinterpret_cast<uint64_t>(&bpftime_thread.host_masked) - thread_pointer());
}

// For the daemon, which finds threads in calls under way: a mask to take instead of theirs, in the form the call wants. 0: no room.
const void* bpftime_agent_lend_mask(uint64_t mask, uint64_t size, uint64_t timeout, bool behind) {
  const LentMask* lent = lend(mask & ~kGuardedSignals, size, timeout);
  if (lent == nullptr || behind) return lent;
  return &lent->mask;
}

// In place of libc's sigaction.
int bpftime_agent_sigaction(int signal, const LibcAction* action, LibcAction* old) {
  if (!installed || signal < 1 || signal > kSignals)
    return bpftime_agent_original_sigaction(signal, action, old);
  if (action != nullptr && shares_parents_memory())
    return bpftime_agent_original_sigaction(signal, action, old);
  if (is_guarded(signal)) {
    const KernelAction before = host_action(signal).get();
    if (action != nullptr) {  // read before `old` is written: they may be the same
      const KernelAction host = from_libc(*action);
      host_action(signal).set(host);
      const KernelAction ours = our_action(host);
      kernel_action(signal, &ours, nullptr);
    }
    if (old != nullptr) to_libc(before, old);
    return 0;
  }
  const uint64_t mask_before = host_action_masks[signal];
  LibcAction unmasked;
  uint64_t mask = mask_before;
  if (action != nullptr) {
    unmasked = *action;
    mask = unmasked.mask[0] & kGuardedSignals;
    unmasked.mask[0] &= ~kGuardedSignals;
  }
  const int result = bpftime_agent_original_sigaction(signal, action == nullptr ? nullptr : &unmasked, old);
  if (result != 0) return result;
  host_action_masks[signal] = mask;
  if (old != nullptr) old->mask[0] |= mask_before;
  return result;
}

// In place of libc's pthread_sigmask, which all of libc's mask functions call. Returns an errno,
// as that does.
int bpftime_agent_sigmask(int how, const LibcMask* set, LibcMask* old) {
  if (!installed) return bpftime_agent_original_sigmask(how, set, old);
  if (set == nullptr) {
    const uint32_t masked = bpftime_thread.host_masked;
    const int result = bpftime_agent_original_sigmask(how, set, old);
    if (result == 0 && old != nullptr) old->word[0] |= masked;
    return result;
  }
  constexpr uint64_t kLibcsOwn = signal_bit(32) | signal_bit(33);  // which it lets nobody block
  uint64_t before = 0;
  const long result = change_mask(how, set->word[0] & ~kLibcsOwn, before);
  if (result != 0) return static_cast<int>(-result);
  if (old != nullptr) old->word[0] = before;
  return 0;
}

// Before a system call `number` of any code, about signals or with a mask of its own (rewrite::kGuardedCalls). `arguments`: in the
// kernel's order, as they will be in their registers if it is made. `stack`: the stack pointer it will be made with. Does what the
// call would and returns what it would, or wire::kSignalCallIsTheKernels: then it is to be made.
long bpftime_agent_guarded_call(long number, uint64_t* arguments, uint8_t* stack) {
  if (!installed) return wire::kSignalCallIsTheKernels;
  if (number == __NR_rt_sigreturn) {
    uint64_t link, mask;
    if (read_host(link, reinterpret_cast<uint64_t>(stack + kContextLink)) != 0 ||
        read_host(mask, reinterpret_cast<uint64_t>(stack + kContextMask)) != 0)
      return wire::kSignalCallIsTheKernels;
    if (link == wire::kFrameOfHost && !shares_parents_memory()) bpftime_thread.host_masked = 0;
    open_frame(word_at(stack, kContextMask));
    return wire::kSignalCallIsTheKernels;
  }
  if (number != __NR_rt_sigprocmask && number != __NR_rt_sigaction) {
    wait_call(number, arguments);
    return wire::kSignalCallIsTheKernels;
  }
  if (arguments[3] != sizeof(uint64_t)) return wire::kSignalCallIsTheKernels;
  if (number == __NR_rt_sigprocmask)
    return mask_call(static_cast<long>(arguments[0]), reinterpret_cast<const uint64_t*>(arguments[1]),
                     reinterpret_cast<uint64_t*>(arguments[2]));
  const int signal = static_cast<int>(arguments[0]);
  if (signal < 1 || signal > kSignals) return wire::kSignalCallIsTheKernels;
  return action_call(signal, reinterpret_cast<const KernelAction*>(arguments[1]),
                     reinterpret_cast<KernelAction*>(arguments[2]));
}

}  // extern "C"

}  // namespace bpftime::agent
