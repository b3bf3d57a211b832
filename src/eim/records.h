// The bytes of bpftime/eim.h's records, checked, without types. Input is hostile.
#pragma once

#include <bpftime/eim.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "eim/manifest.h"
#include "symbols/records.h"

namespace bpftime::eim {

inline constexpr size_t kRecordsMax = 8192;  // of one file
inline constexpr size_t kRecordTextMax = 4096;
inline constexpr char kEmbeddedTypesSection[] = ".eim.btf";

struct Record {
  uint32_t kind = 0;       // enum eim_kind
  uint32_t operation = 0;  // enum eim_operation, of states
  std::string name, target;
  Place place;
  std::vector<Constraint> constraints;  // kinds known; nothing else checked
  symbols::RecordSection::Pointer pointer;
  uint32_t section = 0;  // with `offset`: where the record starts
  uint64_t offset = 0;

  const char* macro() const;
  Error error(const std::string& path, const std::string& why) const;
};

// Identical declarations (a macro in a header that several sources include) count once.
Result<std::vector<Record>> read_records(const symbols::RecordFile& file, const std::string& path);

}  // namespace bpftime::eim
