#include "cli/bpf_door.h"

#include <bpf/libbpf.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cli/connection.h"
#include "cli/usage.h"
#include "loader/calls.h"
#include "loader/objects.h"
#include "maps/types.h"

namespace bpftime::cli {
namespace {

constexpr size_t kIdsMax = 1u << 20;        // of one kind that are listed
constexpr size_t kBtfBytesMax = 16u << 20;  // BTF_MAX_SIZE
constexpr uint32_t kCountMax = 1u << 20;    // of anything an info structure counts

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

template <typename T>
Result<void> get_info(const Fd& fd, T& info, const std::string& what) {
  bpf_attr attr{};
  attr.info.bpf_fd = static_cast<uint32_t>(fd.get());
  attr.info.info_len = sizeof info;
  attr.info.info = address_of(&info);
  if (auto asked = bpf(BPF_OBJ_GET_INFO_BY_FD, attr, what); !asked) return asked.error();
  return {};
}

Result<void> open_door(bool start) {
  auto directory = find_runtime_directory();
  if (!directory) return directory.error();
  auto daemon = start ? Connection::to_daemon(*directory) : Connection::to_running(*directory);
  if (!daemon) return daemon.error();
  ::setenv("BPFTIME_SOCKET", directory->socket().c_str(), 1);
  // What `load` sets for a tool is not meant for us.
  for (const char* name :
       {"BPFTIME_POLICY", "BPFTIME_POLICY_HOST", "BPFTIME_POLICY_CLASS", "BPFTIME_KERNEL_VERIFIER"})
    ::unsetenv(name);
  return {};
}

// libbpf's tables have the kernel's words, but for those that bpftool has always shown otherwise.
std::string word_or_number(const char* word, uint32_t type) {
  return word != nullptr ? std::string(word) : "type " + std::to_string(type);
}

}  // namespace

const char* word_of(ObjectType type) {
  switch (type) {
    case ObjectType::kProgram:
      return "prog";
    case ObjectType::kMap:
      return "map";
    case ObjectType::kLink:
      return "link";
    case ObjectType::kBtf:
      return "btf";
  }
  return "object";
}

Result<void> open_bpf_door() { return open_door(true); }
Result<void> open_bpf_door_if_running() { return open_door(false); }

Result<int64_t> bpf_in_out(int command, bpf_attr& attr, const std::string& what) {
  const int64_t result = loader::bpf_call(static_cast<uint32_t>(command), address_of(&attr), sizeof attr);
  if (result >= 0) return result;
  const int code = static_cast<int>(-result);
  constexpr int kNotSupported = 524;  // ENOTSUPP, which libc has no text for
  return Error{code, what + ": " + (code == kNotSupported ? "not supported" : std::strerror(code))};
}

Result<int64_t> bpf(int command, const bpf_attr& attr, const std::string& what) {
  bpf_attr copy = attr;
  return bpf_in_out(command, copy, what);
}

Result<std::vector<uint32_t>> ids_of(ObjectType type) {
  const int command = type == ObjectType::kProgram ? BPF_PROG_GET_NEXT_ID
                      : type == ObjectType::kMap   ? BPF_MAP_GET_NEXT_ID
                      : type == ObjectType::kLink  ? BPF_LINK_GET_NEXT_ID
                                                   : BPF_BTF_GET_NEXT_ID;
  std::vector<uint32_t> ids;
  bpf_attr attr{};
  while (ids.size() < kIdsMax) {
    auto next = bpf_in_out(command, attr, std::string(word_of(type)) + " show");
    if (!next && next.error().code == ENOENT) break;
    if (!next) return next.error();
    if (attr.next_id <= attr.start_id) break;
    ids.push_back(attr.next_id);
    attr = bpf_attr{};
    attr.start_id = ids.back();
  }
  return ids;
}

Result<Fd> open_by_id(ObjectType type, uint32_t id) {
  const int command = type == ObjectType::kProgram ? BPF_PROG_GET_FD_BY_ID
                      : type == ObjectType::kMap   ? BPF_MAP_GET_FD_BY_ID
                      : type == ObjectType::kLink  ? BPF_LINK_GET_FD_BY_ID
                                                   : BPF_BTF_GET_FD_BY_ID;
  bpf_attr attr{};
  attr.start_id = id;  // prog_id, map_id, link_id and btf_id stand in the same place
  const std::string word = word_of(type);
  auto fd = bpf(command, attr, word + " " + std::to_string(id));
  if (fd) return Fd(static_cast<int>(*fd));
  if (fd.error().code != ENOENT) return fd.error();
  return Error{ENOENT, word + " " + std::to_string(id) + ": no such id; try `bpftime " + word + " show`"};
}

Result<Fd> open_pinned(ObjectType type, const std::string& path) {
  bpf_attr attr{};
  attr.pathname = address_of(path.c_str());
  auto fd = bpf(BPF_OBJ_GET, attr, std::string(word_of(type)) + " pinned " + path);
  // As the kernel answers for any file that is no pin.
  if (!fd && fd.error().code == EACCES)
    return Error{EACCES, fd.error().message + "; no pin of bpftime's: those lie below /sys/fs/bpf"};
  if (!fd) return fd.error();
  Fd object(static_cast<int>(*fd));
  // Asking as the wrong kind would read another kind's structure.
  const auto header = loader::find_object(object.get());
  const wire::ObjectKind wanted = type == ObjectType::kProgram ? wire::ObjectKind::kProgram
                                  : type == ObjectType::kMap   ? wire::ObjectKind::kMap
                                                               : wire::ObjectKind::kLink;
  if (header == nullptr || header->kind != wanted)
    return Error{EINVAL, std::string(word_of(type)) + " pinned " + path + ": an object of another kind"};
  return object;
}

Result<void> pin(const Fd& object, const std::string& path, const std::string& what) {
  bpf_attr attr{};
  attr.bpf_fd = static_cast<uint32_t>(object.get());
  attr.pathname = address_of(path.c_str());
  auto done = bpf(BPF_OBJ_PIN, attr, what + ": " + path);
  if (!done && done.error().code == ENOENT)
    return Error{ENOENT, done.error().message + ": its directory; try a name directly below /sys/fs/bpf"};
  if (!done) return Error{done.error().code, done.error().message + "; try a new name below /sys/fs/bpf"};
  return {};
}

Result<ProgramInfo> program_info(const Fd& fd) {
  ProgramInfo out;
  if (auto got = get_info(fd, out.info, "prog info"); !got) return got.error();
  if (out.info.nr_map_ids == 0 || out.info.nr_map_ids > kCountMax) return out;
  out.map_ids.resize(out.info.nr_map_ids);
  bpf_prog_info again{};
  again.nr_map_ids = out.info.nr_map_ids;
  again.map_ids = address_of(out.map_ids.data());
  if (auto got = get_info(fd, again, "prog info"); !got) return got.error();
  out.map_ids.resize(std::min<size_t>(out.map_ids.size(), again.nr_map_ids));
  return out;
}

Result<bpf_map_info> map_info(const Fd& fd) {
  bpf_map_info info{};
  if (auto got = get_info(fd, info, "map info"); !got) return got.error();
  return info;
}

Result<LinkInfo> link_info(const Fd& fd) {
  LinkInfo out;
  if (auto got = get_info(fd, out.info, "link info"); !got) return got.error();
  if (out.info.type != BPF_LINK_TYPE_RAW_TRACEPOINT) return out;
  char name[256] = {};
  bpf_link_info again{};
  again.raw_tracepoint.tp_name = address_of(name);
  again.raw_tracepoint.tp_name_len = sizeof name;
  if (auto got = get_info(fd, again, "link info"); !got) return got.error();
  out.tracepoint = std::string(name, strnlen(name, sizeof name));
  return out;
}

Result<ProgramText> program_text(const Fd& fd) {
  bpf_prog_info sizes{};
  if (auto got = get_info(fd, sizes, "prog info"); !got) return got.error();
  if (sizes.nr_func_info > kCountMax || sizes.nr_line_info > kCountMax ||
      sizes.xlated_prog_len / sizeof(bpf_insn) > kCountMax)
    return Error{EPROTO, "prog info: more than any program has"};
  ProgramText text;
  text.insns.resize(sizes.xlated_prog_len / sizeof(bpf_insn));
  text.functions.resize(sizes.nr_func_info);
  text.lines.resize(sizes.nr_line_info);
  bpf_prog_info info{};
  info.xlated_prog_len = sizes.xlated_prog_len;
  info.xlated_prog_insns = address_of(text.insns.data());
  info.nr_func_info = sizes.nr_func_info;
  info.func_info_rec_size = sizeof(bpf_func_info);
  info.func_info = address_of(text.functions.data());
  info.nr_line_info = sizes.nr_line_info;
  info.line_info_rec_size = sizeof(bpf_line_info);
  info.line_info = address_of(text.lines.data());
  if (auto got = get_info(fd, info, "prog info"); !got) return got.error();
  return text;
}

Result<std::vector<uint8_t>> machine_code(const Fd& fd) {
  constexpr uint32_t kCodeMax = 64u << 20;
  bpf_prog_info sizes{};
  if (auto got = get_info(fd, sizes, "prog info"); !got) return got.error();
  std::vector<uint8_t> code(std::min(sizes.jited_prog_len, kCodeMax));
  bpf_prog_info info{};
  info.jited_prog_len = static_cast<uint32_t>(code.size());
  info.jited_prog_insns = address_of(code.data());
  if (auto got = get_info(fd, info, "prog info"); !got) return got.error();
  return code;
}

Result<std::vector<uint8_t>> btf_blob(uint32_t id) {
  auto fd = open_by_id(ObjectType::kBtf, id);
  if (!fd) return fd.error();
  bpf_btf_info info{};
  if (auto got = get_info(*fd, info, "btf info"); !got) return got.error();
  if (info.btf_size > kBtfBytesMax) return Error{EPROTO, "btf info: larger than any BTF"};
  std::vector<uint8_t> blob(info.btf_size);
  bpf_btf_info again{};
  again.btf = address_of(blob.data());
  again.btf_size = info.btf_size;
  if (auto got = get_info(*fd, again, "btf info"); !got) return got.error();
  return blob;
}

std::string program_type_word(uint32_t type) {
  return word_or_number(libbpf_bpf_prog_type_str(static_cast<bpf_prog_type>(type)), type);
}

namespace {

// nullptr: nobody has a name for it.
const char* map_type_name(uint32_t type) {
  const char* name = maps::type_name(type);
  return *name != 0 ? name : libbpf_bpf_map_type_str(static_cast<bpf_map_type>(type));
}

}  // namespace

std::string map_type_word(uint32_t type) { return word_or_number(map_type_name(type), type); }

Result<uint32_t> map_type_of(const std::string& word) {
  constexpr uint32_t kTypesMax = 64;
  std::vector<std::string> known;
  for (uint32_t type = 1; type < kTypesMax; ++type) {
    const char* name = map_type_name(type);
    if (name != nullptr && word == name) return type;
    if (name != nullptr) known.push_back(name);
  }
  return Error{EINVAL, "map create: type " + word + ": not a type of map" +
                           hint(word, known, "bpftime map create --help")};
}

std::string link_type_word(uint32_t type) {
  return word_or_number(libbpf_bpf_link_type_str(static_cast<bpf_link_type>(type)), type);
}

}  // namespace bpftime::cli
