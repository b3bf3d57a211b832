// The uprobe PMU as perf_event_attr names it.
#pragma once

#include <cstdint>
#include <cstdio>

namespace bpftime::kernel {

inline constexpr uint64_t kUprobeReturnBit = 1;  // perf_event_attr::config, as sysfs' format/retprobe says: config:0

// The number our interposer's virtual /sys/bus/event_source/devices/uprobe/type shows.
inline constexpr uint32_t kUprobePmuType = 0x6270;

// True for our number and for the machine's own (a client may have read the real file).
inline bool is_uprobe_pmu(uint32_t type) {
  static const uint32_t machines = [] {
    uint32_t value = kUprobePmuType;
    if (FILE* file = ::fopen("/sys/bus/event_source/devices/uprobe/type", "re")) {
      if (::fscanf(file, "%u", &value) != 1) value = kUprobePmuType;
      ::fclose(file);
    }
    return value;
  }();
  return type == kUprobePmuType || type == machines;
}

}  // namespace bpftime::kernel
