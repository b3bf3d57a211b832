#!/bin/bash
# test.sh BUILD CLANG: from what a build installs and the sources of this folder to a host, its manifest, header, extensions and a
# checked policy.
set -euo pipefail
source_dir=$(cd "$(dirname "$0")" && pwd)
build=$1 clang=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bin=$work/prefix
cmake --install "$build" --prefix "$bin" >/dev/null
cp "$source_dir"/*.cc "$source_dir"/*.c "$source_dir"/*.yaml "$source_dir"/CMakeLists.txt "$work"
cd "$work"

fail() { echo "error: $*" >&2; exit 1; }

echo "==> the host, as a project of its own"
cmake -S . -B build -DCMAKE_PREFIX_PATH="$bin" >cmake.log && cmake --build build >>cmake.log || { cat cmake.log >&2; exit 1; }
cp build/host host
c++ -g -O2 $(PKG_CONFIG_PATH="$bin/lib/pkgconfig" pkg-config --cflags bpftime) host.cc -o by_pkg_config
[ "$(printf 'GET /index\nGET /missing\nbad\n' | ./host | head -n 3 | cut -d' ' -f1 | tr '\n' ' ')" = "200 404 400 " ] || fail "the host alone"

echo "==> manifest and header"
"$bin/bpftime" eim manifest host | grep -q 'name: processBegin' || fail "no entry in the manifest"
"$bin/bpftime" eim header host >host.ext.h

echo "==> extensions"
for name in firewall observe; do
  "$clang" -target bpf -O2 -g -Wall -Werror -I"/usr/include/$(uname -m)-linux-gnu" -c $name.bpf.c -o $name.bpf.o
done

echo "==> policy"
"$bin/bpftime" eim check --policy host.policy.yaml
"$bin/bpftime" eim explain firewall --policy host.policy.yaml | grep -q 'read r.uri' || fail "explain"
sed 's/read(r.uri)/read(r.url)/' host.policy.yaml >wrong.yaml
if "$bin/bpftime" eim check --policy wrong.yaml 2>message; then fail "a wrong policy passes"; fi
grep -q 'wrong.yaml:15:9: .* did you mean "uri"?' message || fail "message: $(cat message)"

echo "==> types that survive strip"
"$bin/bpftime" eim manifest --embed host && strip host
"$bin/bpftime" eim check --policy host.policy.yaml
echo fine
