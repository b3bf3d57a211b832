#include "eim/system_calls.h"

#include "program/tracepoints.h"

namespace bpftime::eim {

namespace {

constexpr std::string_view kCategory = "syscalls";

std::optional<program::Tracepoint> tracepoint(const std::string& entry) {
  if (!is_system_call_entry(entry)) return std::nullopt;
  return program::find_tracepoint(kCategory, entry.substr(sizeof kSystemCalls - 1));
}

}  // namespace

bool is_system_call_entry(const std::string& entry) { return entry.starts_with(kSystemCalls); }

void add_system_calls(Manifest& manifest, const Policy& policy) {
  uint32_t prototype = 0;
  for (const ExtensionClass& granted : policy.classes) {
    const auto found = tracepoint(granted.entry);
    if (!found || manifest.entry(granted.entry) != nullptr) continue;
    if (prototype == 0) {
      program::CType result;
      result.kind = program::TypeKind::kInteger;
      result.name = "long";
      result.size = 8;
      result.is_signed = true;
      program::CType function;
      function.kind = program::TypeKind::kFunction;
      function.target = manifest.types.add(std::move(result));
      prototype = manifest.types.add(std::move(function));
    }
    Function entry;
    entry.name = entry.symbol = granted.entry;
    entry.function = std::string(program::system_call_name(found->number));
    entry.prototype = prototype;
    entry.at = found->on_exit ? Function::At::kSystemCallExit : Function::At::kSystemCall;
    entry.place = {"the system call " + entry.function, 0};
    manifest.entries.push_back(std::move(entry));
  }
}

std::vector<std::string> system_call_entries() {
  std::vector<std::string> out;
  for (const program::Tracepoint& each : program::tracepoints_of(kCategory))
    out.push_back(kSystemCalls + each.name());
  return out;
}

}  // namespace bpftime::eim
