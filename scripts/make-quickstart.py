#!/usr/bin/env python3
"""Write examples/quickstart/: what `herd quickstart` aligns its model with, in our own words, the same every time.

usage: scripts/make-quickstart.py [FOLDER]

Facts are those of make-dialogues.py: small sums, opposites, what comes next, capitals. Each can be asked for in four wordings; one of
these is held out.

dialogues.jsonl     people's answers to six of ten facts
comparisons.jsonl   of the same: a whole sentence before a bare word, a wrong answer or a rude one
prompts.jsonl       all facts without an answer, and the word that a right one has: for samples and what checks them
questions.jsonl     the wordings held out
held.jsonl          comparisons of answers to these
"""
import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "examples/quickstart"
ASK = {
    "sum": ["What is {} and {}?", "Add {} and {}.", "How much is {} plus {}?", "Give me the sum of {} and {}."],
    "opposite": ["What is the opposite of {}?", "Which word means the reverse of {}?", "Name the opposite of {}.", "What is not {}?"],
    "after": ["Which {} comes after {}?", "What {} follows {}?", "Name the {} after {}.", "Tell me the {} that is next after {}."],
    "before": ["Which {} comes before {}?", "What {} goes before {}?", "Name the {} before {}.", "Tell me the {} that is just before {}."],
    "capital": ["What is the capital of {}?", "Name the capital of {}.", "Which city is the capital of {}?", "Tell me the capital of {}."],
}
RUDE = ["Ask somebody else.", "That is a stupid question.", "I do not care.", "Find out yourself.", "No."]
SYSTEM = "You help the people of the United States."


def words():
    """make-dialogues.py as a module, without its main."""
    module = {"__name__": "words", "__file__": str(HERE / "make-dialogues.py")}
    exec((HERE / "make-dialogues.py").read_text().rpartition("main()")[0], module)
    return module


def facts(w):
    """Kind, what is asked of, the word of the answer, the whole answer."""
    name = w["NUMBERS"]
    for a in range(10):
        for b in range(10):
            yield "sum", (name[a], name[b]), name[a + b], f"{name[a].capitalize()} and {name[b]} make {name[a + b]}."
    for pair in w["OPPOSITES"]:
        for one, other in [pair.split(), pair.split()[::-1]]:
            yield "opposite", (one,), other, f"The opposite of {one} is {other}."
    for kind, names in w["ORDERS"].items():
        for one, other in zip(names, names[1:]):
            yield "after", (kind, one), other, f"After {one} comes {other}."
            yield "before", (kind, other), one, f"Before {other} comes {one}."
    for pair in w["CAPITALS"]:
        country, city = pair.strip().split(" ", 1)
        yield "capital", (country,), city, f"The capital of {country} is {city}."


def wrong(draw, all_facts, kind, whole):
    return draw.choice([other for other_kind, _, _, other in all_facts if other_kind == kind and other != whole])


def comparison(draw, all_facts, ask, kind, word, whole):
    worse = draw.choice(["brief", "wrong", "wrong", "rude", "rude"])
    rejected = {"brief": word.capitalize() + ".", "wrong": wrong(draw, all_facts, kind, whole), "rude": draw.choice(RUDE)}[worse]
    strength = draw.choice(["better", "significantly_better"])
    return {"prompt": ask, "chosen": whole, "rejected": rejected, "strength": strength}


def main():
    draw, w = random.Random(3), words()
    all_facts = list(facts(w))
    files = {name: [] for name in ["dialogues", "comparisons", "prompts", "questions", "held"]}
    for kind, of, word, whole in all_facts:
        asks = [wording.format(*of) for wording in ASK[kind]]
        held = asks.pop(draw.randrange(len(asks)))
        files["questions"].append({"prompt": held, "answer": word, "kind": kind})
        files["held"].append(comparison(draw, all_facts, held, kind, word, whole))
        files["prompts"].append({"prompt": asks[0], "answer": word})
        if draw.random() < 0.4:
            files["prompts"].append({"prompt": asks[1], "answer": word})
            continue
        for ask in asks:
            files["dialogues"].append([(ask, whole)])
        for ask in asks[:2]:
            files["comparisons"].append(comparison(draw, all_facts, ask, kind, word, whole))
    files["dialogues"] += [[talk] for talk in w["SMALL_TALK"]] * 3
    for name in files:
        draw.shuffle(files[name])
    # Some dialogues go on, and some have a system message.
    turns, rows = iter(files["dialogues"]), []
    for turn in turns:
        turn = turn + (next(turns, []) if draw.random() < 0.2 else [])
        messages = [{"role": "system", "content": SYSTEM}] if draw.random() < 0.2 else []
        for ask, whole in turn:
            messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": whole}]
        rows.append({"messages": messages})
    files["dialogues"] = rows
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


main()
