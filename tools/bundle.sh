#!/bin/sh
# Copies programs and the libraries they need, but for the C library and CUDA's, into a folder that
# works on another distribution: FOLDER/bin and FOLDER/lib.
#   bundle.sh FOLDER PROGRAM...
set -eu
folder=$1
shift
mkdir -p "$folder/bin" "$folder/lib"
for program in "$@"; do
  cp "$program" "$folder/bin/"
  strip "$folder/bin/$(basename "$program")"
  ldd "$program" | awk '$3 ~ /^\// {print $3}' | while read -r library; do
    case $(basename "$library") in
      libc.so.* | libm.so.* | librt.so.* | libpthread.so.* | libdl.so.* | libcu* | libnccl*) ;;
      *) cp -Lu "$library" "$folder/lib/" ;;
    esac
  done
done
