// bpftime manual DIRECTORY (hidden; run by the build): a man page for each verb and one for the command, made of the text that
// --help prints. There is no other source, so they cannot disagree.
#include "cli/manual.h"

#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/version.h"
#include "cli/exit_codes.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

// roff: a backslash, and a dot or quote at a line's start, mean something; minus signs are to be copied as such.
std::string escaped(const std::string& text) {
  std::string out;
  bool start = true;
  for (const char c : text) {
    if (start && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if (c == '\'') {
      out += "\\(aq";
    } else if (c == '`') {
      out += "\\(ga";
    } else if (c == '^') {
      out += "\\(ha";
    } else if (c == '~') {
      out += "\\(ti";
    } else {
      out.push_back(c);
    }
    start = c == '\n';
  }
  return out;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return 'a' <= c && c <= 'z' ? c - 32 : c; });
  return text;
}

std::string heading(const std::string& page, const std::string& what) {
  // No date: the same source is to give the same pages.
  return ".TH \"" + upper(page) + "\" 1 \"\" \"bpftime " + kVersion + "\" \"User Commands\"\n.SH NAME\n" +
         escaped(page) + " \\- " + escaped(what) + "\n";
}

std::string literal(const std::string& text) {
  return ".nf\n" + escaped(text) + (text.ends_with("\n") ? "" : "\n") + ".fi\n";
}

std::string options(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_size() == 0 ? "" : option->get_type_name();
    const std::string name = option->get_name(option->get_positional(), true);
    out += ".TP\n\\fB" + escaped(name) + "\\fR" + (type.empty() ? "" : " \\fI" + escaped(type) + "\\fR") +
           "\n" + escaped(option->get_description()) + "\n";
  }
  return out.empty() ? "" : ".SH OPTIONS\n" + out;
}

std::vector<const CLI::App*> verbs_of(const CLI::App& app) {
  auto all = app.get_subcommands([](const CLI::App* each) { return !each->get_group().empty(); });
  return {all.begin(), all.end()};
}

// Without what holds for all actions: that stands at the page's end.
std::string examples_in(const std::string& footer) {
  std::string out, line;
  for (std::istringstream lines(footer); std::getline(lines, line);)
    if (line.starts_with("  ")) out += line + "\n";
  return out;
}

std::string actions(const CLI::App& app, const std::string& title) {
  std::string out;
  for (const CLI::App* each : verbs_of(app)) {
    const std::string words = title == "ACTIONS" ? words_of(*each) : "";
    out += ".TP\n\\fB" + escaped(each->get_name()) + "\\fR" +
           (words.empty() ? "" : " \\fI" + escaped(words) + "\\fR") + "\n" +
           escaped(each->get_description()) + "\n";
    if (title == "ACTIONS") out += ".RS\n" + literal(examples_in(each->get_footer())) + ".RE\n";
  }
  return out.empty() ? "" : ".SH " + title + "\n" + out;
}

std::string synopsis(const CLI::App& app, const std::string& name) {
  std::string out = ".SH SYNOPSIS\n\\fB" + escaped(name) + "\\fR [\\fIOPTIONS\\fR]";
  if (!verbs_of(app).empty()) out += name == "bpftime" ? " \\fIVERB\\fR ..." : " \\fIACTION\\fR ...";
  for (const CLI::Option* option : app.get_options())
    if (option->get_positional()) out += " \\fI" + escaped(option->get_name(true, false)) + "\\fR";
  if (const std::string words = words_of(app); !words.empty()) out += " \\fI" + escaped(words) + "\\fR";
  return out + "\n";
}

std::string page(const CLI::App& app, const std::string& command, const std::string& name) {
  const bool top = name == "bpftime";
  std::string out = heading(name, app.get_description()) + synopsis(app, command);
  out += options(app) + actions(app, top ? "VERBS" : "ACTIONS");
  std::string footer = app.get_footer();
  if (!footer.empty()) out += ".SH \"USAGE AND EXAMPLES\"\n" + literal(footer);
  if (!top) out += ".SH \"EXIT STATUS\"\n" + literal(exit_status_text());
  out += ".SH \"SEE ALSO\"\n";
  out += top ? "\\fBbpftime help\\fR \\fIVERB\\fR; one page per verb, as \\fBbpftime\\-list\\fR(1)\n"
             : "\\fBbpftime\\fR(1)\n";
  return out;
}

bool write_page(const std::string& directory, const std::string& name, const std::string& text) {
  std::ofstream file(directory + "/" + name + ".1", std::ios::trunc);
  file << text;
  file.close();
  return !file.fail();
}

int write_manual(const CLI::App& app, const std::string& directory) {
  bool written = write_page(directory, "bpftime", page(app, "bpftime", "bpftime"));
  for (const CLI::App* verb : verbs_of(app))
    written = write_page(directory, "bpftime-" + verb->get_name(),
                         page(*verb, "bpftime " + verb->get_name(), "bpftime-" + verb->get_name())) &&
              written;
  if (written) return kOk;
  return report(Error{EIO, "manual: " + directory + ": cannot be written; try an existing directory"});
}

}  // namespace

const char* exit_status_text() {
  return "0 done, 1 failed, 2 usage, 3 no daemon, 4 refused; load, start, extend: the program's own\n"
         "(126 cannot be run, 127 not found).\n";
}

void add_manual(CLI::App& app, CommandLine& line) {
  CLI::App* verb = app.add_subcommand("manual", "");
  verb->group("");
  auto directory = std::make_shared<std::string>();
  verb->add_option("DIRECTORY", *directory)->required();
  verb->callback(
      [directory, &app, &line] { line.run = [=, &app] { return write_manual(app, *directory); }; });
}

}  // namespace bpftime::cli
