#include "eim/grant.h"

#include <linux/bpf.h>

#include <algorithm>

#include "eim/grant_maker.h"
#include "eim/system_calls.h"

namespace bpftime::eim {
namespace {

using program::CType;
using program::TypeKind;
using Kind = Capability::Kind;

// Helpers that reach what no view covers: any memory of the host, its control flow, other processes.
constexpr uint32_t kHelpersDenied[] = {
    BPF_FUNC_probe_read,          BPF_FUNC_probe_read_str,     BPF_FUNC_probe_read_user,
    BPF_FUNC_probe_read_user_str, BPF_FUNC_probe_read_kernel,  BPF_FUNC_probe_read_kernel_str,
    BPF_FUNC_probe_write_user,    BPF_FUNC_override_return,    BPF_FUNC_copy_from_user,
    BPF_FUNC_copy_from_user_task, BPF_FUNC_get_current_task,   BPF_FUNC_get_current_task_btf,
    BPF_FUNC_send_signal,         BPF_FUNC_send_signal_thread, BPF_FUNC_get_stack,
    BPF_FUNC_get_task_stack,
};

// Of them, those that a policy may grant by name: the host's memory by address, which is as much as the host's own rights.
struct GrantableHelper {
  const char* name;
  uint32_t id;
};
constexpr GrantableHelper kHelpersByName[] = {
    {"bpf_probe_read_user", BPF_FUNC_probe_read_user},
    {"bpf_probe_read_user_str", BPF_FUNC_probe_read_user_str},
    {"bpf_probe_write_user", BPF_FUNC_probe_write_user},
};

const GrantableHelper* grantable_helper(const std::string& name) {
  for (const GrantableHelper& helper : kHelpersByName)
    if (name == helper.name) return &helper;
  return nullptr;
}

}  // namespace

Result<Grant> GrantMaker::run() {
  out_.class_name = class_.name;
  out_.entry = class_.entry;
  out_.constraints.class_name = class_.name;
  out_.constraints.instructions_below = kInstructionsDefault;
  out_.constraints.memory_below = kMemoryDefault;
  out_.constraints.helpers_denied.assign(std::begin(kHelpersDenied), std::end(kHelpersDenied));
  entry_ = manifest_.entry(class_.entry);
  if (entry_ == nullptr) {
    std::vector<std::string> names;
    for (const Function& entry : manifest_.entries) names.push_back(entry.name);
    if (is_system_call_entry(class_.entry))
      return policy_.error(class_.entry_position, "there is no system call event \"" + class_.entry + "\"" +
                                                      nearest_hint(class_.entry, system_call_entries()));
    return policy_.error(class_.entry_position, "the manifest has no entry \"" + class_.entry + "\"" +
                                                    nearest_hint(class_.entry, names));
  }
  prototype_ = &manifest_.types.at(entry_->prototype);
  rights_.resize(prototype_->parameters.size());
  for (const Capability& capability : class_.allowed) note(take(capability));
  if (errors_.empty()) note(make_entry());
  make_functions();
  make_globals();
  if (!errors_.empty()) return joined();
  return std::move(out_);
}

void GrantMaker::note(const Result<void>& result) {
  if (!result && errors_.size() < kErrorsMax) errors_.push_back(result.error());
}

Error GrantMaker::joined() const {
  Error all = errors_.front();
  for (size_t i = 1; i < errors_.size(); ++i) all.message += "\n" + errors_[i].message;
  return all;
}

Result<void> GrantMaker::take(const Capability& capability) {
  switch (capability.kind) {
    case Kind::kInstructions:
      out_.constraints.instructions_below = capability.below;
      return {};
    case Kind::kMemory:
      out_.constraints.memory_below = capability.below;
      return {};
    case Kind::kShared:
      out_.shared_maps.push_back(capability.name);
      return {};
    case Kind::kRead:
    case Kind::kWrite:
      return take_access(capability);
    case Kind::kReturn:
      return take_return(capability);
    case Kind::kName:
      return take_name(capability);
  }
  return {};
}

std::vector<std::string> GrantMaker::names() const {
  std::vector<std::string> names;
  for (const State& state : manifest_.states) names.push_back(state.name);
  for (const Function& function : manifest_.functions) names.push_back(function.name);
  return names;
}

Result<void> GrantMaker::take_name(const Capability& capability) {
  const Function* function = manifest_.function(capability.name);
  const State* state = manifest_.state(capability.name);
  if (capability.name.starts_with("bpf_") && function == nullptr && state == nullptr)
    return take_helper(capability);
  if (is_system_call() && (function != nullptr || state != nullptr))
    return error(capability.position,
                 "\"" + capability.name + "\" is the host's: a class for a system call has no part of it");
  if (function != nullptr) {
    granted_functions_[function->name] = &capability;
    return {};
  }
  if (state == nullptr || capability.is_call) {
    return error(capability.position,
                 "the manifest offers no " + std::string(capability.is_call ? "function" : "capability") +
                     " \"" + capability.name + "\"" + nearest_hint(capability.name, names()));
  }
  Rights& rights = state_rights_[state->expression];
  (state->write ? rights.write : rights.read) = true;
  rights.position = capability.position;
  return {};
}

Result<void> GrantMaker::take_helper(const Capability& capability) {
  const GrantableHelper* helper = capability.is_call ? nullptr : grantable_helper(capability.name);
  if (helper == nullptr) {
    std::vector<std::string> known;
    for (const GrantableHelper& each : kHelpersByName) known.push_back(each.name);
    return error(capability.position,
                 "helper \"" + capability.name +
                     "\" cannot be granted by name: what is not denied, classes may call" +
                     nearest_hint(capability.name, known));
  }
  out_.constraints.helpers_granted.push_back(helper->id);
  std::erase(out_.constraints.helpers_denied, helper->id);
  return {};
}

Result<void> GrantMaker::take_state_path(const Capability& capability, const State& state) {
  const bool write = capability.kind == Kind::kWrite;
  if (state.write != write)
    return error(capability.position, "\"" + state.name + "\" is declared for " +
                                          (state.write ? "writing" : "reading") + " (" + state.place.text() +
                                          ")");
  return add_path(manifest_, policy_, capability, state.type, state_rights_[state.expression]);
}

Result<void> GrantMaker::take_access(const Capability& capability) {
  const std::string& name = capability.path.front();
  if (is_system_call())
    return error(
        capability.position,
        "a system call's arguments are in the record that its program is given; what they point to is read "
        "with bpf_probe_read_user and written with bpf_probe_write_user, which can be granted");
  const auto found = std::find(entry_->arguments.begin(), entry_->arguments.end(), name);
  size_t index = static_cast<size_t>(found - entry_->arguments.begin());
  if (found == entry_->arguments.end()) {
    // arg0 names the first argument whatever it is called.
    for (index = 0; index < entry_->arguments.size(); ++index) {
      if (name == "arg" + std::to_string(index)) break;
    }
    const State* state = index == entry_->arguments.size() ? manifest_.state(name) : nullptr;
    if (state != nullptr) return take_state_path(capability, *state);
    if (index == entry_->arguments.size()) {
      std::vector<std::string> near = entry_->arguments;
      for (const State& each : manifest_.states) near.push_back(each.name);
      return error(capability.position, "entry \"" + class_.entry + "\" has no argument \"" + name +
                                            "\", and the host no such variable" + nearest_hint(name, near));
    }
  }
  const uint32_t type = types().resolve(prototype_->parameters[index].type);
  const bool write = capability.kind == Kind::kWrite;
  if (types().at(type).kind != TypeKind::kPointer) {
    if (capability.path.size() > 1)
      return error(capability.position, "\"" + name + "\" is " +
                                            types().spell(prototype_->parameters[index].type) +
                                            ", which has no members");
    if (write)
      return error(capability.position,
                   "\"" + name + "\" is passed by value: writing it changes nothing in the host");
    rights_[index].read = true;
    return {};
  }
  const uint32_t pointee = types().at(type).target;
  const CType& object = types().resolved(pointee);
  if (capability.path.size() == 1 && buffer_promise(index) == nullptr && types().size_of(pointee) == 0)
    return error(capability.position,
                 "\"" + name + "\" leads to " + types().spell(pointee) +
                     (object.kind == TypeKind::kForward ? ", whose members the manifest does not know"
                                                        : ", of unknown size: nothing in it can be granted"));
  if (write && types().is_const(pointee))
    return error(capability.position,
                 "\"" + name + "\" leads to " + types().spell(pointee) + ", which is const");
  return add_path(manifest_, policy_, capability, pointee, rights_[index]);
}

bool is_helper_grantable(const std::string& name) { return grantable_helper(name) != nullptr; }

Result<Grant> make_grant(const Manifest& manifest, const HostBtf& host, const Policy& policy,
                         const ExtensionClass& granted) {
  return GrantMaker(manifest, host, policy, granted).run();
}

Result<void> check_policy(const Manifest& manifest, const Policy& policy, const std::string& host_build_id) {
  const std::string expected = policy.build == Policy::Build::kGiven ? policy.build_id : manifest.build_id;
  if (policy.build != Policy::Build::kAny) {
    if (expected.empty())
      return policy.error(policy.manifest_position,
                          "the manifest has no build-id; say which build it is for: `build: " +
                              (host_build_id.empty() ? std::string("any") : host_build_id) +
                              "`, or `build: any`");
    if (expected != host_build_id)
      return policy.error(
          policy.build == Policy::Build::kGiven ? policy.build_position : policy.manifest_position,
          "for build " + expected + ", but the host is build " +
              (host_build_id.empty() ? "unknown (it has no build-id)" : host_build_id));
  }
  const auto host = make_host_btf(manifest, {});
  if (!host) return host.error();
  std::string messages;
  size_t count = 0;
  int code = EINVAL;
  for (const ExtensionClass& granted : policy.classes) {
    const auto grant = make_grant(manifest, *host, policy, granted);
    if (grant || count >= kErrorsMax) continue;
    messages += (count++ ? "\n" : "") + grant.error().message;
    code = grant.error().code;
  }
  if (!messages.empty()) return Error{code, messages};
  return {};
}

}  // namespace bpftime::eim
