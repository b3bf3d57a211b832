// How a grant is made of a manifest and a class of a policy. Internal to this folder; its parts:
//   grant.cc         capabilities, one by one, and what calls this
//   grant_values.cc  numbers: results that may be given, arguments narrowed
//   grant_host.cc    what the host declares: arguments, functions, variables
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eim/grant.h"
#include "eim/views.h"

namespace bpftime::eim {

inline bool is_integer(const program::CType& type) {
  return type.kind == program::TypeKind::kInteger || type.kind == program::TypeKind::kEnum;
}

// All values of an integer type, as a 64-bit register holds them.
verifier::Scalar type_range(const program::CType& type);
// [low, high] cut to the type; nullopt when nothing is left.
std::optional<verifier::Scalar> range_of(const program::CType& type, int64_t low, int64_t high);

class GrantMaker {
 public:
  using CType = program::CType;
  using Argument = verifier::Argument;

  GrantMaker(const Manifest& manifest, const HostBtf& host, const Policy& policy,
             const ExtensionClass& granted)
      : manifest_(manifest),
        host_(host),
        policy_(policy),
        class_(granted),
        views_{manifest, policy, out_.constraints.views, out_.origins} {}

  Result<Grant> run();

 private:
  void note(const Result<void>& result);
  Error joined() const;
  Error error(Position position, const std::string& what) const { return policy_.error(position, what); }
  const program::TypeTable& types() const { return manifest_.types; }
  bool is_system_call() const { return entry_->at != Function::At::kFunction; }

  // ---- Capabilities, one by one ----
  Result<void> take(const Capability& capability);
  std::vector<std::string> names() const;
  Result<void> take_name(const Capability& capability);
  Result<void> take_helper(const Capability& capability);
  // read(readCounts.refused): a part of a variable that the host offers as a whole, or what a pointer in it leads to.
  Result<void> take_state_path(const Capability& capability, const State& state);
  Result<void> take_access(const Capability& capability);

  // ---- Numbers ----
  Result<void> take_return(const Capability& capability);
  Result<void> take_real_return(const Capability& capability, const CType& result);
  // A value of the policy as one of `type`, sign-extended to 64 bits when the type is signed.
  Result<verifier::Range> resolve(const Value& value, uint32_t type_id) const;
  Result<verifier::Range> enumerator(const Value& value, const CType& type) const;
  // f(argument in values)
  Result<void> narrow(const Function& function, const CType& prototype, const Capability& capability,
                      verifier::HostFunction& out) const;

  // ---- What the host declares ----
  const Constraint* buffer_promise(size_t index) const;
  Result<void> make_entry();
  Result<void> entry_argument(uint32_t index, Argument& out);
  bool is_length_of_granted(uint32_t index) const;
  // A pointer nothing is granted behind: of a struct's type it can be handed to host functions that take that type.
  void object_or_opaque(uint32_t pointee, Argument& out);
  void make_functions();
  // Handles are of one kind when they point to one type: by name, as each source has its own copy.
  uint32_t handle_kind(uint32_t pointee);
  Argument call_argument(const Function& function, const CType& prototype, uint32_t index);
  Argument call_result(const Function& function, const CType& prototype);
  void make_globals();

  const Manifest& manifest_;
  const HostBtf& host_;
  const Policy& policy_;
  const ExtensionClass& class_;
  Grant out_;
  ViewMaker views_;
  const Function* entry_ = nullptr;
  const CType* prototype_ = nullptr;
  std::vector<Rights> rights_;  // by argument of the entry
  std::map<std::string, const Capability*> granted_functions_;
  std::map<std::string, Rights> state_rights_;  // by expression
  std::map<std::string, uint32_t> handle_kinds_;
  std::vector<Error> errors_;
};

}  // namespace bpftime::eim
