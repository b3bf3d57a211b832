// The objects of the userspace kernel and their lifetimes.
//
// Lifetime rule, as in Linux: an object lives while somebody outside holds a descriptor of it (or a mapping made from one)
// or while a living object refers to it. Outside holders need not cooperate: each gets its own open file description, whose
// last close inotify reports; a write lease on our own description then tells whether it really was the last.
// Targets map through our description, so that a probe's mapping keeps no map alive.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/memfd.h"
#include "base/result.h"
#include "compiler/compiler.h"
#include "program/program.h"
#include "program/tracepoints.h"
#include "verifier/verifier.h"
#include "wire/object.h"

namespace bpftime::kernel {

using wire::ObjectKind;

struct Object {
  virtual ~Object() = default;

  ObjectKind kind = ObjectKind::kNone;
  uint32_t id = 0;
  std::string name;
  Fd fd;  // our description; read-write
  InodeId inode;
  bool held_outside = true;
  int watch = -1;               // of inotify
  std::vector<Fd> pins;         // the files by whose names it is pinned
  uint32_t recovered_pins = 0;  // of the descriptors that came with the record, the last ones
  uint32_t created_by_uid = 0;
  uint64_t created_ns = 0;  // CLOCK_BOOTTIME

  // Objects this one keeps alive.
  virtual std::vector<std::shared_ptr<Object>> references() const { return {}; }
};

struct Btf : Object {
  std::vector<uint8_t> blob;
  // Of a host, split on the kernel's BTF that clients read: shown as a module's to connections whose policy it belongs to.
  bool of_host = false;
  bool of_kernel = false;  // the running kernel's own, "vmlinux": of this worker alone, in no record

  bool is_kernels() const { return of_host || of_kernel; }  // to clients
};

struct PerfEvent;

struct Map : Object {
  wire::MapSpec spec{};
  uint64_t address = 0;  // in every target
  bool frozen = false;
  std::shared_ptr<Btf> btf;
  uint32_t btf_key_type_id = 0, btf_value_type_id = 0;
  wire::ValueFields fields{};
  Mapping memory;  // all of it, read-write
  // Frozen read-only maps: a write-sealed copy. The verifier took its bytes for constants, so this is what targets map:
  // a process that could change them would steer another into branches that nobody verified. Maps of objects: the memory
  // itself (`memory` is its only writable mapping), through a read-only description; what clients hold is an empty file.
  Fd sealed;
  std::map<uint32_t, std::shared_ptr<PerfEvent>> perf_slots;  // PERF_EVENT_ARRAY
  // PROG_ARRAY, ARRAY_OF_MAPS, HASH_OF_MAPS: programs or maps by key.
  std::map<std::vector<uint8_t>, std::shared_ptr<Object>> slots;
  std::optional<wire::MapSpec> inner;  // maps of maps: what their values are like
  std::optional<uint32_t> owner_type;  // PROG_ARRAY: of programs it is for, once that is known
  uint64_t reference = 0;              // maps::MapReference in every target; 0: in no map of maps yet
  std::vector<std::pair<std::vector<uint8_t>, uint32_t>> recovered_slots;  // ids, until all objects are back
  Fd readiness;           // ring buffers: eventfd of waiting clients, if any asked
  bool internal = false;  // the trace ring, the table of references: no client ever sees them

  std::vector<std::shared_ptr<Object>> references() const override;
};

// What an extension class gives a program beyond observing; made from a policy (src/eim), the same for every program of it.
struct HostClass {
  // Ids of host functions and variables are slots: indexes into `symbols`.
  verifier::Constraints constraints;
  // Where the slots' addresses come from: a symbol, and a distance from it, in the file the program is attached to, or in
  // any other file the process has mapped.
  struct Symbol {
    std::string name;
    uint64_t offset = 0;
    uint64_t address =
        0;  // in the probed file, if it is build `build_id`: then no symbol is looked for; 0: not known
    uint32_t btf_id = 0;  // by which instructions of clients mean it (HostPolicy::btf)
  };
  std::vector<Symbol> symbols;
  bool result_in_xmm0 = false;  // the entry returns a float or double

  // What the attacher holds programs to. Empty names: a class made by a test, at any function of any build.
  // Entry `syscalls:…`: programs of type tracepoint, at that event, in processes that run `host`; `entry.name` is the event.
  bool at_system_call = false;
  std::string host;  // the binary, for that
  Symbol entry;  // the one function programs of the class may be attached to: the context has its arguments
  std::string build_id;                  // of the file, hex; empty: any
  std::vector<std::string> shared_maps;  // maps that programs of other classes may use, too
  std::string policy;                    // file of the policy, for messages
  // The process that asked for the policy, as "PID@START": its programs of one class are held to the class's memory together,
  // whichever connection or daemon they came by. A policy that is read again has its own, by another process.
  std::string owner;
  bool check_promises = false;  // compiler::CompileOptions::check_promises
  // The session of `bpftime extend` that its programs are for: they run in no process that is not in it (daemon/sessions.h).
  // 0: in every process they are attached to.
  uint64_t session = 0;
  std::string entry_place;   // "host.cc:94": where the host declares the entry
  std::string policy_place;  // "nginx.policy.yaml:9": where the class's capabilities are listed
  // The text that would grant what the verifier says is missing; for messages, not recorded.
  std::function<std::string(const std::string& missing)> hint;
};

// The classes one connection's programs are put in.
struct HostPolicy {
  std::shared_ptr<Btf> btf;
  Fd btf_held;  // keeps `btf` living
  std::vector<std::shared_ptr<const HostClass>> classes;
  // By the program's name: from the policy's `function`. Others get the only class, if there is one.
  std::vector<std::pair<std::string, std::shared_ptr<const HostClass>>> by_program;
  bool count_runs = false;  // of its programs: Prog::runs

  // `selected`: a class the client has asked for by name; empty: none. Null: the program is an ordinary one.
  // `type`: of the program, enum bpf_prog_type; 0: any.
  std::shared_ptr<const HostClass> class_of(const std::string& program, const std::string& selected,
                                            uint32_t type = 0) const;
};

struct Prog : Object {
  verifier::Request source;  // what was verified; source.program has map references as indexes into `maps`
  std::vector<std::shared_ptr<Map>> maps;
  std::vector<std::shared_ptr<Map>> bound_maps;  // PROG_BIND_MAP
  std::shared_ptr<Btf> btf;
  uint32_t verified_insns = 0;  // as the kernel's verifier counts; 0: not known (a worker took over)
  std::string verified_by;      // "bpftime", or "bpftime, kernel" when both accepted it
  std::shared_ptr<Map> runs;    // counts them, if somebody asked for that: an array, see run_count
  std::shared_ptr<const HostClass> host;      // null: an ordinary program, which observes
  std::optional<verifier::Facts> facts;       // of `source`; made again when a worker took over
  std::optional<compiler::MachineCode> code;  // made at the first attach
  // For tail calls and the runner: the code once more, at one address in all processes. Never changes, never moves.
  uint64_t code_address = 0, code_entry = 0;  // of the memory, of the first instruction; 0: not placed
  uint64_t tail_entry = 0;                    // what slots of program arrays hold; 0: nobody may jump to it
  Fd code_memory;                             // a read-only description

  std::vector<std::shared_ptr<Object>> references() const override;
};

// How often the program ran, in all processes; nullopt: nobody counts.
std::optional<uint64_t> run_count(const Prog& program);
// How often a host function broke a promise to it, and ended the run by that; nullopt: nobody looks.
std::optional<uint64_t> broken_promises(const Prog& program);

struct AttachedProgram {
  std::shared_ptr<Prog> program;
  uint64_t cookie = 0;
  uint32_t link_id = 0;  // 0: attached by PERF_EVENT_IOC_SET_BPF
  uint64_t order = 0;    // programs of one site run in the order they were attached
};

// kRawTracepoint: made by BPF_RAW_TRACEPOINT_OPEN, held by its link alone.
// kClock: PERF_COUNT_SW_CPU_CLOCK with a period; its programs run in the runner (daemon/runner.h).
enum class PerfKind : uint32_t {
  kUprobe = 1,
  kBpfOutput = 2,
  kTracepoint = 3,
  kRawTracepoint = 4,
  kClock = 8,
};

struct PerfEvent : Object {
  PerfKind perf_kind = PerfKind::kUprobe;
  int32_t pid = -1;
  int32_t cpu = -1;
  bool enabled = true;
  uint64_t sample_type = 0;  // kBpfOutput: PERF_SAMPLE_*, the fields that stand before the data
  // Uprobes.
  bool return_probe = false;
  std::string path;
  uint64_t offset = 0;   // file offset
  uint64_t counter = 0;  // file offset of a 16-bit word that says how many watch (USDT semaphore); 0: none
  InodeId file;
  std::string build_id;  // hex, may be empty
  program::Tracepoint
      tracepoint;  // of tracepoints and raw tracepoints; `path` is then "syscalls:sys_enter_openat"
  // Clocks.
  uint64_t period_ns = 0;
  bool by_frequency = false;  // the tool asked for samples a second: a profile
  std::vector<AttachedProgram> by_ioctl;
  std::vector<AttachedProgram> by_link;  // not references: the link refers to us
  // BPF output.
  Mapping ring;  // [header page][data], once the client has mapped it
  uint64_t lost = 0;
  bool paused = false;  // PERF_EVENT_IOC_PAUSE_OUTPUT
  Fd readiness;

  std::vector<std::shared_ptr<Object>> references() const override;
};

struct Link : Object {
  std::shared_ptr<Prog> program;
  std::shared_ptr<PerfEvent> event;  // null: a link of many places
  uint64_t cookie = 0;
  // BPF_TRACE_UPROBE_MULTI: one uprobe per place, in the order the client gave them; all of one file, process and direction.
  // They are ours alone: in no table, with no descriptor. `by_link` of each has the program with the place's cookie.
  std::vector<std::shared_ptr<PerfEvent>> places;

  std::vector<std::shared_ptr<Object>> references() const override;
};

// A uprobe like `common` (path, file, process, direction) for Link::places.
std::shared_ptr<PerfEvent> make_place(const PerfEvent& common);

// enum bpf_link_type.
uint32_t link_type(const Link& link);

}  // namespace bpftime::kernel
