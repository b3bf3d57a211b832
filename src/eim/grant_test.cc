#include "eim/grant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <algorithm>

#include "eim/testing/fixture.h"

namespace bpftime::eim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;
using verifier::Argument;
using verifier::kNone;
using verifier::View;
using Gives = View::Member::Gives;

class GrantTest : public ::testing::Test {
 protected:
  GrantTest() : manifest_(testing::manifest_of("host")), host_(*make_host_btf(manifest_, {})) {}

  Result<Grant> try_grant(const std::string& allowed, const std::string& entry = "processBegin") {
    auto policy =
        parse_policy("version: 1\nmanifest: host\nclasses:\n  - name: test\n    extension_entry: " + entry +
                         "\n    allowed:\n" + allowed,
                     "p.yaml");
    if (!policy) return policy.error();
    policy_ = *policy;
    return make_grant(manifest_, host_, policy_, policy_.classes[0]);
  }
  static std::string lines(const std::vector<std::string>& capabilities) {
    std::string text;
    for (const auto& one : capabilities) text += "      - " + one + "\n";
    return capabilities.empty() ? "      []\n" : text;
  }
  Grant grant(const std::vector<std::string>& capabilities, const std::string& entry = "processBegin") {
    auto made = try_grant(lines(capabilities), entry);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return made.ok() ? *made : Grant{};
  }
  std::string refused(const std::vector<std::string>& capabilities,
                      const std::string& entry = "processBegin") {
    auto made = try_grant(lines(capabilities), entry);
    EXPECT_FALSE(made.ok()) << capabilities.back();
    return made.ok() ? "" : made.error().message;
  }
  // At `offset`, where elements of arrays share a name.
  static const View::Member* find(const View& view, const std::string& name, uint32_t offset = kNone) {
    const auto found = std::find_if(view.members.begin(), view.members.end(), [&](const auto& m) {
      return m.name == name && (offset == kNone || m.offset == offset);
    });
    return found == view.members.end() ? nullptr : &*found;
  }
  static std::vector<std::string> names(const View& view) {
    std::vector<std::string> out;
    for (const auto& member : view.members) {
      if (member.read || member.write) out.push_back(member.name);
    }
    return out;
  }
  static const View& view_of(const Grant& grant, size_t argument = 0) {
    EXPECT_EQ(grant.constraints.entry.at(argument).kind, Argument::Kind::kObject);
    return grant.constraints.views.at(grant.constraints.entry.at(argument).view);
  }

  Manifest manifest_;
  HostBtf host_;
  Policy policy_;
};

TEST_F(GrantTest, NothingIsGrantedUnasked) {
  const Grant none = grant({});
  const auto& constraints = none.constraints;
  EXPECT_TRUE(constraints.typed_entry);
  ASSERT_EQ(constraints.entry.size(), 1u);
  EXPECT_TRUE(constraints.entry[0].may_be_null);
  EXPECT_TRUE(names(view_of(none)).empty());
  EXPECT_EQ(view_of(none).path, "r");
  EXPECT_NE(find(view_of(none), "status"), nullptr);  // listed, for messages
  EXPECT_EQ(view_of(none).type, "struct request");
  EXPECT_FALSE(constraints.may_return);
  EXPECT_EQ(constraints.instructions_below, kInstructionsDefault);
  EXPECT_EQ(constraints.memory_below, kMemoryDefault);
  for (const auto& function : constraints.functions) EXPECT_FALSE(function.granted) << function.name;
  for (const auto& global : constraints.globals) EXPECT_FALSE(global.granted) << global.name;
  for (const uint32_t helper :
       {BPF_FUNC_probe_read_user, BPF_FUNC_probe_write_user, BPF_FUNC_override_return})
    EXPECT_THAT(constraints.helpers_denied, ::testing::Contains(helper));
}

TEST_F(GrantTest, AWholeObject) {
  const Grant whole = grant({"read(r)"});
  const View& view = view_of(whole);
  EXPECT_EQ(view.size, 192u);
  const auto check = [&](const char* name, uint32_t offset, uint32_t size, Gives gives,
                         uint32_t element = 0) {
    const View::Member* member = find(view, name, offset);
    ASSERT_NE(member, nullptr) << name;
    EXPECT_EQ(member->offset, offset) << name;
    EXPECT_EQ(member->size, size) << name;
    EXPECT_EQ(member->element_size, element) << name;
    EXPECT_EQ(member->gives, gives) << name;
    EXPECT_TRUE(member->read) << name;
    EXPECT_FALSE(member->write) << name;
  };
  check("status", 0, 4, Gives::kNumber);
  check("uri.len", 8, 8, Gives::kNumber);
  check("uri.data", 16, 8, Gives::kBuffer);
  check("ports", 26, 8, Gives::kNumber, 2);
  check("parts.data", 80, 8, Gives::kBuffer);
  check("word", 88, 4, Gives::kNumber);  // a nameless union's members, overlapping
  check("bytes", 88, 4, Gives::kNumber, 1);
  check("value.number", 96, 8, Gives::kNumber);
  check("value.ratio", 96, 8, Gives::kNumber);
  check("headers.first.value.data", 136, 8, Gives::kBuffer);
  check("connection", 160, 8, Gives::kObject);
  check("opaque", 168, 8, Gives::kOpaque);
  check("handler", 176, 8, Gives::kOpaque);
  // The buffer's length is the member it is declared with, of the same element.
  EXPECT_EQ(view.members[find(view, "uri.data")->buffer_length_member].name, "uri.len");
  EXPECT_EQ(view.members[find(view, "parts.data", 80)->buffer_length_member].offset, 72u);
  // A pointer leads to an object of which nothing is granted.
  EXPECT_TRUE(names(whole.constraints.views.at(find(view, "connection")->view)).empty());
  EXPECT_EQ(whole.constraints.views.at(find(view, "connection")->view).path, "r.connection");
  // Ranges that types promise: of flags all combinations.
  EXPECT_EQ(find(view, "method")->number.umax, 7u);
  EXPECT_EQ(find(view, "keep_alive")->number.umax, 1u);
  EXPECT_EQ(find(view, "status")->number, verifier::Scalar::unknown());
  // Bit-fields are loaded by storage unit.
  EXPECT_TRUE(find(view, "depth")->bit_field);
  EXPECT_EQ(find(view, "depth")->offset, 24u);
  EXPECT_EQ(find(view, "depth")->size, 4u);
  // Nothing lies outside.
  for (const auto& member : view.members) EXPECT_LE(member.offset + member.size, view.size) << member.name;
}

TEST_F(GrantTest, OneMember) {
  EXPECT_THAT(names(view_of(grant({"read(r.status)"}))), ElementsAre("status"));
  EXPECT_THAT(names(view_of(grant({"read(r.uri)"}))), ElementsAre("uri.len", "uri.data"));
  EXPECT_THAT(names(view_of(grant({"read(r.uri.data)"}))), ElementsAre("uri.len", "uri.data"));
  EXPECT_THAT(names(view_of(grant({"read(r.uri.len)"}))), ElementsAre("uri.len"));
  EXPECT_THAT(names(view_of(grant({"read(r.bytes)"}))), ElementsAre("bytes"));
  EXPECT_THAT(names(view_of(grant({"read(r.value.number)"}))), ElementsAre("value.number"));
  EXPECT_THAT(names(view_of(grant({"read(r.headers.hits)"}))), ElementsAre("headers.hits"));
  EXPECT_THAT(names(view_of(grant({"read(r.parts.len)"}))),
              ElementsAre("parts.len", "parts.len", "parts.len"));
  EXPECT_THAT(names(view_of(grant({"read(r.status)", "read(r.version)"}))), ElementsAre("status", "version"));
}

TEST_F(GrantTest, BehindPointersOnlyWhatIsNamed) {
  const Grant walked = grant({"read(r.connection.fd)"});
  const View& request = view_of(walked);
  EXPECT_THAT(names(request), ElementsAre("connection"));
  const View& connection = walked.constraints.views.at(find(request, "connection")->view);
  EXPECT_EQ(connection.type, "struct connection");
  EXPECT_THAT(names(connection), ElementsAre("fd"));
  // Round the cycle, with other rights than the first time.
  const Grant cycle = grant({"read(r.connection.request.status)", "read(r.method)"});
  const View& first = view_of(cycle);
  EXPECT_THAT(names(first), ElementsAre("method", "connection"));
  const View& middle = cycle.constraints.views.at(find(first, "connection")->view);
  EXPECT_THAT(names(cycle.constraints.views.at(find(middle, "request")->view)), ElementsAre("status"));
  // The pointer alone.
  const Grant pointer = grant({"read(r.connection)"});
  EXPECT_TRUE(names(pointer.constraints.views.at(find(view_of(pointer), "connection")->view)).empty());
}

TEST_F(GrantTest, WritesLeavePointersLengthsAndConstantsAlone) {
  const Grant whole = grant({"write(r)"});
  const View& view = view_of(whole);
  for (const auto& member : view.members) EXPECT_FALSE(member.read) << member.name;
  for (const char* name : {"status", "method", "keep_alive", "ports", "word", "bytes", "value.number",
                           "headers.hits", "score", "depth"}) {
    ASSERT_NE(find(view, name), nullptr) << name;
    EXPECT_TRUE(find(view, name)->write) << name;
  }
  for (const char* name :
       {"uri.len", "uri.data", "connection", "opaque", "version", "parts.len", "headers.first.next"})
    EXPECT_TRUE(find(view, name) == nullptr || !find(view, name)->write) << name;
  EXPECT_TRUE(find(view_of(grant({"write(r.opaque)"})), "opaque")->write);  // null only: the verifier's part
  EXPECT_THAT(refused({"write(r.version)"}),
              HasSubstr("p.yaml:7:9: \"r.version\" cannot be written: it is const"));
  const Grant one = grant({"write(r.depth)"});
  EXPECT_THAT(names(view_of(one)), ElementsAre("depth"));
  const auto* depth = find(view_of(one), "depth");
  EXPECT_TRUE(depth->write && depth->bit_field && !depth->read);
  EXPECT_THAT(refused({"write(r.uri.len)"}), HasSubstr("it is the length of a buffer"));
  EXPECT_THAT(refused({"write(r.connection.fd)"}), HasSubstr("behind a pointer"));
}

TEST_F(GrantTest, WrongPathsSayWhatIsThere) {
  EXPECT_THAT(refused({"read(q)"}), HasSubstr("p.yaml:7:9: entry \"processBegin\" has no argument \"q\""));
  EXPECT_THAT(refused({"read(r.statsu)"}), HasSubstr("has no member \"statsu\"; did you mean \"status\"?"));
  EXPECT_THAT(refused({"read(r.byte)"}), HasSubstr("did you mean \"bytes\"?"));  // in a nameless union
  EXPECT_THAT(refused({"read(r.status.x)"}), HasSubstr("which has no members"));
  EXPECT_THAT(refused({"read(r.opaque.x)"}), HasSubstr("has no members"));
  EXPECT_THAT(
      refused({}, "proccessBegin"),
      HasSubstr("p.yaml:5:22: the manifest has no entry \"proccessBegin\"; did you mean \"processBegin\"?"));
  EXPECT_THAT(refused({"read(flags.x)"}, "handleRequest"), HasSubstr("which has no members"));
  EXPECT_THAT(refused({"write(flags)"}, "handleRequest"), HasSubstr("passed by value"));
  const std::string several = refused({"read(r.a)", "nosuch", "return(1, 99999999999)"});
  EXPECT_EQ(std::count(several.begin(), several.end(), '\n'), 2);
}

TEST_F(GrantTest, ScalarArgumentsAndPromises) {
  const Grant read = grant({"read(flags)", "read(request.status)"}, "handleRequest");
  ASSERT_EQ(read.constraints.entry.size(), 2u);
  EXPECT_FALSE(read.constraints.entry[0].may_be_null);
  EXPECT_EQ(read.constraints.entry[1].kind, Argument::Kind::kNumber);
  EXPECT_EQ(read.constraints.entry[1].bytes, 1u);
  EXPECT_EQ(read.constraints.entry[1].number.umax, 7u);
  EXPECT_TRUE(read.constraints.entry[1].granted);
  EXPECT_FALSE(grant({}, "handleRequest").constraints.entry[1].granted);
  const Grant level = grant({"read(method)", "read(arg1)"}, "checkLevel");
  EXPECT_EQ(level.constraints.entry[1].number.smin, -128);
  EXPECT_TRUE(level.constraints.entry[1].is_signed);
  EXPECT_EQ(level.constraints.entry[0].bytes, 4u);
}

TEST_F(GrantTest, HostFunctions) {
  const Grant some =
      grant({"host_time", "finalize_request(rc in 403, 404)", "write_log()", "open_handle", "close_handle"});
  const auto function = [&](const std::string& name) -> const verifier::HostFunction& {
    return *std::find_if(some.constraints.functions.begin(), some.constraints.functions.end(),
                         [&](const auto& one) { return one.name == name; });
  };
  EXPECT_EQ(some.constraints.functions.size(), 6u);
  EXPECT_FALSE(function("answer").granted);
  EXPECT_EQ(function("host_time").result.number.smin, 1);
  EXPECT_EQ(function("host_time").cost, 1u);
  const auto& finalize = function("finalize_request");
  EXPECT_TRUE(finalize.granted);
  EXPECT_EQ(finalize.id, host_.functions.at("finalize_request"));
  EXPECT_EQ(finalize.cost, 50u);
  EXPECT_FALSE(finalize.arguments[0].may_be_null);
  EXPECT_EQ(some.constraints.views.at(finalize.arguments[0].view).type, "struct request");
  EXPECT_THAT(finalize.arguments[1].values, ElementsAre(403u, 404u));
  EXPECT_EQ(finalize.arguments[1].number.smin, 100);
  EXPECT_EQ(finalize.result.number.smin, -4095);
  EXPECT_EQ(finalize.result.number.smax, 0);
  const auto& log = function("write_log");
  EXPECT_EQ(log.arguments[0].kind, Argument::Kind::kConstString);
  EXPECT_EQ(log.arguments[1].kind, Argument::Kind::kBuffer);
  EXPECT_EQ(log.arguments[1].length_argument, 2u);
  EXPECT_TRUE(log.arguments[1].in);
  EXPECT_FALSE(log.arguments[1].out);
  EXPECT_EQ(log.arguments[3].less_than, 4u);
  EXPECT_TRUE(log.may_block);
  EXPECT_EQ(function("open_handle").acquires, function("close_handle").arguments[0].releases);
  EXPECT_NE(function("open_handle").acquires, kNone);
  EXPECT_TRUE(function("open_handle").result.may_be_null);
  EXPECT_EQ(function("open_handle").result.view, function("close_handle").arguments[0].view);
  EXPECT_EQ(function("close_handle").result.bytes, 0u);  // void

  EXPECT_THAT(refused({"finalize_request(rc in 99)"}), HasSubstr("does not allow this value of \"rc\""));
  EXPECT_THAT(refused({"finalize_request(rc in 600)"}), HasSubstr("host.c:"));
  EXPECT_THAT(refused({"finalize_request(cr in 403)"}),
              HasSubstr("has no argument \"cr\"; did you mean \"rc\"?"));
  EXPECT_THAT(refused({"finalize_request(request in 0)"}), HasSubstr("only numbers can be narrowed"));
  EXPECT_THAT(refused({"host_tiem"}), HasSubstr("did you mean \"host_time\"?"));
  EXPECT_THAT(refused({"readPid()"}), HasSubstr("offers no function \"readPid\""));
}

TEST_F(GrantTest, States) {
  const auto rights = [](const Grant& grant, const std::string& name) {
    for (const auto& global : grant.constraints.globals) {
      if (global.name != name) continue;
      const View& view = grant.constraints.views.at(global.view);
      std::string text = global.granted ? "granted" : "denied";
      for (const auto& member : view.members)
        text += std::string(member.read ? " r" : " -") + (member.write ? "w" : "-");
      return text;
    }
    return std::string("none");
  };
  EXPECT_EQ(rights(grant({"readPid"}), "host_pid"), "granted r-");
  EXPECT_EQ(rights(grant({"writePid"}), "host_pid"), "granted -w");
  EXPECT_EQ(rights(grant({"readPid", "writePid"}), "host_pid"), "granted rw");
  EXPECT_EQ(rights(grant({"readPid"}), "host_version"), "denied");
  EXPECT_EQ(rights(grant({"countRefused"}), "host_counts.refused"), "granted -w");
  EXPECT_EQ(grant({"readPid"}).constraints.globals.size(), 3u);
}

TEST_F(GrantTest, Results) {
  const Grant values = grant({"return(-1, 0..9)"});
  EXPECT_TRUE(values.constraints.may_return);
  EXPECT_FALSE(values.constraints.return_is_void);
  ASSERT_EQ(values.constraints.return_values.size(), 2u);
  EXPECT_EQ(values.constraints.return_values[0].low, UINT64_MAX);
  EXPECT_EQ(values.constraints.return_values[1].high, 9u);
  EXPECT_THAT(values.constraints.helpers_granted, ElementsAre(uint32_t{BPF_FUNC_override_return}));
  EXPECT_THAT(values.constraints.helpers_denied,
              Not(::testing::Contains(uint32_t{BPF_FUNC_override_return})));
  EXPECT_TRUE(grant({"return()"}, "handleRequest").constraints.return_is_void);
  EXPECT_EQ(grant({"return(METHOD_DELETE)"}).constraints.return_values.at(0).low, 4u);
  EXPECT_THAT(refused({"return()"}), HasSubstr("returns int; write return(values)"));
  EXPECT_THAT(refused({"return(1)"}, "handleRequest"), HasSubstr("returns void; write return()"));
  EXPECT_THAT(refused({"return(2147483648)"}), HasSubstr("does not fit into int"));
  EXPECT_THAT(refused({"return(256)"}, "checkLevel"), HasSubstr("does not fit into unsigned char"));
  EXPECT_THAT(refused({"return(-1)"}, "checkLevel"), HasSubstr("does not fit"));
  EXPECT_THAT(refused({"return(METHOD_DLETE)"}), HasSubstr("did you mean \"METHOD_DELETE\"?"));
  EXPECT_THAT(refused({"return(0.5)"}), HasSubstr("expected an integer"));
}

TEST_F(GrantTest, BoundsAndMaps) {
  const Grant bounds = grant({"instructions < 5000", "memory < 1KiB", "shared(rules)"});
  EXPECT_EQ(bounds.constraints.instructions_below, 5000u);
  EXPECT_EQ(bounds.constraints.memory_below, 1024u);
  EXPECT_THAT(bounds.shared_maps, ElementsAre("rules"));
  EXPECT_EQ(grant({"instructions < inf", "memory < inf"}).constraints.instructions_below, 0u);
}

TEST_F(GrantTest, HintsAreLinesThatGrant) {
  const Grant some = grant({"read(r.connection.fd)"});
  const uint32_t request = some.constraints.entry[0].view;
  EXPECT_EQ(grant_hint(some, manifest_, policy_, request, 16, 8, false),
            "add \"read(r.uri.data)\" to class \"test\" (p.yaml:7)");
  EXPECT_EQ(grant_hint(some, manifest_, policy_, request, 0, 4, true),
            "add \"write(r.status)\" to class \"test\" (p.yaml:7)");
  EXPECT_EQ(grant_hint(some, manifest_, policy_, request, 64, 8, false),
            "add \"read(r.parts.data)\" to class \"test\" (p.yaml:7)");
  const uint32_t connection = find(view_of(some), "connection")->view;
  EXPECT_EQ(grant_hint(some, manifest_, policy_, connection, 8, 8, false),
            "add \"read(r.connection.peer)\" to class \"test\" (p.yaml:7)");
  EXPECT_EQ(grant_hint(some, manifest_, policy_, connection, 0, 4, true), "");
  EXPECT_EQ(grant_name_hint(some, manifest_, policy_, "host_time"),
            "add \"host_time\" to class \"test\" (p.yaml:7)");
  EXPECT_THAT(grant_name_hint(some, manifest_, policy_, "host_pid"),
              HasSubstr("add \"readPid\" to class \"test\" (p.yaml:7) to read it, or add \"writePid\""));
  // What the hint says can be added.
  EXPECT_THAT(names(view_of(grant({"read(r.parts.data)"}))), ::testing::Contains("parts.data"));
}

TEST_F(GrantTest, ExplainsInSentences) {
  const Grant some = grant({"read(r.uri)", "write(r.status)", "finalize_request(rc in 403, 404)", "readPid",
                            "return(0)", "instructions < 5000"});
  const std::string text = explain_class(manifest_, policy_, policy_.classes[0], some);
  for (const char* words :
       {"runs whenever the host calls process_request", "read r.uri", "change r.status",
        "call the host's finalize_request with rc being 403 or 404", "read the host's variable host_pid",
        "end the call", "fewer than 5000 instructions", "less than 1 MiB", "It cannot",
        "call host_time, write_log"})
    EXPECT_THAT(text, HasSubstr(words));
}

TEST(CheckPolicy, BindsToTheBuild) {
  const Manifest binary = testing::manifest_of("host"), object = testing::manifest_of("described.o");
  const auto policy = [](const std::string& build, const std::string& entry) {
    return *parse_policy("version: 1\nmanifest: host\n" + build +
                             "classes: [{name: a, extension_entry: " + entry + ", allowed: []}]\n",
                         "p");
  };
  EXPECT_TRUE(check_policy(binary, policy("", "processBegin"), binary.build_id).ok());
  EXPECT_THAT(check_policy(binary, policy("", "processBegin"), "0123").error().message,
              HasSubstr("but the host is build 0123"));
  EXPECT_TRUE(check_policy(binary, policy("build: any\n", "processBegin"), "0123").ok());
  EXPECT_THAT(check_policy(object, policy("", "handleRequest"), "0123").error().message,
              HasSubstr("`build: 0123`"));
  EXPECT_TRUE(
      check_policy(object, policy("build: 0123456789abcdef\n", "handleRequest"), "0123456789abcdef").ok());
  EXPECT_FALSE(
      check_policy(object, policy("build: 0123456789abcdef\n", "handleRequest"), "ff23456789abcdef").ok());
}

}  // namespace
}  // namespace bpftime::eim
