#!/usr/bin/env python3
"""Teach a real model to call tools, and let it work with them: calculations, Python, and both one after the other.

usage: scripts/check-agent.py --herd target/release/herd -m MODEL [--tuned CHECKPOINT] [--rows 600] [--steps 40] [--questions 60]

Dialogues with calls and results are made up by a seed, in the words in which `herd agent` tells MODEL of its tools (taken from `--export`), and
learnt with `herd sft`; --tuned leaves that out. Then questions with other numbers are asked of the tuned model and of MODEL itself, greedily, through
`herd agent --tools calc,python`, each run recorded and then replayed. Prints a table: answers that hold the right number, runs whose calls are the
expected ones, replays that came out the same. Ends with code 1 where a replay differs or the tuned model is right less often than two times in three.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from common import herd_flag

WORDS = """apple river window yellow garden music silver orange planet forest bridge castle winter summer market doctor letter
number circle square engine rocket flower mirror pencil basket candle island jungle kitten ladder meadow needle""".split()
GREETINGS = [("Hello!", "Hello! What shall we work on?"), ("Good morning.", "Good morning! How can I help?"),
             ("Thank you!", "You are welcome."), ("Who are you?", "An assistant that calculates and programs for you.")]


def calc(query):
    return "calc", {"query": query}


def python(code):
    return "python", {"code": code}


def product(draw):
    a, b = draw.randint(12, 99), draw.randint(12, 99)
    words = draw.choice(["What is {a} times {b}?", "Multiply {a} by {b}.", "Please calculate {a} * {b}."])
    return words.format(a=a, b=b), [(calc(f"{a} * {b}"), a * b)], f"{a} times {b} is {a * b}."


def total(draw):
    a, b, c = (draw.randint(100, 999) for _ in range(3))
    words = draw.choice(["What is {a} + {b} + {c}?", "Add {a}, {b} and {c}."])
    return words.format(a=a, b=b, c=c), [(calc(f"{a} + {b} + {c}"), a + b + c)], f"The sum is {a + b + c}."


def chain(draw):
    a, b, c = draw.randint(12, 99), draw.randint(12, 99), draw.randint(100, 999)
    words = draw.choice(["Multiply {a} by {b}, then add {c} to the result.", "First calculate {a} * {b}. Then add {c}."])
    steps = [(calc(f"{a} * {b}"), a * b), (calc(f"{a * b} + {c}"), a * b + c)]
    return words.format(a=a, b=b, c=c), steps, f"The result is {a * b + c}."


def letters(draw):
    word = draw.choice(WORDS)
    words = draw.choice(['How many letters has the word "{w}"?', 'Count the letters of "{w}".'])
    return words.format(w=word), [(python(f'print(len("{word}"))'), len(word))], f'"{word}" has {len(word)} letters.'


def multiples(draw):
    n, d = draw.randint(50, 400), draw.randint(3, 9)
    count = n // d
    words = draw.choice(["How many numbers from 1 to {n} can be divided by {d}?", "Of the numbers 1 to {n}, how many are multiples of {d}?"])
    code = f"print(sum(1 for i in range(1, {n + 1}) if i % {d} == 0))"
    return words.format(n=n, d=d), [(python(code), count)], f"{count} of them."


def both(draw):
    word, b = draw.choice(WORDS), draw.randint(12, 99)
    words = draw.choice(['Count the letters of "{w}" with Python, then multiply the count by {b}.',
                         'How many letters has "{w}"? Count with Python and multiply by {b}.'])
    steps = [(python(f'print(len("{word}"))'), len(word)), (calc(f"{len(word)} * {b}"), len(word) * b)]
    return words.format(w=word, b=b), steps, f"The result is {len(word) * b}."


def kept(draw):
    a, b = draw.randint(100, 999), draw.randint(12, 99)
    words = draw.choice(["In Python set x to {a}. Then, in another call, print x * {b}.", "Let x be {a} in Python, and in a second call print x * {b}."])
    steps = [(python(f"x = {a}"), "(nothing was printed)"), (python(f"print(x * {b})"), a * b)]
    return words.format(a=a, b=b), steps, f"It printed {a * b}."


KINDS = {"a product": product, "a sum": total, "a product, then a sum": chain, "letters, by Python": letters,
         "multiples, by Python": multiples, "letters by Python, then a product": both, "names kept between two calls": kept}


def row(system, question, steps, answer):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    for (name, arguments), result in steps:
        call = {"type": "function", "name": name, "parameters": arguments}
        messages.append({"role": "assistant", "content": json.dumps(call, separators=(",", ":"))})
        messages.append({"role": "user", "content": f"Result of {name}:\n{result}"})
    messages.append({"role": "assistant", "content": answer})
    return json.dumps({"messages": messages})


class Work:
    def __init__(self, herd, folder):
        self.herd, self.folder = herd, folder

    def run(self, *args, ok=(0,)):
        done = subprocess.run([self.herd, *map(str, args)], capture_output=True, text=True)
        if done.returncode not in ok:
            sys.exit(f"herd {args[0]} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def agent(self, model, record, *more, ok=(0,)):
        return self.run("agent", "-m", model, "--tools", "calc,python", "--temperature", 0, "--seed", 1, "-n", 400, "--record", record, *more, ok=ok)

    def system(self, model):
        """How `herd agent` tells the model of its tools."""
        rows = self.folder / "told.jsonl"
        self.agent(model, self.folder / "told.sqlite", "-p", "Hello!", "--export", rows, "--max-steps", 1)
        return json.loads(rows.read_text().splitlines()[0])["messages"][0]["content"]

    def tune(self, model, rows, steps):
        (self.folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
        (self.folder / "sft.toml").write_text(f"""
model.init = "{Path(model).resolve()}"
data = {{ input = ["rows.jsonl"], validation_share = 0.05 }}
batch = {{ tokens = 2048, seq_len = 1024, micro_tokens = 2048 }}
optim = {{ steps = {steps}, lr = 2e-4, warmup_steps = 3, decay = "linear" }}
validation.every = 0
samples.every = 0
""")
        self.run("sft", "--config", self.folder / "sft.toml", "--out", self.folder / "tuned")
        return self.folder / "tuned" / "checkpoints" / f"step-{steps}"

    def ask(self, model, record, run, question):
        """Calls that were made, the last text, and whether the run's replay is the run."""
        done = self.agent(model, record, "-p", question, "--json", ok=(0, 1))
        events = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
        calls = [event for event in events if event["type"] == "call"]
        last = max((i for i, event in enumerate(events) if event["type"] == "result"), default=-1)
        text = "".join(event["text"] for event in events[last + 1:] if event["type"] == "text")
        replay = self.run("agent", "-m", model, "--record", record, "--replay", run, ok=(0, 1))
        return calls, text, replay.returncode == 0


def measure(work, name, model, asked):
    record = work.folder / f"{name}.sqlite"
    counts = {kind: [0, 0, 0, 0] for kind in KINDS}
    for run, (kind, (question, steps, answer)) in enumerate(asked, 1):
        calls, text, same = work.ask(model, record, run, question)
        made = [(call.get("name"), call.get("arguments")) for call in calls]
        right = str(steps[-1][1]) in text.replace(",", "")
        for i, held in enumerate([True, right, made == [call for call, _ in steps], same]):
            counts[kind][i] += held
    print(f"\n| {name} | questions | right | calls as expected | replayed alike |\n|---|---|---|---|---|")
    for kind, (n, *held) in counts.items():
        print(f"| {kind} | {n} | " + " | ".join(map(str, held)) + " |")
    sums = [sum(column) for column in zip(*counts.values())]
    print("| all | " + " | ".join(map(str, sums)) + " |", flush=True)
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    herd_flag(parser)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--tuned")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--questions", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(args.herd, Path(folder))
        draw = random.Random(1)
        make = list(KINDS.values())
        made = [make[i % len(make)](draw) for i in range(args.rows)]
        seen = {question for question, _, _ in made}
        tuned = args.tuned
        if not tuned:
            system = work.system(args.model)
            rows = [row(system, *one) for one in made] + [row(system, q, [], a) for q, a in GREETINGS * 5]
            draw.shuffle(rows)
            tuned = work.tune(args.model, rows, args.steps)
        asked = []
        while len(asked) < args.questions:
            kind = list(KINDS)[len(asked) % len(KINDS)]
            one = KINDS[kind](draw)
            if one[0] not in seen or kind == "letters, by Python":
                asked.append((kind, one))
        measure(work, "the model itself", args.model, asked[: len(KINDS)])
        n, right, _, same = measure(work, "tuned", tuned, asked)
        sys.exit(same < n or 3 * right < 2 * n)


if __name__ == "__main__":
    main()
