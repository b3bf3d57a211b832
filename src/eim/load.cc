#include "eim/load.h"

#include "eim/system_calls.h"
#include "symbols/symbols.h"

namespace bpftime::eim {

const Grant* LoadedPolicy::grant_of(const std::string& class_name) const {
  for (const Grant& grant : grants) {
    if (grant.class_name == class_name) return &grant;
  }
  return nullptr;
}

Result<LoadedPolicy> load_policy(const std::string& path, const program::BtfBase& base) {
  LoadedPolicy out;
  auto policy = read_policy(path);
  if (!policy) return policy.error();
  out.policy = std::move(*policy);
  if (out.policy.manifest.empty()) {
    // Nothing depends on the host's types and addresses: which build of it runs does not matter.
    out.manifest.is_object = true;
    if (out.policy.build == Policy::Build::kHost) out.policy.build = Policy::Build::kAny;
  } else {
    auto manifest = read_manifest(out.policy.manifest);
    if (!manifest)
      return out.policy.error(out.policy.manifest_position, manifest.error().message, manifest.error().code);
    out.manifest = std::move(*manifest);
  }
  add_system_calls(out.manifest, out.policy);
  out.host_path = !out.policy.host.empty() ? out.policy.host
                  : out.manifest.is_object ? ""
                                           : out.policy.manifest;
  if (!out.host_path.empty()) {
    auto elf = symbols::ElfFile::open(out.host_path);
    if (!elf) return out.policy.error(out.policy.manifest_position, elf.error().message, elf.error().code);
    out.host_build_id = elf->build_id();
  }
  // Without a host to look at, the build is checked when there is one.
  Policy checked = out.policy;
  if (out.host_path.empty()) checked.build = Policy::Build::kAny;
  if (auto fine = check_policy(out.manifest, checked, out.host_build_id); !fine) return fine.error();
  auto host = make_host_btf(out.manifest, base);
  if (!host) return host.error();
  out.host = std::move(*host);
  for (const ExtensionClass& granted : out.policy.classes) {
    auto grant = make_grant(out.manifest, out.host, out.policy, granted);
    if (!grant) return grant.error();
    out.grants.push_back(std::move(*grant));
  }
  return out;
}

}  // namespace bpftime::eim
