#!/usr/bin/env bash
# Requests made up from the server's own OpenAPI text, right and wrong ones, against a running server: none ends in a 5xx,
# each gets a status and a body that the text declares, and what the text forbids is refused.
#
# usage: scripts/schemathesis.sh URL [KEY] [EXAMPLES]      e.g. herd serve -m tiny.gguf & scripts/schemathesis.sh http://127.0.0.1:8080
# Closes with 'N passed, N failed', counted in operations. A small model will do, its weights may be random (see
# scripts/make-caller.py). SCHEMATHESIS names the folder of the environment (default: target/schemathesis).
#
# Two checks are left out. positive_data_acceptance: the text does not say all (a model's name, which messages make a
# conversation), so a 400 to what it allows is right. ensure_resource_availability: an answer may be asked not to be kept.
set -euo pipefail
cd "$(dirname "$0")/.."
url=${1:?usage: scripts/schemathesis.sh URL [KEY] [EXAMPLES]}
folder=${SCHEMATHESIS:-target/schemathesis}
mkdir -p "$folder"
folder=$(realpath "$folder")
[ -x "$folder/bin/st" ] || { python3 -m venv "$folder" && "$folder/bin/pip" install -q --disable-pip-version-check schemathesis==4.32.5; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report=$work/report.xml
# The text as the server gives it, but for the name of the model: a made-up one would end every request with 404.
python3 - "$url" "${2:-none}" > "$work/docs.json" <<'PY'
import json
import sys
import urllib.request

url, key = sys.argv[1:]


def read(path):
    return json.load(urllib.request.urlopen(urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"})))


docs, model = read("/docs"), read("/v1/models")["data"][0]["id"]
for operations in docs["paths"].values():
    for operation in operations.values():
        body = operation.get("requestBody", {}) if isinstance(operation, dict) else {}
        for content in body.get("content", {}).values():
            schema = content["schema"]
            if "model" in schema.get("properties", {}):
                schema["properties"]["model"] = {"enum": [model] if "model" in schema.get("required", []) else [model, None]}
            if "model" in content.get("example", {}):
                content["example"]["model"] = model
json.dump(docs, sys.stdout)
PY
cd "$work" # it leaves files where it runs
"$folder/bin/st" run "$work/docs.json" --url "$url" -H "Authorization: Bearer ${2:-none}" --no-color --workers 1 --seed 1 \
    --phases examples,coverage,fuzzing --max-examples "${3:-40}" --continue-on-failure --generation-database none \
    --exclude-checks positive_data_acceptance,ensure_resource_availability \
    --report junit --report-junit-path "$report" || true
python3 - "$report" <<'PY'
import sys
import xml.etree.ElementTree as xml

cases = {}
for case in xml.parse(sys.argv[1]).iter("testcase"):
    bad = case.find("failure") is not None or case.find("error") is not None
    cases[case.get("name")] = cases.get(case.get("name"), False) or bad
failed = sum(cases.values())
print(f"{len(cases) - failed} passed, {failed} failed")
sys.exit(failed > 0 or not cases)
PY
