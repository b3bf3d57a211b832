#include "eim/type_check.h"

#include <cerrno>

namespace bpftime::eim {

namespace {

using program::CType;
using program::TypeKind;

class Checker {
 public:
  explicit Checker(const program::TypeTable& table) : table_(table), state_(table.types.size()) {}

  Result<void> run() {
    for (uint32_t id = 0; id < table_.types.size(); ++id)
      if (auto fine = visit(id, 0); !fine) return fine;
    return {};
  }

 private:
  enum class State : uint8_t { kNew, kOpen, kDone };

  static std::string name_of(const CType& type) {
    return type.name.empty() ? "an unnamed type" : "\"" + type.name + "\"";
  }

  Result<void> visit(uint32_t id, uint32_t depth) {
    if (id >= table_.types.size() || state_[id] == State::kDone) return {};
    const CType& type = table_.types[id];
    if (state_[id] == State::kOpen) return Error{EINVAL, "types: " + name_of(type) + " is made of itself"};
    if (depth > program::kTypeDepthMax)
      return Error{EINVAL, "types: " + name_of(type) + " is nested too deep"};
    state_[id] = State::kOpen;
    switch (type.kind) {
      case TypeKind::kTypedef:
      case TypeKind::kConst:
      case TypeKind::kVolatile:
      case TypeKind::kRestrict:
      case TypeKind::kArray:
        if (auto fine = visit(type.target, depth + 1); !fine) return fine;
        break;
      case TypeKind::kStruct:
      case TypeKind::kUnion:
        for (const CType::Member& member : type.members)
          if (auto fine = visit(member.type, depth + 1); !fine) return fine;
        break;
      default:
        break;
    }
    state_[id] = State::kDone;
    return {};
  }

  const program::TypeTable& table_;
  std::vector<State> state_;
};

}  // namespace

Result<void> check_types(const program::TypeTable& table) { return Checker(table).run(); }

}  // namespace bpftime::eim
