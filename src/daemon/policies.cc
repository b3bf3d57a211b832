#include "daemon/policies.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "eim/grant.h"
#include "symbols/symbols.h"

namespace bpftime::daemon {

namespace {

constexpr char kKernelBtf[] = "/sys/kernel/btf/vmlinux";
constexpr size_t kKernelBtfMax = 64u << 20;

// What clients' libbpf splits a module's BTF from. A machine without: its libbpf resolves nothing of the host, and says so.
program::BtfBase kernel_btf_base() {
  static const program::BtfBase base = [] {
    Fd fd(::open(kKernelBtf, O_RDONLY | O_CLOEXEC));
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0 || st.st_size <= 0 || static_cast<size_t>(st.st_size) > kKernelBtfMax)
      return program::BtfBase{};
    std::vector<uint8_t> blob(static_cast<size_t>(st.st_size));
    size_t done = 0;
    while (done < blob.size()) {
      const ssize_t count = ::read(fd.get(), blob.data() + done, blob.size() - done);
      if (count <= 0) return program::BtfBase{};
      done += static_cast<size_t>(count);
    }
    auto found = eim::btf_base_of(blob);
    return found ? *found : program::BtfBase{};
  }();
  return base;
}

std::string line_of(const eim::Policy& policy, eim::Position position) {
  return policy.path + ":" + std::to_string(position.line);
}

class Opener {
 public:
  Opener(kernel::Kernel& kernel, const std::string& fallback_host) : kernel_(kernel), fallback_host_(fallback_host) {}

  Result<std::shared_ptr<OpenPolicy>> run(const std::string& path) {
    auto policy = eim::read_policy(path);
    if (!policy) return policy.error();
    policy_ = std::move(*policy);
    auto manifest = eim::read_manifest(policy_.manifest);
    if (!manifest) return policy_.error(policy_.manifest_position, manifest.error().message, manifest.error().code);
    manifest_ = std::move(*manifest);
    if (auto found = find_host(); !found) return found.error();
    if (auto fits = eim::check_policy(manifest_, policy_, elf_->build_id()); !fits) return fits.error();
    auto host = eim::make_host_btf(manifest_, kernel_btf_base());
    if (!host) return host.error();
    out_->path = path;
    for (const auto& granted : policy_.classes)
      if (auto made = add_class(*host, granted); !made) return made.error();
    for (const auto& extension : policy_.extensions)
      if (auto made = add_extension(extension); !made) return made.error();
    if (auto added = kernel_.add_host_btf(*out_, std::move(host->blob)); !added) return added.error();
    return out_;
  }

 private:
  Result<void> find_host() {
    out_->host = !policy_.host.empty() ? policy_.host : manifest_.is_object ? fallback_host_ : manifest_.path;
    if (out_->host.empty())
      return policy_.error(policy_.manifest_position,
                           "the manifest describes another file; say which: `host: /usr/sbin/…`");
    auto elf = symbols::ElfFile::open(out_->host);
    if (!elf) return policy_.error(policy_.manifest_position, elf.error().message, elf.error().code);
    elf_ = std::move(*elf);
    if (policy_.build != eim::Policy::Build::kAny) out_->build_id = elf_->build_id();
    return {};
  }

  // Addresses of the manifest are those of the file it was read from.
  bool addresses_hold() const {
    return !out_->build_id.empty() && !manifest_.is_object && manifest_.build_id == out_->build_id;
  }

  Result<void> add_class(const eim::HostBtf& host, const eim::ExtensionClass& granted) {
    auto grant = eim::make_grant(manifest_, host, policy_, granted);
    if (!grant) return grant.error();
    auto made = std::make_shared<kernel::HostClass>();
    made->constraints = std::move(grant->constraints);
    made->result_in_xmm0 = grant->result_is_float;
    made->build_id = out_->build_id;
    made->shared_maps = std::move(grant->shared_maps);
    made->policy = policy_.path;
    made->policy_place = line_of(policy_, granted.allowed_position);
    const eim::Function* entry = manifest_.entry(granted.entry);
    made->entry = {entry->symbol, 0, addresses_hold() ? entry->address : 0, 0};
    // A slot per function and variable: what the program's instructions name from here on.
    for (auto& function : made->constraints.functions) {
      const auto* declared = manifest_.function(function.name);
      made->symbols.push_back({declared->symbol, 0, addresses_hold() ? declared->address : 0, function.id});
      function.id = static_cast<uint32_t>(made->symbols.size() - 1);
    }
    for (auto& global : made->constraints.globals) {
      const auto declared =
          std::find_if(manifest_.states.begin(), manifest_.states.end(),
                       [&](const eim::State& state) { return state.expression == global.name; });
      made->symbols.push_back({declared->symbol, declared->offset, addresses_hold() ? declared->address : 0, global.id});
      global.id = static_cast<uint32_t>(made->symbols.size() - 1);
    }
    std::vector<std::string> texts;
    for (const auto& capability : granted.allowed) texts.push_back(capability.text);
    out_->capabilities.push_back(std::move(texts));
    out_->classes.push_back(std::move(made));
    return {};
  }

  Result<void> add_extension(const eim::Extension& extension) {
    const eim::ExtensionClass* granted = policy_.find_class(extension.class_name);
    const auto made = std::find_if(out_->classes.begin(), out_->classes.end(), [&](const auto& each) {
      return each->constraints.class_name == extension.class_name;
    });
    if (!extension.function.empty()) out_->by_program.emplace_back(extension.function, *made);
    const auto& entry = (*made)->entry;
    uint64_t address = entry.address;
    if (address == 0) {
      const auto symbol = elf_->find_symbol(entry.name);
      if (!symbol)
        return policy_.error(granted->entry_position, "entry \"" + granted->entry + "\": " + out_->host +
                                                          " has no symbol " + entry.name + "; is it stripped of it?");
      address = symbol->address;
    }
    const auto offset = elf_->offset_of_address(address);
    if (!offset)
      return policy_.error(granted->entry_position,
                           "entry \"" + granted->entry + "\": its address lies in no segment of " + out_->host);
    out_->extensions.push_back({extension.program, extension.function, extension.class_name, granted->entry, entry.name,
                                *offset, line_of(policy_, extension.position)});
    return {};
  }

  kernel::Kernel& kernel_;
  const std::string fallback_host_;
  eim::Policy policy_;
  eim::Manifest manifest_;
  std::optional<symbols::ElfFile> elf_;
  std::shared_ptr<OpenPolicy> out_ = std::make_shared<OpenPolicy>();
};

}  // namespace

Result<std::shared_ptr<OpenPolicy>> open_policy(kernel::Kernel& kernel, const std::string& path, const std::string& host) {
  return Opener(kernel, host).run(path);
}

}  // namespace bpftime::daemon
