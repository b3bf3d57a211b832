#include "program/testing/conformance.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace bpftime::program::testing {
namespace {

using Sections = std::map<std::string, std::string>;

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::optional<Sections> split_sections(std::string_view text, std::string& unknown) {
  static const char* const kKnown[] = {"asm", "raw", "mem", "result", "error", "c", "no register offset"};
  Sections sections;
  std::string* current = nullptr;
  std::istringstream stream{std::string(text)};
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("--")) {
      const std::string name = trim(line.substr(2));
      if (std::none_of(std::begin(kKnown), std::end(kKnown),
                       [&](const char* known) { return name == known; })) {
        unknown = name;
        return std::nullopt;
      }
      current = &sections[name];
    } else if (current != nullptr) {
      *current += line.substr(0, line.find('#')) + "\n";
    }
  }
  return sections;
}

// "aa bb cc": bytes in hex.
std::optional<std::vector<uint8_t>> parse_bytes(const std::string& text) {
  std::vector<uint8_t> bytes;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) {
    char* end = nullptr;
    const unsigned long value = std::strtoul(word.c_str(), &end, 16);
    if (*end != 0 || word.size() > 2) return std::nullopt;
    bytes.push_back(static_cast<uint8_t>(value));
  }
  return bytes;
}

// Raw programs are bytes, or one little-endian 64-bit number per instruction.
std::optional<std::vector<Insn>> parse_raw(const std::string& text) {
  std::vector<uint8_t> bytes;
  if (text.find("0x") == std::string::npos) {
    auto parsed = parse_bytes(text);
    if (!parsed) return std::nullopt;
    bytes = std::move(*parsed);
  } else {
    std::istringstream stream(text);
    for (std::string word; stream >> word;) {
      char* end = nullptr;
      const uint64_t value = std::strtoull(word.c_str(), &end, 16);
      if (*end != 0) return std::nullopt;
      const auto* raw = reinterpret_cast<const uint8_t*>(&value);
      bytes.insert(bytes.end(), raw, raw + sizeof(value));
    }
  }
  if (bytes.size() % sizeof(Insn) != 0) return std::nullopt;
  std::vector<Insn> insns(bytes.size() / sizeof(Insn));
  if (!insns.empty()) std::memcpy(insns.data(), bytes.data(), bytes.size());
  return insns;
}

bool same(const std::vector<Insn>& a, const std::vector<Insn>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Insn)) == 0;
}

// The program of a vector; the reason when there is none.
std::string read_program(const Sections& sections, std::vector<Insn>& insns) {
  const auto text = sections.find("asm");
  if (text != sections.end()) {
    auto assembled = assemble(text->second);
    if (!assembled) return assembled.error().message;
    insns = std::move(*assembled);
  }
  const auto raw = sections.find("raw");
  if (raw != sections.end()) {
    const auto parsed = parse_raw(raw->second);
    if (!parsed) return "raw section: not instructions";
    if (text != sections.end() && !same(*parsed, insns)) return "raw and asm sections differ";
    insns = *parsed;
  }
  return insns.empty() ? "no instructions" : "";
}

}  // namespace

const Exception kRefusedByLinux[] = {
    {"callx", "helper call by register: RFC 9669 leaves it to the platform, Linux refuses opcode 0x8d"},
};
const size_t kRefusedByLinuxCount = std::size(kRefusedByLinux);

const char* refused_by_linux(std::string_view name) {
  for (const Exception& exception : kRefusedByLinux) {
    if (name == exception.name) return exception.reason;
  }
  return nullptr;
}

Vector parse_vector(const std::string& name, std::string_view text) {
  Vector vector;
  vector.name = name;
  vector.program.name = name;
  std::string unknown;
  const auto sections = split_sections(text, unknown);
  if (!sections) {
    vector.parse_error = "unknown section: " + unknown;
    return vector;
  }
  vector.parse_error = read_program(*sections, vector.program.insns);
  if (const auto mem = sections->find("mem"); mem != sections->end()) {
    const auto bytes = parse_bytes(mem->second);
    if (bytes) {
      vector.memory = *bytes;
    } else {
      vector.parse_error = "mem section: not bytes in hex";
    }
  }
  if (const auto error = sections->find("error"); error != sections->end())
    vector.expected_error = trim(error->second);
  if (const auto result = sections->find("result"); result != sections->end()) {
    const std::string digits = trim(result->second);
    char* end = nullptr;
    vector.expected = std::strtoull(digits.c_str(), &end, 0);
    if (digits.empty() || *end != 0) vector.parse_error = "result section: not a number";
  }
  return vector;
}

Result<std::vector<Vector>> load_vectors(const std::string& directory) {
  std::error_code failed;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failed)) {
    if (entry.path().extension() == ".data") paths.push_back(entry.path());
  }
  if (failed || paths.empty()) return Error{ENOENT, "vectors: " + directory + ": no *.data files"};
  std::sort(paths.begin(), paths.end());
  std::vector<Vector> vectors;
  for (const auto& path : paths) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    vectors.push_back(parse_vector(path.stem().string(), text.str()));
  }
  return vectors;
}

std::string corpus_directory() {
  const char* corpora = std::getenv("BPFTIME_CORPORA");
  const char* source = std::getenv("BPFTIME_SOURCE_DIR");
  std::string directory;
  if (corpora != nullptr) {
    directory = corpora;
  } else if (source != nullptr) {
    directory = std::string(source) + "/../shared/corpora";
  }
  directory += "/bpf_conformance";
  return std::filesystem::is_directory(directory) ? directory : "";
}

std::string own_vectors_directory() {
  const char* source = std::getenv("BPFTIME_SOURCE_DIR");
  if (source == nullptr) return "";
  const std::string directory = std::string(source) + "/src/program/testing/vectors";
  return std::filesystem::is_directory(directory) ? directory : "";
}

Result<uint64_t> conformance_helper(uint32_t id, const uint64_t args[5]) {
  if (id == 5) return args[0];
  return Error{EINVAL, "helper " + std::to_string(id) + ": unknown"};
}

}  // namespace bpftime::program::testing
