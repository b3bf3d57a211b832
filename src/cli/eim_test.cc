// bpftime eim, as users run it: the real binary.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/testing/run_command.h"

namespace bpftime::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::run_command;

class EimCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    const char *bin = std::getenv("BPFTIME_BIN_DIR"), *fixtures = std::getenv("BPFTIME_EIM_FIXTURES");
    if (bin == nullptr || fixtures == nullptr)
      GTEST_SKIP() << "BPFTIME_BIN_DIR or BPFTIME_EIM_FIXTURES is not set: run by ctest";
    bpftime_ = std::string(bin) + "/bpftime";
    char name[] = "/tmp/bpftime-eim-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    base_ = name;
    for (const char* file : {"host", "host_other", "described.o", "shop"})
      fs::copy_file(std::string(fixtures) + "/" + file, base_ + "/" + file);
  }
  void TearDown() override {
    if (!base_.empty()) fs::remove_all(base_);
  }
  Outcome eim(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {bpftime_, "eim"});
    return run_command({arguments});
  }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(base_ + "/" + name) << text;
    return base_ + "/" + name;
  }
  std::string policy(const std::string& extra = "") {
    return write("p.yaml",
                 "version: 1\nmanifest: host\nclasses:\n  - name: firewall\n    extension_entry: "
                 "processBegin\n    allowed:\n"
                 "      - read(r.uri)\n      - return(403)\n" +
                     extra);
  }
  std::string base_, bpftime_;
};

TEST_F(EimCommand, ManifestAsTextAndJson) {
  const Outcome text = eim({"manifest", base_ + "/host"});
  EXPECT_EQ(text.exit_code(), 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("processBegin"));
  const Outcome json = eim({"manifest", base_ + "/host", "--json"});
  ASSERT_EQ(json.exit_code(), 0) << json.err;
  const Json parsed = Json::parse(json.out);
  EXPECT_EQ(parsed["entries"][0]["name"], "processBegin");
  EXPECT_EQ(parsed["entries"][0]["arguments"][0]["type"], "struct request *");
  EXPECT_EQ(parsed["functions"].size(), 6u);
  EXPECT_EQ(parsed["buffers"][0]["len"], "len");
}

TEST_F(EimCommand, EmbeddedTypesSurviveStrip) {
  const std::string host = base_ + "/host";
  const Outcome embedded = eim({"manifest", "--embed", host});
  EXPECT_EQ(embedded.exit_code(), 0) << embedded.err;
  ASSERT_EQ(std::system(("strip " + host).c_str()), 0);
  EXPECT_EQ(fs::status(host).permissions() & fs::perms::owner_exec, fs::perms::owner_exec);
  const Outcome after = eim({"manifest", "--json", host});
  ASSERT_EQ(after.exit_code(), 0) << after.err;
  EXPECT_EQ(Json::parse(after.out)["types_from"], "BTF");
  // Without, strip loses them, and the message says what to do.
  ASSERT_EQ(std::system(("strip " + base_ + "/host_other").c_str()), 0);
  const Outcome lost = eim({"manifest", base_ + "/host_other"});
  EXPECT_EQ(lost.exit_code(), 1);
  EXPECT_THAT(lost.err, HasSubstr("--embed"));
}

TEST_F(EimCommand, HeaderCompiles) {
  const char* clang = std::getenv("BPFTIME_CLANG");
  ASSERT_NE(clang, nullptr);
  for (const char* file : {"host", "host_other", "described.o", "shop"}) {
    const Outcome header = eim({"header", base_ + "/" + file});
    ASSERT_EQ(header.exit_code(), 0) << header.err;
    const std::string path = write("host.ext.h", header.out);
    const std::string source = write("empty.bpf.c", "#include \"host.ext.h\"\nint unused;\n");
    const Outcome compiled =
        run_command({{clang, "-target", "bpf", "-I/usr/include/x86_64-linux-gnu", "-Wall", "-Werror", "-O2",
                      "-g", "-c", source, "-o", base_ + "/x.o"}});
    EXPECT_EQ(compiled.exit_code(), 0) << file << compiled.err << header.out;
  }
  EXPECT_THAT(eim({"header", base_ + "/host"}).out, HasSubstr("#define HOST_PATH \"" + base_ + "/host\""));
  EXPECT_THAT(eim({"header", base_ + "/described.o", "--host", "/bin/true"}).out,
              HasSubstr("#define HOST_PATH \""));
}

TEST_F(EimCommand, CheckAndExplain) {
  const std::string path = policy();
  const Outcome checked = eim({"check", "--policy", path});
  EXPECT_EQ(checked.exit_code(), 0) << checked.err;
  EXPECT_THAT(checked.out, HasSubstr("class firewall: fine"));
  EXPECT_TRUE(Json::parse(eim({"check", "--policy", path, "--json"}).out)["accepted"]);
  const Outcome explained = eim({"explain", "firewall", "--policy", path});
  EXPECT_EQ(explained.exit_code(), 0) << explained.err;
  EXPECT_THAT(explained.out, HasSubstr("read r.uri"));
  const Outcome unknown = eim({"explain", "firewal", "--policy", path});
  EXPECT_EQ(unknown.exit_code(), 1);
  EXPECT_THAT(unknown.err, HasSubstr("did you mean \"firewall\"?"));
}

TEST_F(EimCommand, ExtensionsAgainstTheirClass) {
  const char* clang = std::getenv("BPFTIME_CLANG");
  write("host.ext.h", eim({"header", base_ + "/host"}).out);
  const std::string path =
      policy("      - host_time\n      - readPid\nextensions:\n  - {program: x.bpf.o, class: firewall}\n");
  const auto checked = [&](const std::string& body) {
    const std::string source =
        write("x.bpf.c", "#include \"host.ext.h\"\nhost__processBegin(x) { if (!r) return 0; " + body +
                             " }\nchar LICENSE[] SEC(\"license\") = \"GPL\";\n");
    EXPECT_EQ(run_command({{clang, "-target", "bpf", "-I/usr/include/x86_64-linux-gnu", "-O2", "-g", "-c",
                            source, "-o", base_ + "/x.bpf.o"}})
                  .exit_code(),
              0);
    return eim({"check", base_ + "/x.bpf.o", "--policy", path});
  };
  for (const char* good :
       {"return r->uri.len > 3 && r->uri.data[3] == 65;", "return host__host_time() > host__host_pid;",
        "bpf_override_return((struct pt_regs *)ctx, 403); return 0;"}) {
    const Outcome outcome = checked(good);
    EXPECT_EQ(outcome.exit_code(), 0) << good << outcome.out << outcome.err;
  }
  struct Bad {
    const char *body, *says;
  };
  for (const Bad& bad : {Bad{"return r->status;", "add \"read(r.status)\" to class \"firewall\" (p.yaml:7)"},
                         {"return r->uri.len > 3 && r->uri.data[4] == 65;", "EIM007"},
                         {"return host__answer();", "add \"answer\" to class \"firewall\" (p.yaml:7)"},
                         {"return host__host_version;", "add \"readVersion\" to class"},
                         {"host__host_pid = 1; return 0;", "add \"writePid\" to class"},
                         {"bpf_override_return((struct pt_regs *)ctx, 404); return 0;", "EIM005"}}) {
    const Outcome outcome = checked(bad.body);
    EXPECT_EQ(outcome.exit_code(), 4) << bad.body << outcome.out << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr(bad.says)) << bad.body;
  }
  EXPECT_THAT(eim({"check", base_ + "/x.bpf.o", "--class", "firewal", "--policy", path}).err,
              HasSubstr("did you mean \"firewall\"?"));
}

TEST_F(EimCommand, MistakesNameTheirPlace) {
  const std::string path = policy("      - read(r.ure)\n");
  const Outcome wrong = eim({"check", "--policy", path});
  EXPECT_EQ(wrong.exit_code(), 1);
  EXPECT_THAT(wrong.err, HasSubstr(path + ":9:9: "));
  EXPECT_THAT(wrong.err, HasSubstr("did you mean \"uri\"?"));
  EXPECT_FALSE(Json::parse(eim({"check", "--policy", path, "--json"}).out)["accepted"]);
  EXPECT_EQ(eim({"check", "--policy", base_ + "/none.yaml"}).exit_code(), 1);
  EXPECT_EQ(eim({"manifest", "/bin/true"}).exit_code(), 1);
  EXPECT_EQ(eim({"manifest"}).exit_code(), 2);
  EXPECT_EQ(eim({}).exit_code(), 2);
  EXPECT_EQ(eim({"check", "--policy", policy("    isolation: mpk\n")}).exit_code(), 4);
}

}  // namespace
}  // namespace bpftime::cli
