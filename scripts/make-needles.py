#!/usr/bin/env python3
"""Makes documents that hide sentences ("needles") in text and ask for them at the end.

    scripts/make-needles.py --hay TEXT.. --documents N --chars MIN MAX [--needles K] [--digits D]
                            [--seed S] -o OUT.jsonl

The same arguments give the same bytes. The sentences are those of the needle measure of
`herd extend-context` (docs/training.md); keys are drawn without repetition within a document.
"""

import argparse
import json
import random

KEYS = "Paris London Berlin Rome Madrid Vienna Oslo Cairo Lima Tokyo".split()
SENTENCE = "\nThe secret number of {} is {}.\n"
QUESTION = "\nThe secret number of {} is {}"


def document(draw, hay, chars, needles, digits):
    keys = draw.sample(KEYS, needles)
    values = [draw.randrange(10 ** (digits - 1), 10**digits) for _ in keys]
    start = draw.randrange(len(hay))
    text = (hay[start:] + hay)[:chars]
    cuts = sorted(draw.randrange(len(text) + 1) for _ in keys)
    parts, last = [], 0
    for key, value, cut in zip(keys, values, cuts):
        parts += [text[last:cut], SENTENCE.format(key, value)]
        last = cut
    parts.append(text[last:])
    asked = list(zip(keys, values))
    draw.shuffle(asked)
    parts += [QUESTION.format(key, value) for key, value in asked]
    return "".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hay", nargs="+", required=True, help="files of plain text")
    parser.add_argument("--documents", type=int, required=True)
    parser.add_argument("--chars", type=int, nargs=2, required=True, help="of hay in a document")
    parser.add_argument("--needles", type=int, default=1, help="in a document, at most 10")
    parser.add_argument("--digits", type=int, default=4, help="of a value")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--out", required=True)
    flags = parser.parse_args()
    hay = "\n".join(open(path, encoding="utf-8").read() for path in flags.hay)
    hay = (hay * (flags.chars[1] // max(len(hay), 1) + 1)).replace("\r", "")
    draw = random.Random(flags.seed)
    with open(flags.out, "w", encoding="utf-8") as out:
        for _ in range(flags.documents):
            chars = draw.randint(*flags.chars)
            text = document(draw, hay, chars, flags.needles, flags.digits)
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
