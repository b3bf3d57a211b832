// The code that runs programs before or after a system call.
// Rules for whoever edits this:
//  1. rcx and r11 are dead (the kernel overwrites both), flags were found dead (system_call.cc); every other register and the
//     128 bytes below rsp are the host's. rsp has any alignment.
//  2. When control leaves here, before the call or after it, the stack pointer is the host's own and nothing is kept on the stack:
//     the call may return on another stack, in another process, twice or never.
//  3. Same request, same bytes.
#include <asmjit/x86.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>

#include "rewrite/counting.h"
#include "rewrite/relocate.h"
#include "rewrite/system_call.h"
#include "wire/target_context.h"

namespace bpftime::rewrite {
namespace {

using namespace asmjit::x86;  // register names
using asmjit::Label;
using wire::PtRegs;

constexpr RegisterSet bit(uint32_t number) { return static_cast<RegisterSet>(1u << number); }
constexpr uint32_t kRax = 0, kRdx = 2, kRdi = 7, kRsi = 6, kR10 = 10;
constexpr uint32_t kSystemCallSize = 2;
constexpr int32_t kRedZone = 128;

// The frame, from rsp. The record is as long as pt_regs: a program that ends the call says so where pt_regs has rax and
// orig_rax, which lie behind every record.
constexpr int32_t kId = 8;          // number, sign-extended as the kernel shows it
constexpr int32_t kArguments = 16;  // enter; exit: the result, then what must be saved
constexpr int32_t kResult = 16;
constexpr int32_t kSavedRax = 72;  // enter with unknown number
constexpr int32_t kEndResult = offsetof(PtRegs, rax), kEndMark = offsetof(PtRegs, orig_rax);
constexpr int32_t kOldStack = sizeof(PtRegs);
constexpr int32_t kFrameSize = 176;
// Only when a program wants registers.
constexpr int32_t kWords = 176, kRegisters = 192, kLongFrameSize = 368;
// Only when a program wants signals.
constexpr int32_t kSignalRecord = 368, kSignalFrameSize = 416;
static_assert(kSavedRax >= kArguments + 6 * 8 && kEndResult > kSavedRax && kEndMark < kOldStack);
static_assert(kFrameSize % 16 == 0 && kLongFrameSize % 16 == 0 && kSignalFrameSize % 16 == 0 &&
              kRegisters + sizeof(PtRegs) <= kLongFrameSize);

// Stubs, one of each number: those above every number Linux has fail at once, and their end is not seen.
constexpr int32_t kNumbersMax = 512, kStubShift = 4;

constexpr int64_t kNotImplemented = -38;  // -ENOSYS: pt_regs::ax at sys_enter
constexpr int64_t kUserCodeSegment = 0x33, kUserStackSegment = 0x2b, kFlags = 0x202;

const Gp kArgumentRegisters[] = {rdi, rsi, rdx, r10, r8, r9};

Mem at(int32_t offset) { return qword_ptr(rsp, offset); }

class Writer {
 public:
  Writer(const SystemCallRequest& request, Bytes code, const Displaced& displaced)
      : request_(request), code_(code), displaced_(displaced), base_(request.trampoline_address) {
    holder_.init(asmjit::Environment(asmjit::Arch::kX64), base_);
    holder_.attach(&a_);
    stubs_ = a_.newLabel();
    stubs_end_ = a_.newLabel();
    select(request.programs);
  }

  // Of what follows: the programs, and what they need together.
  void select(const std::vector<SystemCallProgram>& programs) {
    programs_ = &programs;
    clobbered_ = 0;
    slots_ = 0;
    ends_ = words_ = registers_ = signals_ = false;
    numbers_.clear();
    for (const SystemCallProgram& program : programs) {
      clobbered_ |= program.call.use.clobbered | (program.call.use.read & (bit(kRdi) | bit(kRsi)));
      if (program.call.counter != 0) clobbered_ |= kCountingRegisters;
      ends_ |= program.call.ends != ProgramCall::Ends::kNever;
      const bool reads_first = (program.call.context_slots_read & 1) != 0;
      if (program.context == SystemCallContext::kRecord) slots_ |= program.call.context_slots_read;
      if (program.context == SystemCallContext::kRegisters) words_ = true;
      if (program.context == SystemCallContext::kSignal) {
        signals_ = true;
        for (int i = 0; i < 4; ++i) slots_ |= 1u << (kArguments / 8 + i);
        clobbered_ |= bit(kRax) | bit(kRdi) | bit(kRsi) | bit(kRdx) | bit(kR10);
      }
      // A raw tracepoint's first word, and what stack helpers find in front of a record.
      registers_ |= reads_first;
      numbers_.insert(program.only_number);
    }
    by_number_ = request_.site.number < 0 && !(numbers_.size() == 1 && *numbers_.begin() < 0);
  }

  void enter() {
    move_displaced();
    const Label go = a_.newLabel();
    if (programs_->empty()) return call(go);
    if (request_.site.number < 0) skip_other_numbers(go);
    open_frame();
    for (int i = 0; i < 6; ++i)
      if (reads(kArguments + 8 * i) || clobbers(kArgumentRegisters[i]))
        a_.mov(at(kArguments + 8 * i), kArgumentRegisters[i]);
    if (request_.site.number < 0) a_.mov(at(kSavedRax), rax);
    store_number(rax);
    if (ends_) a_.mov(at(kEndMark), -1);
    fill_registers(/*result=*/false);
    run();
    Label end;
    if (ends_) {
      end = a_.newLabel();
      a_.cmp(at(kEndMark), static_cast<int32_t>(static_cast<int64_t>(wire::kFunctionEnds)));
      a_.je(end);
    }
    restore(kArguments);
    if (request_.site.number < 0) {
      a_.mov(rax, at(kSavedRax));
    } else if (clobbers(rax)) {
      a_.mov(eax, request_.site.number);
    }
    a_.mov(rsp, at(kOldStack));
    call(go);
    if (!end.isValid()) return;
    a_.bind(end);
    restore(kArguments);
    a_.mov(rax, at(kEndResult));
    a_.mov(rsp, at(kOldStack));
    jump(call_address() + kSystemCallSize);
  }

  // To the host's own instruction, or to one of ours that knows its number when it returns.
  void call(const Label& go) {
    a_.bind(go);
    if (request_.keeps_memory_shared) {
      a_.mov(rcx, memory_shared());
      a_.lock().inc(dword_ptr(rcx));
    }
    for (const SystemCallProgram& program : request_.exit_programs) exit_numbers_.insert(program.only_number);
    if (request_.signal_guard != 0) guard_signals();
    if (exit_numbers_.contains(-1)) {
      const Label plain = a_.newLabel();
      a_.cmp(eax, kNumbersMax);
      a_.jae(plain);
      a_.mov(r11d, eax);
      a_.shl(r11d, kStubShift);
      a_.lea(rcx, ptr(stubs_));
      a_.add(r11, rcx);
      a_.jmp(r11);
      a_.bind(plain);
    } else {
      for (const int32_t number : exit_numbers_) {
        stub_of_[number] = a_.newLabel();
        a_.cmp(eax, number);
        a_.je(stub_of_[number]);
      }
    }
    jump(call_address());
  }

  // Asks the agent, which makes the call, changes its arguments or neither. What it has made goes on behind the `syscall`, where
  // exit programs are.
  void guard_signals() {
    const Label go_on = a_.newLabel(), kernels = a_.newLabel();
    const bool known = request_.site.number >= 0;
    if (known) {
      const GuardedCall& call = *guarded_call(request_.site.number);
      if (call.mask >= 0) {
        const Gp& mask = kArgumentRegisters[call.mask];
        a_.test(mask, mask);
        a_.jz(go_on);
      }
    } else {
      const Label ours = a_.newLabel();
      for (const GuardedCall& call : kGuardedCalls) {
        if (call.mask >= 0 && (request_.site.arguments_used_after >> call.mask & 1) != 0) continue;
        a_.cmp(eax, call.number);
        a_.je(ours);
      }
      a_.jmp(go_on);
      a_.bind(ours);
    }
    a_.mov(rcx, rsp);
    a_.lea(rsp, ptr(rsp, -(kRedZone + kFrameSize)));
    a_.and_(rsp, -16);
    a_.mov(at(kOldStack), rcx);
    for (int i = 0; i < 6; ++i) a_.mov(at(kArguments + 8 * i), kArgumentRegisters[i]);
    if (!known) a_.mov(at(kSavedRax), rax);
    if (known) {
      a_.mov(edi, request_.site.number);
    } else {
      a_.mov(edi, eax);
    }
    a_.lea(rsi, at(kArguments));
    a_.mov(rdx, rcx);
    a_.mov(rax, request_.signal_guard);
    a_.call(rax);
    for (int i = 0; i < 6; ++i) a_.mov(kArgumentRegisters[i], at(kArguments + 8 * i));
    if (!known) a_.mov(r11, at(kSavedRax));
    a_.mov(rsp, at(kOldStack));
    a_.cmp(rax, static_cast<int32_t>(wire::kSignalCallIsTheKernels));
    a_.je(kernels);
    if (exit_numbers_.contains(-1)) {
      a_.jmp(stubs_end_);
    } else {
      for (const int32_t number : exit_numbers_) {
        if (!may_change_signals(number)) continue;
        a_.cmp(r11d, number);
        a_.je(stubs_end_);
      }
      jump(call_address() + kSystemCallSize);
    }
    a_.bind(kernels);
    if (known) {
      a_.mov(eax, request_.site.number);
    } else {
      a_.mov(rax, r11);
    }
    a_.bind(go_on);
  }

  // syscall; mov $number,%r11d; jmp exit (read by own_place_of_call())
  void stubs() {
    if (exit_numbers_.empty()) return;
    const Label exit = stubs_end_;
    const auto stub = [&](int32_t number) {
      a_.align(asmjit::AlignMode::kCode, 1 << kStubShift);
      if (stub_of_.contains(number)) a_.bind(stub_of_[number]);
      a_.syscall();
      a_.mov(r11d, number);
      a_.long_().jmp(exit);
    };
    if (exit_numbers_.contains(-1)) {
      a_.align(asmjit::AlignMode::kCode, 1 << kStubShift);
      a_.bind(stubs_);
      for (int32_t number = 0; number < kNumbersMax; ++number) stub(number);
    } else {
      for (const int32_t number : exit_numbers_) stub(number);
    }
    a_.movabs(r11, call_address() + kSystemCallSize);  // not executed: for own_place_of_call()
    a_.bind(exit);
    select(request_.exit_programs);
    run_exit_programs(r11);
    jump(call_address() + kSystemCallSize);
  }

  void exit() {
    const Label go = a_.newLabel();
    if (request_.site.number < 0) {
      a_.mov(ecx, gpd(static_cast<uint32_t>(request_.site.number_register)));
      skip_other_numbers(go, ecx);
    }
    const Gp number =
        request_.site.number < 0 ? gpq(static_cast<uint32_t>(request_.site.number_register)) : rax;
    if (request_.keeps_memory_shared) memory_is_ours_again();
    if (!programs_->empty()) run_exit_programs(number);
    a_.bind(go);
    move_displaced();
  }

  // In the parent only, which the call returns to when the child has gone (executed, ended) or could not be made. Not where both
  // go on in the same memory, as no C library makes them: nobody tells when that is over.
  void memory_is_ours_again() {
    const Label done = a_.newLabel(), lower = a_.newLabel();
    a_.test(rax, rax);
    a_.jz(done);
    if (request_.site.number != SYS_vfork) {
      a_.js(lower);
      if (request_.site.number == SYS_clone3) {
        static_assert(offsetof(clone_args, flags) == 0);
        a_.mov(ecx, dword_ptr(rdi));  // the kernel has just read it
      } else {
        a_.mov(ecx, edi);
      }
      a_.and_(ecx, CLONE_VM | CLONE_VFORK | CLONE_THREAD);
      a_.cmp(ecx, CLONE_VM);
      a_.je(done);
    }
    a_.bind(lower);
    a_.mov(rcx, memory_shared());
    a_.mov(r11d, -1);
    a_.lock().xadd(dword_ptr(rcx), r11d);
    a_.test(r11d, r11d);
    a_.jg(done);
    a_.lock().inc(dword_ptr(rcx));  // patched while the call was under way: nobody had raised it
    a_.bind(done);
  }

  // `number`: holds it, unless it is known anyway.
  void run_exit_programs(const Gp& number) {
    open_frame();
    if (reads(kResult) || clobbers(rax)) a_.mov(at(kResult), rax);
    for (int i = 0; i < 6; ++i)
      if (clobbers(kArgumentRegisters[i])) a_.mov(at(kResult + 8 + 8 * i), kArgumentRegisters[i]);
    store_number(number);
    fill_registers(/*result=*/true);
    run();
    restore(kResult + 8);
    if (clobbers(rax)) a_.mov(rax, at(kResult));
    a_.mov(rsp, at(kOldStack));
  }

  Result<SitePlan> finish() {
    a_.align(asmjit::AlignMode::kZero, 8);
    for (const auto& [label, invocation] : invocations_) {
      a_.bind(label);
      a_.embed(&invocation, sizeof invocation);
    }
    if (!failure_.message.empty()) return failure_;
    if (holder_.flatten() != asmjit::kErrorOk || holder_.resolveUnresolvedLinks() != asmjit::kErrorOk ||
        holder_.relocateToBase(base_) != asmjit::kErrorOk)
      return refuse("trampoline cannot be assembled");
    plan_.trampoline.resize(holder_.codeSize());
    if (holder_.copyFlattenedData(plan_.trampoline.data(), plan_.trampoline.size()) != asmjit::kErrorOk)
      return refuse("trampoline cannot be assembled");
    plan_.original.assign(code_.begin(), code_.begin() + displaced_.length);
    plan_.patched = {0xe9};  // jmp rel32
    if (!append_relative(plan_.patched, patch_address(request_) + 1, base_))
      return refuse("trampoline out of reach");
    plan_.patched.resize(displaced_.length, 0xcc);
    return std::move(plan_);
  }

 private:
  uint64_t memory_shared() const {
    return request_.identity_address + offsetof(wire::TargetIdentity, memory_shared);
  }
  uint64_t call_address() const { return request_.function + request_.site.offset; }
  bool clobbers(const Gp& reg) const { return (clobbered_ & bit(reg.id())) != 0; }
  bool reads(int32_t offset) const { return (slots_ & 1u << offset / 8) != 0; }

  void fail(const Error& error) {
    if (failure_.message.empty()) failure_ = error;
  }

  // The displaced instructions, then back to where they end. An enter trampoline goes on to programs instead.
  void move_displaced() {
    const auto start = static_cast<uint32_t>(a_.offset());
    Displaced displaced = displaced_;
    if (!request_.on_exit) displaced.falls_through = false;
    auto moved = move_code(code_, displaced, patch_address(request_), base_ + a_.offset());
    if (!moved) return fail(moved.error());
    for (const MovedInstruction& instruction : moved->instructions)
      if (instruction.site_offset != 0)
        plan_.fixups.push_back({instruction.site_offset, start + instruction.moved_offset});
    a_.embed(moved->bytes.data(), moved->bytes.size());
  }

  void skip_other_numbers(const Label& go, const Gp& number = eax) {
    constexpr size_t kComparedMax = 16;
    if (numbers_.contains(-1) || numbers_.size() > kComparedMax) return;
    const Label run = a_.newLabel();
    for (auto each = numbers_.begin(); each != numbers_.end(); ++each) {
      a_.cmp(number, *each);
      if (std::next(each) == numbers_.end()) {
        a_.jne(go);
      } else {
        a_.je(run);
      }
    }
    a_.bind(run);
  }

  void open_frame() {
    a_.mov(rcx, rsp);
    const int32_t size = signals_ ? kSignalFrameSize : words_ || registers_ ? kLongFrameSize : kFrameSize;
    a_.lea(rsp, ptr(rsp, -(kRedZone + size)));
    a_.and_(rsp, -16);
    a_.mov(at(kOldStack), rcx);
  }

  void store_number(const Gp& in) {
    if (request_.site.number >= 0) {
      if (reads(kId) || words_) a_.mov(at(kId), request_.site.number);
      return;
    }
    a_.movsxd(r11, in.r32());
    a_.mov(at(kId), r11);
  }

  void fill_registers(bool result) {
    if (words_) {
      if (result) {
        a_.mov(at(kWords + 8), rax);
      } else {
        a_.mov(r11, at(kId));
        a_.mov(at(kWords + 8), r11);
      }
    }
    if (!registers_) return;
    const auto field = [](size_t offset) { return at(kRegisters + static_cast<int32_t>(offset)); };
    const std::pair<size_t, Gp> live[] = {
        {offsetof(PtRegs, r15), r15}, {offsetof(PtRegs, r14), r14}, {offsetof(PtRegs, r13), r13},
        {offsetof(PtRegs, r12), r12}, {offsetof(PtRegs, rbp), rbp}, {offsetof(PtRegs, rbx), rbx},
        {offsetof(PtRegs, r10), r10}, {offsetof(PtRegs, r9), r9},   {offsetof(PtRegs, r8), r8},
        {offsetof(PtRegs, rdx), rdx}, {offsetof(PtRegs, rsi), rsi}, {offsetof(PtRegs, rdi), rdi},
        {offsetof(PtRegs, rsp), rcx}};  // open_frame left the host's rsp in rcx
    for (const auto& [offset, reg] : live) a_.mov(field(offset), reg);
    if (result) {
      a_.mov(field(offsetof(PtRegs, rax)), rax);
    } else {
      a_.mov(field(offsetof(PtRegs, rax)), kNotImplemented);
    }
    if (request_.site.number >= 0) {
      a_.mov(field(offsetof(PtRegs, orig_rax)), request_.site.number);
    } else {
      a_.mov(r11, at(kId));
      a_.mov(field(offsetof(PtRegs, orig_rax)), r11);
    }
    a_.mov(r11, call_address() + kSystemCallSize);
    a_.mov(field(offsetof(PtRegs, rip)), r11);
    a_.mov(field(offsetof(PtRegs, rcx)), r11);
    a_.mov(field(offsetof(PtRegs, r11)), kFlags);
    a_.mov(field(offsetof(PtRegs, eflags)), kFlags);
    a_.mov(field(offsetof(PtRegs, cs)), kUserCodeSegment);
    a_.mov(field(offsetof(PtRegs, ss)), kUserStackSegment);
    a_.lea(r11, at(kRegisters));
    a_.mov(at(0), r11);
    if (words_) a_.mov(at(kWords), r11);
  }

  void run() {
    for (const SystemCallProgram& program : *programs_) {
      const ProgramCall& call = program.call;
      const Label skip = a_.newLabel();
      if (by_number_ && program.only_number >= 0 && numbers_.size() > 1) {
        a_.cmp(dword_ptr(rsp, kId), program.only_number);
        a_.jne(skip);
      }
      if (call.only_tgid != 0) {
        a_.mov(r11, request_.identity_address);
        static_assert(offsetof(wire::TargetIdentity, tgid) == 0);
        // Zero in a forked child (wipe-on-fork): events of one process stay silent there, as in Linux.
        a_.cmp(dword_ptr(r11), static_cast<int32_t>(call.only_tgid));
        a_.jne(skip);
      }
      if (program.context == SystemCallContext::kSignal) record_signal(program, skip);
      if (call.counter != 0) count_run(a_, call.counter, /*begins=*/true);
      if ((call.use.read & bit(kRdi)) != 0) {
        if (program.context == SystemCallContext::kSignal) {
          a_.lea(rdi, at(kSignalRecord));
        } else if (program.context == SystemCallContext::kRegisters) {
          a_.lea(rdi, at(kWords));
        } else {
          a_.mov(rdi, rsp);
        }
      }
      if ((call.use.read & bit(kRsi)) != 0) {
        const Label invocation = a_.newLabel();
        invocations_.push_back({invocation, call.invocation});
        a_.lea(rsi, ptr(invocation));
      }
      std::vector<uint8_t> bytes = {0xe8};  // call rel32
      if (!append_relative(bytes, base_ + a_.offset() + 1, call.code_address))
        fail(refuse("program out of reach"));
      bytes.resize(kJumpSize);
      a_.embed(bytes.data(), bytes.size());
      if (call.counter != 0) count_run(a_, call.counter, /*begins=*/false);
      a_.bind(skip);
    }
  }

  // Goes to `skip` unless one process or thread (not a group, not all) will get a signal: asked by the same call with signal 0,
  // which checks whatever it checks. A siginfo the kernel has read can be read here.
  void record_signal(const SystemCallProgram& program, const Label& skip) {
    const bool to_thread = program.only_number == SYS_tgkill || program.only_number == SYS_rt_tgsigqueueinfo;
    const bool has_info =
        program.only_number == SYS_rt_sigqueueinfo || program.only_number == SYS_rt_tgsigqueueinfo;
    const int target = to_thread ? 1 : 0, signal = target + 1;
    const auto argument = [](int i) { return dword_ptr(rsp, kArguments + 8 * i); };
    const auto field = [](int32_t offset) { return dword_ptr(rsp, kSignalRecord + offset); };
    constexpr int32_t kSignalMax = 64;  // _NSIG
    a_.cmp(argument(target), 0);
    a_.jle(skip);
    a_.mov(ecx, argument(signal));
    a_.dec(ecx);
    a_.cmp(ecx, kSignalMax);
    a_.jae(skip);
    for (int i = 0; i < 4; ++i) {
      if (i == signal) {
        a_.xor_(kArgumentRegisters[i].r32(), kArgumentRegisters[i].r32());
      } else {
        a_.mov(kArgumentRegisters[i], at(kArguments + 8 * i));
      }
    }
    a_.mov(eax, program.only_number);
    a_.syscall();
    a_.test(eax, eax);
    a_.jnz(skip);
    for (int32_t i = 0; i < kSignalFrameSize - kSignalRecord; i += 8) a_.mov(at(kSignalRecord + i), rax);
    if (registers_) {
      a_.lea(r11, at(kRegisters));
      a_.mov(at(kSignalRecord), r11);
    }
    a_.mov(ecx, argument(signal));
    a_.mov(field(8), ecx);
    if (has_info) {
      static_assert(offsetof(siginfo_t, si_errno) == 4);
      a_.mov(ecx, dword_ptr(kArgumentRegisters[signal + 1], offsetof(siginfo_t, si_errno)));
      a_.mov(field(12), ecx);
    }
    a_.mov(ecx, argument(target));
    a_.mov(field(36), ecx);
  }

  void restore(int32_t first) {
    for (int i = 0; i < 6; ++i)
      if (clobbers(kArgumentRegisters[i])) a_.mov(kArgumentRegisters[i], at(first + 8 * i));
  }

  void jump(uint64_t target) {
    std::vector<uint8_t> bytes = {0xe9};  // jmp rel32
    if (!append_relative(bytes, base_ + a_.offset() + 1, target)) fail(refuse("trampoline out of reach"));
    bytes.resize(kJumpSize);
    a_.embed(bytes.data(), bytes.size());
  }

  const SystemCallRequest& request_;
  const Bytes code_;  // from the patch on
  const Displaced& displaced_;
  const uint64_t base_;
  asmjit::CodeHolder holder_;
  Assembler a_;
  SitePlan plan_;
  Error failure_{0, {}};
  std::vector<std::pair<Label, wire::Invocation>> invocations_;
  const std::vector<SystemCallProgram>* programs_ = nullptr;
  std::set<int32_t> numbers_, exit_numbers_;
  std::map<int32_t, Label> stub_of_;
  Label stubs_, stubs_end_;
  RegisterSet clobbered_ = 0;
  ContextSlots slots_ = 0;
  bool ends_ = false, words_ = false, registers_ = false, signals_ = false, by_number_ = false;
};

// What the enter patch displaces: straight-line instructions up to the call.
Result<Displaced> displaced_before(const SystemCallRequest& request) {
  Displaced out;
  const SystemCallSite& site = request.site;
  for (uint32_t at = site.enter_offset; at < site.offset;) {
    const auto instruction = decode(request.code.subspan(at));
    if (!instruction || instruction->flow != Flow::kNext) return refuse("the code before it has changed");
    out.instructions.push_back({at - site.enter_offset, *instruction});
    at += instruction->length;
    out.length = at - site.enter_offset;
  }
  if (site.enter_offset + out.length != site.offset) return refuse("the code before it has changed");
  return out;
}

Result<void> check_request(const SystemCallRequest& request) {
  const std::string& why = request.on_exit ? request.site.no_exit : request.site.no_enter;
  if (!why.empty()) return Error{EOPNOTSUPP, "plan patch: " + why};
  const uint64_t at = request.site.offset;
  if (request.function_size <= at + kSystemCallSize && request.on_exit)
    return refuse("the function ends with it");
  if (at + kSystemCallSize > request.code.size() ||
      (!request.site.stands_for_call && (request.code[at] != 0x0f || request.code[at + 1] != 0x05)))
    return refuse("no system call stands there");
  if (request.on_exit && request.site.number < 0 && request.site.number_register < 0)
    return refuse("the number is not known when it returns");
  if (request.signal_guard != 0 && (request.on_exit || !may_change_signals(request.site.number)))
    return refuse("the signal guard makes other calls");
  if (request.signal_guard != 0)
    if (const std::string why_not = no_guard_at(request.site); !why_not.empty())
      return refuse(why_not.c_str());
  if (!request.exit_programs.empty() && (request.on_exit || request.site.number >= 0))
    return refuse("the end of this call is seen behind it");
  for (const SystemCallProgram& program : request.programs)
    if (program.call.ends != ProgramCall::Ends::kNever &&
        (request.on_exit || program.call.ends != ProgramCall::Ends::kResultInRax ||
         program.context != SystemCallContext::kRecord))
      return refuse("only programs with the event's record can end a call, when it begins");
  return {};
}

}  // namespace

Result<SitePlan> plan_system_call(const SystemCallRequest& request) {
  if (auto valid = check_request(request); !valid) return valid.error();
  const uint32_t patch = static_cast<uint32_t>(patch_address(request) - request.function);
  auto displaced = request.on_exit
                       ? choose_displaced(request.code.subspan(patch), request.function_size - patch)
                       : displaced_before(request);
  if (!displaced) return displaced.error();
  Writer writer(request, request.code.subspan(patch), *displaced);
  if (request.on_exit) {
    writer.exit();
  } else {
    writer.enter();
    writer.stubs();
  }
  return writer.finish();
}

std::optional<uint64_t> own_place_of_call(
    uint64_t pc, uint64_t number, const std::function<Result<std::vector<uint8_t>>(uint64_t, size_t)>& read) {
  constexpr uint8_t kMoveNumber[] = {0x41, 0xbb}, kJump = 0xe9, kMoveAddress[] = {0x49, 0xbb},
                    kCall[] = {0x0f, 0x05};
  constexpr size_t kRest = sizeof kMoveNumber + 4 + sizeof kJump + 4, kBeforeExit = sizeof kMoveAddress + 8;
  const auto begins = [](const Result<std::vector<uint8_t>>& code, const uint8_t(&with)[2]) {
    return code && std::equal(std::begin(with), std::end(with), code->begin());
  };
  const auto rest = read(pc, kRest);
  if (!begins(rest, kMoveNumber) || (*rest)[6] != kJump ||
      read_at<uint32_t>(*rest, 2) != static_cast<uint32_t>(number))
    return std::nullopt;
  const uint64_t exit = pc + kRest + static_cast<uint64_t>(int64_t{read_at<int32_t>(*rest, 7).value_or(0)});
  const auto before = read(exit - kBeforeExit, kBeforeExit);
  if (!begins(before, kMoveAddress)) return std::nullopt;
  const uint64_t place = read_at<uint64_t>(*before, 2).value_or(0);
  return begins(read(place - sizeof kCall, sizeof kCall), kCall) ? std::optional(place) : std::nullopt;
}

}  // namespace bpftime::rewrite
