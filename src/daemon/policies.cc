#include "daemon/policies.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "eim/load.h"
#include "symbols/symbols.h"
#include "wire/kernel_btf.h"

namespace bpftime::daemon {

namespace {

constexpr size_t kKernelBtfMax = 64u << 20;

// What clients' libbpf splits a module's BTF from. On a machine without, the loader library serves them the same stand-in.
program::BtfBase kernel_btf_base() {
  static const program::BtfBase base = [] {
    Fd fd(::open(std::string(wire::kKernelBtfPath).c_str(), O_RDONLY | O_CLOEXEC));
    struct stat st {};
    if (!fd) {
      const std::string_view bytes = wire::kKernelBtfStandIn.bytes();
      return *eim::btf_base_of({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    }
    if (::fstat(fd.get(), &st) != 0 || st.st_size <= 0 || static_cast<size_t>(st.st_size) > kKernelBtfMax)
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
  Opener(kernel::Kernel& kernel, const std::string& fallback_host, PolicyUse use)
      : kernel_(kernel), fallback_host_(fallback_host), use_(std::move(use)) {}

  Result<std::shared_ptr<OpenPolicy>> run(const std::string& path) {
    auto loaded = eim::load_policy(path, kernel_btf_base());
    if (!loaded) return loaded.error();
    loaded_ = std::make_shared<eim::LoadedPolicy>(std::move(*loaded));
    out_->path = path;
    if (auto found = find_host(); !found) return found.error();
    for (size_t i = 0; i < loaded_->grants.size(); ++i) add_class(i);
    for (const auto& extension : loaded_->policy.extensions)
      if (auto made = add_extension(extension); !made) return made.error();
    if (auto added = kernel_.add_host_btf(*out_, std::move(loaded_->host.blob)); !added) return added.error();
    return out_;
  }

 private:
  Result<void> find_host() {
    const auto& policy = loaded_->policy;
    out_->host = loaded_->host_path.empty() ? fallback_host_ : loaded_->host_path;
    if (out_->host.empty())
      return policy.error(policy.manifest_position,
                          "the manifest describes another file; say which: `host: /usr/sbin/…`");
    auto elf = symbols::ElfFile::open(out_->host);
    if (!elf) return policy.error(policy.manifest_position, elf.error().message, elf.error().code);
    elf_ = std::move(*elf);
    if (loaded_->host_path.empty())
      if (auto fits = eim::check_policy(loaded_->manifest, policy, elf_->build_id()); !fits)
        return fits.error();
    if (policy.build != eim::Policy::Build::kAny) out_->build_id = elf_->build_id();
    return {};
  }

  // Addresses of the manifest are those of the file it was read from.
  bool addresses_hold() const {
    return !out_->build_id.empty() && !loaded_->manifest.is_object &&
           loaded_->manifest.build_id == out_->build_id;
  }

  void add_class(size_t index) {
    const eim::ExtensionClass& granted = loaded_->policy.classes[index];
    eim::Grant& grant = loaded_->grants[index];
    auto made = std::make_shared<kernel::HostClass>();
    made->constraints = std::move(grant.constraints);
    made->hint = [loaded = loaded_, index](const std::string& missing) {
      return eim::missing_hint(loaded->grants[index], loaded->manifest, loaded->policy, missing);
    };
    made->result_in_xmm0 = grant.result_is_float;
    made->build_id = out_->build_id;
    made->shared_maps = std::move(grant.shared_maps);
    made->policy = loaded_->policy.path;
    made->owner = use_.owner;
    made->session = use_.session;
    made->check_promises = use_.check_promises;
    made->policy_place = line_of(loaded_->policy, granted.allowed_position);
    const eim::Function* entry = loaded_->manifest.entry(granted.entry);
    made->entry_place = entry->place.text();
    made->at_system_call = entry->at != eim::Function::At::kFunction;
    made->host = out_->host;
    made->entry = {entry->symbol, 0, addresses_hold() ? entry->address : 0, 0};
    // A slot per function and variable: what the program's instructions name from here on.
    for (auto& function : made->constraints.functions) {
      const auto* declared = loaded_->manifest.function(function.name);
      made->symbols.push_back({declared->symbol, 0, addresses_hold() ? declared->address : 0, function.id});
      function.id = static_cast<uint32_t>(made->symbols.size() - 1);
    }
    for (auto& global : made->constraints.globals) {
      const auto declared =
          std::find_if(loaded_->manifest.states.begin(), loaded_->manifest.states.end(),
                       [&](const eim::State& state) { return state.expression == global.name; });
      made->symbols.push_back(
          {declared->symbol, declared->offset, addresses_hold() ? declared->address : 0, global.id});
      global.id = static_cast<uint32_t>(made->symbols.size() - 1);
    }
    std::vector<std::string> texts;
    for (const auto& capability : granted.allowed) texts.push_back(capability.text);
    out_->capabilities.push_back(std::move(texts));
    out_->classes.push_back(std::move(made));
  }

  Result<void> add_extension(const eim::Extension& extension) {
    const eim::ExtensionClass* granted = loaded_->policy.find_class(extension.class_name);
    const auto made = std::find_if(out_->classes.begin(), out_->classes.end(), [&](const auto& each) {
      return each->constraints.class_name == extension.class_name;
    });
    if (!extension.function.empty()) out_->by_program.emplace_back(extension.function, *made);
    const auto& entry = (*made)->entry;
    if ((*made)->at_system_call) {
      out_->extensions.push_back({extension.program, extension.function, extension.class_name, granted->entry,
                                  entry.name, 0, true, line_of(loaded_->policy, extension.position)});
      return {};
    }
    uint64_t address = entry.address;
    if (address == 0) {
      const auto symbol = elf_->find_symbol(entry.name);
      if (!symbol)
        return loaded_->policy.error(granted->entry_position, "entry \"" + granted->entry +
                                                                  "\": " + out_->host + " has no symbol " +
                                                                  entry.name + "; is it stripped of it?");
      address = symbol->address;
    }
    const auto offset = elf_->offset_of_address(address);
    if (!offset)
      return loaded_->policy.error(
          granted->entry_position,
          "entry \"" + granted->entry + "\": its address lies in no segment of " + out_->host);
    out_->extensions.push_back({extension.program, extension.function, extension.class_name, granted->entry,
                                entry.name, *offset, false, line_of(loaded_->policy, extension.position)});
    return {};
  }

  kernel::Kernel& kernel_;
  const std::string fallback_host_;
  const PolicyUse use_;
  std::shared_ptr<eim::LoadedPolicy> loaded_ =
      std::make_shared<eim::LoadedPolicy>();  // outlived by classes' hints
  std::optional<symbols::ElfFile> elf_;
  std::shared_ptr<OpenPolicy> out_ = std::make_shared<OpenPolicy>();
};

}  // namespace

Result<std::shared_ptr<OpenPolicy>> open_policy(kernel::Kernel& kernel, const std::string& path,
                                                const std::string& host, PolicyUse use) {
  return Opener(kernel, host, std::move(use)).run(path);
}

}  // namespace bpftime::daemon
