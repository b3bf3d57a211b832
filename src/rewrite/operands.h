// One decoded instruction with its operands; for src/rewrite alone.
#pragma once

#include <Zydis/Zydis.h>

#include <optional>

#include "rewrite/decode.h"

namespace bpftime::rewrite {

struct WithOperands {
  Instruction instruction;
  ZydisDecodedInstruction raw;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];  // raw.operand_count of them
};

// As decode().
inline std::optional<WithOperands> decode_with_operands(Bytes code) {
  static const ZydisDecoder decoder = [] {
    ZydisDecoder made;
    ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return made;
  }();
  const auto instruction = decode(code);
  WithOperands out;
  if (!instruction ||
      !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code.data(), code.size(), &out.raw, out.operands)))
    return std::nullopt;
  out.instruction = *instruction;
  return out;
}

}  // namespace bpftime::rewrite
