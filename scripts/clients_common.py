"""What the sessions of scripts/clients.py share: the server's address, its model, and how checks run."""
import json
import sys
import traceback
import urllib.request

URL, KEY = sys.argv[1].rstrip("/"), sys.argv[2]


def post(path, body=None):
    """What the server itself says: JSON by the smallest client there is."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers)) as answer:
        return json.load(answer)


MODEL = post("/v1/models")["data"][0]["id"]
checks = []


def check(function):
    checks.append(function)
    return function


def knows_tools():
    """Whether the model's chat format has a place for tools; where it has none, they are refused."""
    return post("/v1/capabilities")["tools"]


def run():
    """Runs all checks; ends the program with 1 if one failed."""
    failed = 0
    for function in checks:
        try:
            function()
            print(f"ok    {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {function.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    sys.exit(failed > 0)
