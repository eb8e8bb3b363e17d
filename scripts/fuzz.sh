#!/usr/bin/env bash
# Fuzzes what reads files and texts: scripts/fuzz.sh [TARGET [SECONDS]], all targets one by one without a name.
#
#   cargo install cargo-fuzz
#   scripts/fuzz.sh gguf 300
#
# The targets stand in fuzz/src. What a run learns goes to fuzz/corpus, which git leaves out; it starts from the files of
# testdata/ and fuzz/regressions. A finding lands in fuzz/artifacts: mend it and copy it to fuzz/regressions/TARGET,
# which the tests run. Works with stable Rust: libFuzzer needs a flag of the compiler that RUSTC_BOOTSTRAP unlocks, and no sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${2:-60}
targets=${1:-$(cargo fuzz list)}

seed() { # TARGET: the files to start from
    case $1 in
    gguf) cp testdata/files/*.gguf testdata/hostile/*.gguf "$2" ;;
    safetensors) cp testdata/files/*.safetensors testdata/hostile/*.safetensors "$2" ;;
    pth)
        cp testdata/files/*.p*t* testdata/hostile/*.pth "$2"
        # The pickles alone: the target puts them into a sound zip.
        for file in testdata/files/*.p*t* testdata/hostile/*.pth; do
            unzip -p "$file" '*data.pkl' >"$2/$(basename "$file").pkl" 2>/dev/null || true
        done
        ;;
    tokenizer_json) cp testdata/tokenizer/small.json "$2" ;;
    tiktoken_model) cp testdata/tokenizer/small.tiktoken "$2" && echo '+YWI= 256' >"$2/line" ;;
    sentencepiece) cp testdata/tokenizer/small.spm.model "$2" ;;
    chat_template) grep -rhoE '\{[{%][^}]*[%}]\}' crates/codec/tests docs | sort -u | split -l 3 - "$2/template" ;;
    model_output_parser) split -l 1 testdata/chat/answers.jsonl "$2/answer" ;;
    hf_config) cp testdata/config/*.json "$2" ;;
    encode_decode) for i in a b c; do { printf '%s' "$i" && head -c 400 testdata/tokenizer/train.txt; } >"$2/$i"; done ;;
    esac
}

export RUSTC_BOOTSTRAP=1
# Files are written and read again by the thousand.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
for target in $targets; do
    mkdir -p "fuzz/corpus/$target"
    seed "$target" "fuzz/corpus/$target"
    words=()
    [ -f "fuzz/words/$target" ] && words=("-dict=fuzz/words/$target")
    echo "== $target for $seconds s"
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/regressions/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 "${words[@]}"
done
