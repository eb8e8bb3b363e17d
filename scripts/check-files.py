#!/usr/bin/env python3
"""Opens files of tensors with the reference packages, and compares them where asked.

    pip install gguf==0.19.0 safetensors==0.8.0 torch==2.15.0 numpy
    scripts/check-files.py FILE...              # each opens, and each tensor in it is read
    scripts/check-files.py --same FILE...       # and all of them hold the same tensors

A folder stands for its model.safetensors.index.json or model.safetensors.
"""

import argparse
import hashlib
import json
import pathlib
import sys

PINNED = {"gguf": "0.19.0", "safetensors": "0.8.0", "torch": "2.15.0"}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def read_gguf(path):
    import gguf

    reader = gguf.GGUFReader(path)
    for field in reader.fields.values():
        field.contents()
    return {t.name: (tuple(int(n) for n in reversed(t.shape)), t.tensor_type.name, digest(t.data.tobytes()))
            for t in reader.tensors}


def torch_rows(tensors):
    import torch

    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
    rows = {}
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor):
            continue
        raw = x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""
        kind = names.get(x.dtype, str(x.dtype).removeprefix("torch.").replace("int", "I").replace("uI", "U").upper())
        rows[name] = (tuple(x.shape), kind, digest(raw))
    return rows


def read_safetensors(path):
    import safetensors.torch

    return torch_rows(safetensors.torch.load_file(path))


def read_torch(path):
    import torch

    return torch_rows(torch.load(path, weights_only=True, map_location="cpu"))


def read(path):
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        if not index.exists():
            return read(path / "model.safetensors")
        weight_map = json.loads(index.read_text())["weight_map"]
        rows = {}
        for name in sorted(set(weight_map.values())):
            shard = read(path / name)
            assert set(shard) == {t for t, s in weight_map.items() if s == name}, f"{name}: other tensors than the index says"
            rows |= shard
        return rows
    readers = {".gguf": read_gguf, ".safetensors": read_safetensors}
    return readers.get(path.suffix, read_torch)(path)


def check_versions():
    from importlib.metadata import PackageNotFoundError, version

    for package, pinned in PINNED.items():
        try:
            got = version(package).partition("+")[0]
        except PackageNotFoundError:
            got = "absent"
        if got != pinned:
            print(f"note: {package} is {got}, this script was checked with {pinned}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--same", action="store_true", help="all must hold the same tensors")
    parser.add_argument("paths", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    check_versions()
    first = None
    for path in args.paths:
        rows = read(path)
        print(f"{path}: {len(rows)} tensors")
        first = first or rows
        if args.same and rows != first:
            wrong = sorted(n for n in rows.keys() | first.keys() if rows.get(n) != first.get(n))
            print(f"{path} differs from {args.paths[0]} in {len(wrong)} tensors, first {wrong[0]}: "
                  f"{first.get(wrong[0])} and {rows.get(wrong[0])}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
