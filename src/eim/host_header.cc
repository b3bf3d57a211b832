// The C header for extensions. Types are written in an order in which C can read them: what a struct holds by value comes before
// it, everything else is declared first.
#include <algorithm>
#include <set>
#include <sstream>

#include "eim/host_btf.h"

namespace bpftime::eim {
namespace {

using program::CType;
using program::TypeKind;

bool is_composite(TypeKind kind) { return kind == TypeKind::kStruct || kind == TypeKind::kUnion; }

class Header {
 public:
  explicit Header(const Manifest& manifest) : manifest_(manifest), table_(prefixed(manifest.types)) {
    written_.resize(table_.types.size());
  }

  std::string run(const std::string& host_path) {
    std::string body;
    for (uint32_t id = 1; id < table_.types.size(); ++id) define(id, body, 0);
    std::string out = preamble(host_path) + forwards() + body;
    out += "\n#pragma clang attribute pop\n";
    functions(out);
    variables(out);
    entries(out);
    out += "\n#endif\n";
    return out;
  }

 private:
  // The same table with C identifiers, prefixed, as its names. Base types keep theirs.
  static program::TypeTable prefixed(program::TypeTable table) {
    for (CType& type : table.types) {
      const bool named = is_composite(type.kind) || type.kind == TypeKind::kEnum ||
                         type.kind == TypeKind::kForward || type.kind == TypeKind::kTypedef;
      if (named && !type.name.empty()) type.name = host_name(type.name);
      if (type.kind == TypeKind::kInteger && !is_c_name(type.name)) type.name = base_name(type);
      if (type.kind == TypeKind::kInteger && type.size == 16)
        type.name = type.is_signed ? "__int128" : "unsigned __int128";
      if (type.kind == TypeKind::kFloat)
        type.name = type.size == 4 ? "float" : type.size == 8 ? "double" : "long double";
      for (auto& member : type.members) member.name = c_name(member.name);
    }
    return table;
  }
  // Not wchar_t, char16_t or bool of C++.
  static bool is_c_name(const std::string& name) {
    static const std::set<std::string> kWords = {"char", "short", "int", "long", "signed", "unsigned"};
    std::istringstream words(name);
    bool any = false;
    for (std::string word; words >> word; any = true) {
      if (!kWords.contains(word)) return false;
    }
    return any;
  }
  static std::string base_name(const CType& type) {
    if (type.is_bool) return "_Bool";
    const std::string width = type.size == 1   ? "char"
                              : type.size == 2 ? "short"
                              : type.size == 4 ? "int"
                                               : "long long";
    return (type.is_signed ? "signed " : "unsigned ") + width;
  }
  static std::string c_name(const std::string& name) {
    std::string out;
    for (const char c : name)
      out += (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ? c : '_';
    return out;
  }

  // Texts of the file go into comments and strings: nothing in them may end those.
  static std::string harmless(const std::string& text) {
    std::string out;
    for (const char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\' ? '_' : c;
    return out;
  }

  std::string preamble(const std::string& host_path) const {
    std::string out = "// Made by `bpftime eim header`; for extensions of " + harmless(manifest_.path) + "\n";
    out +=
        "#ifndef HOST_EXT_H\n#define HOST_EXT_H\n\n#ifndef __VMLINUX_H__\n#include "
        "<linux/bpf.h>\n#endif\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_core_read.h>\n\n";
    out +=
        "// A bit-field's value. Loaded plainly, clang's byte and libbpf's relocation may be of different "
        "storage units.\n"
        "#define HOST_BITS(pointer, member) \\\n  ({ __typeof__(pointer) host_bits_of_ = (pointer); \\\n"
        "     _Pragma(\"clang diagnostic push\") _Pragma(\"clang diagnostic ignored "
        "\\\"-Wdeprecated-declarations\\\"\") \\\n"
        "     BPF_CORE_READ_BITFIELD(host_bits_of_, member); _Pragma(\"clang diagnostic pop\") })\n\n"
        "// Writes one, and not one bit more: cleared and then set by atomic operations (clang: -mcpu=v3).\n"
        "#define HOST_SET_BITS(pointer, member, value) \\\n  ({ __typeof__(pointer) host_bits_of_ = "
        "(pointer); \\\n"
        "     _Pragma(\"clang diagnostic push\") _Pragma(\"clang diagnostic ignored "
        "\\\"-Wdeprecated-declarations\\\"\") \\\n"
        "     unsigned long long host_right_ = __CORE_RELO(host_bits_of_, member, RSHIFT_U64), \\\n"
        "         host_at_ = 8ull * __CORE_RELO(host_bits_of_, member, BYTE_OFFSET) + host_right_ - \\\n"
        "                    __CORE_RELO(host_bits_of_, member, LSHIFT_U64), \\\n"
        "         host_mask_ = -1ull >> host_right_, host_new_ = (value) & host_mask_; \\\n"
        "     _Pragma(\"clang diagnostic pop\") \\\n"
        "     if (host_at_ % 32 + 64 - host_right_ <= 32) { \\\n"
        "       unsigned int *host_word_ = (unsigned int *)((char *)host_bits_of_ + host_at_ / 32 * 4); \\\n"
        "       __sync_fetch_and_and(host_word_, ~(unsigned int)(host_mask_ << host_at_ % 32)); \\\n"
        "       __sync_fetch_and_or(host_word_, (unsigned int)(host_new_ << host_at_ % 32)); \\\n"
        "     } else { \\\n"
        "       unsigned long long *host_word_ = (unsigned long long *)((char *)host_bits_of_ + host_at_ / "
        "64 * 8); \\\n"
        "       __sync_fetch_and_and(host_word_, ~(host_mask_ << host_at_ % 64)); \\\n"
        "       __sync_fetch_and_or(host_word_, host_new_ << host_at_ % 64); \\\n"
        "     } })\n\n";
    if (!host_path.empty()) {
      out += "#ifndef HOST_PATH\n#define HOST_PATH \"" + harmless(host_path) + "\"\n#endif\n";
    }
    out += "#ifdef HOST_PATH\n#define HOST_SEC(function) SEC(\"uprobe/\" HOST_PATH \":\" function)\n";
    out += "#else\n#define HOST_SEC(function) SEC(\"uprobe\")\n#endif\n\n";
    out += "#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)\n\n";
    return out;
  }

  std::string forwards() const {
    std::set<std::string> lines;
    for (const CType& type : table_.types) {
      if (type.name.empty()) continue;
      if (is_composite(type.kind))
        lines.insert((type.kind == TypeKind::kUnion ? "union " : "struct ") + type.name + ";\n");
      if (type.kind == TypeKind::kForward)
        lines.insert((type.is_union ? "union " : "struct ") + type.name + ";\n");
    }
    std::string out;
    for (const std::string& line : lines) out += line;
    return out;
  }

  // Writes what `id` needs complete, then itself, once. Pointers need a declaration only, but of a typedef the whole.
  void define(uint32_t id, std::string& out, uint32_t depth) {
    if (id == 0 || id >= written_.size() || written_[id] || depth > 512) return;
    written_[id] = true;
    const CType& type = table_.at(id);
    switch (type.kind) {
      case TypeKind::kPointer:
        // Behind a pointer a struct may stay undefined: cycles end here.
        if (!is_composite(table_.at(type.target).kind)) define(type.target, out, depth + 1);
        return;
      case TypeKind::kFunction:
        define_behind(type.target, out, depth);
        for (const auto& parameter : type.parameters) define_behind(parameter.type, out, depth);
        return;
      case TypeKind::kTypedef:
        define_behind(type.target, out, depth);
        if (is_new(type)) out += typedef_line(type);
        return;
      case TypeKind::kEnum:
        if (is_new(type)) enumeration(id, type, out);
        return;
      case TypeKind::kStruct:
      case TypeKind::kUnion:
        for (const auto& member : type.members) {
          define(member.type, out, depth + 1);
          complete(member.type, out, depth);
        }
        if (!type.name.empty() && is_new(type)) out += "\n" + composite(type, "", 0) + ";\n";
        return;
      default:
        define(type.target, out, depth + 1);
    }
  }
  // A named struct may stay undefined for a typedef and a prototype; an anonymous one is written in place.
  void define_behind(uint32_t id, std::string& out, uint32_t depth) {
    const CType& type = table_.at(id);
    if (!is_composite(type.kind) || type.name.empty()) define(id, out, depth + 1);
  }

  // What is held by value must be defined, also behind typedefs and arrays.
  void complete(uint32_t id, std::string& out, uint32_t depth) {
    id = table_.resolve(id);
    for (uint32_t i = 0; i < program::kTypeDepthMax && table_.at(id).kind == TypeKind::kArray; ++i)
      id = table_.resolve(table_.at(id).target);
    if (is_composite(table_.at(id).kind)) define(id, out, depth + 1);
  }

  // Each source of a program brings its own copy of a type: the first of a name is written.
  bool is_new(const CType& type) {
    const char* space = type.kind == TypeKind::kTypedef ? "t " : "s ";
    return type.name.empty() || names_.insert(space + type.name).second;
  }

  std::string typedef_line(const CType& type) const {
    const CType& target = table_.at(type.target);
    if (is_composite(target.kind) && target.name.empty())
      return "\ntypedef " + composite(target, "", 0) + " " + type.name + ";\n";
    return "typedef " + declare(type.target, type.name, 0) + ";\n";
  }

  void enumeration(uint32_t, const CType& type, std::string& out) {
    if (type.name.empty()) return;
    std::string values;
    for (const auto& value : type.enumerators) {
      // Enumerators of all enums share one name space.
      const std::string name = host_name(value.name);
      if (names_.insert("v " + name).second)
        values +=
            "  " + name + " = " + std::to_string(value.value) + (value.value > INT32_MAX ? "LL" : "") + ",\n";
    }
    if (values.empty()) values = "  " + type.name + "_none,\n";
    out += "\nenum " + type.name + " {\n" + values + "};\n";
  }

  // "int (*name)(struct host__request *)": as TypeTable::spell does, with a name and anonymous types in place.
  std::string declare(uint32_t id, const std::string& name, uint32_t depth) const {
    const CType& type = table_.at(id);
    if (depth > 24) return "void *" + name;
    const std::string space = name.empty() ? "" : " " + name;
    switch (type.kind) {
      case TypeKind::kPointer: {
        const TypeKind pointee = table_.at(type.target).kind;
        const bool wrapped = pointee == TypeKind::kArray || pointee == TypeKind::kFunction;
        return declare(type.target, wrapped ? "(*" + name + ")" : "*" + name, depth + 1);
      }
      case TypeKind::kArray:
        return declare(type.target, name + "[" + (type.count ? std::to_string(type.count) : "0") + "]",
                       depth + 1);
      case TypeKind::kConst:
        // On a pointer const stands behind the star; without it the type is as good for us.
        if (table_.at(type.target).kind == TypeKind::kPointer) return declare(type.target, name, depth + 1);
        return "const " + declare(type.target, name, depth + 1);
      case TypeKind::kVolatile:
      case TypeKind::kRestrict:
        return declare(type.target, name, depth + 1);
      case TypeKind::kFunction: {
        std::string list;
        for (const auto& parameter : type.parameters)
          list += (list.empty() ? "" : ", ") + declare(parameter.type, "", depth + 1);
        if (type.is_variadic) list += ", ...";
        return declare(type.target, name + "(" + (list.empty() ? "void" : list) + ")", depth + 1);
      }
      case TypeKind::kStruct:
      case TypeKind::kUnion:
        if (type.name.empty()) return composite(type, "", depth + 1) + space;
        return (type.kind == TypeKind::kUnion ? "union " : "struct ") + type.name + space;
      case TypeKind::kForward:
        return (type.is_union ? "union " : "struct ") + type.name + space;
      case TypeKind::kEnum:
        return (type.name.empty() ? base_name(type) : "enum " + type.name) + space;
      case TypeKind::kVoid:
        return "void" + space;
      default:
        return type.name + space;
    }
  }

  std::string composite(const CType& type, const std::string&, uint32_t depth) const {
    std::string out = (type.kind == TypeKind::kUnion ? "union" : "struct") +
                      (type.name.empty() ? "" : " " + type.name) + " {\n";
    const std::string indent(2 * std::min<uint32_t>(depth + 1, 8), ' ');
    for (const auto& member : type.members) {
      const CType& target = table_.resolved(member.type);
      if (member.name.empty() && !(is_composite(target.kind) && target.name.empty())) continue;  // padding
      std::string line = declare(member.type, member.name, depth + 1);
      // Where a plain use of one would load from is not where libbpf says it is (see HOST_BITS).
      if (member.bit_size != 0)
        line += " : " + std::to_string(member.bit_size) +
                (member.name.empty() ? ""
                                     : " __attribute__((deprecated(\"a bit-field: HOST_BITS(pointer, " +
                                           member.name + ")\")))");
      out += indent + line + ";\n";
    }
    return out + indent.substr(2) + "}";
  }

  void functions(std::string& out) const {
    if (!manifest_.functions.empty()) out += "\n";
    for (const Function& function : manifest_.functions) {
      const CType& prototype = table_.at(function.prototype);
      std::string list;
      for (size_t i = 0; i < prototype.parameters.size(); ++i)
        list += (i ? ", " : "") + declare(prototype.parameters[i].type, function.arguments[i], 0);
      out += "extern " +
             declare(prototype.target, host_name(function.name) + "(" + (list.empty() ? "void" : list) + ")",
                     0) +
             " __ksym;\n";
    }
  }

  void variables(std::string& out) const {
    std::set<std::string> seen;
    for (const State& state : manifest_.states) {
      // A writable view of the variable: what may be stored is for the verifier to say.
      if (seen.insert(state.expression).second)
        out += "extern " + declare(state.type, host_name(state.expression), 0) + " __ksym;\n";
    }
  }

  // One macro per entry: the program's section, its context of 8-byte slots, and a body with the host's own arguments.
  void entries(std::string& out) const {
    for (const Function& entry : manifest_.entries) {
      const CType& prototype = table_.at(entry.prototype);
      std::string parameters, arguments;
      for (size_t i = 0; i < prototype.parameters.size(); ++i) {
        const uint32_t type = prototype.parameters[i].type;
        parameters += ", " + declare(type, entry.arguments[i], 0);
        const std::string slot = "ctx[" + std::to_string(i) + "]", as = declare(type, "", 0);
        // Narrow numbers are loaded narrowly: a cast of the slot costs two shifts, which the verifier cannot see through.
        const TypeKind kind = table_.resolved(type).kind;
        const bool narrow =
            (kind == TypeKind::kInteger || kind == TypeKind::kEnum) && table_.size_of(type) < 8;
        arguments += narrow ? ", *(" + as + " *)&" + slot : ", (" + as + ")" + slot;
      }
      const std::string body =
          "static __attribute__((always_inline)) int program##_body(unsigned long long *ctx" + parameters +
          ")";
      out += "\n// " + harmless(manifest_.types.spell(entry.prototype)) + ": " + harmless(entry.function) +
             ", " + harmless(entry.place.text()) + "\n";
      out += "#define " + host_name(entry.name) + "(program) \\\n  " + body + "; \\\n";
      out += "  HOST_SEC(\"" + entry.symbol +
             "\") int program(unsigned long long *ctx) { return program##_body(ctx" + arguments +
             "); } \\\n  " + body + "\n";
    }
  }

  const Manifest& manifest_;
  const program::TypeTable table_;
  std::vector<bool> written_;
  std::set<std::string> names_;
};

}  // namespace

std::string host_header(const Manifest& manifest, const std::string& host_path) {
  return Header(manifest).run(host_path);
}

}  // namespace bpftime::eim
