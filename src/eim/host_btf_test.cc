// The host's BTF, asked by those who will: libbpf, and the running kernel as a judge of its form.
#include "eim/host_btf.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdarg>
#include <filesystem>
#include <fstream>

#include "eim/testing/fixture.h"

namespace bpftime::eim {
namespace {

using ::testing::HasSubstr;
using testing::manifest_of;

constexpr char kKernelBtf[] = "/sys/kernel/btf/vmlinux";
constexpr const char* kHosts[] = {"host",        "host_other", "host_clang", "host_dwarf4",
                                  "described.o", "shop",       "shop_clang"};

std::string write_temporary(const std::vector<uint8_t>& bytes) {
  const std::string path = "/tmp/bpftime-host-btf-" + std::to_string(::getpid());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return path;
}

TEST(HostBtf, SplitOnTheKernelsItIsWhatLibbpfFinds) {
  const std::vector<uint8_t> kernel = testing::read_bytes(kKernelBtf);
  if (kernel.empty()) GTEST_SKIP() << "no " << kKernelBtf;
  const auto base = btf_base_of(kernel);
  ASSERT_TRUE(base.ok()) << base.error().message;
  btf* vmlinux = btf__parse(kKernelBtf, nullptr);
  ASSERT_NE(vmlinux, nullptr);
  EXPECT_EQ(base->types, btf__type_cnt(vmlinux));
  for (const char* name : kHosts) {
    const Manifest manifest = manifest_of(name);
    const auto host = make_host_btf(manifest, *base);
    ASSERT_TRUE(host.ok()) << host.error().message;
    const std::string path = write_temporary(host->blob);
    btf* split = btf__parse_raw_split(path.c_str(), vmlinux);
    std::filesystem::remove(path);
    ASSERT_NE(split, nullptr) << name;
    for (const auto& [function, id] : host->functions)
      EXPECT_EQ(btf__find_by_name_kind(split, host_name(function).c_str(), BTF_KIND_FUNC),
                static_cast<int>(id))
          << function;
    for (const auto& [variable, id] : host->variables)
      EXPECT_EQ(btf__find_by_name_kind(split, host_name(variable).c_str(), BTF_KIND_VAR),
                static_cast<int>(id))
          << variable;
    if (!host->variables.empty()) {
      EXPECT_GT(btf__find_by_name_kind(split, kHostDataSection, BTF_KIND_DATASEC), 0);
    }
    if (manifest.types.find("struct request") != 0) {
      // The kernel has a struct request of its own; ours is another.
      const int id = btf__find_by_name_kind(split, "host__request", BTF_KIND_STRUCT);
      ASSERT_GE(id, static_cast<int>(base->types));
      EXPECT_EQ(btf__type_by_id(split, static_cast<uint32_t>(id))->size,
                manifest.types.at(manifest.types.find("struct request")).size);
    }
    btf__free(split);
  }
  btf__free(vmlinux);
}

TEST(HostBtf, TheKernelTakesItsForm) {
  for (const char* name : kHosts) {
    const auto host = make_host_btf(manifest_of(name), {});
    ASSERT_TRUE(host.ok());
    EXPECT_TRUE(program::read_btf(host->blob).ok()) << name;
    std::string log(65536, '\0');
    LIBBPF_OPTS(bpf_btf_load_opts, options, .log_buf = log.data(), .log_level = 1,
                .log_size = static_cast<uint32_t>(log.size()));
    const int fd = ::bpf_btf_load(host->blob.data(), host->blob.size(), &options);
    if (fd == -EPERM || fd == -ENOSYS) GTEST_SKIP() << "no bpf(2) here";
    EXPECT_GE(fd, 0) << name << ": " << log.c_str();
    if (fd >= 0) ::close(fd);
  }
}

TEST(HostBtf, DamagedKernelBtf) {
  std::vector<uint8_t> blob = make_host_btf(manifest_of("host"), {})->blob;
  EXPECT_TRUE(btf_base_of(blob).ok());
  for (size_t size = 0; size < blob.size(); size += 7) (void)btf_base_of(Bytes(blob).first(size));
  EXPECT_FALSE(btf_base_of({}).ok());
  blob[0] = 0;
  EXPECT_FALSE(btf_base_of(blob).ok());
}

std::string g_libbpf_said;
int listen(libbpf_print_level, const char* format, va_list arguments) {
  char line[1024];
  std::vsnprintf(line, sizeof(line), format, arguments);
  g_libbpf_said += line;
  return 0;
}

// One extension object, two builds of the host with different layouts: libbpf's relocations find both.
TEST(HostBtf, OneExtensionServesTwoLayouts) {
  const char* clang = std::getenv("BPFTIME_CLANG");
  if (clang == nullptr) GTEST_SKIP() << "BPFTIME_CLANG is not set: run by ctest";
  namespace fs = std::filesystem;
  char directory[] = "/tmp/bpftime-host-btf-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  const std::string base = directory;
  std::ofstream(base + "/host.ext.h") << host_header(manifest_of("host"), "");
  std::ofstream(base + "/x.bpf.c") << R"(#include "host.ext.h"
host__processBegin(fields) { return r && r->status == 1 && r->uri.len > 3 && r->headers.first.value.len; }
char LICENSE[] SEC("license") = "GPL";
)";
  ASSERT_EQ(std::system((std::string(clang) +
                         " -target bpf -I/usr/include/x86_64-linux-gnu -Wall -Werror -O2 -g -c " + base +
                         "/x.bpf.c -o " + base + "/x.bpf.o")
                            .c_str()),
            0);
  bool allowed = true;
  for (const auto& [name, shift] : {std::pair<const char*, int>{"host", 0}, {"host_other", 24}}) {
    const auto host = make_host_btf(manifest_of(name), {});
    const std::string path = base + "/" + name + ".btf";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(host->blob.data()),
               static_cast<std::streamsize>(host->blob.size()));
    g_libbpf_said.clear();
    libbpf_set_print(listen);
    LIBBPF_OPTS(bpf_object_open_opts, options, .btf_custom_path = path.c_str());
    bpf_object* object = bpf_object__open_file((base + "/x.bpf.o").c_str(), &options);
    ASSERT_NE(object, nullptr) << g_libbpf_said;
    (void)bpf_object__load(
        object);  // the kernel itself knows no typed entries: only what libbpf makes of the fields counts
    bpf_object__close(object);
    if (g_libbpf_said.find("relo #") == std::string::npos) {
      allowed = false;
      break;
    }
    for (const int offset : {0, 8, 128}) {
      EXPECT_THAT(g_libbpf_said,
                  HasSubstr("off " + std::to_string(offset) + " -> " + std::to_string(offset + shift)))
          << name;
    }
    EXPECT_EQ(g_libbpf_said.find("no matching targets"), std::string::npos) << name;
  }
  libbpf_set_print(nullptr);
  fs::remove_all(base);
  if (!allowed) GTEST_SKIP() << "libbpf relocates nothing without bpf(2)";
}

}  // namespace
}  // namespace bpftime::eim
