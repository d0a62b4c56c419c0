#!/bin/sh
# TensorBoard reads of a run what metrics.jsonl says, also where the run was resumed and some of its
# steps were taken twice. Skipped (status 77) where Python has no TensorBoard: pip install tensorboard.
#   tensorboard_test.sh PROGRAM SOURCE_FOLDER
set -eu
program=$1
source=$2
python=${PYTHON:-python3}
"$python" -c 'import tensorboard' 2>/dev/null || exit 77
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
train() {
  "$program" train "$source/LICENSE" --width 32 --layers 1 --heads 1 --glu-width 48 --sequence-length 32 \
    --sequences 2 --steps 6 --save-every 3 --validate-every 2 --output "$place/run" "$@" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
}
train
rm -r "$place/run/step-00000006"
train --resume
"$python" "$source/tools/check_tensorboard.py" "$place/run"
