// The verbs of the command, one file each. add_…() declares a verb; the one the user
// named sets CommandLine::run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace bpftime::cli {

struct CommandLine {
  bool json = false;
  // load, start, extend: everything from the program's name on, untouched. Never parsed by us. prog, map, link: the words
  // behind the action, in bpftool's grammar.
  std::vector<std::string> program;
  std::function<int()> run;  // returns the exit status
};

void add_load(CLI::App& app, CommandLine& line);
void add_start(CLI::App& app, CommandLine& line);
void add_extend(CLI::App& app, CommandLine& line);  // and what it runs itself
void add_attach(CLI::App& app, CommandLine& line);  // attach and detach
void add_list(CLI::App& app, CommandLine& line);
void add_prog(CLI::App& app, CommandLine& line);
void add_map(CLI::App& app, CommandLine& line);
void add_link(CLI::App& app, CommandLine& line);
void add_completion(CLI::App& app, CommandLine& line);  // and the hidden command the scripts ask
void add_manual(CLI::App& app, CommandLine& line);      // hidden: writes the man pages
void add_trace(CLI::App& app, CommandLine& line);
void add_doctor(CLI::App& app, CommandLine& line);
void add_eim(CLI::App& app, CommandLine& line);
void add_daemon(CLI::App& app, CommandLine& line);
void add_verify(CLI::App& app, CommandLine& line);
void add_version(CLI::App& app, CommandLine& line);
std::string version_text();

// Declares a verb with its help's closing examples.
CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples);

// What stands behind a verb's name and its options where CLI11 does not parse it, for help and man pages: "MAP FILE".
inline constexpr char kProgramWords[] = "PROGRAM [ARGUMENTS...]";
void takes_words(CLI::App& verb, const std::string& words);
std::string words_of(const CLI::App& verb);

// Parses the command line and runs the verb. The whole of main.
int run(int argc, char** argv);

}  // namespace bpftime::cli
