"""Records adamw.bin for crates/kernels/tests/optimiser.rs from PyTorch.

    pip install torch==2.15.0
    python testdata/record_adamw.py

Little-endian f32: 64 parameters, then for each of five steps the gradient, the parameters, and the
means of gradients and of their squares after torch.optim.AdamW, one tensor at a time, with
lr = 3e-4, betas = (0.9, 0.95), eps = 1e-8, weight_decay = 0.1.
"""

import pathlib

import torch

torch.manual_seed(1)
w = torch.nn.Parameter(torch.randn(64))
step = torch.optim.AdamW(
    [w], lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False, fused=False
)
parts = [w.detach().clone()]
for i in range(5):
    w.grad = torch.randn(64) * 10.0 ** (i - 3)
    if i == 2:
        w.grad[:8] = 0.0
    step.step()
    state = step.state[w]
    parts += [w.grad.clone(), w.detach().clone(), state["exp_avg"].clone(), state["exp_avg_sq"].clone()]
(pathlib.Path(__file__).parent / "adamw.bin").write_bytes(torch.cat(parts).numpy().tobytes())
