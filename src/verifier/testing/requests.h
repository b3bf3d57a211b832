// Requests by hand, for tests of what the verifier says.
#pragma once

#include <linux/bpf.h>
#include <linux/btf.h>

#include <cstring>
#include <string>
#include <vector>

#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

using program::Insn;

inline Insn mov64(uint8_t dst, int32_t imm) { return {BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm}; }
inline Insn mov64_reg(uint8_t dst, uint8_t src) { return {BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0}; }
inline Insn add64(uint8_t dst, int32_t imm) { return {BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, imm}; }
inline Insn add64_reg(uint8_t dst, uint8_t src) { return {BPF_ALU64 | BPF_ADD | BPF_X, dst, src, 0, 0}; }
inline Insn store32(uint8_t dst, int16_t off, int32_t imm) {
  return {BPF_ST | BPF_MEM | BPF_W, dst, 0, off, imm};
}
inline Insn load32(uint8_t dst, uint8_t src, int16_t off) {
  return {BPF_LDX | BPF_MEM | BPF_W, dst, src, off, 0};
}
inline Insn load8(uint8_t dst, uint8_t src, int16_t off) {
  return {BPF_LDX | BPF_MEM | BPF_B, dst, src, off, 0};
}
inline Insn load_map(uint8_t dst, int32_t index) {
  return {BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_FD, 0, index};
}
inline Insn second_slot() { return {0, 0, 0, 0, 0}; }
inline Insn call(int32_t helper) { return {BPF_JMP | BPF_CALL, 0, 0, 0, helper}; }
inline Insn call_local(int32_t offset) { return {BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, offset}; }
inline Insn jump_if_zero(uint8_t dst, int16_t off) { return {BPF_JMP | BPF_JEQ | BPF_K, dst, 0, off, 0}; }
inline Insn jump_if_above(uint8_t dst, int32_t imm, int16_t off) {
  return {BPF_JMP | BPF_JGT | BPF_K, dst, 0, off, imm};
}
inline Insn exit() { return {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}; }

inline Request request(std::vector<Insn> insns, uint32_t type = BPF_PROG_TYPE_KPROBE) {
  Request out;
  out.program.name = "test";
  out.program.type = type;
  out.program.insns = std::move(insns);
  out.license = "GPL";
  return out;
}

inline MapConstraint hash_map(const std::string& name, uint32_t key_size, uint32_t value_size) {
  MapConstraint out;
  out.spec = {BPF_MAP_TYPE_HASH, key_size, value_size, 1, 0, 1};
  out.name = name;
  return out;
}

// One line_info record to be.
struct Source {
  uint32_t insn;
  std::string file, text;
  uint32_t line, column;
};

template <typename T>
void append(std::vector<uint8_t>& bytes, const T& value) {
  const auto* begin = reinterpret_cast<const uint8_t*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof(value));
}

// Gives the request a BTF blob with functions test, f1, f2, … (func_info at `functions`, the first at 0) and these lines.
inline void add_lines(Request& request, const std::vector<Source>& lines,
                      const std::vector<uint32_t>& functions = {0}) {
  std::string strings(1, '\0');
  const auto add_string = [&](const std::string& text) {
    const auto offset = static_cast<uint32_t>(strings.size());
    strings += text.substr(0, text.find('\0'));
    strings.push_back('\0');
    return offset;
  };
  std::vector<uint8_t> types;
  // 1: int. 2: int (void). From 3 on: the functions.
  append(types, btf_type{add_string("int"), BTF_KIND_INT << 24, {4}});
  append(types, uint32_t{BTF_INT_SIGNED << 24 | 32});
  append(types, btf_type{0, BTF_KIND_FUNC_PROTO << 24, {1}});
  request.func_info.clear();
  for (size_t i = 0; i < functions.size(); ++i) {
    append(types, btf_type{add_string(i == 0 ? "test" : "f" + std::to_string(i)), BTF_KIND_FUNC << 24, {2}});
    append(request.func_info, functions[i]);
    append(request.func_info, static_cast<uint32_t>(3 + i));
  }
  request.func_info_record_size = 8;
  request.line_info.clear();
  for (const Source& line : lines) {
    append(request.line_info, line.insn);
    append(request.line_info, add_string(line.file));
    append(request.line_info, add_string(line.text));
    append(request.line_info, line.line << 10 | line.column);
  }
  request.line_info_record_size = 16;
  btf_header header{};
  header.magic = BTF_MAGIC;
  header.version = BTF_VERSION;
  header.hdr_len = sizeof(header);
  header.type_len = static_cast<uint32_t>(types.size());
  header.str_off = header.type_len;
  header.str_len = static_cast<uint32_t>(strings.size());
  request.btf.clear();
  append(request.btf, header);
  request.btf.insert(request.btf.end(), types.begin(), types.end());
  request.btf.insert(request.btf.end(), strings.begin(), strings.end());
}

}  // namespace bpftime::verifier::testing
