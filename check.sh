#!/usr/bin/env bash
# What every commit passes: format, lints, docs and tests; the rules of ARCHITECTURE.md are one of the
# tests (crates/herd/tests/tidy). Every step runs whatever failed before it; the last line counts the tests.
# Needs nothing but Rust.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
exec </dev/null
export CARGO_TERM_COLOR=never
[ -d target ] || export CARGO_INCREMENTAL=0 # a first build has nothing to begin with
failed=()

step() { # NAME COMMAND...
    local name=$1 start=$SECONDS outcome=passed
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" || { outcome=FAILED && failed+=("$name"); }
    printf '== %s %s in %d s\n' "$name" "$outcome" $((SECONDS - start))
}

# Of the libraries: the program's doc comments are its help texts.
lint_docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --lib --no-deps --locked
}

# Runs all tests and sets `count` to "N passed, N failed". A test program that ends without a result
# has crashed, and counts as one failure; so does a workspace that does not build.
run_tests() {
    local log status
    log=$(mktemp)
    cargo test --workspace --no-fail-fast --locked 2>&1 | tee "$log"
    status=$?
    count=$(awk -v status=$status '
        /^ +(Running|Doc-tests) / { failed += running; running = 1 }
        /^test result: / { passed += $4; failed += $6; running = 0 }
        END {
            failed += running
            if (status != 0 && failed == 0) failed = 1
            printf "%d passed, %d failed", passed, failed
        }' "$log")
    rm -f "$log"
    return $status
}

count="0 passed, 1 failed"
step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --locked -- -D warnings
step docs lint_docs
step tests run_tests

printf '\n%d s in all' $SECONDS
[ ${#failed[@]} -eq 0 ] || printf '; failed: %s' "${failed[*]}"
printf '\n%s\n' "$count"
[ ${#failed[@]} -eq 0 ]
