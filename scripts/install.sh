#!/bin/bash
# install.sh PREFIX: puts build/release into PREFIX, below $DESTDIR if that is set; with --remove first, takes out what it put there.
# A folder of bpftime's own (~/.bpftime, /opt/bpftime) has the programs at its top: that one folder goes on PATH. /usr and /usr/local have
# them in lib/bpftime, and a link in bin.
set -euo pipefail
cd "$(dirname "$0")/.."
remove=
if [ "${1:-}" = --remove ]; then remove=1; shift; fi
prefix="${1%/}"
case "$prefix" in
  /*) ;;
  *) echo "error: install: PREFIX=$1: not an absolute path" >&2; exit 2 ;;
esac
root="${DESTDIR:-}$prefix"
list="$root/share/bpftime/installed"
case "$prefix" in /usr | /usr/local) programs=lib/bpftime ;; *) programs=. ;; esac

if [ -n "$remove" ]; then
  [ -f "$list" ] || { echo "error: uninstall: $list: not there; nothing was installed in $root by \`make install\`" >&2; exit 1; }
  # A daemon that was started from here has no successor any more: its probes leave the targets while it still can.
  if [ -z "${DESTDIR:-}" ]; then
    worker="$("$root/$programs/bpftime" --json daemon status 2>/dev/null | sed -n 's/.*"worker_pid": \([0-9]*\).*/\1/p')" || true
    if [ -n "$worker" ] && [ "$(readlink "/proc/$worker/exe")" = "$(readlink -f "$root/$programs/bpftimed")" ]; then
      "$root/$programs/bpftime" daemon stop >/dev/null && echo "==> stopped its daemon: probes have left all processes"
    fi
  fi
  mapfile -t files <"$list"
  for file in "${files[@]}"; do rm -f "$root/$file"; done
  # Deepest first; what others put files into stays.
  printf '%s\n' "${files[@]}" | grep / | sed 's|/[^/]*$||' | awk -F/ '{path = ""; for (i = 1; i <= NF; ++i) {path = path (i > 1 ? "/" : "") $i; print path}}' |
    sort -ru | while IFS= read -r folder; do rmdir "$root/$folder" 2>/dev/null || true; done
  rmdir "$root" 2>/dev/null || true
  echo "==> removed from $root"
  exit 0
fi

: "${BUILD:=build/release}"
installed=()
put() {  # COMPONENT FOLDER: what cmake says it installed, relative to PREFIX
  local folder="$prefix" line
  [ "$2" = . ] || folder="$prefix/$2"
  local said
  said="$(cmake --install "$BUILD" --prefix "$folder" --component "$1" 2>&1)" ||
    { printf '%s\n' "$said" | grep -v '^-- ' >&2; echo "error: install: ${DESTDIR:-}$folder: cannot be written; see above" >&2; exit 1; }
  while IFS= read -r line; do
    line="${line#-- Installing: }" line="${line#-- Up-to-date: }"
    case "$line" in "$root"/*) [ -d "$line" ] || installed+=("${line#"$root"/}") ;; esac
  done <<<"$said"
}
put programs "$programs"
put development .
put shell .
if [ "$programs" != . ]; then
  mkdir -p "$root/bin"
  ln -sf "../$programs/bpftime" "$root/bin/bpftime"
  installed+=(bin/bpftime)
fi
mkdir -p "${list%/*}"
printf '%s\n' "${installed[@]}" share/bpftime/installed | sed 's|/\./|/|g; s|^\./||' | sort -u >"$list"

echo "==> installed in $root"
[ -z "${DESTDIR:-}" ] || exit 0
if [ "$programs" = . ]; then
  echo "    put it on your path:           export PATH=\$PATH:$prefix/"
  echo "    ids and names at TAB, in bash: source $prefix/share/bash-completion/completions/bpftime"
fi
echo "    take it out again:             make uninstall$([ "$prefix" = "$HOME/.bpftime" ] || echo " PREFIX=$prefix")"
