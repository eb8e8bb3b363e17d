#!/usr/bin/env python3
"""Record reward.json: ten steps of a reward model by PyTorch in f32, from the weights of models/NAME/.

usage: testdata/record_reward.py     (needs: pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors numpy)

Each step has a few prompts of two or three answers (random tokens, from a seed; in random order), each with what people made of it
(0 rejected, 1 chosen, 2 edited); each prompt with how much better the chosen one is (0 unknown, 1 marginally .. 4 significantly). Each answer
is a row of its own behind its prompt; its reward is LlamaForSequenceClassification's. The loss is the mean over ordered pairs of
-ln sigmoid(r_c - r_r - m), m as in table 27 of Llama 2, 0 between edited and chosen. Recorded: the head (normal, 1 / sqrt(D + 1)), losses, norms of
gradients before clipping at 1, means of rewards, the share in order, and at the first step the gradient's norm of each tensor. AdamW as in record_training.py.
The last run trains PEFT's LoRA (random A and B) and the head alone; its first A and B are recorded, and in the end the rewards of its last answers, as they
are and by the merged model.
"""
import json
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

HERE = Path(__file__).parent
STEPS, PROMPTS = 10, 3
LR = [1e-3 * min(1, (t + 1) / 4) for t in range(STEPS)]
LORA = {"rank": 4, "alpha": 8, "targets": ["q", "k", "v", "down"]}
MARGINS = {"none": [0, 0, 0, 0, 0], "small": [0, 0, 1 / 3, 2 / 3, 1], "large": [0, 0, 1, 2, 3]}


def draw_prompts(rng, vocab):
    """(ids of the prompt, strength, answers of (ids, standing))."""
    number = lambda low, high: int(torch.randint(low, high, (1,), generator=rng))
    ids = lambda count: torch.randint(0, vocab, (count,), generator=rng).tolist()
    for _ in range(PROMPTS):
        prompt, strength = ids(number(2, 9)), number(0, 5)
        order = torch.randperm(number(2, 4), generator=rng).tolist()
        yield prompt, strength, [(ids(number(1, 8)), standing) for standing in order]


def adapted(model, rng):
    """PEFT's LoRA beside a model, A and B drawn; its first numbers by tensor."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_CLS", r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=[f"{t}_proj" for t in LORA["targets"]])
    model, first = get_peft_model(model, config), {}
    with torch.no_grad():
        for name, param in model.named_parameters():
            if ".lora_" in name:
                param.copy_(0.1 * torch.randn(param.shape, generator=rng))
                first[plain(name)] = param.flatten().tolist()
    return model, first


def plain(name):
    """The name that PEFT's files have."""
    return name.replace(".default", "").replace(".modules_to_save", "").removeprefix("base_model.model.")


def record(name, seed, margin, lora=False):
    rng = torch.Generator().manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(HERE / "models" / name, num_labels=1, attn_implementation="eager", dtype=torch.float32)
    width = model.config.hidden_size
    head = torch.randn(width, generator=rng) / (width + 1) ** 0.5
    with torch.no_grad():
        model.score.weight.copy_(head[None])
    model, adapter = adapted(model, rng) if lora else (model, None)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() == 2]
    gains = [p for p in trained if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    steps, first = [], {}
    for lr in LR:
        prompts = list(draw_prompts(rng, model.config.vocab_size))
        losses, met = [], []
        for prompt, strength, answers in prompts:
            rewards = [model(torch.tensor([prompt + ids]), use_cache=False).logits[0, 0] for ids, _ in answers]
            for c, (_, better) in enumerate(answers):
                for r, (_, worse) in enumerate(answers):
                    if better > worse:
                        m = MARGINS[margin][strength] if worse == 0 else 0
                        losses.append(-logsigmoid(rewards[c] - rewards[r] - m))
                        met.append([rewards[c].item(), rewards[r].item(), float(rewards[c] > rewards[r])])
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        if not first:
            first = {plain(n): p.grad.double().norm().item() for n, p in model.named_parameters() if p.requires_grad}
        norm = sum(p.grad.double().square().sum() for p in trained).sqrt().item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        means = torch.tensor(met, dtype=torch.float64).mean(dim=0).tolist()
        steps.append({"prompts": prompts, "lr": lr, "loss": loss.item(), "grad_norm": norm, "means": means})
    run = {"model": name, "margin": margin, "head": head.tolist(), "steps": steps, "first_gradient": first}
    if not lora:
        return run
    reward = lambda model: [model(torch.tensor([prompt + ids]), use_cache=False).logits[0, 0].item() for prompt, _, answers in prompts for ids, _ in answers]
    with torch.no_grad():
        return run | {"lora": LORA | {"first": adapter}, "rewards": reward(model), "merged": reward(model.merge_and_unload())}


def main():
    torch.set_num_threads(1)
    runs = [("llama1_mha", 21, "none"), ("llama32_tied", 22, "small"), ("llama3_gqa", 23, "large")]
    runs = [record(*run) for run in runs] + [record("llama3_gqa", 24, "none", lora=True)]
    (HERE / "reward.json").write_text(json.dumps(runs) + "\n")


main()
