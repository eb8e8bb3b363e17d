#!/usr/bin/env python3
"""Record ppo.json: six steps of proximal policy optimisation with a value head by PyTorch in f32, from the weights of models/NAME/.

usage: testdata/record_ppo.py        (needs: pip install torch==2.15.0 transformers==5.23.0 safetensors numpy)

Each generation has five fixed answers (random tokens, from a seed) to prompts of their own, with random scores; some were cut, some are one
token. Old log-probabilities and values are the model's before the generation's first step plus noise, so that ratios and values leave their
clips; each generation is learnt from twice. The reference is the model before the first step; the value head reads the last hidden state,
normed, and begins with random numbers. Rewards of tokens, advantages, whitening and losses are those of TRL's PPOTrainer (0.24.0), without
padding: an answer's score comes with its last token, and means are over its tokens. Recorded: advantages, returns, losses and their parts,
shares of clipped tokens, what the values explain, norms of gradients before clipping at 1, and at the first step the gradient's norm of each
tensor. AdamW as in record_training.py.
"""
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
STEPS, ANSWERS, MOST = 6, 5, 9
LR = [1e-3 * min(1, (t + 1) / 4) for t in range(STEPS)]


def draw(rng, vocab, penalty):
    number = lambda low, high: int(torch.randint(low, high, (1,), generator=rng))
    ids = lambda count: torch.randint(0, vocab, (count,), generator=rng).tolist()
    answers = []
    for i in range(ANSWERS):
        prompt, tokens = ids(number(2, 6)), 1 if i == 0 else number(1, MOST + 1)
        score = number(0, 5) / 4 - (penalty if tokens == MOST else 0)
        answers.append({"prompt": prompt, "ids": ids(tokens), "reward": score})
    return answers


def forward(model, head, answer):
    """Log-probabilities and values of the answer's tokens."""
    ids = torch.tensor(answer["prompt"] + answer["ids"])
    hidden = model.model(ids[None, :-1], use_cache=False).last_hidden_state[0]
    logits = model.lm_head(hidden).log_softmax(-1)
    first = len(answer["prompt"]) - 1
    return logits.gather(1, ids[1:, None])[first:, 0], (hidden @ head.T)[first:, 0]


def whiten(x, shift_mean=True):
    """TRL's masked_whiten over what is not masked."""
    mean = x.mean()
    white = (x - mean) * torch.rsqrt((x - mean).square().sum() / (x.numel() - 1) + 1e-8)
    return white if shift_mean else white + mean


def estimate(answers, settings):
    """Advantages and returns of all tokens of a generation."""
    scores = torch.tensor([answer["reward"] for answer in answers])
    if settings["whiten_scores"]:
        scores = whiten(scores)
    rewards = []
    for answer, score in zip(answers, scores):
        kl = torch.tensor(answer["old"]) - torch.tensor(answer["reference"])
        reward = -settings["kl_coef"] * kl
        reward[-1] += score
        rewards.append(reward)
    if settings["whiten_rewards"]:
        rewards = whiten(torch.cat(rewards), shift_mean=False).split([len(r) for r in rewards])
    advantages, returns = [], []
    for answer, reward in zip(answers, rewards):
        values = torch.tensor(answer["values"])
        last, backward = 0, []
        for t in reversed(range(len(reward))):
            next_value = values[t + 1] if t < len(reward) - 1 else 0.0
            delta = reward[t] + settings["gamma"] * next_value - values[t]
            last = delta + settings["gamma"] * settings["lam"] * last
            backward.append(last)
        advantages.append(torch.stack(backward[::-1]))
        returns.append(advantages[-1] + values)
    return whiten(torch.cat(advantages)), torch.cat(returns)


def losses(logps, values, old, old_values, advantages, returns, settings):
    """Policy loss, value loss, and the shares of clipped tokens."""
    ratio, clip = torch.exp(logps - old), settings["cliprange"]
    lost, lost_clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    near = torch.clamp(values, old_values - settings["cliprange_value"], old_values + settings["cliprange_value"])
    error, error_clipped = (values - returns).square(), (near - returns).square()
    policy, value = torch.max(lost, lost_clipped).mean(), 0.5 * torch.max(error, error_clipped).mean()
    return policy, value, (lost_clipped > lost).float().mean(), (error_clipped > error).float().mean()


def record(name, seed, **changes):
    settings = {"num_ppo_epochs": 2, "num_mini_batches": 1, "kl_coef": 0.05, "cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1, "gamma": 1.0,
                "lam": 0.95, "whiten_scores": False, "whiten_rewards": False, "head": "zero"} | changes
    rng = torch.Generator().manual_seed(seed)
    load = lambda: AutoModelForCausalLM.from_pretrained(HERE / "models" / name, attn_implementation="eager", dtype=torch.float32)
    model, reference = load(), load()
    width = model.config.hidden_size
    head = torch.nn.Parameter(torch.randn(1, width, generator=rng) / (width + 1) ** 0.5)
    first_head = head.flatten().tolist()
    parameters = dict(model.named_parameters()) | {"score.weight": head}
    matrices = [p for p in parameters.values() if p.dim() == 2]
    gains = [p for p in parameters.values() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    steps, first = [], {}
    for t, lr in enumerate(LR):
        if t % 2 == 0:
            answers = draw(rng, model.config.vocab_size, settings.get("missing_eos_penalty", 0.0))
            noise = lambda x: 0.3 * torch.randn(x.shape, generator=rng)
            with torch.no_grad():
                for answer in answers:
                    logps, values = forward(model, head, answer)
                    answer["old"], answer["values"] = (logps + noise(logps)).tolist(), (values + noise(values)).tolist()
                    answer["reference"] = forward(reference, head, answer)[0].tolist()
            advantages, returns = estimate(answers, settings)
        all_of = lambda key: torch.cat([torch.tensor(answer[key]) for answer in answers])
        logps, values = map(torch.cat, zip(*[forward(model, head, answer) for answer in answers]))
        policy, value, low, far = losses(logps, values, all_of("old"), all_of("values"), advantages, returns, settings)
        loss = policy + settings["vf_coef"] * value
        optimizer.zero_grad()
        loss.backward()
        if not first:
            first = {n: p.grad.double().norm().item() for n, p in parameters.items()}
        norm = sum(p.grad.double().square().sum() for p in parameters.values()).sqrt().item()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        explained = 1 - (returns - values.detach()).var() / returns.var()
        steps.append({"answers": answers, "advantages": advantages.tolist(), "returns": returns.tolist(), "lr": lr, "loss": loss.item(),
                      "parts": [policy.item(), value.item(), low.item(), far.item(), explained.item()], "grad_norm": norm})
    return {"model": name, "settings": settings, "head": first_head, "steps": steps, "first_gradient": first}


def main():
    torch.set_num_threads(1)
    runs = [record("llama1_mha", 31), record("llama32_tied", 32, gamma=0.9, lam=0.8, whiten_rewards=True, vf_coef=0.5),
            record("llama3_gqa", 33, whiten_scores=True, kl_coef=0.2, cliprange_value=0.05, missing_eos_penalty=1.0)]
    (HERE / "ppo.json").write_text(json.dumps(runs) + "\n")


if __name__ == "__main__":
    main()
