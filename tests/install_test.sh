#!/bin/sh
# Installs the build into a fresh folder, builds the example against it with find_package, runs it.
#   install_test.sh BUILD_FOLDER SOURCE_FOLDER
set -eu
build=$1
source=$2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cmake --install "$build" --prefix "$place/prefix" >/dev/null
"$place/prefix/bin/metala" --version
cmake -S "$source/examples/greedy" -B "$place/example" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$place/prefix" >/dev/null
cmake --build "$place/example"
out=$("$place/example/greedy" "$source/tests/golden/tiny" 5 6 7)
echo "$out"
echo "$out" | grep -q "the fork still stands at 3 tokens"
