"""Records gradients.txt from PyTorch's autograd.

Usage: pip install torch && python record_gradients.py
Recorded with torch 2.15.0 on a CPU. Numbers are the bits of f32 in hex, after the name of the array.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
lines = []


def record(name, x):
    x = x.detach().to(torch.float32).flatten().contiguous()
    words = " ".join(f"{b & 0xFFFFFFFF:08x}" for b in x.view(torch.int32).tolist())
    lines.append(f"{name} {words}")


def leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def record_attention():
    """Causal in each of two packed documents of 5 and 9 rows: H 4, G 2, K 12, scale 1 / sqrt(12)."""
    rows, heads, groups, dim = 14, 4, 2, 12
    q, k, v = leaf(rows, heads, dim), leaf(rows, groups, dim), leaf(rows, groups, dim)
    document = torch.tensor([0] * 5 + [1] * 9)
    seen = (document[:, None] == document[None]) & torch.ones(rows, rows).tril().bool()
    wide = lambda x: x.repeat_interleave(heads // groups, dim=1)
    scores = torch.einsum("thk,jhk->htj", q.double(), wide(k).double()) / dim**0.5
    scores = scores.masked_fill(~seen, -torch.inf)
    out = torch.einsum("htj,jhk->thk", scores.softmax(-1), wide(v).double())
    dout = torch.randn(rows, heads, dim)
    out.backward(dout.double())
    for name, x in [("q", q), ("k", k), ("v", v), ("dout", dout), ("out", out),
                    ("lse", scores.logsumexp(-1).T), ("dq", q.grad), ("dk", k.grad),
                    ("dv", v.grad)]:
        record(name, x)


def record_rows():
    rows, width = 5, 37
    x, w, dy = leaf(rows, width), leaf(width), torch.randn(rows, width)
    F.rms_norm(x, (width,), w, 1e-5).backward(dy)
    for name, value in [("x", x), ("w", w), ("dy", dy), ("rms_dx", x.grad), ("rms_dw", w.grad)]:
        record(name, value)
    gate, up = leaf(rows, width), leaf(rows, width)
    (F.silu(gate) * up).backward(dy)
    for name, value in [("gate", gate), ("up", up), ("dgate", gate.grad), ("dup", up.grad)]:
        record(name, value)


def record_cross_entropy():
    """Five rows of 37 logits, the third left out; the loss is the sum of the others over 4."""
    logits = (torch.randn(5, 37) * 3).requires_grad_()
    ids = torch.tensor([3, 36, 0, 17, 17])
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    nats = F.cross_entropy(logits, ids, reduction="none") * weights
    (nats.sum() / 4).backward()
    for name, value in [("logits", logits), ("ids", ids), ("weights", weights),
                        ("nats", nats), ("dlogits", logits.grad)]:
        record(name, value)


torch.manual_seed(3)
record_attention()
record_rows()
record_cross_entropy()
(HERE / "gradients.txt").write_text("\n".join(lines) + "\n")
