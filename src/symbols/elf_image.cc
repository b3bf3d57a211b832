#include "symbols/elf_image.h"

#include <algorithm>
#include <map>

namespace bpftime::symbols {
namespace {

// Pointer encodings of .eh_frame (Linux Standard Base, "DWARF Exception Header Encoding").
constexpr uint8_t kEncodingOmit = 0xff, kFormatMask = 0x0f, kApplicationMask = 0x70;
constexpr uint8_t kAbsolute = 0x00, kUnsigned2 = 0x02, kUnsigned4 = 0x03, kUnsigned8 = 0x04;
constexpr uint8_t kSigned2 = 0x0a, kSigned4 = 0x0b, kSigned8 = 0x0c;
constexpr uint8_t kPcRelative = 0x10, kDataRelativeSigned4 = 0x3b;
constexpr size_t kUnwindEntriesMax = 4u << 20;

// An integer in one of the fixed-size formats, sign-extended.
std::optional<uint64_t> read_value(ByteReader& reader, uint8_t format) {
  switch (format & kFormatMask) {
    case kAbsolute:
    case kUnsigned8:
    case kSigned8:
      return reader.read<uint64_t>();
    case kUnsigned4:
      return reader.read<uint32_t>();
    case kSigned4:
      if (auto value = reader.read<int32_t>()) return static_cast<uint64_t>(int64_t{*value});
      return std::nullopt;
    case kUnsigned2:
      return reader.read<uint16_t>();
    case kSigned2:
      if (auto value = reader.read<int16_t>()) return static_cast<uint64_t>(int64_t{*value});
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

bool skip_leb128(ByteReader& reader) {
  for (int i = 0; i < 10; ++i) {
    const auto byte = reader.read<uint8_t>();
    if (!byte) return false;
    if ((*byte & 0x80) == 0) return true;
  }
  return false;
}

// The encoding of pc_begin in the FDEs of the CIE at `address`; kEncodingOmit when it cannot be told.
uint8_t fde_encoding(const ElfImage& image, uint64_t address) {
  constexpr uint64_t kCieBytesMax = 256;
  ByteReader reader(image.at_address(address, kCieBytesMax));
  const auto length = reader.read<uint32_t>();
  const auto id = reader.read<uint32_t>();
  const auto version = reader.read<uint8_t>();
  if (!length || !id || *id != 0 || !version || (*version != 1 && *version != 3)) return kEncodingOmit;
  std::string augmentation;
  for (;;) {
    const auto letter = reader.read<char>();
    if (!letter || augmentation.size() > 8) return kEncodingOmit;
    if (*letter == 0) break;
    augmentation += *letter;
  }
  if (augmentation.empty()) return kAbsolute;
  if (augmentation.front() != 'z') return kEncodingOmit;
  // Code and data alignment, return address register (a byte in version 1), length of what follows.
  if (!skip_leb128(reader) || !skip_leb128(reader) || !skip_leb128(reader) || !skip_leb128(reader))
    return kEncodingOmit;
  for (const char letter : augmentation.substr(1)) {
    if (letter == 'S' || letter == 'B') continue;
    const auto encoding = reader.read<uint8_t>();
    if (!encoding) return kEncodingOmit;
    if (letter == 'R') return *encoding;
    if (letter == 'P' && !read_value(reader, *encoding)) return kEncodingOmit;
    if (letter != 'P' && letter != 'L') return kEncodingOmit;
  }
  return kAbsolute;
}

// Decodes the FDE at `address`.
std::optional<FunctionBounds> read_fde(const ElfImage& image, uint64_t address,
                                       std::map<uint64_t, uint8_t>& encodings) {
  ByteReader reader(image.at_address(address, 32));
  const auto length = reader.read<uint32_t>();
  const auto cie_distance = reader.read<uint32_t>();
  if (!length || *length == 0 || *length == 0xffffffff || !cie_distance || *cie_distance == 0)
    return std::nullopt;
  const uint64_t cie = address + 4 - *cie_distance;
  auto known = encodings.find(cie);
  if (known == encodings.end()) known = encodings.emplace(cie, fde_encoding(image, cie)).first;
  const uint8_t encoding = known->second;
  const uint8_t application = encoding & kApplicationMask;
  if (encoding == kEncodingOmit || (application != kAbsolute && application != kPcRelative))
    return std::nullopt;
  const uint64_t field = address + reader.offset();
  auto start = read_value(reader, encoding);
  const auto size = read_value(reader, encoding & 0x07);  // a length: same width, unsigned
  if (!start || !size) return std::nullopt;
  if (application == kPcRelative) *start += field;
  if (*size == 0 || *start + *size < *start) return std::nullopt;
  return FunctionBounds{*start, *start + *size};
}

}  // namespace

std::optional<Bytes> ElfImage::part(uint64_t offset, uint64_t size) const {
  if (offset > bytes.size() || size > bytes.size() - offset) return std::nullopt;
  return all().subspan(offset, size);
}

Bytes ElfImage::at_address(uint64_t address, uint64_t size) const {
  for (const Elf64_Phdr& segment : program_headers) {
    if (segment.p_type != PT_LOAD || address < segment.p_vaddr) continue;
    const uint64_t inside = address - segment.p_vaddr;
    if (inside >= segment.p_filesz) continue;
    // p_offset + p_filesz lies in the file: checked when it was opened.
    return all().subspan(segment.p_offset + inside, std::min(size, segment.p_filesz - inside));
  }
  return {};
}

std::vector<FunctionBounds> read_unwind_bounds(const ElfImage& image) {
  std::vector<FunctionBounds> bounds;
  for (const Elf64_Phdr& segment : image.program_headers) {
    if (segment.p_type != PT_GNU_EH_FRAME) continue;
    const uint64_t base = segment.p_vaddr;
    ByteReader reader(image.at_address(base, segment.p_filesz));
    const auto version = reader.read<uint8_t>();
    const auto pointer_encoding = reader.read<uint8_t>();
    const auto count_encoding = reader.read<uint8_t>();
    const auto table_encoding = reader.read<uint8_t>();
    if (!table_encoding || *version != 1 || *table_encoding != kDataRelativeSigned4) continue;
    if (!read_value(reader, *pointer_encoding)) continue;
    const auto count = read_value(reader, *count_encoding);
    if (!count || *count > kUnwindEntriesMax) continue;
    std::map<uint64_t, uint8_t> encodings;
    for (uint64_t i = 0; i < *count; ++i) {
      const auto start = reader.read<int32_t>();
      const auto fde = reader.read<int32_t>();
      if (!start || !fde) break;
      if (auto found = read_fde(image, base + static_cast<uint64_t>(int64_t{*fde}), encodings))
        bounds.push_back(*found);
    }
  }
  std::sort(bounds.begin(), bounds.end(), [](const auto& a, const auto& b) { return a.start < b.start; });
  return bounds;
}

}  // namespace bpftime::symbols
