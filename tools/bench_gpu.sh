#!/bin/sh
# The figures of docs/benchmarks.md on this machine's GPU: decoding, prefill and training of the 374M
# model in bf16, then every operator.
#   bench_gpu.sh METALA
set -eu
metala=$1
"$metala" doctor | grep '^cuda:'
"$metala" bench decode --device cuda --weights bf16 --steps 200 \
  --batch 1 2 4 8 16 32 64 128 256 1024
"$metala" bench prefill --device cuda --weights bf16
"$metala" bench train --device cuda --weights bf16 --sequences 16 --tokens 2048
"$metala" bench ops --filter gpu
