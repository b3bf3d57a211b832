#include "cli/words.h"

#include <charconv>
#include <cstring>

#include "cli/usage.h"

namespace bpftime::cli {
namespace {

std::optional<uint64_t> parse_number(std::string_view text, int base) {
  if (text.starts_with("0x") || text.starts_with("0X")) {
    text.remove_prefix(2);
    base = 16;
  }
  uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string tag_text(const uint8_t (&tag)[BPF_TAG_SIZE]) {
  static const char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : tag) {
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
  return out;
}

std::string name_of(const char (&name)[BPF_OBJ_NAME_LEN]) { return {name, strnlen(name, sizeof name)}; }

// An object's name, or its tag.
Result<std::string> label_of(ObjectType type, const Fd& fd, const std::string& by) {
  if (type == ObjectType::kMap) {
    auto info = map_info(fd);
    if (!info) return info.error();
    return name_of(info->name);
  }
  auto program = program_info(fd);
  if (!program) return program.error();
  return by == "tag" ? tag_text(program->info.tag) : name_of(program->info.name);
}

}  // namespace

bool Words::take(const std::string& word) {
  if (!next_is(word)) {
    looked_for_.push_back(word);
    return false;
  }
  ++at_;
  looked_for_.clear();
  return true;
}

Result<std::string> Words::next(const std::string& expected) {
  if (done()) return wrong(expected);
  looked_for_.clear();
  return words_[at_++];
}

Result<uint64_t> Words::number(const std::string& expected, uint64_t max) {
  if (done()) return wrong(expected);
  const auto value = parse_number(words_[at_], 10);
  if (!value || *value > max) return wrong(expected);
  ++at_;
  looked_for_.clear();
  return *value;
}

Result<std::vector<uint8_t>> Words::bytes(const std::string& expected, size_t size) {
  const int base = take("hex") ? 16 : 10;
  std::vector<uint8_t> out;
  while (out.size() < size) {
    const auto value = done() ? std::nullopt : parse_number(words_[at_], base);
    if (!value || *value > 0xff)
      return wrong(expected + ", " + std::to_string(size) + " bytes (" + std::to_string(out.size()) +
                   " read)");
    out.push_back(static_cast<uint8_t>(*value));
    ++at_;
  }
  looked_for_.clear();
  return out;
}

Result<void> Words::end() {
  if (!done()) return wrong("no more words");
  return {};
}

Error Words::wrong(const std::string& expected) {
  misused_ = true;
  return Error{EINVAL, what_ + ": " + (done() ? "the end" : words_[at_]) + ": expected " + expected +
                           hint(done() ? "" : words_[at_], looked_for_, "bpftime " + what_ + " --help")};
}

Error Words::misread(const std::string& word, const std::vector<std::string>& known) {
  misused_ = true;
  std::string list;
  for (const std::string& each : known) list += (list.empty() ? "" : ", ") + each;
  return Error{EINVAL, what_ + ": " + word + ": expected one of " + list +
                           hint(word, known, "bpftime " + what_ + " --help")};
}

Result<std::vector<Selected>> select_all(ObjectType type) {
  auto ids = ids_of(type);
  if (!ids) return ids.error();
  std::vector<Selected> out;
  for (const uint32_t id : *ids) {
    auto fd = open_by_id(type, id);
    if (!fd && fd.error().code == ENOENT) continue;  // gone since
    if (!fd) return fd.error();
    out.push_back({std::move(*fd), id});
  }
  return out;
}

Result<std::vector<Selected>> select(ObjectType type, Words& words) {
  std::vector<Selected> out;
  const bool named = type != ObjectType::kLink;
  const std::string by = named && words.take("name")                         ? "name"
                         : type == ObjectType::kProgram && words.take("tag") ? "tag"
                                                                             : "";
  if (!by.empty()) {
    auto wanted = words.next("a " + by);
    if (!wanted) return wanted.error();
    auto all = select_all(type);
    if (!all) return all.error();
    // Kernel names are cut to 15 bytes; so is what is looked for.
    const std::string cut = by == "tag" ? *wanted : wanted->substr(0, BPF_OBJ_NAME_LEN - 1);
    std::vector<std::string> others;
    for (Selected& each : *all) {
      auto label = label_of(type, each.fd, by);
      if (!label) return label.error();
      if (*label == cut)
        out.push_back(std::move(each));
      else
        others.push_back(*label);
    }
    const std::string word = word_of(type);
    if (out.empty())
      return Error{ENOENT, word + " " + *wanted + ": no such " + by +
                               hint(*wanted, others, "bpftime " + word + " show")};
    return out;
  }
  if (words.take("pinned")) {
    auto path = words.next("a path below /sys/fs/bpf");
    if (!path) return path.error();
    auto fd = open_pinned(type, *path);
    if (!fd) return fd.error();
    out.push_back({std::move(*fd), 0});
    return out;
  }
  words.take("id");
  auto id = words.number(named ? "[id] NUMBER, name NAME or pinned FILE" : "[id] NUMBER or pinned FILE",
                         UINT32_MAX);
  if (!id) return id.error();
  auto fd = open_by_id(type, static_cast<uint32_t>(*id));
  if (!fd) return fd.error();
  out.push_back({std::move(*fd), static_cast<uint32_t>(*id)});
  return out;
}

Result<Selected> select_one(ObjectType type, Words& words) {
  auto found = select(type, words);
  if (!found) return found.error();
  if (found->size() == 1) return std::move(found->front());
  return Error{EEXIST, words.what() + ": " + std::to_string(found->size()) +
                           " match; name one by id, see `bpftime " + word_of(type) + " show`"};
}

}  // namespace bpftime::cli
