// Which places of a target programs should run at, and why some cannot be probed.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/progress.h"
#include "daemon/site.h"

namespace bpftime::daemon {

using target::MappedRegion;

namespace {

constexpr char kMakesSystemCalls[] =
    "a program makes system calls (bpf_get_current_comm, bpf_get_current_uid_gid, ring buffer wake-ups "
    "or trace output), "
    "and the process has a seccomp filter of its own that may kill it for them";

// Functions whose return must not be seen: they return twice, on another stack, or read their own return address.
bool return_is_special(std::string name) {
  static const std::set<std::string> kNames = {
      "vfork",      "fork1",      "clone",       "clone3",      "setjmp",       "sigsetjmp",
      "longjmp",    "getcontext", "swapcontext", "makecontext", "tls_get_addr", "start",
      "restore_rt", "dlopen",     "dlsym",       "dlvsym",      "dlmopen"};
  name.erase(0, std::min(name.find_first_not_of('_'), name.size()));
  if (name.starts_with("libc_")) name.erase(0, 5);
  return kNames.contains(name);
}

}  // namespace

std::shared_ptr<Attacher::FileInfo> Attacher::file_info(const target::Process& process,
                                                        const MappedRegion& region) {
  const InodeId id{region.device, region.inode};
  if (auto seen = files_looked_at_.find(id); seen != files_looked_at_.end()) return seen->second;
  if (auto known = files_.find(id);
      known != files_.end() && region.version.size >= 0 && known->second->version == region.version)
    return files_looked_at_[id] = known->second;
  auto fd = process.open_mapped_file(region);
  // An inode's number may name another file later, or the file be written anew.
  struct stat now {};
  const bool stated = fd && ::fstat(fd->get(), &now) == 0;
  const target::FileVersion version{now.st_size, now.st_ctim.tv_sec, now.st_ctim.tv_nsec};
  if (auto known = files_.find(id); known != files_.end() && (!stated || known->second->version == version))
    return files_looked_at_[id] = known->second;
  auto info = std::make_shared<FileInfo>();
  info->version = version;
  if (fd) {
    if (auto elf = symbols::ElfFile::from_fd(fd->get(), region.path)) {
      info->build_id = elf->build_id();
      info->restartable = elf->find_section("__rseq_cs");
      info->go = elf->find_section(".go.buildinfo").has_value();
      info->elf = std::move(*elf);
    }
  }
  constexpr size_t kFilesMax = 512;
  if (files_.size() >= kFilesMax) files_.clear();
  files_[id] = files_looked_at_[id] = info;
  return info;
}

bool Attacher::same_file(const target::Process& process, const MappedRegion& region, const InodeId& file,
                         const std::string& build_id) {
  if (InodeId{region.device, region.inode} == file) return true;
  return !build_id.empty() && file_info(process, region)->build_id == build_id;
}

// As Linux: in a writable private mapping of the probed file; anything else is no semaphore, and no error either.
uint64_t Attacher::semaphore_of(const std::vector<MappedRegion>& regions, const MappedRegion& text,
                                const kernel::PerfEvent& event) {
  if (event.counter == 0) return 0;
  for (const auto& region : regions) {
    if (region.inode != text.inode || region.device != text.device || !region.writable || region.shared)
      continue;
    if (event.counter < region.offset || event.counter - region.offset >= region.end - region.start) continue;
    // The same file may be mapped by several libraries' worth of namespaces: the one that belongs to this text is near it.
    const uint64_t address = region.start + (event.counter - region.offset);
    constexpr uint64_t kFileSpanMax = uint64_t{1} << 31;
    if (region.start > text.start && region.start - text.start < kFileSpanMax) return address;
  }
  return 0;
}

// An extension of a session that is not about this process does not exist for it.
bool Attacher::may_run(const Target& target, const kernel::Prog& program) {
  return !program.host || program.host->session == 0 || contains(target.sessions, program.host->session);
}

// Where programs should run in this process. Sites that cannot be probed are in the list too, with the reason.
std::vector<Attacher::Site> Attacher::wanted_sites(Target& target, const std::vector<MappedRegion>& regions,
                                                   const target::Status& status) {
  if (target.detached || withdrawn_) return {};
  auto out = sites_of(target, regions, status, kernel_.probes());
  // In order of address: none may be in another's patch.
  for (size_t i = 0; i + 1 < out.size(); ++i) {
    const auto next = std::find_if(out.begin() + static_cast<ptrdiff_t>(i) + 1, out.end(),
                                   [](const Site& site) { return site.report.skipped.empty(); });
    if (next == out.end()) break;
    const uint64_t distance = next->address - out[i].address;
    out[i].room = distance < wire::kPatchBytesMax ? static_cast<uint32_t>(distance) : 0;
  }
  add_system_call_sites(target, regions, status, out);
  for (auto& site : out)
    if (site.system_call && site.report.skipped.empty() && target::filtered_unlike_us(status) &&
        site.needs_system_calls())
      site.report.skipped = kMakesSystemCalls;
  if (kernel_.counting()) count_hits(target, out);
  return out;
}

std::vector<Attacher::Site> Attacher::sites_of(Target& target, const std::vector<MappedRegion>& regions,
                                               const target::Status& status,
                                               const std::vector<kernel::Probe>& probes) {
  std::map<uint64_t, Site> sites;
  for (const auto& probe : probes) {
    const auto& event = *probe.event;
    if (event.pid > 0 && static_cast<uint32_t>(event.pid) != status.tgid) continue;
    if (std::none_of(probe.programs.begin(), probe.programs.end(),
                     [&](const auto& attached) { return may_run(target, *attached.program); }))
      continue;
    for (const auto& region : regions) {
      if (!region.executable || region.inode == 0 || is_ours(region)) continue;
      if (event.offset < region.offset || event.offset - region.offset >= region.end - region.start) continue;
      if (!same_file(target.process, region, event.file, event.build_id)) {
        if (auto other = other_build(target.process, region, probe))
          sites.emplace(region.start, std::move(*other));
        continue;
      }
      const uint64_t address = region.start + (event.offset - region.offset);
      Site& site = sites[address];
      site.address = address;
      site.region = region;
      site.report.path = event.path;
      site.report.offset = event.offset;
      site.report.address = address;
      site.events.push_back(probe.event);
      if (site.semaphore == 0) site.semaphore = semaphore_of(regions, region, event);
      for (const auto& attached : probe.programs) {
        if (!may_run(target, *attached.program)) continue;
        if (!attached.program->code)
          set_progress("compiling program " + attached.program->name,
                       static_cast<uint32_t>(&probe - probes.data()), static_cast<uint32_t>(probes.size()));
        if (auto compiled = kernel_.ensure_code(*attached.program); !compiled) {
          site.report.skipped = compiled.error().message;
          continue;
        }
        site.wants.push_back({attached.program,
                              attached.cookie,
                              event.return_probe,
                              event.pid > 0 ? static_cast<uint32_t>(event.pid) : 0,
                              attached.order,
                              {}});
        site.report.programs.push_back(
            {attached.program->id, attached.program->name, event.return_probe,
             !Site::may_tail_call(*attached.program) && code_use(*attached.program).inert});
      }
    }
  }
  std::vector<Site> out;
  out.reserve(sites.size());
  for (auto& [address, site] : sites) {
    std::sort(site.wants.begin(), site.wants.end(),
              [](const auto& a, const auto& b) { return a.order < b.order; });
    site.file = file_info(target.process, site.region);
    auto skip = [&, &site = site](const std::string& why) {
      if (site.report.skipped.empty()) site.report.skipped = why;
    };
    if (!site.file->elf) {
      skip("its file cannot be read as ELF");
    } else if (auto at = site.file->elf->address_of_offset(site.report.offset); !at) {
      skip("offset lies in no segment of the file");
    } else {
      site.file_address = *at;
      const bool returns =
          std::any_of(site.wants.begin(), site.wants.end(), [](const auto& w) { return w.on_return; });
      if (auto function = site.file->elf->function_at(*at)) {
        site.report.function = function->name;
        site.function_size = function->size;
        site.into_function = *at - function->address;
        site.interior = site.into_function != 0;
        if (returns && site.interior)
          skip("a return probe belongs at a function's entry, this is +" +
               std::to_string(site.into_function) + " in " + function->name);
        if (returns && return_is_special(function->name))
          skip("the return of " + function->name +
               " cannot be probed: it returns twice, on another stack, or looks at its caller");
      } else {
        site.interior = !returns;  // who asks for a return says that it is an entry
      }
      if (auto why = in_restartable_sequence(target.process, site)) skip(*why);
      if (auto why = in_go(site)) skip(*why);
    }
    for (auto& want : site.wants) {
      if (!want.program->host) continue;
      if (auto fits = fits_class(target.process, regions, site, *want.program->host); !fits)
        skip(fits.error().message);
      if (want.on_return && want.program->host->constraints.typed_entry)
        skip("extensions run at their entry, not at its return");
      if (want.on_return && (want.program->code->calls_host || want.program->code->ends_function))
        skip("extensions call host functions and end functions at their entry only");
      auto table = host_table(target.process, regions, site, *want.program->host);
      if (!table) skip(table.error().message);
      if (table) want.host_table = std::move(*table);
    }
    if (target::filtered_unlike_us(status) && site.needs_system_calls()) skip(kMakesSystemCalls);
    out.push_back(std::move(site));
  }
  return out;
}

void Attacher::count_hits(Target& target, std::vector<Site>& sites) {
  for (auto& site : sites) {
    if (!site.report.skipped.empty()) continue;
    for (auto& want : site.wants) {
      want.counter = kernel_.hit_counter(
          {target.process.pid(), site.address, want.program->id, want.order, want.on_return});
      for (auto& program : site.report.programs) {
        if (program.id != want.program->id || program.on_return != want.on_return || want.counter == 0)
          continue;
        program.elided = false;  // counted, so it is called
        program.counters.push_back(want.counter);
      }
    }
  }
}

// Go moves its stacks, with the return addresses on them, and makes them only as large as its own functions say they need: one
// that begins with the comparison Go's compiler puts there was called with some 790 bytes left, what others have left nobody
// says. Beyond that lie other goroutines' stacks, and nothing that would fault.
std::optional<std::string> Attacher::in_go(const Site& site) {
  if (!site.file->go || site.report.function.find('.') == std::string::npos)
    return std::nullopt;  // of C, by cgo
  for (const auto& want : site.wants) {
    if (want.on_return) return "the return of a Go function cannot be probed: Go moves its stacks";
    if (site.interior) return "inside a Go function nobody says how much stack is left";
    constexpr uint64_t kLeft = 600;
    const uint64_t needed = sizeof(wire::PtRegs) + want.program->code->stack_bytes;
    if (needed > kLeft)
      return "program " + want.program->name + " needs " + std::to_string(needed) +
             " bytes of stack, of which a Go function may have no more than " + std::to_string(kLeft);
  }
  const uint8_t checks[][4] = {{0x49, 0x3b, 0x66, 0x10},  // cmp 0x10(%r14),%rsp
                               {0x4c, 0x8d, 0x64, 0x24},  // lea -size(%rsp),%r12; cmp 0x10(%r14),%r12
                               {0x4c, 0x8d, 0xa4, 0x24}};
  const auto code = site.file->elf->read(site.file_address, sizeof checks[0]);
  if (std::none_of(std::begin(checks), std::end(checks), [&](const auto& check) {
        return std::equal(std::begin(check), std::end(check), code.begin(), code.end());
      }))
    return "the Go function does not look how much stack is left, so there may be none for programs";
  return std::nullopt;
}

// The kernel sends a thread that it interrupts inside one to its abort handler: code moved elsewhere would lose that. The
// descriptors are read where the process has them, since the file's own are filled in by the dynamic loader.
std::optional<std::string> Attacher::in_restartable_sequence(const target::Process& process,
                                                             const Site& site) {
  struct Descriptor {  // struct rseq_cs
    uint32_t version, flags;
    uint64_t start, length, abort;
  };
  constexpr uint64_t kDescriptorsMax = 4096;
  constexpr uint64_t kSignature = 4;  // bytes before an abort handler that must stay as they are
  const auto& section = site.file->restartable;
  if (!section) return std::nullopt;
  const uint64_t bias = site.address - site.file_address;
  const uint64_t size = std::min(section->size, kDescriptorsMax * sizeof(Descriptor));
  auto bytes = process.read(bias + section->address, size / sizeof(Descriptor) * sizeof(Descriptor));
  if (!bytes) return "the restartable sequences (rseq) of its file cannot be read";
  for (size_t at = 0; at + sizeof(Descriptor) <= bytes->size(); at += sizeof(Descriptor)) {
    const auto each = read_at<Descriptor>(*bytes, at).value_or(Descriptor{});
    const uint64_t end = site.address + wire::kPatchBytesMax;
    const bool inside = site.address < each.start + each.length && each.start < end;
    const bool signature = site.address < each.abort && each.abort - kSignature < end;
    if (each.length != 0 && (inside || signature))
      return "it lies in a restartable sequence (rseq), whose instructions the kernel must find in their "
             "place";
  }
  return std::nullopt;
}

// The file of the policy's host in another build: its extensions are not for it, and somebody will ask why they do not run.
std::optional<Attacher::Site> Attacher::other_build(const target::Process& process,
                                                    const MappedRegion& region, const kernel::Probe& probe) {
  constexpr std::string_view kDeleted = " (deleted)";
  std::string_view path = region.path;
  if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
  const auto& first = *probe.programs[0].program;
  if (!first.host || path != probe.event->path) return std::nullopt;
  Site site;
  site.address = region.start;
  site.region = region;
  site.report.path = probe.event->path;
  site.report.offset = probe.event->offset;
  for (const auto& attached : probe.programs)
    site.report.programs.push_back({attached.program->id, attached.program->name, probe.event->return_probe});
  const std::string build = file_info(process, region)->build_id;
  site.report.skipped = first.host->policy + " is for build " +
                        (first.host->build_id.empty() ? probe.event->build_id : first.host->build_id) +
                        " of the host, this process runs build " +
                        (build.empty() ? "unknown (no build-id)" : build) + "; start it again";
  return site;
}

// The host is the build the policy is for, and the function is the class's entry: its arguments are what the program
// was verified with.
Result<void> Attacher::fits_class(const target::Process& process, const std::vector<MappedRegion>& regions,
                                  const Site& site, const kernel::HostClass& host) {
  const std::string& build = site.file->build_id;
  if (!host.build_id.empty() && build != host.build_id)
    return Error{EPERM, host.policy + " is for build " + host.build_id + " of the host, this one is build " +
                            (build.empty() ? "unknown (it has no build-id)" : build)};
  if (host.entry.name.empty()) return {};
  const auto entry = host_address(process, regions, site, host, host.entry);
  if (!entry) return entry.error();
  if (*entry == site.address) return {};
  return Error{EPERM,
               "class \"" + host.constraints.class_name + "\" (" + host.policy_place + ") is for " +
                   host.entry.name + ", not for " +
                   (site.report.function.empty() ? std::string("this address") : site.report.function)};
}

// Symbols are looked for in the probed file first, then in the others in the order they are mapped.
Result<uint64_t> Attacher::host_address(const target::Process& process,
                                        const std::vector<MappedRegion>& regions, const Site& site,
                                        const kernel::HostClass& host,
                                        const kernel::HostClass::Symbol& symbol) {
  const auto base_of = [&](const MappedRegion& region, const FileInfo& info) -> std::optional<uint64_t> {
    const auto mapped = info.elf ? info.elf->address_of_offset(region.offset) : std::nullopt;
    return mapped ? std::optional(region.start - *mapped) : std::nullopt;
  };
  if (symbol.address != 0 && !host.build_id.empty() && site.file->build_id == host.build_id)
    if (const auto base = base_of(site.region, *site.file)) return *base + symbol.address;
  bool indirect = false;
  const auto find = [&](const MappedRegion& region) -> std::optional<uint64_t> {
    const auto info = file_info(process, region);
    const auto base = base_of(region, *info);
    const auto found = base ? info->elf->find_symbol(symbol.name) : std::nullopt;
    indirect = indirect || (found && found->indirect);
    return found && !found->indirect ? std::optional(*base + found->address + symbol.offset) : std::nullopt;
  };
  if (const auto here = find(site.region)) return *here;
  for (const MappedRegion& region : regions) {
    if (!region.executable || region.inode == 0 || region.inode == site.region.inode) continue;
    if (is_ours(region)) continue;
    if (const auto there = find(region)) return *there;
  }
  if (indirect)
    return Error{EOPNOTSUPP,
                 "host symbol " + symbol.name +
                     ": its implementation is chosen when the library is loaded (IFUNC); offer a function "
                     "of the host that calls it"};
  return Error{ENOENT, "host symbol " + symbol.name + ": not found in " + site.region.path +
                           " or another file of the process; is it stripped of it?"};
}

Result<std::vector<uint64_t>> Attacher::host_table(const target::Process& process,
                                                   const std::vector<MappedRegion>& regions, const Site& site,
                                                   const kernel::HostClass& host) {
  std::vector<uint64_t> out;
  for (const auto& symbol : host.symbols) {
    const auto address = host_address(process, regions, site, host, symbol);
    if (!address) return address.error();
    out.push_back(*address);
  }
  return out;
}

}  // namespace bpftime::daemon
