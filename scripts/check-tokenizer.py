#!/usr/bin/env python3
"""Compare token ids with tiktoken, tokenizers and llama.cpp, on recorded vectors, files and a fuzz corpus.

    pip install tiktoken==0.14.0 tokenizers==0.23.3 gguf==0.19.0 zstandard
    cargo build --release -p herd-codec --example tokenize_bench
    python3 scripts/check-tokenizer.py --llama3 tokenizer.model --gguf VOCAB.gguf... --texts TEXT_OR_FOLDER...

`--llama3`   Meta's rank file: compared with tiktoken, and, written as tokenizer.json, with tokenizers.
`--gguf`     GGUF files with a byte-level vocabulary: compared with tokenizers, built from what they
             hold, if their split is smollm, gpt-2 or llama-bpe. With a SentencePiece vocabulary:
             the tokenizer.json written from it is compared with tokenizers.
`--vectors`  a folder with FILE.inp and FILE.out of llama.cpp for the GGUF files named FILE, or with
             `llama3_text_vectors.jsonl[.zst]` and `smollm2_text_vectors.jsonl[.zst]` ({text, ids}).
The texts are read as by bench-tokenizer.py. Exits 1 if an id differs.
"""
import argparse
import base64
import glob
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("bench", os.path.join(HERE, "bench-tokenizer.py"))
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
SPACES = [chr(c) for c in (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
                           0x202F, 0x205F, 0x3000)]
failures = 0


def herd(tokenizer, texts):
    """Ids of our own for each text."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    run = subprocess.run([bench.BINARY, "ids", tokenizer], input=lines.encode(), check=True, capture_output=True)
    if run.stderr:
        report("decode(encode(x)) == x", [(run.stderr.decode()[:200], [], [])], len(texts))
    return [[int(i) for i in line.split()] for line in run.stdout.decode().split("\n")[:-1]]


def report(what, wrong, count):
    global failures
    failures += len(wrong)
    print(f"{'FAIL' if wrong else 'ok':4} {what}: {count} texts, {len(wrong)} differ", flush=True)
    for text, expected, got in wrong[:3]:
        print(f"     {text[:80]!r}\n     expected {expected[:24]}\n     got      {got[:24]}")


def compare(what, texts, expected, got):
    assert len(texts) == len(expected) == len(got), what
    report(what, [t for t in zip(texts, expected, got) if list(t[1]) != t[2]], len(texts))


def fuzz(seed, count):
    """Texts that look for the corners of split patterns."""
    rng = random.Random(seed)
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    bmp = [c for c in points if c < 0x3400]
    words = ["the", "Hello", "we'll", "I'M", "they'Re", "it'\u017f", "don't", "'s", "'LL", "x'd", "\u212aelvin", "straße",
             "Ünïcødé", "你好", "こんにちは", "สวัสดี", "नमस्ते", "مرحبا", "שלום", "привет", "123", "4567890", "٣٤٥", "Ⅷ½", "<|eot_id|>",
             "<|begin_of_text|>", "<s>", "</s>", "<0x0A>", "</p>", "def f(x):", "//", "...", "!!!", "—", "«", "_a_b", "$9.99"]
    marks = [chr(c) for c in range(0x300, 0x370)] + ["\u200d", "\ufe0f", "\u20e3", "\U0001f3fd", "\u0e31", "\u093f"]
    emoji = ["👩", "👨", "👧", "💻", "🏳", "🌈", "❤", "🔥", "\U0001f1fa", "\U0001f1f8"]
    kinds = [
        lambda: "".join(chr(rng.choice(points)) for _ in range(rng.randrange(1, 200))),
        lambda: "".join(chr(rng.choice(bmp)) for _ in range(rng.randrange(1, 200))),
        lambda: bytes(rng.randrange(256) for _ in range(rng.randrange(1, 200))).decode("utf-8", "replace"),
        lambda: bytes(rng.randrange(128) for _ in range(rng.randrange(1, 300))).decode(),
        lambda: "".join(rng.choice(SPACES + ["a", "1", ".", "\n", " ", " "]) for _ in range(rng.randrange(1, 120))),
        lambda: "".join(rng.choice("\r\n \t\r\n.a'") for _ in range(rng.randrange(1, 80))),
        lambda: "".join(rng.choice("ea\u0e01न👍") + "".join(rng.choices(marks, k=rng.randrange(6))) for _ in range(40)),
        lambda: "\u200d".join(rng.choices(emoji, k=rng.randrange(1, 12))) + rng.choice(["", " ", "x"]),
        lambda: rng.choice(["a", " ", "\n", "1", "!", "é", "가", "👍", "ab", " a", "\u3000", "'s"]) * rng.randrange(1, 700),
        lambda: rng.choice(["", " ", "\t"]).join(rng.choices(words + SPACES, k=rng.randrange(1, 60))),
        lambda: "".join(rng.choice(words) + rng.choice(SPACES + ["", "", ",", "'"]) for _ in range(40)),
    ]
    return [rng.choice(kinds)() for _ in range(count)]


def tokenizers_ids(tokenizer, texts):
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def check_llama3(model, texts, folder):
    import tiktoken
    import tokenizers
    with open(model, "rb") as file:
        ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in file if line.strip())}
    coder = tiktoken.Encoding("llama3", pat_str=bench.PATTERN, mergeable_ranks=ranks, special_tokens={})
    ours = herd(model, texts)
    compare("rank file against tiktoken", texts, [coder.encode_ordinary(text) for text in texts], ours)
    path = write_json(model, folder)
    # tokenizers recognises special strings wherever they stand; plain text must be free of them.
    plain = [(text, ids) for text, ids in zip(texts, ours) if "<|" not in text]
    few = plain[:: max(1, len(plain) // 4000)]
    reference = tokenizers.Tokenizer.from_file(path)
    compare("written tokenizer.json against tokenizers", [t for t, _ in few],
            tokenizers_ids(reference, [t for t, _ in few]), [ids for _, ids in few])
    compare("written tokenizer.json read back", texts, ours, herd(path, texts))


def write_json(tokenizer, folder):
    path = os.path.join(folder, "tokenizer.json")
    with open(path, "wb") as file:
        subprocess.run([bench.BINARY, "json", tokenizer], check=True, stdout=file)
    return path


def gguf_vocab(path, folder):
    """The vocabulary of a GGUF file as the JSON that tokenize_bench reads."""
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    keys = {"model": "model", "pre": "pre", "tokens": "tokens", "scores": "scores", "token_type": "token_type",
            "merges": "merges", "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id",
            "pad": "padding_token_id", "add_bos": "add_bos_token", "add_eos": "add_eos_token",
            "add_space_prefix": "add_space_prefix"}
    values = {key: fields["tokenizer.ggml." + name].contents() for key, name in keys.items()
              if "tokenizer.ggml." + name in fields}
    out = os.path.join(folder, "vocab.json")
    with open(out, "w", encoding="utf-8") as file:
        json.dump(values, file, ensure_ascii=False, separators=(",", ":"))
    return values, out


def check_gguf(path, texts, vectors, folder):
    import tokenizers
    from tokenizers import Regex, models, pre_tokenizers as pre
    name = os.path.basename(path)
    values, vocab = gguf_vocab(path, folder)
    for inp in glob.glob(os.path.join(vectors, "**", name + ".inp"), recursive=True) if vectors else []:
        with open(inp, encoding="utf-8", newline="") as file:
            cases = file.read().split("\n__ggml_vocab_test__\n")
        with open(inp[:-4] + ".out", encoding="utf-8") as file:
            expected = [[int(i) for i in line.split()] for line in file.read().split("\n")]
        compare(f"{name} against llama.cpp's vectors", cases, expected[:len(cases)], herd(vocab, cases))
    byte_level = {
        "smollm": pre.Sequence([pre.Digits(True), pre.ByteLevel(False)]),
        "gpt-2": pre.ByteLevel(False),
        "llama-bpe": pre.Sequence([pre.Split(Regex(bench.PATTERN), "isolated"), pre.ByteLevel(False, use_regex=False)]),
    }
    few = texts[:: max(1, len(texts) // 8000)]
    if values["model"] == "gpt2":
        if values.get("pre") not in byte_level:
            return
        merges = [tuple(merge.split(" ")) for merge in values["merges"]]
        model = models.BPE({t: i for i, t in enumerate(values["tokens"])}, merges,
                           ignore_merges=values["pre"] == "llama-bpe")
        reference = tokenizers.Tokenizer(model)
        reference.pre_tokenizer = byte_level[values["pre"]]
        compare(f"{name} against tokenizers", few, tokenizers_ids(reference, few), herd(vocab, few))
    else:
        # The recognised strings and the visible space are other text to tokenizers.
        few = [text for text in few if "<" not in text and "\u2581" not in text][::4]
        written = write_json(vocab, folder)
        reference = tokenizers.Tokenizer.from_file(written)
        compare(f"{name} as tokenizer.json against tokenizers", few, tokenizers_ids(reference, few), herd(vocab, few))
        compare(f"{name} as tokenizer.json read back", few, herd(vocab, few), herd(written, few))


def check_vectors(name, tokenizer, vectors):
    for path in glob.glob(os.path.join(vectors, name + "*")) if vectors else []:
        opener = bench.read
        if path.endswith(".zst"):
            import zstandard
            with open(path, "rb") as file:
                lines = zstandard.ZstdDecompressor().stream_reader(file).read().decode().split("\n")
        else:
            lines = opener(path)[0].split("\n")
        cases = [json.loads(line) for line in lines if line]
        texts = [case["text"] for case in cases]
        compare(f"{os.path.basename(path)}", texts, [case["ids"] for case in cases], herd(tokenizer, texts))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama3")
    parser.add_argument("--gguf", nargs="*", default=[])
    parser.add_argument("--vectors")
    parser.add_argument("--fuzz", type=int, default=20000)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--texts", nargs="*", default=[])
    args = parser.parse_args()
    texts = bench.gather(args.texts, args.megabytes * 1e6) + fuzz(1, args.fuzz)
    print(f"{len(texts)} texts, {sum(len(t.encode()) for t in texts) / 1e6:.1f} MB, of them {args.fuzz} made by the fuzzer")
    with tempfile.TemporaryDirectory() as folder:
        if args.llama3:
            check_vectors("llama3_text_vectors", args.llama3, args.vectors)
            check_llama3(args.llama3, texts, folder)
        for path in args.gguf:
            if "smol" in path.lower():
                check_vectors("smollm2_text_vectors", gguf_vocab(path, folder)[1], args.vectors)
            check_gguf(path, texts, args.vectors, folder)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
