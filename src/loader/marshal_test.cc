#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "loader/bpf_marshal.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

uint64_t address_of(const void* memory) { return reinterpret_cast<uint64_t>(memory); }

// Two pages, the second not mapped: an address just before it faults when read across.
struct GuardedPage {
  uint8_t* page = static_cast<uint8_t*>(
      ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  GuardedPage() { ::munmap(page + 4096, 4096); }
  ~GuardedPage() { ::munmap(page, 4096); }
};

// attr as bytes, fields by offset: newer fields than the build machine's header has can be set too.
struct Attr {
  alignas(8) uint8_t bytes[168] = {};
  template <typename T>
  Attr& set(size_t offset, T value) {
    std::memcpy(bytes + offset, &value, sizeof(value));
    return *this;
  }
  template <typename T>
  T get(size_t offset) const {
    T value;
    std::memcpy(&value, bytes + offset, sizeof(value));
    return value;
  }
};

class Marshal : public testing::Test {
 protected:
  // fds 3..9 are open; 3: a hash map (key 4, value 8), 4: a program, 5: BTF, 6: a perf event array, 7: a
  // link, 8: per-CPU.
  FdFacts facts(int fd) const {
    FdFacts out;
    out.open = fd >= 3 && fd <= 500;
    if (fd == 3) out.kind = wire::ObjectKind::kMap, out.spec = {BPF_MAP_TYPE_HASH, 4, 8, 10, 0, 2};
    if (fd == 4) out.kind = wire::ObjectKind::kProgram;
    if (fd == 5) out.kind = wire::ObjectKind::kBtf;
    if (fd == 6) out.kind = wire::ObjectKind::kMap, out.spec = {BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2, 0, 2};
    if (fd == 7) out.kind = wire::ObjectKind::kLink;
    if (fd == 8) out.kind = wire::ObjectKind::kMap, out.spec = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 12, 2, 0, 3};
    return out;
  }
  Result<MarshalledCall> make(uint32_t command, const Attr& attr, uint32_t size = sizeof(Attr::bytes)) {
    return MarshalledCall::make(command, address_of(attr.bytes), size, [this](int fd) { return facts(fd); });
  }
  // Marshals and decodes as the daemon would.
  void round_trip(uint32_t command, const Attr& attr, uint32_t size = sizeof(Attr::bytes)) {
    auto made = make(command, attr, size);
    ASSERT_TRUE(made.ok()) << made.error().message;
    call.emplace(std::move(*made));
    body = call->body();
    auto decoded = wire::decode_bpf_call(body, call->fds().size());
    ASSERT_TRUE(decoded.ok()) << decoded.error().message;
    view.emplace(std::move(*decoded));
    EXPECT_EQ(view->command(), command);
    EXPECT_EQ(view->attr_size(), size);
    EXPECT_EQ(std::memcmp(view->attr_bytes().data(), attr.bytes, size), 0);
  }
  // The descriptor number sent for a place; -1: none.
  int fd_at(wire::FdPlace place, uint32_t offset) {
    const auto index = view->fd_index(place, offset);
    return index ? call->fds()[*index] : -1;
  }
  int attr_fd(uint32_t offset) { return fd_at(wire::FdPlace::kAttr, offset); }
  std::string blob(uint32_t offset) {
    const auto* found = view->blob(offset);
    return found == nullptr ? "(none)" : std::string(found->bytes.begin(), found->bytes.end());
  }
  uint32_t room(uint32_t offset) {
    const auto* found = view->blob(offset);
    return found == nullptr ? 0 : found->out_length;
  }
  int error_of(uint32_t command, const Attr& attr, uint32_t size = sizeof(Attr::bytes)) {
    auto made = make(command, attr, size);
    return made.ok() ? 0 : made.error().code;
  }

  std::optional<MarshalledCall> call;
  std::vector<uint8_t> body;
  std::optional<wire::BpfCallView> view;
  char buffer[64] = "0123456789abcdef";
};

TEST_F(Marshal, MapCreate) {
  round_trip(BPF_MAP_CREATE, Attr().set<uint32_t>(0, BPF_MAP_TYPE_ARRAY_OF_MAPS).set(20, 3).set(48, 5));
  EXPECT_EQ(attr_fd(20), 3);
  EXPECT_EQ(attr_fd(48), 5);
  round_trip(BPF_MAP_CREATE, Attr().set(20, 0).set(48, -1));
  EXPECT_TRUE(call->fds().empty());
}

TEST_F(Marshal, ProgramLoad) {
  struct bpf_insn code[] = {
      {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 3},
      {},
      {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, 6},
      {},
      {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_IDX, 0, 2},
      {},
      {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 3},
      {},
      {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_BTF_ID, 0, 77},
      {0, 0, 0, 0, 5},
      {BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 1, 99},
      {BPF_LD | BPF_IMM | BPF_DW, 1, 0, 0, 4},
      {0, 0, 0, 0, 4},  // a plain constant that looks like a descriptor
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  const int32_t fds[] = {111, 5, 8};
  char log[100];
  Attr attr;
  attr.set<uint32_t>(0, BPF_PROG_TYPE_KPROBE).set<uint32_t>(4, std::size(code)).set(8, address_of(code));
  attr.set(16, address_of("GPL"))
      .set<uint32_t>(24, 1)
      .set<uint32_t>(28, sizeof(log))
      .set(32, address_of(log));
  attr.set(72, 5).set<uint32_t>(76, 8).set(80, address_of(buffer)).set<uint32_t>(88, 2);  // func_info
  attr.set<uint32_t>(92, 16).set(96, address_of(buffer)).set<uint32_t>(104, 1);           // line_info
  attr.set(120, address_of(fds));
  round_trip(BPF_PROG_LOAD, attr);
  EXPECT_EQ(view->blob(8)->bytes.size(), sizeof(code));
  EXPECT_EQ(blob(16), std::string("GPL\0", 4));
  EXPECT_EQ(room(32), 100u);
  EXPECT_EQ(blob(80), "0123456789abcdef");
  EXPECT_EQ(blob(96), "0123456789abcdef");
  EXPECT_EQ(blob(128), "(none)");
  EXPECT_EQ(attr_fd(72), 5);
  EXPECT_EQ(attr_fd(112), -1);
  using P = wire::FdPlace;
  EXPECT_EQ(fd_at(P::kInstruction, 0), 3);
  EXPECT_EQ(fd_at(P::kInstruction, 2), 6);
  EXPECT_EQ(fd_at(P::kInstruction, 6), 3);
  EXPECT_EQ(fd_at(P::kInstruction, 9), 5);
  EXPECT_EQ(fd_at(P::kInstruction, 11), -1);
  EXPECT_EQ(fd_at(P::kFdArray, 2), 8);
  EXPECT_EQ(fd_at(P::kFdArray, 1), 5);
  EXPECT_EQ(fd_at(P::kFdArray, 0), -1);
  EXPECT_EQ(call->fds().size(), 4u);  // each once
  // A short attr (as old libbpf sends) is taken as it is.
  round_trip(BPF_PROG_LOAD, attr, 48);
  EXPECT_EQ(blob(80), "(none)");
  EXPECT_EQ(attr_fd(72), -1);
  // What the kernel calls too much.
  EXPECT_EQ(error_of(BPF_PROG_LOAD, Attr(attr).set<uint32_t>(4, 1000001)), E2BIG);
  EXPECT_EQ(error_of(BPF_PROG_LOAD, Attr(attr).set<uint32_t>(76, 0xffffffff)), E2BIG);
  // Bad memory, pointer by pointer.
  for (const size_t pointer : {8, 16, 80, 96, 120})
    EXPECT_EQ(error_of(BPF_PROG_LOAD, Attr(attr).set<uint64_t>(pointer, 0x10)), EFAULT) << pointer;
  // The log buffer is only written: a bad one is found when there is something to say.
  round_trip(BPF_PROG_LOAD, Attr(attr).set<uint64_t>(32, 0x10));
  wire::ReplyBuilder reply(-EACCES);
  reply.add_blob(32, Bytes(reinterpret_cast<const uint8_t*>("log"), 4));
  auto stored = call->store(reply.body());
  ASSERT_FALSE(stored.ok());
  EXPECT_EQ(stored.error().code, EFAULT);
}

TEST_F(Marshal, MoreDescriptorsThanAMessageCarries) {
  std::vector<struct bpf_insn> code;
  for (int i = 0; i < 251; ++i) {
    code.push_back({BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 10 + i});
    code.push_back({});
  }
  Attr attr;
  attr.set<uint32_t>(4, static_cast<uint32_t>(code.size())).set(8, address_of(code.data()));
  EXPECT_EQ(error_of(BPF_PROG_LOAD, attr), E2BIG);
  attr.set<uint32_t>(4, static_cast<uint32_t>(code.size() - 2));
  EXPECT_EQ(error_of(BPF_PROG_LOAD, attr), 0);
}

TEST_F(Marshal, AttrItself) {
  EXPECT_EQ(error_of(BPF_MAP_CREATE, Attr(), 0), 0);
  const auto lookup = [](int) { return FdFacts(); };
  GuardedPage guarded;
  const auto at = [&](uint64_t address, uint32_t size) {
    auto made = MarshalledCall::make(BPF_MAP_CREATE, address, size, lookup);
    return made.ok() ? 0 : made.error().code;
  };
  EXPECT_EQ(at(0, 72), EFAULT);
  EXPECT_EQ(at(address_of(guarded.page) + 4096 - 72, 72), 0);
  EXPECT_EQ(at(address_of(guarded.page) + 4096 - 71, 72), EFAULT);
  EXPECT_EQ(at(address_of(guarded.page), 4097), E2BIG);
  EXPECT_EQ(at(0xffffffffffffff00, 72), EFAULT);
}

TEST_F(Marshal, UnknownCommandsAreThoseOfAnOlderKernel) {
  for (const uint32_t command : {24u, 27u, 36u, 37u, 1000u, 0x10005u})
    EXPECT_EQ(error_of(command, Attr()), EINVAL);
  for (const uint32_t command : {0u, 11u, 23u, 30u, 32u, 35u})
    EXPECT_EQ(error_of(command, Attr()), 0) << command;
}

TEST_F(Marshal, ElementCommandsForTheDaemon) {
  const uint32_t cpu = 1;
  const int32_t event = 9;
  const Attr attr = Attr().set(0, 6).set(8, address_of(&cpu)).set(16, address_of(&event));
  round_trip(BPF_MAP_UPDATE_ELEM, attr);
  EXPECT_EQ(attr_fd(0), 6);
  EXPECT_EQ(blob(8), std::string("\1\0\0\0", 4));
  EXPECT_EQ(fd_at(wire::FdPlace::kValue, 0), 9);
  EXPECT_EQ(error_of(BPF_MAP_UPDATE_ELEM, Attr(attr).set<uint64_t>(16, 8)), EFAULT);
  EXPECT_EQ(error_of(BPF_MAP_UPDATE_ELEM, Attr(attr).set<uint64_t>(8, 8)), EFAULT);
  round_trip(BPF_MAP_LOOKUP_ELEM, Attr(attr).set(0, 8));
  EXPECT_EQ(room(16), 48u);  // three CPUs, 12 rounded to 16
  round_trip(BPF_MAP_GET_NEXT_KEY, Attr(attr).set(0, 3));
  EXPECT_EQ(room(16), 4u);
  round_trip(BPF_MAP_LOOKUP_ELEM, Attr(attr).set(0, 2));  // not open: the daemon says EBADF
  EXPECT_TRUE(call->fds().empty());
}

TEST_F(Marshal, ObjInfoOffersNestedBuffers) {
  alignas(8) uint8_t info[232] = {};
  char xlated[80];
  uint32_t ids[3];
  const auto put = [&](size_t offset, auto value) { std::memcpy(info + offset, &value, sizeof(value)); };
  put(20, uint32_t{80}), put(32, address_of(xlated)), put(52, uint32_t{3}), put(56, address_of(ids));
  const Attr attr = Attr().set(0, 4).set<uint32_t>(4, sizeof(info)).set(8, address_of(info));
  round_trip(BPF_OBJ_GET_INFO_BY_FD, attr);
  EXPECT_EQ(view->blob(8)->bytes.size(), sizeof(info));
  EXPECT_EQ(room(8), sizeof(info));
  EXPECT_EQ(room(wire::kNestedPointer + 32), 80u);
  EXPECT_EQ(room(wire::kNestedPointer + 56), 12u);
  EXPECT_EQ(view->blob(wire::kNestedPointer + 24), nullptr);

  wire::ReplyBuilder reply(0);
  const uint32_t two_ids[] = {7, 8};
  reply.add_blob(wire::kNestedPointer + 56, Bytes(reinterpret_cast<const uint8_t*>(two_ids), 8));
  reply.add_blob(8, Bytes(reinterpret_cast<const uint8_t*>("\5\0\0\0"), 4));
  ASSERT_TRUE(call->store(reply.body()).ok());
  EXPECT_EQ(ids[0], 7u);
  EXPECT_EQ(ids[1], 8u);
  EXPECT_EQ(info[0], 5);

  // A map's info holds no pointers: the same bytes offer nothing.
  round_trip(BPF_OBJ_GET_INFO_BY_FD, Attr(attr).set(0, 3));
  EXPECT_EQ(view->blob(wire::kNestedPointer + 32), nullptr);
  put(16, address_of(xlated)), put(24, uint32_t{10});
  round_trip(BPF_OBJ_GET_INFO_BY_FD, Attr(attr).set(0, 7));
  EXPECT_EQ(room(wire::kNestedPointer + 16), 10u);
  EXPECT_EQ(error_of(BPF_OBJ_GET_INFO_BY_FD, Attr(attr).set<uint32_t>(4, 5000)), E2BIG);
}

TEST_F(Marshal, LinkCreate) {
  round_trip(BPF_LINK_CREATE, Attr().set(0, 4).set(4, 9).set<uint32_t>(8, 41).set<uint64_t>(16, 0x1234));
  EXPECT_EQ(attr_fd(0), 4);
  EXPECT_EQ(attr_fd(4), 9);
  EXPECT_EQ(view->field<uint64_t>(16), 0x1234u);  // the cookie is no pointer
  round_trip(BPF_LINK_CREATE, Attr().set(0, 4).set(4, -1).set<uint32_t>(8, 41));
  EXPECT_EQ(attr_fd(4), -1);
  const uint64_t offsets[] = {1, 2};
  const Attr multi = Attr()
                         .set(0, 4)
                         .set<uint32_t>(8, 48)
                         .set(16, address_of("/bin/x"))
                         .set(24, address_of(offsets))
                         .set<uint32_t>(48, 2);
  round_trip(BPF_LINK_CREATE, multi);
  EXPECT_EQ(blob(16), std::string("/bin/x\0", 7));
  EXPECT_EQ(view->blob(24)->bytes.size(), 16u);
  EXPECT_EQ(error_of(BPF_LINK_CREATE, Attr(multi).set<uint64_t>(16, 1)), EFAULT);
}

TEST_F(Marshal, TheOtherCommandsWithPointers) {
  round_trip(BPF_BTF_LOAD, Attr()
                               .set(0, address_of(buffer))
                               .set(8, address_of(buffer))
                               .set<uint32_t>(16, 10)
                               .set<uint32_t>(20, 30));
  EXPECT_EQ(blob(0), "0123456789");
  EXPECT_EQ(room(8), 30u);
  round_trip(BPF_PROG_TEST_RUN, Attr()
                                    .set(0, 4)
                                    .set<uint32_t>(8, 4)
                                    .set<uint32_t>(12, 6)
                                    .set(16, address_of(buffer))
                                    .set(24, address_of(buffer)));
  EXPECT_EQ(blob(16), "0123");
  EXPECT_EQ(room(24), 6u);
  EXPECT_EQ(blob(48), "(none)");
  round_trip(BPF_RAW_TRACEPOINT_OPEN, Attr().set(0, address_of("sys_enter")).set(8, 4));
  EXPECT_EQ(blob(0), std::string("sys_enter\0", 10));
  EXPECT_EQ(attr_fd(8), 4);
  round_trip(BPF_OBJ_PIN, Attr().set(0, address_of("pin")).set(8, 3));
  char directory[4096];
  ASSERT_NE(::getcwd(directory, sizeof(directory)), nullptr);
  EXPECT_EQ(blob(0), std::string(directory) + "/pin" + '\0');
  EXPECT_EQ(attr_fd(8), 3);
  round_trip(BPF_PROG_BIND_MAP, Attr().set(0, 4).set(4, 3));
  EXPECT_EQ(attr_fd(0), 4);
  EXPECT_EQ(attr_fd(4), 3);
  round_trip(BPF_LINK_UPDATE, Attr().set(0, 7).set(4, 4).set(12, 9));
  EXPECT_EQ(attr_fd(0), 7);
  EXPECT_EQ(attr_fd(4), 4);
  EXPECT_EQ(attr_fd(12), 9);
  for (const uint32_t command : {22u, 33u, 34u}) {
    round_trip(command, Attr().set(0, 7));
    EXPECT_EQ(attr_fd(0), 7) << command;
  }
  for (const uint32_t command : {11u, 12u, 13u, 14u, 19u, 23u, 30u, 31u, 32u}) {
    round_trip(command, Attr().set(0, 7));
    EXPECT_TRUE(call->fds().empty()) << command;
  }
}

TEST_F(Marshal, RepliesThatOfferMoreThanAskedAreRefusedWhole) {
  Attr attr = Attr()
                  .set(0, address_of(buffer))
                  .set(8, address_of(buffer + 16))
                  .set<uint32_t>(16, 10)
                  .set<uint32_t>(20, 4);
  round_trip(BPF_BTF_LOAD, attr);
  const uint8_t bytes[8] = {9, 9, 9, 9, 9, 9, 9, 9};
  for (const auto& [offset, size] : std::map<uint32_t, size_t>{{8, 5}, {0, 1}, {wire::kNestedPointer, 1}}) {
    wire::ReplyBuilder reply(0);
    reply.add_blob(offset, Bytes(bytes, size));
    auto stored = call->store(reply.body());
    ASSERT_FALSE(stored.ok()) << offset;
    EXPECT_EQ(stored.error().code, EPROTO);
  }
  EXPECT_EQ(buffer[16], 0);
  wire::ReplyBuilder reply(0);
  reply.add_blob(8, Bytes(bytes, 4));
  reply.store_attr(Bytes(bytes, 8));
  ASSERT_TRUE(call->store(reply.body()).ok());
  EXPECT_EQ(buffer[19], 9);
  EXPECT_EQ(buffer[20], 0);
  EXPECT_EQ(attr.get<uint64_t>(0), 0x0909090909090909u);
  EXPECT_EQ(attr.get<uint64_t>(8), address_of(buffer + 16));
}

TEST(UserMemory, StringsEndAtUnmappedPages) {
  GuardedPage guarded;
  std::memcpy(guarded.page + 4096 - 4, "abc", 4);
  const uint64_t at = address_of(guarded.page) + 4096 - 4;
  EXPECT_EQ(read_user_string(at, 100), "abc");
  EXPECT_EQ(read_user_string(at, 2), "ab");
  guarded.page[4095] = 'd';
  EXPECT_EQ(read_user_string(at, 100), std::nullopt);
  EXPECT_EQ(read_user_string(0, 100), std::nullopt);
}

}  // namespace
}  // namespace bpftime::loader
