#!/usr/bin/env python3
"""Hold herd's rewards against those of transformers' AutoModelForSequenceClassification, both ways.

usage: scripts/check-reward.py --herd target/release/herd        (needs: pip install transformers==5.23.0 torch==2.15.0 peft==0.21.2)

A tiny model learns from the repository's speeches for 40 steps, then as a reward model from its comparisons for 20, all in f32. Held: transformers opens
the checkpoint without a missing or unexpected tensor, and of the ids that `herd preview` shows its scores, alone and padded in batches, are those of
`herd score` within 1e-5; a reward model that transformers writes (other weights, same shape) has in herd the scores that it has there; PEFT opens the adapter of a
run with `[model.lora]`, and its scores are those of the model that `herd convert --lora` makes of it. Exit 0 if all of it holds.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from common import BASE, furnish, herd_flag, offline, run_herd

offline()
LEARN = """
model.init = "base/checkpoints/step-40"
chat.template = "llama3"
data.input = ["comparisons.jsonl"]
precision.weights = "f32"
validation.every = 0
reward.strength_min = "marginally_better"
[batch]
tokens = 1024
seq_len = 256
micro_tokens = 512
[optim]
steps = 20
lr = 1e-3
warmup_steps = 3
"""
LORA = """
[model.lora]
rank = 8
alpha = 16
"""
TOLERANCE = 1e-5


def main():
    parser = argparse.ArgumentParser()
    herd_flag(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        furnish(Path(folder), "comparisons.jsonl")
        Path("base.toml").write_text(BASE)
        Path("reward.toml").write_text(LEARN)
        run = lambda *words: run_herd(args.herd, folder, "-q", *words)
        run("pretrain", "--config", "base.toml", "--out", "base")
        run("reward", "--config", "reward.toml", "--out", "run")
        Path("lora.toml").write_text(LEARN + LORA)
        run("reward", "--config", "lora.toml", "--out", "lora")
        run("convert", "-m", "base/checkpoints/step-40", "--lora", "lora/checkpoints/step-20", "-o", "merged", "--float", "f32")
        worst = max(check(run, "run/checkpoints/step-20"), check_adapter(run, "lora/checkpoints/step-20", "merged"))
    print("holds" if worst <= TOLERANCE else f"does not hold: {worst:.1e}")
    sys.exit(0 if worst <= TOLERANCE else 1)


def check(run, folder):
    from transformers import AutoModelForSequenceClassification

    load = lambda path: AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    model, info = load(folder)
    odd = {key: keys for key, keys in info.items() if keys}
    assert not odd, odd
    rows = answers(run, folder)
    worst = compare("herd's checkpoint in transformers", model, rows)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    model.save_pretrained("theirs")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (Path(folder) / name).exists():
            shutil.copy(Path(folder) / name, Path("theirs") / name)
    return max(worst, compare("transformers' checkpoint in herd", model, answers(run, "theirs")))


def check_adapter(run, adapter, merged):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained("base/checkpoints/step-40", dtype=torch.float32, num_labels=1)
    base.config.pad_token_id = json.loads((Path(merged) / "config.json").read_text())["pad_token_id"]
    return compare("herd's adapter in PEFT", PeftModel.from_pretrained(base, adapter).eval(), answers(run, merged))


def answers(run, folder):
    """(ids, herd's reward) of each answer: ids as herd shows them, rewards as it prints them."""
    shown = json.loads(run("preview", "--config", "reward.toml", "--rows", "100000", "--json"))["shown"]
    ids = {}
    for row in shown:
        ids.setdefault(int(row["row"].rpartition(":")[2]), []).append(row["ids"])
    scored = [json.loads(line) for line in run("score", "-m", folder, "--chat-template", "llama3", "-i", "comparisons.jsonl").splitlines()]
    for line, row in enumerate(scored, start=1):
        rewards = [row["rewards"][name] for name in ("edited", "chosen", "rejected") if name in row["rewards"]]
        # Rows of which preview left an answer out tell no longer which one it was.
        if len(ids.get(line, [])) == len(rewards):
            yield from zip(ids[line], rewards)


def compare(what, model, rows):
    """The greatest difference, relative to the reward or 1, alone and in padded batches."""
    rows = list(rows)
    pad = model.config.pad_token_id
    worst = {"alone": 0.0, "padded": 0.0}
    with torch.no_grad():
        for at in range(0, len(rows), 16):
            some = rows[at : at + 16]
            length = max(len(ids) for ids, _ in some)
            batch = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in some])
            mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in some])
            padded = model(batch, attention_mask=mask).logits[:, 0].tolist()
            alone = [model(torch.tensor([ids])).logits[0, 0].item() for ids, _ in some]
            for (_, reward), *got in zip(some, alone, padded):
                for name, value in zip(worst, got):
                    worst[name] = max(worst[name], abs(value - reward) / max(1.0, abs(reward)))
    print(f"{what}: {len(rows)} answers, greatest difference {worst['alone']:.1e} alone, {worst['padded']:.1e} padded")
    return max(worst.values())


main()
