#include "eim/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <sstream>

namespace bpftime::eim {
namespace {

Position position_of(const YAML::Mark& mark) {
  return {static_cast<uint32_t>(mark.line + 1), static_cast<uint32_t>(mark.column + 1)};
}

// Builds the tree; what a policy has no use for stops the parser at once, before it can grow.
class Builder : public YAML::EventHandler {
 public:
  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(mark, YamlNode{});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw YAML::ParserException(mark, "aliases (*name) are not supported in policies");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    YamlNode node;
    node.kind = YamlNode::Kind::kScalar;
    node.value = value;
    add(mark, std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value style) override {
    open(mark, tag, anchor, style, YamlNode::Kind::kSequence);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value style) override {
    open(mark, tag, anchor, style, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  static void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) throw YAML::ParserException(mark, "anchors (&name) are not supported in policies");
  }
  static void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    // "?" and "!" are what the library calls plain and quoted scalars.
    if (!tag.empty() && tag != "?" && tag != "!")
      throw YAML::ParserException(mark, "tags (!name) are not supported in policies");
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            YAML::EmitterStyle::value style, YamlNode::Kind kind) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (open_.size() >= kYamlDepthMax) throw YAML::ParserException(mark, "nested too deep");
    YamlNode node;
    node.kind = kind;
    node.is_flow = style == YAML::EmitterStyle::Flow;
    // A child may only move while its parent grows, and a parent does not grow while a child is open.
    open_.push_back(&add(mark, std::move(node)));
  }

  YamlNode& add(const YAML::Mark& mark, YamlNode node) {
    if (++nodes_ > kYamlNodesMax) throw YAML::ParserException(mark, "too many items");
    node.position = position_of(mark);
    if (open_.empty()) {
      root_ = std::move(node);
      return root_;
    }
    YamlNode& parent = *open_.back();
    if (parent.kind == YamlNode::Kind::kMap && parent.keys.size() == parent.children.size()) {
      if (node.kind != YamlNode::Kind::kScalar) throw YAML::ParserException(mark, "a key must be a word");
      for (const std::string& key : parent.keys) {
        if (key == node.value) throw YAML::ParserException(mark, "\"" + key + "\" is given twice");
      }
      parent.keys.push_back(std::move(node.value));
      parent.key_positions.push_back(node.position);
      return parent;  // not opened: scalars only
    }
    parent.children.push_back(std::move(node));
    return parent.children.back();
  }

  YamlNode root_;
  std::vector<YamlNode*> open_;
  size_t nodes_ = 0;
};

std::string where(const std::string& path, const YAML::Mark& mark) {
  if (mark.is_null()) return path + ": ";
  const Position position = position_of(mark);
  return path + ":" + std::to_string(position.line) + ":" + std::to_string(position.column) + ": ";
}

}  // namespace

Result<YamlNode> parse_yaml(const std::string& text, const std::string& path) {
  if (text.size() > kPolicyBytesMax) return Error{E2BIG, path + ": larger than 256 KiB; no policy is"};
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Builder builder;
    if (!parser.HandleNextDocument(builder)) return Error{EINVAL, path + ":1:1: the file is empty"};
    Builder rest;
    if (parser.HandleNextDocument(rest)) return Error{EINVAL, path + ": more than one YAML document"};
    return builder.take();
  } catch (const YAML::Exception& error) {
    return Error{EINVAL, where(path, error.mark) + error.msg};
  } catch (const std::exception& error) {
    return Error{EINVAL, path + ": not YAML: " + error.what()};
  }
}

}  // namespace bpftime::eim
