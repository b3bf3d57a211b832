// The small language of `allowed`: a hand-written parser, one function per form.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "eim/policy.h"

namespace bpftime::eim {
namespace {

constexpr size_t kCapabilityBytesMax = 4096;
constexpr size_t kValuesMax = 256;
constexpr size_t kPathMax = 32;
constexpr int kErrorNumbersMax = 133;

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

class Parser {
 public:
  Parser(const std::string& text, Position start, const Policy& policy)
      : text_(text), start_(start), policy_(policy) {}

  Result<Capability> run() {
    if (text_.size() > kCapabilityBytesMax) return error("too long");
    out_.text = text_;
    out_.position = start_;
    skip_spaces();
    const size_t begin = at_;
    const std::string name = qualified_word();
    if (name.empty())
      return error(
          "expected a capability: a name, read(…), write(…), return(…), instructions < N or memory < N");
    Result<void> parsed = rest(name, begin);
    if (!parsed) return parsed.error();
    skip_spaces();
    if (at_ != text_.size()) return error("unexpected \"" + text_.substr(at_, 16) + "\"");
    return std::move(out_);
  }

 private:
  Error error_at(size_t at, const std::string& what, int code = EINVAL) const {
    return policy_.error({start_.line, start_.column + static_cast<uint32_t>(at)}, what, code);
  }
  Error error(const std::string& what) const { return error_at(at_, what); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_spaces() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n') ++at_;
  }
  bool take(char c) {
    skip_spaces();
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  std::string word() {
    skip_spaces();
    std::string out;
    while (is_word(peek())) out += text_[at_++];
    return out;
  }
  // "ns::function", too.
  std::string qualified_word() {
    std::string out = word();
    while (!out.empty() && text_.compare(at_, 2, "::") == 0) {
      at_ += 2;
      out += "::" + word();
    }
    return out;
  }

  Result<void> rest(const std::string& name, size_t begin) {
    skip_spaces();
    if (name == "instructions" || name == "memory") return bound(name);
    if (name == "isolation" && (peek() == ':' || peek() == '('))
      return error_at(begin, "isolation is not yet built; nothing is isolated by hardware", ENOTSUP);
    if (name == "read" || name == "write") return access(name, begin);
    if (name == "return") return returned();
    if (name == "shared") return shared();
    if (peek() == '<')
      return error_at(begin,
                      "\"" + name + "\" has no bound" + nearest_hint(name, {"instructions", "memory"}));
    out_.name = name;
    if (peek() != '(') return {};
    // A misspelt read( would else be taken for a host function; grant.cc knows those.
    return call();
  }

  Result<void> bound(const std::string& name) {
    const bool memory = name == "memory";
    out_.kind = memory ? Capability::Kind::kMemory : Capability::Kind::kInstructions;
    if (!take('<')) return error("expected \"" + name + " < N\"");
    if (peek() == '=') return error("\"<=\" is not a bound; expected \"" + name + " < N\"");
    skip_spaces();
    const size_t begin = at_;
    if (text_.compare(at_, 3, "inf") == 0 && !is_word(at_ + 3 < text_.size() ? text_[at_ + 3] : '\0')) {
      at_ += 3;
      return {};
    }
    const auto number = unsigned_number();
    if (!number) return error_at(begin, "expected a number or inf");
    uint64_t unit = 1;
    if (memory) {
      const size_t unit_at = (skip_spaces(), at_);
      const auto found = unit_of(word());
      if (!found) return error_at(unit_at, "expected B, KB, KiB, MB, MiB, GB or GiB");
      unit = *found;
    }
    if (*number == 0) return error_at(begin, "nothing is below 0; the smallest bound is 1");
    if (*number > UINT64_MAX / unit) return error_at(begin, "too large");
    out_.below = *number * unit;
    return {};
  }

  static std::optional<uint64_t> unit_of(const std::string& unit) {
    struct Unit {
      const char* name;
      uint64_t bytes;
    };
    for (const Unit& known : {Unit{"", 1},
                              {"B", 1},
                              {"KB", 1000},
                              {"kB", 1000},
                              {"KiB", 1024},
                              {"MB", 1000'000},
                              {"MiB", 1u << 20},
                              {"GB", 1000'000'000},
                              {"GiB", 1u << 30}}) {
      if (unit == known.name) return known.bytes;
    }
    return std::nullopt;
  }

  std::optional<uint64_t> unsigned_number() {
    const bool hex = text_.compare(at_, 2, "0x") == 0;
    const char* begin = text_.data() + at_ + (hex ? 2 : 0);
    uint64_t value = 0;
    const auto parsed = std::from_chars(begin, text_.data() + text_.size(), value, hex ? 16 : 10);
    if (parsed.ec != std::errc() || parsed.ptr == begin) return std::nullopt;
    at_ = static_cast<size_t>(parsed.ptr - text_.data());
    return value;
  }

  Result<void> access(const std::string& name, size_t begin) {
    out_.kind = name == "read" ? Capability::Kind::kRead : Capability::Kind::kWrite;
    if (!take('('))
      return error_at(begin, "expected \"" + name + "(argument)\" or \"" + name + "(argument.member)\"");
    do {
      const std::string part = word();
      if (part.empty()) return error("expected the name of an argument or member");
      if (out_.path.size() == kPathMax) return error("the path is too long");
      out_.path.push_back(part);
    } while (take('.'));
    if (peek() == '-' || peek() == '[')
      return error(
          std::string("members are separated by \".\", also behind pointers, and arrays are granted whole"));
    if (!take(')')) return error("expected \")\"");
    return {};
  }

  Result<void> returned() {
    out_.kind = Capability::Kind::kReturn;
    if (!take('(')) return error("expected \"return()\" or \"return(values)\"");
    if (take(')')) return {};
    if (auto parsed = values(out_.values); !parsed) return parsed;
    if (!take(')')) return error("expected \")\" or \",\"");
    return {};
  }

  Result<void> shared() {
    const size_t begin = at_;
    out_.kind = Capability::Kind::kShared;
    if (!take('(')) return error("expected \"shared(map)\"");
    out_.name = word();
    if (out_.name == "kernel")
      return error_at(begin, "sharing maps with the kernel is not yet built", ENOTSUP);
    if (out_.name.empty()) return error("expected the name of a map");
    if (take(',')) return error_at(begin, "sharing maps with the kernel is not yet built", ENOTSUP);
    if (!take(')')) return error("expected \")\"");
    return {};
  }

  // f(), f(a in 1, 2), f(a in 1..9; b in 0)
  Result<void> call() {
    out_.is_call = true;
    (void)take('(');
    if (take(')')) return {};
    do {
      Narrowing narrowing;
      skip_spaces();
      narrowing.position = {start_.line, start_.column + static_cast<uint32_t>(at_)};
      narrowing.argument = word();
      if (narrowing.argument.empty()) return error("expected the name of an argument");
      for (const Narrowing& other : out_.narrowings) {
        if (other.argument == narrowing.argument)
          return error("\"" + narrowing.argument + "\" is narrowed twice");
      }
      const size_t begin = (skip_spaces(), at_);
      const std::string in = word();
      if (in != "in") {
        return error_at(begin, "expected \"" + narrowing.argument + " in values\"" +
                                   nearest_hint(out_.name, {"read", "write", "return", "shared"}));
      }
      if (auto parsed = values(narrowing.values); !parsed) return parsed;
      out_.narrowings.push_back(std::move(narrowing));
    } while (take(';'));
    if (!take(')')) return error("expected \")\", \",\" or \";\"");
    return {};
  }

  Result<void> values(std::vector<Value>& out) {
    do {
      if (out.size() == kValuesMax) return error("too many values");
      auto parsed = value();
      if (!parsed) return parsed.error();
      out.push_back(std::move(*parsed));
    } while (take(','));
    return {};
  }

  Result<Value> value() {
    Value out;
    skip_spaces();
    const size_t begin = at_;
    out.position = {start_.line, start_.column + static_cast<uint32_t>(at_)};
    if (is_word(peek()) && (peek() < '0' || peek() > '9')) {
      out.name = qualified_word();
      return out;
    }
    if (const auto number = error_number()) {
      out.low = out.high = static_cast<uint64_t>(-int64_t{*number});
      out.is_negative = true;
      return out;
    }
    if (auto real = real_number()) {
      out.is_real = true;
      out.real = *real;
      return out;
    }
    const auto low = signed_number(out.is_negative);
    if (!low) return error_at(begin, "expected a number or the name of an enumeration's value");
    out.low = out.high = *low;
    if (text_.compare(at_, 2, "..") == 0) {
      at_ += 2;
      bool negative = false;
      const auto high = signed_number(negative);
      if (!high) return error("expected the range's last number");
      out.high = *high;
      const bool ordered = out.is_negative
                               ? !negative || static_cast<int64_t>(out.low) <= static_cast<int64_t>(out.high)
                               : !negative && out.low <= out.high;
      if (!ordered) return error_at(begin, "the range is empty: its first number is above its last");
      if (out.is_negative && !negative && *high > INT64_MAX)
        return error_at(begin, "no type has all of that range");
    }
    return out;
  }

  // "-EACCES", as system calls answer.
  std::optional<int> error_number() {
    if (peek() != '-' || at_ + 1 >= text_.size() || text_[at_ + 1] != 'E') return std::nullopt;
    const size_t begin = at_++;
    const std::string name = word();
    for (int number = 1; number <= kErrorNumbersMax; ++number)
      if (const char* known = ::strerrorname_np(number); known != nullptr && name == known) return number;
    at_ = begin;
    return std::nullopt;
  }

  std::optional<uint64_t> signed_number(bool& negative) {
    const size_t begin = at_;
    negative = peek() == '-';
    if (negative) ++at_;
    const auto number = unsigned_number();
    if (!number || (negative && *number > uint64_t{1} << 63) || is_word(peek())) {
      at_ = begin;
      return std::nullopt;
    }
    negative = negative && *number != 0;
    return negative ? -*number : *number;
  }

  // Digits, one point (not "..", a range's), digits, an exponent.
  std::optional<double> real_number() {
    size_t end = at_ + (peek() == '-' ? 1 : 0);
    while (end < text_.size() && text_[end] >= '0' && text_[end] <= '9') ++end;
    if (end >= text_.size() || text_[end] != '.' || text_.compare(end, 2, "..") == 0) return std::nullopt;
    double value = 0;
    const auto parsed = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (parsed.ec != std::errc() || !std::isfinite(value)) return std::nullopt;
    at_ = static_cast<size_t>(parsed.ptr - text_.data());
    return value;
  }

  const std::string& text_;
  const Position start_;
  const Policy& policy_;
  Capability out_;
  size_t at_ = 0;
};

// Edits (insert, drop, replace, swap of neighbours) from a to b.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> rows(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t k = 0; k <= b.size(); ++k) {
      if (i == 0 || k == 0) {
        rows[i][k] = i + k;
        continue;
      }
      const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
      const size_t change = rows[i - 1][k - 1] + (lower(a[i - 1]) != lower(b[k - 1]));
      rows[i][k] = std::min({rows[i - 1][k] + 1, rows[i][k - 1] + 1, change});
      if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
        rows[i][k] = std::min(rows[i][k], rows[i - 2][k - 2] + 1);
    }
  }
  return rows[a.size()][b.size()];
}

}  // namespace

std::string nearest_hint(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kWordMax = 64;
  size_t best = std::max<size_t>(2, word.size() / 3) + 1;
  const std::string* nearest = nullptr;
  for (const std::string& candidate : candidates) {
    if (word.size() > kWordMax || candidate.size() > kWordMax) continue;
    const size_t edits = distance(word, candidate);
    if (edits < best && edits < candidate.size()) {
      best = edits;
      nearest = &candidate;
    }
  }
  return nearest == nullptr ? "" : "; did you mean \"" + *nearest + "\"?";
}

Result<Capability> parse_capability(const std::string& text, Position start, const Policy& policy) {
  return Parser(text, start, policy).run();
}

}  // namespace bpftime::eim
