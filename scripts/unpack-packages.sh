#!/bin/bash
# unpack-packages.sh PURPOSE…: downloads the Debian packages of the purposes' `unpacked-` lists (packages.txt) and unpacks them
# in build/packages, beside the system: some conflict with what is installed (Lua's LuaJIT with wrk's), some would bring half
# a distribution along (nginx-dev, of which only the headers are needed). Installs nothing, needs no root when apt's lists are
# there. Silent when nothing is missing. What cannot be had is said; exit status 1 then.
set -euo pipefail
cd "$(dirname "$0")/.."
list=scripts/packages.txt
out=build/packages
mkdir -p "$out/unpacked"

wanted=()
for purpose in "$@"; do
  line="$(grep "^unpacked-$purpose:" "$list")" || { echo "unpack-packages: $purpose: no such purpose in $list" >&2; exit 2; }
  read -ra names <<<"${line#*:}"
  for name in "${names[@]}"; do
    [ -e "$out/unpacked/$name" ] || wanted+=("$name")
  done
done
[ ${#wanted[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  echo "error: no apt-get and dpkg here; needed in $out, unpacked: ${wanted[*]}" >&2
  exit 1
fi
work="$(mktemp -d "${TMPDIR:-/tmp}/bpftime-packages.XXXXXX")"
trap 'rm -rf "$work"' EXIT
echo "==> packages: unpacking ${#wanted[@]}: ${wanted[*]}"
download() { (cd "$work" && apt-get -q download "${wanted[@]}") >"$work/log" 2>&1; }
# Lists may be missing or older than the archive; only root can refresh them.
if ! download; then
  { [ "$(id -u)" = 0 ] && apt-get -q update; } >>"$work/log" 2>&1 || true
  download || { tail -n 5 "$work/log" >&2; echo "error: cannot download ${wanted[*]}" >&2; exit 1; }
fi
for deb in "$work"/*.deb; do dpkg -x "$deb" "$out"; done
for name in "${wanted[@]}"; do touch "$out/unpacked/$name"; done
