// A class in sentences, and the line of policy that would have granted what was refused.
#include <bpftime/eim.h>

#include <algorithm>
#include <cstring>

#include "eim/grant.h"

namespace bpftime::eim {
namespace {

using program::CType;
using program::TypeKind;
using Kind = Capability::Kind;

// Of a policy's path the file name is enough to find the line.
std::string place_of(const Policy& policy, uint32_t line) {
  return policy.path.substr(policy.path.rfind('/') + 1) + ":" + std::to_string(line);
}

// The path below an object of `type` to the smallest member that has all of [offset, offset + size). Array elements have no
// paths of their own: their array's is given.
std::string member_path(const program::TypeTable& types, uint32_t type_id, uint64_t offset, uint64_t size,
                        uint32_t depth) {
  const CType& type = types.resolved(type_id);
  if (depth > 24) return "";
  if (type.kind == TypeKind::kArray) {
    const uint64_t element = types.size_of(type.target);
    return element == 0 ? "" : member_path(types, type.target, offset % element, size, depth + 1);
  }
  if (type.kind != TypeKind::kStruct && type.kind != TypeKind::kUnion) return "";
  for (const auto& member : type.members) {
    const uint64_t begin = member.bit_offset / 8;
    const uint64_t bytes =
        member.bit_size != 0 ? (member.bit_offset % 8 + member.bit_size + 7) / 8 : types.size_of(member.type);
    if (offset < begin || offset + size > begin + bytes) continue;
    const std::string below = member_path(types, member.type, offset - begin, size, depth + 1);
    if (member.name.empty()) {
      if (below.empty()) continue;
      return below;
    }
    return "." + member.name + below;
  }
  return "";
}

std::string add_line(const std::string& capability, const std::string& class_name, const Policy& policy) {
  const ExtensionClass* granted = policy.find_class(class_name);
  return "add \"" + capability + "\" to class \"" + class_name + "\"" +
         (granted == nullptr ? "" : " (" + place_of(policy, granted->allowed_position.line) + ")");
}

std::string list_of(const std::vector<std::string>& words, const std::string& none) {
  if (words.empty()) return none;
  std::string out;
  for (size_t i = 0; i < words.size(); ++i)
    out += (i == 0 ? "" : i + 1 == words.size() ? " and " : ", ") + words[i];
  return out;
}

std::string number_text(uint64_t low, uint64_t high, bool is_signed) {
  const auto one = [&](uint64_t value) {
    return is_signed ? std::to_string(static_cast<int64_t>(value)) : std::to_string(value);
  };
  return low == high ? one(low) : one(low) + " to " + one(high);
}

std::string bytes_text(uint64_t bytes) {
  for (const auto& [unit, name] :
       {std::pair<uint64_t, const char*>{1u << 30, "GiB"}, {1u << 20, "MiB"}, {1u << 10, "KiB"}}) {
    if (bytes % unit == 0) return std::to_string(bytes / unit) + " " + name;
  }
  return std::to_string(bytes) + " bytes";
}

class Explainer {
 public:
  Explainer(const Manifest& manifest, const ExtensionClass& granted, const Grant& grant)
      : manifest_(manifest), class_(granted), grant_(grant), entry_(*manifest.entry(granted.entry)) {}

  std::string run() {
    out_ = "An extension of class \"" + class_.name + "\" runs whenever the host calls " + entry_.function +
           " (entry \"" + entry_.name + "\"), before the function's first instruction.\n";
    if (entry_.inlined)
      out_ += "Some calls of " + entry_.function + " are inlined in this build; those it does not see.\n";
    can();
    cannot();
    return out_;
  }

 private:
  void can() {
    out_ += "\nIt can\n";
    access(Kind::kRead, "read ");
    access(Kind::kWrite, "change ");
    states();
    calls();
    result();
    if (const auto named = helpers(); !named.empty())
      out_ += "  - reach any memory of the host by address, with " + list_of(named, "") + ";\n";
    bounds();
  }

  void access(Kind kind, const char* verb) {
    std::vector<std::string> paths, of_variables;
    for (const Capability& capability : class_.allowed) {
      if (capability.kind != kind) continue;
      std::string path = capability.path.front();
      for (size_t i = 1; i < capability.path.size(); ++i) path += "." + capability.path[i];
      (is_argument(capability.path.front()) ? paths : of_variables).push_back(path);
    }
    if (!paths.empty())
      out_ += std::string("  - ") + verb + list_of(paths, "") + " of the call's arguments;\n";
    if (!of_variables.empty())
      out_ += std::string("  - ") + verb + list_of(of_variables, "") + " of the host's variables;\n";
  }

  bool is_argument(const std::string& name) const {
    for (size_t i = 0; i < entry_.arguments.size(); ++i)
      if (entry_.arguments[i] == name || "arg" + std::to_string(i) == name) return true;
    return false;
  }

  std::vector<std::string> helpers() const {
    std::vector<std::string> names;
    for (const Capability& capability : class_.allowed)
      if (capability.kind == Kind::kName && is_helper_grantable(capability.name))
        names.push_back(capability.name);
    return names;
  }

  void states() {
    for (const Capability& capability : class_.allowed) {
      const State* state = capability.kind == Kind::kName ? manifest_.state(capability.name) : nullptr;
      if (state != nullptr)
        out_ += std::string("  - ") + (state->write ? "change" : "read") + " the host's variable " +
                state->expression + " (" + state->name + ");\n";
    }
  }

  void calls() {
    for (const verifier::HostFunction& function : grant_.constraints.functions) {
      if (!function.granted) continue;
      std::vector<std::string> limits;
      for (const verifier::Argument& argument : function.arguments) {
        if (argument.values.empty()) continue;
        std::vector<std::string> values;
        for (const uint64_t value : argument.values)
          values.push_back(number_text(value, value, argument.is_signed));
        limits.push_back(
            argument.name + " being " +
            (values.size() > 8 ? "one of " + std::to_string(values.size()) + " values" : either(values)));
      }
      out_ += "  - call the host's " + function.name + (limits.empty() ? "" : " with " + list_of(limits, ""));
      if (function.acquires != verifier::kNone) out_ += ", and must give back what it returns";
      if (function.may_block) out_ += "; that call may block the host";
      out_ += ";\n";
    }
  }
  static std::string either(const std::vector<std::string>& words) {
    std::string out;
    for (size_t i = 0; i < words.size(); ++i)
      out += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
    return out;
  }

  void result() {
    const auto& constraints = grant_.constraints;
    if (!constraints.may_return) return;
    out_ += "  - end the call instead of the host's function";
    if (!constraints.return_is_void) {
      std::vector<std::string> values;
      const CType& type = manifest_.types.resolved(manifest_.types.at(entry_.prototype).target);
      if (grant_.result_is_float) {
        for (const Capability& capability : class_.allowed) {
          if (capability.kind == Kind::kReturn) values.push_back(capability.text);
        }
        out_ += ": " + list_of(values, "");
      } else {
        for (const auto& range : constraints.return_values)
          values.push_back(number_text(range.low, range.high, type.is_signed));
        out_ += " with the result " + either(values);
      }
    }
    out_ += ";\n";
  }

  void bounds() {
    const auto& constraints = grant_.constraints;
    if (constraints.instructions_below == 0) {
      out_ += "  - execute any number of instructions, as long as it is proved to end;\n";
    } else {
      out_ += "  - execute fewer than " + std::to_string(constraints.instructions_below) +
              " instructions a call;\n";
    }
    out_ += constraints.memory_below == 0 ? "  - use any amount of memory for its maps.\n"
                                          : "  - use less than " + bytes_text(constraints.memory_below) +
                                                " for its maps, stack and buffers.\n";
    if (!grant_.shared_maps.empty())
      out_ += "Other classes see its maps " + list_of(grant_.shared_maps, "") + ".\n";
  }

  void cannot() {
    out_ += "\nIt cannot\n";
    std::vector<std::string> unread;
    for (size_t i = 0; i < entry_.arguments.size(); ++i) {
      if (!mentions(entry_.arguments[i], static_cast<uint32_t>(i))) unread.push_back(entry_.arguments[i]);
    }
    if (!unread.empty()) out_ += "  - look at " + list_of(unread, "") + ", nor at anything behind them;\n";
    const bool writes = std::any_of(class_.allowed.begin(), class_.allowed.end(),
                                    [](const Capability& c) { return c.kind == Kind::kWrite; });
    out_ += writes
                ? "  - change anything else in the host, nor anything behind a pointer that it read there;\n"
                : "  - change anything that the call's arguments lead to;\n";
    std::vector<std::string> functions;
    for (const verifier::HostFunction& function : grant_.constraints.functions) {
      if (!function.granted) functions.push_back(function.name);
    }
    if (!functions.empty()) out_ += "  - call " + list_of(functions, "") + ", which the host offers;\n";
    if (!grant_.constraints.may_return) out_ += "  - end the call or change its result;\n";
    const auto named = helpers();
    const bool reads = std::any_of(named.begin(), named.end(),
                                   [](const auto& name) { return name != "bpf_probe_write_user"; });
    const bool stores = std::find(named.begin(), named.end(), "bpf_probe_write_user") != named.end();
    const char* by_address = reads && stores ? ""
                             : reads         ? "write memory of the host by address, "
                             : stores        ? "read memory of the host by address, "
                                             : "read or write memory of the host by address, ";
    out_ += std::string("  - ") + by_address + "make system calls, block, or run without end.\n";
  }
  bool mentions(const std::string& name, uint32_t index) const {
    return std::any_of(class_.allowed.begin(), class_.allowed.end(), [&](const Capability& capability) {
      return (capability.kind == Kind::kRead || capability.kind == Kind::kWrite) &&
             (capability.path.front() == name || capability.path.front() == "arg" + std::to_string(index));
    });
  }

  const Manifest& manifest_;
  const ExtensionClass& class_;
  const Grant& grant_;
  const Function& entry_;
  std::string out_;
};

}  // namespace

std::string grant_hint(const Grant& grant, const Manifest& manifest, const Policy& policy, uint32_t view,
                       uint64_t offset, uint64_t size, bool write) {
  if (view >= grant.origins.size() || grant.origins[view].path.empty()) return "";
  const Grant::ViewOrigin& origin = grant.origins[view];
  // Behind a second pointer nothing can be written.
  const bool walked = view >= grant.constraints.views.size() || origin.path.find('.') != std::string::npos;
  if (write && walked) return "";
  std::string path = member_path(manifest.types, origin.type, offset, size, 0);
  if (path.empty() && walked) return "";
  // An element's index is no part of a policy's path.
  std::string base = origin.path;
  for (size_t open = 0; (open = base.find('[')) != std::string::npos;)
    base.erase(open, base.find(']', open) - open + 1);
  return add_line(std::string(write ? "write(" : "read(") + base + path + ")", grant.class_name, policy);
}

std::string grant_name_hint(const Grant& grant, const Manifest& manifest, const Policy& policy,
                            const std::string& name) {
  if (manifest.function(name) != nullptr) return add_line(name, grant.class_name, policy);
  // A variable is granted by what the host calls reading or writing it.
  std::string hint;
  for (const State& state : manifest.states) {
    if (state.expression != name) continue;
    hint += (hint.empty() ? "" : ", or ") + add_line(state.name, grant.class_name, policy) + " to " +
            (state.write ? "write" : "read") + " it";
  }
  return hint;
}

std::string grant_hint(const Grant& grant, const Policy& policy, const std::string& capability) {
  return add_line(capability, grant.class_name, policy);
}

std::string missing_hint(const Grant& grant, const Manifest& manifest, const Policy& policy,
                         const std::string& missing) {
  const Function* entry = manifest.entry(grant.entry);
  if (std::string named = grant_name_hint(grant, manifest, policy, missing); !named.empty()) return named;
  if (missing == "bpf_override_return" && entry != nullptr) {
    const uint32_t result = manifest.types.at(entry->prototype).target;
    const bool is_void = result == 0 || manifest.types.resolved(result).kind == TypeKind::kVoid;
    return add_line(is_void ? "return()" : "return(VALUE)", grant.class_name, policy);
  }
  if (is_helper_grantable(missing)) return add_line(missing, grant.class_name, policy);
  const size_t open = missing.find('('), end = missing.find_first_of(".)", open);
  if (open == std::string::npos || end == std::string::npos || entry == nullptr) return "";
  const std::string first = missing.substr(open + 1, end - open - 1);
  if (std::find(entry->arguments.begin(), entry->arguments.end(), first) != entry->arguments.end())
    return add_line(missing, grant.class_name, policy);
  const State* known = manifest.state(first);
  const bool write = missing.starts_with("write(");
  for (const State& state : manifest.states) {
    if (known == nullptr || state.expression != known->expression || state.write != write) continue;
    // A variable without members is granted by the capability's name alone.
    const std::string rest = missing.substr(end);
    const bool whole = rest == ")" || rest == "." + state.expression + ")";
    return add_line(whole ? state.name : (write ? "write(" : "read(") + state.name + rest, grant.class_name,
                    policy);
  }
  return "";
}

std::string explain_class(const Manifest& manifest, const Policy&, const ExtensionClass& granted,
                          const Grant& grant) {
  return manifest.entry(granted.entry) == nullptr ? "" : Explainer(manifest, granted, grant).run();
}

}  // namespace bpftime::eim
