#include "cli/bpf_objects.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <elf.h>
#include <fmt/core.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include "base/bytes.h"
#include "cli/offline_bpf.h"

namespace bpftime::cli {
namespace {

constexpr size_t kFileSizeMax = 512u << 20;
constexpr size_t kObjectsMax = 64;  // in one file

// What libbpf complains about last: its reason, in its own words.
std::string complaint;

int keep_complaint(libbpf_print_level level, const char* format, va_list arguments) {
  if (level != LIBBPF_WARN) return 0;
  char line[512];
  vsnprintf(line, sizeof(line), format, arguments);
  std::string text = line;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.starts_with("libbpf: ")) text.erase(0, 8);
  complaint += (complaint.empty() ? "" : "; ") + text;
  return 0;
}

Result<std::vector<uint8_t>> read_file(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (error && status.type() != std::filesystem::file_type::not_found)
    return Error{error.value(), "verify: " + path + ": " + error.message()};
  if (std::filesystem::is_other(status))
    return Error{EINVAL, "verify: " + path + ": not a regular file; try a copy of its content"};
  const auto size = std::filesystem::file_size(path, error);
  if (error) return Error{error.value(), "verify: " + path + ": " + error.message()};
  if (size > kFileSizeMax) return Error{EFBIG, "verify: " + path + ": larger than 512 MiB"};
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error{errno, "verify: " + path + ": " + std::strerror(errno)};
  std::vector<uint8_t> bytes(size);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!file) return Error{EIO, "verify: " + path + ": cannot be read to its end; try a copy of it"};
  return bytes;
}

// An object of BPF that is not whole: nothing in it is where it says.
bool begins_an_object(Bytes bytes) {
  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  return header && std::memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_machine == EM_BPF;
}

// The bytes of the BPF object that begins here; empty: none does. The section headers come last in what compilers and
// linkers write, but sections behind them count as well.
Bytes object_at(Bytes bytes) {
  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_machine != EM_BPF ||
      header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shentsize != sizeof(Elf64_Shdr))
    return {};
  uint64_t end = header->e_shoff + uint64_t{header->e_shnum} * sizeof(Elf64_Shdr);
  if (header->e_shoff > bytes.size() || end > bytes.size()) return {};
  for (uint32_t i = 0; i < header->e_shnum; ++i) {
    const auto section = read_at<Elf64_Shdr>(bytes, header->e_shoff + i * sizeof(Elf64_Shdr));
    if (!section || section->sh_type == SHT_NOBITS) continue;
    if (section->sh_offset > bytes.size() || section->sh_size > bytes.size() - section->sh_offset) return {};
    end = std::max(end, section->sh_offset + section->sh_size);
  }
  return bytes.first(end);
}

std::vector<Bytes> find_objects(Bytes file) {
  std::vector<Bytes> found;
  for (size_t at = 0; at < file.size() && found.size() < kObjectsMax;) {
    const void* next = ::memmem(file.data() + at, file.size() - at, ELFMAG, SELFMAG);
    if (next == nullptr) break;
    at = static_cast<size_t>(static_cast<const uint8_t*>(next) - file.data());
    const Bytes object = object_at(file.subspan(at));
    if (!object.empty()) found.push_back(object);
    at += std::max<size_t>(object.size(), SELFMAG);
  }
  return found;
}

struct Close {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};

// Which programs are loaded: those asked for, of types that run here. Returns them all, in the object's order.
std::vector<ObjectProgram> choose(bpf_object* object, const Selection& selection, OfflineBpf& bpf) {
  std::vector<ObjectProgram> programs;
  bpf_program* program;
  bpf_object__for_each_program(program, object) {
    ObjectProgram out;
    out.name = bpf_program__name(program);
    out.section = bpf_program__section_name(program);
    const auto type = static_cast<uint32_t>(bpf_program__type(program));
    const char* name = libbpf_bpf_prog_type_str(bpf_program__type(program));
    out.type = name != nullptr ? name : fmt::format("{}", type);
    const bool wanted = selection.program.empty() ? selection.all || bpf_program__autoload(program)
                                                  : selection.program == out.name;
    if (!wanted)
      out.not_judged = selection.program.empty() ? "loaded on demand only; --all judges it" : "not asked for";
    else if (type == BPF_PROG_TYPE_UNSPEC)
      out.not_judged = "section " + out.section + " says no program type";
    else if (!runs_here(type))
      out.not_judged = "type " + out.type + " does not run here";
    bpf_program__set_autoload(program, out.not_judged.empty());
    if (out.not_judged.empty()) bpf.expect(out.name);
    programs.push_back(std::move(out));
  }
  return programs;
}

// libbpf loads programs in the object's order, so loads and programs pair up.
void pair_up(std::vector<ObjectProgram>& programs, const std::vector<verifier::Request>& loads) {
  size_t next = 0;
  for (ObjectProgram& program : programs) {
    if (!program.not_judged.empty() || next == loads.size()) continue;
    if (loads[next].program.name != program.name.substr(0, BPF_OBJ_NAME_LEN - 1)) continue;
    program.request = loads[next++];
    program.request->program.name = program.name;
  }
}

BpfObject read_object(Bytes bytes, const std::string& name, const Selection& selection,
                      const ModuleBtf* module) {
  BpfObject out;
  out.name = name;
  complaint.clear();
  OfflineBpf bpf;
  if (module != nullptr) bpf.serve_module(module->name, module->blob);
  LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "object");
  const std::unique_ptr<bpf_object, Close> object(bpf_object__open_mem(bytes.data(), bytes.size(), &options));
  if (!object) {
    out.error = "libbpf cannot open it: " + (complaint.empty() ? std::strerror(errno) : complaint);
    return out;
  }
  out.programs = choose(object.get(), selection, bpf);
  const int loaded = bpf_object__load(object.get());
  if (loaded != 0)
    out.error = "libbpf cannot load it: " + (complaint.empty() ? std::strerror(-loaded) : complaint);
  pair_up(out.programs, bpf.loads());
  return out;
}

}  // namespace

bool runs_here(uint32_t type) {
  switch (type) {
    case BPF_PROG_TYPE_SOCKET_FILTER:
    case BPF_PROG_TYPE_KPROBE:
    case BPF_PROG_TYPE_TRACEPOINT:
    case BPF_PROG_TYPE_XDP:
    case BPF_PROG_TYPE_PERF_EVENT:
    case BPF_PROG_TYPE_RAW_TRACEPOINT:
      return true;
    default:
      return false;
  }
}

Result<std::vector<BpfObject>> read_objects(const std::string& path, const Selection& selection,
                                            const ModuleBtf* module) {
  auto file = read_file(path);
  if (!file) return file.error();
  const std::vector<Bytes> found = find_objects(*file);
  if (found.empty() && begins_an_object(*file))
    return Error{ENOEXEC, "verify: " + path + ": cut short, or damaged; try building it again"};
  if (found.empty())
    return Error{ENOEXEC,
                 "verify: " + path +
                     ": no BPF object and none inside; try an object made by `clang -target bpf -g -c`"};
  libbpf_set_print(keep_complaint);
  const std::string base = std::filesystem::path(path).filename();
  std::vector<BpfObject> objects;
  for (size_t i = 0; i < found.size(); ++i) {
    const bool inside = found[i].data() != file->data();
    const std::string number = found.size() > 1 ? fmt::format(" (object {})", i + 1) : std::string();
    objects.push_back(read_object(found[i], inside ? base + number : base, selection, module));
  }
  return objects;
}

}  // namespace bpftime::cli
