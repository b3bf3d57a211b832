// What a probe is: trampoline and program of a few canonical probes, as disassembly beside this file, so that a reader sees
// them and a change shows in review. BPFTIME_GOLDEN_UPDATE=1 writes the files anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "compiler/testing.h"
#include "rewrite/rewrite.h"
#include "wire/object.h"
#include "wire/target_context.h"

namespace bpftime {
namespace {

using namespace compiler::testing;
using program::Insn;

constexpr uint64_t kFunction = 0x401000, kTrampoline = 0x500000, kCode = 0x510000;
constexpr uint64_t kWindow = 0x200000000000, kMaps = kWindow + 0x100000, kReturnSlot = 0x600000,
                   kReturnCold = 0x600fff;
constexpr int32_t kReturnThread = -64;
const std::vector<uint8_t> kProbed = {0x55, 0x48, 0x89, 0xe5, 0x0f, 0xbe,
                                      0x06, 0x01, 0xf8, 0x5d, 0xc3};  // bench/victim.c

struct Probe {
  const char* name;
  std::vector<Insn> insns;
  std::vector<compiler::MapBinding> maps;
  bool on_return = false;
};

compiler::MapBinding map_of(uint32_t type, uint32_t entries) {
  return {{type, 4, 8, entries, 0, 4}, kMaps, 1};
}

Insn load(int size, int dst, int src, int offset) { return raw(BPF_LDX | BPF_MEM | size, dst, src, offset); }
Insn store(int size, int dst, int src, int offset) { return raw(BPF_STX | BPF_MEM | size, dst, src, offset); }

// *lookup(map, &key) += 1, where r1 holds the key.
std::vector<Insn> count(bool atomic) {
  std::vector<Insn> out = {store(BPF_W, 10, 1, -4),
                           mov_reg(2, 10),
                           add(2, -4),
                           raw(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD),
                           raw(0),
                           call(BPF_FUNC_map_lookup_elem)};
  std::vector<Insn> then = {load(BPF_DW, 1, 0, 0), add(1, 1), store(BPF_DW, 0, 1, 0)};
  if (atomic) then = {mov(1, 1), raw(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD)};
  out.push_back(raw(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, static_cast<int>(then.size())));
  out.insert(out.end(), then.begin(), then.end());
  out.insert(out.end(), {mov(0, 0), exit_insn()});
  return out;
}

std::vector<Insn> with_first(std::vector<Insn> first, const std::vector<Insn>& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

std::vector<Probe> probes() {
  constexpr int kRdi = offsetof(wire::PtRegs, rdi), kRax = offsetof(wire::PtRegs, rax);
  const auto argument = [](int offset) {
    return std::vector<Insn>{load(BPF_DW, 1, 1, offset), raw(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 15)};
  };
  const std::vector<Insn> hash = {load(BPF_DW, 1, 1, kRdi),
                                  store(BPF_DW, 10, 1, -16),
                                  raw(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 1023),
                                  store(BPF_W, 10, 1, -4),
                                  mov_reg(2, 10),
                                  add(2, -4),
                                  mov_reg(3, 10),
                                  add(3, -16),
                                  mov(4, 0),
                                  raw(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD),
                                  raw(0),
                                  call(BPF_FUNC_map_update_elem),
                                  mov(0, 0),
                                  exit_insn()};
  // Slot of the count: what the argument points to, or the time.
  const std::vector<Insn> word = {load(BPF_DW, 3, 1, offsetof(wire::PtRegs, rsi)),
                                  mov_reg(1, 10),
                                  add(1, -16),
                                  mov(2, 8),
                                  call(BPF_FUNC_probe_read_user),
                                  load(BPF_DW, 1, 10, -16),
                                  raw(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 15)};
  const std::vector<Insn> time = {call(BPF_FUNC_ktime_get_ns), mov_reg(1, 0),
                                  raw(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 15)};
  const std::vector<Insn> record = {load(BPF_DW, 6, 1, kRdi),
                                    raw(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD),
                                    raw(0),
                                    mov(2, 8),
                                    mov(3, 0),
                                    call(BPF_FUNC_ringbuf_reserve),
                                    raw(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 4),
                                    store(BPF_DW, 0, 6, 0),
                                    mov_reg(1, 0),
                                    mov(2, 0),
                                    call(BPF_FUNC_ringbuf_submit),
                                    mov(0, 0),
                                    exit_insn()};
  const auto percpu = map_of(BPF_MAP_TYPE_PERCPU_ARRAY, 16), array = map_of(BPF_MAP_TYPE_ARRAY, 16);
  const compiler::MapBinding ring = {{BPF_MAP_TYPE_RINGBUF, 0, 0, 4 << 20, 0, 4}, kMaps, 1};
  return {
      {"empty", {mov(0, 0), exit_insn()}, {}},
      {"count_argument_per_cpu", with_first(argument(kRdi), count(false)), {percpu}},
      {"count_in_array", with_first({mov(1, 0)}, count(true)), {array}},
      {"update_hash", hash, {map_of(BPF_MAP_TYPE_HASH, 2048)}},
      {"read_word", with_first(word, count(false)), {percpu}},
      {"submit_record", record, {ring}},
      {"read_clock", with_first(time, count(false)), {percpu}},
      {"count_result_per_cpu", with_first(argument(kRax), count(false)), {percpu}, true},
  };
}

// The instructions up to the padding behind the first function: what it calls is the same for every program.
std::string first_function(const std::string& text) { return text.substr(0, text.find("int3\n")); }

std::string up_to(const std::string& text, const std::string& end) {
  const size_t at = text.rfind(end);
  return at == std::string::npos ? text : text.substr(0, at + end.size());
}

// Code only: behind the jump back, and before and behind the exit handler, there are constants.
std::string render_trampoline(const std::vector<uint8_t>& bytes, bool on_return) {
  const std::string jump_back = "\njmp 0x0000000000401007\n";
  std::string text = up_to(rewrite::disassemble(bytes, kTrampoline), jump_back);
  if (!on_return) return text;
  // The handler is aligned to 16, and the address of the displaced code stands before it.
  for (size_t at = 16; at < bytes.size(); at += 16) {
    uint64_t before;
    std::memcpy(&before, &bytes[at - 8], sizeof before);
    if (before <= kTrampoline || before >= kTrampoline + at) continue;
    const std::string handler = rewrite::disassemble(Bytes(bytes).subspan(at), kTrampoline + at);
    return text + "# its exit handler\n" + up_to(handler, "\nret\n");
  }
  return "no exit handler";
}

std::string render(const Probe& probe) {
  const program::Program program{.name = probe.name, .type = BPF_PROG_TYPE_KPROBE, .insns = probe.insns};
  compiler::CompileOptions options;
  options.context_address = kWindow;
  verifier::Facts facts;
  facts.insns.assign(probe.insns.size(), {.reached = true, .same_map = !probe.maps.empty()});
  options.facts = &facts;
  auto code = compiler::compile(program, probe.maps, options);
  if (!code) return code.error().message;
  const Bytes text = Bytes(code->image).first(code->text_size);

  rewrite::SiteRequest request;
  request.address = kFunction;
  request.code = kProbed;
  request.function_size = kProbed.size();
  request.trampoline_address = kTrampoline;
  request.identity_address = kWindow + wire::kIdentityOffset;
  request.return_path = {kReturnSlot, kReturnCold, kReturnThread};
  rewrite::ProgramCall call{kCode + code->entry_offset, {}, 0};
  call.use = rewrite::code_use(text, code->entry_offset);
  call.inlined = rewrite::inlinable_code(text, code->entry_offset);
  call.context_slots_read = code->context_slots_read;
  (probe.on_return ? request.on_return : request.on_entry) = {call};
  auto plan = rewrite::plan_probe(request);
  if (!plan) return plan.error().message;
  return "# the site\n" + rewrite::disassemble(plan->patched, kFunction) + "# the trampoline\n" +
         render_trampoline(plan->trampoline, probe.on_return) + "# the program" +
         (call.use.inert          ? ", which nobody calls\n"
          : !call.inlined.empty() ? ", which stands in the trampoline\n"
                                  : "\n") +
         first_function(rewrite::disassemble(text.subspan(code->entry_offset), kCode + code->entry_offset));
}

std::string path_of(const Probe& probe) {
  const char* source = std::getenv("BPFTIME_SOURCE_DIR");
  return std::string(source != nullptr ? source : ".") + "/tests/golden/" + probe.name + ".s";
}

class Golden : public ::testing::TestWithParam<Probe> {};
INSTANTIATE_TEST_SUITE_P(Probes, Golden, ::testing::ValuesIn(probes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Golden, CodeIsAsInReview) {
  const std::string path = path_of(GetParam()), now = render(GetParam());
  if (std::getenv("BPFTIME_GOLDEN_UPDATE") != nullptr) {
    std::ofstream(path) << now;
    GTEST_SKIP() << "wrote " << path;
  }
  std::ifstream file(path);
  if (!file) GTEST_SKIP() << "no " << path << "; set BPFTIME_SOURCE_DIR";
  std::stringstream kept;
  kept << file.rdbuf();
  EXPECT_EQ(now, kept.str()) << "BPFTIME_GOLDEN_UPDATE=1 takes this as right";
}

TEST_P(Golden, SameRequestSameBytes) { EXPECT_EQ(render(GetParam()), render(GetParam())); }

}  // namespace
}  // namespace bpftime
