#!/bin/sh
# A bundle finds all its libraries beside itself, but for the C library's, and runs.
#   bundle_test.sh PROGRAM SOURCE_FOLDER
set -eu
program=$1
source=$2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$source/tools/bundle.sh" "$place/metala" "$program"
# The sanitizers' and OpenMP's runtimes included: whatever has a path must lie in the bundle.
outside=$(LD_LIBRARY_PATH=$place/metala/lib ldd "$place/metala/libexec/metala" | awk '$3 ~ /^\// {print $3}' |
  grep -v -e "^$place/metala/" -e '/lib\(c\|m\|rt\|pthread\|dl\)\.so' || true)
if [ -n "$outside" ]; then
  echo "not in the bundle: $outside" >&2
  exit 1
fi
cd /
"$place/metala/bin/metala" verify "$source/tests/golden/tiny"
