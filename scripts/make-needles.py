#!/usr/bin/env python3
"""Makes documents that hide sentences ("needles") in text and say them again at the end, in another order.

    scripts/make-needles.py [--hay TEXT..] --documents N [--chars MIN MAX] [--needles MIN MAX] [--rounds N]
                            [--digits D] [--sentence S] [--questions Q] [--seed S] -o OUT.jsonl

The same arguments give the same bytes. The default sentence is that of the needle measure of `herd extend-context`
(docs/training.md), whose question is the sentence up to the value; keys are drawn without repetition within a document.
With --questions nothing is said again: rows of the task `needle` (docs/evaluation.md) ask for Q of the values, and the
lengths of documents are ten, evenly spaced from MIN to MAX.
"""

import argparse
import json
import random

KEYS = "Paris London Berlin Rome Madrid Vienna Oslo Cairo Lima Tokyo".split()
SENTENCE = "\nThe secret number of {key} is {value}.\n"


def document(draw, hay, chars, needles, flags):
    least = 10 ** (flags.digits - 1)
    hidden = [(key, draw.randrange(least, 10 * least)) for key in draw.sample(KEYS, needles)]
    said = [flags.sentence.format(key=key, value=value) for key, value in hidden]
    start = draw.randrange(max(len(hay), 1))
    text = (hay[start:] + hay)[:chars]
    parts, last = [], 0
    for sentence, cut in zip(said, sorted(draw.randrange(len(text) + 1) for _ in said)):
        parts += [text[last:cut], sentence]
        last = cut
    parts.append(text[last:])
    for _ in range(flags.rounds):
        draw.shuffle(said)
        parts += said
    return "".join(parts), hidden


def asked(draw, text, hidden, chars, flags):
    """A row that asks for some of what is hidden."""
    wanted = draw.sample(hidden, flags.questions)
    keys = " and ".join(key for key, _ in wanted)
    question = f"Question: what are the secret numbers of {keys}?\nAnswer:"
    return {"text": text, "question": question, "values": [str(value) for _, value in wanted], "length": chars}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hay", nargs="+", default=[], help="files of plain text")
    parser.add_argument("--documents", type=int, required=True)
    parser.add_argument("--chars", type=int, nargs=2, default=[0, 0], help="of hay in a document, at least and at most")
    parser.add_argument("--needles", type=int, nargs=2, default=[1, 1], help="in a document, at least and at most; up to 10")
    parser.add_argument("--rounds", type=int, default=1, help="how often all are said again")
    parser.add_argument("--digits", type=int, default=4, help="of a value")
    parser.add_argument("--sentence", default=SENTENCE, help="with {key} and {value}")
    parser.add_argument("--questions", type=int, default=0, help="values that are asked for, in rows to be measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--out", required=True)
    flags = parser.parse_args()
    flags.rounds = 0 if flags.questions else flags.rounds
    flags.sentence = flags.sentence.replace("\\n", "\n")
    hay = "\n".join(open(path, encoding="utf-8").read() for path in flags.hay)
    hay = (hay * (flags.chars[1] // max(len(hay), 1) + 1)).replace("\r", "")
    draw = random.Random(flags.seed)
    with open(flags.out, "w", encoding="utf-8") as out:
        for i in range(flags.documents):
            chars, needles = draw.randint(*flags.chars), draw.randint(*flags.needles)
            if flags.questions:
                chars = flags.chars[0] + (flags.chars[1] - flags.chars[0]) * (i % 10) // 9
            text, hidden = document(draw, hay, chars, needles, flags)
            row = asked(draw, text, hidden, chars, flags) if flags.questions else {"text": text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
