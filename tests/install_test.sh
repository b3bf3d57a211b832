#!/bin/bash
# install_test.sh SOURCE BUILD: `make install` and `make uninstall` of what BUILD holds: into a folder of bpftime's own, where it works
# without any variable, and into /usr/local below DESTDIR. Nothing of it stays, and nothing of others goes.
set -euo pipefail
source="$1" work="$(mktemp -d)"
export BUILD="$2" HOME="$work/home" BPFTIME_RUNTIME_DIR="$work/run"
unset DESTDIR BPFTIME_BIN_DIR
mkdir "$HOME"
trap '"$work/own/bpftime" daemon stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
fail() { echo "error: $*" >&2; exit 1; }
install="$source/scripts/install.sh"

echo "==> a folder of its own"
"$install" "$work/own" >"$work/said"
grep -q "PATH:$work/own/" "$work/said" || fail "it does not say where"
env -i HOME="$HOME" BPFTIME_RUNTIME_DIR="$BPFTIME_RUNTIME_DIR" PATH="$work/own:/usr/bin:/bin:/usr/sbin:/sbin" bash -euc '
  [[ "$(bpftime --version)" = "bpftime "[0-9]* ]]
  [[ "$(bpftime daemon start)" = bpftimed* ]]
  bpftime start sh -c "exit 7" && exit 1 || [ $? = 7 ]
  if command -v man >/dev/null; then [ "$(man -w bpftime-map)" = "'"$work/own/share/man/man1/bpftime-map.1"'" ]; fi
' || fail "it does not work where it was installed"
if command -v man >/dev/null; then
  for page in "$work"/own/share/man/man1/*.1; do
    said="$(LC_ALL=C MANROFFSEQ= man --warnings -l "$page" 2>&1 >/dev/null)"
    [ -z "$said" ] || fail "man: ${page##*/}: $said"
  done
fi
touch "$work/own/share/mine"
"$install" --remove "$work/own" >"$work/said"
grep -q "stopped its daemon" "$work/said" || fail "its daemon goes on without it"
[ "$(find "$work/own" -type f -o -type l)" = "$work/own/share/mine" ] || fail "left: $(find "$work/own" -type f)"
if "$install" --remove "$work/own" 2>"$work/said"; then fail "removed twice"; fi
grep -q 'nothing was installed' "$work/said" || fail "$(cat "$work/said")"

echo "==> /usr/local below DESTDIR"
export DESTDIR="$work/root"
"$install" /usr/local >/dev/null
"$DESTDIR/usr/local/bin/bpftime" version >/dev/null || fail "no link in bin that works"
[ ! -e "$DESTDIR/usr/local/bpftimed" ] || fail "programs at the top of /usr/local"
"$install" --remove /usr/local >/dev/null
[ -z "$(find "$DESTDIR" -type f -o -type l)" ] || fail "left: $(find "$DESTDIR" -type f)"

echo "==> where nothing can be written"
unset DESTDIR
if "$install" /proc/none 2>"$work/said"; then fail "installed in /proc"; fi
grep -q '/proc/none: cannot be written' "$work/said" || fail "$(cat "$work/said")"
if "$install" none 2>/dev/null; then fail "installed in none"; fi
echo fine
