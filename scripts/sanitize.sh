#!/bin/bash
# sanitize.sh PRESET [CTEST OPTION…]: builds preset asan or tsan and runs its tests. What enters other processes (agent, loader,
# runner, programs) is never instrumented. Whoever finds something writes it to build/PRESET/reports: the daemon, which no test
# waits for, too. A report fails the run, whatever the test said.
set -euo pipefail
cd "$(dirname "$0")/.."
preset="$1"
shift
reports="$PWD/build/$preset/reports"
rm -rf "$reports"
scripts/build.sh "$preset"
# The tests' nobody writes there, too.
mkdir -p -m 1777 "$reports"
chmod 1777 "$reports"

common="log_path=$reports/report:print_stacktrace=1"
export ASAN_OPTIONS="$common:detect_stack_use_after_return=1:verify_asan_link_order=0"
export UBSAN_OPTIONS="$common"
export TSAN_OPTIONS="$common:second_deadlock_stack=1:history_size=4"
echo "==> test: $preset"
status=0
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error --parallel 2 "$@" || status=$?
found=("$reports"/*)
if [ -e "${found[0]}" ]; then
  head -n 60 "${found[0]}" >&2
  echo "error: sanitize: ${#found[@]} reports of $preset in $reports; the first is above" >&2
  exit 1
fi
exit "$status"
