#!/bin/bash
# demo_test.sh SOURCE_DIR BIN_DIR [COMMAND…]: the demo, as a stranger has it: a checkout of his own with the programs built.
# COMMAND (deny_bpf): what to run it under.
set -euo pipefail
source="$1" bin="$2"
shift 2
# Copied: the checkout tested may lie where nobody else may look.
copy="$(mktemp -d "${TMPDIR:-/tmp}/bpftime-demo-test.XXXXXX")"
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/bin" "$copy/scripts" "$copy/example/malloc" "$copy/home" "$copy/tmp"
cp "$bin"/{bpftime,bpftimed,libbpftime-agent.so,libbpftime-near.so,libbpftime-loader.so} "$copy/bin/"
cp "$source/scripts/demo.sh" "$copy/scripts/"
cp "$source"/example/malloc/{Makefile,malloc.c,malloc.bpf.c,victim.c} "$copy/example/malloc/"
if [ $# -gt 0 ]; then
  cp "$1" "$copy/wrapper"
  set -- "$copy/wrapper" "${@:2}"
fi
chmod -R a+rX "$copy"
[ "$(id -u)" != 0 ] || [ $# = 0 ] || chown -R 65534:65534 "$copy"
cd "$copy"
unset BPFTIME_RUNTIME_DIR XDG_RUNTIME_DIR
export HOME="$copy/home" TMPDIR="$copy/tmp" BPFTIME_BIN_DIR="$copy/bin"
"$@" "$copy/scripts/demo.sh" 2>&1 | tee "$copy/said"
[ "$(grep -c ' equal$' "$copy/said")" = 2 ] || { echo "error: not two equal counts" >&2; exit 1; }
if [ $# -gt 0 ]; then
  { "$@" "$copy/bin/bpftime" doctor || true; } >"$copy/doctor" 2>&1
  grep -q 'bpf(2).*not usable' "$copy/doctor" || { echo "error: bpf(2) was not denied" >&2; exit 1; }
fi
left="$(ls -A "$copy/tmp")"
[ -z "$left" ] || { echo "error: left behind: $left" >&2; exit 1; }
