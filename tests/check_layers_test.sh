#!/bin/bash
# The include checker finds what it is there to find: each violation in a copy of the tree makes it fail, by name.
set -euo pipefail
source_dir="$1" python="$2"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

plant() { # plant FILE LINE EXPECTED
  rm -rf "$work/tree"
  mkdir "$work/tree"
  cp -r "$source_dir/src" "$source_dir/CMakeLists.txt" "$work/tree/"
  mkdir -p "$(dirname "$work/tree/$1")"
  printf '%s\n' "$2" >>"$work/tree/$1"
  if "$python" "$source_dir/tests/check_layers.py" "$work/tree" >"$work/out" 2>&1; then
    echo "error: not found: '$2' in $1" >&2
    exit 1
  fi
  grep -q -- "$3" "$work/out" || { echo "error: '$2' in $1: message lacks '$3':" >&2; cat "$work/out" >&2; exit 1; }
}
plant src/base/fd.cc '#include "wire/client.h"' 'wire lies above base'
plant src/daemon/any.cc '#include <llvm/IR/Module.h>' 'only compiler may'
plant src/maps/map.cc '#include <fmt/core.h>' 'only cli may'
plant src/base/fd.cc '#include <gtest/gtest.h>' 'only tests may'
plant src/strange/any.cc 'int x;' 'not a layer'
plant src/base/fd.cc "// see $(printf '/wo%s' rk/somewhere)" 'path of one machine'
plant docs/any.md 'see [there](nowhere.md)' 'leads nowhere'
echo "all violations were found"
