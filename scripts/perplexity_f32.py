#!/usr/bin/env python3
"""Perplexity of a GGUF's dequantised weights in f32, by llama.cpp's chunk method.

usage: scripts/perplexity_f32.py MODEL.gguf TEXT [-c 512] [-t 2]
       (needs: pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 safetensors tokenizers)

The method, which `llama-perplexity` and `herd perplexity` share: the text is cut into whole chunks of
C tokens, what is left over is dropped; each chunk is a fresh sequence (its first token is replaced by
BOS where the vocabulary adds one); the tokens C/2+1 .. C-1 count, so C - C/2 - 1 of each chunk;
perplexity is exp of their mean negative log-likelihood. The model runs in f32 and the sum of the
losses in f64. llama.cpp itself rounds activations (to 8-bit blocks for block formats) and the cache
to f16, so its figure differs from this one even for f32 weights.
"""
import argparse
import json
import math
import tempfile

import torch
from gguf_to_hf import Source, convert
from transformers import LlamaForCausalLM


def token_ids(source, text):
    """Ids of plain text: control tokens in it are ordinary letters."""
    tokenizer = source.tokenizer()
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(text, add_special_tokens=False).ids


def chunks_of(source, ids, context):
    bos = source.get("tokenizer.ggml.bos_token_id")
    add_bos = bool(source.get("tokenizer.ggml.add_bos_token", False))
    for start in range(0, len(ids) - context + 1, context):
        chunk = ids[start : start + context]
        yield [bos] + chunk[1:] if add_bos else chunk


@torch.no_grad()
def losses(model, chunk):
    """Negative log-likelihoods of the counted tokens, in f64."""
    first = len(chunk) // 2
    logits = model(torch.tensor([chunk])).logits[0, first:-1].double()
    targets = torch.tensor(chunk[first + 1 :])
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf")
    parser.add_argument("text")
    parser.add_argument("-c", "--context", type=int, default=512)
    parser.add_argument("-t", "--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    source = Source(args.gguf)
    with open(args.text, encoding="utf-8", newline="") as file:
        # llama.cpp drops one newline at the end of the file.
        ids = token_ids(source, file.read().removesuffix("\n"))
    with tempfile.TemporaryDirectory() as folder:
        convert(args.gguf, folder)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        all_losses = [losses(model, chunk) for chunk in chunks_of(source, ids, args.context)]
    counted = torch.cat(all_losses)
    print(json.dumps({
        "ppl": math.exp(counted.mean().item()),
        "tokens": len(counted),
        "chunks": len(all_losses),
        "text_tokens": len(ids),
    }))


if __name__ == "__main__":
    main()
