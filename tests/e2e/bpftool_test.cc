// `bpftime prog|map|link` beside Debian's bpftool under `bpftime load`, on the same objects: the same words, columns and
// keys. What we say besides is listed here, and nothing else may differ.
#include <unistd.h>

#include <regex>

#include "conversation.h"
#include "harness.h"

namespace bpftime::e2e {
namespace {

using Json = nlohmann::json;

constexpr char kBpftool[] = "/usr/sbin/bpftool";

class BpftoolTest : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    if (::access(kBpftool, X_OK) != 0) GTEST_SKIP() << "bpftool is not installed";
  }
  Finished theirs(Arguments arguments) {
    arguments.insert(arguments.begin(), kBpftool);
    return bpftime(load(arguments));
  }
  Json json(const Finished& done) {
    EXPECT_EQ(done.code, 0) << done.error << done.output;
    return Json::parse(done.output, nullptr, false);
  }
  Json our_json(Arguments arguments) {
    arguments.insert(arguments.begin(), "--json");
    return json(bpftime(arguments));
  }
  Json their_json(Arguments arguments) {
    arguments.insert(arguments.begin(), "--json");
    return json(theirs(arguments));
  }
  void expect_same_text(const Arguments& arguments) {
    const Finished ours = bpftime(arguments), other = theirs(arguments);
    EXPECT_EQ(ours.output, other.output) << ::testing::PrintToString(arguments) << ours.error << other.error;
    EXPECT_EQ(ours.code == 0, other.code == 0)
        << ::testing::PrintToString(arguments) << ours.error << other.error;
  }
  void expect_same_json(Arguments arguments) {
    arguments.insert(arguments.begin(), "--json");
    const Finished ours = bpftime(arguments), other = theirs(arguments);
    EXPECT_EQ(Json::parse(ours.output, nullptr, false), Json::parse(other.output, nullptr, false))
        << ::testing::PrintToString(arguments) << ours.error << other.error;
    EXPECT_EQ(ours.code == 0, other.code == 0) << ::testing::PrintToString(arguments);
  }
  // Ours without the keys that bpftool of this version does not have.
  static Json without(Json value, const Arguments& keys) {
    for (Json& each : value)
      for (const std::string& key : keys) each.erase(key);
    return value;
  }
  Child tool() { return load_tool({program("features"), "counters", program("talker"), "talk"}); }
};

TEST_F(BpftoolTest, ShowHasTheirColumnsAndKeys) {
  Child running = tool();
  EXPECT_EQ(without(our_json({"prog", "show"}), {"verified_by"}), their_json({"prog", "show"}));
  // Theirs asks fdinfo, which tells nothing of a memory file: memlock is missing there and nothing is ever frozen.
  EXPECT_EQ(without(our_json({"map", "show"}), {"bytes_memlock", "frozen"}),
            without(their_json({"map", "show"}), {"frozen"}));
  EXPECT_EQ(without(our_json({"link", "show"}), {"retprobe", "file", "offset", "cookie", "enabled"}),
            their_json({"link", "show"}));
  const auto text = [](const std::string& shown, const char* ours) {
    return std::regex_replace(shown, std::regex(ours), "");
  };
  EXPECT_EQ(text(bpftime({"prog", "show"}).output, "\n\tverified_by [^\n]*"),
            theirs({"prog", "show"}).output);
  EXPECT_EQ(text(bpftime({"map", "show"}).output, "  memlock [0-9]*B|  frozen"),
            theirs({"map", "show"}).output);
  EXPECT_EQ(text(bpftime({"link", "show"}).output, "\n\tuprobe [^\n]*"), theirs({"link", "show"}).output);
  const Json maps = our_json({"map", "show", "name", "features.rodata"});
  EXPECT_EQ(maps["frozen"], 1) << "constants are frozen by libbpf";
  EXPECT_GT(maps["bytes_memlock"], 0);
  const Json link = our_json({"link", "show", "id", "1"});
  EXPECT_EQ(link["file"], program("talker"));
  EXPECT_EQ(link["retprobe"], false);
}

TEST_F(BpftoolTest, DumpsOfInstructionsAreTheirs) {
  Child running = tool();
  // A call that no kernel knows is a number there, and a call within the program has no target in theirs.
  const auto comparable = [](Json list) {
    for (Json& each : list) {
      auto& text = each["disasm"].get_ref<std::string&>();
      text = std::regex_replace(text, std::regex("call (0x[0-9a-f]+|unknown|pc[+-][0-9]+)"), "call");
    }
    return list;
  };
  for (const Arguments& more : std::vector<Arguments>{{}, {"linum"}, {"opcodes"}}) {
    Arguments arguments = {"prog", "dump", "xlated", "name", "on_counters"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Json ours = comparable(our_json(arguments));
    EXPECT_GT(ours.size(), 50u);
    EXPECT_EQ(ours, comparable(their_json(arguments)));
  }
  const std::string text = bpftime({"prog", "dump", "xlated", "name", "on_counters", "linum"}).output;
  EXPECT_TRUE(text.starts_with("int on_counters(struct pt_regs * ctx):\n; ")) << text;
  EXPECT_NE(text.find("line_num:"), std::string::npos);
  EXPECT_EQ(text.find("map[idx:"), std::string::npos);
}

TEST_F(BpftoolTest, MachineCodeIsShownAsTheirsWould) {
  Child running = tool();
  const Json code = our_json({"prog", "dump", "jited", "name", "on_counters"});
  ASSERT_EQ(code.size(), 1u);
  EXPECT_TRUE(code[0]["name"].get<std::string>().starts_with("bpf_prog_"));
  ASSERT_GT(code[0]["insns"].size(), 10u);
  uint64_t before = 0;
  for (const Json& each : code[0]["insns"]) {
    const uint64_t pc = std::stoull(each["pc"].get<std::string>(), nullptr, 16);
    EXPECT_TRUE(before < pc || pc == 0) << each;
    EXPECT_FALSE(each["operation"].get<std::string>().empty()) << each;
    before = pc;
  }
  const std::string file = directory() + "/code";
  EXPECT_EQ(bpftime({"prog", "dump", "jited", "name", "on_counters", "file", file}).code, 0);
  const Json shown = our_json({"prog", "show", "name", "on_counters"});
  EXPECT_EQ(run({"stat", "-c", "%s", file}).output,
            std::to_string(shown["bytes_jited"].get<uint64_t>()) + "\n");
}

TEST_F(BpftoolTest, EntriesAreTheirs) {
  Child running = tool();
  for (const char* name : {"features.data", "features.bss", "by_kind"})
    expect_same_json({"map", "dump", "name", name});
  for (const char* type : {"hash", "percpu_hash", "percpu_array", "lru_hash", "array"}) {
    const std::string path = std::string("/sys/fs/bpf/") + type;
    const bool array = std::string(type).ends_with("array");
    ASSERT_EQ(
        bpftime({"map", "create", path, "type", type, "key", "4", "value", "20", "entries", "3", "name", "m"})
            .code,
        0);
    Arguments value(20, "7");
    Arguments update = {"map", "update", "pinned", path, "key", "1", "0", "0", "0", "value"};
    update.insert(update.end(), value.begin(), value.end());
    EXPECT_EQ(bpftime(update).code, 0);
    update.push_back("noexist");
    EXPECT_NE(bpftime(update).code, 0) << "it is there";
    for (const Arguments& look :
         std::vector<Arguments>{{"dump", "pinned", path},
                                {"lookup", "pinned", path, "key", "1", "0", "0", "0"},
                                {"lookup", "pinned", path, "key", "hex", "9", "0", "0", "0"},
                                {"getnext", "pinned", path}}) {
      Arguments arguments = {"map"};
      arguments.insert(arguments.end(), look.begin(), look.end());
      expect_same_text(arguments);
      expect_same_json(arguments);
    }
    EXPECT_EQ(bpftime({"map", "delete", "pinned", path, "key", "1", "0", "0", "0"}).code == 0, !array);
  }
}

TEST_F(BpftoolTest, QueuesStacksAndTheirWords) {
  for (const char* type : {"queue", "stack"}) {
    const std::string path = std::string("/sys/fs/bpf/") + type;
    const bool queue = std::string(type) == "queue";
    ASSERT_EQ(
        bpftime({"map", "create", path, "type", type, "key", "0", "value", "4", "entries", "4", "name", "q"})
            .code,
        0);
    EXPECT_EQ(bpftime({"map", queue ? "enqueue" : "push", "pinned", path, "value", "1", "0", "0", "0"}).code,
              0);
    EXPECT_EQ(bpftime({"map", queue ? "enqueue" : "push", "pinned", path, "value", "2", "0", "0", "0"}).code,
              0);
    expect_same_text({"map", "peek", "pinned", path});
    EXPECT_EQ(bpftime({"map", queue ? "dequeue" : "pop", "pinned", path}).output,
              queue ? "value: 01 00 00 00\n" : "value: 02 00 00 00\n");
    EXPECT_NE(bpftime({"map", "dump", "pinned", path}).code, 0) << "there are no keys to walk along";
  }
}

TEST_F(BpftoolTest, PinsAndBadWords) {
  Child running = tool();
  EXPECT_EQ(bpftime({"prog", "pin", "name", "on_counters", "/sys/fs/bpf/p"}).code, 0);
  EXPECT_EQ(bpftime({"link", "pin", "id", "1", "/sys/fs/bpf/l"}).code, 0);
  EXPECT_EQ(bpftime({"map", "pin", "name", "by_kind", "/sys/fs/bpf/m"}).code, 0);
  expect_same_json({"prog", "dump", "xlated", "pinned", "/sys/fs/bpf/p", "file", directory() + "/x"});
  expect_same_json({"map", "dump", "pinned", "/sys/fs/bpf/m"});
  EXPECT_NE(bpftime({"prog", "show", "pinned", "/sys/fs/bpf/m"}).code, 0) << "a map is no program";
  EXPECT_NE(bpftime({"map", "pin", "name", "by_kind", "/sys/fs/bpf/m"}).code, 0) << "the name is taken";
  EXPECT_NE(bpftime({"map", "freeze", "id", "99999"}).code, 0);
  EXPECT_EQ(bpftime({"link", "detach", "id", "1"}).code, 4) << "as Linux: perf links cannot be";
  // As the kernel: a probe's program has no arguments to be run with.
  EXPECT_NE(bpftime({"prog", "run", "name", "on_counters", "data_in", "/etc/hostname"}).code, 0);
  for (const Arguments& bad :
       std::vector<Arguments>{{"map", "update", "name", "by_kind", "key", "1"},
                              {"map", "lookup", "name", "by_kind", "key", "1", "2", "3", "256"},
                              {"prog", "dump", "xlated", "name", "on_counters", "nonsense"},
                              {"prog", "run", "name", "on_counters", "nonsense"},
                              {"link", "show", "name", "x"}})
    EXPECT_EQ(bpftime(bad).code, 2) << ::testing::PrintToString(bad);
}

TEST_F(BpftoolTest, CompletionKnowsLiveIds) {
  Child running = tool();
  const Json maps = our_json({"map", "show"});
  const std::string id = std::to_string(maps[0]["id"].get<uint32_t>());
  EXPECT_NE(bpftime({"complete", "--", "map", "dump", "id", ""}).output.find(id + "\t"), std::string::npos);
  EXPECT_EQ(bpftime({"complete", "--", "map", "dump", "name", "by"}).output.substr(0, 8), "by_kind\t");
  EXPECT_NE(bpftime({"complete", "--", "prog", "dump", "xlated", "name", ""}).output.find("on_counters\t"),
            std::string::npos);
  const Finished shell =
      run({"bash", "-c",
           "source <(" + program("bpftime") + " completion bash); COMP_WORDS=(" + program("bpftime") +
               " map dump name by); COMP_CWORD=4; _bpftime; echo \"${COMPREPLY[*]}\""},
          options());
  EXPECT_EQ(shell.output, "by_kind\n") << shell.error;
}

class EventPipe : public VictimTest {};

// Takes the events over from the tool that loaded the program: the slots of the array are the pipe's then, as in the kernel.
TEST_F(EventPipe, ShowsWhatProgramsSend) {
  Child tool = stat_tool("perf");
  Conversation target = victim_started();
  Child pipe = bpftime_child({"--json", "map", "event_pipe", "name", "perf"});
  // The pipe says nothing when it is ready: calls go on until one is shown.
  ASSERT_TRUE(eventually([&] {
    target.ask("call 1");
    return pipe.output().find("\n") != std::string::npos;
  })) << pipe.error();
  const Json event = Json::parse(pipe.output().substr(0, pipe.output().find('\n')));
  EXPECT_EQ(event["cpu"], event["index"]);
  EXPECT_EQ(event["size"], event["data"].size());
  EXPECT_GE(event["size"], 8);
  pipe.signal(SIGINT);
  EXPECT_EQ(pipe.wait(), 0) << pipe.error();
}

TEST_F(EventPipe, OnlyOfArraysOfEvents) {
  const std::string path = "/sys/fs/bpf/h";
  ASSERT_EQ(
      bpftime({"map", "create", path, "type", "hash", "key", "4", "value", "4", "entries", "1", "name", "h"})
          .code,
      0);
  const Finished refused = bpftime({"map", "event_pipe", "pinned", path});
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.error.find("no perf_event_array"), std::string::npos) << refused.error;
  EXPECT_EQ(bpftime({"map", "event_pipe", "pinned", path, "cpu", "0"}).code, 1);
}

}  // namespace
}  // namespace bpftime::e2e
