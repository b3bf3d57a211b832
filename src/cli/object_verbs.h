// What `prog`, `map` and `link` have in common: a table of actions, each a function of the words behind it.
#pragma once

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "cli/verbs.h"
#include "cli/words.h"

namespace bpftime::cli {

struct Action {
  std::string name;
  std::string words;  // what may follow, for the help
  std::string what;
  // Prints its result. Everything not read of the words is an error. An error without a message has been told already.
  std::function<Result<void>(Words& words, bool json)> run;
};

void add_object_verb(CLI::App& app, CommandLine& line, const std::string& name, const std::string& what,
                     const std::vector<Action>& actions, const std::string& examples);

// One line of JSON, as bpftool prints it.
// From here on print_json_line() breaks and indents its lines, as `bpftool --pretty`.
void indent_json();
void print_json_line(const OrderedJson& json);
// bpftool's answer to what has none: null with --json, else nothing.
void print_done(bool json);

// "0a 00 00 00": sixteen a line, a wider gap after eight.
std::string hex_text(Bytes bytes);
// ["0x0a", "0x00", …]
OrderedJson hex_json(Bytes bytes);
// A name as info structures hold it: NUL-terminated unless it fills the field.
template <size_t N>
std::string name_text(const char (&name)[N]) {
  return std::string(name, strnlen(name, N));
}

}  // namespace bpftime::cli
