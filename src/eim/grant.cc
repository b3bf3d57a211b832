#include "eim/grant.h"

#include <bpftime/eim.h>
#include <linux/bpf.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <optional>

#include "eim/system_calls.h"
#include "eim/views.h"

namespace bpftime::eim {
namespace {

using program::CType;
using program::TypeKind;
using verifier::Argument;
using verifier::Scalar;
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

bool is_integer(const CType& type) { return type.kind == TypeKind::kInteger || type.kind == TypeKind::kEnum; }

// All values of an integer type, as a 64-bit register holds them.
Scalar type_range(const CType& type) {
  if (type.size >= 8 || type.size == 0) return Scalar::unknown();
  const unsigned bits = static_cast<unsigned>(8 * type.size);
  if (type.is_bool) return verifier::Scalar::unsigned_range(0, 1);
  if (type.is_signed)
    return verifier::Scalar::signed_range(-(int64_t{1} << (bits - 1)), (int64_t{1} << (bits - 1)) - 1);
  return verifier::Scalar::unsigned_range(0, (uint64_t{1} << bits) - 1);
}

// [low, high] cut to the type; nullopt when nothing is left.
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

class Maker {
 public:
  Maker(const Manifest& manifest, const HostBtf& host, const Policy& policy, const ExtensionClass& granted)
      : manifest_(manifest),
        host_(host),
        policy_(policy),
        class_(granted),
        views_{manifest, policy, out_.constraints.views, out_.origins} {}

  Result<Grant> run() {
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

 private:
  void note(const Result<void>& result) {
    if (!result && errors_.size() < kErrorsMax) errors_.push_back(result.error());
  }
  Error joined() const {
    Error all = errors_.front();
    for (size_t i = 1; i < errors_.size(); ++i) all.message += "\n" + errors_[i].message;
    return all;
  }
  Error error(Position position, const std::string& what) const { return policy_.error(position, what); }
  const program::TypeTable& types() const { return manifest_.types; }
  bool is_system_call() const { return entry_->at != Function::At::kFunction; }

  // ---- Capabilities, one by one ----

  Result<void> take(const Capability& capability) {
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

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const State& state : manifest_.states) names.push_back(state.name);
    for (const Function& function : manifest_.functions) names.push_back(function.name);
    return names;
  }

  Result<void> take_name(const Capability& capability) {
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

  Result<void> take_helper(const Capability& capability) {
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

  // read(readCounts.refused): a part of a variable that the host offers as a whole, or what a pointer in it leads to.
  Result<void> take_state_path(const Capability& capability, const State& state) {
    const bool write = capability.kind == Kind::kWrite;
    if (state.write != write)
      return error(capability.position, "\"" + state.name + "\" is declared for " +
                                            (state.write ? "writing" : "reading") + " (" +
                                            state.place.text() + ")");
    return add_path(manifest_, policy_, capability, state.type, state_rights_[state.expression]);
  }

  Result<void> take_access(const Capability& capability) {
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
      return error(capability.position, "\"" + name + "\" leads to " + types().spell(pointee) +
                                            (object.kind == TypeKind::kForward
                                                 ? ", whose members the manifest does not know"
                                                 : ", of unknown size: nothing in it can be granted"));
    if (write && types().is_const(pointee))
      return error(capability.position,
                   "\"" + name + "\" leads to " + types().spell(pointee) + ", which is const");
    return add_path(manifest_, policy_, capability, pointee, rights_[index]);
  }

  const Constraint* buffer_promise(size_t index) const {
    for (const uint32_t kind : {EIM_ARG_BUFFER_IN, EIM_ARG_BUFFER_OUT, EIM_ARG_BUFFER_INOUT}) {
      if (const Constraint* found = entry_->find(kind, static_cast<uint32_t>(index))) return found;
    }
    return nullptr;
  }

  Result<void> take_return(const Capability& capability) {
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

  Result<void> take_real_return(const Capability& capability, const CType& result) {
    out_.result_is_float = true;
    for (const Value& value : capability.values) {
      if (!value.name.empty() || (!value.is_real && value.low != value.high))
        return error(value.position, "a floating-point result must be given as constants");
      const double real = value.is_real       ? value.real
                          : value.is_negative ? static_cast<double>(static_cast<int64_t>(value.low))
                                              : static_cast<double>(value.low);
      const uint64_t bits = result.size == 8 ? std::bit_cast<uint64_t>(real)
                                             : std::bit_cast<uint32_t>(static_cast<float>(real));
      out_.constraints.return_values.push_back({bits, bits});
    }
    return {};
  }

  // A value of the policy as one of `type`, sign-extended to 64 bits when the type is signed.
  Result<verifier::Range> resolve(const Value& value, uint32_t type_id) const {
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

  Result<verifier::Range> enumerator(const Value& value, const CType& type) const {
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

  // ---- What the host declares ----

  Result<void> make_entry() {
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

  Result<void> entry_argument(uint32_t index, Argument& out) {
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

  bool is_length_of_granted(uint32_t index) const {
    for (uint32_t i = 0; i < rights_.size(); ++i) {
      const Constraint* buffer = rights_[i].grants_anything() ? buffer_promise(i) : nullptr;
      if (buffer != nullptr && buffer->low == index) return true;
    }
    return false;
  }

  // A pointer nothing is granted behind: of a struct's type it can be handed to host functions that take that type.
  void object_or_opaque(uint32_t pointee, Argument& out) {
    const TypeKind kind = types().at(pointee).kind;
    if (kind == TypeKind::kStruct || kind == TypeKind::kUnion || kind == TypeKind::kForward) {
      out.kind = Argument::Kind::kObject;
      out.view = views_.opaque(pointee);
    } else {
      out.kind = Argument::Kind::kOpaque;
    }
  }

  void make_functions() {
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

  // Handles are of one kind when they point to one type: by name, as each source has its own copy.
  uint32_t handle_kind(uint32_t pointee) {
    const std::string name = types().spell(pointee);
    return handle_kinds_.try_emplace(name, static_cast<uint32_t>(handle_kinds_.size())).first->second;
  }

  Argument call_argument(const Function& function, const CType& prototype, uint32_t index) {
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

  Argument call_result(const Function& function, const CType& prototype) {
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

  // f(argument in values)
  Result<void> narrow(const Function& function, const CType& prototype, const Capability& capability,
                      verifier::HostFunction& out) const {
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

  void make_globals() {
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

}  // namespace

bool is_helper_grantable(const std::string& name) { return grantable_helper(name) != nullptr; }

Result<Grant> make_grant(const Manifest& manifest, const HostBtf& host, const Policy& policy,
                         const ExtensionClass& granted) {
  return Maker(manifest, host, policy, granted).run();
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
