"""Records blocks_*.bin for crates/kernels/tests/blocks.rs from the `gguf` package and llama.cpp.

    pip install gguf==0.19.0 numpy
    python testdata/record_blocks.py                      # blocks_unpack.bin, blocks_quantise.bin
    python testdata/record_blocks.py --ggml LIBGGML_BASE  # blocks_quality.bin as well

LIBGGML_BASE is llama.cpp's libggml-base shared library (the `llama-cpp-python` package has one).

A file is a run of records: GGML type id, count of numbers, count of bytes (u32 each), the packed
bytes, the numbers as f32. All little-endian.
"""

import argparse
import ctypes
import os
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

HERE = pathlib.Path(__file__).parent
BLOCK_TYPES = [
    Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0,
    Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL,
]
FLOAT_TYPES = [Type.F32, Type.F16, Type.BF16]
# Where each block keeps its f16 factors.
FACTORS = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2],
    Type.Q6_K: [208], Type.IQ4_NL: [0],
}
EXACT_ENCODERS = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.F16, Type.BF16]
SEARCHED = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL]


def record(file, kind, packed, numbers):
    packed = np.ascontiguousarray(packed).view(np.uint8).tobytes()
    numbers = np.ascontiguousarray(numbers, dtype=np.float32).reshape(-1)
    file.write(struct.pack("<III", kind.value, numbers.size, len(packed)))
    file.write(packed)
    file.write(numbers.tobytes())


def random_blocks(rng, kind):
    """Random bytes with finite factors, then the edges: all zero, all ones, odd factors."""
    length, size = GGML_QUANT_SIZES[kind]
    count = 2048 // length
    blocks = rng.integers(0, 256, (count + 6, size), dtype=np.uint8)
    factors = rng.normal(0, 0.1, (count + 6, 2)).astype(np.float16)
    blocks[count] = 0
    blocks[count + 1] = 255
    blocks[count + 2] = 0x88
    factors[count + 1] = [-1.5, 0.25]      # negative factor, largest codes
    factors[count + 3] = [6e-8, 6e-8]      # the smallest subnormal
    factors[count + 4] = [-0.0, 5.9e-5]    # negative zero, a larger subnormal
    factors[count + 5] = [65504, -65504]   # the largest
    for row in range(count + 6):
        for at, factor in zip(FACTORS[kind], factors[row]):
            if row != count:
                blocks[row, at : at + 2] = np.frombuffer(factor.tobytes(), dtype=np.uint8)
    return blocks


def record_unpack(rng):
    with open(HERE / "blocks_unpack.bin", "wb") as file:
        for kind in BLOCK_TYPES:
            blocks = random_blocks(rng, kind)
            record(file, kind, blocks, dequantize(blocks, kind))
        for kind in FLOAT_TYPES:
            size = GGML_QUANT_SIZES[kind][1]
            raw = rng.integers(0, 256, (2048, size), dtype=np.uint8)
            numbers = dequantize(raw.reshape(1, -1), kind).reshape(-1)
            finite = np.isfinite(numbers)
            record(file, kind, raw[finite], numbers[finite])


def normal_and_heavy(rng, count):
    yield rng.normal(0, 1, count).astype(np.float32)
    yield rng.standard_t(3, count).astype(np.float32)


def record_quantise(rng):
    normal, heavy = normal_and_heavy(rng, 1024)
    edges = np.zeros((10, 32), dtype=np.float32)  # the first block stays zero
    edges[1] = -3.25
    edges[2] = np.arange(32) / 8 - 2               # ties
    edges[3] = np.arange(32) - 15.5
    edges[4, 7] = -1e-30                           # a scale that is zero as f16
    edges[5] = rng.normal(0, 1e-7, 32)             # subnormal scales
    edges[6] = rng.normal(0, 1e4, 32)
    edges[7, ::2], edges[7, 1::2] = 2.0, -2.0      # two numbers share the largest magnitude
    edges[8] = np.abs(rng.normal(0, 1, 32)) + 5    # far from zero
    edges[9] = np.linspace(-127, 127, 32) + 0.5
    x = np.concatenate([normal, heavy, edges.reshape(-1)])
    with open(HERE / "blocks_quantise.bin", "wb") as file:
        for kind in EXACT_ENCODERS:
            record(file, kind, quantize(x, kind), x)


def record_quality(rng, library):
    ggml = ctypes.CDLL(library, mode=os.RTLD_LAZY)
    chunk = ggml.ggml_quantize_chunk
    pointer, i64 = ctypes.c_void_p, ctypes.c_int64
    chunk.argtypes = [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]
    chunk.restype = ctypes.c_size_t
    with open(HERE / "blocks_quality.bin", "wb") as file:
        for x in normal_and_heavy(rng, 4096):
            for kind in SEARCHED:
                length, size = GGML_QUANT_SIZES[kind]
                packed = np.zeros(x.size // length * size, dtype=np.uint8)
                chunk(kind.value, x.ctypes.data, packed.ctypes.data, 0, 1, x.size, None)
                record(file, kind, packed, x)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ggml", help="llama.cpp's libggml-base shared library")
    library = parser.parse_args().ggml
    record_unpack(np.random.default_rng(1))
    record_quantise(np.random.default_rng(2))
    if library:
        record_quality(np.random.default_rng(3), library)
