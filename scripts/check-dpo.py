#!/usr/bin/env python3
"""Align a tiny model on the repository's comparisons with herd, with PyTorch and with TRL, and compare tokens, masks, losses and rewards.

usage: scripts/check-dpo.py --herd target/release/herd [--steps 10]
       (needs: pip install trl==1.16.0 transformers==5.23.0 torch==2.15.0)

A tiny model learns from the repository's speeches for 40 steps; from its weights all programs learn from the same pairs in the same
order, in f32: herd packs the answers of a prompt into one row behind a document mask, the others pad each. Held (issue "Align", must
hold 1 and 2), each within 1e-5, relatively:

    the paper's loss        format tokens masked, 0.2 of the NLL, two and three answers: a rewriting of it in PyTorch
    TRL's, sigmoid and IPO  every token of an answer, no NLL: DPOTrainer itself, its tokens too
    TRL's, masked           DPOTrainer with the ends of answers taken out of its completion masks

Exit 0 if all of it holds.
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
data.input = ["{data}.jsonl"]
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
lr = 1e-4
warmup_steps = 3
decay = "constant"
[dpo]
"""
BETA, NLL = 0.1, 0.2
LR, WARMUP = 1e-4, 3
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
NAMES = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"]


def prompts_of(path, answers_of):
    """For each step the answers of each prompt in it, (ids, mask of what counts), the best first."""
    flat = {name.removeprefix("train."): tensor.tolist() for name, tensor in load_file(path).items() if name.startswith("train.")}
    at = run = 0
    for rows, places, runs in flat["sizes"]:
        found = []
        for length in flat["lengths"][run : run + runs]:
            weights = flat["weights"][at : at + length]
            if any(weights):  # what is left over at the end of a row is padding
                # An answer behind others ends in its own last token; the last one's is a target alone.
                ids = tuple(flat["tokens"][at : at + length])
                ids, mask = (ids, (0, *map(int, weights[:-1])))
                if (ids, mask) not in answers_of:
                    ids, mask = ids + (flat["targets"][at + length - 1],), (0, *map(int, weights))
                found.append((ids, mask))
            at += length
        run += runs
        step = []
        while found:
            count = len(answers_of.get(found[0], [None]))
            step.append(found[:count])
            found = found[count:]
        yield step


def steps_of_herd(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "step"]


def optimizer_of(model):
    matrices, others = [[p for p in model.parameters() if (p.dim() == 2) == is_matrix] for is_matrix in (True, False)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-8)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))


def log_probability(model, ids, mask):
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    logits = model(ids[None, :-1]).logits[0]
    return -(nn.functional.cross_entropy(logits, ids[1:], reduction="none") * mask[1:]).sum()


def steps_of_torch(model, reference, steps):
    """The paper's loss, answer by answer: losses, norms of gradients and what is told of pairs."""
    optimizer, schedule = optimizer_of(model)
    for prompts in steps:
        losses, told = [], []
        for answers in prompts:
            said = [log_probability(model, *answer) for answer in answers]
            with torch.no_grad():
                before = [log_probability(reference, *answer) for answer in answers]
            for c in range(len(answers)):
                for r in range(c + 1, len(answers)):
                    moved = [said[k] - before[k] for k in (c, r)]
                    nll = -said[c] / sum(answers[c][1])
                    losses.append(-nn.functional.logsigmoid(BETA * (moved[0] - moved[1])) + NLL * nll)
                    chosen, rejected = (BETA * x.item() for x in moved)
                    told.append([chosen, rejected, chosen - rejected, float(chosen > rejected), said[c].item(), said[r].item(), nll.item()])
        loss = torch.stack(losses).mean()
        loss.backward()
        norm = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt().item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        means = torch.tensor(told, dtype=torch.float64).mean(dim=0).tolist()
        yield {"loss": loss.item(), "grad_norm": norm} | dict(zip([*NAMES, "nll_loss"], means))


def steps_of_trl(model, reference, tokenizer, rows, order, kind, hidden, folder):
    """What TRL's trainer tells on the rows themselves, and the (ids, mask) of its pairs; ids in `hidden` count for nothing."""
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from trl import DPOConfig, DPOTrainer

    told, made = [], []

    class Trainer(DPOTrainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, batch_sampler=order, collate_fn=self.collate)

        def collate(self, examples):
            inputs = self.data_collator(examples)
            for token in hidden:
                inputs["completion_mask"] = inputs["completion_mask"].masked_fill(inputs["input_ids"] == token, 0)
            return inputs

        def compute_loss(self, model, inputs, **more):
            for ids, mask, seen in zip(inputs["input_ids"], inputs["completion_mask"], inputs["attention_mask"]):
                made.append((tuple(ids[seen.bool()].tolist()), tuple(mask[seen.bool()].tolist())))
            loss = super().compute_loss(model, inputs, **more)
            means = {name: self._metrics["train"][name][-1] for name in NAMES}
            told.append({"loss": (loss[0] if isinstance(loss, tuple) else loss).item()} | means)
            return loss

    config = DPOConfig(
        output_dir=str(folder / "trl"), beta=BETA, loss_type=[kind], max_length=None, max_steps=len(order), max_grad_norm=1.0,
        use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
    )
    say = lambda role, text: [{"role": role, "content": text}]
    data = [
        {"prompt": say("user", row["prompt"]), "chosen": say("assistant", row["chosen"]), "rejected": say("assistant", row["rejected"])}
        for row in rows
    ]
    Trainer(
        model, ref_model=reference, args=config, train_dataset=Dataset.from_list(data), processing_class=tokenizer,
        optimizers=optimizer_of(model),
    ).train()
    return told, made


def check(what, holds):
    print(f"{'ok  ' if holds else 'FAIL'} {what}", flush=True)
    return holds


def near(what, ours, theirs):
    """Every number of every step; those that are near nothing by what they are parts of."""
    held = []
    for name in theirs[0]:
        pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True)]
        # Rewards are small differences of great sums: their rounding is that of the sums.
        scale = lambda a: max(abs(a), 1.0) if name.startswith("rewards") else abs(a)
        apart = max(abs(a - b) / scale(a) for a, b in pairs)
        held.append(check(f"{what}, {name}: from {pairs[0][0]:.6f} to {pairs[-1][0]:.6f}, at most {apart:.1e} apart", apart <= 1e-5))
    return all(held)


def compare(herd, folder, count):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (folder / "base.toml").write_text(BASE)
    run_herd(herd, folder, "pretrain", "--config", "base.toml", "--out", "base", "-q")
    base = folder / "base/checkpoints/step-40"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    model = lambda: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = [json.loads(line) for line in (folder / "comparisons.jsonl").read_text().splitlines()]
    pairs = [row for row in rows if "edited" not in row and row["chosen"] != row["rejected"] and row["strength"] != "slightly_better"]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")

    def learn(name, data, more):
        (folder / f"{name}.toml").write_text(LEARN.format(steps=count, data=data) + more)
        shown = json.loads(run_herd(herd, folder, "preview", "--config", f"{name}.toml", "--rows", len(rows), "--json"))["shown"]
        prompts = {}
        for row in shown:
            prompts.setdefault(row["row"], []).append((tuple(row["ids"]), tuple(map(int, row["weights"]))))
        for export in (["--export", count], []):
            run_herd(herd, folder, "dpo", "--config", f"{name}.toml", "--out", name, "-q", *export)
        by_first = {answers[0]: answers for answers in prompts.values()}
        known = {answer: by_first.get(answer, [answer]) for answers in prompts.values() for answer in answers}
        return steps_of_herd(folder / name), list(prompts_of(folder / name / "batches.safetensors", known)), prompts

    def of_row(row):
        texts = [row[key] for key in ("edited", "chosen", "rejected") if key in row]
        say = lambda role, text: {"role": role, "content": text}
        for text in texts:
            ids = tokenizer.apply_chat_template([say("user", row["prompt"]), say("assistant", text)])["input_ids"]
            asked = len(tokenizer.apply_chat_template([say("user", row["prompt"])], add_generation_prompt=True)["input_ids"])
            yield tuple(ids), tuple(int(i >= asked and token != end) for i, token in enumerate(ids))

    ours, steps, shown = learn("paper", "comparisons", "")
    told = [list(of_row(row)) for row in rows]
    held = [check(f"the tokens and masks of {len(shown)} of {len(rows)} comparisons", all(answers in told for answers in shown.values()))]
    some = sum(len(answers) == 3 for step in steps for answers in step)
    held.append(check(f"{sum(map(len, steps))} prompts of {len(steps)} batches are these, {some} of three answers",
                      some > 0 and all(answers in told for step in steps for answers in step)))
    held.append(near("the paper's loss, PyTorch", ours, list(steps_of_torch(model(), model(), steps))))
    for name, kind, more, hidden in [
        ("sigmoid", "sigmoid", "mask_format = false\n", []),
        ("ipo", "ipo", 'loss = "ipo"\nmask_format = false\n', []),
        ("masked", "sigmoid", "", [end]),
    ]:
        ours, steps, _ = learn(name, "pairs", "nll = 0.0\n" + more)
        place = {tuple(ids for ids, _ in of_row(row)): number for number, row in enumerate(pairs)}
        order = [[place[tuple(ids for ids, _ in answers)] for answers in step] for step in steps]
        theirs, made = steps_of_trl(model(), model(), tokenizer, pairs, order, kind, hidden, folder)
        flat = [answers[k] for step in steps for k in (0, 1) for answers in step]
        held.append(check(f"TRL's {name}: its tokens and masks", made == flat))
        held.append(near(f"TRL's {name}", ours, theirs))
    return all(held)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    herd_flag(parser)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        furnish(folder, "comparisons.jsonl")
        return 0 if compare(args.herd, folder, args.steps) else 1


sys.exit(main())
