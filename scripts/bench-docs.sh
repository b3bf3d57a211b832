#!/bin/bash
# bench-docs.sh: puts the last `make bench` into the documentation: docs/bench.svg, the tables of docs/benchmarks.md (probes, aims,
# map operations), the README's number.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 -B bench/plot.py build docs README.md
