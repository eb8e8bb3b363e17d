"""Records rope.txt and elementwise.txt from PyTorch and Hugging Face transformers.

Usage: pip install torch transformers && python record_elementwise.py
Recorded with torch 2.15.0 and transformers 5.23.0 on a CPU. Numbers are the bits of f32 in hex.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

HERE = Path(__file__).parent
POSITIONS = [0, 1, 2, 17, 1000, 8191, 100_000]

# name, head width, theta, trained length, scaling
ROPE = [
    ("plain", 64, 10_000.0, 8192, {"rope_type": "default"}),
    ("smollm2", 64, 100_000.0, 8192, {"rope_type": "default"}),
    ("llama3", 128, 500_000.0, 8192, {"rope_type": "default"}),
    ("linear", 128, 10_000.0, 4096, {"rope_type": "linear", "factor": 4.0}),
    ("llama31", 128, 500_000.0, 131_072, {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
    ("llama32", 64, 500_000.0, 131_072, {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
    ("yarn", 128, 10_000.0, 65_536, {
        "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}),
    ("yarn_set", 64, 1_000_000.0, 65_536, {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192,
        "beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.25}),
    ("dynamic", 128, 10_000.0, 2048, {"rope_type": "dynamic", "factor": 2.0}),
]


def bits(x):
    x = torch.as_tensor(x, dtype=torch.float32).flatten().contiguous()
    return " ".join(f"{b & 0xFFFFFFFF:08x}" for b in x.view(torch.int32).tolist())


def record_rope():
    lines = []
    for name, width, theta, length, scaling in ROPE:
        config = LlamaConfig(
            hidden_size=width * 2, num_attention_heads=2, num_key_value_heads=2, head_dim=width,
            max_position_embeddings=length, rope_parameters={**scaling, "rope_theta": theta})
        rope = LlamaRotaryEmbedding(config)
        positions = torch.tensor([POSITIONS])
        cos, sin = rope(torch.zeros(1, dtype=torch.float32), positions)
        lines.append(f"case {name}")
        lines.append(f"factor {bits(rope.attention_scaling)}")
        lines.append(f"inv_freq {bits(rope.inv_freq)}")
        for i, position in enumerate(POSITIONS):
            lines.append(f"position {position}")
            lines.append(f"cos {bits(cos[0, i, : width // 2])}")
            lines.append(f"sin {bits(sin[0, i, : width // 2])}")
    (HERE / "rope.txt").write_text("\n".join(lines) + "\n")


def record_elementwise():
    torch.manual_seed(1)
    rows, width = 3, 149
    x, gate = torch.randn(rows, width) * 3, torch.randn(rows, width) * 3
    w, b = torch.randn(width), torch.randn(width)
    rms = LlamaRMSNorm(width, 1e-5)
    rms.weight.data = w
    values, indices = torch.topk(x[0], 20)
    out = {
        "x": x, "gate": gate, "w": w, "b": b,
        "rms_norm": rms(x).detach(),
        "layer_norm": F.layer_norm(x, (width,), w, b, 1e-5),
        "silu": F.silu(x),
        "gelu": F.gelu(x),
        "gelu_tanh": F.gelu(x, approximate="tanh"),
        "swiglu": F.silu(gate) * x,
        "softmax": F.softmax(x, -1),
        "log_softmax": F.log_softmax(x, -1),
        "log_sum_exp": torch.logsumexp(x, -1),
        "top_k_values": values,
        "top_k_indices": indices.float(),
        # [T, H, K] = [1, 3, 8] of x at position 5, theta 10,000, half-split
        "rope_half_split": rotate(x[0, :24].view(3, 8), 5.0),
    }
    lines = [f"{name} {bits(value)}" for name, value in out.items()]
    (HERE / "elementwise.txt").write_text("\n".join(lines) + "\n")


def rotate(x_hk, position):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    width = x_hk.shape[-1]
    freq = 1.0 / (10_000.0 ** (torch.arange(0, width, 2).float() / width))
    angle = torch.cat([position * freq, position * freq])[None, None]
    q = x_hk[None, :, None, :]
    return apply_rotary_pos_emb(q, q, angle.cos(), angle.sin())[0]


record_rope()
record_elementwise()
