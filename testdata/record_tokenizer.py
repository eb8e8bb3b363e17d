#!/usr/bin/env python3
"""Train small vocabularies and record the ids that reference tokenizers give with them.

    pip install tiktoken==0.14.0 tokenizers==0.23.3 sentencepiece==0.2.1 regex
    python3 testdata/record_tokenizer.py

Reads tokenizer/train.txt (scenes of Shakespeare, public domain, and a few lines in other scripts),
writes beside it small.tiktoken, small.json, small.spm.model and cases.jsonl.
"""
import base64
import collections
import importlib.util
import json
import os

import regex
import sentencepiece
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers as pre

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "tokenizer")
spec = importlib.util.spec_from_file_location("check", os.path.join(HERE, "../scripts/check-tokenizer.py"))
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


def train(words, count):
    """Byte-pair encoding: `count` times join the commonest pair."""
    words = {tuple(bytes([b]) for b in word): n for word, n in words.items()}
    merges = []
    for _ in range(count):
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((left, right))
        joined = {}
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                both = word[i:i + 2] == (left, right)
                out.append(left + right if both else word[i])
                i += 2 if both else 1
            joined[tuple(out)] = joined.get(tuple(out), 0) + n
        words = joined
    return merges


def record_ranks(text):
    """A rank file whose first 256 ranks are not in the order of the bytes, as in Llama 3's."""
    words = collections.Counter(regex.findall(check.bench.PATTERN, text))
    merges = train({word.encode(): n for word, n in words.items()}, 768)
    order = sorted(range(256), key=lambda b: (not 33 <= b <= 126, b))
    tokens = [bytes([b]) for b in order]
    for left, right in merges:
        if left + right not in tokens:
            tokens.append(left + right)
    with open(os.path.join(FOLDER, "small.tiktoken"), "wb") as file:
        file.writelines(base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(tokens))
    return tiktoken.Encoding("small", pat_str=check.bench.PATTERN, special_tokens={},
                             mergeable_ranks={t: rank for rank, t in enumerate(tokens)})


def record_json(text):
    """A tokenizer.json with single digits and GPT-2's split, special tokens first."""
    split = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    words = collections.Counter(word for word, _ in split.pre_tokenize_str(text))
    letters = sorted(pre.ByteLevel.alphabet())
    vocab = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + letters
    merges = []
    of_char = {c: i for i, c in enumerate(letters)}
    for left, right in train({bytes(of_char[c] for c in word): n for word, n in words.items()}, 700):
        left, right = ("".join(letters[b] for b in half) for half in (left, right))
        merges.append((left, right))
        vocab.append(left + right)
    coder = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(vocab)}, merges))
    coder.pre_tokenizer = split
    coder.decoder = decoders.ByteLevel()
    coder.add_special_tokens(vocab[:3])
    coder.save(os.path.join(FOLDER, "small.json"), pretty=False)
    return coder


def record_sentencepiece():
    """A SentencePiece model with Llama 2's settings. It keeps the names that it is given, so they are bare."""
    os.chdir(FOLDER)
    sentencepiece.SentencePieceTrainer.train(
        input="train.txt", model_prefix="small.spm", model_type="bpe", vocab_size=800,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.9995,
        max_sentence_length=1 << 20, minloglevel=2)
    os.remove("small.spm.vocab")
    return sentencepiece.SentencePieceProcessor(model_file="small.spm.model")


def main():
    with open(os.path.join(FOLDER, "train.txt"), encoding="utf-8") as file:
        text = file.read()
    ranks, coder, pieces = record_ranks(text), record_json(text), record_sentencepiece()
    texts = ["", " ", "Hello world", text[2000:2600]] + [t for t in check.fuzz(7, 600) if len(t) < 100][:200]
    texts += ["a" * 500, " " * 300 + "x", "ab" * 150]
    with open(os.path.join(FOLDER, "cases.jsonl"), "w", encoding="utf-8") as file:
        for text in texts:
            # Special strings are text here; `tokenizers` would recognise them, so it gets none.
            recognised = any(s in text for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
            assert not recognised
            case = {"text": text, "tiktoken": ranks.encode_ordinary(text),
                    "json": coder.encode(text, add_special_tokens=False).ids, "spm": pieces.encode(text)}
            file.write(json.dumps(case, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
