// bpf(2) answered inside this process, for libbpf: loading an object becomes a list of verifier requests, and nothing
// reaches the kernel. Needs no privileges.
//
// libbpf knows only `syscall(__NR_bpf, …)`. The command is linked with --wrap=syscall, so that its calls come here while an
// OfflineBpf lives on the calling thread; every other system call goes on to libc.
#pragma once

#include <linux/bpf.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/fd.h"
#include "verifier/verifier.h"

namespace bpftime::cli {

class OfflineBpf {
 public:
  OfflineBpf();
  ~OfflineBpf();
  OfflineBpf(const OfflineBpf&) = delete;
  OfflineBpf& operator=(const OfflineBpf&) = delete;

  // Serves `blob` as the BTF of a kernel module, as the daemon serves a host's: libbpf finds its functions, variables and
  // types. Instructions that use them keep the type ids.
  void serve_module(std::string name, std::vector<uint8_t> blob);

  // Names of programs whose loads are wanted, as bpf(2) cuts them; other loads are libbpf's feature probes,
  // which all succeed.
  void expect(const std::string& program_name);

  // One per expected program, in the order libbpf loaded them. `maps` as they stood then.
  const std::vector<verifier::Request>& loads() const { return loads_; }

  // The result or -errno. `attr` has `size` bytes.
  long call(int command, void* attr, uint32_t size);

 private:
  struct Object {
    verifier::MapConstraint map;  // maps
    bool is_map = false;
    std::vector<uint8_t> btf;  // BTF
    std::string module;        // BTF: the module's name; empty: a program's
  };

  long map_create(const bpf_attr& attr);
  long map_update(const bpf_attr& attr);
  long btf_load(const bpf_attr& attr);
  long prog_load(const bpf_attr& attr);
  long object_info(bpf_attr& attr);
  long map_info(bpf_attr& attr, const Object& object) const;
  long btf_info(bpf_attr& attr, const Object& object) const;
  long enter(std::shared_ptr<Object> object);
  std::shared_ptr<Object> find(int fd) const;
  // Descriptors in ld_imm64 instructions become indexes into request.maps. False: one is no map.
  bool resolve_maps(const bpf_attr& attr, verifier::Request& request) const;
  // Takes descriptors of the module's BTF out of calls and ld_imm64 instructions. False: one is another's.
  bool resolve_module(const bpf_attr& attr, verifier::Request& request) const;

  std::map<int, std::shared_ptr<Object>>
      objects_;  // by the descriptor libbpf was given, last use of the number
  std::shared_ptr<Object> module_;
  std::set<std::string> expected_;
  std::vector<verifier::Request> loads_;
};

}  // namespace bpftime::cli
