// Rules for whoever edits this: what a program could store must never change where a granted pointer leads or how long a granted
// buffer is said to be, so a writable member overlaps no pointer and no length of the object, granted or not.
#include "eim/views.h"

#include <algorithm>
#include <bit>

namespace bpftime::eim {
namespace {

using program::CType;
using program::TypeKind;
using verifier::View;

bool is_composite(const CType& type) {
  return type.kind == TypeKind::kStruct || type.kind == TypeKind::kUnion;
}

// The smallest range of whole bits that all values of an enumeration fit into: what C++ says its values are, and what flags that
// are combined stay in.
verifier::Scalar enum_range(const CType& type) {
  int64_t low = 0;
  uint64_t high = 0;
  for (const auto& value : type.enumerators) {
    if (type.is_signed && value.value < 0) {
      low = std::min(low, value.value);
      high |= static_cast<uint64_t>(~value.value);
    } else {
      high |= static_cast<uint64_t>(value.value);
    }
  }
  if (high == 0 && low == 0) return verifier::Scalar::unknown();
  const uint64_t mask = std::bit_ceil(high + 1) - 1;
  if (high >> 62 != 0) return verifier::Scalar::unknown();
  if (low < 0)
    return verifier::Scalar::signed_range(-static_cast<int64_t>(mask) - 1, static_cast<int64_t>(mask));
  return verifier::Scalar::unsigned_range(0, mask);
}

// The member of that name, looking into nameless structs and unions.
const CType::Member* find_member(const program::TypeTable& types, const CType& type, const std::string& name,
                                 uint32_t depth = 0) {
  for (const auto& member : type.members) {
    if (member.name == name) return &member;
    const CType& inner = types.resolved(member.type);
    if (member.name.empty() && is_composite(inner) && depth < 16) {
      if (const auto* found = find_member(types, inner, name, depth + 1)) return found;
    }
  }
  return nullptr;
}

void collect_names(const program::TypeTable& types, const CType& type, std::vector<std::string>& out,
                   uint32_t depth = 0) {
  for (const auto& member : type.members) {
    if (!member.name.empty()) out.push_back(member.name);
    const CType& inner = types.resolved(member.type);
    if (member.name.empty() && is_composite(inner) && depth < 16) collect_names(types, inner, out, depth + 1);
  }
}

// Past arrays: their elements.
uint32_t element_of(const program::TypeTable& types, uint32_t type) {
  for (uint32_t i = 0; i < program::kTypeDepthMax && types.resolved(type).kind == TypeKind::kArray; ++i)
    type = types.resolved(type).target;
  return type;
}

bool holds_pointer(const program::TypeTable& types, uint32_t type, uint32_t depth = 0) {
  const CType& one = types.resolved(element_of(types, type));
  if (one.kind == TypeKind::kPointer || depth > 16) return true;
  return is_composite(one) && std::any_of(one.members.begin(), one.members.end(), [&](const auto& m) {
           return holds_pointer(types, m.type, depth + 1);
         });
}

}  // namespace

// One walk over an object's type, down to what a single load can give.
struct ViewMaker::Flattening {
  ViewMaker& maker;
  View& view;
  const std::string& path;
  uint32_t pointers;
  struct Bytes {
    uint64_t begin, end;
  };
  std::vector<Bytes> untouchable;  // pointers, lengths, constants: of all members, granted or not
  struct Wanted {
    size_t member;
    bool exact;  // the policy names this very member
    Position position;
  };
  std::vector<Wanted> writable;

  const program::TypeTable& types() const { return maker.manifest.types; }
  static std::string join(const std::string& prefix, const std::string& name) {
    return prefix.empty() ? name : prefix + "." + name;
  }

  // In messages. An object without members is called what leads to it.
  std::string said(const std::string& name) const { return name == path ? name : join(path, name); }

  struct Context {
    bool read = false, write = false, is_const = false;
    bool in_union = false;  // then no type promises a range: another member may have stored the bytes
    const Rights* rights = nullptr;  // of this place; null: only inherited ones
    uint32_t depth = 0;
  };

  Result<void> composite(const CType& type, uint32_t id, uint64_t base, const std::string& prefix,
                         const Context& context) {
    if (context.depth > 24) return {};
    // Which members are the pointer and the length of a buffer. A length comes before all else, so that its index is known when
    // its pointer is met, and small.
    std::vector<const Buffer*> buffers(type.members.size());
    std::vector<bool> lengths(type.members.size()), lengths_read(type.members.size());
    for (size_t i = 0; i < type.members.size() && !maker.manifest.buffers.empty(); ++i) {
      buffers[i] = maker.manifest.buffer_of(id, static_cast<uint32_t>(i));
      if (buffers[i] == nullptr) continue;
      lengths[buffers[i]->len] = true;
      // Whoever may read the bytes may know how many there are.
      if (context.rights == nullptr) continue;
      const auto named = context.rights->members.find(type.members[i].name);
      if (named != context.rights->members.end() && named->second.read) lengths_read[buffers[i]->len] = true;
    }
    std::vector<size_t> order;
    for (const bool first : {true, false}) {
      for (size_t i = 0; i < type.members.size(); ++i) {
        if (lengths[i] == first) order.push_back(i);
      }
    }
    std::map<size_t, uint32_t> length_index;
    for (const size_t i : order) {
      const CType::Member& member = type.members[i];
      Context inner = context;
      ++inner.depth;
      inner.is_const = context.is_const || types().is_const(member.type);
      inner.in_union = context.in_union || type.kind == TypeKind::kUnion;
      if (member.name.empty()) {
        if (auto done = member_of(member, base, prefix, inner, nullptr, lengths[i]); !done) return done;
        continue;
      }
      inner.rights = nullptr;
      if (context.rights != nullptr) {
        if (const auto found = context.rights->members.find(member.name);
            found != context.rights->members.end())
          inner.rights = &found->second;
      }
      if (inner.rights != nullptr) {
        inner.read |= inner.rights->read;
        inner.write |= inner.rights->write;
      }
      inner.read |= lengths_read[i];
      const size_t before = view.members.size();
      uint32_t length = verifier::kNone;
      if (buffers[i] != nullptr) {
        if (const auto found = length_index.find(buffers[i]->len); found != length_index.end())
          length = found->second;
      }
      const uint32_t* as_buffer = length != verifier::kNone ? &length : nullptr;
      if (auto done = member_of(member, base, join(prefix, member.name), inner, as_buffer, lengths[i]); !done)
        return done;
      if (lengths[i] && view.members.size() == before + 1) length_index[i] = static_cast<uint32_t>(before);
    }
    return {};
  }

  Result<void> member_of(const CType::Member& member, uint64_t base, const std::string& name,
                         const Context& context, const uint32_t* buffer_length, bool is_length) {
    const uint64_t at = base + member.bit_offset / 8;
    if (member.bit_size != 0) return bit_field(member, base, name, context);
    return object(member.type, at, name, context, buffer_length, is_length);
  }

  // Something of `type` at byte `at`.
  Result<void> object(uint32_t type_id, uint64_t at, const std::string& name, const Context& context,
                      const uint32_t* buffer_length, bool is_length) {
    const uint32_t id = types().resolve(type_id);
    const CType& type = types().at(id);
    if (is_composite(type)) return composite(type, id, at, name, context);
    const uint64_t size = types().size_of(id);
    if (size == 0) return unsized(name, context);
    if (type.kind == TypeKind::kArray) return array(id, at, size, name, context);
    if (type.kind == TypeKind::kPointer || is_length || context.is_const)
      untouchable.push_back({at, at + size});
    // A grant behind a pointer needs the pointer.
    const bool behind =
        type.kind == TypeKind::kPointer && context.rights != nullptr && !context.rights->members.empty();
    View::Member out;
    out.name = name;
    out.offset = static_cast<uint32_t>(at);
    out.size = static_cast<uint32_t>(size);
    out.read = context.read || behind;
    if (auto done = gives(type, name, context, buffer_length, out); !done) return done;
    return add(std::move(out), context,
               is_length          ? "it is the length of a buffer"
               : context.is_const ? "it is const"
                                  : nullptr);
  }

  Result<void> unsized(const std::string& name, const Context& context) const {
    if (!exactly_named(context)) return {};
    return maker.policy.error(context.rights->position,
                              "\"" + name + "\" has no known size, so nothing in it can be granted");
  }
  static bool exactly_named(const Context& context) {
    return context.rights != nullptr && (context.rights->read || context.rights->write);
  }

  Result<void> gives(const CType& type, const std::string& name, const Context& context,
                     const uint32_t* buffer_length, View::Member& out) {
    using Gives = View::Member::Gives;
    if (type.kind == TypeKind::kEnum && !context.in_union) out.number = enum_range(type);
    if (type.kind == TypeKind::kInteger && type.is_bool && !context.in_union)
      out.number = verifier::Scalar::unsigned_range(0, 1);
    if (type.kind != TypeKind::kPointer) return {};
    if (buffer_length != nullptr) {
      out.gives = Gives::kBuffer;
      out.buffer_length_member = *buffer_length;
      return {};
    }
    out.gives = Gives::kOpaque;
    if (!out.read) return {};
    const uint32_t pointee = types().resolve(type.target);
    const TypeKind kind = types().at(pointee).kind;
    if (context.rights != nullptr && !context.rights->members.empty()) {
      auto made = maker.make(pointee, without_own(*context.rights), join(path, name), pointers + 1);
      if (!made) return made.error();
      out.gives = Gives::kObject;
      out.view = *made;
    } else if (kind == TypeKind::kStruct || kind == TypeKind::kUnion || kind == TypeKind::kForward) {
      auto made = maker.ungranted(pointee, join(path, name), pointers + 1);
      if (!made) return made.error();
      out.gives = Gives::kObject;
      out.view = *made;
    }
    return {};
  }
  // read(r.next) is about the pointer, not about what it leads to.
  static Rights without_own(const Rights& rights) {
    Rights out = rights;
    out.read = out.write = false;
    return out;
  }

  Result<void> array(uint32_t id, uint64_t at, uint64_t size, const std::string& name,
                     const Context& context) {
    const uint32_t element = element_of(types(), id);
    const uint64_t element_size = types().size_of(element);
    const CType& type = types().resolved(element);
    if (element_size == 0) return unsized(name, context);
    const uint64_t count = size / element_size;
    if (is_composite(type) || type.kind == TypeKind::kPointer) {
      if (count <= kElementsExpanded) {
        for (uint64_t i = 0; i < count; ++i) {
          if (auto done = object(element, at + i * element_size, name, context, nullptr, false); !done)
            return done;
        }
        return {};
      }
      if (holds_pointer(types(), element)) {
        untouchable.push_back({at, at + size});
        if (exactly_named(context))
          return maker.policy.error(context.rights->position, "\"" + name + "\" is an array of more than " +
                                                                  std::to_string(kElementsExpanded) +
                                                                  " objects with pointers: not supported");
        return {};
      }
    }
    View::Member out;
    out.name = name;
    out.offset = static_cast<uint32_t>(at);
    out.size = static_cast<uint32_t>(size);
    out.element_size = static_cast<uint32_t>(element_size);
    out.read = context.read;
    if (context.is_const) untouchable.push_back({at, at + size});
    return add(std::move(out), context, context.is_const ? "it is const" : nullptr);
  }

  // What a program loads for a bit-field is its storage unit, as libbpf's relocations compute it.
  Result<void> bit_field(const CType::Member& member, uint64_t base, const std::string& name,
                         const Context& context) {
    uint64_t unit = std::clamp<uint64_t>(types().size_of(member.type), 1, 8);
    const uint64_t first = member.bit_offset, last = first + member.bit_size;
    uint64_t at = first / 8 / unit * unit;
    while (last > (at + unit) * 8 && unit < 8) {
      unit *= 2;
      at = first / 8 / unit * unit;
    }
    // At the object's end the unit may reach beyond it; the bytes of the field itself never do.
    if (base + at + unit > view.size) {
      at = first / 8;
      unit = (last + 7) / 8 - at;
    }
    View::Member out;
    out.name = name;
    out.offset = static_cast<uint32_t>(base + at);
    out.size = static_cast<uint32_t>(unit);
    out.read = context.read;
    out.bit_field = true;
    const bool within = first >= at * 8 && last <= (at + unit) * 8 && unit <= 8 && member.bit_size < 64;
    if (within) out.bits = ((uint64_t{1} << member.bit_size) - 1) << (first - at * 8);
    return add(std::move(out), context,
               context.is_const ? "it is const"
               : within         ? nullptr
                                : "it is a bit-field across words");
  }

  // `never`: why it can never be written; null: it may.
  Result<void> add(View::Member member, const Context& context, const char* never) {
    const bool named = context.rights != nullptr && context.rights->write;
    if (context.write && never != nullptr && named)
      return maker.policy.error(context.rights->position,
                                "\"" + said(member.name) + "\" cannot be written: " + never);
    const bool pointer = member.gives != View::Member::Gives::kNumber;
    // A whole object's grant to write leaves its pointers alone; one that names a pointer lets null be stored.
    member.write = context.write && never == nullptr && (!pointer || named);
    // What is not granted is listed, too, so that a refusal can name it.
    const bool granted = member.read || member.write;
    if (!granted && (path.empty() || view.members.size() >= kMembersMax)) return {};
    if (uint64_t{member.offset} + member.size > view.size) return {};  // hostile layouts
    if (view.members.size() >= kMembersMax)
      return Error{E2BIG, "grant: " + view.type + ": more than " + std::to_string(kMembersMax) +
                              " members; grant those that are needed instead of the whole"};
    if (member.write)
      writable.push_back(
          {view.members.size(), named, context.rights != nullptr ? context.rights->position : Position{}});
    view.members.push_back(std::move(member));
    return {};
  }

  // The rule at the head of this file.
  Result<void> settle_writes() {
    for (const Wanted& wanted : writable) {
      View::Member& member = view.members[wanted.member];
      if (member.gives != View::Member::Gives::kNumber) continue;  // null only
      uint64_t begin = member.offset, end = begin + member.size;
      if (member.bit_field) {  // of its storage unit, the bytes that hold it
        end = begin + (static_cast<uint64_t>(std::bit_width(member.bits)) + 7) / 8;
        begin += static_cast<uint64_t>(std::countr_zero(member.bits)) / 8;
      }
      const bool overlaps = std::any_of(untouchable.begin(), untouchable.end(), [&](const Bytes& bytes) {
        return bytes.begin < end && begin < bytes.end;
      });
      if (!overlaps) continue;
      member.write = false;
      if (wanted.exact)
        return maker.policy.error(
            wanted.position,
            "\"" + said(member.name) +
                "\" cannot be written: it shares its bytes with a pointer, a length or a constant");
    }
    return {};
  }
};

Result<uint32_t> ViewMaker::make(uint32_t type_id, const Rights& rights, const std::string& path,
                                 uint32_t depth, const std::string& label) {
  if (depth > kPointersMax) return policy.error(rights.position, "the path follows too many pointers");
  const uint32_t id = manifest.types.resolve(type_id);
  View view;
  view.type = manifest.types.spell(id);
  const uint64_t size = manifest.types.size_of(id);
  if (size > UINT32_MAX / 2) return Error{E2BIG, "grant: " + view.type + ": larger than 2 GiB"};
  view.size = static_cast<uint32_t>(size);
  view.path = path;
  // Numbers of views are given in the order in which objects are met.
  const auto index = static_cast<uint32_t>(views.size());
  views.push_back(view);
  origins.push_back({path, id});
  Flattening flat{*this, view, path, depth, {}, {}};
  Flattening::Context context{rights.read, rights.write, manifest.types.is_const(type_id), false, &rights, 0};
  const CType& type = manifest.types.at(id);
  Result<void> done = is_composite(type)
                          ? flat.composite(type, id, 0, "", context)
                          : flat.object(id, 0, label.empty() ? path : label, context, nullptr, false);
  if (done) done = flat.settle_writes();
  if (!done) return done.error();
  views[index] = std::move(view);
  return index;
}

Result<uint32_t> ViewMaker::ungranted(uint32_t type, const std::string& path, uint32_t depth) {
  return path.empty() || views.size() >= kNamedViewsMax ? Result<uint32_t>(opaque(type))
                                                        : make(type, Rights{}, path, depth);
}

uint32_t ViewMaker::opaque(uint32_t type) {
  for (uint32_t i = 0; i < origins.size(); ++i) {
    if (origins[i].type == type && origins[i].path.empty() && views[i].members.empty()) return i;
  }
  View view;
  view.type = manifest.types.spell(type);
  view.size = static_cast<uint32_t>(std::min<uint64_t>(manifest.types.size_of(type), UINT32_MAX / 2));
  views.push_back(std::move(view));
  origins.push_back({"", type});
  return static_cast<uint32_t>(views.size() - 1);
}

Result<void> add_path(const Manifest& manifest, const Policy& policy, const Capability& capability,
                      uint32_t type, Rights& rights) {
  const bool write = capability.kind == Capability::Kind::kWrite;
  Rights* place = &rights;
  std::string said = capability.path.front();
  bool walked = false;
  for (size_t i = 1; i < capability.path.size(); ++i) {
    const std::string& name = capability.path[i];
    uint32_t object = element_of(manifest.types, type);
    const CType* here = &manifest.types.resolved(object);
    if (here->kind == TypeKind::kPointer) {
      walked = true;
      object = manifest.types.resolve(here->target);
      here = &manifest.types.at(object);
    }
    if (!is_composite(*here)) {
      const bool hidden = here->kind == TypeKind::kForward;
      return policy.error(
          capability.position,
          "\"" + said + "\" " + (hidden ? "leads to " : "is ") + manifest.types.spell(type) +
              (hidden ? ", whose members the manifest does not know" : ", which has no members"));
    }
    const CType::Member* member = find_member(manifest.types, *here, name);
    if (member == nullptr) {
      std::vector<std::string> names;
      collect_names(manifest.types, *here, names);
      return policy.error(capability.position, "\"" + said + "\" (" + manifest.types.spell(type) +
                                                   ") has no member \"" + name + "\"" +
                                                   nearest_hint(name, names));
    }
    said += "." + name;
    place = &place->members[name];
    type = member->type;
    if (write && walked)
      return policy.error(
          capability.position,
          "\"" + said + "\" lies behind a pointer that is read from the host: nothing is ever written there");
  }
  (write ? place->write : place->read) = true;
  place->position = capability.position;
  return {};
}

}  // namespace bpftime::eim
