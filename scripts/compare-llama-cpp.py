#!/usr/bin/env python3
"""Measure herd and llama.cpp side by side in one run and print a Markdown table.

usage: scripts/compare-llama-cpp.py --herd target/release/herd --llama FOLDER/bin -m MODEL.gguf [-m MORE.gguf ...]
           [-t 1,2] [--pairs 5] [--tests pp512,tg128,...] [--json RAW.json]

FOLDER is what scripts/build-llama-cpp.sh made. Method (docs/performance.md): for each test the two
programs alternate, A B, B A, A B ..., each in a process of its own; the ratio is the median of the
pairwise ratios. Where llama.cpp has two settings of flash attention, both run in each pair and the
better one counts. Each process waits for a quiet moment; while it runs, the share of the machine that
others took is read from /proc; a pair with more than --quiet of it is measured again, both sides
alike, up to --tries times; pairs that stayed disturbed are kept and marked by a star. Nothing else is
thrown away. "first token" needs a model with a vocabulary.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

FIRST_TOKEN_PROMPT = "The capital of France is"


# What is measured. A test is a name, the unit, and one command line for each side; the side's figure is read from
# what its command printed, or from what the process cost.

@dataclass
class Test:
    """`peer` holds one command for each setting of the peer that competes."""

    name: str
    unit: str
    herd: list
    peer: list
    read_herd: callable
    read_peer: callable
    more_is_better: bool = True


@dataclass
class Run:
    """One finished process: what it printed, how long it took, its peak memory, and what others took meanwhile."""

    out: str
    seconds: float
    peak_mb: float
    others: float


def herd_tok_s(run):
    entries = json.loads(run.out)
    if len(entries) != 1:
        raise ValueError(f"herd bench printed {len(entries)} entries, expected 1: {run.out!r}")
    return entries[0]["tok_s"]


def llama_bench_tok_s(run):
    return json.loads(run.out)[0]["avg_ts"]


def batched_bench_tok_s(run):
    return json.loads(run.out.strip().splitlines()[-1])["speed_tg"]


def peak_mb(run):
    return run.peak_mb


def seconds(run):
    return run.seconds


def tests_of(args, model, threads):
    """All tests by name, for one model and number of threads."""
    herd, model, t = args.herd, ["-m", model], ["-t", str(threads)]

    def tool(name):
        return os.path.join(args.llama, name)

    def speed(name, prompt, generated, depth=0):
        sizes = ["-p", str(prompt), "-n", str(generated)]
        deep = ["-d", str(depth)] if depth else []
        # At depth 0 the peer's own choice is the better one or equal; at depth either may win.
        settings = [["-fa", "off"], ["-fa", "on"]] if depth else [[]]
        bench = [tool("llama-bench"), *model, *sizes, *deep, *t, "-r", "1", "-o", "json"]
        ours = [herd, "bench", *model, *sizes, *deep, *t, "-r", "1", "--no-limits", "--json"]
        return Test(name, "tok/s", ours, [bench + s for s in settings], herd_tok_s, llama_bench_tok_s)

    batched = [tool("llama-batched-bench"), *model, "-npp", "128", "-ntg", "64", "-npl", "32", "-c", "8192", *t,
               "--output-format", "jsonl"]
    together = [herd, "bench", *model, "-p", "0", "-n", "64", "-d", "128", "--sequences", "32", *t, "-r", "1", "--no-limits", "--json"]
    small = [*model, "-p", "512", "-n", "8", *t, "-r", "1"]
    word = [*model, "-p", FIRST_TOKEN_PROMPT, "-n", "1", "--temp", "0", *t, "-c", "512"]
    completion = [tool("llama-completion"), *word, "--no-warmup", "-no-cnv"]
    tests = [
        speed("pp512", 512, 0),
        speed("pp2048", 2048, 0),
        speed("tg128", 0, 128),
        speed("pp512@4096", 512, 0, 4096),
        speed("tg128@4096", 0, 128, 4096),
        Test("32 sequences", "tok/s", together, [batched], herd_tok_s, batched_bench_tok_s),
        Test("peak memory", "MB", [herd, "bench", *small, "--no-limits", "--json"], [[tool("llama-bench"), *small, "-o", "json"]],
             peak_mb, peak_mb, more_is_better=False),
        Test("first token", "s", [herd, "complete", *word], [completion], seconds, seconds, more_is_better=False),
    ]
    return {test.name: test for test in tests}


# How it is measured.

def busy_seconds():
    """Processor seconds that the whole machine has spent on anything since it started, time stolen from it included."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(args):
    """Wait until others left the machine alone for half a second, or until patience ends."""
    end = time.monotonic() + args.patience
    while time.monotonic() < end:
        busy = busy_seconds()
        time.sleep(0.5)
        if (busy_seconds() - busy) / (0.5 * os.cpu_count()) <= args.quiet:
            return


def run(command, limit_s):
    """Run a command to its end. Raises RuntimeError with the end of its stderr if it fails."""
    busy, began = busy_seconds(), time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        usage = wait(process, limit_s)
        elapsed = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            tail = err.read().decode(errors="replace")[-400:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {tail}")
        own = usage.ru_utime + usage.ru_stime
        others = max(0.0, busy_seconds() - busy - own) / (elapsed * os.cpu_count())
        return Run(out.read().decode(), elapsed, usage.ru_maxrss * 1024 / 1e6, others)


def wait(process, limit_s):
    """Wait for a process, killing it at the limit; its resource usage."""
    end = time.monotonic() + limit_s
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > end:
            process.kill()
        time.sleep(0.002)


@dataclass
class Row:
    """The pairs of one test; `disturbed` counts those that never were quiet."""

    model: str
    threads: int
    test: str
    unit: str
    more_is_better: bool
    herd: list = field(default_factory=list)
    peer: list = field(default_factory=list)
    disturbed: int = 0

    def ratios(self):
        return [h / p if self.more_is_better else p / h for h, p in zip(self.herd, self.peer)]


def warm_file_cache(path):
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def measure_pair(args, test, herd_first):
    """(herd's figure, the peer's best figure, the greatest share that others took)."""
    jobs = [("herd", test.herd)] + [("peer", command) for command in test.peer]
    if not herd_first:
        jobs.reverse()
    figures, others = {"herd": [], "peer": []}, 0.0
    for side, command in jobs:
        wait_for_quiet(args)
        done = run(command, args.limit)
        others = max(others, done.others)
        figures[side].append((test.read_herd if side == "herd" else test.read_peer)(done))
    best = max if test.more_is_better else min
    return figures["herd"][0], best(figures["peer"]), others


def measure(args, model, threads, test):
    row = Row(os.path.basename(model), threads, test.name, test.unit, test.more_is_better)
    for pair in range(args.pairs):
        for attempt in range(args.tries):
            herd, peer, others = measure_pair(args, test, herd_first=pair % 2 == 0)
            if others <= args.quiet:
                break
        row.disturbed += others > args.quiet
        row.herd.append(herd)
        row.peer.append(peer)
    return row


# How it is shown.

HEAD = """| model | test | threads | herd | llama.cpp | times better | least .. most |
|---|---|---|---|---|---|---|"""


def figure(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line(row):
    ratios, median = row.ratios(), statistics.median
    star = f" *{row.disturbed}/{len(ratios)}" if row.disturbed else ""
    return (
        f"| {row.model} | {row.test} ({row.unit}) | {row.threads} | {figure(median(row.herd))} | "
        f"{figure(median(row.peer))} | **{median(ratios):.2f}** | {min(ratios):.2f} .. {max(ratios):.2f}{star} |"
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--herd", required=True, help="the herd program")
    parser.add_argument("--llama", required=True, help="the folder of llama.cpp's programs")
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("-t", "--threads", default="2,1")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tests", help="names as in the table, with commas; all if left out")
    parser.add_argument("--quiet", type=float, default=0.05, help="share of the machine that others may take")
    parser.add_argument("--tries", type=int, default=4, help="times that a disturbed pair is measured")
    parser.add_argument("--patience", type=float, default=20, help="seconds to wait for quiet before each process")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one process may take")
    parser.add_argument("--json", help="file for all single figures")
    return parser.parse_args()


def main():
    args = arguments()
    rows, failed = [], 0
    print(HEAD, flush=True)
    for model in args.model:
        warm_file_cache(model)
        for threads in map(int, args.threads.split(",")):
            tests = tests_of(args, model, threads)
            for name in args.tests.split(",") if args.tests else tests:
                try:
                    rows.append(measure(args, model, threads, tests[name]))
                    print(line(rows[-1]), flush=True)
                except (RuntimeError, ValueError) as error:
                    failed += 1
                    print(f"{os.path.basename(model)} {name}: {error}", file=sys.stderr, flush=True)
    if args.json:
        with open(args.json, "w") as out:
            json.dump([vars(row) for row in rows], out, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
