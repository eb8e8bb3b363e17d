#!/usr/bin/env python3
"""Write a GGUF of a Llama of random numbers whose vocabulary is single bytes and Llama 3.1's control tokens: it knows how to
call and says nothing of worth, which is enough where answers are held to a form. What it says is printable ASCII, and
ends after some twenty tokens.

usage: scripts/make-caller.py OUT.gguf [--seed 0]        (needs: pip install gguf numpy)

e.g. scripts/make-caller.py caller.gguf && herd serve -m caller.gguf --chat-template llama3.1-hf & scripts/clients.sh http://127.0.0.1:8080
"""
import argparse

import gguf
import numpy as np

CONTROLS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
WIDTH, HEADS, KV_HEADS, FFN, LAYERS, CONTEXT = 64, 4, 2, 128, 2, 8192


def byte_characters():
    """The characters by which GPT-2's vocabulary writes bytes: printable ones stand for themselves."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("out")
parser.add_argument("--seed", type=int, default=0)
flags = parser.parse_args()
rng = np.random.default_rng(flags.seed)
tokens = byte_characters() + CONTROLS
writer = gguf.GGUFWriter(flags.out, "llama")
writer.add_context_length(CONTEXT)
writer.add_embedding_length(WIDTH)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(FFN)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV_HEADS)
writer.add_rope_freq_base(10000.0)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("llama-bpe")
writer.add_token_list(tokens)
writer.add_token_types([1] * 256 + [3] * len(CONTROLS))
writer.add_token_merges([])
writer.add_bos_token_id(tokens.index("<|begin_of_text|>"))
writer.add_eos_token_id(tokens.index("<|eot_id|>"))


def matrix(name, rows, columns, first_row=None, first_column=None):
    """Random numbers but for a row and a column. The first dimension is the same at every place: no layer writes it."""
    w = rng.normal(0.0, 0.3, (rows, columns)).astype(np.float32)
    if first_row is not None:
        w[0] = first_row
    if first_column is not None:
        w[:, 0] = first_column
    writer.add_tensor(name, w)


matrix("token_embd.weight", len(tokens), WIDTH, first_column=4.0)
printable = np.array([32 <= token < 127 for token in range(len(tokens))])
end = tokens.index("<|eot_id|>")
matrix("output.weight", len(tokens), WIDTH, first_column=np.where(printable, 0.0, np.where(np.arange(len(tokens)) == end, 1.0, -40.0)))
for layer in range(LAYERS):
    at = f"blk.{layer}."
    matrix(at + "attn_q.weight", WIDTH, WIDTH)
    matrix(at + "attn_k.weight", WIDTH // HEADS * KV_HEADS, WIDTH)
    matrix(at + "attn_v.weight", WIDTH // HEADS * KV_HEADS, WIDTH)
    matrix(at + "attn_output.weight", WIDTH, WIDTH, first_row=0.0)
    matrix(at + "ffn_gate.weight", FFN, WIDTH)
    matrix(at + "ffn_up.weight", FFN, WIDTH)
    matrix(at + "ffn_down.weight", WIDTH, FFN, first_row=0.0)
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(at + norm + ".weight", np.ones(WIDTH, np.float32))
writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
