// Calls of the host's functions and its variables, by the class's constraints: what is not granted there is refused. What a
// function promises about its result is assumed afterwards, and noted in Facts::promises_used.
//
// A pointer that was read out of host memory ("walked") may dangle, and a host function would crash on it: only pointers that the
// host handed over itself (arguments, results, variables) are passed back to it.
#include <linux/bpf.h>

#include <algorithm>
#include <string>

#include "verifier/calls.h"
#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

constexpr uint64_t kEnumeratedMax = 4096;  // of a range that is compared with a list of values, one by one
constexpr size_t kArgumentsMax = 5;

struct HostCall {
  Engine& engine;
  const Constraints& constraints;
  const HostFunction& function;
  uint32_t released = 0;  // reference

  std::string name(uint32_t index) const {
    const std::string& given = function.arguments[index].name;
    return "argument " + std::to_string(index + 1) + (given.empty() ? "" : " (`" + given + "`)") + " of `" +
           function.name + "`";
  }
  // Argument `index` breaks a rule.
  bool refuse(Rule rule, uint32_t index, const std::string& why) const {
    return engine.refuse_register(rule, index + 1, name(index) + " " + why);
  }
};

// The number as the callee sees it: the low `bytes`, extended by its type.
Scalar as_argument(const Scalar& number, const Argument& argument) {
  if (argument.bytes == 0 || argument.bytes >= 8) return number;
  if (argument.is_signed) return sign_extend(number, argument.bytes * 8, true);
  return truncate(number, argument.bytes);
}

bool is_one_of(const Scalar& number, const Argument& argument) {
  const uint64_t mask =
      argument.bytes == 0 || argument.bytes >= 8 ? ~0ull : (1ull << (argument.bytes * 8)) - 1;
  const auto listed = [&](uint64_t value) {
    return std::any_of(argument.values.begin(), argument.values.end(),
                       [&](uint64_t allowed) { return ((allowed ^ value) & mask) == 0; });
  };
  if (number.umax - number.umin <= kEnumeratedMax) {
    for (uint64_t value = number.umin;; ++value) {
      if (number.contains(value) && !listed(value)) return false;
      if (value == number.umax) return true;
    }
  }
  if (number.smax < number.smin ||
      static_cast<uint64_t>(number.smax) - static_cast<uint64_t>(number.smin) > kEnumeratedMax)
    return false;
  for (int64_t value = number.smin;; ++value) {
    if (number.contains(static_cast<uint64_t>(value)) && !listed(static_cast<uint64_t>(value))) return false;
    if (value == number.smax) return true;
  }
}

bool check_number(const HostCall& call, uint32_t index) {
  const Argument& argument = call.function.arguments[index];
  const Value& value = call.engine.state.reg(index + 1);
  if (!value.is_number()) return call.refuse(Rule::kTYP006, index, "is a number, and a pointer is passed");
  const Scalar number = as_argument(value.scalar, argument);
  if (!argument.number.contains(number) &&
      !call.refuse(Rule::kEIM005, index,
                   "is not proved to be in " + argument.number.describe() + ": it is " + number.describe()))
    return false;
  if (!argument.values.empty() && !is_one_of(number, argument) &&
      !call.refuse(Rule::kEIM005, index,
                   "is not proved to be one of the granted values: it is " + number.describe()))
    return false;
  if (argument.less_than >= call.function.arguments.size()) return true;
  const Value& other = call.engine.state.reg(argument.less_than + 1);
  const bool is_less =
      other.is_number() &&
      number.umax < as_argument(other.scalar, call.function.arguments[argument.less_than]).umin;
  return is_less ||
         call.refuse(Rule::kEIM005, index, "is not proved to be less than " + call.name(argument.less_than));
}

bool is_at_start(const Value& value) {
  return value.off == 0 && value.scalar.is_const() && value.scalar.value() == 0;
}

bool refuse_walked(const HostCall& call, uint32_t index) {
  return call.refuse(Rule::kEIM005, index,
                     "was read from the host's memory and may dangle: pass what the host handed over itself");
}

// Null where it may not be, moved, or read from host memory.
bool check_pointer(const HostCall& call, uint32_t index) {
  const Value& value = call.engine.state.reg(index + 1);
  if (value.may_be_null && !call.function.arguments[index].may_be_null &&
      !call.refuse(Rule::kNUL001, index, "must not be null"))
    return false;
  if (!is_at_start(value) &&
      !call.refuse(Rule::kEIM005, index, "must be the pointer itself, not one into the object"))
    return false;
  return !value.walked || refuse_walked(call, index);
}

bool is_same_type(const Constraints& constraints, uint32_t passed, uint32_t wanted) {
  if (passed == wanted) return true;
  if (passed >= constraints.views.size() || wanted >= constraints.views.size()) return false;
  const std::string& type = constraints.views[passed].type;
  return !type.empty() && type == constraints.views[wanted].type;
}

bool check_object(const HostCall& call, uint32_t index) {
  const Argument& argument = call.function.arguments[index];
  const Value& value = call.engine.state.reg(index + 1);
  const bool is_opaque = argument.kind == Argument::Kind::kOpaque;
  const bool fits = value.kind == Kind::kHostObject &&
                    (is_opaque || is_same_type(call.constraints, value.index, argument.view));
  const bool is_handle = is_opaque && value.kind == Kind::kHandle;
  if (!fits && !is_handle)
    return call.refuse(Rule::kTYP002, index,
                       "must be an object of the host" +
                           (argument.view < call.constraints.views.size()
                                ? " of type `" + call.constraints.views[argument.view].type + "`"
                                : std::string()));
  return check_pointer(call, index);
}

// What the argument gives back is owned here, and was acquired as the same kind.
bool check_released(HostCall& call, uint32_t index) {
  const Argument& argument = call.function.arguments[index];
  const Value& value = call.engine.state.reg(index + 1);
  const auto& references = call.engine.state.references;
  const auto held = std::find_if(references.begin(), references.end(),
                                 [&](const Reference& reference) { return reference.id == value.reference; });
  const bool fits = (value.kind == Kind::kHandle || value.kind == Kind::kHostObject) &&
                    value.reference != 0 && held != references.end() && held->kind == 1 + argument.releases;
  if (!fits)
    return call.refuse(Rule::kREF002, index, "must be what was acquired for it and not yet released");
  if (!is_at_start(value) &&
      !call.refuse(Rule::kREF002, index, "must be the pointer itself, not one into the object"))
    return false;
  if (value.may_be_null && !call.refuse(Rule::kNUL001, index, "must not be null")) return false;
  if (call.released == value.reference && !call.refuse(Rule::kREF002, index, "is released twice"))
    return false;
  call.released = value.reference;
  return true;
}

// The buffer and its length are two members of one object, or two arguments of the entry, and neither was moved.
bool is_own_length(const Value& buffer, const Value& size) {
  return buffer.kind == Kind::kHostBuffer && buffer.length_id != 0 && buffer.length_id == size.length_id &&
         size.length_slack >= 0 && is_at_start(buffer);
}

bool check_buffer_argument(const HostCall& call, uint32_t index) {
  const Argument& argument = call.function.arguments[index];
  const Value value = call.engine.state.reg(index + 1);
  const bool has_length = argument.length_argument < call.function.arguments.size();
  if (value.is_null() && !has_length)
    return argument.may_be_null || call.refuse(Rule::kNUL001, index, "must not be null");
  if (value.is_null() && !argument.may_be_null) return call.refuse(Rule::kNUL001, index, "must not be null");
  const bool is_memory = value.is_null() || value.kind == Kind::kStack || value.kind == Kind::kMapValue ||
                         value.kind == Kind::kMemory || value.kind == Kind::kHostBuffer;
  if (!is_memory) return call.refuse(Rule::kTYP002, index, "must be a buffer");
  if (value.may_be_null) return call.refuse(Rule::kNUL001, index, "may be null");
  if (value.walked && !refuse_walked(call, index)) return false;
  const auto check = [&](Access access) {
    const bool fills = access == Access::kWrite && !argument.in;
    if (!has_length)
      return check_buffer(call.engine, index + 1, Scalar::constant(argument.length), true, access, !fills);
    const uint32_t size_register = argument.length_argument + 1;
    const Value& size = call.engine.state.reg(size_register);
    if (!size.is_number())
      return call.refuse(Rule::kTYP006, argument.length_argument, "is a length, and a pointer is passed");
    if (is_own_length(value, size) && (access == Access::kRead || !value.read_only)) return true;
    return check_size(call.engine, size_register, index + 1, true, access, fills);
  };
  if ((argument.in || !argument.out) && !check(Access::kRead)) return false;
  return !argument.out || check(Access::kWrite);
}

bool check_host_argument(HostCall& call, uint32_t index) {
  const Argument& argument = call.function.arguments[index];
  const Value& value = call.engine.state.reg(index + 1);
  if (value.kind == Kind::kUninitialised &&
      !call.engine.refuse_register(Rule::kTYP001, index + 1, call.name(index) + " has no value",
                                   reg_name(index + 1) + " !read_ok"))
    return false;
  if (argument.releases != kNone) return check_released(call, index);
  switch (argument.kind) {
    case Argument::Kind::kNumber:
      return check_number(call, index);
    case Argument::Kind::kObject:
    case Argument::Kind::kOpaque:
      if (value.is_null())
        return argument.may_be_null || call.refuse(Rule::kNUL001, index, "must not be null");
      return check_object(call, index);
    case Argument::Kind::kBuffer:
      return check_buffer_argument(call, index);
    case Argument::Kind::kConstString:
      if (value.is_null())
        return argument.may_be_null || call.refuse(Rule::kNUL001, index, "must not be null");
      return constant_string(call.engine, index + 1).has_value();
  }
  return false;
}

// The proof from here on may rest on it.
void note_promise(Engine& engine, const std::string& promise) {
  auto& used = engine.facts.promises_used;
  const auto at = std::lower_bound(used.begin(), used.end(), promise);
  if (at == used.end() || *at != promise) used.insert(at, promise);
}

Value number_result(Engine& engine, const HostFunction& function) {
  const Argument& result = function.result;
  const Scalar whole = Scalar::loaded(std::clamp(result.bytes, 1u, 8u), result.is_signed);
  if (!whole.contains(result.number) || result.number == whole) return Value::of(whole);
  note_promise(engine, function.name + ": result is in " + result.number.describe());
  return Value::of(result.number);
}

Value buffer_result(Engine& engine, const HostFunction& function) {
  const Argument& result = function.result;
  Value value = Value::pointer(Kind::kHostBuffer);
  value.read_only = !result.out;
  value.size = result.length;
  if (result.length_argument < function.arguments.size()) {
    const Value& length = engine.state.reg(result.length_argument + 1);
    value.size =
        static_cast<uint32_t>(length.is_number() ? std::min<uint64_t>(length.scalar.umin, kSizeMax) : 0);
  }
  note_promise(engine, function.name + ": result has the declared length");
  return value;
}

Value host_result(Engine& engine, const HostFunction& function) {
  const Argument& result = function.result;
  Value value;
  switch (result.kind) {
    case Argument::Kind::kNumber:
      if (result.bytes == 0) return value;
      value = number_result(engine, function);
      if (function.acquires == kNone) return value;
      value =
          Value::pointer(Kind::kHandle);  // a number that stands for something owned, such as a descriptor
      break;
    case Argument::Kind::kBuffer:
      value = buffer_result(engine, function);
      break;
    case Argument::Kind::kObject:
      value = Value::pointer(Kind::kHostObject);
      value.index = result.view;
      value.instance = engine.new_id();
      break;
    case Argument::Kind::kConstString:
    case Argument::Kind::kOpaque:
      value = Value::pointer(function.acquires != kNone ? Kind::kHandle : Kind::kHostObject);
      value.index = kNone;
      value.instance = value.kind == Kind::kHostObject ? engine.new_id() : 0;
      break;
  }
  if (function.acquires != kNone) {
    value.reference = acquire_reference(engine, 1 + function.acquires);
    if (value.kind == Kind::kHandle) value.index = function.acquires;
  }
  value.may_be_null = result.may_be_null;
  if (!value.may_be_null) note_promise(engine, function.name + ": result is not null");
  // A null test of what was acquired settles the reference too (resolve_null).
  if (value.may_be_null) value.id = value.reference != 0 ? value.reference : engine.new_id();
  return value;
}

const HostFunction* find_function(const Constraints& constraints, uint32_t id) {
  for (const HostFunction& function : constraints.functions)
    if (function.id == id) return &function;
  return nullptr;
}

bool refuse_grant(Engine& engine, Rule rule, std::string message, std::string grant) {
  if (engine.refuse(rule, std::move(message))) return true;
  if (!engine.verdict.diagnoses.empty()) engine.verdict.diagnoses.back().grant = std::move(grant);
  return false;
}

// What is known after a call nothing else could be said of (a rule is switched off).
bool skip_call(Engine& engine) {
  forget_arguments(engine);
  engine.state.reg(BPF_REG_0) = Value::of(Scalar::unknown());
  return true;
}

// Buffers that are written come last: what is written counts as initialised at once.
bool check_host_arguments(HostCall& call) {
  const auto count = static_cast<uint32_t>(call.function.arguments.size());
  for (const bool written : {false, true})
    for (uint32_t i = 0; i < count; ++i)
      if (call.function.arguments[i].out == written && !check_host_argument(call, i)) return false;
  return true;
}

}  // namespace

bool step_host_call(Engine& engine) {
  if (engine.state.lock.held && !engine.refuse(Rule::kFUN008, "nothing may be called while a lock is held",
                                               "function calls are not allowed while holding a lock"))
    return false;
  const Constraints* constraints = engine.request.constraints;
  const auto id = static_cast<uint32_t>(engine.insn().imm);
  if (constraints == nullptr)
    return engine.refuse(Rule::kFUN006, "a kernel function is called, and there is no kernel here",
                         "calling kernel function is not allowed") &&
           skip_call(engine);
  const HostFunction* function = find_function(*constraints, id);
  if (function == nullptr || !function->granted || function->arguments.size() > kArgumentsMax) {
    const std::string name =
        function == nullptr ? "number " + std::to_string(id) : "`" + function->name + "`";
    return refuse_grant(
               engine, Rule::kEIM004,
               "host function " + name + " is not granted to class `" + constraints->class_name + "`",
               function == nullptr ? std::string() : function->name) &&
           skip_call(engine);
  }
  HostCall call{engine, *constraints, *function};
  if (!check_host_arguments(call)) return false;
  if (call.released != 0) release_reference(engine, call.released);
  if (function->acquires != kNone && !check_reference_limit(engine)) return false;
  Value result = host_result(engine, *function);
  result.made_at = engine.insn_index;
  // Whatever the program has read of the host so far may have changed.
  forget_lengths(engine.state);
  forget_arguments(engine);
  engine.state.reg(BPF_REG_0) = result;
  if (function->cost > 1) engine.add_cost(function->cost - 1);
  return true;
}

bool load_host_global(Engine& engine) {
  const Constraints& constraints = *engine.request.constraints;
  const program::Insn& insn = engine.insn();
  const auto global =
      std::find_if(constraints.globals.begin(), constraints.globals.end(),
                   [&](const HostGlobal& known) { return known.id == static_cast<uint32_t>(insn.imm); });
  if (global == constraints.globals.end() || !global->granted) {
    const bool is_known = global != constraints.globals.end();
    const std::string name = is_known ? "`" + global->name + "`" : "number " + std::to_string(insn.imm);
    if (!refuse_grant(engine, Rule::kEIM006,
                      "host variable " + name + " is not granted to class `" + constraints.class_name + "`",
                      is_known ? global->name : std::string()))
      return false;
    engine.state.reg(insn.dst_reg) = Value::of(Scalar::unknown());
    return true;
  }
  Value value = Value::pointer(Kind::kHostObject);
  value.index = global->view;
  value.instance = engine.new_id();
  value.made_at = engine.insn_index;
  engine.state.reg(insn.dst_reg) = value;
  return true;
}

}  // namespace bpftime::verifier
