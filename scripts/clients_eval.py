"""lm-eval's local-completions on a task of this script's own; a part of scripts/clients.py."""
import contextlib
import io
import json
import os
import pathlib
import subprocess
import tempfile

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # nothing is fetched

import lm_eval
from lm_eval.tasks import TaskManager

from clients_common import KEY, MODEL, URL, check, post

ROWS = [
    {"q": "The capital of France is", "choices": ["Paris", "Rome", "a bicycle"], "gold": 0},
    {"q": "Two and two make", "choices": ["seven elephants", "four"], "gold": 1},
    {"q": "L'h\u00f4pital est \u00e0", "choices": ["c\u00f4t\u00e9", "\u4e1c\u4eac \U0001f431"], "gold": 0},
]
TASK = """
task: herd_rows
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}]
"""


def own(context, continuation):
    """The log-likelihood of a continuation by the server's ids and log-probabilities, and whether it is the likeliest."""
    ids = post("/tokenize", {"content": context + continuation})["tokens"]
    before = len(post("/tokenize", {"content": context})["tokens"])
    said = post("/v1/completions", {"model": MODEL, "prompt": ids, "max_tokens": 0, "logprobs": 1, "echo": True})
    probs = said["choices"][0]["logprobs"]
    pairs = list(zip(probs["token_logprobs"], probs["top_logprobs"]))[before:]
    return sum(p for p, _ in pairs), all(p == max(top.values()) for p, top in pairs), ids, before


def by_the_command(ids, before):
    """The same by `herd logits`, where HERD names the program and HERD_MODEL the model's file."""
    flags = [os.environ["HERD"], "logits", "-m", os.environ["HERD_MODEL"], "--top", "0", "--json", "--ids", ",".join(map(str, ids))]
    rows = json.loads(subprocess.run(flags, capture_output=True, check=True).stdout)["logprobs"]
    return sum(rows[at - 1][ids[at]]["logprob"] for at in range(before, len(ids)))


@check
def lm_eval_local_completions():
    """Log-likelihoods of lm-eval, with the server's own tokenizer, are those that herd itself gives, to the last bit."""
    os.environ["OPENAI_API_KEY"] = KEY
    with tempfile.TemporaryDirectory() as folder:
        rows = pathlib.Path(folder, "rows.jsonl")
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        pathlib.Path(folder, "task.yaml").write_text(TASK.format(rows=rows, cache=folder))
        found = []
        # A text sent as such gets a begin-of-text token where the model wants one, of which lm-eval does not know.
        plain = len(post("/tokenize", {"content": "x", "add_special": True})["tokens"]) == len(post("/tokenize", {"content": "x"})["tokens"])
        for batch, strings in ((1, False), (4, False), *([(1, True)] if plain else [])):
            args = {"model": MODEL, "base_url": URL + "/v1/completions", "tokenizer_backend": "remote", "auth_token": KEY,
                    "tokenized_requests": not strings, "batch_size": batch, "max_length": 512}
            with contextlib.redirect_stderr(io.StringIO()):
                result = lm_eval.simple_evaluate(
                    "local-completions", model_args=args, tasks=["herd_rows"], log_samples=True, bootstrap_iters=0,
                    task_manager=TaskManager(include_path=folder, include_defaults=False))
            samples = sorted(result["samples"]["herd_rows"], key=lambda sample: sample["doc_id"])
            found.append([[(float(p), bool(greedy)) for (p, greedy) in sample["filtered_resps"]] for sample in samples])
    for row, *answers in zip(ROWS, *found):
        for k, choice in enumerate(row["choices"]):
            likelihood, greedy, ids, before = own(row["q"], " " + choice)
            for answer in answers:
                assert answer[k] == (likelihood, greedy), (row, choice, answer[k], likelihood, greedy)
            if "HERD_MODEL" in os.environ:
                assert by_the_command(ids, before) == likelihood, (row, choice)
