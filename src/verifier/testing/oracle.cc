#include "verifier/testing/oracle.h"

#include <time.h>

#include <cctype>

#include "verifier/bpf_syscall.h"
#include "verifier/kernel_opinion.h"
#include "verifier/shadow_maps.h"

namespace bpftime::verifier::testing {
namespace {

using program::Insn;

constexpr uint32_t kLogSize = 1u << 20;
constexpr uint8_t kLoadImm64 = BPF_LD | BPF_IMM | BPF_DW;

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

bool is_map_of_maps(uint32_t type) {
  return type == BPF_MAP_TYPE_ARRAY_OF_MAPS || type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

Result<Fd> create(const MapConstraint& map, const wire::MapSpec& spec, int btf, int inner) {
  LongAttr attr;
  attr.attr.map_type = spec.type;
  attr.attr.key_size = spec.key_size;
  attr.attr.value_size = spec.value_size;
  attr.attr.max_entries = spec.max_entries;
  attr.attr.map_flags = spec.flags;
  if (inner >= 0) attr.attr.inner_map_fd = static_cast<uint32_t>(inner);
  if (btf >= 0) {
    attr.attr.btf_fd = static_cast<uint32_t>(btf);
    attr.attr.btf_key_type_id = map.btf_key_type_id;
    attr.attr.btf_value_type_id = map.btf_value_type_id;
  }
  const int fd = bpf_call(BPF_MAP_CREATE, attr);
  if (fd < 0) return Error::from_errno("map " + map.name);
  return Fd(fd);
}

Result<void> fill(const MapConstraint& map, int fd) {
  const uint32_t key = 0;
  std::vector<uint8_t> value = map.contents;
  value.resize(map.spec.value_size);
  LongAttr attr;
  attr.attr.map_fd = static_cast<uint32_t>(fd);
  attr.attr.key = to_pointer(&key);
  attr.attr.value = to_pointer(value.data());
  if (bpf_call(BPF_MAP_UPDATE_ELEM, attr) < 0) return Error::from_errno("contents of map " + map.name);
  return {};
}

Result<void> freeze(const MapConstraint& map, int fd) {
  LongAttr attr;
  attr.attr.map_fd = static_cast<uint32_t>(fd);
  if (bpf_call(BPF_MAP_FREEZE, attr) < 0) return Error::from_errno("freezing map " + map.name);
  return {};
}

std::string geometry_key(const MapConstraint& map) {
  std::string key(reinterpret_cast<const char*>(&map.spec), sizeof(map.spec));
  key += map.frozen ? 'f' : '-';
  key.append(map.contents.begin(), map.contents.end()).push_back('|');
  key.append(map.btf.begin(), map.btf.end());
  if (map.inner) key.append(reinterpret_cast<const char*>(&*map.inner), sizeof(*map.inner));
  return key;
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

}  // namespace

std::string KernelOracle::unusable() {
  return kernel_verifier_usable() ? "" : "bpf(2) may not load programs here";
}

int KernelOracle::btf_fd(const std::vector<uint8_t>& blob) {
  if (blob.empty()) return -1;
  const std::string key(blob.begin(), blob.end());
  auto [place, is_new] = btfs_.try_emplace(key);
  if (is_new) {
    if (auto loaded = load_btf(blob)) place->second = std::move(*loaded);
  }
  return place->second.get();
}

Result<int> KernelOracle::map_fd(const MapConstraint& map, std::vector<Fd>& temporary) {
  // The first program that uses a program array becomes its owner and decides who else may: never shared.
  const bool shared = map.spec.type != BPF_MAP_TYPE_PROG_ARRAY;
  const std::string key = geometry_key(map);
  if (shared) {
    if (auto found = maps_.find(key); found != maps_.end()) return found->second.get();
  }
  Fd inner;
  if (is_map_of_maps(map.spec.type) && map.inner) {
    auto made = create(map, *map.inner, -1, -1);
    if (!made) return made.error();
    inner = std::move(*made);
  }
  auto made = create(map, map.spec, btf_fd(map.btf), inner.get());
  if (!made) return made.error();
  if (!map.contents.empty()) {
    if (auto filled = fill(map, made->get()); !filled) return filled.error();
  }
  if (map.frozen) {
    if (auto frozen = freeze(map, made->get()); !frozen) return frozen.error();
  }
  const int fd = made->get();
  if (shared) {
    maps_[key] = std::move(*made);
  } else {
    temporary.push_back(std::move(*made));
  }
  return fd;
}

KernelVerdict KernelOracle::ask(const Request& request, uint32_t log_level) {
  KernelVerdict verdict;
  std::vector<Fd> temporary;
  std::vector<Insn> insns = request.program.insns;
  for (size_t i = 0; i < insns.size(); ++i) {
    if (insns[i].code != kLoadImm64) continue;
    Insn& insn = insns[i++];
    if (insn.src_reg != BPF_PSEUDO_MAP_FD && insn.src_reg != BPF_PSEUDO_MAP_VALUE) continue;
    const auto index = static_cast<uint32_t>(insn.imm);
    insn.imm = -1;
    if (index >= request.maps.size()) continue;
    auto fd = map_fd(request.maps[index], temporary);
    if (!fd) {
      verdict.error = EREMOTEIO;
      verdict.last_line = fd.error().message;
      return verdict;
    }
    insn.imm = *fd;
  }
  LongAttr long_attr;
  bpf_attr& attr = long_attr.attr;
  attr.prog_type = request.program.type;
  attr.expected_attach_type = request.expected_attach_type;
  attr.insns = to_pointer(insns.data());
  attr.insn_cnt = static_cast<uint32_t>(insns.size());
  attr.license = to_pointer(request.license.c_str());
  attr.kern_version = request.kernel_version;
  attr.prog_flags = request.flags;
  const int btf = btf_fd(request.btf);
  if (btf >= 0) {
    attr.prog_btf_fd = static_cast<uint32_t>(btf);
    if (request.func_info_record_size != 0) {
      attr.func_info = to_pointer(request.func_info.data());
      attr.func_info_rec_size = request.func_info_record_size;
      attr.func_info_cnt = static_cast<uint32_t>(request.func_info.size() / request.func_info_record_size);
    }
  }
  std::string log(log_level != 0 ? kLogSize : 0, '\0');
  attr.log_level = log_level;
  attr.log_buf = log_level != 0 ? to_pointer(log.data()) : 0;
  attr.log_size = static_cast<uint32_t>(log.size());
  for (int attempt = 0; attempt < 5; ++attempt) {
    const uint64_t start = now_ns();
    verdict.fd = Fd(bpf_call(BPF_PROG_LOAD, long_attr, sizeof(long_attr.raw)));
    verdict.time_ns = now_ns() - start;
    verdict.error = verdict.fd.valid() ? 0 : errno;
    if (verdict.error != EAGAIN) break;  // a signal came while it verified
  }
  verdict.log = log.c_str();
  verdict.last_line = last_line_of(verdict.log);
  return verdict;
}

KernelVerdict KernelOracle::ask_why(const Request& request) {
  KernelVerdict verdict = ask(request, 0);
  if (verdict.error == 0 || verdict.error == EREMOTEIO) return verdict;
  const KernelVerdict again = ask(request, 1);
  verdict.log = again.log;
  verdict.last_line = again.last_line;
  return verdict;
}

std::string message_class(std::string_view message) {
  // Messages that end in whole states.
  if (starts_with(message, "old state:") || starts_with(message, "cur state:"))
    return "infinite loop detected";
  if (message.find("BPF program is too large") != std::string_view::npos) return "BPF program is too large";
  std::string out;
  for (size_t i = 0; i < message.size();) {
    if (!std::isdigit(static_cast<unsigned char>(message[i]))) {
      out += message[i++];
      continue;
    }
    const bool hex = message[i] == '0' && i + 1 < message.size() && message[i + 1] == 'x';
    if (hex) i += 2;
    while (i < message.size() && (hex ? std::isxdigit(static_cast<unsigned char>(message[i]))
                                      : std::isdigit(static_cast<unsigned char>(message[i])))) {
      ++i;
    }
    if (!out.empty() && out.back() == '-') out.pop_back();
    out += 'N';
  }
  return out;
}

std::string last_line_of(std::string_view log) {
  std::string last;
  while (!log.empty()) {
    const size_t end = std::min(log.find('\n'), log.size());
    const std::string_view line = log.substr(0, end);
    log.remove_prefix(std::min(end + 1, log.size()));
    const bool statistics = starts_with(line, "processed ") || starts_with(line, "verification time") ||
                            starts_with(line, "stack depth") || starts_with(line, "mark_precise");
    if (!line.empty() && !statistics) last = line;
  }
  return last;
}

std::string summary(const Verdict& verdict) {
  if (verdict.error == 0) return "accepted";
  if (verdict.diagnoses.empty()) return "errno " + std::to_string(verdict.error) + " without a diagnosis";
  const Diagnosis& first = verdict.diagnoses.front();
  const std::string& words = first.linux_message.empty() ? first.message : first.linux_message;
  return std::string(info(first.rule).id) + ": " + words;
}

}  // namespace bpftime::verifier::testing
