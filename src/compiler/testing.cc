#include "compiler/testing.h"

#include <llvm-c/Disassembler.h>
#include <llvm-c/Target.h>
#include <sys/mman.h>

#include <regex>
#include <sstream>

namespace bpftime::compiler::testing {

Result<Code> Code::compile_bare(std::vector<program::Insn> insns) {
  program::Program program;
  program.name = "test";
  program.insns = std::move(insns);
  CompileOptions options;
  options.bare = true;
  return compile(program, {}, options);
}

Result<Code> Code::compile(const program::Program& program, std::span<const MapBinding> maps,
                           const CompileOptions& options) {
  auto machine_code = compiler::compile(program, maps, options);
  if (!machine_code) return machine_code.error();
  Code code;
  code.machine_code_ = std::move(*machine_code);
  const auto& image = code.machine_code_.image;
  void* memory = mmap(nullptr, image.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Error::from_errno("mmap");
  code.memory_ = memory;
  std::memcpy(memory, image.data(), image.size());
  if (mprotect(memory, image.size(), PROT_READ | PROT_EXEC) != 0) return Error::from_errno("mprotect");
  return code;
}

Code::Code(Code&& other) noexcept
    : machine_code_(std::move(other.machine_code_)), memory_(std::exchange(other.memory_, nullptr)) {}

Code::~Code() {
  if (memory_ != nullptr) munmap(memory_, machine_code_.image.size());
}

// UBSan and friends must not look into code without metadata.
#if defined(__clang__)
__attribute__((no_sanitize("undefined")))
#endif
uint64_t
Code::run(uint64_t first, uint64_t second) const {
  const auto entry = reinterpret_cast<uint64_t>(memory_) + machine_code_.entry_offset;
  return reinterpret_cast<uint64_t (*)(uint64_t, uint64_t)>(entry)(first, second);
}

std::string Code::disassembly() const {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86Disassembler();
  LLVMDisasmContextRef context = LLVMCreateDisasm("x86_64-unknown-linux-gnu", nullptr, 0, nullptr, nullptr);
  std::string out;
  auto* bytes = const_cast<uint8_t*>(machine_code_.image.data());
  for (uint64_t at = 0; at < machine_code_.text_size;) {
    char text[256];
    const size_t length =
        LLVMDisasmInstruction(context, bytes + at, machine_code_.text_size - at, at, text, sizeof(text));
    if (length == 0) {
      out += "?\n";
      break;
    }
    out += text;
    out += '\n';
    at += length;
  }
  LLVMDisasmDispose(context);
  return out;
}

std::string Code::forbidden_instruction() const {
  static const std::regex forbidden(
      R"(%[xyz]?mm[0-9]|%st\b|%st\(|%k[0-7]|^\?|^\s*(rep|repne|movs[bwlq]\s*\(|stos|lods|cmps[bwlq]|scas|f[a-z]+\s))");
  std::istringstream lines(disassembly());
  for (std::string line; std::getline(lines, line);) {
    if (std::regex_search(line, forbidden)) return line;
  }
  return {};
}

}  // namespace bpftime::compiler::testing
