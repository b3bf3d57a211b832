// docs/support-matrix.md against the code's own tables: helpers, map types, bpf(2) commands, verbs.
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "helpers/table.h"
#include "maps/map.h"
#include "maps/types.h"

namespace bpftime {
namespace {

std::string source_path(const std::string& path) {
  const char* root = std::getenv("BPFTIME_SOURCE_DIR");
  return std::string(root != nullptr ? root : ".") + "/" + path;
}

std::string read_text(const std::string& path) {
  std::ifstream file(source_path(path));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

constexpr const char* kMatrix = "docs/support-matrix.md";

using Row = std::vector<std::string>;

// The table's rows under "## heading", cells trimmed, backticks removed.
std::vector<Row> table(const std::string& heading) {
  std::istringstream text(read_text(kMatrix));
  std::vector<Row> rows;
  bool inside = false;
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("## ")) inside = line == "## " + heading;
    if (!inside || !line.starts_with("|")) continue;
    Row row;
    std::istringstream cells(line.substr(1));
    for (std::string cell; std::getline(cells, cell, '|');) {
      std::erase(cell, '`');
      const size_t begin = cell.find_first_not_of(' ');
      row.push_back(begin == std::string::npos ? ""
                                               : cell.substr(begin, cell.find_last_not_of(' ') - begin + 1));
    }
    rows.push_back(row);
  }
  if (rows.size() > 2) rows.erase(rows.begin(), rows.begin() + 2);
  return rows;
}

bool is_state(const std::string& text) {
  return text == "supported" || text == "differs" || text == "not yet" || text == "kernel only";
}

bool is_there(const std::string& state) { return state == "supported" || state == "differs"; }

constexpr const char* kHowToWrite =
    "; `BPFTIME_WRITE_MATRIX=1 ctest --test-dir build/dev -R support_matrix_test` writes the rows anew";

std::string upper_case(std::string text) {
  for (char& letter : text) letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  return text;
}

std::string row_text(uint32_t number, const std::string& name, std::string_view differs,
                     std::string_view remark) {
  const char* state = differs.empty() ? "supported" : "differs";
  return "| " + std::to_string(number) + " | `" + name + "` | " + state + " | " +
         std::string(differs.empty() ? remark : differs) + " |";
}

// The document with `rows` in the table under `heading`, in the place of rows with the same number.
std::string with_rows(const std::string& text, const std::string& heading,
                      std::map<uint32_t, std::string> rows) {
  std::istringstream lines(text);
  std::string out;
  bool inside = false, in_rows = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("## ")) inside = line == "## " + heading;
    const bool row =
        inside && line.starts_with("| ") && std::isdigit(static_cast<unsigned char>(line[2])) != 0;
    const uint32_t number = row ? static_cast<uint32_t>(std::stoul(line.substr(2))) : UINT32_MAX;
    // Rows before this one that are not there yet, and at the end of the table those behind its last.
    while ((row || in_rows) && !rows.empty() && rows.begin()->first < number) {
      out += rows.begin()->second + "\n";
      rows.erase(rows.begin());
    }
    in_rows = row;
    const auto ours = row ? rows.find(number) : rows.end();
    out += (ours != rows.end() ? ours->second : line) + "\n";
    if (ours != rows.end()) rows.erase(ours);
  }
  return out;
}

// First of all tests: writes what the code's own tables say, when asked to.
TEST(SupportMatrix, IsWrittenFromTheTablesWhenAsked) {
  if (std::getenv("BPFTIME_WRITE_MATRIX") == nullptr) return;
  std::map<uint32_t, std::string> types, calls;
  for (const uint32_t type : maps::kMapTypes) {
    const maps::MapTypeFacts facts = maps::type_facts(type);
    types[type] = row_text(type, "BPF_MAP_TYPE_" + upper_case(facts.name), facts.differs, facts.remark);
  }
  for (const helpers::Helper& helper : helpers::all())
    calls[helper.id] = row_text(helper.id, std::string(helper.name), helper.differs, "");
  const std::string text = with_rows(with_rows(read_text(kMatrix), "Maps", types), "Helpers", calls);
  std::ofstream(source_path(kMatrix)) << text;
}

TEST(SupportMatrix, EveryRowHasAStateAndDifferencesAreExplained) {
  for (const char* heading : {"Attach types", "Maps", "Helpers", "bpf(2) commands", "Commands of bpftime",
                              "Programs and machines"}) {
    const auto rows = table(heading);
    EXPECT_GE(rows.size(), 4u) << heading;
    for (const Row& row : rows) {
      const size_t at = row.size() - 2;
      ASSERT_GE(row.size(), 3u) << heading;
      EXPECT_TRUE(is_state(row[at])) << heading << ": " << row[0] << ": " << row[at];
      if (row[at] != "supported") {
        EXPECT_FALSE(row[at + 1].empty()) << heading << ": " << row[0] << ": how, or what clients are told?";
      }
    }
  }
}

TEST(SupportMatrix, HelpersAreTheTables) {
  std::map<uint32_t, Row> listed;
  for (const Row& row : table("Helpers")) listed[static_cast<uint32_t>(std::stoul(row[0]))] = row;
  for (const helpers::Helper& helper : helpers::all()) {
    ASSERT_TRUE(listed.count(helper.id)) << helper.name << " is not in the matrix" << kHowToWrite;
    const Row& row = listed[helper.id];
    EXPECT_EQ(row[1], helper.name);
    EXPECT_EQ(row[2], helper.differs.empty() ? "supported" : "differs") << helper.name;
    std::string differs(helper.differs);
    std::erase(differs, '`');
    EXPECT_EQ(row[3], differs) << helper.name << kHowToWrite;
    listed.erase(helper.id);
  }
  for (const auto& [id, row] : listed)
    EXPECT_FALSE(is_there(row[2])) << row[1] << " is in the matrix, but not in the code";
}

TEST(SupportMatrix, MapTypesAreTheTables) {
  std::map<uint32_t, Row> listed;
  for (const Row& row : table("Maps")) listed[static_cast<uint32_t>(std::stoul(row[0]))] = row;
  for (const uint32_t type : maps::kMapTypes) {
    ASSERT_TRUE(listed.count(type)) << "map type " << type << " is not in the matrix" << kHowToWrite;
    const maps::MapTypeFacts facts = maps::type_facts(type);
    const bool differs = *facts.differs != 0;
    const Row expected = {std::to_string(type), "BPF_MAP_TYPE_" + upper_case(facts.name),
                          differs ? "differs" : "supported", differs ? facts.differs : facts.remark};
    EXPECT_EQ(listed[type], expected) << kHowToWrite;
    EXPECT_EQ(maps::check_spec(maps::example_spec(type, 2)), 0) << "map type " << type << ": its kExample";
    listed.erase(type);
  }
  for (const auto& [type, row] : listed) {
    EXPECT_FALSE(is_there(row[2])) << row[1] << " is in the matrix, but not in the code";
    EXPECT_NE(maps::check_spec({type, 4, 8, 16, 0, 2}), 0) << row[1];
  }
}

TEST(SupportMatrix, BpfCommandsAreThoseTheCodeAnswers) {
  const std::string daemon = read_text("src/kernel/kernel.cc");
  const std::string loader = read_text("src/loader/map_commands.cc") +
                             read_text("src/loader/map_batches.cc") + read_text("src/loader/bpf_call.cc");
  std::set<std::string> listed;
  for (const Row& row : table("bpf(2) commands")) {
    if (!is_there(row[1])) {
      EXPECT_EQ(daemon.find("case " + row[0] + ":"), std::string::npos)
          << row[0] << " is answered, the matrix says " << row[1];
      continue;
    }
    listed.insert(row[0]);
    EXPECT_TRUE((daemon + loader).find(row[0]) != std::string::npos)
        << row[0] << " is in the matrix, but nobody answers it";
  }
  const std::regex answered("case (BPF_[A-Z_]+): return [a-z_]+\\(request");
  for (auto match = std::sregex_iterator(daemon.begin(), daemon.end(), answered);
       match != std::sregex_iterator(); ++match) {
    EXPECT_TRUE(listed.count((*match)[1])) << (*match)[1] << " is not in the matrix";
  }
}

// Names under "Subcommands:" in what the command prints.
std::set<std::string> subcommands(const std::string& arguments) {
  const char* bin = std::getenv("BPFTIME_BIN_DIR");
  FILE* help = ::popen((std::string(bin) + "/bpftime " + arguments).c_str(), "r");
  std::set<std::string> verbs;
  bool inside = false;
  std::array<char, 512> buffer;
  while (help != nullptr && std::fgets(buffer.data(), buffer.size(), help) != nullptr) {
    const std::string line = buffer.data();
    if (line.starts_with("Subcommands:")) {
      inside = true;
    } else if (inside && line.starts_with("  ")) {
      std::istringstream words(line);
      std::string verb;
      words >> verb;
      // What a long name's description begins with stands on a line of its own, further in.
      if (line[2] != ' ') verbs.insert(verb);
    } else {
      inside = false;
    }
  }
  EXPECT_TRUE(help != nullptr && ::pclose(help) == 0) << arguments;
  return verbs;
}

TEST(SupportMatrix, VerbsAreThoseOfTheCommand) {
  if (std::getenv("BPFTIME_BIN_DIR") == nullptr) GTEST_SKIP() << "BPFTIME_BIN_DIR is not set: run by ctest";
  std::set<std::string> listed;
  for (const Row& row : table("Commands of bpftime")) listed.insert(row[0]);
  EXPECT_EQ(subcommands("help"), listed);
}

// docs/cli.md has every verb, and every action of the verbs that have some.
TEST(SupportMatrix, TheDocumentOfTheCommandNamesEveryVerb) {
  if (std::getenv("BPFTIME_BIN_DIR") == nullptr) GTEST_SKIP() << "BPFTIME_BIN_DIR is not set: run by ctest";
  std::string text = read_text("docs/cli.md");
  text = text.substr(0, text.find("\n## "));
  const auto names = [&](const std::string& word) {
    return std::regex_search(text, std::regex("[`|/ \\\\]" + word + "[`|/ \\\\]"));
  };
  for (const std::string& verb : subcommands("help")) {
    EXPECT_TRUE(names(verb)) << verb;
    for (const std::string& action : subcommands(verb + " --help"))
      EXPECT_TRUE(names(action)) << verb << " " << action;
  }
  EXPECT_FALSE(names("frobnicate"));
}

}  // namespace
}  // namespace bpftime
