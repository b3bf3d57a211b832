// Walks the user's stack by frame pointers, as Linux does (perf_callchain_user): the probe's own address, at a function's first
// instruction the return address on top of the stack, then the chain of frames from rbp. Every load is checked; the chain
// is the host's and may lead anywhere. There are no kernel stacks here: a kernel stack is empty.
#include "helpers/runtime/stack.h"

#include "helpers/runtime/checked_load.h"
#include "maps/stack_trace.h"

namespace bpftime::runtime {
namespace {

constexpr uint64_t kSkipMask = 0xff, kUserStack = 1u << 8, kUserBuildId = 1u << 11;

// Receives instruction pointers in order; at most `limit` in all, of which the first `skip` are not kept.
struct StackSink {
  uint64_t* ips;
  uint32_t limit, skip;
  uint32_t count;

  bool full() const { return count >= limit; }
  void put(uint64_t ip) {
    if (full()) return;
    if (count >= skip) ips[count - skip] = ip;
    count++;
  }
};

void walk(const StackStart& start, StackSink& sink) {
  if (start.ip == 0) return;  // no registers
  sink.put(start.ip);
  uint64_t address = 0;
  if (start.at_function_entry && load_checked(start.sp, address) == 0) sink.put(address);
  uint64_t frame = start.bp;
  while (!sink.full()) {
    uint64_t next = 0;
    if (frame > kTaskSize - 16 || load_checked(frame, next) != 0 || load_checked(frame + 8, address) != 0)
      return;
    sink.put(address);
    frame = next;
  }
}

// Of a walk for someone who has room for `wanted` pointers behind those to skip.
inline uint32_t depth_for(uint64_t wanted, uint32_t skip) {
  const uint64_t depth = wanted + skip;
  return depth < maps::kStackDepthMax ? static_cast<uint32_t>(depth) : maps::kStackDepthMax;
}

int64_t clear(void* buffer, uint64_t size, int64_t error) {
  bpftime_memset(buffer, 0, size);
  return error;
}

// struct bpf_stack_build_id. Which file an address is in, is not to be known here: Linux's answer when it cannot tell.
struct BuildIdEntry {
  int32_t status;
  uint8_t build_id[20];
  uint64_t ip;
};
static_assert(sizeof(BuildIdEntry) == 32);
constexpr int32_t kStatusIp = 2;  // BPF_STACK_BUILD_ID_IP

}  // namespace

extern "C" {

int64_t bpftime_get_stackid(const StackStart* start, const MapRef* map, uint64_t flags) {
  const uint32_t skip = flags & kSkipMask;
  if ((flags & ~(kSkipMask | kUserStack | maps::kStackFastCompare | maps::kStackReuseId)) != 0)
    return -kEinval;
  const maps::MapView view{map->base, &map->spec};
  uint64_t ips[maps::kStackDepthMax];
  StackSink sink{ips, depth_for(maps::stack_trace_depth(map->spec), skip), skip, 0};
  if ((flags & kUserStack) != 0) walk(*start, sink);
  if (sink.count <= skip) return -kEfault;
  return maps::stack_trace_store(view, ips, sink.count - skip, flags, current_tgid());
}

int64_t bpftime_get_stack(const StackStart* start, void* buffer, uint64_t size, uint64_t flags) {
  const uint32_t skip = flags & kSkipMask;
  const bool user = (flags & kUserStack) != 0, build_id = (flags & kUserBuildId) != 0;
  const uint64_t element = build_id ? sizeof(BuildIdEntry) : sizeof(uint64_t);
  if ((flags & ~(kSkipMask | kUserStack | kUserBuildId)) != 0 || (build_id && !user) || size % element != 0)
    return clear(buffer, size, -kEinval);
  uint64_t ips[maps::kStackDepthMax];
  StackSink sink{ips, depth_for(size / element, skip), skip, 0};
  if (user) walk(*start, sink);
  if (sink.count < skip) return clear(buffer, size, -kEfault);
  const uint32_t count = sink.count - skip;
  auto* out = static_cast<uint8_t*>(buffer);
  bpftime_memset(out, 0, size);
  for (uint32_t i = 0; i < count; i++, out += element) {
    if (build_id) *reinterpret_cast<int32_t*>(out) = kStatusIp;
    *reinterpret_cast<uint64_t*>(out + element - sizeof(uint64_t)) = ips[i];
  }
  return static_cast<int64_t>(count * element);
}

uint64_t bpftime_tracepoint_registers(uint64_t where, uint64_t copy) {
  auto* registers = pointer<wire::PtRegs>(copy);
  const auto read = [&](size_t offset, uint64_t& value) { return load_checked(where + offset, value) == 0; };
  const bool readable = where != 0 && read(offsetof(wire::PtRegs, rip), registers->rip) &&
                        read(offsetof(wire::PtRegs, rsp), registers->rsp) &&
                        read(offsetof(wire::PtRegs, rbp), registers->rbp);
  return readable ? copy : 0;
}

}  // extern "C"

}  // namespace bpftime::runtime
