#include "cli/usage.h"

#include <algorithm>
#include <charconv>

namespace bpftime::cli {
namespace {

// Edits (one letter more, less, other, or two exchanged) from one word to the other.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const size_t change = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  return cost[a.size()][b.size()];
}

std::vector<const CLI::App*> shown_verbs(const CLI::App& app) {
  auto out = app.get_subcommands([](const CLI::App*) { return true; });
  // Those without a group are hidden.
  std::erase_if(out, [](const CLI::App* each) { return each->get_group().empty(); });
  return {out.begin(), out.end()};
}

std::vector<std::string> names_of(const std::vector<const CLI::App*>& verbs) {
  std::vector<std::string> out;
  for (const CLI::App* verb : verbs) out.push_back(verb->get_name());
  return out;
}

std::vector<std::string> options_of(const CLI::App& app) {
  std::vector<std::string> out;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) out.push_back("--" + name);
    for (const std::string& name : option->get_snames()) out.push_back("-" + name);
  }
  return out;
}

// The verb, or action of a verb, that the words name, and the first word that names none.
struct Named {
  const CLI::App* app;
  std::string words;  // "map dump"
  std::string unknown;
};

Named find_named(const CLI::App& app, const std::vector<std::string>& arguments) {
  Named out{&app, "", ""};
  for (const std::string& word : arguments) {
    if (word.starts_with("-")) continue;
    const auto verbs = out.app->get_subcommands([](const CLI::App*) { return true; });
    const auto found = std::find_if(verbs.begin(), verbs.end(),
                                    [&](const CLI::App* each) { return each->get_name() == word; });
    if (found == verbs.end()) {
      if (!verbs.empty()) out.unknown = word;
      return out;
    }
    out.app = *found;
    out.words += (out.words.empty() ? "" : " ") + word;
  }
  return out;
}

std::string unknown_option(const CLI::App& app, const Named& named, const std::vector<std::string>& arguments,
                           const std::string& help) {
  auto known = options_of(*named.app);
  for (const std::string& each : options_of(app)) known.push_back(each);
  for (const std::string& argument : arguments) {
    const std::string name = argument.substr(0, argument.find('='));
    if (!name.starts_with("-") || name == "-" || name == "--") continue;
    if (std::find(known.begin(), known.end(), name) == known.end())
      return name + ": no such option" + hint(name, known, help);
  }
  return {};
}

std::string reason(const CLI::App& app, const Named& named, const std::vector<std::string>& arguments,
                   const CLI::ParseError& error, const std::string& help) {
  const auto verbs = names_of(shown_verbs(*named.app));
  if (!named.unknown.empty())
    return named.unknown + (named.app == &app ? ": no such verb" : ": no such action") +
           hint(named.unknown, verbs, help);
  if (std::string option = unknown_option(app, named, arguments, help); !option.empty()) return option;
  std::string why = error.what();
  if (!verbs.empty() && named.app != &app) {
    why = "no action named; there are ";
    for (const std::string& name : verbs) why += (&name == &verbs[0] ? "" : ", ") + name;
  } else if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    // "The following argument was not expected: more"
    const size_t colon = why.find(": ");
    why = why.substr(colon == std::string::npos ? 0 : colon + 2) + ": not expected here";
  }
  return why + "; try `" + help + "`";
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string out;
  size_t least = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& each : known) {
    const size_t edits = distance(word, each);
    // One letter is near to every other; that both are options says nothing.
    const size_t shortest = std::min(each.size(), word.size());
    if (edits >= least || edits + (word.starts_with("-") ? 2 : 0) >= shortest) continue;
    least = edits;
    out = each;
  }
  if (!out.empty() || word.size() < 2) return out;
  // Or the word was not finished.
  for (const std::string& each : known)
    if (each.starts_with(word)) return each;
  return out;
}

std::string hint(const std::string& word, const std::vector<std::string>& known, const std::string& command) {
  const std::string meant = nearest(word, known);
  return (meant.empty() ? "; try `" : "; did you mean `" + meant + "`? Or try `") + command + "`";
}

std::string usage_text(CLI::App& app, const std::vector<std::string>& arguments,
                       const CLI::ParseError& error) {
  const Named named = find_named(app, arguments);
  std::string help = named.words.empty() ? "" : named.words + " ";
  return (named.words.empty() ? "" : named.words + ": ") +
         reason(app, named, arguments, error, "bpftime " + help + "--help");
}

std::string check_pid(const std::string& text) {
  int pid = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), pid);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
  return whole && pid > 0 ? "" : text + ": no process id (`pidof` finds them by name)";
}

std::string check_word(const std::string& text) { return text.empty() ? "empty" : ""; }

}  // namespace bpftime::cli
