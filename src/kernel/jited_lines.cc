#include "kernel/jited_lines.h"

#include <algorithm>
#include <optional>

namespace bpftime::kernel {
namespace {

// Where each record's code begins; nullopt: it has none.
std::vector<std::optional<uint32_t>> begin_of_lines(std::span<const uint32_t> first_insns,
                                                    std::span<const compiler::CodeLine> code) {
  std::vector<std::optional<uint32_t>> begins(first_insns.size());
  for (const compiler::CodeLine& part : code) {
    const auto behind = std::upper_bound(first_insns.begin(), first_insns.end(), part.insn);
    if (behind == first_insns.begin()) continue;
    auto& begin = begins[static_cast<size_t>(behind - first_insns.begin()) - 1];
    if (!begin || part.offset < *begin) begin = part.offset;
  }
  return begins;
}

}  // namespace

std::vector<uint32_t> jited_line_offsets(std::span<const uint32_t> first_insns,
                                         std::span<const compiler::CodeLine> code, uint32_t text_size) {
  const size_t count = first_insns.size();
  if (count == 0 || count > text_size) return {};
  auto begins = begin_of_lines(first_insns, code);
  begins[0] = 0;
  // As many lines as possible keep their places: the longest sequence that ascends and leaves room, a byte each, for the
  // records between its members. That is one of `begin - index` that does not descend; chain[n] ends the best of length n + 1.
  std::vector<size_t> chain;
  std::vector<std::optional<size_t>> before(count);
  const auto slack = [&](size_t record) { return *begins[record] - record; };
  for (size_t record = 0; record < count; ++record) {
    if (!begins[record] || *begins[record] < record || *begins[record] + (count - record) > text_size)
      continue;
    // Never in front of the first record: it has no slack, and nobody less.
    const auto place = std::upper_bound(chain.begin(), chain.end(), slack(record),
                                        [&](uint64_t wanted, size_t each) { return wanted < slack(each); });
    if (place != chain.begin()) before[record] = *(place - 1);
    if (place == chain.end()) {
      chain.push_back(record);
    } else {
      *place = record;
    }
  }
  // From the end: members of the chain where their code is, the others right before what follows.
  std::vector<uint32_t> offsets(count);
  std::optional<size_t> kept = chain.back();
  uint32_t next = text_size;
  for (size_t record = count; record-- > 0;) {
    const bool keeps = kept && *kept == record;
    next = keeps ? *begins[record] : next - 1;
    if (keeps) kept = before[record];
    offsets[record] = next;
  }
  return offsets;
}

}  // namespace bpftime::kernel
