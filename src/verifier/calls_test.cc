// Calls of helpers: which are allowed, what they take and give; errno and words as the kernel's.
#include "verifier/calls.h"

#include "verifier/testing/call_cases.h"

namespace bpftime::verifier {
namespace {

using namespace testing;

// ---- which helpers ----

TEST_F(Calls, OnlyHelpersOfTheProgramType) {
  const Case cases[] = {
      {"of this type", kUprobe, 0, nullptr,
       [](Builder& b) {
         read_user(b, -8, 8);
         finish(b);
       }},
      {"unknown", kSocket, EINVAL, "invalid func unknown#9999",
       [](Builder& b) {
         b.call(9999);
         finish(b);
       }},
      {"negative", kSocket, EINVAL, "invalid func unknown#-1",
       [](Builder& b) {
         b.call(-1);
         finish(b);
       }},
      {"zero", kSocket, EINVAL, "program of this type cannot use helper bpf_unspec#0",
       [](Builder& b) {
         b.call(0);
         finish(b);
       }},
      {"of another type", kSocket, EINVAL, "program of this type cannot use helper bpf_probe_read#4",
       [](Builder& b) {
         read_user(b, -8, 8, BPF_FUNC_probe_read);
         finish(b);
       }},
      {"unknown, not reached", kSocket, 0, nullptr,
       [](Builder& b) {
         const auto end = b.label();
         b.mov_imm(kR6, 0);
         b.jump_imm(BPF_JEQ, kR6, 0, end);
         b.call(195896080);
         b.place(end);
         finish(b);
       }},
      {"sleeps", kUprobe, EINVAL, "helper call might sleep in a non-sleepable prog",
       [](Builder& b) {
         read_user(b, -8, 8, BPF_FUNC_copy_from_user);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, GplHelpersNeedALicence) {
  Builder builder;
  read_user(builder, -8, 8);
  finish(builder);
  judge(make_request(kUprobe, builder, "GPL"), "GPL", 0, nullptr);
  judge(make_request(kUprobe, builder, "Dual MIT/GPL"), "dual", 0, nullptr);
  judge(make_request(kUprobe, builder, "MIT"), "MIT", EINVAL,
        "cannot call GPL-restricted function from non-GPL compatible program");
  judge(make_request(kUprobe, builder, ""), "none", EINVAL,
        "cannot call GPL-restricted function from non-GPL compatible program");
}

// ---- arguments ----

TEST_F(Calls, RegistersAfterACall) {
  const Case cases[] = {
      {"r1 is gone", kSocket, EACCES, "R1 !read_ok",
       [](Builder& b) {
         b.mov_imm(kR1, 0);
         b.call(BPF_FUNC_ktime_get_ns);
         b.mov(kR0, kR1);
         b.exit();
       }},
      {"r6 stays", kSocket, 0, nullptr,
       [](Builder& b) {
         b.mov_imm(kR6, 0);
         b.call(BPF_FUNC_ktime_get_ns);
         b.mov(kR0, kR6);
         b.exit();
       }},
      {"void leaves r0 empty", kSocket, EACCES, "R0 !read_ok",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         submit(b, kR0);
         b.exit();
       }},
      {"tail call leaves r0 empty", kSocket, EACCES, "R0 !read_ok",
       [](Builder& b) {
         b.load_map(kR2, kPrograms);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_tail_call);
         b.exit();
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, MapKeysAndValues) {
  static const std::string expected_null = std::string("R2 type=map_value_or_null expected=") + kMemory;
  static const std::string expected_number = std::string("R2 type=scalar expected=") + kMemory;
  const Case cases[] = {
      {"look-up needs a test", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -8, 1);
         look_up(b, kHash, -8);
         b.load(BPF_DW, kR0, kR0, 0);
         b.exit();
       }},
      {"constant key of an array", kSocket, 0, nullptr,
       [](Builder& b) {
         b.store_imm(BPF_W, kFp, -8, 3);
         look_up(b, kArray, -8);
         b.load(BPF_DW, kR0, kR0, 40);
         b.exit();
       }},
      {"constant key beyond the array", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) {
         b.store_imm(BPF_W, kFp, -8, 4);
         look_up(b, kArray, -8);
         b.load(BPF_DW, kR0, kR0, 40);
         b.exit();
       }},
      {"constant key of a hash", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -8, 0);
         look_up(b, kHash, -8);
         b.load(BPF_DW, kR0, kR0, 0);
         b.exit();
       }},
      {"wider spill as key", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -8, 0);
         look_up(b, kArray, -8);
         b.load(BPF_DW, kR0, kR0, 40);
         b.exit();
       }},
      {"zero bytes as key", kSocket, 0, nullptr,
       [](Builder& b) {
         b.store_imm(BPF_W, kFp, -4, 0);
         look_up(b, kArray, -4);
         b.load(BPF_DW, kR0, kR0, 40);
         b.exit();
       }},
      {"constant key of a per-CPU array", kSocket, 0, nullptr,
       [](Builder& b) {
         b.store_imm(BPF_W, kFp, -8, 1);
         look_up(b, kPerCpu, -8);
         b.load(BPF_DW, kR0, kR0, 0);
         b.exit();
       }},
      {"no key", kSocket, EACCES, expected_number.c_str(),
       [](Builder& b) {
         b.load_map(kR1, kHash);
         b.mov_imm(kR2, 0);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"key may be null", kSocket, EACCES, expected_null.c_str(),
       [](Builder& b) {
         look_up(b, kHash, -8);
         b.mov(kR2, kR0);
         b.load_map(kR1, kHash);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"key in a value", kSocket, 0, nullptr,
       [](Builder& b) {
         b.load_map(kR1, kHash);
         b.load_map_value(kR2, kValue, 56);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"key ends beyond a value", kSocket, EACCES, "R2 min value is outside of the allowed memory range",
       [](Builder& b) {
         b.load_map(kR1, kHash);
         b.load_map_value(kR2, kValue, 0);
         b.alu_imm(BPF_ADD, kR2, 57);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"not a map", kSocket, EACCES, "R1 type=ctx expected=map_ptr",
       [](Builder& b) {
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"delete in a read-only map", kSocket, EACCES, "write into map forbidden",
       [](Builder& b) {
         b.load_map(kR1, kConstants);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_delete_elem);
         finish(b);
       }},
      {"wrong type of map", kUprobe, EINVAL, "cannot pass map_type 1 into func bpf_perf_event_output#25",
       [](Builder& b) {
         b.load_map(kR2, kHash);
         b.mov_imm(kR3, 0);
         stack_pointer(b, kR4, -8);
         b.mov_imm(kR5, 8);
         b.call(BPF_FUNC_perf_event_output);
         finish(b);
       }},
      {"ring buffer has no keys", kSocket, EACCES, "invalid zero-sized read",
       [](Builder& b) {
         look_up(b, kRing, -8);
         finish(b);
       }},
      {"tail call through an array", kSocket, EINVAL, "expected prog array map for tail call",
       [](Builder& b) {
         b.load_map(kR2, kArray);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_tail_call);
         finish(b);
       }},
      {"tail call", kSocket, 0, nullptr,
       [](Builder& b) {
         b.load_map(kR2, kPrograms);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_tail_call);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, Sizes) {
  const auto with_size = [](int32_t low_mask, bool is_signed = false) {
    return [=](Builder& b) {
      b.call(BPF_FUNC_get_prandom_u32);
      if (is_signed) {
        b.alu_imm(BPF_SUB, kR0, 1);
      } else {
        b.alu_imm(BPF_AND, kR0, low_mask);
      }
      b.mov(kR2, kR0);
      stack_pointer(b, kR1, -16);
      b.mov_imm(kR3, 0);
      b.call(BPF_FUNC_probe_read_user);
      finish(b);
    };
  };
  static const std::string null_buffer = std::string("R1 type=scalar expected=") + kMemory;
  const Case cases[] = {
      {"constant", kUprobe, 0, nullptr,
       [](Builder& b) {
         read_user(b, -16, 16);
         finish(b);
       }},
      {"one too many", kUprobe, EINVAL, "invalid write to stack R1 off=-16 size=17",
       [](Builder& b) {
         read_user(b, -16, 17);
         finish(b);
       }},
      {"range", kUprobe, 0, nullptr, with_size(15)},
      {"range too large", kUprobe, EINVAL, "invalid write to stack R1 off=-16 size=31", with_size(31)},
      {"may be negative", kUprobe, EACCES, "R2 min value is negative, either use unsigned or 'var &= const'",
       with_size(0, true)},
      {"no bound", kUprobe, EACCES, "R2 unbounded memory access, use 'var &= const' or 'if (var < const)'",
       with_size(0x3fffffff)},
      {"zero where it may not be", kUprobe, EACCES, "R2 invalid zero-sized read: u64=[0,0]",
       [](Builder& b) {
         stack_pointer(b, kR1, -16);
         b.mov_imm(kR2, 0);
         b.call(BPF_FUNC_get_current_comm);
         finish(b);
       }},
      {"may be zero where it may not", kUprobe, EACCES, "R2 invalid zero-sized read: u64=[0,15]",
       [](Builder& b) {
         b.call(BPF_FUNC_get_prandom_u32);
         b.alu_imm(BPF_AND, kR0, 15);
         b.mov(kR2, kR0);
         stack_pointer(b, kR1, -16);
         b.call(BPF_FUNC_get_current_comm);
         finish(b);
       }},
      {"zero where it may", kUprobe, 0, nullptr,
       [](Builder& b) {
         read_user(b, -16, 0);
         finish(b);
       }},
      {"null buffer", kUprobe, EACCES, null_buffer.c_str(),
       [](Builder& b) {
         b.mov_imm(kR1, 0);
         b.mov_imm(kR2, 0);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_probe_read_user);
         finish(b);
       }},
      {"pointer as size", kUprobe, EACCES, "R2 type=fp expected=scalar",
       [](Builder& b) {
         stack_pointer(b, kR1, -16);
         b.mov(kR2, kFp);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_probe_read_user);
         finish(b);
       }},
      {"into read-only memory", kUprobe, EACCES, "write into map forbidden, value_size=64 off=0 size=8",
       [](Builder& b) {
         b.load_map_value(kR1, kConstants, 0);
         b.mov_imm(kR2, 8);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_probe_read_user);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, MovedContext) {
  const auto output = [](const Body& move) {
    return [=](Builder& b) {
      b.mov(kR6, kR1);
      b.call(BPF_FUNC_get_prandom_u32);
      b.mov(kR1, kR6);
      move(b);
      b.load_map(kR2, kEvents);
      b.mov_imm(kR3, 0);
      stack_pointer(b, kR4, -8);
      b.mov_imm(kR5, 8);
      b.call(BPF_FUNC_perf_event_output);
      finish(b);
    };
  };
  const Case cases[] = {
      {"unmoved", kUprobe, 0, nullptr, output([](Builder&) {})},
      {"moved", kUprobe, EACCES, "dereference of modified ctx ptr R1 off=8 disallowed",
       output([](Builder& b) { b.alu_imm(BPF_ADD, kR1, 8); })},
      {"moved back", kUprobe, EACCES, "negative offset ctx ptr R1 off=-8 disallowed",
       output([](Builder& b) { b.alu_imm(BPF_ADD, kR1, -8); })},
      {"moved by an unknown", kUprobe, EACCES, "variable ctx access var_off=(0x0; 0x4) disallowed",
       output([](Builder& b) {
         b.alu_imm(BPF_AND, kR0, 4);
         b.alu(BPF_ADD, kR1, kR0);
       })},
      {"null", kUprobe, EACCES, "R1 type=scalar expected=ctx", output([](Builder& b) { b.mov_imm(kR1, 0); })},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, FormatStrings) {
  const Case cases[] = {
      {"two values", kUprobe, 0, nullptr, [](Builder& b) { format(b, 0, 16); }},
      {"one value too few", kUprobe, EINVAL, "Invalid format string", [](Builder& b) { format(b, 0, 8); }},
      {"percent at the end", kUprobe, EINVAL, "Invalid format string", [](Builder& b) { format(b, 8, 16); }},
      {"unprintable", kUprobe, EINVAL, "Invalid format string", [](Builder& b) { format(b, 16, 16); }},
      {"no end", kUprobe, EINVAL, "string is not zero-terminated", [](Builder& b) { format(b, 32, 16); }},
      {"not constant", kUprobe, EACCES, "R3 does not point to a readonly map'",
       [](Builder& b) {
         stack_pointer(b, kR1, -64);
         b.mov_imm(kR2, 16);
         b.load_map_value(kR3, kValue, 0);
         stack_pointer(b, kR4, -32);
         b.mov_imm(kR5, 8);
         b.call(BPF_FUNC_snprintf);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST(Format, WhatLinuxTakes) {
  const struct {
    const char* format;
    uint32_t values;
    bool valid;
  } rows[] = {{"", 0, true},       {"%%", 0, true},     {"%d", 1, true},     {"%d", 0, false},
              {"%08llx", 1, true}, {"%lu", 1, true},    {"%p", 1, true},     {"%pK", 1, true},
              {"%pB", 1, true},    {"%pi4", 1, true},   {"%pI6", 1, true},   {"%pi5", 1, false},
              {"%pks", 1, true},   {"%pus x", 1, true}, {"%pksx", 1, false}, {"%s", 1, true},
              {"%sx", 1, false},   {"%s,", 1, true},    {"%c", 1, true},     {"%f", 1, false},
              {"%", 1, false},     {"%l", 1, false},    {"a\x80", 0, false}, {"\n\t", 0, true},
              {"%-5d", 1, true},   {"%q", 1, false},    {"%d%d", 1, false}};
  for (const auto& row : rows) EXPECT_EQ(format_valid(row.format, row.values), row.valid) << row.format;
}

// ---- results ----

TEST_F(Calls, Results) {
  const auto bounded = [](int32_t helper, uint8_t jump, int32_t bound) {
    return [=](Builder& b) {
      const auto bad = b.label();
      read_user(b, -16, 16, helper);
      b.jump_imm(jump, kR0, bound, bad);
      finish(b);
      b.place(bad);
      b.load(BPF_DW, kR0, kR1, 0);  // r1 has no value: reached, it is refused
      b.exit();
    };
  };
  const Case cases[] = {
      {"string length has a bound", kUprobe, 0, nullptr, bounded(BPF_FUNC_probe_read_user_str, BPF_JSGT, 16)},
      {"below it is possible", kUprobe, EACCES, "R1 !read_ok",
       bounded(BPF_FUNC_probe_read_user_str, BPF_JSGT, 15)},
      {"errors have one too", kUprobe, 0, nullptr, bounded(BPF_FUNC_probe_read_kernel_str, BPF_JSLT, -4095)},
      {"errors are possible", kUprobe, EACCES, "R1 !read_ok",
       bounded(BPF_FUNC_probe_read_kernel_str, BPF_JSLT, -4094)},
      {"other results have none", kUprobe, EACCES, "R1 !read_ok",
       bounded(BPF_FUNC_probe_read_user, BPF_JSGT, 16)},
      {"number of the processor", kSocket, 0, nullptr,
       [](Builder& b) {
         const auto bad = b.label();
         b.call(BPF_FUNC_get_smp_processor_id);
         b.jump_imm(BPF_JGT, kR0, 8191, bad);
         finish(b);
         b.place(bad);
         b.load(BPF_DW, kR0, kR1, 0);
         b.exit();
       }},
      {"inner map", kSocket, 0, nullptr,
       [](Builder& b) {
         b.store_imm(BPF_W, kFp, -8, 0);
         look_up(b, kMaps, -8);
         need_r0(b);
         b.mov(kR1, kR0);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_lookup_elem);
         need_r0(b);
         b.load(BPF_W, kR0, kR0, 0);
         b.exit();
       }},
      {"inner map, value too small", kSocket, EACCES, "R0 min value is outside of the allowed memory range",
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -8, 0);
         look_up(b, kMaps, -8);
         need_r0(b);
         b.mov(kR1, kR0);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_lookup_elem);
         need_r0(b);
         b.load(BPF_DW, kR0, kR0, 0);
         b.exit();
       }},
      {"inner map, untested", kSocket, EACCES, "R1 type=map_value_or_null expected=map_ptr",
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -8, 0);
         look_up(b, kMaps, -8);
         b.mov(kR1, kR0);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"queue", kSocket, 0, nullptr,
       [](Builder& b) {
         b.load_map(kR1, kQueue);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_pop_elem);
         b.load(BPF_DW, kR0, kFp, -8);
         b.exit();
       }},
      {"stack id", kUprobe, 0, nullptr,
       [](Builder& b) {
         b.load_map(kR2, kStacks);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_get_stackid);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

// ---- what only we decide ----

TEST(CallsWithConstraints, HelpersNeedTheirGrants) {
  Constraints constraints;
  constraints.class_name = "observe";
  Builder output;
  read_user(output, -8, 8);
  finish(output);
  Request request = make_request(kUprobe, output);
  request.constraints = &constraints;
  EXPECT_EQ(verify(request).error, 0);
  constraints.helpers_denied = {BPF_FUNC_probe_read_user};
  Verdict verdict = verify(request);
  ASSERT_NE(verdict.error, 0);
  EXPECT_EQ(verdict.diagnoses[0].rule, Rule::kEIM008);
}

Builder write_user() {
  Builder b;
  b.mov_imm(kR1, 0);
  b.store_imm(BPF_DW, kFp, -8, 0);
  stack_pointer(b, kR2, -8);
  b.mov_imm(kR3, 8);
  b.call(BPF_FUNC_probe_write_user);
  finish(b);
  return b;
}

TEST(CallsWithConstraints, WritingToTheHostNeedsAGrant) {
  const Builder b = write_user();
  Request request = make_request(kUprobe, b);
  EXPECT_EQ(verify(request).error, 0);
  request.options.probe_write_user = false;
  EXPECT_EQ(verify(request).diagnoses.at(0).rule, Rule::kFUN002);
  Constraints constraints;
  request.constraints = &constraints;
  EXPECT_EQ(verify(request).diagnoses.at(0).rule, Rule::kEIM008);
  constraints.helpers_granted = {BPF_FUNC_probe_write_user};
  EXPECT_EQ(verify(request).error, 0);
}

TEST(CallsWithConstraints, ReturnValuesAreProved) {
  Constraints constraints;
  constraints.helpers_granted = {BPF_FUNC_override_return};
  const auto verdict_for = [&](const Body& value) {
    Builder b;
    b.mov(kR6, kR1);
    value(b);
    b.mov(kR2, kR0);
    b.mov(kR1, kR6);
    b.call(BPF_FUNC_override_return);
    finish(b);
    Request request = make_request(kUprobe, b);
    request.constraints = &constraints;
    return verify(request);
  };
  const auto constant = [](int32_t value) { return [=](Builder& b) { b.mov_imm(kR0, value); }; };
  EXPECT_EQ(verdict_for(constant(0)).diagnoses.at(0).rule, Rule::kEIM005);  // may not return at all
  constraints.may_return = true;
  constraints.return_values = {{403, 404}, {static_cast<uint64_t>(-5), static_cast<uint64_t>(-1)}};
  EXPECT_EQ(verdict_for(constant(403)).error, 0);
  EXPECT_EQ(verdict_for(constant(404)).error, 0);
  EXPECT_EQ(verdict_for(constant(405)).diagnoses.at(0).rule, Rule::kEIM005);
  EXPECT_EQ(verdict_for(constant(-1)).error, 0);
  EXPECT_EQ(verdict_for(constant(-6)).diagnoses.at(0).rule, Rule::kEIM005);
  const auto random = [](Builder& b) { b.call(BPF_FUNC_get_prandom_u32); };
  EXPECT_EQ(verdict_for(random).diagnoses.at(0).rule, Rule::kEIM005);
  EXPECT_EQ(verdict_for([](Builder& b) {
              b.call(BPF_FUNC_get_prandom_u32);
              b.alu_imm(BPF_AND, kR0, 1);
              b.alu_imm(BPF_ADD, kR0, 403);
            }).error,
            0);
  constraints.return_is_void = true;
  EXPECT_EQ(verdict_for(random).error, 0);
  constraints.helpers_granted.clear();
  EXPECT_EQ(verdict_for(constant(403)).diagnoses.at(0).rule, Rule::kEIM008);
}

TEST(CallsFacts, HelpersAndMaps) {
  Builder b;
  b.store_imm(BPF_DW, kFp, -8, 0);
  look_up(b, kHash, -8);
  b.call(BPF_FUNC_ktime_get_ns);
  finish(b);
  const Verdict verdict = verify(make_request(kSocket, b));
  ASSERT_EQ(verdict.error, 0) << testing::summary(verdict);
  EXPECT_EQ(verdict.facts.helpers_called,
            (std::vector<uint32_t>{BPF_FUNC_map_lookup_elem, BPF_FUNC_ktime_get_ns}));
  EXPECT_TRUE(verdict.facts.insns[5].same_map);
  EXPECT_EQ(verdict.facts.insns[5].map, kHash);
}

TEST(CallsFacts, OneCallOnTwoMaps) {
  Builder b;
  b.store_imm(BPF_DW, kFp, -8, 0);
  b.call(BPF_FUNC_get_prandom_u32);
  const auto other = b.label(), both = b.label();
  b.jump_imm(BPF_JEQ, kR0, 0, other);
  b.load_map(kR1, kHash);
  b.go(both);
  b.place(other);
  b.load_map(kR1, kArray);
  b.place(both);
  stack_pointer(b, kR2, -8);
  const size_t call = b.size();
  b.call(BPF_FUNC_map_lookup_elem);
  finish(b);
  const Verdict verdict = verify(make_request(kSocket, b));
  ASSERT_EQ(verdict.error, 0) << testing::summary(verdict);
  EXPECT_FALSE(verdict.facts.insns[call].same_map);
}

TEST(CallsLimits, ReferencesOpenAtOnce) {
  Builder b;
  for (int i = 0; i < 3; ++i) {
    reserve(b);
    need_r0(b);
    b.store(BPF_DW, kFp, static_cast<int16_t>(-8 * (i + 1)), kR0);
  }
  finish(b);
  Request request = make_request(kSocket, b);
  request.options.limits.references = 0;
  EXPECT_EQ(verify(request).diagnoses.at(0).rule, Rule::kLIM004);
}

}  // namespace
}  // namespace bpftime::verifier
