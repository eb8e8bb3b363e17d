"""What the parts of scripts/check-scorers.py share."""
import importlib.util
import json
import sys
import types

import zstandard


def rows(path):
    with zstandard.open(path, "rt", encoding="utf-8") if path.suffix == ".zst" else open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def found(data, pattern):
    paths = sorted(data.glob(pattern))
    if not paths:
        sys.exit(f"no {pattern} in {data}")
    return rows(paths[0])


def bare(*packages):
    """Packages without what their own beginnings would import: only some of their modules are wanted."""
    for name in packages:
        if name not in sys.modules:
            first, *parts = name.split(".")
            home = sys.modules[first].__path__[0] if first in sys.modules else list(importlib.util.find_spec(first).submodule_search_locations)[0]
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = ["/".join([home, *parts])]
