// Plans patches: decodes what stands at a site, relocates it, and makes the trampoline. Pure: bytes in, bytes
// out. Only includer of the disassembler (Zydis) and the assembler (asmjit).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "wire/invocation.h"

namespace bpftime::rewrite {

// A set of general registers: bit n is register n as instructions number them (0 rax, 1 rcx, … 4 rsp, … 15 r15).
using RegisterSet = uint16_t;
inline constexpr RegisterSet kCallerSavedRegisters = 0x0fc7;  // rax rcx rdx rsi rdi r8 … r11

// What the instructions of a compiled program may do to registers, its own functions and helpers included.
struct CodeUse {
  RegisterSet clobbered = kCallerSavedRegisters;  // may differ when it returns; the ABI keeps the others
  RegisterSet read = 0xffff;                      // named as a source anywhere: others cannot be arguments
  bool inert = false;  // returns at once without touching memory: running it makes no difference to anybody
};

// By 8-byte slot of wire::PtRegs.
using ContextSlots = uint32_t;
inline constexpr ContextSlots kAllContextSlots = (1u << sizeof(wire::PtRegs) / 8) - 1;

// A compiled program to run at a site.
struct ProgramCall {
  uint64_t code_address = 0;  // entry in the target, within ±2 GiB of the trampoline
  wire::Invocation invocation{};
  uint32_t only_tgid = 0;  // run only when TargetIdentity::tgid equals this; 0: in every process
  // Entry programs: whether this one may end the function (wire::kFunctionEnds), and where its result goes.
  enum class Ends : uint8_t { kNever, kResultInRax, kResultInXmm0 } ends = Ends::kNever;
  CodeUse use{};  // of its code: what need not be saved, and whether it need not run at all
  Bytes
      inlined;  // its instructions, to stand in the trampoline instead of a call (inlinable_code); empty: called
  ContextSlots context_slots_read = kAllContextSlots;  // the others may hold anything when it runs
  // Of three words that count its runs: begun, ended, time stamps at ends less those at beginnings; kernel::Hits. 0: nobody
  // counts, and nothing of it is in the trampoline.
  uint64_t counter = 0;
};
inline constexpr size_t kCountingMax = 64;  // bytes that takes

// What counting changes besides r11.
inline constexpr RegisterSet kCountingRegisters = 0x0805;  // rax rdx r11

// How the text at a site is changed.
enum class PatchMethod : uint8_t {
  kJump,  // 5-byte jump; no thread may stand inside the displaced range, and no jump may lead there
  kPunnedJump,  // the same where each instruction boundary inside the displaced range holds a byte that traps: whoever is
  // there or jumps there is led on by SitePlan::fixups (TrampolineRule chooses the address for it)
  kTrap,  // int3 over the first byte
};

// What return probes use in the target (rewrite/return_slot.h).
struct ReturnPath {
  uint64_t slot = 0;   // the copy for this site; 0: there is no agent
  uint64_t cold = 0;   // the agent's bpftime_agent_return_cold
  int32_t thread = 0;  // distance from the thread pointer to the ReturnThread
};

struct SiteRequest {
  uint64_t address = 0;  // of the function entry or, if `interior`, of any other instruction; in the target
  Bytes code;            // original bytes from `address` to the end of the function and its padding
  uint64_t function_size = 0;  // bytes from `address` on that belong to the function (0: unknown)
  // Not a function's entry: red zone, flags and every register are live, rsp may be aligned to 8 only. No return programs and
  // none that end the function.
  bool interior = false;
  Bytes
      before;  // original bytes from the function's entry to `address`: what jumps from there is looked at, too
  uint32_t room = 0;  // bytes from `address` that may be changed (another site begins there); 0: no limit
  PatchMethod method = PatchMethod::kJump;
  uint64_t trampoline_address = 0;     // where the trampoline will lie, within ±2 GiB
  uint64_t identity_address = 0;       // wire::TargetIdentity in the target
  ReturnPath return_path;              // required when `on_return` is not empty
  std::vector<ProgramCall> on_entry;   // in order
  std::vector<ProgramCall> on_return;  // in order
};

// Where a thread stopped between displaced instructions goes on.
struct PcFixup {
  uint32_t site_offset;  // 1 … length-1, an instruction boundary
  uint32_t trampoline_offset;
};

struct SitePlan {
  PatchMethod method = PatchMethod::kJump;  // kPunnedJump whenever the bytes are such, asked for or not
  std::vector<uint8_t> trampoline;          // code and its constants
  std::vector<uint8_t> original;            // bytes replaced
  std::vector<uint8_t> patched;             // jmp rel32, then int3 to the same length; or int3
  std::vector<PcFixup> fixups;
};

// Instructions in 64-bit mode that raise SIGTRAP (int3) or SIGILL (#UD) whatever follows them.
bool traps(uint8_t opcode);

// The addresses a trampoline may have for a jump at `site` whose bytes at `boundaries` (bit k: byte k, 1 … 4) all trap.
struct TrampolineRule {
  uint64_t site = 0;
  uint8_t boundaries = 0;

  // The lowest such address in [from, end), if any.
  std::optional<uint64_t> next(uint64_t from, uint64_t end) const;
};

// What stands at a site, and which ways of patching it there are; to be asked before a trampoline address is chosen. Addresses
// and programs of the request are not looked at. Errors as of plan_probe, when there is no way at all.
struct SiteShape {
  bool punned_jump = false;  // with a trampoline where `rule` allows one
  bool jump = false;         // anywhere in reach
  std::string why_no_jump;   // when both are false: a trap is all there is
  TrampolineRule rule;
};
Result<SiteShape> inspect_site(const SiteRequest& request);

// Errors (EOPNOTSUPP) name the reason: "function is 3 bytes, a jump needs 5", "a jump at +0x20 leads into the
// first 5 bytes", "rsp-relative call inside the first 5 bytes", "trampoline out of reach", "unknown
// instruction at +2", "the trampoline's address gives no byte that traps at +1" (kPunnedJump).
Result<SitePlan> plan_probe(const SiteRequest& request);

// A patch that leads straight to `replacement` (same signature); `original_entry` of the result is a
// trampoline offset from which the displaced code runs on as the original function.
struct RedirectPlan {
  SitePlan site;
  uint32_t original_entry = 0;
};
Result<RedirectPlan> plan_redirect(const SiteRequest& request, uint64_t replacement);

// "push %rbp" style text of the instructions in `code`, one per line, for `list --json`, tests
// and golden files.
std::string disassemble(Bytes code, uint64_t address);
// The same with each instruction's offset before it, hexadecimal, as bpftool prints machine code: "  1a:\tpush %rbp".
std::string listing(Bytes code);

// What `text`, the instructions of a compiled program and all it calls within itself, does to registers; `entry` is the offset
// of its first one. Calls and jumps out of it, through registers or of the kernel, are taken to do their worst. Never
// fails: what cannot be decoded may do anything.
CodeUse code_use(Bytes text, uint32_t entry);
// The instructions from `entry` on, without the return, when they can stand anywhere else: at most kInlinedMax bytes, one
// return at their end, no calls, nothing relative to where they are but jumps among themselves. Else empty.
inline constexpr size_t kInlinedMax = 160;
Bytes inlinable_code(Bytes text, uint32_t entry);
// The part of it that must be saved.
inline RegisterSet clobbered_registers(Bytes text) { return code_use(text, 0).clobbered; }

// Every instruction uses general registers only (no x87, SSE, AVX, mask registers, string instructions): what
// may run without saving vector state. On failure the error names the first offender.
Result<void> check_general_registers_only(Bytes code);

}  // namespace bpftime::rewrite
