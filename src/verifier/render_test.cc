// Diagnoses as text: golden, from programs the verifier itself refuses and from ones made by hand.
#include "verifier/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>

#include "verifier/testing/requests.h"

namespace bpftime::verifier {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::Source;

// What the program's first diagnosis looks like; "accepted" when there is none.
std::string diagnosed(const Request& request) {
  const Verdict verdict = verify(request);
  if (verdict.diagnoses.empty()) return "accepted";
  SourceLines lines;
  if (auto read = SourceLines::read(request)) lines = std::move(*read);
  return to_text(render(verdict.diagnoses[0], request, lines), request, false);
}

std::string shown(const Diagnosis& diagnosis, const Request& request, bool colour = false) {
  SourceLines lines;
  if (auto read = SourceLines::read(request)) lines = std::move(*read);
  return to_text(render(diagnosis, request, lines), request, colour);
}

// r0 = lookup(conf, &0); r1 = *(u32*)(r0+0); return 0
Request null_test() {
  Request request = testing::request({testing::mov64_reg(2, 10), testing::add64(2, -4),
                                      testing::store32(10, -4, 5), testing::load_map(1, 0),
                                      testing::second_slot(), testing::call(BPF_FUNC_map_lookup_elem),
                                      testing::load32(1, 0, 0), testing::mov64(0, 0), testing::exit()});
  request.maps.push_back(testing::hash_map("conf", 4, 8));
  return request;
}

const std::vector<Source> kNullLines = {
    {0, "fw.bpf.c", "int process_begin(void *ctx)", 38, 0},
    {3, "fw.bpf.c", "\tstruct conf *c = bpf_map_lookup_elem(&conf, &key);", 41, 19},
    {6, "fw.bpf.c", "\tif (c->enabled)", 42, 9},
    {7, "fw.bpf.c", "\treturn 0;", 43, 2}};

TEST(Render, NullWithSource) {
  Request request = null_test();
  testing::add_lines(request, kNullLines);
  EXPECT_EQ(diagnosed(request), R"(error[NUL001]: `r0` may be null
  --> fw.bpf.c:42:9   (insn 6, program `test`)
   |
41 |  	struct conf *c = bpf_map_lookup_elem(&conf, &key);
   |  	                 -------------------------------- null comes from this call (insn 5)
42 |  	if (c->enabled)
   |  	    ^^^^^^^^^^ 4-byte load at offset 0 of r0
   = state: r0 = map_value(conf, 8 bytes) or null, offset 0
   = linux: R0 invalid mem access 'map_value_or_null'
   = help : test it first: `if (!p) return 0;`
)");
}

TEST(Render, NullWithoutSource) {
  EXPECT_EQ(diagnosed(null_test()), R"(error[NUL001]: `r0` may be null
 --> insn 6, program `test`
  |
3 |  (18) r1 = map[idx:0]
5 |  (85) call bpf_map_lookup_elem#1
  |  ------------------------------- null comes from this call (insn 5)
6 |  (61) r1 = *(u32 *)(r0 +0)
  |  ^^^^^^^^^^^^^^^^^^^^^^^^^ 4-byte load at offset 0 of r0
  = state: r0 = map_value(conf, 8 bytes) or null, offset 0
  = linux: R0 invalid mem access 'map_value_or_null'
  = help : test it first: `if (!p) return 0;`
  = note : no line information; compile with -g to see source lines
)");
}

TEST(Render, AcceptedWhenTested) {
  Request request = null_test();
  auto& insns = request.program.insns;
  insns.insert(insns.begin() + 6, testing::jump_if_zero(0, 1));
  EXPECT_EQ(diagnosed(request), "accepted");
}

TEST(Render, UninitialisedRegister) {
  EXPECT_EQ(diagnosed(testing::request({testing::mov64_reg(0, 6), testing::exit()})),
            R"(error[TYP001]: `r6` has no value here
 --> insn 0, program `test`
  |
0 |  (bf) r0 = r6
  |  ^^^^^^^^^^^^ arithmetic on r0
  = state: r6 = no value
  = linux: R6 !read_ok
  = help : give it a value on every path that leads here
  = note : no line information; compile with -g to see source lines
)");
}

TEST(Render, RegisterLostInACall) {
  const std::string text =
      diagnosed(testing::request({testing::mov64(3, 7), testing::call(BPF_FUNC_ktime_get_ns),
                                  testing::mov64_reg(0, 3), testing::exit()}));
  EXPECT_THAT(text, HasSubstr("error[TYP001]: `r3` has no value here\n"));
}

TEST(Render, IndexTooLarge) {
  Request request = null_test();
  auto& insns = request.program.insns;
  insns = {insns.begin(), insns.begin() + 6};
  insns.insert(insns.end(),
               {testing::jump_if_zero(0, 5), testing::load32(1, 0, 0), testing::jump_if_above(1, 8, 3),
                testing::add64_reg(0, 1), testing::load8(1, 0, 0), testing::mov64(0, 0), testing::exit()});
  insns[6].off = 5;
  testing::add_lines(request, {{0, "a.c", "int f(void)", 1, 0},
                               {3, "a.c", "  char *v = lookup(&m, &k);", 10, 13},
                               {6, "a.c", "  if (!v) return 0;", 11, 7},
                               {7, "a.c", "  unsigned i = *v;", 12, 16},
                               {8, "a.c", "  if (i > 8) return 0;", 20, 7},
                               {9, "a.c", "  use(v[i]);", 21, 7},
                               {11, "a.c", "}", 22, 1}});
  EXPECT_EQ(diagnosed(request), R"(error[MEM002]: up to 1 byte at offset 8 of the 8-byte value of map `conf`
  --> a.c:21:7   (insn 10, program `test`)
   |
10 |    char *v = lookup(&m, &k);
   |              -------------- `r0` comes from this call (insn 5)
  ...
12 |    unsigned i = *v;
   |                 -- what is added to `r0` comes from this load (insn 7)
  ...
21 |    use(v[i]);
   |        ^^^^ 1-byte load at offset 0 of r0
   = state: r0 = map_value(conf, 8 bytes), offset in [0, 8]
   = path : 11 not taken, 20 not taken
   = linux: invalid access to map value, value_size=8 off=8 size=1;R0 max value is outside of the allowed memory range
   = help : check the index against the object's size first
)");
}

TEST(Render, LeakedRecord) {
  Request request = testing::request({testing::load_map(1, 0), testing::second_slot(), testing::mov64(2, 8),
                                      testing::mov64(3, 0), testing::call(BPF_FUNC_ringbuf_reserve),
                                      testing::mov64(0, 0), testing::exit()});
  MapConstraint ring = testing::hash_map("rb", 0, 0);
  ring.spec.type = BPF_MAP_TYPE_RINGBUF;
  ring.spec.max_entries = 4096;
  request.maps.push_back(ring);
  const std::string text = diagnosed(request);
  EXPECT_THAT(text, HasSubstr("error[REF001]: what was acquired is not released on this path\n"));
  EXPECT_THAT(text, HasSubstr("4 |  (85) call bpf_ringbuf_reserve#131\n  |  "
                              "--------------------------------- acquired here (insn 4)\n"));
}

TEST(Render, FailedRelocationOfLibbpf) {
  const std::string text = diagnosed(testing::request({testing::call(0xbad2310), testing::exit()}));
  EXPECT_THAT(text, HasSubstr("error[FUN001]: this needs a kernel type or field that does not exist here"));
  EXPECT_THAT(text, HasSubstr("bpf_core_field_exists()"));
  EXPECT_THAT(text, HasSubstr("invalid func unknown#195896080"));
}

TEST(Render, UnknownHelperIsNoFailedRelocation) {
  const std::string text = diagnosed(testing::request({testing::call(100000), testing::exit()}));
  EXPECT_THAT(text, HasSubstr("error[FUN001]"));
  EXPECT_THAT(text, Not(HasSubstr("bpf_core_field_exists")));
}

Diagnosis by_hand() {
  Diagnosis diagnosis;
  diagnosis.rule = Rule::kEIM001;
  diagnosis.insn = 6;
  diagnosis.message = "`r.headers_in` may not be read";
  return diagnosis;
}

TEST(Render, CapabilitiesNameTheClassAndTheGrant) {
  Request request = null_test();
  Constraints constraints;
  constraints.class_name = "firewall";
  request.constraints = &constraints;
  Diagnosis diagnosis = by_hand();
  diagnosis.grant = "read(r.headers_in)";
  const std::string text = shown(diagnosis, request);
  EXPECT_THAT(text, HasSubstr("error[EIM001]: `r.headers_in` may not be read\n"));
  EXPECT_THAT(text, HasSubstr("= grant: add `read(r.headers_in)` to class `firewall` in the policy\n"));
}

TEST(Render, CallChainsAndPathsAreShort) {
  Request request = null_test();
  Diagnosis diagnosis = by_hand();
  diagnosis.call_chain = {2, 5};
  for (uint32_t i = 0; i < 20; ++i) diagnosis.path.push_back({1, true});
  diagnosis.path.push_back({3, false});
  const std::string text = shown(diagnosis, request);
  EXPECT_THAT(text, HasSubstr("= calls: at insn 2 -> at insn 5 -> here\n"));
  EXPECT_THAT(text, HasSubstr("(20 times), insn 3 not taken\n"));
}

TEST(Render, CausesInOtherFilesGetTheirOwnPlace) {
  Request request = null_test();
  testing::add_lines(request, {{0, "include/lib.h", "static inline void *get(void)", 7, 2},
                               {6, "main.c", "  return c->x;", 30, 10}});
  Diagnosis diagnosis = by_hand();
  diagnosis.causes.push_back({5, "comes from this call"});
  const std::string text = shown(diagnosis, request);
  EXPECT_THAT(text, HasSubstr("--> main.c:30:10   (insn 6, program `test`)"));
  EXPECT_THAT(text, HasSubstr("--> include/lib.h:7:2\n"));
}

TEST(Render, ColourOnlyWhenAskedFor) {
  const Request request = null_test();
  EXPECT_THAT(shown(by_hand(), request, true), HasSubstr("\x1b[1;31merror[EIM001]\x1b[0m"));
  EXPECT_THAT(shown(by_hand(), request), Not(HasSubstr("\x1b")));
}

TEST(Render, HostileTextIsHarmless) {
  Request request = null_test();
  request.program.name = "x\x1b[2J";
  testing::add_lines(request, {{0, "a\x1b]0;t\x07.c", "int f(\x1b[31mvoid)\n second line", 1, 1000},
                               {6, "b.c", std::string(5000, 'x'), 2, 900}});
  const std::string text = shown(by_hand(), request);
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_LT(text.size(), 2000u);
}

TEST(Render, AnyInstructionNumberIsAnswered) {
  Request request = null_test();
  Diagnosis diagnosis = by_hand();
  for (uint32_t insn : {9u, 4u, 100000u, UINT32_MAX}) {
    diagnosis.insn = insn;
    diagnosis.causes = {{insn, "x"}};
    diagnosis.path = {{insn, true}};
    diagnosis.call_chain = {insn};
    EXPECT_THAT(shown(diagnosis, request), HasSubstr("error[EIM001]"));
  }
}

}  // namespace
}  // namespace bpftime::verifier
