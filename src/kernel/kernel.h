// The userspace kernel: what bpf(2), perf_event_open(2) and their ioctls mean here, as functions of requests.
// No sockets, no processes, no threads: the daemon brings requests in and acts on what changed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "compiler/line_table.h"
#include "kernel/hits.h"
#include "kernel/object_table.h"
#include "verifier/kernel_opinion.h"
#include "wire/messages.h"

namespace bpftime::kernel {

// One bpf(2) call as it arrived: attr zero-extended, the memory behind its pointers, its descriptors.
struct BpfRequest {
  uint32_t command = 0;
  uint32_t attr_size = 0;
  const bpf_attr* attr = nullptr;
  verifier::KernelVerifier kernel_verifier = verifier::KernelVerifier::kAdvise;
  uint32_t uid = 0;
  uint32_t pid = 0;                               // of the caller; 0: not known
  const HostPolicy* policy = nullptr;             // of the connection, if it has one
  std::string policy_class;                       // the class it has asked for
  std::function<Bytes(uint32_t attr_offset)> in;  // bytes the caller sent behind that pointer; empty: none
  std::function<uint32_t(uint32_t attr_offset)> out_size;  // bytes the caller can take back there
  std::function<int(wire::FdPlace, uint32_t offset)> fd;   // -1: the caller's number was no descriptor
};

// CPUs this machine may ever have: what libbpf sizes per-CPU buffers by.
uint32_t possible_cpus();

struct OutBytes {
  uint32_t attr_offset;
  std::vector<uint8_t> bytes;
};

// `result` < 0 is -errno; `text` then says why in words. `fd`: becomes the caller's new descriptor and result.
struct BpfReply {
  int64_t result = 0;
  std::string text;
  std::vector<OutBytes> out;
  Fd fd;
  std::vector<uint8_t> rest{};  // perf ioctls: what is stored besides the result (instead of `out`)

  static BpfReply fail(int error, std::string text) { return {-int64_t{error}, std::move(text), {}, {}}; }
};

// Memory that must lie in a target at a fixed address.
struct TargetMemory {
  uint64_t address = 0;
  uint64_t size = 0;  // bytes, page multiple
  int fd = -1;        // borrowed
  bool writable = false, executable = false;
};

// One run of a program outside of any target: BPF_PROG_TEST_RUN, or a clock's tick.
struct ProgramRun {
  Prog* program = nullptr;  // placed (Kernel::place_code)
  Bytes context;            // copied; at most runner::kContextMax bytes
  uint64_t cookie = 0;
  int32_t cpu = -1;  // -1: any
  uint32_t pid = 0;  // whom the program sees as current; 0: the process it runs in
};

// Where a uprobe is, or was.
struct UprobePlace {
  InodeId file;
  std::string build_id;  // may be empty
  uint64_t offset = 0;   // file offset
  std::weak_ptr<PerfEvent> event;
};

// What the daemon does when the world changes. Called during a request, before its reply.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void object_changed(const Object& object) = 0;  // new, or its persistent state differs
  virtual void object_gone(const Object& object) = 0;
  virtual void probes_changed() = 0;  // some site must be patched, changed or restored
  // The same, and nothing differs but at these places.
  virtual void uprobes_changed(const std::vector<UprobePlace>& places) {
    (void)places;
    probes_changed();
  }
  virtual void readiness_wanted(const std::shared_ptr<Object>& object) = 0;
  // Programs that use `map` are about to find `memory` through it: must lie in every target that maps `map`, before this
  // returns. An error: in one it could not be, so they must not find it.
  virtual Result<void> reach(const Map& map, const std::vector<TargetMemory>& memory) {
    (void)map, (void)memory;
    return {};
  }
  // Runs a program. EINPROGRESS: it runs, and who called the kernel answers the caller when it has ended (or has failed, which
  // costs only that run). Other errors: it could not be begun.
  virtual Result<uint64_t> run(const ProgramRun& run) {
    (void)run;
    return Error{EOPNOTSUPP, "run program: nowhere to run it"};
  }
};

// A probe that should be in place: an enabled event with programs.
struct Probe {
  std::shared_ptr<PerfEvent> event;
  std::vector<AttachedProgram> programs;  // in attach order
};

class Kernel {
 public:
  static constexpr char kHitsMap[] = "hits";

  // `context_address`: wire::window_address of the user whose targets these are.
  Kernel(Observer& observer, uint64_t context_address);

  BpfReply bpf(const BpfRequest& request);
  // `given`: how the caller named the file of a uprobe, for who asks about it later; `path` is where it is.
  BpfReply perf_event_open(const wire::PerfEventOpen& request, const std::string& path,
                           const std::string& given);
  BpfReply perf_event_open(const wire::PerfEventOpen& request, const std::string& path) {
    return perf_event_open(request, path, path);
  }
  BpfReply perf_ioctl(int event_fd, uint64_t command, uint64_t argument, int argument_fd);
  BpfReply perf_mmap(int event_fd, uint64_t size);
  // An eventfd that becomes readable when the ring map or perf event gets data.
  BpfReply readiness(int fd);

  ObjectTable& objects() { return objects_; }
  const ObjectTable& objects() const { return objects_; }
  std::vector<Probe> probes() const;              // uprobes
  std::vector<Probe> system_call_probes() const;  // tracepoints, raw ones included
  std::vector<Probe> clocks() const;              // enabled clock events with programs, which are placed
  // Those of these events that are uprobes with something to run.
  static std::vector<Probe> probes_among(const std::vector<std::shared_ptr<PerfEvent>>& events);
  const std::shared_ptr<Map>& trace_ring() const { return trace_ring_; }
  // Memory holding wire::Announcements, mapped into targets that are to tell when their libraries change. Made when first
  // asked for; null: it could not be, or (announcements_made) was not asked for yet.
  std::shared_ptr<Map> announcements();
  const std::shared_ptr<Map>& announcements_made() const { return announcements_; }
  static TargetMemory memory_of_map(const Map& map);
  // Somebody holds a descriptor of BPF_ENABLE_STATS: trampolines count (stats.cc).
  bool counting() const;
  // Where runs at that place are counted, in targets; 0: they are not. The map is nothing any program refers to.
  uint64_t hit_counter(const HitPlace& place);
  const std::shared_ptr<Map>& hits_map() const { return hits_map_; }
  HitCount hits_at(uint64_t counter) const { return hits_.at(counter); }
  // Of all its places, as long as they were counted.
  HitCount run_stats(const Prog& program) const;
  // The directory behind /sys/fs/bpf (pins.cc). To be called once, after recovery; without it nothing can be pinned.
  Result<void> set_pin_root(const std::string& root);
  // Nobody has any object but what the kernel made for itself.
  bool idle() const {
    return objects_.size() <= 1u + (references_ != nullptr) + (announcements_ != nullptr) +
                                  (kernel_btf_ != nullptr) + (hits_map_ != nullptr);
  }
  // Everything programs may touch in a target besides code the trampolines call: their maps, what those hold, and so on.
  std::vector<TargetMemory> memory_of(const std::vector<std::shared_ptr<Prog>>& programs) const;

  // Enters a host's BTF and has `policy` keep it. Shown to nobody but connections with that policy.
  Result<void> add_host_btf(HostPolicy& policy, std::vector<uint8_t> blob);

  // Creates what the kernel itself needs (the trace ring), unless recovery brought it back.
  Result<void> start();
  // Drops dead objects; see ObjectTable.
  void collect();
  // What would take time when somebody waits; see ObjectTable::prepare_storage.
  void prepare() { objects_.prepare_storage(); }
  // Moves staged records of a perf event array into its events' rings and wakes their readers. Returns records moved.
  size_t drain_perf_array(Map& map);
  // Verifies `program` again unless its facts are known: a worker that took over has only the record.
  static Result<void> ensure_facts(Prog& program);
  // Which instructions its code comes from; compiled again for that. Errors: as of compiler::line_table.
  Result<std::vector<compiler::CodeLine>> code_lines(Prog& program);
  // Compiles `program` unless done. Errors name the program.
  Result<void> ensure_code(Prog& program);
  // The same, and gives the code an address of its own in the window, where memory_of() has it mapped.
  Result<void> place_code(Prog& program);

  // ---- recovery: objects as bytes and descriptors, for a worker that starts after another died ----
  static std::vector<uint8_t> serialize(const Object& object);
  static std::vector<int> descriptors(const Object& object);  // borrowed
  // Where an object comes in recovery: what it refers to has a smaller key. Unique per object.
  static uint64_t record_key(const Object& object);
  // To be called in order of record_key.
  // ESTALE: written by another version.
  Result<void> recover(Bytes record, std::vector<Fd> fds);

 private:
  Observer& observer_;
  ObjectTable objects_;
  uint64_t context_address_;
  uint64_t next_map_address_;
  uint64_t attach_order_ = 0;
  std::string pin_root_;
  std::shared_ptr<Map> trace_ring_;
  std::shared_ptr<Btf> kernel_btf_;  // made when somebody first looks through the BTF objects
  Fd kernel_btf_held_;               // keeps it living
  std::shared_ptr<Map> announcements_;
  Hits hits_;
  std::shared_ptr<Map> hits_map_;  // made when somebody first counts
  std::shared_ptr<Map>
      references_;  // maps::MapReference of every map that is in a map of maps; made when first needed

  BpfReply answer(const BpfRequest&);
  BpfReply map_create(const BpfRequest&);
  BpfReply map_update_fd_value(const BpfRequest&);
  BpfReply map_delete_fd_value(const BpfRequest&);
  BpfReply map_freeze(const BpfRequest&);
  BpfReply obj_pin(const BpfRequest&);
  BpfReply obj_get(const BpfRequest&);
  std::shared_ptr<Object> pinned_object(int name) const;
  void watch_pin(int name) const;
  void drop_unlinked_pins();
  // Maps of objects (map_slots.cc).
  BpfReply slot_update(const BpfRequest& request, const std::shared_ptr<Map>& map);
  BpfReply slot_delete(const BpfRequest& request, const std::shared_ptr<Map>& map);
  BpfReply slot_lookup(const BpfRequest& request);
  BpfReply slot_next_key(const BpfRequest& request);
  BpfReply cgroup_update(const BpfRequest& request, Map& map, uint32_t index);
  BpfReply set_slot(const std::shared_ptr<Map>& map, const std::vector<uint8_t>& key,
                    const std::shared_ptr<Object>& value);
  Result<void> set_inner(const BpfRequest& request, Map& map);
  Result<void> make_private(Map& map);
  Result<void> ensure_references();
  Result<void> ensure_reference(Map& map);
  void write_slot(Map& map, const std::vector<uint8_t>& key, const Object* value);
  void recover_slots();
  void clear_unheld_arrays();
  BpfReply btf_load(const BpfRequest&);
  BpfReply prog_load(const BpfRequest&);
  BpfReply prog_bind_map(const BpfRequest&);
  BpfReply prog_test_run(const BpfRequest&);
  BpfReply link_create(const BpfRequest&);
  BpfReply uprobe_multi_link(const BpfRequest& request, const std::shared_ptr<Prog>& prog);
  BpfReply link_detach(const BpfRequest&);
  BpfReply task_fd_query(const BpfRequest&);
  BpfReply query_programs(const PerfEvent& event, uint64_t room) const;
  BpfReply raw_tracepoint_open(const BpfRequest&);
  std::vector<Probe> probes_of(bool (*wanted)(const PerfEvent&)) const;
  void tell_of_change(const std::shared_ptr<PerfEvent>& event);
  BpfReply link_update(const BpfRequest&);
  BpfReply enable_stats(const BpfRequest&);
  Result<void> make_hits_map();
  static void recover_stats(const std::shared_ptr<Map>& map);
  BpfReply object_info(const BpfRequest&);
  BpfReply object_next_id(const BpfRequest&, ObjectKind kind);
  BpfReply object_by_id(const BpfRequest&, ObjectKind kind);
  void find_kernel_btf();

  // O_RDONLY, O_WRONLY or O_RDWR of BPF_F_RDONLY and BPF_F_WRONLY (bpf_get_file_flag).
  static int access_mode(uint32_t flags);
  BpfReply hand_out(const std::shared_ptr<Object>& object, int flags = 2 /* O_RDWR */);
  Result<std::shared_ptr<Map>> make_own_map(const std::string& name, const wire::MapSpec& spec,
                                            bool internal);
  Result<void> count_runs(Prog& program);
  // Calls `make` with what compiling the program takes.
  template <typename Make>
  auto with_options(const Prog& program, Make make) const;
  // Compiled with an entry that other programs jump to.
  Result<compiler::MachineCode> code_for_others(const Prog& program) const;
  Result<void> reserve_map_address(Map& map);
  Result<void> enter(const std::shared_ptr<Object>& object, uint64_t content_size, bool growable = false);
  template <typename T>
  std::shared_ptr<T> object_of(int fd, ObjectKind kind) const;
  Result<void> resolve_maps(const BpfRequest& request, Prog& program, std::vector<program::Insn>& insns);
  // Host functions and variables: BTF ids become the class's slots.
  Result<void> resolve_host(const BpfRequest& request, Prog& program,
                            std::vector<program::Insn>& insns) const;
  // What a class is granted beyond single programs: memory, and maps shared with other classes.
  Result<void> check_class_maps(const Prog& program) const;
  BpfReply attach(const std::shared_ptr<PerfEvent>& event, AttachedProgram attached, bool by_link);
};

}  // namespace bpftime::kernel
