#include "eim/policy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/fd.h"
#include "eim/system_calls.h"
#include "eim/yaml_tree.h"

namespace bpftime::eim {
namespace {

constexpr size_t kClassesMax = 256, kExtensionsMax = 256, kAllowedMax = 512;
constexpr size_t kNameMax = 128;

class Reader {
 public:
  explicit Reader(Policy& policy) : policy_(policy) {}

  Result<void> run(const YamlNode& root) {
    if (root.kind != YamlNode::Kind::kMap)
      return error(root.position,
                   "a policy is a map with the keys version, manifest, classes and extensions");
    if (auto keys =
            check_keys(root, "a policy", {"version", "manifest", "host", "build", "classes", "extensions"});
        !keys)
      return keys;
    // The version first: another one may mean anything by the rest.
    const YamlNode* version = find(root, "version");
    if (version == nullptr) return error(root.position, "\"version: 1\" is missing");
    if (version->value != "1") return error(version->position, "this command knows version 1 only");
    if (auto read = files(root); !read) return read;
    if (auto read =
            each(root, "classes", kClassesMax, [&](const YamlNode& node) { return extension_class(node); });
        !read)
      return read;
    if (policy_.classes.empty())
      return error(root.position, "\"classes\" is missing: nothing is granted to anyone");
    if (auto fits = check_manifest(root); !fits) return fits;
    return each(root, "extensions", kExtensionsMax, [&](const YamlNode& node) { return extension(node); });
  }

 private:
  Error error(Position position, const std::string& what) const { return policy_.error(position, what); }

  static const YamlNode* find(const YamlNode& map, const std::string& key) {
    for (size_t i = 0; i < map.keys.size() && i < map.children.size(); ++i) {
      if (map.keys[i] == key) return &map.children[i];
    }
    return nullptr;
  }

  Result<void> check_keys(const YamlNode& map, const std::string& what,
                          const std::vector<std::string>& known) const {
    for (size_t i = 0; i < map.keys.size(); ++i) {
      if (std::find(known.begin(), known.end(), map.keys[i]) == known.end())
        return error(map.key_positions[i], what + " has no key \"" + map.keys[i].substr(0, kNameMax) + "\"" +
                                               nearest_hint(map.keys[i], known));
    }
    return {};
  }

  Result<void> scalar(const YamlNode& map, const std::string& key, bool required, std::string& out,
                      Position* position) const {
    const YamlNode* node = find(map, key);
    if (node == nullptr)
      return required ? Result<void>(error(map.position, "\"" + key + "\" is missing")) : Result<void>();
    if (node->kind != YamlNode::Kind::kScalar || node->value.empty() || node->value.size() > 4096 ||
        node->value.find('\0') != std::string::npos)
      return error(node->position, "\"" + key + "\" must be one word");
    out = node->value;
    if (position != nullptr) *position = node->position;
    return {};
  }

  std::string resolve(const std::string& file) const {
    const size_t slash = policy_.path.rfind('/');
    return file.empty() || file.front() == '/' || slash == std::string::npos
               ? file
               : policy_.path.substr(0, slash + 1) + file;
  }

  Result<void> files(const YamlNode& root) {
    std::string build;
    if (auto read = scalar(root, "manifest", false, policy_.manifest, &policy_.manifest_position); !read)
      return read;
    Position* place = policy_.manifest.empty() ? &policy_.manifest_position : nullptr;
    if (auto read = scalar(root, "host", false, policy_.host, place); !read) return read;
    if (auto read = scalar(root, "build", false, build, &policy_.build_position); !read) return read;
    policy_.manifest = resolve(policy_.manifest);
    policy_.host = resolve(policy_.host);
    if (build.empty()) return {};
    if (build == "any") {
      policy_.build = Policy::Build::kAny;
      return {};
    }
    const bool hex = build.size() >= 8 && build.size() <= 128 &&
                     build.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!hex)
      return error(policy_.build_position, "\"build\" is \"any\" or a build-id in lower-case hexadecimal" +
                                               nearest_hint(build, {"any"}));
    policy_.build = Policy::Build::kGiven;
    policy_.build_id = build;
    return {};
  }

  // System calls are nobody's to declare.
  Result<void> check_manifest(const YamlNode& root) const {
    if (!policy_.manifest.empty()) return {};
    for (const ExtensionClass& granted : policy_.classes)
      if (!is_system_call_entry(granted.entry))
        return error(root.position,
                     "\"manifest\" is missing: only classes for system calls need none, and \"" +
                         granted.name + "\" is for " + granted.entry);
    if (policy_.host.empty())
      return error(root.position, "\"host\" is missing: whose system calls? (`host: /usr/bin/…`)");
    return {};
  }

  template <typename Function>
  Result<void> each(const YamlNode& root, const std::string& key, size_t most, Function&& function) const {
    const YamlNode* list = find(root, key);
    if (list == nullptr || list->kind == YamlNode::Kind::kNull) return {};
    if (list->kind != YamlNode::Kind::kSequence)
      return error(list->position, "\"" + key + "\" must be a list");
    if (list->children.size() > most) return error(list->position, "too many " + key);
    for (const YamlNode& node : list->children) {
      if (node.kind != YamlNode::Kind::kMap)
        return error(node.position, "each of \"" + key + "\" must be a map");
      if (auto read = function(node); !read) return read;
    }
    return {};
  }

  Result<void> extension_class(const YamlNode& node) {
    ExtensionClass out;
    out.position = node.position;
    if (auto keys = check_keys(node, "a class", {"name", "extension_entry", "allowed", "isolation"}); !keys)
      return keys;
    if (auto read = scalar(node, "name", true, out.name, &out.position); !read) return read;
    if (out.name.size() > kNameMax) return error(out.position, "the name is too long");
    if (policy_.find_class(out.name) != nullptr)
      return error(out.position, "class \"" + out.name + "\" is declared twice");
    if (auto read = scalar(node, "extension_entry", true, out.entry, &out.entry_position); !read) return read;
    if (const YamlNode* isolation = find(node, "isolation"))
      return not_yet(isolation->position, isolation->value);
    const YamlNode* allowed = find(node, "allowed");
    if (allowed == nullptr)
      return error(out.position, "class \"" + out.name + "\" needs \"allowed\", if only []");
    out.allowed_position = allowed->position;
    if (allowed->kind != YamlNode::Kind::kSequence && allowed->kind != YamlNode::Kind::kNull)
      return error(allowed->position, "\"allowed\" must be a list");
    if (auto read = capabilities(*allowed, out); !read) return read;
    policy_.classes.push_back(std::move(out));
    return {};
  }

  Error not_yet(Position position, const std::string& what) const {
    return policy_.error(position, "isolation: " + what + ": not yet built; nothing is isolated by hardware",
                         ENOTSUP);
  }

  // In brackets a comma ends an item, also that of `f(rc in 403, 404)`: what has an open parenthesis goes on with the next.
  Result<void> capabilities(const YamlNode& list, ExtensionClass& out) const {
    if (list.children.size() > kAllowedMax) return error(list.position, "too many capabilities");
    std::string text;
    Position start;
    int open = 0;
    for (const YamlNode& item : list.children) {
      if (item.kind == YamlNode::Kind::kMap && item.keys.size() == 1 && item.keys[0] == "isolation")
        return not_yet(item.key_positions[0], item.children.empty() ? "" : item.children[0].value);
      if (item.kind != YamlNode::Kind::kScalar || item.value.empty())
        return error(item.position, "expected a capability, such as read(r) or instructions < 5000");
      if (open == 0) {
        text.clear();
        start = item.position;
      } else {
        text += ", ";
      }
      text += item.value;
      for (const char c : item.value) open += c == '(' ? 1 : c == ')' ? -1 : 0;
      if (list.is_flow && open > 0) continue;
      open = 0;
      if (auto added = capability(text, start, out); !added) return added;
    }
    return open > 0 ? capability(text, start, out) : Result<void>();
  }

  Result<void> capability(const std::string& text, Position start, ExtensionClass& out) const {
    auto parsed = parse_capability(text, start, policy_);
    if (!parsed) return parsed.error();
    using Kind = Capability::Kind;
    const bool only_once =
        parsed->kind == Kind::kInstructions || parsed->kind == Kind::kMemory || parsed->kind == Kind::kReturn;
    for (const Capability& other : out.allowed) {
      if (other.kind != parsed->kind) continue;
      if (only_once || (parsed->kind == Kind::kName && other.name == parsed->name))
        return error(start, "\"" + text.substr(0, kNameMax) + "\": granted before, on line " +
                                std::to_string(other.position.line));
    }
    out.allowed.push_back(std::move(*parsed));
    return {};
  }

  Result<void> extension(const YamlNode& node) {
    Extension out;
    out.position = node.position;
    Position class_position;
    if (auto keys = check_keys(node, "an extension", {"program", "class", "function"}); !keys) return keys;
    if (auto read = scalar(node, "program", true, out.program, &out.position); !read) return read;
    if (auto read = scalar(node, "function", false, out.function, nullptr); !read) return read;
    if (auto read = scalar(node, "class", true, out.class_name, &class_position); !read) return read;
    out.program = resolve(out.program);
    if (policy_.find_class(out.class_name) == nullptr) {
      std::vector<std::string> names;
      for (const ExtensionClass& one : policy_.classes) names.push_back(one.name);
      return error(class_position, "there is no class \"" + out.class_name.substr(0, kNameMax) + "\"" +
                                       nearest_hint(out.class_name, names));
    }
    policy_.extensions.push_back(std::move(out));
    return {};
  }

  Policy& policy_;
};

}  // namespace

const ExtensionClass* Policy::find_class(const std::string& name) const {
  const auto found = std::find_if(classes.begin(), classes.end(),
                                  [&](const ExtensionClass& one) { return one.name == name; });
  return found == classes.end() ? nullptr : &*found;
}

Error Policy::error(Position position, const std::string& what, int code) const {
  return Error{
      code, path + ":" + std::to_string(position.line) + ":" + std::to_string(position.column) + ": " + what};
}

Result<Policy> parse_policy(const std::string& text, const std::string& path) {
  auto root = parse_yaml(text, path);
  if (!root) return root.error();
  Policy policy;
  policy.path = path;
  if (auto read = Reader(policy).run(*root); !read) return read.error();
  return policy;
}

Result<Policy> read_policy(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat st;
  if (!fd || ::fstat(fd.get(), &st) != 0) return Error::from_errno("read policy: " + path);
  if (!S_ISREG(st.st_mode)) return Error{EINVAL, "read policy: " + path + ": not a regular file"};
  std::string text(kPolicyBytesMax + 1, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::read(fd.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::from_errno("read policy: " + path);
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  text.resize(done);
  return parse_policy(text, path);
}

}  // namespace bpftime::eim
