// bpftime eim manifest|header|check|explain: what an application offers and a policy grants. None of it needs a daemon.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/fd.h"
#include "cli/eim_check.h"
#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/verbs.h"
#include "eim/load.h"

namespace bpftime::cli {
namespace {

using eim::Manifest;

struct Arguments {
  std::string file, policy, host;
  bool embed = false;
};

Json place(const eim::Place& place) { return {{"file", place.file}, {"line", place.line}}; }

Json function_json(const Manifest& manifest, const eim::Function& function) {
  const auto& prototype = manifest.types.at(function.prototype);
  Json arguments = Json::array(), constraints = Json::array();
  for (size_t i = 0; i < prototype.parameters.size(); ++i)
    arguments.push_back(
        {{"name", function.arguments[i]}, {"type", manifest.types.spell(prototype.parameters[i].type)}});
  for (const eim::Constraint& constraint : function.constraints)
    constraints.push_back(eim::constraint_text(constraint));
  Json out = {{"name", function.name},
              {"function", function.function},
              {"symbol", function.symbol},
              {"returns", manifest.types.spell(prototype.target)},
              {"arguments", arguments},
              {"constraints", constraints},
              {"declared", place(function.place)}};
  if (function.address != 0) out["address"] = function.address;
  if (function.inlined) out["inlined"] = true;
  return out;
}

Json types_json(const program::TypeTable& types) {
  Json out = Json::array();
  for (const program::CType& type : types.types) {
    const bool composite = type.kind == program::TypeKind::kStruct || type.kind == program::TypeKind::kUnion;
    if (type.name.empty() || (!composite && type.kind != program::TypeKind::kEnum)) continue;
    Json one = {{"name", type.name}, {"size", type.size}};
    one["kind"] = type.kind == program::TypeKind::kEnum    ? "enum"
                  : type.kind == program::TypeKind::kUnion ? "union"
                                                           : "struct";
    for (const auto& member : type.members) {
      Json item = {
          {"name", member.name}, {"type", types.spell(member.type)}, {"offset", member.bit_offset / 8}};
      if (member.bit_size != 0) {
        item["bit"] = member.bit_offset % 8;
        item["bits"] = member.bit_size;
      }
      one["members"].push_back(item);
    }
    for (const auto& value : type.enumerators)
      one["values"].push_back({{"name", value.name}, {"value", value.value}});
    out.push_back(std::move(one));
  }
  return out;
}

Json manifest_json(const Manifest& manifest) {
  Json out = {{"manifest", manifest.path},
              {"describes_another_file", manifest.is_object},
              {"types_from", manifest.types_from}};
  if (!manifest.build_id.empty()) out["build"] = manifest.build_id;
  out["entries"] = out["functions"] = out["states"] = out["buffers"] = Json::array();
  for (const auto& entry : manifest.entries) out["entries"].push_back(function_json(manifest, entry));
  for (const auto& function : manifest.functions)
    out["functions"].push_back(function_json(manifest, function));
  for (const auto& state : manifest.states) {
    Json one = {{"name", state.name},
                {"operation", state.write ? "write" : "read"},
                {"variable", state.expression},
                {"type", manifest.types.spell(state.type)},
                {"declared", place(state.place)}};
    if (state.address != 0) one["address"] = state.address;
    out["states"].push_back(std::move(one));
  }
  for (const auto& buffer : manifest.buffers) {
    const auto& members = manifest.types.at(buffer.type).members;
    out["buffers"].push_back({{"type", buffer.name},
                              {"data", members[buffer.data].name},
                              {"len", members[buffer.len].name},
                              {"declared", place(buffer.place)}});
  }
  out["types"] = types_json(manifest.types);
  return out;
}

// In place of the old file at once: whoever runs or reads it sees the one or the other.
Result<void> replace_file(const std::string& path, const std::vector<uint8_t>& bytes) {
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return Error::from_errno("write " + path);
  std::string temporary = path + ".XXXXXX";
  Fd fd(::mkstemp(temporary.data()));
  if (!fd) return Error::from_errno("write " + path);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  if (done == bytes.size() && ::fchmod(fd.get(), st.st_mode & 07777) == 0 &&
      ::rename(temporary.c_str(), path.c_str()) == 0)
    return {};
  const Error error = Error::from_errno("write " + path);
  ::unlink(temporary.c_str());
  return error;
}

// A file that is there but no host is followed by what one is.
Result<Manifest> read_host(const std::string& file) {
  auto manifest = eim::read_manifest(file);
  if (manifest || manifest.error().message.find("; ") != std::string::npos ||
      manifest.error().message.ends_with(std::strerror(manifest.error().code)))
    return manifest;
  return Error{manifest.error().code,
               manifest.error().message +
                   "; try the host's program or library, or an object built with bpftime/eim.h"};
}

int show_manifest(const Arguments& arguments, bool json) {
  auto manifest = read_host(arguments.file);
  if (!manifest) return report(manifest.error());
  if (arguments.embed) {
    auto bytes = eim::embed_types(arguments.file, *manifest);
    if (!bytes) return report(bytes.error());
    if (auto written = replace_file(arguments.file, *bytes); !written) return report(written.error());
  }
  if (json) {
    print_json(manifest_json(*manifest));
  } else if (arguments.embed) {
    fmt::print("{}: types embedded; it can be stripped now\n", arguments.file);
  } else {
    fmt::print("{}", eim::manifest_text(*manifest));
  }
  return kOk;
}

int show_header(const Arguments& arguments) {
  auto manifest = read_host(arguments.file);
  if (!manifest) return report(manifest.error());
  std::string host = arguments.host;
  if (host.empty() && !manifest->is_object) host = arguments.file;
  if (!host.empty()) {
    char* absolute = ::realpath(host.c_str(), nullptr);
    if (absolute == nullptr) return report(Error::from_errno("eim header: " + host));
    host = absolute;
    std::free(absolute);
  }
  fmt::print("{}", eim::host_header(*manifest, host));
  return kOk;
}

int explain(const Arguments& arguments, bool json) {
  auto loaded = eim::load_policy(arguments.policy, {});
  if (!loaded) return report(loaded.error());
  const eim::ExtensionClass* granted = loaded->policy.find_class(arguments.file);
  if (granted == nullptr) {
    std::vector<std::string> names;
    for (const auto& one : loaded->policy.classes) names.push_back(one.name);
    return report(Error{EINVAL, "eim explain: " + arguments.file + ": no such class in " + arguments.policy +
                                    eim::nearest_hint(arguments.file, names)});
  }
  const std::string text =
      eim::explain_class(loaded->manifest, loaded->policy, *granted, *loaded->grant_of(granted->name));
  if (json) {
    print_json(Json{{"class", granted->name}, {"entry", granted->entry}, {"explanation", text}});
  } else {
    fmt::print("{}", text);
  }
  return kOk;
}

CLI::App* add_action(CLI::App& verb, const std::string& name, const std::string& what,
                     const std::string& examples) {
  CLI::App* action = verb.add_subcommand(name, what);
  action->fallthrough();
  action->footer("Examples:\n" + examples);
  return action;
}

}  // namespace

void add_eim(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "eim", "What an application offers to extensions, and what a policy grants",
                            "  bpftime eim manifest ./host\n  bpftime eim header ./host > host.ext.h\n"
                            "  bpftime eim check --policy host.policy.yaml\n"
                            "  bpftime eim explain firewall --policy host.policy.yaml\n");
  verb->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();

  CLI::App* manifest = add_action(*verb, "manifest", "Show what FILE declares with bpftime/eim.h",
                                  "  bpftime eim manifest ./host\n  bpftime --json eim manifest nginx.eim.o\n"
                                  "  bpftime eim manifest --embed ./host && strip ./host\n");
  manifest->add_option("FILE", arguments->file, "An annotated binary, or an object that describes one")
      ->required();
  manifest->add_flag("--embed", arguments->embed, "Store the types in FILE, so that strip keeps them");
  manifest->callback([=, &line] { line.run = [=, &line] { return show_manifest(*arguments, line.json); }; });

  CLI::App* header = add_action(*verb, "header", "Print the header that extensions include",
                                "  bpftime eim header ./host > host.ext.h\n"
                                "  bpftime eim header nginx.eim.o --host /usr/sbin/nginx > nginx.ext.h\n");
  header->add_option("FILE", arguments->file, "An annotated binary, or an object that describes one")
      ->required();
  header->add_option("--host", arguments->host, "The binary that FILE describes");
  header->callback([=, &line] { line.run = [=] { return show_header(*arguments); }; });

  auto checked = std::make_shared<EimCheck>();
  CLI::App* check_action =
      add_action(*verb, "check", "Check a policy, or an extension against its class, offline",
                 "  bpftime eim check --policy host.policy.yaml\n"
                 "  bpftime eim check firewall.bpf.o --policy host.policy.yaml\n"
                 "  bpftime eim check new.bpf.o --class firewall --policy host.policy.yaml\n");
  check_action->add_option("PROGRAM", checked->program, "An extension's object file");
  check_action->add_option("--policy", checked->policy, "The policy")->required();
  check_action->add_option("--class", checked->class_name,
                           "The class, where the policy names none for PROGRAM");
  check_action->callback([=, &line] { line.run = [=, &line] { return eim_check(*checked, line.json); }; });

  CLI::App* explain_action =
      add_action(*verb, "explain", "Say in sentences what an extension of CLASS can and cannot do",
                 "  bpftime eim explain firewall --policy host.policy.yaml\n");
  explain_action->add_option("CLASS", arguments->file, "A class of the policy")->required();
  explain_action->add_option("--policy", arguments->policy, "The policy")->required();
  explain_action->callback([=, &line] { line.run = [=, &line] { return explain(*arguments, line.json); }; });
}

}  // namespace bpftime::cli
