#include "target/registry.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

namespace bpftime::target {

using wire::PatchRecord;
using wire::PatchState;
using wire::TargetContext;

namespace {

uint64_t record_address(uint64_t window, size_t index) {
  return window + offsetof(TargetContext, patches) + index * sizeof(PatchRecord);
}

Result<void> write_record(StoppedProcess& stopped, uint64_t window, const Registry& registry, size_t index) {
  return stopped.write(record_address(window, index), as_bytes(registry.patches[index]));
}

// Whether `text` at `address` is a jump into memory we mapped: then the patch is ours, whichever version of it.
bool jumps_into_arena(const TargetContext& header, uint64_t address, Bytes text) {
  const auto opcode = read_at<uint8_t>(text, 0);
  const auto distance = read_at<int32_t>(text, 1);
  if (opcode != 0xe9 || !distance) return false;
  const uint64_t destination = address + 5 + static_cast<int64_t>(*distance);
  for (uint32_t i = 0; i < std::min(header.arena_count, wire::kArenasMax); ++i)
    if (destination - header.arenas[i].address < header.arenas[i].size) return true;
  return false;
}

}  // namespace

const PatchRecord* Registry::active_at(uint64_t address) const {
  for (const auto& record : patches)
    if (is_live(record) && record.address == address) return &record;
  return nullptr;
}

std::optional<Registry> read_registry(const Process& process, uint64_t window, std::string* why) {
  constexpr size_t kHeaderSize = offsetof(TargetContext, patches);
  auto bytes = process.read(window, kHeaderSize);
  if (!bytes) {
    if (why) *why = bytes.error().message;
    return std::nullopt;
  }
  auto registry = std::make_optional<Registry>();
  std::memcpy(&registry->header, bytes->data(), kHeaderSize);
  if (!registry->header.header.matches(sizeof(TargetContext))) {
    if (why) *why = "its context was made by another version";
    return std::nullopt;
  }
  const uint32_t count = std::min(registry->header.patch_count, wire::kPatchesMax);
  if (count == 0) return registry;
  auto records = process.read(window + kHeaderSize, count * sizeof(PatchRecord));
  if (!records) {
    if (why) *why = records.error().message;
    return std::nullopt;
  }
  registry->patches.resize(count);
  std::memcpy(registry->patches.data(), records->data(), records->size());
  for (auto& record : registry->patches) record.length = std::min(record.length, wire::kPatchBytesMax);
  return registry;
}

Result<void> create_context(StoppedProcess& stopped, const TargetContext& initial, uint32_t tgid,
                            uint64_t window, int context_fd) {
  auto mapped = stopped.map(window, wire::kContextSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, context_fd, 0);
  if (!mapped) return Error{mapped.error().code, "map target context: " + mapped.error().message};
  const uint64_t identity = window + wire::kIdentityOffset;
  mapped =
      stopped.map(identity, wire::kIdentitySize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!mapped) return Error{mapped.error().code, "map target identity: " + mapped.error().message};
  // A forked child must not believe it is its parent.
  const uint64_t arguments[] = {identity, wire::kIdentitySize, MADV_WIPEONFORK};
  auto advised = stopped.system_call(SYS_madvise, arguments);
  if (!advised) return advised.error();
  if (*advised < 0)
    return Error{static_cast<int>(-*advised),
                 "mark target identity wipe-on-fork: kernel too old (needs 4.14)"};
  if (auto written = stopped.write(identity, as_bytes(wire::TargetIdentity{tgid})); !written) return written;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&initial);
  return stopped.write(window, Bytes(bytes, offsetof(TargetContext, patches)));
}

Result<void> apply_patch(StoppedProcess& stopped, uint64_t window, Registry& registry, PatchRecord patch) {
  // Reuse the site's own record, else one that is free.
  auto& records = registry.patches;
  auto slot =
      std::find_if(records.begin(), records.end(), [&](const auto& r) { return r.address == patch.address; });
  if (slot != records.end() && is_live(*slot)) {
    // The site is patched already: what must come back in the end is what stood there first.
    std::copy(std::begin(slot->original), std::end(slot->original), std::begin(patch.original));
    patch.length = std::max(patch.length, slot->length);
  }
  if (slot == records.end())
    slot = std::find_if(records.begin(), records.end(), [](const auto& r) { return !is_live(r); });
  const size_t index = slot - records.begin();
  if (slot == records.end()) {
    if (records.size() >= wire::kPatchesMax)
      return Error{E2BIG, "patch: more than " + std::to_string(wire::kPatchesMax) +
                              " probed functions in one process"};
    records.push_back({});
  }
  patch.state = PatchState::kPending;
  records[index] = patch;
  if (auto written = write_record(stopped, window, registry, index); !written) return written;
  registry.header.patch_count = static_cast<uint32_t>(records.size());
  if (auto written =
          write_context(stopped, window, offsetof(TargetContext, patch_count), registry.header.patch_count);
      !written)
    return written;
  if (auto written = stopped.write(patch.address, Bytes(patch.patched, patch.length)); !written)
    return written;
  records[index].state = PatchState::kActive;
  return write_record(stopped, window, registry, index);
}

Result<void> restore_patch(StoppedProcess& stopped, uint64_t window, Registry& registry, uint64_t address) {
  for (size_t index = 0; index < registry.patches.size(); ++index) {
    PatchRecord& record = registry.patches[index];
    if (record.address != address || !is_live(record)) continue;
    auto now = stopped.read(address, record.length);
    const bool ours = now && jumps_into_arena(registry.header, address, *now);
    if (ours)
      if (auto written = stopped.write(address, Bytes(record.original, record.length)); !written)
        return written;
    record.state = PatchState::kRestored;
    if (auto written = write_record(stopped, window, registry, index); !written) return written;
  }
  return {};
}

}  // namespace bpftime::target
