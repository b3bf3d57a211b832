// What a command line that makes no sense is answered: the word at fault, why, and the nearest that would have been right.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace bpftime::cli {

// The one of `known` that `word` was likely meant to be; "" when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);
// The end of a message: "; did you mean `WORD`? Or try `COMMAND`", or only "; try `COMMAND`" when nothing is near.
std::string hint(const std::string& word, const std::vector<std::string>& known, const std::string& command);

// "map: dmp: no such action; did you mean `dump`? Or try `bpftime map --help`". `arguments` are what `app` refused with `error`.
std::string usage_text(CLI::App& app, const std::vector<std::string>& arguments,
                       const CLI::ParseError& error);

// Refuses what is no process id, in words.
std::string check_pid(const std::string& text);
// Refuses "": a script's variable that is not set must not mean that the option was not given.
std::string check_word(const std::string& text);

}  // namespace bpftime::cli
