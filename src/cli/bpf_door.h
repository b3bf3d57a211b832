// bpf(2) against the daemon, from inside the command: the loader's own marshalling without its interposition, so that
// `bpftime prog|map|link` ask exactly what tools ask, and get the same answers.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace bpftime::cli {

// Keys in the order they were put: bpftool's.
using OrderedJson = nlohmann::ordered_json;

enum class ObjectType { kProgram, kMap, kLink, kBtf };
const char* word_of(ObjectType type);  // prog, map, link, btf

// Reaches the daemon (started when there is none) for the calls below. Call once, first.
Result<void> open_bpf_door();
// The same, but ENOENT or ECONNREFUSED when no daemon runs.
Result<void> open_bpf_door_if_running();

// The call's result, or its errno. `what` opens the message: "map update: id 3".
Result<int64_t> bpf(int command, const bpf_attr& attr, const std::string& what);
// The same for calls that answer in attr.
Result<int64_t> bpf_in_out(int command, bpf_attr& attr, const std::string& what);

// All ids of a kind, ascending.
Result<std::vector<uint32_t>> ids_of(ObjectType type);
Result<Fd> open_by_id(ObjectType type, uint32_t id);
// Follows /sys/fs/bpf paths. What is pinned there must be of that kind: EINVAL else.
Result<Fd> open_pinned(ObjectType type, const std::string& path);
Result<void> pin(const Fd& object, const std::string& path, const std::string& what);

struct ProgramInfo {
  bpf_prog_info info{};
  std::vector<uint32_t> map_ids;
};
Result<ProgramInfo> program_info(const Fd& fd);
Result<bpf_map_info> map_info(const Fd& fd);

struct LinkInfo {
  bpf_link_info info{};
  std::string tracepoint;  // of raw_tracepoint links
};
Result<LinkInfo> link_info(const Fd& fd);

// What a program's BTF tells of it besides.
struct ProgramText {
  std::vector<bpf_insn> insns;
  std::vector<bpf_func_info> functions;
  std::vector<bpf_line_info> lines;
};
Result<ProgramText> program_text(const Fd& fd);

// What it was compiled to; empty: not yet.
Result<std::vector<uint8_t>> machine_code(const Fd& fd);

// The bytes BPF_BTF_LOAD took.
Result<std::vector<uint8_t>> btf_blob(uint32_t id);

// "kprobe", "hash": bpftool's words; the number for what has none here.
std::string program_type_word(uint32_t type);
std::string map_type_word(uint32_t type);
Result<uint32_t> map_type_of(const std::string& word);
std::string link_type_word(uint32_t type);

}  // namespace bpftime::cli
