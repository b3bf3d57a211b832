#include "rewrite/trampoline.h"

#include <asmjit/x86.h>

#include <cstddef>

#include "rewrite/relocate.h"
#include "rewrite/return_slot.h"
#include "wire/target_context.h"

namespace bpftime::rewrite {
namespace {

using namespace asmjit::x86;  // register names
using asmjit::Label;
using wire::PtRegs;

Error refuse(const char* why) { return Error{EOPNOTSUPP, std::string("plan patch: ") + why}; }

struct Saved {
  Gp reg;
  size_t offset;
};
// Clobbered by programs under the System V ABI: saved and restored.
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

constexpr uint64_t kUserCodeSegment = 0x33;
constexpr uint64_t kUserStackSegment = 0x2b;
constexpr uint64_t kFlags = 0x202;  // interrupts on; the host's own are dead here (rule 1)

Mem field(size_t offset) { return qword_ptr(rsp, static_cast<int32_t>(offset)); }

class Writer {
 public:
  explicit Writer(const SiteRequest& request) : request_(request), base_(request.trampoline_address) {
    holder_.init(asmjit::Environment(asmjit::Arch::kX64), base_);
    holder_.attach(&a_);
    for (Label* label : {&exit_, &body_, &return_site_, &return_enter_}) *label = a_.newLabel();
  }

  void entry_programs() {
    a_.sub(rsp, sizeof(PtRegs));
    save_registers();
    a_.mov(field(offsetof(PtRegs, rbx)), rbx);
    a_.mov(r11, request_.address);
    a_.mov(field(offsetof(PtRegs, rip)), r11);
    a_.lea(r11, ptr(rsp, sizeof(PtRegs)));
    a_.mov(field(offsetof(PtRegs, rsp)), r11);
    run(request_.on_entry);
    end_function_if_asked();
    restore_registers();
    a_.add(rsp, sizeof(PtRegs));
  }

  // All programs have run, as on Linux; the last one that asked has its way. Callee-saved registers were never changed.
  void end_function_if_asked() {
    using Ends = ProgramCall::Ends;
    bool integer = false, floating = false;
    for (const ProgramCall& call : request_.on_entry) {
      integer |= call.ends == Ends::kResultInRax;
      floating |= call.ends == Ends::kResultInXmm0;
    }
    if (!integer && !floating) return;
    const Label go_on = a_.newLabel();
    a_.cmp(field(offsetof(PtRegs, orig_rax)),
           static_cast<int32_t>(static_cast<int64_t>(wire::kFunctionEnds)));
    a_.jne(go_on);
    a_.mov(rax, field(offsetof(PtRegs, rax)));
    if (floating) a_.movq(xmm0, rax);
    a_.add(rsp, sizeof(PtRegs));
    a_.ret();
    a_.bind(go_on);
  }

  // See wire/return_slot.h for the agreement with the agent.
  void enter_return_slot() {
    a_.mov(qword_ptr(rsp, kReturnSavedR11), r11);
    a_.lea(r11, ptr(return_site_));
    jump_far(request_.return_enter, return_enter_);
  }

  void exit_handler() {
    a_.align(asmjit::AlignMode::kCode, 16);
    a_.bind(exit_);
    a_.sub(rsp, sizeof(PtRegs));
    save_registers();
    // rbx is the frame: what the host had in it, where it returns to and its stack pointer are there.
    a_.mov(r11, qword_ptr(rbx, offsetof(ReturnFrame, saved_rbx)));
    a_.mov(field(offsetof(PtRegs, rbx)), r11);
    a_.mov(r11, qword_ptr(rbx, offsetof(ReturnFrame, return_address)));
    a_.mov(field(offsetof(PtRegs, rip)), r11);
    a_.mov(r11, qword_ptr(rbx, offsetof(ReturnFrame, stack_pointer)));
    a_.add(r11, 8);
    a_.mov(field(offsetof(PtRegs, rsp)), r11);
    run(request_.on_return);
    restore_registers();
    a_.add(rsp, sizeof(PtRegs));
    a_.ret();
  }

  void body(const Displaced& displaced) {
    const uint64_t here = base_ + a_.offset();
    a_.bind(body_);
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
  void constants(bool with_return_site) {
    a_.align(asmjit::AlignMode::kZero, 8);
    if (with_return_site) {
      static_assert(offsetof(ReturnSite, body) == 0 && offsetof(ReturnSite, exit_handler) == 8);
      a_.bind(return_site_);
      embed(base_ + holder_.labelOffset(body_));
      embed(base_ + holder_.labelOffset(exit_));
    }
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

  void embed(uint64_t value) { a_.embed(&value, sizeof value); }

  // All but rbx, rip and rsp, which differ between entry and return.
  void save_registers() {
    for (const Saved& saved : kCalleeSaved) a_.mov(field(saved.offset), saved.reg);
    for (const Saved& saved : kCallerSaved) a_.mov(field(saved.offset), saved.reg);
    a_.mov(field(offsetof(PtRegs, orig_rax)), -1);
    a_.mov(field(offsetof(PtRegs, cs)), kUserCodeSegment);
    a_.mov(field(offsetof(PtRegs, eflags)), kFlags);
    a_.mov(field(offsetof(PtRegs, ss)), kUserStackSegment);
  }

  void restore_registers() {
    for (const Saved& saved : kCallerSaved) a_.mov(saved.reg, field(saved.offset));
  }

  void run(const std::vector<ProgramCall>& calls) {
    for (const ProgramCall& call : calls) {
      const Label skip = a_.newLabel();
      if (call.only_tgid != 0) {
        a_.mov(r11, request_.identity_address);
        static_assert(offsetof(wire::TargetIdentity, tgid) == 0);
        // Zero in a forked child (wipe-on-fork): probes of one process stay silent there, as in Linux.
        a_.cmp(dword_ptr(r11), static_cast<int32_t>(call.only_tgid));
        a_.jne(skip);
      }
      const Label invocation = a_.newLabel();
      invocations_.push_back({invocation, call.invocation});
      a_.mov(rdi, rsp);
      a_.lea(rsi, ptr(invocation));
      call_near(call.code_address);
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
  Label exit_, body_, return_site_, return_enter_;
};

}  // namespace

Result<Trampoline> make_trampoline(const SiteRequest& request, const Displaced& displaced) {
  Writer writer(request);
  const bool with_return = !request.on_return.empty();
  if (!request.on_entry.empty()) writer.entry_programs();
  if (with_return) writer.enter_return_slot();
  writer.body(displaced);
  if (with_return) writer.exit_handler();
  writer.constants(with_return);
  return writer.finish();
}

Result<Trampoline> make_redirect(const SiteRequest& request, const Displaced& displaced,
                                 uint64_t replacement) {
  Writer writer(request);
  const Label target = writer.new_label();
  writer.jump_far(replacement, target);
  writer.body(displaced);
  writer.constants(false);
  return writer.finish();
}

}  // namespace bpftime::rewrite
