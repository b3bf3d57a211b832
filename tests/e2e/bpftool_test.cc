// `bpftime prog|map|link` beside Debian's bpftool under `bpftime load`, on the same objects: the same words, columns and
// keys. What we say besides is listed here, and nothing else may differ.
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>

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
  EXPECT_EQ(our_json({"map", "show"}), their_json({"map", "show"}))
      << "memlock and frozen: theirs asks fdinfo";
  EXPECT_EQ(without(our_json({"link", "show"}), {"retprobe", "file", "offset", "cookie", "enabled"}),
            their_json({"link", "show"}));
  const auto text = [](const std::string& shown, const char* ours) {
    return std::regex_replace(shown, std::regex(ours), "");
  };
  EXPECT_EQ(text(bpftime({"prog", "show"}).output, "\n\tverified_by [^\n]*"),
            theirs({"prog", "show"}).output);
  EXPECT_EQ(bpftime({"map", "show"}).output, theirs({"map", "show"}).output);
  EXPECT_EQ(text(bpftime({"link", "show"}).output, "\n\tuprobe [^\n]*"), theirs({"link", "show"}).output);
  EXPECT_EQ(json(bpftime({"-p", "map", "show"})), json(theirs({"-p", "map", "show"})));
  const Json maps = our_json({"map", "show", "name", "features.rodata"});
  EXPECT_EQ(maps["frozen"], 1) << "constants are frozen by libbpf";
  EXPECT_GT(maps["bytes_memlock"], 0);
  const Json link = our_json({"link", "show", "id", "1"});
  EXPECT_EQ(link["file"], program("talker"));
  EXPECT_EQ(link["retprobe"], false);
}

// Every verb that prints data prints JSON when asked, before the verb or behind it, and nothing beside it.
TEST_F(BpftoolTest, EveryVerbThatShowsDataHasJson) {
  Child running = tool();
  Child victim({"sleep", "100"});
  const std::string pid = std::to_string(victim.pid());
  const std::vector<Arguments> verbs = {
      {"list"},
      {"list", "--hits", "--for", "0"},
      {"prog", "show"},
      {"prog", "list", "name", "on_counters"},
      {"prog", "dump", "xlated", "name", "on_counters"},
      {"prog", "dump", "jited", "name", "on_counters"},
      {"map", "show"},
      {"map", "dump", "name", "features.rodata"},
      {"map", "lookup", "name", "features.rodata", "key", "0", "0", "0", "0"},
      {"map", "getnext", "name", "features.rodata"},
      {"link", "show"},
      {"trace", "--no-follow"},
      {"verify", "--rules"},
      {"verify", "--explain", "NUL001"},
      {"verify", program("features")},
      {"doctor"},
      {"daemon", "status"},
      {"daemon", "start"},
      {"version"},
      {"prog"},
      {"map"},
      {"link"},
      {"attach", pid},
      {"detach", pid},
      {"prog", "dump", "xlated", "name", "on_counters", "file", directory() + "/code"},
      {"prog", "pin", "name", "on_counters", "/sys/fs/bpf/p"},
      {"map", "pin", "name", "by_kind", "/sys/fs/bpf/m"},
      {"link", "pin", "id", "1", "/sys/fs/bpf/l"},
      {"map", "create", "/sys/fs/bpf/h", "type", "hash", "key", "4", "value", "4", "entries", "3", "name",
       "h"},
      {"map", "update", "name", "h", "key", "1", "0", "0", "0", "value", "1", "0", "0", "0"},
      {"map", "create", "/sys/fs/bpf/q", "type", "queue", "key", "0", "value", "4", "entries", "8", "name",
       "q"},
      {"map", "push", "name", "q", "value", "1", "0", "0", "0"},
      {"map", "enqueue", "name", "q", "value", "1", "0", "0", "0"},
      {"map", "peek", "name", "q"},
      {"map", "pop", "name", "q"},
      {"map", "freeze", "name", "h"},
  };
  // Done once, a second time is a mistake: an object, too, that says so.
  const std::set<std::string> once = {"detach", "pin", "create", "freeze", "pop"};
  for (const Arguments& verb : verbs) {
    Arguments before = verb, behind = verb;
    before.insert(before.begin(), "--json");
    behind.push_back("-j");
    for (const Arguments& arguments : {before, behind}) {
      const Finished done = bpftime(arguments);
      const bool again =
          arguments == behind && (once.contains(verb[0]) || (verb.size() > 1 && once.contains(verb[1])));
      EXPECT_TRUE(again || done.code == 0) << ::testing::PrintToString(arguments) << done.output;
      EXPECT_EQ(done.error, "") << ::testing::PrintToString(arguments);
      // A line each, of what comes one by one.
      if (verb[0] == "trace" && done.output.empty()) continue;
      EXPECT_TRUE(Json::accept(done.output)) << ::testing::PrintToString(arguments) << done.output;
    }
  }
}

TEST_F(BpftoolTest, DumpsOfInstructionsAreTheirs) {
  Child running = tool();
  // A call that no kernel knows is a number there, and a call within the program has no target in theirs.
  const auto comparable = [](Json list) {
    for (Json& each : list) {
      auto& text = each["disasm"].get_ref<std::string&>();
      text = std::regex_replace(
          text, std::regex("call( 0x[0-9a-f]+| unknown| pc[+-][0-9]+)?(#0x[0-9a-f]{16})?"), "call");
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
  uint64_t before = 0, lines = 0;
  std::string bytes;
  const Json whole = our_json({"prog", "dump", "jited", "name", "on_counters", "linum", "opcodes"});
  for (const Json& each : whole[0]["insns"]) {
    if (each.contains("src")) {
      ++lines;
      EXPECT_FALSE(each["src"].get<std::string>().empty());
      EXPECT_TRUE(each["file"].get<std::string>().ends_with("features.bpf.c")) << each;
      EXPECT_GT(each["line_num"], 0);
    }
    for (const Json& byte : each["opcodes"]) bytes += byte.get<std::string>().substr(2);
  }
  EXPECT_GT(lines, 10u) << "lines of source beside the code";
  const std::string text = bpftime({"prog", "dump", "jited", "name", "on_counters", "linum"}).output;
  EXPECT_TRUE(std::regex_search(text, std::regex("\n; .* \\[file:.*features.bpf.c line_num:[0-9]+ "
                                                 "line_col:[0-9]+\\]\n *[0-9a-f]+:\t")))
      << text;
  EXPECT_EQ(bpftime({"prog", "dump", "jited", "name", "on_counters"}).output.find("line_num"),
            std::string::npos);
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
  std::ifstream image(file, std::ios::binary);
  std::string dumped;
  for (char byte; dumped.size() < bytes.size() && image.get(byte);) {
    char text[4];
    std::snprintf(text, sizeof text, "%02x", static_cast<unsigned char>(byte));
    dumped += text;
  }
  EXPECT_EQ(dumped, bytes) << "opcodes are the code's bytes";
  // What theirs would disassemble Debian builds it without; kernel_test has what it asks for.
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

// What has no entries to read, or none of its own, is told in their words, too.
TEST_F(BpftoolTest, MapsOfOtherThingsAreTheirs) {
  const std::pair<const char*, uint32_t> types[] = {{"lru_percpu_hash", 20}, {"stack_trace", 1016},
                                                    {"prog_array", 4},       {"perf_event_array", 4},
                                                    {"cgroup_array", 4},     {"bloom_filter", 20}};
  for (const auto& [type, size] : types) {
    const std::string path = std::string("/sys/fs/bpf/") + type,
                      key = size == 20 && type[0] == 'b' ? "0" : "4";
    ASSERT_EQ(bpftime({"map", "create", path, "type", type, "key", key, "value", std::to_string(size),
                       "entries", "2", "name", "m"})
                  .code,
              0)
        << type;
    Arguments lookup = {"map", "lookup", "pinned", path};
    if (key != "0") {
      lookup.insert(lookup.end(), {"key", "1", "0", "0", "0"});
      for (const Arguments& walk :
           {Arguments{"map", "dump", "pinned", path}, Arguments{"map", "getnext", "pinned", path}}) {
        const Finished ours = bpftime(walk), other = theirs(walk);
        EXPECT_EQ(ours.output, other.output) << type << ours.error << other.error;
        if (ours.code == 0) expect_same_json(walk);
      }
    }
    const Finished ours = bpftime(lookup), other = theirs(lookup);
    EXPECT_EQ(ours.output, other.output) << type << ours.error << other.error;
    EXPECT_EQ(ours.code == 0, other.code == 0) << type;
  }
}

TEST_F(BpftoolTest, ErrorsNameTheMapAndWhatToTry) {
  const auto create = [&](const std::string& type, const std::string& key) {
    const std::string path = "/sys/fs/bpf/" + type;
    EXPECT_EQ(bpftime({"map", "create", path, "type", type, "key", key, "value", "4", "entries", "1", "name",
                       "my_" + type})
                  .code,
              0);
    return path;
  };
  const auto says = [&](Arguments arguments, const std::string& path, const Arguments& more,
                        const std::string& text) {
    arguments.insert(arguments.begin(), "map");
    arguments.insert(arguments.end(), {"pinned", path});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished done = bpftime(arguments);
    EXPECT_NE(done.code, 0) << ::testing::PrintToString(arguments);
    EXPECT_NE(done.error.find("(my_"), std::string::npos) << done.error;
    EXPECT_NE(done.error.find(text), std::string::npos) << ::testing::PrintToString(arguments) << done.error;
  };
  const std::string hash = create("hash", "4"), array = create("array", "4"), queue = create("queue", "0");
  const Arguments value = {"value", "1", "0", "0", "0"};
  const auto at = [&](const char* key, bool with_value, const char* flag = nullptr) {
    Arguments out = {"key", key, "0", "0", "0"};
    if (with_value) out.insert(out.end(), value.begin(), value.end());
    if (flag != nullptr) out.push_back(flag);
    return out;
  };
  says({"update"}, hash, at("1", true, "exist"), "no such key; try `bpftime map dump id");
  says({"delete"}, hash, at("1", false), "no such key");
  Arguments update = {"map", "update", "pinned", hash};
  const Arguments first = at("1", true);
  update.insert(update.end(), first.begin(), first.end());
  ASSERT_EQ(bpftime(update).code, 0);
  says({"update"}, hash, at("1", true, "noexist"), "there already; try `any`");
  says({"update"}, hash, at("2", true), "full, it has 1 entries; try `bpftime map delete`");
  says({"update"}, array, at("1", true), "lies behind them");
  says({"delete"}, array, at("0", false), "array takes no such");
  ASSERT_EQ(bpftime({"map", "push", "pinned", queue, "value", "1", "0", "0", "0"}).code, 0);
  says({"push"}, queue, value, "full, it has 1 entries");
  ASSERT_EQ(bpftime({"map", "freeze", "pinned", hash}).code, 0);
  says({"update"}, hash, at("1", true), "frozen");
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

// Hits are counted while somebody asks, exactly, and nothing is lost when counting begins or ends.
class Hits : public EndToEnd {
 protected:
  static constexpr int kThreads = 4, kCalls = 1000, kRound = kThreads * kCalls;
  Child talker() {
    Child target =
        bpftime_child({"start", program("talker"), std::to_string(kThreads), std::to_string(kCalls)});
    EXPECT_TRUE(target.wait_for_output("waiting\n")) << target.error();
    return target;
  }
  static void round(pid_t pid, Child& target, int number) {
    ::kill(pid, SIGUSR1);
    EXPECT_TRUE(target.wait_for_output("round " + std::to_string(number) + " done\n"));
  }
  Json targets() { return bpftime_json({"list"})["targets"]; }
  bool counting() { return bpftime_json({"list"})["counting"]; }
  Child listing() {
    Child out = bpftime_child({"list", "--hits", "--for", "600", "--json"});
    EXPECT_TRUE(eventually([&] { return counting(); })) << out.error();
    return out;
  }
  // "talker's pid/program's name" and how often it ran there.
  static std::map<std::string, uint64_t> hits(const Json& list) {
    std::map<std::string, uint64_t> out;
    for (const Json& target : list["targets"])
      for (const Json& probe : target["probes"])
        for (const Json& each : probe["programs"])
          if (each.contains("hits"))
            out[target["pid"].dump() + "/" + each["name"].get<std::string>()] += each["hits"].get<uint64_t>();
    return out;
  }
  static Json finished(Child& listing) {
    listing.signal(SIGINT);
    EXPECT_EQ(listing.wait(), 0) << listing.error();
    return Json::parse(listing.output(), nullptr, false);
  }
};

TEST_F(Hits, AreCountedPerTargetWhileSomebodyAsks) {
  Child tool = load_tool({program("features"), "counters", program("talker"), "talk"});
  Child one = talker(), two = talker();
  const Json all = targets();
  ASSERT_EQ(all.size(), 2u);
  const pid_t first = all[0]["pid"], second = all[1]["pid"];
  EXPECT_TRUE(hits(bpftime_json({"list"})).empty()) << "nobody asked";
  Child& of_first = first == one.pid() ? one : two;
  Child& of_second = first == one.pid() ? two : one;
  round(first, of_first, 1);
  Json counted;
  {
    Child list = listing();
    round(first, of_first, 2);
    round(first, of_first, 3);
    round(second, of_second, 1);
    EXPECT_EQ(hits(bpftime_json({"list"}))[std::to_string(first) + "/on_counters"], 2u * kRound)
        << "shown to whoever looks, while it is counted";
    counted = finished(list);
  }
  auto found = hits(counted);
  EXPECT_EQ(found[std::to_string(first) + "/on_counters"], 2u * kRound);
  EXPECT_EQ(found[std::to_string(second) + "/on_counters"], 1u * kRound);
  EXPECT_TRUE(eventually([&] { return !counting(); }));
  round(first, of_first, 4);
  EXPECT_TRUE(hits(bpftime_json({"list"})).empty());
  // Statistics of the program are kept, as in Linux, and what the program itself has counted is complete.
  const Json shown = bpftime_json({"prog", "show", "name", "on_counters"});
  EXPECT_EQ(shown["run_cnt"], 3u * kRound);
  EXPECT_GT(shown["run_time_ns"], 0u);
  EXPECT_NE(bpftime({"prog", "show", "name", "on_counters"}).output.find(" run_cnt 12000\n"),
            std::string::npos);
}

// Counting begins and ends under load, over and over: the program's own count tells whether a call went by it.
TEST_F(Hits, NoEventIsLostWhenCountingBeginsOrEnds) {
  Child tool = load_tool({program("uprobe_stat"), "count", program("talker"), "talk"});
  Child target = talker();
  const pid_t pid = targets()[0]["pid"];
  constexpr int kRounds = 20;
  for (int i = 1; i <= kRounds; ++i) {
    ::kill(pid, SIGUSR1);
    EXPECT_EQ(bpftime({"list", "--hits", "--for", "0"}).code, 0);
    ASSERT_TRUE(target.wait_for_output("round " + std::to_string(i) + " done\n"));
  }
  EXPECT_EQ(finish_tool(tool)["calls"], kRounds * kRound);
  EXPECT_TRUE(eventually([&] { return text_differences(pid).empty(); }));
}

// The standard way: a descriptor from BPF_ENABLE_STATS, and what bpftool shows of the programs meanwhile.
TEST_F(Hits, AreWhatBpftoolShowsWhenStatisticsAreEnabled) {
  constexpr char kEnable[] = R"(
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
def enable(kind):
    attr = ctypes.create_string_buffer(kind.to_bytes(4, 'little'), 4)
    fd = libc.syscall(321, 32, attr, 4)
    return fd, ctypes.get_errno() if fd < 0 else 0
print('other kind:', enable(1)[1])
fd = enable(0)[0]
print('enabled' if fd >= 0 else 'refused', flush=True)
sys.stdin.readline() if sys.argv[1:] else __import__('time').sleep(600)
)";
  Child tool = load_tool({program("features"), "counters", program("talker"), "talk"});
  Child target = talker();
  const pid_t pid = targets()[0]["pid"];
  Child client = bpftime_child({"load", "python3", "-c", kEnable});
  ASSERT_TRUE(client.wait_for_output("enabled\n")) << client.output() << client.error();
  EXPECT_NE(client.output().find("other kind: 22\n"), std::string::npos) << "EINVAL, as the kernel";
  round(pid, target, 1);
  if (::access(kBpftool, X_OK) == 0) {
    const Finished shown = bpftime(load({kBpftool, "--json", "prog", "show", "name", "on_counters"}));
    const Json theirs = Json::parse(shown.output, nullptr, false);
    EXPECT_EQ(theirs["run_cnt"], kRound) << shown.output << shown.error;
    EXPECT_GT(theirs["run_time_ns"], 0) << shown.output;
  }
  client.signal(SIGKILL);
  client.wait();
  EXPECT_TRUE(eventually([&] { return !counting(); })) << "its death ends it, too";
}

// Programs that no target runs are counted by whoever runs them: at a clock, or because somebody asks.
TEST_F(Hits, CountProgramsOfClocksAndOnDemand) {
  constexpr char kBpftrace[] = "/usr/bin/bpftrace";
  if (::access(kBpftrace, X_OK) != 0) GTEST_SKIP() << "bpftrace is not installed";
  Child tool =
      bpftime_child({"load", kBpftrace, "-e",
                     "interval:ms:20 { @ticks = count(); if (!@told) { printf(\"ready\\n\"); @told = 1 } }"});
  ASSERT_TRUE(tool.wait_for_output("ready")) << tool.error();
  const Json before = bpftime_json({"list"});
  ASSERT_EQ(before["clocks"].size(), 1u) << before;
  EXPECT_EQ(before["clocks"][0]["period_ns"], 20'000'000);
  EXPECT_FALSE(before["clocks"][0]["programs"][0].contains("hits")) << "nobody asked";
  const std::string id = before["clocks"][0]["programs"][0]["id"].dump();
  Child counting = listing();
  const auto hits = [&] {
    return bpftime_json({"list"})["clocks"][0]["programs"][0]["hits"].get<uint64_t>();
  };
  EXPECT_TRUE(eventually([&] { return hits() >= 3; }));
  const Json shown = bpftime_json({"prog", "show", "id", id});
  EXPECT_GE(shown["run_cnt"], 3) << shown;
  EXPECT_GT(shown["run_time_ns"], 0) << shown;
  EXPECT_NE(bpftime({"list"}).output.find("clock  every 20 ms, CPU 0\n    active   prog " + id + " "),
            std::string::npos);
  const Json counted = finished(counting);
  EXPECT_GE(counted["clocks"][0]["programs"][0]["hits"], 3) << counted;
  tool.signal(SIGINT);
  tool.wait();
  EXPECT_TRUE(eventually([&] { return bpftime_json({"list"})["clocks"].empty(); }));
}

// One target with a probe that is in place, one by a trap, one that cannot be, and a program that reads where nothing is.
TEST_F(Hits, ListTellsWhatIsInPlaceHowAndWhyNot) {
  constexpr char kBpftrace[] = "/usr/bin/bpftrace";
  if (::access(kBpftrace, X_OK) != 0) GTEST_SKIP() << "bpftrace is not installed";
  const std::string source = directory() + "/host.c", host = directory() + "/host";
  std::ofstream(source) << R"(#include <stdio.h>
__attribute__((noinline)) long work(long n) { __asm__ volatile("" : "+r"(n)); return n + 3; }
__asm__(".text\n.globl tiny\n.type tiny,@function\ntiny: xor %eax,%eax\nret\n.size tiny,.-tiny\n"
        ".globl after\n.type after,@function\nafter: ret\n.size after,.-after\n"
        ".globl fixed\n.type fixed,@function\nfixed: xbegin 1f\nxend\n1: ret\n.size fixed,.-fixed\n");
long tiny(void);
int main(void) {
  int number;
  puts("ready");
  fflush(stdout);
  for (char line[100]; fgets(line, sizeof line, stdin) && sscanf(line, "%d", &number) == 1; fflush(stdout)) {
    work(number);
    tiny();
    printf("done %d\n", number);
  }
}
)";
  const Finished made = run({"cc", "-O1", "-o", host, source});
  ASSERT_EQ(made.code, 0) << made.error;
  Child tool = bpftime_child(
      {"load", kBpftrace, "-e",
       "uprobe:" + host + ":work { @a = *(uint64*)8; } uprobe:" + host +
           ":tiny { @b = count(); } uprobe:" + host +
           ":fixed { @c = count(); } interval:ms:10 { if (!@told) { printf(\"ready\\n\"); @told = 1 } }"});
  ASSERT_TRUE(tool.wait_for_output("ready")) << tool.error();
  Conversation target({program("bpftime"), "start", host}, options());
  ASSERT_TRUE(target.ready());
  target.ask("call");
  const auto probes = [&] {
    std::map<std::string, Json> out;
    for (const Json& each : targets())
      for (const Json& probe : each["probes"]) out[probe["function"]] = probe;
    return out;
  };
  auto found = probes();
  ASSERT_EQ(found.size(), 3u) << targets();
  EXPECT_EQ(found["work"]["state"], "active");
  EXPECT_FALSE(found["work"].contains("method"));
  EXPECT_EQ(found["tiny"]["state"], "active");
  EXPECT_EQ(found["tiny"]["method"], "trap") << found["tiny"];
  EXPECT_EQ(found["fixed"]["state"], "skipped");
  EXPECT_NE(found["fixed"]["reason"], "");
  {
    Child list = listing();
    target.ask("call");
    target.ask("call");
    const Json counted = finished(list);
    for (const char* name : {"work", "tiny"})
      for (const Json& probe : counted["targets"][0]["probes"])
        EXPECT_TRUE(probe["function"] != name || probe["programs"][0]["hits"] == 2) << probe;
    EXPECT_GE(counted["targets"][0]["faults"], 3) << "one each time";
  }
  const std::string text = bpftime({"list"}).output;
  EXPECT_NE(text.find(", by a trap: shorter than a jump\n"), std::string::npos) << text;
  EXPECT_NE(text.find("skipped  fixed at "), std::string::npos) << text;
  EXPECT_NE(text.find("because "), std::string::npos) << text;
  EXPECT_NE(text.find(" faults (bad pointers that read 0)"), std::string::npos) << text;
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
