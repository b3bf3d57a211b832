// Puts the programs of one site in place: code, trampoline, jump.
#include <algorithm>

#include "daemon/site.h"
#include "rewrite/return_slot.h"
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

Bytes text_of(const compiler::MachineCode& code) {
  return Bytes(code.image).first(std::min<size_t>(code.text_size, code.image.size()));
}

// What a trampoline is made of, its displaced instructions included: another library may lie at the same address later. `slots`:
// the first of those that `request` leads to; forks share arenas, but what was loaded after the fork lies elsewhere in each.
uint64_t trampoline_key(uint64_t hash, rewrite::PatchMethod method, const rewrite::SiteRequest& request,
                        uint64_t slots) {
  const Bytes displaced = request.code.first(std::min<size_t>(request.code.size(), wire::kPatchBytesMax));
  uint64_t key = mix_bytes(mix_hash(hash, static_cast<uint64_t>(method)), displaced);
  for (const uint64_t where :
       {slots, request.return_path.cold, static_cast<uint64_t>(request.return_path.thread)})
    key = mix_hash(key, where);
  return key;
}

constexpr uint64_t kFunctionScanMax = 1u << 20;  // bytes of one function looked at for jumps into its entry

}  // namespace

// The bytes of a function as its file has them: what we patched is put back in the copy.
Result<std::vector<uint8_t>> Attacher::original_text(const target::Process& process, const Registry& registry,
                                                     const Site& site) {
  const uint64_t start = site.address - std::min(site.into_function, kFunctionScanMax);
  const uint64_t wanted = std::min(site.function_size == 0 ? 64 : site.function_size + 32, kFunctionScanMax);
  const uint64_t end = std::min(std::max(start + wanted, site.address + 64), site.region.end);
  auto text = process.read(start, end - start);
  if (!text) return text;
  bool patched_by_us = false;
  for (const PatchRecord& record : registry.patches) {
    if (!target::is_live(record)) continue;
    patched_by_us |= record.address < site.address + 16 && site.address < record.address + record.length;
    for (uint32_t i = 0; i < record.length; ++i)
      if (record.address + i - start < text->size()) (*text)[record.address + i - start] = record.original[i];
  }
  const uint64_t at = site.address - start;
  const auto in_file = site.file->elf->read(site.file_address, std::min<size_t>(text->size() - at, 16));
  if (!patched_by_us && !std::equal(in_file.begin(), in_file.end(), text->begin() + at))
    return Error{EBUSY,
                 "the function's first bytes are not those of its file: a debugger, the kernel or another "
                 "tool has patched it"};
  return text;
}

// Where a copy of the program's code lies in the arena.
Result<uint64_t> Attacher::place_code(Arena& arena, const kernel::Prog& program) {
  if (const auto known = arena.find(program.id)) return *known;
  // The same program loaded again has the same bytes.
  const auto& image = program.code->image;
  const uint64_t content = mix_bytes(kHashStart, image);
  auto code = arena.find(content);
  if (!code) {
    // Trampolines save no vector state: what came out of the compiler is looked at before any process runs it.
    if (auto general = rewrite::check_general_registers_only(text_of(*program.code)); !general)
      return general.error();
    auto copied = arena.append(image);
    if (!copied) return copied;
    arena.remember(content, *copied);
    code = *copied;
  }
  arena.remember(program.id, *code);
  return *code;
}

// Puts the programs' code and tables into the arena and tells the request of them.
Result<void> Attacher::place_programs(Arena& arena, Site& site, rewrite::SiteRequest& request) {
  for (const auto& want : site.wants) {
    auto code = place_code(arena, *want.program);
    if (!code) return code.error();
    uint64_t table = 0;
    if (!want.host_table.empty()) {
      // Once per arena, not once per patch: arena memory is never handed out again.
      uint64_t key = kHashStart;
      for (const uint64_t address : want.host_table) key = mix_hash(key, address);
      auto placed = arena.find(key);
      if (!placed) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(want.host_table.data());
        auto copied = arena.append(Bytes(bytes, want.host_table.size() * sizeof(uint64_t)));
        if (!copied) return copied.error();
        arena.remember(key, *copied);
        placed = *copied;
      }
      table = *placed;
    }
    rewrite::ProgramCall call{
        *code + want.program->code->entry_offset,
        {want.cookie, site.address, want.program->id, invocation_flags(request.code, want.on_return), table},
        want.only_tgid};
    if (want.program->code->ends_function)
      call.ends = want.program->host && want.program->host->result_in_xmm0
                      ? rewrite::ProgramCall::Ends::kResultInXmm0
                      : rewrite::ProgramCall::Ends::kResultInRax;
    call.use = code_use(*want.program);
    call.context_slots_read = want.program->code->context_slots_read;
    call.inlined = rewrite::inlinable_code(text_of(*want.program->code), want.program->code->entry_offset);
    call.counter = want.counter;
    if (Site::may_tail_call(*want.program)) {
      call.inlined = {};
      call.use = {};
      call.context_slots_read = rewrite::kAllContextSlots;
    }
    (want.on_return ? request.on_return : request.on_entry).push_back(call);
  }
  return {};
}

Result<std::optional<Attacher::PlannedSite>> Attacher::plan_site(Target& target,
                                                                 const CodeMemory::Entry& entry,
                                                                 Registry& registry,
                                                                 const std::vector<MappedRegion>& regions,
                                                                 Site& site, bool traps) {
  if (site.system_call) return plan_system_call(target, entry, registry, regions, site);
  const PatchRecord* present = registry.active_at(site.address);
  const uint64_t hash = site.hash();
  if (present != nullptr && present->kind == wire::PatchKind::kGuard)
    return Error{EBUSY, "the signal guard stands here"};
  if (present != nullptr && present->content_hash == hash && present->state == wire::PatchState::kActive)
    return std::optional<PlannedSite>();
  auto text = original_text(target.process, registry, site);
  if (!text) return text.error();
  ReturnSupport support;
  if (site.wants_return()) {
    auto found = return_support_at(target, regions, registry, site.address);
    if (!found) return found.error();
    support = *found;
  }
  if (auto known = plan_made_before(target, registry, site, *text, support, traps)) return known;

  const auto [low, high] = span_of_file(regions, site.region);
  uint64_t more = 4 * kPageSize;  // programs and tables
  for (const auto& want : site.wants)
    more += round_up(want.program->code->image.size(), 16) + 256 + want.host_table.size() * sizeof(uint64_t);
  uint64_t size_max = 640 + (192 + rewrite::kInlinedMax) * site.wants.size();
  if (kernel_.counting()) size_max += rewrite::kCountingMax * site.wants.size();

  rewrite::SiteRequest request;
  request.address = site.address;
  const uint64_t into = std::min(site.into_function, kFunctionScanMax);
  if (site.into_function <= kFunctionScanMax) request.before = Bytes(*text).first(into);
  request.code = Bytes(*text).subspan(into);
  request.function_size = site.function_size == 0 ? 0 : site.function_size - site.into_function;
  request.interior = site.interior;
  request.room = site.room;
  request.identity_address = config_.window + wire::kIdentityOffset;
  request.return_path = {support.slots.first, support.cold, support.thread};
  auto shape = rewrite::inspect_site(request);
  if (!shape) return shape.error();

  using rewrite::PatchMethod;
  std::vector<PatchMethod> methods;
  if (traps && shape->punned_jump) methods.push_back(PatchMethod::kPunnedJump);
  if (shape->jump) methods.push_back(PatchMethod::kJump);
  if (traps) methods.push_back(PatchMethod::kTrap);
  if (methods.empty())
    return Error{
        EOPNOTSUPP,
        shape->why_no_jump +
            (target.no_guard.empty() ? "" : "; and a trap needs the signal guard: " + target.no_guard)};
  Error why{};
  for (const PatchMethod method : methods) {
    rewrite::TrampolineRule rule{site.address, 0};
    if (method == PatchMethod::kPunnedJump) rule = shape->rule;
    auto arena = code_.arena_for(entry, registry, config_.window, regions, low, high, rule, size_max, more);
    if (!arena) {
      why = arena.error();
      continue;
    }
    request.method = method;
    request.on_entry.clear();
    request.on_return.clear();
    if (auto placed = place_programs(**arena, site, request); !placed) return placed.error();
    const uint64_t key = trampoline_key(hash, method, request, support.slots.first);
    const auto kept = (*arena)->find(key);
    const auto room = kept ? kept : (*arena)->find_room(rule, size_max);
    if (!room) return Error{ENOMEM, "code memory: arena full"};
    request.trampoline_address = *room;
    request.return_path.slot = rewrite::return_slot_for(support.slots.first, support.slots.copies, *room);
    auto plan = rewrite::plan_probe(request);
    if (!plan) {
      why = plan.error();
      continue;
    }
    if (plan->trampoline.size() > size_max && !kept) return Error{E2BIG, "a trampoline larger than expected"};
    if (plan->patched.size() > wire::kPatchBytesMax)
      return Error{EOPNOTSUPP, "more bytes than a patch record holds"};
    if (!kept) {
      if (auto placed = (*arena)->put(*room, plan->trampoline); !placed) return placed.error();
      (*arena)->remember(key, *room);
    }
    PlannedSite planned;
    planned.site = &site;
    planned.method = plan->method;
    planned.patch.record = make_record(request, *plan, wire::PatchKind::kProbe, hash);
    planned.patch.go_on[0] = request.trampoline_address;
    if (plan->method == PatchMethod::kPunnedJump)
      for (const auto& fixup : plan->fixups)
        if (fixup.site_offset < wire::kTrapPlaces)
          planned.patch.go_on[fixup.site_offset] = request.trampoline_address + fixup.trampoline_offset;
    planned.fixups = std::move(plan->fixups);
    if (method == methods.front()) remember_plan(target, site, *text, support, traps, key, planned);
    return std::optional(std::move(planned));
  }
  return why;
}

std::optional<Attacher::PlannedSite> Attacher::plan_made_before(const Target& target,
                                                                const Registry& registry, Site& site,
                                                                Bytes text, const ReturnSupport& support,
                                                                bool traps) {
  if (!target.plans) return std::nullopt;
  const auto known = target.plans->by_address.find(site.address);
  if (known == target.plans->by_address.end()) return std::nullopt;
  const Plans::Plan& plan = known->second;
  const uint64_t trampoline = plan.planned.patch.record.trampoline;
  if (plan.hash != site.hash() || plan.traps != traps || plan.function_size != site.function_size ||
      plan.into_function != site.into_function || !(plan.support == support) ||
      !std::equal(text.begin(), text.end(), plan.text.begin(), plan.text.end()))
    return std::nullopt;
  const Arena* arena = code_.arena_at(registry, trampoline);
  if (arena == nullptr || arena->find(plan.key) != trampoline) return std::nullopt;
  PlannedSite planned = plan.planned;
  planned.site = &site;
  return planned;
}

void Attacher::remember_plan(Target& target, const Site& site, Bytes text, const ReturnSupport& support,
                             bool traps, uint64_t key, const PlannedSite& planned) {
  if (text.size() > Plans::kTextMax) return;
  if (!target.plans) target.plans = std::make_shared<Plans>();
  auto& plans = target.plans->by_address;
  if (plans.size() >= Plans::kPlacesMax && !plans.contains(site.address)) plans.clear();
  plans.insert_or_assign(site.address, Plans::Plan{site.hash(),
                                                   traps,
                                                   site.function_size,
                                                   site.into_function,
                                                   support,
                                                   {text.begin(), text.end()},
                                                   key,
                                                   planned});
  plans.at(site.address).planned.site = nullptr;
}

rewrite::CodeUse Attacher::code_use(const kernel::Prog& program) {
  constexpr size_t kRememberedMax = 4096;
  const std::pair<uint32_t, uint64_t> key{program.id, program.created_ns};
  if (const auto known = code_uses_.find(key); known != code_uses_.end()) return known->second;
  if (code_uses_.size() >= kRememberedMax) code_uses_.clear();
  return code_uses_[key] = rewrite::code_use(text_of(*program.code), program.code->entry_offset);
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
