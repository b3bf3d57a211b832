// Pinned objects: each answer as the kernel's bpf file system gives it, names as files, and who lives how long.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <filesystem>

#include "kernel/testing.h"

namespace bpftime::kernel {
namespace {

constexpr uint64_t kWindow = 0x400000000000;
constexpr char kReal[] = "/sys/fs/bpf";

int64_t pin(Kernel& kernel, const std::string& path, int fd, uint32_t flags = 0) {
  Call call;
  call.in[offsetof(bpf_attr, pathname)] = {path.c_str(), path.c_str() + path.size() + 1};
  call.attr.bpf_fd = static_cast<uint32_t>(fd);
  call.attr.file_flags = flags;
  if (fd >= 0) call.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, bpf_fd)}] = fd;
  return call.run(kernel, BPF_OBJ_PIN).result;
}
BpfReply get(Kernel& kernel, const std::string& path, uint32_t flags = 0) {
  Call call;
  call.in[offsetof(bpf_attr, pathname)] = {path.c_str(), path.c_str() + path.size() + 1};
  call.attr.file_flags = flags;
  return call.run(kernel, BPF_OBJ_GET);
}
int64_t real_call(int command, const std::string& path, int fd, uint32_t flags = 0) {
  union bpf_attr attr = {};
  attr.pathname = reinterpret_cast<uint64_t>(path.c_str());
  attr.bpf_fd = static_cast<uint32_t>(fd);
  attr.file_flags = flags;
  const long result = ::syscall(SYS_bpf, command, &attr, sizeof attr);
  if (result > 0) ::close(static_cast<int>(result));
  return result < 0 ? -errno : 0;
}

class Pins : public ::testing::Test {
 protected:
  Pins() : kernel_(observer_, kWindow) {}
  void SetUp() override {
    ASSERT_TRUE(kernel_.start().ok());
    char path[] = "/tmp/pins_testXXXXXX";
    ASSERT_NE(::mkdtemp(path), nullptr);
    directory_ = path;
    root_ = directory_ + "/bpffs";
    ASSERT_TRUE(kernel_.set_pin_root(root_).ok());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  size_t maps() {
    settle(kernel_);
    return kernel_.objects().all<Map>(ObjectKind::kMap).size() - 1;  // without the trace ring
  }

  std::string directory_, root_;
  Remembering observer_;
  Kernel kernel_;
};

TEST_F(Pins, AnswersEqualTheKernels) {
  struct statfs fs {};
  if (::statfs(kReal, &fs) != 0 || fs.f_type != 0xcafe4a11L) GTEST_SKIP() << "no bpf file system is mounted";
  union bpf_attr attr = {};
  attr.map_type = BPF_MAP_TYPE_ARRAY;
  attr.key_size = 4;
  attr.value_size = 8;
  attr.max_entries = 1;
  const Fd theirs(static_cast<int>(::syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr)));
  if (!theirs) GTEST_SKIP() << "bpf(2) is not usable here";
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_ARRAY, 4, 8, 1);
  const Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const std::string own = "/bpftime_pins_test_" + std::to_string(::getpid());
  ASSERT_EQ(::mkdir((kReal + own).c_str(), 0700), 0) << std::strerror(errno);
  ASSERT_EQ(::mkdir((root_ + own).c_str(), 0700), 0);
  const std::string deep = own + "/" + std::string(255, 'n'), deeper = own + "/" + std::string(256, 'n');
  const std::string in = kReal;
  for (int round = 0; round < 2; ++round) {
    for (const std::string& path :
         {in + own + "/one", in + own + "/one", in + own, in, in + "/", in + own + "/no/such",
          in + own + "/with.dot", in + own + "//two", in + own + "/./three", in + own + "/one/below",
          in + deep, in + deeper, std::string("/tmp/pins_test_none"), std::string("/tmp"),
          std::string("/nowhere/at/all"), std::string("/proc/self/exe/x"), std::string()}) {
      for (const uint32_t flags : {0u, 1u, uint32_t{BPF_F_RDONLY}, 1u << 13}) {
        EXPECT_EQ(pin(kernel_, path, map.fd.get(), flags), real_call(BPF_OBJ_PIN, path, theirs.get(), flags))
            << "pin " << path << " flags " << flags;
      }
      EXPECT_EQ(pin(kernel_, path, -1), real_call(BPF_OBJ_PIN, path, -1)) << "pin nothing " << path;
      EXPECT_EQ(pin(kernel_, path, file.get()), real_call(BPF_OBJ_PIN, path, file.get())) << path;
      for (const uint32_t flags : {0u, 1u, uint32_t{BPF_F_RDONLY}, uint32_t{BPF_F_WRONLY},
                                   uint32_t{BPF_F_RDONLY | BPF_F_WRONLY}, 1u << 13}) {
        EXPECT_EQ(get(kernel_, path, flags).result, real_call(BPF_OBJ_GET, path, 0, flags))
            << "get " << path << " flags " << flags;
      }
    }
  }
  std::filesystem::remove_all(kReal + own);
}

TEST_F(Pins, ANameKeepsItsObjectUntilItIsUnlinked) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  const auto inode = inode_of(map.fd.get());
  ASSERT_EQ(pin(kernel_, "/sys/fs/bpf/kept", map.fd.get()), 0);
  map.fd.reset();
  EXPECT_EQ(maps(), 1u);
  {
    BpfReply again = get(kernel_, "/sys/fs/bpf/kept", BPF_F_RDONLY);
    ASSERT_EQ(again.result, 0) << again.text;
    EXPECT_EQ(*inode_of(again.fd.get()), *inode);
    EXPECT_EQ(::fcntl(again.fd.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  }
  // Another name is the same object.
  ASSERT_EQ(::rename((root_ + "/kept").c_str(), (root_ + "/moved").c_str()), 0);
  EXPECT_EQ(maps(), 1u);
  EXPECT_EQ(get(kernel_, "/sys/fs/bpf/kept").result, -ENOENT);
  EXPECT_EQ(get(kernel_, "/sys/fs/bpf/moved").result, 0);
  ASSERT_EQ(::unlink((root_ + "/moved").c_str()), 0);
  EXPECT_EQ(maps(), 0u);
  EXPECT_EQ(get(kernel_, "/sys/fs/bpf/moved").result, -ENOENT);
}

TEST_F(Pins, LinksProgramsAndMapsButNothingElse) {
  BpfReply prog = load_program(kernel_, kReturnZero);
  BpfReply event = open_uprobe(kernel_, "/proc/self/exe", 0x1000);
  BpfReply link = create_link(kernel_, prog.fd.get(), event.fd.get());
  EXPECT_EQ(pin(kernel_, "/sys/fs/bpf/event", event.fd.get()), -EINVAL);
  EXPECT_EQ(pin(kernel_, "/sys/fs/bpf/prog", prog.fd.get()), 0);
  EXPECT_EQ(pin(kernel_, "/sys/fs/bpf/link", link.fd.get()), 0);
  EXPECT_EQ(get(kernel_, "/sys/fs/bpf/link", BPF_F_RDONLY).result, -EINVAL);
  prog.fd.reset();
  event.fd.reset();
  link.fd.reset();
  settle(kernel_);
  EXPECT_EQ(kernel_.probes().size(), 1u) << "a pinned link keeps its probe";
  ASSERT_EQ(::unlink((root_ + "/link").c_str()), 0);
  settle(kernel_);
  EXPECT_TRUE(kernel_.probes().empty());
}

TEST_F(Pins, SurviveAWorkerAndEndWithTheKeeper) {
  BpfReply map = create_map(kernel_, BPF_MAP_TYPE_HASH, 4, 8, 16);
  ASSERT_EQ(::mkdir((root_ + "/dir").c_str(), 0700), 0);
  ASSERT_EQ(pin(kernel_, "/sys/fs/bpf/dir/kept", map.fd.get()), 0);
  ASSERT_EQ(pin(kernel_, "/sys/fs/bpf/second", map.fd.get()), 0);
  map.fd.reset();
  {
    Remembering observer;
    Kernel next(observer, kWindow);
    for (auto& [key, record] : observer_.records) {
      std::vector<Fd> fds;
      for (const Fd& fd : observer_.fds[key]) fds.push_back(std::move(*fd.duplicate()));
      auto done = next.recover(record, std::move(fds));
      ASSERT_TRUE(done.ok()) << done.error().message;
    }
    ASSERT_TRUE(next.start().ok());
    ASSERT_TRUE(next.set_pin_root(root_).ok());
    next.objects().suspect_all();
    settle(next);
    EXPECT_EQ(get(next, "/sys/fs/bpf/dir/kept").result, 0);
    EXPECT_EQ(get(next, "/sys/fs/bpf/second").result, 0);
  }
  Remembering observer;
  Kernel fresh(observer, kWindow);
  ASSERT_TRUE(fresh.start().ok());
  ASSERT_TRUE(fresh.set_pin_root(root_).ok());
  EXPECT_EQ(get(fresh, "/sys/fs/bpf/dir/kept").result, -ENOENT);
  EXPECT_NE(::access((root_ + "/dir/kept").c_str(), F_OK), 0) << "no name without an object";
}

}  // namespace
}  // namespace bpftime::kernel
