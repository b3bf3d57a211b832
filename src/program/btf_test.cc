#include "program/btf.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <linux/btf.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <random>

#include "program/testing/kernel.h"

namespace bpftime::program {
namespace {

using Blob = std::vector<uint8_t>;

// Builds a blob record by record, to try what no compiler emits.
class Builder {
 public:
  uint32_t name(const std::string& text) {
    const auto offset = static_cast<uint32_t>(strings_.size());
    strings_ += text + '\0';
    return offset;
  }
  // Appends a record with `extra` words after it; returns its id.
  uint32_t add(uint32_t kind, uint32_t vlen, uint32_t name_off, uint32_t size_or_type,
               std::initializer_list<uint32_t> extra = {}, bool kflag = false) {
    words_.insert(words_.end(), {name_off, kind << 24 | vlen | (kflag ? 1u << 31 : 0), size_or_type});
    words_.insert(words_.end(), extra);
    return ++last_id_;
  }
  uint32_t add_int() { return add(BTF_KIND_INT, 0, name("int"), 4, {32}); }

  btf_header header() const {
    btf_header header = {};
    header.magic = BTF_MAGIC;
    header.version = BTF_VERSION;
    header.hdr_len = sizeof(header);
    header.type_len = static_cast<uint32_t>(words_.size() * 4);
    header.str_off = header.type_len;
    header.str_len = static_cast<uint32_t>(strings_.size());
    return header;
  }
  Blob blob() const { return blob(header()); }
  Blob blob(const btf_header& header) const {
    Blob blob(sizeof(header) + words_.size() * 4 + strings_.size());
    std::memcpy(blob.data(), &header, sizeof(header));
    std::memcpy(blob.data() + sizeof(header), words_.data(), words_.size() * 4);
    std::memcpy(blob.data() + sizeof(header) + words_.size() * 4, strings_.data(), strings_.size());
    return blob;
  }

 private:
  std::vector<uint32_t> words_;
  std::string strings_ = std::string(1, '\0');
  uint32_t last_id_ = 0;
};

// Our verdict; with a usable kernel also that the kernel's is the same.
int verdict(const Blob& blob) {
  static const bool kernel = testing::kernel_unusable().empty();
  const auto ours = validate_btf(blob);
  const int code = ours.ok() ? 0 : ours.error().code;
  if (kernel) {
    const auto theirs = testing::kernel_load_btf(blob);
    EXPECT_EQ(code, theirs.error) << (ours.ok() ? "accepted" : ours.error().message) << "\n" << theirs.log;
  }
  return code;
}

TEST(Btf, AcceptsTheSmallest) {
  Builder builder;
  builder.add_int();
  EXPECT_EQ(verdict(builder.blob()), 0);
}

TEST(Btf, ChecksTheHeader) {
  Builder builder;
  builder.add_int();
  const btf_header good = builder.header();
  const auto with = [&](auto change) {
    btf_header header = good;
    change(header);
    return verdict(builder.blob(header));
  };
  EXPECT_EQ(with([](btf_header&) {}), 0);
  EXPECT_EQ(with([](btf_header& header) { header.magic = 0x9feb; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.version = 2; }), 524);
  EXPECT_EQ(with([](btf_header& header) { header.flags = 1; }), 524);
  EXPECT_EQ(with([](btf_header& header) { header.hdr_len = 1 << 20; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.hdr_len = 28; }), E2BIG);
  EXPECT_EQ(with([](btf_header& header) { header.hdr_len = 8; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.type_off = 4; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.type_off = 2; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.type_len = 0; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.type_len = UINT32_MAX; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.str_off -= 4; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.str_len = UINT32_MAX; }), EINVAL);
  EXPECT_EQ(with([](btf_header& header) { header.str_len -= 1; }), EINVAL);
  for (size_t size = 0; size <= sizeof(btf_header); ++size) {
    Blob cut = builder.blob();
    cut.resize(size);
    EXPECT_EQ(verdict(cut), EINVAL) << size;
  }
  EXPECT_EQ(validate_btf(Blob(kBtfSizeMax + 1)).error().code, E2BIG);
}

TEST(Btf, RefusesLoopsButNotThroughPointersToStructs) {
  Builder list;  // struct node { struct node *next; }
  list.add(BTF_KIND_STRUCT, 1, list.name("node"), 8, {list.name("next"), 2, 0});
  list.add(BTF_KIND_PTR, 0, 0, 1);
  EXPECT_EQ(verdict(list.blob()), 0);
  Builder self;
  self.add(BTF_KIND_STRUCT, 1, self.name("node"), 8, {self.name("inner"), 1, 0});
  EXPECT_EQ(verdict(self.blob()), EEXIST);
  Builder modifiers;
  modifiers.add(BTF_KIND_CONST, 0, 0, 2);
  modifiers.add(BTF_KIND_VOLATILE, 0, 0, 1);
  EXPECT_EQ(verdict(modifiers.blob()), EEXIST);
  Builder pointers;  // typedef T *T
  pointers.add(BTF_KIND_TYPEDEF, 0, pointers.name("T"), 2);
  pointers.add(BTF_KIND_PTR, 0, 0, 1);
  EXPECT_EQ(verdict(pointers.blob()), EEXIST);
}

TEST(Btf, LimitsChainsOfModifiers) {
  for (const uint32_t length : {31u, 32u, 33u, 1000u}) {
    Builder backward;  // each to the one before: every step is checked once
    backward.add_int();
    for (uint32_t i = 0; i < length; ++i) backward.add(BTF_KIND_CONST, 0, 0, i + 1);
    EXPECT_EQ(verdict(backward.blob()), 0) << length;
    Builder forward;
    for (uint32_t i = 0; i < length; ++i) forward.add(BTF_KIND_CONST, 0, 0, i + 2);
    forward.add_int();
    EXPECT_EQ(validate_btf(forward.blob()).ok(), length <= 32) << length;
  }
}

TEST(Btf, ChecksWhatReferencesName) {
  const auto refused = [](auto add) {
    Builder builder;
    builder.add_int();                                    // 1
    builder.add(BTF_KIND_FUNC_PROTO, 0, 0, 0);            // 2
    builder.add(BTF_KIND_FUNC, 0, builder.name("f"), 2);  // 3
    add(builder);
    return verdict(builder.blob());
  };
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_PTR, 0, 0, 2); }), 0);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_PTR, 0, 0, 0); }), 0);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_PTR, 0, 0, 3); }), 0);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_CONST, 0, 0, 3); }), 0);
  EXPECT_EQ(refused([](Builder& b) {
              b.add(BTF_KIND_VAR, 0, b.name("v"), 1, {0}), b.add(BTF_KIND_CONST, 0, 0, 4);
            }),
            EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_PTR, 0, 0, 99); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_FUNC, 0, b.name("g"), 1); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_FUNC, 2, b.name("g"), 2); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_ARRAY, 0, 0, 0, {1, 1, 4}); }), 0);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_ARRAY, 0, 0, 0, {2, 1, 4}); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_VAR, 0, b.name("v"), 2, {0}); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_DATASEC, 1, b.name(".data"), 4, {1, 0, 4}); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_DECL_TAG, 0, b.name("t"), 3, {UINT32_MAX}); }), 0);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_DECL_TAG, 0, b.name("t"), 3, {0}); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_DECL_TAG, 0, b.name("t"), 1, {UINT32_MAX}); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_TYPEDEF, 0, b.name("1x"), 1); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_TYPEDEF, 0, 0x00ffffff, 1); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(BTF_KIND_FLOAT, 0, b.name("f"), 3); }), EINVAL);
  EXPECT_EQ(refused([](Builder& b) { b.add(20, 0, b.name("f"), 3); }), EINVAL);
}

// Section .BTF of an ELF object, or nothing.
Blob btf_section(const Blob& object) {
  const auto elf = read_at<Elf64_Ehdr>(object, 0);
  if (!elf) return {};
  const auto section = [&](uint64_t index) {
    return read_at<Elf64_Shdr>(object, elf->e_shoff + index * sizeof(Elf64_Shdr));
  };
  const auto names = section(elf->e_shstrndx);
  for (uint64_t i = 0; i < elf->e_shnum; ++i) {
    const auto header = section(i);
    if (!names || !header || string_at(object, names->sh_offset + header->sh_name) != ".BTF") continue;
    if (header->sh_offset + header->sh_size > object.size()) return {};
    return Blob(object.begin() + header->sh_offset, object.begin() + header->sh_offset + header->sh_size);
  }
  return {};
}

// Compilers leave sizes and offsets of data sections to the loader.
void fix_sections(Blob& blob) {
  const auto header = *read_at<btf_header>(blob, 0);
  size_t at = header.hdr_len;
  const auto word = [&](size_t offset) { return reinterpret_cast<uint32_t*>(blob.data() + offset); };
  while (at < header.hdr_len + header.type_len) {
    const uint32_t info = *word(at + 4);
    const size_t vlen = BTF_INFO_VLEN(info);
    static const std::map<uint32_t, size_t> kPerElement = {{BTF_KIND_STRUCT, 12},  {BTF_KIND_UNION, 12},
                                                           {BTF_KIND_ENUM, 8},     {BTF_KIND_FUNC_PROTO, 8},
                                                           {BTF_KIND_DATASEC, 12}, {BTF_KIND_ENUM64, 12}};
    static const std::map<uint32_t, size_t> kFixed = {
        {BTF_KIND_INT, 4}, {BTF_KIND_ARRAY, 12}, {BTF_KIND_VAR, 4}, {BTF_KIND_DECL_TAG, 4}};
    if (BTF_INFO_KIND(info) == BTF_KIND_DATASEC) {
      uint32_t end = 0;
      for (size_t i = 0; i < vlen; ++i) {
        *word(at + 12 + i * 12 + 4) = end;
        end += *word(at + 12 + i * 12 + 8);
      }
      *word(at + 8) = end;
    }
    at += 12;
    if (const auto found = kPerElement.find(BTF_INFO_KIND(info)); found != kPerElement.end())
      at += found->second * vlen;
    if (const auto found = kFixed.find(BTF_INFO_KIND(info)); found != kFixed.end()) at += found->second;
  }
}

Blob read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return Blob(std::istreambuf_iterator<char>(file), {});
}

Blob compiled_sample() {
  const char* path = std::getenv("BPFTIME_BTF_SAMPLE");
  Blob blob = path != nullptr ? btf_section(read_file(path)) : Blob{};
  if (!blob.empty()) fix_sections(blob);
  return blob;
}

TEST(Btf, AcceptsWhatTheCompilerEmits) {
  const Blob blob = compiled_sample();
  if (blob.empty()) GTEST_SKIP() << "BPFTIME_BTF_SAMPLE names no compiled sample";
  EXPECT_EQ(verdict(blob), 0);
}

TEST(Btf, AcceptsTheKernelsOwn) {
  const Blob blob = read_file("/sys/kernel/btf/vmlinux");
  if (blob.empty()) GTEST_SKIP() << "no /sys/kernel/btf/vmlinux";
  const auto ours = validate_btf(blob);
  EXPECT_TRUE(ours.ok()) << ours.error().message;
}

// Whatever the kernel accepts we accept. The other way round sizes are not resolved here, so the
// share is printed.
TEST(Btf, AgreesWithTheKernelOnMutants) {
  if (const std::string reason = testing::kernel_unusable(); !reason.empty()) GTEST_SKIP() << reason;
  const Blob original = compiled_sample();
  if (original.empty()) GTEST_SKIP() << "BPFTIME_BTF_SAMPLE names no compiled sample";
  const char* given = std::getenv("BPFTIME_SEED");
  const auto seed =
      given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 0)) : std::random_device()();
  printf("BPFTIME_SEED=%u\n", seed);
  std::mt19937 random(seed);
  const auto header = *read_at<btf_header>(original, 0);
  int accepted = 0, refused = 0, both = 0, same_errno = 0;
  std::map<std::string, int> missed;
  for (int round = 0; round < 20000; ++round) {
    Blob blob = original;
    for (int edits = 1 + random() % 2; edits > 0; --edits) {
      const size_t range = random() % 16 == 0 ? blob.size() : header.type_len;
      const size_t word = (range == blob.size() ? 0 : header.hdr_len) + random() % (range / 4) * 4;
      uint32_t value = 0;
      std::memcpy(&value, blob.data() + word, 4);
      switch (random() % 5) {
        case 0:
          value = random() % 64;  // mostly another type id
          break;
        case 1:
          value ^= 1u << random() % 32;
          break;
        case 2:
          value += static_cast<uint32_t>(random() % 9) - 4;
          break;
        case 3:
          value = (value & 0x80ffffff) | (random() % 21) << 24;  // another kind
          break;
        default:
          value = random();
      }
      std::memcpy(blob.data() + word, &value, 4);
    }
    const auto ours = validate_btf(blob);
    const auto theirs = testing::kernel_load_btf(blob);
    if (theirs.error == 0) {
      ++accepted;
      ASSERT_TRUE(ours.ok()) << "the kernel accepts: " << ours.error().message << ", round " << round;
      continue;
    }
    ++refused;
    if (!ours.ok()) ++both;
    if (!ours.ok() && ours.error().code == theirs.error) ++same_errno;
    if (ours.ok()) {
      const std::string text = theirs.log.substr(0, theirs.log.find_last_not_of('\n') + 1);
      ++missed[text.substr(text.rfind(' ', text.rfind(' ') - 1) + 1)];
    }
  }
  printf("kernel: %d accepted, %d refused; of these we refuse %d (%.1f %%), same errno %d\n", accepted,
         refused, both, 100.0 * both / refused, same_errno);
  for (const auto& [why, count] : missed)
    printf("  only the kernel refuses, %d times: …%s\n", count, why.c_str());
  EXPECT_GT(accepted, 100);
  EXPECT_GT(both, refused * 8 / 10);
}

}  // namespace
}  // namespace bpftime::program
