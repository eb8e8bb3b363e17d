"""Records testdata/files: small files of tensors, written by the reference packages, and what
those packages read from them (expected.json: name, shape, type, bytes in hex, row by row).

    pip install gguf==0.19.0 safetensors==0.8.0 torch==2.15.0 numpy
    python testdata/record_files.py
"""

import collections
import json
import pathlib
import warnings

import gguf
import numpy as np
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent / "files"
EXPECTED = {}
TORCH_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}


def torch_hex(x):
    x = x.detach().contiguous()
    return x.view(-1).view(torch.uint8).numpy().tobytes().hex() if x.numel() else ""


def torch_row(name, x):
    return {"name": name, "shape": list(x.shape), "dtype": TORCH_NAMES[x.dtype], "hex": torch_hex(x)}


def note(file, rows, metadata=None):
    EXPECTED[file] = {"tensors": rows, "metadata": metadata or {}}


def numbers(*shape):
    count = int(np.prod(shape))
    return (torch.arange(count, dtype=torch.float32) * 0.37 - 3).sin().reshape(shape)


def record_gguf(file, endian=gguf.GGUFEndian.LITTLE, alignment=None):
    writer = gguf.GGUFWriter(HERE / file, "llama", endianess=endian)
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind, value in [("uint8", 200), ("int8", -100), ("uint16", 60000), ("int16", -30000),
                        ("uint32", 4_000_000_000), ("int32", -2_000_000_000), ("float32", 0.5),
                        ("bool", True), ("string", "héllo"), ("uint64", 1 << 60),
                        ("int64", -(1 << 60)), ("float64", 0.1)]:
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_array("test.strings", ["a", "", "ﬀ"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, 0.25])
    writer.add_array("test.bools", [True, False])
    x = numbers(3, 64).numpy()
    for kind in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]:
        kind = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"blk.0.{kind.name}.weight", gguf.quants.quantize(x, kind), raw_dtype=kind)
    for kind in ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ2_XXS"]:
        kind = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = (np.arange(2 * size * (256 // block)) * 7 % 251).astype(np.uint8).reshape(2, -1)
        writer.add_tensor(f"{kind.name}.weight", raw, raw_dtype=kind)
    for kind in [np.int8, np.int16, np.int32, np.int64, np.float64]:
        writer.add_tensor(f"{np.dtype(kind).name}", np.arange(6, dtype=kind).reshape(1, 2, 3))
    writer.add_tensor("norm.weight", np.ones(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if endian != gguf.GGUFEndian.LITTLE:
        return
    reader = gguf.GGUFReader(HERE / file)
    rows = [{"name": t.name, "shape": [int(n) for n in reversed(t.shape)],
             "dtype": t.tensor_type.name, "hex": t.data.tobytes().hex()} for t in reader.tensors]
    keys = [k for k in reader.fields if not k.startswith("GGUF.")]
    note(file, rows, {k: reader.fields[k].contents() for k in keys})


def record_safetensors():
    x = numbers(4, 6)
    tensors = {TORCH_NAMES[kind].lower(): (x * 3).to(kind) for kind in TORCH_NAMES}
    tensors["scalar"] = torch.tensor(1.5)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["näme.weight"] = numbers(2, 3, 2)
    metadata = {"format": "pt", "text": "a \"quoted\" line\n"}
    file = "small.safetensors"
    safetensors.torch.save_file(tensors, HERE / file, metadata)
    read = safetensors.torch.load_file(HERE / file)
    note(file, [torch_row(name, x) for name, x in read.items()], metadata)

    folder = HERE / "sharded"
    folder.mkdir(exist_ok=True)
    weight_map, rows = {}, []
    for i in (1, 2):
        shard = {f"layer.{i}.w": numbers(i, 8).bfloat16(), f"layer.{i}.b": numbers(8)}
        name = f"model-{i:05}-of-00002.safetensors"
        safetensors.torch.save_file(shard, folder / name, {"format": "pt"})
        weight_map |= {key: name for key in shard}
        rows += [torch_row(key, x) for key, x in shard.items()]
    index = {"metadata": {"total_size": sum(len(r["hex"]) // 2 for r in rows)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    note("sharded", rows, {"format": "pt"})


def record_torch():
    x = numbers(6, 8)
    flat = collections.OrderedDict()
    flat["bf16"], flat["f16"], flat["f32"] = x.bfloat16(), x.half(), x
    for kind in [torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]:
        flat[TORCH_NAMES[kind].lower()] = (x * 3).to(kind)
    flat["tied"] = flat["bf16"]
    flat["transposed"] = x.t()
    flat["slice"] = x[1:5:2, 2:7]
    flat["column"] = x[:, 3:4]
    flat["offset"] = x[2]
    flat["scalar"] = torch.tensor(2.5)
    flat["empty"] = torch.zeros(3, 0)
    flat["parameter"] = torch.nn.Parameter(numbers(3))
    flat._metadata = collections.OrderedDict({"": {"version": 1}})
    for file, protocol in [("small.pth", 2), ("protocol5.pth", 5)]:
        torch.save(flat, HERE / file, pickle_protocol=protocol)
        read = torch.load(HERE / file, weights_only=protocol == 2)
        note(file, [torch_row(name, x) for name, x in read.items()])
    torch.save(flat, HERE / "legacy.pth", _use_new_zipfile_serialization=False)

    nested = {"step": 7, "lr": 0.25, "note": "héllo", "done": False, "nothing": None,
              "model": {"w": numbers(2, 2)}, "list": [numbers(1), 3, numbers(2)], 5: numbers(3),
              "sizes": torch.Size([1, 2]), "type": torch.bfloat16}
    torch.save(nested, HERE / "nested.pt")
    rows = [torch_row("model.w", nested["model"]["w"]), torch_row("list.0", nested["list"][0]),
            torch_row("list.2", nested["list"][2]), torch_row("5", nested[5])]
    note("nested.pt", rows, {k: nested[k] for k in ["step", "lr", "note", "done"]})

    folder = HERE / "ranks"
    folder.mkdir(exist_ok=True)
    full = {"tok_embeddings.weight": numbers(8, 4), "wq.weight": numbers(6, 4),
            "wo.weight": numbers(4, 6), "norm.weight": numbers(4)}
    full = {name: x.bfloat16() for name, x in full.items()}
    axis = {"tok_embeddings.weight": 0, "wq.weight": 0, "wo.weight": 1}
    for rank in (0, 1):
        part = {n: x.chunk(2, axis[n])[rank].clone() if n in axis else x for n, x in full.items()}
        torch.save(part, folder / f"consolidated.{rank:02}.pth")
    note("ranks", [torch_row(name, x) for name, x in full.items()])


def main():
    warnings.simplefilter("ignore")
    HERE.mkdir(exist_ok=True)
    record_gguf("small.gguf")
    record_gguf("aligned.gguf", alignment=64)
    record_gguf("big_endian.gguf", endian=gguf.GGUFEndian.BIG)
    record_safetensors()
    record_torch()
    text = json.dumps(EXPECTED, ensure_ascii=False, indent=0) + "\n"
    (HERE / "expected.json").write_text(text)


if __name__ == "__main__":
    main()
