#include "symbols/symbols.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "base/fd.h"
#include "symbols/elf_image.h"
#include "symbols/unwind.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace bpftime::symbols {
namespace {

Result<ElfFile> parse(const std::vector<uint8_t>& bytes) {
  Fd file(::memfd_create("elf", MFD_CLOEXEC));
  EXPECT_EQ(::write(file.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  return ElfFile::from_fd(file.get(), "test");
}

std::vector<uint8_t> contents(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(stream), {});
}

// The directories that build() made, removed at the end.
struct Directories {
  std::vector<std::string> paths;
  ~Directories() {
    for (const std::string& path : paths) std::filesystem::remove_all(path);
  }
} g_directories;

// Compiles in a directory of its own; empty when the tools are missing.
std::string build(const std::string& command, const std::string& source) {
  char directory[] = "/tmp/bpftime-symbols-XXXXXX";
  if (::mkdtemp(directory) == nullptr) return "";
  g_directories.paths.push_back(directory);
  std::ofstream(std::string(directory) + "/t.c") << source;
  const std::string line = "cd " + std::string(directory) + " && " + command + " >/dev/null 2>&1";
  return std::system(line.c_str()) == 0 ? std::string(directory) + "/t" : "";
}

constexpr char kSource[] =
    "#include <stdio.h>\n"
    "static __attribute__((noinline)) int hidden(int x) { return printf(\"%d\", x) + 1; }\n"
    "int shown(int x) { return hidden(x) * 2; }\n"
    "int main(int argc, char **argv) { (void)argv; return shown(argc) & 0; }\n";

TEST(ElfFile, AgreesWithTheLoaderAboutLibc) {
  Dl_info info;
  // By handle: a sanitizer puts its own functions before libc's.
  void* libc = ::dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(libc, nullptr);
  void* function = ::dlsym(libc, "qsort");
  ASSERT_NE(::dladdr(function, &info), 0);
  auto elf = ElfFile::open(info.dli_fname);
  ASSERT_TRUE(elf.ok()) << elf.error().message;
  const auto base = reinterpret_cast<uint64_t>(info.dli_fbase);
  for (const char* name : {"qsort", "malloc", "dlopen", "pthread_cond_wait", "read", "setjmp"}) {
    auto symbol = elf->find_symbol(name);
    ASSERT_TRUE(symbol) << name;
    // The default version among several.
    EXPECT_EQ(symbol->address + base, reinterpret_cast<uint64_t>(::dlsym(libc, name))) << name;
    auto inside = elf->function_at(symbol->address + symbol->size - 1);
    ASSERT_TRUE(inside) << name;
    EXPECT_EQ(inside->address, symbol->address) << name;
    const auto code = elf->read(symbol->address, symbol->size);
    EXPECT_EQ(std::memcmp(code.data(), reinterpret_cast<void*>(base + symbol->address), code.size()), 0);
  }
  EXPECT_FALSE(elf->find_symbol("no_such_function"));
  EXPECT_FALSE(elf->function_at(0));
  EXPECT_FALSE(elf->function_at(UINT64_MAX));
  EXPECT_EQ(elf->build_id().size(), 40u);
  EXPECT_TRUE(elf->position_independent());
  EXPECT_TRUE(elf->read(UINT64_MAX - 10, 100).empty());
}

TEST(ElfFile, FindsFunctionsOfDistributionBinaries) {
  const std::pair<const char*, const char*> cases[] = {{"/usr/sbin/nginx", "ngx_http_process_request"},
                                                       {"/usr/bin/redis-server", "call"}};
  int found = 0;
  for (const auto& [path, name] : cases) {
    auto elf = ElfFile::open(path);
    if (!elf) continue;
    ++found;
    EXPECT_EQ(elf->launch(), Launch::kOk);
    auto symbol = elf->find_symbol(name);
    ASSERT_TRUE(symbol) << name;
    EXPECT_EQ(elf->function_at(symbol->address + 1)->name, name);
    EXPECT_EQ(*elf->address_of_offset(*elf->offset_of_address(symbol->address)), symbol->address);
    // Static functions are known by their unwind entries alone: bounds without a name.
    size_t nameless = 0;
    for (const Segment& segment : elf->segments()) {
      if (!segment.executable) continue;
      for (uint64_t at = segment.address; at < segment.address + segment.memory_size; at += 64) {
        auto function = elf->function_at(at);
        if (!function) continue;
        ASSERT_LE(function->address, at);
        ASSERT_LT(at, function->address + function->size);
        nameless += function->name.empty();
      }
    }
    EXPECT_GT(nameless, 0u);
  }
  if (found == 0) GTEST_SKIP() << "neither nginx nor redis-server is installed";
}

TEST(ElfFile, StrippedFileKeepsFunctionBounds) {
  const std::string whole = build("cc -O2 -o t t.c", kSource);
  const std::string stripped = build("cc -O2 -o t t.c && strip t", kSource);
  if (whole.empty() || stripped.empty()) GTEST_SKIP() << "no C compiler or strip";
  auto with = ElfFile::open(whole);
  auto without = ElfFile::open(stripped);
  ASSERT_TRUE(with.ok() && without.ok());
  for (const char* name : {"hidden", "shown", "main"}) {
    auto symbol = with->find_symbol(name);
    ASSERT_TRUE(symbol) << name;
    EXPECT_FALSE(without->find_symbol(name));
    auto bounds = without->function_at(symbol->address + 2);
    ASSERT_TRUE(bounds) << name;
    EXPECT_EQ(bounds->address, symbol->address);
    EXPECT_EQ(bounds->size, symbol->size);
    EXPECT_EQ(bounds->name, "");
  }
}

TEST(ElfFile, OffsetsAreNotAddressesInLldLinkedFiles) {
  const std::string path = build("clang-19 -O2 -fuse-ld=lld -o t t.c", kSource);
  if (path.empty()) GTEST_SKIP() << "clang-19 with lld is not installed";
  auto elf = ElfFile::open(path);
  ASSERT_TRUE(elf.ok()) << elf.error().message;
  auto symbol = elf->find_symbol("shown");
  ASSERT_TRUE(symbol);
  auto offset = elf->offset_of_address(symbol->address);
  ASSERT_TRUE(offset);
  EXPECT_NE(*offset, symbol->address);
  EXPECT_EQ(elf->address_of_offset(*offset), symbol->address);
  const auto bytes = contents(path);
  EXPECT_EQ(elf->read(symbol->address, symbol->size),
            std::vector<uint8_t>(bytes.begin() + *offset, bytes.begin() + *offset + symbol->size));
}

TEST(ElfFile, ClassifiesWhatCannotBePreloaded) {
  EXPECT_EQ(ElfFile::open("/proc/self/exe")->launch(), Launch::kOk);
  const std::string script = "#!/bin/sh\n";
  EXPECT_EQ(parse({script.begin(), script.end()})->launch(), Launch::kNotElf);
  EXPECT_EQ(parse({})->launch(), Launch::kNotElf);
  auto bytes = contents("/proc/self/exe");
  bytes.resize(4096);
  auto narrow = bytes;
  narrow[EI_CLASS] = ELFCLASS32;
  EXPECT_EQ(parse(narrow)->launch(), Launch::kNot64Bit);
  auto foreign = bytes;
  foreign[18] = EM_AARCH64;
  EXPECT_EQ(parse(foreign)->launch(), Launch::kOtherMachine);
  EXPECT_FALSE(ElfFile::open("/nonexistent").ok());
  EXPECT_EQ(ElfFile::open("/nonexistent").error().code, ENOENT);
  EXPECT_FALSE(ElfFile::open("/dev/zero").ok());
  EXPECT_FALSE(ElfFile::open("/tmp").ok());
}

TEST(ElfFile, ClassifiesStaticAndMusl) {
  const std::string fixed = build("cc -static -o t t.c", kSource);
  if (fixed.empty()) GTEST_SKIP() << "no static libc";
  EXPECT_EQ(ElfFile::open(fixed)->launch(), Launch::kStatic);
  EXPECT_FALSE(ElfFile::open(fixed)->position_independent());
  const std::string musl = build("musl-gcc -o t t.c", kSource);
  if (musl.empty()) GTEST_SKIP() << "no musl-gcc; static was checked";
  EXPECT_EQ(ElfFile::open(musl)->launch(), Launch::kOtherLibc);
}

TEST(ElfFile, TruncatedFilesAreRefusedOrRead) {
  const std::string path = build("cc -O2 -s -o t t.c", kSource);
  if (path.empty()) GTEST_SKIP() << "no C compiler";
  const auto bytes = contents(path);
  for (size_t size = 0; size < bytes.size(); size += 64) LLVMFuzzerTestOneInput(bytes.data(), size);
  // A segment that is not all there is an error with file and reason.
  auto cut = bytes;
  cut.resize(2000);
  auto elf = parse(cut);
  ASSERT_FALSE(elf.ok());
  EXPECT_EQ(elf.error().code, ENOEXEC);
  EXPECT_NE(elf.error().message.find("test: truncated"), std::string::npos) << elf.error().message;
}

TEST(ElfFile, DamagedFilesDoNoHarm) {
  const std::string path = build("cc -O2 -o t t.c", kSource);
  if (path.empty()) GTEST_SKIP() << "no C compiler";
  const auto bytes = contents(path);
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 5000; ++round) {
    auto damaged = bytes;
    // Headers first: there most harm can be done.
    const size_t limit = round % 2 == 0 ? 1024 : damaged.size();
    for (int flips = 1 + static_cast<int>(random() % 16); flips > 0; --flips) {
      damaged[random() % limit] = static_cast<uint8_t>(random());
    }
    if (round % 3 == 0) {  // section headers
      const size_t table = damaged.size() - 1984;
      damaged[table + random() % 1984] = static_cast<uint8_t>(random());
    }
    LLVMFuzzerTestOneInput(damaged.data(), damaged.size());
  }
}

}  // namespace
}  // namespace bpftime::symbols
