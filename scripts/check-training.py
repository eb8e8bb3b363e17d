#!/usr/bin/env python3
"""Train a small Llama with herd and with PyTorch from the same weights on the same batches, and compare their losses.

usage: scripts/check-training.py --herd target/release/herd --text FILE [--text MORE] [--steps 2000] [--lr 1e-3] [--out FOLDER]
           [--seeds 1 2 3] [--threads 2]
       (needs: pip install torch safetensors)

FILE is anything that `herd data tokenize` reads: .txt, .jsonl, .jsonl.zst, .parquet. A seed decides first weights and order of
the text; each is trained four times: by both programs in f32 and in bf16 (PyTorch's is autocast). Held (issue "Train", must hold 2):
for every seed the first 10 losses of herd in f32 are within 1e-5 of PyTorch's, relatively, and after all steps the losses of
held-out text part by at most 0.1 %. A run in bf16 takes a path of its own, so that what a single one ends with is no measure of
its arithmetic: the mean over seeds of (bf16 / f32 - 1) is within 0.5 %. PyTorch's is told beside it. Exit 0 if all of it holds.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = """
tokenizer = "tokenizer"
[data]
shards = "shards"
epochs_max = 1000.0
[model]
layers = 3
width = 96
heads = 4
kv_heads = 2
ffn_width = 256
[batch]
tokens = 512
seq_len = 64
micro_tokens = 512
[optim]
steps = {steps}
warmup_steps = {warmup}
lr = {lr}
[checkpoint]
every = {steps}
keep_last = 2
[validation]
every = 0
tokens = 32768
[samples]
every = 0
"""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses_of_herd(run):
    """Losses by step, and the loss of held-out text at the end."""
    found = lines(run / "metrics.jsonl")
    steps = [line["loss"] for line in found if line["kind"] == "step"]
    return steps, [line["loss"] for line in found if line["kind"] == "validation"][-1]


def losses_of_pytorch(path):
    found = lines(path)
    return [line["loss"] for line in found if "step" in line], found[-1]["validation"]


def prepare(args, herd, folder):
    herd("tokenizer", "train", "--input", *args.text, "--vocab-size", "1024", "-o", folder / "tokenizer")
    # Long texts become documents of some pages, so that a share of them can be held out.
    herd("data", "tokenize", "--tokenizer", folder / "tokenizer", "--input", *args.text, "--text-bytes", "8192",
         "--validation", "0.05", "-o", folder / "shards")
    settings = SETTINGS.format(steps=args.steps, warmup=args.steps // 20, lr=args.lr)
    (folder / "run.toml").write_text(settings)


def train(args, herd, folder, seed):
    """The four runs of a seed; those that `folder` holds are not made again."""
    run = folder / f"seed-{seed}"
    settings = ["--config", folder / "run.toml", "--threads", args.threads, "--set", f"seed={seed}"]

    def pretrain(name, precision, *more):
        herd("pretrain", *settings, "--out", run / name, "--set", f"precision.weights={precision}", *more)

    def pytorch(precision):
        script = Path(__file__).parent / "train-pytorch.py"
        command = [sys.executable, script, run / "f32", "--out", run / f"{precision}.jsonl", "--precision", precision,
                   "--threads", args.threads]
        subprocess.run(list(map(str, command)), check=True)

    pretrain("f32", "f32", "--export", args.steps)
    pretrain("f32", "f32")
    pretrain("bf16", "bf16")
    pytorch("f32")
    pytorch("autocast")


def compare(folder, seed):
    """Prints what a seed gave: the checks it failed, and how far bf16 ends from f32 in both programs."""
    run = folder / f"seed-{seed}"
    (ours, ours_held), (_, bf16_held) = losses_of_herd(run / "f32"), losses_of_herd(run / "bf16")
    (theirs, theirs_held), (_, autocast_held) = losses_of_pytorch(run / "f32.jsonl"), losses_of_pytorch(run / "autocast.jsonl")
    apart = [abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)]
    print(f"seed {seed}, {len(ours)} steps: loss {ours[0]:.6f} -> {ours[-1]:.6f}, PyTorch {theirs[0]:.6f} -> {theirs[-1]:.6f}")
    for n in (1, 10, 100, 1000, len(apart)):
        if n <= len(apart):
            print(f"  step {n}: {ours[n - 1]:.7f} {theirs[n - 1]:.7f}, relatively {apart[n - 1]:.1e} apart")
    print(f"  held out: herd f32 {ours_held:.6f}, bf16 {bf16_held:.6f}; PyTorch f32 {theirs_held:.6f}, autocast {autocast_held:.6f}")
    held = [
        check("  first 10 losses, greatest relative difference", max(apart[:10]), 1e-5),
        check("  held-out loss against PyTorch's", ours_held / theirs_held - 1, 1e-3),
    ]
    return all(held), bf16_held / ours_held - 1, autocast_held / theirs_held - 1


def check(what, got, most):
    print(f"{'ok  ' if abs(got) <= most else 'FAIL'} {what}: {got:+.2e}, at most {most:.0e}")
    return abs(got) <= most


def told(differences):
    """Mean, standard error and range of relative differences, in per cent."""
    mean, n = statistics.mean(differences), len(differences)
    error = statistics.stdev(differences) / n**0.5 if n > 1 else float("nan")
    return f"mean {100 * mean:+.3f} % +- {100 * error:.3f}, from {100 * min(differences):+.3f} to {100 * max(differences):+.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--herd", required=True)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a new folder that is kept")
    args = parser.parse_args()

    def herd(*words):
        subprocess.run([args.herd, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(args, herd, folder)
        found = []
        for seed in args.seeds:
            train(args, herd, folder, seed)
            found.append(compare(folder, seed))
        held, ours, theirs = zip(*found)
        print(f"held-out loss of bf16 against f32: herd {told(ours)}; PyTorch {told(theirs)}")
        near = check("its mean over seeds", statistics.mean(ours), 5e-3)
        return 0 if all(held) and near else 1


sys.exit(main())
