#!/usr/bin/env python3
"""Record training.json: ten steps of training by PyTorch in f32, from the weights of models/NAME/.

usage: testdata/record_training.py        (needs: pip install torch==2.15.0 transformers==5.23.0 safetensors numpy)

For each model: a batch of rows of tokens a step (random, from a seed), the ends of the documents in each row (attention does
not cross them, positions begin anew), the learning rate of each step, and what PyTorch gave: the loss in nats a token, the
norm of the gradient before clipping at 1, at the first step the gradient's norm of each tensor and at the end the norm of
each tensor's change. AdamW with betas 0.9 and 0.95, eps 1e-8, decay 0.1 on matrices alone.
"""
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
STEPS, ROWS, SEQ = 10, 3, 24
LR = [1e-3 * min(1, (t + 1) / 4) for t in range(STEPS)]


def documents(rng):
    """The ends of the documents in a row of SEQ tokens."""
    cuts = torch.randperm(SEQ - 1, generator=rng)[: int(torch.randint(0, 3, (1,), generator=rng))] + 1
    return sorted(cuts.tolist()) + [SEQ]


def inputs_of(ends):
    """Additive mask [rows, 1, SEQ, SEQ] and positions [rows, SEQ] of documents with these ends."""
    mask = torch.full((len(ends), 1, SEQ, SEQ), torch.finfo(torch.float32).min)
    positions = torch.zeros((len(ends), SEQ), dtype=torch.long)
    for row, row_ends in enumerate(ends):
        start = 0
        for end in row_ends:
            n = end - start
            allowed = torch.tril(torch.ones((n, n), dtype=torch.bool))
            mask[row, 0, start:end, start:end].masked_fill_(allowed, 0.0)
            positions[row, start:end] = torch.arange(n)
            start = end
    return mask, positions


def record(name, seed):
    rng = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(
        HERE / "models" / name, attn_implementation="eager", dtype=torch.float32
    )
    vocab = model.config.vocab_size
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    steps, first = [], {}
    for lr in LR:
        rows = torch.randint(0, vocab, (ROWS, SEQ + 1), generator=rng)
        ends = [documents(rng) for _ in range(ROWS)]
        mask, positions = inputs_of(ends)
        logits = model(rows[:, :-1], attention_mask=mask, position_ids=positions, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, vocab), rows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        if not first:
            first = {n: p.grad.double().norm().item() for n, p in model.named_parameters()}
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False).item()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        steps.append({"rows": rows.tolist(), "ends": ends, "lr": lr, "loss": loss.item(), "grad_norm": norm})
    change = {n: (p.detach() - before[n]).double().norm().item() for n, p in model.named_parameters()}
    return {"model": name, "steps": steps, "first_gradient": first, "change": change}


def main():
    torch.set_num_threads(1)
    runs = [record(name, 7 + i) for i, name in enumerate(["llama1_mha", "llama32_tied", "llama3_gqa"])]
    (HERE / "training.json").write_text(json.dumps(runs) + "\n")


main()
