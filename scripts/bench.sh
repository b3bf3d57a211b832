#!/bin/bash
# bench.sh: runs every benchmark of preset release, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
ran=0
for program in build/release/bin/*_bench; do
  echo "==> bench: $(basename "$program")"
  "$program"
  ran=1
done
[ "$ran" = 1 ] || { echo "error: bench: no build/release/bin/*_bench was built" >&2; exit 1; }
