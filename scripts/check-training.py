#!/usr/bin/env python3
"""Train a small Llama with herd and with PyTorch from the same weights on the same batches, and compare their losses.

usage: scripts/check-training.py --herd target/release/herd --text FILE [--text MORE] [--steps 2000] [--lr 1e-3] [--out FOLDER] [--seed 1]
       (needs: pip install torch safetensors)

FILE is anything that `herd data tokenize` reads: .txt, .jsonl, .jsonl.zst, .parquet. Held (issue "Train", must hold 2):
the first 10 losses of herd in f32 are within 1e-5 of PyTorch's in f32, relatively; after all steps the losses of held-out
text part by at most 0.1 %, and that of herd in bf16 is within 0.5 % of its own in f32. Exit 0 if all of it holds.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = """
tokenizer = "tokenizer"
seed = {seed}
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
    settings = SETTINGS.format(seed=args.seed, steps=args.steps, warmup=args.steps // 20, lr=args.lr)
    (folder / "run.toml").write_text(settings)


def train(args, herd, folder):
    def pretrain(name, precision, *more):
        herd("pretrain", "--config", folder / "run.toml", "--out", folder / name, "--set", f"precision.weights={precision}", *more)

    pretrain("f32", "f32", "--export", str(args.steps))
    pretrain("f32", "f32")
    pretrain("bf16", "bf16")
    script = Path(__file__).parent / "train-pytorch.py"
    command = [sys.executable, script, folder / "f32", "--out", folder / "pytorch.jsonl", "--threads", str(args.threads)]
    subprocess.run(list(map(str, command)), check=True)


def compare(folder):
    ours, ours_held = losses_of_herd(folder / "f32")
    theirs, theirs_held = losses_of_pytorch(folder / "pytorch.jsonl")
    _, bf16_held = losses_of_herd(folder / "bf16")
    apart = [abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)]
    checks = [
        ("first 10 losses, greatest relative difference", max(apart[:10]), 1e-5),
        ("held-out loss against PyTorch's", abs(ours_held / theirs_held - 1), 1e-3),
        ("held-out loss of bf16 against f32", abs(bf16_held / ours_held - 1), 5e-3),
    ]
    print(f"{len(ours)} steps: loss {ours[0]:.6f} -> {ours[-1]:.6f}, PyTorch {theirs[0]:.6f} -> {theirs[-1]:.6f}")
    print(f"held out: herd f32 {ours_held:.6f}, PyTorch f32 {theirs_held:.6f}, herd bf16 {bf16_held:.6f}")
    for n in (1, 10, 100, 1000, len(apart)):
        if n <= len(apart):
            print(f"  step {n}: {ours[n - 1]:.7f} {theirs[n - 1]:.7f}, relatively {apart[n - 1]:.1e} apart")
    for what, got, most in checks:
        print(f"{'ok  ' if got <= most else 'FAIL'} {what}: {got:.2e}, at most {most:.0e}")
    return all(got <= most for _, got, most in checks)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--herd", required=True)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a new folder that is kept")
    args = parser.parse_args()

    def herd(*words):
        subprocess.run([args.herd, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(args, herd, folder)
        train(args, herd, folder)
        return 0 if compare(folder) else 1


sys.exit(main())
