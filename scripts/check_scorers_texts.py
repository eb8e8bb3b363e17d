"""Texts for the scorers of summaries, spans, options and calls, and what the official ones say of them, or Python that follows their rules; scripts/check-scorers.py runs it."""
import random
import re
import string
from collections import Counter

from check_scorers_common import found

# Where words, articles and punctuation are hard to tell.
HARD = [
    "The", "a", "", "An a the", "“The” end", "the—a", "l’an, the an", "über-the Straße", "a.b the.c", "ÉCOLE The école", "İstanbul the ΣΑΣ", "A_the the_a", "x\u00a0the\u2003y", "x\x1cthe\x1fy",
    "नमस्ते the दुनिया", "the2 2the", "don't the 'a'", "a" * 60, "€5 the $5", "CANNOTANSWER", "cannotanswer", "CANNOTANSWER.", "K the \u212a", "ﬁne the ﬁ",
]


def sentences(args):
    """English sentences of GSM8K (MIT)."""
    rows = [row.get("question") or row["context"] for row in found(args.data, "gsm8k/test*")]
    return [part for row in rows for part in re.split(r"(?<=[.?!]) +", row) if part]


def figure(number):
    return f"{number:.10f}"


class Texts:
    """Edits of sentences, some of which share words."""

    def __init__(self, args):
        self.random, self.sentences = random.Random(11), sentences(args)

    def edited(self, text):
        pick, words = self.random.choice, text.split(" ")
        for _ in range(self.random.randrange(4)):
            at = self.random.randrange(len(words))
            words[at : at + pick([0, 1])] = pick([[], [words[at].upper()], [words[at] + "s"], ["the"], [pick(self.sentences).split(" ")[0]], [words[at] + pick("ied ing ed ly es ation ness".split())]])
            words = words or ["x"]
        if self.random.random() < 0.3:
            words = words[self.random.randrange(len(words)) :]
        return " ".join(words)

    def span(self):
        """A few words, as answers are."""
        words = self.random.choice(self.sentences).split(" ")
        at = self.random.randrange(len(words))
        return " ".join(words[at : at + self.random.randrange(1, 6)])

    def told(self, line):
        return {name: figure(value) for name, value in sorted(line["scores"].items())}


class Rouge(Texts):
    """Google's `rouge_score`, with its stemmer and without."""

    file, scorer, recorded = "rouge.jsonl.zst", "rouge", 300

    def __init__(self, args):
        super().__init__(args)
        from rouge_score import rouge_scorer
        words = {word.lower().strip(string.punctuation) for sentence in self.sentences for word in sentence.split(" ")}
        self.words = sorted(word for word in words if word.isalpha() and word.isascii())
        self.scorers = {stem: rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem) for stem in (True, False)}

    def inflected(self, word):
        """Ends that the stemmer's steps look at, and letters in front of them."""
        ends = """s es ies ied ed ing eed y ly al ance ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize ational tional enci anci izer bli alli entli eli ousli ization ation ator alism
                  iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness e ll le ss sses ying yed""".split()
        return word[: self.random.randrange(1, len(word) + 1)] + self.random.choice(["", "", "t", "y", "ll", "at", "iz"]) + self.random.choice(ends)

    def samples(self, number):
        pick = self.random.choice
        for i in range(number):
            if i % 5 == 0:
                words = [pick(self.words) for _ in range(25)]
                texts = [" ".join(self.inflected(word) for word in words) for _ in range(2)]
                yield None, {"texts": texts, "stemmer": True}, " ".join(pick([self.inflected(word), word]) for word in words)
                continue
            at = self.random.randrange(len(self.sentences) - 4)
            text = " ".join(self.sentences[at : at + self.random.randrange(1, 5)])
            texts = [self.edited(text) for _ in range(self.random.randrange(1, 4))] + ([pick(HARD)] if i % 9 == 0 else [])
            yield None, {"texts": texts, "stemmer": bool(i % 2)}, pick(HARD) if i % 11 == 0 else self.edited(text)

    def official(self, _, reference, answer):
        each = [self.scorers[reference["stemmer"]].score(text, answer) for text in reference["texts"]]
        return {name: figure(max(one[name].fmeasure for one in each)) for name in ("rouge1", "rouge2", "rougeL")}

    def told(self, line):
        return {name: figure(line["scores"][name]) for name in ("rouge1", "rouge2", "rougeL")}


def normal_words(text):
    """SQuAD's words, by its rules: small letters, no ASCII punctuation, no articles that stand as words."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def common_f1(text, reference):
    said, wanted = normal_words(text), normal_words(reference)
    common = sum((Counter(said) & Counter(wanted)).values())
    if not common:
        return 0.0
    p, r = common / len(said), common / len(wanted)
    return 2 * p * r / (p + r)


class F1(Texts):
    """The rules of SQuAD 1.1's F1, as SCROLLS and InfiniteBench have it."""

    file, scorer, recorded = "f1.jsonl.zst", "f1", 300

    def samples(self, number):
        pick = self.random.choice
        for i in range(number):
            span = self.span()
            references = [pick([span, self.edited(span), self.span(), pick(HARD)]) for _ in range(self.random.randrange(1, 4))]
            yield None, references, pick([span, self.edited(span), pick(HARD), f" {span}.\n", pick(HARD) + " " + span])

    def official(self, _, references, answer):
        return {"f1": figure(max(common_f1(answer, reference) for reference in references))}


class Words(F1):
    """The rules of SQuAD 2.0, where nothing can be right."""

    file, scorer, recorded = "words.jsonl.zst", "words", 200

    def official(self, _, references, answer):
        said, wanted = normal_words(answer), [normal_words(reference) for reference in references]
        f1 = max(float(said == words) if not said or not words else common_f1(answer, reference) for words, reference in zip(wanted, references))
        return {"em": figure(said in wanted), "f1": figure(f1)}


class Quac(Texts):
    """The rules of QuAC's scorer.py."""

    file, scorer, recorded = "quac.jsonl.zst", "quac", 300

    def samples(self, number):
        pick = self.random.choice
        for _ in range(number):
            span = self.span()
            references = [pick([span, self.edited(span), self.span(), "CANNOTANSWER"]) for _ in range(self.random.randrange(1, 6))]
            yield None, references, pick([span, self.edited(span), "CANNOTANSWER", pick(references), pick(HARD), f" {pick(references)}\n"])

    def official(self, _, references, answer):
        answer, none = answer.strip(), "CANNOTANSWER"
        spans = [text for text in references if text != none]
        texts = [none] if len(references) - len(spans) >= len(spans) else spans
        one = lambda text: float(answer == none) if text == none else common_f1(answer, text)
        if len(texts) == 1:
            f1, person = one(texts[0]), 1.0
        else:
            others = [[text for j, text in enumerate(texts) if j != i] for i in range(len(texts))]
            f1 = sum(max(map(one, rest)) for rest in others) / len(texts)
            person = sum(max(common_f1(text, other) for other in rest) for text, rest in zip(texts, others)) / len(texts)
        return {"f1": figure(f1), "heq": figure(float(f1 >= person))}


class Option(Texts):
    """The rules by which InfiniteBench's compute_scores.py finds an option of En.MC."""

    file, scorer, recorded = "option.jsonl.zst", "option", 300

    def samples(self, number):
        pick = self.random.choice
        for _ in range(number):
            letter, name = pick("ABCD"), pick(["Tom", "Ann Lee", "A. Smith", "the B's", "Dr. C"])
            said = pick([letter, letter, pick("ABCD"), name, pick("ABCD") + pick("ABCDx")])
            yield None, [name, letter], pick(["{}", " {}", "{}.", "{}. x", "The answer is: {}", "the answer is {}!", "answer:{}", "answer:\n{}", "I pick option is '{}'", "It is \"{}\", x", "x {} y A", "\n\n{}",
                                              "no answer", "the answer is", "answer is:", "(x) {{{}}}", "The option is {}, answer: A", "z  {} "]).format(said)

    def official(self, _, labels, answer):
        if answer and answer[0] in "ABCD":
            return {"acc": figure(answer[0] in labels)}
        text = re.sub(" +", " ", re.sub("[\n\"'.,?!{}]", " ", answer))
        for before in ("answer is:", "answer:", "answer is", "option is"):
            if before in text:
                behind = text.partition(before)[2]
                return {"acc": figure(behind != "" and any(behind[1:].startswith(label) for label in labels))}
        first = next((word for word in text.split() if word in "ABCD"), None)
        return {"acc": figure(first in labels)}


class Nexus:
    """Calls that Python makes, with functions that write down what they are given, as NexusRaven-V2's notebook does."""

    file, scorer, recorded = "nexus.jsonl.zst", "nexus", 300
    functions = {
        "search": "search(name=None, exact=None, limit: int = 5, start=None)", "report": "report(ip: str, key: str)", "near": "near(kind: list, place: Dict[str, int], miles: int = 50) -> List[Dict]",
        "where": "where() -> str", "sort": "sort(places, by: str = 'rank', up: bool = True)", "lat_long": "lat_long(location: str) -> tuple",
    }
    made = {"search": ["name", "exact", "limit", "start"], "report": ["ip", "key"], "near": ["kind", "place", "miles"], "where": [], "sort": ["places", "by", "up"], "lat_long": ["location"]}
    needed = {"report": 2, "near": 2, "sort": 1, "lat_long": 1}

    def __init__(self, args):
        self.random = random.Random(12)

    def value(self, deep):
        pick = self.random.choice
        if deep < 2 and self.random.random() < 0.3:
            return self.call(deep + 1)
        return pick(["1", "50", "5.0", "0", "-3", "None", "True", "False", "'x'", '"x"', "''", "[]", "['a', 'b']", "('a', 1)", "{'k': [1]}", "'it\\'s'", "'x; y'", "\"f(1)\"", "(2)", "[1, 2,]"])

    def call(self, deep=0):
        name = self.random.choice(list(self.functions))
        names = self.made[name]
        number = self.random.randint(self.needed.get(name, 0), len(names))
        places = self.random.randint(0, number)
        given = [self.value(deep) for _ in names[:places]]
        rest = names[places:number]
        self.random.shuffle(rest)
        return f"{name}({', '.join(given + [f'{key}{self.random.choice([chr(61), chr(32) + chr(61) + chr(32)])}{self.value(deep)}' for key in rest])})"

    def samples(self, number):
        for i in range(number):
            calls = "; ".join(self.call() for _ in range(self.random.choice([1, 1, 2, 3])))
            yield None, {"calls": calls, "functions": list(self.functions.values()), "skip_empty": bool(i % 2)}, self.edited(calls)

    def edited(self, calls):
        pick = self.random.choice
        edits = [("'x'", '"x"'), ("; ", "\n"), ("1", "2"), ("1", "True"), ("None", "0"), ("5.0", "5"), ("; ", ";"), (")", ",)"), ("(", "( "), ("search", "seek"), (", ", ",  "), ("up=", "by="), ("50", "fifty")]
        for _ in range(pick([0, 0, 1, 1, 2])):
            calls = calls.replace(*pick(edits), pick([1, -1]))
        return pick(["{}"] * 6 + [" {}\n", "{};", "{} # x", "{}; nothing(1)", "{}; sort()", "{} shows it", "{}(", "Sure: {}", "{}; x", "where(); {}", "5; {}", "{}\n\n{}"]).replace("{}", calls)

    def run(self, text, skip_empty):
        made, names = [], {}
        for name, line in self.functions.items():
            def heard(given, name=name):
                made.append((name, {key: value for key, value in given.items() if value or not skip_empty}))
            names[f"heard_{name}"] = heard
            exec(f"from typing import *\ndef {line}:\n    heard_{name}(dict(locals()))", names)
        try:
            exec(text, names)
        except Exception:
            pass
        return made

    def official(self, _, reference, answer):
        answer = answer.strip()
        said = self.run(answer, reference["skip_empty"]) if re.match(r"\w+\(.*\)", answer) else []
        return bool(said) and said == self.run(reference["calls"], reference["skip_empty"])

    def told(self, line):
        return line["scores"]["accuracy"] == 1.0


class ApiBank(Texts):
    """Calls as API-Bank's patterns find them, arguments compared as texts or by Google's `rouge_score`."""

    file, scorer, recorded = "api_bank.jsonl.zst", "api_bank", 300

    def __init__(self, args):
        super().__init__(args)
        from rouge_score import rouge_scorer
        self.rouge = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)

    def call(self):
        pick = self.random.choice
        keys = self.random.sample(["token", "content", "time", "keywords", "n", "of"], self.random.randrange(1, 5))
        value = lambda key: {"n": "3", "of": "['x', 'y']"}.get(key) or repr(self.span().replace("'", "").replace('"', "") or "x")
        return pick(["Add", "Find_It"]), {key: value(key) for key in keys}

    def samples(self, number):
        pick = self.random.choice
        for _ in range(number):
            name, given = self.call()
            write = lambda name, given: f"[{name}({', '.join(f'{key}{pick([chr(61), chr(32) + chr(61)])}{value}' for key, value in given.items())})]"
            right = write(name, given)
            other = dict(given)
            if self.random.random() < 0.7:
                key = pick(list(other))
                other[key] = pick([repr(self.edited(other[key].strip("'")).replace("'", "") or "y"), other[key].replace("'", '"'), "7"])
            if self.random.random() < 0.2:
                other.pop(pick(list(other)))
            said = pick(["{}"] * 5 + ["API-Request: {}", "Sure.\n{}\nDone.", "no call", "{} [Add(n=1)]"]).replace("{}", write(pick([name] * 8 + ["Add"]), other))
            yield None, {"call": f"API-Request: {right}", "free": ["content", "keywords"], "least": 0.5}, said

    @staticmethod
    def read(text):
        found = re.search(r"\[(\w+)\((.*)\)\]", text)
        if not found:
            return None
        given = {}
        for match in re.finditer(r"""(\w+)\s*=\s*['"](.+?)['"]|(\w+)\s*=\s*(\[.*\])|(\w+)\s*=\s*(\w+)""", found[2]):
            key, value = [part for part in match.groups() if part is not None]
            given[key] = value
        return found[1], given

    def official(self, _, reference, answer):
        right, said = self.read(reference["call"]), self.read(answer)
        if not said or said[0] != right[0] or said[1].keys() != right[1].keys():
            return {"accuracy": figure(0), "shared": figure(0)}
        shares, exact = [], True
        for key, value in sorted(right[1].items()):
            same = said[1][key].strip() == value.strip()
            if key in reference["free"]:
                shares.append(1.0 if same else self.rouge.score(value, said[1][key])["rougeL"].fmeasure)
            else:
                exact = exact and same
        share = sum(shares) / len(shares) if shares else 1.0
        return {"accuracy": figure(exact and all(one >= reference["least"] for one in shares)), "shared": figure(share if exact else 0)}


TEXTS = {"rouge": Rouge, "f1": F1, "words": Words, "quac": Quac, "option": Option, "nexus": Nexus, "api_bank": ApiBank}
