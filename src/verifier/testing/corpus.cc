#include "verifier/testing/corpus.h"

#include <lzma.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "verifier/testing/maps.h"

namespace bpftime::verifier::testing {
namespace {

using program::Insn;
using Json = nlohmann::json;

// The suites' own flags of a test.
constexpr uint32_t kNeedsUnalignedAccess = 1;
constexpr uint32_t kWantsStrictAlignment = 2;
constexpr uint32_t kFuncInfoRecordSize = 8;
constexpr int32_t kNoMap = 0x7fffffff;
constexpr uint8_t kLoadImm64 = BPF_LD | BPF_IMM | BPF_DW;

Result<std::string> decompress(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error{ENOENT, "corpus: " + path + ": cannot be read"};
  const std::string packed((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, UINT64_MAX, LZMA_CONCATENATED) != LZMA_OK)
    return Error{ENOMEM, "corpus: liblzma"};
  stream.next_in = reinterpret_cast<const uint8_t*>(packed.data());
  stream.avail_in = packed.size();
  std::string out;
  std::vector<uint8_t> chunk(1 << 16);
  lzma_ret status = LZMA_OK;
  while (status == LZMA_OK) {
    stream.next_out = chunk.data();
    stream.avail_out = chunk.size();
    status = lzma_code(&stream, LZMA_FINISH);
    out.append(reinterpret_cast<const char*>(chunk.data()), chunk.size() - stream.avail_out);
  }
  lzma_end(&stream);
  if (status != LZMA_STREAM_END) return Error{EIO, "corpus: " + path + ": not a whole .xz file"};
  return out;
}

std::vector<uint8_t> from_hex(const std::string& text) {
  std::vector<uint8_t> out(text.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<uint8_t>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
  }
  return out;
}

uint32_t number(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() || found->is_null() ? 0 : found->get<uint32_t>();
}

std::string text(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() || !found->is_string() ? "" : found->get<std::string>();
}

bool takes_a_map(const Insn& insn) {
  return insn.code == kLoadImm64 &&
         (insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE);
}

// The suites write a descriptor into every listed instruction, whatever a mutation made of it; and what they do
// not list has no valid descriptor, even if its imm would be a good index.
void place_maps(const Json& json, Case& test) {
  std::vector<Insn>& insns = test.request.program.insns;
  for (size_t i = 0; i < insns.size(); ++i) {
    if (takes_a_map(insns[i])) insns[i].imm = kNoMap;
    if (insns[i].code == kLoadImm64) ++i;
  }
  for (const Json& entry : json.at("maps")) {
    const auto kind = entry.at("kind").get<std::string>();
    auto map = standard_map(kind);
    if (!map) {
      test.unusable = "nobody has maps of kind " + kind;
      continue;
    }
    const auto index = static_cast<int32_t>(test.request.maps.size());
    test.request.maps.push_back(std::move(*map));
    for (const Json& place : entry.at("insns")) {
      const auto at = place.get<size_t>();
      if (at >= insns.size()) continue;
      // Descriptors are small positive numbers; 0 would make a harmless instruction of a mutated one.
      insns[at].imm = takes_a_map(insns[at]) ? index : index + 3;
    }
  }
}

void place_types(const Json& json, Case& test) {
  const std::string types_hex = text(json, "btf_types");
  if (types_hex.empty()) return;
  const std::vector<uint8_t> types = from_hex(types_hex), strings = from_hex(text(json, "btf_strings"));
  const uint32_t header[] = {0x0001eb9f,
                             24,
                             0,
                             static_cast<uint32_t>(types.size()),
                             static_cast<uint32_t>(types.size()),
                             static_cast<uint32_t>(strings.size())};
  const auto* bytes = reinterpret_cast<const uint8_t*>(header);
  std::vector<uint8_t>& blob = test.request.btf;
  blob.assign(bytes, bytes + sizeof(header));
  blob.insert(blob.end(), types.begin(), types.end());
  blob.insert(blob.end(), strings.begin(), strings.end());
  test.request.func_info_record_size = kFuncInfoRecordSize;
  for (const Json& record : json.at("func_info")) {
    for (const Json& field : record) {
      const auto value = field.get<uint32_t>();
      const auto* raw = reinterpret_cast<const uint8_t*>(&value);
      test.request.func_info.insert(test.request.func_info.end(), raw, raw + sizeof(value));
    }
  }
}

uint32_t load_flags(uint32_t suite_flags) {
  uint32_t flags = suite_flags & ~(kNeedsUnalignedAccess | kWantsStrictAlignment);
  if (suite_flags & kNeedsUnalignedAccess) flags |= BPF_F_ANY_ALIGNMENT;
  if (suite_flags & kWantsStrictAlignment) flags |= BPF_F_STRICT_ALIGNMENT;
  return flags;
}

Case parse(const Json& json) {
  Case test;
  const std::string id = text(json, "id");
  test.id = id.empty() ? text(json, "name") : id;
  test.title = id.empty() ? "" : text(json, "name");
  test.family = text(json, "src");
  test.accepted = text(json, "expected") == "accept";
  test.kernel_last_line = text(json, "kernel_last_line");
  if (const auto portable = json.find("portable"); portable != json.end())
    test.portable = portable->get<bool>();

  Request& request = test.request;
  request.program.name = "test";
  request.program.type = number(json, "prog_type");
  request.expected_attach_type = number(json, "attach_type");
  request.license = "GPL";
  request.flags = load_flags(number(json, "flags"));
  request.options.strict_alignment = (request.flags & BPF_F_STRICT_ALIGNMENT) != 0;
  const std::vector<uint8_t> code = from_hex(text(json, "insns"));
  request.program.insns.resize(code.size() / sizeof(Insn));
  if (!code.empty())
    std::memcpy(request.program.insns.data(), code.data(), request.program.insns.size() * sizeof(Insn));
  place_maps(json, test);
  place_types(json, test);
  if (!text(json, "kfunc").empty()) test.unusable = "attaches to a function of the kernel";
  if (const auto retval = json.find("retval"); retval != json.end() && retval->is_number()) {
    test.retval = static_cast<uint32_t>(retval->get<int64_t>());
    test.retval_data = from_hex(text(json, "retval_data"));
  }
  return test;
}

Result<std::vector<Case>> load(const std::string& name) {
  const std::string directory = verifier_corpus_directory();
  if (directory.empty()) return Error{ENOENT, "corpus: not found; try BPFTIME_CORPORA=DIRECTORY"};
  auto lines = decompress(directory + "/" + name);
  if (!lines) return lines.error();
  std::vector<Case> cases;
  try {
    for (size_t at = 0; at < lines->size();) {
      const size_t end = std::min(lines->find('\n', at), lines->size());
      if (end > at) cases.push_back(parse(Json::parse(lines->begin() + at, lines->begin() + end)));
      at = end + 1;
    }
  } catch (const std::exception& problem) {
    return Error{EINVAL, "corpus: " + name + ": " + problem.what()};
  }
  return cases;
}

}  // namespace

std::string verifier_corpus_directory() {
  std::string root;
  if (const char* given = std::getenv("BPFTIME_CORPORA")) {
    root = given;
  } else if (const char* source = std::getenv("BPFTIME_SOURCE_DIR")) {
    root = std::string(source) + "/../shared/corpora";
  }
  if (root.empty()) return "";
  root += "/verifier";
  std::error_code ignored;
  return std::filesystem::is_directory(root, ignored) ? root : "";
}

Result<std::vector<Case>> load_pairs() { return load("pairs-visible.jsonl.xz"); }
Result<std::vector<Case>> load_mutants() { return load("mutants-visible.jsonl.xz"); }

std::string program_type_name(uint32_t type) {
  static const char* const kNames[] = {"unspec",
                                       "socket_filter",
                                       "kprobe",
                                       "sched_cls",
                                       "sched_act",
                                       "tracepoint",
                                       "xdp",
                                       "perf_event",
                                       "cgroup_skb",
                                       "cgroup_sock",
                                       "lwt_in",
                                       "lwt_out",
                                       "lwt_xmit",
                                       "sock_ops",
                                       "sk_skb",
                                       "cgroup_device",
                                       "sk_msg",
                                       "raw_tracepoint",
                                       "cgroup_sock_addr",
                                       "lwt_seg6local",
                                       "lirc_mode2",
                                       "sk_reuseport",
                                       "flow_dissector",
                                       "cgroup_sysctl",
                                       "raw_tracepoint_writable",
                                       "cgroup_sockopt",
                                       "tracing",
                                       "struct_ops",
                                       "ext",
                                       "lsm",
                                       "sk_lookup",
                                       "syscall"};
  return type < std::size(kNames) ? kNames[type] : "type " + std::to_string(type);
}

}  // namespace bpftime::verifier::testing
