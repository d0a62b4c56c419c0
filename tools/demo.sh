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

# continue_text PROMPT OPTIONS...: the prompt, and what the model makes of it
continue_text() {
  printf '%s' "$1"
  "$metala" generate "$model" "$@" --temperature 0.7 --top-p 0.9 --repetition-penalty 1.25
}

echo "== A MetaLA model trained on Debian's documentation continues a sentence"
continue_text "To configure the network," --max-tokens 100 --seed 2

echo
echo "== It is stopped, its state saved, and another process goes on"
continue_text "The kernel" --max-tokens 24 --seed 3 --save-state "$work/conversation"
echo "-- the state: $(du -h "$work/conversation" | cut -f1), whatever was read before"
continue_text "" --load-state "$work/conversation" --max-tokens 48 --seed 3

echo
echo "== A tiny model learns associative recall: 4 keys and values, asked in any order"
"$metala" train --task mqar --mqar-length 64 --mqar-pairs 4 --output "$work/mqar"
