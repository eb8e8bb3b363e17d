#!/usr/bin/env python3
"""Break every verb of training and run it again: it must end with the bytes of a run that nothing disturbed.

usage: scripts/check-unbreakable.py --herd target/release/herd [--kills 200] [--every 1] [--verbs NAME,..] [--seed 1]        (needs: cc)

First each verb is killed (SIGKILL) at --kills random moments, one in twenty of them within a millisecond of its start. `synth` and `select` ask a
small checkpoint, and a writer on 127.0.0.1 that this script is. Then it runs on a disk that fails (crates/herd/tests/common/faulty_disk.c): the
power is cut after each step that it makes on the disk (every --every-th), in three ways, and the disk is full after as many bytes;
mostly twice in a row. Prints a line a verb, and ends with code 1 if one was broken.
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import REPOSITORY, herd_flag

# What has to do with clocks.
TIMED = {"stats.json", "speed.jsonl", "events", "report", "report.md", "report.html", "times.json", ".lock"}
# Verbs that run others take long, so that they are killed more often on one way.
LONG = {"round", "quickstart"}
CUT = 137

SETTINGS = """
tokenizer = "words"
[data]
input = ["docs.jsonl"]
validation_share = 0.3
[model]
{model}
[batch]
tokens = 256
seq_len = 64
micro_tokens = 128
[optim]
steps = 12
{optim}
[checkpoint]
every = 3
keep_last = 2
keep_every = 6
[validation]
every = 5
[samples]
every = 6
tokens = 8
"""
NEW = "layers = 1\nwidth = 32\nheads = 2\nkv_heads = 1\nffn_width = 64"
OLD = 'init = "base/checkpoints/step-12"'
LORA = '[model.lora]\nrank = 4\nalpha = 8\ntargets = ["q", "down"]\n'
LONGER = """
[context]
loss_tolerance = 10
needle_rate = 0
[context.needle]
sentence = "{key}{value}"
question = "{key}"
digits = 1
depths = [0, 1]
samples = 1
[[context.stage]]
seq_len = 128
rope_theta = 30000
steps = 4
[[context.stage]]
seq_len = 256
rope_theta = 60000
steps = 4
"""
CHAT = SETTINGS.replace("docs.jsonl\"]", "chats.jsonl\"]\nlong = \"shorten\"").replace("seq_len = 64", "seq_len = 128")
CHAT += '[chat]\ntemplate = "llama3"\n'
PAIRS = CHAT.replace("chats.jsonl", "pairs.jsonl").replace("shorten", "drop").replace("seq_len = 128", "seq_len = 256")
PAIRS = PAIRS.replace("tokens = 256\n", "tokens = 512\n") + "[dpo]\n"
REWARD = PAIRS.replace("[samples]\nevery = 6\ntokens = 8\n", "").replace("[dpo]", "[reward]")
RULES = """
[[score]]
kind = "regex"
pattern = "e"
[[score]]
kind = "length"
words = [1, 6]
weight = 0.5
"""
SAMPLE = """
input = ["chats.jsonl"]
[sample]
k = 3
policies = ["base/checkpoints/step-12"]
temperature = [0.5, 1.2]
max_tokens = 12
context = 64
system = ["brief", "kind"]
unfinished = "keep"
[chat]
template = "llama3"
""" + RULES
GRPO = CHAT.replace("shorten", "drop").replace("tokens = 256\n", "").replace("micro_tokens = 128", "micro_tokens = 256")
GRPO = GRPO.replace("[samples]\nevery = 6\ntokens = 8\n", "") + RULES + """
[rollout]
prompts = 4
max_tokens = 12
parallel = 6
[grpo]
num_generations = 3
num_iterations = 2
steps_per_generation = 2
beta = 0.05
"""
PPO = GRPO[:GRPO.index("[grpo]")] + """
[ppo]
num_ppo_epochs = 2
num_mini_batches = 2
"""
TEACHER = 'teacher = "large/checkpoints/step-12"\nk = 8\n'
TEXT_TAUGHT = SETTINGS + f'[distill]\nlearn = "text"\n{TEACHER}'
ANSWERS_TAUGHT = CHAT + f'[distill]\ntemperature = 2.0\nrest = "drop"\n{TEACHER}'
SAMPLES_TAUGHT = """
[distill]
from = "samples"
teacher = "large/checkpoints/step-12"
sample = { max_tokens = 12, context = 64, k = 2, unfinished = "keep" }
score = [{ kind = "regex", pattern = "e" }]
"""
LOCAL = """
[writer]
model = "base/checkpoints/step-12"
[sample]
max_tokens = 8
context = 64
parallel = 4
[chat]
template = "llama3"
"""
SYNTH = 'input = ["chats.jsonl"]\nitems_max = 12\n' + LOCAL + """
[prompts]
solve = "{{ problem }}"
[maths]
answer = "number"
k = [1, 3]
verify = false
"""
SELECT = 'input = ["chats.jsonl"]\n' + LOCAL + """
[prompts]
general = "{{ dialogue[:40] }}"
[clean]
[quality]
judge = true
reward_model = "judge/checkpoints/step-12"
[dedup]
model = "base/checkpoints/step-12"
cosine_max = 0.8
[phrases]
find_share = 0.2
"""
ENDPOINT = """
[writer]
model = "scripted"
base_url = "{url}"
pause_ms = 1
[sample]
parallel = 3
"""
SYNTH_CODE = 'input = ["snippets.jsonl"]\ncopies = 2\n' + ENDPOINT + "[code]\nturns = 1\n"
SELECT_TAGS = 'input = ["chats.jsonl"]\n' + ENDPOINT + "[clean]\n[tags]\n[quality]\n[phrases]\nfind_share = 0.2\n"
STAGE = 'optim = { steps = 2, lr = 1e-3, warmup_steps = 0 }\nbatch = { tokens = 256, seq_len = 128, micro_tokens = 256 }\ndata.long = "drop"\n'
ROUND = """
tokenizer = "words"
base = "base/checkpoints/step-12"
policy = "base/checkpoints/step-12"
prompts = ["few.jsonl"]
held = ["held.jsonl"]
dialogues = ["few.jsonl"]
start = "policy"
rounds = 2
[chat]
template = "llama3"
[collect]
max_tokens = 8
context = 64
unfinished = "keep"
[[collect.score]]
kind = "regex"
pattern = "[aeiou].*[aeiou]"
[gate]
k = 2
min_gain = -1.0
[stages.sample.sample]
k = 2
""" + "".join(f"[stages.{stage}]\n{STAGE}" for stage in ("reward", "sft", "dpo"))
CONFIGS = {
    "sample.toml": SAMPLE,
    "round.toml": ROUND,
    "run.toml": SETTINGS.format(model=NEW, optim="warmup_steps = 3"),
    "lora.toml": SETTINGS.format(model=OLD, optim="warmup_steps = 3") + LORA,
    "anneal.toml": SETTINGS.format(model=OLD, optim=""),
    "sft.toml": CHAT.format(model=OLD, optim="warmup_steps = 3"),
    "sft-lora.toml": CHAT.format(model=OLD, optim="warmup_steps = 3") + LORA,
    "dpo.toml": PAIRS.format(model=OLD, optim="warmup_steps = 3\nlr = 1e-3"),
    "reward.toml": REWARD.format(model=OLD, optim="warmup_steps = 3\nlr = 1e-3"),
    "reward-lora.toml": REWARD.format(model=OLD, optim="warmup_steps = 3\nlr = 1e-3") + LORA,
    "ppo.toml": PPO.format(model=OLD, optim="warmup_steps = 3\nlr = 1e-3"),
    "ppo-lora.toml": PPO.format(model=OLD, optim="warmup_steps = 3\nlr = 1e-3") + LORA,
    "grpo.toml": GRPO.format(model=OLD, optim="warmup_steps = 3\nlr = 1e-3"),
    "grpo-lora.toml": GRPO.format(model=OLD, optim="warmup_steps = 3\nlr = 1e-3") + LORA,
    "distill.toml": TEXT_TAUGHT.format(model=NEW, optim="warmup_steps = 3"),
    "distill-answers.toml": ANSWERS_TAUGHT.format(model=OLD, optim="warmup_steps = 3") + LORA,
    "distill-samples.toml": CHAT.format(model=OLD, optim="warmup_steps = 3") + SAMPLES_TAUGHT,
    "synth.toml": SYNTH,
    "synth-code.toml": SYNTH_CODE,
    "select.toml": SELECT,
    "select-tags.toml": SELECT_TAGS,
    "longer.toml": SETTINGS.format(model=OLD, optim="warmup_steps = 3") + LONGER,
}
TRAIN = "tokenizer train -i docs.jsonl --vocab-size 400 --specials 16 -t 1 -o"
MEAN = [f"base/checkpoints/step-{step}" for step in (6, 9, 12)]
# How each verb is called; OUT is where its result goes. Of those that never write over what is there, a whole result is not made again.
VERBS = {
    "tokenizer train": (f"{TRAIN} OUT", True),
    "tokenizer extend": ("tokenizer extend --base words -i docs.jsonl --add 40 -t 1 -o OUT", True),
    "data tokenize": ("data tokenize --tokenizer words --input docs.jsonl --shard-tokens 3000 -t 1 -o OUT", False),
    "pretrain": ("pretrain --config run.toml -t 1 --out OUT", False),
    "pretrain with LoRA": ("pretrain --config lora.toml -t 1 --out OUT", False),
    "extend-context": ("extend-context --config longer.toml -t 1 --out OUT", False),
    "anneal": ("anneal --config anneal.toml -t 1 --out OUT", False),
    "sft": ("sft --config sft.toml -t 1 --out OUT", False),
    "sft with LoRA": ("sft --config sft-lora.toml -t 1 --out OUT", False),
    "dpo": ("dpo --config dpo.toml -t 1 --out OUT", False),
    "reward": ("reward --config reward.toml -t 1 --out OUT", False),
    "reward with LoRA": ("reward --config reward-lora.toml -t 1 --out OUT", False),
    "ppo": ("ppo --config ppo.toml -t 1 --out OUT", False),
    "ppo with LoRA": ("ppo --config ppo-lora.toml -t 1 --out OUT", False),
    "grpo": ("grpo --config grpo.toml -t 1 --out OUT", False),
    "grpo with LoRA": ("grpo --config grpo-lora.toml -t 1 --out OUT", False),
    "distill": ("distill --config distill.toml -t 1 --out OUT", False),
    "distill from answers": ("distill --config distill-answers.toml -t 1 --out OUT", False),
    "distill from samples": ("distill --config distill-samples.toml -t 1 --out OUT", False),
    "synth": ("synth maths --config synth.toml -t 1 --out OUT/rows.jsonl", False),
    "synth by an endpoint": ("synth code --config synth-code.toml -t 1 --out OUT/rows.jsonl", False),
    "select": ("select --config select.toml -t 1 --out OUT/rows.jsonl", False),
    "select by an endpoint": ("select --config select-tags.toml -t 1 --out OUT/rows.jsonl", False),
    "sample": ("sample --config sample.toml -t 1 --out OUT/samples.jsonl", False),
    "round": ("round --config round.toml -t 1 --out OUT", False),
    "quickstart": ("quickstart --size smoke -t 1 --out OUT", False),
    "average": (f"average {' '.join(MEAN)} -o OUT", True),
}


def dialogues(text):
    """A dialogue a section: what it is about, and its first words; every third goes on with the next words."""
    say = lambda role, words: {"role": role, "content": words}
    for number, part in enumerate(text.split("\n## ")):
        head, _, body = part.partition("\n")
        words = body.split()[:20]
        if len(words) == 20:
            messages = [say("user", head), say("assistant", " ".join(words[:8]))]
            if number % 3 == 0:
                messages += [say("user", "And then?"), say("assistant", " ".join(words[8:]))]
            yield json.dumps({"messages": messages})


def comparisons(text):
    """A comparison a section: its first words are better than its next ones; every fifth has a third answer."""
    for number, part in enumerate(text.split("\n## ")):
        head, _, body = part.partition("\n")
        words = body.split()[:15]
        if len(words) == 15:
            row = {"prompt": head, "chosen": " ".join(words[:8]), "rejected": " ".join(words[8:])}
            yield json.dumps(row | ({"edited": " ".join(words[:5])} if number % 5 == 0 else {}))


ADD = "def add(a, b):\n    \"\"\"The sum.\"\"\"\n    return a + b"
WAYS = ["right", "wrong", "stubborn", "syntax", "idle", "mute"]


def scripted(prompt, seed):
    """What the writer says: programs, their faults and tests as the snippet's <way> has it; else marks and topics by chance."""
    python = lambda code: f"Here it is.\n```python\n{code}\n```\n"
    way = next((way for way in WAYS if f"<{way}>" in prompt), None)
    chance = hashlib.sha256(f"{seed} {prompt}".encode()).digest()[0]
    if way is None:
        return f"Topic: {['coding', 'science', 'Sciense'][chance % 3]}\nIntentions: learn, explain\nScore: {1 + chance % 3}"
    if "Invent a small" in prompt:
        return f"Write add(a, b). Way: <{way}> {chance}"
    if "Say in a sentence what is at fault" in prompt:
        return {"stubborn": python(ADD.replace("+", "-")), "mute": "I give up."}.get(way, python(ADD))
    if "Write unit tests" in prompt:
        return python("assert 1 + 1 == 2" if way == "idle" else "assert add(1, 2) == 3\nassert add(-1, 1) == 0")
    return python({"syntax": ADD.replace("):", ":"), "right": ADD, "idle": ADD}.get(way, ADD.replace("+", "-")))


class Writer(BaseHTTPRequestHandler):
    """Answers in OpenAI's manner; hangs up on one question in eight the first time that it is asked."""

    seen = set()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = scripted(asked["messages"][-1]["content"], asked.get("seed"))
        key = json.dumps(asked, sort_keys=True)
        if hash(key) % 8 == 0 and key not in self.seen:
            self.seen.add(key)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Endpoint(ThreadingHTTPServer):
    def handle_error(self, *_):
        """Who asked was killed."""


class Bench:
    """A folder to run in, and the program."""

    def __init__(self, herd, folder, seed):
        self.herd, self.folder, self.random = herd, folder, random.Random(seed)
        self.disk = folder / "disk.so"
        source = REPOSITORY / "crates/herd/tests/common/faulty_disk.c"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", self.disk, source, "-ldl", "-lpthread"], check=True)
        self.root = folder / "root"
        self.root.mkdir()
        text = "".join(page.read_text() for page in sorted((REPOSITORY / "docs").glob("[a-m]*.md")))
        lines = [json.dumps({"text": part}) for part in text.split("\n## ")]
        (self.root / "docs.jsonl").write_text("\n".join(lines))
        (self.root / "chats.jsonl").write_text("\n".join(dialogues(text)))
        few = list(dialogues(text))[:16]
        (self.root / "few.jsonl").write_text("\n".join(few[:12]))
        (self.root / "held.jsonl").write_text("\n".join(few[12:]))
        (self.root / "pairs.jsonl").write_text("\n".join(comparisons(text)))
        (self.root / "snippets.jsonl").write_text("\n".join(json.dumps({"text": f"a snippet <{way}>"}) for way in WAYS))
        endpoint = Endpoint(("127.0.0.1", 0), Writer)
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        for name, config in CONFIGS.items():
            (self.root / name).write_text(config.replace("{url}", f"http://127.0.0.1:{endpoint.server_port}/v1"))
        self.run(f"{TRAIN} words".split())
        self.run("pretrain --config run.toml -t 1 --out base --set checkpoint.keep_every=3".split())
        self.run("pretrain --config run.toml -t 1 --out large --set model.width=64 --set seed=5".split())
        self.run("reward --config reward.toml -t 1 --out judge".split())

    def start(self, args, fault="count:0", **more):
        env = {
            "PATH": os.environ["PATH"],
            "HERD_HOME": str(self.folder / "home"),
            "LD_PRELOAD": str(self.disk),
            "HERD_DISK_ROOT": str(self.root),
            "HERD_DISK_FAULT": fault,
            "HERD_DISK_TOLD": str(self.folder / "told"),
        }
        return subprocess.Popen([self.herd, *args, "-q"], cwd=self.root, env=env, stdout=subprocess.DEVNULL, **more)

    def run(self, args, fault="count:0"):
        """The exit code and what was said."""
        process = self.start(args, fault, stderr=subprocess.PIPE, text=True)
        said = process.communicate()[1]
        if fault == "count:0" and process.returncode != 0:
            sys.exit(f"{' '.join(args)}: {said}")
        return process.returncode

    def finish(self, verb, out):
        """Runs the verb in peace, if there is something left to do."""
        command, once = VERBS[verb]
        if not (once and (self.root / out).exists()):
            self.run(command.replace("OUT", out).split())

    def contents(self, out):
        paths = (path for path in (self.root / out).rglob("*") if path.is_file())
        names = ((path.relative_to(self.root / out), path) for path in paths)
        return {str(name): path.read_bytes() for name, path in names if not TIMED & set(name.parts)}

    def compare(self, verb, how, whole):
        found = self.contents("out")
        names = [name for name in sorted(whole.keys() | found.keys()) if whole.get(name) != found.get(name)]
        left = [path.name for path in self.root.iterdir() if path.name.startswith(".")]
        if names or left:
            sys.exit(f"{verb}, {how}: {', '.join(names)} differ; {left} left behind")
        self.clear()

    def clear(self):
        shutil.rmtree(self.root / "out", ignore_errors=True)
        for path in self.folder.glob("root-lost-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def kill(self, verb, kills, whole):
        """Kills the verb at random moments, until it has been killed often enough."""
        command = VERBS[verb][0].replace("OUT", "out").split()
        begun = time.monotonic()
        self.run(command)
        length = time.monotonic() - begun
        self.clear()
        done = 0
        while done < kills:
            # Half of the runs are killed more than once.
            for _ in range(self.random.choice([6, 9, 12] if verb in LONG else [1, 1, 2, 3])):
                if VERBS[verb][1] and (self.root / "out").exists():
                    break
                process = self.start(command, stderr=subprocess.DEVNULL)
                moment = 0.001 if self.random.random() < 0.05 else length
                time.sleep(moment * self.random.random())
                process.kill()
                done += process.wait() < 0
            self.finish(verb, "out")
            self.compare(verb, f"kill {done}", whole)
        return done

    def fail(self, verb, every, whole):
        """Cuts the power at the end and at every step, in three ways, and fills the disk; the second time soon after the first."""
        command = VERBS[verb][0].replace("OUT", "out").split()
        self.run(command)
        steps, written = map(int, (self.folder / "told").read_text().split())
        self.clear()
        # What has ended is on the disk.
        if self.run(command, "end:0") != CUT:
            sys.exit(f"{verb}: it did not come to the end")
        self.compare(verb, "after its end", whole)
        count = 1
        for kind in ["tear", "forget", "one"]:
            for step in range(0, steps, every):
                broken = self.run(command, f"{kind}:{step}") == CUT
                count += broken
                if broken and step % 2:
                    self.run(command, f"{kind}:{step // 2 % 23}")
                self.finish(verb, "out")
                self.compare(verb, f"{kind}:{step}", whole)
        for room in range(0, written, max(1, every * written // steps)):
            count += self.run(command, f"room:{room}") != 0
            self.finish(verb, "out")
            self.compare(verb, f"room:{room}", whole)
        return steps, count


def main():
    parser = argparse.ArgumentParser()
    herd_flag(parser)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--every", type=int, default=1, help="0: no faults of the disk")
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.herd, Path(folder), args.seed)
        for verb in (verb for verb in VERBS if verb in args.verbs.split(",")):
            bench.finish(verb, "out")
            whole = bench.contents("out")
            bench.clear()
            begun = time.monotonic()
            told = [f"{verb}: {len(whole)} files the same after"]
            if args.kills:
                told.append(f"{bench.kill(verb, args.kills, whole)} kills")
            if args.every:
                steps, broken = bench.fail(verb, args.every, whole)
                told.append(f"{broken} faults of the disk at {steps} steps")
            print(*told, f"in {time.monotonic() - begun:.0f} s", flush=True)


main()
