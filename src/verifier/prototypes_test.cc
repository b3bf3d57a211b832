// The table of helpers against the running kernel: which programs may call which, their licences, the kinds of their arguments, the
// maps they take.
#include "verifier/prototypes.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "verifier/testing/builder.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier {
namespace {

using testing::Builder;
using testing::KernelOracle;
using testing::KernelVerdict;

constexpr uint32_t kHelperLast = 211;  // __BPF_FUNC_MAX_ID - 1 of Linux 6.18

// bpf_probe_write_user and bpf_override_return depend on how the kernel is configured and locked down.
bool is_configured(uint32_t id) { return id == BPF_FUNC_probe_write_user || id == BPF_FUNC_override_return; }

struct ProgramType {
  uint32_t type;
  std::vector<uint32_t> attach_types;  // a helper may be for some of them only
  uint32_t flags = 0;
};

// Those that need no kernel function or object to attach to.
std::vector<ProgramType> program_types() {
  std::vector<ProgramType> types;
  for (uint32_t type = BPF_PROG_TYPE_SOCKET_FILTER; type <= BPF_PROG_TYPE_CGROUP_SOCKOPT; ++type)
    types.push_back({type, {0}});
  types[BPF_PROG_TYPE_CGROUP_SOCK - 1].attach_types = {BPF_CGROUP_INET_SOCK_CREATE,
                                                       BPF_CGROUP_INET4_POST_BIND, BPF_CGROUP_INET6_POST_BIND,
                                                       BPF_CGROUP_INET_SOCK_RELEASE};
  types[BPF_PROG_TYPE_CGROUP_SKB - 1].attach_types = {BPF_CGROUP_INET_INGRESS, BPF_CGROUP_INET_EGRESS};
  types[BPF_PROG_TYPE_SOCK_OPS - 1].attach_types = {BPF_CGROUP_SOCK_OPS};
  types[BPF_PROG_TYPE_CGROUP_DEVICE - 1].attach_types = {BPF_CGROUP_DEVICE};
  types[BPF_PROG_TYPE_CGROUP_SOCK_ADDR - 1].attach_types = {
      BPF_CGROUP_INET4_BIND,       BPF_CGROUP_INET6_BIND,   BPF_CGROUP_INET4_CONNECT,
      BPF_CGROUP_INET6_CONNECT,    BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_SENDMSG,
      BPF_CGROUP_UDP4_RECVMSG,     BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_INET4_GETPEERNAME,
      BPF_CGROUP_INET6_GETPEERNAME};
  types[BPF_PROG_TYPE_SK_REUSEPORT - 1].attach_types = {BPF_SK_REUSEPORT_SELECT,
                                                        BPF_SK_REUSEPORT_SELECT_OR_MIGRATE};
  types[BPF_PROG_TYPE_CGROUP_SYSCTL - 1].attach_types = {BPF_CGROUP_SYSCTL};
  types[BPF_PROG_TYPE_CGROUP_SOCKOPT - 1].attach_types = {BPF_CGROUP_GETSOCKOPT, BPF_CGROUP_SETSOCKOPT};
  types[BPF_PROG_TYPE_FLOW_DISSECTOR - 1].attach_types = {BPF_FLOW_DISSECTOR};
  types.push_back({BPF_PROG_TYPE_SK_LOOKUP, {BPF_SK_LOOKUP}});
  types.push_back({BPF_PROG_TYPE_SYSCALL, {0}, BPF_F_SLEEPABLE});
  return types;
}

class Prototypes : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = KernelOracle::unusable(); !reason.empty()) GTEST_SKIP() << reason;
  }

  KernelVerdict ask(const ProgramType& type, uint32_t attach_type, const Builder& builder,
                    const char* license = "GPL", std::vector<MapConstraint> maps = {}) {
    Request request;
    request.program.type = type.type;
    request.program.insns = builder.finish();
    request.expected_attach_type = attach_type;
    request.flags = type.flags;
    request.license = license;
    request.maps = std::move(maps);
    return kernel_.ask(request, 1);
  }

  // Attach types the kernel takes for this type of program.
  std::vector<uint32_t> usable(const ProgramType& type) {
    std::vector<uint32_t> out;
    for (const uint32_t attach_type : type.attach_types) {
      Builder builder;
      builder.mov_imm(0, 0);
      builder.exit();
      if (ask(type, attach_type, builder).error == 0) out.push_back(attach_type);
    }
    return out;
  }

  KernelOracle kernel_;
};

bool has(const KernelVerdict& verdict, std::string_view words) {
  return verdict.log.find(words) != std::string::npos;
}

bool is_refused_helper(const KernelVerdict& verdict) {
  return has(verdict, "cannot use helper") || has(verdict, "invalid func") || has(verdict, "unknown func");
}

Builder bare_call(uint32_t id) {
  Builder builder;
  builder.call(BPF_FUNC_get_prandom_u32);  // leaves r1 … r5 without values
  builder.call(static_cast<int32_t>(id));
  builder.mov_imm(0, 0);
  builder.exit();
  return builder;
}

TEST(Prototype, EveryHelperHasOne) {
  std::set<uint32_t> ids;
  for (const Prototype& row : prototypes()) {
    ids.insert(row.id);
    EXPECT_TRUE(row.name.starts_with("bpf_"));
    EXPECT_NE(row.types, 0u) << row.name;
    bool ended = false;
    for (const ArgKind kind : row.arguments) {
      EXPECT_FALSE(ended && kind != ArgKind::kNone) << row.name << ": arguments have a gap";
      ended |= kind == ArgKind::kNone;
    }
  }
  EXPECT_EQ(ids.size(), kHelperLast);
  EXPECT_EQ(*ids.begin(), 1u);
  EXPECT_EQ(*ids.rbegin(), kHelperLast);
}

TEST(Prototype, RowsOfOneHelperAreForDifferentPrograms) {
  for (const Prototype& a : prototypes())
    for (const Prototype& b : prototypes()) {
      if (&a == &b || a.id != b.id) continue;
      EXPECT_EQ(a.types & b.types, 0u) << a.name;
      EXPECT_EQ(a.name, b.name);
    }
}

TEST(Prototype, UnknownIdsHaveNone) {
  for (const uint32_t id : {0u, kHelperLast + 1, 195896080u /* CO-RE poison */, ~0u}) {
    EXPECT_EQ(find_prototype(id, BPF_PROG_TYPE_KPROBE), nullptr) << id;
    EXPECT_EQ(helper_name(id), "unknown") << id;
  }
  EXPECT_EQ(find_prototype(BPF_FUNC_map_lookup_elem, 0), nullptr);
  EXPECT_EQ(find_prototype(BPF_FUNC_map_lookup_elem, 64), nullptr);
}

TEST_F(Prototypes, ProgramTypesAreTheKernels) {
  size_t compared = 0;
  for (const ProgramType& type : program_types()) {
    const std::vector<uint32_t> attach_types = usable(type);
    if (attach_types.empty()) std::printf("program type %u: the kernel has none\n", type.type);
    for (uint32_t id = 1; id <= kHelperLast + 1 && !attach_types.empty(); ++id) {
      if (is_configured(id)) continue;
      bool is_allowed = false;
      for (const uint32_t attach_type : attach_types) {
        const KernelVerdict verdict = ask(type, attach_type, bare_call(id));
        is_allowed |= !is_refused_helper(verdict);
        if (has(verdict, "cannot use helper")) {
          EXPECT_TRUE(has(verdict, " " + std::string(helper_name(id)) + "#" + std::to_string(id)))
              << verdict.log;
        }
      }
      EXPECT_EQ(find_prototype(id, type.type) != nullptr, is_allowed)
          << helper_name(id) << ", program type " << type.type;
      ++compared;
    }
  }
  EXPECT_GT(compared, 4000u);
}

TEST_F(Prototypes, LicencesAreTheKernels) {
  for (const ProgramType& type : program_types()) {
    const std::vector<uint32_t> attach_types = usable(type);
    for (uint32_t id = 1; id <= kHelperLast && !attach_types.empty(); ++id) {
      const Prototype* prototype = find_prototype(id, type.type);
      if (prototype == nullptr || is_configured(id)) continue;
      bool needs_gpl = false;
      for (const uint32_t attach_type : attach_types)
        needs_gpl |= has(ask(type, attach_type, bare_call(id), "Proprietary"), "GPL-restricted");
      EXPECT_EQ(prototype->gpl, needs_gpl) << prototype->name << ", program type " << type.type;
    }
  }
}

// ---- arguments ----

constexpr uint8_t kKeptContext = BPF_REG_6;
constexpr uint32_t kTheMap = 0, kReadOnlyMap = 1;

MapConstraint make_map(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries,
                       uint32_t flags = 0) {
  MapConstraint map;
  map.spec = {type, key_size, value_size, max_entries, flags, 0};
  map.name = "map";
  return map;
}

// A map of the type a helper is made for.
MapConstraint map_for(uint32_t id) {
  for (const uint32_t type : {BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PROG_ARRAY, BPF_MAP_TYPE_PERF_EVENT_ARRAY,
                              BPF_MAP_TYPE_STACK_TRACE, BPF_MAP_TYPE_PERCPU_ARRAY})
    if (takes_map(id, type)) return make_map(type, 4, type == BPF_MAP_TYPE_STACK_TRACE ? 128 : 4, 4);
  if (takes_map(id, BPF_MAP_TYPE_RINGBUF)) return make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  if (takes_map(id, BPF_MAP_TYPE_QUEUE)) return make_map(BPF_MAP_TYPE_QUEUE, 0, 4, 4);
  return make_map(BPF_MAP_TYPE_ARRAY, 4, 4, 4);
}

// A value that passes for the kind; false: there is none that is easily made.
bool set_argument(Builder& builder, uint8_t reg, ArgKind kind, uint32_t map = kTheMap) {
  switch (kind) {
    case ArgKind::kNone:
      return true;
    case ArgKind::kAnything:
      builder.mov_imm(reg, 0);
      return true;
    case ArgKind::kSize:
    case ArgKind::kSizeOrZero:
    case ArgKind::kAllocSize:
      builder.mov_imm(reg, 8);
      return true;
    case ArgKind::kConstMap:
      builder.load_map(reg, map);
      return true;
    case ArgKind::kContext:
    case ArgKind::kContextOrNull:
      builder.mov(reg, kKeptContext);
      return true;
    case ArgKind::kConstString:
      builder.load_map_value(reg, kReadOnlyMap, 0);
      return true;
    case ArgKind::kMapKey:
    case ArgKind::kMapValue:
    case ArgKind::kMapValueOrNull:
    case ArgKind::kUninitMapValue:
    case ArgKind::kMem:
    case ArgKind::kMemOrNull:
    case ArgKind::kUninitMem:
    case ArgKind::kUninitMemOrNull:
    case ArgKind::kIntOut:
    case ArgKind::kLongOut:
    case ArgKind::kIp4Header:
    case ArgKind::kIp6Header:
    case ArgKind::kTcpHeader:
    case ArgKind::kUninitLocalDynptr:
    case ArgKind::kUninitRecordDynptr:
      builder.mov(reg, BPF_REG_10);
      builder.alu_imm(BPF_ADD, reg, -256);
      return true;
    default:
      return false;
  }
}

// The kernel's complaint about argument `index` when the ones before it are right and `last` sets this one.
template <typename SetLast>
std::string complaint(Prototypes*, const Prototype& prototype, uint32_t index, SetLast last,
                      Builder& builder) {
  builder.mov(kKeptContext, BPF_REG_1);
  for (int32_t slot = 1; slot <= 40; ++slot)
    builder.store_imm(BPF_DW, BPF_REG_10, static_cast<int16_t>(-8 * slot), 0);
  builder.call(BPF_FUNC_get_prandom_u32);
  for (uint32_t i = 0; i < index; ++i)
    if (!set_argument(builder, static_cast<uint8_t>(i + 1), prototype.arguments[i])) return "cannot be set";
  last(static_cast<uint8_t>(index + 1));
  builder.call(static_cast<int32_t>(prototype.id));
  builder.mov_imm(0, 0);
  builder.exit();
  return {};
}

TEST_F(Prototypes, ArgumentsAreTheKernels) {
  MapConstraint read_only = make_map(BPF_MAP_TYPE_ARRAY, 4, 64, 1, BPF_F_RDONLY_PROG);
  read_only.frozen = true;
  read_only.contents.assign(64, 0);
  size_t compared = 0, left_out = 0;
  for (const ProgramType& type : program_types()) {
    const std::vector<uint32_t> attach_types = usable(type);
    // System call programs have prototypes of their own for sockets and packets; they do not run here.
    if (attach_types.empty() || type.type == BPF_PROG_TYPE_SYSCALL) continue;
    for (uint32_t id = 1; id <= kHelperLast; ++id) {
      const Prototype* prototype = find_prototype(id, type.type);
      // Not at all, not by every way of attaching, or only by those that may sleep.
      if (prototype == nullptr || is_configured(id) ||
          is_refused_helper(ask(type, attach_types[0], bare_call(id))) ||
          (prototype->flags & Prototype::kMightSleep) != 0 || id == BPF_FUNC_d_path ||
          (id == BPF_FUNC_sk_assign && type.type == BPF_PROG_TYPE_SK_LOOKUP) /* a socket, but null too */)
        continue;
      const std::vector<MapConstraint> maps{map_for(id), read_only};
      for (uint32_t i = 0; i < 5; ++i) {
        const ArgKind kind = prototype->arguments[i];
        const std::string where = std::string(prototype->name) + " argument " + std::to_string(i + 1) +
                                  ", program type " + std::to_string(type.type);
        const std::string reg = "R" + std::to_string(i + 1);
        Builder nothing, number;
        const std::string reason = complaint(
            this, *prototype, i, [](uint8_t) {}, nothing);
        complaint(
            this, *prototype, i, [&](uint8_t r) { number.mov(r, BPF_REG_0); }, number);
        if (!reason.empty()) {
          ++left_out;
          break;
        }
        const KernelVerdict without = ask(type, attach_types[0], nothing, "GPL", maps);
        EXPECT_EQ(has(without, reg + " !read_ok"), kind != ArgKind::kNone) << where << "\n"
                                                                           << without.last_line;
        if (kind == ArgKind::kNone) break;
        const KernelVerdict with_number = ask(type, attach_types[0], number, "GPL", maps);
        const bool is_size = kind == ArgKind::kSize || kind == ArgKind::kSizeOrZero;
        if (kind == ArgKind::kAnything) {
          EXPECT_FALSE(has(with_number, "\n" + reg + " ")) << where << "\n" << with_number.log;
        } else if (is_size) {
          EXPECT_TRUE(has(with_number, reg + " min value is negative")) << where << "\n"
                                                                        << with_number.last_line;
          Builder zero;
          complaint(
              this, *prototype, i, [&](uint8_t r) { zero.mov_imm(r, 0); }, zero);
          EXPECT_EQ(has(ask(type, attach_types[0], zero, "GPL", maps), "zero-sized"), kind == ArgKind::kSize)
              << where;
        } else if (kind == ArgKind::kAllocSize) {
          EXPECT_TRUE(has(with_number, reg + " is not a known constant") ||
                      prototype->id == BPF_FUNC_dynptr_data)
              << where;
        } else {
          EXPECT_TRUE(
              has(with_number, reg + " type=scalar expected=" + std::string(expected_types(kind)) + "\n"))
              << where << "\n"
              << with_number.last_line;
        }
        ++compared;
      }
    }
  }
  std::printf("%zu arguments compared, %zu helpers left at an argument only the kernel can make\n", compared,
              left_out);
  EXPECT_GT(compared, 2000u);
}

TEST_F(Prototypes, MapsAreTheKernels) {
  struct Geometry {
    uint32_t type, key_size, value_size, max_entries, flags;
  };
  const Geometry geometries[] = {
      {BPF_MAP_TYPE_HASH, 4, 4, 4, 0},          {BPF_MAP_TYPE_ARRAY, 4, 4, 4, 0},
      {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0},    {BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0},
      {BPF_MAP_TYPE_PERCPU_HASH, 4, 4, 4, 0},   {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 4, 4, 0},
      {BPF_MAP_TYPE_STACK_TRACE, 4, 128, 4, 0}, {BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 4, 0},
      {BPF_MAP_TYPE_LRU_HASH, 4, 4, 4, 0},      {BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 4, 4, 0},
      {BPF_MAP_TYPE_DEVMAP, 4, 4, 4, 0},        {BPF_MAP_TYPE_CPUMAP, 4, 4, 4, 0},
      {BPF_MAP_TYPE_XSKMAP, 4, 4, 4, 0},        {BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 4, 4, 0},
      {BPF_MAP_TYPE_QUEUE, 0, 4, 4, 0},         {BPF_MAP_TYPE_STACK, 0, 4, 4, 0},
      {BPF_MAP_TYPE_DEVMAP_HASH, 4, 4, 4, 0},   {BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0},
      {BPF_MAP_TYPE_BLOOM_FILTER, 0, 4, 4, 0},  {BPF_MAP_TYPE_USER_RINGBUF, 0, 0, 4096, 0}};
  const ProgramType types[] = {
      {BPF_PROG_TYPE_KPROBE, {0}}, {BPF_PROG_TYPE_SCHED_CLS, {0}}, {BPF_PROG_TYPE_XDP, {0}}};
  size_t compared = 0;
  for (const Geometry& g : geometries) {
    const MapConstraint map = make_map(g.type, g.key_size, g.value_size, g.max_entries, g.flags);
    for (const ProgramType& type : types) {
      for (uint32_t id = 1; id <= kHelperLast; ++id) {
        const Prototype* prototype = find_prototype(id, type.type);
        if (prototype == nullptr) continue;
        Builder builder;
        builder.mov(kKeptContext, BPF_REG_1);
        for (int32_t slot = 1; slot <= 40; ++slot)
          builder.store_imm(BPF_DW, BPF_REG_10, static_cast<int16_t>(-8 * slot), 0);
        bool takes_a_map = false, is_set = true;
        for (uint32_t i = 0; i < 5; ++i) {
          takes_a_map |= prototype->arguments[i] == ArgKind::kConstMap;
          is_set &= set_argument(builder, static_cast<uint8_t>(i + 1), prototype->arguments[i]);
        }
        if (!takes_a_map || !is_set) continue;
        builder.call(static_cast<int32_t>(id));
        builder.mov_imm(0, 0);
        builder.exit();
        const KernelVerdict verdict = ask(type, 0, builder, "GPL", {map});
        ASSERT_NE(verdict.error, EREMOTEIO) << "map type " << g.type << ": " << verdict.last_line;
        // Other things may be wrong with such a call, and the kernel says that first.
        if (has(verdict, "invalid zero-sized read") || has(verdict, "write into map forbidden") ||
            id == BPF_FUNC_tail_call) {
          EXPECT_EQ(verdict.error != 0, id != BPF_FUNC_tail_call || !takes_map(id, g.type));
          continue;
        }
        EXPECT_EQ(has(verdict, "cannot pass map_type"), !takes_map(id, g.type))
            << prototype->name << ", map type " << g.type << ", program type " << type.type << "\n"
            << verdict.last_line;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 500u);
}

}  // namespace
}  // namespace bpftime::verifier
