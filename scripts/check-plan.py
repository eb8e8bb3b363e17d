#!/usr/bin/env python3
"""Compare the memory that `herd plan` foretells of training runs with the most that they take.

usage: scripts/check-plan.py --herd target/release/herd [--configs 50] [--seed 1] [--input] [--examples [VERB,..]]        (needs: GNU time)

Random shapes, batches, formats and recomputing over examples/pretrain-tiny.toml, two steps each, on shards made once; with --input
each run tokenizes its text itself, which leaves 3 to 9 MB in the allocator, as its threads happen to run. With --examples it is
the other verbs instead, as examples/VERB-tiny.toml has them, after the two runs that they begin from. Prints a line a config,
and ends with code 1 if a plan is further than 5 % from the peak of its run.
"""
import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import EXAMPLES, herd_flag

EXAMPLE = EXAMPLES / "pretrain-tiny.toml"


def settings(rng):
    heads = rng.choice([2, 3, 4, 6, 8])
    seq_len = rng.choice([64, 128, 256, 512, 1024])
    rows = rng.choice([1, 2, 4, 8])
    return {
        "model.layers": rng.randint(1, 10),
        "model.heads": heads,
        "model.kv_heads": rng.choice([n for n in range(1, heads + 1) if heads % n == 0]),
        "model.width": heads * rng.choice([16, 32, 48, 64]),
        "model.ffn_width": 32 * rng.randint(2, 32),
        "model.tied": rng.choice(["true", "false"]),
        "batch.seq_len": seq_len,
        "batch.tokens": seq_len * rows,
        "batch.micro_tokens": seq_len * rng.choice([n for n in (1, 2, 4, 8) if n <= rows]),
        "precision.recompute": rng.choice(["true", "false"]),
        "precision.weights": rng.choice(["bf16", "bf16", "f32"]),
        "optim.steps": 2,
        "optim.warmup_steps": 1,
        "samples.every": 0,
    }


def tokenized(herd, folder):
    """Flags that name the shards of the example's text."""
    words = ["--tokenizer", EXAMPLE.parent / "tokenizer", "--input", EXAMPLE.parent / "speeches.jsonl.zst"]
    subprocess.run([herd, "data", "tokenize", "-q", *words, "--validation", "0.05", "-o", folder], check=True, stdout=subprocess.DEVNULL)
    return ["--set", f"data.shards={folder}", "--set", "data.input=[]"]


def main():
    parser = argparse.ArgumentParser()
    herd_flag(parser)
    parser.add_argument("--configs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", action="store_true")
    parser.add_argument("--examples", nargs="?", const="sft,dpo,reward,grpo,ppo,distill,sample,round")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.examples:
            cases = examples(args.herd, Path(folder), args.examples.split(","))
        else:
            cases = random_runs(args, [] if args.input else tokenized(args.herd, f"{folder}/shards"))
        ratios = [compare(args.herd, *case) for case in cases]
    far = [r for r in ratios if abs(r - 1) > 0.05]
    print(f"{len(ratios)} configs, {min(ratios):.3f} to {max(ratios):.3f} of the measured peak, {len(far)} further than 5 %")
    sys.exit(1 if far else 0)


def random_runs(args, text):
    """Verb, flags and name of each run of `pretrain`."""
    rng = random.Random(args.seed)
    for _ in range(args.configs):
        chosen = settings(rng)
        flags = ["--config", str(EXAMPLE), *text] + [f"--set={key}={value}" for key, value in chosen.items()]
        yield "pretrain", flags, " ".join(str(value) for value in list(chosen.values())[:11])


def examples(herd, folder, verbs):
    """The same of the examples that begin from a model of the repository's speeches, and from one that answers."""
    home = folder / "examples"
    shutil.copytree(EXAMPLES, home)
    for verb, name, out in [("pretrain", "pretrain-tiny", "pretrained"), ("sft", "sft-tiny", "tuned")]:
        subprocess.run([herd, verb, "-q", "--config", home / f"{name}.toml", "--out", home / out], check=True, stdout=subprocess.DEVNULL)
    for verb in verbs:
        more = ["--set=rounds=2"] if verb == "round" else []
        yield verb, ["--config", str(home / f"{verb}-tiny.toml"), *more], verb


def compare(herd, verb, flags, name):
    """Prints how a plan and its run agree; their ratio."""
    plan = subprocess.run([herd, "plan", "--json", *flags], capture_output=True, text=True, check=True)
    planned = json.loads(plan.stdout)["peak_bytes"]
    with tempfile.TemporaryDirectory() as out:
        rows = ".jsonl" if verb == "sample" else ""
        run = ["/usr/bin/time", "-f", "%M", herd, verb, "-q", "--out", f"{out}/run{rows}", *flags]
        measured = subprocess.run(run, capture_output=True, text=True, check=True)
    peak = int(measured.stderr.split()[-1]) * 1024
    print(f"{planned / peak:.3f}  {planned / 1e6:7.1f} of {peak / 1e6:7.1f} MB  {name}", flush=True)
    return planned / peak


main()
