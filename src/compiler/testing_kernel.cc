#include "compiler/testing_kernel.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "program/testing/kernel.h"

namespace bpftime::compiler::testing {
namespace {

long bpf(int command, bpf_attr& attr) { return syscall(SYS_bpf, command, &attr, sizeof(attr)); }

// A one-element array; `frozen`: its contents are constants to the verifier.
Fd make_array(const std::vector<uint8_t>& value, bool frozen) {
  bpf_attr create{};
  create.map_type = BPF_MAP_TYPE_ARRAY;
  create.key_size = 4;
  create.value_size = static_cast<uint32_t>(value.size());
  create.max_entries = 1;
  create.map_flags = frozen ? BPF_F_RDONLY_PROG : 0;
  Fd map(static_cast<int>(bpf(BPF_MAP_CREATE, create)));
  const uint32_t key = 0;
  bpf_attr update{};
  update.map_fd = static_cast<uint32_t>(map.get());
  update.key = reinterpret_cast<uint64_t>(&key);
  update.value = reinterpret_cast<uint64_t>(value.data());
  bpf(BPF_MAP_UPDATE_ELEM, update);
  bpf_attr freeze{};
  freeze.map_fd = static_cast<uint32_t>(map.get());
  if (frozen) bpf(BPF_MAP_FREEZE, freeze);
  return map;
}

std::vector<program::Insn> load_value(int dst, const Fd& map) {
  return {raw(BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_VALUE, 0, map.get()), raw(0)};
}

}  // namespace

RunResult run_in_kernel(const MakeProgram& body, const std::vector<uint8_t>& input) {
  RunResult out;
  out.output.resize(kOutputSize);
  std::vector<uint8_t> constant = input;
  if (constant.empty()) constant.resize(8);
  const Fd output = make_array(out.output, false), inputs = make_array(constant, true);
  program::Program program;
  program.name = "both";
  program.type = BPF_PROG_TYPE_RAW_TRACEPOINT;
  program.insns = Sequence() << load_value(6, output) << load_value(7, inputs) << body();
  const auto answer = program::testing::kernel_load(program);
  if (answer.error != 0) {
    out.loaded = false;
    out.refused = answer.log.empty() ? strerror(answer.error) : answer.log;
    return out;
  }
  bpf_attr run{};
  run.test.prog_fd = static_cast<uint32_t>(answer.fd.get());
  if (bpf(BPF_PROG_TEST_RUN, run) != 0) {
    out.refused = std::string("not run: ") + strerror(errno);
    return out;
  }
  out.result = run.test.retval;
  const uint32_t key = 0;
  bpf_attr lookup{};
  lookup.map_fd = static_cast<uint32_t>(output.get());
  lookup.key = reinterpret_cast<uint64_t>(&key);
  lookup.value = reinterpret_cast<uint64_t>(out.output.data());
  if (bpf(BPF_MAP_LOOKUP_ELEM, lookup) != 0) out.refused = "output not read";
  return out;
}

RunResult run_here(Target& target, const MakeProgram& body, const std::vector<uint8_t>& input) {
  RunResult out;
  out.output.resize(kOutputSize);
  const Sequence code = Sequence() << load_imm(6, reinterpret_cast<uint64_t>(out.output.data()))
                                   << load_imm(7, reinterpret_cast<uint64_t>(input.data())) << body();
  uint64_t context[16] = {};
  out.result = static_cast<uint32_t>(target.run(code, context));
  return out;
}

}  // namespace bpftime::compiler::testing
