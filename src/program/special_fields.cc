#include "program/special_fields.h"

#include <algorithm>
#include <string_view>

namespace bpftime::program {
namespace {

struct Known {
  std::string_view name;
  SpecialKind kind;
  uint32_t size, alignment;
};
constexpr Known kKnown[] = {{"bpf_spin_lock", SpecialKind::kSpinLock, 4, 4},
                            {"bpf_timer", SpecialKind::kTimer, 16, 8},
                            {"bpf_wq", SpecialKind::kWorkqueue, 16, 8}};

class Search {
 public:
  Search(const TypeTable& table, uint32_t value_size) : table_(table), value_size_(value_size) {}

  // False: there is something that Linux does not take, so nothing of it counts.
  bool look_in(const CType& type, uint64_t offset, uint32_t depth) {
    if (depth == kTypeDepthMax) return false;
    for (const CType::Member& member : type.members) {
      // Types may share members without end (hostile BTF): struct a { struct b x, y; }, struct b { struct c x, y; } …
      if (budget_-- == 0) return false;
      if (member.bit_size != 0 || member.bit_offset % 8 != 0) continue;
      if (!look_at(member.type, offset + member.bit_offset / 8, depth)) return false;
    }
    return true;
  }

  std::vector<SpecialField> take() { return std::move(found_); }

 private:
  const TypeTable& table_;
  const uint64_t value_size_;
  uint32_t budget_ = 65536;
  std::vector<SpecialField> found_;

  // Another name (typedef) for such a struct hides it from Linux, and so from us.
  bool look_at(uint32_t id, uint64_t offset, uint32_t depth) {
    const CType* type = &table_.at(id);
    uint64_t elements = 1;
    for (uint32_t level = 0; type->kind == TypeKind::kArray; ++level) {
      if (level == kTypeDepthMax || type->count == 0) return true;
      elements = std::min<uint64_t>(elements * std::min<uint64_t>(type->count, 2), 2);
      type = &table_.at(type->target);
    }
    if (type->kind != TypeKind::kStruct) return true;
    const size_t before = found_.size();
    const auto* known = std::find_if(std::begin(kKnown), std::end(kKnown),
                                     [&](const Known& k) { return k.name == type->name; });
    if (known == std::end(kKnown) || known->size != type->size) {
      if (!look_in(*type, offset, depth + 1)) return false;
    } else if (offset % known->alignment == 0 && offset + known->size <= value_size_) {
      for (const SpecialField& other : found_)
        if (other.kind == known->kind) return false;
      found_.push_back({known->kind, static_cast<uint32_t>(offset), known->size});
    }
    return elements == 1 || found_.size() == before;
  }
};

}  // namespace

std::vector<SpecialField> special_fields(const TypeTable& table, uint32_t id, uint32_t value_size) {
  const CType& value = table.resolved(id);
  Search search(table, value_size);
  if (value.kind != TypeKind::kStruct || !search.look_in(value, 0, 0)) return {};
  auto found = search.take();
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  return found;
}

}  // namespace bpftime::program
