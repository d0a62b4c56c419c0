#!/bin/sh
# Tests of ranks with a GPU each, on two or four GPUs of this machine, through NCCL:
#   test_gpu_ranks.sh METALA RANKS_TEST
# METALA and RANKS_TEST are programs of a build with CUDA and NCCL. They are started by torchrun's
# variables and, where there is an mpirun, by that too.
set -u
metala=$1
ranks_test=$2
count=$(nvidia-smi -L | wc -l)
[ "$count" -ge 2 ] || { echo "test_gpu_ranks: $count GPU; two are needed" >&2; exit 1; }
[ "$count" -lt 4 ] && count=2 || count=4
export OMP_NUM_THREADS=4 MASTER_ADDR=127.0.0.1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
port=29511
failed=

report() { # NAME STATUS
  if [ "$2" -eq 0 ]; then echo "passed  $1"; else echo "FAILED  $1"; failed="$failed, $1"; fi
}

# ranks COMMAND...: one process a GPU. What rank r prints goes to $work/out.r, its number to
# $work/pid.r; 0 if all ended well.
start_ranks() {
  port=$((port + 1))
  for rank in $(seq 0 $((count - 1))); do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=$count MASTER_PORT=$port \
      "$@" >"$work/out.$rank" 2>&1 &
    echo $! >"$work/pid.$rank"
  done
}
wait_ranks() {
  status=0
  for rank in $(seq 0 $((count - 1))); do
    wait "$(cat "$work/pid.$rank")" || status=1
  done
  return $status
}
ranks() {
  start_ranks "$@"
  wait_ranks
}
show() { cat "$work"/out.*; }

filter='--gtest_filter=GpuRanks.*:Communicator.*:Agreement.*'
ranks "$ranks_test" "$filter"
status=$?
show
report "$count ranks started by variables" $status
if command -v mpirun >/dev/null; then
  mpirun -n "$count" "$ranks_test" "$filter"
  report "$count ranks started by mpirun" $?
fi

seq 1 20000 >"$work/numbers.txt"
model="train $work/numbers.txt --device cuda --dtype f32 --width 128 --layers 2 --heads 2
  --glu-width 256 --sequence-length 128 --sequences 4 --seed 3"
small="$model --steps 40 --save-every 20"
losses() { sed -n 's/.*"train\/lm_loss":\([^,}]*\).*/\1/p' "$1/metrics.jsonl"; }
same_losses() { # of 40 steps each
  losses "$1" >"$work/a"
  losses "$2" >"$work/b"
  paste "$work/a" "$work/b" |
    awk '{ d = $1 - $2; if (!(d < 1e-3 && d > -1e-3)) exit 1 } END { if (NR != 40) exit 1 }'
}

# shellcheck disable=SC2086
{
  ranks "$metala" $small --output "$work/many" || show
  "$metala" $small --output "$work/one" --accumulation "$count" 2>"$work/err" || cat "$work/err"
  same_losses "$work/many" "$work/one"
  report "$count ranks learn what one does" $?

  cp -r "$work/many" "$work/resumed"
  rm -r "$work/resumed/step-00000040"
  "$metala" $small --output "$work/resumed" --resume --accumulation "$count" 2>"$work/err" ||
    cat "$work/err"
  same_losses "$work/resumed" "$work/one"
  report "one rank goes on with what $count saved" $?

  rm -r "$work/many/step-00000040"
  ranks "$metala" $small --output "$work/many" --resume || show
  same_losses "$work/many" "$work/one"
  report "$count ranks go on with what they saved" $?
}

# disturbed SIGNAL TIMEOUT: while all train, the last rank gets the signal; the others must end
# within half a minute and name it.
disturbed() {
  # shellcheck disable=SC2086
  start_ranks "$metala" $model --output "$work/$1" --steps 1000000 --save-every 0 \
    --communication-timeout "$2"
  until [ -s "$work/$1/metrics.jsonl" ] || ! kill -0 "$(cat "$work/pid.0")" 2>"$work/err"; do
    sleep 0.1
  done
  sleep 1
  victim=$((count - 1))
  kill -"$1" "$(cat "$work/pid.$victim")"
  began=$(date +%s%N)
  ended=1
  for _ in $(seq 300); do
    if ! kill -0 "$(cat "$work/pid.0")" 2>"$work/err"; then ended=0 && break; fi
    sleep 0.1
  done
  echo "rank 0 ended $((($(date +%s%N) - began) / 1000000)) ms after SIG$1 to rank $victim:"
  grep 'metala: ' "$work/out.0"
  for rank in $(seq 0 $victim); do kill -KILL "$(cat "$work/pid.$rank")" 2>"$work/err"; done
  wait_ranks
  [ $ended -eq 0 ] && grep -q "rank $victim" "$work/out.0"
}
disturbed KILL 60
report "a rank that is killed is named" $?
disturbed STOP 3
report "a rank that is stopped is named" $?

[ -z "$failed" ] || { echo "FAILED: ${failed#, }" >&2; exit 1; }
