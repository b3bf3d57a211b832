/* The firewall's matching engine, once for all: an nginx module, a BPF program, a wasm module.
 *
 * rules.py compiles all rules into one automaton; here is the walk: one step per byte, whatever the number of rules.
 * For whoever edits this:
 *  1. No libc, no globals, no recursion; loops bounded by constants. Linux's verifier must be able to follow.
 *  2. Any table is memory safe, a hostile one included: `rows` has room for the largest state and the largest class, so
 *     that no step needs a check. Tables are edited while they are walked.
 *  3. What is longer than can be read is a verdict of its own (FW_TOO_LONG), never passed unread.
 */
#ifndef RULES_MATCH_H
#define RULES_MATCH_H

typedef __UINT8_TYPE__ fw_u8;
typedef __UINT16_TYPE__ fw_u16;
typedef __UINT32_TYPE__ fw_u32;
typedef __UINT64_TYPE__ fw_u64;

#define FW_MAGIC 0x31307766u /* "fw01" */
#define FW_RULES_MAX 62u
#define FW_PATH_MAX 512u  /* bytes */
#define FW_ARGS_MAX 1024u /* bytes, before decoding */

/* Verdicts: 0 passes, 1..FW_RULES_MAX the rule that fits, FW_TOO_LONG. Counters are indexed by them. */
#define FW_PASS 0u
#define FW_TOO_LONG 63u
#define FW_VERDICTS 64u

/* The automaton: rows of 16-bit entries. A row's first entry is the verdict so far, the others are the states that follow,
 * by class of byte. A state is the place of its row, in units of two entries; `class_of` gives places in a row, in bytes,
 * so that a step is two loads, two additions and a shift. A rule that has fitted has a row of its own that is never left.
 * %XX is decoded by the automaton itself: rows in which an escape has begun. */
#define FW_STATES_END 65536u
struct fw_table {
  fw_u32 magic;
  fw_u32 rules;
  fw_u16 start_path;
  fw_u16 start_args;
  fw_u32 reserved;
  fw_u8 class_of[256];
  fw_u8 rows[FW_STATES_END * 4 + 256];
};

/* The entry `place` bytes into the row of `state` (16 bits or less). */
static inline __attribute__((always_inline)) fw_u64 fw_entry(const struct fw_table *table, fw_u64 state, fw_u8 place) {
  fw_u16 entry;
  __builtin_memcpy(&entry, __builtin_assume_aligned(table->rows + (state << 2) + place, 2), sizeof(entry));
  return entry;
}

static inline __attribute__((always_inline)) fw_u64 fw_step(const struct fw_table *table, fw_u64 state, fw_u8 byte) {
  return fw_entry(table, state, table->class_of[byte]);
}

static inline __attribute__((always_inline)) fw_u32 fw_verdict(const struct fw_table *table, fw_u64 state) {
  return fw_entry(table, state, 0) % FW_VERDICTS;
}

/* All of a text from `state`. Four steps a turn: counting costs as much as half a step. */
static inline __attribute__((always_inline)) fw_u64 fw_walk(const struct fw_table *table, fw_u64 state, const fw_u8 *data,
                                                            fw_u64 length) {
  fw_u64 i = 0;
  if (length >= 4) {
    const fw_u64 last = length - 3;
    for (; i < last; i += 4) {
      state = fw_step(table, state, data[i]);
      state = fw_step(table, state, data[i + 1]);
      state = fw_step(table, state, data[i + 2]);
      state = fw_step(table, state, data[i + 3]);
    }
  }
  for (; i < length; ++i) state = fw_step(table, state, data[i]);
  return state;
}

static inline __attribute__((always_inline)) fw_u32 fw_match_path(const struct fw_table *table, const fw_u8 *data,
                                                                  fw_u64 length) {
  if (length > FW_PATH_MAX) return FW_TOO_LONG;
  return fw_verdict(table, fw_walk(table, table->start_path, data, length));
}

static inline __attribute__((always_inline)) fw_u32 fw_match_args(const struct fw_table *table, const fw_u8 *data,
                                                                  fw_u64 length) {
  if (length > FW_ARGS_MAX) return FW_TOO_LONG;
  return fw_verdict(table, fw_walk(table, table->start_args, data, length));
}

#endif
