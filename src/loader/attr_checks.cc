#include "loader/attr_checks.h"

#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace bpftime::loader {
namespace {

using wire::ObjectKind;

constexpr uint32_t kNoField = 0xffffffff;
constexpr ObjectKind kAnyObject = ObjectKind::kNone;

// One row per command: where its last field ends (CHECK_ATTR), the flags it knows, and the descriptor it is about. Offsets
// as in bpf_marshal.cc.
struct Row {
  uint32_t command;
  uint32_t end;
  uint32_t flags = kNoField;
  uint32_t known_flags = 0;
  uint32_t fd = kNoField;
  ObjectKind kind = kAnyObject;
  int not_open = EBADF;
};
constexpr Row kRows[] = {
    {BPF_MAP_CREATE, 72},
    // Of the token's flag the daemon says that there are none.
    {BPF_PROG_LOAD, kAttrUnionSize, 44, 0x100ff},
    {BPF_OBJ_PIN, 20, 12, 0, 8, kAnyObject, EINVAL},
    {BPF_OBJ_GET, 20, 12, BPF_F_RDONLY | BPF_F_WRONLY},
    {BPF_PROG_TEST_RUN, 76, kNoField, 0, 0, ObjectKind::kProgram},
    {BPF_PROG_GET_NEXT_ID, 8},
    {BPF_MAP_GET_NEXT_ID, 8},
    {BPF_BTF_GET_NEXT_ID, 8},
    {BPF_LINK_GET_NEXT_ID, 8},
    {BPF_PROG_GET_FD_BY_ID, 4},
    {BPF_MAP_GET_FD_BY_ID, 12},
    {BPF_BTF_GET_FD_BY_ID, 16, 8, 0},
    {BPF_LINK_GET_FD_BY_ID, 4},
    {BPF_OBJ_GET_INFO_BY_FD, 16, kNoField, 0, 0, kAnyObject, EBADFD},
    {BPF_RAW_TRACEPOINT_OPEN, 24, kNoField, 0, 8, ObjectKind::kProgram},
    {BPF_BTF_LOAD, 40, 32, 0x10000},
    {BPF_TASK_FD_QUERY, 48},
    {BPF_MAP_FREEZE, 4, kNoField, 0, 0, ObjectKind::kMap},
    {BPF_LINK_CREATE, 60, kNoField, 0, 0, ObjectKind::kProgram},
    {BPF_LINK_UPDATE, 16, 8, BPF_F_REPLACE, 0, ObjectKind::kLink},
    {BPF_LINK_DETACH, 4, kNoField, 0, 0, ObjectKind::kLink},
    {BPF_ENABLE_STATS, 4},
    {BPF_PROG_BIND_MAP, 12, 8, 0, 0, ObjectKind::kProgram},
};

// Fields past the end of a short attr are zero.
uint32_t word(Bytes attr, uint32_t offset) {
  uint32_t value = 0;
  if (offset < attr.size())
    std::memcpy(&value, attr.data() + offset, std::min<size_t>(sizeof value, attr.size() - offset));
  return value;
}

bool zero_from(Bytes attr, uint32_t start, uint32_t end) {
  end = std::min<uint32_t>(end, static_cast<uint32_t>(attr.size()));
  return start >= end ||
         std::all_of(attr.begin() + start, attr.begin() + end, [](uint8_t byte) { return byte == 0; });
}

int check_descriptor(const Row& row, Bytes attr, const FdLookup& lookup) {
  if (row.fd == kNoField) return 0;
  const FdFacts facts = lookup(static_cast<int>(word(attr, row.fd)));
  if (!facts.open) return row.not_open;
  if (row.command == BPF_OBJ_PIN && (facts.kind == ObjectKind::kBtf || facts.kind == ObjectKind::kPerfEvent))
    return EINVAL;
  const bool fits = row.kind == kAnyObject ? facts.kind != ObjectKind::kNone : facts.kind == row.kind;
  return fits ? 0 : EINVAL;
}

// Both sizes of a test run come with their buffers, or neither.
bool has_half_a_context(Bytes attr) {
  const auto half = [&](uint32_t size, uint32_t pointer) {
    return (word(attr, size) != 0) != ((word(attr, pointer) | word(attr, pointer + 4)) != 0);
  };
  return half(40, 48) || half(44, 56);
}

}  // namespace

int check_attr(uint32_t command, Bytes attr, const FdLookup& lookup) {
  if (!zero_from(attr, kAttrUnionSize, UINT32_MAX)) return E2BIG;
  const Row* row = std::find_if(std::begin(kRows), std::end(kRows),
                                [&](const Row& each) { return each.command == command; });
  if (row == std::end(kRows)) return 0;
  if (!zero_from(attr, row->end, kAttrUnionSize)) return EINVAL;
  if (row->flags != kNoField && (word(attr, row->flags) & ~row->known_flags) != 0) return EINVAL;
  if (command == BPF_PROG_TEST_RUN && has_half_a_context(attr)) return EINVAL;
  if (command == BPF_PROG_LOAD && word(attr, 4) == 0) return E2BIG;  // before it reads the licence
  const bool path = command == BPF_OBJ_PIN || command == BPF_OBJ_GET;
  // A directory to start from is not to be had (kernel/pins.cc); what is got has no descriptor yet.
  if (path && word(attr, 16) != 0) return EINVAL;
  if (command == BPF_OBJ_GET && word(attr, 8) != 0) return EINVAL;
  if (const int error = check_descriptor(*row, attr, lookup); error != 0) return error;
  return path && word(attr, 0) == 0 && word(attr, 4) == 0 ? EFAULT : 0;
}

}  // namespace bpftime::loader
