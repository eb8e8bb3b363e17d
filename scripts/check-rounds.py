#!/usr/bin/env python3
"""Six rounds of alignment on a toy task with a known utility, and a round that harms.

usage: scripts/check-rounds.py --herd target/release/herd [--out DIR]

The models of examples/pretrain-tiny.toml and examples/sft-tiny.toml go through the six rounds of examples/round-tiny.toml. Held (issue
"Align", must hold 4):

    it rises         the hidden utility of answers to held prompts, in at least five of six rounds
    who is against   the annotator whose votes are turned round is heard in no round, the others in all
    harm             where all annotators go by the opposite of what the gate goes by, the new policy is worse than the old
                     one, with its whole 95 % interval, and does not go on

With --out the runs stay, and the same command takes them up. Exit 0 if all of it holds.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from common import EXAMPLES, herd_flag, run_herd


def furnish(folder):
    """All examples, and the first policy of the rounds."""
    if not (folder / "round-tiny.toml").exists():
        shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)


def rounds(herd, folder, out, *more):
    """What became of each round; whether one passed is no matter."""
    args = ["round", "--config", "round-tiny.toml", "--out", out, *more]
    if subprocess.run([herd, *map(str, args)], cwd=folder).returncode not in (0, 1):
        sys.exit(f"herd {' '.join(map(str, args))} failed")
    return json.loads((folder / out / "rounds.json").read_text())


def tell(what, holds):
    print(f"{'ok  ' if holds else 'FAIL'} {what}")
    return holds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    herd_flag(parser)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    place = flags.out or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    furnish(place)
    run_herd(flags.herd, place, "pretrain", "--config", "pretrain-tiny.toml", "--out", "pretrained")
    run_herd(flags.herd, place, "sft", "--config", "sft-tiny.toml", "--out", "tuned")

    six = rounds(flags.herd, place, "rounds", "--rounds", 6)
    gates = [one["gate"] for one in six]
    rises = sum(gate["after"] > gate["before"] for gate in gates)
    held = [tell(f"the utility rises in {rises} of {len(six)} rounds", len(six) == 6 and rises >= 5)]
    silent = [[one["annotator"] for one in each["annotators"] if not one["heard"]] for each in six]
    held.append(tell(f"not heard: {silent}", silent == [["mallory"]] * 6))

    scores = tomllib.loads((place / "round-tiny.toml").read_text())["collect"]["score"]
    table = lambda score, weight: f"{{ kind = \"length\", name = \"{score['name']}\", words = {score['words']}, weight = {weight} }}"
    listed = lambda sign: "[" + ", ".join(table(score, sign * score["weight"]) for score in scores) + "]"
    turned = ["--set", f"collect.score={listed(-1)}", "--set", f"gate.score={listed(1)}"]
    # The last policy has a utility to lose.
    policy = place / f"rounds/round-{max(one['round'] for one in six if one['passed'])}/average"
    (harm,) = rounds(flags.herd, place, "harm", "--rounds", 1, *turned, "--set", f"policy={policy.resolve()}")
    gate = harm["gate"]
    told = f"{gate['before']:.3f} to {gate['after']:.3f} ({gate['low']:+.3f} to {gate['high']:+.3f})"
    held.append(tell(f"a round that harms, {told}, is stopped", gate["high"] < 0 and not harm["passed"]))
    if not flags.out:
        shutil.rmtree(place)
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
