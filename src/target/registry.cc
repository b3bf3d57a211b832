#include "target/registry.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

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
  if (indexed_ > patches.size()) {
    index_.clear();
    indexed_ = 0;
  }
  for (; indexed_ < patches.size(); ++indexed_)
    if (is_live(patches[indexed_])) index_.emplace(patches[indexed_].address, indexed_);
  const auto wanted = [address](const PatchRecord& record) {
    return is_live(record) && record.address == address;
  };
  if (const auto known = index_.find(address); known != index_.end() && wanted(patches[known->second]))
    return &patches[known->second];
  // Records change: what is not where it was may be elsewhere.
  const auto found = std::find_if(patches.begin(), patches.end(), wanted);
  if (found == patches.end()) return nullptr;
  index_[address] = static_cast<size_t>(found - patches.begin());
  return &*found;
}

namespace {

// The first that had what is relied on here: contexts whose patches are followed by `traps`.
constexpr uint16_t kOldestKnown = 3;

bool is_of_other_version(const wire::SharedHeader& header) {
  return header.magic == wire::kMagic && header.arch == wire::kArchX86_64 &&
         header.abi_version != wire::kAbiVersion && header.abi_version >= kOldestKnown &&
         header.size >= offsetof(TargetContext, traps);
}

std::optional<Registry> read_any(const Process& process, uint64_t window, bool other, std::string* why) {
  std::optional<Registry> registry;
  constexpr size_t kHeaderSize = offsetof(TargetContext, patches);
  auto bytes = process.read(window, kHeaderSize);
  if (!bytes) {
    if (why) *why = bytes.error().message;
    return registry;
  }
  registry.emplace();
  std::memcpy(&registry->header, bytes->data(), kHeaderSize);
  const wire::SharedHeader& header = registry->header.header;
  if (other ? !is_of_other_version(header) : !header.matches(sizeof(TargetContext))) {
    if (why)
      *why = "its context was made by version " + std::to_string(header.abi_version) +
             " of bpftime, this is " + std::to_string(wire::kAbiVersion) + "; try restarting the process";
    registry.reset();
    return registry;
  }
  const uint32_t count = std::min(registry->header.patch_count, wire::kPatchesMax);
  if (count == 0) return registry;
  auto records = process.read(window + kHeaderSize, count * sizeof(PatchRecord));
  if (!records) {
    if (why) *why = records.error().message;
    registry.reset();
    return registry;
  }
  registry->patches.resize(count);
  std::memcpy(registry->patches.data(), records->data(), records->size());
  for (auto& record : registry->patches) record.length = std::min(record.length, wire::kPatchBytesMax);
  return registry;
}

}  // namespace

std::optional<Registry> read_registry(const Process& process, uint64_t window, std::string* why) {
  return read_any(process, window, false, why);
}

std::optional<Registry> read_other_registry(const Process& process, uint64_t window) {
  return read_any(process, window, true, nullptr);
}

Result<void> create_context(StoppedProcess& stopped, const TargetContext& initial, uint32_t tgid,
                            uint64_t window, int context_fd) {
  auto mapped = stopped.map(window, wire::kContextSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, context_fd, 0);
  if (!mapped && mapped.error().code == EEXIST)
    return Error{
        EEXIST, mapped.error().message + ": the process uses these addresses itself, so it cannot be probed"};
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

namespace {

uint64_t trap_address(uint64_t window, size_t index) {
  return window + offsetof(TargetContext, traps) + index * sizeof(wire::TrapRecord);
}

Result<void> write_state(StoppedProcess& process, uint64_t window, Registry& registry, size_t index,
                         PatchState state) {
  registry.patches[index].state = state;
  return process.write(record_address(window, index) + offsetof(PatchRecord, state), as_bytes(state));
}

// The index entries an address may be found in, and their addresses.
struct Probes {
  std::vector<uint64_t> where;
  std::vector<uint16_t> entries;
};

Result<Probes> probes_of(StoppedProcess& process, uint64_t window, uint64_t address) {
  Probes out;
  const uint64_t base = window + offsetof(TargetContext, trap_index);
  uint32_t slot = wire::trap_hash(address);
  for (uint32_t left = wire::kTrapProbesMax; left != 0;) {
    const uint32_t count = std::min(left, wire::kTrapIndexSize - slot);
    auto bytes = process.read(base + slot * sizeof(uint16_t), count * sizeof(uint16_t));
    if (!bytes) return bytes.error();
    for (uint32_t i = 0; i < count; ++i) {
      out.where.push_back(base + (slot + i) * sizeof(uint16_t));
      out.entries.push_back(read_at<uint16_t>(*bytes, i * sizeof(uint16_t)).value_or(0));
    }
    left -= count;
    slot = 0;
  }
  return out;
}

Result<void> index_site(StoppedProcess& process, uint64_t window, uint64_t address, size_t index) {
  auto probes = probes_of(process, window, address);
  if (!probes) return probes.error();
  const auto wanted = static_cast<uint16_t>(index + 1);
  std::optional<size_t> free;
  for (size_t i = 0; i < probes->entries.size(); ++i) {
    if (probes->entries[i] == wanted) return {};
    if (probes->entries[i] != wire::kIndexEmpty && probes->entries[i] != wire::kIndexGone) continue;
    if (!free) free = i;
    if (probes->entries[i] == wire::kIndexEmpty) break;
  }
  if (!free) return Error{E2BIG, "patch: the table of traps is full around this address"};
  return process.write(probes->where[*free], as_bytes(wanted));
}

Result<void> forget_site(StoppedProcess& process, uint64_t window, uint64_t address, size_t index) {
  auto probes = probes_of(process, window, address);
  if (!probes) return probes.error();
  for (size_t i = 0; i < probes->entries.size(); ++i)
    if (probes->entries[i] == index + 1)
      if (auto written = process.write(probes->where[i], as_bytes(wire::kIndexGone)); !written)
        return written;
  return {};
}

// In the order wire::TrapRecord asks for. The record's site is not patched by way of it.
Result<void> write_traps(StoppedProcess& process, uint64_t window, size_t index, const Patch& patch,
                         uint64_t address_before) {
  const uint64_t at = trap_address(window, index);
  auto before = process.read(at, sizeof(wire::TrapRecord));
  if (!before) return before.error();
  if (address_before != 0 && address_before != patch.record.address)
    if (auto gone = forget_site(process, window, address_before, index); !gone) return gone;
  wire::TrapRecord record = read_at<wire::TrapRecord>(*before, 0).value_or(wire::TrapRecord{});
  ++record.version;
  if (auto written = process.write(at + offsetof(wire::TrapRecord, version), as_bytes(record.version));
      !written)
    return written;
  record.address = patch.record.address;
  record.state = wire::TrapState::kOff;
  std::copy(std::begin(patch.go_on), std::end(patch.go_on), std::begin(record.go_on));
  if (auto written = process.write(at, as_bytes(record)); !written) return written;
  const auto on = wire::TrapState::kOn;
  if (auto written = process.write(at + offsetof(wire::TrapRecord, state), as_bytes(on)); !written)
    return written;
  return index_site(process, window, patch.record.address, index);
}

// What was written of a site is out of the text: first no thread is led on by it, then the record says so.
Result<void> retire(StoppedProcess& process, uint64_t window, Registry& registry, size_t index) {
  const auto off = wire::TrapState::kOff;
  const uint64_t at = trap_address(window, index) + offsetof(wire::TrapRecord, state);
  // Another version's may look otherwise. Who is led on by its agent still finds its trampoline.
  if (!registry.of_other_version())
    if (auto written = process.write(at, as_bytes(off)); !written) return written;
  return write_state(process, window, registry, index, PatchState::kRestored);
}

// A record for the site: one of its own that is out of use, else a new one. Those of other sites are taken only when many are
// out of use, so that late threads find theirs.
Result<size_t> choose_record(Registry& registry, uint64_t address) {
  constexpr size_t kKeptOut = 1024;
  auto& records = registry.patches;
  const auto own = std::find_if(records.begin(), records.end(),
                                [&](const auto& r) { return r.address == address && !is_live(r); });
  if (own != records.end()) return own - records.begin();
  if (records.size() >= kKeptOut) {
    const auto any = std::find_if(records.begin(), records.end(), [](const auto& r) { return !is_live(r); });
    if (any != records.end()) return any - records.begin();
  }
  if (records.size() >= wire::kPatchesMax)
    return Error{E2BIG,
                 "patch: more than " + std::to_string(wire::kPatchesMax) + " probed sites in one process"};
  records.push_back({});
  return records.size() - 1;
}

// Whether every byte of the text at a site is the original or that of a patch of ours, in whatever mixture a change
// broken off leaves.
bool is_ours(const Registry& registry, uint64_t address, Bytes text) {
  for (size_t at = 0; at < text.size(); ++at) {
    bool known = at == 0 && text[0] == 0xcc;
    for (const PatchRecord& record : registry.patches) {
      if (!is_live(record) || record.address != address || at >= record.length) continue;
      known = known || text[at] == record.original[at] || text[at] == record.patched[at];
    }
    if (!known) return false;
  }
  return true;
}

bool has_patch(const Process& process, const Registry& registry, const PatchRecord& record) {
  const auto now = process.read(record.address, record.length);
  if (!now || !is_ours(registry, record.address, *now)) return false;
  return record.state != PatchState::kActive || std::equal(now->begin(), now->end(), record.patched);
}

uint16_t word_of(const uint8_t (&bytes)[wire::kPatchBytesMax]) {
  return read_at<uint16_t>(Bytes(bytes), 0).value_or(0);
}

uint8_t boundaries_of(const uint64_t (&go_on)[wire::kTrapPlaces]) {
  uint8_t bits = 0;
  for (uint32_t at = 1; at < wire::kTrapPlaces; ++at)
    if (go_on[at] != 0) bits |= static_cast<uint8_t>(1u << at);
  return bits;
}

}  // namespace

Result<void> apply_patches(StoppedProcess& process, uint64_t window, Registry& registry,
                           std::span<const Patch> patches, Threads threads) {
  std::vector<uint64_t> other_lengths;
  for (const Patch& patch : patches) {
    const PatchRecord* before = registry.active_at(patch.record.address);
    if (before != nullptr && before->length != patch.record.length)
      other_lengths.push_back(patch.record.address);
  }
  if (auto restored = restore_patches(process, window, registry, other_lengths, threads); !restored)
    return restored;

  std::vector<TextChange> changes;
  std::vector<size_t> chosen, replaced;
  for (const Patch& patch : patches) {
    PatchRecord record = patch.record;
    for (size_t i = 0; i < registry.patches.size(); ++i) {
      const PatchRecord& before = registry.patches[i];
      if (!is_live(before) || before.address != record.address) continue;
      // What must come back in the end is what stood there first.
      std::copy(std::begin(before.original), std::end(before.original), std::begin(record.original));
      replaced.push_back(i);
    }
    auto index = choose_record(registry, record.address);
    if (!index) return index.error();
    auto now = process.read(record.address, record.length);
    if (!now) return now.error();
    if (auto led = write_traps(process, window, *index, patch, registry.patches[*index].address); !led)
      return led;
    record.state = PatchState::kPending;
    registry.patches[*index] = record;
    if (auto written = write_record(process, window, registry, *index); !written) return written;
    chosen.push_back(*index);
    TextChange change{record.address, record.length, boundaries_of(patch.go_on), true, {}, {}};
    std::copy(now->begin(), now->end(), change.now);
    std::copy_n(record.patched, record.length, change.to);
    changes.push_back(change);
  }
  if (const auto count = static_cast<uint32_t>(registry.patches.size());
      count != registry.header.patch_count) {
    if (auto written = write_context(process, window, offsetof(TargetContext, patch_count), count); !written)
      return written;
    registry.header.patch_count = count;
  }
  if (auto changed = change_text(process, changes, threads); !changed) return changed;
  for (const size_t index : chosen)
    if (auto written = write_state(process, window, registry, index, PatchState::kActive); !written)
      return written;
  for (const size_t index : replaced)
    if (auto written = retire(process, window, registry, index); !written) return written;
  return {};
}

Result<void> restore_patches(StoppedProcess& process, uint64_t window, Registry& registry,
                             std::span<const uint64_t> addresses, Threads threads) {
  std::vector<TextChange> changes;
  std::vector<size_t> indices;
  for (size_t index = 0; index < registry.patches.size(); ++index) {
    const PatchRecord& record = registry.patches[index];
    if (!is_live(record) || std::find(addresses.begin(), addresses.end(), record.address) == addresses.end())
      continue;
    indices.push_back(index);
    const bool known = std::any_of(changes.begin(), changes.end(),
                                   [&](const TextChange& c) { return c.address == record.address; });
    if (known) continue;
    const auto now = process.read(record.address, record.length);
    if (!now ||
        !(is_ours(registry, record.address, *now) || jumps_into_arena(registry.header, record.address, *now)))
      continue;
    wire::TrapRecord led{};
    if (!registry.of_other_version()) {
      auto traps = process.read(trap_address(window, index), sizeof led);
      if (!traps) return traps.error();
      led = read_at<wire::TrapRecord>(*traps, 0).value_or(led);
    }
    TextChange change{record.address, record.length, boundaries_of(led.go_on), false, {}, {}};
    std::copy(now->begin(), now->end(), change.now);
    std::copy_n(record.original, record.length, change.to);
    changes.push_back(change);
  }
  // From here on the text may be either: a record that says kActive is believed by the next daemon, should we die.
  for (const size_t index : indices)
    if (registry.patches[index].state == PatchState::kActive)
      if (auto written = write_state(process, window, registry, index, PatchState::kPending); !written)
        return written;
  if (auto changed = change_text(process, changes, threads); !changed) return changed;
  for (const size_t index : indices)
    if (auto written = retire(process, window, registry, index); !written) return written;
  return {};
}

std::vector<uint64_t> stale_patches(const Process& process, const Registry& registry) {
  std::vector<uint64_t> out;
  for (const PatchRecord& record : registry.patches)
    if (record.kind == wire::PatchKind::kProbe && is_live(record) && !has_patch(process, registry, record))
      out.push_back(record.address);
  return out;
}

Result<void> set_semaphore(StoppedProcess& process, uint64_t window, Registry& registry, uint64_t address,
                           uint64_t inode, uint32_t count, bool gone) {
  const PatchRecord* before = registry.active_at(address);
  auto index =
      before != nullptr ? Result<size_t>(before - registry.patches.data()) : choose_record(registry, address);
  if (!index) return index.error();
  PatchRecord record{};
  record.address = address;
  record.trampoline = inode;
  record.kind = wire::PatchKind::kSemaphore;
  record.length = sizeof(uint16_t);
  record.content_hash = count;
  record.state = PatchState::kPending;
  if (!gone) {
    const auto bytes = process.read(address, sizeof(uint16_t));
    if (!bytes) return bytes.error();
    const uint16_t now = read_at<uint16_t>(*bytes, 0).value_or(0);
    uint64_t share = before != nullptr ? before->content_hash : 0;
    // A change was broken off: `trampoline_size` is the share before it.
    if (before != nullptr && before->state == PatchState::kPending && now != word_of(before->patched))
      share = before->trampoline_size;
    const auto next = static_cast<uint16_t>(std::max<int64_t>(
        static_cast<int64_t>(now) + static_cast<int64_t>(count) - static_cast<int64_t>(share), 0));
    record.trampoline_size = static_cast<uint32_t>(share);
    std::memcpy(record.original, &now, sizeof now);
    std::memcpy(record.patched, &next, sizeof next);
    registry.patches[*index] = record;
    if (auto written = write_record(process, window, registry, *index); !written) return written;
    registry.header.patch_count = static_cast<uint32_t>(registry.patches.size());
    if (auto written =
            write_context(process, window, offsetof(TargetContext, patch_count), registry.header.patch_count);
        !written)
      return written;
    if (auto written = process.write(address, as_bytes(next)); !written) return written;
  }
  record.state = count != 0 ? PatchState::kActive : PatchState::kRestored;
  registry.patches[*index] = record;
  return write_record(process, window, registry, *index);
}

}  // namespace bpftime::target
