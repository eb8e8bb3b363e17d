"""Records recipes.txt for crates/model/tests/recipe.rs from llama.cpp's llama-quantize.

    pip install gguf==0.19.0 numpy
    python testdata/record_recipes.py LLAMA_QUANTIZE

LLAMA_QUANTIZE is the program built from the sources of the `llama-cpp-python` package 0.3.36. It is asked with
--dry-run for the types it would give to small models of the shapes below.

A model's line is `model NAME layers width heads kv_heads ffn_width vocab tied`; below it, for each recipe and kind of
tensor, `RECIPE KIND TYPExCOUNT ...` in the order of the layers. Tensors of one axis are left out.
"""

import itertools
import pathlib
import re
import subprocess
import sys
import tempfile

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
RECIPES = ("Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL "
           "F16 BF16 F32").split()
# name: layers, width, heads, kv_heads, ffn_width, vocab, tied
MODELS = {
    "gqa": (32, 256, 8, 2, 512, 32, False),
    "mha": (20, 256, 4, 4, 256, 32, False),
    "tied": (16, 256, 8, 2, 256, 32, True),
    "like_70b": (80, 256, 8, 1, 256, 32, False),
    "like_65b": (80, 256, 4, 4, 256, 32, False),
    "smollm2": (30, 576, 9, 3, 1536, 32, True),
    "short_rows": (9, 160, 5, 1, 256, 32, False),
    "odd_rows": (3, 48, 3, 1, 80, 32, False),
    "one_layer": (1, 512, 8, 4, 256, 32, False),
}


def write_model(path, layers, width, heads, kv_heads, ffn, vocab, tied):
    head = width // heads
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(layers)
    w.add_context_length(256)
    w.add_embedding_length(width)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(head)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    zeros = lambda *shape: np.zeros(shape, np.float32)
    w.add_tensor("token_embd.weight", zeros(vocab, width))
    for l in range(layers):
        w.add_tensor(f"blk.{l}.attn_norm.weight", zeros(width))
        w.add_tensor(f"blk.{l}.attn_q.weight", zeros(width, width))
        w.add_tensor(f"blk.{l}.attn_k.weight", zeros(kv_heads * head, width))
        w.add_tensor(f"blk.{l}.attn_v.weight", zeros(kv_heads * head, width))
        w.add_tensor(f"blk.{l}.attn_output.weight", zeros(width, width))
        w.add_tensor(f"blk.{l}.ffn_norm.weight", zeros(width))
        w.add_tensor(f"blk.{l}.ffn_gate.weight", zeros(ffn, width))
        w.add_tensor(f"blk.{l}.ffn_up.weight", zeros(ffn, width))
        w.add_tensor(f"blk.{l}.ffn_down.weight", zeros(width, ffn))
    w.add_tensor("output_norm.weight", zeros(width))
    if not tied:
        w.add_tensor("output.weight", zeros(vocab, width))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def types(program, path, recipe):
    """Kind of tensor -> types in the order of the layers."""
    out = subprocess.run([program, "--dry-run", path, recipe, "1"], capture_output=True, text=True, check=True)
    found = {}
    for line in (out.stdout + out.stderr).splitlines():
        match = re.match(r"\[ *\d+/ *\d+\] +(\S+) +- +\[ *\d+, *(\d+),.*type = *(\w+), size.*?(?:\((\w+)\))?$", line)
        if match is None or match[2] == "1":
            continue
        name = match[1].split(".")
        layer, kind = (int(name[1]), name[2]) if name[0] == "blk" else (0, name[0])
        found.setdefault(kind, {})[layer] = (match[4] or match[3]).upper()
    return {kind: [layers[l] for l in sorted(layers)] for kind, layers in sorted(found.items())}


def main():
    program = sys.argv[1]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in MODELS.items():
            path = f"{folder}/{name}.gguf"
            write_model(path, *shape)
            lines.append(" ".join(["model", name, *map(str, map(int, shape))]))
            for recipe in RECIPES:
                for kind, row in types(program, path, recipe).items():
                    assert len(row) in (1, shape[0]), (name, recipe, kind, row)
                    runs = [f"{t}x{len(list(g))}" for t, g in itertools.groupby(row)]
                    lines.append(" ".join([recipe.lower(), kind, *runs]))
    (HERE / "recipes.txt").write_text("\n".join(lines) + "\n")


main()
