#!/usr/bin/env python3
"""Write examples/comparisons.jsonl: 400 short comparisons of answers in our own words, the same ones every time.

usage: scripts/make-comparisons.py [OUT]

The questions are those of make-dialogues.py. A whole sentence is better than a bare word, a right answer better than a wrong one,
a friendly word better than a rude one; a fifth have an edited answer that is better still. Some are only slightly better, and some
compare an answer with itself: `herd dpo` leaves both out and counts them.
"""
import importlib.util
import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "examples/comparisons.jsonl"
STRENGTHS = ["significantly_better"] * 4 + ["better"] * 5 + ["slightly_better"]
RUDE = ["Ask somebody else.", "That is a stupid question.", "I do not care.", "Find out yourself.", "No."]
KIND = ["I am glad to help.", "Ask me more if you like.", "It is a good question."]


def dialogues():
    """make-dialogues.py as a module, without its main."""
    path = HERE / "make-dialogues.py"
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("dialogues", loader=None))
    module.__file__ = str(path)
    exec(path.read_text().rpartition("main()")[0], module.__dict__)
    return module


def comparison(draw, words):
    kind = draw.choice([words.addition, words.opposite, words.order, words.capital])
    ask, brief, whole = kind(draw)
    worse = draw.choice(["brief", "wrong", "rude", "rude"])
    if worse == "brief":
        rejected = brief.capitalize() + "."
    elif worse == "rude":
        rejected = draw.choice(RUDE)
    else:
        rejected = next(other for _, _, other in iter(lambda: kind(draw), None) if other != whole)
    row = {"prompt": ask, "chosen": whole, "rejected": rejected, "strength": draw.choice(STRENGTHS)}
    if draw.random() < 0.2:
        row["edited"] = f"{whole} {draw.choice(KIND)}"
    elif draw.random() < 0.05:
        row["rejected"] = whole
    return row


def main():
    draw, words, lines = random.Random(2), dialogues(), {}
    while len(lines) < 400:
        lines[json.dumps(comparison(draw, words))] = None
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text("".join(line + "\n" for line in lines))


main()
