// Machine code's lines of source as BPF_OBJ_GET_INFO_BY_FD tells them: one address for each record of line_info, ascending.
#pragma once

#include <span>
#include <vector>

#include "compiler/line_table.h"

namespace bpftime::kernel {

// `first_insns`: where each line_info record begins, ascending. `code`: which instruction each part of the code is from.
// `text_size`: bytes of code. Returns an offset for each record, from 0 on and strictly ascending, which is what readers
// (libbpf's bpf_prog_linfo) rely on. Linux's compiler keeps the program's order, ours does not: where a line's code has moved
// before that of an earlier line, or there is none of its own, the record gets a place just before the next line's. Empty when
// there is no room for that: fewer bytes of code than lines.
std::vector<uint32_t> jited_line_offsets(std::span<const uint32_t> first_insns,
                                         std::span<const compiler::CodeLine> code, uint32_t text_size);

}  // namespace bpftime::kernel
