#include <cstdio>

#include "rewrite/relocate.h"
#include "rewrite/rewrite.h"
#include "rewrite/trampoline.h"
#include "wire/target_context.h"

namespace bpftime::rewrite {
namespace {

constexpr uint8_t kBreakpoint = 0xcc;  // int3

Result<void> check_request(const SiteRequest& request) {
  if (!request.on_return.empty() && request.return_path.slot == 0) {
    return Error{EOPNOTSUPP, "plan patch: return probes need the agent in the target"};
  }
  if (request.code.empty()) return refuse("no code at the site");
  if (!request.interior) return {};
  if (!request.on_return.empty()) return refuse("a return probe belongs at a function's entry");
  for (const ProgramCall& call : request.on_entry)
    if (call.ends != ProgramCall::Ends::kNever)
      return refuse("a program can end a function at its entry only");
  return {};
}

// The first boundary whose byte does not trap, or 0.
uint32_t bare_boundary(const std::vector<uint8_t>& jump, uint8_t boundaries) {
  for (uint32_t at = 1; at < kJumpSize; ++at)
    if ((boundaries >> at & 1) != 0 && !traps(jump[at])) return at;
  return 0;
}

Result<SitePlan> assemble(const SiteRequest& request, const Displaced& displaced, Trampoline&& trampoline) {
  SitePlan plan;
  plan.original.assign(request.code.begin(), request.code.begin() + displaced.length);
  plan.method = request.method;
  if (request.method == PatchMethod::kTrap) {
    plan.patched = {kBreakpoint};
  } else {
    plan.patched = {0xe9};  // jmp rel32
    if (!append_relative(plan.patched, request.address + 1, request.trampoline_address)) {
      return refuse("trampoline out of reach");
    }
    const uint32_t bare = bare_boundary(plan.patched, displaced.boundaries);
    if (bare == 0) plan.method = PatchMethod::kPunnedJump;
    if (bare != 0 && request.method == PatchMethod::kPunnedJump)
      return refuse("the trampoline's address gives no byte that traps at +" + std::to_string(bare));
    plan.patched.resize(displaced.length, kBreakpoint);  // nobody runs these bytes
  }
  plan.trampoline = std::move(trampoline.bytes);
  plan.fixups = std::move(trampoline.fixups);
  return plan;
}

DisplaceRules rules_of(const SiteRequest& request, PatchMethod method) {
  DisplaceRules rules;
  rules.trap = method == PatchMethod::kTrap;
  rules.jumps_may_enter = method == PatchMethod::kPunnedJump;
  rules.room = request.room;
  rules.before = request.before;
  return rules;
}

Result<Displaced> displace(const SiteRequest& request) {
  if (auto valid = check_request(request); !valid) return valid.error();
  auto displaced = choose_displaced(request.code, request.function_size, rules_of(request, request.method));
  if (!displaced) return displaced.error();
  static_assert(wire::kPatchBytesMax >= kJumpSize - 1 + 15, "any first instructions fit");
  return displaced;
}

}  // namespace

Result<SiteShape> inspect_site(const SiteRequest& request) {
  if (auto valid = check_request(request); !valid) return valid.error();
  const auto attempt = [&](PatchMethod method) {
    return choose_displaced(request.code, request.function_size, rules_of(request, method));
  };
  SiteShape shape;
  shape.rule.site = request.address;
  if (auto punned = attempt(PatchMethod::kPunnedJump); punned) {
    shape.punned_jump = true;
    shape.rule.boundaries = punned->boundaries;
    auto plain = attempt(PatchMethod::kJump);
    shape.jump = plain.ok();
    if (!plain) shape.why_no_jump = plain.error().message;
    return shape;
  } else {
    shape.why_no_jump = punned.error().message;
  }
  if (auto trap = attempt(PatchMethod::kTrap); !trap) return trap.error();
  return shape;
}

Result<SitePlan> plan_probe(const SiteRequest& request) {
  auto displaced = displace(request);
  if (!displaced) return displaced.error();
  auto trampoline = make_trampoline(request, *displaced);
  if (!trampoline) return trampoline.error();
  return assemble(request, *displaced, std::move(*trampoline));
}

Result<RedirectPlan> plan_redirect(const SiteRequest& request, uint64_t replacement) {
  auto displaced = displace(request);
  if (!displaced) return displaced.error();
  auto trampoline = make_redirect(request, *displaced, replacement);
  if (!trampoline) return trampoline.error();
  RedirectPlan out;
  out.original_entry = trampoline->body;
  auto site = assemble(request, *displaced, std::move(*trampoline));
  if (!site) return site.error();
  out.site = std::move(*site);
  return out;
}

}  // namespace bpftime::rewrite
