#include "verifier/prototypes.h"

#include <linux/bpf.h>

#include <algorithm>
#include <iterator>

#include "maps/types.h"

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

// Linux 6.1's headers end before this.
constexpr uint32_t kCgroupStorageGet = 210, kCgroupStorageDelete = 211, kCgroupLocalStorageMap = 32;

// Types that Linux has and we do not; ours say the same of themselves (maps/types.h).
struct ForeignType {
  uint32_t type;
  maps::HelperSet own, other;
};
constexpr ForeignType kForeignTypes[] = {
    {BPF_MAP_TYPE_CGROUP_STORAGE, {BPF_FUNC_get_local_storage}, {}},
    {BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, {BPF_FUNC_get_local_storage}, {}},
    {BPF_MAP_TYPE_DEVMAP, {BPF_FUNC_redirect_map}, {BPF_FUNC_map_lookup_elem}},
    {BPF_MAP_TYPE_DEVMAP_HASH, {BPF_FUNC_redirect_map}, {BPF_FUNC_map_lookup_elem}},
    {BPF_MAP_TYPE_XSKMAP, {BPF_FUNC_redirect_map}, {BPF_FUNC_map_lookup_elem}},
    {BPF_MAP_TYPE_CPUMAP, {BPF_FUNC_redirect_map}, {}},
    {BPF_MAP_TYPE_SOCKMAP,
     {BPF_FUNC_sk_redirect_map, BPF_FUNC_sock_map_update, BPF_FUNC_msg_redirect_map,
      BPF_FUNC_sk_select_reuseport},
     {BPF_FUNC_map_lookup_elem, BPF_FUNC_map_delete_elem}},
    {BPF_MAP_TYPE_SOCKHASH,
     {BPF_FUNC_sk_redirect_hash, BPF_FUNC_sock_hash_update, BPF_FUNC_msg_redirect_hash,
      BPF_FUNC_sk_select_reuseport},
     {BPF_FUNC_map_lookup_elem, BPF_FUNC_map_delete_elem}},
    {BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, {BPF_FUNC_sk_select_reuseport}, {}},
    {BPF_MAP_TYPE_SK_STORAGE, {BPF_FUNC_sk_storage_get, BPF_FUNC_sk_storage_delete}, {BPF_FUNC_kptr_xchg}},
    {BPF_MAP_TYPE_INODE_STORAGE,
     {BPF_FUNC_inode_storage_get, BPF_FUNC_inode_storage_delete},
     {BPF_FUNC_kptr_xchg}},
    {BPF_MAP_TYPE_TASK_STORAGE,
     {BPF_FUNC_task_storage_get, BPF_FUNC_task_storage_delete},
     {BPF_FUNC_kptr_xchg}},
    {kCgroupLocalStorageMap, {kCgroupStorageGet, kCgroupStorageDelete}, {BPF_FUNC_kptr_xchg}},
};

const ForeignType* foreign_type(uint32_t type) {
  const auto* row = std::find_if(std::begin(kForeignTypes), std::end(kForeignTypes),
                                 [type](const ForeignType& each) { return each.type == type; });
  return row != std::end(kForeignTypes) ? row : nullptr;
}

// Whether the helper is made for maps of some types, so that it takes none of others.
bool is_own_helper(uint32_t id) {
  return std::any_of(std::begin(maps::kMapTypes), std::end(maps::kMapTypes),
                     [id](uint32_t type) { return maps::type_facts(type).own_helpers.has(id); }) ||
         std::any_of(std::begin(kForeignTypes), std::end(kForeignTypes),
                     [id](const ForeignType& type) { return type.own.has(id); });
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
  if (const ForeignType* foreign = foreign_type(map_type))
    return foreign->own.has(id) || foreign->other.has(id);
  const maps::MapTypeFacts facts = maps::type_facts(map_type);
  if (is_own_helper(id)) return facts.own_helpers.has(id);
  return *facts.name == 0 || facts.every_other_helper || facts.other_helpers.has(id);
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
