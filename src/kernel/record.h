// Writing and reading the bytes of a record (record.cc). Internal to this folder.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "kernel/object.h"

namespace bpftime::kernel {

// What every record starts with. Raise kRecordLayout with any change of what follows (kernel_test.cc notices some), and begin
// again at 1 with each wire::kAbiVersion: records hold structures of it. A keeper lives on while its program is replaced, so a
// worker may well find records of another build.
inline constexpr uint16_t kRecordLayout = 1;
struct RecordVersion {
  uint16_t abi = wire::kAbiVersion, layout = kRecordLayout;
  bool operator==(const RecordVersion&) const = default;
};

class Writer {
 public:
  template <typename T>
  Writer& put(const T& value) {
    const Bytes bytes = as_bytes(value);
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Writer& put(const std::string& text) { return put_block(text.data(), text.size()); }
  Writer& put(const std::vector<uint8_t>& bytes) { return put_block(bytes.data(), bytes.size()); }
  std::vector<uint8_t> take() { return std::move(out_); }

 private:
  Writer& put_block(const void* data, size_t size) {
    put(static_cast<uint32_t>(size));
    const auto* bytes = static_cast<const uint8_t*>(data);
    out_.insert(out_.end(), bytes, bytes + size);
    return *this;
  }
  std::vector<uint8_t> out_;
};

// Reads what Writer wrote; `ok` turns false at the first value that is not there.
struct Reader {
  ByteReader bytes;
  bool ok = true;

  template <typename T>
  T get() {
    auto value = bytes.read<T>();
    ok = ok && value.has_value();
    return value.value_or(T{});
  }
  std::vector<uint8_t> block() {
    auto data = bytes.read_bytes(get<uint32_t>());
    ok = ok && data.has_value();
    return data ? std::vector<uint8_t>(data->begin(), data->end()) : std::vector<uint8_t>{};
  }
  std::string text() {
    auto data = block();
    return {data.begin(), data.end()};
  }
};

// An extension class as a program's record holds it: the policy's files may be gone when it is read.
void put_host_class(Writer& out, const HostClass& host);
HostClass get_host_class(Reader& in);

}  // namespace bpftime::kernel
