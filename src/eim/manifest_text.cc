// The manifest for people: YAML, and constraints in the words of the header.
#include <bpftime/eim.h>

#include "eim/manifest.h"

namespace bpftime::eim {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

void add_functions(std::string& out, const Manifest& manifest, const char* title,
                   const std::vector<Function>& functions) {
  if (functions.empty()) return;
  out += std::string(title) + ":\n";
  for (const Function& function : functions) {
    const program::CType& prototype = manifest.types.at(function.prototype);
    out += "  - name: " + function.name + "\n";
    if (function.function != function.name) out += "    function: " + quoted(function.function) + "\n";
    if (function.symbol != function.function) out += "    symbol: " + quoted(function.symbol) + "\n";
    if (function.address != 0) out += "    address: " + hex(function.address) + "\n";
    out += "    returns: " + quoted(manifest.types.spell(prototype.target)) + "\n    arguments:";
    if (prototype.parameters.empty()) out += " []";
    out += "\n";
    for (size_t i = 0; i < prototype.parameters.size(); ++i)
      out += "      - {name: " + function.arguments[i] +
             ", type: " + quoted(manifest.types.spell(prototype.parameters[i].type)) + "}\n";
    if (!function.constraints.empty()) out += "    constraints:\n";
    for (const Constraint& constraint : function.constraints)
      out += "      - " + quoted(constraint_text(constraint)) + "\n";
    if (function.inlined) out += "    inlined: true  # some calls are not seen\n";
    out += "    declared: " + quoted(function.place.text()) + "\n";
  }
}

void add_types(std::string& out, const Manifest& manifest) {
  std::string types;
  for (const program::CType& type : manifest.types.types) {
    const bool composite = type.kind == program::TypeKind::kStruct || type.kind == program::TypeKind::kUnion;
    if (!composite || type.name.empty()) continue;
    types += std::string("  - name: ") +
             quoted((type.kind == program::TypeKind::kUnion ? "union " : "struct ") + type.name) +
             "\n    size: " + std::to_string(type.size) +
             "\n    members:" + (type.members.empty() ? " []" : "") + "\n";
    for (const auto& member : type.members) {
      types += "      - {name: " + quoted(member.name) + ", offset: " + std::to_string(member.bit_offset / 8);
      if (member.bit_size != 0)
        types +=
            ", bit: " + std::to_string(member.bit_offset % 8) + ", bits: " + std::to_string(member.bit_size);
      types += ", type: " + quoted(manifest.types.spell(member.type)) + "}\n";
    }
  }
  if (!types.empty()) out += "types:\n" + types;
}

}  // namespace

std::string constraint_text(const Constraint& constraint) {
  const std::string i = std::to_string(constraint.argument);
  const std::string low = std::to_string(constraint.low), high = std::to_string(constraint.high);
  switch (constraint.kind) {
    case EIM_RET_POSITIVE:
      return "HF_RET_POSITIVE";
    case EIM_RET_NONNEGATIVE:
      return "HF_RET_NONNEGATIVE";
    case EIM_RET_NONNULL:
      return "HF_RET_NONNULL";
    case EIM_RET_MAYBE_NULL:
      return "HF_RET_MAYBE_NULL";
    case EIM_RET_ERRNO:
      return "HF_RET_ERRNO";
    case EIM_RET_RANGE:
      return "HF_RET_RANGE(" + low + ", " + high + ")";
    case EIM_ARG_NONNULL:
      return "HF_ARG_NONNULL(" + i + ")";
    case EIM_ARG_RANGE:
      return "HF_ARG_RANGE(" + i + ", " + low + ", " + high + ")";
    case EIM_ARG_LESS_THAN:
      return "HF_ARG_LESS_THAN(" + i + ", " + low + ")";
    case EIM_ARG_BUFFER_IN:
      return "HF_ARG_BUFFER_IN(" + i + ", " + low + ")";
    case EIM_ARG_BUFFER_OUT:
      return "HF_ARG_BUFFER_OUT(" + i + ", " + low + ")";
    case EIM_ARG_BUFFER_INOUT:
      return "HF_ARG_BUFFER_INOUT(" + i + ", " + low + ")";
    case EIM_ARG_CONST_STRING:
      return "HF_ARG_CONST_STRING(" + i + ")";
    case EIM_ACQUIRES:
      return "HF_ACQUIRES";
    case EIM_RELEASES:
      return "HF_RELEASES(" + i + ")";
    case EIM_MAY_BLOCK:
      return "HF_MAY_BLOCK";
    case EIM_COST:
      return "HF_COST(" + low + ")";
    default:
      return "?";
  }
}

std::string manifest_text(const Manifest& manifest) {
  std::string out = "manifest: " + quoted(manifest.path) + "\n";
  if (!manifest.build_id.empty()) out += "build: \"" + manifest.build_id + "\"\n";
  if (manifest.is_object) out += "describes: another file\n";
  out += "types_from: " + manifest.types_from + "\n";
  add_functions(out, manifest, "entries", manifest.entries);
  add_functions(out, manifest, "functions", manifest.functions);
  if (!manifest.states.empty()) out += "states:\n";
  for (const State& state : manifest.states) {
    out += "  - {name: " + state.name + ", operation: " + (state.write ? "write" : "read") +
           ", variable: " + quoted(state.expression) + ", type: " + quoted(manifest.types.spell(state.type)) +
           (state.address != 0 ? ", address: " + hex(state.address) : "") +
           ", declared: " + quoted(state.place.text()) + "}\n";
  }
  if (!manifest.buffers.empty()) out += "buffers:\n";
  for (const Buffer& buffer : manifest.buffers) {
    const program::CType& type = manifest.types.at(buffer.type);
    out += "  - {type: " + quoted(buffer.name) + ", data: " + type.members[buffer.data].name +
           ", len: " + type.members[buffer.len].name + ", declared: " + quoted(buffer.place.text()) + "}\n";
  }
  add_types(out, manifest);
  return out;
}

}  // namespace bpftime::eim
