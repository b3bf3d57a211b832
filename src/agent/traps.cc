// Leads a thread on that met a trapping byte of ours: a site shorter than a jump, a jump into the middle of a patch, or a
// patch being written at this moment.
//
// Rules for whoever edits this:
//  1. Runs in a signal handler, while the daemon may be changing the records: every field is read once, `version` before and
//     after the rest, and what does not fit together means "run the instruction again", never "not ours".
//  2. Whoever runs an instruction again must end: after kTriesMax times per trap and version it is the host's own. Not once: a
//     signal handler that interrupted this one may have met the same trap, and been here before us.
#include "agent/traps.h"

#include "agent/thread.h"
#include "wire/target_context.h"

namespace bpftime::agent {
namespace {

using wire::TargetContext;
using wire::TrapRecord;
using wire::TrapState;

constexpr uint32_t kTriesMax = 100;  // more than signal handlers that interrupt one another

template <typename T>
T load(const T& field) {
  T value;
  __atomic_load(&field, &value, __ATOMIC_ACQUIRE);
  return value;
}

enum class Answer { kNotOurs, kGoOn, kAgain };

Answer ask(const TrapRecord& record, uint32_t place, uint64_t& go_on, uint32_t& version) {
  version = load(record.version);
  const TrapState state = load(record.state);
  go_on = load(record.go_on[place]);
  if (load(record.version) != version) return Answer::kAgain;
  if (state != TrapState::kOn) return Answer::kAgain;
  return go_on != 0 ? Answer::kGoOn : Answer::kNotOurs;
}

}  // namespace

bool lead_on(uint64_t& rip) {
  const TargetContext* context = bpftime_agent_context;
  // A context of before version 3 has no such table.
  if (context == nullptr || context->header.abi_version != wire::kAbiVersion) return false;
  bool again = false;
  uint64_t key = 0;
  for (uint32_t place = 0; place < wire::kTrapPlaces; ++place) {
    const uint64_t site = rip - place;
    uint32_t slot = wire::trap_hash(site);
    for (uint32_t i = 0; i < wire::kTrapProbesMax; ++i, slot = (slot + 1) % wire::kTrapIndexSize) {
      const uint16_t entry = load(context->trap_index[slot]);
      if (entry == wire::kIndexEmpty) break;
      if (entry == wire::kIndexGone || entry > wire::kPatchesMax) continue;
      const TrapRecord& record = context->traps[entry - 1];
      if (load(record.address) != site) continue;
      uint64_t go_on;
      uint32_t version;
      const Answer answer = ask(record, place, go_on, version);
      if (answer == Answer::kGoOn) {
        bpftime_thread.tried_again = 0;
        rip = go_on;
        return true;
      }
      if (answer != Answer::kAgain) continue;
      again = true;
      key = rip ^ uint64_t { version } << 48 ^ uint64_t { version } >> 16 << 56 ^ 1;
    }
  }
  if (!again) return false;
  Thread& thread = bpftime_thread;
  thread.tries = thread.tried_again == key ? thread.tries + 1 : 1;
  thread.tried_again = key;
  return thread.tries <= kTriesMax;  // rip is as it was
}

}  // namespace bpftime::agent
