#!/bin/sh
# Training of the 374M model in bf16 on one GPU and on all of this machine, 16 x 2,048 tokens each: the
# figures of docs/scaling.md, and the ladder by which the size of buckets was chosen; under three minutes
# on two H200. Needs NCCL, and 5 GB in TMPDIR for checkpoints.
#   bench_gpu_ranks.sh METALA
set -eu
metala=$1
count=$(nvidia-smi -L | wc -l)
export OMP_NUM_THREADS=4 MASTER_ADDR=127.0.0.1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
port=29611

seq 1 400000 >"$work/numbers.txt"
"$metala" data prepare "$work/numbers.txt" -o "$work/numbers" 2>"$work/log"
rm -r "$work/numbers.json" "$work/numbers.tokenizer"  # a vocabulary as large as the model's
cat >"$work/run.yml" <<RUN
num_layers: 24
hidden_size: 1024
num_attention_heads: 8
intermediate_size: 2816
no_weight_tying: true
seq_length: 2048
train_micro_batch_size_per_gpu: 16
gradient_accumulation_steps: 1
train_iters: 25
eval_iters: 1
optimizer: {params: {lr: 3.0e-4, betas: [0.9, 0.95]}}
data_path: $work/numbers
split: 90,10,0
metala: {device: cuda, vocab_size: 32000}
RUN

# measure NAME GPUS FLAG...: the median step of the last fifteen (least to most).
measure() {
  name=$1
  gpus=$2
  shift 2
  port=$((port + 1))
  rank=$((gpus - 1))
  while [ "$rank" -gt 0 ]; do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=$gpus MASTER_PORT=$port \
      "$metala" train "$work/run.yml" --output "$work/run" "$@" >"$work/out.$rank" 2>&1 &
    rank=$((rank - 1))
  done
  RANK=0 LOCAL_RANK=0 WORLD_SIZE=$gpus MASTER_PORT=$port \
    "$metala" train "$work/run.yml" --output "$work/run" "$@" >"$work/log" 2>&1 || cat "$work/log"
  wait
  sed -n 's/.*"runtime\/iteration_time":\([^,}]*\).*/\1/p' "$work/run/metrics.jsonl" |
    tail -n 15 | sort -g |
    awk -v name="$name" -v gpus="$gpus" '{ seconds[NR] = $1 } END {
      printf "%-32s %8.2f ms (%.2f to %.2f)  %9.0f tok/s\n", name, 1000 * seconds[8],
             1000 * seconds[1], 1000 * seconds[15], gpus * 32768 / seconds[8] }'
  sed -n 's/.*"runtime\/save_stall_seconds":\([^,}]*\).*/a save held it up for \1 s/p' \
    "$work/run/metrics.jsonl"
  rm -r "$work/run"
}

nvidia-smi --query-gpu=name --format=csv,noheader | sort | uniq -c
measure "1 GPU" 1
# The first of the ladder once more at its end: what differs between equals is noise.
for bucket in 128 16 64 256 4096 128; do
  measure "$count GPUs, buckets of $bucket MiB" "$count" --bucket-size "$bucket"
done
