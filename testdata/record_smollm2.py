#!/usr/bin/env python3
"""Record smollm2.json: what transformers computes in f32 on SmolLM2-135M-Instruct's dequantised Q4_1 weights.

usage: testdata/record_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf
       (needs: pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 safetensors tokenizers numpy)

The model is the one that `herd pull smollm2` brings; its sha256 is checked. For each prompt: the token ids; the
log-probability of each following token of the prompt; after the last token, the ten greatest logits and every STRIDE-th
logit of the vocabulary; and 32 greedy tokens with the gap between the two best logits (where it is under 0.01, another
token is no fault). Logits should agree within 1e-3.
"""
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from gguf_to_hf import Source, convert  # noqa: E402

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
STRIDE = 97
GREEDY = 32
LONG = "The sheep dog ran down the hill, " * 20 + "and then it slept."
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "def fibonacci(n):\n    ",
    "2 + 2 = 4, 3 + 3 =",
    "Die Hauptstadt von Deutschland ist",
    "A",
    "<|im_start|>user\nWhat is the capital of Germany?<|im_end|>\n<|im_start|>assistant\n",
    LONG,
]


def rounded(values):
    return [float(f"{value:.7g}") for value in values]


@torch.no_grad()
def logits(model, ids):
    return model(torch.tensor([ids])).logits[0]


def record(model, tokenizer, prompt):
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    all_logits = logits(model, ids)
    log_probs = torch.log_softmax(all_logits.double(), -1)
    top = all_logits[-1].topk(10)
    longer, gaps = list(ids), []
    while len(gaps) < GREEDY:
        best = logits(model, longer)[-1].topk(2)
        gaps.append((best.values[0] - best.values[1]).item())
        longer.append(best.indices[0].item())
        if longer[-1] == model.config.eos_token_id:
            break
    return {
        "prompt": prompt,
        "ids": ids,
        "logprobs": rounded(log_probs[i, token].item() for i, token in enumerate(ids[1:])),
        "top_ids": top.indices.tolist(),
        "top_logits": rounded(top.values.tolist()),
        "strided_logits": rounded(all_logits[-1, ::STRIDE].tolist()),
        "greedy_ids": longer[len(ids) :],
        "greedy_gaps": rounded(gaps),
        "greedy_text": tokenizer.decode(longer[len(ids) :], skip_special_tokens=False),
    }


def main():
    path = sys.argv[1]
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == SHA256, "another model"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        convert(path, folder)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        tokenizer = Source(path).tokenizer()
        records = [record(model, tokenizer, prompt) for prompt in PROMPTS]
    lines = ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in records)
    head = json.dumps({"sha256": SHA256, "stride": STRIDE})[:-1]
    out = Path(__file__).parent / "smollm2.json"
    out.write_text(f'{head}, "prompts": [\n{lines}\n]}}\n')
    print(out.name, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
