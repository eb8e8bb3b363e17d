#!/usr/bin/env python3
"""Record the merges that Hugging Face's trainer learns on tokenizer/train.txt.

    pip install tokenizers==0.23.3
    python3 testdata/record_tokenizer_training.py

Each line is a document. Writes tokenizer/trained.json: the size of the vocabulary (bytes and merges) and
the merges in order.
"""
import json
import os

from tokenizers import Regex, Tokenizer, models, pre_tokenizers as pre, trainers

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
VOCAB_SIZE = 3000

with open(os.path.join(FOLDER, "train.txt"), encoding="utf-8", newline="") as file:
    lines = file.read().split("\n")
lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
tokenizer = Tokenizer(models.BPE())
split = pre.Split(Regex(PATTERN), "isolated")
tokenizer.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
alphabet = pre.ByteLevel.alphabet()
tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, show_progress=False, initial_alphabet=alphabet))
merges = json.loads(tokenizer.to_str())["model"]["merges"]
with open(os.path.join(FOLDER, "trained.json"), "w") as file:
    json.dump({"vocab_size": VOCAB_SIZE, "merges": merges}, file, ensure_ascii=False)
