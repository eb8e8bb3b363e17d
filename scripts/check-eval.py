#!/usr/bin/env python3
"""Measure a model with `herd eval` and with lm-evaluation-harness over transformers, on the same rows, and compare item by item.

usage: scripts/check-eval.py --herd target/release/herd --gguf FILE --hf FOLDER --data DIR [--limit 200] [--subjects 5] [--sums 20] [--dtype float32]
       (needs: pip install lm-eval==0.4.13 transformers==5.23.0 torch==2.15.0 zstandard)

FILE and FOLDER hold one model, both in f32 (or, for times as lm-eval's defaults give them, in bf16 with --dtype auto: its own
arithmetic is then bf16, so choices are told but not held); DIR holds the rows of the tasks below (`herd eval ls`), in llm-foundry's form.
Each task is written for lm-eval as its own page has it, over the first rows of the same files. Held (must hold 1 of
issue "Measure"): of all choices, by sum and by character, at least 99.5 % are the same; and what is taken for the answer of GSM8K's sums,
and whether it is right, is the same for each text that Herd's model wrote. Prints both times on the same work: lm-eval's without
loading its libraries and model, Herd's with all. Exit 0 if all of it holds.
"""
import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import herd_flag, offline

offline()
import lm_eval
import torch
import zstandard
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

# The files below DIR, and how lm-eval's own page asks them; `q` stands for the question as the row has it.
ROWS = {
    "arc_easy": ("arc/easy_test.jsonl", "{{query.strip()}}\\nAnswer:"),
    "arc_challenge": ("arc/challenge_test.jsonl", "{{query.strip()}}\\nAnswer:"),
    "piqa": ("piqa/val.jsonl", "{{query.strip()}}\\nAnswer:"),
    "hellaswag": ("hellaswag/val_subset.jsonl", "{{text}}"),
    "winogrande": ("winogrande/val.jsonl", None),
    "mmlu": ("mmlu/test.jsonl", None),
}
CHOICE = """
doc_to_text: "{text}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
"""
WINOGRANDE = """
doc_to_text: gold
doc_to_choice: "{{context_options}}"
doc_to_target: continuation
"""
MMLU = """
fewshot_split: dev
num_fewshot: 5
fewshot_config: {{sampler: first_n}}
description: "The following are multiple choice questions (with answers) about {subject}.\\n\\n"
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\nD. {{{{choices[3]}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: gold
"""
PAGE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}", dev: "{dev}"}}, cache_dir: "{cache}"}}
test_split: test
output_type: multiple_choice
metric_list: [{{metric: acc}}]
"""
IGNORED = [",", "\\$", "(?s).*#### ", "\\.$"]


def read(path):
    with zstandard.open(str(path) + ".zst", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def plain(text):
    """A text of HellaSwag as lm-eval prepares it."""
    import re

    return re.sub("\\[.*?\\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def lay_out(args, folder):
    """Writes the rows that both read, and lm-eval's pages; the names of these, task by task."""
    pages, dev = {}, folder / "data/mmlu/dev.jsonl"
    examples = [{**row, "gold": int(row["answer"])} for row in read(args.data / "mmlu/dev.jsonl")]
    write(dev, examples)
    for task, (file, text) in ROWS.items():
        rows = read(args.data / file)
        if task == "mmlu":
            subjects = sorted({row["subject"] for row in rows})
            step = max(1, len(subjects) // args.subjects)
            subjects = subjects[::step][: args.subjects]
            each = -(-args.limit // args.subjects)
            rows = [row for s in subjects for row in [row for row in rows if row["subject"] == s][:each]]
            for row in rows:
                row["gold"] = int(row["answer"])
        rows = rows[: args.limit]
        write(folder / "data" / file, rows)
        for row in rows:  # for lm-eval alone
            if task == "hellaswag":
                row["text"], row["choices"] = plain(row["ctx"]), [plain(ending) for ending in row["endings"]]
                row["gold"] = int(row["label"])
        groups = [("", rows)]
        if task == "mmlu":
            groups = [(subject, [row for row in rows if row["subject"] == subject]) for subject in subjects]
        pages[task] = []
        for subject, rows in groups:
            name, own = f"check_{task}{subject and '_' + subject}", folder / f"rows/{task}{subject}.jsonl"
            write(own, rows)
            write(folder / f"rows/dev_{task}{subject}.jsonl", [row for row in examples if row["subject"] == subject] or rows)
            body = {"winogrande": WINOGRANDE, "mmlu": MMLU.format(subject=subject.replace("_", " "))}.get(task, CHOICE.format(text=text))
            page = PAGE.format(name=name, rows=own, dev=folder / f"rows/dev_{task}{subject}.jsonl", cache=folder / "cache")
            (folder / f"pages").mkdir(exist_ok=True)
            (folder / f"pages/{name}.yaml").write_text(page + body)
            pages[task].append(name)
    return pages


def by_lm_eval(args, folder, pages):
    """The log-likelihoods of each item's answers, task by task, and the seconds that each took."""
    model = HFLM(pretrained=str(args.hf), dtype=args.dtype, device="cpu", batch_size=args.batch_size)
    found, seconds = {}, {}
    for task, names in pages.items():
        manager = TaskManager(include_path=str(folder / "pages"), include_defaults=False)
        begun = time.monotonic()
        with contextlib.redirect_stderr(io.StringIO()):
            result = lm_eval.simple_evaluate(model, tasks=names, log_samples=True, bootstrap_iters=0, task_manager=manager)
        seconds[task] = time.monotonic() - begun
        samples = [s for name in names for s in sorted(result["samples"][name], key=lambda s: s["doc_id"])]
        found[task] = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
        print(f"lm-eval {task}: {seconds[task]:.1f} s", flush=True)
    return found, seconds


def by_herd(args, folder, task, out, *more):
    """Herd's receipts of a task, and the seconds of the whole command."""
    begun = time.monotonic()
    command = [args.herd, "eval", "run", "-m", args.gguf, "--tasks", task, "--out", out, "--quiet", *more]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - begun
    return [json.loads(line) for line in (out / f"samples/{task}.jsonl").read_text().splitlines()], seconds


def chosen(sums, lengths):
    """The likeliest by sum and by character, of equals the first."""
    by_char = [s / n for s, n in zip(sums, lengths)]
    return sums.index(max(sums)), by_char.index(max(by_char))


def compare(folder, task, receipts, likelihoods):
    """Choices that are the same, choices in all, and the greatest difference of a log-likelihood."""
    rows = [json.loads(line) for file in [ROWS[task][0]] for line in (folder / "data" / file).read_text().splitlines()]
    assert len(rows) == len(receipts) == len(likelihoods), (task, len(rows), len(receipts), len(likelihoods))
    same, most, kinds = 0, 0.0, 1 if task in ("winogrande", "mmlu") else 2
    for row, receipt, theirs in zip(rows, receipts, likelihoods):
        ours = [sum(answer["log_probs"]) for answer in receipt["answers"]]
        assert len(ours) == len(theirs), (task, receipt["item"])
        if task == "hellaswag":
            lengths = [len(plain(ending)) for ending in row["endings"]]
        else:
            lengths = [1] * len(ours) if task in ("winogrande", "mmlu") else [len(choice) for choice in row["choices"]]
        # Where lengths say nothing, the two choices are one.
        same += sum(a == b for a, b in zip(chosen(ours, lengths)[:kinds], chosen(theirs, lengths)[:kinds]))
        assert receipt["taken"] == chosen(ours, lengths)[0], (task, receipt["item"])
        most = max(most, *(abs(a - b) for a, b in zip(ours, theirs)))
    return same, kinds * len(rows), most


def sums(args, folder):
    """GSM8K's answers as Herd's model wrote them, scored by both; how many, and how often they agree."""
    receipts, _ = by_herd(args, folder, "gsm8k", folder / "sums", "--data", args.data, "--limit", str(args.sums))
    filters = {
        "strict": RegexFilter("#### (\\-?[0-9\\.\\,]+)"),
        "flexible": RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
    }
    agreed = 0
    for receipt in receipts:
        text, gold = receipt["answers"][0]["text"], receipt["gold"]
        for name, extract in filters.items():
            taken = extract.apply([[text]], [{}])[0][0]
            right = exact_match_hf_evaluate([taken], [gold], regexes_to_ignore=IGNORED, ignore_case=True)["exact_match"]
            agreed += right == receipt["scores"][name] and (name == "strict" or taken == receipt["taken"])
    return agreed, 2 * len(receipts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    herd_flag(parser)
    parser.add_argument("--gguf", required=True, type=Path)
    parser.add_argument("--hf", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--subjects", type=int, default=5)
    parser.add_argument("--sums", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", nargs="*", default=list(ROWS))
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pages = lay_out(args, folder)
        pages = {task: names for task, names in pages.items() if task in args.only}
        theirs, seconds = by_lm_eval(args, folder, pages)
        same = choices = 0
        for task in pages:
            ours, took = by_herd(args, folder, task, folder / "out" / task, "--data", folder / "data")
            agree, of, most = compare(folder, task, ours, theirs[task])
            same, choices = same + agree, choices + of
            print(f"{task}: {agree} of {of} choices the same, log-likelihoods within {most:.2e}; "
                  f"lm-eval {seconds[task]:.1f} s, herd {took:.1f} s, {seconds[task] / took:.1f} times", flush=True)
        agreed, written = sums(args, folder) if args.sums else (0, 0)
        print(f"all: {same} of {choices} choices the same; GSM8K: {agreed} of {written} scores the same")
        held = args.dtype != "float32" or same >= 0.995 * choices
        sys.exit(0 if held and agreed == written else 1)


if __name__ == "__main__":
    main()
