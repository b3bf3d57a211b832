// Calls of host functions and use of host variables under constraints written by hand: each row granted and refused.
#include <gtest/gtest.h>

#include <functional>

#include "verifier/testing/builder.h"
#include "verifier/testing/call_cases.h"
#include "verifier/testing/oracle.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {
namespace {

using testing::Builder;

constexpr uint8_t kR0 = 0, kR1 = 1, kR2 = 2, kR3 = 3, kR6 = 6, kR7 = 7, kFp = 10;

enum View_ : uint32_t { kRequest, kConnection, kRequestAgain };
enum Function_ : int32_t {
  kTime = 1,
  kFinalize,
  kNotGranted,
  kFill,
  kHash,
  kLog,
  kOpen,
  kClose,
  kLookUp,
  kBelow,
  kSigned,
  kEnum,
  kDecode,
  kFree,
  kSlow,
  kFixed,
  kOpenObject,
  kCloseObject,
  kFind,
  kSixArguments,
};
enum Global_ : int32_t { kPid = 1, kSecret, kConfiguration };

Argument number(const char* name, Scalar range = Scalar::unknown(), uint32_t bytes = 8) {
  Argument argument;
  argument.name = name;
  argument.number = range;
  argument.bytes = bytes;
  return argument;
}

Argument object(uint32_t view, bool may_be_null = false) {
  Argument argument;
  argument.name = "r";
  argument.kind = Argument::Kind::kObject;
  argument.view = view;
  argument.may_be_null = may_be_null;
  return argument;
}

Argument buffer(uint32_t length_argument, bool in, bool out) {
  Argument argument;
  argument.name = "buffer";
  argument.kind = Argument::Kind::kBuffer;
  argument.length_argument = length_argument;
  argument.in = in;
  argument.out = out;
  argument.may_be_null = false;
  return argument;
}

Argument nothing() { return number("", Scalar::unknown(), 0); }

Argument opaque(uint32_t releases = kNone) {
  Argument argument;
  argument.kind = Argument::Kind::kOpaque;
  argument.may_be_null = false;
  argument.releases = releases;
  return argument;
}

HostFunction function(Function_ id, const char* name, std::vector<Argument> arguments, Argument result) {
  HostFunction out;
  out.id = static_cast<uint32_t>(id);
  out.name = name;
  out.granted = id != kNotGranted;
  out.arguments = std::move(arguments);
  out.result = std::move(result);
  return out;
}

// The entry gets a request (not null), a request that may be null, a number, and a buffer with its length.
Constraints make_constraints() {
  Constraints c;
  c.class_name = "firewall";
  View request;
  request.type = "request";
  request.size = 64;
  View::Member connection, state, data, length;
  connection = {.name = "connection", .offset = 0, .size = 8, .read = true};
  connection.gives = View::Member::Gives::kObject;
  connection.view = kConnection;
  state = {.name = "state", .offset = 8, .size = 4, .read = true, .write = true};
  data = {.name = "uri.data", .offset = 24, .size = 8, .read = true};
  data.gives = View::Member::Gives::kBuffer;
  data.buffer_length_member = 3;
  length = {.name = "uri.len", .offset = 16, .size = 8, .read = true};
  request.members = {connection, state, data, length};
  View peer;
  peer.type = "connection";
  peer.size = 32;
  c.views = {request, peer, request};
  c.typed_entry = true;
  c.entry = {object(kRequest), object(kRequest, true), number("n"), buffer(4, true, false), number("length")};

  c.functions.push_back(function(kTime, "host_time", {}, number("", Scalar::signed_range(1, INT64_MAX))));
  Argument status = number("status", Scalar::unknown(), 4);
  status.values = {403, 404};
  c.functions.push_back(function(kFinalize, "finalize", {object(kRequest), status}, nothing()));
  c.functions.push_back(function(kNotGranted, "shutdown", {}, nothing()));
  c.functions.push_back(function(kFill, "fill", {buffer(1, false, true), number("length")}, number("")));
  c.functions.push_back(function(kHash, "hash", {buffer(1, true, false), number("length")}, number("")));
  Argument text = opaque();
  text.kind = Argument::Kind::kConstString;
  c.functions.push_back(function(kLog, "log_text", {text}, nothing()));
  HostFunction open = function(kOpen, "open_handle", {}, opaque());
  open.acquires = 7;
  open.result.may_be_null = true;
  c.functions.push_back(open);
  c.functions.push_back(function(kClose, "close_handle", {opaque(7)}, nothing()));
  c.functions.push_back(function(kLookUp, "use_handle", {opaque()}, number("")));
  Argument index = number("index");
  index.less_than = 1;
  c.functions.push_back(function(kBelow, "element", {index, number("count")}, number("")));
  Argument level = number("level", Scalar::signed_range(-5, 5), 4);
  level.is_signed = true;
  c.functions.push_back(function(kSigned, "set_level", {level}, nothing()));
  c.functions.push_back(function(kEnum, "method", {}, number("", Scalar::unsigned_range(0, 3), 4)));
  Argument optional = buffer(1, true, false);
  optional.may_be_null = true;
  c.functions.push_back(function(kDecode, "decode", {optional, number("length")}, nothing()));
  c.functions.push_back(function(kFree, "close_other", {opaque(8)}, nothing()));
  HostFunction slow = function(kSlow, "slow", {}, nothing());
  slow.cost = 100;
  slow.may_block = true;
  c.functions.push_back(slow);
  Argument fixed = buffer(kNone, true, false);
  fixed.length = 16;
  c.functions.push_back(function(kFixed, "digest", {fixed}, nothing()));
  HostFunction take = function(kOpenObject, "take_connection", {object(kRequest)}, object(kConnection));
  take.acquires = 9;
  c.functions.push_back(take);
  Argument given = object(kConnection);
  given.releases = 9;
  c.functions.push_back(function(kCloseObject, "give_connection", {given}, nothing()));
  c.functions.push_back(
      function(kFind, "find_connection", {object(kRequest, true)}, object(kConnection, true)));
  c.functions.push_back(function(kSixArguments, "six", std::vector<Argument>(6, number("n")), nothing()));

  c.globals = {{"ngx_pid", kPid, true, kRequest},
               {"secret", kSecret, false, kRequest},
               {"conf", kConfiguration, true, kConnection}};
  return c;
}

MapConstraint strings() {
  MapConstraint map;
  map.name = "rodata";
  map.spec = {BPF_MAP_TYPE_ARRAY, 4, 16, 1, BPF_F_RDONLY_PROG, 0};
  map.frozen = true;
  map.contents = {'h', 'i', 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  return map;
}

MapConstraint writable() {
  MapConstraint map;
  map.name = "state";
  map.spec = {BPF_MAP_TYPE_ARRAY, 4, 16, 1, 0, 0};
  return map;
}

MapConstraint ring() {
  MapConstraint map;
  map.name = "ring";
  map.spec = {BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, 0};
  return map;
}

void call_host(Builder& b, int32_t id) {
  b.raw(testing::make_insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, id));
}
void load_global(Builder& b, uint8_t reg, int32_t id) {
  b.raw(testing::make_insn(BPF_LD | BPF_IMM | BPF_DW, reg, BPF_PSEUDO_BTF_ID, 0, id));
  b.raw(testing::make_insn(0, 0, 0, 0, 0));
}
void load_slot(Builder& b, uint8_t reg, int16_t slot) {
  b.load(BPF_DW, reg, kR6, static_cast<int16_t>(8 * slot));
}

class HostCalls : public ::testing::Test {
 protected:
  // r6: the context.
  Verdict judge(const std::function<void(Builder&)>& body) {
    Builder b;
    b.mov(kR6, kR1);
    body(b);
    b.mov_imm(kR0, 0);
    b.exit();
    Request request;
    request.program.type = BPF_PROG_TYPE_KPROBE;
    request.program.insns = b.finish();
    request.license = "GPL";
    request.maps = {strings(), writable(), ring()};
    request.constraints = without_constraints_ ? nullptr : &constraints_;
    request.options.zero_stack = request.options.allow_pointer_leaks = false;
    request.options.probe_write_user = false;
    testing::survives_without_each_rule(request);
    return verify(request);
  }

  void accept(const char* name, const std::function<void(Builder&)>& body) {
    const Verdict verdict = judge(body);
    EXPECT_EQ(verdict.error, 0) << name << ": " << testing::summary(verdict);
  }

  void refuse(const char* name, Rule rule, const std::function<void(Builder&)>& body) {
    const Verdict verdict = judge(body);
    ASSERT_NE(verdict.error, 0) << name;
    EXPECT_EQ(info(verdict.diagnoses.at(0).rule).id, info(rule).id)
        << name << ": " << testing::summary(verdict);
  }

  Constraints constraints_ = make_constraints();
  bool without_constraints_ = false;
};

TEST_F(HostCalls, OnlyWhatIsGranted) {
  accept("granted", [](Builder& b) { call_host(b, kTime); });
  refuse("known, not granted", Rule::kEIM004, [](Builder& b) { call_host(b, kNotGranted); });
  refuse("unknown", Rule::kEIM004, [](Builder& b) { call_host(b, 999); });
  refuse("more arguments than registers", Rule::kEIM004, [](Builder& b) { call_host(b, kSixArguments); });
  const Verdict verdict = judge([](Builder& b) { call_host(b, kNotGranted); });
  EXPECT_EQ(verdict.diagnoses.at(0).grant, "shutdown");
  without_constraints_ = true;
  refuse("an ordinary program", Rule::kFUN006, [](Builder& b) { call_host(b, kTime); });
}

TEST_F(HostCalls, DeadCallsAreNotJudged) {
  accept("not reached", [](Builder& b) {
    const auto end = b.label();
    b.mov_imm(kR7, 0);
    b.jump_imm(BPF_JEQ, kR7, 0, end);
    call_host(b, kNotGranted);
    b.place(end);
  });
}

TEST_F(HostCalls, Objects) {
  const auto finalize = [](int16_t slot, bool test) {
    return [=](Builder& b) {
      load_slot(b, kR1, slot);
      const auto end = b.label();
      if (test) b.jump_imm(BPF_JEQ, kR1, 0, end);
      b.mov_imm(kR2, 403);
      call_host(b, kFinalize);
      b.place(end);
    };
  };
  accept("not null by promise", finalize(0, false));
  refuse("may be null", Rule::kNUL001, finalize(1, false));
  accept("tested", finalize(1, true));
  refuse("a number", Rule::kTYP002, finalize(2, false));
  refuse("null", Rule::kNUL001, [](Builder& b) {
    b.mov_imm(kR1, 0);
    b.mov_imm(kR2, 403);
    call_host(b, kFinalize);
  });
  refuse("our own memory", Rule::kTYP002, [](Builder& b) {
    b.mov(kR1, kFp);
    b.mov_imm(kR2, 403);
    call_host(b, kFinalize);
  });
  refuse("the context", Rule::kTYP002, [](Builder& b) {
    b.mov(kR1, kR6);
    b.mov_imm(kR2, 403);
    call_host(b, kFinalize);
  });
  refuse("another type", Rule::kTYP002, [](Builder& b) {
    load_global(b, kR1, kConfiguration);
    b.mov_imm(kR2, 403);
    call_host(b, kFinalize);
  });
  accept("another view of the type", [](Builder& b) {
    load_global(b, kR1, kPid);
    b.mov_imm(kR2, 403);
    call_host(b, kFinalize);
  });
  accept("null where it may be", [](Builder& b) {
    b.mov_imm(kR1, 0);
    call_host(b, kFind);
  });
  accept("perhaps null where it may be", [](Builder& b) {
    load_slot(b, kR1, 1);
    call_host(b, kFind);
  });
  refuse("no value", Rule::kTYP001, [](Builder& b) {
    call_host(b, kTime);
    b.mov_imm(kR2, 403);
    call_host(b, kFinalize);
  });
}

TEST_F(HostCalls, PointersReadFromTheHostAreNotPassedOn) {
  constraints_.functions.push_back(
      function(static_cast<Function_>(100), "close_connection", {object(kConnection)}, nothing()));
  refuse("read from memory", Rule::kEIM005, [](Builder& b) {
    load_slot(b, kR1, 0);
    b.load(BPF_DW, kR1, kR1, 0);
    const auto end = b.label();
    b.jump_imm(BPF_JEQ, kR1, 0, end);
    call_host(b, 100);
    b.place(end);
  });
  accept("given by a function", [](Builder& b) {
    load_slot(b, kR1, 0);
    call_host(b, kFind);
    const auto end = b.label();
    b.jump_imm(BPF_JEQ, kR0, 0, end);
    b.mov(kR1, kR0);
    call_host(b, 100);
    b.place(end);
  });
  refuse("given, untested", Rule::kNUL001, [](Builder& b) {
    load_slot(b, kR1, 0);
    call_host(b, kFind);
    b.mov(kR1, kR0);
    call_host(b, 100);
  });
}

TEST_F(HostCalls, Numbers) {
  const auto status = [](int32_t value) {
    return [=](Builder& b) {
      load_slot(b, kR1, 0);
      b.mov_imm(kR2, value);
      call_host(b, kFinalize);
    };
  };
  accept("one of the values", status(404));
  refuse("another value", Rule::kEIM005, status(405));
  refuse("unknown", Rule::kEIM005, [](Builder& b) {
    load_slot(b, kR1, 0);
    load_slot(b, kR2, 2);
    call_host(b, kFinalize);
  });
  accept("a range of the values", [](Builder& b) {
    load_slot(b, kR1, 0);
    load_slot(b, kR2, 2);
    b.alu_imm(BPF_AND, kR2, 1);
    b.alu_imm(BPF_ADD, kR2, 403);
    call_host(b, kFinalize);
  });
  refuse("a range beyond the values", Rule::kEIM005, [](Builder& b) {
    load_slot(b, kR1, 0);
    load_slot(b, kR2, 2);
    b.alu_imm(BPF_AND, kR2, 3);
    b.alu_imm(BPF_ADD, kR2, 403);
    call_host(b, kFinalize);
  });
  refuse("a pointer", Rule::kTYP006, [](Builder& b) {
    load_slot(b, kR1, 0);
    b.mov(kR2, kR1);
    call_host(b, kFinalize);
  });
  const auto level = [](int32_t value) {
    return [=](Builder& b) {
      b.mov_imm(kR1, value);
      call_host(b, kSigned);
    };
  };
  accept("negative", level(-5));
  refuse("too negative", Rule::kEIM005, level(-6));
  accept("zero-extended by 32-bit code", [](Builder& b) {
    b.raw(testing::make_insn(BPF_ALU | BPF_MOV | BPF_K, kR1, 0, 0, -5));
    call_host(b, kSigned);
  });
  accept("less than the other", [](Builder& b) {
    b.mov_imm(kR1, 3);
    b.mov_imm(kR2, 4);
    call_host(b, kBelow);
  });
  refuse("equal to the other", Rule::kEIM005, [](Builder& b) {
    b.mov_imm(kR1, 4);
    b.mov_imm(kR2, 4);
    call_host(b, kBelow);
  });
  refuse("perhaps more than the other", Rule::kEIM005, [](Builder& b) {
    b.mov_imm(kR1, 4);
    load_slot(b, kR2, 2);
    call_host(b, kBelow);
  });
}

TEST_F(HostCalls, Buffers) {
  const auto with = [](int32_t id, int32_t length, bool initialise) {
    return [=](Builder& b) {
      if (initialise) {
        b.store_imm(BPF_DW, kFp, -16, 0);
        b.store_imm(BPF_DW, kFp, -8, 0);
      }
      b.mov(kR1, kFp);
      b.alu_imm(BPF_ADD, kR1, -16);
      b.mov_imm(kR2, length);
      call_host(b, id);
    };
  };
  accept("in", with(kHash, 16, true));
  refuse("in, not initialised", Rule::kSTK001, with(kHash, 16, false));
  refuse("in, too long", Rule::kSTK002, with(kHash, 17, true));
  refuse("in, negative length", Rule::kMEM003, with(kHash, -1, true));
  accept("out need not be initialised", with(kFill, 16, false));
  refuse("out, too long", Rule::kSTK002, with(kFill, 17, false));
  accept("out is initialised afterwards", [&](Builder& b) {
    with(kFill, 16, false)(b);
    b.load(BPF_DW, kR0, kFp, -16);
  });
  accept("fixed length", with(kFixed, 0, true));
  refuse("fixed length, too short", Rule::kSTK002, [](Builder& b) {
    b.store_imm(BPF_DW, kFp, -8, 0);
    b.mov(kR1, kFp);
    b.alu_imm(BPF_ADD, kR1, -8);
    call_host(b, kFixed);
  });
  refuse("out into read-only memory", Rule::kMEM005, [](Builder& b) {
    b.load_map_value(kR1, 0, 0);
    b.mov_imm(kR2, 8);
    call_host(b, kFill);
  });
  accept("out into a map", [](Builder& b) {
    b.load_map_value(kR1, 1, 0);
    b.mov_imm(kR2, 16);
    call_host(b, kFill);
  });
  refuse("beyond a map's value", Rule::kMEM002, [](Builder& b) {
    b.load_map_value(kR1, 1, 0);
    b.mov_imm(kR2, 17);
    call_host(b, kFill);
  });
  refuse("null", Rule::kNUL001, [](Builder& b) {
    b.mov_imm(kR1, 0);
    b.mov_imm(kR2, 0);
    call_host(b, kHash);
  });
  accept("null where it may be, no bytes", [](Builder& b) {
    b.mov_imm(kR1, 0);
    b.mov_imm(kR2, 0);
    call_host(b, kDecode);
  });
  refuse("null where it may be, bytes", Rule::kNUL001, [](Builder& b) {
    b.mov_imm(kR1, 0);
    b.mov_imm(kR2, 1);
    call_host(b, kDecode);
  });
  refuse("an object", Rule::kTYP002, [](Builder& b) {
    load_slot(b, kR1, 0);
    b.mov_imm(kR2, 8);
    call_host(b, kHash);
  });
  refuse("a buffer read from the host", Rule::kEIM005, [](Builder& b) {
    load_slot(b, kR1, 0);
    b.load(BPF_DW, kR2, kR1, 16);
    b.load(BPF_DW, kR1, kR1, 24);
    call_host(b, kHash);
  });
  accept("the entry's own buffer", [](Builder& b) {
    load_slot(b, kR1, 3);
    load_slot(b, kR2, 4);
    call_host(b, kHash);
  });
  refuse("the entry's buffer, another length", Rule::kEIM007, [](Builder& b) {
    load_slot(b, kR1, 3);
    b.mov_imm(kR2, 8);
    call_host(b, kHash);
  });
  refuse("the entry's buffer, written", Rule::kEIM002, [](Builder& b) {
    load_slot(b, kR1, 3);
    b.mov_imm(kR2, 0);
    call_host(b, kFill);
  });
}

TEST_F(HostCalls, ConstantStrings) {
  accept("in a frozen map", [](Builder& b) {
    b.load_map_value(kR1, 0, 0);
    call_host(b, kLog);
  });
  refuse("without an end", Rule::kTYP002, [](Builder& b) {
    b.load_map_value(kR1, 0, 3);
    call_host(b, kLog);
  });
  refuse("in a writable map", Rule::kTYP002, [](Builder& b) {
    b.load_map_value(kR1, 1, 0);
    call_host(b, kLog);
  });
  refuse("on the stack", Rule::kTYP002, [](Builder& b) {
    b.mov(kR1, kFp);
    call_host(b, kLog);
  });
  refuse("null", Rule::kNUL001, [](Builder& b) {
    b.mov_imm(kR1, 0);
    call_host(b, kLog);
  });
}

TEST_F(HostCalls, Handles) {
  const auto opened = [](const std::function<void(Builder&)>& use) {
    return [=](Builder& b) {
      call_host(b, kOpen);
      const auto end = b.label();
      b.jump_imm(BPF_JEQ, kR0, 0, end);
      b.mov(kR7, kR0);
      use(b);
      b.place(end);
    };
  };
  const auto pass = [](Builder& b, int32_t id) {
    b.mov(kR1, kR7);
    call_host(b, id);
  };
  accept("opened, closed", opened([=](Builder& b) { pass(b, kClose); }));
  accept("used in between", opened([=](Builder& b) {
           pass(b, kLookUp);
           pass(b, kClose);
         }));
  refuse("never closed", Rule::kREF001, opened([](Builder&) {}));
  refuse("closed twice", Rule::kTYP001, opened([=](Builder& b) {
           pass(b, kClose);
           pass(b, kClose);
         }));
  refuse("used after it was closed", Rule::kTYP001, opened([=](Builder& b) {
           pass(b, kClose);
           pass(b, kLookUp);
         }));
  refuse("closed as another kind", Rule::kREF002, opened([=](Builder& b) { pass(b, kFree); }));
  refuse("untested", Rule::kNUL001, [](Builder& b) {
    call_host(b, kOpen);
    b.mov(kR1, kR0);
    call_host(b, kClose);
  });
  refuse("never tested nor closed", Rule::kREF001, [](Builder& b) { call_host(b, kOpen); });
  refuse("not a handle", Rule::kREF002, [](Builder& b) {
    load_slot(b, kR1, 0);
    call_host(b, kClose);
  });
  refuse("dereferenced", Rule::kMEM004, opened([](Builder& b) { b.load(BPF_DW, kR0, kR7, 0); }));
  refuse("moved", Rule::kTYP003, opened([=](Builder& b) {
           b.alu_imm(BPF_ADD, kR7, 8);
           pass(b, kClose);
         }));
  accept("object taken and given", [](Builder& b) {
    load_slot(b, kR1, 0);
    call_host(b, kOpenObject);
    b.mov(kR1, kR0);
    call_host(b, kCloseObject);
  });
  refuse("object taken", Rule::kREF001, [](Builder& b) {
    load_slot(b, kR1, 0);
    call_host(b, kOpenObject);
  });
  refuse("object that was not taken", Rule::kREF002, [](Builder& b) {
    load_slot(b, kR1, 0);
    call_host(b, kFind);
    const auto end = b.label();
    b.jump_imm(BPF_JEQ, kR0, 0, end);
    b.mov(kR1, kR0);
    call_host(b, kCloseObject);
    b.place(end);
  });
}

TEST_F(HostCalls, ResultsAndPromises) {
  const auto unreachable_if = [](int32_t id, uint8_t jump, int32_t bound) {
    return [=](Builder& b) {
      const auto bad = b.label(), end = b.label();
      call_host(b, id);
      b.jump_imm(jump, kR0, bound, bad);
      b.go(end);
      b.place(bad);
      call_host(b, kNotGranted);
      b.place(end);
    };
  };
  accept("positive by promise", unreachable_if(kTime, BPF_JSLE, 0));
  refuse("not above one", Rule::kEIM004, unreachable_if(kTime, BPF_JSLE, 1));
  accept("an enum's values", unreachable_if(kEnum, BPF_JGT, 3));
  refuse("an enum's last value", Rule::kEIM004, unreachable_if(kEnum, BPF_JGT, 2));
  refuse("void has no result", Rule::kTYP001, [](Builder& b) {
    call_host(b, kSlow);
    b.mov(kR7, kR0);
  });
  refuse("arguments are gone", Rule::kTYP001, [](Builder& b) {
    b.mov_imm(kR1, 0);
    call_host(b, kSlow);
    b.mov(kR7, kR1);
  });
  const Verdict verdict = judge([](Builder& b) {
    call_host(b, kTime);
    call_host(b, kTime);
  });
  ASSERT_EQ(verdict.facts.promises_used.size(), 1u);
  EXPECT_NE(verdict.facts.promises_used[0].find("host_time"), std::string::npos);
}

TEST_F(HostCalls, CostsCount) {
  const Verdict cheap = judge([](Builder& b) { call_host(b, kTime); });
  const Verdict slow = judge([](Builder& b) { call_host(b, kSlow); });
  ASSERT_EQ(cheap.error, 0);
  ASSERT_EQ(slow.error, 0);
  EXPECT_EQ(slow.facts.instructions_max, cheap.facts.instructions_max + 99);
  constraints_.instructions_below = 50;
  accept("cheap", [](Builder& b) { call_host(b, kTime); });
  refuse("slow", Rule::kBND001, [](Builder& b) { call_host(b, kSlow); });
}

TEST_F(HostCalls, Variables) {
  accept("granted, read", [](Builder& b) {
    load_global(b, kR7, kPid);
    b.load(BPF_W, kR0, kR7, 8);
  });
  accept("granted, written", [](Builder& b) {
    load_global(b, kR7, kPid);
    b.store_imm(BPF_W, kR7, 8, 1);
  });
  refuse("member not granted", Rule::kEIM001, [](Builder& b) {
    load_global(b, kR7, kPid);
    b.load(BPF_W, kR0, kR7, 40);
  });
  refuse("not granted", Rule::kEIM006, [](Builder& b) { load_global(b, kR7, kSecret); });
  refuse("unknown", Rule::kEIM006, [](Builder& b) { load_global(b, kR7, 77); });
  const Verdict verdict = judge([](Builder& b) { load_global(b, kR7, kSecret); });
  EXPECT_EQ(verdict.diagnoses.at(0).grant, "secret");
  without_constraints_ = true;
  refuse("an ordinary program", Rule::kFUN006, [](Builder& b) { load_global(b, kR7, kPid); });
}

TEST_F(HostCalls, HelpersGetNoBuffersThatMayDangle) {
  const auto output = [](int16_t slot, bool is_walked) {
    return [=](Builder& b) {
      load_slot(b, kR2, slot);
      if (is_walked) {
        b.load(BPF_DW, kR3, kR2, 16);
        b.load(BPF_DW, kR2, kR2, 24);
      } else {
        load_slot(b, kR3, 4);
      }
      const auto end = b.label();
      b.jump_imm(BPF_JLT, kR3, 8, end);
      b.mov_imm(kR3, 8);
      b.load_map(kR1, 2);
      b.mov_imm(4, 0);
      b.call(BPF_FUNC_ringbuf_output);
      b.place(end);
    };
  };
  accept("handed over by the host", output(3, false));
  refuse("read from the host's memory", Rule::kEIM005, output(0, true));
}

TEST_F(HostCalls, PointersAreNotGivenAway) {
  refuse("to a helper that takes numbers", Rule::kTYP006, [](Builder& b) {
    load_slot(b, kR3, 0);
    b.mov(kR1, kFp);
    b.alu_imm(BPF_ADD, kR1, -8);
    b.mov_imm(kR2, 8);
    b.call(BPF_FUNC_probe_read_user);
  });
  accept("a number", [](Builder& b) {
    b.mov_imm(kR3, 0);
    b.store_imm(BPF_DW, kFp, -8, 0);
    b.mov(kR1, kFp);
    b.alu_imm(BPF_ADD, kR1, -8);
    b.mov_imm(kR2, 8);
    b.call(BPF_FUNC_probe_read_user);
  });
}

}  // namespace
}  // namespace bpftime::verifier
