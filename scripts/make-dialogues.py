#!/usr/bin/env python3
"""Write examples/dialogues.jsonl: 360 short dialogues in our own words, the same ones every time.

usage: scripts/make-dialogues.py [OUT]

They ask for what a model of a million parameters can learn in a minute: small sums, opposites, what comes next, capitals, what is said
politely. A third go on for a second or third turn, some begin with a system message, and some have an answer that is context
alone (`"weight": 0`).
"""
import json
import random
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "examples/dialogues.jsonl"
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen".split()
OPPOSITES = """hot cold, long short, day night, war peace, rich poor, strong weak, first last, north south, old new, near far, high low,
true false, open closed, full empty, friend enemy, begin end, rise fall, give take, more less, early late""".replace("\n", " ").split(",")
ORDERS = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
    "number": NUMBERS[1:13],
}
CAPITALS = """France Paris, Italy Rome, Spain Madrid, Mexico Mexico City, Japan Tokyo, Russia Moscow, Germany Berlin, England London,
Canada Ottawa, Cuba Havana, Egypt Cairo, Greece Athens, Peru Lima, Norway Oslo, China Beijing""".replace("\n", " ").split(",")
SMALL_TALK = [
    ("Hello.", "Hello. What can I do for you?"),
    ("Good morning.", "Good morning. How can I help you today?"),
    ("Thank you.", "You are welcome."),
    ("Who are you?", "I am a small model that was trained on the addresses of presidents."),
    ("Do you know everything?", "No. I know very little, and I say so when I do not know."),
    ("Goodbye.", "Goodbye, and good luck."),
    ("What do you read?", "I have read the addresses of the presidents to the Congress."),
    ("Can you keep a secret?", "I forget every talk when it is over, so yes."),
]
SYSTEMS = ["Answer in few words.", "You are a patient teacher.", "You help the people of the United States."]
SHORT = SYSTEMS[0]


def addition(draw):
    a, b = draw.randrange(10), draw.randrange(10)
    ask = draw.choice([f"What is {NUMBERS[a]} and {NUMBERS[b]}?", f"Add {NUMBERS[a]} and {NUMBERS[b]}."])
    return ask, NUMBERS[a + b], f"{NUMBERS[a].capitalize()} and {NUMBERS[b]} make {NUMBERS[a + b]}."


def opposite(draw):
    pair = draw.choice(OPPOSITES).split()
    draw.shuffle(pair)
    ask = draw.choice([f"What is the opposite of {pair[0]}?", f"Which word means the reverse of {pair[0]}?"])
    return ask, pair[1], f"The opposite of {pair[0]} is {pair[1]}."


def order(draw):
    kind, names = draw.choice(list(ORDERS.items()))
    at = draw.randrange(len(names) - 1)
    if draw.random() < 0.5:
        return f"Which {kind} comes after {names[at]}?", names[at + 1], f"After {names[at]} comes {names[at + 1]}."
    return f"Which {kind} comes before {names[at + 1]}?", names[at], f"Before {names[at + 1]} comes {names[at]}."


def capital(draw):
    country, city = draw.choice(CAPITALS).strip().split(" ", 1)
    ask = draw.choice([f"What is the capital of {country}?", f"Name the capital of {country}."])
    return ask, city, f"The capital of {country} is {city}."


def talk(draw):
    ask, answer = draw.choice(SMALL_TALK)
    return ask, answer, answer


def dialogue(draw):
    system = draw.choice([None] * 5 + SYSTEMS)
    messages = [{"role": "system", "content": system}] if system else []
    turns = draw.choice([1, 1, 1, 1, 2, 3])
    for turn in range(turns):
        kind = draw.choice([addition, opposite, order, capital, talk])
        ask, brief, whole = kind(draw)
        messages.append({"role": "user", "content": ask})
        messages.append({"role": "assistant", "content": brief.capitalize() if system == SHORT else whole})
        if turn + 1 < turns and draw.random() < 0.2:
            messages[-1]["weight"] = 0
    return {"messages": messages}


def main():
    draw, lines = random.Random(1), {}
    while len(lines) < 360:
        lines[json.dumps(dialogue(draw))] = None
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text("".join(line + "\n" for line in lines))


main()
