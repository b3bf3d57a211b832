// The signal guard of targets whose programs read memory that may fault: puts it in and takes it out.
// What it does is in src/agent/guard.cc; here is how it gets there.
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>

#include "daemon/site.h"
#include "wire/signal_frame.h"

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

constexpr uint64_t kGuardedSignals = uint64_t{1} << (SIGSEGV - 1) | uint64_t{1} << (SIGBUS - 1) |
                                     uint64_t{1} << (SIGTRAP - 1) | uint64_t{1} << (SIGILL - 1);
// glibc's own two real-time signals: no program can block them, so a thread that has both blocked is inside libc, which
// blocks everything around clone and the like, and puts the mask back itself.
constexpr uint64_t kLibcsOwnSignals = uint64_t{3} << 31;

// Programs ask the vDSO for the time: such a thread stands outside our code and returns into it.
bool called_from_arena(StoppedProcess& stopped, const wire::TargetContext& header, uint64_t stack_pointer) {
  constexpr uint64_t kVdsoFrameMax = 512;
  auto stack = stopped.read(stack_pointer, kVdsoFrameMax);
  if (!stack) return false;
  for (size_t at = 0; at + 8 <= stack->size(); at += 8) {
    const uint64_t word = read_at<uint64_t>(*stack, at).value_or(0);
    for (uint32_t i = 0; i < std::min(header.arena_count, wire::kArenasMax); ++i)
      if (word - header.arenas[i].address < header.arenas[i].size) return true;
  }
  return false;
}

constexpr size_t kSavedRegisters = offsetof(ucontext_t, uc_mcontext.gregs);

// Where the contexts (ucontext_t) of handlers under way lie on a thread's stack: found by what every signal frame holds, and by the
// code that it returns to.
std::vector<uint64_t> contexts_on_stack(StoppedProcess& stopped, uint64_t stack_pointer) {
  constexpr uint64_t kLookedThrough = 64 * 1024;
  constexpr uint8_t kReturn[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00,
                                 0x00, 0x00, 0x0f, 0x05};  // mov $15,%rax; syscall
  constexpr uint16_t kUserCodeSegment = 0x33;
  constexpr size_t kSegments = kSavedRegisters + REG_CSGSFS * sizeof(uint64_t);
  const uint64_t start = stack_pointer & ~uint64_t{7};
  std::vector<uint8_t> stack;
  for (uint64_t at = start; at < start + kLookedThrough;) {
    const uint64_t end = (at | (kPageSize - 1)) + 1;
    const auto page = stopped.read(at, end - at);
    if (!page) break;
    stack.insert(stack.end(), page->begin(), page->end());
    at = end;
  }
  std::vector<uint64_t> out;
  for (size_t at = 0; at + sizeof(uint64_t) + kSegments + sizeof(uint64_t) <= stack.size();
       at += sizeof(uint64_t)) {
    const size_t context = at + sizeof(uint64_t);
    if (read_at<uint16_t>(stack, context + kSegments) != kUserCodeSegment) continue;
    const auto code = stopped.read(read_at<uint64_t>(stack, at).value_or(0), sizeof kReturn);
    if (code && std::equal(code->begin(), code->end(), std::begin(kReturn))) out.push_back(start + context);
  }
  return out;
}

// Signal frames of handlers under way get a mark: what they say of the thread's mask is the host's, while those made from now on
// say what we let be blocked.
void mark_frames(StoppedProcess& stopped, uint64_t stack_pointer) {
  for (const uint64_t context : contexts_on_stack(stopped, stack_pointer)) {
    const uint64_t link = context + offsetof(ucontext_t, uc_link);
    const auto now = stopped.read(link, sizeof(uint64_t));
    if (now && read_at<uint64_t>(*now, 0) == uint64_t{0})
      (void)stopped.write(link, as_bytes(wire::kFrameOfHost));
  }
}

// The mask that an interrupted call will wait under once it goes on, and how it is told.
struct WaitMask {
  unsigned long long user_regs_struct::*argument;
  bool behind;  // the argument leads to the next two words, else to the mask itself
  uint64_t size, timeout, mask;
};

std::optional<WaitMask> wait_mask(StoppedProcess& stopped, const user_regs_struct& registers,
                                  const rewrite::SystemCallSite& site) {
  constexpr unsigned long long user_regs_struct::*kArguments[] = {
      &user_regs_struct::rdi, &user_regs_struct::rsi, &user_regs_struct::rdx,
      &user_regs_struct::r10, &user_regs_struct::r8,  &user_regs_struct::r9};
  constexpr uint64_t kExtended = 1 << 3, kRegistered = 1 << 6;  // IORING_ENTER_EXT_ARG, _EXT_ARG_REG
  const auto number = static_cast<int32_t>(registers.orig_rax);
  const auto* call = rewrite::guarded_call(number);
  if (call == nullptr || call->mask < 0 || (site.arguments_used_after >> call->mask & 1) != 0)
    return std::nullopt;
  if (number == SYS_io_uring_enter && (registers.r10 & kRegistered) != 0) return std::nullopt;
  const bool extended = number == SYS_io_uring_enter && (registers.r10 & kExtended) != 0;
  WaitMask out{kArguments[call->mask], call->behind || extended, 0, 0, 0};
  uint64_t at = registers.*out.argument;
  if (out.behind) {
    const auto words = stopped.read(at, extended ? 24 : 16);
    if (!words) return std::nullopt;
    at = read_at<uint64_t>(*words, 0).value_or(0);
    out.size = read_at<uint64_t>(*words, 8).value_or(0);
    out.timeout = read_at<uint64_t>(*words, 16).value_or(0);
  } else {
    out.size = registers.*kArguments[call->mask + 1];
  }
  const auto mask = stopped.read(at, sizeof out.mask);
  if (!mask || static_cast<uint32_t>(out.size) != sizeof out.mask) return std::nullopt;
  out.mask = read_at<uint64_t>(*mask, 0).value_or(0);
  return out;
}

// Calls of unknown number whose end was traced wait beside their trampolines: at their own places from now on, and run no
// programs when they return.
void lead_calls_home(StoppedProcess& stopped) {
  constexpr int64_t kRestartCodes[] = {-512, -513, -514,
                                       -516};  // ERESTARTSYS and others: made again by their instruction
  const auto threads = stopped.threads();
  const auto registers = stopped.registers();
  for (size_t i = 0; i < threads.size(); ++i) {
    const auto result = static_cast<int64_t>(registers[i].rax);
    if (std::find(std::begin(kRestartCodes), std::end(kRestartCodes), result) == std::end(kRestartCodes))
      continue;
    const auto place = rewrite::own_place_of_call(
        registers[i].rip, registers[i].orig_rax,
        [&](uint64_t address, size_t size) { return stopped.read(address, size); });
    if (place)
      (void)stopped.change_registers(threads[i].tid, [&](user_regs_struct& now) { now.rip = *place; });
  }
}

}  // namespace

bool Attacher::is_agent(const MappedRegion& region) const {
  struct stat st;
  return ::stat(config_.agent_path.c_str(), &st) == 0 && region.inode == st.st_ino &&
         region.device == st.st_dev;
}

Result<uint64_t> Attacher::agent_symbol(Target& target, const std::vector<MappedRegion>& regions,
                                        const Registry& registry, const std::string& name) {
  const auto loaded = std::find_if(regions.begin(), regions.end(), [&](const MappedRegion& region) {
    return region.start == registry.header.agent_base && region.offset == 0 && region.inode != 0;
  });
  if (loaded == regions.end()) return Error{ENOENT, "agent: not where it was loaded"};
  const auto file = file_info(target.process, *loaded);
  if (!file->elf)
    return Error{ENOENT,
                 "agent: the file it was loaded from cannot be read any more; try restarting the process"};
  auto symbol = file->elf->find_symbol(name);
  if (!symbol) return Error{ENOENT, "agent has no symbol " + name + ": it is of another version"};
  return registry.header.agent_base + symbol->address;
}

bool Attacher::guard_complete(const Registry& registry) {
  return std::count_if(registry.patches.begin(), registry.patches.end(), is_guard) == std::ssize(kRedirects);
}

Result<void> Attacher::install_guard(Target& target, StoppedProcess& stopped, Registry& registry,
                                     const std::vector<MappedRegion>& regions) {
  if (guard_complete(registry)) return {};
  auto libc = std::find_if(regions.begin(), regions.end(), [](const MappedRegion& r) {
    return r.offset == 0 && r.path.ends_with("/libc.so.6");
  });
  if (libc == regions.end()) return Error{EOPNOTSUPP, "signal guard: the process has no glibc"};
  auto file = file_info(target.process, *libc);
  if (!file->elf) return Error{EOPNOTSUPP, "signal guard: libc cannot be read as ELF"};
  std::vector<std::pair<wire::PatchRecord, std::vector<rewrite::PcFixup>>> patches;
  for (const Redirect& redirect : kRedirects) {
    auto function = file->elf->find_symbol(redirect.libc_function);
    if (!function)
      return Error{EOPNOTSUPP, std::string("signal guard: libc has no ") + redirect.libc_function};
    Site site;
    site.file = file;
    site.file_address = function->address;
    site.function_size = function->size;
    site.address = libc->start + function->address;
    const MappedRegion* region = region_at(regions, site.address);
    if (region == nullptr) return Error{EOPNOTSUPP, "signal guard: libc is not mapped whole"};
    site.region = *region;
    auto replacement = agent_symbol(target, regions, registry, redirect.replacement);
    auto original = agent_symbol(target, regions, registry, redirect.original);
    if (!replacement || !original) return replacement ? original.error() : replacement.error();
    auto text = original_text(target.process, registry, site);
    if (!text) return text.error();
    const rewrite::TrampolineRule anywhere{site.address, 0};
    const auto held = [&]() -> Result<StoppedProcess*> { return &stopped; };
    auto arena = code_.arena_for(held, registry, config_.window, regions, region->start, region->end,
                                 anywhere, kPageSize, 0);
    if (!arena) return arena.error();
    rewrite::SiteRequest request;
    request.address = site.address;
    request.code = *text;
    request.function_size = site.function_size;
    const auto room = (*arena)->find_room(anywhere, kPageSize);
    if (!room) return Error{ENOMEM, "signal guard: code memory is full"};
    request.trampoline_address = *room;
    auto plan = rewrite::plan_redirect(request, *replacement);
    if (!plan)
      return Error{plan.error().code,
                   std::string("signal guard at ") + redirect.libc_function + ": " + plan.error().message};
    if (auto placed = (*arena)->put(*room, plan->site.trampoline); !placed) return placed.error();
    // The agent must be able to go on as libc before anyone is led to it.
    const uint64_t entry = request.trampoline_address + plan->original_entry;
    if (auto written = stopped.write(*original, as_bytes(entry)); !written) return written;
    patches.emplace_back(make_record(request, plan->site, wire::PatchKind::kGuard, 0), plan->site.fixups);
  }
  auto install = agent_symbol(target, regions, registry, "bpftime_agent_install_guard");
  if (!install) return install.error();
  auto offset = agent_symbol(target, regions, registry, "bpftime_agent_host_masked_offset");
  if (!offset) return offset.error();
  const uint64_t arguments[] = {config_.window};
  auto installed = stopped.call(*install, arguments);
  if (!installed) return installed.error();
  if (*installed < 0)
    return Error{static_cast<int>(-*installed), "signal guard: rt_sigaction refused in the process"};
  for (const auto& [record, fixups] : patches) {
    if (registry.active_at(record.address) == nullptr)
      if (auto moved = move_threads(stopped, record, fixups); !moved) return moved;
    const target::Patch patch{record, {record.trampoline}};
    if (auto patched = target::apply_patches(stopped, config_.window, registry, std::span(&patch, 1),
                                             target::Threads::kStopped);
        !patched)
      return patched;
  }
  auto masked_offset = stopped.call(*offset, {});
  if (!masked_offset) return masked_offset.error();
  return hide_blocked_signals(stopped, static_cast<uint64_t>(*masked_offset));
}

Result<void> Attacher::hide_blocked_signals(StoppedProcess& stopped, uint64_t offset) {
  for (const auto& thread : stopped.threads()) {
    auto mask = stopped.signal_mask(thread.tid);
    if (!mask) continue;  // it has exited
    const uint64_t blocked = *mask & kGuardedSignals;
    if (blocked == 0) continue;
    const bool by_libc = (*mask & kLibcsOwnSignals) == kLibcsOwnSignals;
    if (thread.thread_pointer != 0 && !by_libc) {
      const uint64_t word = thread.thread_pointer + offset;
      auto before = stopped.read(word, sizeof(uint32_t));
      if (!before) return before.error();
      const uint32_t hidden = read_at<uint32_t>(*before, 0).value_or(0) | static_cast<uint32_t>(blocked);
      if (auto written = stopped.write(word, as_bytes(hidden)); !written) return written;
      mark_frames(stopped, thread.stack_pointer);
    }
    if (auto changed = stopped.set_signal_mask(thread.tid, *mask & ~kGuardedSignals); !changed)
      return changed;
  }
  return {};
}

// What src/agent/guard.cc does for calls that begin, for those under way: the kernel restarts them with the registers they have.
Result<void> Attacher::lend_masks(Target& target, StoppedProcess& stopped, const Registry& registry,
                                  const std::vector<MappedRegion>& regions,
                                  const std::vector<PlannedSite>& planned) {
  std::map<uint64_t, const rewrite::SystemCallSite*> guarded;  // by where their calls return
  for (const PlannedSite& plan : planned)
    if (plan.site->system_call && plan.site->system_call->guards_signals)
      guarded[plan.site->report.address + 2] = &plan.site->system_call->site;
  if (guarded.empty()) return {};
  const auto threads = stopped.threads();
  const auto registers = stopped.registers();
  for (size_t i = 0; i < threads.size(); ++i) {
    constexpr int64_t kRestartNoHandler = -514;  // ERESTARTNOHAND: again, unless a handler runs
    const auto site = guarded.find(registers[i].rip);
    if (site == guarded.end() || static_cast<int64_t>(registers[i].rax) != kRestartNoHandler) continue;
    const auto wait = wait_mask(stopped, registers[i], *site->second);
    if (!wait || (wait->mask & kGuardedSignals) == 0) continue;
    auto lend = agent_symbol(target, regions, registry, "bpftime_agent_lend_mask");
    if (!lend) return lend.error();
    const uint64_t arguments[] = {wait->mask, wait->size, wait->timeout, wait->behind};
    auto lent = stopped.call(*lend, arguments);
    if (!lent) return lent.error();
    if (*lent == 0) continue;
    const pid_t tid = threads[i].tid;
    auto changed = stopped.change_registers(
        tid, [&](user_regs_struct& now) { now.*wait->argument = static_cast<uint64_t>(*lent); });
    if (!changed) continue;  // it has exited
    // So no signal comes under the old mask before the call takes the new one.
    if (const auto mask = stopped.signal_mask(tid); mask) (void)stopped.set_signal_mask(tid, *mask);
  }
  return {};
}

Result<void> Attacher::return_blocked_signals(Target& target, StoppedProcess& stopped, uint64_t offset) {
  for (const auto& thread : stopped.threads()) {
    if (thread.thread_pointer == 0) continue;
    struct HostView {
      uint32_t masked, pending;  // src/agent/thread.h
    };
    const uint64_t at = thread.thread_pointer + offset;
    auto bytes = stopped.read(at, sizeof(HostView));
    if (!bytes) continue;
    const HostView view = read_at<HostView>(*bytes, 0).value_or(HostView{});
    const uint64_t masked = view.masked & kGuardedSignals;
    if (masked == 0) continue;
    auto mask = stopped.signal_mask(thread.tid);
    if (!mask) continue;
    if (auto changed = stopped.set_signal_mask(thread.tid, *mask | masked); !changed) return changed;
    if (auto written = stopped.write(at, as_bytes(HostView{})); !written) return written;
    // What arrived while the host believed to have it blocked waits in the kernel from now on.
    for (int signal : {SIGSEGV, SIGBUS, SIGTRAP, SIGILL})
      if (view.pending & masked & (uint64_t{1} << (signal - 1)))
        ::syscall(SYS_tgkill, target.process.pid(), thread.tid, signal);
  }
  return {};
}

// EAGAIN while a thread stands in our code: it may be about to read what faults. EBUSY: when a handler of the host's has returned.
Result<void> Attacher::remove_guard(Target& target, StoppedProcess& stopped, Registry& registry,
                                    const std::vector<MappedRegion>& regions) {
  std::vector<uint64_t> sites;
  for (const auto& record : registry.patches)
    if (is_guard(record)) sites.push_back(record.address);
  const auto& header = registry.header;
  // Handlers may be in place without redirects: we died, or failed, between the two.
  auto installed =
      stopped.read(config_.window + offsetof(wire::TargetContext, guard_installed), sizeof(uint64_t));
  const bool guarded = installed && read_at<uint64_t>(*installed, 0) == 1 && header.agent_base != 0;
  if (sites.empty() && !guarded) return {};
  lead_calls_home(stopped);
  const auto in_our_code = [&](uint64_t pc, uint64_t stack_pointer) {
    const auto* arenas = header.arenas;
    const bool in_arena =
        std::any_of(arenas, arenas + std::min(header.arena_count, wire::kArenasMax),
                    [pc](const wire::ArenaRecord& arena) { return pc - arena.address < arena.size; });
    if (in_arena) return true;
    const MappedRegion* region = region_at(regions, pc);
    return region != nullptr && (is_agent(*region) || (region->path == "[vdso]" &&
                                                       called_from_arena(stopped, header, stack_pointer)));
  };
  for (const auto& thread : stopped.threads()) {
    const Error runs{EAGAIN, "signal guard: thread " + std::to_string(thread.tid) + " runs a program"};
    if (in_our_code(thread.pc, thread.stack_pointer)) return runs;
    // Where a handler returns to, which may take long.
    for (const uint64_t context : contexts_on_stack(stopped, thread.stack_pointer)) {
      const auto saved = stopped.read(context, kSavedRegisters + sizeof(gregset_t));
      const auto at = [&](int number) {
        return read_at<uint64_t>(*saved, kSavedRegisters + static_cast<size_t>(number) * sizeof(uint64_t))
            .value_or(0);
      };
      if (saved && in_our_code(at(REG_RIP), at(REG_RSP)))
        return Error{EBUSY, runs.message + ", where a handler has interrupted it"};
    }
  }
  if (auto restored =
          target::restore_patches(stopped, config_.window, registry, sites, target::Threads::kStopped);
      !restored)
    return restored;
  auto remove = agent_symbol(target, regions, registry, "bpftime_agent_remove_guard");
  if (!remove) return remove.error();
  auto offset = agent_symbol(target, regions, registry, "bpftime_agent_host_masked_offset");
  if (!offset) return offset.error();
  auto masked_offset = stopped.call(*offset, {});
  if (!masked_offset) return masked_offset.error();
  // Return-probed functions that have not returned yet would run their programs after that. An older agent has no such function.
  if (auto forget = agent_symbol(target, regions, registry, "bpftime_agent_forget_returns"))
    if (auto forgotten = stopped.call(*forget, {}); !forgotten) return forgotten.error();
  auto removed = stopped.call(*remove, {});
  if (!removed) return removed.error();
  return return_blocked_signals(target, stopped, static_cast<uint64_t>(*masked_offset));
}

}  // namespace bpftime::daemon
