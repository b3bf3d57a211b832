// C types as plain data, whatever they were read from (BTF here, DWARF in symbols): what names, members and sizes mean is
// decided by those who read; this only keeps them, checked: every type id in a table is in range, every chain ends.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::program {

enum class TypeKind : uint8_t {
  kVoid,
  kInteger,
  kFloat,
  kPointer,
  kArray,
  kStruct,
  kUnion,
  kEnum,
  kForward,  // a struct or union (`is_union`) of which only the name is known
  kTypedef,
  kConst,
  kVolatile,
  kRestrict,
  kFunction,  // a prototype
};

struct CType {
  TypeKind kind = TypeKind::kVoid;
  std::string name;     // of integers, floats, structs, unions, enums, typedefs; empty: anonymous
  uint64_t size = 0;    // bytes: integers, floats, structs, unions, enums
  uint32_t target = 0;  // pointee, element, aliased or qualified type, function result
  uint64_t count = 0;   // elements of an array; 0: flexible or unknown
  bool is_signed = false, is_bool = false, is_char = false;
  bool is_union = false;     // of a forward declaration
  bool is_variadic = false;  // of a function

  struct Member {
    std::string name;  // empty: an anonymous struct or union, whose members count as ours
    uint32_t type = 0;
    uint64_t bit_offset = 0;  // from the object's start
    uint32_t bit_size = 0;    // of a bit-field; else 0
  };
  std::vector<Member> members;  // by offset

  struct Enumerator {
    std::string name;
    int64_t value = 0;  // of an unsigned enumeration: the same bits
  };
  std::vector<Enumerator> enumerators;

  struct Parameter {
    std::string name;  // declarations keep none
    uint32_t type = 0;
  };
  std::vector<Parameter> parameters;
};

inline constexpr size_t kTypesMax = 1u << 18;  // of one table
inline constexpr uint32_t kTypeDepthMax = 64;  // of modifiers, arrays and members by value

struct TypeTable {
  std::vector<CType> types = {CType{}};  // by id; 0 is void

  uint32_t add(CType type) {
    types.push_back(std::move(type));
    return static_cast<uint32_t>(types.size() - 1);
  }
  const CType& at(uint32_t id) const { return types[id < types.size() ? id : 0]; }
  // Past typedefs and qualifiers; gives up (void) on chains longer than kTypeDepthMax.
  uint32_t resolve(uint32_t id) const;
  const CType& resolved(uint32_t id) const { return at(resolve(id)); }
  bool is_const(uint32_t id) const;  // some qualifier on the way is const
  // Bytes of an object; 0 for void, functions, incomplete types, and what is too large or too deep to be true.
  uint64_t size_of(uint32_t id) const;
  // As C writes it: "const struct request *", "char [16]".
  std::string spell(uint32_t id) const;
  // Drops what `roots` do not reach and renumbers: the table's own references and the roots.
  void keep_reachable(const std::vector<uint32_t*>& roots);
  // The first type of that name: struct, union or enum with or without its keyword in front, typedef, base type. 0: none.
  uint32_t find(std::string_view name) const;
};

// A function or variable that BTF names.
struct NamedType {
  std::string name;
  uint32_t type = 0;  // of a function: its prototype
  bool is_function = false;
};

struct BtfContents {
  TypeTable table;
  std::vector<NamedType> names;
};

// Reads a whole, not split, BTF blob. Hostile input: validated first, members and sizes bounded.
Result<BtfContents> read_btf(Bytes blob);

// Makes a BTF blob. With `base`: split BTF, whose type ids and string offsets go on after the base's; else both 0.
// `prefix` is put before the names of all structs, unions, enums and their values, typedefs, functions and variables. Variables go in order
// into one DATASEC named `data_section`. What BTF cannot say (a bit-field wider or farther than its encoding) becomes bytes.
// `ids`: for each of `names` the id of its FUNC or VAR, if not null.
struct BtfBase {
  uint32_t types = 0;    // types of the base, void included
  uint32_t strings = 0;  // bytes of its string section
};
Result<std::vector<uint8_t>> write_btf(const TypeTable& table, const std::vector<NamedType>& names,
                                       const std::string& prefix, const std::string& data_section,
                                       const BtfBase& base, std::vector<uint32_t>* ids);

}  // namespace bpftime::program
