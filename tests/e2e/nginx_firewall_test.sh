#!/bin/bash
# nginx_firewall_test.sh SOURCE_DIR BINARY_DIR: example/nginx_firewall without a filter, with the C module, observed by BPF under
# us, and blocked by an extension as its policy allows. Exit status 77: skipped, with the reason.
set -euo pipefail
source="$1" binary="$2"
# Shared with disasters_test.sh: nginx's headers are configured once.
out="$binary/nginx_examples"
skip() { echo "SKIPPED: $*"; exit 77; }

for program in /usr/sbin/nginx /usr/bin/wrk /usr/bin/curl; do
  [ -x "$program" ] || skip "$program is not installed"
done
nginx_source=/usr/share/nginx/src
[ -d "$nginx_source" ] || nginx_source="$source/build/packages/usr/share/nginx/src"
[ -d "$nginx_source" ] || skip "nginx-dev is neither installed nor unpacked (scripts/unpack-packages.sh test)"
[ -e /usr/include/pcre2.h ] && [ -e /usr/include/openssl/ssl.h ] || skip "libpcre2-dev or libssl-dev is not installed"

# The README's own commands, in order.
mkdir -p "$out"
export OUT="$out" NGINX_SOURCE="$nginx_source" PATH="$binary/bin:$PATH" MAKEFLAGS=-s PYTHONDONTWRITEBYTECODE=1
cd "$source"
sed -n '/^```sh$/,/^```$/p' example/nginx_firewall/README.md | grep -v '^```' >"$out/commands"
[ -s "$out/commands" ] || { echo "error: no commands in the README" >&2; exit 1; }
bash -euo pipefail -x "$out/commands" | tee "$out/said"
# Each of them ran: none may be passed over in silence here.
! grep -q 'SKIPPED' "$out/said" && grep -q '^==> done: 5 filters' "$out/said"
