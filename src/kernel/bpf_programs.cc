// bpf(2) commands on programs.
#include <fcntl.h>
#include <unistd.h>

#include "helpers/table.h"
#include "kernel/attr.h"
#include "kernel/kernel.h"
#include "kernel/map_slots.h"
#include "maps/map.h"
#include "verifier/kernel_opinion.h"
#include "verifier/map_fields.h"
#include "verifier/render.h"

namespace bpftime::kernel {

namespace {

constexpr uint32_t kMapsPerProgramMax = 64;  // MAX_USED_MAPS
constexpr char kKernelOnly[] =
    ": it attaches to what only the kernel has (docs/support-matrix.md); probes here are uprobes, USDT, "
    "system calls "
    "and clocks";

constexpr char kLightSkeleton[] =
    ": type syscall: light skeletons (bpftool gen skeleton -L) load objects by a program in the kernel, "
    "which does not exist here "
    "(docs/support-matrix.md); build the tool with an ordinary skeleton";

// Of those that name what they attach to when they are loaded.
std::string type_text(uint32_t type) {
  switch (type) {
    case BPF_PROG_TYPE_TRACING:
      return "tracing (fentry, fexit, tp_btf, iter)";
    case BPF_PROG_TYPE_STRUCT_OPS:
      return "struct_ops";
    case BPF_PROG_TYPE_EXT:
      return "ext";
    case BPF_PROG_TYPE_LSM:
      return "lsm";
    default:
      return std::to_string(type);
  }
}

constexpr uint32_t kProgramTypeMax = 32;  // BPF_PROG_TYPE_NETFILTER, not in every linux/bpf.h

std::vector<uint8_t> copy(Bytes bytes) { return {bytes.begin(), bytes.end()}; }

// What a map means to the verifier: constants of frozen read-only maps decide branches.
verifier::MapConstraint constraint_of(const Map& map) {
  verifier::MapConstraint out;
  out.spec = map.spec;
  out.name = map.name;
  out.frozen = map.frozen;
  out.inner = map.inner;
  if (map.sealed && map.frozen) {
    out.contents.resize(map.spec.value_size);
    if (::pread(map.sealed.get(), out.contents.data(), out.contents.size(), 0) !=
        static_cast<ssize_t>(out.contents.size()))
      out.contents.clear();
  }
  if (map.btf) out.btf = map.btf->blob;
  out.btf_key_type_id = map.btf_key_type_id;
  out.btf_value_type_id = map.btf_value_type_id;
  verifier::find_special_fields(out);
  return out;
}

void put_log(const BpfRequest& request, BpfReply& reply, const std::string& log) {
  const uint32_t room = request.out_size(offsetof(bpf_attr, log_buf));
  if (room == 0 || request.attr->log_level == 0) return;
  // Always NUL-terminated within the buffer.
  std::vector<uint8_t> bytes(log.begin(), log.begin() + std::min<size_t>(log.size(), room - 1));
  bytes.push_back(0);
  reply.out.push_back({offsetof(bpf_attr, log_buf), std::move(bytes)});
}

// Helpers Linux has and we do not: unknown here, so that calls to them are refused where an older kernel would refuse
// them, in code that can run.
const std::vector<uint32_t>& helpers_missing() {
  static const std::vector<uint32_t> missing = [] {
    std::vector<uint32_t> out;
    for (uint32_t id = 1; id < __BPF_FUNC_MAX_ID; ++id)
      if (helpers::find(id) == nullptr) out.push_back(id);
    return out;
  }();
  return missing;
}

// Judges the program with what it refers to as it is now.
verifier::Verdict verify(Prog& prog) {
  verifier::Request& source = prog.source;
  source.maps.clear();
  for (const auto& map : prog.maps) source.maps.push_back(constraint_of(*map));
  if (prog.btf) source.btf = prog.btf->blob;
  source.options.helpers_missing = helpers_missing();
  source.constraints = prog.host ? &prog.host->constraints : nullptr;
  source.options.zero_stack = source.options.allow_pointer_leaks = prog.host == nullptr;
  source.options.probe_write_user = false;  // ordinary programs observe; a policy grants more
  verifier::Verdict verdict = verifier::verify(source);
  if (verdict.error == 0) prog.facts = std::move(verdict.facts);
  return verdict;
}

// The kernel's word on a program we accepted. Errors when it decides and does not accept; else a note for the log.
Result<std::string> second_opinion(const verifier::Request& source, verifier::KernelVerifier mode,
                                   Prog& prog) {
  using verifier::KernelVerifier;
  // The kernel knows nothing of hosts.
  if (prog.host && mode == KernelVerifier::kRequire)
    return Error{EOPNOTSUPP,
                 "--kernel-verifier=require: the kernel cannot judge programs of extension classes"};
  if (mode == KernelVerifier::kOff || prog.host) return std::string();
  if (mode == KernelVerifier::kAdvise && !verifier::kernel_verifier_usable()) return std::string();
  const auto opinion = verifier::ask_kernel(source);
  if (!opinion) {
    if (mode == KernelVerifier::kRequire) return opinion.error();
    return "note: the kernel could not be asked: " + opinion.error().message + "\n";
  }
  if (opinion->error == 0) {
    prog.verified_by += ", kernel";
    return std::string();
  }
  if (mode == KernelVerifier::kRequire)
    return Error{opinion->error,
                 "the kernel's verifier refuses it (--kernel-verifier=require): " + opinion->log};
  return "note: accepted here; the kernel's verifier refuses it: " +
         std::string(std::strerror(opinion->error)) + "; see `bpftime load --kernel-verifier=require`\n";
}

// The policy's line that would allow what the program was refused for.
std::string grant_hint(const Prog& prog, const verifier::Diagnosis& diagnosis) {
  return prog.host && prog.host->hint && !diagnosis.grant.empty() ? prog.host->hint(diagnosis.grant) : "";
}

// The refusal in one line for the developer of an extension, last in the log: source, rule, manifest and policy.
std::string class_log(const Prog& prog, const verifier::Verdict& verdict, const std::string& hint) {
  if (!prog.host || verdict.diagnoses.empty()) return "";
  verifier::SourceLines lines;
  if (auto read = verifier::SourceLines::read(prog.source)) lines = std::move(*read);
  const auto rendered = verifier::render(verdict.diagnoses[0], prog.source, lines);
  const auto& place = rendered.place;
  std::string line = "bpftime: ";
  if (!place.file.empty()) line += place.file + ":" + std::to_string(place.line) + ": ";
  line += rendered.rule + ": " + rendered.message;
  if (!hint.empty()) line += "; " + hint;
  if (!hint.empty() && !prog.host->entry_place.empty())
    line += "; the entry is declared at " + prog.host->entry_place;
  return line + "\n";
}

}  // namespace

Result<void> Kernel::ensure_facts(Prog& prog) {
  if (prog.facts) return {};
  const verifier::Verdict verdict = verify(prog);
  if (verdict.error == 0) return {};
  return Error{verdict.error,
               "program " + prog.name + ": accepted by an earlier daemon, but not by this one"};
}

// Replaces descriptors in ld_imm64 instructions by indexes into the program's map list.
Result<void> Kernel::resolve_maps(const BpfRequest& request, Prog& prog, std::vector<program::Insn>& insns) {
  for (uint32_t i = 0; i < insns.size(); ++i) {
    program::Insn& insn = insns[i];
    if (insn.code != (BPF_LD | BPF_IMM | BPF_DW)) continue;
    const bool by_index = insn.src_reg == BPF_PSEUDO_MAP_IDX || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
    const bool by_fd = insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE;
    if (by_fd || by_index) {
      const int fd = by_index ? request.fd(wire::FdPlace::kFdArray, static_cast<uint32_t>(insn.imm))
                              : request.fd(wire::FdPlace::kInstruction, i);
      auto map = object_of<Map>(fd, ObjectKind::kMap);
      if (!map)
        return Error{fd < 0 ? EBADF : EINVAL,
                     "fd " + std::to_string(insn.imm) + " is not pointing to valid bpf_map"};
      auto known = std::find(prog.maps.begin(), prog.maps.end(), map);
      if (known == prog.maps.end()) {
        if (prog.maps.size() == kMapsPerProgramMax)
          return Error{E2BIG, "The total number of maps per program has reached the limit of 64"};
        known = prog.maps.insert(prog.maps.end(), map);
      }
      insn.imm = static_cast<int32_t>(known - prog.maps.begin());
      const bool value = insn.src_reg == BPF_PSEUDO_MAP_VALUE || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
      insn.src_reg = value ? BPF_PSEUDO_MAP_VALUE : BPF_PSEUDO_MAP_FD;
    }
    ++i;  // the second slot is no instruction
  }
  return {};
}

BpfReply Kernel::prog_load(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  const uint32_t log_level = attr.log_level;
  if (attr.insn_cnt == 0 || attr.insn_cnt > program::kInsnsMax)
    return BpfReply::fail(E2BIG, "load program: " + std::to_string(attr.insn_cnt) + " instructions");
  const Bytes insns = request.in(offsetof(bpf_attr, insns));
  if (insns.size() != attr.insn_cnt * sizeof(program::Insn))
    return BpfReply::fail(EFAULT, "load program: instructions not readable");
  if (request.in(offsetof(bpf_attr, license)).empty())
    return BpfReply::fail(EFAULT, "load program: no license");
  if (!log_attr_valid(attr.log_buf, attr.log_size, log_level))
    return BpfReply::fail(EINVAL, "load program: log buffer, size and level do not fit together");
  if (attr.prog_ifindex != 0 || attr.attach_btf_id != 0 || attr.attach_prog_fd != 0)
    return BpfReply::fail(
        EINVAL, "load program " + std::string(attr.prog_name, ::strnlen(attr.prog_name, BPF_OBJ_NAME_LEN)) +
                    ": type " + type_text(attr.prog_type) + (attr.prog_ifindex != 0 ? ", for a device" : "") +
                    kKernelOnly);
  if (attr.prog_type == BPF_PROG_TYPE_SYSCALL)
    return BpfReply::fail(
        EINVAL, "load program " + std::string(attr.prog_name, ::strnlen(attr.prog_name, BPF_OBJ_NAME_LEN)) +
                    kLightSkeleton);
  if (attr.prog_type == BPF_PROG_TYPE_UNSPEC || attr.prog_type > kProgramTypeMax)
    return BpfReply::fail(EINVAL, "load program: unknown program type " + std::to_string(attr.prog_type));
  auto name = object_name(attr.prog_name);
  if (!name) return BpfReply::fail(EINVAL, "load program: name has characters other than [A-Za-z0-9_.]");

  auto prog = std::make_shared<Prog>();
  prog->kind = ObjectKind::kProgram;
  prog->created_by_uid = request.uid;
  prog->name = *name;
  verifier::Request& source = prog->source;
  source.program.name = *name;
  source.program.type = attr.prog_type;
  source.program.insns.resize(attr.insn_cnt);
  std::memcpy(source.program.insns.data(), insns.data(), insns.size());

  auto refuse = [&](int error, const std::string& text) {
    BpfReply reply = BpfReply::fail(error, "load program " + prog->name + ": " + text);
    put_log(request, reply, text + "\n");
    return reply;
  };
  if (auto resolved = resolve_maps(request, *prog, source.program.insns); !resolved)
    return refuse(resolved.error().code, resolved.error().message);
  // Nameless programs are libraries' questions about the kernel, not extensions.
  if (request.policy != nullptr && !prog->name.empty())
    prog->host = request.policy->class_of(prog->name, request.policy_class, attr.prog_type);
  if (auto resolved = resolve_host(request, *prog, source.program.insns); !resolved)
    return refuse(resolved.error().code, resolved.error().message);
  source.expected_attach_type = attr.expected_attach_type;
  source.kernel_version = attr.kern_version;
  source.flags = attr.prog_flags;
  const Bytes license = request.in(offsetof(bpf_attr, license));
  source.license.assign(license.begin(), std::find(license.begin(), license.end(), 0));
  // As check_btf_info: without records that need it nobody looks at prog_btf_fd.
  if (attr.func_info_cnt != 0 || attr.line_info_cnt != 0) {
    const int btf_fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, prog_btf_fd));
    prog->btf = object_of<Btf>(btf_fd, ObjectKind::kBtf);
    if (!prog->btf) return refuse(wrong_fd(btf_fd), "prog_btf_fd is no BTF object");
    source.func_info = copy(request.in(offsetof(bpf_attr, func_info)));
    source.line_info = copy(request.in(offsetof(bpf_attr, line_info)));
    source.func_info_record_size = attr.func_info_rec_size;
    source.line_info_record_size = attr.line_info_rec_size;
  }
  source.log_level = log_level;
  source.log_size_max = request.out_size(offsetof(bpf_attr, log_buf));

  verifier::Verdict verdict = verify(*prog);
  if (verdict.error != 0) {
    BpfReply reply =
        BpfReply::fail(verdict.error, "load program " + prog->name + ": refused; its log says why");
    std::string hint;
    if (!verdict.diagnoses.empty()) {
      hint = grant_hint(*prog, verdict.diagnoses[0]);
      reply.text = "load program " + prog->name + ": " + verifier::summary(verdict.diagnoses[0]) +
                   (hint.empty() ? "" : "; " + hint);
    }
    put_log(request, reply, verdict.log + class_log(*prog, verdict, hint));
    return reply;
  }
  if (auto fits = check_prog_arrays(*prog); !fits) return refuse(fits.error().code, fits.error().message);
  if (auto within = check_class_maps(*prog); !within)
    return refuse(within.error().code, within.error().message);
  prog->verified_by = "bpftime";
  prog->verified_insns = verdict.statistics.insns_processed;
  const auto opinion = second_opinion(source, request.kernel_verifier, *prog);
  if (!opinion) return refuse(opinion.error().code, opinion.error().message);
  BpfReply verdict_reply;
  put_log(request, verdict_reply, verdict.log + *opinion);
  if (prog->host && (request.policy->count_runs || prog->host->check_promises))
    if (auto counted = count_runs(*prog); !counted)
      return refuse(counted.error().code, counted.error().message);
  if (auto entered = enter(prog, 0); !entered) return refuse(entered.error().code, entered.error().message);
  observer_.object_changed(*prog);
  BpfReply reply = hand_out(prog);
  reply.out = std::move(verdict_reply.out);
  return reply;
}

BpfReply Kernel::prog_bind_map(const BpfRequest& request) {
  if (request.attr->prog_bind_map.flags != 0) return BpfReply::fail(EINVAL, "bind map: unknown flags");
  const int prog_fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, prog_bind_map.prog_fd));
  const int map_fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, prog_bind_map.map_fd));
  auto prog = object_of<Prog>(prog_fd, ObjectKind::kProgram);
  if (!prog) return BpfReply::fail(wrong_fd(prog_fd), "bind map: no such program");
  auto map = object_of<Map>(map_fd, ObjectKind::kMap);
  if (!map) return BpfReply::fail(wrong_fd(map_fd), "bind map: no such map");
  prog->bound_maps.push_back(map);
  observer_.object_changed(*prog);
  return {};
}

}  // namespace bpftime::kernel
