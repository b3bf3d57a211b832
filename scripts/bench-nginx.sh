#!/bin/bash
# bench-nginx.sh [OPTION…]: the firewall of example/nginx_firewall in different hands, one interleaved run (bench/nginx/bench.py
# has the options). Table on standard output, progress on standard error, everything in build/bench-nginx.json and .svg.
# BPFTIME_BIN_DIR: use the programs built there.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="${BPFTIME_BIN_DIR:-$PWD/build/release/bin}"
out=build/bench-nginx
mkdir -p "$out"
commit="$(git describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)"
echo "==> build: filters" >&2
nginx_source=/usr/share/nginx/src
[ -d "$nginx_source" ] || nginx_source="$PWD/build/packages/usr/share/nginx/src"
make -s --no-print-directory -C example/nginx_firewall OUT="$PWD/$out" NGINX_SOURCE="$nginx_source" WABT="$PWD/build/packages" all wasm >&2
# The program that blocks, where this bpftime knows policies; else bench.py says that it is skipped.
if "$bin/bpftime" load --help 2>/dev/null | grep -q -- --policy; then
  make -s --no-print-directory -C example/nginx_firewall OUT="$PWD/$out" NGINX_SOURCE="$nginx_source" BPFTIME="$bin/bpftime" extension >&2
fi
cc -O2 -Wall bench/nginx/step_count.c -o "$out/step_count"
/usr/bin/python3 -B bench/nginx/bench.py --out "$out" --peers build/packages --bpftime "$bin/bpftime" \
  --step-count "$out/step_count" --commit "$commit" --json build/bench-nginx.json --svg build/bench-nginx.svg "$@"
echo "==> all numbers: build/bench-nginx.json; plot: build/bench-nginx.svg" >&2
