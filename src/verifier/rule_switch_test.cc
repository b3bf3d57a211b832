// Each rule matters: for every row of rules.def there is a program that it refuses, and that gets another verdict when the
// rule alone is switched off.
#include <gtest/gtest.h>
#include <linux/btf.h>

#include <functional>
#include <map>

#include "program/program.h"
#include "verifier/testing/btf_builder.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier::testing {
namespace {

struct Draft {
  Builder b;
  Request request;
  Constraints constraints;
  bool constrained = false;

  uint32_t map(const char* kind) {
    request.maps.push_back(*standard_map(kind));
    return static_cast<uint32_t>(request.maps.size() - 1);
  }
  void ok() {
    b.mov_imm(0, 0);
    b.exit();
  }
  // r0 = bpf_map_lookup_elem(&map, &key), not tested.
  void lookup(const char* kind) {
    b.store_imm(BPF_DW, 10, -8, 0);
    b.mov(2, 10);
    b.alu_imm(BPF_ADD, 2, -8);
    b.load_map(1, map(kind));
    b.call(BPF_FUNC_map_lookup_elem);
  }
  // The same, and ends the program when there is none.
  void value(const char* kind) {
    lookup(kind);
    const Builder::Label found = b.label();
    b.jump_imm(BPF_JNE, 0, 0, found);
    b.exit();
    b.place(found);
  }
  void reserve() {
    b.load_map(1, map("map_ringbuf"));
    b.mov_imm(2, 8);
    b.mov_imm(3, 0);
    b.call(BPF_FUNC_ringbuf_reserve);
  }
  void random(uint8_t reg) {
    b.call(BPF_FUNC_ktime_get_ns);
    b.mov(reg, 0);
  }
  // Function records for the entry and one static function that starts at `start`.
  void types(size_t start) {
    BtfBuilder btf;
    const uint32_t number = btf.add_int("int", 4, true);
    const uint32_t prototype = btf.add_prototype(number, {{"a", btf.add_pointer(0)}});
    const uint32_t records[] = {0, btf.add_function("entry", prototype, BTF_FUNC_GLOBAL),
                                static_cast<uint32_t>(start),
                                btf.add_function("callback", prototype, BTF_FUNC_STATIC)};
    const auto* bytes = reinterpret_cast<const uint8_t*>(records);
    request.func_info.assign(bytes, bytes + sizeof(records));
    request.func_info_record_size = 8;
    request.btf = btf.blob();
  }
  // r1 of the entry: a host object {readable at 0, granted for writing at 8, pointer at 16, buffer at 24 with length at 32}.
  void host() {
    constrained = true;
    View view;
    view.type = "request";
    view.size = 64;
    View::Member readable, writable, other, data, length;
    readable = {.name = "a", .offset = 0, .size = 8, .read = true};
    writable = {.name = "b", .offset = 8, .size = 8, .read = true, .write = true};
    other = {.name = "next", .offset = 16, .size = 8, .read = true};
    other.gives = View::Member::Gives::kObject;
    other.view = 0;
    data = {.name = "data", .offset = 24, .size = 8, .read = true};
    data.gives = View::Member::Gives::kBuffer;
    data.buffer_length_member = 4;
    length = {.name = "length", .offset = 32, .size = 8, .read = true};
    view.members = {readable, writable, other, data, length};
    constraints.class_name = "test";
    constraints.views = {view};
    constraints.typed_entry = true;
    Argument argument;
    argument.name = "r";
    argument.kind = Argument::Kind::kObject;
    argument.view = 0;
    argument.may_be_null = false;
    constraints.entry = {argument};
    HostFunction function;
    function.name = "function";
    function.id = 1;
    function.granted = true;
    Argument number;
    number.name = "n";
    number.number = Scalar::unsigned_range(0, 9);
    function.arguments = {number};
    function.result.bytes = 0;
    HostFunction denied = function;
    denied.id = 2;
    denied.granted = false;
    constraints.functions = {function, denied};
    constraints.globals = {{"state", 1, false, 0}};
  }
};

using Write = std::function<void(Draft&)>;

void call_host(Builder& b, int32_t id) {
  b.raw(make_insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, id));
}

void loop_of(Draft& d, int32_t rounds) {
  const Builder::Label head = d.b.label();
  d.b.mov_imm(1, 0);
  d.b.place(head);
  d.b.alu_imm(BPF_ADD, 1, 1);
  d.b.jump_imm(BPF_JLT, 1, rounds, head);
  d.ok();
}

const std::map<Rule, Write>& rows() {
  static const std::map<Rule, Write> table = {
      {Rule::kENC001, [](Draft& d) { d.b.raw(make_insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 3, 0, 0)), d.ok(); }},
      {Rule::kBTF001,
       [](Draft& d) {
         d.ok();
         d.types(0);  // two records for one function
       }},
      {Rule::kCFG001, [](Draft& d) { d.b.raw(make_insn(BPF_JMP | BPF_JA, 0, 0, 100, 0)), d.ok(); }},
      {Rule::kCFG002, [](Draft& d) { d.ok(), d.b.mov_imm(0, 1), d.b.exit(); }},
      {Rule::kCFG003, [](Draft& d) { d.b.mov_imm(0, 0); }},
      {Rule::kCFG004,
       [](Draft& d) {
         std::vector<Builder::Label> functions(9);
         for (Builder::Label& label : functions) label = d.b.label();
         for (const Builder::Label label : functions) {
           d.b.call_local(label);
           d.b.exit();
           d.b.place(label);
         }
         d.ok();
       }},
      {Rule::kCFG005,
       [](Draft& d) {
         d.request.program.type =
             BPF_PROG_TYPE_SOCKET_FILTER;  // tracing programs may have 512 bytes a function
         const Builder::Label f = d.b.label();
         d.b.store_imm(BPF_DW, 10, -304, 0);
         d.b.call_local(f), d.b.exit(), d.b.place(f);
         d.b.store_imm(BPF_DW, 10, -304, 0), d.ok();
       }},
      {Rule::kCFG007,
       [](Draft& d) {
         const Builder::Label head = d.b.label();
         d.random(6);
         d.b.place(head);
         d.b.mov_imm(0, 0);
         d.b.jump_imm(BPF_JEQ, 6, 7, head);
         d.b.jump_imm(BPF_JEQ, 6, 8, head);
         d.ok();
       }},
      {Rule::kTYP001, [](Draft& d) { d.b.mov(0, 6), d.b.exit(); }},
      {Rule::kTYP002,
       [](Draft& d) { d.b.mov_imm(2, 8), d.b.mov_imm(3, 0), d.b.call(BPF_FUNC_trace_printk), d.ok(); }},
      {Rule::kTYP003, [](Draft& d) { d.b.mov(2, 10), d.b.alu_imm(BPF_MUL, 2, 3), d.ok(); }},
      {Rule::kTYP004, [](Draft& d) { d.b.mov(2, 10), d.b.alu32_imm(BPF_ADD, 2, 8), d.ok(); }},
      {Rule::kTYP005,
       [](Draft& d) {
         const Builder::Label other = d.b.label(), both = d.b.label();
         d.b.load(BPF_DW, 3, 1, 0);
         d.b.store_imm(BPF_DW, 10, -8, 0);
         d.b.jump_imm(BPF_JEQ, 3, 0, both);
         d.b.mov(1, 10), d.b.alu_imm(BPF_ADD, 1, -8);
         d.b.place(both);
         d.b.load(BPF_DW, 0, 1, -0);
         (void)other;
         d.ok();
       }},
      {Rule::kTYP006,
       [](Draft& d) {
         d.request.options.allow_pointer_leaks = false;
         d.value("map_hash_8b");
         d.b.store(BPF_DW, 0, 0, 10);
         d.ok();
       }},
      {Rule::kTYP007, [](Draft& d) { d.b.mov_imm(10, 0), d.ok(); }},
      {Rule::kTYP008, [](Draft& d) { d.b.mov_imm(0, 7), d.b.alu_imm(BPF_DIV, 0, 0), d.ok(); }},
      {Rule::kMEM001, [](Draft& d) { d.value("map_hash_8b"), d.b.load(BPF_B, 0, 0, -1), d.ok(); }},
      {Rule::kMEM002, [](Draft& d) { d.value("map_hash_8b"), d.b.load(BPF_DW, 0, 0, 1), d.ok(); }},
      {Rule::kMEM003,
       [](Draft& d) {
         d.value("map_hash_8b");
         d.b.load(BPF_W, 1, 0, 0), d.b.alu(BPF_ADD, 0, 1), d.b.alu(BPF_ADD, 0, 1), d.b.load(BPF_B, 0, 0, 0),
             d.ok();
       }},
      {Rule::kMEM004, [](Draft& d) { d.random(1), d.b.load(BPF_DW, 0, 1, 0), d.ok(); }},
      {Rule::kMEM005, [](Draft& d) { d.value("map_array_ro"), d.b.store_imm(BPF_B, 0, 0, 1), d.ok(); }},
      {Rule::kMEM006,
       [](Draft& d) {
         d.value("map_hash_16b"), d.b.mov_imm(1, 1), d.b.atomic(BPF_DW, 0, 4, 1, BPF_ADD), d.ok();
       }},
      {Rule::kMEM007,
       [](Draft& d) {
         d.b.mov(1, 10), d.b.alu_imm(BPF_ADD, 1, -8), d.b.mov_imm(2, 0), d.b.call(BPF_FUNC_get_current_comm),
             d.ok();
       }},
      {Rule::kMEM008,
       [](Draft& d) {
         d.value("map_hash_8b");
         d.b.alu_imm(BPF_ADD, 0, 0x10000000), d.b.alu_imm(BPF_ADD, 0, 0x10000000),
             d.b.alu_imm(BPF_ADD, 0, 0x10000000), d.ok();
       }},
      {Rule::kMEM009, [](Draft& d) { d.b.load_map_value(1, d.map("map_array_48b"), 48), d.ok(); }},
      {Rule::kNUL001, [](Draft& d) { d.lookup("map_hash_8b"), d.b.load(BPF_DW, 0, 0, 0), d.ok(); }},
      {Rule::kNUL002, [](Draft& d) { d.lookup("map_hash_8b"), d.b.alu_imm(BPF_ADD, 0, 1), d.ok(); }},
      {Rule::kCTX001, [](Draft& d) { d.b.load(BPF_DW, 0, 1, 4096), d.ok(); }},
      {Rule::kCTX002, [](Draft& d) { d.b.alu_imm(BPF_ADD, 1, 8), d.b.load(BPF_DW, 0, 1, 0), d.ok(); }},
      {Rule::kCTX003,
       [](Draft& d) {
         d.request.program.type = BPF_PROG_TYPE_CGROUP_SKB, d.request.expected_attach_type = 7;
         d.ok();
       }},
      {Rule::kSTK001,
       [](Draft& d) {
         d.request.options.zero_stack = false;
         d.b.load(BPF_DW, 0, 10, -8), d.ok();
       }},
      {Rule::kSTK002, [](Draft& d) { d.b.store_imm(BPF_DW, 10, -520, 0), d.ok(); }},
      {Rule::kSTK003, [](Draft& d) { d.b.store_imm(BPF_DW, 10, -12, 0), d.ok(); }},
      {Rule::kSTK004, [](Draft& d) { d.b.store(BPF_W, 10, -8, 10), d.ok(); }},
      {Rule::kSTK005,
       [](Draft& d) {
         d.request.options.allow_pointer_leaks = false;
         d.b.load(BPF_DW, 6, 1, 0), d.b.alu_imm(BPF_AND, 6, 8), d.b.mov(2, 10), d.b.alu_imm(BPF_ADD, 2, -32),
             d.b.alu(BPF_ADD, 2, 6);
         d.b.store(BPF_DW, 2, 0, 1);
         d.ok();
       }},
      {Rule::kSTK006,
       [](Draft& d) {
         const Builder::Label f = d.b.label();
         d.b.call_local(f), d.ok(), d.b.place(f), d.b.mov(0, 10), d.b.exit();
       }},
      {Rule::kFUN001, [](Draft& d) { d.b.call(9999), d.ok(); }},
      {Rule::kFUN002, [](Draft& d) { d.b.call(BPF_FUNC_skb_store_bytes), d.ok(); }},
      {Rule::kFUN003,
       [](Draft& d) {
         d.request.license = "Proprietary";
         d.b.mov(1, 10), d.b.alu_imm(BPF_ADD, 1, -8), d.b.mov_imm(2, 8), d.b.mov_imm(3, 0),
             d.b.call(BPF_FUNC_probe_read_kernel);
         d.ok();
       }},
      {Rule::kFUN004, [](Draft& d) { d.lookup("prog1"), d.ok(); }},
      {Rule::kFUN005, [](Draft& d) { d.lookup("map_spin_lock"), d.ok(); }},
      {Rule::kFUN006, [](Draft& d) { call_host(d.b, 7), d.ok(); }},
      {Rule::kFUN007,
       [](Draft& d) {
         const Builder::Label f = d.b.label();
         d.b.mov_imm(1, 3), d.b.load_function(2, f), d.b.mov_imm(3, 0), d.b.mov_imm(4, 0),
             d.b.call(BPF_FUNC_loop), d.ok();
         const size_t start = d.b.size();
         d.b.place(f), d.b.mov_imm(0, 2), d.b.exit(), d.types(start);
       }},
      {Rule::kFUN008,
       [](Draft& d) {
         d.request.program.type = BPF_PROG_TYPE_XDP;
         d.value("map_spin_lock"), d.b.mov(6, 0), d.b.mov(1, 0), d.b.alu_imm(BPF_ADD, 1, 4),
             d.b.call(BPF_FUNC_spin_lock);
         d.b.call(BPF_FUNC_ktime_get_ns);
         d.b.mov(1, 6), d.b.alu_imm(BPF_ADD, 1, 4), d.b.call(BPF_FUNC_spin_unlock), d.ok();
       }},
      {Rule::kFUN009,
       [](Draft& d) {
         const Builder::Label f = d.b.label();
         d.b.mov_imm(1, 3), d.b.load_function(2, f), d.b.mov_imm(3, 0), d.b.mov_imm(4, 0),
             d.b.call(BPF_FUNC_loop), d.ok();
         d.b.place(f), d.ok();
       }},
      {Rule::kRET001,
       [](Draft& d) {
         d.request.program.type = BPF_PROG_TYPE_SK_LOOKUP;
         d.request.expected_attach_type = BPF_SK_LOOKUP;
         d.b.mov_imm(0, 77), d.b.exit();
       }},
      {Rule::kREF001, [](Draft& d) { d.reserve(), d.ok(); }},
      {Rule::kREF002,
       [](Draft& d) {
         const Builder::Label none = d.b.label();
         d.reserve(), d.b.jump_imm(BPF_JEQ, 0, 0, none), d.b.mov(1, 0), d.b.alu_imm(BPF_ADD, 1, 8),
             d.b.mov_imm(2, 0);
         d.b.call(BPF_FUNC_ringbuf_submit), d.b.place(none), d.ok();
       }},
      {Rule::kLCK001,
       [](Draft& d) {
         d.request.program.type = BPF_PROG_TYPE_XDP;
         d.value("map_spin_lock"), d.b.mov(1, 0), d.b.alu_imm(BPF_ADD, 1, 4), d.b.call(BPF_FUNC_spin_lock),
             d.ok();
       }},
      {Rule::kLCK002,
       [](Draft& d) {
         d.request.program.type = BPF_PROG_TYPE_XDP;
         d.value("map_spin_lock"), d.b.load(BPF_W, 0, 0, 4), d.ok();
       }},
      {Rule::kDYN001,
       [](Draft& d) {
         d.b.mov(1, 10), d.b.alu_imm(BPF_ADD, 1, -16), d.b.mov_imm(2, 0), d.b.mov_imm(3, 8),
             d.b.call(BPF_FUNC_dynptr_data), d.ok();
       }},
      {Rule::kLIM001,
       [](Draft& d) {
         d.request.options.limits.insns_processed = 30;
         loop_of(d, 20);
       }},
      {Rule::kLIM002,
       [](Draft& d) {
         d.request.options.limits.pending_branches = 2;
         const Builder::Label end = d.b.label();
         d.random(6);
         for (int i = 0; i < 8; ++i) d.b.jump_imm(BPF_JEQ, 6, i, end);
         d.b.place(end), d.ok();
       }},
      {Rule::kLIM003,
       [](Draft& d) {
         d.request.options.limits.memory_bytes = 1;
         loop_of(d, 1000);
       }},
      {Rule::kLIM004,
       [](Draft& d) {
         d.request.options.limits.references = 1;
         const Builder::Label none = d.b.label(), second = d.b.label();
         d.reserve(), d.b.jump_imm(BPF_JEQ, 0, 0, none), d.b.mov(6, 0);
         d.reserve(), d.b.jump_imm(BPF_JEQ, 0, 0, second);
         d.b.mov(1, 0), d.b.mov_imm(2, 0), d.b.call(BPF_FUNC_ringbuf_submit);
         d.b.place(second), d.b.mov(1, 6), d.b.mov_imm(2, 0), d.b.call(BPF_FUNC_ringbuf_submit);
         d.b.place(none), d.ok();
       }},
      {Rule::kBND001,
       [](Draft& d) {
         d.host();
         d.constraints.instructions_below = 50;
         loop_of(d, 100);
       }},
      {Rule::kBND002,
       [](Draft& d) {
         d.host();
         d.request.options.limits.insns_processed = 60;
         loop_of(d, 50);
       }},
      {Rule::kBND003,
       [](Draft& d) {
         d.host();
         d.constraints.memory_below = 1;
         d.value("map_hash_48b"), d.ok();
       }},
      {Rule::kEIM001,
       [](Draft& d) { d.host(), d.b.load(BPF_DW, 1, 1, 0), d.b.load(BPF_DW, 0, 1, 48), d.ok(); }},
      {Rule::kEIM002,
       [](Draft& d) { d.host(), d.b.load(BPF_DW, 1, 1, 0), d.b.store_imm(BPF_DW, 1, 0, 0), d.ok(); }},
      {Rule::kEIM003,
       [](Draft& d) {
         const Builder::Label none = d.b.label();
         d.host(), d.b.load(BPF_DW, 1, 1, 0), d.b.load(BPF_DW, 1, 1, 16), d.b.jump_imm(BPF_JEQ, 1, 0, none);
         d.b.store_imm(BPF_DW, 1, 8, 0), d.b.place(none), d.ok();
       }},
      {Rule::kEIM004, [](Draft& d) { d.host(), d.b.mov_imm(1, 0), call_host(d.b, 2), d.ok(); }},
      {Rule::kEIM005, [](Draft& d) { d.host(), d.b.mov_imm(1, 10), call_host(d.b, 1), d.ok(); }},
      {Rule::kEIM006,
       [](Draft& d) {
         d.host();
         d.b.raw(make_insn(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_BTF_ID, 0, 1)),
             d.b.raw(make_insn(0, 0, 0, 0, 0)), d.ok();
       }},
      {Rule::kEIM007,
       [](Draft& d) {
         const Builder::Label none = d.b.label();
         d.host(), d.b.load(BPF_DW, 1, 1, 0), d.b.load(BPF_DW, 2, 1, 24), d.b.jump_imm(BPF_JEQ, 2, 0, none);
         d.b.load(BPF_B, 0, 2, 100), d.b.place(none), d.ok();
       }},
      {Rule::kEIM008,
       [](Draft& d) {
         d.host();
         d.constraints.helpers_denied = {BPF_FUNC_ktime_get_ns};
         d.b.call(BPF_FUNC_ktime_get_ns), d.ok();
       }},
      {Rule::kEIM009, [](Draft& d) { d.host(), d.b.load(BPF_W, 0, 1, 0), d.ok(); }},
  };
  return table;
}

// Rules that no program breaks, each with the reason.
const std::map<Rule, const char*>& unreachable() {
  static const std::map<Rule, const char*> table = {
      {Rule::kCFG006, "a function that calls itself comes to the ninth frame first: CFG004, as in Linux"},
  };
  return table;
}

// Rules that keep the verifier itself from reading past the program: it cannot go on without them.
bool guards_the_verifier(Rule rule) {
  return rule == Rule::kENC001 || rule == Rule::kCFG001 || rule == Rule::kCFG003;
}

class RuleSwitch : public ::testing::TestWithParam<size_t> {};

TEST_P(RuleSwitch, DecidesAlone) {
  const auto rule = static_cast<Rule>(GetParam());
  if (const auto why = unreachable().find(rule); why != unreachable().end()) GTEST_SKIP() << why->second;
  const auto row = rows().find(rule);
  ASSERT_NE(row, rows().end()) << "no program for this rule";
  Draft draft;
  draft.request.program.type = BPF_PROG_TYPE_KPROBE;
  draft.request.program.name = "test";
  draft.request.license = "GPL";
  row->second(draft);
  draft.request.program.insns = draft.b.finish();
  if (draft.constrained) draft.request.constraints = &draft.constraints;

  const Verdict refused = verify(draft.request);
  ASSERT_NE(refused.error, 0) << program::disassemble(draft.request.program);
  ASSERT_FALSE(refused.diagnoses.empty());
  EXPECT_EQ(info(refused.diagnoses.front().rule).id, info(rule).id) << summary(refused);

  if (guards_the_verifier(rule)) return;

  draft.request.options.disabled_rules.set(static_cast<size_t>(rule));
  const Verdict other = verify(draft.request);
  if (other.error != 0) {
    ASSERT_FALSE(other.diagnoses.empty());
    EXPECT_NE(info(other.diagnoses.front().rule).id, info(rule).id);
  }
}

std::string name_of(const ::testing::TestParamInfo<size_t>& param) {
  return std::string(info(static_cast<Rule>(param.param)).id);
}

INSTANTIATE_TEST_SUITE_P(Every, RuleSwitch, ::testing::Range(size_t{0}, kRuleCount), name_of);

}  // namespace
}  // namespace bpftime::verifier::testing
