#!/bin/bash
# demo.sh: a stock libbpf tool counts malloc calls of a program started under us and of one that ran already; both counts must
# equal what the programs counted themselves. Exit status 0 when they do. Cleans up everything it started.
# BPFTIME_BIN_DIR: use the programs built there instead of building them.
set -euo pipefail
cd "$(dirname "$0")/.."

calls=100000
deadline_s=30
preset=release
if [ -n "${BPFTIME_BIN_DIR:-}" ]; then
  bpftime="$BPFTIME_BIN_DIR/bpftime"
else
  if [ ! -x build/release/bin/bpftimed ] && [ -x build/dev/bin/bpftimed ]; then preset=dev; fi
  scripts/build.sh "$preset" bpftime bpftimed bpftime-agent bpftime-loader
  bpftime="$PWD/build/$preset/bin/bpftime"
fi
echo "==> build: example/malloc"
make --no-print-directory -s -C example/malloc

work="$(mktemp -d "${TMPDIR:-/tmp}/bpftime-demo.XXXXXX")"
# A daemon of its own: the demo neither sees nor disturbs what else this user probes.
export BPFTIME_RUNTIME_DIR="$work/run"
mkdir -m 700 "$BPFTIME_RUNTIME_DIR"
started=()

cleanup() {
  local status=$?
  trap - EXIT
  exec 7>&- 8>&- 2>/dev/null || true
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  "$bpftime" daemon stop >/dev/null 2>&1 || true
  if [ "$status" -ne 0 ]; then
    for file in tool.err tool.out run/daemon.log; do
      [ ! -s "$work/$file" ] || { echo "--- $file" >&2; tail -n 15 "$work/$file" >&2; }
    done
  fi
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() { echo "error: demo: $*" >&2; exit 1; }

# await WHAT COMMAND…: until the command succeeds, at most deadline_s.
await() {
  local what="$1" end=$((SECONDS + deadline_s))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || fail "$what: not within $deadline_s s"
    read -r -t 0.05 <> <(:) || true
  done
}
has_line() { grep -q -- "$2" "$1" 2>/dev/null; }
# The tool's latest count for a pid.
tool_count() { awk -v pid="pid=$1" '$1 == pid {n = $NF} END {print n + 0}' "$work/tool.out"; }
tool_says() { [ "$(tool_count "$1")" = "$2" ]; }
tool_lives() { kill -0 "$tool" 2>/dev/null || fail "the tool ended early"; }

echo "==> bpftime load ./example/malloc/malloc"
"$bpftime" load ./example/malloc/malloc >"$work/tool.out" 2>"$work/tool.err" &
tool=$!
started+=("$tool")
tool_prints() { tool_lives && [ -s "$work/tool.out" ]; }
await "the tool's first line" tool_prints

# Victims wait for a line on their standard input before the first call, and before they end.
mkfifo "$work/started.in" "$work/running.in"

echo "==> bpftime start ./example/malloc/victim      (started under us)"
"$bpftime" start ./example/malloc/victim -w -n "$calls" -r 0 <"$work/started.in" >"$work/started.out" 2>"$work/started.err" &
started+=($!)
exec 7>"$work/started.in"
await "the started victim" has_line "$work/started.out" '^victim: pid'
first="$(awk '/^victim: pid/ {print $3}' "$work/started.out")"

./example/malloc/victim -w -n "$calls" -r 0 <"$work/running.in" >"$work/running.out" 2>&1 &
started+=($!)
exec 8>"$work/running.in"
await "the running victim" has_line "$work/running.out" '^victim: pid'
second="$(awk '/^victim: pid/ {print $3}' "$work/running.out")"
echo "==> bpftime attach $second                      (already running)"
"$bpftime" attach "$second" | sed 's/^/      /'

echo >&7
echo >&8
await "the started victim's calls" has_line "$work/started.out" '^victim: made'
await "the running victim's calls" has_line "$work/running.out" '^victim: made'

failed=0
check() {
  local own counted end=$((SECONDS + 5))
  own="$(awk '/^victim: made/ {print $3}' "$work/$3.out")"
  until tool_says "$2" "$own" || [ "$SECONDS" -ge "$end" ]; do
    tool_lives
    read -r -t 0.05 <> <(:) || true
  done
  counted="$(tool_count "$2")"
  if [ "$own" = "$counted" ]; then
    printf '      %-16s pid %-8s its own count %-8s the tool says %-8s equal\n' "$1" "$2" "$own" "$counted"
  else
    printf '      %-16s pid %-8s its own count %-8s the tool says %-8s DIFFERENT\n' "$1" "$2" "$own" "$counted"
    failed=1
  fi
}
echo "==> malloc calls"
check "started under us" "$first" started
check "already running" "$second" running
[ "$failed" = 0 ] || { cat "$work/started.err" >&2; fail "the counts differ"; }
echo "==> done: a stock libbpf tool counted both programs; no kernel eBPF was attached"
