#include "target/memory.h"

#include <unistd.h>

#include <algorithm>
#include <string_view>

namespace bpftime::target {
namespace {

constexpr uint64_t kScanBytesMax = 16u << 20;  // per mapping: libc's text is 1.5 MiB

constexpr std::string_view kSystemCall("\x0f\x05", 2);
constexpr std::string_view kSystemCallReturn("\x0f\x05\xc3", 3);
constexpr std::string_view kSignalReturnRax("\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05",
                                            9);                                  // mov $15, %rax; syscall
constexpr std::string_view kSignalReturnEax("\xb8\x0f\x00\x00\x00\x0f\x05", 7);  // mov $15, %eax; syscall

void look_for(std::string_view needle, std::string_view text, uint64_t base, uint64_t& found) {
  if (found != 0) return;
  const size_t at = text.find(needle);
  if (at != std::string_view::npos) found = base + at;
}

// The agent first: it has all of them, nobody patches it, and it is small. Then libc, which has them until its system calls are
// patched; then the vdso and the rest.
int rank(const MappedRegion& region) {
  const std::string& path = region.path;
  if (path.ends_with("/libbpftime-agent.so")) return -1;
  if (path.find("/libc.") != std::string::npos || path.find("/libc-") != std::string::npos) return 0;
  if (path == "[vdso]") return 1;
  return path.starts_with("/") ? 2 : 3;
}

}  // namespace

bool read_memory(const Fd& memory, uint64_t address, void* into, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = ::pread(memory.get(), static_cast<char*>(into) + done, size - done,
                                  static_cast<off_t>(address + done));
    if (count <= 0) return false;
    done += count;
  }
  return true;
}

bool write_memory(const Fd& memory, uint64_t address, const void* from, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = ::pwrite(memory.get(), static_cast<const char*>(from) + done, size - done,
                                   static_cast<off_t>(address + done));
    if (count <= 0) return false;
    done += count;
  }
  return true;
}

Gadgets find_gadgets(const Fd& memory, const std::vector<MappedRegion>& regions) {
  std::vector<const MappedRegion*> executable;
  for (const MappedRegion& region : regions) {
    // Not the [vsyscall] page: it is emulated. Not writable code: it may change under us.
    if (region.executable && !region.writable && region.path != "[vsyscall]") executable.push_back(&region);
  }
  std::stable_sort(executable.begin(), executable.end(),
                   [](const MappedRegion* a, const MappedRegion* b) { return rank(*a) < rank(*b); });
  Gadgets gadgets;
  for (const MappedRegion* region : executable) {
    std::vector<char> text(std::min(region->end - region->start, kScanBytesMax));
    if (!read_memory(memory, region->start, text.data(), text.size())) continue;
    const std::string_view view(text.data(), text.size());
    look_for(kSystemCall, view, region->start, gadgets.system_call);
    look_for(kSystemCallReturn, view, region->start, gadgets.system_call_return);
    look_for(kSignalReturnRax, view, region->start, gadgets.signal_return);
    look_for(kSignalReturnEax, view, region->start, gadgets.signal_return);
    if (gadgets.system_call_return != 0 && gadgets.signal_return != 0) break;
  }
  return gadgets;
}

bool still_there(const Fd& memory, const Gadgets& gadgets) {
  const auto holds = [&](uint64_t address, std::initializer_list<std::string_view> any) {
    return address != 0 && std::any_of(any.begin(), any.end(), [&](std::string_view wanted) {
             char bytes[16];
             return read_memory(memory, address, bytes, wanted.size()) &&
                    std::string_view(bytes, wanted.size()) == wanted;
           });
  };
  return holds(gadgets.system_call, {kSystemCall}) &&
         holds(gadgets.system_call_return, {kSystemCallReturn}) &&
         holds(gadgets.signal_return, {kSignalReturnRax, kSignalReturnEax});
}

bool CallCode::touches(uint64_t start, uint64_t end) const {
  constexpr uint64_t kLongest = kSignalReturnRax.size();
  for (const uint64_t at : {system_call, system_call_return, signal_return})
    if (at != 0 && start < at + kLongest && at < end) return true;
  return false;
}

bool is_private_writable(const std::vector<MappedRegion>& regions, uint64_t start, uint64_t end) {
  for (const MappedRegion& region : regions) {
    if (start >= region.start && end <= region.end && start < end) return region.writable && !region.shared;
  }
  return false;
}

}  // namespace bpftime::target
