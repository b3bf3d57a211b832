// The command as users run it: the real binary, in a folder with a daemon that only speaks the protocol.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <thread>

#include "cli/testing/run_command.h"
#include "wire/abi.h"

namespace bpftime::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::Test;
using Json = nlohmann::json;
using testing::CommandRun;
using testing::Outcome;
using testing::run_command;

class CliTest : public Test {
 protected:
  void SetUp() override {
    const char* bin = std::getenv("BPFTIME_BIN_DIR");
    if (bin == nullptr) GTEST_SKIP() << "BPFTIME_BIN_DIR is not set: run by ctest";
    char name[] = "/tmp/bpftime-cli-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    base_ = name;
    bpftime_ = base_ + "/bpftime";
    fs::copy_file(std::string(bin) + "/bpftime", bpftime_);
    fs::copy_file(std::string(bin) + "/cli_fake_daemon", base_ + "/bpftimed");
    // Harmless libraries in the places of ours: what is tested is that they are preloaded.
    for (const char* library : {"loader", "agent"}) {
      fs::copy_file("/lib/x86_64-linux-gnu/libutil.so.1", base_ + "/libbpftime-" + library + ".so");
    }
  }
  void TearDown() override {
    if (base_.empty()) return;
    bpftime({"daemon", "stop"});
    fs::remove_all(base_);
  }
  CommandRun command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), bpftime_);
    return CommandRun{arguments, {{"BPFTIME_RUNTIME_DIR", base_ + "/run"}, {"LD_PRELOAD", ""}}};
  }
  Outcome bpftime(const std::vector<std::string>& arguments) { return run_command(command(arguments)); }
  std::string script(const std::string& name, const std::string& text, int mode = 0755) {
    const std::string path = base_ + "/" + name;
    std::ofstream(path) << text;
    ::chmod(path.c_str(), static_cast<mode_t>(mode));
    return path;
  }
  std::string base_, bpftime_;
};

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
#define EXPECT_LACKS(text, part) EXPECT_EQ((text).find(part), std::string::npos) << (text)

// The names below "Subcommands:" in a help text.
std::vector<std::string> subcommands_in(const std::string& help) {
  std::vector<std::string> out;
  std::istringstream lines(help.substr(std::min(help.find("\nSubcommands:\n"), help.size())));
  std::string line;
  std::getline(lines, line), std::getline(lines, line);
  while (std::getline(lines, line) && line.starts_with("  "))
    if (line[2] != ' ') out.push_back(line.substr(2, line.find(' ', 2) - 2));
  return out;
}

TEST_F(CliTest, EveryVerbAndActionHasHelpWithExamples) {
  const auto verbs = subcommands_in(bpftime({"help"}).out);
  EXPECT_GE(verbs.size(), 17u);
  size_t actions = 0;
  const auto expect_examples = [&](const std::string& words, const Outcome& help) {
    EXPECT_EQ(help.exit_code(), 0) << words;
    EXPECT_EQ(help.err, "") << words;
    const size_t examples = help.out.find("\nExamples:\n");
    ASSERT_NE(examples, std::string::npos) << words << "\n" << help.out;
    // `map list` and `map show` are one.
    const std::string shown = words.ends_with(" list") ? words.substr(0, words.size() - 4) + "show" : words;
    const std::string text =
        std::regex_replace(help.out.substr(examples), std::regex("bpftime --json "), "bpftime ");
    EXPECT_HAS(text, "\n  bpftime " + shown) << words;
  };
  for (const std::string& verb : verbs) {
    const Outcome help = bpftime({verb, "--help"});
    expect_examples(verb, help);
    EXPECT_EQ(bpftime({"help", verb}).exit_code(), 0) << verb;
    for (const std::string& action : subcommands_in(help.out)) {
      ++actions;
      expect_examples(verb + " " + action, bpftime({verb, action, "--help"}));
    }
  }
  EXPECT_GE(actions, 30u) << "prog, map, link, eim and daemon have actions";
  EXPECT_FALSE(fs::exists(base_ + "/run/starts")) << "help started a daemon";
}

TEST_F(CliTest, WordsThatAreNearlyRightAreNamed) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"lod", "x"}, "bpftime: lod: no such verb; did you mean `load`? Or try `bpftime --help`"},
      {{"doct"}, "did you mean `doctor`?"},
      {{"help", "lst"}, "did you mean `list`?"},
      {{"map", "dmp", "id", "1"},
       "map: dmp: no such action; did you mean `dump`? Or try `bpftime map --help`"},
      {{"daemon", "restrat"}, "did you mean `restart`?"},
      {{"eim", "manifst"}, "did you mean `manifest`?"},
      {{"list", "--hit"}, "list: --hit: no such option; did you mean `--hits`?"},
      {{"list", "--jsn"}, "did you mean `--json`?"},
      {{"load", "--polcy=x", "true"}, "did you mean `--policy`?"},
      {{"verify", "--explain", "NUL01"}, "did you mean `NUL001`?"},
      {{"map", "create", "/sys/fs/bpf/x", "type", "hsh"}, "did you mean `hash`?"},
      {{"map", "create", "/sys/fs/bpf/x", "typ", "hash"}, "did you mean `type`?"},
      {{"map", "show", "nam", "x"}, "did you mean `name`?"},
      {{"attach", "nginx"}, "attach: PID: nginx: no process id"},
      {{"trace", "--pid", "x"}, "x: no process id"},
      {{"daemon"}, "daemon: no action named; there are status, "},
      {{"list", "more"}, "list: more: not expected here; try `bpftime list --help`"},
  };
  for (const auto& [arguments, expected] : cases) {
    const Outcome outcome = bpftime(arguments);
    EXPECT_NE(outcome.exit_code(), 0) << expected;
    EXPECT_TRUE(outcome.err.starts_with("bpftime: ")) << outcome.err;
    EXPECT_HAS(outcome.err, expected);
    EXPECT_HAS(outcome.err, "try `bpftime") << "no next step";
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_LACKS(bpftime({"frobnicate"}).err, "did you mean");
  EXPECT_LACKS(bpftime({"list", "-x"}).err, "did you mean");
}

TEST_F(CliTest, OutputThatCannotBeWrittenIsAFailure) {
  const Outcome full =
      run_command(CommandRun{{"sh", "-c", bpftime_ + " help > /dev/full"}, command({}).environment});
  EXPECT_EQ(full.exit_code(), 1);
  EXPECT_HAS(full.err, "cannot be written");
  // Who reads no further is not told.
  const Outcome pipe = run_command(CommandRun{
      {"bash", "-c", bpftime_ + " help | head -1; echo ${PIPESTATUS[1]}"}, command({}).environment});
  EXPECT_EQ(pipe.err, "");
  EXPECT_HAS(pipe.out, "\n0\n");
}

TEST_F(CliTest, NonsenseIsUsage) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"frobnicate"},
                                             {"attach"},
                                             {"attach", "x"},
                                             {"attach", "-5"},
                                             {"load"},
                                             {"start"},
                                             {"start", "--nope", "true"},
                                             {"eim"},
                                             {"map", "dump"},
                                             {"map", "show", "id"},
                                             {"map", "show", "id", "9z"},
                                             {"daemon", "dance"},
                                             {"list", "more"}}) {
    const Outcome outcome = bpftime(arguments);
    EXPECT_EQ(outcome.exit_code(), 2) << ::testing::PrintToString(arguments);
    EXPECT_FALSE(outcome.err.empty());
    EXPECT_TRUE(outcome.out.empty()) << outcome.out;
  }
}

TEST_F(CliTest, LoadReplacesItselfWithThePreloadedProgram) {
  CommandRun run =
      command({"load", "--kernel-verifier=off", "env", "-u", "NOTHING"});  // -u is env's own option
  run.environment["LD_PRELOAD"] = "/lib/x86_64-linux-gnu/libdl.so.2";
  const Outcome outcome = run_command(run);
  ASSERT_EQ(outcome.exit_code(), 0) << outcome.err;
  EXPECT_HAS(outcome.out, "LD_PRELOAD=" + base_ + "/libbpftime-loader.so:/lib/x86_64-linux-gnu/libdl.so.2\n");
  EXPECT_HAS(outcome.out, "BPFTIME_SOCKET=" + base_ + "/run/daemon.sock\n");
  EXPECT_HAS(outcome.out, "BPFTIME_KERNEL_VERIFIER=off\n");
  CommandRun inherited = command({"load", "env"});
  inherited.environment["BPFTIME_KERNEL_VERIFIER"] = "off";
  EXPECT_LACKS(run_command(inherited).out, "BPFTIME_KERNEL_VERIFIER");
}

TEST_F(CliTest, ProgramsOwnOptionsAreItsOwn) {
  for (const char* verb : {"load", "start"}) {
    const Outcome outcome = bpftime({verb, "echo", "-c", "--help", "--json", "list", "--", "-v"});
    EXPECT_EQ(outcome.exit_code(), 0);
    EXPECT_EQ(outcome.out, "-c --help --json list -- -v\n");
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(bpftime({verb, "--", "echo", "x"}).out, "x\n");
  }
}

TEST_F(CliTest, ExitStatusAndSignalsAreThePrograms) {
  const Outcome exits = bpftime({"load", "sh", "-c", "exit 42"});
  EXPECT_EQ(exits.exit_code(), 42);
  const Outcome dies = bpftime({"start", "sh", "-c", "kill -TERM $$"});
  ASSERT_TRUE(WIFSIGNALED(dies.status));
  EXPECT_EQ(WTERMSIG(dies.status), SIGTERM);
}

TEST_F(CliTest, MissingAndNonExecutablePrograms) {
  script("plain", "echo no\n", 0644);
  script("orphan", "#!/no/such/shell\n");
  script("headless", "no magic at all\n");
  for (const char* verb : {"load", "start"}) {
    EXPECT_EQ(bpftime({verb, "no-such-program-anywhere"}).exit_code(), 127);
    EXPECT_EQ(bpftime({verb, base_ + "/none"}).exit_code(), 127);
    EXPECT_EQ(bpftime({verb, ""}).exit_code(), 127);
    const Outcome plain = bpftime({verb, base_ + "/plain"});
    EXPECT_EQ(plain.exit_code(), 126);
    EXPECT_HAS(plain.err, base_ + "/plain");
    EXPECT_EQ(bpftime({verb, base_}).exit_code(), 126);
    const Outcome orphan = bpftime({verb, base_ + "/orphan"});
    EXPECT_EQ(orphan.exit_code(), 126);
    EXPECT_HAS(orphan.err, "/no/such/shell");
  }
  EXPECT_EQ(bpftime({"start", base_ + "/headless"}).exit_code(), 126);
}

TEST_F(CliTest, StaticProgramsStartWithoutUsAndAreToolsUnderASupervisor) {
  if (::access("/sbin/ldconfig", X_OK) != 0) GTEST_SKIP() << "/sbin/ldconfig, a static program, is not here";
  const Outcome started = bpftime({"start", "/sbin/ldconfig", "--version"});
  EXPECT_EQ(started.exit_code(), 0);
  EXPECT_HAS(started.err, "statically linked");
  EXPECT_HAS(started.out, "ldconfig");
  const Outcome loaded = bpftime({"load", "/sbin/ldconfig", "--version"});
  EXPECT_EQ(loaded.exit_code(), 0);
  EXPECT_EQ(loaded.err, "");
  EXPECT_EQ(loaded.out, started.out);
}

TEST_F(CliTest, SetuidProgramsRunWithoutUs) {
  fs::copy_file("/bin/echo", base_ + "/setuid-echo");
  ASSERT_EQ(::chmod((base_ + "/setuid-echo").c_str(), 04755), 0);
  const Outcome outcome = bpftime({"start", base_ + "/setuid-echo", "ran"});
  EXPECT_EQ(outcome.exit_code(), 0);
  EXPECT_EQ(outcome.out, "ran\n");
  EXPECT_HAS(outcome.err, "setuid");
}

TEST_F(CliTest, ScriptsAreJudgedByTheirInterpreter) {
  const std::string good = script("good", "#!/bin/sh\necho \"$LD_PRELOAD\"\n");
  const Outcome outcome = bpftime({"start", good});
  EXPECT_EQ(outcome.out, base_ + "/libbpftime-agent.so\n");
  EXPECT_EQ(outcome.err, "");
  if (::access("/sbin/ldconfig", X_OK) != 0) GTEST_SKIP() << "/sbin/ldconfig, a static program, is not here";
  EXPECT_HAS(bpftime({"start", script("bad", "#! /sbin/ldconfig --version\n")}).err, "statically linked");
}

TEST_F(CliTest, StartRunsTheProgramWhateverIsWrongWithUs) {
  fs::remove(base_ + "/bpftimed");
  const Outcome without_daemon = bpftime({"start", "echo", "alive"});
  EXPECT_EQ(without_daemon.exit_code(), 0);
  EXPECT_EQ(without_daemon.out, "alive\n");
  EXPECT_HAS(without_daemon.err, "bpftimed");
  EXPECT_EQ(bpftime({"load", "echo", "dead"}).exit_code(), 3);

  script("bpftimed", "#!/bin/sh\necho 'no room in here' >&2\nexit 1\n");
  const Outcome dying = bpftime({"start", "echo", "alive"});
  EXPECT_EQ(dying.out, "alive\n");
  EXPECT_HAS(dying.err, "no room in here");

  fs::remove(base_ + "/libbpftime-agent.so");
  EXPECT_EQ(bpftime({"start", "echo", "alive"}).out, "alive\n");
  ASSERT_EQ(::chmod((base_ + "/run").c_str(), 0755), 0);
  const Outcome open = bpftime({"list"});
  EXPECT_EQ(open.exit_code(), 4);
  EXPECT_HAS(open.err, "0755");
}

TEST_F(CliTest, ManyCommandsAtOnceStartOneDaemon) {
  std::vector<std::thread> threads;
  std::vector<int> codes(8, -1);
  for (size_t i = 0; i < codes.size(); ++i) {
    threads.emplace_back([&, i] { codes[i] = bpftime({"list"}).exit_code(); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(codes, std::vector<int>(8, 0));
  std::ifstream starts(base_ + "/run/starts");
  int count = 0;
  for (std::string line; std::getline(starts, line);) ++count;
  EXPECT_EQ(count, 1);
}

TEST_F(CliTest, DaemonIsNobodysChildAndHoldsNothingOfTheCaller) {
  // With the pipe inherited, this command would not end before the daemon does.
  const Outcome outcome =
      run_command(CommandRun{{"sh", "-c", bpftime_ + " list | cat; echo done"}, command({}).environment});
  EXPECT_HAS(outcome.out, "done\n");
  EXPECT_EQ(outcome.exit_code(), 0);
}

TEST_F(CliTest, DaemonStatusStopRestart) {
  const Outcome none = bpftime({"daemon", "status"});
  EXPECT_EQ(none.exit_code(), 3);
  EXPECT_FALSE(fs::exists(base_ + "/run/starts")) << "asking started it";
  EXPECT_EQ(bpftime({"daemon", "start"}).exit_code(), 0);
  const Json first = Json::parse(bpftime({"daemon", "status", "--json"}).out);
  const Json second = Json::parse(bpftime({"--json", "daemon", "restart"}).out);
  EXPECT_NE(first.at("worker_pid"), second.at("worker_pid"));
  EXPECT_EQ(bpftime({"daemon", "stop"}).out, "stopped\n");
  EXPECT_EQ(bpftime({"daemon", "stop"}).out, "no daemon was running\n");
}

TEST_F(CliTest, ADaemonOfAnotherVersionIsNamedAndReplaced) {
  const std::string other = std::to_string(wire::kAbiVersion + 1);
  CommandRun old = command({"daemon", "start"});
  old.environment["FAKE_DAEMON_VERSION"] = other;
  const Outcome started = run_command(old);
  EXPECT_NE(started.exit_code(), 0) << "what came up is not what this command can talk to";
  const Outcome listed = bpftime({"list"});
  EXPECT_NE(listed.exit_code(), 0);
  EXPECT_HAS(listed.err, "it speaks version " + other);
  EXPECT_HAS(listed.err, "try `bpftime daemon restart`");
  const Outcome restarted = bpftime({"daemon", "restart"});
  EXPECT_EQ(restarted.exit_code(), 0) << restarted.err;
  EXPECT_HAS(restarted.err, "of version " + other);
  EXPECT_EQ(bpftime({"list"}).exit_code(), 0);
  // Stopped, too.
  bpftime({"daemon", "stop"});
  run_command(old);
  EXPECT_EQ(bpftime({"daemon", "stop"}).out, "stopped\n");
  EXPECT_EQ(bpftime({"daemon", "stop"}).out, "no daemon was running\n");
}

TEST_F(CliTest, ListsTargetsProbesAndReasons) {
  const Outcome text = bpftime({"list"});
  EXPECT_EQ(text.exit_code(), 0) << text.err;
  EXPECT_HAS(text.out, "target 10 (nginx), forked from 9\n");
  EXPECT_HAS(text.out, "serve at /usr/sbin/nginx+0x1000");
  EXPECT_HAS(text.out, "because shorter than a jump");
  EXPECT_HAS(text.out, "clock  every 1000 ms\n    active   prog 5 tick [perf_event]  hits 7\n");
  EXPECT_HAS(text.out, "tool   7 (malloc)\n");
  EXPECT_EQ(Json::parse(bpftime({"list", "--json"}).out).at("targets").at(0).at("pid"), 10);
}

// What they show is compared with bpftool's by e2e_bpftool_test; here, what they do with a daemon's refusal.
TEST_F(CliTest, ObjectVerbsPassErrorsOn) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"map", "show"}, {"map"}, {"prog"}, {"link", "show"}, {"map", "dump", "id", "2"}}) {
    const Outcome outcome = bpftime(arguments);
    EXPECT_EQ(outcome.exit_code(), 4) << outcome.err;
    EXPECT_HAS(outcome.err, "Operation not permitted");
    EXPECT_TRUE(outcome.out.empty());
  }
  EXPECT_EQ(bpftime({"prog", "show", "name"}).exit_code(), 2);
  EXPECT_EQ(bpftime({"map", "create", "/sys/fs/bpf/x", "type", "no_such_type"}).exit_code(), 1);
}

// With --json an error is an object where the answer would be; where a program of the user's has standard output, on stderr.
TEST_F(CliTest, ErrorsAreJsonWhenAsked) {
  const std::pair<std::vector<std::string>, int> cases[] = {
      {{"map", "show"}, EPERM},
      {{"map", "dump"}, EINVAL},
      {{"prog", "dump", "xlated", "id", "1"}, EPERM},
      {{"frobnicate"}, EINVAL},
      {{"list", "--nonsense"}, EINVAL},
      {{"attach", "x"}, EINVAL},
      {{"daemon"}, EINVAL},
      {{"verify"}, EINVAL},
      {{"verify", "--explain", "NUL01"}, EINVAL},
      {{"eim", "manifest", "/none"}, ENOENT},
      {{"eim", "header", "/none"}, ENOENT},
      {{"eim", "explain", "some", "--policy", "/none"}, ENOENT},
      {{"extend", "/none", "--pid", "1"}, ENOENT},
      {{"help", "lst"}, EINVAL},
  };
  for (const auto& [arguments, code] : cases)
    for (const bool behind : {false, true}) {
      std::vector<std::string> asked = arguments;
      asked.insert(behind ? asked.end() : asked.begin(), "--json");
      const Outcome outcome = bpftime(asked);
      EXPECT_NE(outcome.exit_code(), 0) << ::testing::PrintToString(asked);
      EXPECT_EQ(outcome.err, "") << ::testing::PrintToString(asked);
      const Json error = Json::parse(outcome.out, nullptr, false);
      ASSERT_TRUE(error.is_object()) << ::testing::PrintToString(asked) << outcome.out;
      EXPECT_EQ(error["errno"], code) << error;
      EXPECT_EQ(outcome.exit_code(), bpftime(arguments).exit_code()) << error;
    }
  for (const char* verb : {"load", "start"}) {
    const Outcome none = bpftime({"--json", verb, base_ + "/none"});
    EXPECT_EQ(none.exit_code(), 127);
    EXPECT_EQ(none.out, "");
    EXPECT_EQ(Json::parse(none.err, nullptr, false)["errno"], ENOENT) << none.err;
  }
  const Json unread = Json::parse(bpftime({"--json", "verify", "/none"}).out, nullptr, false);
  EXPECT_EQ(unread["objects"][0]["errno"], ENOENT) << unread;
}

TEST_F(CliTest, VersionAsOption) {
  const Outcome version = bpftime({"--version"});
  EXPECT_EQ(version.exit_code(), 0);
  EXPECT_EQ(version.out, bpftime({"version"}).out);
  EXPECT_EQ(bpftime({"-V"}).out, version.out);
}

// Whatever is asked, completion never starts a daemon and never fails.
TEST_F(CliTest, CompletionWithoutADaemon) {
  const Outcome verbs = bpftime({"complete", "--", "d"});
  EXPECT_EQ(verbs.exit_code(), 0);
  EXPECT_HAS(verbs.out, "detach\t");
  EXPECT_HAS(verbs.out, "doctor\t");
  EXPECT_LACKS(verbs.out, "load");
  EXPECT_LACKS(bpftime({"complete", "--", ""}).out, "complete");
  EXPECT_HAS(bpftime({"complete", "--", "map", "d"}).out, "dump\t");
  EXPECT_HAS(bpftime({"complete", "--", "trace", "--no"}).out, "--no-follow\t");
  EXPECT_HAS(bpftime({"complete", "--", "load", ""}).out, "FILE");
  EXPECT_HAS(bpftime({"complete", "--", "attach", std::to_string(::getpid())}).out,
             std::to_string(::getpid()));
  EXPECT_EQ(bpftime({"complete", "--", "map", "dump", "id", ""}).out, "");
  EXPECT_EQ(bpftime({"complete", "--", "detach", ""}).out, "");
  for (const std::vector<std::string>& odd :
       std::vector<std::vector<std::string>>{{"complete"},
                                             {"complete", "--"},
                                             {"complete", "--", "nonsense", ""},
                                             {"complete", "--", "-", "--", ""}})
    EXPECT_EQ(bpftime(odd).exit_code(), 0) << ::testing::PrintToString(odd);
  EXPECT_FALSE(fs::exists(base_ + "/run/starts")) << "completing started a daemon";
}

TEST_F(CliTest, ShellsCompleteWithTheScripts) {
  const auto shell = [&](const std::string& name, const std::string& script) {
    CommandRun run = command({});
    run.arguments = {name, "-c", "PATH=" + base_ + ":$PATH; " + script};
    return run_command(run);
  };
  const Outcome bash = shell("bash", R"(source <(bpftime completion bash)
    complete -p bpftime
    COMP_WORDS=(bpftime ma); COMP_CWORD=1; _bpftime; echo "one: ${COMPREPLY[*]}"
    COMP_WORDS=(bpftime map loo); COMP_CWORD=2; _bpftime; echo "two: ${COMPREPLY[*]}")");
  EXPECT_EQ(bash.exit_code(), 0) << bash.err;
  EXPECT_HAS(bash.out, "complete -F _bpftime bpftime\none: map\ntwo: lookup\n");
  EXPECT_EQ(bash.err, "");
  EXPECT_EQ(bpftime({"completion", "tcsh"}).exit_code(), 2);
  if (::access("/usr/bin/fish", X_OK) == 0) {
    const Outcome fish = run_command([&] {
      CommandRun run = command({});
      run.arguments = {
          "fish", "-c",
          "set PATH " + base_ + " $PATH; bpftime completion fish | source; complete -C 'bpftime map loo'"};
      run.environment["HOME"] = base_;
      return run;
    }());
    EXPECT_HAS(fish.out, "lookup\t") << fish.err;
  } else {
    std::cerr << "note: fish is not installed: its script was not run\n";
  }
  if (::access("/usr/bin/zsh", X_OK) != 0) GTEST_SKIP() << "zsh is not installed: its script was not run";
  const Outcome zsh = shell("zsh", R"(autoload -U compinit; compinit -u -D; source <(bpftime completion zsh)
    print "for: $_comps[bpftime]"
    _describe() { print -l -- "${(@P)2}" }; words=(bpftime map loo); CURRENT=3; _bpftime)");
  EXPECT_HAS(zsh.out, "for: _bpftime\n") << zsh.err;
  EXPECT_HAS(zsh.out, "lookup:Print one entry\n") << zsh.err;
}

TEST_F(CliTest, WhatIsInstalledIsFoundByTheShells) {
  const std::string prefix = base_ + "/prefix", share = prefix + "/share";
  const auto command_of = [&](std::vector<std::string> arguments) {
    CommandRun run = command({});
    run.arguments = std::move(arguments);
    run.environment["HOME"] = base_;
    run.environment["PATH"] = base_ + ":" + std::getenv("PATH");
    return run_command(run);
  };
  if (command_of({"sh", "-c", "command -v cmake"}).exit_code() != 0) GTEST_SKIP() << "cmake is not on PATH";
  const Outcome installed =
      command_of({"cmake", "--install", std::string(std::getenv("BPFTIME_BIN_DIR")) + "/..", "--component",
                  "shell", "--prefix", prefix});
  ASSERT_EQ(installed.exit_code(), 0) << installed.err << installed.out;
  EXPECT_TRUE(fs::exists(share + "/man/man1/bpftime-list.1"));
  EXPECT_HAS(command_of({"bash", "-c",
                         "source " + share +
                             "/bash-completion/completions/bpftime; COMP_WORDS=(bpftime ma); "
                             "COMP_CWORD=1; _bpftime; echo \"found: ${COMPREPLY[*]}\""})
                 .out,
             "found: map\n");
  if (::access("/usr/bin/zsh", X_OK) == 0) {
    EXPECT_HAS(command_of({"zsh", "-f", "-c",
                           "fpath=(" + share +
                               "/zsh/site-functions $fpath); autoload -U compinit; "
                               "compinit -u -D; print \"for: $_comps[bpftime]\""})
                   .out,
               "for: _bpftime\n");
  } else {
    std::cerr << "note: zsh is not installed\n";
  }
  if (::access("/usr/bin/fish", X_OK) != 0) GTEST_SKIP() << "fish is not installed";
  EXPECT_HAS(command_of({"fish", "-c",
                         "set fish_complete_path " + share +
                             "/fish/vendor_completions.d; "
                             "complete -C 'bpftime map loo'"})
                 .out,
             "lookup\t");
}

TEST_F(CliTest, ManPagesAreMadeOfTheHelpAndRenderWithoutWarnings) {
  const std::string pages = base_ + "/man";
  fs::create_directory(pages);
  ASSERT_EQ(bpftime({"manual", pages}).exit_code(), 0);
  EXPECT_TRUE(fs::exists(pages + "/bpftime.1"));
  for (const char* verb : {"load", "start", "extend", "attach", "detach", "list", "prog", "map", "link",
                           "trace", "eim", "verify", "doctor", "daemon", "completion", "version", "help"})
    EXPECT_TRUE(fs::exists(pages + "/bpftime-" + verb + ".1")) << verb;
  EXPECT_FALSE(fs::exists(pages + "/bpftime-complete.1")) << "a hidden verb has a page";
  EXPECT_NE(bpftime({"manual", base_ + "/none"}).exit_code(), 0);
  std::ifstream load(pages + "/bpftime-load.1");
  const std::string page(std::istreambuf_iterator<char>(load), {});
  EXPECT_HAS(page, "\\fBbpftime load\\fR [\\fIOPTIONS\\fR] \\fIPROGRAM [ARGUMENTS...]\\fR");
  if (::access("/usr/bin/groff", X_OK) != 0) GTEST_SKIP() << "groff is not installed: pages are not rendered";
  for (const auto& entry : fs::directory_iterator(pages)) {
    CommandRun run = command({});
    run.arguments = {"groff", "-ww", "-man", "-Tutf8", "-K", "utf8", entry.path().string()};
    const Outcome rendered = run_command(run);
    EXPECT_EQ(rendered.exit_code(), 0);
    EXPECT_EQ(rendered.err, "") << entry.path();
    EXPECT_GT(rendered.out.size(), 200u) << entry.path();
  }
}

TEST_F(CliTest, DoctorNamesEachThing) {
  const Outcome outcome = bpftime({"doctor", "--json"});
  // The folder holds other libraries in the places of ours, so some may be missing; each is named all the same.
  const Json report = Json::parse(outcome.out);
  EXPECT_EQ(outcome.exit_code(), report.at("works").get<bool>() ? 0 : 1);
  std::string names;
  for (const Json& check : report.at("checks")) {
    names += check.at("name").get<std::string>() + "|";
    if (check.at("state") != "ok") {
      EXPECT_NE(check.at("consequence"), "") << check;
    }
  }
  for (const char* name : {"ptrace", "seccomp", "tracefs", "kernel BTF", "LLVM", "agent", "memlock",
                           "membarrier", "rseq", "clock", "clang", "bpf(2)", "memfd"})
    EXPECT_HAS(names, name);
  fs::remove(base_ + "/libbpftime-agent.so");
  const Outcome without = bpftime({"doctor"});
  EXPECT_EQ(without.exit_code(), 1);
  EXPECT_HAS(without.out, "missing  agent");
  EXPECT_HAS(without.out, "start and attach cannot place probes");
}

// Things are taken away from the command, one at a time: what it says of each, and that it says the rest as before.
class Doctor : public CliTest {
 protected:
  // What it finds when it runs at the end of `wrapper` ("env", "X=1").
  std::map<std::string, Json> examined(std::vector<std::string> wrapper) {
    CommandRun run = command({"doctor", "--json"});
    run.arguments.insert(run.arguments.begin(), wrapper.begin(), wrapper.end());
    const Outcome outcome = run_command(run);
    std::map<std::string, Json> out;
    const Json report = Json::parse(outcome.out, nullptr, false);
    EXPECT_FALSE(report.is_discarded()) << ::testing::PrintToString(wrapper) << outcome.out << outcome.err;
    if (report.is_discarded()) return out;
    for (const Json& check : report["checks"]) out[check["name"]] = check;
    return out;
  }
  // A command's prefix under which these system calls answer EPERM.
  static std::vector<std::string> without_calls(const std::string& numbers) {
    static const char kPython[] = R"(
import ctypes, os, struct, sys
calls = [int(n) for n in sys.argv[1].split(',')]
code = [(0x20, 0, 0, 0)]                                  # the number
for i, n in enumerate(calls): code.append((0x15, len(calls) - i, 0, n))
code += [(6, 0, 0, 0x7fff0000), (6, 0, 0, 0x00050001)]    # allow; EPERM
text = b''.join(struct.pack('HBBI', *each) for each in code)
buffer = ctypes.create_string_buffer(text)
class Filter(ctypes.Structure): _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Filter(len(code), ctypes.addressof(buffer)))):
    sys.exit('no filter: ' + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
)";
    return {"python3", "-c", kPython, numbers};
  }
  static std::string number(long call) { return std::to_string(call); }
};

TEST_F(Doctor, NamesWhatASandboxForbids) {
  const auto whole = examined({"env"});
  ASSERT_TRUE(whole.contains("memfd"));
  const std::map<std::string, std::pair<std::string, long>> forbidden = {
      {"ptrace", {"neither start nor attach can place probes", SYS_ptrace}},
      {"bpf(2)", {"verified by bpftime alone", SYS_bpf}},
      {"memfd", {"maps cannot be created", SYS_memfd_create}},
      {"membarrier", {"patching relies on ptrace stops", SYS_membarrier}},
  };
  for (const auto& [name, what] : forbidden) {
    auto found = examined(without_calls(number(what.second)));
    ASSERT_TRUE(found.contains(name)) << "doctor did not get to its end without " << name;
    EXPECT_NE(found[name]["state"], "ok") << name;
    EXPECT_HAS(found[name]["consequence"].get<std::string>(), what.first);
    EXPECT_EQ(found["seccomp"]["state"], "limited");
    for (const auto& [other, finding] : whole)
      if (other != name && other != "seccomp") {
        EXPECT_EQ(found[other]["state"], finding["state"]) << other << " without " << name;
      }
  }
}

TEST_F(Doctor, NamesAMissingDirectory) {
  CommandRun run = command({"doctor"});
  run.environment["BPFTIME_RUNTIME_DIR"] = "/proc/none/here";
  const Outcome outcome = run_command(run);
  EXPECT_EQ(outcome.exit_code(), 1);
  EXPECT_HAS(outcome.out, "missing  runtime directory");
  EXPECT_HAS(outcome.out, "no daemon can be started or reached");
  EXPECT_HAS(outcome.out, "ok       system") << "the rest is told all the same";
}

TEST_F(Doctor, NamesWhatIsMissingWithoutTheKernelsTypes) {
  const std::vector<std::string> hidden = {
      "unshare", "-rm", "sh", "-c", "mount -t tmpfs none /sys/kernel && exec \"$@\"", "sh"};
  CommandRun trial = command({});
  trial.arguments = hidden;
  trial.arguments.push_back("true");
  if (run_command(trial).exit_code() != 0) GTEST_SKIP() << "no mount namespaces here";
  auto found = examined(hidden);
  EXPECT_EQ(found["kernel BTF"]["state"], "limited");
  EXPECT_HAS(found["kernel BTF"]["consequence"].get<std::string>(), "CO-RE");
  EXPECT_EQ(found["tracefs"]["state"], "ok") << "tools see ours";
  EXPECT_HAS(found["tracefs"]["found"].get<std::string>(), "not readable");
}

TEST_F(Doctor, NamesWhatAUserLacks) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody else";
  ASSERT_EQ(::chmod(base_.c_str(), 0755), 0);
  CommandRun run = command({"doctor", "--json"});
  const std::vector<std::string> wrapper = {"setpriv", "--reuid", "65534",
                                            "--regid", "65534",   "--clear-groups"};
  run.arguments.insert(run.arguments.begin(), wrapper.begin(), wrapper.end());
  run.environment["BPFTIME_RUNTIME_DIR"] = "";  // the user's own
  const Outcome outcome = run_command(run);
  const Json report = Json::parse(outcome.out, nullptr, false);
  ASSERT_FALSE(report.is_discarded()) << outcome.out << outcome.err;
  std::map<std::string, Json> found;
  for (const Json& check : report["checks"]) found[check["name"]] = check;
  EXPECT_HAS(found["user"]["found"].get<std::string>(), "65534: this user's processes");
  EXPECT_EQ(found["bpf(2)"]["state"], "limited");
  EXPECT_HAS(found["bpf(2)"]["consequence"].get<std::string>(), "everything works");
  EXPECT_HAS(found["runtime directory"]["found"].get<std::string>(), "65534");
}

TEST_F(CliTest, AttachGoesOnAfterAnError) {
  const Outcome outcome = bpftime({"attach", "1", "4711"});
  EXPECT_EQ(outcome.exit_code(), 4);
  EXPECT_HAS(outcome.err, "bpftime: attach: 1: is not yours; try root\n");
  EXPECT_HAS(outcome.out, "attached 4711 (victim): 0 probes\n");
  EXPECT_EQ(bpftime({"detach", "4711"}).exit_code(), 0);
  const Outcome as_json = bpftime({"attach", "--json", "1", "4711"});
  EXPECT_EQ(as_json.err, "") << "it stands with its process";
  const Json json = Json::parse(as_json.out);
  EXPECT_EQ(json.at(0).at("errno"), EPERM);
  EXPECT_FALSE(json.at(1).contains("error"));
}

TEST_F(CliTest, TraceLinesCannotDriveTheTerminal) {
  const Outcome outcome = bpftime({"trace", "--no-follow", "--pid", "5"});
  EXPECT_EQ(outcome.exit_code(), 0);
  EXPECT_EQ(outcome.out, "           victim-5     [000] ..... 12345.678901: bpf_trace_printk: hit 5?[2J\n");
  const Json json = Json::parse(bpftime({"trace", "--no-follow", "--pid", "5", "--json"}).out);
  EXPECT_EQ(json.at("message"), "hit 5\x1b[2J");
}

// What takes long says so where somebody sits, and leaves nothing behind.
TEST_F(CliTest, WaitingAtATerminalIsExplained) {
  CommandRun slow = command({"attach", "4712"});
  slow.environment["TERM"] = "xterm";
  EXPECT_EQ(run_command(slow).err, "") << "no terminal";
  slow.terminal = true;
  const Outcome outcome = run_command(slow);
  EXPECT_EQ(outcome.exit_code(), 0);
  EXPECT_EQ(outcome.out, "attached 4712 (victim): 0 probes\n");
  EXPECT_HAS(outcome.err, "bpftime: process 4712: placing probes: 3 of 40");
  EXPECT_TRUE(outcome.err.ends_with("\033[K")) << "it is erased: " << outcome.err;
  EXPECT_LACKS(outcome.err, "\n");
  slow.environment["TERM"] = "dumb";
  EXPECT_EQ(run_command(slow).err, "");
  slow.environment["TERM"] = "xterm";
  slow.arguments.push_back("--json");
  EXPECT_EQ(run_command(slow).err, "");
}

TEST_F(CliTest, StartAtATerminalShowsTheProgramsLines) {
  CommandRun run = command({"start", "sh", "-c", "echo mine; exit 7"});
  run.terminal = true;
  const Outcome outcome = run_command(run);
  EXPECT_EQ(outcome.exit_code(), 7);
  EXPECT_EQ(outcome.out, "mine\n");
  EXPECT_HAS(outcome.err, "hit ");
  EXPECT_LACKS(outcome.err, "bpf_trace_printk");
  CommandRun quiet = command({"start", "--quiet", "true"});
  quiet.terminal = true;
  EXPECT_EQ(run_command(quiet).err, "");
}

TEST_F(CliTest, StartAtATerminalPassesSignalsOnAndEndsAlike) {
  CommandRun run =
      command({"start", "sh", "-c", "trap 'exit 9' USR1; echo ready >&2; while :; do sleep 0.05; done"});
  run.terminal = true;
  run.signal = SIGUSR1;
  run.signal_after = "ready";
  EXPECT_EQ(run_command(run).exit_code(), 9);
  run.arguments.back() = "echo ready >&2; exec sleep 30";
  run.signal = SIGTERM;
  const Outcome killed = run_command(run);
  ASSERT_TRUE(WIFSIGNALED(killed.status)) << killed.status;
  EXPECT_EQ(WTERMSIG(killed.status), SIGTERM);
}

}  // namespace
}  // namespace bpftime::cli
