#include "program/type_table.h"

namespace bpftime::program {
namespace {

bool is_modifier(TypeKind kind) {
  return kind == TypeKind::kTypedef || kind == TypeKind::kConst || kind == TypeKind::kVolatile ||
         kind == TypeKind::kRestrict;
}

// Declarators from the inside out: "*", "(*)[4]", "(*)(int)".
// `budget`: types yet to be visited, over all branches; hostile prototypes can fan out without end.
std::string spell_declarator(const TypeTable& table, uint32_t id, std::string inside, uint32_t& budget) {
  const CType& type = table.at(id);
  const auto with = [&](const std::string& base) { return inside.empty() ? base : base + " " + inside; };
  if (budget == 0) return with("…");
  --budget;
  const auto named = [&](const char* keyword) {
    return with(std::string(keyword) + (type.name.empty() ? "{…}" : type.name));
  };
  switch (type.kind) {
    case TypeKind::kVoid:
      return with("void");
    case TypeKind::kInteger:
    case TypeKind::kFloat:
    case TypeKind::kTypedef:
      return with(type.name);
    case TypeKind::kStruct:
      return named("struct ");
    case TypeKind::kUnion:
      return named("union ");
    case TypeKind::kEnum:
      return named("enum ");
    case TypeKind::kForward:
      return named(type.is_union ? "union " : "struct ");
    case TypeKind::kConst:
    case TypeKind::kVolatile:
    case TypeKind::kRestrict: {
      const char* word = type.kind == TypeKind::kConst      ? "const"
                         : type.kind == TypeKind::kVolatile ? "volatile"
                                                            : "restrict";
      // A qualified pointer carries its qualifier behind the star, everything else in front.
      if (table.at(type.target).kind == TypeKind::kPointer)
        return spell_declarator(table, type.target, inside.empty() ? word : word + (" " + inside), budget);
      return std::string(word) + " " + spell_declarator(table, type.target, inside, budget);
    }
    case TypeKind::kPointer: {
      const TypeKind pointee = table.at(type.target).kind;
      std::string star = "*" + inside;
      if (pointee == TypeKind::kArray || pointee == TypeKind::kFunction) star = "(" + star + ")";
      return spell_declarator(table, type.target, star, budget);
    }
    case TypeKind::kArray:
      return spell_declarator(table, type.target,
                              inside + "[" + (type.count != 0 ? std::to_string(type.count) : "") + "]",
                              budget);
    case TypeKind::kFunction: {
      std::string list;
      for (const auto& parameter : type.parameters)
        list += (list.empty() ? "" : ", ") + spell_declarator(table, parameter.type, parameter.name, budget);
      if (type.is_variadic) list += list.empty() ? "..." : ", ...";
      return spell_declarator(table, type.target, inside + "(" + (list.empty() ? "void" : list) + ")",
                              budget);
    }
  }
  return with("?");
}

}  // namespace

uint32_t TypeTable::resolve(uint32_t id) const {
  for (uint32_t depth = 0; depth < kTypeDepthMax; ++depth) {
    if (id >= types.size()) return 0;
    if (!is_modifier(types[id].kind)) return id;
    id = types[id].target;
  }
  return 0;
}

bool TypeTable::is_const(uint32_t id) const {
  for (uint32_t depth = 0; depth < kTypeDepthMax && id < types.size(); ++depth) {
    if (types[id].kind == TypeKind::kConst) return true;
    // An array of const elements is as const as they are.
    if (!is_modifier(types[id].kind) && types[id].kind != TypeKind::kArray) return false;
    id = types[id].target;
  }
  return false;
}

uint64_t TypeTable::size_of(uint32_t id) const {
  constexpr uint64_t kSizeMax = 1ull << 32;
  uint64_t factor = 1;
  for (uint32_t depth = 0; depth < kTypeDepthMax && id < types.size(); ++depth) {
    const CType& type = types[id];
    switch (type.kind) {
      case TypeKind::kPointer:
        return factor * 8;
      case TypeKind::kInteger:
      case TypeKind::kFloat:
      case TypeKind::kStruct:
      case TypeKind::kUnion:
      case TypeKind::kEnum:
        return type.size > kSizeMax / factor ? 0 : factor * type.size;
      case TypeKind::kArray:
        if (type.count == 0 || type.count > kSizeMax / factor) return 0;
        factor *= type.count;
        id = type.target;
        break;
      case TypeKind::kTypedef:
      case TypeKind::kConst:
      case TypeKind::kVolatile:
      case TypeKind::kRestrict:
        id = type.target;
        break;
      default:
        return 0;
    }
  }
  return 0;
}

std::string TypeTable::spell(uint32_t id) const {
  uint32_t budget = 256;
  return spell_declarator(*this, id, "", budget);
}

void TypeTable::keep_reachable(const std::vector<uint32_t*>& roots) {
  const auto each_reference = [](CType& type, auto&& function) {
    function(type.target);
    for (auto& member : type.members) function(member.type);
    for (auto& parameter : type.parameters) function(parameter.type);
  };
  std::vector<uint32_t> renumbered(types.size(), 0), order = {0};
  const auto visit = [&](uint32_t id) {
    if (id == 0 || id >= types.size() || renumbered[id] != 0) return;
    renumbered[id] = static_cast<uint32_t>(order.size());
    order.push_back(id);
  };
  for (const uint32_t* root : roots) visit(*root);
  for (size_t i = 0; i < order.size(); ++i) each_reference(types[order[i]], visit);
  const auto renumber = [&](uint32_t& id) { id = id < renumbered.size() ? renumbered[id] : 0; };
  std::vector<CType> kept;
  kept.reserve(order.size());
  for (const uint32_t id : order) {
    kept.push_back(std::move(types[id]));
    each_reference(kept.back(), renumber);
  }
  for (uint32_t* root : roots) renumber(*root);
  types = std::move(kept);
}

uint32_t TypeTable::find(std::string_view name) const {
  const auto search = [&](std::string_view wanted, auto accepts) -> uint32_t {
    for (uint32_t id = 1; id < types.size(); ++id) {
      if (types[id].name == wanted && accepts(types[id].kind)) return id;
    }
    return 0;
  };
  const auto after = [&](std::string_view keyword) {
    return name.starts_with(keyword) ? name.substr(keyword.size()) : std::string_view();
  };
  if (const auto tag = after("struct "); !tag.empty())
    return search(tag, [](TypeKind k) { return k == TypeKind::kStruct; });
  if (const auto tag = after("union "); !tag.empty())
    return search(tag, [](TypeKind k) { return k == TypeKind::kUnion; });
  if (const auto tag = after("enum "); !tag.empty())
    return search(tag, [](TypeKind k) { return k == TypeKind::kEnum; });
  return search(name, [](TypeKind k) { return k != TypeKind::kForward; });
}

}  // namespace bpftime::program
