// The registry a target carries of its own patches (wire::TargetContext): read from outside at any time, changed only
// while the process is stopped. What is read is the target's to scribble on: counts are clamped, and restoring writes
// only into that same process.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "target/process.h"
#include "target/stopped.h"
#include "wire/target_context.h"

namespace bpftime::target {

// Whether the site of this record may hold our bytes.
inline bool is_live(const wire::PatchRecord& record) {
  return record.state == wire::PatchState::kActive || record.state == wire::PatchState::kPending;
}

// A copy of what a process says about itself.
struct Registry {
  wire::TargetContext header;  // everything but `patches` is filled
  std::vector<wire::PatchRecord> patches;

  // The record of a live patch at `address`, or nullptr.
  const wire::PatchRecord* active_at(uint64_t address) const;
};

// nullopt: the process has no context of ours at `window` (not a target, or another version's; `why` then says which).
std::optional<Registry> read_registry(const Process& process, uint64_t window, std::string* why = nullptr);

// Maps and fills the context and identity pages of a new target. `context_fd`: a zeroed memfd named wire::kTargetMemfdName
// of wire::kContextSize bytes, mapped privately. Errors name what is in the way.
Result<void> create_context(StoppedProcess& stopped, const wire::TargetContext& initial, uint32_t tgid,
                            uint64_t window, int context_fd);

// Writes one field of the context.
template <typename T>
Result<void> write_context(StoppedProcess& stopped, uint64_t window, size_t offset, const T& value) {
  return stopped.write(window + offset, as_bytes(value));
}

// Replaces the text at a site: records the patch first, then writes, then marks it active; a daemon that dies in between
// leaves a record from which the next one restores. Threads standing inside the replaced bytes must have been moved.
Result<void> apply_patch(StoppedProcess& stopped, uint64_t window, Registry& registry,
                         wire::PatchRecord patch);

// Puts the original bytes back, unless somebody else has changed the site since (then the record is dropped and the text
// left alone).
Result<void> restore_patch(StoppedProcess& stopped, uint64_t window, Registry& registry, uint64_t address);

}  // namespace bpftime::target
