#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

#include "loader/calls.h"
#include "loader/objects.h"
#include "maps/map.h"

namespace bpftime::loader {
namespace {

// A map as the daemon makes it.
struct TestMap {
  wire::MapSpec spec;
  Fd fd;
  Mapping memory;

  explicit TestMap(wire::MapSpec geometry, uint64_t extra = 0) : spec(geometry) {
    const uint64_t size = maps::memory_size(spec) + extra;
    auto made = create_memfd("bpf-map", size, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    EXPECT_TRUE(made.ok());
    fd = std::move(*made);
    auto mapped = Mapping::shared(fd, size, PROT_READ | PROT_WRITE);
    EXPECT_TRUE(mapped.ok());
    memory = std::move(*mapped);
    maps::initialize({memory.data(), &spec});
    auto* t = trailer();
    t->header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, size};
    t->kind = wire::ObjectKind::kMap;
    t->id = 1;
    t->map = spec;
  }
  wire::ObjectTrailer* trailer() {
    return reinterpret_cast<wire::ObjectTrailer*>(memory.data() + memory.size() - wire::kTrailerSize);
  }
};

struct Element {
  uint32_t fd, padding;
  const void* key;
  void* value;
  uint64_t flags;
};

int64_t element(uint32_t command, int fd, const void* key, void* value, uint64_t flags = 0) {
  const Element attr = {static_cast<uint32_t>(fd), 0, key, value, flags};
  const uint32_t size = command == BPF_MAP_DELETE_ELEM    ? 16
                        : command == BPF_MAP_GET_NEXT_KEY ? 24
                                                          : sizeof(attr);
  return bpf_call(command, reinterpret_cast<uint64_t>(&attr), size);
}

constexpr wire::MapSpec kHash = {BPF_MAP_TYPE_HASH, 4, 8, 16, 0, 2};
constexpr wire::MapSpec kArray = {BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_MMAPABLE, 2};

TEST(MapCommands, HashLivesAWholeLifeWithoutADaemon) {
  TestMap map(kHash);
  const int fd = map.fd.get();
  uint32_t key = 5, next = 0;
  uint64_t value = 77, got = 0;
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, fd, &key, &got), -ENOENT);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_EXIST), -ENOENT);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_NOEXIST), 0);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_NOEXIST), -EEXIST);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, fd, &key, &got), 0);
  EXPECT_EQ(got, 77u);
  EXPECT_EQ(element(BPF_MAP_GET_NEXT_KEY, fd, nullptr, &next), 0);
  EXPECT_EQ(next, 5u);
  EXPECT_EQ(element(BPF_MAP_GET_NEXT_KEY, fd, &next, &next), -ENOENT);
  // Through a duplicate, after the original went the way of libbpf 1.8's dup3 dance.
  const Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 100));
  forget_descriptor(fd);
  EXPECT_EQ(element(BPF_MAP_DELETE_ELEM, copy.get(), &key, nullptr), 0);
  EXPECT_EQ(element(BPF_MAP_DELETE_ELEM, copy.get(), &key, nullptr), -ENOENT);
}

TEST(MapCommands, BadPointersAreEfaultAndBadAttrEinval) {
  TestMap map(kHash);
  const int fd = map.fd.get();
  uint32_t key = 1;
  uint64_t value = 2;
  void* const bad = reinterpret_cast<void*>(0x10);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, bad, &value), -EFAULT);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, nullptr, &value), -EFAULT);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, &key, bad), -EFAULT);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, &key, &value), 0);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, fd, &key, bad), -EFAULT);
  EXPECT_EQ(element(BPF_MAP_GET_NEXT_KEY, fd, nullptr, bad), -EFAULT);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, fd, &key, &value, 1), -EINVAL);
  EXPECT_EQ(bpf_call(BPF_MAP_LOOKUP_ELEM, 0x10, 32), -EFAULT);
  Element attr[8] = {{static_cast<uint32_t>(fd), 0, &key, &value, 0}};
  EXPECT_EQ(bpf_call(BPF_MAP_LOOKUP_ELEM, reinterpret_cast<uint64_t>(attr), 64), 0);
  attr[1].fd = 1;  // beyond flags: CHECK_ATTR
  EXPECT_EQ(bpf_call(BPF_MAP_LOOKUP_ELEM, reinterpret_cast<uint64_t>(attr), 64), -EINVAL);
  attr[1].fd = 0, attr[6].fd = 1;  // beyond the union
  EXPECT_EQ(bpf_call(BPF_MAP_LOOKUP_ELEM, reinterpret_cast<uint64_t>(attr), sizeof(attr)), -E2BIG);
}

TEST(MapCommands, DescriptorsThatAreNoMaps) {
  uint32_t key = 0;
  uint64_t value = 0;
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, -1, &key, &value), -EBADF);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, 77777, &key, &value), -EBADF);
  const Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, file.get(), &key, &value), -EINVAL);
  TestMap map(kHash);
  map.trailer()->kind = wire::ObjectKind::kProgram;
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), &key, &value), -EINVAL);
}

// Numbers that come to mean something else in ways that no hook sees.
class UnseenChanges : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, first_.fd.get(), &key_, &one_), 0);
      EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, second_.fd.get(), &key_, &two_), 0);
    }
  }
  // 0 and the value, or -errno.
  std::pair<int64_t, uint64_t> look(int fd) {
    uint64_t value = 0;
    const int64_t result = element(BPF_MAP_LOOKUP_ELEM, fd, &key_, &value);
    return {result, value};
  }
  void replace(int fd, int by) { ASSERT_EQ(::dup3(by, fd, O_CLOEXEC), fd); }

  TestMap first_{kArray}, second_{kArray};
  uint32_t key_ = 1;
  uint64_t one_ = 1, two_ = 2;
  using Seen = std::pair<int64_t, uint64_t>;
};

TEST_F(UnseenChanges, AnotherMap) {
  EXPECT_EQ(look(first_.fd.get()), Seen(0, 1));
  replace(first_.fd.get(), second_.fd.get());
  EXPECT_EQ(look(first_.fd.get()), Seen(0, 2));
  EXPECT_EQ(look(second_.fd.get()), Seen(0, 2));
}

TEST_F(UnseenChanges, NoMapAnyMore) {
  const Fd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  replace(first_.fd.get(), nothing.get());
  EXPECT_EQ(look(first_.fd.get()).first, -EINVAL);
  const int number = second_.fd.release();
  ::close(number);
  EXPECT_EQ(look(number).first, -EBADF);
  const Fd file(::memfd_create("file", MFD_CLOEXEC));
  replace(first_.fd.get(), file.get());
  EXPECT_EQ(look(first_.fd.get()).first, -EINVAL);
}

TEST_F(UnseenChanges, TheSameMapWithOtherRights) {
  const int fd = first_.fd.get();
  auto reader = first_.fd.reopen(O_RDONLY);
  auto writer = first_.fd.reopen(O_WRONLY);
  auto both = first_.fd.reopen(O_RDWR);
  ASSERT_TRUE(reader.ok() && writer.ok() && both.ok());
  for (int round = 0; round < 2; ++round) {
    replace(fd, reader->get());
    EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, &key_, &two_), -EPERM);
    EXPECT_EQ(look(fd), Seen(0, 1));
    replace(fd, writer->get());
    EXPECT_EQ(look(fd).first, -EPERM);
    EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, fd, &key_, &one_), 0);
    replace(fd, both->get());
    EXPECT_EQ(look(fd), Seen(0, 1));
  }
}

// What we keep at a descriptor (objects.cc) is nothing that has to stay: duplicates share it, and anybody may change it.
TEST_F(UnseenChanges, APositionThatIsMoved) {
  const int fd = first_.fd.get();
  const Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 100));
  EXPECT_EQ(look(copy.get()), Seen(0, 1));
  const off_t other = ::lseek(second_.fd.get(), 0, SEEK_CUR);
  EXPECT_NE(::lseek(fd, 0, SEEK_CUR), other);
  ASSERT_EQ(::lseek(fd, 0, SEEK_SET), 0);
  EXPECT_EQ(look(copy.get()), Seen(0, 1));
  EXPECT_EQ(look(fd), Seen(0, 1));
  // Even one that says to be another map is believed only of a number that was that map.
  ASSERT_EQ(::lseek(fd, other, SEEK_SET), other);
  EXPECT_EQ(look(fd), Seen(0, 1));
  EXPECT_EQ(look(second_.fd.get()), Seen(0, 2));
}

TEST_F(UnseenChanges, ForgottenAndMetAgain) {
  const int fd = first_.fd.get();
  forget_descriptor(fd);
  EXPECT_EQ(look(fd), Seen(0, 1));
  forget_all_objects();
  EXPECT_EQ(look(fd), Seen(0, 1));
  // More than are remembered, on the same place.
  std::vector<Fd> many;
  for (int i = 1; i <= 3; ++i) many.emplace_back(::fcntl(second_.fd.get(), F_DUPFD_CLOEXEC, fd + 256 * i));
  for (int round = 0; round < 2; ++round) {
    for (const Fd& copy : many) EXPECT_EQ(look(copy.get()), Seen(0, 2));
    EXPECT_EQ(look(fd), Seen(0, 1));
  }
}

// Which are all asked about at once: a filter has nothing to hand out.
TEST(MapCommands, AMemberOfABloomFilterIsOnlyRead) {
  TestMap map({BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 64, 0, 0});
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  std::memset(page, 5, 8);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, map.fd.get(), nullptr, page), 0);
  ASSERT_EQ(::mprotect(page, 4096, PROT_READ), 0);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), nullptr, page), 0);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), nullptr, reinterpret_cast<void*>(0x10)), -EFAULT);
  ::munmap(page, 4096);
}

TEST(MapCommands, SlotsOfPerfEventArraysCannotBeRead) {
  TestMap map({BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2, 0, 2});
  uint32_t key = 0, value = 0;
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), &key, &value), -524);
}

TEST(MapCommands, ForgedTrailersAreNotBelieved) {
  uint32_t key = 0;
  uint64_t value = 0;
  {
    TestMap map(kHash);
    map.trailer()->header.magic++;
    EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), &key, &value), -EINVAL);
  }
  {
    TestMap map(kHash);
    map.trailer()->header.size += 4096;
    EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), &key, &value), -EINVAL);
  }
  {
    // Claims more entries than its memory holds: never touched here, the daemon is asked (and is not there).
    TestMap map(kHash);
    map.trailer()->map.max_entries = 1000000;
    ::unsetenv("BPFTIME_SOCKET");
    testing::internal::CaptureStderr();
    EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), &key, &value), -EIO);
    EXPECT_NE(testing::internal::GetCapturedStderr().find("try `bpftime load"), std::string::npos);
  }
}

TEST(MapCommands, FrozenAndReadOnlyRefuseWriters) {
  TestMap map(kArray);
  uint32_t key = 1;
  uint64_t value = 9;
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, map.fd.get(), &key, &value), 0);
  auto reader = map.fd.reopen(O_RDONLY);
  auto writer = map.fd.reopen(O_WRONLY);
  ASSERT_TRUE(reader.ok() && writer.ok());
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, reader->get(), &key, &value), -EPERM);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, reader->get(), &key, &value), 0);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, writer->get(), &key, &value), -EPERM);
  map.trailer()->frozen = 1;
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, map.fd.get(), &key, &value), -EPERM);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, map.fd.get(), &key, &value), 0);
}

TEST(MapCommands, ReaderFirstThenWriterThroughAnotherDescriptor) {
  TestMap map(kArray);
  uint32_t key = 2;
  uint64_t value = 9, got = 0;
  auto reader = map.fd.reopen(O_RDONLY);
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, reader->get(), &key, &got), 0);
  EXPECT_EQ(element(BPF_MAP_UPDATE_ELEM, map.fd.get(), &key, &value), 0);
  EXPECT_EQ(element(BPF_MAP_LOOKUP_ELEM, reader->get(), &key, &got), 0);
  EXPECT_EQ(got, 9u);
}

TEST(MapCommands, MmapRules) {
  const auto ask = [](const TestMap& map, uint64_t length, int protection, uint64_t offset,
                      int flags = MAP_SHARED) {
    return before_mmap(length, protection, flags, map.fd.get(), offset);
  };
  const int rw = PROT_READ | PROT_WRITE;
  TestMap array(kArray);
  EXPECT_EQ(ask(array, 4096, rw, 0), std::nullopt);
  EXPECT_EQ(ask(array, 8192, rw, 0), -EINVAL);  // would show the trailer
  EXPECT_EQ(ask(array, 4096, rw, 4096), -EINVAL);
  EXPECT_EQ(ask(array, 4096, rw, 0, MAP_PRIVATE), -EINVAL);
  array.trailer()->frozen = 1;
  EXPECT_EQ(ask(array, 4096, rw, 0), -EPERM);
  EXPECT_EQ(ask(array, 4096, PROT_READ, 0), std::nullopt);
  TestMap plain({BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0, 2});
  EXPECT_EQ(ask(plain, 4096, PROT_READ, 0), -EINVAL);
  TestMap guarded({BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_MMAPABLE | BPF_F_RDONLY_PROG, 2});
  EXPECT_EQ(ask(guarded, 4096, rw, 0), -EACCES);
  EXPECT_EQ(ask(guarded, 4096, PROT_READ, 0), std::nullopt);
  TestMap hash(kHash);
  EXPECT_EQ(ask(hash, 4096, PROT_READ, 0), -524);
  TestMap ring({BPF_MAP_TYPE_RINGBUF, 0, 0, 8192, 0, 2});
  EXPECT_EQ(ask(ring, 4096, rw, 0), std::nullopt);
  EXPECT_EQ(ask(ring, 4096 + 2 * 8192, PROT_READ, 4096), std::nullopt);
  EXPECT_EQ(ask(ring, 4096 + 2 * 8192, rw, 4096), -EPERM);
  EXPECT_EQ(ask(ring, 8192 + 2 * 8192, PROT_READ, 4096), -EINVAL);
}

// The daemon learns of a map's end by its last mapping: ours must not outlive the host's close.
TEST(MapCommands, NothingKeepsAClosedMapAlive) {
  TestMap map(kHash);
  auto host = map.fd.reopen(O_RDWR);
  ASSERT_TRUE(host.ok());
  uint32_t key = 5;
  uint64_t value = 77;
  ASSERT_EQ(element(BPF_MAP_UPDATE_ELEM, host->get(), &key, &value), 0);
  const auto mappings = [] {
    FILE* file = std::fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    while (std::fgets(line, sizeof(line), file) != nullptr)
      count += std::strstr(line, "memfd:bpf-map") != nullptr;
    std::fclose(file);
    return count;
  };
  const int before = mappings();
  forget_descriptor(host->get());
  EXPECT_EQ(mappings(), before - 1);
}

}  // namespace
}  // namespace bpftime::loader
