// The signal guard of targets whose programs read memory that may fault: puts it in and takes it out.
// What it does is in src/agent/guard.cc; here is how it gets there.
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>

#include "daemon/site.h"

namespace bpftime::daemon {

using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;

namespace {

struct Redirect {
  const char* libc_function;
  const char* replacement;  // agent symbols
  const char* original;
};
// sigprocmask, signal, siglongjmp and the rest of libc call these two.
constexpr Redirect kRedirects[] = {
    {"sigaction", "bpftime_agent_sigaction", "bpftime_agent_original_sigaction"},
    {"pthread_sigmask", "bpftime_agent_sigmask", "bpftime_agent_original_sigmask"},
};

bool is_guard(const wire::PatchRecord& record) {
  return record.kind == wire::PatchKind::kGuard &&
         (record.state == wire::PatchState::kActive || record.state == wire::PatchState::kPending);
}

}  // namespace

bool Attacher::is_agent(const MappedRegion& region) const {
  struct stat st;
  return ::stat(config_.agent_path.c_str(), &st) == 0 && region.inode == st.st_ino && region.device == st.st_dev;
}

Result<uint64_t> Attacher::agent_symbol(const Registry& registry, const std::string& name) {
  auto elf = symbols::ElfFile::open(config_.agent_path);
  if (!elf) return elf.error();
  auto symbol = elf->find_symbol(name);
  if (!symbol) return Error{ENOENT, "agent has no symbol " + name + ": it is of another version"};
  return registry.header.agent_base + symbol->address;
}

Result<void> Attacher::install_guard(Target& target, StoppedProcess& stopped, Registry& registry,
                                     const std::vector<MappedRegion>& regions) {
  if (std::count_if(registry.patches.begin(), registry.patches.end(), is_guard) == std::ssize(kRedirects)) return {};
  auto libc = std::find_if(regions.begin(), regions.end(), [](const MappedRegion& r) {
    return r.offset == 0 && r.path.ends_with("/libc.so.6");
  });
  if (libc == regions.end()) return Error{EOPNOTSUPP, "signal guard: the process has no glibc"};
  auto file = file_info(target.process, *libc);
  if (!file->elf) return Error{EOPNOTSUPP, "signal guard: libc cannot be read as ELF"};
  std::vector<std::pair<wire::PatchRecord, std::vector<rewrite::PcFixup>>> patches;
  for (const Redirect& redirect : kRedirects) {
    auto function = file->elf->find_symbol(redirect.libc_function);
    if (!function) return Error{EOPNOTSUPP, std::string("signal guard: libc has no ") + redirect.libc_function};
    Site site;
    site.file = file;
    site.file_address = function->address;
    site.function_size = function->size;
    site.address = libc->start + function->address;
    auto region = std::find_if(regions.begin(), regions.end(),
                               [&](const MappedRegion& r) { return site.address >= r.start && site.address < r.end; });
    if (region == regions.end()) return Error{EOPNOTSUPP, "signal guard: libc is not mapped whole"};
    site.region = *region;
    auto replacement = agent_symbol(registry, redirect.replacement);
    auto original = agent_symbol(registry, redirect.original);
    if (!replacement || !original) return replacement ? original.error() : replacement.error();
    auto text = original_text(target.process, registry, site);
    if (!text) return text.error();
    auto arena = code_.arena_near(stopped, registry, config_.window, regions, region->start, region->end, kPageSize);
    if (!arena) return arena.error();
    rewrite::SiteRequest request;
    request.address = site.address;
    request.code = *text;
    request.function_size = site.function_size;
    request.trampoline_address = (*arena)->next();
    auto plan = rewrite::plan_redirect(request, *replacement);
    if (!plan) return Error{plan.error().code, std::string("signal guard at ") + redirect.libc_function + ": " + plan.error().message};
    if (auto placed = (*arena)->append(plan->site.trampoline); !placed) return placed.error();
    // The agent must be able to go on as libc before anyone is led to it.
    const uint64_t entry = request.trampoline_address + plan->original_entry;
    if (auto written = stopped.write(*original, as_bytes(entry)); !written) return written;
    patches.emplace_back(make_record(request, plan->site, wire::PatchKind::kGuard, 0), plan->site.fixups);
  }
  auto install = agent_symbol(registry, "bpftime_agent_install_guard");
  if (!install) return install.error();
  const uint64_t arguments[] = {config_.window};
  auto installed = stopped.call(*install, arguments);
  if (!installed) return installed.error();
  if (*installed < 0) return Error{static_cast<int>(-*installed), "signal guard: rt_sigaction refused in the process"};
  for (const auto& [record, fixups] : patches) {
    if (registry.active_at(record.address) == nullptr)
      if (auto moved = move_threads(stopped, record, fixups); !moved) return moved;
    if (auto patched = target::apply_patch(stopped, config_.window, registry, record); !patched) return patched;
  }
  return stopped.unblock_signals(uint64_t{1} << (SIGSEGV - 1) | uint64_t{1} << (SIGBUS - 1));
}

// EAGAIN while a thread stands in our code: it may be about to read what faults.
Result<void> Attacher::remove_guard(StoppedProcess& stopped, Registry& registry, const std::vector<MappedRegion>& regions) {
  std::vector<uint64_t> sites;
  for (const auto& record : registry.patches)
    if (is_guard(record)) sites.push_back(record.address);
  if (sites.empty()) return {};
  const auto& header = registry.header;
  for (const auto& thread : stopped.threads()) {
    bool inside = std::any_of(regions.begin(), regions.end(), [&](const MappedRegion& r) {
      return thread.pc >= r.start && thread.pc < r.end && is_agent(r);
    });
    for (uint32_t i = 0; i < std::min(header.arena_count, wire::kArenasMax); ++i)
      inside |= thread.pc - header.arenas[i].address < header.arenas[i].size;
    if (inside) return Error{EAGAIN, "signal guard: thread " + std::to_string(thread.tid) + " runs a program"};
  }
  for (uint64_t address : sites)
    if (auto restored = target::restore_patch(stopped, config_.window, registry, address); !restored) return restored;
  auto remove = agent_symbol(registry, "bpftime_agent_remove_guard");
  if (!remove) return remove.error();
  auto removed = stopped.call(*remove, {});
  if (!removed) return removed.error();
  return {};
}

}  // namespace bpftime::daemon
