#!/usr/bin/env python3
"""Record dpo.json: ten steps of direct preference optimisation by PyTorch in f32, from the weights of models/NAME/.

usage: testdata/record_dpo.py        (needs: pip install torch==2.15.0 transformers==5.23.0 safetensors numpy)

Each step has a few prompts of two or three answers (random tokens, from a seed; the best first), each with a mask of the tokens that
count. The reference is the model before the first step. The loss is the mean over all pairs of -ln sigmoid(beta D) +
nll * (-ln p(chosen) / tokens of chosen), or of IPO's, whose D is that of means over tokens. Recorded: losses, norms of gradients
before clipping at 1, what is measured of pairs, and at the first step the gradient's norm of each tensor. AdamW as in record_training.py.
"""
import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
STEPS, PROMPTS, BETA = 10, 3, 0.1
LR = [1e-3 * min(1, (t + 1) / 4) for t in range(STEPS)]


def draw_prompts(rng, vocab):
    """Answers of (ids, mask): the mask is of ids as targets."""
    number = lambda low, high: int(torch.randint(low, high, (1,), generator=rng))
    ids = lambda count: torch.randint(0, vocab, (count,), generator=rng).tolist()
    for _ in range(PROMPTS):
        prompt = ids(number(2, 6))
        answers = []
        for _ in range(number(2, 4)):
            answer = ids(number(1, 7))
            masked = number(0, 2)  # format tokens at the end
            mask = [0] * len(prompt) + [1] * len(answer) + [0] * masked
            answers.append((prompt + answer + ids(masked), mask))
        yield answers


def log_probability(model, answer):
    ids, mask = map(torch.tensor, answer)
    logits = model(ids[None, :-1], use_cache=False).logits[0]
    return -(cross_entropy(logits, ids[1:], reduction="none") * mask[1:]).sum(), mask.sum()


def record(name, seed, kind, nll):
    rng = torch.Generator().manual_seed(seed)
    load = lambda: AutoModelForCausalLM.from_pretrained(HERE / "models" / name, attn_implementation="eager", dtype=torch.float32)
    model, reference = load(), load()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    steps, first = [], {}
    for lr in LR:
        prompts = list(draw_prompts(rng, model.config.vocab_size))
        losses, rewards = [], []
        for answers in prompts:
            with torch.no_grad():
                before = [log_probability(reference, answer)[0] for answer in answers]
            said = [log_probability(model, answer) for answer in answers]
            for c in range(len(answers)):
                for r in range(c + 1, len(answers)):
                    moved = [said[k][0] - before[k] for k in (c, r)]
                    if kind == "sigmoid":
                        loss = -logsigmoid(BETA * (moved[0] - moved[1]))
                    else:
                        loss = (moved[0] / said[c][1] - moved[1] / said[r][1] - 0.5 / BETA) ** 2
                    losses.append(loss - nll * said[c][0] / said[c][1])
                    chosen, rejected = [BETA * x.item() for x in moved]
                    rewards.append([chosen, rejected, said[c][0].item(), said[r][0].item(), -(said[c][0] / said[c][1]).item()])
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        if not first:
            first = {n: p.grad.double().norm().item() for n, p in model.named_parameters()}
        norm = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt().item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        means = torch.tensor(rewards, dtype=torch.float64).mean(dim=0).tolist()
        steps.append({"prompts": prompts, "lr": lr, "loss": loss.item(), "grad_norm": norm, "means": means})
    return {"model": name, "loss": kind, "beta": BETA, "nll": nll, "steps": steps, "first_gradient": first}


def main():
    torch.set_num_threads(1)
    runs = [("llama1_mha", 11, "sigmoid", 0.2), ("llama32_tied", 12, "sigmoid", 0.0), ("llama3_gqa", 13, "ipo", 0.2)]
    (HERE / "dpo.json").write_text(json.dumps([record(*run) for run in runs]) + "\n")


main()
