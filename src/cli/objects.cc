// bpftime prog|map|link show|dump: the objects, in the grammar and look of bpftool.
#include <fmt/core.h>

#include <charconv>
#include <memory>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

struct Selection {
  std::vector<std::string> words;
};

// [entries|xlated|jited] [id] N, as bpftool takes them. EINVAL for anything else.
Result<Json> parse_words(const std::string& object, const std::vector<std::string>& words) {
  Json out = Json::object();
  const auto wrong = [&](const std::string& word) {
    return Error{EINVAL,
                 object + ": " + word + ": expected [id] NUMBER; try `bpftime " + object + " --help`"};
  };
  size_t at = 0;
  if (at < words.size() && (words[at] == "xlated" || words[at] == "jited" || words[at] == "entries")) {
    out["what"] = words[at++];
  }
  if (at < words.size() && words[at] == "id" && ++at == words.size()) return wrong("id");
  if (at < words.size()) {
    uint32_t id = 0;
    const char* end = words[at].data() + words[at].size();
    const auto parsed = std::from_chars(words[at].data(), end, id);
    if (parsed.ec != std::errc() || parsed.ptr != end) return wrong(words[at]);
    out["id"] = id;
    ++at;
  }
  if (at < words.size()) return wrong(words[at]);
  return out;
}

int show_or_dump(const std::string& command, const std::string& object, const std::vector<std::string>& words,
                 bool json) {
  auto request = parse_words(object, words);
  if (!request) {
    report(request.error());
    return kUsage;
  }
  if (command == "dump" && !request->contains("id")) {
    fmt::print(stderr, "bpftime: {} dump: which one? try `bpftime {} show`\n", object, object);
    return kUsage;
  }
  (*request)["command"] = command;
  (*request)["object"] = object;
  if (command == "dump" && !request->contains("what"))
    (*request)["what"] = object == "prog" ? "xlated" : "entries";
  auto answer = ask_daemon(*request);
  if (!answer) return report(answer.error());
  if (json) {
    print_json(*answer);
  } else {
    fmt::print("{}", command == "show" ? show_text(object, *answer) : dump_text(*answer));
  }
  return kOk;
}

void add_action(CLI::App& object, CommandLine& line, const std::string& action, const std::string& command,
                const std::string& what, const std::string& arguments) {
  CLI::App* verb = object.add_subcommand(action, what);
  verb->fallthrough();
  auto selection = std::make_shared<Selection>();
  verb->add_option(arguments, selection->words, "Which one");
  const std::string name = object.get_name();
  verb->callback([=, &line] {
    line.run = [=, &line] { return show_or_dump(command, name, selection->words, line.json); };
  });
}

void add_object(CLI::App& app, CommandLine& line, const std::string& name, const std::string& what,
                bool can_dump, const std::string& examples) {
  CLI::App* object = add_verb(app, name, what, examples);
  object->require_subcommand(1);
  add_action(*object, line, "show", "show", "Show all, or one", "[id] N");
  add_action(*object, line, "list", "show", "The same as show", "[id] N");
  if (can_dump) add_action(*object, line, "dump", "dump", "Print what it holds", "[what] [id] N");
}

}  // namespace

void add_objects(CLI::App& app, CommandLine& line) {
  add_object(app, line, "prog", "Programs: show, dump", true,
             "  bpftime prog show\n  bpftime prog dump xlated id 3\n  bpftime prog dump jited id 3\n");
  add_object(app, line, "map", "Maps: show, dump", true, "  bpftime map show\n  bpftime map dump id 2\n");
  add_object(app, line, "link", "Links: show", false, "  bpftime link show\n  bpftime link show id 1\n");
}

}  // namespace bpftime::cli
