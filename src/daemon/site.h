// Internal to the attacher: what it knows of a file and of a place to patch.
#pragma once

#include <linux/bpf.h>
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "daemon/attacher.h"
#include "helpers/table.h"
#include "rewrite/system_call.h"

namespace bpftime::daemon {

// Of blocks in code memory: what is remembered there by its content.
inline constexpr uint64_t kHashStart = 0xcbf29ce484222325;
inline uint64_t mix_hash(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x100000001b3;
  return hash ^ hash >> 29;
}
inline uint64_t mix_bytes(uint64_t hash, Bytes bytes) {
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min(sizeof word, bytes.size() - at));
    hash = mix_hash(hash, word);
  }
  return mix_hash(hash, bytes.size());
}

// A program may replace the guard's handlers by system calls of its own, past libc: how long it is believed not to have.
inline constexpr auto kGuardTrusted = std::chrono::seconds(1);
// A thread that has one of these blocked would not survive a trap.
inline constexpr uint64_t kTrapSignals = uint64_t{1} << (SIGTRAP - 1) | uint64_t{1} << (SIGILL - 1);

inline bool is_guard(const wire::PatchRecord& record) {
  return record.kind == wire::PatchKind::kGuard && target::is_live(record);
}

// No file of the host: an arena (code_memory.h), the context.
inline bool is_ours(const target::MappedRegion& region) { return region.path.starts_with("/memfd:bpftime-"); }

// The mapping that `address` lies in; nullptr: none.
inline const target::MappedRegion* region_at(const std::vector<target::MappedRegion>& regions,
                                             uint64_t address) {
  const auto found = std::find_if(regions.begin(), regions.end(), [&](const target::MappedRegion& region) {
    return address >= region.start && address < region.end;
  });
  return found == regions.end() ? nullptr : &*found;
}

// Whether [first, first_end) and [second, second_end) have an address in common.
inline bool overlap(uint64_t first, uint64_t first_end, uint64_t second, uint64_t second_end) {
  return first < second_end && second < first_end;
}

// Of the C library, which does much that concerns signals past its own exported functions.
inline bool is_libc(const std::string& path) {
  for (const char* name : {"/libc.so", "/libc-2", "/ld-linux", "/libpthread", "/ld-2"})
    if (path.find(name) != std::string::npos) return true;
  return false;
}

// From the lowest to the highest address where the file of `region` is mapped.
inline std::pair<uint64_t, uint64_t> span_of_file(const std::vector<target::MappedRegion>& regions,
                                                  const target::MappedRegion& region) {
  std::pair<uint64_t, uint64_t> span{region.start, region.end};
  for (const auto& other : regions)
    if (other.inode == region.inode && other.device == region.device) {
      span.first = std::min(span.first, other.start);
      span.second = std::max(span.second, other.end);
    }
  return span;
}

// A file that targets map, parsed once.
struct Attacher::FileInfo {
  target::FileVersion version;
  std::string build_id;
  std::optional<symbols::ElfFile> elf;
  // Its system calls, once somebody has asked (system_call_sites.cc).
  struct SystemCalls {
    std::vector<rewrite::TextSystemCall> calls;
    size_t old = 0;      // by the kernel's 32-bit doors
    size_t unclear = 0;  // places that look like a call, in code nobody says the bounds of
  };
  std::optional<SystemCalls> system_calls;
  std::optional<bool>
      changes_signals;  // by system calls of its own: worth a look, if nobody asks for all calls
  bool go = false;      // holds Go code (and, with cgo, other code)
  std::optional<symbols::ElfFile::Section> restartable;  // descriptors of restartable sequences
};

// One address in one target where programs should run.
struct Attacher::Site {
  struct Want {
    std::shared_ptr<kernel::Prog> program;
    uint64_t cookie;
    bool on_return;
    uint32_t only_tgid;
    uint64_t order;
    std::vector<uint64_t> host_table;  // kernel::HostClass::symbols, as they lie in this target
    std::string event;                 // "syscalls:sys_enter_openat"; of system calls only, as the next
    int32_t only_number = -1;          // -1: every system call
    bool signal = false;               // signal:signal_generate
    uint64_t counter = 0;              // of its runs here (kernel::Hits); 0: nobody counts
  };
  // Instead of a function: before or after one of its `syscall` instructions.
  struct SystemCall {
    bool on_exit;
    uint64_t function, function_size;  // address in the target
    rewrite::SystemCallSite site;
    bool keeps_memory_shared = false;  // also without programs: rewrite::SystemCallRequest
    bool guards_signals = false;       // the same
  };
  uint64_t address = 0;
  uint64_t file_address = 0;
  target::MappedRegion region;
  std::shared_ptr<FileInfo> file;
  std::optional<SystemCall> system_call;
  uint64_t function_size = 0;  // of all of it; 0: unknown
  uint64_t into_function = 0;  // where in it the site is
  bool interior = false;       // not known to be a function's entry
  uint64_t semaphore = 0;      // address of the USDT semaphore to be raised while the site is probed; 0: none
  uint32_t room = 0;           // bytes up to the next site, if that is near; 0: enough
  ProbeReport report;
  std::vector<Want> wants;
  std::vector<std::weak_ptr<kernel::PerfEvent>> events;  // that ask for it; of system calls none

  // Whether another program, not known yet, may run in its place: then the site is made for any.
  static bool may_tail_call(const kernel::Prog& program) {
    return std::any_of(program.maps.begin(), program.maps.end(),
                       [](const auto& map) { return map->spec.type == BPF_MAP_TYPE_PROG_ARRAY; });
  }
  // Whether it is there for more than what other probes need.
  bool is_probe() const { return report.skipped.empty() && !wants.empty(); }
  // Of the process itself: for nobody's program.
  bool is_for_host() const { return system_call && wants.empty(); }
  bool needs_agent() const {
    return std::any_of(wants.begin(), wants.end(), [](const Want& w) {
      const auto& code = *w.program->code;
      return w.on_return || may_tail_call(*w.program) || code.repairs_faults || code.calls_host;
    });
  }
  bool wants_return() const {
    return std::any_of(wants.begin(), wants.end(), [](const Want& want) { return want.on_return; });
  }
  bool repairs_faults() const {
    return std::any_of(wants.begin(), wants.end(), [](const Want& w) {
      return w.program->code->repairs_faults || may_tail_call(*w.program);
    });
  }
  // Go makes system calls in functions that do not look how much stack is left; of some 540 bytes the registers take 300.
  bool needs_more_stack_than_go_leaves() const {
    constexpr uint32_t kLeft = 240;
    return file && file->go && std::any_of(wants.begin(), wants.end(), [](const Want& want) {
             return want.program->code && want.program->code->stack_bytes > kLeft;
           });
  }
  bool needs_system_calls() const {
    return std::any_of(wants.begin(), wants.end(), [](const Want& want) {
      if (want.signal) return true;  // whether it can be sent is asked
      const auto& insns = want.program->source.program.insns;
      return std::any_of(insns.begin(), insns.end(), [](const program::Insn& insn) {
        return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == 0 &&
               helpers::needs_system_calls(insn.imm);
      });
    });
  }
  bool needs_task_facts() const {
    return std::any_of(wants.begin(), wants.end(), [](const Want& want) {
      if (!want.program->facts) return false;
      const auto& called = want.program->facts->helpers_called;
      return std::any_of(called.begin(), called.end(), helpers::needs_task_facts);
    });
  }
  // Equal hash, equal behaviour. Ids are used again after the keeper's death, so the time of making is part of it.
  uint64_t hash() const {
    uint64_t value = kHashStart;
    constexpr uint64_t kTrampolineVersion = 5;  // raised when the same request makes other bytes
    auto mix = [&](uint64_t word) { value = mix_hash(value, word); };
    mix(kTrampolineVersion);
    mix(address);
    mix(system_call ? 1 + system_call->on_exit + 2 * system_call->keeps_memory_shared +
                          4 * system_call->guards_signals
                    : 0);
    mix(interior);
    mix(room);
    for (const Want& want : wants) {
      mix(want.program->id);
      mix(want.program->created_ns);
      mix(want.cookie);
      mix(want.on_return);
      mix(want.only_tgid);
      mix(static_cast<uint64_t>(want.only_number));
      mix(want.signal);
      mix(want.program->code
              ->context_slots_read);  // its registers follow from its code, which the id stands for
      for (const uint64_t address : want.host_table) mix(address);
      if (want.counter != 0) mix(want.counter);
    }
    return value;
  }
};

// A target as the last look at all of it left it, and what it takes to change one place more (few_places.cc). Believed for a
// second; a change of one place goes on from it, and the next look at all makes another.
struct Attacher::Kept {
  struct Place {
    bool patched = false;
    bool special = false;  // a semaphore hangs on it: changed with a look at all
    std::vector<std::weak_ptr<kernel::PerfEvent>> events;
    ProbeReport report;
  };
  std::chrono::steady_clock::time_point since;
  target::Registry registry;
  std::vector<target::MappedRegion> regions;
  target::CodeView code;
  target::StatusView status;
  target::StoppedProcess process;  // from outside
  std::map<uint64_t, Place> places;
  size_t patched = 0;    // of the places
  bool changed = false;  // since then

  std::vector<ProbeReport> reports() const {
    std::vector<ProbeReport> out;
    for (const auto& [address, place] : places) out.push_back(place.report);
    return out;
  }
};

// A site's patch, ready to be written.
struct Attacher::PlannedSite {
  Site* site = nullptr;
  rewrite::PatchMethod method = rewrite::PatchMethod::kJump;
  target::Patch patch{};
  std::vector<rewrite::PcFixup> fixups;
};

// What plan_site() has made for the places of one target: a probe that comes back finds its patch. A plan is a function of its
// request, and whatever goes into that is compared each time, the function's text as it is by then included; so none can be out
// of date, whatever has been unmapped or written meanwhile, and none needs to be dropped but for room.
struct Attacher::Plans {
  static constexpr size_t kPlacesMax = 1024, kTextMax = 4096;  // of longer functions none is kept
  struct Plan {
    uint64_t hash;  // Site::hash(): the programs and how they are called
    bool traps;
    uint64_t function_size, into_function;
    ReturnSupport support;
    std::vector<uint8_t> text;
    uint64_t key;  // by which code memory knows the trampoline, as long as it is not handed out again
    PlannedSite planned;
  };
  std::map<uint64_t, Plan> by_address;
};

}  // namespace bpftime::daemon
