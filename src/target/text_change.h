// Replaces the bytes at patched sites, also while threads run through them.
// Rules for whoever edits this:
//  1. At any moment each thread must find a whole instruction wherever it may be: old, new, or one byte that traps.
//  2. A processor may have fetched bytes long before it runs them: what it could have fetched together may only change together
//     with a barrier (StoppedProcess::synchronize_cores) in between, except for single bytes that trap or begin an old or new
//     instruction whose other bytes are in place for all.
//  3. The trap records that lead threads on (wire::TrapRecord) are in place before the first call here, and leave after it.
#pragma once

#include <span>

#include "target/stopped.h"
#include "wire/target_context.h"

namespace bpftime::target {

struct TextChange {
  uint64_t address;
  uint32_t length;  // <= wire::kPatchBytesMax
  uint8_t
      boundaries;  // bit k: an instruction begins at byte k (1 … 4) of the original, and a thread may come there
  bool patching;  // `to` is patched text: its boundary bytes trap; false: it is the original
  uint8_t now[wire::kPatchBytesMax], to[wire::kPatchBytesMax];
};

enum class Threads {
  kStopped,  // all, and none stands inside a site
  kRun,      // the signal guard is in place; every boundary byte of patched text traps
};

// All changes share their barriers. On an error the text is as some moment of the change left it: whole for every thread, and
// a later change_text() from what is there by then goes on from it.
Result<void> change_text(StoppedProcess& process, std::span<const TextChange> changes, Threads threads);

}  // namespace bpftime::target
