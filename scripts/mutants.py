#!/usr/bin/env python3
"""Break the engine in small ways, one at a time, and see that its tests notice: what holds "the same bits" must be able to fail.

usage: scripts/mutants.py [--only WORDS] [--list]

Each change is made to a copy of the repository (target/mutants), whose `cargo test -p herd-engine` must then fail; the copy as it is must
pass. A change whose text is not found exactly once is an error: the list is to follow the code. Closes with 'N noticed, N missed'.
"""
import argparse
import os
import shutil
import signal
import subprocess
import sys

from common import REPOSITORY

ENGINE = "crates/engine/src/"
# Seconds after which tests that are built and run do not end at all: they take some 60.
HANGS = 400
# What is broken, the file, what stands there, and what is put in its place.
MUTANTS = [
    ("preempted: its lost pages count as computed", "schedule.rs", "(table, covered);\n        if", "(table, covered.max(job.seen.min(job.tokens.len() - 1)));\n        if"),
    ("preempted: its pages are not given back", "schedule.rs", "self.pages.release(take(&mut job.table));\n        (job", "take(&mut job.table);\n        (job"),
    ("preempted: it does not come again", "schedule.rs", "        self.preempted += 1;\n        self.queue.push(job);", "        self.preempted += 1;\n        drop(job);"),
    ("the higher rank is stopped instead of the lower", "schedule.rs", "self.running[i].rank() < rank", "self.running[i].rank() > rank"),
    ("a job is let in that leaves the others no page", "schedule.rs", "let room = missing + others <= self.pages.available();", "let room = missing <= self.pages.available() + others;"),
    ("who waits for another's pages does not", "schedule.rs", "r.will_fill(job.reusable()) >= known + worth", "r.will_fill(job.reusable()) >= known + worth + (1 << 20)"),
    ("positions of a piece begin anew", "schedule.rs", "range.map(|p| p as u32)", "range.map(|p| (p - job.computed) as u32)"),
    ("logits of a proposal are those of the row before", "job.rs", "logits_tv.row(first + place)", "logits_tv.row(first + place.saturating_sub(1))"),
    ("a wrong proposal stays in the cache", "job.rs", "            if outcome.finish.is_some() || !right {", "            self.computed += usize::from(!right && place < proposed.len());\n            if outcome.finish.is_some() || !right {"),
    ("a wrong proposal is taken for right", "job.rs", "proposed.get(place) == Some(&token.id)", "proposed.get(place).is_some()"),
    ("an answer goes on behind its end in a proposal", "job.rs", "if outcome.finish.is_some() || !right {", "if !right {"),
    ("the draft keeps what was not chosen", "job.rs", "self.drafted = self.drafted.min(self.computed);", ""),
    ("all proposals are thought right", "speculate.rs", "if right >= proposed {", "if right <= proposed {"),
    ("a page's name is without the pages before it", "pages.rs", "hash.update(self.before(table));", "hash.update(self.root);"),
    ("a page's name is without its last token", "pages.rs", "tokens[from..from + self.page_len].iter()", "tokens[from..from + self.page_len - 1].iter()"),
    ("a page in use is given away", "pages.rs", "            if entry.users > 0 {\n                continue;\n            }\n", ""),
    ("a page is known before it is full", "pages.rs", "(table.names.len() + 1) * self.page_len <= tokens.len()", "(table.names.len() + 1) * self.page_len <= tokens.len() + 1"),
    ("a page that is used again keeps its old name", "pages.rs", "            self.index.remove(&name);\n", "            let _ = &name;\n"),
    ("a page that is copied is thought to begin with more", "pages.rs", ".take_while(|(a, b)| a == b).count())", ".count())"),
    ("what a page began with is still known of another", "pages.rs", "        self.unknow(page);\n        page\n", "        page\n"),
    ("parts of pages behind other pages are copied", "pages.rs", "self.after.get(&self.before(table))?", "self.after.get(&self.root)?"),
    ("a page is copied to a wrong place", "schedule.rs", "table.pages[covered / page_len]", "table.pages[covered / page_len / 2]"),
    ("pages of a file are not checked", "shelf.rs", "head[..MAGIC.len()] != MAGIC || head[MAGIC.len()..] != sum(name, &bytes)", "head[..MAGIC.len()] != MAGIC"),
    ("tenants do not take turns", "queue.rs", "self.turns.insert(job.request.tenant, self.clock);", ""),
    ("the lower rank waits for ever", "queue.rs", "                other.passed += 1;\n", ""),
]


def passes(folder, target):
    """Whether the tests pass; tests that do not end do not."""
    command = ["cargo", "test", "-q", "-p", "herd-engine", "--locked"]
    tests = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                             env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    try:
        return tests.wait(HANGS) == 0
    except subprocess.TimeoutExpired:
        os.killpg(tests.pid, signal.SIGKILL)
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORDS")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if args.only in mutant[0]]
    if args.list:
        print("\n".join(name for name, *_ in chosen))
        return
    home = REPOSITORY / "target" / "mutants"
    copy = home / "repository"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns("target", ".git"))
    for file in (copy / ENGINE).glob("*.rs"):
        file.touch()  # what a stopped run of this script built is built again
    if not passes(copy, home / "target"):
        sys.exit("the tests fail before anything is broken")
    missed = 0
    for name, file, old, new in chosen:
        path = copy / ENGINE / file
        text = path.read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: {file} has {text.count(old)} places with {old!r}")
        path.write_text(text.replace(old, new))
        held = passes(copy, home / "target")
        path.write_text(text)
        missed += held
        print(f"{'MISSED ' if held else 'noticed'}  {name}", flush=True)
    print(f"{len(chosen) - missed} noticed, {missed} missed")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
