#include <cstdio>

#include "rewrite/relocate.h"
#include "rewrite/rewrite.h"
#include "rewrite/trampoline.h"
#include "wire/target_context.h"

namespace bpftime::rewrite {
namespace {

Error refuse(const std::string& why) { return Error{EOPNOTSUPP, "plan patch: " + why}; }

Result<void> check_request(const SiteRequest& request) {
  if (request.trampoline_address % 16 != 0)
    return Error{EINVAL, "plan patch: trampoline is not 16-byte aligned"};
  if (!request.on_return.empty() && request.return_enter == 0) {
    return Error{EOPNOTSUPP, "plan patch: return probes need the agent in the target"};
  }
  if (request.code.empty()) return refuse("no code at the site");
  return {};
}

Result<SitePlan> assemble(const SiteRequest& request, const Displaced& displaced, Trampoline&& trampoline) {
  SitePlan plan;
  plan.original.assign(request.code.begin(), request.code.begin() + displaced.length);
  plan.patched = {0xe9};  // jmp rel32
  if (!append_relative(plan.patched, request.address + 1, request.trampoline_address)) {
    return refuse("trampoline out of reach");
  }
  plan.patched.resize(displaced.length, 0xcc);  // int3: nobody runs these bytes
  plan.trampoline = std::move(trampoline.bytes);
  plan.fixups = std::move(trampoline.fixups);
  return plan;
}

Result<Displaced> displace(const SiteRequest& request) {
  if (auto valid = check_request(request); !valid) return valid.error();
  auto displaced = choose_displaced(request.code, request.function_size);
  if (!displaced) return displaced.error();
  static_assert(wire::kPatchBytesMax >= kJumpSize - 1 + 15, "any first instructions fit");
  return displaced;
}

}  // namespace

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
