#!/usr/bin/env python3
"""Record models/NAME/: small random Llama models of every family shape, with the logits that transformers gives.

usage: testdata/record_models.py [NAME ...]        (needs: pip install torch==2.15.0 transformers==5.23.0 safetensors numpy)

Each folder is a Hugging Face folder (config.json as the published models write it, f32 model.safetensors, one of them
sharded) plus the golden vectors: golden.json holds the token ids of two sequences, of 1 and of 41 tokens, and
golden.safetensors their logits `logits_0` [1, V] and `logits_1` [41, V], computed in f32 on one thread with the eager
attention. Matrices are normal with variance 1/inputs and norms lie in 0.5..1.5, so that logits are of order one and
every part of the model moves them. The script prints how far transformers' f32 lies from its own f64.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, LlamaForCausalLM

HERE = Path(__file__).parent / "models"

BASE = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "mlp_bias": False,
    "model_type": "llama",
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def shape(width, ffn, heads, kv_heads, vocabulary, **rest):
    return {
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        **rest,
    }


def llama3_scaling(factor):
    # With 64 original positions one pair turns faster than the band, one lies in it, the others below it.
    return {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    }


YARN = {"factor": 4.0, "original_max_position_embeddings": 32, "rope_type": "yarn"}
YARN_TUNED = {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25}

MODELS = {
    # LLaMA 1: as many key/value heads as heads, no num_key_value_heads in the file, the smaller epsilon.
    "llama1_mha": shape(48, 72, 4, None, 97, rms_norm_eps=1e-6),
    # Llama 2 70B: grouped queries.
    "llama2_gqa": shape(48, 72, 6, 2, 101),
    # Linear position interpolation, spelt as Llama 2 fine-tunes do.
    "llama2_linear": shape(32, 56, 2, 2, 97, rope_scaling={"type": "linear", "factor": 4.0}),
    # Code Llama: base 1e6, an odd vocabulary, in two shards.
    "code_llama_sharded": shape(40, 88, 5, 5, 89, rope_theta=1e6, rms_norm_eps=1e-5),
    "llama3_gqa": shape(64, 112, 4, 2, 67, rope_theta=500000.0, num_hidden_layers=1),
    "llama31_scaled": shape(
        48, 64, 3, 1, 131, rope_theta=500000.0, rope_scaling=llama3_scaling(8.0)
    ),
    # Llama 3.2 1B: tied; here heads x head width (64) is not the width (40) as well.
    "llama32_tied": shape(
        40, 64, 4, 2, 211, head_dim=16, rope_theta=500000.0, tie_word_embeddings=True,
        rope_scaling=llama3_scaling(32.0),
    ),
    # One key/value head, three layers, and the `rope_parameters` form of transformers 5.
    "mqa_rope_parameters": shape(
        32, 40, 4, 1, 97, num_hidden_layers=3,
        rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
    ),
    "yarn": shape(48, 64, 2, 1, 97, head_dim=32, rope_scaling=YARN),
    "yarn_tuned": shape(32, 48, 2, 2, 97, head_dim=24, rope_scaling=YARN_TUNED),
    # Dynamic NTK: the base depends on the length of the whole sequence once it passes 32 positions,
    # which a program that feeds a prompt in chunks cannot know; only the first sequence's logits
    # hold for a reader that ignores the scaling.
    "dynamic_ntk": shape(
        32, 40, 2, 1, 61, max_position_embeddings=32,
        rope_scaling={"type": "dynamic", "factor": 2.0},
    ),
    # The ends of YaRN's ramp as they are, not rounded to whole dimensions.
    "yarn_not_truncated": shape(
        32, 40, 2, 1, 61, head_dim=32, rope_scaling={**YARN, "truncate": False}
    ),
}


def write_config(folder, differences):
    config = {**BASE, **differences}
    config = {key: value for key, value in sorted(config.items()) if value is not None}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def random_weights(model, rng):
    """A dict of f32 arrays under Hugging Face names; a tied output matrix is left out."""
    weights = {}
    for name, parameter in model.named_parameters():
        if "norm" in name:
            array = rng.uniform(0.5, 1.5, parameter.shape)
        elif "embed_tokens" in name:
            array = rng.standard_normal(parameter.shape)
        else:
            array = rng.standard_normal(parameter.shape) / np.sqrt(parameter.shape[-1])
        if model.config.tie_word_embeddings and "embed_tokens" in name:
            array /= np.sqrt(parameter.shape[-1])
        weights[name] = array.astype(np.float32)
    return weights


def save_shards(folder, weights):
    names = sorted(weights)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    where = {}
    for number, half in enumerate(halves, 1):
        file = f"model-{number:05}-of-{len(halves):05}.safetensors"
        save_file({name: weights[name] for name in half}, folder / file, {"format": "pt"})
        where.update({name: file for name in half})
    total = sum(array.nbytes for array in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def record(name, differences, seed):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, differences)
    rng = np.random.default_rng(seed)
    weights = random_weights(LlamaForCausalLM(AutoConfig.from_pretrained(folder)), rng)
    if name.endswith("sharded"):
        save_shards(folder, weights)
    else:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def load(dtype):
        # A fresh load for each type: dynamic scaling keeps state between calls.
        return LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")

    vocabulary = differences["vocab_size"]
    sequences = [rng.integers(0, vocabulary, length).tolist() for length in (1, 41)]
    golden = [logits(load(torch.float32), ids) for ids in sequences]
    exact = [logits(load(torch.float64), ids) for ids in sequences]
    save_file({f"logits_{i}": x for i, x in enumerate(golden)}, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps({"sequences": sequences}) + "\n")
    error = max(np.abs(a - b).max() for a, b in zip(golden, exact))
    spread = golden[1].std()
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name:22} logits std {spread:.3f}, f32 - f64 {error:.1e}, {size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, (name, differences) in enumerate(MODELS.items()):
        if name in (sys.argv[1:] or MODELS):
            record(name, differences, seed)
