#!/bin/bash
# bench-docs.sh: puts the last `make bench` into the documentation: docs/bench.svg, the table of docs/benchmarks.md, the README's
# number.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 bench/plot.py build/bench.json build/bench.txt docs README.md
