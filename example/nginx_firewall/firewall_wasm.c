/* The matching engine for a wasm host: the host copies table, path and arguments into our memory and asks. */
#include "rules_match.h"

static struct fw_table table;
static fw_u8 path[FW_PATH_MAX];
static fw_u8 args[FW_ARGS_MAX];

#define EXPORT(name) __attribute__((export_name(#name))) name

struct fw_table *EXPORT(table_at)(void) { return &table; }
fw_u8 *EXPORT(path_at)(void) { return path; }
fw_u8 *EXPORT(args_at)(void) { return args; }

fw_u32 EXPORT(check)(fw_u32 path_length, fw_u32 args_length) {
  fw_u32 verdict = fw_match_path(&table, path, path_length);
  return verdict != FW_PASS ? verdict : fw_match_args(&table, args, args_length);
}
