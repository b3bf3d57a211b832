#!/bin/bash
# fuzz.sh SECONDS: runs every fuzz target that long. Finds are kept in build/fuzz/finds, what was learned in build/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="$1"
shopt -s nullglob
ran=0
for program in build/fuzz/bin/*_fuzz; do
  name="$(basename "$program")"
  corpus="build/fuzz/corpus/$name"
  mkdir -p "$corpus" build/fuzz/finds
  seeds=()
  [ ! -d "tests/seeds/$name" ] || seeds=("tests/seeds/$name")
  echo "==> fuzz: $name, $seconds s"
  log="build/fuzz/$name.log"
  if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
      -artifact_prefix="build/fuzz/finds/$name-" "$corpus" "${seeds[@]}" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "error: fuzz: $name: failed; the input is in build/fuzz/finds" >&2
    exit 1
  fi
  awk '/number_of_executed_units/ {print "      inputs tried: " $2}' "$log"
  ran=1
done
[ "$ran" = 1 ] || { echo "error: fuzz: no fuzz target was built" >&2; exit 1; }
