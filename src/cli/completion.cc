// bpftime completion bash|zsh|fish: scripts for the shells. They hold no list of ours: every TAB asks the hidden command
// `bpftime complete`, so new verbs, options and the daemon's present ids are there at once.
#include <dirent.h>
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <set>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/object_verbs.h"
#include "cli/trace_stream.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

// A word that could come next. "FILE" as a word of its own means: names of files, which the shell knows itself.
struct Candidate {
  std::string word, meaning;
};
using Candidates = std::vector<Candidate>;
constexpr char kFiles[] = "FILE";

// Source of what the shells load, the same for every installation.
constexpr char kBash[] = R"(# bpftime: completion for bash. Use: source <(bpftime completion bash)
_bpftime() {
  local word files= line
  COMPREPLY=()
  word=${COMP_WORDS[COMP_CWORD]}
  while IFS= read -r line; do
    line=${line%%$'\t'*}
    if [[ $line == FILE ]]; then files=1; else COMPREPLY+=("$line"); fi
  done < <("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -c -- "$word"; compgen -f -- "$word")
  fi
}
complete -F _bpftime bpftime
)";

constexpr char kZsh[] = R"(#compdef bpftime
# bpftime: completion for zsh. Use: source <(bpftime completion zsh), or as _bpftime in a directory of $fpath
_bpftime() {
  local -a found
  local line files=
  while IFS= read -r line; do
    if [[ $line == FILE* ]]; then
      files=1
    else
      found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    fi
  done < <("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
  (( $#found )) && _describe bpftime found
  [[ -n $files ]] && _files
}
if [[ $funcstack[1] == _bpftime ]]; then _bpftime "$@"; elif (( $+functions[compdef] )); then compdef _bpftime bpftime; fi
)";

constexpr char kFish[] = R"(# bpftime: completion for fish. Use: bpftime completion fish | source
function __bpftime_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] complete -- $words[2..-1] 2>/dev/null)
        if string match -q 'FILE*' -- $line
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c bpftime -f -a '(__bpftime_complete)'
)";

// ---- what the daemon knows; nothing when none runs: completing must neither start one nor wait ----

Candidates objects(ObjectType type, bool names) {
  Candidates out;
  if (!open_bpf_door_if_running()) return out;
  auto found = select_all(type);
  if (!found) return out;
  for (const Selected& each : *found) {
    std::string name, kind;
    if (type == ObjectType::kMap) {
      auto info = map_info(each.fd);
      if (!info) continue;
      name = name_text(info->name);
      kind = map_type_word(info->type);
    } else if (type == ObjectType::kProgram) {
      auto program = program_info(each.fd);
      if (!program) continue;
      name = name_text(program->info.name);
      kind = program_type_word(program->info.type);
    } else {
      auto link = link_info(each.fd);
      if (!link) continue;
      kind = link_type_word(link->info.type) + " of program " + std::to_string(link->info.prog_id);
    }
    if (names && !name.empty()) out.push_back({name, kind + " " + std::to_string(each.id)});
    if (!names) out.push_back({std::to_string(each.id), kind + (name.empty() ? "" : " " + name)});
  }
  return out;
}

Candidates targets() {
  Candidates out;
  auto directory = find_runtime_directory();
  if (!directory) return out;
  auto connection = Connection::to_running(*directory);
  if (!connection) return out;
  auto answer = connection->command(Json{{"command", "list"}});
  if (!answer || !answer->contains("targets")) return out;
  for (const Json& target : (*answer)["targets"])
    out.push_back({std::to_string(target.value("pid", 0)), target.value("name", "")});
  return out;
}

// Processes this user could enter.
Candidates processes() {
  Candidates out;
  std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  while (const dirent* entry = proc ? ::readdir(proc.get()) : nullptr) {
    const std::string pid = entry->d_name;
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (::access(("/proc/" + pid + "/exe").c_str(), R_OK) != 0)
      continue;  // kernel threads, others' processes
    std::FILE* file = std::fopen(("/proc/" + pid + "/comm").c_str(), "re");
    if (file == nullptr) continue;
    char name[32] = {};
    const bool read = std::fgets(name, sizeof name, file) != nullptr;
    std::fclose(file);
    if (read) out.push_back({pid, std::string(name, strcspn(name, "\n"))});
  }
  return out;
}

// ---- the command line so far ----

void add_options(const CLI::App& app, Candidates& out) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames())
      out.push_back({"--" + name, option->get_description().substr(0, option->get_description().find('\n'))});
  }
}

void add_verbs(const CLI::App& app, Candidates& out) {
  for (const CLI::App* verb :
       app.get_subcommands([](const CLI::App* each) { return !each->get_name().empty(); }))
    if (!verb->get_group().empty()) out.push_back({verb->get_name(), verb->get_description()});
}

// The words of bpftool's grammar behind `prog|map|link ACTION`. `last` is what the one before the unfinished word was.
Candidates selector(const std::string& object, const std::string& action,
                    const std::vector<std::string>& words) {
  const ObjectType type = object == "prog"  ? ObjectType::kProgram
                          : object == "map" ? ObjectType::kMap
                                            : ObjectType::kLink;
  const std::string last = words.empty() ? "" : words.back();
  if (last == "id") return objects(type, false);
  if (last == "name")
    return type == ObjectType::kLink || action == "create" ? Candidates() : objects(type, true);
  static const std::set<std::string> kBeforeFiles = {"pinned",   "file",   "data_in",
                                                     "data_out", "ctx_in", "ctx_out"};
  if (kBeforeFiles.contains(last)) return {{kFiles, ""}};
  if (action == "create") {
    if (words.empty()) return {{kFiles, ""}};
    Candidates out;
    if (last != "type")
      return {{"type", ""}, {"key", ""},   {"value", ""},    {"entries", ""},
              {"name", ""}, {"flags", ""}, {"inner_map", ""}};
    for (uint32_t i = 1; i < 64; ++i)
      if (const std::string word = map_type_word(i); word.find(' ') == std::string::npos)
        out.push_back({word, ""});
    return out;
  }
  const bool dump = object == "prog" && action == "dump";
  if (words.empty() || (dump && words.size() == 1 && (last == "xlated" || last == "jited"))) {
    Candidates out = objects(type, false);
    if (dump && words.empty()) out.insert(out.end(), {{"xlated", "instructions"}, {"jited", "machine code"}});
    out.insert(out.end(), {{"id", "by its number"}, {"pinned", "by its path"}});
    if (type != ObjectType::kLink) out.push_back({"name", "by its name"});
    if (type == ObjectType::kProgram) out.push_back({"tag", "by its tag"});
    return out;
  }
  if (dump) return {{"file", "write it there"}, {"opcodes", "with bytes"}, {"linum", "with line numbers"}};
  if (action == "pin") return {{kFiles, ""}};
  if (action == "run")
    return {{"data_in", ""}, {"data_out", ""}, {"ctx_in", ""}, {"ctx_out", ""}, {"repeat", ""}};
  if (action == "event_pipe") return {{"cpu", ""}, {"index", ""}};
  if (object == "map" && action != "show" && action != "list" && action != "dump")
    return {{"key", ""}, {"value", ""}, {"hex", ""}, {"any", ""}, {"exist", ""}, {"noexist", ""}};
  return {};
}

const CLI::App* find_in(const CLI::App& app, const std::string& name) {
  for (const CLI::App* each : app.get_subcommands([](const CLI::App*) { return true; }))
    if (each->get_name() == name) return each;
  return nullptr;
}

// What a verb's own words may be, when it has no words of its own.
Candidates arguments_of(const std::string& verb, const CLI::App& app, const std::vector<std::string>& words) {
  if (verb == "attach") return processes();
  if (verb == "detach") return targets();
  if (verb == "load" || verb == "start" || verb == "extend" || verb == "verify" || verb == "eim")
    return {{kFiles, ""}};
  if (verb == "trace" && !words.empty() && (words.back() == "--pid" || words.back() == "-p"))
    return targets();
  if (verb == "completion" && words.empty()) return {{"bash", ""}, {"zsh", ""}, {"fish", ""}};
  Candidates out;
  if (verb == "help" && words.empty()) add_verbs(app, out);
  return out;
}

// `given`: all words behind the command's name, the last of them unfinished (maybe empty).
Candidates complete(const CLI::App& app, const std::vector<std::string>& given) {
  const std::string current = given.empty() ? "" : given.back();
  std::vector<std::string> path;  // words before it that are no options
  for (size_t i = 0; i + 1 < given.size(); ++i)
    if (!given[i].starts_with("-")) path.push_back(given[i]);
  Candidates out;
  const CLI::App* verb = path.empty() ? nullptr : find_in(app, path[0]);
  if (path.empty()) add_verbs(app, out);
  if (!path.empty() && verb == nullptr) return out;
  const CLI::App* action = verb != nullptr && path.size() > 1 ? find_in(*verb, path[1]) : nullptr;
  if (current.starts_with("-")) {
    add_options(app, out);
    if (verb != nullptr) add_options(*verb, out);
    if (action != nullptr) add_options(*action, out);
  } else if (verb != nullptr) {
    const bool bpftool = path[0] == "prog" || path[0] == "map" || path[0] == "link";
    if (path.size() == 1) add_verbs(*verb, out);
    if (bpftool && action != nullptr) {
      out = selector(path[0], path[1], {path.begin() + 2, path.end()});
    } else if (!bpftool && (out.empty() || action != nullptr)) {
      // An option's value is the last word, even where the option itself was left out of `path`.
      std::vector<std::string> words(path.begin() + 1, path.end());
      if (given.size() > 1 && given[given.size() - 2].starts_with("-"))
        words.push_back(given[given.size() - 2]);
      out = arguments_of(path[0], app, words);
    }
  }
  std::erase_if(
      out, [&](const Candidate& each) { return each.word != kFiles && !each.word.starts_with(current); });
  return out;
}

int print_script(const std::string& shell) {
  const char* script = shell == "bash" ? kBash : shell == "zsh" ? kZsh : kFish;
  std::fputs(script, stdout);
  return kOk;
}

}  // namespace

void add_completion(CLI::App& app, CommandLine& line) {
  CLI::App* verb =
      add_verb(app, "completion", "Print a shell's completion: bash, zsh or fish",
               "  source <(bpftime completion bash)       in ~/.bashrc\n"
               "  source <(bpftime completion zsh)        in ~/.zshrc, after compinit\n"
               "  bpftime completion fish | source        in ~/.config/fish/config.fish\n"
               "Ids, names and processes are asked for at each TAB; without a daemon there are none.\n");
  auto shell = std::make_shared<std::string>();
  verb->add_option("SHELL", *shell, "Which one")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->callback([shell, &line] { line.run = [shell] { return print_script(*shell); }; });

  // Not for people: one candidate a line, a tabulator, what it means.
  CLI::App* hidden = app.add_subcommand("complete", "");
  hidden->group("");
  hidden->callback([&app, &line] {
    line.run = [&app, &line]() -> int {
      for (const Candidate& each : complete(app, line.program))
        fmt::print("{}\t{}\n", printable(each.word), printable(each.meaning));
      return kOk;
    };
  });
}

}  // namespace bpftime::cli
