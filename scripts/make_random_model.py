#!/usr/bin/env python3
"""Write a GGUF of Llama shape with random bf16 weights, to measure speed where no published model is at hand.

usage: scripts/make_random_model.py OUT.gguf [--shape 3.2-1b] [--seed 0]        (needs: pip install gguf numpy)

Speed does not depend on the values of the weights, only on their shapes and formats. The file has no vocabulary
(`tokenizer.ggml.model` is "none") and no output matrix (it is tied), as Llama 3.2 1B. Make other formats with
llama-quantize. Matrices are normal with standard deviation 0.02, norms are one.
"""
import argparse
from dataclasses import dataclass

import gguf
import numpy as np

BF16 = gguf.GGMLQuantizationType.BF16


@dataclass
class Shape:
    """The sizes of a model; Llama 3's rope base and epsilon."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ffn_width: int


SHAPES = {
    "3.2-1b": Shape(128256, 2048, 16, 32, 8, 64, 8192),
    "3.2-3b": Shape(128256, 3072, 28, 24, 8, 128, 8192),
    "tiny": Shape(512, 256, 2, 4, 2, 64, 512),
}


def bf16_matrix(rng, rows, columns):
    """Random bf16 bits [rows, columns], made in blocks of rows so that f32 copies stay small."""
    bits = np.empty((rows, columns), np.uint16)
    for start in range(0, rows, 8192):
        block = rng.standard_normal((min(8192, rows - start), columns), dtype=np.float32) * 0.02
        bits[start : start + 8192] = (block.view(np.uint32) + 0x8000) >> 16
    return bits


def write(path, name, shape, seed):
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random-llama-{name}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("none")

    def matrix(tensor, rows, columns):
        bits = bf16_matrix(rng, rows, columns)
        writer.add_tensor(tensor, bits.view(np.uint8).reshape(rows, 2 * columns), raw_dtype=BF16)

    def norm(tensor):
        writer.add_tensor(tensor, np.ones(shape.width, np.float32))

    matrix("token_embd.weight", shape.vocabulary, shape.width)
    norm("output_norm.weight")
    query_width, kv_width = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        norm(block + "attn_norm.weight")
        norm(block + "ffn_norm.weight")
        matrix(block + "attn_q.weight", query_width, shape.width)
        matrix(block + "attn_k.weight", kv_width, shape.width)
        matrix(block + "attn_v.weight", kv_width, shape.width)
        matrix(block + "attn_output.weight", shape.width, query_width)
        matrix(block + "ffn_gate.weight", shape.ffn_width, shape.width)
        matrix(block + "ffn_up.weight", shape.ffn_width, shape.width)
        matrix(block + "ffn_down.weight", shape.width, shape.ffn_width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, default="3.2-1b")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.out, args.shape, SHAPES[args.shape], args.seed)
