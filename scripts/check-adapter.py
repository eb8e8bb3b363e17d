#!/usr/bin/env python3
"""Let PEFT read the adapter of a LoRA run and merge it; herd must measure the merged model as it measured the run's end, and merge to the same weights.

usage: scripts/check-adapter.py --herd target/release/herd
       (needs: pip install peft==0.21.2 transformers==5.23.0 torch==2.15.0)

A tiny model learns from the repository's speeches for 30 steps, an adapter beside it for 30 more, all in f32. Exits 1 where the
two held-out losses differ by more than 1e-6 of themselves, a weight that herd merged by more than 1e-6, or the adapter changed nothing.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CONFIG = """
preset = "tiny"
tokenizer = "tokenizer"
[data]
input = ["speeches.jsonl.zst"]
validation_share = 0.05
[precision]
weights = "f32"
[validation]
tokens = 16384
"""
LORA = '[model]\ninit = "base/checkpoints/step-30"\n[model.lora]\nrank = 8\nalpha = 16\n'
# A step of next to no length: what is measured after it is the merged model.
STILL = ["optim.steps=1", "optim.warmup_steps=0", "optim.lr=1e-12", "validation.every=1"]
LEARN = ["optim.steps=30", "optim.warmup_steps=5", "validation.every=30"]


def loss(herd, folder, name, more, settings):
    """Trains and gives the last held-out loss."""
    (folder / f"{name}.toml").write_text(CONFIG + more)
    sets = [part for setting in settings for part in ("--set", setting)]
    subprocess.run([herd, "pretrain", "--config", f"{name}.toml", "--out", name, "-q", *sets], cwd=folder, check=True)
    lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "validation"][-1]


def merge(folder):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = folder / "base/checkpoints/step-30"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, folder / "lora/checkpoints/step-30")
    model.merge_and_unload().save_pretrained(folder / "merged")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, folder / "merged")


def furthest(folder):
    """How far a number of herd's own merged folder lies from PEFT's, at most."""
    from safetensors.torch import load_file

    theirs, ours = (load_file(folder / name / "model.safetensors") for name in ("merged", "own"))
    if theirs.keys() != ours.keys():
        sys.exit(f"other tensors: {sorted(theirs.keys() ^ ours.keys())}")
    return max((theirs[name] - ours[name]).abs().max().item() for name in theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--herd", required=True, type=lambda path: str(Path(path).resolve()))
    herd = parser.parse_args().herd
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        shutil.copy(EXAMPLES / "speeches.jsonl.zst", folder)
        shutil.copytree(EXAMPLES / "tokenizer", folder / "tokenizer")
        base = loss(herd, folder, "base", "", LEARN)
        lora = loss(herd, folder, "lora", LORA, LEARN)
        merge(folder)
        adapter = ["--lora", "lora/checkpoints/step-30", "-o", "own", "--to", "hf"]
        subprocess.run([herd, "convert", "-m", "base/checkpoints/step-30", *adapter, "-q"], cwd=folder, check=True)
        far = furthest(folder)
        merged = loss(herd, folder, "measure", '[model]\ninit = "merged"\n', STILL)
    print(f"held-out loss: base {base:.9f}, with its adapter {lora:.9f}, merged by PEFT {merged:.9f}")
    print(f"herd's own merged weights lie within {far:.1e} of PEFT's")
    if abs(merged / lora - 1) > 1e-6 or lora >= base or far > 1e-6:
        sys.exit("they differ")


main()
