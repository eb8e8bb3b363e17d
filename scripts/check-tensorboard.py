#!/usr/bin/env python3
"""Reads a run's event files with TensorBoard's own reader and holds them against metrics.jsonl.

    pip install tensorboard==2.21.0
    python3 scripts/check-tensorboard.py RUN_DIR

Prints each name with its number of points, and exits 1 if a step of metrics.jsonl is missing, is there twice, or
has another loss. A run that was killed and resumed has several files, some with a torn tail; the reader drops what a later
file begins anew.
"""
import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def main():
    run = sys.argv[1]
    events = EventAccumulator(os.path.join(run, "events"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    for tag in tags["scalars"]:
        print(f"{tag}: {len(events.Scalars(tag))} numbers")
    for tag in tags["tensors"]:
        print(f"{tag}: {len(events.Tensors(tag))} texts")
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.endswith("\n")]
    expected = {line["step"]: f32(line["loss"]) for line in lines if line["kind"] == "step"}
    got = [(e.step, e.value) for e in events.Scalars("train/loss")]
    if got != sorted(expected.items()):
        parts = [pair for pair in zip(got, sorted(expected.items())) if pair[0] != pair[1]]
        sys.exit(f"{len(got)} losses for {len(expected)} steps; first difference: {parts[:1]}")
    print(f"all {len(got)} steps of metrics.jsonl are there once, with their losses")


main()
