// System calls as probe sites. The `syscall` instruction itself stays where it is and is executed there, with every input and
// the stack as the host left them: enter programs run from a jump over the instructions before it, exit programs from one over
// the instructions after it. So whoever looks at the program counter or the stack of a thread in the kernel (signal handlers,
// pthread_cancel, debuggers, the kernel when it restarts a call) finds what it would find without us, and a call that returns
// on another stack, twice or never (clone, vfork, rt_sigreturn, execve, exit) finds nothing of ours on it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "rewrite/rewrite.h"

namespace bpftime::rewrite {

// One `syscall` instruction of a function; offsets count from the function's start.
struct SystemCallSite {
  uint32_t offset = 0;  // of `syscall`, 2 bytes
  int32_t number = -1;  // -1: not the same at every call, or not found out
  bool stands_for_call =
      false;  // no `syscall` is there, but programs shall believe it (agent/arch/x86_64/exec_return.S)
  int8_t number_register = -1;  // unknown number: this register holds it when the call returns, too
  uint32_t enter_offset = 0;    // the patch is [enter_offset, offset)
  std::string no_enter;         // why no enter programs can run here; empty: they can
  uint32_t exit_length = 0;     // the patch is [offset + 2, offset + 2 + exit_length)
  std::string no_exit;
  // Arguments of the kernel's (bit n for argument n) that code behind the call may look at in their registers, which the
  // kernel leaves as they are.
  uint8_t arguments_used_after = 0;
};

// Calls that change what signals a thread takes, for good or for as long as they last: those the signal guard wants to see.
struct GuardedCall {
  int32_t number;
  int8_t
      mask;  // the argument that leads to a mask for the call's duration, which the guard may replace; -1: none
  bool behind;  // it leads to address and size of the mask; else to the mask, whose size is the next argument
};
inline constexpr GuardedCall kGuardedCalls[] = {
    {13, -1, false},   // rt_sigaction
    {14, -1, false},   // rt_sigprocmask
    {15, -1, false},   // rt_sigreturn
    {130, 0, false},   // rt_sigsuspend
    {270, 5, true},    // pselect6
    {271, 3, false},   // ppoll
    {281, 4, false},   // epoll_pwait
    {333, 5, true},    // io_pgetevents
    {426, 4, false},   // io_uring_enter; as its flags say, also behind, with a word more
    {441, 4, false}};  // epoll_pwait2
// Null: none of them.
const GuardedCall* guarded_call(int32_t number);
// Whether a call with this number, or one whose number is not known (-1), may be one of them.
bool may_change_signals(int32_t number);
// Why the guard cannot do its work at a site; empty: it can, as far as there is a patch.
std::string no_guard_at(const SystemCallSite& site);

// clone, vfork, clone3: the child may run in the parent's memory under ids of its own.
bool starts_process(int32_t number);

// Those of one function. `code`: its bytes and the padding behind it, `size` those that belong to it.
std::vector<SystemCallSite> find_system_calls(Bytes code, uint64_t size);

// Those of a whole text segment. Jumps from other functions (parts split off by the compiler) are looked for, too.
struct TextSystemCall {
  uint64_t function = 0, function_size = 0;  // file addresses
  SystemCallSite site;
};
using FunctionBounds = std::function<std::optional<std::pair<uint64_t, uint64_t>>(uint64_t address)>;
// `address`: of text[0]; `function_at` gives start and size of the function around an address.
std::vector<TextSystemCall> find_system_calls(Bytes text, uint64_t address,
                                              const FunctionBounds& function_at);

// How many instructions of it enter the kernel by its 32-bit doors (int 0x80, sysenter), which a 64-bit process may use, too.
size_t count_old_system_calls(Bytes text, uint64_t address, const FunctionBounds& function_at);

// What programs at a system call get as their context.
enum class SystemCallContext : uint8_t {
  kRecord,     // the record of the event: number at 8, arguments from 16 or result at 16
  kRegisters,  // two words: address of pt_regs, number or result (raw tracepoints)
  // When a call of kSignalCalls begins (only_number says which) that will send a signal to one process or thread, as far as the kernel can
  // say before: what signal:signal_generate tells, with sig at 8, errno at 12 and the receiver's pid at 36; the rest is zero.
  kSignal,
};
// kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
inline constexpr int32_t kSignalCalls[] = {62, 200, 234, 129, 297};

struct SystemCallProgram {
  ProgramCall call;  // ends: kResultInRax: the kernel is not entered, the result is what the program says
  SystemCallContext context = SystemCallContext::kRecord;
  int32_t only_number = -1;  // -1: at every number
};

struct SystemCallRequest {
  bool on_exit = false;
  uint64_t function = 0;  // address in the target
  Bytes code;             // original bytes of the function and its padding
  uint64_t function_size = 0;
  SystemCallSite site;
  uint64_t trampoline_address = 0;
  uint64_t identity_address = 0;            // wire::TargetIdentity
  std::vector<SystemCallProgram> programs;  // in order
  // The call may make a process that runs in this one's memory (starts_process): TargetIdentity::memory_shared is kept. On both
  // its patches, or on neither.
  bool keeps_memory_shared = false;
  // Of enter patches: of guarded calls bpftime_agent_guarded_call, at this address (src/agent/guard.cc), is asked first, so that the
  // host cannot take the signal guard's signals away. 0: nobody is.
  uint64_t signal_guard = 0;
  // Enter patches of calls whose number is not known when they return: those of which the end is wanted are made beside the
  // trampoline, by a `syscall` of each number's own, and come back through these.
  std::vector<SystemCallProgram> exit_programs;
};

// Where the patch lies.
inline uint64_t patch_address(const SystemCallRequest& request) {
  return request.function + (request.on_exit ? request.site.offset + 2 : request.site.enter_offset);
}

// Errors (EOPNOTSUPP) as plan_probe.
Result<SitePlan> plan_system_call(const SystemCallRequest& request);

// Where a call that waits beside its trampoline, made there for the programs at its end (SystemCallRequest::exit_numbers), may
// wait as well: behind the host's own instruction. `pc`: behind the trampoline's, for call `number`. Empty: it is no such call.
std::optional<uint64_t> own_place_of_call(
    uint64_t pc, uint64_t number,
    const std::function<Result<std::vector<uint8_t>>(uint64_t address, size_t size)>& read);

}  // namespace bpftime::rewrite
