#!/usr/bin/env python3
"""Dequantise a GGUF of a Llama-architecture model into a Hugging Face folder of f32 weights.

usage: scripts/gguf_to_hf.py MODEL.gguf FOLDER        (needs: pip install gguf==0.19.0 safetensors numpy tokenizers)

It is the reference side of the parity tests: the block formats are unpacked by the gguf package, and Herd's code takes
no part. Query and key rows go from GGUF's order (RoPE turns neighbours) to Hugging Face's (RoPE turns halves). Writes
config.json, model.safetensors, tokenizer.json and tokenizer_config.json; the tokenizer only for byte-level BPE
vocabularies of the kinds in SPLITS.
"""
import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPLITS = ("smollm",)
CONTROL = 3  # the token type of control tokens in tokenizer.ggml.token_type


def hf_name(name):
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
    return NAMES[parts[0]] + ".weight"


def halves_from_neighbours(rows, heads):
    """Reorder the rows of each head from (0a 0b 1a 1b ...) to (0a 1a ... 0b 1b ...)."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


class Source:
    """A GGUF file: metadata by key, and f32 weights under Hugging Face names."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)

    def get(self, key, default=None):
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def llama(self, key, default=None):
        return self.get(f"llama.{key}", default)

    def weights(self):
        heads = self.llama("attention.head_count")
        kv_heads = self.llama("attention.head_count_kv", heads)
        out = {}
        for tensor in self.reader.tensors:
            array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if ".attn_q." in tensor.name:
                array = halves_from_neighbours(array, heads)
            elif ".attn_k." in tensor.name:
                array = halves_from_neighbours(array, kv_heads)
            out[hf_name(tensor.name)] = np.ascontiguousarray(array)
        return out

    def config(self):
        width, heads = self.llama("embedding_length"), self.llama("attention.head_count")
        tensors = {tensor.name for tensor in self.reader.tensors}
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": self.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.get("tokenizer.ggml.eos_token_id"),
            "head_dim": self.llama("attention.key_length", width // heads),
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": self.llama("feed_forward_length"),
            "max_position_embeddings": self.llama("context_length"),
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": heads,
            "num_hidden_layers": self.llama("block_count"),
            "num_key_value_heads": self.llama("attention.head_count_kv", heads),
            # Metadata holds f32; seven digits bring back the number that was meant (1e-5).
            "rms_norm_eps": float(f"{self.llama('attention.layer_norm_rms_epsilon'):.7g}"),
            "rope_theta": float(self.llama("rope.freq_base", 10000.0)),
            "tie_word_embeddings": "output.weight" not in tensors,
            "torch_dtype": "float32",
            "vocab_size": len(self.get("tokenizer.ggml.tokens")),
        }

    def tokenizer(self):
        """A tokenizers.Tokenizer with the vocabulary and the split of the file."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        kind, split = self.get("tokenizer.ggml.model"), self.get("tokenizer.ggml.pre")
        if kind != "gpt2" or split not in SPLITS:
            raise SystemExit(f"tokenizer {kind!r} with split {split!r} is not known here")
        tokens, types = self.get("tokenizer.ggml.tokens"), self.get("tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ")) for merge in self.get("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(dict(zip(tokens, range(len(tokens)))), merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        control = [token for token, kind in zip(tokens, types) if kind == CONTROL]
        tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
        return tokenizer

    def tokenizer_config(self):
        tokens = self.get("tokenizer.ggml.tokens")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        for name in ("bos", "eos"):
            config[f"{name}_token"] = tokens[self.get(f"tokenizer.ggml.{name}_token_id")]
        config["add_bos_token"] = bool(self.get("tokenizer.ggml.add_bos_token", False))
        if template := self.get("tokenizer.chat_template"):
            config["chat_template"] = template
        return config


def convert(path, folder):
    source, folder = Source(path), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(source.weights(), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(source.config(), indent=2) + "\n")
    source.tokenizer().save(str(folder / "tokenizer.json"))
    config = json.dumps(source.tokenizer_config(), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(config + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf")
    parser.add_argument("folder")
    args = parser.parse_args()
    convert(args.gguf, args.folder)
