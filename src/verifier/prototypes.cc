#include "verifier/prototypes.h"

#include <linux/bpf.h>

#include <algorithm>
#include <initializer_list>

namespace bpftime::verifier {
namespace {

constexpr uint64_t kEveryType = 0x1fffffffe;

constexpr auto kRows = [] {
  using enum ArgKind;
  // Names both enumerations have.
  constexpr auto kPacketAccess = Prototype::kPacketAccess;
  constexpr auto kChangesPacket = Prototype::kChangesPacket;
  constexpr auto kMightSleep = Prototype::kMightSleep;
  return std::to_array<Prototype>({
#define BPFTIME_PROTOTYPE(id, name, types, gpl, result, a1, a2, a3, a4, a5, flags) \
  {id, "bpf_" #name, types, gpl, ResultKind::result, {a1, a2, a3, a4, a5}, flags},
#include "verifier/prototypes.def"
#undef BPFTIME_PROTOTYPE
  });
}();

static_assert(std::is_sorted(kRows.begin(), kRows.end(),
                             [](const Prototype& a, const Prototype& b) { return a.id < b.id; }),
              "prototypes.def is ordered by id");

const Prototype* first_row(uint32_t id) {
  const auto* row = std::lower_bound(kRows.begin(), kRows.end(), id,
                                     [](const Prototype& p, uint32_t wanted) { return p.id < wanted; });
  return row != kRows.end() && row->id == id ? row : nullptr;
}

bool one_of(uint32_t value, std::initializer_list<uint32_t> list) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// Linux 6.1's headers end before these.
constexpr uint32_t kCgroupStorageGet = 210, kCgroupStorageDelete = 211, kCgroupLocalStorageMap = 32;

// Maps of special types take only the helpers made for them.
bool map_takes(uint32_t type, uint32_t id) {
  switch (type) {
    case BPF_MAP_TYPE_PROG_ARRAY:
      return id == BPF_FUNC_tail_call;
    case BPF_MAP_TYPE_PERF_EVENT_ARRAY:
      return one_of(id, {BPF_FUNC_perf_event_read, BPF_FUNC_perf_event_output, BPF_FUNC_skb_output,
                         BPF_FUNC_perf_event_read_value, BPF_FUNC_xdp_output});
    case BPF_MAP_TYPE_RINGBUF:
      return one_of(id, {BPF_FUNC_ringbuf_output, BPF_FUNC_ringbuf_reserve, BPF_FUNC_ringbuf_query,
                         BPF_FUNC_ringbuf_reserve_dynptr, BPF_FUNC_ringbuf_submit_dynptr,
                         BPF_FUNC_ringbuf_discard_dynptr});
    case BPF_MAP_TYPE_USER_RINGBUF:
      return id == BPF_FUNC_user_ringbuf_drain;
    case BPF_MAP_TYPE_STACK_TRACE:
      return id == BPF_FUNC_get_stackid;
    case BPF_MAP_TYPE_CGROUP_ARRAY:
      return one_of(id, {BPF_FUNC_skb_under_cgroup, BPF_FUNC_current_task_under_cgroup});
    case BPF_MAP_TYPE_CGROUP_STORAGE:
    case BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE:
      return id == BPF_FUNC_get_local_storage;
    case BPF_MAP_TYPE_DEVMAP:
    case BPF_MAP_TYPE_DEVMAP_HASH:
    case BPF_MAP_TYPE_XSKMAP:
      return one_of(id, {BPF_FUNC_redirect_map, BPF_FUNC_map_lookup_elem});
    case BPF_MAP_TYPE_CPUMAP:
      return id == BPF_FUNC_redirect_map;
    case BPF_MAP_TYPE_ARRAY_OF_MAPS:
    case BPF_MAP_TYPE_HASH_OF_MAPS:
      return id == BPF_FUNC_map_lookup_elem;
    case BPF_MAP_TYPE_SOCKMAP:
      return one_of(id, {BPF_FUNC_sk_redirect_map, BPF_FUNC_sock_map_update, BPF_FUNC_map_delete_elem,
                         BPF_FUNC_msg_redirect_map, BPF_FUNC_sk_select_reuseport, BPF_FUNC_map_lookup_elem});
    case BPF_MAP_TYPE_SOCKHASH:
      return one_of(id, {BPF_FUNC_sk_redirect_hash, BPF_FUNC_sock_hash_update, BPF_FUNC_map_delete_elem,
                         BPF_FUNC_msg_redirect_hash, BPF_FUNC_sk_select_reuseport, BPF_FUNC_map_lookup_elem});
    case BPF_MAP_TYPE_REUSEPORT_SOCKARRAY:
      return id == BPF_FUNC_sk_select_reuseport;
    case BPF_MAP_TYPE_QUEUE:
    case BPF_MAP_TYPE_STACK:
      return one_of(id, {BPF_FUNC_map_peek_elem, BPF_FUNC_map_pop_elem, BPF_FUNC_map_push_elem});
    case BPF_MAP_TYPE_BLOOM_FILTER:
      return one_of(id, {BPF_FUNC_map_peek_elem, BPF_FUNC_map_push_elem});
    case BPF_MAP_TYPE_SK_STORAGE:
      return one_of(id, {BPF_FUNC_sk_storage_get, BPF_FUNC_sk_storage_delete, BPF_FUNC_kptr_xchg});
    case BPF_MAP_TYPE_INODE_STORAGE:
      return one_of(id, {BPF_FUNC_inode_storage_get, BPF_FUNC_inode_storage_delete, BPF_FUNC_kptr_xchg});
    case BPF_MAP_TYPE_TASK_STORAGE:
      return one_of(id, {BPF_FUNC_task_storage_get, BPF_FUNC_task_storage_delete, BPF_FUNC_kptr_xchg});
    case kCgroupLocalStorageMap:
      return one_of(id, {kCgroupStorageGet, kCgroupStorageDelete, BPF_FUNC_kptr_xchg});
    default:
      return true;
  }
}

// Helpers made for special types take only maps of those.
bool helper_takes(uint32_t id, uint32_t type) {
  switch (id) {
    case BPF_FUNC_tail_call:
      return type == BPF_MAP_TYPE_PROG_ARRAY;
    case BPF_FUNC_perf_event_read:
    case BPF_FUNC_perf_event_output:
    case BPF_FUNC_perf_event_read_value:
    case BPF_FUNC_skb_output:
    case BPF_FUNC_xdp_output:
      return type == BPF_MAP_TYPE_PERF_EVENT_ARRAY;
    case BPF_FUNC_ringbuf_output:
    case BPF_FUNC_ringbuf_reserve:
    case BPF_FUNC_ringbuf_query:
    case BPF_FUNC_ringbuf_reserve_dynptr:
    case BPF_FUNC_ringbuf_submit_dynptr:
    case BPF_FUNC_ringbuf_discard_dynptr:
      return type == BPF_MAP_TYPE_RINGBUF;
    case BPF_FUNC_user_ringbuf_drain:
      return type == BPF_MAP_TYPE_USER_RINGBUF;
    case BPF_FUNC_get_stackid:
      return type == BPF_MAP_TYPE_STACK_TRACE;
    case BPF_FUNC_current_task_under_cgroup:
    case BPF_FUNC_skb_under_cgroup:
      return type == BPF_MAP_TYPE_CGROUP_ARRAY;
    case BPF_FUNC_redirect_map:
      return one_of(
          type, {BPF_MAP_TYPE_DEVMAP, BPF_MAP_TYPE_DEVMAP_HASH, BPF_MAP_TYPE_CPUMAP, BPF_MAP_TYPE_XSKMAP});
    case BPF_FUNC_sk_redirect_map:
    case BPF_FUNC_msg_redirect_map:
    case BPF_FUNC_sock_map_update:
      return type == BPF_MAP_TYPE_SOCKMAP;
    case BPF_FUNC_sk_redirect_hash:
    case BPF_FUNC_msg_redirect_hash:
    case BPF_FUNC_sock_hash_update:
      return type == BPF_MAP_TYPE_SOCKHASH;
    case BPF_FUNC_get_local_storage:
      return one_of(type, {BPF_MAP_TYPE_CGROUP_STORAGE, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE});
    case BPF_FUNC_sk_select_reuseport:
      return one_of(type, {BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, BPF_MAP_TYPE_SOCKMAP, BPF_MAP_TYPE_SOCKHASH});
    case BPF_FUNC_map_pop_elem:
      return one_of(type, {BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK});
    case BPF_FUNC_map_peek_elem:
    case BPF_FUNC_map_push_elem:
      return one_of(type, {BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK, BPF_MAP_TYPE_BLOOM_FILTER});
    case BPF_FUNC_map_lookup_percpu_elem:
      return one_of(type,
                    {BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH});
    case BPF_FUNC_sk_storage_get:
    case BPF_FUNC_sk_storage_delete:
      return type == BPF_MAP_TYPE_SK_STORAGE;
    case BPF_FUNC_inode_storage_get:
    case BPF_FUNC_inode_storage_delete:
      return type == BPF_MAP_TYPE_INODE_STORAGE;
    case BPF_FUNC_task_storage_get:
    case BPF_FUNC_task_storage_delete:
      return type == BPF_MAP_TYPE_TASK_STORAGE;
    case kCgroupStorageGet:
    case kCgroupStorageDelete:
      return type == kCgroupLocalStorageMap;
    default:
      return true;
  }
}

}  // namespace

std::span<const Prototype> prototypes() { return kRows; }

const Prototype* find_prototype(uint32_t id, uint32_t program_type) {
  if (program_type >= 64) return nullptr;
  const Prototype* row = first_row(id);
  for (; row != nullptr && row != kRows.end() && row->id == id; ++row)
    if ((row->types >> program_type & 1) != 0) return row;
  return nullptr;
}

std::string_view helper_name(uint32_t id) {
  const Prototype* row = first_row(id);
  return row != nullptr ? row->name : "unknown";
}

bool takes_map(uint32_t id, uint32_t map_type) {
  return map_takes(map_type, id) && helper_takes(id, map_type);
}

std::string_view expected_types(ArgKind kind) {
  switch (kind) {
    case ArgKind::kConstMap:
      return "map_ptr";
    case ArgKind::kSize:
    case ArgKind::kSizeOrZero:
    case ArgKind::kAllocSize:
      return "scalar";
    case ArgKind::kContext:
    case ArgKind::kContextOrNull:
      return "ctx";
    case ArgKind::kConstString:
    case ArgKind::kTimer:
      return "map_value";
    case ArgKind::kSpinLock:
    case ArgKind::kKernelPointerSlot:
      return "map_value, ptr_";
    case ArgKind::kRingbufRecord:
      return "ringbuf_mem";
    case ArgKind::kFunction:
      return "func";
    case ArgKind::kStackOrNull:
      return "fp";
    case ArgKind::kDynptr:
    case ArgKind::kUninitLocalDynptr:
    case ArgKind::kUninitRecordDynptr:
    case ArgKind::kRecordDynptr:
      return "fp, dynptr_ptr";
    case ArgKind::kSocket:
      return "sock_common, sock, tcp_sock, xdp_sock, ptr_, trusted_ptr_";
    case ArgKind::kSocketOnly:
      return "sock_common, sock, tcp_sock, xdp_sock";
    case ArgKind::kKernelObject:
    case ArgKind::kKernelObjectOrNull:
      return "ptr_, trusted_ptr_, rcu_ptr_";
    case ArgKind::kPerCpuObject:
      return "percpu_ptr_, percpu_rcu_ptr_, percpu_trusted_ptr_";
    default:
      return "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_";
  }
}

}  // namespace bpftime::verifier
