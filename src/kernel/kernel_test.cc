#include "kernel/kernel.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/perf_ring.h"
#include "kernel/record.h"
#include "kernel/testing.h"
#include "maps/map.h"

namespace bpftime::kernel {
namespace {

constexpr uint64_t kWindow = 0x400000000000;

class KernelTest : public ::testing::Test {
 protected:
  KernelTest() : kernel_(observer_, kWindow) {}
  void SetUp() override {
    auto started = kernel_.start();
    ASSERT_TRUE(started.ok()) << started.error().message;
  }
  size_t objects() {
    settle(kernel_);
    return kernel_.objects().size() - 1;  // without the trace ring
  }

  Remembering observer_;
  Kernel kernel_;
};

TEST_F(KernelTest, MapLivesAsLongAsADescriptorOfIt) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  ASSERT_EQ(map.result, 0) << map.text;
  auto copy = map.fd.duplicate();
  ASSERT_TRUE(copy.ok());
  map.fd.reset();
  EXPECT_EQ(objects(), 1u) << "a dup keeps it";
  copy->reset();
  EXPECT_EQ(objects(), 0u);
  EXPECT_EQ(observer_.records.size(), 1u) << "the keeper's record is gone, too (the trace ring stays)";
}

TEST_F(KernelTest, MapLivesAsLongAsAMappingOfIt) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 16, BPF_F_MMAPABLE);
  ASSERT_EQ(map.result, 0) << map.text;
  void* at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map.fd.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  map.fd.reset();
  EXPECT_EQ(objects(), 1u);
  ::munmap(at, 4096);
  EXPECT_EQ(objects(), 0u);
}

TEST_F(KernelTest, MapLivesInAChildThatInheritedItUntilThatIsKilled) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  ASSERT_EQ(map.result, 0) << map.text;
  const pid_t child = ::fork();
  if (child == 0)
    for (;;) ::pause();
  map.fd.reset();
  EXPECT_EQ(objects(), 1u);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(objects(), 0u);
}

TEST_F(KernelTest, ProgramKeepsItsMapsAndLinkKeepsItsProgram) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  BpfReply prog = load_program(kernel_, kUsesMap, {{0, map.fd.get()}});
  ASSERT_EQ(prog.result, 0) << prog.text;
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  ASSERT_EQ(event.result, 0) << event.text;
  BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  EXPECT_EQ(observer_.probe_changes, 1);
  map.fd.reset();
  prog.fd.reset();
  event.fd.reset();
  EXPECT_EQ(objects(), 4u);
  ASSERT_EQ(kernel_.probes().size(), 1u);
  link.fd.reset();
  EXPECT_EQ(objects(), 0u);
  EXPECT_EQ(kernel_.probes().size(), 0u);
  EXPECT_EQ(observer_.probe_changes, 2);
}

// A tool that attaches link by link finds the files of its next event and link made already: they are objects like others.
TEST_F(KernelTest, PreparedStorageIsLikeAnyOther) {
  BpfReply prog = load_program(kernel_, kReturnZero);
  uint32_t last_id = 0;
  for (int round = 0; round < 4; ++round) {
    BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
    BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
    ASSERT_EQ(link.result, 0) << link.text;
    if (round % 2 == 0) kernel_.prepare();  // the round after it has both prepared
    const auto made = kernel_.objects().find_fd(link.fd.get());
    ASSERT_TRUE(made);
    EXPECT_EQ(made->id, ++last_id);
    EXPECT_EQ(made, kernel_.objects().find(ObjectKind::kLink, last_id));
    EXPECT_EQ(objects(), 3u);
    event.fd.reset();
    EXPECT_EQ(objects(), 3u) << "the link refers to it";
    link.fd.reset();
    EXPECT_EQ(objects(), 1u) << "that its descriptor was closed is seen";
    EXPECT_EQ(observer_.gone, 2 * (round + 1));
  }
}

// Who reads in an event's file that it is enabled asks nobody: so it never says so before the probe is in, or after it is out.
TEST_F(KernelTest, EventSaysThatItIsEnabledWhileItsProbeIsIn) {
  struct Watching : Remembering {
    int event = -1;
    std::vector<uint32_t> said;  // as each change of probes began
    uint32_t says() const {
      wire::ObjectTrailer trailer{};
      EXPECT_EQ(::pread(event, &trailer, sizeof trailer, 0), static_cast<ssize_t>(sizeof trailer));
      EXPECT_EQ(trailer.kind, ObjectKind::kPerfEvent);
      return trailer.enabled;
    }
    void probes_changed() override { said.push_back(says()); }
  } observer;
  Kernel kernel(observer, kWindow);
  ASSERT_TRUE(kernel.start().ok());
  BpfReply prog = load_program(kernel, kReturnZero);
  BpfReply event = open_uprobe(kernel, "/proc/self/exe", 0x1000);
  observer.event = event.fd.get();
  EXPECT_EQ(observer.says(), 1u) << "attr.disabled was not set: what is attached later is in at once";
  BpfReply link = create_link(kernel, prog.fd.get(), event.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  EXPECT_EQ(observer.says(), 1u);
  observer.said.clear();
  EXPECT_EQ(kernel.perf_ioctl(event.fd.get(), PERF_EVENT_IOC_DISABLE, 0, -1).result, 0);
  EXPECT_EQ(observer.says(), 0u);
  EXPECT_EQ(kernel.perf_ioctl(event.fd.get(), PERF_EVENT_IOC_ENABLE, 0, -1).result, 0);
  EXPECT_EQ(observer.says(), 1u);
  EXPECT_EQ(observer.said, (std::vector<uint32_t>{0, 0}));
}

TEST_F(KernelTest, DisabledEventIsNoProbe) {
  BpfReply prog = load_program(kernel_, kReturnZero);
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  EXPECT_EQ(kernel_.perf_ioctl(event.fd.get(), PERF_EVENT_IOC_DISABLE, 0, -1).result, 0);
  EXPECT_TRUE(kernel_.probes().empty());
  EXPECT_EQ(kernel_.perf_ioctl(event.fd.get(), PERF_EVENT_IOC_ENABLE, 0, -1).result, 0);
  EXPECT_EQ(kernel_.probes().size(), 1u);
}

TEST_F(KernelTest, ErrnoIsLinuxs) {
  BpfReply prog = load_program(kernel_, kReturnZero);
  EXPECT_EQ(create_link(kernel_, prog.fd.get(), -1).result, -EBADF)
      << "how clients ask whether perf links exist";
  EXPECT_EQ(open_uprobe(kernel_, "/no/such/file", 0).result, -ENOENT);
  EXPECT_EQ(open_uprobe(kernel_, "/tmp", 0).result, -EINVAL);
  EXPECT_EQ(open_uprobe(kernel_, "/proc/self/exe", 0, -1, -1).result, -EINVAL);
  EXPECT_EQ(open_uprobe(kernel_, "/proc/self/exe", uint64_t{1} << 60).result, -EINVAL);
  EXPECT_EQ(create_map(kernel_, BPF_MAP_TYPE_HASH, 0, 8, 16).result, -EINVAL);
  EXPECT_EQ(create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16, 0, "bad name").result, -EINVAL);
  EXPECT_EQ(load_program(kernel_, {}).result, -E2BIG);
  EXPECT_EQ(load_program(kernel_, kUsesMap).result, -EBADF);
  EXPECT_EQ(load_program(kernel_, kUsesMap, {{0, prog.fd.get()}}).result, -EINVAL);
  const BpfReply light = load_program(kernel_, kReturnZero, {}, BPF_PROG_TYPE_SYSCALL);
  EXPECT_EQ(light.result, -EINVAL) << "the loader program of a light skeleton";
  EXPECT_NE(light.text.find("light skeletons"), std::string::npos) << light.text;
  Call unknown;
  EXPECT_EQ(unknown.run(kernel_, 9999).result, -EINVAL);
  Call trailing;
  trailing.attr.map_type = BPF_MAP_TYPE_ARRAY;
  std::memset(reinterpret_cast<char*>(&trailing.attr) + sizeof trailing.attr - 1, 1, 1);
  EXPECT_EQ(trailing.run(kernel_, BPF_MAP_CREATE).result, -EINVAL);
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  BpfReply filter = load_program(kernel_, kReturnZero, {}, BPF_PROG_TYPE_SOCKET_FILTER);
  EXPECT_EQ(create_link(kernel_, filter.fd.get(), event.fd.get()).result, -EINVAL);
  EXPECT_EQ(kernel_.perf_ioctl(event.fd.get(), PERF_EVENT_IOC_SET_BPF, 0, prog.fd.get()).result, 0);
  EXPECT_EQ(kernel_.perf_ioctl(event.fd.get(), PERF_EVENT_IOC_SET_BPF, 0, prog.fd.get()).result, -EEXIST);
}

TEST_F(KernelTest, ProgramInfoTellsOfItsCode) {
  constexpr uint32_t kNested = 0x10000;
  BpfReply prog = load_program(kernel_, kReturnZero);
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  const auto ask = [&](std::map<uint32_t, std::vector<uint8_t>>& out) {
    Call call;
    call.attr.info.info_len = sizeof(bpf_prog_info);
    call.in[offsetof(bpf_attr, info.info)] = std::vector<uint8_t>(sizeof(bpf_prog_info));
    call.out_room[offsetof(bpf_attr, info.info)] = sizeof(bpf_prog_info);
    for (const size_t field : {offsetof(bpf_prog_info, jited_ksyms), offsetof(bpf_prog_info, prog_tags)})
      call.out_room[static_cast<uint32_t>(kNested + field)] = 8;
    call.out_room[kNested + offsetof(bpf_prog_info, jited_func_lens)] = 4;
    call.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, info.bpf_fd)}] = prog.fd.get();
    BpfReply reply = call.run(kernel_, BPF_OBJ_GET_INFO_BY_FD);
    EXPECT_EQ(reply.result, 0) << reply.text;
    for (auto& [offset, bytes] : reply.out) out[offset] = bytes;
    return *read_at<bpf_prog_info>(out[offsetof(bpf_attr, info.info)], 0);
  };
  std::map<uint32_t, std::vector<uint8_t>> out;
  EXPECT_EQ(ask(out).jited_prog_len, 0u) << "compiled when it is attached";
  ASSERT_GE(create_link(kernel_, prog.fd.get(), event.fd.get()).result, 0);
  const bpf_prog_info info = ask(out);
  EXPECT_EQ(info.nr_jited_ksyms, 1u);
  EXPECT_EQ(info.nr_jited_func_lens, 1u);
  EXPECT_EQ(info.nr_prog_tags, 1u);
  EXPECT_EQ(info.nr_jited_line_info, info.nr_line_info);
  const auto length = *read_at<uint32_t>(out[kNested + offsetof(bpf_prog_info, jited_func_lens)], 0);
  EXPECT_GT(length, 0u);
  EXPECT_LE(length, info.jited_prog_len);
  EXPECT_EQ(out[kNested + offsetof(bpf_prog_info, jited_ksyms)].size(), 8u);
  EXPECT_EQ(std::memcmp(out[kNested + offsetof(bpf_prog_info, prog_tags)].data(), info.tag, 8), 0);
}

TEST_F(KernelTest, RunsAreCountedWhileSomebodyWants) {
  Call wrong;
  wrong.attr.enable_stats.type = 1;
  EXPECT_EQ(wrong.run(kernel_, BPF_ENABLE_STATS).result, -EINVAL);
  Call trailing;
  std::memset(reinterpret_cast<char*>(&trailing.attr) + 4, 1, 1);
  EXPECT_EQ(trailing.run(kernel_, BPF_ENABLE_STATS).result, -EINVAL);
  BpfReply prog = load_program(kernel_, kReturnZero);
  ASSERT_EQ(prog.result, 0) << prog.text;
  const HitPlace place{7, 0x1000, 1, 3, false};
  EXPECT_FALSE(kernel_.counting());
  EXPECT_EQ(kernel_.hit_counter(place), 0u);

  BpfReply first = Call().run(kernel_, BPF_ENABLE_STATS), second = Call().run(kernel_, BPF_ENABLE_STATS);
  ASSERT_EQ(first.result, 0) << first.text;
  ASSERT_EQ(second.result, 0) << second.text;
  EXPECT_EQ(observer_.probe_changes, 1) << "the first changes every site, the second nothing";
  const uint64_t counter = kernel_.hit_counter(place);
  ASSERT_NE(counter, 0u);
  EXPECT_EQ(kernel_.hit_counter(place), counter) << "one place, one counter";
  EXPECT_NE(kernel_.hit_counter({8, 0x1000, 1, 3, false}), counter) << "another process";
  EXPECT_EQ(kernel_.hits_at(counter).runs, 0u);
  auto* word = reinterpret_cast<uint64_t*>(kernel_.hits_map()->memory.data() +
                                           (counter - kernel_.hits_map()->address));
  word[0] = 5, word[1] = 5, word[2] = 1000;  // as trampolines do
  EXPECT_EQ(kernel_.hits_at(counter).runs, 5u);
  EXPECT_GT(kernel_.hits_at(counter).ns, 0u);
  EXPECT_EQ(kernel_.hits_at(counter + (uint64_t{1} << 40)).runs, 0u) << "no counter";
  word[0] = 6, word[2] -= uint64_t{1} << 62;  // one runs now: it ends now
  EXPECT_EQ(kernel_.hits_at(counter).runs, 6u);

  first.fd.reset();
  settle(kernel_);
  EXPECT_TRUE(kernel_.counting());
  second.fd.reset();
  settle(kernel_);
  EXPECT_FALSE(kernel_.counting());
  EXPECT_EQ(observer_.probe_changes, 2);
  const auto& program = *kernel_.objects().all<Prog>(ObjectKind::kProgram)[0];
  EXPECT_EQ(kernel_.run_stats(program).runs, 6u) << "what was counted stays the program's";
  BpfReply again = Call().run(kernel_, BPF_ENABLE_STATS);
  EXPECT_EQ(kernel_.run_stats(program).runs, 6u);
  EXPECT_EQ(kernel_.hits_at(kernel_.hit_counter(place)).runs, 0u) << "a place begins anew";
}

TEST_F(KernelTest, FailedLinkLeavesNothing) {
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  BpfReply filter = load_program(kernel_, kReturnZero, {}, BPF_PROG_TYPE_SOCKET_FILTER);
  ASSERT_EQ(create_link(kernel_, filter.fd.get(), event.fd.get()).result, -EINVAL);
  EXPECT_EQ(objects(), 2u);
}

TEST_F(KernelTest, IdsAreWalkedInOrderAndTheTraceRingIsNotAmongThem) {
  BpfReply first = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  BpfReply second = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  std::vector<uint32_t> seen;
  Call call;
  for (;;) {
    BpfReply reply = call.run(kernel_, BPF_MAP_GET_NEXT_ID);
    if (reply.result < 0) {
      EXPECT_EQ(reply.result, -ENOENT);
      break;
    }
    bpf_attr attr{};
    std::memcpy(&attr, reply.out.at(0).bytes.data(), reply.out[0].bytes.size());
    seen.push_back(attr.next_id);
    call.attr.start_id = attr.next_id;
  }
  EXPECT_EQ(seen.size(), 2u);
  Call by_id;
  by_id.attr.map_id = seen[1];
  BpfReply opened = by_id.run(kernel_, BPF_MAP_GET_FD_BY_ID);
  ASSERT_EQ(opened.result, 0);
  EXPECT_EQ(*inode_of(opened.fd.get()), *inode_of(second.fd.get()));
  by_id.attr.map_id = kernel_.trace_ring()->id + 1000;
  EXPECT_EQ(by_id.run(kernel_, BPF_MAP_GET_FD_BY_ID).result, -ENOENT);
}

TEST_F(KernelTest, FrozenReadOnlyMapIsGivenToTargetsAsASealedCopy) {
  BpfReply reply = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG | BPF_F_MMAPABLE);
  ASSERT_EQ(reply.result, 0) << reply.text;
  auto map = std::static_pointer_cast<Map>(kernel_.objects().find_fd(reply.fd.get()));
  map->memory.data()[0] = 42;
  Call freeze;
  freeze.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd)}] = reply.fd.get();
  ASSERT_EQ(freeze.run(kernel_, BPF_MAP_FREEZE).result, 0);
  EXPECT_EQ(freeze.run(kernel_, BPF_MAP_FREEZE).result, -EPERM) << "as Linux: a frozen map cannot be written";
  ASSERT_TRUE(map->sealed.valid());
  map->memory.data()[0] = 43;  // whoever still can write does not reach the copy
  uint8_t first = 0;
  ASSERT_EQ(::pread(map->sealed.get(), &first, 1, 0), 1);
  EXPECT_EQ(first, 42);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, map->sealed.get(), 0), MAP_FAILED);
}

TEST_F(KernelTest, AWorkerThatStartsFromTheRecordsHasTheSameObjects) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0, "counts");
  BpfReply prog = load_program(kernel_, kUsesMap, {{0, map.fd.get()}});
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  const auto before = std::static_pointer_cast<Map>(kernel_.objects().find_fd(map.fd.get()));
  before->memory.data()[0] = 7;

  Remembering next_observer;
  Kernel next(next_observer, kWindow);
  for (auto& [key, record] : observer_.records) {
    auto recovered = next.recover(record, std::move(observer_.fds[key]));
    ASSERT_TRUE(recovered.ok()) << recovered.error().message;
  }
  ASSERT_TRUE(next.start().ok());
  EXPECT_EQ(next.objects().size(), kernel_.objects().size());
  const auto after = std::static_pointer_cast<Map>(next.objects().find_fd(map.fd.get()));
  ASSERT_TRUE(after);
  EXPECT_EQ(after->name, "counts");
  EXPECT_EQ(after->address, before->address);
  EXPECT_EQ(after->memory.data()[0], 7);
  ASSERT_EQ(next.probes().size(), 1u);
  EXPECT_EQ(next.probes()[0].programs[0].program->maps[0], after);
  // New maps do not land on recovered ones.
  BpfReply fresh = create_map(next, BPF_MAP_TYPE_ARRAY, 4, 8, 4);
  ASSERT_EQ(fresh.result, 0);
  EXPECT_GT(std::static_pointer_cast<Map>(next.objects().find_fd(fresh.fd.get()))->address, before->address);
}

TEST_F(KernelTest, RecordsCutShortAreRefused) {
  BpfReply prog = load_program(kernel_, kReturnZero);
  for (auto& [key, record] : observer_.records)
    for (size_t size = 0; size < record.size(); size += 7) {
      Remembering other;
      Kernel next(other, kWindow);
      std::vector<Fd> fds;
      fds.push_back(std::move(*observer_.fds[key][0].duplicate()));
      EXPECT_FALSE(next.recover(Bytes(record).first(size), std::move(fds)).ok());
    }
}

TEST_F(KernelTest, RecordsOfAnotherVersionAreDroppedNotMisread) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0, "counts");
  BpfReply prog = load_program(kernel_, kUsesMap, {{0, map.fd.get()}});
  ASSERT_EQ(prog.result, 0);
  Remembering next_observer;
  Kernel next(next_observer, kWindow);
  for (const auto& [key, record] : observer_.records)
    for (const RecordVersion version : {RecordVersion{wire::kAbiVersion - 1, kRecordLayout},
                                        RecordVersion{wire::kAbiVersion + 1, kRecordLayout},
                                        RecordVersion{wire::kAbiVersion, kRecordLayout + 1}}) {
      std::vector<uint8_t> other = record;
      std::memcpy(other.data(), &version, sizeof version);
      std::vector<Fd> fds;
      for (const Fd& fd : observer_.fds[key]) fds.push_back(std::move(*fd.duplicate()));
      const auto recovered = next.recover(other, std::move(fds));
      ASSERT_FALSE(recovered.ok());
      EXPECT_EQ(recovered.error().code, ESTALE);
      const std::string& why = recovered.error().message;
      EXPECT_NE(why.find("another version of bpftimed (" + std::to_string(version.abi) + "."),
                std::string::npos)
          << why;
      EXPECT_NE(why.find("start the tool"), std::string::npos) << why;
    }
  EXPECT_EQ(next.objects().size(), 0u);
}

// Layouts change here first: who reads a record of before would take one field for another.
TEST_F(KernelTest, AChangedRecordIsANewLayout) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0, "counts");
  BpfReply prog = load_program(kernel_, kUsesMap, {{0, map.fd.get()}});
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
  ASSERT_EQ(link.result, 0) << link.text;
  std::string sizes;
  for (const BpfReply* each : {&map, &prog, &event, &link}) {
    const auto object = kernel_.objects().find_fd(each->fd.get());
    size_t size = Kernel::serialize(*object).size();
    if (const auto* uprobe = dynamic_cast<const PerfEvent*>(object.get()))
      size -= uprobe->path.size() + uprobe->given.size() + uprobe->build_id.size();  // of wherever this runs
    if (const auto* program = dynamic_cast<const Prog*>(object.get()))
      size -= program->verified_by.size();  // whether the kernel could be asked
    sizes += std::to_string(size) + " ";
  }
  EXPECT_EQ(std::to_string(wire::kAbiVersion) + "." + std::to_string(kRecordLayout) + " " + sizes,
            "5.1 204 149 139 56 ")
      << "raise kRecordLayout (record.h), then write here what is measured";
}

// Every field differs from its default: one that is not written comes back as the default, and the bytes differ.
TEST(HostClassRecord, HoldsEveryField) {
  verifier::Argument argument{"a",
                              verifier::Argument::Kind::kBuffer,
                              4,
                              true,
                              verifier::Scalar::constant(5),
                              {1, 2},
                              1,
                              2,
                              false,
                              false,
                              3,
                              16,
                              true,
                              true,
                              4};
  verifier::View::Member member{
      "m", 8, 4, 2, true, true, true, verifier::View::Member::Gives::kBuffer, verifier::Scalar::constant(6),
      7,   8, 9};
  HostClass host;
  host.constraints = {"class",
                      {{"type", 64, {member, member}, "r.a"}},
                      true,
                      {argument},
                      true,
                      true,
                      {{1, 2}},
                      {{"f", 1, true, {argument}, argument, 2, 50, true}},
                      {{"g", 2, true, 3}},
                      {36},
                      {58},
                      5000,
                      4096};
  host.symbols = {{"s", 8, 0x1000, 99}};
  host.result_in_xmm0 = host.at_system_call = true;
  host.host = "/bin/h";
  host.entry = {"entry", 1, 2, 3};
  host.build_id = "ab";
  host.shared_maps = {"map"};
  host.policy = "p.yaml";
  host.owner = "7@9";
  host.session = 11;
  host.check_promises = true;
  host.entry_place = "host.c:1";
  host.policy_place = "p.yaml:2";
  Writer first, second, empty;
  put_host_class(first, host);
  const std::vector<uint8_t> bytes = first.take();
  Reader in{ByteReader(bytes)};
  const HostClass again = get_host_class(in);
  EXPECT_TRUE(in.ok && in.bytes.at_end());
  EXPECT_EQ(again.constraints.functions[0].arguments[0].values, argument.values);
  EXPECT_EQ(again.constraints.views[0].members[1].number, member.number);
  EXPECT_EQ(again.constraints.views[0].members[1].bits, 9u);
  EXPECT_EQ(again.constraints.memory_below, 4096u);
  EXPECT_EQ(again.symbols[0].btf_id, 99u);
  EXPECT_EQ(again.session, 11u);
  put_host_class(second, again);
  EXPECT_EQ(second.take(), bytes);
  for (size_t size = 0; size < bytes.size(); size += 5) {
    Reader cut{ByteReader(Bytes(bytes).first(size))};
    (void)get_host_class(cut);
    EXPECT_FALSE(cut.ok) << size;
  }
}

// ---- perf rings ----

class PerfRingTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    wire::PerfEventOpen request{};
    perf_event_attr attr{};
    attr.type = PERF_TYPE_SOFTWARE;
    attr.config = PERF_COUNT_SW_BPF_OUTPUT;
    std::memcpy(request.attr, &attr, sizeof attr);
    request.pid = -1;
    request.cpu = 0;
    reply_ = kernel_.perf_event_open(request, "");
    ASSERT_EQ(reply_.result, 0) << reply_.text;
    event_ = std::static_pointer_cast<PerfEvent>(kernel_.objects().find_fd(reply_.fd.get()));
  }
  perf_event_mmap_page* page() { return reinterpret_cast<perf_event_mmap_page*>(event_->ring.data()); }

  BpfReply reply_;
  std::shared_ptr<PerfEvent> event_;
};

TEST_F(PerfRingTest, OnlyOnePlusPowerOfTwoPages) {
  EXPECT_EQ(kernel_.perf_mmap(reply_.fd.get(), 3 * 4096 + 4096).result, -EINVAL);
  EXPECT_EQ(kernel_.perf_mmap(reply_.fd.get(), 4096).result, -EINVAL);
  EXPECT_EQ(kernel_.perf_mmap(reply_.fd.get(), 0).result, -EINVAL);
  EXPECT_EQ(kernel_.perf_mmap(reply_.fd.get(), 4095).result, -EINVAL);
  EXPECT_EQ(kernel_.perf_mmap(reply_.fd.get(), 3 * 4096).result, 0);
  EXPECT_EQ(page()->data_size, 2u * 4096);
}

TEST_F(PerfRingTest, SamplesHaveTheFieldsAskedForBeforeTheData) {
  ASSERT_EQ(kernel_.perf_mmap(reply_.fd.get(), 2 * 4096).result, 0);
  event_->sample_type = PERF_SAMPLE_RAW | PERF_SAMPLE_TIME | PERF_SAMPLE_CPU;
  write_perf_sample(*event_, std::vector<uint8_t>(4, 7));
  const uint8_t* data = event_->ring.data() + 4096;
  const Bytes record(data, static_cast<size_t>(page()->data_head));
  ASSERT_EQ(record.size(), 8u + 8 + 8 + 8);
  EXPECT_NE(*read_at<uint64_t>(record, 8), 0u) << "time";
  EXPECT_EQ(*read_at<uint32_t>(record, 16), static_cast<uint32_t>(event_->cpu));
  EXPECT_EQ(*read_at<uint32_t>(record, 24), 4u) << "size of the data";
  EXPECT_EQ(record[28], 7);
}

TEST_F(PerfRingTest, FullRingCountsWhatItLosesAndSaysSo) {
  ASSERT_EQ(kernel_.perf_mmap(reply_.fd.get(), 2 * 4096).result, 0);
  const std::vector<uint8_t> data(100, 1);
  for (int i = 0; i < 100; ++i) write_perf_sample(*event_, data);
  const uint64_t record = sizeof(perf_event_header) + 8 * ((100 + 4 + 7) / 8);
  const uint64_t kept = 4096 / record;
  EXPECT_EQ(page()->data_head, kept * record);
  EXPECT_EQ(event_->lost, 100 - kept);
  page()->data_tail = page()->data_head;
  write_perf_sample(*event_, data);
  const auto* header =
      reinterpret_cast<perf_event_header*>(event_->ring.data() + 4096 + kept * record % 4096);
  EXPECT_EQ(header->type, static_cast<uint32_t>(PERF_RECORD_LOST));
  EXPECT_EQ(event_->lost, 0u);
}

TEST_F(PerfRingTest, PositionsTheClientMadeUpStayInside) {
  ASSERT_EQ(kernel_.perf_mmap(reply_.fd.get(), 2 * 4096).result, 0);
  const std::vector<uint8_t> data(100, 1);
  for (uint64_t tail : {UINT64_MAX, uint64_t{1} << 63, uint64_t{12345}}) {
    for (uint64_t head : {UINT64_MAX - 8, uint64_t{3}, tail}) {
      page()->data_tail = tail;
      page()->data_head = head;
      write_perf_sample(*event_, data);  // under AddressSanitizer and with guard pages: no access outside
    }
  }
}

}  // namespace
}  // namespace bpftime::kernel
