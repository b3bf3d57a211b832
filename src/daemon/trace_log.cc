#include "daemon/trace_log.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "base/bytes.h"
#include "helpers/trace_record.h"
#include "maps/map.h"

namespace bpftime::daemon {

namespace {

// As the kernel prints it: "            comm-tid     [cpu] ..... seconds.micros: bpf_trace_printk: text".
std::string format_line(const helpers::TraceRecord& record, std::string_view text) {
  char comm[sizeof record.comm + 1] = {};
  std::memcpy(comm, record.comm, sizeof record.comm);
  for (char& c : comm)
    if (c != 0 && (c < ' ' || c > '~')) c = '?';
  char prefix[128];
  std::snprintf(prefix, sizeof prefix, "%16s-%-7u [%03u] ..... %5llu.%06llu: bpf_trace_printk: ", comm,
                record.tid, record.cpu, static_cast<unsigned long long>(record.time_ns / 1'000'000'000),
                static_cast<unsigned long long>(record.time_ns / 1000 % 1'000'000));
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  return prefix + std::string(text) + "\n";
}

}  // namespace

void TraceLog::drain(kernel::Map& ring) {
  const maps::MapView view{ring.memory.data(), &ring.spec};
  std::array<uint8_t, helpers::kTraceTextOffset + helpers::kTraceTextMax> buffer;
  for (;;) {
    const int64_t size = maps::ring_consume(view, buffer.data(), buffer.size());
    if (size < 0) return;
    const Bytes bytes(buffer.data(), std::min<size_t>(size, buffer.size()));
    helpers::TraceRecord record{};
    if (bytes.size() < helpers::kTraceTextOffset) continue;
    std::memcpy(&record, bytes.data(), helpers::kTraceTextOffset);
    const Bytes text = bytes.subspan(helpers::kTraceTextOffset);
    if (record.text_length > text.size()) continue;
    append(record.lineage,
           format_line(record, {reinterpret_cast<const char*>(text.data()), record.text_length}));
  }
}

void TraceLog::append(uint32_t lineage, std::string text) {
  entries_.push_back({++last_number_, lineage, std::move(text)});
  bytes_ += entries_.back().text.size();
  while (bytes_ > kTraceBytesMax) {
    bytes_ -= entries_.front().text.size();
    entries_.pop_front();
  }
}

std::string TraceLog::snapshot(uint64_t after) const {
  std::string lines;
  size_t count = 0;
  for (const TraceEntry& entry : entries_) {
    if (entry.number <= after) continue;
    lines += entry.text;
    ++count;
  }
  return "# tracer: nop\n#\n# entries-in-buffer/entries-written: " + std::to_string(count) + "/" +
         std::to_string(last_number_) + "\n#\n#           TASK-PID     CPU#  FLAGS  TIMESTAMP  FUNCTION\n" +
         lines;
}

}  // namespace bpftime::daemon
