#include "compiler/compiler.h"

#include <llvm/IR/LLVMContext.h>

#include <atomic>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "compiler/backend.h"
#include "compiler/linker.h"
#include "compiler/tail_call.h"
#include "compiler/translator.h"
#include "helpers/runtime_images.h"
#include "wire/invocation.h"
#include "wire/target_context.h"

namespace bpftime::compiler {
namespace {

// Everything compile() and the translator look at, as bytes: equal keys, equal code. Who makes them look at more adds it here.
// Empty: not worth remembering.
std::string content_key(const program::Program& program, std::span<const MapBinding> maps,
                        const CompileOptions& options) {
  constexpr size_t kInsnsMax = 65536;
  if (options.constraints != nullptr || program.insns.size() > kInsnsMax) return {};
  std::string key;
  const auto add = [&key](const auto& value) {
    static_assert(std::has_unique_object_representations_v<std::decay_t<decltype(value)>>);
    key.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  const auto add_map = [&](const MapBinding& map) {
    for (const uint32_t field : {map.spec.type, map.spec.key_size, map.spec.value_size, map.spec.max_entries,
                                 map.spec.flags, map.spec.cpu_count})
      add(field);
    add(map.address);
  };
  add(options.context_address);
  add(options.bare);
  add(options.tail_entry);
  add(options.trace_ring != nullptr);
  if (options.trace_ring != nullptr) add_map(*options.trace_ring);
  add(maps.size());
  for (const MapBinding& map : maps) add_map(map);
  add(program.insns.size());
  for (const program::Insn& insn : program.insns) {  // bit-fields: byte by byte as the kernel lays them out
    key.append(reinterpret_cast<const char*>(&insn), sizeof insn);
  }
  add(options.facts != nullptr);
  if (options.facts == nullptr) return key;
  add(options.facts->insns.size());
  for (const verifier::InsnFacts& facts : options.facts->insns) {
    add(facts.reached);
    add(facts.needs_fault_table);
    add(facts.same_map);
    add(facts.map);
  }
  add(options.facts->zeroed_bytes.size());
  for (const uint32_t bytes : options.facts->zeroed_bytes) add(bytes);
  return key;
}

// Most recently used first. Guarded by compile()'s lock. Bounded by bytes, not by programs: an object of a thousand programs that
// is loaded again shall find them all.
class CodeCache {
 public:
  const MachineCode* find(const std::string& key) {
    const auto known = by_key_.find(key);
    if (known == by_key_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, known->second);
    return &known->second->code;
  }
  void keep(std::string key, const MachineCode& code) {
    if (key.empty() || code.image.size() > kImageMax) return;
    entries_.push_front({std::move(key), code});
    by_key_.emplace(entries_.front().key, entries_.begin());
    for (bytes_ += bytes_of(entries_.front()); bytes_ > kBytesMax; entries_.pop_back()) {
      bytes_ -= bytes_of(entries_.back());
      by_key_.erase(entries_.back().key);
    }
  }

 private:
  struct Entry {
    std::string key;
    MachineCode code;
  };
  static constexpr size_t kBytesMax = 16 << 20, kImageMax = 64 * 1024;
  static size_t bytes_of(const Entry& entry) { return entry.key.size() + entry.code.image.size(); }

  std::list<Entry> entries_;
  std::unordered_map<std::string_view, std::list<Entry>::iterator> by_key_;  // views of the entries' own keys
  size_t bytes_ = 0;
};

std::atomic<uint64_t> compiled = 0;

}  // namespace

uint64_t programs_compiled() { return compiled; }

Result<MachineCode> compile(const program::Program& program, std::span<const MapBinding> maps,
                            const CompileOptions& options) {
  const std::lock_guard<std::mutex> lock(compile_turn());
  static CodeCache cache;
  std::string key = content_key(program, maps, options);
  if (const MachineCode* known = cache.find(key)) return *known;

  llvm::LLVMContext context;
  Diagnostics diagnostics(context);
  const auto module = make_module(context, program.name);
  const auto facts = translate(program, maps, options, *module);
  if (!facts) return facts.error();
  const auto object = emit_object(*module, diagnostics);
  if (!object) return object.error();
  const Bytes objects[] = {
      Bytes(reinterpret_cast<const uint8_t*>(object->bytes.data()), object->bytes.size()),
      helpers::runtime_object()};
  constexpr std::string_view kEntries[] = {kEntrySymbol, kTailEntrySymbol};
  auto linked = link_image(objects, std::span(kEntries).first(options.tail_entry ? 2 : 1));
  if (!linked) return linked.error();
  // What others jump to finds some of the stack used.
  const uint32_t stack_max = wire::kProgramStackMax - (options.tail_entry ? kTailDistanceMax : 0);
  if (linked->stack_bytes > stack_max) {
    return Error{E2BIG, "compile: program " + program.name + ": needs " +
                            std::to_string(linked->stack_bytes) + " bytes of stack, at most " +
                            std::to_string(stack_max) +
                            " are allowed; use smaller local variables or fewer nested calls"};
  }
  MachineCode code;
  code.image = std::move(linked->image);
  code.entry_offset = linked->entry_offsets[0];
  if (options.tail_entry) code.tail_entry_offset = linked->entry_offsets[1];
  code.text_size = linked->text_size;
  code.stack_bytes = static_cast<uint32_t>(linked->stack_bytes);
  code.makes_system_calls = facts->makes_system_calls;
  code.repairs_faults = facts->repairs_faults;
  code.calls_host = facts->calls_host;
  code.ends_function = facts->ends_function;
  code.context_slots_read = object->context_slots_read;
  code.may_tail_call = facts->may_tail_call;
  if (code.may_tail_call) {
    code.stack_bytes = wire::kProgramStackMax;
    code.makes_system_calls = code.repairs_faults = true;
    code.context_slots_read = ~uint32_t{0};
  }
  cache.keep(std::move(key), code);
  ++compiled;
  return code;
}

void warm_up() {
  using program::Insn;
  // Looks a key up in a hash and puts what it finds into a ring: enough to touch what LLVM sets up, and the pages its
  // passes are in.
  program::Program program;
  program.name = "warm_up";
  program.insns = {
      Insn{.code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_10, .off = -8},
      Insn{.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = BPF_REG_1, .src_reg = BPF_PSEUDO_MAP_FD},
      Insn{},
      Insn{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_2, .src_reg = BPF_REG_10},
      Insn{.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = BPF_REG_2, .imm = -8},
      Insn{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_map_lookup_elem},
      Insn{.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = BPF_REG_0, .off = 11},
      Insn{.code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_6, .src_reg = BPF_REG_0},
      Insn{.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = BPF_REG_1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = 1},
      Insn{},
      Insn{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .imm = 8},
      Insn{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3},
      Insn{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_reserve},
      Insn{.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = BPF_REG_0, .off = 4},
      Insn{.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_0, .src_reg = BPF_REG_6},
      Insn{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_1, .src_reg = BPF_REG_0},
      Insn{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2},
      Insn{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_submit},
      Insn{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
      Insn{.code = BPF_JMP | BPF_EXIT},
  };
  MapBinding maps[2];  // nothing lies there, and nothing of this ever runs
  maps[0].spec = {BPF_MAP_TYPE_HASH, 8, 8, 16, 0, 1};
  maps[0].address = wire::window_address(0) + wire::kMapsOffset;
  maps[1].spec = {BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, 1};
  maps[1].address = maps[0].address + wire::kMapsOffset;
  // Each call gets one map, as the verifier finds out of most programs.
  verifier::Facts facts;
  facts.insns.assign(program.insns.size(), {.reached = true, .same_map = true});
  for (size_t i = 0; i < program.insns.size(); ++i)
    facts.insns[i].map =
        program.insns[i].imm == BPF_FUNC_ringbuf_reserve || program.insns[i].imm == BPF_FUNC_ringbuf_submit;
  CompileOptions options;
  options.context_address = wire::window_address(0);
  options.facts = &facts;
  if (compile(program, maps, options)) --compiled;  // nobody's program
}

}  // namespace bpftime::compiler
