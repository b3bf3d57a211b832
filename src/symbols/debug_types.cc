// Rules for whoever edits this: DWARF is hostile. No recursion along references (types are filled from a queue, so depth and
// cycles cost nothing); recursion along the tree of DIEs is bounded by kNestingMax; every count has a limit.
#include "symbols/debug_types.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <gelf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>

#include "base/memfd.h"

namespace bpftime::symbols {
namespace {

using program::CType;
using program::TypeKind;

constexpr uint64_t kEntriesMax = 64u << 20;  // DIEs looked at
constexpr size_t kTypesMax = 1u << 17;
constexpr size_t kMembersMax = 1u << 21;  // members, values and parameters in all
constexpr size_t kNameMax = 1024;
constexpr unsigned kNestingMax = 32;
constexpr size_t kFunctionsMax = 1u << 14;

std::optional<Dwarf_Attribute> attribute(Dwarf_Die& die, unsigned name) {
  Dwarf_Attribute out;
  if (dwarf_attr_integrate(&die, name, &out) == nullptr) return std::nullopt;
  return out;
}

std::optional<uint64_t> number(Dwarf_Die& die, unsigned name) {
  auto attr = attribute(die, name);
  if (!attr) return std::nullopt;
  // A location description where a constant was meant (old compilers, hostile files) is no number.
  if (Dwarf_Block block; dwarf_formblock(&*attr, &block) == 0) return std::nullopt;
  if (Dwarf_Word value; dwarf_formudata(&*attr, &value) == 0) return value;
  if (Dwarf_Sword value; dwarf_formsdata(&*attr, &value) == 0) return static_cast<uint64_t>(value);
  return std::nullopt;
}

bool flag(Dwarf_Die& die, unsigned name) {
  auto attr = attribute(die, name);
  bool value = false;
  return attr && dwarf_formflag(&*attr, &value) == 0 && value;
}

std::string name_of(Dwarf_Die& die) {
  const char* name = dwarf_diename(&die);
  return name == nullptr ? std::string() : std::string(name, ::strnlen(name, kNameMax));
}

std::optional<Dwarf_Die> referenced(Dwarf_Die& die, unsigned name = DW_AT_type) {
  auto attr = attribute(die, name);
  Dwarf_Die out;
  if (!attr || dwarf_formref_die(&*attr, &out) == nullptr) return std::nullopt;
  return out;
}

// Calls function(child) for each child; stops when it returns false.
template <typename Function>
void each_child(Dwarf_Die& die, Function&& function) {
  Dwarf_Die child;
  if (dwarf_child(&die, &child) != 0) return;
  do {
    if (!function(child)) return;
  } while (dwarf_siblingof(&child, &child) == 0);
}

bool is_scope(int tag) {
  return tag == DW_TAG_namespace || tag == DW_TAG_structure_type || tag == DW_TAG_class_type ||
         tag == DW_TAG_union_type;
}
bool is_named_type(int tag) {
  return tag == DW_TAG_structure_type || tag == DW_TAG_class_type || tag == DW_TAG_union_type ||
         tag == DW_TAG_enumeration_type || tag == DW_TAG_typedef;
}

// Key of a DIE over all of a file: type units have offsets of their own.
const void* key_of(const Dwarf_Die& die) { return die.addr; }

class Reader {
 public:
  Reader(Dwarf* dwarf, Elf* elf, const std::string& section, const std::set<std::string>& functions)
      : dwarf_(dwarf), elf_(elf), wanted_functions_(functions) {
    find_sections(section);
  }

  Result<DebugTypes> run(const std::string& label) {
    scan();
    for (auto& [place, die] : variables_) {
      if (auto type = referenced(die)) out_.variables[place] = id_for(*type);
    }
    while (!queue_.empty() && !full_) {
      auto [id, die] = queue_.front();
      queue_.pop_front();
      fill(id, die);
    }
    if (full_) return Error{EFBIG, "read DWARF: " + label + ": more types than the limits allow"};
    return std::move(out_);
  }

 private:
  // ---- The one walk over all units: variables, functions, and where named types are defined ----

  struct Section {
    uint32_t index;
    uint64_t address, size;
  };

  void find_sections(const std::string& wanted) {
    size_t names = 0;
    if (elf_getshdrstrndx(elf_, &names) != 0) return;
    Elf_Scn* section = nullptr;
    while ((section = elf_nextscn(elf_, section)) != nullptr) {
      GElf_Shdr header;
      if (gelf_getshdr(section, &header) == nullptr) continue;
      const char* name = elf_strptr(elf_, names, header.sh_name);
      if (name != nullptr && wanted == name)
        sections_.push_back({static_cast<uint32_t>(elf_ndxscn(section)), header.sh_addr, header.sh_size});
    }
  }

  void scan() {
    Dwarf_CU* unit = nullptr;
    Dwarf_Die root;
    uint8_t type = 0;
    while (dwarf_get_units(dwarf_, unit, &unit, nullptr, &type, &root, nullptr) == 0) {
      if (root.addr != nullptr) scan_children(root, "", 0);
    }
  }

  void scan_children(Dwarf_Die& parent, const std::string& scope, unsigned depth) {
    if (depth > kNestingMax) return;
    each_child(parent, [&](Dwarf_Die& child) {
      if (++entries_ > kEntriesMax) full_ = true;
      const int tag = dwarf_tag(&child);
      if (tag == DW_TAG_variable) variable(child);
      if (tag == DW_TAG_subprogram) function(child, scope);
      if (is_named_type(tag)) named_type(child, scope);
      if (is_scope(tag)) {
        const std::string name = name_of(child);
        // What an anonymous namespace holds has the names of its surroundings.
        scan_children(child, name.empty() ? scope : scope + name + "::", depth + 1);
      }
      return !full_;
    });
  }

  void variable(Dwarf_Die& die) {
    Dwarf_Attribute attr;
    Dwarf_Op* expression = nullptr;
    size_t length = 0;
    if (dwarf_attr(&die, DW_AT_location, &attr) == nullptr ||
        dwarf_getlocation(&attr, &expression, &length) != 0)
      return;
    if (length != 1) return;
    uint64_t address = 0;
    if (expression[0].atom == DW_OP_addr) {
      address = expression[0].number;
    } else {
      Dwarf_Attribute indirect;
      if (dwarf_getlocation_attr(&attr, expression, &indirect) != 0 ||
          dwarf_formaddr(&indirect, &address) != 0)
        return;
    }
    for (const Section& section : sections_) {
      if (address >= section.address && address - section.address < section.size)
        variables_.emplace(std::make_pair(section.index, address - section.address), die);
    }
  }

  void function(Dwarf_Die& die, const std::string& scope) {
    if (Dwarf_Attribute own; dwarf_attr(&die, DW_AT_declaration, &own) != nullptr) return;
    const std::string name = name_of(die);
    if (!wanted_functions_.contains(name) || out_.functions.size() >= kFunctionsMax) return;
    DebugFunction found;
    found.name = scope + name;
    // A member function defined out of its class has the class's scope where it was declared.
    if (auto declaration = referenced(die, DW_AT_specification)) {
      const auto known = scopes_.find(key_of(*declaration));
      if (known != scopes_.end()) found.name = known->second + name;
    }
    if (Dwarf_Addr low = 0; dwarf_lowpc(&die, &low) == 0) found.address = low;
    const auto inlining = number(die, DW_AT_inline);
    found.inlined = inlining && (*inlining == DW_INL_inlined || *inlining == DW_INL_declared_inlined);
    each_child(die, [&](Dwarf_Die& child) {
      if (dwarf_tag(&child) == DW_TAG_formal_parameter) found.parameters.push_back(name_of(child));
      return found.parameters.size() < 64;
    });
    out_.functions.push_back(std::move(found));
  }

  void named_type(Dwarf_Die& die, const std::string& scope) {
    const std::string name = name_of(die);
    if (name.empty()) return;
    if (!scope.empty()) scopes_.emplace(key_of(die), scope);
    Dwarf_Attribute declaration;
    if (dwarf_tag(&die) == DW_TAG_typedef || dwarf_attr(&die, DW_AT_declaration, &declaration) != nullptr)
      return;
    definitions_.emplace(kind_letter(dwarf_tag(&die)) + scope + name, die);
  }

  static std::string kind_letter(int tag) {
    return tag == DW_TAG_union_type ? "u" : tag == DW_TAG_enumeration_type ? "e" : "s";
  }

  // ---- Types ----

  uint32_t id_for(Dwarf_Die die) {
    if (dwarf_tag(&die) == DW_TAG_unspecified_type && name_of(die) == "void") return 0;
    const auto [entry, added] = ids_.try_emplace(key_of(die), 0);
    if (!added) return entry->second;
    if (out_.table.types.size() >= kTypesMax) {
      full_ = true;
      return 0;
    }
    const uint32_t id = out_.table.add(CType{});
    entry->second = id;
    queue_.emplace_back(id, die);
    return id;
  }
  uint32_t target_of(Dwarf_Die& die) {
    auto target = referenced(die);
    return target ? id_for(*target) : 0;
  }

  std::string full_name(Dwarf_Die& die) {
    const std::string name = name_of(die);
    const auto scope = scopes_.find(key_of(die));
    return name.empty() || scope == scopes_.end() ? name : scope->second + name;
  }

  bool count_element() {
    if (++elements_ > kMembersMax) full_ = true;
    return !full_;
  }

  // `id` is filled in at the end: ids made on the way may move the table.
  void fill(uint32_t id, Dwarf_Die& die) {
    CType type;
    const int tag = dwarf_tag(&die);
    type.size = number(die, DW_AT_byte_size).value_or(0);
    switch (tag) {
      case DW_TAG_base_type:
        base(die, type);
        break;
      case DW_TAG_pointer_type:
      case DW_TAG_reference_type:
      case DW_TAG_rvalue_reference_type:
        type.kind = TypeKind::kPointer;
        type.target = target_of(die);
        break;
      case DW_TAG_const_type:
      case DW_TAG_volatile_type:
      case DW_TAG_restrict_type:
      case DW_TAG_atomic_type:
        type.kind = tag == DW_TAG_const_type      ? TypeKind::kConst
                    : tag == DW_TAG_restrict_type ? TypeKind::kRestrict
                                                  : TypeKind::kVolatile;
        type.target = target_of(die);
        break;
      case DW_TAG_typedef:
        type.kind = TypeKind::kTypedef;
        type.name = full_name(die);
        type.target = target_of(die);
        break;
      case DW_TAG_structure_type:
      case DW_TAG_class_type:
      case DW_TAG_union_type:
        composite(die, type);
        break;
      case DW_TAG_enumeration_type:
        enumeration(die, type);
        break;
      case DW_TAG_array_type:
        array(die, type);
        break;
      case DW_TAG_subroutine_type:
        prototype(die, type);
        break;
      case DW_TAG_ptr_to_member_type:
      case DW_TAG_unspecified_type:  // decltype(nullptr)
        type.kind = TypeKind::kInteger;
        type.size = 8;
        type.name = "unsigned long";
        break;
      default:
        break;
    }
    out_.table.types[id] = std::move(type);
  }

  static void base(Dwarf_Die& die, CType& type) {
    const uint64_t encoding = number(die, DW_AT_encoding).value_or(0);
    type.name = name_of(die);
    type.kind =
        encoding == DW_ATE_float || encoding == DW_ATE_complex_float || encoding == DW_ATE_decimal_float
            ? TypeKind::kFloat
            : TypeKind::kInteger;
    type.is_signed = encoding == DW_ATE_signed || encoding == DW_ATE_signed_char;
    type.is_bool = encoding == DW_ATE_boolean;
    type.is_char = encoding == DW_ATE_signed_char || encoding == DW_ATE_unsigned_char;
  }

  void composite(Dwarf_Die& declared, CType& type) {
    Dwarf_Die die = declared;
    const int tag = dwarf_tag(&die);
    type.name = full_name(die);
    if (flag(die, DW_AT_declaration)) {
      const auto definition = definitions_.find(kind_letter(tag) + type.name);
      if (definition == definitions_.end()) {
        type.kind = TypeKind::kForward;
        type.is_union = tag == DW_TAG_union_type;
        return;
      }
      die = definition->second;
      type.size = number(die, DW_AT_byte_size).value_or(0);
    }
    type.kind = tag == DW_TAG_union_type ? TypeKind::kUnion : TypeKind::kStruct;
    each_child(die, [&](Dwarf_Die& child) {
      const int kind = dwarf_tag(&child);
      if (kind == DW_TAG_member || kind == DW_TAG_inheritance) member(child, type);
      return count_element();
    });
    // Compilers write members in order; whatever else is in the file is brought into some.
    const auto before = [](const auto& a, const auto& b) { return a.bit_offset < b.bit_offset; };
    if (!std::is_sorted(type.members.begin(), type.members.end(), before))
      std::sort(type.members.begin(), type.members.end(), before);
  }

  void member(Dwarf_Die& die, CType& type) {
    // Static members of C++ classes lie elsewhere; virtual bases at a place only known at run time.
    if (flag(die, DW_AT_declaration) || flag(die, DW_AT_external)) return;
    if (dwarf_tag(&die) == DW_TAG_inheritance && number(die, DW_AT_virtuality).value_or(0) != 0) return;
    CType::Member member;
    if (dwarf_tag(&die) == DW_TAG_member) {
      member.name = name_of(die);
    } else if (auto base = referenced(die)) {
      member.name = name_of(*base);
    }
    member.type = target_of(die);
    const uint64_t bytes = number(die, DW_AT_data_member_location).value_or(0);
    const uint64_t bits = number(die, DW_AT_bit_size).value_or(0);
    if (bytes > UINT32_MAX || bits > 64) return;
    member.bit_offset = bytes * 8;
    if (bits != 0) {
      member.bit_size = static_cast<uint32_t>(bits);
      if (auto offset = number(die, DW_AT_data_bit_offset)) {
        if (*offset > UINT32_MAX) return;
        member.bit_offset = *offset;
      } else if (auto from_top = number(die, DW_AT_bit_offset)) {
        // DWARF 2: counted from the storage unit's most significant bit.
        const uint64_t storage = number(die, DW_AT_byte_size).value_or(4) * 8;
        if (storage > 64 || *from_top + bits > storage) return;
        member.bit_offset += storage - *from_top - bits;
      }
    }
    type.members.push_back(std::move(member));
  }

  void enumeration(Dwarf_Die& die, CType& type) {
    type.kind = TypeKind::kEnum;
    type.name = full_name(die);
    bool negative = false;
    each_child(die, [&](Dwarf_Die& child) {
      Dwarf_Attribute attr;
      Dwarf_Sword value = 0;
      if (dwarf_tag(&child) != DW_TAG_enumerator || dwarf_attr(&child, DW_AT_const_value, &attr) == nullptr)
        return true;
      if (dwarf_formsdata(&attr, &value) != 0) return true;
      negative |= value < 0;
      type.enumerators.push_back({name_of(child), value});
      return count_element();
    });
    type.is_signed = negative;
    if (auto underlying = referenced(die)) {
      CType integer;
      base(*underlying, integer);
      type.is_signed = integer.is_signed && negative;
      if (type.size == 0) type.size = number(*underlying, DW_AT_byte_size).value_or(4);
    }
  }

  // `int a[2][3]` has one DIE with two ranges: the outer array is `type`, the inner ones get ids of their own.
  void array(Dwarf_Die& die, CType& type) {
    std::vector<uint64_t> counts;
    each_child(die, [&](Dwarf_Die& child) {
      if (dwarf_tag(&child) != DW_TAG_subrange_type) return true;
      uint64_t count = number(child, DW_AT_count).value_or(0);
      const auto upper = number(child, DW_AT_upper_bound);
      // An upper bound of -1 is how some compilers write `[]`.
      if (count == 0 && upper && *upper < UINT32_MAX) count = *upper + 1;
      counts.push_back(count > UINT32_MAX ? 0 : count);
      return counts.size() < kNestingMax && count_element();
    });
    if (counts.empty()) counts.push_back(0);
    uint32_t element = target_of(die);
    for (size_t i = counts.size(); i-- > 1;) {
      CType inner;
      inner.kind = TypeKind::kArray;
      inner.target = element;
      inner.count = counts[i];
      if (out_.table.types.size() >= kTypesMax) {
        full_ = true;
        return;
      }
      element = out_.table.add(std::move(inner));
    }
    type.kind = TypeKind::kArray;
    type.target = element;
    type.count = counts[0];
    type.size = 0;
  }

  void prototype(Dwarf_Die& die, CType& type) {
    type.kind = TypeKind::kFunction;
    type.target = target_of(die);
    each_child(die, [&](Dwarf_Die& child) {
      if (dwarf_tag(&child) == DW_TAG_unspecified_parameters) type.is_variadic = true;
      if (dwarf_tag(&child) == DW_TAG_formal_parameter)
        type.parameters.push_back({name_of(child), target_of(child)});
      return count_element();
    });
  }

  Dwarf* dwarf_;
  Elf* elf_;
  const std::set<std::string>& wanted_functions_;
  std::vector<Section> sections_;
  std::map<std::pair<uint32_t, uint64_t>, Dwarf_Die> variables_;
  std::map<const void*, std::string> scopes_;     // of types in namespaces and classes
  std::map<std::string, Dwarf_Die> definitions_;  // kind letter and full name
  std::map<const void*, uint32_t> ids_;
  std::deque<std::pair<uint32_t, Dwarf_Die>> queue_;
  DebugTypes out_;
  uint64_t entries_ = 0;
  size_t elements_ = 0;
  bool full_ = false;
};

// Debug information of other files is not looked for: what a manifest says must come from the file it names.
int find_no_debug_file(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*, GElf_Word,
                       char**) {
  return -1;
}

}  // namespace

Result<DebugTypes> read_debug_types(Bytes image, const std::string& label, const std::string& section,
                                    const std::set<std::string>& functions) {
  // Of anything but ELF libdwfl would try to decompress.
  if (image.size() < SELFMAG || std::memcmp(image.data(), ELFMAG, SELFMAG) != 0)
    return Error{ENOEXEC, "read DWARF: " + label + ": not an ELF file"};
  // A copy of our own: libdwfl applies an object's relocations, and the file may change meanwhile.
  Fd file(::memfd_create("debug-types", MFD_CLOEXEC));
  if (!file) return Error::from_errno("read DWARF: " + label);
  for (size_t done = 0; done < image.size();) {
    const ssize_t count = ::write(file.get(), image.data() + done, image.size() - done);
    if (count <= 0) return Error::from_errno("read DWARF: " + label);
    done += static_cast<size_t>(count);
  }
  static const Dwfl_Callbacks kCallbacks = {nullptr, find_no_debug_file, dwfl_offline_section_address,
                                            nullptr};
  const std::unique_ptr<Dwfl, decltype(&dwfl_end)> session(dwfl_begin(&kCallbacks), dwfl_end);
  if (!session) return Error{ENOMEM, "read DWARF: " + label + ": out of memory"};
  Dwfl_Module* module = dwfl_report_offline(session.get(), label.c_str(), label.c_str(), file.get());
  if (module == nullptr) return Error{ENOEXEC, "read DWARF: " + label + ": " + dwfl_errmsg(-1)};
  (void)file.release();  // now the session's
  dwfl_report_end(session.get(), nullptr, nullptr);
  Dwarf_Addr bias = 0;
  Dwarf* dwarf = dwfl_module_getdwarf(module, &bias);
  if (dwarf == nullptr) return DebugTypes{};
  GElf_Addr elf_bias = 0;
  Elf* elf = dwfl_module_getelf(module, &elf_bias);
  if (elf == nullptr) return DebugTypes{};
  return Reader(dwarf, elf, section, functions).run(label);
}

}  // namespace bpftime::symbols
