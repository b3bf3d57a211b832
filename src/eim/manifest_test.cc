#include "eim/manifest.h"

#include <bpftime/eim.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "eim/testing/fixture.h"
#include "eim/type_check.h"
#include "symbols/symbols.h"

namespace bpftime::eim {
namespace {

using program::CType;
using program::TypeKind;
using testing::fixture;
using ::testing::HasSubstr;
using testing::manifest_of;

// `name` of struct `type`, where it is: anonymous members count as the struct's own.
const CType::Member* member(const Manifest& manifest, uint32_t type, const std::string& name) {
  for (const auto& one : manifest.types.resolved(type).members) {
    if (one.name == name) return &one;
  }
  return nullptr;
}

uint32_t pointee(const Manifest& manifest, uint32_t type) {
  return manifest.types.resolve(manifest.types.resolved(type).target);
}

std::vector<std::string> constraint_texts(const Function& function) {
  std::vector<std::string> texts;
  for (const Constraint& constraint : function.constraints) texts.push_back(constraint_text(constraint));
  return texts;
}

class HostManifest : public ::testing::TestWithParam<const char*> {};

TEST_P(HostManifest, HasAllThatIsDeclared) {
  const Manifest manifest = manifest_of(GetParam());
  EXPECT_EQ(manifest.is_object, std::string(GetParam()).ends_with(".o"));
  ASSERT_EQ(manifest.entries.size(), 3u);
  EXPECT_EQ(manifest.entries[0].name, "processBegin");
  EXPECT_EQ(manifest.entries[0].function, "process_request");
  EXPECT_EQ(manifest.entries[0].symbol, "process_request");
  EXPECT_EQ(manifest.entries[0].arguments, std::vector<std::string>{"r"});
  EXPECT_EQ(manifest.entries[1].arguments,
            (std::vector<std::string>{"request", "flags"}));  // of the definition
  EXPECT_EQ(constraint_texts(manifest.entries[1]),
            (std::vector<std::string>{"HF_ARG_NONNULL(0)", "HF_ARG_RANGE(1, 0, 7)"}));
  EXPECT_EQ(manifest.types.spell(manifest.types.at(manifest.entries[2].prototype).parameters.at(0).type),
            "enum method");
  ASSERT_EQ(manifest.functions.size(), 6u);
  const Function* log = manifest.function("write_log");
  ASSERT_NE(log, nullptr);
  EXPECT_EQ(constraint_texts(*log),
            (std::vector<std::string>{"HF_ARG_CONST_STRING(0)", "HF_ARG_BUFFER_IN(1, 2)",
                                      "HF_ARG_RANGE(2, 0, 4096)", "HF_ARG_LESS_THAN(3, 4)", "HF_MAY_BLOCK",
                                      "HF_RET_RANGE(-1, 4096)"}));
  EXPECT_NE(manifest.function("answer"), nullptr);  // static
  EXPECT_EQ(manifest.function("main"), nullptr);
  ASSERT_EQ(manifest.states.size(), 4u);
  EXPECT_EQ(manifest.states[3].expression, "host_counts.refused");
  EXPECT_TRUE(manifest.states[3].write);
  EXPECT_FALSE(manifest.states[0].write);
  ASSERT_EQ(manifest.buffers.size(), 1u);
  EXPECT_THAT(manifest.entries[0].place.text(), HasSubstr("host.c:"));
}

TEST_P(HostManifest, HasTheLayoutOfWhatEntriesGet) {
  const Manifest manifest = manifest_of(GetParam());
  ASSERT_FALSE(manifest.entries.empty());
  const uint32_t request =
      pointee(manifest, manifest.types.at(manifest.entries[0].prototype).parameters.at(0).type);
  const CType& type = manifest.types.at(request);
  ASSERT_EQ(type.kind, TypeKind::kStruct);
  EXPECT_EQ(type.name, "request");
  const uint64_t shift = std::string(GetParam()) == "host_other" ? 24 : 0;
  EXPECT_EQ(type.size, 192 + shift);
  ASSERT_NE(member(manifest, request, "status"), nullptr);
  EXPECT_EQ(member(manifest, request, "status")->bit_offset, shift * 8);
  EXPECT_EQ(member(manifest, request, "depth")->bit_size, 5u);
  EXPECT_EQ(member(manifest, request, "depth")->bit_offset, (25 + shift) * 8 + 1);
  EXPECT_EQ(manifest.types.size_of(member(manifest, request, "parts")->type), 48u);
  EXPECT_EQ(manifest.types.resolved(member(manifest, request, "ports")->type).count, 4u);
  EXPECT_EQ(manifest.types.resolved(member(manifest, request, "value")->type).kind, TypeKind::kUnion);
  EXPECT_TRUE(manifest.types.is_const(member(manifest, request, "version")->type));
  EXPECT_EQ(manifest.types.spell(member(manifest, request, "handler")->type),
            "int (*)(struct request *, int)");
  // The cycle comes back to the same type.
  const uint32_t connection = pointee(manifest, member(manifest, request, "connection")->type);
  EXPECT_EQ(pointee(manifest, member(manifest, connection, "request")->type), request);
  const uint32_t text = manifest.types.resolve(member(manifest, request, "uri")->type);
  EXPECT_NE(manifest.buffer_of(text, 1), nullptr);
  EXPECT_EQ(manifest.buffer_of(text, 0), nullptr);
  EXPECT_EQ(manifest.buffer_of(request, 1), nullptr);
  EXPECT_EQ(manifest.types.find("struct eim_record_head"), 0u) << "only what something refers to is kept";
}

INSTANTIATE_TEST_SUITE_P(Files, HostManifest,
                         ::testing::Values("host", "host_other", "host_fixed", "host_dwarf4", "host_clang",
                                           "host.so", "host.o", "host_clang.o"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             if (c == '.') c = '_';
                           return name;
                         });

TEST(Manifest, AddressesAreThoseOfTheFunctions) {
  for (const char* name : {"host", "host_fixed", "host_clang", "host.so"}) {
    const Manifest manifest = manifest_of(name);
    EXPECT_FALSE(manifest.build_id.empty() && std::string(name) != "host_clang") << name;
    auto elf = symbols::ElfFile::open(fixture(name));
    ASSERT_TRUE(elf.ok());
    for (const auto* functions : {&manifest.entries, &manifest.functions}) {
      for (const Function& function : *functions) {
        const auto symbol = elf->find_symbol(function.function);
        ASSERT_TRUE(symbol) << name << " " << function.function;
        EXPECT_EQ(function.address,
                  std::string(name) == "host.so" && function.address == 0 ? 0 : symbol->address)
            << name << " " << function.function;
      }
    }
    EXPECT_EQ(manifest.state("countRefused")->address, elf->find_symbol("host_counts")->address + 8) << name;
  }
}

TEST(Manifest, AnObjectDescribesAHostThatCannotBeRebuilt) {
  for (const char* name : {"described.o", "described_clang.o"}) {
    const Manifest manifest = manifest_of(name);
    EXPECT_TRUE(manifest.is_object);
    EXPECT_TRUE(manifest.build_id.empty());
    ASSERT_EQ(manifest.entries.size(), 1u);
    EXPECT_EQ(manifest.entries[0].arguments, std::vector<std::string>{"r"});
    EXPECT_EQ(manifest.entries[0].symbol, "handle_request");
    ASSERT_EQ(manifest.functions.size(), 1u);
    EXPECT_EQ(manifest.functions[0].arguments, (std::vector<std::string>{"r", "rc"}));
    const uint32_t request =
        pointee(manifest, manifest.types.at(manifest.entries[0].prototype).parameters.at(0).type);
    EXPECT_NE(member(manifest, request, "uri"), nullptr);
  }
}

TEST(Manifest, CxxNamesOverloadsAndBases) {
  for (const char* name : {"shop", "shop_clang"}) {
    const Manifest manifest = manifest_of(name);
    ASSERT_EQ(manifest.entries.size(), 1u);
    EXPECT_EQ(manifest.entries[0].symbol, "_ZN4shop5priceERKNS_5OrderENS_4KindE");
    EXPECT_EQ(manifest.entries[0].arguments, (std::vector<std::string>{"order", "kind"}));
    const uint32_t order =
        pointee(manifest, manifest.types.at(manifest.entries[0].prototype).parameters.at(0).type);
    EXPECT_EQ(manifest.types.at(order).name, "shop::Order");
    ASSERT_EQ(manifest.types.at(order).members.size(), 2u);  // the base, total_; not the static count
    EXPECT_EQ(manifest.types.at(order).members[0].name, "Base");
    EXPECT_NE(manifest.function("shop::tax"), nullptr);
  }
}

TEST(Manifest, MissingTypesNameTheMacro) {
  const auto manifest = read_manifest(fixture("host_untyped"));
  ASSERT_FALSE(manifest.ok());
  EXPECT_THAT(manifest.error().message, HasSubstr("host.c:"));
  EXPECT_THAT(manifest.error().message, HasSubstr("no debug information"));
  EXPECT_THAT(manifest.error().message, HasSubstr("EIM_"));
}

TEST(Manifest, FilesWithoutAnnotations) {
  EXPECT_EQ(read_manifest("/bin/true").error().code, ENOENT);
  EXPECT_EQ(read_manifest("/etc/passwd").error().code, ENOEXEC);
  EXPECT_EQ(read_manifest("/nonexistent").error().code, ENOENT);
}

TEST(Manifest, EmbeddedTypesSurviveStrip) {
  for (const char* name : {"host", "host_clang", "host_fixed", "shop"}) {
    const Manifest before = manifest_of(name);
    auto bytes = embed_types(fixture(name), before);
    ASSERT_TRUE(bytes.ok()) << bytes.error().message;
    const std::string path =
        (std::filesystem::temp_directory_path() / ("eim_embed_" + std::to_string(::getpid()))).string();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes->data()), static_cast<std::streamsize>(bytes->size()));
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    ASSERT_EQ(std::system(("strip --strip-all " + path).c_str()), 0);
    auto after = read_manifest(path);
    ASSERT_TRUE(after.ok()) << after.error().message;
    EXPECT_EQ(after->types_from, "BTF");
    // It still runs as before.
    const int ran = std::system(path.c_str()), original = std::system(fixture(name).c_str());
    EXPECT_EQ(ran, original);
    std::filesystem::remove(path);
    ASSERT_EQ(after->entries.size(), before.entries.size());
    for (size_t i = 0; i < before.entries.size(); ++i) {
      EXPECT_EQ(after->entries[i].address, before.entries[i].address);
      EXPECT_EQ(after->entries[i].arguments, before.entries[i].arguments);
    }
    ASSERT_EQ(after->buffers.size(), before.buffers.size());
    ASSERT_EQ(after->states.size(), before.states.size());
    if (std::string(name) == "shop") continue;
    const uint32_t was = before.types.find("struct request"), is = after->types.find("struct request");
    ASSERT_NE(is, 0u);
    EXPECT_EQ(after->types.at(is).size, before.types.at(was).size);
    ASSERT_EQ(after->types.at(is).members.size(), before.types.at(was).members.size());
    for (size_t i = 0; i < before.types.at(was).members.size(); ++i) {
      const auto &a = after->types.at(is).members[i], &b = before.types.at(was).members[i];
      EXPECT_EQ(a.name, b.name);
      EXPECT_EQ(a.bit_offset, b.bit_offset) << a.name;
      EXPECT_EQ(a.bit_size, b.bit_size) << a.name;
      EXPECT_EQ(after->types.size_of(a.type), before.types.size_of(b.type)) << a.name;
    }
  }
}

TEST(Manifest, TextNamesEverything) {
  const std::string text = manifest_text(manifest_of("host"));
  for (const char* word : {"processBegin", "HF_ARG_BUFFER_IN(1, 2)", "struct request *",
                           "host_counts.refused", "text_t", "bits: 5"})
    EXPECT_THAT(text, HasSubstr(word));
}

// Debug information that no compiler makes. Pointers may lead back, what lies in something may not.
TEST(Manifest, TypesThatAreMadeOfThemselvesAreRefused) {
  const auto refused = [](std::vector<CType> types) {
    program::TypeTable table;
    for (CType& type : types) table.add(std::move(type));
    const auto fine = check_types(table);
    return fine.ok() ? std::string() : fine.error().message;
  };
  const auto alias = [](const char* name, uint32_t target) {
    CType type;
    type.kind = TypeKind::kTypedef;
    type.name = name;
    type.target = target;
    return type;
  };
  const auto holder = [](const char* name, uint32_t member) {
    CType type;
    type.kind = TypeKind::kStruct;
    type.name = name;
    type.size = 8;
    type.members = {{"m", member, 0, 0}};
    return type;
  };
  CType pointer;
  pointer.kind = TypeKind::kPointer;
  pointer.target = 1;
  EXPECT_THAT(refused({alias("outer", 1)}), HasSubstr("\"outer\" is made of itself"));
  EXPECT_THAT(refused({alias("a", 2), alias("b", 1)}), HasSubstr("made of itself"));
  EXPECT_THAT(refused({holder("node", 1)}), HasSubstr("\"node\" is made of itself"));
  EXPECT_THAT(refused({holder("node", 2), alias("n", 1)}), HasSubstr("made of itself"));
  EXPECT_EQ(refused({holder("node", 2), pointer}), "");
  EXPECT_EQ(refused({alias("self", 2), pointer}), "");
  std::vector<CType> deep;
  for (uint32_t i = 0; i < 1000; ++i) deep.push_back(alias("t", i + 2));
  EXPECT_THAT(refused(std::move(deep)), HasSubstr("nested too deep"));
}

// Damage at every place of the records and their neighbourhood: an answer, whatever it is, and no crash.
TEST(Manifest, DamagedFiles) {
  for (const char* name : {"described.o", "host"}) {
    const std::vector<uint8_t> good = testing::read_bytes(fixture(name));
    ASSERT_GT(good.size(), 64u);
    uint32_t seed = 12345;
    const auto next = [&seed] { return seed = seed * 1664525u + 1013904223u; };
    int refused = 0;
    for (int i = 0; i < 300; ++i) {
      std::vector<uint8_t> bad = good;
      const size_t changes = 1 + next() % 4;
      for (size_t k = 0; k < changes; ++k)
        bad[(uint64_t{next()} << 8 | next() >> 24) % bad.size()] = static_cast<uint8_t>(next() >> 16);
      if (i % 10 == 0) bad.resize(bad.size() * (next() % 100) / 100);
      const auto manifest = parse_manifest(std::move(bad), "damaged");
      if (!manifest.ok()) {
        ++refused;
        EXPECT_FALSE(manifest.error().message.empty());
      } else {
        (void)manifest_text(*manifest);
      }
    }
    EXPECT_GT(refused, 20) << name;
  }
}

// What fuzzing starts from is understood, whichever compiler made it and wherever its types are.
TEST(Manifest, SeedsAreManifests) {
  const char* source = std::getenv("BPFTIME_SOURCE_DIR");
  if (source == nullptr) GTEST_SKIP() << "BPFTIME_SOURCE_DIR is not set: run by ctest";
  for (const auto& [name, types] :
       {std::pair{"gcc.elf", "DWARF"}, {"clang.elf", "DWARF"}, {"embedded_types.elf", "BTF"}}) {
    auto manifest = read_manifest(std::string(source) + "/tests/seeds/manifest_fuzz/" + name);
    ASSERT_TRUE(manifest.ok()) << manifest.error().message;
    EXPECT_EQ(manifest->types_from, types) << name;
    EXPECT_EQ(manifest->entries.size(), 1u) << name;
    EXPECT_EQ(manifest->buffers.size(), 1u) << name;
  }
}

}  // namespace
}  // namespace bpftime::eim
