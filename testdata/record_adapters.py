#!/usr/bin/env python3
"""Record adapters/NAME/: random LoRA adapters of PEFT beside models/llama2_gqa, with the logits that PEFT gives.

usage: testdata/record_adapters.py        (needs: pip install peft==0.21.2 torch==2.15.0 transformers==5.23.0 safetensors)

`all` stands beside every matrix of the layers, rank 4, in f32; `rooted` beside queries and keys alone, rank 3, scaled by the root of
its rank, in f16. B is not zero, so that each part of an adapter moves the logits. golden.safetensors holds the logits of the token
ids of models/llama2_gqa/golden.json: `logits_0` [1, V] and `logits_1` [41, V], in f32 on one thread with the eager attention.
"""
import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
BASE = HERE / "models" / "llama2_gqa"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "all": (LoraConfig(r=4, lora_alpha=8, target_modules=ALL, task_type="CAUSAL_LM"), torch.float32),
    "rooted": (
        LoraConfig(r=3, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM"),
        torch.float16,
    ),
}


def record(name, config, dtype):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(base, config)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            drawn = torch.randn(parameter.shape) * parameter.shape[1] ** -0.5
            parameter.data = drawn.to(dtype).float()
    folder = HERE / "adapters" / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "models/llama2_gqa"
    settings["target_modules"] = sorted(settings["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k: v.to(dtype) for k, v in weights.items()}, folder / "adapter_model.safetensors")
    ids = json.loads((BASE / "golden.json").read_text())
    sequences = ids["sequences"] if isinstance(ids, dict) else ids
    model.eval()
    with torch.no_grad():
        logits = {f"logits_{i}": model(torch.tensor([s])).logits[0].contiguous() for i, s in enumerate(sequences)}
        plain = model.disable_adapter()
        with plain:
            moved = (model(torch.tensor([sequences[1]])).logits[0] - logits["logits_1"]).abs().max()
    save_file(logits, folder / "golden.safetensors")
    print(f"{name}: the adapter moves logits by up to {moved:.3f}")


def main():
    torch.set_num_threads(1)
    for name, (config, dtype) in ADAPTERS.items():
        record(name, config, dtype)


if __name__ == "__main__":
    main()
