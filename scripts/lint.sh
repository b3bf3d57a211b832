#!/bin/bash
# lint.sh: the format of every source file and the layers between folders. `lint.sh --fix` formats in place.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(find src bench tests include -name '*.cc' -o -name '*.h' -o -name '*.c' 2>/dev/null | grep -v '\.bpf\.c$' | sort)
if [ "${1:-}" = --fix ]; then
  clang-format-14 -i "${files[@]}"
  exit 0
fi
echo "==> lint: format of ${#files[@]} files"
if ! clang-format-14 --dry-run -Werror "${files[@]}" 2>build-lint.log; then
  grep ': error:' build-lint.log | cut -d: -f1 | sort | uniq -c >&2
  rm -f build-lint.log
  echo "error: lint: the files above are not formatted; scripts/lint.sh --fix does it" >&2
  exit 1
fi
rm -f build-lint.log
echo "==> lint: layers"
python3 tests/check_layers.py
