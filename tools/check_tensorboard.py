"""Reads a run's TensorBoard events with TensorBoard itself and compares them with metrics.jsonl.

    pip install tensorboard
    python3 tools/check_tensorboard.py RUN

A development-time check: every scalar of every step must be there, as the float32 that events hold.
"""
import json
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def as_float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def main(run):
    recorded = {}
    with open(f"{run}/metrics.jsonl", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            step = record.pop("step")
            for name, value in record.items():
                if value is not None:
                    recorded.setdefault(name, []).append((step, as_float32(value)))
    events = EventAccumulator(run, size_guidance={"scalars": 0})
    events.Reload()
    wrong = 0
    for name, points in sorted(recorded.items()):
        read = [(e.step, e.value) for e in events.Scalars(name)]
        same = read == points
        wrong += not same
        print(f"{name}: {len(read)} points", "agree" if same else f"differ from {len(points)}")
    return 1 if wrong or not recorded else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
