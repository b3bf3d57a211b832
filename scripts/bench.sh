#!/bin/bash
# bench.sh [OPTION…]: bare, kernel and ours in one interleaved run (bench/probes_bench.cc has the options). Tables on standard
# output, progress on standard error, everything in build/bench*.json. BENCH_BIN: another build's programs.
set -euo pipefail
cd "$(dirname "$0")/.."
commit="$(git describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)"
echo "==> bench" >&2
bin="${BENCH_BIN:-build/release/bin}"
"$bin"/probes_bench --commit "$commit" --json build/bench.json "$@" | tee build/bench.txt
"$bin"/map_ops_bench --json build/bench-maps.json | tee build/bench-maps.txt
python3 -B bench/map_calls.py "$bin" build/bench-map-calls.json | tee build/bench-map-calls.txt
"$bin"/engine_bench --json build/bench-engine.json
"$bin"/verifier_bench --json build/bench-verifier.json
echo "==> scripts/bench-docs.sh puts probes and map operations into the documentation" >&2
echo "==> all numbers: build/bench.json, build/bench-{maps,map-calls,engine,verifier}.json" >&2
