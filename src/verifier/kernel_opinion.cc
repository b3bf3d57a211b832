// Asks Linux: the program is loaded with shadow maps and dropped again. Nothing is attached and
// nothing stays open.
#include "verifier/kernel_opinion.h"

#include <algorithm>

#include "verifier/bpf_syscall.h"
#include "verifier/shadow_maps.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

constexpr uint32_t kLogSizeFirst = 64u << 10;
constexpr uint32_t kLogSizeMax = UINT32_MAX >> 8;  // 16 MiB: more than any loader asks for
constexpr int kInterruptedRetries = 5;  // the kernel answers EAGAIN when a signal came while it verified

bool is_map_reference(const Insn& insn) {
  if (insn.code != (BPF_LD | BPF_IMM | BPF_DW)) return false;
  return insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE ||
         insn.src_reg == BPF_PSEUDO_MAP_IDX || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
}

// Calls visit(insn) for each map reference. The second slot of a 64-bit load is data, not an instruction.
template <typename Insns, typename Visit>
void for_each_map_reference(Insns& insns, Visit visit) {
  for (size_t i = 0; i < insns.size(); ++i) {
    if (is_map_reference(insns[i])) visit(insns[i]);
    if (insns[i].code == (BPF_LD | BPF_IMM | BPF_DW)) ++i;
  }
}

Error not_verified(const Request& request, const std::string& why, int code) {
  return Error{code, "program " + request.program.name + ": the kernel's verifier cannot be asked: " + why};
}

Result<std::vector<bool>> referenced_maps(const Request& request) {
  std::vector<bool> needed(request.maps.size(), false);
  bool in_range = true;
  for_each_map_reference(request.program.insns, [&](const Insn& insn) {
    const auto index = static_cast<uint32_t>(insn.imm);
    in_range = in_range && index < needed.size();
    if (index < needed.size()) needed[index] = true;
  });
  if (!in_range) return Error{EINVAL, "program " + request.program.name + ": map index out of range"};
  return needed;
}

// The program with descriptors in place of map indexes.
std::vector<Insn> with_descriptors(const Request& request, const std::vector<Fd>& maps) {
  std::vector<Insn> insns = request.program.insns;
  for_each_map_reference(insns, [&](Insn& insn) {
    const bool value = insn.src_reg == BPF_PSEUDO_MAP_VALUE || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
    insn.src_reg = value ? BPF_PSEUDO_MAP_VALUE : BPF_PSEUDO_MAP_FD;
    insn.imm = maps[static_cast<uint32_t>(insn.imm)].get();
  });
  return insns;
}

LongAttr load_attr(const Request& request, const std::vector<Insn>& insns, int btf) {
  LongAttr long_attr;
  bpf_attr& attr = long_attr.attr;
  attr.prog_type = request.program.type;
  attr.expected_attach_type = request.expected_attach_type;
  attr.insns = to_pointer(insns.data());
  attr.insn_cnt = static_cast<uint32_t>(insns.size());
  attr.license = to_pointer(request.license.c_str());
  attr.kern_version = request.kernel_version;
  attr.prog_flags = request.flags;
  set_name(attr.prog_name, request.program.name);
  if (btf < 0) return long_attr;
  attr.prog_btf_fd = static_cast<uint32_t>(btf);
  if (!request.func_info.empty() && request.func_info_record_size != 0) {
    attr.func_info = to_pointer(request.func_info.data());
    attr.func_info_rec_size = request.func_info_record_size;
    attr.func_info_cnt = static_cast<uint32_t>(request.func_info.size() / request.func_info_record_size);
  }
  if (!request.line_info.empty() && request.line_info_record_size != 0) {
    attr.line_info = to_pointer(request.line_info.data());
    attr.line_info_rec_size = request.line_info_record_size;
    attr.line_info_cnt = static_cast<uint32_t>(request.line_info.size() / request.line_info_record_size);
  }
  return long_attr;
}

uint32_t verified_insns(int fd) {
  bpf_prog_info info;
  std::memset(&info, 0, sizeof(info));
  LongAttr attr;
  attr.attr.info.bpf_fd = static_cast<uint32_t>(fd);
  attr.attr.info.info_len = sizeof(info);
  attr.attr.info.info = to_pointer(&info);
  return bpf_call(BPF_OBJ_GET_INFO_BY_FD, attr) < 0 ? 0 : info.verified_insns;
}

// One PROG_LOAD with a log buffer of `log_size` bytes.
KernelOpinion ask(const Request& request, LongAttr attr, uint32_t log_size) {
  std::string log(log_size, '\0');
  attr.attr.log_level = request.log_level;
  attr.attr.log_buf = log_size != 0 ? to_pointer(log.data()) : 0;
  attr.attr.log_size = log_size;
  KernelOpinion verdict;
  Fd fd;
  for (int attempt = 0; attempt <= kInterruptedRetries; ++attempt) {
    fd = Fd(bpf_call(BPF_PROG_LOAD, attr, sizeof(attr.raw)));
    verdict.error = fd.valid() ? 0 : errno;
    if (verdict.error != EAGAIN) break;
  }
  verdict.log_true_size = attr.log_true_size();
  if (fd.valid()) verdict.verified_insns = verified_insns(fd.get());
  log.resize(strnlen(log.data(), log.size()));
  verdict.log = std::move(log);
  return verdict;
}

// The answer as if the log buffer had log_size_max bytes, without reserving them all before they are needed.
KernelOpinion ask_with_log(const Request& request, const LongAttr& attr) {
  if (request.log_level == 0) return ask(request, attr, 0);
  const uint32_t size_max = std::min(request.log_size_max, kLogSizeMax);
  uint32_t size = std::min(size_max, kLogSizeFirst);
  for (;;) {
    KernelOpinion verdict = ask(request, attr, size);
    if (verdict.error != ENOSPC || size >= size_max) return verdict;
    // Kernels before 6.4 do not say how much it would have been.
    const uint64_t wanted =
        verdict.log_true_size > size ? uint64_t{verdict.log_true_size} : uint64_t{size} * 16;
    size = static_cast<uint32_t>(std::min<uint64_t>(wanted, size_max));
  }
}

}  // namespace

bool kernel_verifier_usable() {
  static const bool usable = [] {
    const Insn insns[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
    LongAttr attr;
    attr.attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attr.attr.insns = to_pointer(insns);
    attr.attr.insn_cnt = 2;
    attr.attr.license = to_pointer("Dual MIT/GPL");
    return Fd(bpf_call(BPF_PROG_LOAD, attr)).valid();
  }();
  return usable;
}

Result<KernelOpinion> ask_kernel(const Request& request) {
  if (!kernel_verifier_usable()) return not_verified(request, "bpf(2) is not permitted here", EPERM);
  const auto needed = referenced_maps(request);
  if (!needed) return needed.error();
  const auto maps = make_shadow_maps(request.maps, *needed);
  if (!maps) return not_verified(request, maps.error().message, maps.error().code);
  // Without its BTF a program is only judged more strictly (no callbacks, no separately verified functions).
  Fd btf;
  if (!request.btf.empty()) {
    if (auto loaded = load_btf(request.btf)) btf = std::move(*loaded);
  }
  const std::vector<Insn> insns = with_descriptors(request, *maps);
  return ask_with_log(request, load_attr(request, insns, btf.get()));
}

}  // namespace bpftime::verifier
