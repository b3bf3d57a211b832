// Bounds-checked reading of hostile bytes: files, sockets, shared memory copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace bpftime {

using Bytes = std::span<const uint8_t>;

// A cursor over a byte span. Every read either succeeds whole or leaves the cursor where it was and returns nullopt.
class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : bytes_(bytes) {}

  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }
  bool at_end() const { return remaining() == 0; }

  template <typename T>
  std::optional<T> read() {
    static_assert(std::is_trivially_copyable_v<T>);
    if (remaining() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  std::optional<Bytes> read_bytes(size_t count) {
    if (remaining() < count) return std::nullopt;
    Bytes out = bytes_.subspan(offset_, count);
    offset_ += count;
    return out;
  }

  bool seek(size_t offset) {
    if (offset > bytes_.size()) return false;
    offset_ = offset;
    return true;
  }

 private:
  Bytes bytes_;
  size_t offset_ = 0;
};

// The T at `offset`, or nullopt when it does not fit. Overflow-safe.
template <typename T>
std::optional<T> read_at(Bytes bytes, size_t offset) {
  ByteReader reader(bytes);
  if (!reader.seek(offset)) return std::nullopt;
  return reader.read<T>();
}

// The NUL-terminated string at `offset`, or nullopt when it is unterminated or out of range. Borrows from `bytes`.
inline std::optional<std::string_view> string_at(Bytes bytes, size_t offset) {
  if (offset >= bytes.size()) return std::nullopt;
  const void* end = std::memchr(bytes.data() + offset, 0, bytes.size() - offset);
  if (end == nullptr) return std::nullopt;
  const auto* begin = reinterpret_cast<const char*>(bytes.data() + offset);
  return std::string_view(begin, static_cast<const char*>(end) - begin);
}

template <typename T>
Bytes as_bytes(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return Bytes(reinterpret_cast<const uint8_t*>(&value), sizeof(T));
}

}  // namespace bpftime
