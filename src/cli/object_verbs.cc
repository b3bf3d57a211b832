#include "cli/object_verbs.h"

#include <fmt/core.h>

#include <algorithm>

#include "cli/exit_codes.h"

namespace bpftime::cli {
namespace {

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

}  // namespace

void add_object_verb(CLI::App& app, CommandLine& line, const std::string& name, const std::string& what,
                     const std::vector<Action>& actions, const std::string& examples) {
  std::string grammar;
  for (const Action& action : actions)
    grammar +=
        "  bpftime " + name + " " + action.name + (action.words.empty() ? "" : " ") + action.words + "\n";
  CLI::App* object = add_verb(app, name, what, examples);
  object->footer("Usage of each:\n" + grammar + "\nExamples:\n" + examples);
  object->require_subcommand(1);
  for (const Action& action : actions) {
    CLI::App* verb = object->add_subcommand(action.name, action.what);
    verb->fallthrough();
    verb->footer("Usage:\n  bpftime " + name + " " + action.name + " " + action.words);
    verb->callback(
        [=, &line] { line.run = [=, &line] { return run_action(name, action, line.program, line.json); }; });
  }
}

void print_json_line(const OrderedJson& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
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
