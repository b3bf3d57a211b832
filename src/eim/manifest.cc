#include "eim/manifest.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "eim/records.h"
#include "eim/type_check.h"
#include "symbols/debug_types.h"

namespace bpftime::eim {
namespace {

using program::CType;
using program::TypeKind;

constexpr size_t kEntryArgumentsMax = 6;  // what travels in general registers

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names(1);
  for (const char c : text) {
    if (c == ',') {
      names.emplace_back();
    } else if (c != ' ') {
      names.back() += c;
    }
  }
  return names;
}

std::string last_component(const std::string& name) {
  const size_t at = name.rfind("::");
  return at == std::string::npos ? name : name.substr(at + 2);
}

// As the BTF writer turns C++ names into identifiers.
std::string identifier(const std::string& name) {
  std::string out;
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    out += letter || (c >= '0' && c <= '9' && !out.empty()) ? c : '_';
  }
  return out;
}

std::string embedded_name(const Record& record) {
  const char* kind = record.kind == EIM_KIND_STATE   ? "eim_state_"
                     : record.kind == EIM_KIND_HFUNC ? "eim_hfunc_"
                     : record.kind == EIM_KIND_ENTRY ? "eim_entry_"
                                                     : "eim_buffer_";
  return identifier(kind + record.name);
}

// Where types come from: debug information if the file has it, else BTF that was stored (by --embed, or by pahole).
class Types {
 public:
  static Result<Types> open(const symbols::RecordFile& file, const std::string& path,
                            const std::vector<Record>& records) {
    std::set<std::string> functions;
    for (const Record& record : records) {
      if (record.kind == EIM_KIND_ENTRY || record.kind == EIM_KIND_HFUNC)
        functions.insert(last_component(record.target));
    }
    auto debug = symbols::read_debug_types(file.image, path, EIM_SECTION, functions);
    if (!debug) return debug.error();
    Types types;
    types.from_ = "DWARF";
    if (debug->variables.empty()) {
      for (const char* section : {kEmbeddedTypesSection, ".BTF"}) {
        const std::vector<uint8_t> blob = symbols::read_section(file, section);
        if (blob.empty()) continue;
        auto btf = program::read_btf(blob);
        if (!btf)
          return Error{EINVAL, "manifest: " + path + ": section " + section + ": " + btf.error().message};
        debug->table = std::move(btf->table);
        for (program::NamedType& name : btf->names) types.names_.emplace(name.name, name);
        types.from_ = "BTF";
        break;
      }
    }
    types.debug_ = std::move(*debug);
    return types;
  }

  // The type of what the record's pointer points to; 0: unknown.
  uint32_t of(const Record& record) const {
    if (from_ == "BTF") {
      if (const auto named = names_.find(embedded_name(record)); named != names_.end())
        return named->second.type;
      if (record.kind == EIM_KIND_BUFFER) return table().find(record.name);
      const auto named = names_.find(identifier(record.target));
      return named == names_.end() ? 0 : named->second.type;
    }
    const auto variable = debug_.variables.find({record.section, record.offset});
    if (variable == debug_.variables.end()) return 0;
    // Hostile debug information may say anything of the record's own type.
    for (const CType::Member& member : table().resolved(variable->second).members) {
      if (member.name != "target") continue;
      const CType& pointer = table().resolved(member.type);
      return pointer.kind == TypeKind::kPointer ? pointer.target : 0;
    }
    return 0;
  }

  // The definition of the function the record names, by address, else by a name that only one function has.
  const symbols::DebugFunction* definition(const Record& record) const {
    const symbols::DebugFunction* found = nullptr;
    for (const symbols::DebugFunction& function : debug_.functions) {
      if (record.pointer.address != 0 && function.address == record.pointer.address) return &function;
      if (function.name != record.target && last_component(function.name) != record.target) continue;
      if (found != nullptr && found->parameters != function.parameters) return nullptr;
      found = &function;
    }
    return found;
  }
  bool inlined(const Record& record) const {
    return std::any_of(
        debug_.functions.begin(), debug_.functions.end(), [&](const symbols::DebugFunction& function) {
          return function.inlined &&
                 (function.name == record.target || last_component(function.name) == record.target);
        });
  }

  const program::TypeTable& table() const { return debug_.table; }
  program::TypeTable take_table() { return std::move(debug_.table); }
  const std::string& from() const { return from_; }

 private:
  std::string from_;
  symbols::DebugTypes debug_;
  std::map<std::string, program::NamedType> names_;
};

class Builder {
 public:
  Builder(Manifest& manifest, const Types& types, const std::vector<Record>& records)
      : manifest_(manifest), types_(types), records_(records) {}

  Result<void> run() {
    for (const Record& record : records_) {
      Result<void> added = add(record);
      if (!added) return added;
    }
    for (const Record& record : records_) {
      Result<void> added = add_detail(record);
      if (!added) return added;
    }
    for (auto* functions : {&manifest_.entries, &manifest_.functions}) {
      for (Function& function : *functions) fill_names(function);
    }
    return {};
  }

 private:
  const program::TypeTable& table() const { return types_.table(); }
  Error error(const Record& record, const std::string& why) const {
    return record.error(manifest_.path, why);
  }
  Error no_types(const Record& record) const {
    return error(record, "no debug information for " +
                             (record.kind == EIM_KIND_BUFFER ? record.name : record.target) +
                             "; try compiling this source with -g, and " +
                             "`bpftime eim manifest --embed` before strip");
  }

  Result<void> add(const Record& record) {
    switch (record.kind) {
      case EIM_KIND_STATE:
        return add_state(record);
      case EIM_KIND_HFUNC:
      case EIM_KIND_ENTRY:
        return add_function(record);
      case EIM_KIND_BUFFER:
        return add_buffer(record);
      default:
        return {};
    }
  }

  Result<void> add_state(const Record& record) {
    State state{record.name,
                record.target,
                record.pointer.symbol,
                record.pointer.offset,
                record.pointer.address,
                types_.of(record),
                record.operation == EIM_OPERATION_WRITE,
                record.place};
    if (state.type == 0) return no_types(record);
    if (table().size_of(state.type) == 0)
      return error(record, record.target + " has a type of unknown size (" + table().spell(state.type) + ")");
    if (state.write && table().is_const(state.type)) return error(record, record.target + " is const");
    if (state.symbol.empty()) state.symbol = record.target;
    manifest_.states.push_back(std::move(state));
    return {};
  }

  Result<void> add_function(const Record& record) {
    Function function;
    function.name = record.name;
    function.function = record.target;
    function.symbol = record.pointer.symbol.empty() ? record.target : record.pointer.symbol;
    function.address = record.pointer.address;
    function.prototype = table().resolve(types_.of(record));
    function.place = record.place;
    const CType& prototype = table().at(function.prototype);
    if (prototype.kind != TypeKind::kFunction) return no_types(record);
    const bool is_entry = record.kind == EIM_KIND_ENTRY;
    if (auto fine = check_prototype(record, prototype, is_entry); !fine) return fine;
    function.arguments.resize(prototype.parameters.size());
    for (size_t i = 0; i < function.arguments.size(); ++i)
      function.arguments[i] = prototype.parameters[i].name;
    if (const auto* definition = types_.definition(record);
        definition != nullptr && definition->parameters.size() == function.arguments.size())
      function.arguments = definition->parameters;
    if (is_entry) function.inlined = types_.inlined(record);
    for (const Constraint& constraint : record.constraints) {
      if (auto fine = check_constraint(record, prototype, constraint); !fine) return fine;
      function.constraints.push_back(constraint);
    }
    (is_entry ? manifest_.entries : manifest_.functions).push_back(std::move(function));
    return {};
  }

  // What the bridge and the context slots can carry: integers and pointers in general registers.
  Result<void> check_prototype(const Record& record, const CType& prototype, bool is_entry) const {
    const size_t most = is_entry ? kEntryArgumentsMax : EIM_ARGUMENTS_MAX;
    if (prototype.is_variadic) return error(record, "variadic functions are not supported");
    if (prototype.parameters.size() > most)
      return error(record, "more than " + std::to_string(most) + " arguments are not supported");
    for (size_t i = 0; i < prototype.parameters.size(); ++i) {
      if (!is_word(prototype.parameters[i].type))
        return error(record, "argument " + std::to_string(i) + " (" +
                                 table().spell(prototype.parameters[i].type) +
                                 ") is not an integer, enumeration or pointer");
    }
    const uint32_t result = table().resolve(prototype.target);
    if (!is_entry && result != 0 && !is_word(result))
      return error(record, "its result (" + table().spell(prototype.target) +
                               ") is not an integer, enumeration or pointer");
    return {};
  }

  bool is_word(uint32_t id) const { return is_pointer(id) || is_integer(id); }
  bool is_pointer(uint32_t id) const { return table().resolved(id).kind == TypeKind::kPointer; }
  bool is_integer(uint32_t id) const {
    const CType& type = table().resolved(id);
    return (type.kind == TypeKind::kInteger || type.kind == TypeKind::kEnum) && type.size >= 1 &&
           type.size <= 8;
  }

  Result<void> check_constraint(const Record& record, const CType& prototype,
                                const Constraint& constraint) const {
    const std::string text = constraint_text(constraint);
    const auto wrong = [&](const std::string& why) { return Result<void>(error(record, text + ": " + why)); };
    const auto argument = [&](int64_t index) -> uint32_t {
      return index < 0 || static_cast<uint64_t>(index) >= prototype.parameters.size()
                 ? 0
                 : prototype.parameters[static_cast<size_t>(index)].type;
    };
    const auto needs = [&](bool fine, const char* what) {
      return fine ? Result<void>() : wrong(std::string("it is not ") + what);
    };
    if (is_of_argument(constraint.kind) && constraint.argument >= prototype.parameters.size())
      return wrong("there is no argument " + std::to_string(constraint.argument));
    const uint32_t type = argument(constraint.argument);
    switch (constraint.kind) {
      case EIM_RET_POSITIVE:
      case EIM_RET_NONNEGATIVE:
      case EIM_RET_ERRNO:
        return needs(is_integer(prototype.target), "an integer result");
      case EIM_RET_RANGE:
        if (constraint.low > constraint.high) return wrong("the range is empty");
        return needs(is_integer(prototype.target), "an integer result");
      case EIM_RET_NONNULL:
      case EIM_RET_MAYBE_NULL:
      case EIM_ACQUIRES:
        return needs(is_pointer(prototype.target), "a pointer result");
      case EIM_ARG_NONNULL:
      case EIM_RELEASES:
      case EIM_ARG_CONST_STRING:
        return needs(is_pointer(type), "a pointer argument");
      case EIM_ARG_RANGE:
        if (constraint.low > constraint.high) return wrong("the range is empty");
        return needs(is_integer(type), "an integer argument");
      case EIM_ARG_LESS_THAN:
        if (constraint.low == constraint.argument) return wrong("an argument is never less than itself");
        return needs(is_integer(type) && is_integer(argument(constraint.low)), "a pair of integer arguments");
      case EIM_ARG_BUFFER_IN:
      case EIM_ARG_BUFFER_OUT:
      case EIM_ARG_BUFFER_INOUT:
        return needs(is_pointer(type) && is_integer(argument(constraint.low)),
                     "a pointer with an integer length");
      case EIM_COST:
        return needs(constraint.low >= 1 && constraint.low <= UINT32_MAX, "a positive number");
      default:
        return {};
    }
  }

  static bool is_of_argument(uint32_t kind) {
    return (kind >= EIM_ARG_NONNULL && kind <= EIM_ARG_CONST_STRING) || kind == EIM_RELEASES;
  }

  Result<void> add_buffer(const Record& record) {
    Buffer buffer;
    buffer.name = record.name;
    buffer.place = record.place;
    buffer.type = table().resolve(types_.of(record));
    const CType& type = table().at(buffer.type);
    if (type.kind != TypeKind::kStruct) return no_types(record);
    const auto names = split_names(record.target);
    const auto member = [&](const std::string& name) {
      const auto found = std::find_if(type.members.begin(), type.members.end(),
                                      [&](const auto& m) { return m.name == name; });
      return static_cast<size_t>(found - type.members.begin());
    };
    const size_t data = names.size() == 2 ? member(names[0]) : type.members.size();
    const size_t len = names.size() == 2 ? member(names[1]) : type.members.size();
    if (data == type.members.size() || len == type.members.size())
      return error(record, "no such members: " + record.target);
    if (!is_pointer(type.members[data].type) || !is_integer(type.members[len].type) ||
        type.members[len].bit_size != 0)
      return error(record, "they are not a pointer and an integer: " + record.target);
    buffer.data = static_cast<uint32_t>(data);
    buffer.len = static_cast<uint32_t>(len);
    manifest_.buffers.push_back(buffer);
    return {};
  }

  // Names and promises, of what must have been declared.
  Result<void> add_detail(const Record& record) {
    const bool of_entry = record.kind == EIM_KIND_ENTRY_ARGS || record.kind == EIM_KIND_ENTRY_PROMISES;
    if (!of_entry && record.kind != EIM_KIND_HFUNC_ARGS) return {};
    auto& functions = of_entry ? manifest_.entries : manifest_.functions;
    const auto function = std::find_if(functions.begin(), functions.end(),
                                       [&](const Function& f) { return f.name == record.name; });
    if (function == functions.end())
      return error(record, of_entry ? "there is no such entry" : "there is no such host function");
    if (record.kind == EIM_KIND_ENTRY_PROMISES) {
      for (const Constraint& constraint : record.constraints) {
        if (constraint.kind != EIM_ARG_NONNULL && constraint.kind != EIM_ARG_RANGE &&
            (constraint.kind < EIM_ARG_BUFFER_IN || constraint.kind > EIM_ARG_BUFFER_INOUT))
          return error(record, constraint_text(constraint) +
                                   ": an entry can promise HF_ARG_NONNULL, HF_ARG_RANGE and buffers only");
        if (auto fine = check_constraint(record, table().at(function->prototype), constraint); !fine)
          return fine;
        function->constraints.push_back(constraint);
      }
      return {};
    }
    const auto names = split_names(record.target);
    if (names.size() != function->arguments.size())
      return error(record, "names " + std::to_string(names.size()) + " arguments, but there are " +
                               std::to_string(function->arguments.size()));
    std::set<std::string> seen;
    for (const std::string& name : names) {
      if (name.empty() || identifier(name) != name || !seen.insert(name).second)
        return error(record, "argument names must be different identifiers");
    }
    function->arguments = names;
    return {};
  }

  static void fill_names(Function& function) {
    std::set<std::string> seen;
    for (size_t i = 0; i < function.arguments.size(); ++i) {
      std::string& name = function.arguments[i];
      if (name.empty() || identifier(name) != name || !seen.insert(name).second)
        name = "arg" + std::to_string(i);
    }
  }

  Manifest& manifest_;
  const Types& types_;
  const std::vector<Record>& records_;
};

bool same_shape(const CType& a, const CType& b) {
  if (a.kind != b.kind || a.name != b.name || a.size != b.size || a.members.size() != b.members.size())
    return false;
  for (size_t i = 0; i < a.members.size(); ++i) {
    if (a.members[i].name != b.members[i].name || a.members[i].bit_offset != b.members[i].bit_offset)
      return false;
  }
  return true;
}

template <typename T>
const T* find_named(const std::vector<T>& all, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const T& one) { return one.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace

const Constraint* Function::find(uint32_t kind, uint32_t argument) const {
  for (const Constraint& constraint : constraints) {
    if (constraint.kind == kind && constraint.argument == argument) return &constraint;
  }
  return nullptr;
}

const Function* Manifest::entry(const std::string& name) const { return find_named(entries, name); }
const Function* Manifest::function(const std::string& name) const { return find_named(functions, name); }
const State* Manifest::state(const std::string& name) const { return find_named(states, name); }
const Buffer* Manifest::buffer_of(uint32_t type, uint32_t data_member) const {
  const CType& wanted = types.at(type);
  for (const Buffer& buffer : buffers) {
    if (buffer.data != data_member) continue;
    // Each source of a program brings its own copy of a type: equal names and members are the same type.
    if (buffer.type == type || same_shape(types.at(buffer.type), wanted)) return &buffer;
  }
  return nullptr;
}

namespace {

// The order of the sources, whatever order a compiler lays records out in; only types that something refers to.
void tidy(Manifest& manifest) {
  const auto by_place = [](const auto& a, const auto& b) {
    return std::tie(a.place.file, a.place.line, a.name) < std::tie(b.place.file, b.place.line, b.name);
  };
  std::sort(manifest.entries.begin(), manifest.entries.end(), by_place);
  std::sort(manifest.functions.begin(), manifest.functions.end(), by_place);
  std::sort(manifest.states.begin(), manifest.states.end(), by_place);
  std::sort(manifest.buffers.begin(), manifest.buffers.end(), by_place);
  std::vector<uint32_t*> roots;
  for (Function& entry : manifest.entries) roots.push_back(&entry.prototype);
  for (Function& function : manifest.functions) roots.push_back(&function.prototype);
  for (State& state : manifest.states) roots.push_back(&state.type);
  for (Buffer& buffer : manifest.buffers) roots.push_back(&buffer.type);
  manifest.types.keep_reachable(roots);
}

}  // namespace

Result<Manifest> parse_manifest(std::vector<uint8_t> image, const std::string& path) {
  auto file = symbols::parse_record_file(std::move(image), path, EIM_SECTION);
  if (!file) return file.error();
  auto records = read_records(*file, path);
  if (!records) return records.error();
  auto types = Types::open(*file, path, *records);
  if (!types) return types.error();
  Manifest manifest;
  manifest.path = path;
  manifest.is_object = file->is_object;
  manifest.build_id = file->is_object ? "" : file->build_id;
  manifest.types_from = types->from();
  if (auto built = Builder(manifest, *types, *records).run(); !built) return built.error();
  manifest.types = types->take_table();
  tidy(manifest);
  if (auto fine = check_types(manifest.types); !fine)
    return Error{fine.error().code, "manifest: " + path + ": " + fine.error().message};
  return manifest;
}

Result<Manifest> read_manifest(const std::string& path) {
  auto file = symbols::read_record_file(path, EIM_SECTION);
  if (!file) return file.error();
  return parse_manifest(std::move(file->image), path);
}

Result<std::vector<uint8_t>> embed_types(const std::string& path, const Manifest& manifest) {
  auto file = symbols::read_record_file(path, EIM_SECTION);
  if (!file) return file.error();
  program::TypeTable table = manifest.types;
  std::vector<program::NamedType> names;
  // Prototypes in debug information have no names for their parameters: store copies that have.
  const auto add_functions = [&](const std::vector<Function>& functions, const std::string& kind) {
    for (const Function& function : functions) {
      CType prototype = table.at(function.prototype);
      for (size_t i = 0; i < prototype.parameters.size(); ++i)
        prototype.parameters[i].name = function.arguments[i];
      names.push_back({kind + function.name, table.add(std::move(prototype)), true});
    }
  };
  add_functions(manifest.entries, "eim_entry_");
  add_functions(manifest.functions, "eim_hfunc_");
  for (const State& state : manifest.states) names.push_back({"eim_state_" + state.name, state.type, false});
  std::set<std::string> buffers;
  for (const Buffer& buffer : manifest.buffers) {
    if (buffers.insert(buffer.name).second)
      names.push_back({"eim_buffer_" + buffer.name, buffer.type, false});
  }
  auto blob = program::write_btf(table, names, "", ".eim", {}, nullptr);
  if (!blob) return blob.error();
  return symbols::add_section(*file, kEmbeddedTypesSection, *blob);
}

}  // namespace bpftime::eim
