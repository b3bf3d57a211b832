// The registry a target carries of its own patches (wire::TargetContext): read from outside at any time, changed by whoever
// holds one of its threads at least. What is read is the target's to scribble on: counts are clamped, and restoring writes
// only into that same process.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "target/process.h"
#include "target/stopped.h"
#include "target/text_change.h"
#include "wire/target_context.h"

namespace bpftime::target {

// Whether the site of this record may hold our bytes.
inline bool is_live(const wire::PatchRecord& record) {
  return record.state == wire::PatchState::kActive || record.state == wire::PatchState::kPending;
}

// A copy of what a process says about itself.
struct Registry {
 private:
  // Of more than a megabyte, nearly all of it never touched: a few of these would be a whole stack.
  std::unique_ptr<wire::TargetContext> context_{new wire::TargetContext};

 public:
  wire::TargetContext& header = *context_;  // filled up to `patches`; what follows is neither set nor copied
  std::vector<wire::PatchRecord> patches;

  Registry() {}
  Registry(const Registry& other) : patches(other.patches) { copy_header(other); }
  Registry(Registry&& other) noexcept : patches(std::move(other.patches)), index_(std::move(other.index_)) {
    copy_header(other);
    indexed_ = std::exchange(other.indexed_, 0);
  }
  Registry& operator=(Registry other) noexcept {
    copy_header(other);
    patches.swap(other.patches);
    index_.swap(other.index_);
    std::swap(indexed_, other.indexed_);
    return *this;
  }

  // The record of a live patch at `address`, or nullptr.
  const wire::PatchRecord* active_at(uint64_t address) const;
  bool of_other_version() const { return header.header.abi_version != wire::kAbiVersion; }

 private:
  void copy_header(const Registry& other) {
    std::memcpy(&header, &other.header, offsetof(wire::TargetContext, patches));
  }
  // Where live records were found when there were `indexed_` of them: with a thousand probes all are asked for at every change.
  mutable std::unordered_map<uint64_t, size_t> index_;
  mutable size_t indexed_ = 0;
};

// nullopt: the process has no context of ours at `window` (not a target, or another version's; `why` then says which).
std::optional<Registry> read_registry(const Process& process, uint64_t window, std::string* why = nullptr);

// A context that another version made: of its header and patches, what all versions agree on (wire/abi.h). Enough to take its
// patches out with all threads stopped; nothing of the kind: nullopt.
std::optional<Registry> read_other_registry(const Process& process, uint64_t window);

// Maps and fills the context and identity pages of a new target. `context_fd`: a zeroed memfd named wire::kTargetMemfdName
// of wire::kContextSize bytes, mapped privately. Errors name what is in the way.
Result<void> create_context(StoppedProcess& stopped, const wire::TargetContext& initial, uint32_t tgid,
                            uint64_t window, int context_fd);

// Writes one field of the context.
template <typename T>
Result<void> write_context(StoppedProcess& stopped, uint64_t window, size_t offset, const T& value) {
  return stopped.write(window + offset, as_bytes(value));
}

// One site to be patched. `record.state` is not looked at. go_on[k]: where a thread that meets a trap at byte k goes on
// (wire::TrapRecord); what is not 0 for k >= 1 is a boundary, and with threads running its byte of `patched` must trap.
struct Patch {
  wire::PatchRecord record;
  uint64_t go_on[wire::kTrapPlaces];
};

// Replaces the text at sites: records the patches first, then writes, then marks them active; a daemon that dies in between
// leaves records from which the next one restores, and threads that are led on as before. A site that is patched already, at
// the same length, goes from one patch to the other without its own bytes in between; else they are restored first.
// With all threads stopped, those standing inside the replaced bytes must have been moved. Error E2BIG: no record left.
Result<void> apply_patches(StoppedProcess& process, uint64_t window, Registry& registry,
                           std::span<const Patch> patches, Threads threads);

// Puts the original bytes back, unless somebody else has changed a site since (then its records are dropped and the
// text left alone).
Result<void> restore_patches(StoppedProcess& process, uint64_t window, Registry& registry,
                             std::span<const uint64_t> addresses, Threads threads);

// Brings our share of the USDT semaphore at `address`, a 16-bit word of the file `inode`, to `count`. A daemon that dies in
// between leaves a record that says how far it came. Count 0 of a word that is `gone` (no longer mapped): only the record goes.
Result<void> set_semaphore(StoppedProcess& process, uint64_t window, Registry& registry, uint64_t address,
                           uint64_t inode, uint32_t count, bool gone = false);

// Live probes whose text is not as we left it, nor as it was: their library was unmapped, and perhaps mapped anew.
std::vector<uint64_t> stale_patches(const Process& process, const Registry& registry);

}  // namespace bpftime::target
