// Puts the programs of one site in place: code, trampoline, jump.
#include <algorithm>

#include "daemon/site.h"
#include "rewrite/rewrite.h"

namespace bpftime::daemon {

using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;
using wire::PatchRecord;

namespace {

uint32_t invocation_flags(Bytes text, bool on_return) {
  constexpr uint8_t kPushRbp = 0x55;
  constexpr uint8_t kEndbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
  const bool begins_function =
      (!text.empty() && text[0] == kPushRbp) ||
      (text.size() >= sizeof kEndbr64 && std::equal(std::begin(kEndbr64), std::end(kEndbr64), text.begin()));
  return begins_function && !on_return ? wire::kAtFunctionEntry : 0;
}

constexpr uint64_t kFunctionScanMax = 1u << 20;  // bytes of one function looked at for jumps into its entry

}  // namespace

// The bytes of a function as its file has them: what we patched is put back in the copy.
Result<std::vector<uint8_t>> Attacher::original_text(const target::Process& process, const Registry& registry,
                                                     const Site& site) {
  const uint64_t wanted = std::min(site.function_size == 0 ? 64 : site.function_size + 32, kFunctionScanMax);
  auto text = process.read(site.address, std::min(wanted, site.region.end - site.address));
  if (!text) return text;
  bool patched_by_us = false;
  for (const PatchRecord& record : registry.patches) {
    if (record.state != wire::PatchState::kActive && record.state != wire::PatchState::kPending) continue;
    patched_by_us |= record.address == site.address;
    for (uint32_t i = 0; i < record.length; ++i)
      if (record.address + i - site.address < text->size())
        (*text)[record.address + i - site.address] = record.original[i];
  }
  const auto in_file = site.file->elf->read(site.file_address, std::min<size_t>(text->size(), 16));
  if (!patched_by_us && !std::equal(in_file.begin(), in_file.end(), text->begin()))
    return Error{EBUSY,
                 "the function's first bytes are not those of its file: a debugger, the kernel or another "
                 "tool has patched it"};
  return text;
}

Result<void> Attacher::patch_site(Target& target, StoppedProcess& stopped, Registry& registry,
                                  const std::vector<MappedRegion>& regions, Site& site) {
  const PatchRecord* present = registry.active_at(site.address);
  const uint64_t hash = site.hash();
  if (present != nullptr && present->content_hash == hash) return {};
  auto text = original_text(target.process, registry, site);
  if (!text) return text.error();

  uint64_t low = site.region.start, high = site.region.end;
  for (const auto& region : regions)
    if (region.inode == site.region.inode && region.device == site.region.device) {
      low = std::min(low, region.start);
      high = std::max(high, region.end);
    }
  uint64_t room = kPageSize;  // the trampoline
  for (const auto& want : site.wants)
    room += round_up(want.program->code->image.size(), 16) + 256 + want.host_table.size() * sizeof(uint64_t);
  auto arena = code_.arena_near(stopped, registry, config_.window, regions, low, high, room);
  if (!arena) return arena.error();

  rewrite::SiteRequest request;
  request.address = site.address;
  request.code = *text;
  request.function_size = site.function_size;
  request.identity_address = config_.window + wire::kIdentityOffset;
  request.return_enter = registry.header.return_enter;
  for (const auto& want : site.wants) {
    auto code = (*arena)->find(want.program->id);
    if (!code) {
      auto copied = (*arena)->append(want.program->code->image);
      if (!copied) return copied.error();
      (*arena)->remember(want.program->id, *copied);
      code = *copied;
    }
    uint64_t table = 0;
    if (!want.host_table.empty()) {
      // Once per arena, not once per patch: arena memory is never handed out again.
      uint64_t key = kHashStart;
      for (const uint64_t address : want.host_table) key = mix_hash(key, address);
      auto placed = (*arena)->find(key);
      if (!placed) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(want.host_table.data());
        auto copied = (*arena)->append(Bytes(bytes, want.host_table.size() * sizeof(uint64_t)));
        if (!copied) return copied.error();
        (*arena)->remember(key, *copied);
        placed = *copied;
      }
      table = *placed;
    }
    rewrite::ProgramCall call{
        *code + want.program->code->entry_offset,
        {want.cookie, site.address, want.program->id, invocation_flags(*text, want.on_return), table},
        want.only_tgid};
    if (want.program->code->ends_function)
      call.ends = want.program->host && want.program->host->result_in_xmm0
                      ? rewrite::ProgramCall::Ends::kResultInXmm0
                      : rewrite::ProgramCall::Ends::kResultInRax;
    call.use = code_use(*want.program);
    call.context_slots_read = want.program->code->context_slots_read;
    if (Site::may_tail_call(*want.program)) {
      call.use = {};
      call.context_slots_read = rewrite::kAllContextSlots;
    }
    (want.on_return ? request.on_return : request.on_entry).push_back(call);
  }
  const auto kept = (*arena)->find(hash);
  request.trampoline_address = kept ? *kept : (*arena)->next();
  auto plan = rewrite::plan_probe(request);
  if (!plan) return plan.error();
  if (!kept) {
    auto placed = (*arena)->append(plan->trampoline);
    if (!placed) return placed.error();
    (*arena)->remember(hash, *placed);
  }
  if (plan->patched.size() > wire::kPatchBytesMax)
    return Error{EOPNOTSUPP, "more bytes than a patch record holds"};
  const PatchRecord record = make_record(request, *plan, wire::PatchKind::kProbe, hash);
  if (present == nullptr)
    if (auto moved = move_threads(stopped, record, plan->fixups); !moved) return moved;
  return target::apply_patch(stopped, config_.window, registry, record);
}

rewrite::CodeUse Attacher::code_use(const kernel::Prog& program) {
  constexpr size_t kRememberedMax = 4096;
  const std::pair<uint32_t, uint64_t> key{program.id, program.created_ns};
  if (const auto known = code_uses_.find(key); known != code_uses_.end()) return known->second;
  if (code_uses_.size() >= kRememberedMax) code_uses_.clear();
  const auto& code = *program.code;
  return code_uses_[key] = rewrite::code_use(
             Bytes(code.image).first(std::min<size_t>(code.text_size, code.image.size())), code.entry_offset);
}

PatchRecord Attacher::make_record(const rewrite::SiteRequest& request, const rewrite::SitePlan& plan,
                                  wire::PatchKind kind, uint64_t hash) {
  PatchRecord record{};
  record.address = request.address;
  record.trampoline = request.trampoline_address;
  record.kind = kind;
  record.length = static_cast<uint32_t>(std::min<size_t>(plan.patched.size(), wire::kPatchBytesMax));
  record.trampoline_size = static_cast<uint32_t>(plan.trampoline.size());
  record.content_hash = hash;
  std::copy_n(plan.original.begin(), record.length, record.original);
  std::copy_n(plan.patched.begin(), record.length, record.patched);
  return record;
}

// Threads that stand between the instructions about to be replaced go on in the displaced copy.
Result<void> Attacher::move_threads(StoppedProcess& stopped, const PatchRecord& record,
                                    std::span<const rewrite::PcFixup> fixups) {
  for (const auto& thread : stopped.threads()) {
    if (thread.pc <= record.address || thread.pc >= record.address + record.length) continue;
    auto fixup = std::find_if(fixups.begin(), fixups.end(),
                              [&](const auto& f) { return record.address + f.site_offset == thread.pc; });
    if (fixup == fixups.end())
      return Error{EAGAIN,
                   "thread " + std::to_string(thread.tid) + " stands inside an instruction to be replaced"};
    if (auto moved = stopped.set_pc(thread.tid, record.trampoline + fixup->trampoline_offset); !moved)
      return moved;
  }
  return {};
}

}  // namespace bpftime::daemon
