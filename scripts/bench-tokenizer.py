#!/usr/bin/env python3
"""Time encoding and decoding against tiktoken and gigatoken, all in one run, taking turns.

    pip install tiktoken==0.14.0 gigatoken==0.10.0 regex
    cargo build --release -p herd-codec --example tokenize_bench
    python3 scripts/bench-tokenizer.py --model tokenizer.model TEXT_OR_FOLDER...

TEXT_OR_FOLDER: files of text (.txt, .py, .md, .rst, .jsonl with a "text" field, each also .zst), or
folders of them; the first 30 MB are used. `--model` is Llama 3's tiktoken rank file. Rounds
alternate between the programs; "first" is the first pass over text that a process has not seen,
"warm" the median of the passes after it. Figures are 10^6 bytes a second, by the clock and, for
one thread, by processor time, which is steadier on a shared machine.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BINARY = os.path.join(os.path.dirname(__file__), "../target/release/examples/tokenize_bench")
PEERS = ["herd", "tiktoken", "gigatoken"]


def read(path):
    if path.endswith(".zst"):
        import zstandard
        with open(path, "rb") as file:
            text = zstandard.ZstdDecompressor().stream_reader(file).read().decode("utf-8")
        path = path[:-4]
    else:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            text = file.read()
    if not path.endswith(".jsonl"):
        return [text]
    return [json.loads(line).get("text", "") for line in text.split("\n") if line]


def gather(paths, bytes_max):
    """Texts of all files, in turn from each argument so that all are present."""
    sources = []
    for path in paths:
        files = [path]
        if os.path.isdir(path):
            names = (os.path.join(top, name) for top, _, names in os.walk(path) for name in names)
            ends = tuple(e + z for e in (".txt", ".py", ".md", ".rst", ".jsonl") for z in ("", ".zst"))
            files = sorted(name for name in names if name.endswith(ends))
        sources += [iter(read(file)) for file in files]
    texts, size = [], 0
    while sources and size < bytes_max:
        for source in list(sources):
            text = next(source, None)
            if text is None:
                sources.remove(source)
            elif text:
                texts.append(text)
                size += len(text.encode())
            if size >= bytes_max:
                break
    return texts


def run_peer(peer, model, texts_path, threads, passes):
    """One process: the speeds of its passes, and the number of tokens."""
    if peer == "herd":
        command = [BINARY, "time", model, texts_path, str(threads), str(passes)]
    else:
        command = [sys.executable, __file__, "--peer", peer, "--model", model, "--threads", str(threads),
                   "--passes", str(passes), texts_path]
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    return json.loads(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout)


def load_peer(peer, model, threads):
    """Functions that encode all texts and decode all ids."""
    if peer == "tiktoken":
        import base64
        import tiktoken
        with open(model, "rb") as file:
            ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in file if line.strip())}
        coder = tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        if threads == 1:
            encode = lambda texts: [coder.encode_ordinary(text) for text in texts]
        else:
            encode = lambda texts: coder.encode_ordinary_batch(texts, num_threads=threads)
        return encode, lambda ids: sum(len(coder.decode_bytes(one)) for one in ids)
    import gigatoken
    import numpy
    # Its reader of rank files stops at Llama 3's, so it gets the same vocabulary as JSON.
    file = subprocess.run([BINARY, "json", model], check=True, stdout=subprocess.PIPE).stdout
    coder = gigatoken.Tokenizer.from_json(file.decode())
    encode = lambda texts: coder.encode_batch(texts, parallel=threads > 1)
    # Its decoder takes arrays as they come from its encoder.
    return encode, lambda ids: sum(len(coder.decode(numpy.asarray(one))) for one in ids)


def peer_main(args):
    with open(args.texts[0], encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    encode, decode = load_peer(args.peer, args.model, args.threads)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    report = {"encode": [], "encode_cpu": [], "decode": []}
    for _ in range(args.passes):
        start, cpu = time.perf_counter(), time.process_time()
        ids = encode(texts)
        report["encode_cpu"].append(megabytes / (time.process_time() - cpu))
        report["encode"].append(megabytes / (time.perf_counter() - start))
    for _ in range(args.passes):
        start = time.perf_counter()
        size = decode(ids)
        report["decode"].append(megabytes / (time.perf_counter() - start))
        assert size / 1e6 == megabytes, "decoding lost bytes"
    report["tokens"] = sum(len(one) for one in ids)
    print(json.dumps(report))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args()
    if args.peer:
        return peer_main(args)
    texts = gather(args.texts, args.megabytes * 1e6)
    print(f"{len(texts)} texts, {sum(len(t.encode()) for t in texts) / 1e6:.1f} MB, {args.threads} thread(s)")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "texts.jsonl")
        with open(path, "w") as file:
            file.writelines(json.dumps(text) + "\n" for text in texts)
        runs = {peer: [] for peer in PEERS}
        for _ in range(args.rounds):
            for peer in PEERS:
                runs[peer].append(run_peer(peer, args.model, path, args.threads, args.passes))
    print("| | encode first | encode warm | first, cpu | warm, cpu | decode | tokens |\n|---|---|---|---|---|---|---|")
    for peer, reports in runs.items():
        median = lambda name, part: statistics.median(x for r in reports for x in r[name][part])
        first, rest = slice(0, 1), slice(1, None)
        figures = [median("encode", first), median("encode", rest)]
        figures += [median("encode_cpu", first), median("encode_cpu", rest)] if args.threads == 1 else [0, 0]
        figures.append(median("decode", slice(None)))
        print(f"| {peer} | " + " | ".join(f"{f:.1f}" for f in figures) + f" | {reports[0]['tokens']} |")


if __name__ == "__main__":
    main()
