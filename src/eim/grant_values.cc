// Numbers of policies and manifests: results an extension may give, arguments of host functions narrowed.
#include <linux/bpf.h>

#include <algorithm>
#include <bit>

#include "eim/grant_maker.h"

namespace bpftime::eim {

using program::CType;
using program::TypeKind;
using verifier::Argument;
using verifier::Scalar;

Scalar type_range(const CType& type) {
  if (type.size >= 8 || type.size == 0) return Scalar::unknown();
  const unsigned bits = static_cast<unsigned>(8 * type.size);
  if (type.is_bool) return verifier::Scalar::unsigned_range(0, 1);
  if (type.is_signed)
    return verifier::Scalar::signed_range(-(int64_t{1} << (bits - 1)), (int64_t{1} << (bits - 1)) - 1);
  return verifier::Scalar::unsigned_range(0, (uint64_t{1} << bits) - 1);
}

std::optional<Scalar> range_of(const CType& type, int64_t low, int64_t high) {
  if (!type.is_signed) {
    if (high < 0) return std::nullopt;
    uint64_t most = static_cast<uint64_t>(high);
    if (type.size < 8) most = std::min(most, (uint64_t{1} << (8 * type.size)) - 1);
    const auto least = static_cast<uint64_t>(std::max<int64_t>(low, 0));
    if (least > most) return std::nullopt;
    return verifier::Scalar::unsigned_range(least, most);
  }
  if (type.size < 8) {
    const int64_t most = (int64_t{1} << (8 * type.size - 1)) - 1;
    low = std::max(low, -most - 1);
    high = std::min(high, most);
  }
  if (low > high) return std::nullopt;
  return verifier::Scalar::signed_range(low, high);
}

Result<void> GrantMaker::take_return(const Capability& capability) {
  auto& constraints = out_.constraints;
  if (entry_->at == Function::At::kSystemCallExit)
    return error(capability.position,
                 "a system call can be ended where it begins, not where it ends: syscalls:sys_enter_" +
                     entry_->function);
  const uint32_t id = types().resolve(prototype_->target);
  const CType& result = types().at(id);
  const std::string spelled = types().spell(prototype_->target);
  constraints.may_return = true;
  constraints.helpers_granted.push_back(BPF_FUNC_override_return);
  std::erase(constraints.helpers_denied, uint32_t{BPF_FUNC_override_return});
  if (prototype_->target == 0 || result.kind == TypeKind::kVoid) {
    if (!capability.values.empty())
      return error(capability.position, "\"" + entry_->function + "\" returns void; write return()");
    constraints.return_is_void = true;
    return {};
  }
  if (capability.values.empty())
    return error(capability.position,
                 "\"" + entry_->function + "\" returns " + spelled + "; write return(values)");
  if (result.kind == TypeKind::kFloat && (result.size == 4 || result.size == 8))
    return take_real_return(capability, result);
  if (!is_integer(result) && result.kind != TypeKind::kPointer)
    return error(capability.position, "results of type " + spelled + " cannot be given by an extension");
  for (const Value& value : capability.values) {
    auto range = resolve(value, id);
    if (!range) return range.error();
    if (result.kind == TypeKind::kPointer && (range->low != 0 || range->high != 0))
      return error(value.position, "\"" + entry_->function + "\" returns a pointer: only 0 can be given");
    constraints.return_values.push_back(*range);
  }
  return {};
}

Result<void> GrantMaker::take_real_return(const Capability& capability, const CType& result) {
  out_.result_is_float = true;
  for (const Value& value : capability.values) {
    if (!value.name.empty() || (!value.is_real && value.low != value.high))
      return error(value.position, "a floating-point result must be given as constants");
    const double real = value.is_real       ? value.real
                        : value.is_negative ? static_cast<double>(static_cast<int64_t>(value.low))
                                            : static_cast<double>(value.low);
    const uint64_t bits =
        result.size == 8 ? std::bit_cast<uint64_t>(real) : std::bit_cast<uint32_t>(static_cast<float>(real));
    out_.constraints.return_values.push_back({bits, bits});
  }
  return {};
}

Result<verifier::Range> GrantMaker::resolve(const Value& value, uint32_t type_id) const {
  const CType& type = types().at(type_id);
  if (value.is_real) return error(value.position, "expected an integer");
  if (!value.name.empty()) return enumerator(value, type);
  const Scalar all = type_range(type);
  for (const uint64_t bound : {value.low, value.high}) {
    const bool negative = value.is_negative && static_cast<int64_t>(bound) < 0;
    const bool fits = negative ? type.is_signed && all.smin <= static_cast<int64_t>(bound)
                               : bound <= (type.is_signed ? static_cast<uint64_t>(all.smax) : all.umax);
    if (!fits) return error(value.position, "the value does not fit into " + types().spell(type_id));
  }
  return verifier::Range{value.low, value.high};
}

Result<verifier::Range> GrantMaker::enumerator(const Value& value, const CType& type) const {
  std::vector<std::string> near;
  const auto look = [&](const CType& one) -> const CType::Enumerator* {
    for (const auto& candidate : one.enumerators) {
      if (candidate.name == value.name) return &candidate;
      if (near.size() < 4096) near.push_back(candidate.name);
    }
    return nullptr;
  };
  const CType::Enumerator* found = look(type);
  for (size_t id = 1; found == nullptr && id < types().types.size(); ++id) found = look(types().types[id]);
  if (found == nullptr)
    return error(value.position,
                 "no enumeration has the value \"" + value.name + "\"" + nearest_hint(value.name, near));
  const auto bits = static_cast<uint64_t>(found->value);
  return verifier::Range{bits, bits};
}

Result<void> GrantMaker::narrow(const Function& function, const CType& prototype,
                                const Capability& capability, verifier::HostFunction& out) const {
  constexpr uint64_t kListedMax = 256;
  for (const Narrowing& narrowing : capability.narrowings) {
    const auto found = std::find(function.arguments.begin(), function.arguments.end(), narrowing.argument);
    size_t index = static_cast<size_t>(found - function.arguments.begin());
    if (found == function.arguments.end()) {
      for (index = 0;
           index < function.arguments.size() && narrowing.argument != "arg" + std::to_string(index);)
        ++index;
    }
    if (index == function.arguments.size())
      return error(narrowing.position, "\"" + function.name + "\" has no argument \"" + narrowing.argument +
                                           "\"" + nearest_hint(narrowing.argument, function.arguments));
    const uint32_t id = types().resolve(prototype.parameters[index].type);
    if (!is_integer(types().at(id)))
      return error(narrowing.position, "\"" + narrowing.argument + "\" is " +
                                           types().spell(prototype.parameters[index].type) +
                                           "; only numbers can be narrowed");
    Argument& argument = out.arguments[index];
    for (const Value& value : narrowing.values) {
      auto range = resolve(value, id);
      if (!range) return range.error();
      if (!argument.number.contains(range->low) || !argument.number.contains(range->high))
        return error(value.position, "the manifest (" + function.place.text() +
                                         ") does not allow this value of \"" + narrowing.argument + "\"");
      const uint64_t count = range->high - range->low;
      if (narrowing.values.size() == 1 && count >= kListedMax) {
        const auto& type = types().at(id);
        argument.number = type.is_signed ? verifier::Scalar::signed_range(static_cast<int64_t>(range->low),
                                                                          static_cast<int64_t>(range->high))
                                         : verifier::Scalar::unsigned_range(range->low, range->high);
        continue;
      }
      if (count >= kListedMax || argument.values.size() + count >= kListedMax)
        return error(value.position,
                     "more than " + std::to_string(kListedMax) + " values; one range alone may be larger");
      for (uint64_t i = 0; i <= count; ++i) argument.values.push_back(range->low + i);
    }
  }
  return {};
}

}  // namespace bpftime::eim
