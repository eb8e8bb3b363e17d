#!/usr/bin/env python3
"""Fine-tune a tiny model on the repository's dialogues with herd, with transformers and with TRL, and compare tokens, masks and losses.

usage: scripts/check-sft.py --herd target/release/herd [--steps 10]
       (needs: pip install trl==1.16.0 peft==0.21.2 transformers==5.23.0 torch==2.15.0)

A tiny model learns from the repository's speeches for 40 steps; from its weights all programs learn the same dialogues in the same order,
in f32: herd packs them into rows behind a document mask, the others pad each. Held (issue "Align", must hold 1 and 2):
the tokens and the learnt ones among them, as `herd preview` and herd's batches have them, are those of transformers' own rendering
with {% generation %} marks and of TRL's assistant_only_loss, and each loss is theirs within 1e-5, relatively: of all weights, and of
an adapter beside PEFT's; so is the norm of each gradient. Exit 0 if all of it holds.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from common import BASE, furnish, herd_flag, offline, run_herd

offline()
LEARN = """
model.init = "base/checkpoints/step-40"
chat.template = "llama3"
data.input = ["dialogues.jsonl"]
data.validation_share = 0.0
precision.weights = "f32"
validation.every = 0
samples.every = 0
[batch]
tokens = 1024
seq_len = 256
micro_tokens = 512
[optim]
steps = {steps}
lr = 1e-3
warmup_steps = 3
decay = "constant"
"""
LORA = "[model.lora]\nrank = 4\nalpha = 8\n"
LR, WARMUP = 1e-3, 3
# Llama 3's format, with marks around what is learnt.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'assistant' and message['weight'] != 0 %}{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def rendered(tokenizer, dialogues):
    """The ids and the mask of each dialogue, as transformers has them."""
    for messages in dialogues:
        row = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        yield tuple(row["input_ids"]), tuple(row["assistant_masks"])


def batches(path):
    """For each step the ids and the weights of each dialogue in it, in the order of their rows."""
    flat = {name.removeprefix("train."): tensor.tolist() for name, tensor in load_file(path).items() if name.startswith("train.")}
    at = run = 0
    for rows, places, runs in flat["sizes"]:
        found = []
        for length in flat["lengths"][run : run + runs]:
            weights = flat["weights"][at : at + length]
            if any(weights):  # what is left over at the end of a row is padding
                ids = flat["tokens"][at : at + length] + flat["targets"][at + length - 1 : at + length]
                found.append((tuple(ids), (0, *map(int, weights))))
            at += length
        run += runs
        yield found


def steps_of_herd(run):
    """The loss of each step, and the norm of its gradient."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "step"]


def optimizer_of(model):
    matrices, others = [[p for p in model.parameters() if p.requires_grad and (p.dim() == 2) == is_matrix] for is_matrix in (True, False)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-8)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))


def steps_of_transformers(model, steps):
    """The same of a model whose loss is the mean over the learnt tokens of a step's dialogues, each padded behind its end."""
    optimizer, schedule = optimizer_of(model)
    for dialogues in steps:
        longest = max(len(ids) for ids, _ in dialogues)
        pad = lambda row, value: list(row) + [value] * (longest - len(row))
        ids = torch.tensor([pad(ids, 0) for ids, _ in dialogues])
        seen = torch.tensor([pad([1] * len(ids), 0) for ids, _ in dialogues])
        learnt = torch.tensor([pad(mask, 0) for _, mask in dialogues])[:, 1:].bool()
        logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits[learnt], ids[:, 1:][learnt])
        loss.backward()
        # Summed in f64: what clipping returns has squares summed in f32, and misses the fifth digit.
        norm = sum(p.grad.double().square().sum() for p in model.parameters() if p.grad is not None).sqrt()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item(), norm.item()


def losses_of_trl(model, tokenizer, dialogues, steps, folder):
    """The losses of TRL's trainer on the messages themselves, and the (ids, mask) that it made of them."""
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from trl import SFTConfig, SFTTrainer

    losses, made = [], []

    class Trainer(SFTTrainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, batch_sampler=steps, collate_fn=self.data_collator)

        def compute_loss(self, model, inputs, **more):
            for ids, labels, seen in zip(inputs["input_ids"], inputs["labels"], inputs["attention_mask"]):
                ids, labels = ids[seen.bool()].tolist(), labels[seen.bool()].tolist()
                made.append((tuple(ids), tuple(int(label != -100) for label in labels)))
            loss = super().compute_loss(model, inputs, **more)
            losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss

    config = SFTConfig(
        output_dir=str(folder / "trl"), assistant_only_loss=True, max_length=None, max_steps=len(steps), max_grad_norm=1.0, use_cpu=True,
        bf16=False, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
        remove_unused_columns=False,
    )
    data = Dataset.from_list([{"messages": messages} for messages in dialogues])
    optimizers = optimizer_of(model)
    Trainer(model, args=config, train_dataset=data, processing_class=tokenizer, optimizers=optimizers).train()
    return losses, made


def check(what, holds):
    print(f"{'ok  ' if holds else 'FAIL'} {what}", flush=True)
    return holds


def near(what, ours, theirs):
    apart = max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
    return check(f"{what}: {len(ours)} from {ours[0]:.6f} to {ours[-1]:.6f}, at most {apart:.1e} apart, relatively", apart <= 1e-5)


def all_near(what, ours, theirs):
    """Losses and norms."""
    pairs = zip(("losses", "norms of gradients"), zip(*ours), zip(*theirs))
    return all([near(f"{what}, {kind}", a, b) for kind, a, b in pairs])


def compare(herd, folder, count):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def learn(name, more):
        (folder / f"{name}.toml").write_text(LEARN.format(steps=count) + more)
        for export in (["--export", count], []):
            run_herd(herd, folder, "sft", "--config", f"{name}.toml", "--out", name, "-q", *export)
        return steps_of_herd(folder / name)

    (folder / "base.toml").write_text(BASE)
    run_herd(herd, folder, "pretrain", "--config", "base.toml", "--out", "base", "-q")
    full, lora = learn("full", ""), learn("lora", LORA)
    base = folder / "base/checkpoints/step-40"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    model = lambda: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    dialogues = [json.loads(line)["messages"] for line in (folder / "dialogues.jsonl").read_text().splitlines()]
    told = list(rendered(tokenizer, dialogues))
    shown = json.loads(run_herd(herd, folder, "preview", "--config", "full.toml", "--rows", len(dialogues), "--json"))["shown"]
    held = [check(f"the tokens and masks of {len(told)} dialogues", [(tuple(row["ids"]), tuple(row["weights"])) for row in shown] == told)]
    steps = list(batches(folder / "full/batches.safetensors"))
    place = {row: number for number, row in enumerate(told)}
    known = all(row in place for step in steps for row in step)
    held.append(check(f"the {sum(map(len, steps))} dialogues in {len(steps)} packed batches are these", known))
    if known:
        order = [[place[row] for row in step] for step in steps]
        held.append(all_near("all weights, transformers", full, steps_of_transformers(model(), steps)))
        losses, made = losses_of_trl(model(), tokenizer, dialogues, order, folder)
        held.append(check("TRL's tokens and masks", made == [row for step in steps for row in step]))
        held.append(near("all weights, TRL, losses", [loss for loss, _ in full], losses))
        adapter = PeftModel.from_pretrained(model(), folder / "lora/checkpoints/step-0", is_trainable=True)
        held.append(all_near("an adapter, PEFT", lora, steps_of_transformers(adapter, steps)))
        again = AutoTokenizer.from_pretrained(folder / f"full/checkpoints/step-{count}")
        prompt = lambda words: words.apply_chat_template(dialogues[0][:1], add_generation_prompt=True)["input_ids"]
        held.append(check("the template that herd wrote says the same", prompt(again) == prompt(tokenizer)))
    return all(held)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    herd_flag(parser)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        furnish(folder, "dialogues.jsonl")
        return 0 if compare(args.herd, folder, args.steps) else 1


sys.exit(main())
