// The host as extensions compile against it and as libbpf finds it: BTF split on the kernel's, and the C header. Every type,
// function and variable is prefixed, because a host's `struct request` would else be taken for the kernel's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "eim/manifest.h"
#include "program/type_table.h"

namespace bpftime::eim {

inline constexpr char kHostPrefix[] = "host__";
inline constexpr char kHostDataSection[] = ".host";

struct HostBtf {
  std::vector<uint8_t> blob;  // to be served as a module's (kernel_btf = 1), split on `base`
  program::BtfBase base;
  // Type ids in `blob`, as instructions carry them: of a host function (call imm) and of a variable (ld_imm64 imm).
  std::map<std::string, uint32_t> functions;  // by Function::name
  std::map<std::string, uint32_t> variables;  // by State::expression
};

// `base`: of the kernel's BTF that the client reads (btf_base_of), or {} for none. Offers everything that the manifest does; what
// of it a program may use is for the verifier to say.
Result<HostBtf> make_host_btf(const Manifest& manifest, const program::BtfBase& base);

// What a split BTF must go on from: types and string bytes of a whole BTF blob (/sys/kernel/btf/vmlinux).
Result<program::BtfBase> btf_base_of(Bytes blob);

// "finalize_request" -> "host__finalize_request"; what C does not allow in names becomes '_'.
std::string host_name(const std::string& name);
// The host's own words out of a message or a name of ours: "struct host__request" -> "struct request".
std::string without_host_prefix(std::string text);

// The header that extensions include: types with preserve_access_index, functions and variables as __ksym, and one macro per
// entry: `host__processBegin(my_program) { return r->status; }`. `host_path`: the binary to attach to; empty: none known.
std::string host_header(const Manifest& manifest, const std::string& host_path);

}  // namespace bpftime::eim
