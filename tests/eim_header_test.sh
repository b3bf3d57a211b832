#!/bin/bash
# eim_header_test.sh SOURCE_DIR: bpftime/eim.h compiles clean where it must, is refused with words that help where it must, and
# its records survive --gc-sections and strip. Every case in C99 and C++11, with each compiler that is here.
set -uo pipefail
source_dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 cases=0
compilers=()
for pair in "gcc g++" "clang-14 clang++-14" "clang-19 clang++-19"; do
  read -r cc cxx <<<"$pair"
  if command -v "$cc" >/dev/null && command -v "$cxx" >/dev/null; then compilers+=("$pair"); else echo "skipped: no $pair"; fi
done
[ ${#compilers[@]} -gt 0 ] || { echo "error: no compiler" >&2; exit 1; }
flags="-Wall -Wextra -Wpedantic -Werror -I $source_dir/include"

fail() { echo "error: $*" >&2; failed=1; }

cat >"$work/preamble" <<'C'
#include <stddef.h>
#include <bpftime/eim.h>
typedef struct { size_t len; unsigned char *data; int *numbers; float ratio; } str_t;
struct Request { int method; str_t uri; };
extern int pid; extern const int version;
int process(struct Request *r);
void nothing(void);
long now(void);
void log_bytes(const void *p, unsigned n);
struct Request *get(int i);
void put(struct Request *r);
C
cat >"$work/good" <<'C'
EIM_STATE_DEFINE(readPid, read, pid);
EIM_STATE_DEFINE(writePid, write, pid);
EIM_STATE_DEFINE(readVersion, read, version);
EIM_HFUNC_DEFINE(now);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(log_bytes, HF_ARG_BUFFER_IN(0, 1), HF_ARG_RANGE(1, 0, 4096), HF_MAY_BLOCK, HF_COST(100));
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(get, HF_RET_MAYBE_NULL, HF_ACQUIRES);
EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(put, HF_ARG_NONNULL(0), HF_RELEASES(0));
EIM_HFUNC_ARGS(log_bytes, bytes, length);
EIM_EXTENSION_ENTRY_DEFINE(processBegin, process, int, struct Request *);
EIM_ENTRY_ARGS(processBegin, r);
EIM_ENTRY_PROMISES(processBegin, HF_ARG_NONNULL(0));
EIM_EXTENSION_ENTRY_DEFINE(idle, nothing, void, void);
EIM_BUFFER(str_t, data, len);
C
records=13
cat >"$work/definitions" <<'C'
int pid; const int version = 3;
int process(struct Request *r) { return r->method; }
void nothing(void) {}
long now(void) { return 1; }
void log_bytes(const void *p, unsigned n) { (void)p; (void)n; }
struct Request *get(int i) { (void)i; return NULL; }
void put(struct Request *r) { (void)r; }
C

# compile LANGUAGE PAIR BODY: the compiler's answer, its words in $work/out.
compile() {
  local language=$1 cc cxx
  read -r cc cxx <<<"$2"
  if [ "$language" = c ]; then set -- "$cc" -std=c99 c; else set -- "$cxx" -std=c++11 cc; fi
  cat "$work/preamble" "$work/body" >"$work/case.$3"
  # shellcheck disable=SC2086
  "$1" "$2" $flags -g -fPIC -c "$work/case.$3" -o "$work/case.o" >"$work/out" 2>&1
}

for pair in "${compilers[@]}"; do
  for language in c c++; do
    cp "$work/good" "$work/body"
    cases=$((cases + 1))
    compile $language "$pair" || { fail "$pair, $language: the good case does not compile:"; cat "$work/out" >&2; }
  done
done

# refused LANGUAGES REGEX BODY: does not compile, and says it in words that match.
refused() {
  local pair language
  echo "$3" >"$work/body"
  for pair in "${compilers[@]}"; do
    for language in $1; do
      cases=$((cases + 1))
      if compile "$language" "$pair"; then
        fail "$pair, $language: compiles: $3"
      elif ! grep -Eq "$2" "$work/out"; then
        fail "$pair, $language: $3: does not say $2:"
        cat "$work/out" >&2
      fi
    done
  done
}
both="c c++"
refused "$both" 'operation_must_be_read_or_write_not_reed' 'EIM_STATE_DEFINE(readPid, reed, pid);'
refused "$both" 'EIM_STATE_DEFINE\(writeVersion, write\): version is const' 'EIM_STATE_DEFINE(writeVersion, write, version);'
refused "$both" 'EIM_STATE_DEFINE\(readNow\): now is a function' 'EIM_STATE_DEFINE(readNow, read, now);'
refused "$both" 'nowhere' 'EIM_STATE_DEFINE(readX, read, nowhere);'
refused "$both" 'EIM_HFUNC_DEFINE\(pid\): pid is not a function' 'EIM_HFUNC_DEFINE(pid);'
refused "$both" 'EIM_HFUNC_DEFINE_WITH_CONSTRAINTS\(pid\): pid is not a function' 'EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(pid, HF_COST(1));'
refused "$both" 'HF_RET_POSITVE' 'EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(now, HF_RET_POSITVE);'
refused "$both" 'rguments_are_counted_from_0_to_4|arguments are counted from 0 to 4' 'EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(put, HF_ARG_NONNULL(5));'
refused "$both" 'too many initializers|excess elements' 'EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(now, HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1), HF_COST(1));'
refused c 'EIM_EXTENSION_ENTRY_DEFINE\(b\): the prototype is not that of process' 'EIM_EXTENSION_ENTRY_DEFINE(b, process, void, struct Request *);'
refused c 'EIM_EXTENSION_ENTRY_DEFINE\(b\): the prototype is not that of process' 'EIM_EXTENSION_ENTRY_DEFINE(b, process, int, struct Request *, int);'
refused c++ 'void ?\(\*\)\(.*Request ?\*\)' 'EIM_EXTENSION_ENTRY_DEFINE(b, process, void, struct Request *);'
refused "$both" 'eim_entry_b' 'EIM_EXTENSION_ENTRY_DEFINE(b, nothing, void, void); EIM_EXTENSION_ENTRY_DEFINE(b, nothing, void, void);'
refused "$both" 'eim_argument_count_of_unknown' 'EIM_ENTRY_ARGS(unknown, r);'
refused "$both" 'EIM_ENTRY_ARGS\(b\): one name for each argument' 'EIM_EXTENSION_ENTRY_DEFINE(b, process, int, struct Request *); EIM_ENTRY_ARGS(b, r, s);'
refused "$both" 'eim_argument_count_of_unknown' 'EIM_ENTRY_PROMISES(unknown, HF_ARG_NONNULL(0));'
refused "$both" 'dta' 'EIM_BUFFER(str_t, dta, len);'
refused "$both" 'data must be a pointer to bytes|numbers must be a pointer to bytes' 'EIM_BUFFER(str_t, numbers, len);'
refused "$both" 'ratio must be an integer' 'EIM_BUFFER(str_t, data, ratio);'

# survives NAME COMMAND…: links the good case with the host's functions and main, and looks for all records afterwards.
count_records() {
  rm -f "$work/section"
  objcopy -O binary --only-section=eim_records "$1" "$work/section" && LC_ALL=C grep -ao EIM1 "$work/section" | wc -l
}
survives() {
  local name=$1 found
  shift
  cases=$((cases + 1))
  rm -f "$work/linked"
  if ! "$@" -o "$work/linked" >"$work/out" 2>&1; then
    fail "$name: does not link:"
    cat "$work/out" >&2
    return
  fi
  found=$(count_records "$work/linked")
  [ "$found" = $records ] || fail "$name: $found of $records records after linking"
  strip --strip-all "$work/linked" && found=$(count_records "$work/linked")
  [ "$found" = $records ] || fail "$name: $found of $records records after strip"
}
cat "$work/preamble" "$work/good" "$work/definitions" >"$work/host.c"
echo 'int main(void) { return 0; }' >"$work/main.c"
for pair in "${compilers[@]}"; do
  read -r cc _ <<<"$pair"
  sections="-O2 -ffunction-sections -fdata-sections -I $source_dir/include"
  # shellcheck disable=SC2086
  "$cc" $sections -fPIC -c "$work/host.c" -o "$work/host.o" && "$cc" $sections -fPIC -c "$work/main.c" -o "$work/main.o" || fail "$cc: host"
  # shellcheck disable=SC2086
  "$cc" $sections -fno-pic -c "$work/host.c" -o "$work/host_fixed.o" || fail "$cc: host"
  # In an object clang gives each record a section of its own, all of one name.
  found=$(cp "$work/host.o" "$work/o.o" && strip -g "$work/o.o" && LC_ALL=C grep -ao EIM1 "$work/o.o" | wc -l)
  [ "$found" = $records ] || fail "$cc: $found of $records records in a stripped object"
  for linker in bfd lld; do
    command -v ld.$linker >/dev/null || { echo "skipped: no ld.$linker"; continue; }
    survives "$cc, $linker, executable" gcc -fuse-ld=$linker -Wl,--gc-sections "$work/main.o" "$work/host.o"
    survives "$cc, $linker, fixed address" gcc -no-pie -fuse-ld=$linker -Wl,--gc-sections "$work/main.o" "$work/host_fixed.o"
    survives "$cc, $linker, library" gcc -shared -fuse-ld=$linker -Wl,--gc-sections "$work/host.o"
  done
  # No code and no constructor comes from the header.
  cat "$work/preamble" "$work/good" >"$work/only.c"
  # shellcheck disable=SC2086
  "$cc" $sections -fPIC -c "$work/only.c" -o "$work/only.o"
  [ "$(size -A "$work/only.o" | awk '/^\.(text|init_array|ctors)/ { bytes += $2 } END { print bytes + 0 }')" = 0 ] || fail "$cc: the header makes code"
done

echo "$cases cases"
exit $failed
