#!/usr/bin/env python3
"""Record grpo.json: six steps of group relative policy optimisation by PyTorch in f32, from the weights of models/NAME/.

usage: testdata/record_grpo.py        (needs: pip install torch==2.15.0 transformers==5.23.0 safetensors numpy)

Each generation has fixed answers (random tokens, from a seed), three to each of two prompts, with random rewards; some were cut. Old
log-probabilities are the model's before the generation's first step plus noise, so that ratios leave the clip; each generation is learnt
from twice. The reference is the model before the first step. Loss, advantages and shares are those of TRL's GRPOTrainer (1.16.0).
Recorded: advantages, losses, norms of gradients before clipping at 1, the mean divergence, the shares of clipped tokens, and at the
first step the gradient's norm of each tensor. AdamW as in record_training.py.
"""
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
STEPS, PROMPTS, GROUP, MOST = 6, 2, 3, 9
LOW, HIGH = 0.2, 0.28
LR = [1e-3 * min(1, (t + 1) / 4) for t in range(STEPS)]


def draw(rng, vocab):
    number = lambda low, high: int(torch.randint(low, high, (1,), generator=rng))
    ids = lambda count: torch.randint(0, vocab, (count,), generator=rng).tolist()
    answers = []
    for _ in range(PROMPTS):
        prompt = ids(number(2, 6))
        for _ in range(GROUP):
            tokens = number(1, MOST + 1)
            answers.append({"prompt": prompt, "ids": ids(tokens), "ended": tokens < MOST, "reward": number(0, 5) / 4})
    return answers


def log_probabilities(model, answer):
    ids = torch.tensor(answer["prompt"] + answer["ids"])
    logits = model(ids[None, :-1], use_cache=False).logits[0].log_softmax(-1)
    return logits.gather(1, ids[1:, None])[len(answer["prompt"]) - 1 :, 0]


def advantages(answers, scale):
    rewards = torch.tensor([answer["reward"] for answer in answers])
    groups = rewards.view(-1, GROUP)
    centred = (groups - groups.mean(1, keepdim=True)).view(-1)
    if scale == "none":
        return centred
    std = groups.std(1).repeat_interleave(GROUP) if scale == "group" else rewards.std()
    return centred / (std + 1e-4)


def record(name, seed, kind, scale, beta, mask_truncated):
    rng = torch.Generator().manual_seed(seed)
    load = lambda: AutoModelForCausalLM.from_pretrained(HERE / "models" / name, attn_implementation="eager", dtype=torch.float32)
    model, reference = load(), load()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    steps, first = [], {}
    for t, lr in enumerate(LR):
        if t % 2 == 0:
            answers = draw(rng, model.config.vocab_size)
            with torch.no_grad():
                for answer in answers:
                    now = log_probabilities(model, answer)
                    answer["old"] = (now + 0.3 * torch.randn(now.shape, generator=rng)).tolist()
                    answer["reference"] = log_probabilities(reference, answer).tolist()
        better = advantages(answers, scale)
        losses, counts, kls, lows, highs = [], [], [], [], []
        for answer, advantage in zip(answers, better):
            logps = log_probabilities(model, answer)
            old, away = torch.tensor(answer["old"]), torch.tensor(answer["reference"]) - logps
            ratio = (logps - old).exp()
            lost = -torch.min(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage)
            kl = away.exp() - away - 1
            losses.append(lost + beta * kl)
            counts.append(float(answer["ended"] or not mask_truncated))
            kls.append(kl.detach())
            lows.append(((ratio < 1 - LOW) & (advantage < 0)).float())
            highs.append(((ratio > 1 + HIGH) & (advantage > 0)).float())
        tokens = sum(count * len(lost) for count, lost in zip(counts, losses))
        if kind == "grpo":
            loss = torch.stack([count * lost.mean() for count, lost in zip(counts, losses)]).mean()
        elif kind == "bnpo":
            loss = sum(count * lost.sum() for count, lost in zip(counts, losses)) / tokens
        else:
            loss = sum(count * lost.sum() for count, lost in zip(counts, losses)) / (len(losses) * MOST)
        optimizer.zero_grad()
        loss.backward()
        if not first:
            first = {n: p.grad.double().norm().item() for n, p in model.named_parameters()}
        norm = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt().item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        mean = lambda of: (sum(count * x.sum() for count, x in zip(counts, of)) / tokens).item()
        steps.append({"answers": answers, "advantages": better.tolist(), "lr": lr, "loss": loss.item(), "grad_norm": norm,
                      "means": [mean(kls), mean(lows), mean(highs)]})
    settings = {"num_generations": GROUP, "loss_type": kind, "epsilon": LOW, "epsilon_high": HIGH, "beta": beta, "num_iterations": 2,
                "steps_per_generation": 1, "scale_rewards": scale, "mask_truncated_completions": mask_truncated}
    return {"model": name, "max_tokens": MOST, "settings": settings, "steps": steps, "first_gradient": first}


def main():
    torch.set_num_threads(1)
    runs = [("llama1_mha", 21, "grpo", "group", 0.04, False), ("llama32_tied", 22, "bnpo", "batch", 0.0, True),
            ("llama3_gqa", 23, "dr_grpo", "none", 0.1, False), ("llama32_tied", 25, "grpo", "group", 0.0, True)]
    (HERE / "grpo.json").write_text(json.dumps([record(*run) for run in runs]) + "\n")


main()
