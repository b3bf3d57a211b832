#!/bin/bash
# build.sh PRESET [TARGET…]: configures and builds one preset: one line per step, progress while it lasts, the log on failure.
set -euo pipefail
cd "$(dirname "$0")/.."
preset="$1"
shift
out="build/$preset"
mkdir -p "$out"

if [ ! -f "$out/build.ninja" ]; then
  echo "==> configure: $preset"
  if ! cmake --preset "$preset" >"$out/configure.log" 2>&1; then
    tail -n 30 "$out/configure.log" >&2
    echo "error: configuring $preset failed; all of it: $out/configure.log" >&2
    exit 1
  fi
fi

jobs="${JOBS:-$(nproc)}"
echo "==> build: $preset"
export NINJA_STATUS='[%f/%t] '
# ninja's own [done/all] lines become one line per tenth; everything else is kept for the case of failure.
show_progress() {
  local line done all last=0
  while IFS= read -r line; do
    printf '%s\n' "$line"
    if [[ "$line" =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      done="${BASH_REMATCH[1]}" all="${BASH_REMATCH[2]}"
      if [ $((done * 10 / all)) -gt "$last" ]; then
        last=$((done * 10 / all))
        echo "      built $done of $all" >&3
      fi
    fi
  done >"$out/build.log"
}
if ! { ninja -C "$out" -j "$jobs" "$@" 2>&1 | show_progress; } 3>&1; then
  grep -v '^\[[0-9/]*\] ' "$out/build.log" | tail -n 60 >&2
  echo "error: building $preset failed; all of it: $out/build.log" >&2
  exit 1
fi
