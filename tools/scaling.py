#!/usr/bin/env python3
"""Prints the table of docs/scaling.md: what a training step costs on n GPUs, by a model of it.

    tools/scaling.py [--step-ms 145.1 --parameters 374e6 --tokens 32768 ...]

The step on one GPU is an input (measured); so are the bandwidth and latency of the links (assumed
unless you have measured yours: `all_reduce_perf` of nccl-tests prints them). The model is written out
in docs/scaling.md.
"""

import argparse

MIB = 1 << 20


def step(a, gpus, tokens, bucket):
    """Seconds of compute, of gradients not hidden, of weights; and the bytes a GPU sends."""
    compute = a.step_ms / 1000 * tokens / a.tokens
    backward = compute * a.backward_share
    share = (gpus - 1) / gpus
    gradients, weights = 4 * a.parameters, 2 * a.parameters
    nodes = -(-gpus // a.gpus_per_node)
    network = a.network_gbs * a.gpus_per_node  # all cards of a node work on a ring at once
    bandwidth = 1e9 * (a.node_gbs if nodes == 1 else min(a.node_gbs, network))
    # A ring has a hop between nodes for each node, all others stay inside.
    hops = 0 if gpus == 1 else (gpus - 1 - (nodes if nodes > 1 else 0)) * a.node_us + (
        nodes * a.network_us if nodes > 1 else 0)
    buckets = max(1, round(gradients / bucket))
    latency = buckets * max(hops, 0) * 1e-6
    summing = gradients * share / bandwidth + latency
    gathering = weights * share / bandwidth + latency
    # The last bucket cannot hide: its gradients are final when the backward pass ends.
    exposed = summing / buckets + max(0.0, summing - backward)
    return compute, exposed, gathering, (gradients + weights) * share


def automatic_bucket(gpus):
    """metala train's own choice (train/zero_optimizer.h)."""
    return min(max(2 * gpus, 128), 1024) * MIB


def row(a, gpus, tokens, bucket):
    compute, exposed, gathering, sent = step(a, gpus, tokens, bucket)
    total = compute + exposed + gathering
    return (f"| {gpus:,} | {tokens:,} | {gpus * tokens / 1e6:.2f}M | {bucket // MIB} MiB | "
            f"{sent / 1e9:.2f} GB | {1000 * compute:.1f} | {1000 * exposed:.1f} | "
            f"{1000 * gathering:.1f} | {100 * compute / total:.0f}% |")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--parameters", type=float, default=374e6)
    p.add_argument("--step-ms", type=float, default=145.1, help="of one GPU, measured")
    p.add_argument("--tokens", type=int, default=32768, help="of that step")
    p.add_argument("--backward-share", type=float, default=0.6, help="of the step")
    p.add_argument("--gpus-per-node", type=int, default=8)
    p.add_argument("--node-gbs", type=float, default=360, help="NCCL's bus bandwidth in a node, GB/s")
    p.add_argument("--network-gbs", type=float, default=45, help="of the network, GB/s a GPU")
    p.add_argument("--node-us", type=float, default=3, help="a hop of a ring in a node, microseconds")
    p.add_argument("--network-us", type=float, default=12, help="a hop between nodes")
    p.add_argument("--batch", type=float, default=2.1e6, help="tokens of the fixed batch")
    a = p.parse_args()
    print("| GPUs | tokens a GPU | batch | bucket | sent a GPU | compute, ms | gradients, ms | "
          "weights, ms | efficiency |\n|---|---|---|---|---|---|---|---|---|")
    for gpus in (1, 8, 64, 1024):
        small = {16 * MIB} if gpus > 1 else set()  # one sends nothing
        for bucket in sorted({automatic_bucket(gpus)} | small):
            print(row(a, gpus, a.tokens, bucket))
    for gpus in (8, 64, 1024):
        print(row(a, gpus, int(a.batch / gpus), automatic_bucket(gpus)))


if __name__ == "__main__":
    main()
