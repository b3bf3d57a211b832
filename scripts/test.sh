#!/bin/bash
# test.sh [CTEST OPTION…]: runs the tests of preset dev. Those that would disturb each other are marked RUN_SERIAL.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "==> test"
exec ctest --test-dir build/dev --output-on-failure --no-tests=error --parallel 2 "$@"
