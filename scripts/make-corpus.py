#!/usr/bin/env python3
"""Make a corpus of some 25 MB of English and code from Debian's documentation packages, to pretrain on.

usage: scripts/make-corpus.py FOLDER [--any-version]
       (needs: Debian 12 or its package lists; apt-get and dpkg-deb fetch and unpack, nothing is installed)

Writes FOLDER/*.jsonl.gz, rows of {id, lang, licence, text}: a page or a source file each, in the order of their paths. The
same packages give the same bytes; the versions below are those that docs/training.md was written with, and --any-version
takes what the package lists offer when a security update has replaced one of them.
"""
import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

# Name of the source: package, version, licence, folder within the package, and where a page's text begins.
SOURCES = {
    "debian_handbook": (
        "debian-handbook", "11.20220922", "GPL-2+ or CC-BY-SA-3.0", "usr/share/doc/debian-handbook/html/en-US", ("body", ""),
    ),
    "libreoffice_help": (
        "libreoffice-help-en-us", "4:7.4.7-1+deb12u14", "MPL-2.0", "usr/share/libreoffice/help/en-US/text", ("id", "DisplayArea"),
    ),
    "python_docs": ("python3.11-doc", "3.11.2-6+deb12u9", "PSF-2.0", "usr/share/doc/python3.11/html", ("role", "main")),
    "python_library": ("libpython3.11-stdlib", "3.11.2-6+deb12u9", "PSF-2.0", "usr/lib/python3.11", None),
    "rust_docs": ("rust-doc", "1.63.0+dfsg1-2", "MIT or Apache-2.0", "usr/share/doc/rust-doc/html", ("main", "")),
}
LONGEST = 200_000  # characters of a text; what is longer is an index or a table
RUST_BOOKS = {"book", "reference", "rust-by-example", "nomicon", "cargo", "rustc", "edition-guide"}
OLD_BOOKS = {"2018-edition", "first-edition", "second-edition"}
SKIPPED = {"script", "style", "nav", "header", "footer", "noscript", "svg", "button", "aside"}
NAVIGATION = {"docnav", "headerlink", "banner", "nav-wrapper"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
BLOCKS = {"p", "div", "section", "article", "table", "tr", "ul", "ol", "dl", "dt", "dd", "li", "pre", "blockquote",
          "h1", "h2", "h3", "h4", "h5", "h6"}  # fmt: skip


class Page(HTMLParser):
    """The text of a page below one element: a blank line between blocks, white space kept in <pre>."""

    def __init__(self, start):
        super().__init__(convert_charrefs=True)
        self.start, self.open, self.text = start, [], []

    def handle_starttag(self, tag, attributes):
        if tag in BLOCKS or tag == "br":
            self.text.append("\n" if tag in ("br", "tr", "li", "dd") else "\n\n")
        if tag in VOID:
            return
        key, value = self.start
        begins = tag == key if not value else (key, value) in attributes
        shown = begins or (self.open[-1][1] if self.open else False)
        navigation = any(k in ("class", "id") and v and NAVIGATION & set(v.split()) for k, v in attributes)
        self.open.append((tag, shown and not navigation and tag not in SKIPPED))

    def handle_endtag(self, tag):
        if tag in BLOCKS:
            self.text.append("\n\n" if tag not in ("tr", "li", "dd") else "\n")
        if any(name == tag for name, _ in self.open):
            while self.open.pop()[0] != tag:
                pass

    def handle_data(self, data):
        if not self.open or not self.open[-1][1]:
            return
        code = any(name == "pre" for name, _ in self.open)
        self.text.append(data if code else re.sub(r"\s+", " ", data))


def text_of(path, start):
    """The text of a file, or None where it has none worth reading."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    if start:
        page = Page(start)
        page.feed(text)
        text = re.sub(r"[ \t]+\n", "\n", "".join(page.text))
        text = re.sub(r"\n +(?=\S)", "\n", text) if "\n    " not in text else text
        text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    lines = text.splitlines()
    if not 300 <= len(text) <= LONGEST or max(map(len, lines)) > 20_000:
        return None
    return text


def wanted(name, path):
    """Whether a path, relative to the source's folder, belongs to the corpus."""
    if name == "rust_docs":
        return path.suffix == ".html" and path.parts[0] in RUST_BOOKS and not OLD_BOOKS & set(path.parts)
    if name == "python_library":
        return path.suffix == ".py"
    index = {"genindex", "py-modindex", "search", "contents", "print"}
    return path.suffix == ".html" and path.stem.split("-")[0] not in index and not path.stem.startswith("ix")


def unpack(work, package, version, any_version):
    wanted_package = package if any_version else f"{package}={version}"
    done = subprocess.run(["apt-get", "download", wanted_package], cwd=work, capture_output=True, text=True)
    found = sorted(work.glob(f"{package}_*.deb"))
    if done.returncode != 0 or not found:
        sys.exit(f"{wanted_package} cannot be had: {done.stderr.strip()}\nhint: apt-get update, or --any-version")
    subprocess.run(["dpkg-deb", "-x", found[0], work / package], check=True)
    return work / package


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--any-version", action="store_true", help="take whatever version the package lists offer")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for name, (package, version, licence, folder, start) in SOURCES.items():
            root = unpack(Path(work), package, version, args.any_version) / folder
            paths = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file() and not p.is_symlink())
            rows, size, seen = [], 0, set()
            for path in filter(lambda p: wanted(name, p), paths):
                text = text_of(root / path, start)
                if text is None or text in seen:
                    continue
                seen.add(text)
                size += len(text.encode())
                lang = "python" if start is None else "en"
                rows.append({"id": f"{name}/{path}", "lang": lang, "licence": licence, "text": text})
            body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            out = args.folder / f"{name}.jsonl.gz"
            out.write_bytes(gzip.compress(body, mtime=0))
            print(f"{out}: {len(rows)} texts, {size} bytes, from {package} ({licence})")


main()
