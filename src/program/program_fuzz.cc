// Hostile bytes as a program: whatever validate() accepts the interpreter runs to an end without
// touching foreign memory.
#include <cstdlib>
#include <cstring>

#include "program/interpreter.h"

using namespace bpftime::program;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Program program;
  program.type = size % 2 == 0 ? BPF_PROG_TYPE_KPROBE : BPF_PROG_TYPE_SOCKET_FILTER;
  program.insns.resize(size / sizeof(Insn));
  if (!program.insns.empty()) std::memcpy(program.insns.data(), data, program.insns.size() * sizeof(Insn));
  (void)disassemble(program);
  if (!validate(program)) return 0;
  if (subprogram_starts(program).front() != 0) std::abort();
  alignas(8) static uint8_t memory[64];
  const auto begin = reinterpret_cast<uint64_t>(memory);
  InterpreterEnvironment environment;
  environment.insns_max = 10000;
  environment.helper = [](uint32_t id, const uint64_t args[5]) -> bpftime::Result<uint64_t> {
    return id ^ args[0];
  };
  environment.map_address = [&](uint32_t, uint32_t, bool) { return begin; };
  environment.may_access = [&](uint64_t address, uint32_t bytes, bool) {
    return address >= begin && bytes <= sizeof(memory) && address - begin <= sizeof(memory) - bytes;
  };
  (void)interpret(program, begin, sizeof(memory), environment);
  return 0;
}
