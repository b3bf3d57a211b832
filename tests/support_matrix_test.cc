// docs/support-matrix.md against the code's own tables: helpers, map types, bpf(2) commands, verbs.
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "helpers/table.h"
#include "maps/map.h"

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

using Row = std::vector<std::string>;

// The table's rows under "## heading", cells trimmed, backticks removed.
std::vector<Row> table(const std::string& heading) {
  std::istringstream text(read_text("docs/support-matrix.md"));
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
    ASSERT_TRUE(listed.count(helper.id)) << helper.name << " is not in the matrix";
    const Row& row = listed[helper.id];
    EXPECT_EQ(row[1], helper.name);
    EXPECT_EQ(row[2], helper.differs.empty() ? "supported" : "differs") << helper.name;
    std::string differs(helper.differs);
    std::erase(differs, '`');
    EXPECT_EQ(row[3], differs) << helper.name;
    listed.erase(helper.id);
  }
  for (const auto& [id, row] : listed)
    EXPECT_FALSE(is_there(row[2])) << row[1] << " is in the matrix, but not in the code";
}

// A geometry that Linux accepts for the type.
wire::MapSpec spec_of(uint32_t type) {
  wire::MapSpec spec{};
  spec.type = type;
  spec.key_size = 4;
  spec.value_size = 8;
  spec.max_entries = 16;
  spec.cpu_count = 2;
  if (type == BPF_MAP_TYPE_RINGBUF || type == BPF_MAP_TYPE_USER_RINGBUF) {
    spec.key_size = spec.value_size = 0;
    spec.max_entries = 4096;
  }
  if (type == BPF_MAP_TYPE_QUEUE || type == BPF_MAP_TYPE_STACK || type == BPF_MAP_TYPE_BLOOM_FILTER)
    spec.key_size = 0;
  if (type == BPF_MAP_TYPE_LPM_TRIE) {
    spec.key_size = 8;
    spec.flags = BPF_F_NO_PREALLOC;
  }
  if (type == BPF_MAP_TYPE_PERF_EVENT_ARRAY || type == BPF_MAP_TYPE_PROG_ARRAY ||
      type == BPF_MAP_TYPE_CGROUP_ARRAY || type == BPF_MAP_TYPE_ARRAY_OF_MAPS ||
      type == BPF_MAP_TYPE_HASH_OF_MAPS)
    spec.value_size = 4;
  return spec;
}

TEST(SupportMatrix, MapTypesAreThoseTheCodeAccepts) {
  std::map<uint32_t, Row> listed;
  for (const Row& row : table("Maps")) listed[static_cast<uint32_t>(std::stoul(row[0]))] = row;
  for (uint32_t type = 1; type <= 64; ++type) {
    const bool accepted = maps::check_spec(spec_of(type)) == 0;
    const bool says_so = listed.count(type) != 0 && is_there(listed[type][2]);
    EXPECT_EQ(accepted, says_so) << "map type " << type;
  }
  EXPECT_EQ(listed[BPF_MAP_TYPE_RINGBUF][1], "BPF_MAP_TYPE_RINGBUF");
  EXPECT_EQ(listed[BPF_MAP_TYPE_BLOOM_FILTER][1], "BPF_MAP_TYPE_BLOOM_FILTER");
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
