#include "kernel/perf_ring.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "kernel/object_table.h"

namespace bpftime::kernel {

namespace {

struct Ring {
  perf_event_mmap_page* header;
  uint8_t* data;
  uint64_t size;  // bytes, power of two
};

Ring ring_of(const PerfEvent& event) {
  return {reinterpret_cast<perf_event_mmap_page*>(event.ring.data()), event.ring.data() + kPageSize,
          event.ring.size() - kPageSize};
}

// Appends `bytes` if they fit; the head moves only after they are in place.
bool append(const Ring& ring, Bytes bytes) {
  const uint64_t head = ring.header->data_head;
  const uint64_t tail = std::atomic_ref(ring.header->data_tail).load(std::memory_order_acquire);
  // A tail the client made up must not make us write where unread records lie beyond the ring's own bounds: only
  // positions are masked below, so the worst is a garbled ring of its own.
  const uint64_t used = head - tail;
  if (used > ring.size || ring.size - used < bytes.size()) return false;
  for (size_t done = 0; done < bytes.size();) {
    const uint64_t at = (head + done) & (ring.size - 1);
    const size_t part = std::min<uint64_t>(bytes.size() - done, ring.size - at);
    std::memcpy(ring.data + at, bytes.data() + done, part);
    done += part;
  }
  std::atomic_ref(ring.header->data_head).store(head + bytes.size(), std::memory_order_release);
  return true;
}

struct LostRecord {
  perf_event_header header;
  uint64_t id, lost;
};

}  // namespace

Result<void> map_perf_ring(PerfEvent& event, uint64_t size) {
  const uint64_t data_size = size - kPageSize;
  if (size < 2 * kPageSize || size % kPageSize != 0 || !std::has_single_bit(data_size))
    return Error{EINVAL, "map perf event: " + std::to_string(size) + " bytes: not 1 + 2^n pages"};
  if (event.ring) {
    if (event.ring.size() == size) return {};
    return Error{EINVAL,
                 "map perf event: already mapped with " + std::to_string(event.ring.size()) + " bytes"};
  }
  if (::ftruncate(event.fd.get(), static_cast<off_t>(size + wire::kTrailerSize)) != 0)
    return Error::from_errno("size perf ring");
  // The first page held the trailer until now.
  const std::vector<uint8_t> zero(kPageSize);
  if (::pwrite(event.fd.get(), zero.data(), zero.size(), 0) != static_cast<ssize_t>(zero.size()))
    return Error::from_errno("clear perf ring header");
  if (auto written = ObjectTable::write_trailer(event); !written) return written;
  ::fcntl(event.fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  auto mapped = Mapping::shared(event.fd, size, PROT_READ | PROT_WRITE);
  if (!mapped) return mapped.error();
  event.ring = std::move(*mapped);
  auto* header = ring_of(event).header;
  header->version = 0;
  header->compat_version = 0;
  header->size = sizeof(perf_event_mmap_page);
  header->data_offset = kPageSize;
  header->data_size = data_size;
  return {};
}

namespace {

// The fields of a sample before PERF_SAMPLE_RAW, in the kernel's order. Of what nobody recorded (registers, addresses) we
// say 0; the time is that of the copy, a moment after the program's.
std::vector<uint8_t> sample_fields(const PerfEvent& event) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t time_ns =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  const uint64_t id = event.id, cpu = static_cast<uint32_t>(event.cpu), none = 0, one = 1;
  const std::pair<uint64_t, uint64_t> fields[] = {
      {PERF_SAMPLE_IDENTIFIER, id}, {PERF_SAMPLE_IP, none},   {PERF_SAMPLE_TID, none},
      {PERF_SAMPLE_TIME, time_ns},  {PERF_SAMPLE_ADDR, none}, {PERF_SAMPLE_ID, id},
      {PERF_SAMPLE_STREAM_ID, id},  {PERF_SAMPLE_CPU, cpu},   {PERF_SAMPLE_PERIOD, one},
      {PERF_SAMPLE_CALLCHAIN, none}};
  std::vector<uint8_t> out;
  for (const auto& [bit, value] : fields) {
    const Bytes bytes = as_bytes(value);
    if ((event.sample_type & bit) != 0) out.insert(out.end(), bytes.begin(), bytes.end());
  }
  return out;
}

}  // namespace

void write_perf_sample(PerfEvent& event, Bytes data) {
  if (!event.ring || event.paused) {
    ++event.lost;
    return;
  }
  // As the kernel lays out PERF_SAMPLE_RAW: u32 size, data, padding counted in the size, all a multiple of 8.
  const uint32_t raw_size = round_up(data.size() + sizeof(uint32_t), 8) - sizeof(uint32_t);
  const std::vector<uint8_t> fields = sample_fields(event);
  const size_t size = sizeof(perf_event_header) + fields.size() + sizeof raw_size + raw_size;
  if (size > UINT16_MAX) {  // perf_event_header::size is 16 bits
    ++event.lost;
    return;
  }
  std::vector<uint8_t> out;
  auto put = [&](Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); };
  // What was lost is said in one go with the record that fits again, never alone.
  if (event.lost != 0)
    put(as_bytes(LostRecord{{PERF_RECORD_LOST, 0, sizeof(LostRecord)}, event.id, event.lost}));
  put(as_bytes(perf_event_header{PERF_RECORD_SAMPLE, 0, static_cast<uint16_t>(size)}));
  put(fields);
  put(as_bytes(raw_size));
  put(data);
  out.resize(out.size() + raw_size - data.size());
  if (append(ring_of(event), out)) {
    event.lost = 0;
  } else {
    ++event.lost;
  }
}

}  // namespace bpftime::kernel
