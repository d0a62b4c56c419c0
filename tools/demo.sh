#!/bin/sh
# The demo: text from the model that ships with metala, then a tiny model that learns associative
# recall before your eyes.
#   demo.sh PROGRAM
set -eu
metala=$1
here=$(cd "$(dirname "$0")/.." && pwd)
model=$here/models/debian-en
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== A MetaLA model trained on Debian's documentation continues a sentence"
"$metala" generate "$model" "The package manager" --max-tokens 120 --temperature 0.7 \
  --top-p 0.9 --seed 1

echo
echo "== The same model, stopped, saved, and continued in another process"
"$metala" generate "$model" "To install a package, you need" --max-tokens 24 --temperature 0.7 \
  --top-p 0.9 --seed 2 --save-state "$work/conversation.safetensors"
echo "-- state: $(du -h "$work/conversation.safetensors" | cut -f1), whatever the length so far"
"$metala" generate "$model" --load-state "$work/conversation.safetensors" --max-tokens 48 \
  --temperature 0.7 --top-p 0.9 --seed 3

echo
echo "== A tiny model learns associative recall: 4 keys and values, asked in any order"
"$metala" train --task mqar --mqar-length 64 --mqar-pairs 4 --output "$work/mqar"
