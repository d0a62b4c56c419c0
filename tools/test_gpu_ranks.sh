#!/bin/sh
# Tests of ranks with a GPU each, on all GPUs of this machine (at most 4), in one command:
#   tools/test_gpu_ranks.sh [BUILD_FOLDER]
# Builds with CUDA, MPI and NCCL (NCCL_ROOT names one that is not among the system's packages), runs
# the tests that mpirun starts, then trains once as torchrun would start it, without MPI.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/cuda}
ranks=$(nvidia-smi -L | wc -l)
[ "$ranks" -le 4 ] || ranks=4
[ "$ranks" -ge 2 ] || { echo "test_gpu_ranks: $ranks GPU; two are needed" >&2; exit 1; }
[ "$ranks" -ne 3 ] || ranks=2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMP_NUM_THREADS=4

cmake --preset cuda -B "$build" -DMETALA_MPI=ON -DMETALA_NCCL=ON
cmake --build "$build" --target ranks_test metala_program

mpirun -n "$ranks" "$build/tests/ranks_test" --gtest_filter='GpuRanks.*:Communicator.*'

run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
train="$build/metala train docs/architecture.md --device cuda --width 128 --layers 2 --heads 2
  --glu-width 256 --sequence-length 128 --sequences 4 --steps 30 --communication-timeout 60"
export MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 WORLD_SIZE="$ranks"
rank=1
while [ "$rank" -lt "$ranks" ]; do
  RANK=$rank LOCAL_RANK=$rank $train --output "$run/ranks" &
  rank=$((rank + 1))
done
RANK=0 LOCAL_RANK=0 $train --output "$run/ranks"
wait
env -u RANK -u WORLD_SIZE $train --output "$run/one" --accumulation "$ranks"
tail -n 1 "$run/ranks/metrics.jsonl" "$run/one/metrics.jsonl"
