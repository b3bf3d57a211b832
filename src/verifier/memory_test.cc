#include "verifier/testing/verdicts.h"

namespace bpftime::verifier {
namespace {

using testing::array_map;
using testing::expect_verdict;
using testing::first_message;
using testing::request_of;
using testing::request_with_value;
using testing::VerdictCase;

#define END "\nmov %r0, 0\nexit"
// r0 = the value of map 0 or null; goes on when it is there.
#define VALUE "jeq %r0, 0, out\n"
#define OUT "\nout:\nmov %r0, 0\nexit"
// A number in r2 from the map value itself.
#define INDEX "ldxdw %r2, [%r0]\n"

TEST(MapValue, Bounds) {
  const VerdictCase cases[] = {
      {"not tested", "ldxdw %r2, [%r0]" END, EACCES, "R0 invalid mem access 'map_value_or_null'"},
      {"null", "jne %r0, 0, out\nldxdw %r2, [%r0]" OUT, EACCES, "R0 invalid mem access 'scalar'"},
      {"last bytes", VALUE "ldxdw %r2, [%r0+40]" OUT},
      {"beyond", VALUE "ldxdw %r2, [%r0+41]" OUT, EACCES,
       "invalid access to map value, value_size=48 off=41 size=8"},
      {"before", VALUE "ldxdw %r2, [%r0-1]" OUT, EACCES,
       "invalid access to map value, value_size=48 off=-1 size=8"},
      {"written beyond", VALUE "stdw [%r0+48], 0" OUT, EACCES,
       "invalid access to map value, value_size=48 off=48 size=8"},
      {"any alignment", VALUE "stdw [%r0+3], 0" OUT},
      {"bounded index", VALUE INDEX "jgt %r2, 40, out\nadd %r0, %r2\nldxdw %r3, [%r0]" OUT},
      {"one too many", VALUE INDEX "jgt %r2, 41, out\nadd %r0, %r2\nldxdw %r3, [%r0]" OUT, EACCES,
       "R0 max value is outside of the allowed memory range"},
      {"signed bound only", VALUE INDEX "jsgt %r2, 40, out\nadd %r0, %r2\nldxdw %r3, [%r0]" OUT, EINVAL,
       "math between map_value pointer and register with unbounded min value is not allowed"},
      {"negative", VALUE INDEX "jsgt %r2, 40, out\njslt %r2, -8, out\nadd %r0, %r2\nldxdw %r3, [%r0]" OUT,
       EACCES, "R0 min value is negative, either use unsigned index or do a if (index >=0) check."},
      // Linux looks at the unsigned maximum of the variable part alone.
      {"negative but moved up",
       VALUE INDEX "jsgt %r2, 30, out\njslt %r2, -8, out\nadd %r0, %r2\nldxdw %r3, [%r0+8]" OUT, EACCES,
       "R0 unbounded memory access, make sure to bounds check any such access"},
      {"no upper bound", VALUE "ldxw %r2, [%r0]\nadd %r0, %r2\nldxdw %r3, [%r0]" OUT, EACCES,
       "R0 unbounded memory access, make sure to bounds check any such access"},
      {"starts beyond", VALUE INDEX "and %r2, 1\nadd %r2, 48\nadd %r0, %r2\nldxb %r3, [%r0]" OUT, EACCES,
       "R0 min value is outside of the allowed memory range"},
      {"a number", "mov %r2, 4096\nldxdw %r3, [%r2]" END, EACCES, "R2 invalid mem access 'scalar'"},
      {"no value", "ldxdw %r3, [%r7]" END, EACCES, "R7 !read_ok"},
      {"stored without value", VALUE "stxdw [%r0], %r7" OUT, EACCES, "R7 !read_ok"},
      {"pointer stored", VALUE "stxdw [%r0], %r10" OUT},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_with_value(one.assembly, array_map(48)), one);
}

TEST(MapValue, Rights) {
  const VerdictCase read = {"read", VALUE "ldxdw %r2, [%r0]" OUT},
                    write = {"write", VALUE "stdw [%r0], 0" OUT};
  const VerdictCase no_write = {"write", write.assembly, EACCES,
                                "write into map forbidden, value_size=48 off=0 size=8"};
  const VerdictCase no_read = {"read", read.assembly, EACCES,
                               "read from map forbidden, value_size=48 off=0 size=8"};
  expect_verdict(request_with_value(read.assembly, array_map(48, 1, BPF_F_RDONLY_PROG)), read);
  expect_verdict(request_with_value(write.assembly, array_map(48, 1, BPF_F_RDONLY_PROG)), no_write);
  expect_verdict(request_with_value(read.assembly, array_map(48, 1, BPF_F_WRONLY_PROG)), no_read);
  expect_verdict(request_with_value(write.assembly, array_map(48, 1, BPF_F_WRONLY_PROG)), write);
}

// r1 = the first value; its bytes are 0, 1, 2, ….
Request request_with_contents(const char* assembly, bool frozen) {
  Request request = request_of(assembly);
  const program::Insn load = {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, 0};
  request.program.insns.insert(request.program.insns.begin(), {load, program::Insn{}});
  MapConstraint map = array_map(32, 1, BPF_F_RDONLY_PROG);
  map.frozen = frozen;
  for (uint8_t i = 0; i < 32; ++i) map.contents.push_back(i);
  request.maps.push_back(map);
  return request;
}

TEST(MapValue, FrozenContentsAreConstants) {
  const auto accepted = [](const char* assembly, bool frozen = true) {
    return verify(request_with_contents(assembly, frozen)).error == 0;
  };
#define IS(value) "\njeq %r2, " #value ", good\nldxdw %r0, [%r2]\ngood:" END
  EXPECT_TRUE(accepted("ldxb %r2, [%r1+5]" IS(5)));
  EXPECT_TRUE(accepted("ldxh %r2, [%r1+5]" IS(0x605)));
  EXPECT_TRUE(accepted("ldxw %r2, [%r1+4]" IS(0x07060504)));
  EXPECT_TRUE(accepted("ldxdw %r2, [%r1+24]\nrsh %r2, 32" IS(0x1f1e1d1c)));
  EXPECT_FALSE(accepted("ldxb %r2, [%r1+5]" IS(6)));
  EXPECT_FALSE(accepted("ldxb %r2, [%r1+5]" IS(5), false));  // may still change
  // At an unknown place it is any byte.
  EXPECT_FALSE(accepted("ldxw %r3, [%r10-8]\nand %r3, 1\nadd %r1, %r3\nldxb %r2, [%r1+5]" IS(5)));
}

TEST(MapValue, LocksAndTimersAreTheHelpersAlone) {
  MapConstraint map = array_map(24);
  map.spin_lock = 4;
  map.timer = 8;
  const auto words = [&](const char* assembly) {
    Request request = request_with_value(assembly, map);
    request.program.type = BPF_PROG_TYPE_XDP;  // tracing programs may have neither
    return first_message(verify(request));
  };
  EXPECT_EQ(words(VALUE "ldxw %r2, [%r0]" OUT), "");
  EXPECT_EQ(words(VALUE "ldxw %r2, [%r0+4]" OUT), "bpf_spin_lock cannot be accessed directly by load/store");
  EXPECT_EQ(words(VALUE "ldxdw %r2, [%r0]" OUT), "bpf_spin_lock cannot be accessed directly by load/store");
  EXPECT_EQ(words(VALUE "stb [%r0+7], 1" OUT), "bpf_spin_lock cannot be accessed directly by load/store");
  EXPECT_EQ(words(VALUE "stb [%r0+8], 1" OUT), "bpf_timer cannot be accessed directly by load/store");
  EXPECT_EQ(words(VALUE "ldxb %r2, [%r0+23]" OUT), "bpf_timer cannot be accessed directly by load/store");
}

TEST(Memory, Atomics) {
  const VerdictCase cases[] = {
      {"add to a value", VALUE "mov %r2, 1\nlock add [%r0], %r2" OUT},
      {"32 bits", VALUE "mov %r2, 1\nlock add32 [%r0+4], %r2" OUT},
      {"misaligned", VALUE "mov %r2, 1\nlock add [%r0+4], %r2" OUT, EACCES,
       "misaligned value access off 0+0+4 size 8"},
      {"beyond", VALUE "mov %r2, 1\nlock add [%r0+48], %r2" OUT, EACCES,
       "invalid access to map value, value_size=48 off=48 size=8"},
      {"fetch gives an unknown number", VALUE "mov %r2, 1\nlock fetch add [%r0], %r2\nldxdw %r3, [%r2]" OUT,
       EACCES, "R2 invalid mem access 'scalar'"},
      {"without a value to add", VALUE "lock add [%r0], %r7" OUT, EACCES, "R7 !read_ok"},
      {"on the stack", "mov %r2, 1\nstdw [%r10-16], 5\nlock add [%r10-16], %r2" END},
      {"makes the stack unknown",
       "mov %r2, 1\nstdw [%r10-16], 5\nlock add [%r10-16], %r2\nldxdw %r3, [%r10-16]\njeq %r3, 5, "
       "good\nldxdw %r3, "
       "[%r3]\ngood:" END,
       EACCES, "R3 invalid mem access 'scalar'"},
      {"fetch from the stack",
       "mov %r2, 1\nstdw [%r10-16], 5\nlock fetch add [%r10-16], %r2\njeq %r2, 5, good\nldxdw %r3, "
       "[%r2]\ngood:" END},
      {"exchange with a pointer on the stack",
       "mov %r2, 1\nstxdw [%r10-16], %r10\nlock xchg [%r10-16], %r2" END},
      {"address is overwritten", VALUE "lock fetch add [%r0], %r0" OUT, EACCES, ""},
      {"cmpxchg", VALUE "mov %r6, %r0\nmov %r0, 1\nmov %r2, 2\nlock cmpxchg [%r6], %r2\nldxdw %r3, [%r0]" OUT,
       EACCES, "R0 invalid mem access 'scalar'"},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_with_value(one.assembly, array_map(48)), one);
  const VerdictCase context = {"context", "mov %r2, 1\nlock add [%r1], %r2" END, EACCES,
                               "BPF_ATOMIC stores into R1 ctx is not allowed"};
  expect_verdict(request_of(context.assembly), context);
}

TEST(Memory, PacketLoadsOfOldFilters) {
  // r0 = *(u32 *)skb[4], r0 = *(u8 *)skb[r2 + 4]
  const program::Insn absolute = {BPF_LD | BPF_ABS | BPF_W, 0, 0, 0, 4};
  const program::Insn indirect = {BPF_LD | BPF_IND | BPF_B, 0, 2, 0, 4};
  const program::Insn to_r6 = {BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0};
  const program::Insn index = {BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 1};
  const program::Insn end = {BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
  const program::Insn use_r1 = {BPF_ALU64 | BPF_MOV | BPF_X, 0, 1, 0, 0};
  const auto check = [](std::vector<program::Insn> insns, const VerdictCase& expected,
                        uint32_t type = BPF_PROG_TYPE_SOCKET_FILTER) {
    Request request = request_of("exit", type);
    request.program.insns = std::move(insns);
    expect_verdict(request, expected);
  };
  check({to_r6, absolute, end}, {"absolute", ""});
  check({to_r6, index, indirect, end}, {"indirect", ""});
  check({to_r6, indirect, end}, {"indirect without index", "", EACCES, "R2 !read_ok"});
  const program::Insn call = {BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1};
  check({call, end, to_r6, absolute, end},
        {"in a function", "", EINVAL, "LD_ABS is not allowed in subprogs without BTF"});
  check({absolute, end}, {"without context", "", EACCES, "R6 !read_ok"});
  check({to_r6, absolute, use_r1, end}, {"r1 is gone", "", EACCES, "R1 !read_ok"});
  check({to_r6, {BPF_ALU64 | BPF_MOV | BPF_K, 6, 0, 0, 0}, absolute, end},
        {"r6 is a number", "", EINVAL, "at the time of BPF_LD_ABS|IND R6 != pointer to skb"});
  check({to_r6, absolute, end}, {"kprobe", "", EINVAL}, BPF_PROG_TYPE_KPROBE);
}

TEST(Memory, Packets) {
  // r2 = data, r3 = data_end
  const std::string start = "ldxw %r2, [%r1]\nldxw %r3, [%r1+4]\n";
  const VerdictCase cases[] = {
      {"proved", "mov %r4, %r2\nadd %r4, 14\njgt %r4, %r3, out\nldxb %r5, [%r2+13]" OUT},
      {"written", "mov %r4, %r2\nadd %r4, 14\njgt %r4, %r3, out\nstb [%r2+13], 1" OUT},
      {"one too many", "mov %r4, %r2\nadd %r4, 14\njgt %r4, %r3, out\nldxb %r5, [%r2+14]" OUT, EACCES,
       "invalid access to packet, off=14 size=1, R2(id=0,off=14,r=14)"},
      {"not proved", "ldxb %r5, [%r2]" OUT, EACCES,
       "invalid access to packet, off=0 size=1, R2(id=0,off=0,r=0)"},
      {"wrong side", "mov %r4, %r2\nadd %r4, 14\njle %r4, %r3, out\nldxb %r5, [%r2+13]" OUT, EACCES,
       "invalid access to packet"},
      {"the end itself", "ldxb %r5, [%r3]" OUT, EACCES, "R3 invalid mem access 'pkt_end'"},
      {"before", "mov %r4, %r2\nadd %r4, 14\njgt %r4, %r3, out\nldxb %r5, [%r2-1]" OUT, EACCES,
       "invalid access to packet, off=-1 size=1"},
      {"atomic", "mov %r4, %r2\nadd %r4, 14\njgt %r4, %r3, out\nmov %r5, 1\nlock add [%r2], %r5" OUT, EACCES,
       "BPF_ATOMIC stores into R2 pkt is not allowed"},
  };
  for (const VerdictCase& one : cases)
    expect_verdict(request_of(start + one.assembly, BPF_PROG_TYPE_XDP), one);
}

// ---- host objects ----

using Member = View::Member;

// struct request { int status; char method[8]; struct uri *uri; struct { u16 a, b; } pairs[6]; size_t length; char *data;
//                  int unused; unsigned open : 2, depth : 2; }
Constraints host() {
  Constraints constraints;
  constraints.class_name = "test";
  View request{"request", 72, {}};
  request.members = {
      {.name = "status", .offset = 0, .size = 4, .read = true, .write = true},
      {.name = "method", .offset = 4, .size = 8, .element_size = 1, .read = true},
      {.name = "uri", .offset = 16, .size = 8, .read = true, .gives = Member::Gives::kObject, .view = 1},
      {.name = "pairs", .offset = 24, .size = 24, .element_size = 4, .read = true},
      {.name = "length", .offset = 48, .size = 8, .read = true},
      {.name = "data",
       .offset = 56,
       .size = 8,
       .read = true,
       .gives = Member::Gives::kBuffer,
       .buffer_length_member = 4},
      {.name = "secret", .offset = 12, .size = 4},
      {.name = "open", .offset = 68, .size = 4, .read = true, .write = true, .bit_field = true, .bits = 3},
      {.name = "depth", .offset = 68, .size = 4, .read = true, .bit_field = true, .bits = 12},
  };
  View uri{"uri",
           16,
           {{.name = "port", .offset = 0, .size = 2, .read = true, .write = true},
            {.name = "open", .offset = 4, .size = 4, .write = true, .bit_field = true, .bits = 1}}};
  constraints.views = {request, uri};
  constraints.typed_entry = true;
  Argument r;
  r.name = "r";
  r.kind = Argument::Kind::kObject;
  r.view = 0;
  r.may_be_null = false;
  Argument buffer;
  buffer.name = "buf";
  buffer.kind = Argument::Kind::kBuffer;
  buffer.length_argument = 2;
  buffer.may_be_null = false;
  Argument length;
  length.name = "len";
  constraints.entry = {r, buffer, length};
  return constraints;
}

struct HostCase {
  const char* name;
  const char* assembly;  // r6 = r, the request
  Rule rule = Rule::kCount;
};

Verdict verify_host(const std::string& assembly) {
  const Constraints constraints = host();
  Request request = request_of("mov %r7, %r1\nldxdw %r6, [%r1]\n" + assembly);
  request.constraints = &constraints;
  request.options.zero_stack = false;
  request.options.allow_pointer_leaks = false;
  return verify(request);
}

void expect_rules(const std::vector<HostCase>& cases) {
  for (const HostCase& one : cases) {
    const Verdict verdict = verify_host(one.assembly);
    const Rule rule = verdict.diagnoses.empty() ? Rule::kCount : verdict.diagnoses[0].rule;
    EXPECT_EQ(rule, one.rule) << one.name << ": "
                              << (verdict.diagnoses.empty() ? "accepted" : verdict.diagnoses[0].message);
  }
}

TEST(HostObject, MembersAreGrantedOneByOne) {
  expect_rules({
      {"read", "ldxw %r2, [%r6]" END},
      {"write", "stw [%r6], 404" END},
      {"part of it", "ldxh %r2, [%r6+2]" END},
      {"not granted", "ldxw %r2, [%r6+12]" END, Rule::kEIM001},
      {"write not granted", "stb [%r6+4], 1" END, Rule::kEIM002},
      {"across two members", "ldxdw %r2, [%r6]" END, Rule::kEIM001},
      {"padding", "ldxb %r2, [%r6+20]" END, Rule::kEIM001},
      {"outside", "ldxdw %r2, [%r6+64]" END, Rule::kEIM001},
      {"before", "ldxb %r2, [%r6-1]" END, Rule::kEIM001},
      {"half a pointer", "ldxw %r2, [%r6+16]" END, Rule::kEIM001},
      {"a pointer stored", "stxdw [%r6], %r6" END, Rule::kEIM002},
      {"its bytes stored", "mov %r2, 1\nlock add32 [%r6], %r2" END},
      {"atomic without write", "mov %r2, 1\nlock add32 [%r6+24], %r2" END, Rule::kEIM002},
  });
}

// By an atomic or, or and, that cannot change anything else; all other stores would write their neighbours' old values.
TEST(HostObject, BitFieldsAreWrittenAlone) {
  expect_rules({
      {"set", "mov %r2, 3\nlock or32 [%r6+68], %r2" END},
      {"the next bit, too", "mov %r2, 7\nlock or32 [%r6+68], %r2" END, Rule::kEIM002},
      {"another field", "mov %r2, 8\nlock or32 [%r6+68], %r2" END, Rule::kEIM002},
      {"none's bit", "mov %r2, 16\nlock or32 [%r6+68], %r2" END, Rule::kEIM002},
      {"cleared", "mov %r2, -4\nlock and32 [%r6+68], %r2" END},
      {"the next bit cleared, too", "mov %r2, -8\nlock and32 [%r6+68], %r2" END, Rule::kEIM002},
      {"set to what fits", "ldxw %r2, [%r6]\nand %r2, 3\nlock or32 [%r6+68], %r2" END},
      {"set to what may not fit", "ldxw %r2, [%r6]\nand %r2, 7\nlock or32 [%r6+68], %r2" END, Rule::kEIM002},
      {"set where ways have met",
       "mov %r2, 3\nldxw %r3, [%r6]\njeq %r3, 0, same\nmov %r4, 1\nsame:\nlock or32 [%r6+68], %r2" END},
      {"cleared by what may clear more", "ldxw %r2, [%r6]\nlock and32 [%r6+68], %r2" END, Rule::kEIM002},
      {"in a wider word", "mov %r2, 3\nlsh %r2, 32\nlock or [%r6+64], %r2" END},
      {"the next bit in a wider word", "mov %r2, 7\nlsh %r2, 32\nlock or [%r6+64], %r2" END, Rule::kEIM002},
      {"a bit below in a wider word", "mov %r2, 1\nlsh %r2, 31\nlock or [%r6+64], %r2" END, Rule::kEIM002},
      {"beyond the object", "mov %r2, 3\nlock or32 [%r6+72], %r2" END, Rule::kEIM001},
      {"not aligned", "mov %r2, 0x300\nlock or32 [%r6+67], %r2" END, Rule::kMEM006},
      {"stored", "stw [%r6+68], 3" END, Rule::kEIM002},
      {"added", "mov %r2, 1\nlock add32 [%r6+68], %r2" END, Rule::kEIM002},
      {"flipped", "mov %r2, 1\nlock xor32 [%r6+68], %r2" END, Rule::kEIM002},
      {"a pointer", "lock or [%r6+64], %r6" END, Rule::kTYP006},
      {"of an object that was walked to",
       "ldxdw %r3, [%r6+16]\njeq %r3, 0, out\nmov %r2, 1\nlock or32 [%r3+4], %r2\nout:" END, Rule::kEIM003},
  });
}

TEST(HostObject, RefusalsNameTheMissingGrant) {
  const auto grant = [](const char* assembly) {
    const Verdict verdict = verify_host(assembly);
    return verdict.diagnoses.empty() ? "accepted" : verdict.diagnoses[0].grant;
  };
  EXPECT_EQ(grant("ldxw %r2, [%r6+12]" END), "read(request.secret)");
  EXPECT_EQ(grant("stb [%r6+4], 1" END), "write(request.method)");
  EXPECT_EQ(grant("ldxb %r2, [%r6+20]" END), "");  // inside a pointer: nothing to grant
  EXPECT_EQ(grant("ldxw %r2, [%r6]" END), "accepted");
  EXPECT_EQ(grant("mov %r2, 4\nlock or32 [%r6+68], %r2" END), "write(request.depth)");
}

// A member whose type promises a range (an enum) takes only numbers within it, and gives them back.
TEST(HostObject, PromisedRangesAreKept) {
  Constraints constraints = host();
  constraints.views[0].members[0].number = Scalar::unsigned_range(0, 3);
  const auto error = [&](const std::string& assembly) {
    Request request = request_of("ldxdw %r6, [%r1]\n" + assembly);
    request.constraints = &constraints;
    return verify(request).error;
  };
  EXPECT_EQ(error("stw [%r6], 3" END), 0);
  EXPECT_EQ(error("stw [%r6], 4" END), EACCES);
  EXPECT_EQ(error("stb [%r6], 1" END), EACCES);  // part of it
  EXPECT_EQ(error("ldxw %r2, [%r6]\nstxw [%r6], %r2" END), 0);
  EXPECT_EQ(error("mov %r2, 1\nlock add32 [%r6], %r2" END), EACCES);
  EXPECT_EQ(error("ldxw %r2, [%r6]\njgt %r2, 3, bad\nmov %r0, 0\nexit\nbad:\nldxdw %r0, [%r2]\nexit"), 0);
}

TEST(Memory, StrictAlignment) {
  const VerdictCase loose = {"loose", VALUE "ldxdw %r2, [%r0+4]" OUT};
  const VerdictCase strict = {"strict", loose.assembly, EACCES, "misaligned value access off 0+0+4 size 8"};
  Request request = request_with_value(loose.assembly, array_map(48));
  expect_verdict(request, loose);
  request.flags = BPF_F_STRICT_ALIGNMENT;
  request.options.strict_alignment = true;
  expect_verdict(request, strict);
}

TEST(Memory, FactsNameTheMap) {
  Request request = request_with_value(VALUE "ldxdw %r2, [%r0+4]" OUT, array_map(48));
  const Verdict verdict = verify(request);
  ASSERT_EQ(verdict.error, 0);
  EXPECT_TRUE(verdict.facts.insns[7].same_map);
  EXPECT_EQ(verdict.facts.insns[7].map, 0u);
  EXPECT_FALSE(verdict.facts.insns[2].same_map);  // the key, on the stack
}

TEST(HostObject, ArraysWithinOneElement) {
#define PAIR(mask, scale) "ldxw %r2, [%r6]\nand %r2, " #mask "\nmul %r2, " #scale "\nadd %r6, %r2\n"
  expect_rules({
      {"element", PAIR(3, 4) "ldxw %r2, [%r6+24]" END},
      {"half of one", PAIR(3, 4) "ldxh %r2, [%r6+26]" END},
      {"two halves of two", PAIR(3, 4) "ldxw %r2, [%r6+26]" END, Rule::kEIM001},
      {"unaligned index", PAIR(3, 2) "ldxw %r2, [%r6+24]" END, Rule::kEIM001},
      {"beyond the array", PAIR(7, 4) "ldxw %r2, [%r6+24]" END, Rule::kEIM001},
      {"constant across", "ldxw %r2, [%r6+26]" END, Rule::kEIM001},
      {"bytes", "ldxw %r2, [%r6]\nand %r2, 7\nadd %r6, %r2\nldxb %r2, [%r6+4]" END},
      {"no bound", "ldxw %r2, [%r6]\nadd %r6, %r2\nldxb %r2, [%r6+4]" END, Rule::kMEM003},
  });
}

TEST(HostObject, WalkedPointers) {
  expect_rules({
      {"not tested", "ldxdw %r2, [%r6+16]\nldxh %r3, [%r2]" END},
      {"known to be null", "ldxdw %r2, [%r6+16]\njne %r2, 0, out\nldxh %r3, [%r2]" OUT, Rule::kNUL001},
      {"moved, not tested", "ldxdw %r2, [%r6+16]\nadd %r2, 4\nldxh %r3, [%r2-4]" END},
      {"moved, tested before it was",
       "ldxdw %r2, [%r6+16]\nmov %r3, %r2\nadd %r3, 4\njeq %r2, 0, out\nldxh %r4, [%r3-4]" OUT},
      {"moved, tested, not a number then",
       "ldxdw %r2, [%r6+16]\nadd %r2, 4\njne %r2, 0, out\nmov %r0, %r2\nexit" OUT, Rule::kTYP006},
      {"not granted, not tested", "ldxdw %r2, [%r6+16]\nldxw %r3, [%r2]" END, Rule::kEIM001},
      {"never written, not tested", "ldxdw %r2, [%r6+16]\nsth [%r2], 80" END, Rule::kEIM003},
      {"read", "ldxdw %r2, [%r6+16]\njeq %r2, 0, out\nldxh %r3, [%r2]" OUT},
      {"not granted behind it", "ldxdw %r2, [%r6+16]\njeq %r2, 0, out\nldxw %r3, [%r2]" OUT, Rule::kEIM001},
      {"never written", "ldxdw %r2, [%r6+16]\njeq %r2, 0, out\nsth [%r2], 80" OUT, Rule::kEIM003},
  });
  const Verdict verdict = verify_host("ldxdw %r2, [%r6+16]\njeq %r2, 0, out\nldxh %r3, [%r2]" OUT);
  ASSERT_EQ(verdict.error, 0);
  EXPECT_FALSE(verdict.facts.insns[2].needs_fault_table);  // through the argument itself
  EXPECT_TRUE(verdict.facts.insns[4].needs_fault_table);
  const Verdict untested = verify_host("ldxdw %r2, [%r6+16]\nldxh %r3, [%r2]" END);
  ASSERT_EQ(untested.error, 0);
  EXPECT_TRUE(untested.facts.insns[3].needs_fault_table) << "null, too, is repaired";
}

TEST(HostBuffer, BelowItsLength) {
#define LOADED "ldxdw %r2, [%r6+48]\nldxdw %r3, [%r6+56]\n"
#define SOME_INDEX "ldxw %r4, [%r6]\n"
  expect_rules({
      {"unproved", LOADED "ldxb %r5, [%r3]" END, Rule::kEIM007},
      {"constant below the length", LOADED "jlt %r2, 4, out\nldxw %r5, [%r3]" OUT},
      {"one too many", LOADED "jlt %r2, 4, out\nldxw %r5, [%r3+1]" OUT, Rule::kEIM007},
      {"length tested before the pointer was loaded",
       "ldxdw %r2, [%r6+48]\njlt %r2, 4, out\nldxdw %r3, [%r6+56]\nldxw %r5, [%r3]" OUT},
      {"index below", LOADED SOME_INDEX "jge %r4, %r2, out\nadd %r3, %r4\nldxb %r5, [%r3]" OUT},
      {"index equal", LOADED SOME_INDEX "jgt %r4, %r2, out\nadd %r3, %r4\nldxb %r5, [%r3]" OUT,
       Rule::kEIM007},
      {"two bytes at the last", LOADED SOME_INDEX "jge %r4, %r2, out\nadd %r3, %r4\nldxh %r5, [%r3]" OUT,
       Rule::kEIM007},
      {"next below",
       LOADED SOME_INDEX "add %r4, 2\njgt %r4, %r2, out\nadd %r4, -2\nadd %r3, %r4\nldxh %r5, [%r3]" OUT},
      {"other side", LOADED SOME_INDEX "jlt %r4, %r2, out\nadd %r3, %r4\nldxb %r5, [%r3]" OUT, Rule::kEIM007},
      {"wrong length",
       LOADED SOME_INDEX "ldxdw %r2, [%r7+16]\njge %r4, %r2, out\nadd %r3, %r4\nldxb %r5, [%r3]" OUT,
       Rule::kEIM007},
      {"before", LOADED "jlt %r2, 4, out\nldxb %r5, [%r3-1]" OUT, Rule::kEIM007},
      {"written", LOADED "jlt %r2, 4, out\nstw [%r3], 1" OUT, Rule::kEIM003},
      {"arguments", "ldxdw %r2, [%r7+16]\nldxdw %r3, [%r7+8]\n" SOME_INDEX
                    "jge %r4, %r2, out\nadd %r3, %r4\nldxb %r5, [%r3]" OUT},
      {"arguments unproved", "ldxdw %r3, [%r7+8]\nldxb %r5, [%r3]" END, Rule::kEIM007},
      {"loop over it", LOADED "mov %r4, 0\nloop:\njge %r4, %r2, out\nmov %r5, %r3\nadd %r5, %r4\nldxb %r5, "
                              "[%r5]\nadd %r4, 1\njlt %r4, 8, loop" OUT},
  });
}

}  // namespace
}  // namespace bpftime::verifier
