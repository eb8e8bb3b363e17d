"""Compares Herd's rendered chats with Meta's code and with Jinja, on random dialogues with tools.

Usage: pip install llama-models==0.3.0 jinja2==3.1.6
       cargo build --release -p herd-codec --example render_chat
       python scripts/check-chat.py target/release/examples/render_chat TEMPLATES [DIALOGUES] [SEED]

TEMPLATES is the folder vendor/llama.cpp/models/templates of the source package
llama-cpp-python==0.3.36. Exits 1 and prints the first difference if there is any. With Meta's code
the ids are compared, token by token: both sides use the tokenizer in llama-models.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "testdata"))
import record_chat as reference  # noqa: E402
from llama_models.llama3.tokenizer import Tokenizer  # noqa: E402

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def herd(program, requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    run = subprocess.run([program], input=lines.encode(), capture_output=True, check=True)
    return [json.loads(line) for line in run.stdout.decode().split("\n") if line]


def ids(tokenizer, spans):
    out = []
    for kind, text, *_ in spans:
        if kind == "control":
            out.append(reference.IMAGE_ID if text == "<|image|>" else tokenizer.special_tokens[text])
        else:
            out.extend(tokenizer.encode(text, bos=False, eos=False))
    return out


def joined(spans):
    out = []
    for kind, text, *_ in spans:
        if out and kind == "text" == out[-1][0]:
            out[-1][1] += text
        else:
            out.append([kind, text])
    return out


def differ(what, case, ours, theirs):
    sys.exit(f"{what} differs\ncase   {json.dumps(case)}\nours   {ours}\ntheirs {theirs}")


def check_meta(program, generator, count):
    tokenizer = Tokenizer.get_instance()
    formats = ["json", "function_tag", "python_list"]
    cases = [(formats[i % 3], reference.dialogue(generator)) for i in range(count)]
    requests = [{"format": f"llama31-{tools}", "dialogue": case} for tools, case in cases]
    tokens = 0
    for (tools, case), ours in zip(cases, herd(program, requests), strict=True):
        theirs = reference.meta(tokenizer, case["messages"], tools)
        if "error" in ours or ids(tokenizer, ours) != theirs:
            differ("Meta's code", case, ours, reference.meta_spans(case["messages"], tools))
        tokens += len(theirs)
    print(f"Meta's code: {count} dialogues, {tokens} tokens, all equal")


def check_templates(program, templates, generator, count):
    """Native formats, and the same templates through minijinja, against Jinja."""
    for version, file in reference.TEMPLATE_FILES.items():
        source = (Path(templates) / file).read_text()
        through = {"source": source, "controls": reference.CONTROLS, "bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}
        cases, theirs, refused = [], [], 0
        while len(cases) < count:
            case = reference.template_case(generator, version)
            try:
                theirs.append(reference.of_template(source, case))
                cases.append(case)
            except Exception:
                refused += 1
        jinja = [{"template": through, **{k: v for k, v in case.items() if k != "format"}} for case in cases]
        for name, requests in [("native", cases), ("minijinja", jinja)]:
            for case, ours, expected in zip(cases, herd(program, requests), theirs, strict=True):
                if "error" in ours or joined(ours) != expected:
                    differ(f"{version} ({name})", case, ours, expected)
        print(f"{file}: {count} dialogues, native and minijinja, all equal ({refused} that it refuses not counted)")


def check_chatml(program, generator, count):
    through = {"source": SMOLLM2, "controls": reference.CONTROLS, "bos": "<|im_start|>", "eos": "<|im_end|>"}
    cases, theirs = [], []
    for _ in range(count):
        messages = [{"role": generator.choice(["system", "user", "assistant"]), "content": reference.text(generator, False)}
                    for _ in range(generator.randrange(1, 6))]
        cases.append({"dialogue": {"messages": messages}, "closed": generator.random() < 0.5})
        theirs.append(reference.template_spans(SMOLLM2, cases[-1]["dialogue"], cases[-1]["closed"]))
    for extra in [{"format": "smollm2"}, {"template": through}]:
        answers = herd(program, [case | extra for case in cases])
        for case, ours, expected in zip(cases, answers, theirs, strict=True):
            if "error" in ours or joined(ours) != expected:
                differ(f"SmolLM2 by {list(extra)[0]}", case, ours, expected)
    print(f"SmolLM2: {count} dialogues, native and minijinja, all equal")


def check_known(program, templates):
    """Which published templates are native formats."""
    known = {}
    for file in sorted(Path(templates).glob("*.jinja")):
        through = {"source": file.read_text(), "controls": reference.CONTROLS,
                   "bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}
        [name] = herd(program, [{"template": through, "know": True}])
        if isinstance(name, str):
            known.setdefault(name, []).append(file.stem)
    if [v[:1] for v in known.values()] != [["meta-llama-Llama-3.1-8B-Instruct"], ["meta-llama-Llama-3.2-3B-Instruct"]]:
        sys.exit(f"templates known as native: {known}")
    print("known as native:", known)


def check_all_templates(program, templates):
    """Every published template on one dialogue: equal to Jinja, or named."""
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi é"},
                {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]
    case = {"dialogue": {"messages": messages}, "closed": False, "date": "2026-02-03"}
    equal, other = 0, []
    for file in sorted(Path(templates).glob("*.jinja")):
        source = file.read_text()
        try:
            expected = reference.template_spans(source, case["dialogue"], date=case["date"])
        except Exception:
            continue
        through = {"source": source, "controls": reference.CONTROLS, "bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}
        [ours] = herd(program, [case | {"template": through}])
        if "error" not in ours and joined(ours) == expected:
            equal += 1
        else:
            other.append(f"{file.stem}: {ours['error'] if 'error' in ours else 'other text'}")
    print(f"other templates: {equal} equal to Jinja on one dialogue; not equal:", *(other or ["none"]), sep="\n  ")


def main(program, templates, count="1000", seed="7"):
    generator, count = random.Random(int(seed)), int(count)
    check_meta(program, generator, count)
    check_templates(program, templates, generator, count)
    check_chatml(program, generator, count)
    check_known(program, templates)
    check_all_templates(program, templates)


if __name__ == "__main__":
    main(*sys.argv[1:])
