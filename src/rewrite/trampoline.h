// Emits the code beside a site: saves what the programs clobber, fills in the part of pt_regs they read, runs them on the
// application's stack, goes on. Both live in one area shaped as pt_regs, so a register that is both is stored once. Programs
// whose running makes no difference (CodeUse::inert) are left out.
// Rules for whoever edits this:
//  1. A site is a function entry: the red zone and the flags are dead, rsp is 8 below a multiple of 16,
//     DF is clear. The same holds after a return, except that rax, rdx and the vector and x87 registers
//     carry the result.
//  2. Every general register is preserved, r11 and the vararg count in al included: compilers know which
//     registers a local function leaves alone (-fipa-ra). Programs preserve the callee-saved ones themselves.
//  3. Vector and x87 state is never touched: programs use general registers only. No pushf/popf: popf alone
//     costs more than all the rest. One exception: a function that returns a double and is ended by a program
//     gets its result in xmm0.
//  4. Same request, same bytes: trampolines are compared and reused by content.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "rewrite/rewrite.h"

namespace bpftime::rewrite {

struct Displaced;

struct Trampoline {
  std::vector<uint8_t> bytes;
  std::vector<PcFixup> fixups;
  uint32_t body = 0;  // offset of the displaced code
};

// Entry programs, the way to the return slot when there are return programs, displaced code,
// exit handler, constants.
Result<Trampoline> make_trampoline(const SiteRequest& request, const Displaced& displaced);

// Only a jump to `replacement`, and the displaced code beside it.
Result<Trampoline> make_redirect(const SiteRequest& request, const Displaced& displaced,
                                 uint64_t replacement);

}  // namespace bpftime::rewrite
