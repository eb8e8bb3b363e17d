#!/usr/bin/env python3
"""Train a Llama with PyTorch as Herd trains it: the same first weights, batches, AdamW, clipping and schedule.

usage: scripts/train-pytorch.py RUN --out LOSSES.jsonl [--steps N] [--precision f32|autocast|bf16] [--threads N]
       scripts/train-pytorch.py --bench 15m|110m [--tokens 4096] [--repetitions 5] [--precision ..] [--compile] [--threads N]
       (needs: pip install torch safetensors)

RUN is the folder that `herd pretrain --config .. --out RUN --export N` left: its config.toml, checkpoints/step-0 and
batches.safetensors are read. A line a step {"step", "loss", "grad_norm", "lr"} goes to LOSSES.jsonl, and after the last step
{"validation"}, in nats a token. autocast: f32 weights, products in bf16; bf16: weights and moments in bf16 too.
--bench trains on random tokens and prints one JSON line: seconds of the parts of a step, tokens a second, peak memory.
"""
import argparse
import json
import math
import resource
import statistics
import time
import tomllib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


@dataclass
class Shape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn_width: int
    vocab: int
    context: int
    tied: bool = True
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0


# The presets of crates/train/src/presets.rs.
SHAPES = {
    "15m": Shape(layers=6, width=288, heads=6, kv_heads=6, ffn_width=768, vocab=32_000, context=256),
    "110m": Shape(layers=12, width=768, heads=12, kv_heads=12, ffn_width=2048, vocab=32_000, context=1024),
}


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.width // shape.heads
        self.norms = nn.ModuleList(nn.RMSNorm(shape.width, shape.norm_eps) for _ in range(2))
        self.qkv = nn.Linear(shape.width, (shape.heads + 2 * shape.kv_heads) * self.head_dim, bias=False)
        self.o = nn.Linear(shape.width, shape.width, bias=False)
        self.gate_up = nn.Linear(shape.width, 2 * shape.ffn_width, bias=False)
        self.down = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, x, cos, sin, mask):
        rows, seq = x.shape[:2]
        heads = self.qkv(self.norms[0](x)).view(rows, seq, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], 1)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
        x = x + self.o(y.transpose(1, 2).reshape(rows, seq, -1))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def turned(x, cos, sin):
    """RoPE over pairs (i, i + half)."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Llama(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.norm_eps)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight
        half = torch.arange(0, shape.width // shape.heads, 2).float() / (shape.width // shape.heads)
        angles = torch.outer(torch.arange(shape.context).float(), shape.rope_theta**-half)
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, tokens, targets, positions=None, mask=None):
        """Nats of each target [rows, seq]."""
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        if positions is not None:
            cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)


def load(folder):
    """The model of a Hugging Face folder."""
    config = json.loads((folder / "config.json").read_text())
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    shape = Shape(
        layers=config["num_hidden_layers"], width=config["hidden_size"], heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"], ffn_width=config["intermediate_size"], vocab=config["vocab_size"],
        context=config["max_position_embeddings"], tied=config["tie_word_embeddings"], norm_eps=config["rms_norm_eps"],
        rope_theta=theta,
    )
    w = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    model = Llama(shape)
    with torch.no_grad():
        model.embedding.weight.copy_(w["model.embed_tokens.weight"])
        model.norm.weight.copy_(w["model.norm.weight"])
        if not shape.tied:
            model.head.weight.copy_(w["lm_head.weight"])
        for i, block in enumerate(model.blocks):
            at = f"model.layers.{i}."
            joined = lambda *names: torch.cat([w[f"{at}{name}.weight"] for name in names])
            block.norms[0].weight.copy_(w[at + "input_layernorm.weight"])
            block.norms[1].weight.copy_(w[at + "post_attention_layernorm.weight"])
            block.qkv.weight.copy_(joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
            block.o.weight.copy_(w[at + "self_attn.o_proj.weight"])
            block.gate_up.weight.copy_(joined("mlp.gate_proj", "mlp.up_proj"))
            block.down.weight.copy_(w[at + "mlp.down_proj.weight"])
    return model


def batches(tensors, part):
    """What the model takes for each batch, and the weights of its targets."""
    at = at_length = 0
    for rows, seq, runs in tensors[f"{part}.sizes"].tolist():
        end = at + rows * seq
        tokens, targets, positions, weights = (
            tensors[f"{part}.{name}"][at:end].view(rows, seq) for name in ["tokens", "targets", "positions", "weights"]
        )
        lengths = tensors[f"{part}.lengths"][at_length : at_length + runs].long()
        document = torch.arange(runs).repeat_interleave(lengths).view(rows, seq)
        mask = (document[:, :, None] == document[:, None, :]) & torch.ones(seq, seq, dtype=torch.bool).tril()
        yield (tokens.long(), targets.long(), positions.long(), mask.unsqueeze(1)), weights
        at, at_length = end, at_length + runs


def rate(optim, step):
    """The learning rate of a step, from 1."""
    warmup, peak = optim["warmup_steps"], optim["lr"]
    if step < warmup:
        return peak * step / warmup
    least, way = peak * optim["min_lr_ratio"], min(1, (step - warmup) / max(1, optim["steps"] - warmup))
    return {
        "cosine": least + 0.5 * (peak - least) * (1 + math.cos(math.pi * way)),
        "linear": peak + (least - peak) * way,
        "constant": peak,
    }[optim["decay"]]


def adamw(model, optim):
    """AdamW that lets matrices alone decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": optim["weight_decay"]},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    betas = (optim["beta1"], optim["beta2"])
    return torch.optim.AdamW(groups, lr=optim["lr"], betas=betas, eps=optim["eps"], fused=True)


def products(precision):
    return torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext()


def train(args):
    config = tomllib.loads((args.run / "config.toml").read_text())
    optim, model = config["optim"], load(args.run / "checkpoints/step-0")
    model = model.to(torch.bfloat16) if args.precision == "bf16" else model
    optimizer, tensors = adamw(model, optim), load_file(args.run / "batches.safetensors")
    with open(args.out, "w") as out:
        for step, (inputs, weights) in enumerate(batches(tensors, "train"), 1):
            if step > (args.steps or optim["steps"]):
                break
            with products(args.precision):
                loss = (model(*inputs) * weights).sum() / weights.sum()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), optim["max_grad_norm"])
            for group in optimizer.param_groups:
                group["lr"] = rate(optim, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            line = {"step": step, "loss": loss.item(), "grad_norm": norm.item(), "lr": rate(optim, step)}
            print(json.dumps(line), file=out, flush=True)
        nats = count = 0.0
        with torch.no_grad(), products(args.precision):
            for inputs, weights in batches(tensors, "validation"):
                nats += (model(*inputs).double() * weights).sum().item()
                count += weights.double().sum().item()
        if count:
            print(json.dumps({"validation": nats / count}), file=out)


def bench(args):
    shape, optim = SHAPES[args.bench], {"lr": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    model = Llama(shape)
    for p in model.parameters():
        if p.dim() == 2:
            nn.init.normal_(p, std=0.02)
    model = model.to(torch.bfloat16) if args.precision == "bf16" else model
    optimizer = adamw(model, optim)
    run = torch.compile(model) if args.compile else model
    rows = max(1, args.tokens // shape.context)
    ids = torch.randint(0, shape.vocab, (rows, shape.context + 1))
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step():
        laps = [time.perf_counter()]
        with products(args.precision):
            loss = run(tokens, targets).mean()
        laps.append(time.perf_counter())
        loss.backward()
        laps.append(time.perf_counter())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        laps.append(time.perf_counter())
        return [b - a for a, b in zip(laps, laps[1:])]

    step()  # compiles, and settles the allocator
    steps = [step() for _ in range(args.repetitions)]
    forward, backward, optimizer_s = (statistics.median(part) for part in zip(*steps))
    seconds = statistics.median(map(sum, steps))
    print(json.dumps({
        "tok_s": rows * shape.context / seconds, "forward_and_loss_s": forward, "backward_s": backward,
        "optimizer_s": optimizer_s, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch": torch.__version__,
    }))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--out")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--bench", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--precision", choices=["f32", "autocast", "bf16"], default="f32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.bench is None and (args.run is None or args.out is None):
        parser.error("expected RUN and --out, or --bench")
    torch.set_num_threads(args.threads)
    bench(args) if args.bench else train(args)


main()
