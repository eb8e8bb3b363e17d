#!/usr/bin/env bash
# The page in a real browser: chats, branches, calls, tokens, keys, kills, languages, and accessibility.
#
# usage: scripts/page.sh [MODEL]           e.g. scripts/page.sh smollm2.gguf; without one, models of the tests that babble
# Closes with 'N passed, N failed'. HERD names the program (default: a debug build), PAGE the folder of what is installed
# and of the pictures (default: target/page), SUITE another suite of scripts/page. Needs Node 20 and Debian's chromium, which is installed if absent.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${PAGE:-target/page}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
command -v chromium > /dev/null || apt-get install -y -qq chromium
cp scripts/page/package.json scripts/page/package-lock.json "$folder"
(cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund --silent)
if [ -z "${HERD:-}" ]; then
  cargo build -q -p herd
  HERD=target/debug/herd
fi
HERD_PAGE_MODELS="$folder" cargo test -q -p herd --test page models_for_the_browser -- --ignored > /dev/null
exec node "scripts/page/${SUITE:-suite.mjs}" "$folder" "$(realpath "$HERD")" "${1:-}"
