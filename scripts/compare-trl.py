#!/usr/bin/env python3
"""Measure steps of fine-tuning by herd and by TRL in one run and print a Markdown table.

usage: scripts/compare-trl.py --herd target/release/herd -m FOLDER --dialogues ROWS.jsonl --preferences PAIRS.jsonl
           [--verbs sft,lora,dpo,dpo-lora] [--peers bf16,autocast,f32] [--rounds 3] [--steps 8] [--tokens 4096] [--seq-len 512]
           [--tcmalloc LIB.so] [--through COMMAND] [--threads 2] [--json RAW.json]
       (needs: pip install trl==1.16.0 peft==0.21.2 transformers==5.23.0 torch==2.15.0 datasets; Debian's libtcmalloc-minimal4 for --tcmalloc)

FOLDER is a Hugging Face folder of a language model, ROWS.jsonl has rows of `messages`, PAIRS.jsonl rows of `prompt`, `chosen` and `rejected`,
each a list of messages; rows longer than --seq-len are left out for both sides. herd packs rows behind a document mask, TRL pads each to the longest
of its batch and, but for DPO, takes rows of like length together; a step of either has about --tokens tokens that are no padding, and only these are counted. Of DPO
the log-probabilities of the reference are made beforehand on both sides, and not timed. Settings of TRL: bf16 (weights, gradients and moments), autocast (weights in f32),
f32 (everything). herd keeps f32 masters and moments. Adapters have rank 8 on all seven products. Every setting runs in a process of its own; within a round they take turns,
the next round in reverse. A figure is the median of its rounds, each the median of its steps after the first two.
"""
import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERBS = ["sft", "lora", "dpo", "dpo-lora"]
LR = 1e-5
CONFIG = """
model.init = "{model}"
data = {{ input = ["{rows}"], validation_share = 0.0, long = "drop" }}
batch = {{ tokens = {tokens}, seq_len = {seq_len}, micro_tokens = {micro} }}
optim = {{ steps = {steps}, lr = 1e-5, warmup_steps = 1, decay = "constant" }}
checkpoint.every = 1000000
validation.every = 0
samples.every = 0
"""


def herd_main(args, verb, rows, micro):
    """Tokens a second that are no padding, and the peak memory in MB, of one run."""
    with tempfile.TemporaryDirectory() as scratch:
        config, out = Path(scratch, "run.toml"), Path(scratch, "run")
        text = CONFIG.format(model=args.model, rows=rows, tokens=args.tokens,
                             seq_len=args.seq_len, micro=micro, steps=args.steps)
        text += "dpo = { nll = 0.0, mask_format = false, similar = 1.0 }\n" if verb.startswith("dpo") else ""
        text += "[model.lora]\nrank = 8\nalpha = 16\n" if verb.endswith("lora") else ""
        config.write_text(text)
        verb = "dpo" if verb.startswith("dpo") else "sft"
        command = args.through.split() + ["/usr/bin/time", "-f", "peak %M", args.herd, verb, "--config", config, "--out", out, "-t", str(args.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        told = done.stdout + done.stderr
        rates = [float(rate.replace(",", "")) for rate in re.findall(r"([\d,.]+) tok/s", told)]
        ledger = json.loads((out / f"checkpoints/step-{args.steps}/state/train.json").read_text())["cursor"]["ledger"]
        full = ledger["kept"] / (ledger["kept"] + ledger["padded"])
        return full * statistics.median(rates[2:]), int(re.search(r"peak (\d+)", told)[1]) / 1024


def trl_main(args, verb, rows, precision):
    """The same of TRL; runs in a process of its own."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    data = Dataset.from_list([json.loads(line) for line in open(rows)])
    parts = ["messages"] if verb in ("sft", "lora") else ["chosen", "rejected"]
    length = lambda row: sum(len(ids_of(tokenizer, row.get("prompt", []) + row[part])) for part in parts)
    mean = statistics.mean(map(length, data))
    seconds, tokens = [], []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            tokens.append(0)
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - self.start)

    common = dict(
        output_dir=tempfile.mkdtemp(), max_steps=args.steps, per_device_train_batch_size=max(1, round(args.tokens / mean)), learning_rate=LR,
        lr_scheduler_type="constant", max_grad_norm=1.0, use_cpu=True, bf16=precision == "autocast", report_to=[], save_strategy="no",
        disable_tqdm=True, logging_strategy="no", gradient_checkpointing=False, max_length=args.seq_len,
        optim="adamw_torch", seed=1,
    )
    adapter = None
    if verb.endswith("lora"):
        from peft import LoraConfig
        adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    if verb.startswith("dpo"):
        from trl import DPOConfig, DPOTrainer
        kind, config = DPOTrainer, DPOConfig(beta=0.1, precompute_ref_log_probs=adapter is None, **common)
    else:
        from trl import SFTConfig, SFTTrainer
        kind, config = SFTTrainer, SFTConfig(train_sampling_strategy="group_by_length", **common)

    class Counting(kind):
        def compute_loss(self, model, inputs, *rest, **more):
            tokens[-1] += int(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *rest, **more)

    Counting(model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=adapter, callbacks=[Clock()]).train()
    rate = statistics.median(n / s for n, s in zip(tokens[2:], seconds[2:]))
    print(json.dumps([rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def ids_of(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]


def shortened(args, source, parts, target):
    """The rows of which every dialogue has at most --seq-len tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    kept = []
    for line in Path(source).read_text().splitlines():
        row = json.loads(line)
        # The answers of one prompt stand in one row of herd's, each behind the prompt.
        if sum(len(ids_of(tokenizer, row.get("prompt", []) + row[part])) for part in parts) <= args.seq_len:
            kept.append(line)
    target.write_text("".join(line + "\n" for line in kept))
    return str(target)


def measure(args, verb, rows, setting):
    if setting.startswith("herd"):
        return herd_main(args, verb, rows, args.seq_len if "row" in setting else args.tokens)
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    if args.tcmalloc:
        environment["LD_PRELOAD"] = args.tcmalloc
    passed = ["--herd", args.herd, "-m", args.model, "--threads", str(args.threads), "--steps", str(args.steps), "--tokens", str(args.tokens),
              "--seq-len", str(args.seq_len), "--peer", verb, rows, setting]
    done = subprocess.run(args.through.split() + [sys.executable, __file__, *passed], check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    absolute = lambda path: str(Path(path).resolve())
    parser.add_argument("--herd", required=True, type=absolute)
    parser.add_argument("-m", "--model", required=True, type=absolute)
    parser.add_argument("--dialogues", type=absolute)
    parser.add_argument("--preferences", type=absolute)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--peers", default="bf16,autocast")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tcmalloc")
    parser.add_argument("--through", default="")
    parser.add_argument("--json")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return trl_main(args, *args.peer)
    settings = ["herd", "herd, a row at once", *(f"{peer}" for peer in args.peers.split(","))]
    print("| verb | program | tokens/s | herd is faster | peak MB | of herd's least |\n|---|---|---|---|---|---|", flush=True)
    raw = {}
    with tempfile.TemporaryDirectory() as scratch:
        for verb in args.verbs.split(","):
            pairs = verb.startswith("dpo")
            source, parts = (args.preferences, ["chosen", "rejected"]) if pairs else (args.dialogues, ["messages"])
            rows = shortened(args, source, parts, Path(scratch, "rows.jsonl"))
            figures = {setting: [] for setting in settings}
            for turn in range(args.rounds):
                for setting in settings if turn % 2 == 0 else settings[::-1]:
                    figures[setting].append(measure(args, verb, rows, setting))
            raw[verb] = figures
            rate = {setting: statistics.median(r for r, _ in found) for setting, found in figures.items()}
            peak = {setting: statistics.median(p for _, p in found) for setting, found in figures.items()}
            best = max(rate[setting] for setting in settings[:2])
            least = min(peak[setting] for setting in settings[:2])
            for setting in settings:
                name = setting if setting.startswith("herd") else f"TRL {setting}"
                print(f"| {verb} | {name} | {rate[setting]:.0f} | {best / rate[setting]:.2f} x | {peak[setting]:.0f} | {peak[setting] / least:.2f} x |", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
