// BPF objects on disk, and those that tools carry inside (libbpf skeletons), as requests to the verifier: libbpf opens and
// relocates them, for the kernel that runs here, and loads them into an OfflineBpf.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "verifier/verifier.h"

namespace bpftime::cli {

struct ObjectProgram {
  std::string name, section;
  std::string type;        // "kprobe"
  std::string not_judged;  // why it is not in `request`; empty: it is
  std::optional<verifier::Request> request;
};

struct BpfObject {
  std::string name;   // "opensnoop.bpf.o", or "opensnoop (object 1)" for one inside a tool
  std::string error;  // why libbpf could not load it; empty: it did
  std::vector<ObjectProgram> programs;
};

struct Selection {
  std::string program;  // only this one; empty: all that the object loads by itself
  bool all = false;     // also those that the tool loads on demand (SEC("?…"))
};

// BTF to be found as a kernel module's, split on the running kernel's: what a host offers to extensions.
struct ModuleBtf {
  std::string name;
  std::vector<uint8_t> blob;
};

// The objects in the file. ENOENT and so on: not readable; ENOEXEC: neither an object nor a file with one inside.
Result<std::vector<BpfObject>> read_objects(const std::string& path, const Selection& selection,
                                            const ModuleBtf* module = nullptr);

// Whether programs of this type (enum bpf_prog_type) run here.
bool runs_here(uint32_t type);

}  // namespace bpftime::cli
