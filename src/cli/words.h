// What stands behind `bpftime prog|map|link ACTION`, in bpftool's grammar.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/bpf_door.h"

namespace bpftime::cli {

// Reads words from the front. Errors are EINVAL: the command line makes no sense.
class Words {
 public:
  Words(std::string what, std::vector<std::string> words)
      : what_(std::move(what)), words_(std::move(words)) {}

  const std::string& what() const { return what_; }  // "map dump", for messages
  bool done() const { return at_ == words_.size(); }
  // True, and past it, when it comes next.
  bool take(const std::string& word);
  bool next_is(const std::string& word) const { return !done() && words_[at_] == word; }
  Result<std::string> next(const std::string& expected);
  Result<uint64_t> number(const std::string& expected, uint64_t max);
  // Bytes in decimal, 0x… or, after `hex`, hexadecimal; exactly `size`.
  Result<std::vector<uint8_t>> bytes(const std::string& expected, size_t size);
  // Error unless all is read.
  Result<void> end();
  // Names the nearest of the words that take() looked for here in vain.
  Error wrong(const std::string& expected);
  // Of a word that next() gave and that is none of these.
  Error misread(const std::string& word, const std::vector<std::string>& known);
  // wrong() was called: what failed is the command line, not the call.
  bool misused() const { return misused_; }

 private:
  std::string what_;
  std::vector<std::string> words_;
  size_t at_ = 0;
  bool misused_ = false;
  std::vector<std::string> looked_for_;  // at this place, by take()
};

struct Selected {
  Fd fd;
  uint32_t id = 0;
};

// [id] N | name NAME | tag TAG (programs) | pinned FILE. All that match: more than one only for name and tag.
Result<std::vector<Selected>> select(ObjectType type, Words& words);
// Exactly one; EEXIST when several match.
Result<Selected> select_one(ObjectType type, Words& words);
// Every object of the kind.
Result<std::vector<Selected>> select_all(ObjectType type);

}  // namespace bpftime::cli
