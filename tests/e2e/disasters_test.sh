#!/bin/bash
# disasters_test.sh SOURCE_DIR BINARY_DIR: the command of example/disasters/README.md. Exit status 77: skipped.
set -euo pipefail
source="$1" binary="$2"
out="$binary/nginx_examples"
mkdir -p "$out"
export OUT="$out" PATH="$binary/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
cd "$source"
[ -e /usr/include/pcre2.h ] && [ -e /usr/include/openssl/ssl.h ] || { echo "SKIPPED: libpcre2-dev or libssl-dev is not installed"; exit 77; }
sed -n '/^```sh$/,/^```$/p' example/disasters/README.md | grep -v '^```' >"$out/commands"
[ -s "$out/commands" ] || { echo "error: no commands in the README" >&2; exit 1; }
# The exit status of the commands themselves: 77 says that they were skipped.
bash -euo pipefail -x "$out/commands" | tee "$out/said"
grep -q '^==> done: three disasters' "$out/said"
