#!/bin/sh
# The slow check of long context (about ten minutes on two cores): a small model learns to find needles in rows of 128 tokens, does
# not find them in rows of 512, and does after its stages, its loss on short texts kept.
#
#     scripts/long-context.sh DIR [HERD]      # DIR is new, or that of a run that was stopped; HERD: the program [target/release/herd]
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
work=${1:?usage: long-context.sh DIR [HERD]}
herd=$(realpath "${2:-$here/target/release/herd}")
mkdir -p "$work"
cd "$work"
sentence='\nThe password is {key}{value}.\n'
make="python3 $here/scripts/make-needles.py --hay $here/docs/model.md $here/docs/files.md --digits 1"
# Lists are needles and nothing else, each asked for five times: on them alone copying is learnt first.
$make --documents 40000 --needles 1 8 --rounds 5 --sentence ' {key}{value}' --seed 1 -o lists.jsonl
$make --documents 40000 --needles 1 3 --chars 0 170 --sentence "$sentence" --seed 2 -o short.jsonl
$make --documents 4000 --needles 0 0 --chars 100 180 --seed 3 -o plain.jsonl
$make --documents 8000 --needles 1 3 --chars 0 900 --sentence "$sentence" --seed 4 -o long.jsonl
[ -d words ] || "$herd" tokenizer train -i lists.jsonl -i short.jsonl -i plain.jsonl --vocab-size 512 --specials 16 -o words

cat > base.toml <<END
tokenizer = "words"
[data]
input = ["lists.jsonl", "short.jsonl", "plain.jsonl"]
validation_share = 0.02
packing = "whole"
mix = { lists = 1 }
[[data.changes]]
from_tokens = 2000000
mix = { lists = 1, short = 3, plain = 0.5 }
[model]
layers = 3
width = 128
heads = 4
kv_heads = 4
ffn_width = 256
init_std = 0.06
[batch]
tokens = 2048
seq_len = 128
[optim]
steps = 5000
warmup_steps = 100
lr = 3e-3
[checkpoint]
every = 250
[validation]
every = 500
tokens = 16384
[samples]
every = 0
END
"$herd" pretrain --config base.toml --out base

cat > longer.toml <<END
tokenizer = "words"
[data]
input = ["lists.jsonl", "short.jsonl", "plain.jsonl", "long.jsonl"]
validation_share = 0.02
packing = "whole"
mix = { lists = 1, short = 2, plain = 1, long = 4 }
[model]
init = "base/checkpoints/step-5000"
[batch]
tokens = 4096
seq_len = 128
[optim]
warmup_steps = 30
lr = 1e-3
[checkpoint]
every = 100
[validation]
every = 100
tokens = 16384
[samples]
every = 0
[context]
needle_rate = 0.95
[context.needle]
sentence = "$sentence"
question = "${sentence%%\{value*}"
answer = "{value}"
haystack = ["plain"]
digits = 1
samples = 20
[[context.stage]]
seq_len = 256
rope_theta = 30000
steps = 300
[[context.stage]]
seq_len = 512
rope_theta = 90000
steps = 300
END
"$herd" extend-context --config longer.toml --out longer

# The held-out texts of the first run, which has none of the long ones, measured once more: a step at the rate of zero.
last=$(ls -d longer/stage-2* | tail -n 1) # its last round
"$herd" pretrain --config base.toml --out again --set "model.init=$last/checkpoints/step-300" \
    --set data.shards=base/data --set 'data.input=[]' --set optim.steps=1 --set optim.warmup_steps=0 --set optim.lr=0

python3 - "$last" <<'END'
import json
import sys

def rate(found, length):
    here = [n for n in found if n["length"] == length]
    return sum(n["found"] for n in here) / sum(n["asked"] for n in here)

def held_out(run):
    return [line for line in map(json.loads, open(f"{run}/metrics.jsonl")) if line["kind"] == "validation"][-1]

before, after = json.load(open("longer/before.json")), json.load(open(f"{sys.argv[1]}/verdict.json"))
for length in (128, 256, 512):
    print(f"needles at {length}: before {rate(before['needles'], length):.3f}, after {rate(after['needles'], length):.3f}")
first, last = held_out("base"), held_out("again")
for name, loss in first["by_source"].items():
    print(f"loss of {name}: {loss['loss']:.4f} -> {last['by_source'][name]['loss']:.4f}")
grown = last["loss"] / first["loss"] - 1
print(f"short-context loss: {first['loss']:.4f} -> {last['loss']:.4f} ({grown:+.2%})")
assert rate(before["needles"], 128) >= 0.95, "the model finds no needles at its own length"
assert rate(before["needles"], 512) < 0.5, "the unextended model finds needles too"
assert rate(after["needles"], 512) >= 0.95 and grown <= 0.01
print("passed")
END
