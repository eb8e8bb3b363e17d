#!/usr/bin/env bash
# Real clients against a running server, with pinned versions in an environment of their own.
#
# usage: scripts/clients.sh URL [KEY]      e.g. herd serve -m smollm2 --port 8080 & scripts/clients.sh http://127.0.0.1:8080
# Where HERD and HERD_MODEL name the program and the served model's file, log-likelihoods are compared with `herd logits` too.
# Closes with 'N passed, N failed'. CLIENTS names the folder of the environment (default: target/clients).
set -euo pipefail
cd "$(dirname "$0")/.."
url=${1:?usage: scripts/clients.sh URL [KEY]}
folder=${CLIENTS:-target/clients}
[ -x "$folder/bin/python" ] || python3 -m venv "$folder"
"$folder/bin/pip" install -q --disable-pip-version-check \
    openai==3.54.0 anthropic==2.12.0 ollama==0.6.3 langchain==1.4.7 langchain-openai==1.7.3 litellm==1.83.0 'lm-eval[api]==0.4.13'
exec "$folder/bin/python" scripts/clients.py "$url" "${2:-none}"
