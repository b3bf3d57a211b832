// bpftime verify, as users run it: on an object, on a program that carries one, on what is neither.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/testing/run_command.h"

namespace bpftime::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Outcome;
using ::testing::StartsWith;

class VerifyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* bin = std::getenv("BPFTIME_BIN_DIR");
    const char* sample = std::getenv("BPFTIME_VERIFY_SAMPLE");
    if (bin == nullptr || sample == nullptr) GTEST_SKIP() << "BPFTIME_BIN_DIR is not set: run by ctest";
    bpftime_ = std::string(bin) + "/bpftime";
    sample_ = sample;
    char name[] = "/tmp/bpftime-verify-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    base_ = name;
  }
  void TearDown() override {
    if (!base_.empty()) fs::remove_all(base_);
  }
  Outcome verify(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {bpftime_, "verify"});
    return testing::run_command(
        {.arguments = arguments, .environment = {{"BPFTIME_RUNTIME_DIR", base_ + "/run"}}});
  }
  std::string file(const std::string& name, const std::string& bytes) {
    const std::string path = base_ + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  std::string sample_bytes() {
    std::ifstream in(sample_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string bpftime_, sample_, base_;
};

const Json& program(const Json& answer, const std::string& name) {
  static const Json none;
  for (const Json& each : answer["objects"][0]["programs"])
    if (each["name"] == name) return each;
  return none;
}

TEST_F(VerifyTest, SaysWhatIsAcceptedAndWhatIsNot) {
  const Outcome outcome = verify({sample_});
  EXPECT_EQ(outcome.exit_code(), 4) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("accepted    accepted (uprobe): "));
  EXPECT_THAT(outcome.out, HasSubstr("refused     refused (uprobe): "));
  EXPECT_THAT(outcome.out, HasSubstr("error[NUL001]: `r0` may be null\n"));
  EXPECT_THAT(outcome.out, HasSubstr("verify_sample.bpf.c:"));
  EXPECT_THAT(outcome.out, HasSubstr("return c->enabled;"));
  EXPECT_THAT(outcome.out, HasSubstr("null comes from this call"));
  EXPECT_THAT(outcome.out, HasSubstr("not judged  elsewhere (tc): type sched_cls does not run here\n"));
  EXPECT_THAT(outcome.out,
              HasSubstr("not judged  on_demand (uprobe): loaded on demand only; --all judges it\n"));
  EXPECT_THAT(outcome.out, HasSubstr("1 accepted, 1 refused, 2 not judged\n"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("\x1b")));
  EXPECT_FALSE(fs::exists(base_ + "/run")) << "a daemon was started";
}

TEST_F(VerifyTest, JsonHasTheSameFields) {
  const Outcome outcome = verify({"--json", "--all", sample_});
  EXPECT_EQ(outcome.exit_code(), 4);
  const Json answer = Json::parse(outcome.out);
  const Json& good = program(answer, "accepted");
  EXPECT_EQ(good["verdict"], "accepted");
  EXPECT_GT(good["instructions_max"], 10);
  EXPECT_GT(good["insns_processed"], 10);
  EXPECT_EQ(good["type"], "kprobe");
  const Json& bad = program(answer, "refused");
  EXPECT_EQ(bad["verdict"], "refused");
  EXPECT_EQ(bad["errno"], EACCES);
  const Json& diagnosis = bad["diagnoses"][0];
  EXPECT_EQ(diagnosis["rule"], "NUL001");
  EXPECT_EQ(diagnosis["linux_message"], "R0 invalid mem access 'map_value_or_null'");
  EXPECT_GT(diagnosis["place"]["line"], 30);
  EXPECT_EQ(diagnosis["place"]["function"], "refused");
  EXPECT_THAT(diagnosis["causes"][0]["place"]["text"].get<std::string>(), HasSubstr("bpf_map_lookup_elem"));
  EXPECT_THAT(diagnosis["help"].get<std::string>(), HasSubstr("test it first"));
  EXPECT_EQ(program(answer, "on_demand")["diagnoses"][0]["rule"], "MEM004");
  EXPECT_EQ(program(answer, "elsewhere")["verdict"], "not judged");
}

TEST_F(VerifyTest, JudgesOneProgram) {
  EXPECT_EQ(verify({"--program", "accepted", sample_}).exit_code(), 0);
  EXPECT_EQ(verify({"--program", "refused", sample_}).exit_code(), 4);
  EXPECT_EQ(verify({"--program", "on_demand", sample_}).exit_code(), 4);
  const Outcome elsewhere = verify({"--program", "elsewhere", sample_});
  EXPECT_EQ(elsewhere.exit_code(), 4) << "asked for by name, and not judged";
  const Outcome none = verify({"--program", "nothing", sample_});
  EXPECT_EQ(none.exit_code(), 1);
  EXPECT_THAT(none.err,
              HasSubstr("bpftime: verify: program nothing: not in these objects; try without --program\n"));
}

TEST_F(VerifyTest, LogsAsTheKernelDoes) {
  const Outcome outcome = verify({"--program", "refused", "--log", "1", sample_});
  EXPECT_THAT(outcome.out, HasSubstr("0: R1=ctx() R10=fp0\n"));
  EXPECT_THAT(outcome.out, HasSubstr("; return c->enabled; @ verify_sample.bpf.c:"));
  EXPECT_THAT(outcome.out, HasSubstr("\nR0 invalid mem access 'map_value_or_null'\nprocessed "));
  EXPECT_EQ(verify({"--log", "99", sample_}).exit_code(), 2);
}

TEST_F(VerifyTest, FindsObjectsInsidePrograms) {
  const std::string tool = file("tool", "#!/bin/true\n" + sample_bytes() + "tail" + sample_bytes());
  const Outcome outcome = verify({tool});
  EXPECT_EQ(outcome.exit_code(), 4) << outcome.err;
  EXPECT_THAT(outcome.out, StartsWith("tool (object 1):\n"));
  EXPECT_THAT(outcome.out, HasSubstr("tool (object 2):\n"));
  EXPECT_THAT(outcome.out, HasSubstr("2 accepted, 2 refused, 4 not judged\n"));
}

TEST_F(VerifyTest, NamesWhatIsNoObject) {
  const Outcome text = verify({file("text", "hello")});
  EXPECT_EQ(text.exit_code(), 1);
  EXPECT_THAT(text.err, HasSubstr("no BPF object and none inside; try "));
  const Outcome missing = verify({base_ + "/none"});
  EXPECT_EQ(missing.exit_code(), 1);
  EXPECT_THAT(missing.err, HasSubstr("/none: No such file or directory; check the path\n"));
  EXPECT_EQ(verify({base_}).exit_code(), 1);
  EXPECT_EQ(verify({}).exit_code(), 2);
}

TEST_F(VerifyTest, DamagedObjectsGiveErrorsNotCrashes) {
  const std::string bytes = sample_bytes();
  for (size_t seed = 0; seed < 40; ++seed) {
    std::string damaged = bytes;
    // One word of every region of the file in turn, the file's own header aside.
    const size_t at = 64 + (damaged.size() - 72) * seed / 40;
    damaged.replace(at, 8, 8, '\xff');
    const Outcome outcome = verify({file("damaged.o", damaged)});
    EXPECT_THAT(outcome.exit_code(), ::testing::AnyOf(0, 1, 4)) << "byte " << at << ": " << outcome.err;
  }
  for (size_t size : {size_t{4}, size_t{64}, bytes.size() / 2, bytes.size() - 1})
    EXPECT_EQ(verify({file("cut.o", bytes.substr(0, size))}).exit_code(), 1) << size;
}

TEST_F(VerifyTest, ExplainsRules) {
  const Outcome page = verify({"--explain", "nul001"});
  EXPECT_EQ(page.exit_code(), 0);
  EXPECT_THAT(page.out, StartsWith("## NUL001 pointer may be null\n"));
  const Outcome unknown = verify({"--explain", "NUL999"});
  EXPECT_EQ(unknown.exit_code(), 2);
  EXPECT_THAT(unknown.err, HasSubstr("no such rule; try `bpftime verify --rules`"));
  EXPECT_THAT(verify({"--rules"}).out, HasSubstr("MEM002  access beyond the end of the object\n"));
  EXPECT_GT(Json::parse(verify({"--rules", "--json"}).out).size(), 40u);
}

TEST_F(VerifyTest, TheKernelIsAskedOnlyWhenWanted) {
  const Outcome advise = verify({"--json", "--kernel-verifier", "advise", sample_});
  const Json kernel = program(Json::parse(advise.out), "accepted")["kernel"];
  EXPECT_TRUE(kernel.contains("errno") || kernel.contains("note")) << kernel;
  if (kernel.contains("errno")) {
    EXPECT_EQ(kernel["errno"], 0) << kernel;
  }
  EXPECT_EQ(verify({"--kernel-verifier", "perhaps", sample_}).exit_code(), 2);
  EXPECT_FALSE(program(Json::parse(verify({"--json", sample_}).out), "accepted").contains("kernel"));
}

}  // namespace
}  // namespace bpftime::cli
