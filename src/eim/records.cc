#include "eim/records.h"

#include <map>

namespace bpftime::eim {
namespace {

Error malformed(const std::string& path, uint64_t offset, const std::string& why) {
  return Error{EINVAL, "manifest: " + path + ": record at offset " + std::to_string(offset) + ": " + why};
}

// A string of `size` bytes with its NUL at the end and nowhere else, of printable characters.
std::optional<std::string> read_text(ByteReader& reader, uint32_t size) {
  if (size == 0 || size > kRecordTextMax) return std::nullopt;
  const auto bytes = reader.read_bytes(size);
  if (!bytes || bytes->back() != 0) return std::nullopt;
  std::string text(bytes->begin(), bytes->end() - 1);
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return std::nullopt;
  }
  return text;
}

Result<Record> read_record(ByteReader& reader, const symbols::RecordSection& section,
                           const std::string& path) {
  Record record;
  record.section = section.index;
  record.offset = reader.offset();
  const auto bad = [&](const std::string& why) { return malformed(path, record.offset, why); };
  const auto head = reader.read<eim_record_head>();
  if (!head || head->magic != EIM_MAGIC) return bad("not a record; try rebuilding with this version's eim.h");
  if (head->kind < EIM_KIND_STATE || head->kind > EIM_KIND_BUFFER)
    return bad("kind " + std::to_string(head->kind) + " is not known; the header is newer than this command");
  record.kind = head->kind;
  record.operation = head->operation;
  if (record.kind == EIM_KIND_STATE && record.operation != EIM_OPERATION_READ &&
      record.operation != EIM_OPERATION_WRITE)
    return bad("unknown operation");
  if (head->constraint_slots > EIM_CONSTRAINTS_MAX) return bad("too many constraints");
  if (const auto pointer = section.pointers.find(reader.offset()); pointer != section.pointers.end())
    record.pointer = pointer->second;
  if (!reader.read<uint64_t>()) return bad("cut off");
  bool ended = false;
  for (uint32_t i = 0; i < head->constraint_slots; ++i) {
    const auto constraint = reader.read<eim_constraint>();
    if (!constraint) return bad("cut off");
    if (constraint->kind > EIM_COST)
      return bad("constraint " + std::to_string(constraint->kind) + " is not known");
    ended |= constraint->kind == 0;
    if (!ended)
      record.constraints.push_back(
          {constraint->kind, constraint->argument, constraint->low, constraint->high});
  }
  auto name = read_text(reader, head->name_size);
  auto target = read_text(reader, head->target_size);
  auto file = read_text(reader, head->file_size);
  if (!name || !target || !file || name->empty()) return bad("its texts are damaged");
  record.name = std::move(*name);
  record.target = std::move(*target);
  record.place = {std::move(*file), head->line};
  return record;
}

bool same(const Record& a, const Record& b) {
  if (a.target != b.target || a.operation != b.operation || a.pointer.symbol != b.pointer.symbol ||
      a.constraints.size() != b.constraints.size())
    return false;
  for (size_t i = 0; i < a.constraints.size(); ++i) {
    const Constraint &x = a.constraints[i], &y = b.constraints[i];
    if (x.kind != y.kind || x.argument != y.argument || x.low != y.low || x.high != y.high) return false;
  }
  return true;
}

}  // namespace

const char* Record::macro() const {
  switch (kind) {
    case EIM_KIND_STATE:
      return "EIM_STATE_DEFINE";
    case EIM_KIND_HFUNC:
      return constraints.empty() ? "EIM_HFUNC_DEFINE" : "EIM_HFUNC_DEFINE_WITH_CONSTRAINTS";
    case EIM_KIND_ENTRY:
      return "EIM_EXTENSION_ENTRY_DEFINE";
    case EIM_KIND_ENTRY_ARGS:
      return "EIM_ENTRY_ARGS";
    case EIM_KIND_HFUNC_ARGS:
      return "EIM_HFUNC_ARGS";
    case EIM_KIND_ENTRY_PROMISES:
      return "EIM_ENTRY_PROMISES";
    default:
      return "EIM_BUFFER";
  }
}

Error Record::error(const std::string& path, const std::string& why) const {
  return Error{EINVAL,
               "manifest: " + path + ": " + name + ": " + macro() + " at " + place.text() + ": " + why};
}

Result<std::vector<Record>> read_records(const symbols::RecordFile& file, const std::string& path) {
  std::vector<Record> records;
  std::map<std::pair<uint32_t, std::string>, size_t> known;
  for (const symbols::RecordSection& section : file.sections) {
    ByteReader reader(section.bytes);
    while (reader.remaining() >= sizeof(uint64_t)) {
      // Zeros between records: the linker's padding.
      if (*read_at<uint64_t>(section.bytes, reader.offset()) == 0) {
        (void)reader.read<uint64_t>();
        continue;
      }
      auto record = read_record(reader, section, path);
      if (!record) return record.error();
      const uint64_t padded = (reader.offset() + 7) / 8 * 8;
      if (!reader.seek(padded)) (void)reader.seek(section.bytes.size());
      std::string key = record->name;
      if (record->kind == EIM_KIND_BUFFER) key += "|" + record->target;
      const auto [entry, added] = known.try_emplace({record->kind, key}, records.size());
      if (!added) {
        const Record& first = records[entry->second];
        if (same(first, *record)) continue;
        return record->error(path, "declared before, differently, at " + first.place.text());
      }
      if (records.size() == kRecordsMax) return malformed(path, record->offset, "too many records");
      records.push_back(std::move(*record));
    }
  }
  return records;
}

}  // namespace bpftime::eim
