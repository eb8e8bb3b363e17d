#!/bin/sh
# The slow check of long context: a small model learns to find needles in short texts, does not find
# them in texts four times as long, and does after its stages, its short-context loss kept.
#
#     scripts/long-context.sh DIR [HERD]      # DIR is new; HERD: the program [target/release/herd]
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
work=${1:?usage: long-context.sh DIR [HERD]}
herd=${2:-$here/target/release/herd}
mkdir -p "$work"
make="python3 $here/scripts/make-needles.py --hay $here/docs/model.md $here/docs/files.md --digits 2"
$make --documents 30000 --chars 0 80 --needles 4 --seed 1 -o "$work/short.jsonl"
$make --documents 4000 --chars 0 900 --needles 6 --seed 2 -o "$work/long.jsonl"
cd "$work"
[ -d words ] || "$herd" tokenizer train -i short.jsonl --vocab-size 512 --specials 16 -o words

cat > base.toml <<END
tokenizer = "words"
[data]
input = ["short.jsonl"]
validation_share = 0.02
[model]
layers = 3
width = 128
heads = 4
kv_heads = 4
ffn_width = 256
[batch]
tokens = 4096
seq_len = 128
[optim]
steps = 1500
warmup_steps = 100
[checkpoint]
every = 250
[validation]
every = 250
tokens = 16384
[samples]
every = 0
END
"$herd" pretrain --config base.toml --out base

sed -e 's/short.jsonl"/short.jsonl", "long.jsonl"/' -e 's/steps = 1500/steps = 300/' \
    -e 's/warmup_steps = 100/warmup_steps = 30\nlr = 1e-3/' \
    -e 's|\[model\]|[model]\ninit = "base/checkpoints/step-1500"|' base.toml > longer.toml
cat >> longer.toml <<END
[context]
needle_rate = 0.95
[context.needle]
digits = 2
samples = 8
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

python3 - <<'END'
import glob, json

def rate(found, length):
    here = [n for n in found if n["length"] == length]
    return sum(n["found"] for n in here) / sum(n["asked"] for n in here)

before = json.load(open("longer/before.json"))
after = json.load(open(max(glob.glob("longer/stage-2*/verdict.json"))))
grown = after["short_loss"] / before["short_loss"] - 1
for length in (128, 256, 512):
    print(f"needles at {length}: before {rate(before['needles'], length):.3f}, "
          f"after {rate(after['needles'], length):.3f}")
print(f"short-context loss: {before['short_loss']:.4f} -> {after['short_loss']:.4f} ({grown:+.2%})")
assert rate(before["needles"], 512) < 0.5, "the unextended model finds needles too"
assert rate(after["needles"], 512) >= 0.95 and grown <= 0.01
print("passed")
END
