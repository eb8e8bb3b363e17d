//! Properties of chats: hostile text makes no control id, parsing undoes rendering, cuts change
//! nothing, and hostile templates and answers end in time.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use herd_codec::chat::{
    Block, CallForms, ChatError, ChatFormat, Delta, Dialogue, EndOf, Message, Piece, RenderOptions,
    Role, SMOLLM2_SYSTEM, Span, StreamParser, Template, ToolCall, ToolFormat, parse_assistant,
    pieces, spans_to_ids,
};
use serde_json::{Map, Value, json};

/// SplitMix64, so that a failure names its seed and comes again.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn text(&mut self, pool: &[&str]) -> String {
        (0..self.below(6)).map(|_| self.pick(pool)).collect()
    }
}

const CONTROLS: [&str; 14] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<step>",
    "<|reserved_special_token_0|>",
];

/// Text that spells control tokens, whole and in parts, and the private marks of templates.
const HOSTILE: [&str; 32] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<step>",
    "<|reserved_special_token_0|>",
    "<|",
    "|>",
    "eot_id",
    "<|eot_id|",
    "im_end|>",
    "system",
    "\n\n",
    " ",
    "{{ bos_token }}",
    "{% raw %}",
    "\u{f0000}",
    "\u{f0001}",
    "\u{f0005}",
    "\u{10fffd}",
    "\u{0}",
    "é",
    "\"",
    "assistant",
];

fn hostile_dialogue(rng: &mut Rng, calls: bool) -> Dialogue {
    let turns = 1 + 2 * rng.below(3);
    let mut messages = Vec::new();
    if rng.below(2) == 0 {
        messages.push(Message::new(Role::System, rng.text(&HOSTILE)));
    }
    for turn in 0..turns {
        let role = if turn % 2 == 0 { Role::User } else { Role::Assistant };
        let mut message = Message::new(role, rng.text(&HOSTILE));
        message.name = Some(rng.text(&HOSTILE));
        if calls && role == Role::Assistant && rng.below(2) == 0 {
            let arguments = Map::from_iter([(rng.text(&HOSTILE), json!(rng.text(&HOSTILE)))]);
            message.tool_calls = vec![ToolCall { id: None, name: rng.text(&HOSTILE), arguments }];
        }
        messages.push(message);
    }
    Dialogue::from(messages)
}

/// Control ids of a rendering, by a toy tokenizer whose texts are their bytes.
fn control_ids(spans: &[Span]) -> usize {
    let control =
        |name: &str| CONTROLS.iter().position(|control| *control == name).map(|i| 256 + i as u32);
    let bytes = |text: &str| text.bytes().map(u32::from).collect();
    let encoded = spans_to_ids(spans, bytes, control).unwrap();
    assert_eq!(encoded.runs.last().unwrap().ids.end, encoded.ids.len());
    encoded.ids.iter().filter(|id| **id >= 256).count()
}

/// Control tokens that the structure of a dialogue asks for.
fn expected(format: &ChatFormat, dialogue: &Dialogue) -> usize {
    let messages = dialogue.messages.len();
    let system = usize::from(dialogue.messages[0].role == Role::System);
    match format {
        ChatFormat::Llama2 => messages - system,
        ChatFormat::CodeLlama70b => 1 + messages + (1 - system),
        ChatFormat::Llama3 | ChatFormat::Llama31 { .. } => 1 + 3 * messages + 2,
        ChatFormat::HuggingFace31 | ChatFormat::HuggingFace32 => {
            1 + 3 * (messages + 1 - system) + 2
        }
        ChatFormat::ChatMl { system: None } => 2 * messages + 1,
        ChatFormat::ChatMl { system: Some(_) } => 2 * (messages + 1 - system) + 1,
        ChatFormat::Template(_) => unreachable!("counted beside ChatML"),
    }
}

#[test]
fn a_hundred_thousand_hostile_dialogues_yield_no_extra_control_id() {
    let formats = [
        ChatFormat::Llama2,
        ChatFormat::CodeLlama70b,
        ChatFormat::Llama3,
        ChatFormat::Llama31 { tools: ToolFormat::Json },
        ChatFormat::Llama31 { tools: ToolFormat::FunctionTag },
        ChatFormat::Llama31 { tools: ToolFormat::PythonList },
        ChatFormat::HuggingFace31,
        ChatFormat::HuggingFace32,
        ChatFormat::ChatMl { system: None },
        ChatFormat::ChatMl { system: Some(SMOLLM2_SYSTEM.to_string()) },
    ];
    let mut rng = Rng(1);
    let (mut rendered, mut refused) = (0, 0);
    while rendered < 100_000 {
        let format = &formats[rendered % formats.len()];
        let tools = matches!(
            format,
            ChatFormat::Llama31 { .. } | ChatFormat::HuggingFace31 | ChatFormat::HuggingFace32
        );
        let dialogue = hostile_dialogue(&mut rng, tools);
        match format.render(&dialogue, &RenderOptions::PROMPT) {
            Ok(spans) => {
                assert_eq!(control_ids(&spans), expected(format, &dialogue), "{dialogue:?}");
                rendered += 1;
            }
            Err(ChatError::ReservedTag { tag: "<step>", .. }) => refused += 1,
            Err(error) => panic!("{error}: {dialogue:?}"),
        }
    }
    assert!(refused > 0);
}

const CHATML: &str = "{%- for message in messages -%}\n<|im_start|>{{ message.role }}\n\
    {%- if message.name == 'x' %} never {% endif %}\n{{ '\n' ~ message.content | trim }}\
    {%- for call in message.tool_calls %}{{ call | tojson }}{% endfor %}<|im_end|>\n\
    {%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>' + 'assistant' }}{% endif %}";

#[test]
fn hostile_text_makes_no_control_id_through_a_template() {
    let template = Template::new(CHATML, &CONTROLS, Some("<s>"), Some("<|im_end|>")).unwrap();
    let template = ChatFormat::Template(Box::new(template));
    let mut rng = Rng(2);
    for _ in 0..2_000 {
        let dialogue = hostile_dialogue(&mut rng, true);
        let spans = template.render(&dialogue, &RenderOptions::PROMPT).unwrap();
        assert_eq!(control_ids(&spans), 2 * dialogue.messages.len() + 1, "{dialogue:?}");
    }
}

#[test]
fn a_control_token_spelled_of_parts_is_text() {
    let source = "{{ '<|' + 'im_end|>' }}{{ messages[0].content }}im_end|><|im_end|>";
    let template = Template::new(source, &CONTROLS, None, None).unwrap();
    let dialogue = Dialogue::from(vec![Message::new(Role::User, "<|")]);
    let template = ChatFormat::Template(Box::new(template));
    let spans = template.render(&dialogue, &RenderOptions::PROMPT).unwrap();
    assert_eq!(control_ids(&spans), 1);
}

#[test]
fn generation_blocks_mark_what_the_assistant_says() {
    let source = "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}<|im_end|>\
                  {% endgeneration %}{% endfor %}";
    let template = Template::new(source, &CONTROLS, None, None).unwrap();
    let template = ChatFormat::Template(Box::new(template));
    let dialogue = Dialogue::from(vec![Message::new(Role::Assistant, "yes")]);
    let spans = template.render(&dialogue, &RenderOptions::CLOSED).unwrap();
    let learned: Vec<bool> = spans.iter().map(Span::is_learned).collect();
    assert_eq!(learned, [false, true, true]);
}

#[test]
fn hostile_templates_give_a_typed_error_in_time() {
    let double = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}";
    let bombs = [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
            .to_string(),
        format!("{double}{{% set ns.x = ns.x + ns.x %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = ns.x ~ ns.x %}}{{% endfor %}}{{{{ ns.x }}}}"),
        format!("{double}{{%- set ns.x = [ns.x, ns.x] -%}}{{% endfor %}}{{{{ ns.x }}}}"),
        format!("{double}{{% set ns.x = ns.x.replace('a', ns.x) %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = ns.x | replace('', ns.x) %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = [ns.x, ns.x] | join %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x %}}{{{{ ns.x }}}}{{{{ ns.x }}}}{{% endset %}}{{% endfor %}}"),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns.x }}".to_string(),
        "{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f('a') }}".to_string(),
        "{% macro f(n) %}{{ f(n) ~ f(n) }}{% endmacro %}{{ f(1) }}".to_string(),
        "{{ 'a' * 90000000 }}".to_string(),
        "{{ 'a' * 99999999999 }}".to_string(),
        "{% set x = 9000 %}{% set y = x * x %}{{ 'a' * y }}".to_string(),
        "{{ ('a' * 9000) * 9000 }}".to_string(),
        "{{ 'a' * 9000 * 9000 }}".to_string(),
        "{{ 'a' | indent(99999999999) }}{{ '\n' | indent(99999999999) }}".to_string(),
        "{{ [[1]] | tojson(indent=99999999999) }}".to_string(),
        "{{ '{:99999999999}'.format('a') }}".to_string(),
        format!("{{{{ {}1 }}}}", "'a' ~ ".repeat(10_000)),
        format!("{{{{ [{}1] }}}}", "messages | string, ".repeat(10_000)),
        format!("{{{{ {} }}}}", "(".repeat(100_000)),
        format!("{}{}", "{% if 1 %}".repeat(10_000), "{% endif %}".repeat(10_000)),
        "x".repeat(300_000),
        "{% for i in range(99999) %}".to_string() + &"y".repeat(60_000) + "{% endfor %}",
        "{% include 'a' %}".to_string(),
        "{{ raise_exception('no') }}".to_string(),
        "{{ strftime_now('%Q') }}".to_string(),
        "{{ messages | tojson(nonsense=1) }}".to_string(),
        "{% unknown %}".to_string(),
        "{{ unclosed".to_string(),
        "{% set x = '%}".to_string(),
    ];
    let dialogue = Dialogue::from(vec![Message::new(Role::User, "hello")]);
    for bomb in bombs {
        let started = Instant::now();
        let rendered = Template::new(&bomb, &CONTROLS, None, None).and_then(|t| {
            ChatFormat::Template(Box::new(t)).render(&dialogue, &RenderOptions::PROMPT)
        });
        assert!(rendered.is_err(), "{bomb:.80}");
        assert!(started.elapsed() < Duration::from_secs(10), "{bomb:.80}");
    }
}

#[test]
fn damaged_templates_never_panic() {
    const SEED: &str = "{%- set ns = namespace(n=0) -%}{# é #}{% macro f(a, b='}}') %}{{ a * 2 ~ b }}\
        {% endmacro %}{% for k, v in messages[0] | items %}{% set x %}{{ k }}{% endset %}{% raw %}{{\
        {% endraw %}{% generation %}{{ f(k) + '<|eot_id|>' }}{% endgeneration %}{% with y = x %}\
        {{ y.split('a')[0] | tojson(indent=2) }}{% endwith %}{% endfor %}{{ 3 * ns.n }}\"\\";
    let dialogue = Dialogue::from(vec![Message::new(Role::User, "héllo")]);
    let mut rng = Rng(5);
    for _ in 0..5_000 {
        let mut chars: Vec<char> = if rng.below(2) == 0 { SEED } else { CHATML }.chars().collect();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(chars.len());
            match rng.below(4) {
                0 => chars.truncate(at.max(1)),
                1 => drop(chars.remove(at)),
                2 => chars.insert(at, ['{', '}', '%', '\'', '*', '(', '|', 'é', '-'][rng.below(9)]),
                _ => chars.swap(at, 0),
            }
        }
        let source: String = chars.into_iter().collect();
        if let Ok(template) = Template::new(&source, &CONTROLS, None, None) {
            let template = ChatFormat::Template(Box::new(template));
            let _ = template.render(&dialogue, &RenderOptions::PROMPT);
        }
    }
}

#[test]
fn templates_may_repeat_a_text_and_multiply_numbers() {
    let source = "{% set n = 3 %}{{ '  ' * n }}|{{ n * 2 }}|{{ \"a*'b\" }}|{{ 1 + n * 2.5 }}";
    let template = Template::new(source, &[], None, None).unwrap();
    let template = ChatFormat::Template(Box::new(template));
    let dialogue = Dialogue::from(vec![Message::new(Role::User, "hello")]);
    let spans = template.render(&dialogue, &RenderOptions::PROMPT).unwrap();
    let Span::Text { text, .. } = &spans[0] else { panic!("{spans:?}") };
    assert_eq!(text, "      |6|a*'b|8.5");
}

#[test]
fn a_refusal_keeps_the_templates_words() {
    let template = Template::new("{{ raise_exception('only Latin') }}", &[], None, None).unwrap();
    let template = ChatFormat::Template(Box::new(template));
    let dialogue = Dialogue::from(vec![Message::new(Role::User, "hello")]);
    let error = template.render(&dialogue, &RenderOptions::PROMPT).unwrap_err();
    assert!(matches!(error, ChatError::Refused { message } if message == "only Latin"));
}

/// Words with the beginnings of calls, none of which ends a text as a call ends.
const WORDS: [&str; 16] = [
    "word ",
    "{",
    "{\"name\": ",
    "{\"type\": \"function\", ",
    "[f(a=\"",
    "[",
    "<function=",
    "<function=f>{",
    "brave_search.call(",
    "brave",
    ";",
    "\n",
    " ",
    "é",
    "\"",
    "<|eot_id|>",
];
/// Arguments that a Python list can hold: Meta's code writes strings bare.
const BARE: [&str; 8] = ["x", " ", "\n", "é", "'", "[f(a=1)]", "{", "k=v, "];
const ANY: [&str; 10] =
    ["x", "\\", "\"", "\n", "é😀", "'", "</function>", "}", "\u{1}", "{\"name\""];

fn argument(rng: &mut Rng, pool: &[&str], depth: usize) -> Value {
    match rng.below(if depth < 3 { 8 } else { 6 }) {
        0 => Value::Null,
        1 => json!(rng.below(2) == 0),
        2 => json!(rng.next() as i64),
        3 => json!([0.5, -0.0, 1e16, 1e-5, 1.5e300, 3.0][rng.below(6)]),
        6 => (0..rng.below(4)).map(|_| argument(rng, pool, depth + 1)).collect(),
        7 => {
            let entries =
                (0..rng.below(4)).map(|i| (format!("k{i}"), argument(rng, pool, depth + 1)));
            Value::Object(entries.collect())
        }
        _ => json!(rng.text(pool)),
    }
}

/// An assistant's message that the format can hold.
fn answer(rng: &mut Rng, tools: ToolFormat, hugging_face: bool) -> Message {
    let pool: &[&str] = if tools == ToolFormat::PythonList { &BARE } else { &ANY };
    let mut message = Message::new(Role::Assistant, rng.text(&WORDS) + "w");
    if !hugging_face {
        message.end = if rng.below(2) == 0 { EndOf::Turn } else { EndOf::Message };
    } else if rng.below(2) == 0 {
        message.content.clear();
    } else {
        let text = message.text().trim().to_string();
        message.content = vec![Block::Text { text }];
        return message;
    }
    if rng.below(3) == 0 {
        message.content.clear();
    }
    let call = |name: &str, arguments| ToolCall { id: None, name: name.to_string(), arguments };
    if !hugging_face && rng.below(5) == 0 {
        let code = Map::from_iter([("code".to_string(), json!(rng.text(&WORDS) + "w"))]);
        message.content.clear();
        message.tool_calls = vec![call("code_interpreter", code)];
        return message;
    }
    let calls =
        if hugging_face { 1 } else { rng.below(3) + usize::from(message.content.is_empty()) };
    for _ in 0..calls {
        message.tool_calls.push(if !hugging_face && rng.below(3) == 0 {
            let query = rng.text(&["gold ", "\"", "é", ")", ", x=", "\n"]) + "w";
            call("wolfram_alpha", Map::from_iter([("query".to_string(), json!(query))]))
        } else {
            let entries = (0..rng.below(4)).map(|i| (format!("a{i}"), argument(rng, pool, 0)));
            call("get_weather", entries.collect())
        });
    }
    message
}

fn formats() -> Vec<(ChatFormat, ToolFormat, bool)> {
    let mut formats: Vec<_> = ToolFormat::ALL
        .iter()
        .map(|tools| (ChatFormat::Llama31 { tools: *tools }, *tools, false))
        .collect();
    formats.push((ChatFormat::HuggingFace31, ToolFormat::Json, true));
    formats.push((ChatFormat::HuggingFace32, ToolFormat::Json, true));
    formats
}

#[test]
fn parsing_undoes_rendering() {
    let mut rng = Rng(3);
    for (format, tools, hugging_face) in formats() {
        for _ in 0..5_000 {
            let message = answer(&mut rng, tools, hugging_face);
            let spans = format.render_answer(&message).unwrap();
            let parsed = parse_assistant(pieces(&spans), format.call_forms(), &format.stops());
            assert_eq!(parsed.into_message(), message, "{format:?} {spans:?}");
            assert!(format.holds(&message));
        }
    }
}

#[test]
fn messages_that_do_not_survive_are_named_as_such() {
    let meta = |tools| ChatFormat::Llama31 { tools };
    let call = |arguments: Value| {
        let mut message = Message::new(Role::Assistant, "");
        message.content.clear();
        let arguments = arguments.as_object().unwrap().clone();
        message.tool_calls = vec![ToolCall { id: None, name: "f".to_string(), arguments }];
        message
    };
    assert!(!meta(ToolFormat::PythonList).holds(&call(json!({"a": "b\\n"}))));
    assert!(!meta(ToolFormat::PythonList).holds(&call(json!({"a": "\""}))));
    assert!(meta(ToolFormat::Json).holds(&call(json!({"a": "\"\\"}))));
    let spelled = Message::new(Role::Assistant, r#"{"name": "f", "parameters": {}}"#);
    assert!(!meta(ToolFormat::Json).holds(&spelled));
    assert!(meta(ToolFormat::FunctionTag).holds(&spelled));
    assert!(ChatFormat::Llama3.holds(&spelled));
}

/// Pushes pieces and gathers what came out.
fn stream<'a>(
    pieces: impl IntoIterator<Item = Piece<'a>>,
    format: &ChatFormat,
) -> (String, Vec<ToolCall>, Message) {
    let mut parser = StreamParser::new(format.call_forms(), &format.stops());
    let mut deltas: Vec<Delta> = pieces.into_iter().filter_map(|p| parser.push(p)).collect();
    let (rest, parsed) = parser.finish();
    deltas.extend(rest);
    let (mut text, mut calls) = (String::new(), Vec::new());
    for delta in deltas {
        match delta {
            Delta::Text(more) => text += &more,
            Delta::Call { index, call } => {
                assert_eq!(index, calls.len());
                calls.push(call);
            }
        }
    }
    (text, calls, parsed.into_message())
}

#[test]
fn a_stream_cut_anywhere_gives_the_same_message() {
    let mut rng = Rng(4);
    for (format, tools, hugging_face) in formats() {
        for _ in 0..100 {
            let message = answer(&mut rng, tools, hugging_face);
            let spans = format.render_answer(&message).unwrap();
            let whole: Vec<Piece> = pieces(&spans).collect();
            let check = |(text, calls, parsed): (String, Vec<ToolCall>, Message)| {
                assert_eq!(text, message.text());
                assert_eq!(calls, message.tool_calls);
                assert_eq!(parsed, message);
            };
            let letters = whole.iter().flat_map(|piece| match piece {
                Piece::Control(_) => vec![*piece],
                Piece::Text(text) => text
                    .char_indices()
                    .map(|(at, c)| Piece::Text(&text[at..at + c.len_utf8()]))
                    .collect(),
            });
            check(stream(letters, &format));
            for (i, piece) in whole.iter().enumerate() {
                let Piece::Text(text) = piece else { continue };
                for (at, _) in text.char_indices() {
                    let cut = [Piece::Text(&text[..at]), Piece::Text(&text[at..])];
                    let cut =
                        whole[..i].iter().copied().chain(cut).chain(whole[i + 1..].iter().copied());
                    check(stream(cut, &format));
                }
            }
        }
    }
}

#[test]
fn a_call_in_its_frame_is_read_as_that_call() {
    let mut rng = Rng(6);
    for (format, tools, _) in formats() {
        let Some((before, after)) = format.call_frame("get_weather") else {
            assert_eq!(tools, ToolFormat::PythonList);
            continue;
        };
        for _ in 0..500 {
            let entries = (0..rng.below(4)).map(|i| (format!("a{i}"), argument(&mut rng, &ANY, 0)));
            let arguments: Map<String, Value> = entries.collect();
            let text = format!("{before}{}{after}", Value::Object(arguments.clone()));
            let call = ToolCall { id: None, name: "get_weather".into(), arguments };
            let (said, calls, _) = stream([Piece::Text(&text)], &format);
            assert_eq!((said.as_str(), &calls), ("", &vec![call]), "{text}");
        }
    }
    let tags = ChatFormat::Llama31 { tools: ToolFormat::FunctionTag };
    assert_eq!(tags.call_frame("a>b"), None);
    assert_eq!(ChatFormat::Llama3.call_frame("f"), None);
}

#[test]
fn plain_text_streams_without_delay() {
    let format = ChatFormat::Llama31 { tools: ToolFormat::Json };
    let mut parser = StreamParser::new(CallForms::ALL, &format.stops());
    for word in ["Hello", " [1] and", " {x}", " a < c", " been there."] {
        assert_eq!(parser.push(Piece::Text(word)), Some(Delta::Text(word.to_string())));
    }
}

#[test]
fn hostile_answers_are_parsed_in_time() {
    let beginnings = [
        "{\"name\": ",
        "{\"name\":[1,",
        "{",
        "{\"",
        "[f(a=",
        "[f(a=\"[f(a='",
        "[f(a=[",
        "[",
        "[f(",
        "<function=",
        "<function=f>{",
        "<function=f>{'a':",
        "brave_search.call(query=\"",
        "brave_search.call(query=\")",
        "brave_search.call(query=\"\")",
        "b",
        "{\"a\":\"",
        "{\"name\":\"f\",\"parameters\":{}}",
        "[f()]",
        "[f(a=(",
        "[f(a={b=",
    ];
    for beginning in beginnings {
        let text = beginning.repeat(200_000 / beginning.len()) + "x";
        let started = Instant::now();
        parse_assistant([Piece::Text(&text)], CallForms::ALL, &[]);
        let mut parser = StreamParser::new(CallForms::ALL, &[]);
        for at in (0..text.len()).step_by(5) {
            parser.push(Piece::Text(&text[at..text.len().min(at + 5)]));
        }
        parser.finish();
        assert!(started.elapsed() < Duration::from_secs(10), "{beginning}");
    }
}
