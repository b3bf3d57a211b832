// Hostile bytes as a whole request: program, maps, BTF, function and line information, constraints. A verdict or a clear
// error within the limits, never a crash; the same one twice; what is accepted runs without a trap.
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/bytes.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/checked_interpreter.h"
#include "verifier/testing/generator.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/mutator.h"

using namespace bpftime::verifier;
using namespace bpftime::verifier::testing;
using bpftime::ByteReader;
namespace program = bpftime::program;

namespace {

// A prefix of 16-bit length.
std::vector<uint8_t> take(ByteReader& reader) {
  const size_t wanted = reader.read<uint16_t>().value_or(0);
  const auto bytes = reader.read_bytes(std::min(wanted, reader.remaining()));
  return bytes ? std::vector<uint8_t>(bytes->begin(), bytes->end()) : std::vector<uint8_t>{};
}

std::vector<program::Insn> instructions(const std::vector<uint8_t>& bytes) {
  std::vector<program::Insn> insns(bytes.size() / sizeof(program::Insn));
  if (!insns.empty()) std::memcpy(insns.data(), bytes.data(), insns.size() * sizeof(program::Insn));
  return insns;
}

// A class with an object of members of each kind, so that typed entries are reached too.
Constraints constraints_from(uint8_t choice) {
  Constraints constraints;
  View view;
  view.type = "object";
  view.size = 32;
  View::Member number, next, data, length, flag;
  number = {.name = "n", .offset = 0, .size = 8, .read = true, .write = (choice & 1) != 0};
  next = {.name = "next", .offset = 8, .size = 8, .read = true};
  next.gives = View::Member::Gives::kObject;
  next.view = 0;
  data = {.name = "data", .offset = 16, .size = 8, .read = true};
  data.gives = View::Member::Gives::kBuffer;
  data.buffer_length_member = 3;
  length = {.name = "length", .offset = 24, .size = 4, .read = true};
  flag = {.name = "flag", .offset = 28, .size = 4, .read = true, .write = (choice & 8) != 0};
  flag.bit_field = true;
  flag.bits = (choice & 16) != 0 ? 0x6 : 0x80000000;
  view.members = {number, next, data, length, flag};
  constraints.views = {view};
  constraints.typed_entry = true;
  Argument argument;
  argument.kind = Argument::Kind::kObject;
  argument.view = 0;
  argument.may_be_null = (choice & 2) != 0;
  constraints.entry = {argument};
  HostFunction function;
  function.id = 1;
  function.granted = true;
  function.arguments = {argument};
  constraints.functions = {function};
  constraints.globals = {{"g", 1, true, 0}};
  constraints.instructions_below = (choice & 4) != 0 ? 100 : 0;
  return constraints;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader reader(bpftime::Bytes(data, size));
  const uint8_t shape = reader.read<uint8_t>().value_or(0), choice = reader.read<uint8_t>().value_or(0);
  Request request;
  if (shape & 1) {  // a program that makes sense, then edited: deeper than bytes get
    request = generate(reader.read<uint32_t>().value_or(0));
    Random random(reader.read<uint32_t>().value_or(0));
    for (uint32_t i = 0; i < (shape >> 5); ++i) mutate(request, random);
  }
  const std::vector<uint8_t> code = take(reader);
  if (!(shape & 1)) {
    request.program.insns = instructions(code);
    request.program.type = choice % 33;
    const auto& kinds = standard_map_kinds();
    for (uint32_t i = 0; i < 4; ++i)
      request.maps.push_back(*standard_map(kinds[(choice + i * 7) % kinds.size()]));
  } else if (!request.program.insns.empty()) {
    // Single instructions from the bytes over those of the program.
    const std::vector<program::Insn> patches = instructions(code);
    for (size_t i = 0; i < patches.size(); ++i)
      request.program.insns[(i * 13 + choice) % request.program.insns.size()] = patches[i];
  }
  if (shape & 2) request.btf = take(reader);
  if (shape & 4) {
    request.func_info = take(reader);
    request.func_info_record_size = reader.read<uint8_t>().value_or(8);
  }
  if (shape & 8) {
    request.line_info = take(reader);
    request.line_info_record_size = reader.read<uint8_t>().value_or(16);
  }
  const Constraints constraints = constraints_from(choice);
  if (shape & 16) request.constraints = &constraints;
  request.license = "GPL";
  request.log_level = choice & 3;  // not 4: that log has the time it took
  request.log_size_max = 1 << 16;
  request.options.limits.insns_processed = 20'000;
  request.options.limits.memory_bytes = 32u << 20;
  const Verdict first = verify(request), second = verify(request);
  if (first.error != second.error || first.log != second.log) std::abort();
  // ENOSPC: accepted, and the log was longer than its buffer.
  if (first.error != 0 && first.error != ENOSPC && first.diagnoses.empty()) std::abort();
  if (first.error != 0 || request.constraints != nullptr) return 0;
  if (CheckedMachine(request, first.facts, choice).run(5'000).kind == RunResult::kTrapped) std::abort();
  return 0;
}
