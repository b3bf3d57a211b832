#!/bin/bash
# ensure-packages.sh PURPOSE…: installs the Debian packages of the named purposes (packages.txt) that are missing.
# Silent when nothing is. Starts no daemon that comes with a package.
set -euo pipefail
list="$(dirname "$0")/packages.txt"

wanted=()
for purpose in "$@"; do
  line="$(grep "^$purpose:" "$list")" || { echo "ensure-packages: $purpose: no such purpose in $list" >&2; exit 2; }
  read -ra names <<<"${line#*:}"
  wanted+=("${names[@]}")
done

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
missing=()
for package in "${wanted[@]}"; do
  installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "error: these Debian 12 packages are needed, and there is no apt-get here: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "error: packages are missing and only root can install them; run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

# Packages such as nginx start their service unless a policy says no (invoke-rc.d(8)). An existing policy stays.
policy=/usr/sbin/policy-rc.d
policy_is_ours=
restore_policy() { [ -z "$policy_is_ours" ] || "${as_root[@]}" rm -f "$policy"; }
trap restore_policy EXIT
trap 'exit 130' INT TERM
if [ ! -e "$policy" ]; then
  policy_is_ours=1
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi

log="$(mktemp)"
# Turns apt's status lines (what:package:percent:text, on descriptor 3) into one line per tenth of the way.
show_progress() {
  local what package percent last=-1
  while IFS=: read -r what package percent _; do
    case "$what" in
      dlstatus) what=downloading ;;
      pmstatus) what=installing ;;
      *) continue ;;
    esac
    percent="${percent%%.*}"
    if [ "$what" != "${last_what:-}" ] || [ $((percent / 10)) -gt $((last / 10)) ]; then
      echo "      $what: $percent %"
    fi
    last_what="$what" last="$percent"
  done
}
run_apt() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q "$@" >>"$log" 2>&1; then
    echo "error: apt-get ${*: -1} failed; its last words:" >&2
    tail -n 15 "$log" >&2
    echo "(all of it: $log)" >&2
    exit 1
  fi
}
echo "==> packages: refreshing the list"
run_apt update
echo "==> packages: installing ${#missing[@]}: ${missing[*]}"
{ run_apt -o APT::Status-Fd=3 install --no-install-recommends "${missing[@]}" 3>&1 >&4 | show_progress; } 4>&1
rm -f "$log"
