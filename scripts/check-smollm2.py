#!/usr/bin/env python3
"""Check Herd on SmolLM2-135M-Instruct: logits against transformers, perplexities against f32.

usage: scripts/check-smollm2.py [--herd target/release/herd] [-m MODEL] [--perplexity TEXT] [--types q8_0,q4_k_m]
       (Python's standard library alone; without -m the model is brought by `herd pull smollm2`)

1. The file's weights are written as f32 (`herd convert --float f32`) and run on the prompts of testdata/smollm2.json.
   `herd logits` prints log-probabilities, which are the logits less a number of the row; with that number taken from
   the likeliest token, the ten greatest logits and every 97th must agree with transformers' within 1e-3, and so must
   the log-probability of each token of the prompt. The likeliest token must be the recorded one at each of the greedy
   tokens, unless the gap between the best two is under 0.01.
2. With --perplexity, for the file and each type made from it (`herd quantize`): the perplexity of the file must lie within
   0.1 % of that of its own weights written as f32.

Exits with 1 if anything is off.
"""
import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "testdata" / "smollm2.json"
DIFFERENCE_MAX = 1e-3
GAP_MIN = 0.01
DRIFT_MAX = 1e-3


def herd(args, *words):
    command = [args.herd, *words, "--json", "--quiet", "-t", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout or "null")


def find(args):
    """The file of SmolLM2 and whether it is the recorded one."""
    path = args.model
    if path is None:
        subprocess.run([args.herd, "pull", "smollm2"], check=True)
        path = "smollm2"
    if Path(path).is_file():
        sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if sha256 != json.loads(GOLDEN.read_text())["sha256"]:
            sys.exit(f"{path} is another file than the one that was recorded")
    return path


def as_f32(args, model, folder):
    out = f"{folder}/f32.gguf"
    Path(out).unlink(missing_ok=True)
    herd(args, "convert", "-m", model, "-o", out, "--to", "gguf", "--float", "f32")
    return out


def compare_prompt(args, model, golden, stride):
    """The largest difference of a log-probability, of a logit, and the wrong greedy tokens."""
    ids = golden["ids"] + golden["greedy_ids"]
    words = ["--ids", " ".join(map(str, ids)), "--top", "0"]
    rows = herd(args, "logits", "-m", model, *words)["logprobs"]
    rows = [[pair["logprob"] for pair in row] for row in rows]
    last = len(golden["ids"]) - 1
    tokens = zip(rows, golden["ids"][1:], golden["logprobs"])
    log_prob = max((abs(row[token] - want) for row, token, want in tokens), default=0.0)
    shift = golden["top_logits"][0] - rows[last][golden["top_ids"][0]]
    pairs = list(zip(golden["top_ids"], golden["top_logits"]))
    pairs += [(i * stride, want) for i, want in enumerate(golden["strided_logits"])]
    logit = max(abs(rows[last][id] + shift - want) for id, want in pairs)
    wrong = 0
    for row, token, gap in zip(rows[last:], golden["greedy_ids"], golden["greedy_gaps"]):
        wrong += row.index(max(row)) != token and gap >= GAP_MIN
    return log_prob, logit, wrong


def check_logits(args, model, folder):
    recorded = json.loads(GOLDEN.read_text())
    f32 = as_f32(args, model, folder)
    good = True
    print("| prompt | tokens | log-probability off by | logit off by | wrong greedy tokens |\n|---|---|---|---|---|")
    for golden in recorded["prompts"]:
        log_prob, logit, wrong = compare_prompt(args, f32, golden, recorded["stride"])
        good &= max(log_prob, logit) <= DIFFERENCE_MAX and wrong == 0
        name = golden["prompt"][:24].replace("\n", " ").replace("|", "\\|")
        print(f"| {name} | {len(golden['ids'])} | {log_prob:.1e} | {logit:.1e} | {wrong} |", flush=True)
    return good


def check_perplexity(args, model, folder):
    good = True
    print("\n| file | perplexity | f32 of its weights | off by |\n|---|---|---|---|")
    for kind in ["as it is", *filter(None, args.types.split(","))]:
        path = model
        if kind != "as it is":
            path = f"{folder}/typed.gguf"
            Path(path).unlink(missing_ok=True)
            herd(args, "quantize", "-m", model, "-o", path, "--type", kind, "--no-measure")
        files = [path, as_f32(args, path, folder)]
        words = ["-f", args.perplexity, "-c", "512"]
        got, exact = (herd(args, "perplexity", "-m", file, *words)["ppl"] for file in files)
        drift = got / exact - 1
        good &= abs(drift) <= DRIFT_MAX
        print(f"| {kind} | {got:.4f} | {exact:.4f} | {drift:+.4%} |", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--herd", default="target/release/herd")
    parser.add_argument("-m", "--model")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--perplexity", metavar="TEXT")
    parser.add_argument("--types", default="q8_0,q6_k,q4_k_m,f16,bf16")
    args = parser.parse_args()
    model = find(args)
    with tempfile.TemporaryDirectory() as folder:
        good = check_logits(args, model, folder)
        if args.perplexity:
            good &= check_perplexity(args, model, folder)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
