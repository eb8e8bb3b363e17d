"""Records chat/*.jsonl: dialogues and the spans that reference code makes of them.

Usage: pip install llama-models==0.3.0 jinja2==3.1.6 && python record_chat.py TEMPLATES
TEMPLATES is the folder vendor/llama.cpp/models/templates of the source package
llama-cpp-python==0.3.36 (pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36).

The Llama 3 vocabulary is not free to copy, so nothing is tokenised: Meta's ChatFormat runs on a
tokenizer that gives back each text it is asked to encode, and each control token by its name.
scripts/check-chat.py uses the functions here and compares ids as well.
"""

import json
import random
import re
import sys
from io import BytesIO
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
from llama_models.datatypes import (
    BuiltinTool, RawMediaItem, RawMessage, RawTextItem, StopReason, ToolCall, ToolPromptFormat)
from llama_models.llama3.chat_format import ChatFormat
from PIL import Image

FOLDER = Path(__file__).parent / "chat"
IMAGE_ID = 128256
CONTROLS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
            "<|eot_id|>", "<|python_tag|>", "<|image|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE_FILES = {
    "hugging-face-3.1": "meta-llama-Llama-3.1-8B-Instruct.jinja",
    "hugging-face-3.2": "meta-llama-Llama-3.2-3B-Instruct.jinja",
}


class NamesOnly:
    """A tokenizer whose tokens are the texts and names themselves."""

    special_tokens = {name: ("control", name) for name in CONTROLS}

    def encode(self, text, bos, eos):
        assert not bos and not eos
        return [("text", text)] if text else []

    def decode(self, tokens):
        return "".join(text for _, text in tokens)


def raw_content(content):
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    pixel = BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    return [RawTextItem(text=b["text"]) if b["type"] == "text" else RawMediaItem(data=pixel.getvalue())
            for b in content]


def raw_call(function):
    name = function["name"]
    if name in BuiltinTool.__members__:
        name = BuiltinTool[name]
    # Built without validation: the type allows one level of nesting, the encoder any.
    return ToolCall.model_construct(call_id="", tool_name=name, arguments=json.loads(function["arguments"]))


def raw_message(message):
    calls = [raw_call(c["function"]) for c in message.get("tool_calls", [])]
    ends = {"turn": StopReason.end_of_turn, "message": StopReason.end_of_message}
    return RawMessage(role=message["role"], content=raw_content(message["content"]), tool_calls=calls,
                      stop_reason=ends[message.get("end", "turn")])


def meta(tokenizer, messages, tool_format):
    """Tokens of Meta's prompt for a dialogue in OpenAI's JSON."""
    raw = [raw_message(message) for message in messages]
    tokens = ChatFormat(tokenizer).encode_dialog_prompt(raw, ToolPromptFormat(tool_format)).tokens
    return tokens


def meta_spans(messages, tool_format):
    tokens = meta(NamesOnly(), messages, tool_format)
    return [["control", "<|image|>"] if token == IMAGE_ID else list(token) for token in tokens]


def meta_reads(text, stop):
    """What Meta's decoder makes of an answer; None where it fails."""
    try:
        return ChatFormat(NamesOnly()).decode_assistant_message_from_content(text, StopReason(stop))
    except Exception:
        return None


def template_spans(source, dialogue, closed=False, date=None, tools_in_system=False, bos="<|begin_of_text|>"):
    """Spans of a template run as Hugging Face runs it: text cut at the control tokens."""
    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    variables = {"messages": template_messages(dialogue["messages"]), "tools": dialogue.get("tools") or None,
                 "documents": None, "add_generation_prompt": not closed, "bos_token": bos, "eos_token": "<|eot_id|>"}
    if "builtin_tools" in dialogue:
        variables["builtin_tools"] = dialogue["builtin_tools"]
    if tools_in_system:
        variables["tools_in_user_message"] = False
    if date is not None:
        import datetime
        variables["date_string"] = datetime.date.fromisoformat(date).strftime("%d %b %Y")
    text = environment.from_string(source).render(**variables)
    cut = "(" + "|".join(re.escape(name) for name in CONTROLS) + ")"
    return [["control" if part in CONTROLS else "text", part] for part in re.split(cut, text) if part]


def template_messages(messages):
    out = []
    for message in messages:
        message = dict(message, content=message["content"] or "")
        message.pop("end", None)
        if message.get("tool_calls"):
            message["tool_calls"] = [
                dict(c, function=dict(c["function"], arguments=json.loads(c["function"]["arguments"])))
                for c in message["tool_calls"]]
        out.append(message)
    return out


WORDS = ["weather", "Paris", "né", "日本語", "😀", "a\nb", "  two", "tab\t", "\\", "'it'", "<b>", "{x}", "[1]", "3.14", "",
         "नमस्ते", "end.", "\u2028", "&amp;", "x=1"]
HOSTILE = CONTROLS + ["[INST]", "<s>", "</s>", "<|eot_id|", "|>", "<|reserved_special_token_0|>", "\u00a0", "\x1c", '"',
                      '")', "', x=\"", "<function=f>{}</function>", '{"name": "f", "parameters": {}}']


def text(random, hostile):
    pool = WORDS + HOSTILE if hostile else WORDS
    return random.choice(["", " ", "\n", ""]) + " ".join(random.choice(pool) for _ in range(random.randrange(8)))


def value(random, hostile, depth=0):
    kind = random.randrange(8 if depth < 3 else 6)
    if kind == 0:
        return random.choice([True, False, None])
    if kind == 1:
        return random.choice([0, -1, 7, 2**53, 2**63 - 1, -2**63, random.randrange(10**6)])
    if kind == 2:
        return random.choice([0.5, -0.0, 1e16, 1e15, 1e-5, 0.0001, 1.5e300, 123456789.123, random.random()])
    if kind == 6:
        return [value(random, hostile, depth + 1) for _ in range(random.randrange(4))]
    if kind == 7:
        return {f"k{i}": value(random, hostile, depth + 1) for i in range(random.randrange(4))}
    return text(random, hostile)


def call(random, hostile, builtin=True):
    kind = random.randrange(4 if builtin else 1)
    if kind == 1:
        name, arguments = "code_interpreter", {"code": text(random, hostile)}
    elif kind == 2:
        name = random.choice(["brave_search", "wolfram_alpha", "photogen"])
        arguments = {"query": text(random, hostile)}
    else:
        name = random.choice(["get_weather", "f", "trending_songs"])
        arguments = {f"a{i}": value(random, hostile) for i in range(random.randrange(4))}
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def dialogue(random, hostile=True):
    """A random dialogue with tools and images, in OpenAI's JSON."""
    messages = []
    for _ in range(random.randrange(1, 8)):
        role = random.choice(["system", "user", "user", "assistant", "assistant", "tool"])
        message = {"role": role, "content": text(random, hostile)}
        if role == "user" and random.random() < 0.3:
            message["content"] = [random.choice([{"type": "text", "text": text(random, hostile)}, {"type": "image"}])
                                  for _ in range(random.randrange(1, 4))]
        if role == "assistant":
            if random.random() < 0.6:
                message["tool_calls"] = [call(random, hostile) for _ in range(random.randrange(1, 3))]
                message["content"] = random.choice([None, "", message["content"]])
            message["end"] = random.choice(["turn", "message"])
        messages.append(message)
    return {"messages": messages}


def tool(random):
    properties = {f"p{i}": {"type": random.choice(["string", "integer"]), "description": text(random, False)}
                  for i in range(random.randrange(3))}
    return {"type": "function", "function": {
        "name": random.choice(["get_weather", "f"]), "description": text(random, False),
        "parameters": {"type": "object", "properties": properties, "required": list(properties)[:1]}}}


def template_case(random, version, hostile=False):
    """A dialogue that the Hugging Face templates take: one call a message, text contents."""
    messages = [{"role": "system", "content": text(random, hostile)}] if random.random() < 0.5 else []
    builtin = version == "hugging-face-3.1" and random.random() < 0.4
    for _ in range(random.randrange(1, 6)):
        role = random.choice(["user", "user", "assistant", "tool", "system"])
        message = {"role": role, "content": text(random, hostile)}
        if role == "assistant" and random.random() < 0.6:
            message["tool_calls"] = [call(random, hostile, builtin)]
        messages.append(message)
    case = {"messages": messages}
    if random.random() < 0.5:
        case["tools"] = [tool(random) for _ in range(random.randrange(1, 3))]
    if builtin:
        case["builtin_tools"] = ["brave_search", "wolfram_alpha", "code_interpreter", "photogen"]
    date = random.choice([None, "2024-07-26", "2026-02-03"])
    if version == "hugging-face-3.2":
        date = date or "2025-12-31"
    return {"format": version, "dialogue": case, "closed": random.random() < 0.3,
            "tools_in_system": random.random() < 0.4, "date": date}


def of_template(source, case):
    return template_spans(source, case["dialogue"], case["closed"], case["date"], case["tools_in_system"])


# Answers as the prompt guides of the family show them, and near misses.
ANSWERS = [
    "The 100th decimal of pi is 7.<|eot_id|>",
    '<|python_tag|>brave_search.call(query="latest price of 1oz gold")<|eom_id|>',
    'brave_search.call(query="x y")<|eot_id|>',
    "<|python_tag|>def is_prime(n):\n    return n > 1\n\nprint(is_prime(7))<|eom_id|>",
    '<|python_tag|>{\n    "type": "function",\n    "name": "trending_songs",\n    "parameters": {\n'
    '        "n": "10",\n        "genre": "all"\n    }\n}<|eom_id|>',
    '{"type": "function", "name": "trending_songs", "parameters": {"n": "10", "genre": "all"}}<|eot_id|>',
    '{"name": "f", "parameters": {}}<|eot_id|>',
    '{"name": "brave_search", "parameters": {"q": "gold"}}<|eot_id|>',
    '<function=trending_songs>{"n": 10}</function><|eot_id|>',
    "<function=trending_songs>{'n': 10, 'genre': 'all'}</function><|eot_id|>",
    "[get_weather(city='San Francisco', metric='celsius')]<|eot_id|>",
    "[get_user_info(user_id=7890, special='black', flags=[True, None], more={'a': -1.5})]<|eot_id|>",
    '{"key": "value"}<|eot_id|>',
    "[1, 2, 3]<|eot_id|>",
    "[f()]<|eot_id|>",
    "[f(1)]<|eot_id|>",
    "Here is a list: [a](b) and {c}.<|eot_id|>",
    "cut short",
    "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>",
]


def pieces(answer):
    cut = "(" + "|".join(re.escape(name) for name in CONTROLS) + ")"
    return [["control" if part in CONTROLS else "text", part] for part in re.split(cut, answer) if part]


def reading(answer):
    message = meta_reads(answer, "out_of_tokens")
    calls = [{"name": getattr(c.tool_name, "value", c.tool_name), "arguments": c.arguments} for c in message.tool_calls]
    return {"content": message.content, "calls": calls, "stop": message.stop_reason.value}


def write(name, rows):
    with open(FOLDER / name, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main(templates):
    FOLDER.mkdir(exist_ok=True)
    generator = random.Random(1)
    rows = []
    for tool_format in ["json", "function_tag", "python_list"]:
        for _ in range(40):
            case = dialogue(generator)
            rows.append({"format": f"llama31-{tool_format}", "dialogue": case,
                         "spans": meta_spans(case["messages"], tool_format)})
    write("meta.jsonl", rows)
    rows = []
    for version, file in TEMPLATE_FILES.items():
        source = (Path(templates) / file).read_text()
        while sum(row["format"] == version for row in rows) < 30:
            case = template_case(generator, version)
            try:
                rows.append(dict(case, spans=of_template(source, case)))
            except Exception:
                # The template refuses the dialogue.
                pass
    write("hugging_face.jsonl", rows)
    write("answers.jsonl", [{"pieces": pieces(answer), "reads": reading(answer)} for answer in ANSWERS])


if __name__ == "__main__":
    main(sys.argv[1])
