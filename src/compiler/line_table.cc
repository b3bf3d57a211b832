#include "compiler/line_table.h"

#include <llvm/DebugInfo/DWARF/DWARFContext.h>
#include <llvm/IR/DebugInfoMetadata.h>
#include <llvm/Object/ObjectFile.h>

#include <algorithm>
#include <mutex>

#include "compiler/backend.h"
#include "compiler/insn_lines.h"
#include "compiler/linker.h"
#include "compiler/translator.h"
#include "helpers/runtime_images.h"

namespace bpftime::compiler {

InsnLines::InsnLines(llvm::Module& module) : builder_(module), file_(builder_.createFile("program", "")) {
  builder_.createCompileUnit(llvm::dwarf::DW_LANG_C, file_, "bpftime", /*isOptimized=*/true, "", 0, "",
                             llvm::DICompileUnit::LineTablesOnly);
}

void InsnLines::begin(llvm::Function& function) {
  auto* type = builder_.createSubroutineType(builder_.getOrCreateTypeArray({}));
  function.setSubprogram(builder_.createFunction(
      file_, function.getName(), function.getName(), file_, 1, type, 1, llvm::DINode::FlagZero,
      llvm::DISubprogram::SPFlagDefinition | llvm::DISubprogram::SPFlagOptimized));
}

llvm::DebugLoc InsnLines::at(const llvm::Function& function, uint32_t insn) {
  return llvm::DILocation::get(function.getContext(), insn + 1, 0, function.getSubprogram());
}

namespace {

// `section_offsets`: where the object's sections lie in the image.
Result<std::vector<CodeLine>> read_lines(llvm::StringRef object,
                                         const std::vector<uint64_t>& section_offsets) {
  auto file = llvm::object::ObjectFile::createObjectFile(llvm::MemoryBufferRef(object, "program"));
  if (!file) return Error{EINVAL, "line table: " + llvm::toString(file.takeError())};
  const auto dwarf = llvm::DWARFContext::create(**file);
  std::vector<CodeLine> out;
  for (const auto& unit : dwarf->compile_units()) {
    const auto* table = dwarf->getLineTableForUnit(unit.get());
    if (table == nullptr) continue;
    for (const auto& row : table->Rows) {
      const uint64_t section = row.Address.SectionIndex;
      if (row.Line == 0 || row.EndSequence || section >= section_offsets.size() ||
          section_offsets[section] == kNotInImage)
        continue;
      out.push_back({static_cast<uint32_t>(section_offsets[section] + row.Address.Address), row.Line - 1});
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  // Of several at one place the last has the code; what goes on is not said again.
  std::vector<CodeLine> lines;
  for (const CodeLine& line : out) {
    if (!lines.empty() && lines.back().offset == line.offset) lines.pop_back();
    if (lines.empty() || lines.back().insn != line.insn) lines.push_back(line);
  }
  return lines;
}

}  // namespace

Result<std::vector<CodeLine>> line_table(const program::Program& program, std::span<const MapBinding> maps,
                                         const CompileOptions& options, const MachineCode& code) {
  const std::lock_guard<std::mutex> lock(compile_turn());
  llvm::LLVMContext context;
  Diagnostics diagnostics(context);
  const auto module = make_module(context, program.name);
  InsnLines lines(*module);
  const auto facts = translate(program, maps, options, *module, &lines);
  if (!facts) return facts.error();
  const auto object = emit_object(*module, diagnostics);
  if (!object) return object.error();
  const Bytes objects[] = {
      Bytes(reinterpret_cast<const uint8_t*>(object->bytes.data()), object->bytes.size()),
      helpers::runtime_object()};
  constexpr std::string_view kEntries[] = {kEntrySymbol, kTailEntrySymbol};
  auto linked = link_image(objects, std::span(kEntries).first(options.tail_entry ? 2 : 1));
  if (!linked) return linked.error();
  if (linked->image != code.image)
    return Error{ENODATA, "line table: program " + program.name + ": its code cannot be made again alike"};
  return read_lines(llvm::StringRef(object->bytes.data(), object->bytes.size()), linked->section_offsets);
}

}  // namespace bpftime::compiler
