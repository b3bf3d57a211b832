#include "rewrite/trampoline.h"

#include <asmjit/x86.h>

#include <cstddef>

#include "rewrite/counting.h"
#include "rewrite/relocate.h"
#include "rewrite/return_slot.h"
#include "wire/target_context.h"

namespace bpftime::rewrite {
namespace {

using namespace asmjit::x86;  // register names
using asmjit::Label;
using wire::PtRegs;

constexpr RegisterSet bit(uint32_t number) { return static_cast<RegisterSet>(1u << number); }
constexpr uint32_t kRdi = 7, kRsi = 6;

struct Saved {
  Gp reg;
  size_t offset;

  RegisterSet set() const { return bit(reg.id()); }
};
// Those that programs may clobber under the System V ABI.
const Saved kCallerSaved[] = {
    {r11, offsetof(PtRegs, r11)}, {r10, offsetof(PtRegs, r10)}, {r9, offsetof(PtRegs, r9)},
    {r8, offsetof(PtRegs, r8)},   {rax, offsetof(PtRegs, rax)}, {rcx, offsetof(PtRegs, rcx)},
    {rdx, offsetof(PtRegs, rdx)}, {rsi, offsetof(PtRegs, rsi)}, {rdi, offsetof(PtRegs, rdi)},
};
// Kept by programs: stored for them to read only.
const Saved kCalleeSaved[] = {
    {r15, offsetof(PtRegs, r15)}, {r14, offsetof(PtRegs, r14)}, {r13, offsetof(PtRegs, r13)},
    {r12, offsetof(PtRegs, r12)}, {rbp, offsetof(PtRegs, rbp)},
};
constexpr ContextSlots slot(size_t offset) { return ContextSlots{1} << offset / 8; }

// The programs of one side of a site, and what they need together: one save and one restore for all.
struct Group {
  std::vector<const ProgramCall*> calls;  // without those whose running nobody could tell
  RegisterSet saved = 0;                  // clobbered by programs or by the code around them
  ContextSlots slots = 0;                 // to be filled in
  Gp scratch = r11;                       // saved, and neither of the programs' arguments
  bool ends_integer = false, ends_floating = false;

  explicit Group(const std::vector<ProgramCall>& all) {
    using Ends = ProgramCall::Ends;
    for (const ProgramCall& call : all) {
      ends_integer |= call.ends == Ends::kResultInRax;
      ends_floating |= call.ends == Ends::kResultInXmm0;
      if (call.use.inert && call.counter == 0) continue;
      calls.push_back(&call);
      if (call.counter != 0) saved |= kCountingRegisters;
      saved |= call.use.clobbered & kCallerSavedRegisters;
      slots |= call.context_slots_read & kAllContextSlots;
      // What we put into an argument register nobody saved but we.
      saved |= call.use.read & (bit(kRdi) | bit(kRsi));
    }
    if (calls.empty()) return;
    // A program that ends the function leaves the result in rax's slot, from where it is restored.
    if (ends()) {
      slots |= slot(offsetof(PtRegs, orig_rax));
      saved |= bit(rax.id());
    }
    const RegisterSet arguments = bit(kRdi) | bit(kRsi);
    for (const Saved& candidate : kCallerSaved) {
      if ((saved & ~arguments & candidate.set()) == 0) continue;
      scratch = candidate.reg;
      break;
    }
    if (needs_scratch()) saved |= bit(scratch.id());
  }
  bool ends() const { return ends_integer || ends_floating; }
  bool reads(size_t offset) const { return (slots & slot(offset)) != 0; }
  bool needs_scratch() const {
    for (const ProgramCall* call : calls)
      if (call->only_tgid != 0) return true;
    return reads(offsetof(PtRegs, rip)) || reads(offsetof(PtRegs, rsp)) || reads(offsetof(PtRegs, rbx));
  }
};

constexpr uint64_t kUserCodeSegment = 0x33;
constexpr uint64_t kUserStackSegment = 0x2b;
constexpr uint64_t kFlags = 0x202;  // interrupts on; the host's own are dead here (rule 1)

// The area of an interior site, from its aligned start. Above pt_regs: `anchor` is rsp before it was aligned, under which lie
// (at anchor +) what is needed to go back.
struct InteriorFrame {
  static constexpr int32_t kAnchor = sizeof(PtRegs);  // from the aligned rsp
  // From the anchor, which is at most 8 above the aligned rsp.
  static constexpr int32_t kFlags = kAnchor + 16;  // as lahf and seto left them in rax
  static constexpr int32_t kRax = kFlags + 8;
  static constexpr int32_t kWholeFlags = kRax + 8;
  static constexpr int32_t kSize = kWholeFlags + 8;
  static constexpr int32_t kRedZone = 128;
  static constexpr int32_t kAbove = kSize + kRedZone;  // from the anchor to the host's rsp
};

Mem field(size_t offset) { return qword_ptr(rsp, static_cast<int32_t>(offset)); }

class Writer {
 public:
  explicit Writer(const SiteRequest& request) : request_(request), base_(request.trampoline_address) {
    holder_.init(asmjit::Environment(asmjit::Arch::kX64), base_);
    holder_.attach(&a_);
    for (Label* label :
         {&exit_, &body_, &claimed_, &nested_, &cold_, &listed_, &release_, &return_slot_, &return_cold_})
      *label = a_.newLabel();
  }

  void entry_programs(const Group& group) {
    if (group.calls.empty()) return;
    a_.sub(rsp, sizeof(PtRegs));
    save_registers(group);
    if (group.reads(offsetof(PtRegs, rbx))) a_.mov(field(offsetof(PtRegs, rbx)), rbx);
    if (group.reads(offsetof(PtRegs, rip))) {
      a_.mov(group.scratch, request_.address);
      a_.mov(field(offsetof(PtRegs, rip)), group.scratch);
    }
    if (group.reads(offsetof(PtRegs, rsp))) {
      a_.lea(group.scratch, ptr(rsp, sizeof(PtRegs)));
      a_.mov(field(offsetof(PtRegs, rsp)), group.scratch);
    }
    run(group);
    end_function_if_asked(group);
    restore_registers(group);
    a_.add(rsp, sizeof(PtRegs));
  }

  // Red zone and flags are live, rsp is a multiple of 8. lea moves rsp without touching flags; lahf and seto take all that
  // arithmetic can change, DF is nothing to code without string instructions.
  void interior_programs(const Group& group) {
    using F = InteriorFrame;
    if (group.calls.empty()) return;
    a_.lea(rsp, ptr(rsp, -F::kAbove));
    a_.mov(qword_ptr(rsp, F::kRax), rax);
    if (group.reads(offsetof(PtRegs, eflags))) {
      a_.pushfq();
      a_.pop(qword_ptr(rsp, F::kWholeFlags));
    }
    a_.lahf();
    a_.seto(al);
    a_.mov(qword_ptr(rsp, F::kFlags), rax);
    a_.mov(rax, rsp);
    a_.and_(rsp, -16);
    a_.mov(qword_ptr(rsp, F::kAnchor), rax);
    const auto copy = [&](size_t offset, int32_t from) {
      if (!group.reads(offset)) return;
      a_.mov(rcx, qword_ptr(rax, from));
      a_.mov(field(offset), rcx);
    };
    Group others = group;  // rax is kept at the anchor
    others.saved &= static_cast<RegisterSet>(~bit(rax.id()));
    others.slots &= ~(slot(offsetof(PtRegs, rax)) | slot(offsetof(PtRegs, eflags)));
    constexpr ContextSlots kNeedRcx = slot(offsetof(PtRegs, rax)) | slot(offsetof(PtRegs, eflags)) |
                                      slot(offsetof(PtRegs, rsp)) | slot(offsetof(PtRegs, rip));
    if ((group.slots & kNeedRcx) != 0) others.saved |= bit(rcx.id());
    save_registers(others);
    if (group.reads(offsetof(PtRegs, rbx))) a_.mov(field(offsetof(PtRegs, rbx)), rbx);
    copy(offsetof(PtRegs, rax), F::kRax);
    copy(offsetof(PtRegs, eflags), F::kWholeFlags);
    if (group.reads(offsetof(PtRegs, rsp))) {
      a_.lea(rcx, ptr(rax, F::kAbove));
      a_.mov(field(offsetof(PtRegs, rsp)), rcx);
    }
    if (group.reads(offsetof(PtRegs, rip))) {
      a_.mov(rcx, request_.address);
      a_.mov(field(offsetof(PtRegs, rip)), rcx);
    }
    run(group);
    restore_registers(others);
    a_.mov(rsp, qword_ptr(rsp, F::kAnchor));
    a_.mov(rax, qword_ptr(rsp, F::kFlags));
    a_.add(al, 0x7f);  // OF as seto found it
    a_.sahf();
    a_.mov(rax, qword_ptr(rsp, F::kRax));
    a_.lea(rsp, ptr(rsp, F::kAbove));
  }

  // All programs have run, as on Linux; the last one that asked has its way. Callee-saved registers were never changed.
  void end_function_if_asked(const Group& group) {
    if (!group.ends()) return;
    const Label go_on = a_.newLabel();
    a_.cmp(field(offsetof(PtRegs, orig_rax)),
           static_cast<int32_t>(static_cast<int64_t>(wire::kFunctionEnds)));
    a_.jne(go_on);
    restore_registers(group);  // rax's slot holds the result
    if (group.ends_floating) a_.movq(xmm0, rax);
    a_.add(rsp, sizeof(PtRegs));
    a_.ret();
    a_.bind(go_on);
  }

  // See return_slot.h for the agreement with the agent. Leaves the way for calls that nest to nested_call().
  void enter_return_slot() {
    using F = ReturnFrame;
    a_.mov(qword_ptr(rsp, kReturnSavedR11), r11);
    a_.mov(qword_ptr(rsp, kReturnSavedR10), r10);
    a_.mov(r10, of_thread(offsetof(ReturnThread, usual)));
    a_.test(r10, r10);
    a_.jz(cold_);
    claim_or(nested_);
    a_.bind(claimed_);
    a_.mov(of_frame(r10, offsetof(F, saved_rbx)), rbx);
    // One instruction: never goes back, whatever a signal handler does.
    a_.add(of_thread(offsetof(ReturnThread, serial)), 4);
    a_.mov(rbx, of_thread(offsetof(ReturnThread, serial)));
    a_.or_(rbx, kReturnFrameInBody);
    a_.mov(of_frame(r10, offsetof(F, stack_pointer)), rsp);
    a_.pop(of_frame(r10, offsetof(F, return_address)));
    a_.mov(r11, request_.return_path.slot + kReturnSlotCall);
    a_.mov(qword_ptr(rsp, -8), r11);
    a_.mov(of_frame(r10, offsetof(F, state)), rbx);
    a_.lea(r11, ptr(exit_));
    a_.mov(of_frame(r10, offsetof(F, exit_handler)), r11);
    a_.mov(rbx, r10);
    jump_to_slot();
  }

  void jump_to_slot() {
    std::vector<uint8_t> bytes = {0xe9};  // jmp rel32
    if (!append_relative(bytes, base_ + a_.offset() + 1, request_.return_path.slot))
      return jump_far(request_.return_path.slot, return_slot_);
    a_.embed(bytes.data(), bytes.size());
  }

  // Behind the handler: the usual frame is in use, or there is none yet.
  void nested_call() {
    a_.bind(nested_);
    a_.mov(r10, of_thread(offsetof(ReturnThread, list)));
    a_.test(r10, r10);
    a_.jz(cold_);
    claim_or(cold_);
    a_.mov(r11, of_frame(r10, offsetof(ReturnFrame, next)));
    a_.mov(of_thread(offsetof(ReturnThread, list)), r11);
    a_.jmp(claimed_);
    a_.bind(cold_);
    a_.lea(r11, ptr(exit_));
    jump_far(request_.return_path.cold, return_cold_);
  }

  void claim_or(const Label& otherwise) {
    a_.btr(of_frame(r10, offsetof(ReturnFrame, state)), 0);
    static_assert(kReturnFrameFree == 1);
    a_.jnc(otherwise);
  }

  void exit_handler(const Group& programs) {
    Group group = programs;
    group.saved |= bit(rax.id()) | bit(rcx.id());  // for release_frame
    a_.align(asmjit::AlignMode::kCode, 16);
    static_assert(kReturnClaimedBeforeHandler == 2 * sizeof(uint64_t) &&
                  kReturnBodyBeforeHandler == sizeof(uint64_t));
    embed(base_ + holder_.labelOffset(claimed_));
    embed(base_ + holder_.labelOffset(body_));
    a_.bind(exit_);
    a_.sub(rsp, sizeof(PtRegs) + sizeof(uint64_t));  // the return address comes back above pt_regs
    save_registers(group);
    // rbx is the frame: what the host had in it, where it returns to and its stack pointer are there.
    const auto from_frame = [&](size_t offset, size_t in_frame, int32_t above) {
      if (!group.reads(offset)) return;
      a_.mov(group.scratch, of_frame(rbx, in_frame));
      if (above != 0) a_.add(group.scratch, above);
      a_.mov(field(offset), group.scratch);
    };
    from_frame(offsetof(PtRegs, rbx), offsetof(ReturnFrame, saved_rbx), 0);
    from_frame(offsetof(PtRegs, rip), offsetof(ReturnFrame, return_address), 0);
    from_frame(offsetof(PtRegs, rsp), offsetof(ReturnFrame, stack_pointer), 8);
    release_frame();
    run(group);
    restore_registers(group);
    a_.add(rsp, sizeof(PtRegs));
    a_.ret();
  }

  // rax and rcx are free, rbx is the frame; afterwards it is the host's.
  void release_frame() {
    a_.cmp(of_frame(rbx, offsetof(ReturnFrame, list)), 0);
    a_.jne(listed_);
    a_.bind(release_);
    a_.mov(rcx, of_frame(rbx, offsetof(ReturnFrame, return_address)));
    a_.mov(rax, of_frame(rbx, offsetof(ReturnFrame, saved_rbx)));
    a_.mov(of_frame(rbx, offsetof(ReturnFrame, state)), kReturnFrameFree);
    a_.mov(field(sizeof(PtRegs)), rcx);
    a_.mov(rbx, rax);
  }

  // Behind the handler: of a call that nested.
  void release_to_list() {
    a_.bind(listed_);
    Mem thread_pointer = qword_ptr_abs(0), list = qword_ptr(rcx);
    thread_pointer.setSegment(fs);
    list.setSegment(fs);
    a_.mov(rax, thread_pointer);
    a_.mov(rcx, of_frame(rbx, offsetof(ReturnFrame, list)));
    a_.cmp(rax, of_frame(rbx, offsetof(ReturnFrame, owner)));
    // A coroutine moved to another thread: its own finds the frame free when its list runs out.
    a_.jne(release_);
    a_.mov(rax, list);
    a_.mov(of_frame(rbx, offsetof(ReturnFrame, next)), rax);
    a_.mov(list, rbx);
    a_.jmp(release_);
  }

  // `return_probed`: comes from the return slot.
  void body(const Displaced& displaced, bool return_probed) {
    a_.bind(body_);
    if (return_probed) {
      a_.mov(r11, qword_ptr(rsp, kReturnSavedR11));
      a_.mov(r10, qword_ptr(rsp, kReturnSavedR10));
    }
    const uint64_t here = base_ + a_.offset();
    out_.body = static_cast<uint32_t>(a_.offset());
    auto moved = move_code(request_.code, displaced, request_.address, here);
    if (!moved) return fail(moved.error());
    for (const MovedInstruction& instruction : moved->instructions) {
      if (instruction.site_offset == 0) continue;  // a thread stopped there runs into the patch
      out_.fixups.push_back({instruction.site_offset, out_.body + instruction.moved_offset});
    }
    a_.embed(moved->bytes.data(), moved->bytes.size());
  }

  void jump_far(uint64_t target, const Label& constant) {
    a_.jmp(qword_ptr(constant));
    constants_.push_back({constant, target});
  }

  // Everything read as data: behind the code, 8-byte aligned.
  void constants() {
    a_.align(asmjit::AlignMode::kZero, 8);
    for (const auto& [label, value] : constants_) {
      a_.bind(label);
      embed(value);
    }
    for (const auto& [label, invocation] : invocations_) {
      a_.bind(label);
      a_.embed(&invocation, sizeof invocation);
    }
  }

  Label new_label() { return a_.newLabel(); }

  Result<Trampoline> finish() {
    if (!failure_.message.empty()) return failure_;
    if (holder_.flatten() != asmjit::kErrorOk || holder_.resolveUnresolvedLinks() != asmjit::kErrorOk ||
        holder_.relocateToBase(base_) != asmjit::kErrorOk) {
      return refuse("trampoline cannot be assembled");
    }
    out_.bytes.resize(holder_.codeSize());
    if (holder_.copyFlattenedData(out_.bytes.data(), out_.bytes.size()) != asmjit::kErrorOk) {
      return refuse("trampoline cannot be assembled");
    }
    return std::move(out_);
  }

 private:
  void fail(const Error& error) {
    if (failure_.message.empty()) failure_ = error;
  }

  static Mem of_frame(const Gp& frame, size_t offset) {
    return qword_ptr(frame, static_cast<int32_t>(offset));
  }
  Mem of_thread(size_t offset) const {
    const int64_t distance = request_.return_path.thread + static_cast<int64_t>(offset);
    Mem out = qword_ptr_abs(static_cast<uint64_t>(distance));
    out.setSegment(fs);
    return out;
  }

  void embed(uint64_t value) { a_.embed(&value, sizeof value); }

  // All but rbx, rip and rsp, which differ between entry and return.
  void save_registers(const Group& group) {
    for (const Saved& saved : kCalleeSaved)
      if (group.reads(saved.offset)) a_.mov(field(saved.offset), saved.reg);
    for (const Saved& saved : kCallerSaved)
      if (group.reads(saved.offset) || (group.saved & saved.set()) != 0)
        a_.mov(field(saved.offset), saved.reg);
    const auto constant = [&](size_t offset, int64_t value) {
      if (group.reads(offset)) a_.mov(field(offset), value);
    };
    constant(offsetof(PtRegs, orig_rax), -1);
    constant(offsetof(PtRegs, cs), kUserCodeSegment);
    constant(offsetof(PtRegs, eflags), kFlags);
    constant(offsetof(PtRegs, ss), kUserStackSegment);
  }

  void restore_registers(const Group& group) {
    for (const Saved& saved : kCallerSaved)
      if ((group.saved & saved.set()) != 0) a_.mov(saved.reg, field(saved.offset));
  }

  void run(const Group& group) {
    for (const ProgramCall* call : group.calls) {
      const Label skip = a_.newLabel();
      if (call->only_tgid != 0) {
        a_.mov(group.scratch, request_.identity_address);
        static_assert(offsetof(wire::TargetIdentity, tgid) == 0);
        // Zero in a forked child (wipe-on-fork): probes of one process stay silent there, as in Linux.
        a_.cmp(dword_ptr(group.scratch), static_cast<int32_t>(call->only_tgid));
        a_.jne(skip);
      }
      if (call->counter != 0) count_run(a_, call->counter, /*begins=*/true);
      if ((call->use.read & bit(kRdi)) != 0) a_.mov(rdi, rsp);
      if ((call->use.read & bit(kRsi)) != 0) {
        const Label invocation = a_.newLabel();
        invocations_.push_back({invocation, call->invocation});
        a_.lea(rsi, ptr(invocation));
      }
      if (call->inlined.empty()) {
        call_near(call->code_address);
      } else {
        a_.embed(call->inlined.data(), call->inlined.size());
      }
      if (call->counter != 0) count_run(a_, call->counter, /*begins=*/false);
      a_.bind(skip);
    }
  }

  void call_near(uint64_t target) {  // e8 rel32
    std::vector<uint8_t> bytes = {0xe8};
    if (!append_relative(bytes, base_ + a_.offset() + 1, target)) fail(refuse("program out of reach"));
    bytes.resize(kJumpSize);
    a_.embed(bytes.data(), bytes.size());
  }

  const SiteRequest& request_;
  const uint64_t base_;
  asmjit::CodeHolder holder_;
  Assembler a_;
  Trampoline out_;
  Error failure_{0, {}};
  std::vector<std::pair<Label, wire::Invocation>> invocations_;
  std::vector<std::pair<Label, uint64_t>> constants_;
  Label exit_, body_, claimed_, nested_, cold_, listed_, release_, return_slot_, return_cold_;
};

}  // namespace

Result<Trampoline> make_trampoline(const SiteRequest& request, const Displaced& displaced) {
  Writer writer(request);
  const Group on_entry(request.on_entry), on_return(request.on_return);
  const bool with_return = !on_return.calls.empty();
  if (request.interior) {
    writer.interior_programs(on_entry);
  } else {
    writer.entry_programs(on_entry);
  }
  if (with_return) writer.enter_return_slot();
  writer.body(displaced, with_return);
  if (with_return) {
    writer.exit_handler(on_return);
    writer.release_to_list();
    writer.nested_call();
  }
  writer.constants();
  return writer.finish();
}

Result<Trampoline> make_redirect(const SiteRequest& request, const Displaced& displaced,
                                 uint64_t replacement) {
  Writer writer(request);
  const Label target = writer.new_label();
  writer.jump_far(replacement, target);
  writer.body(displaced, false);
  writer.constants();
  return writer.finish();
}

}  // namespace bpftime::rewrite
