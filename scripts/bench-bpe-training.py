#!/usr/bin/env python3
"""Time the training of a vocabulary against rustbpe, gigatoken and tokenizers, all in one run, taking turns.

    cargo build --release -p herd
    python3 scripts/bench-bpe-training.py [--vocab-size 32000] [--threads 2] [--rounds 5] TEXT_OR_FOLDER...

TEXT_OR_FOLDER as in scripts/bench-tokenizer.py; the first 30 MB are used. The peers are installed with pip, in these
versions, into a folder of their own (--peers, kept for the next run). Each round starts every program once in a process
of its own. Peers get the texts as Python strings that are in memory already, and only the training call is timed.
Herd is timed as a whole program: start, reading JSON lines, training, measuring the result by source, writing and syncing
the folder; "herd, training" is the part that the peers are timed for, counting and merging (from stats.json), though
with the reading of JSON. Split and size are the same for all but gigatoken, which has its own split. Herd's
merges are compared with those of tokenizers, one by one.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
HERD = os.path.join(HERE, "../target/release/herd")
PINNED = ["tokenizers==0.23.3", "rustbpe==0.1.0", "gigatoken==0.10.0", "zstandard==0.25.0"]
PEERS = ["rustbpe", "gigatoken", "tokenizers"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def peer_python(folder):
    """The interpreter of a virtual environment that has the peers."""
    python = os.path.join(folder, "bin/python")
    if not os.path.exists(os.path.join(folder, "ready")):
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PINNED], check=True)
        open(os.path.join(folder, "ready"), "w").close()
    return python


def gather(paths, bytes_max, out):
    """Writes texts of all files, in turn from each, as JSON lines. Runs inside the environment, for zstandard."""
    import importlib.util
    spec = importlib.util.spec_from_file_location("bench", os.path.join(HERE, "bench-tokenizer.py"))
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    texts = bench.gather(paths, bytes_max)
    with open(out, "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def peer_main(peer, path, vocab_size, out):
    """Trains once in this process; prints the seconds. tokenizers leaves its merges in `out`."""
    with open(path) as file:
        texts = [json.loads(line)["text"] for line in file]
    if peer == "tokenizers":
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers as pre, trainers
        tokenizer = Tokenizer(models.BPE())
        split = pre.Split(Regex(PATTERN), "isolated")
        tokenizer.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
        alphabet = pre.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=alphabet)
        start = time.perf_counter()
        tokenizer.train_from_iterator(texts, trainer)
        seconds = time.perf_counter() - start
        with open(out, "w") as file:
            json.dump(json.loads(tokenizer.to_str())["model"]["merges"], file)
    elif peer == "rustbpe":
        import rustbpe
        tokenizer = rustbpe.Tokenizer()
        start = time.perf_counter()
        tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=PATTERN)
        seconds = time.perf_counter() - start
    else:
        import gigatoken
        joined = "\x00".join(texts).encode()
        start = time.perf_counter()
        gigatoken.train_bpe(joined, vocab_size, [], separator=b"\x00")
        seconds = time.perf_counter() - start
    print(seconds)


def herd_main(path, vocab_size, threads, out):
    """Prints the seconds of the whole program, and of its training."""
    command = [HERD, "tokenizer", "train", "--input", path, "--vocab-size", str(vocab_size), "--specials", "0",
               "--max-token-bytes", "1024", "-t", str(threads), "-o", out, "--quiet", "--json"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - start
    with open(os.path.join(out, "stats.json")) as file:
        seconds = json.load(file)["seconds"]
    print(whole, seconds["count"] + seconds["merge"])


def run(peer, python, path, args, out):
    """One process; the seconds that it prints last."""
    threads = str(args.threads)
    parallel = "true" if args.threads > 1 else "false"
    environment = dict(os.environ, RAYON_NUM_THREADS=threads, TOKENIZERS_PARALLELISM=parallel)
    command = args.wrap.split() + [python, __file__, "--peer", peer, "--vocab-size", str(args.vocab_size),
                                   "--threads", threads, path, out]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    return [float(number) for number in done.stdout.split("\n")[-2].split()]


def same_merges(folder, recorded):
    with open(os.path.join(folder, "tokenizer.json")) as file:
        ours = json.load(file)["model"]["merges"]
    with open(recorded) as file:
        theirs = json.load(file)
    equal = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if list(a) != list(b)), min(len(ours), len(theirs)))
    return f"{equal} of {len(theirs)} merges equal those of tokenizers" + ("" if len(ours) == equal else ", then they part")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--peers", default=os.path.join(tempfile.gettempdir(), "bench-bpe-training-peers"))
    parser.add_argument("--wrap", default="", help="put before each timed command, as in 'taskset -c 0,1'")
    parser.add_argument("--peer", choices=PEERS + ["gather", "herd"], help=argparse.SUPPRESS)
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args()
    if args.peer == "gather":
        return gather(args.texts[:-1], args.megabytes * 1e6, args.texts[-1])
    if args.peer == "herd":
        return herd_main(args.texts[0], args.vocab_size, args.threads, args.texts[1])
    if args.peer:
        return peer_main(args.peer, args.texts[0], args.vocab_size, args.texts[1])
    python = peer_python(args.peers)
    with tempfile.TemporaryDirectory() as folder:
        path, merges = os.path.join(folder, "texts.jsonl"), os.path.join(folder, "merges.json")
        command = [python, __file__, "--peer", "gather", "--megabytes", str(args.megabytes), *args.texts, path]
        subprocess.run(command, check=True)
        with open(path) as file:
            texts = [json.loads(line)["text"] for line in file]
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        print(f"{len(texts)} texts, {megabytes:.1f} MB, vocabulary {args.vocab_size}, {args.threads} thread(s)", flush=True)
        runs = {name: [] for name in ["herd", "herd, training", *PEERS]}
        for i in range(args.rounds):
            out = os.path.join(folder, f"herd-{i}")
            whole, training = run("herd", python, path, args, out)
            runs["herd"].append(whole)
            runs["herd, training"].append(training)
            for peer in PEERS:
                runs[peer] += run(peer, python, path, args, merges)
        print(same_merges(out, merges))
    print("| | median s | least s | MB/s | herd is faster by |\n|---|---|---|---|---|")
    herd = statistics.median(runs["herd"])
    for name, seconds in runs.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} | {min(seconds):.2f} | {megabytes / median:.1f} | {median / herd:.2f} |")


if __name__ == "__main__":
    main()
