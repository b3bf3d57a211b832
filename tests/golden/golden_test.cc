// What a probe is: trampoline and program of a few canonical probes, as disassembly beside this file, so that a reader sees
// them and a change shows in review. BPFTIME_GOLDEN_UPDATE=1 writes the files anew.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "compiler/testing.h"
#include "rewrite/rewrite.h"
#include "rewrite/system_call.h"
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

// A wrapper as glibc has it: mov $257,%eax; syscall; cmp $-4095,%rax; jae …; ret; …
const std::vector<uint8_t> kCalls = {0xb8, 0x01, 0x01, 0x00, 0x00, 0x0f, 0x05, 0x48, 0x3d, 0x01,
                                     0xf0, 0xff, 0xff, 0x73, 0x01, 0xc3, 0x31, 0xc0, 0xc3};

enum class Where { kEntry, kReturn, kCallBegins, kCallEnds };

struct Program {
  std::vector<Insn> insns;
  std::vector<compiler::MapBinding> maps;
};

struct Probe {
  const char* name;
  std::vector<Program> programs;
  Where where = Where::kEntry;
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
  constexpr int kFirst = 16;  // of the event's record: the first argument, or the result
  const Program count_argument = {with_first(argument(kRdi), count(false)), {percpu}};
  const Program update_hash = {hash, {map_of(BPF_MAP_TYPE_HASH, 2048)}};
  return {
      {"empty", {{{mov(0, 0), exit_insn()}, {}}}},
      {"count_argument_per_cpu", {count_argument}},
      {"count_in_array", {{with_first({mov(1, 0)}, count(true)), {array}}}},
      {"update_hash", {update_hash}},
      {"read_word", {{with_first(word, count(false)), {percpu}}}},
      {"submit_record", {{record, {ring}}}},
      {"read_clock", {{with_first(time, count(false)), {percpu}}}},
      {"count_result_per_cpu", {{with_first(argument(kRax), count(false)), {percpu}}}, Where::kReturn},
      {"three_programs", {count_argument, update_hash, count_argument}},
      {"system_call_begins", {{with_first(argument(kFirst), count(false)), {percpu}}}, Where::kCallBegins},
      {"system_call_ends", {{with_first(argument(kFirst), count(false)), {percpu}}}, Where::kCallEnds},
  };
}

struct Emitted {
  std::string failure;
  std::vector<compiler::MachineCode> code;
  std::vector<rewrite::ProgramCall> calls;
  rewrite::SitePlan plan;
  uint64_t site = 0;
  std::vector<Bytes>
      trampoline;  // its code: behind it, and before and behind an exit handler, there are constants

  Bytes text(size_t i) const { return Bytes(code[i].image).first(code[i].text_size); }
};

compiler::CompileOptions options_for(const verifier::Facts& facts) {
  compiler::CompileOptions options;
  options.context_address = kWindow;
  options.facts = &facts;
  return options;
}

Result<void> compile_all(const Probe& probe, Emitted& out) {
  const bool calls = probe.where == Where::kCallBegins || probe.where == Where::kCallEnds;
  uint64_t address = kCode;
  for (const auto& [insns, maps] : probe.programs) {
    const program::Program program{
        .name = probe.name, .type = calls ? BPF_PROG_TYPE_TRACEPOINT : BPF_PROG_TYPE_KPROBE, .insns = insns};
    verifier::Facts facts;
    facts.insns.assign(insns.size(), {.reached = true, .same_map = !maps.empty()});
    auto code = compiler::compile(program, maps, options_for(facts));
    if (!code) return code.error();
    out.code.push_back(std::move(*code));
    const Bytes text = out.text(out.code.size() - 1);
    const uint32_t entry = out.code.back().entry_offset;
    rewrite::ProgramCall call{address + entry, {}, 0};
    call.use = rewrite::code_use(text, entry);
    if (!calls) {
      const Bytes inlined = rewrite::inlinable_code(text, entry);
      call.inlined = inlined;
    }
    call.context_slots_read = out.code.back().context_slots_read;
    out.calls.push_back(call);
    address += 0x10000;
  }
  return {};
}

Result<void> plan_function(const Probe& probe, Emitted& out) {
  rewrite::SiteRequest request;
  request.address = out.site = kFunction;
  request.code = kProbed;
  request.function_size = kProbed.size();
  request.trampoline_address = kTrampoline;
  request.identity_address = kWindow + wire::kIdentityOffset;
  request.return_path = {kReturnSlot, kReturnCold, kReturnThread};
  (probe.where == Where::kReturn ? request.on_return : request.on_entry) = out.calls;
  auto plan = rewrite::plan_probe(request);
  if (!plan) return plan.error();
  out.plan = std::move(*plan);
  return {};
}

Result<void> plan_call(const Probe& probe, Emitted& out) {
  const auto sites = rewrite::find_system_calls(kCalls, kCalls.size());
  if (sites.size() != 1) return Error{EINVAL, "no system call found"};
  rewrite::SystemCallRequest request;
  request.on_exit = probe.where == Where::kCallEnds;
  request.function = kFunction;
  request.code = kCalls;
  request.function_size = kCalls.size();
  request.site = sites[0];
  request.trampoline_address = kTrampoline;
  request.identity_address = kWindow + wire::kIdentityOffset;
  for (const auto& call : out.calls) request.programs.push_back({call});
  out.site = rewrite::patch_address(request);
  auto plan = rewrite::plan_system_call(request);
  if (!plan) return plan.error();
  out.plan = std::move(*plan);
  return {};
}

// Up to the end of the last instruction whose text is `last`.
Bytes up_to(Bytes code, uint64_t address, const std::string& last) {
  const std::string text = rewrite::disassemble(code, address), end = "\n" + last + "\n";
  const size_t at = text.rfind(end);
  if (at == std::string::npos) return {};
  const auto lines = std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at) + 1, '\n') + 1;
  const std::string listing = rewrite::listing(code);
  size_t line = 0;
  for (ptrdiff_t i = 0; i < lines && line != std::string::npos; ++i) line = listing.find('\n', line + 1);
  if (line == std::string::npos) return code;
  return code.first(std::strtoul(listing.c_str() + line + 1, nullptr, 16));
}

std::string hexadecimal(uint64_t address) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%016llX", static_cast<unsigned long long>(address));
  return text;
}

Emitted emit(const Probe& probe) {
  Emitted out;
  auto done = compile_all(probe, out);
  const bool calls = probe.where == Where::kCallBegins || probe.where == Where::kCallEnds;
  if (done) done = calls ? plan_call(probe, out) : plan_function(probe, out);
  if (!done) {
    out.failure = done.error().message;
    return out;
  }
  const Bytes bytes = out.plan.trampoline;
  out.trampoline.push_back(
      up_to(bytes, kTrampoline, "jmp " + hexadecimal(out.site + out.plan.original.size())));
  if (probe.where != Where::kReturn) return out;
  // The handler is aligned to 16, and the address of the displaced code stands before it.
  for (size_t at = 16; at < bytes.size(); at += 16) {
    uint64_t before;
    std::memcpy(&before, &bytes[at - 8], sizeof before);
    if (before <= kTrampoline || before >= kTrampoline + at) continue;
    out.trampoline.push_back(up_to(bytes.subspan(at), kTrampoline + at, "ret"));
    return out;
  }
  out.failure = "no exit handler";
  return out;
}

// The instructions up to the padding behind the first function: what it calls is the same for every program.
std::string first_function(const std::string& text) { return text.substr(0, text.find("int3\n")); }

std::string render(const Probe& probe) {
  const Emitted emitted = emit(probe);
  if (!emitted.failure.empty()) return emitted.failure;
  std::string out = "# the site\n" + rewrite::disassemble(emitted.plan.patched, emitted.site);
  for (const Bytes part : emitted.trampoline) {
    out += part.data() == emitted.plan.trampoline.data() ? "# the trampoline\n" : "# its exit handler\n";
    const auto offset = static_cast<uint64_t>(part.data() - emitted.plan.trampoline.data());
    out += rewrite::disassemble(part, kTrampoline + offset);
  }
  for (size_t i = 0; i < emitted.calls.size(); ++i) {
    const rewrite::ProgramCall& call = emitted.calls[i];
    out += "# the program";
    if (call.use.inert)
      out += ", which nobody calls";
    else if (!call.inlined.empty())
      out += ", which stands in the trampoline";
    out += "\n" + first_function(rewrite::disassemble(emitted.text(i).subspan(emitted.code[i].entry_offset),
                                                      call.code_address));
  }
  return out;
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

// What runs in a target beside the host's own instructions must leave vector state alone: nobody saves it.
TEST_P(Golden, EmittedCodeUsesGeneralRegistersOnly) {
  const Emitted emitted = emit(GetParam());
  ASSERT_EQ(emitted.failure, "");
  for (const Bytes part : emitted.trampoline) {
    ASSERT_FALSE(part.empty());
    const auto checked = rewrite::check_general_registers_only(part);
    EXPECT_TRUE(checked.ok()) << checked.error().message;
  }
  for (size_t i = 0; i < emitted.code.size(); ++i) {
    const auto checked = rewrite::check_general_registers_only(emitted.text(i));
    EXPECT_TRUE(checked.ok()) << checked.error().message;
  }
}

TEST_P(Golden, SameRequestSameBytes) { EXPECT_EQ(render(GetParam()), render(GetParam())); }

}  // namespace
}  // namespace bpftime
