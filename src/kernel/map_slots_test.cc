// Maps whose values are objects: every errno as the kernel's, lifetimes, recovery, and what comes into targets when.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/testing.h"
#include "maps/map_of_maps.h"
#include "maps/prog_array.h"

namespace bpftime::kernel {
namespace {

constexpr uint64_t kWindow = 0x110000000000;

struct Reaching : Remembering {
  std::vector<TargetMemory> reached;
  bool refuse = false;
  Result<void> reach(const Map&, const std::vector<TargetMemory>& memory) override {
    if (refuse) return Error{EBUSY, "a target cannot be stopped"};
    reached.insert(reached.end(), memory.begin(), memory.end());
    return {};
  }
};

BpfReply create_outer(Kernel& kernel, uint32_t type, int inner, uint32_t entries = 4, uint32_t key = 4,
                      uint32_t value = 4, uint32_t flags = 0) {
  Call call;
  call.attr.map_type = type;
  call.attr.key_size = key;
  call.attr.value_size = value;
  call.attr.max_entries = entries;
  call.attr.map_flags = flags;
  if (inner >= 0) call.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, inner_map_fd)}] = inner;
  return call.run(kernel, BPF_MAP_CREATE);
}

template <typename Key>
int64_t element(Kernel& kernel, uint32_t command, int map, const Key& key, int value_fd, uint64_t flags = 0,
                uint32_t* out = nullptr) {
  Call call;
  call.attr.flags = flags;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&key);
  call.in[offsetof(bpf_attr, key)] = {bytes, bytes + sizeof key};
  call.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd)}] = map;
  if (value_fd >= 0) call.fds[{wire::FdPlace::kValue, 0}] = value_fd;
  call.out_room[offsetof(bpf_attr, value)] = 8;
  BpfReply reply = call.run(kernel, command);
  if (out != nullptr && !reply.out.empty()) std::memcpy(out, reply.out[0].bytes.data(), 4);
  return reply.result;
}

int64_t real(int command, union bpf_attr& attr) {
  const long result = ::syscall(SYS_bpf, command, &attr, sizeof attr);
  return result < 0 ? -errno : result;
}
int64_t real_create(uint32_t type, int inner, uint32_t entries = 4, uint32_t key = 4, uint32_t value = 4,
                    uint32_t flags = 0) {
  union bpf_attr attr = {};
  attr.map_type = type;
  attr.key_size = key;
  attr.value_size = value;
  attr.max_entries = entries;
  attr.map_flags = flags;
  attr.inner_map_fd = static_cast<uint32_t>(inner);
  return real(BPF_MAP_CREATE, attr);
}
template <typename Key>
int64_t real_element(int command, int map, const Key& key, int value_fd, uint64_t flags = 0,
                     uint32_t* out = nullptr) {
  union bpf_attr attr = {};
  uint32_t value = static_cast<uint32_t>(value_fd);
  attr.map_fd = static_cast<uint32_t>(map);
  attr.key = reinterpret_cast<uint64_t>(&key);
  if (command != BPF_MAP_DELETE_ELEM) attr.value = reinterpret_cast<uint64_t>(&value);
  attr.flags = flags;
  const int64_t result = real(command, attr);
  if (out != nullptr) *out = value;
  return result;
}

class MapSlots : public ::testing::Test {
 protected:
  MapSlots() : kernel_(observer_, kWindow) {}
  void SetUp() override {
    auto started = kernel_.start();
    ASSERT_TRUE(started.ok()) << started.error().message;
  }
  std::shared_ptr<Map> map_of(const BpfReply& reply) {
    return std::static_pointer_cast<Map>(kernel_.objects().find_fd(reply.fd.get()));
  }
  bool kernel_usable() { return real_create(BPF_MAP_TYPE_ARRAY, 0) >= 0; }

  Reaching observer_;
  Kernel kernel_;
};

// The same geometry, both ways.
TEST_F(MapSlots, InnerMapsAreAcceptedAsByTheKernel) {
  if (!kernel_usable()) GTEST_SKIP() << "bpf(2) is not usable here";
  struct Geometry {
    uint32_t type, key, value, entries, flags;
  };
  const Geometry all[] = {{BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0},
                          {BPF_MAP_TYPE_ARRAY, 4, 8, 5, 0},
                          {BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_INNER_MAP},
                          {BPF_MAP_TYPE_ARRAY, 4, 8, 9, BPF_F_INNER_MAP},
                          {BPF_MAP_TYPE_ARRAY, 4, 16, 4, 0},
                          {BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_RDONLY_PROG},
                          {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4, 0},
                          {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 6, 0},
                          {BPF_MAP_TYPE_HASH, 4, 8, 4, 0},
                          {BPF_MAP_TYPE_HASH, 4, 8, 40, 0},
                          {BPF_MAP_TYPE_HASH, 8, 8, 4, 0},
                          {BPF_MAP_TYPE_HASH, 4, 8, 4, BPF_F_NO_PREALLOC},
                          {BPF_MAP_TYPE_STACK_TRACE, 4, 8, 4, 0}};
  for (const uint32_t outer_type : {BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS}) {
    for (const Geometry& like : all) {
      BpfReply model = create_map(kernel_, like.type, like.key, like.value, like.entries, like.flags);
      const Fd real_model(
          static_cast<int>(real_create(like.type, 0, like.entries, like.key, like.value, like.flags)));
      ASSERT_TRUE(model.fd && real_model);
      BpfReply outer = create_outer(kernel_, outer_type, model.fd.get());
      const Fd real_outer(static_cast<int>(real_create(outer_type, real_model.get())));
      ASSERT_EQ(outer.result < 0, !real_outer) << outer.text;
      for (const Geometry& given : all) {
        BpfReply inner = create_map(kernel_, given.type, given.key, given.value, given.entries, given.flags);
        const Fd real_inner(
            static_cast<int>(real_create(given.type, 0, given.entries, given.key, given.value, given.flags)));
        for (const uint64_t flags : {0, 1, 2, 3, 4}) {
          const uint32_t key = 1;
          EXPECT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, inner.fd.get(), flags),
                    real_element(BPF_MAP_UPDATE_ELEM, real_outer.get(), key, real_inner.get(), flags))
              << "outer " << outer_type << " like type " << like.type << " entries " << like.entries
              << " flags " << like.flags << ", given type " << given.type << " entries " << given.entries
              << " flags " << given.flags << ", update flags " << flags;
        }
      }
    }
  }
}

TEST_F(MapSlots, CreationAndElementsAreRefusedAsByTheKernel) {
  if (!kernel_usable()) GTEST_SKIP() << "bpf(2) is not usable here";
  BpfReply inner = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 4);
  const Fd real_inner(static_cast<int>(real_create(BPF_MAP_TYPE_ARRAY, 0, 4, 4, 8)));
  const Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  for (const uint32_t type : {BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_PROG_ARRAY,
                              BPF_MAP_TYPE_CGROUP_ARRAY}) {
    SCOPED_TRACE(type);
    const bool of_maps = type == BPF_MAP_TYPE_ARRAY_OF_MAPS || type == BPF_MAP_TYPE_HASH_OF_MAPS;
    const auto same = [&](uint32_t entries, uint32_t key, uint32_t value, uint32_t flags) {
      BpfReply ours = create_outer(kernel_, type, of_maps ? inner.fd.get() : -1, entries, key, value, flags);
      const int64_t theirs = real_create(type, of_maps ? real_inner.get() : 0, entries, key, value, flags);
      EXPECT_EQ(ours.result < 0 ? ours.result : 0, theirs < 0 ? theirs : 0)
          << entries << " " << key << " " << value << " " << flags;
      if (theirs >= 0) ::close(static_cast<int>(theirs));
    };
    for (const uint32_t value : {0, 4, 8})
      for (const uint32_t key : {0, 4, 8})
        for (const uint32_t entries : {0, 4}) same(entries, key, value, 0);
    for (uint32_t bit = 0; bit < 15; ++bit) same(4, 4, 4, 1u << bit);
    if (of_maps) {
      for (const int bad : {-1, file.get()}) {
        EXPECT_EQ(create_outer(kernel_, type, bad).result, real_create(type, bad)) << bad;
      }
      BpfReply outer = create_outer(kernel_, type, inner.fd.get());
      const Fd real_outer(static_cast<int>(real_create(type, real_inner.get())));
      EXPECT_EQ(create_outer(kernel_, type, outer.fd.get()).result, real_create(type, real_outer.get()));
      BpfReply array = create_map(kernel_, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4);
      const Fd real_array(static_cast<int>(real_create(BPF_MAP_TYPE_PROG_ARRAY, 0)));
      EXPECT_EQ(create_outer(kernel_, type, array.fd.get()).result, real_create(type, real_array.get()));
    }
    BpfReply outer = create_outer(kernel_, type, of_maps ? inner.fd.get() : -1);
    const Fd real_outer(static_cast<int>(real_create(type, of_maps ? real_inner.get() : 0)));
    ASSERT_TRUE(outer.fd && real_outer);
    for (const uint32_t key : {0u, 3u, 4u, 0xffffffffu}) {
      for (const int bad : {-1, file.get()}) {
        for (const uint64_t flags : {0, 1, 2, 3, 4}) {
          EXPECT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, bad, flags),
                    real_element(BPF_MAP_UPDATE_ELEM, real_outer.get(), key, bad, flags))
              << key << " " << bad << " " << flags;
        }
      }
      EXPECT_EQ(element(kernel_, BPF_MAP_DELETE_ELEM, outer.fd.get(), key, -1),
                real_element(BPF_MAP_DELETE_ELEM, real_outer.get(), key, -1));
      EXPECT_EQ(element(kernel_, BPF_MAP_LOOKUP_ELEM, outer.fd.get(), key, -1),
                real_element(BPF_MAP_LOOKUP_ELEM, real_outer.get(), key, -1));
    }
  }
}

TEST_F(MapSlots, OuterMapKeepsInnerAndTellsItsId) {
  BpfReply inner = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  const uint32_t inner_id = map_of(inner)->id;
  for (const uint32_t type : {BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS}) {
    BpfReply outer = create_outer(kernel_, type, inner.fd.get());
    ASSERT_EQ(outer.result, 0) << outer.text;
    const uint32_t key = 2;
    uint32_t id = 0;
    ASSERT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, inner.fd.get()), 0);
    EXPECT_EQ(element(kernel_, BPF_MAP_LOOKUP_ELEM, outer.fd.get(), key, -1, 0, &id), 0);
    EXPECT_EQ(id, inner_id);
    // What programs will find: the reference, in memory that is theirs to read only.
    const auto map = map_of(outer);
    const maps::MapView view{map->memory.data(), &map->spec};
    auto* found = type == BPF_MAP_TYPE_ARRAY_OF_MAPS ? maps::array_of_maps_lookup(view, &key)
                                                     : maps::hash_of_maps_lookup(view, &key);
    EXPECT_EQ(reinterpret_cast<uint64_t>(found), map_of(inner)->reference);
    EXPECT_NE(found, nullptr);
    ASSERT_TRUE(map->sealed);
    EXPECT_EQ(::fcntl(map->sealed.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
    EXPECT_EQ(element(kernel_, BPF_MAP_DELETE_ELEM, outer.fd.get(), key, -1), 0);
    EXPECT_EQ(type == BPF_MAP_TYPE_ARRAY_OF_MAPS ? maps::array_of_maps_lookup(view, &key)
                                                 : maps::hash_of_maps_lookup(view, &key),
              nullptr);
    ASSERT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, inner.fd.get()), 0);
    if (type == BPF_MAP_TYPE_ARRAY_OF_MAPS) continue;
    inner.fd.reset();
    settle(kernel_);
    EXPECT_NE(kernel_.objects().find(ObjectKind::kMap, inner_id), nullptr) << "the outer map holds it";
    outer.fd.reset();
    settle(kernel_);
    EXPECT_EQ(kernel_.objects().find(ObjectKind::kMap, inner_id), nullptr);
  }
}

TEST_F(MapSlots, NothingIsPublishedThatTargetsDoNotHave) {
  BpfReply inner = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 4);
  BpfReply outer = create_outer(kernel_, BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.fd.get());
  const uint32_t key = 0;
  observer_.refuse = true;
  EXPECT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, inner.fd.get()), -EBUSY);
  EXPECT_EQ(element(kernel_, BPF_MAP_LOOKUP_ELEM, outer.fd.get(), key, -1), -ENOENT);
  observer_.refuse = false;
  EXPECT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, inner.fd.get()), 0);
  ASSERT_EQ(observer_.reached.size(), 2u);
  EXPECT_EQ(observer_.reached[0].address, map_of(inner)->address);
  EXPECT_TRUE(observer_.reached[0].writable);
  EXPECT_FALSE(observer_.reached[1].writable) << "references";
}

TEST_F(MapSlots, ProgramArraysHoldProgramsUntilNoClientHasThem) {
  BpfReply array = create_map(kernel_, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4);
  ASSERT_EQ(array.result, 0) << array.text;
  BpfReply user = load_program(kernel_, kUsesMap, {{0, array.fd.get()}});
  ASSERT_EQ(user.result, 0) << user.text;
  const uint32_t key = 1;
  uint32_t id = 0;
  ASSERT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, array.fd.get(), key, user.fd.get()), 0);
  EXPECT_EQ(element(kernel_, BPF_MAP_LOOKUP_ELEM, array.fd.get(), key, -1, 0, &id), 0);
  const auto prog = std::static_pointer_cast<Prog>(kernel_.objects().find_fd(user.fd.get()));
  EXPECT_EQ(id, prog->id);
  const auto map = map_of(array);
  const auto* slot = maps::prog_array_slot({map->memory.data(), &map->spec}, key);
  EXPECT_EQ(slot->code, prog->tail_entry);
  EXPECT_NE(prog->tail_entry, prog->code_entry)
      << "where trampolines enter, the count of tail calls begins anew";
  EXPECT_NE(slot->code, 0u);
  // Its code, unchangeable, where the slot says.
  EXPECT_TRUE(std::any_of(observer_.reached.begin(), observer_.reached.end(), [&](const TargetMemory& m) {
    return m.executable && !m.writable && m.address <= slot->code && slot->code < m.address + m.size;
  }));
  uint64_t first = 0;
  EXPECT_EQ(::pread(prog->code_memory.get(), &first, sizeof first,
                    static_cast<off_t>(prog->tail_entry - prog->code_address)),
            static_cast<ssize_t>(sizeof first));
  EXPECT_NE(first, 0u);
  EXPECT_NE(::fcntl(prog->code_memory.get(), F_GET_SEALS) & F_SEAL_WRITE, 0);
  // A program at work keeps the array, but once no client has it the slots are emptied.
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  BpfReply link = create_link(kernel_, user.fd.get(), event.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  user.fd.reset();
  event.fd.reset();
  settle(kernel_);
  EXPECT_NE(slot->code, 0u);
  array.fd.reset();
  settle(kernel_);
  EXPECT_EQ(slot->code, 0u);
  EXPECT_NE(kernel_.objects().find(ObjectKind::kMap, map->id), nullptr);
  link.fd.reset();
  settle(kernel_);
  EXPECT_EQ(kernel_.objects().find(ObjectKind::kProgram, id), nullptr);
}

TEST_F(MapSlots, ArrayAndProgramThatHoldEachOtherDie) {
  BpfReply array = create_map(kernel_, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4);
  BpfReply user = load_program(kernel_, kUsesMap, {{0, array.fd.get()}});
  const uint32_t key = 1;
  ASSERT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, array.fd.get(), key, user.fd.get()), 0);
  user.fd.reset();
  settle(kernel_);
  EXPECT_EQ(kernel_.objects().all<Prog>(ObjectKind::kProgram).size(), 1u);
  const std::weak_ptr<Map> map = map_of(array);
  array.fd.reset();
  settle(kernel_);
  EXPECT_TRUE(kernel_.objects().all<Prog>(ObjectKind::kProgram).empty());
  EXPECT_TRUE(map.expired());
}

TEST_F(MapSlots, ProgramArraysAreForOneType) {
  BpfReply array = create_map(kernel_, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4);
  BpfReply prog = load_program(kernel_, kReturnZero);
  const uint32_t key = 0;
  map_of(array)->owner_type = BPF_PROG_TYPE_TRACEPOINT;
  EXPECT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, array.fd.get(), key, prog.fd.get()), -EINVAL);
  EXPECT_EQ(load_program(kernel_, kUsesMap, {{0, array.fd.get()}}).result, -EINVAL);
  map_of(array)->owner_type = BPF_PROG_TYPE_KPROBE;
  EXPECT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, array.fd.get(), key, prog.fd.get()), 0);
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 4);
  EXPECT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, array.fd.get(), key, map.fd.get()), -EINVAL);
}

TEST_F(MapSlots, AWorkerThatTakesOverFindsEverySlot) {
  BpfReply inner = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  BpfReply outer = create_outer(kernel_, BPF_MAP_TYPE_HASH_OF_MAPS, inner.fd.get());
  BpfReply array = create_map(kernel_, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4);
  BpfReply prog = load_program(kernel_, kUsesMap, {{0, array.fd.get()}});
  const uint32_t key = 3;
  ASSERT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, inner.fd.get()), 0);
  ASSERT_EQ(element(kernel_, BPF_MAP_UPDATE_ELEM, array.fd.get(), key, prog.fd.get()), 0);
  const uint64_t reference = map_of(inner)->reference;
  const uint64_t entry = std::static_pointer_cast<Prog>(kernel_.objects().find_fd(prog.fd.get()))->tail_entry;

  Reaching observer;
  Kernel next(observer, kWindow);
  for (auto& [record_key, record] : observer_.records) {
    auto done = next.recover(record, std::move(observer_.fds[record_key]));
    ASSERT_TRUE(done.ok()) << done.error().message;
  }
  ASSERT_TRUE(next.start().ok());
  uint32_t id = 0;
  EXPECT_EQ(element(next, BPF_MAP_LOOKUP_ELEM, outer.fd.get(), key, -1, 0, &id), 0);
  EXPECT_EQ(id, map_of(inner)->id);
  EXPECT_EQ(element(next, BPF_MAP_LOOKUP_ELEM, array.fd.get(), key, -1, 0, &id), 0);
  // The very memory the targets map.
  const auto map = std::static_pointer_cast<Map>(next.objects().find_fd(outer.fd.get()));
  EXPECT_EQ(reinterpret_cast<uint64_t>(maps::hash_of_maps_lookup({map->memory.data(), &map->spec}, &key)),
            reference);
  const auto programs = std::static_pointer_cast<Map>(next.objects().find_fd(array.fd.get()));
  EXPECT_EQ(maps::prog_array_slot({programs->memory.data(), &programs->spec}, key)->code, entry);
  // And goes on: another map gets another place.
  BpfReply more = create_map(next, BPF_MAP_TYPE_HASH, 4, 8, 16);
  EXPECT_EQ(element(next, BPF_MAP_UPDATE_ELEM, outer.fd.get(), key, more.fd.get()), 0);
  EXPECT_NE(std::static_pointer_cast<Map>(next.objects().find_fd(more.fd.get()))->reference, reference);
}

}  // namespace
}  // namespace bpftime::kernel
