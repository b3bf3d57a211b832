// What the host declares, as the verifier and the compiler take it: the entry's arguments, functions, variables.
#include <bpftime/eim.h>

#include <algorithm>

#include "eim/grant_maker.h"

namespace bpftime::eim {

using program::CType;
using program::TypeKind;
using verifier::Argument;
using verifier::Scalar;

const Constraint* GrantMaker::buffer_promise(size_t index) const {
  for (const uint32_t kind : {EIM_ARG_BUFFER_IN, EIM_ARG_BUFFER_OUT, EIM_ARG_BUFFER_INOUT}) {
    if (const Constraint* found = entry_->find(kind, static_cast<uint32_t>(index))) return found;
  }
  return nullptr;
}

Result<void> GrantMaker::make_entry() {
  auto& constraints = out_.constraints;
  constraints.typed_entry = !is_system_call();
  for (uint32_t i = 0; i < prototype_->parameters.size(); ++i) {
    Argument argument;
    argument.name = entry_->arguments[i];
    auto made = entry_argument(i, argument);
    if (!made) return made;
    constraints.entry.push_back(std::move(argument));
  }
  return {};
}

Result<void> GrantMaker::entry_argument(uint32_t index, Argument& out) {
  const uint32_t id = types().resolve(prototype_->parameters[index].type);
  const CType& type = types().at(id);
  const Rights& rights = rights_[index];
  out.bytes = static_cast<uint32_t>(types().size_of(id));
  if (is_integer(type)) {
    // The length of a granted buffer is part of that grant.
    out.granted = rights.read || is_length_of_granted(index);
    out.is_signed = type.is_signed;
    out.number = type_range(type);
    if (const Constraint* range = entry_->find(EIM_ARG_RANGE, index)) {
      if (auto cut = range_of(type, range->low, range->high)) out.number = *cut;
    }
    return {};
  }
  out.may_be_null = entry_->find(EIM_ARG_NONNULL, index) == nullptr;
  if (const Constraint* buffer = buffer_promise(index); buffer != nullptr && rights.grants_anything()) {
    out.kind = Argument::Kind::kBuffer;
    out.length_argument = static_cast<uint32_t>(buffer->low);
    out.in = rights.read && buffer->kind != EIM_ARG_BUFFER_OUT;
    out.out = rights.write && buffer->kind != EIM_ARG_BUFFER_IN;
    return {};
  }
  const uint32_t pointee = types().resolve(type.target);
  if (rights.grants_anything()) {
    auto view = views_.make(type.target, rights, out.name, 0);
    if (!view) return view.error();
    out.kind = Argument::Kind::kObject;
    out.view = *view;
    return {};
  }
  object_or_opaque(pointee, out);
  if (out.kind == Argument::Kind::kObject) {
    auto view = views_.ungranted(pointee, out.name, 0);
    if (!view) return view.error();
    out.view = *view;
  }
  return {};
}

bool GrantMaker::is_length_of_granted(uint32_t index) const {
  for (uint32_t i = 0; i < rights_.size(); ++i) {
    const Constraint* buffer = rights_[i].grants_anything() ? buffer_promise(i) : nullptr;
    if (buffer != nullptr && buffer->low == index) return true;
  }
  return false;
}

void GrantMaker::object_or_opaque(uint32_t pointee, Argument& out) {
  const TypeKind kind = types().at(pointee).kind;
  if (kind == TypeKind::kStruct || kind == TypeKind::kUnion || kind == TypeKind::kForward) {
    out.kind = Argument::Kind::kObject;
    out.view = views_.opaque(pointee);
  } else {
    out.kind = Argument::Kind::kOpaque;
  }
}

void GrantMaker::make_functions() {
  for (const Function& function : manifest_.functions) {
    verifier::HostFunction out;
    out.name = function.name;
    const auto id = host_.functions.find(function.name);
    out.id = id == host_.functions.end() ? 0 : id->second;
    const auto granted = granted_functions_.find(function.name);
    out.granted = granted != granted_functions_.end();
    const CType& prototype = types().at(function.prototype);
    for (uint32_t i = 0; i < prototype.parameters.size(); ++i)
      out.arguments.push_back(call_argument(function, prototype, i));
    if (out.granted) note(narrow(function, prototype, *granted->second, out));
    out.result = call_result(function, prototype);
    if (function.find(EIM_ACQUIRES) != nullptr)
      out.acquires = handle_kind(types().resolve(types().resolved(prototype.target).target));
    if (const Constraint* cost = function.find(EIM_COST)) out.cost = static_cast<uint32_t>(cost->low);
    out.may_block = function.find(EIM_MAY_BLOCK) != nullptr;
    out_.constraints.functions.push_back(std::move(out));
  }
}

uint32_t GrantMaker::handle_kind(uint32_t pointee) {
  const std::string name = types().spell(pointee);
  return handle_kinds_.try_emplace(name, static_cast<uint32_t>(handle_kinds_.size())).first->second;
}

Argument GrantMaker::call_argument(const Function& function, const CType& prototype, uint32_t index) {
  Argument out;
  out.name = function.arguments[index];
  const uint32_t id = types().resolve(prototype.parameters[index].type);
  const CType& type = types().at(id);
  out.bytes = static_cast<uint32_t>(types().size_of(id));
  if (is_integer(type)) {
    out.is_signed = type.is_signed;
    if (const Constraint* range = function.find(EIM_ARG_RANGE, index))
      out.number = range_of(type, range->low, range->high).value_or(Scalar::unknown());
    if (const Constraint* less = function.find(EIM_ARG_LESS_THAN, index))
      out.less_than = static_cast<uint32_t>(less->low);
    return out;
  }
  out.may_be_null = function.find(EIM_ARG_NONNULL, index) == nullptr;
  const uint32_t pointee = types().resolve(type.target);
  if (function.find(EIM_RELEASES, index) != nullptr) out.releases = handle_kind(pointee);
  for (const uint32_t kind : {EIM_ARG_BUFFER_IN, EIM_ARG_BUFFER_OUT, EIM_ARG_BUFFER_INOUT}) {
    const Constraint* buffer = function.find(kind, index);
    if (buffer == nullptr) continue;
    out.kind = Argument::Kind::kBuffer;
    out.length_argument = static_cast<uint32_t>(buffer->low);
    out.in = kind != EIM_ARG_BUFFER_OUT;
    out.out = kind != EIM_ARG_BUFFER_IN;
    return out;
  }
  if (function.find(EIM_ARG_CONST_STRING, index) != nullptr) {
    out.kind = Argument::Kind::kConstString;
    return out;
  }
  object_or_opaque(pointee, out);
  return out;
}

Argument GrantMaker::call_result(const Function& function, const CType& prototype) {
  Argument out;
  out.name = "result";
  const uint32_t id = types().resolve(prototype.target);
  const CType& type = types().at(id);
  out.bytes = static_cast<uint32_t>(types().size_of(id));  // 0: void
  if (type.kind == TypeKind::kPointer) {
    const bool promised =
        function.find(EIM_RET_NONNULL) != nullptr || function.find(EIM_RET_MAYBE_NULL) != nullptr;
    out.may_be_null = function.find(EIM_RET_NONNULL) == nullptr;
    // Without a promise nothing is known of the pointer, not even that it points to anything.
    if (promised || function.find(EIM_ACQUIRES) != nullptr) {
      object_or_opaque(types().resolve(type.target), out);
    } else {
      out.kind = Argument::Kind::kOpaque;
    }
    return out;
  }
  if (!is_integer(type)) return out;
  out.is_signed = type.is_signed;
  out.number = type_range(type);
  for (const Constraint& constraint : function.constraints) {
    std::optional<Scalar> range;
    switch (constraint.kind) {
      case EIM_RET_POSITIVE:
        range = range_of(type, 1, INT64_MAX);
        break;
      case EIM_RET_NONNEGATIVE:
        range = range_of(type, 0, INT64_MAX);
        break;
      case EIM_RET_ERRNO:
        range = range_of(type, -4095, 0);
        break;
      case EIM_RET_RANGE:
        range = range_of(type, constraint.low, constraint.high);
        break;
      default:
        break;
    }
    // INT64_MAX stands for "no upper bound" of an unsigned 64-bit result, too.
    if (range && !type.is_signed && type.size == 8 && constraint.kind != EIM_RET_RANGE &&
        constraint.kind != EIM_RET_ERRNO)
      range = verifier::Scalar::unsigned_range(constraint.kind == EIM_RET_POSITIVE ? 1 : 0, UINT64_MAX);
    if (range) out.number = *range;
  }
  return out;
}

void GrantMaker::make_globals() {
  for (const State& state : manifest_.states) {
    if (std::any_of(out_.constraints.globals.begin(), out_.constraints.globals.end(),
                    [&](const auto& global) { return global.name == state.expression; }))
      continue;
    verifier::HostGlobal out;
    out.name = state.expression;
    const auto id = host_.variables.find(state.expression);
    out.id = id == host_.variables.end() ? 0 : id->second;
    Rights rights;
    rights.position = class_.position;
    if (const auto granted = state_rights_.find(state.expression); granted != state_rights_.end()) {
      rights = granted->second;
      out.granted = true;
    }
    // Known to messages and policies by the capability; without a grant there is no view to say anything of.
    auto view = views_.make(state.type, rights, out.granted ? state.name : "", 0, state.expression);
    if (!view) {
      note(view.error());
    } else {
      out.view = *view;
      out_.constraints.globals.push_back(std::move(out));
    }
  }
}

}  // namespace bpftime::eim
