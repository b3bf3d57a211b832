// What records say about each other: nothing contains itself; type tags come first; targets exist and are of
// a kind that makes sense. No sizes are computed.
#include "program/btf_types.h"

namespace bpftime::program::btf {
namespace {

constexpr uint32_t kModifierChainMax = 32;

bool is_modifier(uint32_t kind) {
  return kind == BTF_KIND_TYPEDEF || kind == BTF_KIND_VOLATILE || kind == BTF_KIND_CONST ||
         kind == BTF_KIND_RESTRICT || kind == BTF_KIND_TYPE_TAG;
}
bool is_composite(uint32_t kind) { return kind == BTF_KIND_STRUCT || kind == BTF_KIND_UNION; }
bool has_size(uint32_t kind) {
  switch (kind) {
    case BTF_KIND_INT:
    case BTF_KIND_PTR:
    case BTF_KIND_ARRAY:
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
    case BTF_KIND_FLOAT:
      return true;
    default:
      return false;
  }
}

// Types that `type` refers to and a loop must not lead through; visit(id).
// By pointer: through pointers and modifiers. Otherwise by value: through arrays and members. A loop by value
// that leads through a modifier is wrong too, but Linux sees it only in some orders of records (a modifier
// once resolved through a pointer is not followed again), and what Linux loads is not refused here.
template <typename Visit>
void for_each_edge(const Type& type, bool by_pointer, Visit visit) {
  const uint32_t kind = type.kind();
  if (by_pointer) {
    if (is_modifier(kind) || kind == BTF_KIND_PTR) visit(type.fixed.type);
    return;
  }
  if (kind == BTF_KIND_ARRAY) {
    const auto array = type.element<btf_array>(0);
    visit(array.type);
    visit(array.index_type);
  }
  if (is_composite(kind)) {
    for (uint32_t i = 0; i < type.vlen(); ++i) visit(type.element<btf_member>(i).type);
  }
}

// Depth-first search with an explicit stack: hostile types nest as deep as there are records.
class LoopFinder {
 public:
  LoopFinder(const Types& types, bool by_pointer)
      : types_(types), by_pointer_(by_pointer), states_(types.records.size(), kNew) {}

  // The id of a type that leads back to itself, or 0.
  uint32_t find() {
    for (uint32_t id = 1; id < types_.records.size(); ++id) {
      if (states_[id] != kNew) continue;
      if (const uint32_t found = search_from(id)) return found;
    }
    return 0;
  }

 private:
  enum State : uint8_t { kNew, kOpen, kDone };

  uint32_t search_from(uint32_t root) {
    std::vector<uint32_t> stack = {root};
    while (!stack.empty()) {
      const uint32_t id = stack.back();
      if (states_[id] != kNew) {  // all below was seen
        states_[id] = kDone;
        stack.pop_back();
        continue;
      }
      states_[id] = kOpen;
      uint32_t found = 0;
      for_each_edge(types_.records[id], by_pointer_, [&](uint32_t target) {
        if (!types_.exists(target)) return;
        if (states_[target] == kOpen) found = target;
        if (states_[target] == kNew) stack.push_back(target);
      });
      if (found != 0) return found;
    }
    return 0;
  }

  const Types& types_;
  const bool by_pointer_;
  std::vector<State> states_;
};

class ReferenceChecker {
 public:
  // No chain of modifiers in `types` may be a loop.
  explicit ReferenceChecker(const Types& types) : types_(types), end_kinds_(types.records.size(), kUnknown) {
    for (uint32_t id = 0; id < types.records.size(); ++id) find_end(id);
  }

  // Type tags come first in a chain of modifiers, and a chain is short. A chain that leads to a type already
  // checked (a lower id) is not followed further, as in Linux.
  Result<void> check_chain(uint32_t id) const {
    bool in_tags = kind(id) == BTF_KIND_TYPE_TAG;
    uint32_t left = kModifierChainMax;
    for (uint32_t at = id; is_modifier(kind(at)); at = types_.records[at].fixed.type) {
      if (left-- == 0) return type_error(id, "chain of modifiers too long", ELOOP);
      const bool is_tag = kind(at) == BTF_KIND_TYPE_TAG;
      if (is_tag && !in_tags) return type_error(id, "type tag after a modifier");
      in_tags = in_tags && is_tag;
      if (at < id) break;
    }
    return {};
  }

  Result<void> check(uint32_t id) const {
    const Type& type = types_.records[id];
    switch (type.kind()) {
      case BTF_KIND_PTR:
      case BTF_KIND_TYPEDEF:
      case BTF_KIND_VOLATILE:
      case BTF_KIND_CONST:
      case BTF_KIND_RESTRICT:
      case BTF_KIND_TYPE_TAG:
        return is_pointable(type.fixed.type) ? Result<void>()
                                             : type_error(id, "refers to an unsuitable type");
      case BTF_KIND_ARRAY:
        return check_array(id, type.element<btf_array>(0));
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION:
        for (uint32_t i = 0; i < type.vlen(); ++i) {
          if (!is_sized(type.element<btf_member>(i).type)) return type_error(id, "member without size");
        }
        return {};
      case BTF_KIND_FUNC:
        return check_function(id, type);
      case BTF_KIND_FUNC_PROTO:
        return check_prototype(id, type);
      case BTF_KIND_VAR:
        return is_sized(type.fixed.type) ? Result<void>() : type_error(id, "variable without size");
      case BTF_KIND_DATASEC:
        for (uint32_t i = 0; i < type.vlen(); ++i) {
          if (kind(type.element<btf_var_secinfo>(i).type) != BTF_KIND_VAR)
            return type_error(id, "entry is no variable");
        }
        return {};
      case BTF_KIND_DECL_TAG:
        return check_tag(id, type);
      default:
        return {};
    }
  }

 private:
  static constexpr uint32_t kMissing = UINT32_MAX;
  static constexpr uint32_t kUnknown = UINT32_MAX - 1;

  // Fills end_kinds_ for `id` and all on its chain; each record is passed once over all calls.
  void find_end(uint32_t id) {
    uint32_t end = id;
    while (types_.exists(end) && end_kinds_[end] == kUnknown && is_modifier(kind(end)))
      end = types_.records[end].fixed.type;
    const uint32_t found = !types_.exists(end)           ? kMissing
                           : end_kinds_[end] != kUnknown ? end_kinds_[end]
                                                         : kind(end);
    for (uint32_t at = id; at != end; at = types_.records[at].fixed.type) end_kinds_[at] = found;
    if (types_.exists(end)) end_kinds_[end] = found;
  }

  uint32_t kind(uint32_t id) const { return types_.exists(id) ? types_.records[id].kind() : kMissing; }

  // The kind at the end of the chain of modifiers that starts at `id`.
  uint32_t end_kind(uint32_t id) const { return types_.exists(id) ? end_kinds_[id] : kMissing; }

  bool is_sized(uint32_t id) const { return has_size(end_kind(id)); }

  bool is_pointable(uint32_t id) const {
    const uint32_t end = end_kind(id);
    return has_size(end) || end == BTF_KIND_UNKN || end == BTF_KIND_FWD || end == BTF_KIND_FUNC_PROTO ||
           end == BTF_KIND_FUNC;
  }

  Result<void> check_array(uint32_t id, const btf_array& array) const {
    if (end_kind(array.index_type) != BTF_KIND_INT) return type_error(id, "index is no integer");
    return is_sized(array.type) ? Result<void>() : type_error(id, "element without size");
  }

  Result<void> check_function(uint32_t id, const Type& type) const {
    if (kind(type.fixed.type) != BTF_KIND_FUNC_PROTO) return type_error(id, "function without prototype");
    const Type& prototype = types_.records[type.fixed.type];
    for (uint32_t i = 0; i < prototype.vlen(); ++i) {
      const auto parameter = prototype.element<btf_param>(i);
      if (parameter.name_off == 0 && parameter.type != 0) return type_error(id, "parameter without name");
    }
    return {};
  }

  Result<void> check_prototype(uint32_t id, const Type& type) const {
    if (type.fixed.type != 0 && !is_sized(type.fixed.type)) return type_error(id, "invalid return type");
    for (uint32_t i = 0; i < type.vlen(); ++i) {
      const auto parameter = type.element<btf_param>(i);
      const bool variadic = parameter.type == 0 && i + 1 == type.vlen();
      if (variadic)
        return parameter.name_off == 0 ? Result<void>() : type_error(id, "named variadic parameter");
      if (parameter.name_off != 0 &&
          (!types_.name_in_range(parameter.name_off) || !is_identifier(types_.name(parameter.name_off)))) {
        return type_error(id, "invalid parameter name");
      }
      if (!is_sized(parameter.type)) return type_error(id, "invalid parameter type");
    }
    return {};
  }

  Result<void> check_tag(uint32_t id, const Type& type) const {
    const uint32_t target = type.fixed.type;
    const auto component = type.element<int32_t>(0);
    uint32_t components = 0;
    switch (kind(target)) {
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION:
        components = types_.records[target].vlen();
        break;
      case BTF_KIND_FUNC: {
        const uint32_t prototype = types_.records[target].fixed.type;
        if (kind(prototype) == BTF_KIND_FUNC_PROTO) components = types_.records[prototype].vlen();
        break;
      }
      case BTF_KIND_VAR:
      case BTF_KIND_TYPEDEF:
        break;
      default:
        return type_error(id, "tag of an unsuitable type");
    }
    const bool whole = component == -1;
    return whole || static_cast<uint32_t>(component) < components ? Result<void>()
                                                                  : type_error(id, "invalid component index");
  }

  const Types& types_;
  std::vector<uint32_t> end_kinds_;
};

}  // namespace

Result<void> check_references(const Types& types) {
  for (const bool by_pointer : {false, true}) {
    if (const uint32_t id = LoopFinder(types, by_pointer).find())
      return type_error(id, "contains itself", EEXIST);
  }
  const ReferenceChecker checker(types);
  for (uint32_t id = 1; id < types.records.size(); ++id) {
    if (auto checked = checker.check_chain(id); !checked) return checked;
  }
  for (uint32_t id = 1; id < types.records.size(); ++id) {
    if (auto checked = checker.check(id); !checked) return checked;
  }
  return {};
}

}  // namespace bpftime::program::btf
