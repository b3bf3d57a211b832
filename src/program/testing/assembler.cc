// The assembler half of conformance.h. It refuses what the notation does not know; what it emits is for
// validate() to judge.
#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>

#include "program/instructions.h"
#include "program/testing/conformance.h"

namespace bpftime::program::testing {
namespace {

using Words = std::vector<std::string>;

const std::map<std::string, uint8_t> kArithmetic = {
    {"add", BPF_ADD}, {"sub", BPF_SUB}, {"mul", BPF_MUL}, {"div", BPF_DIV},
    {"or", BPF_OR},   {"and", BPF_AND}, {"lsh", BPF_LSH}, {"rsh", BPF_RSH},
    {"mod", BPF_MOD}, {"xor", BPF_XOR}, {"mov", BPF_MOV}, {"arsh", BPF_ARSH},
};
const std::map<std::string, uint8_t> kJumps = {
    {"jeq", BPF_JEQ}, {"jgt", BPF_JGT},   {"jge", BPF_JGE},   {"jset", BPF_JSET},
    {"jne", BPF_JNE}, {"jsgt", BPF_JSGT}, {"jsge", BPF_JSGE}, {"jlt", BPF_JLT},
    {"jle", BPF_JLE}, {"jslt", BPF_JSLT}, {"jsle", BPF_JSLE},
};
const std::map<std::string, uint8_t> kSizes = {{"b", BPF_B}, {"h", BPF_H}, {"w", BPF_W}, {"dw", BPF_DW}};
struct SignMove {
  uint8_t code_class;
  int16_t width;
};
const std::map<std::string, SignMove> kSignMoves = {
    {"movsx832", {BPF_ALU, 8}},     {"movsx1632", {BPF_ALU, 16}},   {"movsx864", {BPF_ALU64, 8}},
    {"movsx1664", {BPF_ALU64, 16}}, {"movsx3264", {BPF_ALU64, 32}},
};
const std::map<std::string, int32_t> kAtomics = {
    {"add", BPF_ADD}, {"and", BPF_AND},   {"or", BPF_OR},
    {"xor", BPF_XOR}, {"xchg", BPF_XCHG}, {"cmpxchg", BPF_CMPXCHG},
};

// "add32" → "add", true.
bool strip_suffix(std::string& word, const std::string& suffix) {
  if (word.size() <= suffix.size() || !word.ends_with(suffix)) return false;
  word.resize(word.size() - suffix.size());
  return true;
}

// A number in C notation with optional sign. Magnitude and sign apart, so that each user can apply
// its own range.
struct Number {
  uint64_t magnitude = 0;
  bool negative = false;
  bool hex = false;
};

std::optional<Number> parse_number(std::string_view text) {
  Number number;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    number.negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (text.starts_with("0x") || text.starts_with("0X")) {
    number.hex = true;
    text.remove_prefix(2);
  }
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number.magnitude, number.hex ? 16 : 10);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// Decimal numbers must fit the signed range; hex ones may use all bits.
std::optional<int64_t> parse_ranged(std::string_view text, uint32_t bits) {
  const auto number = parse_number(text);
  if (!number) return std::nullopt;
  const uint64_t half = 1ULL << (bits - 1);
  const uint64_t limit = number->negative ? half : number->hex ? half * 2 - 1 : half - 1;
  if (number->magnitude > limit) return std::nullopt;
  return static_cast<int64_t>(number->negative ? 0 - number->magnitude : number->magnitude);
}

std::optional<uint8_t> parse_register(std::string_view text) {
  if (text.starts_with("%")) text.remove_prefix(1);
  if (!text.starts_with("r") || text.size() < 2 || text.size() > 3) return std::nullopt;
  const auto number = parse_number(text.substr(1));
  if (!number || number->negative || number->magnitude >= kRegisters) return std::nullopt;
  return static_cast<uint8_t>(number->magnitude);
}

class Assembler {
 public:
  Result<std::vector<Insn>> run(std::string_view text) {
    std::istringstream stream{std::string(text)};
    for (std::string line; std::getline(stream, line);) {
      line_ = line.substr(0, line.find('#'));
      const Words words = split(line_);
      if (words.empty()) continue;
      if (words.size() == 1 && words[0].ends_with(':')) {
        labels_[words[0].substr(0, words[0].size() - 1)] = insns_.size();
        continue;
      }
      if (!assemble_line(words)) return Error{EINVAL, "assembler: `" + line_ + "`: not an instruction"};
    }
    return resolve();
  }

 private:
  struct Reference {
    size_t insn;
    std::string label;
    bool in_imm;
  };

  static Words split(std::string line) {
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream stream(line);
    Words words;
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
  }

  Result<std::vector<Insn>> resolve() {
    for (const Reference& reference : references_) {
      const auto label = labels_.find(reference.label);
      if (label == labels_.end()) return Error{EINVAL, "assembler: " + reference.label + ": no such label"};
      const int64_t distance = static_cast<int64_t>(label->second) - static_cast<int64_t>(reference.insn) - 1;
      Insn& insn = insns_[reference.insn];
      if (reference.in_imm) {
        insn.imm = static_cast<int32_t>(distance);
      } else if (distance == static_cast<int16_t>(distance)) {
        insn.off = static_cast<int16_t>(distance);
      } else {
        return Error{EINVAL, "assembler: " + reference.label + ": too far"};
      }
    }
    return insns_;
  }

  void emit(uint8_t code, uint8_t dst = 0, uint8_t src = 0, int64_t off = 0, int64_t imm = 0) {
    insns_.push_back(Insn{code, dst, src, static_cast<int16_t>(off), static_cast<int32_t>(imm)});
  }

  bool assemble_line(const Words& words) {
    const std::string& name = words[0];
    if (name == "exit") {
      labels_["exit"] = insns_.size();
      emit(BPF_JMP | BPF_EXIT);
      return words.size() == 1;
    }
    if (name == "lock") return atomic(words);
    if (name == "call") return call(words);
    if (name == "lddw") return load_imm64(words);
    if (name.starts_with("ldx") || name.starts_with("st")) return memory(words);
    if (name[0] == 'j') return jump(words);
    return arithmetic(words);
  }

  bool arithmetic(const Words& words) {
    if (words.size() < 2) return false;
    const auto dst = parse_register(words[1]);
    if (!dst) return false;
    if (words.size() == 2) return one_operand(words[0], *dst);
    if (words.size() != 3) return false;
    if (const auto move = kSignMoves.find(words[0]); move != kSignMoves.end()) {
      const auto src = parse_register(words[2]);
      if (!src) return false;
      emit(move->second.code_class | BPF_MOV | BPF_X, *dst, *src, move->second.width);
      return true;
    }
    std::string name = words[0];
    const uint8_t code_class = strip_suffix(name, "32") ? BPF_ALU : BPF_ALU64;
    const bool is_signed = name == "sdiv" || name == "smod";
    const auto operation = kArithmetic.find(is_signed ? name.substr(1) : name);
    if (operation == kArithmetic.end()) return false;
    return with_operand(words[2], code_class | operation->second, *dst, is_signed ? 1 : 0);
  }

  bool one_operand(std::string name, uint8_t dst) {
    if (name == "neg" || name == "neg32") {
      emit((name == "neg" ? BPF_ALU64 : BPF_ALU) | BPF_NEG, dst);
      return true;
    }
    const size_t digits = name.find_first_of("0123456789");
    if (digits == std::string::npos) return false;
    const auto width = parse_ranged(name.substr(digits), 32);
    const std::string order = name.substr(0, digits);
    if (!width || (*width != 16 && *width != 32 && *width != 64)) return false;
    uint8_t code = BPF_END;
    if (order == "le") {
      code |= BPF_ALU | BPF_TO_LE;
    } else if (order == "be") {
      code |= BPF_ALU | BPF_TO_BE;
    } else if (order == "swap" || order == "bswap") {
      code |= BPF_ALU64 | BPF_TO_LE;
    } else {
      return false;
    }
    emit(code, dst, 0, 0, *width);
    return true;
  }

  // The second operand of arithmetic and jumps: a register or an immediate.
  bool with_operand(const std::string& operand, uint8_t code, uint8_t dst, int64_t off) {
    if (operand.starts_with('%') || operand.starts_with('r')) {
      const auto src = parse_register(operand);
      if (!src) return false;
      emit(code | BPF_X, dst, *src, off);
      return true;
    }
    const auto imm = parse_ranged(operand, 32);
    if (!imm) return false;
    emit(code | BPF_K, dst, 0, off, *imm);
    return true;
  }

  bool jump(const Words& words) {
    std::string name = words[0];
    const bool narrow = strip_suffix(name, "32");
    const uint8_t code_class = narrow ? BPF_JMP32 : BPF_JMP;
    if (name == "ja") {
      if (words.size() != 2) return false;
      emit(code_class | BPF_JA);
      return target(words[1], narrow);
    }
    const auto operation = kJumps.find(name);
    if (operation == kJumps.end() || words.size() != 4) return false;
    const auto dst = parse_register(words[1]);
    return dst && with_operand(words[2], code_class | operation->second, *dst, 0) && target(words[3], false);
  }

  // Sets the last instruction's target: "+2", "-1" or a label.
  bool target(const std::string& word, bool in_imm) {
    if (const auto distance = parse_ranged(word, in_imm ? 32 : 16)) {
      if (in_imm) {
        insns_.back().imm = static_cast<int32_t>(*distance);
      } else {
        insns_.back().off = static_cast<int16_t>(*distance);
      }
      return true;
    }
    references_.push_back({insns_.size() - 1, word, in_imm});
    return true;
  }

  bool call(const Words& words) {
    if (words.size() == 3 && words[1] == "local") {
      emit(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL);
      return target(words[2], true);
    }
    if (words.size() != 2) return false;
    if (const auto reg = parse_register(words[1])) {
      emit(BPF_JMP | BPF_CALL | BPF_X, *reg);
      return true;
    }
    const auto id = parse_ranged(words[1], 32);
    if (!id) return false;
    emit(BPF_JMP | BPF_CALL, 0, 0, 0, *id);
    return true;
  }

  bool load_imm64(const Words& words) {
    if (words.size() != 3) return false;
    const auto dst = parse_register(words[1]);
    const auto number = parse_number(words[2]);
    if (!dst || !number) return false;
    const uint64_t value = number->negative ? 0 - number->magnitude : number->magnitude;
    emit(BPF_LD | BPF_IMM | BPF_DW, *dst, 0, 0, static_cast<int32_t>(value));
    emit(0, 0, 0, 0, static_cast<int32_t>(value >> 32));
    return true;
  }

  struct Address {
    uint8_t base;
    int16_t off;
  };

  // "[%r1+4]"
  static std::optional<Address> parse_address(const std::string& word) {
    if (!word.starts_with('[') || !word.ends_with(']')) return std::nullopt;
    const std::string inner = word.substr(1, word.size() - 2);
    const size_t sign = inner.find_first_of("+-");
    const auto base = parse_register(inner.substr(0, sign));
    if (!base) return std::nullopt;
    if (sign == std::string::npos) return Address{*base, 0};
    const auto off = parse_ranged(inner.substr(sign), 16);
    if (!off) return std::nullopt;
    return Address{*base, static_cast<int16_t>(*off)};
  }

  bool memory(const Words& words) {
    if (words.size() != 3) return false;
    if (words[0].starts_with("ldx")) {
      std::string size_name = words[0].substr(3);
      const bool extends = size_name.size() > 1 && size_name[0] == 's';
      const auto size = kSizes.find(extends ? size_name.substr(1) : size_name);
      const auto dst = parse_register(words[1]);
      const auto address = parse_address(words[2]);
      if (size == kSizes.end() || !dst || !address) return false;
      emit(BPF_LDX | (extends ? kModeMemSx : BPF_MEM) | size->second, *dst, address->base, address->off);
      return true;
    }
    const bool from_register = words[0].starts_with("stx");
    const auto size = kSizes.find(words[0].substr(from_register ? 3 : 2));
    const auto address = parse_address(words[1]);
    if (size == kSizes.end() || !address) return false;
    if (from_register) {
      const auto src = parse_register(words[2]);
      if (!src) return false;
      emit(BPF_STX | BPF_MEM | size->second, address->base, *src, address->off);
      return true;
    }
    const auto imm = parse_ranged(words[2], 32);
    if (!imm) return false;
    emit(BPF_ST | BPF_MEM | size->second, address->base, 0, address->off, *imm);
    return true;
  }

  // "lock [fetch] add[32] [%r10-8], %r1"
  bool atomic(const Words& words) {
    const bool fetch = words.size() > 1 && words[1] == "fetch";
    const size_t at = fetch ? 2 : 1;
    if (words.size() != at + 3) return false;
    std::string name = words[at];
    const uint8_t size = strip_suffix(name, "32") ? BPF_W : BPF_DW;
    const auto operation = kAtomics.find(name);
    const auto address = parse_address(words[at + 1]);
    const auto src = parse_register(words[at + 2]);
    if (operation == kAtomics.end() || !address || !src) return false;
    emit(BPF_STX | BPF_ATOMIC | size, address->base, *src, address->off,
         operation->second | (fetch ? BPF_FETCH : 0));
    return true;
  }

  std::string line_;
  std::vector<Insn> insns_;
  std::map<std::string, size_t> labels_;
  std::vector<Reference> references_;
};

}  // namespace

Result<std::vector<Insn>> assemble(std::string_view text) { return Assembler().run(text); }

}  // namespace bpftime::program::testing
