#!/usr/bin/env python3
"""Measure a step of training by herd and by PyTorch in one run and print a Markdown table.

usage: scripts/compare-pytorch.py --herd target/release/herd [--shapes 15m,110m] [--rounds 3] [--repetitions 5]
           [--peers bf16,autocast,f32,f32-compiled,bf16-compiled] [--tcmalloc LIB.so] [--through COMMAND] [--threads 2] [--json RAW.json]
       (needs: pip install torch safetensors; Debian's libtcmalloc-minimal4 for --tcmalloc)

Both sides train the same shape on random tokens, --tokens a step (4096), AdamW and clipping included (scripts/train-pytorch.py --bench).
Every setting runs in a process of its own; within a round they take turns, the next round in reverse. A figure is the median
of its rounds, each the median of its steps; a ratio is herd's best setting against that one. --through is put before each
measured command, for a machine on which measurements have to queue.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

PEERS = {
    "bf16": ["--precision", "bf16"],
    "autocast": ["--precision", "autocast"],
    "f32": ["--precision", "f32"],
    "f32-compiled": ["--precision", "f32", "--compile"],
    "bf16-compiled": ["--precision", "bf16", "--compile"],
}


def jobs(args, shape):
    """Name, command and environment of each setting."""
    n = ["--repetitions", str(args.repetitions), "--threads", str(args.threads), "--tokens", str(args.tokens)]
    herd = [args.herd, "bench", "train", "--shape", shape, "--json", *n]
    row = "256" if shape == "15m" else "1024"
    ours = [("herd bf16", herd), ("herd bf16, a row at once", [*herd, "--micro-tokens", row])]
    if "f32" in args.peers.split(","):
        ours.append(("herd f32", [*herd, "--weights", "f32"]))
    script = str(Path(__file__).parent / "train-pytorch.py")
    theirs = [(f"PyTorch {p}", [sys.executable, script, "--bench", shape, *PEERS[p], *n]) for p in args.peers.split(",")]
    preload = {"LD_PRELOAD": args.tcmalloc} if args.tcmalloc else {}
    return [(*job, {}) for job in ours] + [(*job, preload) for job in theirs]


def run(args, command, extra):
    # `env` keeps the preloaded library out of the command that things are run through.
    settings = [f"{name}={value}" for name, value in extra.items()]
    done = subprocess.run([*shlex.split(args.through), "env", *settings, *command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr[-400:]}")
    return json.loads(done.stdout)


def measure(args, shape):
    """The figures of each setting, round by round."""
    raw = {}
    for round_ in range(args.rounds):
        order = jobs(args, shape)
        for name, command, extra in order if round_ % 2 == 0 else order[::-1]:
            try:
                raw.setdefault(name, []).append(run(args, command, extra))
                print(f"{shape} {name}: {json.dumps(raw[name][-1])}", file=sys.stderr, flush=True)
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
    return {name: figures for name, figures in raw.items() if figures}


def median(figures, key):
    return statistics.median(f[key] for f in figures)


def table(shape, raw):
    ours = {name: figures for name, figures in raw.items() if name.startswith("herd bf16")}
    best = max(median(f, "tok_s") for f in ours.values())
    least = min(median(f, "peak_bytes") for f in ours.values())
    for name, figures in raw.items():
        speed, peak = median(figures, "tok_s"), median(figures, "peak_bytes")
        print(f"| {shape} | {name} | {speed:.0f} | {best / speed:.2f} x | {peak / 1e6:.0f} | {peak / least:.2f} x |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--herd", required=True)
    parser.add_argument("--shapes", default="15m,110m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--peers", default="bf16,autocast,f32")
    parser.add_argument("--tcmalloc", help="the library to preload")
    parser.add_argument("--through", default="", help="a command put before each measured one")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", help="where all figures go")
    args = parser.parse_args()
    print("| shape | program | tokens/s | herd is faster | peak MB | of herd's least |\n|---|---|---|---|---|---|", flush=True)
    all_raw = {}
    for shape in args.shapes.split(","):
        all_raw[shape] = measure(args, shape)
        table(shape, all_raw[shape])
    if args.json:
        Path(args.json).write_text(json.dumps(all_raw, indent=1))


main()
