#include "cli/offline_bpf.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstring>

#include "program/btf.h"
#include "verifier/map_fields.h"
#include "wire/kernel_btf.h"

namespace bpftime::cli {
namespace {

constexpr uint32_t kModuleId = 1;  // of the BTF that is served

thread_local OfflineBpf* current = nullptr;

using program::Insn;

std::vector<uint8_t> copy(uint64_t address, uint64_t size) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(address);
  return address == 0 ? std::vector<uint8_t>() : std::vector<uint8_t>(bytes, bytes + size);
}

std::string name_in(const char (&field)[BPF_OBJ_NAME_LEN]) { return {field, strnlen(field, sizeof(field))}; }

uint32_t cpus() {
  static const int count = libbpf_num_possible_cpus();
  return count > 0 ? static_cast<uint32_t>(count) : 1;
}

}  // namespace

OfflineBpf::OfflineBpf() { current = this; }
OfflineBpf::~OfflineBpf() { current = nullptr; }

void OfflineBpf::serve_module(std::string name, std::vector<uint8_t> blob) {
  module_ = std::make_shared<Object>();
  module_->module = std::move(name);
  module_->btf = std::move(blob);
}

void OfflineBpf::expect(const std::string& program_name) {
  expected_.insert(program_name.substr(0, BPF_OBJ_NAME_LEN - 1));
}

long OfflineBpf::call(int command, void* memory, uint32_t size) {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  std::memcpy(&attr, memory, std::min<size_t>(size, sizeof(attr)));
  switch (command) {
    case BPF_MAP_CREATE:
      return map_create(attr);
    case BPF_MAP_UPDATE_ELEM:
      return map_update(attr);
    case BPF_MAP_FREEZE:
      if (auto map = find(static_cast<int>(attr.map_fd))) map->map.frozen = true;
      return 0;
    case BPF_BTF_LOAD:
      return btf_load(attr);
    case BPF_PROG_LOAD:
      return prog_load(attr);
    case BPF_PROG_BIND_MAP:
      return 0;
    case BPF_OBJ_GET_INFO_BY_FD:
      return object_info(attr);
    case BPF_BTF_GET_NEXT_ID:  // BTF of kernel modules: the one that is served
      if (!module_ || attr.start_id >= kModuleId || size < offsetof(bpf_attr, next_id) + 4) return -ENOENT;
      attr.next_id = kModuleId;
      std::memcpy(memory, &attr, offsetof(bpf_attr, next_id) + 4);
      return 0;
    case BPF_BTF_GET_FD_BY_ID:
      return module_ && attr.btf_id == kModuleId ? enter(module_) : -ENOENT;
    case BPF_MAP_GET_NEXT_ID:
    case BPF_PROG_GET_NEXT_ID:
    case BPF_LINK_GET_NEXT_ID:
    case BPF_OBJ_GET:  // pinned maps: none yet
      return -ENOENT;
    case BPF_OBJ_PIN:
      return 0;
    default:
      return -EINVAL;
  }
}

// A real descriptor, so that libbpf may duplicate and close it.
long OfflineBpf::enter(std::shared_ptr<Object> object) {
  const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  objects_[fd] = std::move(object);
  return fd;
}

std::shared_ptr<OfflineBpf::Object> OfflineBpf::find(int fd) const {
  const auto it = objects_.find(fd);
  return it == objects_.end() ? nullptr : it->second;
}

long OfflineBpf::map_create(const bpf_attr& attr) {
  auto object = std::make_shared<Object>();
  object->is_map = true;
  verifier::MapConstraint& map = object->map;
  // Tools set sizes that depend on the machine or on options when they run; what is not set yet counts as one.
  map.spec = {attr.map_type,  attr.key_size, attr.value_size, std::max(attr.max_entries, 1u),
              attr.map_flags, cpus()};
  map.name = name_in(attr.map_name);
  if (auto btf = find(static_cast<int>(attr.btf_fd)); btf && !btf->is_map && attr.btf_value_type_id != 0) {
    map.btf = btf->btf;
    map.btf_key_type_id = attr.btf_key_type_id;
    map.btf_value_type_id = attr.btf_value_type_id;
  }
  const bool of_maps =
      attr.map_type == BPF_MAP_TYPE_ARRAY_OF_MAPS || attr.map_type == BPF_MAP_TYPE_HASH_OF_MAPS;
  if (of_maps) {
    const auto inner = find(static_cast<int>(attr.inner_map_fd));
    if (!inner || !inner->is_map) return -EBADF;
    map.inner = inner->map.spec;
  }
  return enter(std::move(object));
}

// Only the first value matters: that of global data.
long OfflineBpf::map_update(const bpf_attr& attr) {
  const auto object = find(static_cast<int>(attr.map_fd));
  if (!object || !object->is_map) return -EBADF;
  verifier::MapConstraint& map = object->map;
  if (map.spec.type != BPF_MAP_TYPE_ARRAY || (map.spec.flags & BPF_F_RDONLY_PROG) == 0 ||
      map.spec.key_size != 4)
    return 0;
  uint32_t key;
  std::memcpy(&key, reinterpret_cast<const void*>(attr.key), sizeof(key));
  if (key == 0) map.contents = copy(attr.value, map.spec.value_size);
  return 0;
}

long OfflineBpf::btf_load(const bpf_attr& attr) {
  auto object = std::make_shared<Object>();
  object->btf = copy(attr.btf, attr.btf_size);
  if (auto valid = program::validate_btf(object->btf); !valid) return -valid.error().code;
  return enter(std::move(object));
}

long OfflineBpf::object_info(bpf_attr& attr) {
  const auto object = find(static_cast<int>(attr.info.bpf_fd));
  if (!object) return -EINVAL;
  if (object->is_map) return map_info(attr, *object);
  return object->btf.empty() ? -EINVAL : btf_info(attr, *object);
}

long OfflineBpf::btf_info(bpf_attr& attr, const Object& object) const {
  bpf_btf_info info;
  std::memset(&info, 0, sizeof(info));
  std::memcpy(&info, reinterpret_cast<const void*>(attr.info.info),
              std::min<size_t>(attr.info.info_len, sizeof(info)));
  const auto give = [](uint64_t address, uint64_t room, const void* bytes, size_t size) {
    if (address != 0) std::memcpy(reinterpret_cast<void*>(address), bytes, std::min<size_t>(room, size));
  };
  give(info.btf, info.btf_size, object.btf.data(), object.btf.size());
  give(info.name, info.name_len, object.module.c_str(), object.module.size() + 1);
  info.btf_size = static_cast<uint32_t>(object.btf.size());
  info.name_len = static_cast<uint32_t>(object.module.size());
  info.id = object.module.empty() ? attr.info.bpf_fd + kModuleId : kModuleId;
  info.kernel_btf = !object.module.empty();
  std::memcpy(reinterpret_cast<void*>(attr.info.info), &info,
              std::min<size_t>(attr.info.info_len, sizeof(info)));
  return 0;
}

long OfflineBpf::map_info(bpf_attr& attr, const Object& served) const {
  const auto* object = &served;
  bpf_map_info info;
  std::memset(&info, 0, sizeof(info));
  info.type = object->map.spec.type;
  info.id = attr.info.bpf_fd;
  info.key_size = object->map.spec.key_size;
  info.value_size = object->map.spec.value_size;
  info.max_entries = object->map.spec.max_entries;
  info.map_flags = object->map.spec.flags;
  std::memcpy(info.name, object->map.name.data(), std::min(object->map.name.size(), sizeof(info.name) - 1));
  std::memcpy(reinterpret_cast<void*>(attr.info.info), &info,
              std::min<size_t>(attr.info.info_len, sizeof(info)));
  return 0;
}

bool OfflineBpf::resolve_maps(const bpf_attr& attr, verifier::Request& request) const {
  std::vector<std::shared_ptr<Object>> known;
  const auto* fd_array = reinterpret_cast<const int*>(attr.fd_array);
  auto& insns = request.program.insns;
  for (size_t i = 0; i < insns.size(); ++i) {
    Insn& insn = insns[i];
    if (insn.code != (BPF_LD | BPF_IMM | BPF_DW)) continue;
    ++i;  // the second slot is no instruction
    const bool value = insn.src_reg == BPF_PSEUDO_MAP_VALUE || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
    const bool by_index = insn.src_reg == BPF_PSEUDO_MAP_IDX || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
    if (!value && !by_index && insn.src_reg != BPF_PSEUDO_MAP_FD) continue;
    if (by_index && fd_array == nullptr) return false;
    const auto object = find(by_index ? fd_array[insn.imm] : insn.imm);
    if (!object || !object->is_map) return false;
    auto at = std::find(known.begin(), known.end(), object);
    if (at == known.end()) {
      at = known.insert(known.end(), object);
      request.maps.push_back(object->map);
      if (!object->map.frozen) request.maps.back().contents.clear();
    }
    insn.imm = static_cast<int32_t>(at - known.begin());
    insn.src_reg = value ? BPF_PSEUDO_MAP_VALUE : BPF_PSEUDO_MAP_FD;
  }
  return true;
}

bool OfflineBpf::resolve_module(const bpf_attr& attr, verifier::Request& request) const {
  if (!module_) return true;
  const auto* fd_array = reinterpret_cast<const int*>(attr.fd_array);
  auto& insns = request.program.insns;
  for (size_t i = 0; i < insns.size(); ++i) {
    Insn& insn = insns[i];
    const bool wide = insn.code == (BPF_LD | BPF_IMM | BPF_DW);
    if (insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_KFUNC_CALL) {
      if (fd_array == nullptr || insn.off <= 0 || find(fd_array[insn.off]) != module_) return false;
      insn.off = 0;
    } else if (wide && insn.src_reg == BPF_PSEUDO_BTF_ID && i + 1 < insns.size()) {
      if (find(insns[i + 1].imm) != module_) return false;
      insns[i + 1].imm = 0;
    }
    i += wide;
  }
  return true;
}

long OfflineBpf::prog_load(const bpf_attr& attr) {
  const std::string name = name_in(attr.prog_name);
  if (!expected_.contains(name)) return enter(std::make_shared<Object>());
  verifier::Request request;
  request.program.name = name;
  request.program.type = attr.prog_type;
  const auto* insns = reinterpret_cast<const Insn*>(attr.insns);
  request.program.insns.assign(insns, insns + attr.insn_cnt);
  if (!resolve_maps(attr, request) || !resolve_module(attr, request)) return -EBADF;
  request.expected_attach_type = attr.expected_attach_type;
  request.kernel_version = attr.kern_version;
  request.flags = attr.prog_flags;
  request.license = reinterpret_cast<const char*>(attr.license);
  if (auto btf = find(static_cast<int>(attr.prog_btf_fd));
      btf && (attr.func_info_cnt | attr.line_info_cnt) != 0) {
    request.btf = btf->btf;
    request.func_info = copy(attr.func_info, uint64_t{attr.func_info_cnt} * attr.func_info_rec_size);
    request.line_info = copy(attr.line_info, uint64_t{attr.line_info_cnt} * attr.line_info_rec_size);
    request.func_info_record_size = attr.func_info_rec_size;
    request.line_info_record_size = attr.line_info_rec_size;
  }
  loads_.push_back(std::move(request));
  return enter(std::make_shared<Object>());
}

}  // namespace bpftime::cli

extern "C" {

long __real_syscall(long number, ...);
FILE* __real_fopen64(const char* path, const char* mode);
int __real_faccessat(int directory, const char* path, int mode, int flags);

// libbpf reads the kernel's types from a file; where there is none, from what stands for it (wire/kernel_btf.h).
static bool is_missing_kernel_btf(const char* path) {
  return bpftime::cli::current != nullptr && path != nullptr && path == bpftime::wire::kKernelBtfPath &&
         __real_faccessat(AT_FDCWD, path, R_OK, 0) != 0;
}

FILE* __wrap_fopen64(const char* path, const char* mode) {
  if (!is_missing_kernel_btf(path)) return __real_fopen64(path, mode);
  const std::string_view bytes = bpftime::wire::kKernelBtfStandIn.bytes();
  return ::fmemopen(const_cast<char*>(bytes.data()), bytes.size(), "r");
}

int __wrap_faccessat(int directory, const char* path, int mode, int flags) {
  if (mode == R_OK && is_missing_kernel_btf(path)) return 0;
  return __real_faccessat(directory, path, mode, flags);
}

// libc's syscall() takes up to six arguments in any case.
long __wrap_syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long argument[6];
  for (long& each : argument) each = va_arg(list, long);
  va_end(list);
  if (number != __NR_bpf || bpftime::cli::current == nullptr)
    return __real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4],
                          argument[5]);
  const long result =
      bpftime::cli::current->call(static_cast<int>(argument[0]), reinterpret_cast<void*>(argument[1]),
                                  static_cast<uint32_t>(argument[2]));
  if (result >= 0) return result;
  errno = static_cast<int>(-result);
  return -1;
}
}
