// The CLI's parts that read what others wrote: ELF headers, trace lines, answers.
#include <elf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>

#include "cli/elf_launch.h"
#include "cli/map_entries.h"
#include "cli/printers.h"
#include "cli/program_file.h"
#include "cli/trace_stream.h"
#include "cli/words.h"

namespace bpftime::cli {
namespace {

class ElfLaunchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bpftime-elf-XXXXXX";
    const int fd = ::mkstemp(name);
    ASSERT_GE(fd, 0);
    ::close(fd);
    path_ = name;
    header_ = Elf64_Ehdr{};
    std::memcpy(header_.e_ident, ELFMAG, SELFMAG);
    header_.e_ident[EI_CLASS] = ELFCLASS64;
    header_.e_ident[EI_DATA] = ELFDATA2LSB;
    header_.e_type = ET_DYN;
    header_.e_machine = EM_X86_64;
    header_.e_phoff = sizeof(Elf64_Ehdr);
    header_.e_phentsize = sizeof(Elf64_Phdr);
    header_.e_phnum = 1;
    segment_ = Elf64_Phdr{};
    segment_.p_type = PT_INTERP;
    segment_.p_offset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
    set_interpreter("/lib64/ld-linux-x86-64.so.2");
  }
  void TearDown() override { ::unlink(path_.c_str()); }
  void set_interpreter(const std::string& text) {
    interpreter_ = text + '\0';
    segment_.p_filesz = interpreter_.size();
  }
  std::string bytes() const {
    return std::string(reinterpret_cast<const char*>(&header_), sizeof(header_)) +
           std::string(reinterpret_cast<const char*>(&segment_), sizeof(segment_)) + interpreter_;
  }
  std::string judge(const std::string& content) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content;
    auto launch = judge_launch(path_);
    return launch ? launch->obstacle : "error: " + launch.error().message;
  }
  bool supervised() const {
    const auto launch = judge_launch(path_);
    return launch && launch->supervised;
  }
  std::string path_, interpreter_;
  Elf64_Ehdr header_;
  Elf64_Phdr segment_;
};

TEST_F(ElfLaunchTest, JudgesHeaders) {
  EXPECT_EQ(judge(bytes()), "");
  EXPECT_FALSE(supervised());
  EXPECT_NE(judge("").find("not an ELF"), std::string::npos);
  EXPECT_FALSE(supervised());
  set_interpreter("/lib/ld-musl-x86_64.so.1");
  EXPECT_NE(judge(bytes()).find("another C library (/lib/ld-musl"), std::string::npos);
  EXPECT_TRUE(supervised());
  segment_.p_type = PT_LOAD;
  EXPECT_NE(judge(bytes()).find("statically linked"), std::string::npos);
  EXPECT_TRUE(supervised());
  header_.e_machine = EM_AARCH64;
  EXPECT_NE(judge(bytes()).find("another machine"), std::string::npos);
  EXPECT_FALSE(supervised());
  header_.e_ident[EI_CLASS] = ELFCLASS32;
  EXPECT_NE(judge(bytes()).find("32-bit"), std::string::npos);
  EXPECT_TRUE(judge_launch("/proc/self/exe").ok());
  EXPECT_FALSE(judge_launch("/no/such/file").ok());
}

TEST_F(ElfLaunchTest, DamagedHeadersAreReasonsNotCrashes) {
  const Elf64_Phdr good = segment_;
  for (uint64_t size : {uint64_t{0}, uint64_t{5000}, UINT64_MAX}) {
    segment_.p_filesz = size;
    EXPECT_NE(judge(bytes()), "") << size;
  }
  segment_ = good;
  for (uint64_t offset : {uint64_t{1} << 40, UINT64_MAX, uint64_t{1} << 63}) {
    segment_.p_offset = offset;
    EXPECT_NE(judge(bytes()), "") << offset;
  }
  segment_ = good;
  header_.e_phnum = 0xffff;
  EXPECT_NE(judge(bytes()), "");
}

TEST_F(ElfLaunchTest, TruncatedAnywhereAndFlippedAnywhere) {
  const std::string whole = bytes();
  for (size_t size = 0; size + 1 < whole.size(); ++size) EXPECT_NE(judge(whole.substr(0, size)), "") << size;
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 500; ++round) {
    std::string damaged = whole;
    for (int i = 0; i < 4; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    (void)judge(damaged);
  }
}

Bytes bytes_of(const std::string& text) {
  return Bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

TEST(TraceStream, ReadsALineAndRefusesLies) {
  const wire::TraceLine header{7, 3};
  const std::string start(reinterpret_cast<const char*>(&header), sizeof(header));
  auto line = parse_trace_line(bytes_of(start + "ab\n"));
  ASSERT_TRUE(line && *line);
  EXPECT_EQ((*line)->lineage, 7u);
  EXPECT_EQ((*line)->text, "ab");
  EXPECT_FALSE(parse_trace_line(bytes_of(start + "ab")));
  EXPECT_FALSE(parse_trace_line(bytes_of(start.substr(1))));
  const wire::TraceLine end{0, 0};
  auto last = parse_trace_line(as_bytes(end));
  ASSERT_TRUE(last);
  EXPECT_FALSE(*last);
}

TEST(TraceStream, TakesTheMessageOutOfTheLine) {
  EXPECT_EQ(message_of("  a-1 [000] ..... 1.2: bpf_trace_printk: x: y"), "x: y");
  EXPECT_EQ(message_of("no prefix"), "no prefix");
  EXPECT_EQ(printable("a\x1b[31m\tb"), "a?[31m\tb");
}

TEST(Printers, MissingAndStrangeFieldsDoNotThrow) {
  for (const char* text :
       {"{}", "[]", "null", "7", R"({"targets":7,"loaders":[3,null]})",
        R"({"targets":[{"pid":"x","probes":[{}]}]})",
        R"({"maps":[{"id":null}],"programs":[{"insns":"many","map_ids":{}}],"links":[{"offset":-1}]})",
        R"({"entries":[{"key":[1,"0x02"],"values":[{"cpu":0,"value":"zz"}]},4]})"}) {
    const Json json = Json::parse(text);
    EXPECT_NO_THROW({
      list_text(json);
      status_text(json);
    }) << text;
  }
}

TEST(Printers, ListSaysHitsFaultsAndWhatIsNotSeen) {
  const std::string text = list_text(Json::parse(
      R"({"targets":[{"pid":4,"name":"host","lineage":4,"faults":2,"not_seen":["32-bit calls"],"probes":[
        {"path":"/bin/host","offset":16,"function":"f","address":0,"state":"active","programs":[
          {"id":7,"name":"count","kind":"uprobe","hits":3},{"id":8,"name":"idle","kind":"uprobe","elided":true}]}]}]})"));
  EXPECT_NE(text.find("target 4 (host), 2 faults"), std::string::npos) << text;
  EXPECT_NE(text.find("prog 7 count [uprobe]  hits 3\n"), std::string::npos) << text;
  EXPECT_NE(text.find("prog 8 idle [uprobe]  not called"), std::string::npos) << text;
  EXPECT_NE(text.find("not seen: 32-bit calls"), std::string::npos) << text;
}

TEST(Words, ReadBytesAsBpftoolDoes) {
  Words words("map update", {"1", "0x0a", "255", "hex", "ff", "a"});
  EXPECT_EQ(*words.bytes("key", 3), (std::vector<uint8_t>{1, 10, 255}));
  EXPECT_EQ(*words.bytes("value", 2), (std::vector<uint8_t>{255, 10}));
  EXPECT_TRUE(words.end());
  EXPECT_FALSE(words.misused());
  for (const std::vector<std::string>& bad :
       std::vector<std::vector<std::string>>{{"256"}, {"-1"}, {"x"}, {""}, {"hex", "100"}, {"hex"}, {}}) {
    Words wrong("map update", bad);
    const auto read = wrong.bytes("key", 1);
    ASSERT_FALSE(read) << ::testing::PrintToString(bad);
    EXPECT_EQ(read.error().code, EINVAL);
    EXPECT_TRUE(wrong.misused());
  }
}

TEST(EntryText, KeepsToBpftoolsLines) {
  OpenMap map;
  map.info.key_size = 4;
  map.info.value_size = 8;
  const std::vector<uint8_t> key = {1, 0, 0, 0};
  std::vector<uint8_t> value(8, 0xff);
  EXPECT_EQ(entry_text(map, key, Bytes(value)), "key: 01 00 00 00  value: ff ff ff ff ff ff ff ff\n");
  EXPECT_EQ(entry_text(map, key, std::nullopt), "key: 01 00 00 00  value: <no entry>\n");
  map.info.value_size = 17;
  value.assign(17, 1);
  EXPECT_EQ(entry_text(map, key, Bytes(value)),
            "key:\n01 00 00 00\nvalue:\n01 01 01 01 01 01 01 01  01 01 01 01 01 01 01 01\n01\n");
}

TEST(Preload, PutsOursFirstAndRefusesWhatTheLinkerCannotRead) {
  auto alone = preload_value("/proc/self/exe", nullptr);
  ASSERT_TRUE(alone);
  EXPECT_EQ(*alone, "/proc/self/exe");
  EXPECT_EQ(*preload_value("/proc/self/exe", "/a:/b"), "/proc/self/exe:/a:/b");
  EXPECT_FALSE(preload_value("/tmp/a b", nullptr));
  EXPECT_FALSE(preload_value("/no/such", nullptr));
}

}  // namespace
}  // namespace bpftime::cli
