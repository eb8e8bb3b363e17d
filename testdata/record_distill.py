#!/usr/bin/env python3
"""Record distill.json: ten steps of distillation by PyTorch in f32, of the weights of models/NAME/ from a teacher of models/.

usage: testdata/record_distill.py        (needs: pip install torch==2.15.0 transformers==5.23.0 safetensors numpy)

Each step has a few rows of random tokens, from a seed, each with a mask of the tokens that count: all but the first of a text, those
of the answer of a dialogue. The teacher is another model of the same vocabulary, or the student before its first step. The
loss is the mean over tokens that count of (1 - alpha) CE + alpha T^2 KL(p || q): p the k likeliest of softmax(teacher / T), and what they
leave over as one more outcome (bucket) or p divided by its sum (drop); q the same of softmax(student / T). Recorded: losses, their
parts, norms of gradients before clipping at 1, and at the first step the gradient's norm of each tensor. AdamW as in
record_training.py.
"""
import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
STEPS, ROWS = 10, 3
LR = [1e-3 * min(1, (t + 1) / 4) for t in range(STEPS)]


def draw_rows(rng, vocab, text):
    """Rows of (ids, mask): the mask is of ids as targets."""
    number = lambda low, high: int(torch.randint(low, high, (1,), generator=rng))
    for _ in range(ROWS):
        prompt, answer = (1, number(8, 20)) if text else (number(3, 9), number(2, 9))
        ids = torch.randint(0, vocab, (prompt + answer,), generator=rng).tolist()
        yield ids, [0] * prompt + [1] * answer


def divergence(teacher, student, k, temperature, rest):
    """KL of each row of logits."""
    p, q = (log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    best = p.topk(k, dim=-1)
    p, q = best.values, q.gather(-1, best.indices)
    if rest == "drop":
        p = log_softmax(p, dim=-1)
        return (p.exp() * (p - q)).sum(-1)
    left, others = 1 - p.double().exp().sum(-1), 1 - q.double().exp().sum(-1)
    return (p.exp() * (p - q)).sum(-1) + (left * (left.log() - others.log())).float()


def record(student, teacher, seed, text, alpha, temperature, k, rest):
    rng = torch.Generator().manual_seed(seed)
    load = lambda name: AutoModelForCausalLM.from_pretrained(HERE / "models" / name, attn_implementation="eager", dtype=torch.float32)
    model, large = load(student), load(teacher)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    steps, first = [], {}
    for lr in LR:
        rows, ce, kl = list(draw_rows(rng, model.config.vocab_size, text)), [], []
        for ids, mask in rows:
            ids, counts = torch.tensor(ids), torch.tensor(mask[1:]) == 1
            said = model(ids[None, :-1], use_cache=False).logits[0][counts]
            with torch.no_grad():
                taught = large(ids[None, :-1], use_cache=False).logits[0][counts]
            ce.append(cross_entropy(said, ids[1:][counts], reduction="none"))
            kl.append(divergence(taught, said, k, temperature, rest))
        ce, kl = torch.cat(ce).mean(), torch.cat(kl).mean()
        loss = (1 - alpha) * ce + alpha * temperature**2 * kl
        optimizer.zero_grad()
        loss.backward()
        if not first:
            first = {n: p.grad.double().norm().item() for n, p in model.named_parameters()}
        norm = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt().item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        steps.append({"rows": rows, "lr": lr, "loss": loss.item(), "ce": ce.item(), "kl": kl.item(), "grad_norm": norm})
    settings = {"alpha": alpha, "temperature": temperature, "k": k, "rest": rest}
    return {"student": student, "teacher": teacher, **settings, "steps": steps, "first_gradient": first}


def main():
    torch.set_num_threads(1)
    runs = [
        ("llama1_mha", "llama2_linear", 21, True, 1.0, 1.0, 16, "bucket"),
        ("llama1_mha", "yarn", 22, True, 0.5, 2.0, 8, "drop"),
        ("mqa_rope_parameters", "llama2_linear", 23, False, 0.75, 1.0, 4, "drop"),
        ("llama32_tied", "llama32_tied", 24, False, 0.5, 1.5, 32, "bucket"),
    ]
    (HERE / "distill.json").write_text(json.dumps([record(*run) for run in runs]) + "\n")


main()
