#!/bin/bash
# run.sh [--bpftime COMMAND] [--peers DIR]: three disasters, each as the native module (or script) that takes nginx down and as
# the extension that is refused. Checks itself. Exit status 77: skipped, with the reason. OUT: where things are built.
set -euo pipefail
cd "$(dirname "$0")"
export OUT="${OUT:-$PWD/.output}"
for program in /usr/sbin/nginx /usr/bin/curl /usr/bin/python3; do
  [ -x "$program" ] || { echo "SKIPPED: $program is not installed"; exit 77; }
done
if [ -z "${NGINX_SOURCE:-}" ]; then
  NGINX_SOURCE=/usr/share/nginx/src
  export BPFTIME="${BPFTIME:-$(command -v bpftime || true)}"
[ "${1:-}" != --bpftime ] || BPFTIME="$2"
[ -n "$BPFTIME" ] || { echo "SKIPPED: needs the bpftime command: --bpftime, or on PATH"; exit 77; }
[ -d "$NGINX_SOURCE" ] || NGINX_SOURCE="$PWD/../../build/packages/usr/share/nginx/src"
  export NGINX_SOURCE
fi
[ -d "$NGINX_SOURCE" ] || { echo "SKIPPED: nginx-dev is neither installed nor unpacked (scripts/unpack-packages.sh test)"; exit 77; }
make -s --no-print-directory
exec /usr/bin/python3 -B run.py --out "$OUT" --bpftime "$BPFTIME" "$@"
