#include "cli/object_verbs.h"

#include <fmt/core.h>

#include <algorithm>

#include "cli/exit_codes.h"

namespace bpftime::cli {
namespace {

int json_indent = -1;  // none

int run_action(const std::string& object, const Action& action, const std::vector<std::string>& given,
               bool json) {
  Words words(object + " " + action.name, given);
  auto opened = open_bpf_door();
  if (!opened) return report(opened.error());
  auto done = action.run(words, json);
  if (done) return kOk;
  if (done.error().message.empty()) return kFailure;
  const int status = report(done.error());
  return words.misused() ? static_cast<int>(kUsage) : status;
}

// Of a verb's examples those of one action, and what is said of its words; `list` has those of `show`.
std::string examples_of(const std::string& action, const std::string& examples) {
  std::string out;
  size_t mine = 0;
  for (size_t at = 0; at < examples.size();) {
    const size_t end = std::min(examples.find('\n', at), examples.size() - 1) + 1;
    const std::string line = examples.substr(at, end - at);
    const bool is_mine =
        line.starts_with("  bpftime " + action + " ") || line == "  bpftime " + action + "\n";
    mine += is_mine ? 1 : 0;
    if (is_mine || !line.starts_with("  ")) out += line;
    at = end;
  }
  if (mine == 0 && action.ends_with(" list"))
    return examples_of(action.substr(0, action.size() - 4) + "show", examples);
  return out;
}

}  // namespace

void add_object_verb(CLI::App& app, CommandLine& line, const std::string& name, const std::string& what,
                     const std::vector<Action>& actions, const std::string& examples) {
  std::string grammar;
  for (const Action& action : actions)
    grammar +=
        "  bpftime " + name + " " + action.name + (action.words.empty() ? "" : " ") + action.words + "\n";
  // As bpftool: the verb alone shows all.
  CLI::App* object = add_verb(app, name, what, "");
  object->footer("Usage of each:\n" + grammar + "\nExamples:\n" + examples);
  object->require_subcommand(0, 1);
  const Action& first = actions.front();
  object->callback([=, &line] {
    if (object->get_subcommands().empty())
      line.run = [=, &line] { return run_action(name, first, {}, line.json); };
  });
  for (const Action& action : actions) {
    CLI::App* verb = object->add_subcommand(action.name, action.what);
    verb->fallthrough();
    if (!action.words.empty()) takes_words(*verb, action.words);
    verb->footer("Examples:\n" + examples_of(name + " " + action.name, examples));
    verb->callback(
        [=, &line] { line.run = [=, &line] { return run_action(name, action, line.program, line.json); }; });
  }
}

void indent_json() { json_indent = 4; }

void print_json_line(const OrderedJson& json) {
  fmt::print("{}\n", json.dump(json_indent, ' ', false, OrderedJson::error_handler_t::replace));
}

void print_done(bool json) {
  if (json) print_json_line(nullptr);
}

std::string hex_text(Bytes bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i != 0) out += i % 16 == 0 ? "\n" : i % 8 == 0 ? "  " : " ";
    out += fmt::format("{:02x}", bytes[i]);
  }
  return out;
}

OrderedJson hex_json(Bytes bytes) {
  OrderedJson out = OrderedJson::array();
  for (const uint8_t byte : bytes) out.push_back(fmt::format("0x{:02x}", byte));
  return out;
}

}  // namespace bpftime::cli
