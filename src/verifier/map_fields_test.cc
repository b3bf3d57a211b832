#include "verifier/map_fields.h"

#include <gtest/gtest.h>

#include "program/type_table.h"

namespace bpftime::verifier {
namespace {

using program::CType;
using program::TypeKind;
using program::TypeTable;

// struct value { int count; struct bpf_spin_lock lock; struct bpf_timer timer; };
struct Fixture {
  MapConstraint map;

  explicit Fixture(const std::string& lock_name = "bpf_spin_lock") {
    TypeTable table;
    const auto add = [&](TypeKind kind, const std::string& name, uint64_t size) {
      CType type;
      type.kind = kind;
      type.name = name;
      type.size = size;
      type.is_signed = kind == TypeKind::kInteger;
      return table.add(std::move(type));
    };
    const uint32_t number = add(TypeKind::kInteger, "int", 4);
    const uint32_t lock = add(TypeKind::kStruct, lock_name, 4);
    const uint32_t timer = add(TypeKind::kStruct, "bpf_timer", 16);
    const uint32_t value = add(TypeKind::kStruct, "value", 24);
    table.types[value].members = {{"count", number, 0, 0}, {"lock", lock, 32, 0}, {"timer", timer, 64, 0}};
    auto blob = program::write_btf(table, {}, "", "", {}, nullptr);
    EXPECT_TRUE(blob.ok());
    map.btf = std::move(*blob);
    map.spec.value_size = 24;
    const auto read = program::read_btf(map.btf);
    EXPECT_TRUE(read.ok());
    map.btf_value_type_id = read->table.find("value");
  }
};

TEST(MapFields, FindsLocksAndTimersByTheirTypes) {
  Fixture fixture;
  find_special_fields(fixture.map);
  EXPECT_EQ(fixture.map.spin_lock, 4u);
  EXPECT_EQ(fixture.map.timer, 8u);
}

TEST(MapFields, OtherStructsAreOrdinaryMemory) {
  Fixture fixture("bpf_spin_locker");
  find_special_fields(fixture.map);
  EXPECT_FALSE(fixture.map.spin_lock.has_value());
}

TEST(MapFields, FieldsOutsideTheValueAndBrokenBtfNameNothing) {
  Fixture fixture;
  fixture.map.spec.value_size = 7;
  find_special_fields(fixture.map);
  EXPECT_FALSE(fixture.map.spin_lock.has_value());
  Fixture broken;
  broken.map.btf.resize(30);
  find_special_fields(broken.map);
  EXPECT_FALSE(broken.map.spin_lock.has_value());
}

}  // namespace
}  // namespace bpftime::verifier
