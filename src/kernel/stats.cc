// BPF_ENABLE_STATS: programs count their runs as long as somebody holds the descriptor.
#include <unistd.h>

#include "base/log.h"
#include "kernel/attr.h"
#include "kernel/kernel.h"
#include "maps/map.h"

namespace bpftime::kernel {

namespace {

constexpr uint32_t kCountersMax = 1u << 17;  // 8 MiB of addresses, of which only pages in use are memory

}  // namespace

BpfReply Kernel::enable_stats(const BpfRequest& request) {
  if (auto bad = check_attr_tail(request, offsetof(bpf_attr, enable_stats.type) + 4)) return *std::move(bad);
  const uint32_t type = request.attr->enable_stats.type;
  if (type != BPF_STATS_RUN_TIME)
    return BpfReply::fail(EINVAL, "enable statistics: type " + std::to_string(type) + ": not known");
  if (auto ready = make_hits_map(); !ready) return BpfReply::fail(ready.error().code, ready.error().message);
  const bool first = !counting();
  auto stats = std::make_shared<Object>();
  stats->kind = ObjectKind::kStats;
  stats->created_by_uid = request.uid;
  if (auto entered = enter(stats, 0); !entered)
    return BpfReply::fail(entered.error().code, entered.error().message);
  BpfReply reply = hand_out(stats);
  if (reply.result < 0) return reply;
  observer_.object_changed(*stats);
  if (first) {
    hits_.settle();
    observer_.probes_changed();
  }
  return reply;
}

Result<void> Kernel::make_hits_map() {
  if (!hits_map_) {
    auto made = make_own_map(kHitsMap, {BPF_MAP_TYPE_ARRAY, 4, sizeof(Hits::Counter), kCountersMax, 0, 1},
                             /*internal=*/true);
    if (!made) return made.error();
    hits_map_ = *made;
  }
  hits_.use(hits_map_->memory.data(), hits_map_->address, kCountersMax);
  return {};
}

// After recovery. The counters of the worker that is gone are not ours to read: which were whose died with it.
void Kernel::recover_stats(const std::shared_ptr<Map>& map) {
  map->internal = false;
  map->held_outside = false;
}

bool Kernel::counting() const { return hits_map_ != nullptr && objects_.next_id(ObjectKind::kStats, 0) != 0; }

uint64_t Kernel::hit_counter(const HitPlace& place) { return counting() ? hits_.counter(place) : 0; }

HitCount Kernel::run_stats(const Prog& program) const { return hits_.of_program(program.id); }

}  // namespace bpftime::kernel
