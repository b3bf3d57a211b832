#include "cli/verbs.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "cli/exit_codes.h"
#include "cli/manual.h"
#include "cli/object_verbs.h"
#include "cli/usage.h"

namespace bpftime::cli {
namespace {

bool runs_a_program(const std::string& verb) { return verb == "load" || verb == "start"; }

// Options of `load` and `start` whose value may be the next word.
bool takes_a_word(const std::string& option) {
  return option == "--policy" || option == "--class" || option == "--host" || option == "--kernel-verifier";
}

bool speaks_bpftool(const std::string& verb) { return verb == "prog" || verb == "map" || verb == "link"; }

// What stands behind `map dump` is bpftool's grammar, where a name may look like a verb of ours. Options may stand anywhere.
std::vector<std::string> take_words(const std::vector<std::string>& arguments, size_t verb,
                                    std::vector<std::string>& words) {
  std::vector<std::string> own;
  size_t seen = 0;
  for (size_t i = 0; i < arguments.size(); ++i) {
    // A lone - is standard input.
    const bool option = arguments[i].starts_with("-") && arguments[i] != "-";
    seen += i >= verb && !option;
    (option || seen <= 2 ? own : words).push_back(arguments[i]);
  }
  return own;
}

// Cuts the program and its arguments off the command line: they belong to that program, whatever they look
// like. Returns what is ours to parse.
std::vector<std::string> take_program(const std::vector<std::string>& arguments,
                                      std::vector<std::string>& program) {
  size_t verb = 0;
  while (verb < arguments.size() && arguments[verb].starts_with("-")) ++verb;
  if (verb < arguments.size() && speaks_bpftool(arguments[verb])) return take_words(arguments, verb, program);
  // What a shell asks about is not parsed.
  if (verb < arguments.size() && arguments[verb] == "complete") {
    const auto first = arguments.begin() + static_cast<ptrdiff_t>(verb) + 1;
    program.assign(first != arguments.end() && *first == "--" ? first + 1 : first, arguments.end());
    return {arguments.begin(), first};
  }
  // Of `extend` everything before a lone -- is ours.
  const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
  if (verb < arguments.size() && arguments[verb] == "extend" && dashes != arguments.end()) {
    program.assign(dashes + 1, arguments.end());
    return {arguments.begin(), dashes};
  }
  if (verb == arguments.size() || !runs_a_program(arguments[verb])) return arguments;
  size_t first = verb + 1;
  while (first < arguments.size() && arguments[first].starts_with("-") && arguments[first] != "--")
    first += takes_a_word(arguments[first]) ? 2 : 1;
  first = std::min(first, arguments.size());
  const auto own_end = arguments.begin() + static_cast<ptrdiff_t>(first);
  if (first < arguments.size() && arguments[first] == "--") ++first;
  program.assign(arguments.begin() + static_cast<ptrdiff_t>(first), arguments.end());
  return {arguments.begin(), own_end};
}

// As CLI11's, but with the words that it does not parse.
class HelpText : public CLI::Formatter {
 public:
  std::map<const CLI::App*, std::string> words;

  std::string make_usage(const CLI::App* app, std::string name) const override {
    std::string out = CLI::Formatter::make_usage(app, std::move(name));
    const auto known = words.find(app);
    if (known == words.end()) return out;
    out.erase(out.find_last_not_of('\n') + 1);
    return out + " " + known->second + "\n";
  }
};

HelpText& help_of(const CLI::App& app) { return dynamic_cast<HelpText&>(*app.get_formatter()); }

bool asks_for_json(const std::vector<std::string>& own) {
  const bool has_other_p = std::find(own.begin(), own.end(), "trace") != own.end();
  return std::any_of(own.begin(), own.end(), [&](const std::string& word) {
    return word == "--json" || word == "-j" || word == "--pretty" || word == "-jp" ||
           (word == "-p" && !has_other_p);
  });
}

// Where errors go as JSON: where the answer would, unless that is the output of a program we run.
std::FILE* json_errors(const std::vector<std::string>& own, const CommandLine& line) {
  const auto verb =
      std::find_if(own.begin(), own.end(), [](const std::string& word) { return !word.starts_with("-"); });
  if (verb == own.end()) return stdout;
  return runs_a_program(*verb) || (*verb == "extend" && !line.program.empty()) ? stderr : stdout;
}

const CLI::App* find_verb(CLI::App& app, const std::string& name) {
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (verb->get_name() == name) return verb;
  }
  return nullptr;
}

}  // namespace

CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples) {
  CLI::App* verb = app.add_subcommand(name, what);
  verb->fallthrough();  // --json may stand behind the verb
  if (!examples.empty()) verb->footer("Examples:\n" + examples);
  return verb;
}

void takes_words(CLI::App& verb, const std::string& words) { help_of(verb).words[&verb] = words; }

std::string words_of(const CLI::App& verb) {
  const auto& words = help_of(verb).words;
  const auto known = words.find(&verb);
  return known == words.end() ? "" : known->second;
}

int run(int argc, char** argv) {
  CommandLine line;
  CLI::App app("eBPF tools, unmodified, in userspace", "bpftime");
  app.formatter(std::make_shared<HelpText>());  // verbs inherit it
  app.set_version_flag("-V,--version", version_text(), "Print the version and exit");
  app.footer(std::string("Exit status: ") + exit_status_text() + "`bpftime VERB --help` has examples.");
  app.add_flag("-j,--json", line.json, "Print JSON");
  const auto pretty = [&line] {
    line.json = true;
    indent_json();
  };
  app.add_flag_callback("-p,--pretty", pretty, "Print JSON, always indented");
  app.require_subcommand(0, 1);
  add_load(app, line);
  add_start(app, line);
  add_extend(app, line);
  add_attach(app, line);
  add_list(app, line);
  add_prog(app, line);
  add_map(app, line);
  add_link(app, line);
  add_trace(app, line);
  add_verify(app, line);
  add_doctor(app, line);
  add_eim(app, line);
  add_daemon(app, line);
  add_completion(app, line);
  add_version(app, line);
  add_manual(app, line);
  // Once a verb is parsed, CLI11's help() speaks of that verb: the overview is made before.
  std::string topic, overview;
  CLI::App* help = add_verb(app, "help", "Say what the verbs do", "  bpftime help load\n");
  help->add_option("VERB", topic, "The verb to explain");
  help->callback([&] {
    line.run = [&] {
      if (topic.empty()) {
        std::fputs(overview.c_str(), stdout);
        return static_cast<int>(kOk);
      }
      const CLI::App* about = find_verb(app, topic);
      if (about == nullptr) {
        std::vector<std::string> verbs;
        for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
          if (!verb->get_group().empty()) verbs.push_back(verb->get_name());
        return static_cast<int>(
            report_usage("help: " + topic + ": no such verb" + hint(topic, verbs, "bpftime help")));
      }
      std::fputs(about->help("bpftime").c_str(), stdout);
      return static_cast<int>(kOk);
    };
  });

  overview = app.help();
  std::vector<std::string> own = take_program({argv + 1, argv + argc}, line.program);
  if (asks_for_json(own)) report_as_json(json_errors(own, line));
  std::vector<std::string> reversed(own.rbegin(), own.rend());  // the order CLI11 takes a vector in
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    return app.exit(CLI::CallForHelp());
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return report_usage(usage_text(app, own, error));
  }
  if (!line.run) {
    std::fputs(app.help().c_str(), own.empty() ? stderr : stdout);
    return own.empty() ? kUsage : kOk;
  }
  int status = kFailure;
  try {
    status = line.run();
  } catch (const std::exception& error) {  // fmt's and the JSON library's; nothing of ours throws
    report(Error{EIO, (own.empty() ? "" : own[0]) + ": unexpected: " + error.what()});
  }
  // Output that could not be written (a full disk, a closed pipe) is a failure, too.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::fprintf(stderr, "bpftime: %s: standard output: cannot be written; see whether its disk is full\n",
                 own[0].c_str());
    if (status == kOk) return kFailure;
  }
  return status;
}

}  // namespace bpftime::cli
