// Any bytes as BTF, func_info and line_info: a table or an error.
#include "verifier/source_lines.h"

// [u8 instructions][u8 func_info records][u8 record size][func_info][the rest: half line_info, half BTF]
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  ByteReader reader(Bytes(data, size));
  const auto insns = reader.read<uint8_t>(), functions = reader.read<uint8_t>(),
             record_size = reader.read<uint8_t>();
  if (!insns || !functions || !record_size) return 0;
  verifier::Request request;
  request.program.insns.assign(*insns, {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0});
  request.func_info_record_size = request.line_info_record_size = *record_size;
  if (auto table = reader.read_bytes(size_t{*functions} * *record_size))
    request.func_info.assign(table->begin(), table->end());
  const Bytes lines = *reader.read_bytes(reader.remaining() / 2);
  const Bytes btf = *reader.read_bytes(reader.remaining());
  request.line_info.assign(lines.begin(), lines.end());
  request.btf.assign(btf.begin(), btf.end());
  const auto read = verifier::SourceLines::read(request);
  if (!read) return 0;
  for (uint32_t insn = 0; insn <= *insns; ++insn) {
    const auto* line = read->find(insn);
    if (line != nullptr && line->insn > insn) __builtin_trap();
    if (read->function_of(insn).size() > size) __builtin_trap();
  }
  return 0;
}
