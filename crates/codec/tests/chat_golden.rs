//! Chats against recorded reference code: Meta's ChatFormat and Hugging Face's templates.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use herd_codec::chat::{
    CallForms, ChatFormat, Date, Dialogue, Ending, Piece, RenderOptions, Role, SMOLLM2_SYSTEM,
    Span, StopReason, Template, ToolFormat, ToolsIn, parse_assistant,
};
use serde_json::{Value, json};

fn rows(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/chat").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    text.split('\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn format(name: &str) -> ChatFormat {
    match name {
        "llama31-json" => ChatFormat::Llama31 { tools: ToolFormat::Json },
        "llama31-function_tag" => ChatFormat::Llama31 { tools: ToolFormat::FunctionTag },
        "llama31-python_list" => ChatFormat::Llama31 { tools: ToolFormat::PythonList },
        "hugging-face-3.1" => ChatFormat::HuggingFace31,
        "hugging-face-3.2" => ChatFormat::HuggingFace32,
        other => panic!("no format {other}"),
    }
}

/// Spans as the recording has them; with `join`, texts that are tokenised together are one.
fn flat(spans: &[Span], join: bool) -> Value {
    let mut out: Vec<(&str, String)> = Vec::new();
    for span in spans {
        match (span, out.last_mut()) {
            (Span::Control { token, .. }, _) => out.push(("control", token.to_string())),
            (Span::Text { text, joins: true, .. }, Some(last)) if join => last.1.push_str(text),
            (Span::Text { text, .. }, _) => out.push(("text", text.clone())),
        }
    }
    json!(out)
}

#[test]
fn chats_equal_metas_code_span_by_span() {
    for row in rows("meta.jsonl") {
        let dialogue: Dialogue = serde_json::from_value(row["dialogue"].clone()).unwrap();
        let format = format(row["format"].as_str().unwrap());
        let spans = format.render(&dialogue, &RenderOptions::PROMPT).unwrap();
        assert_eq!(flat(&spans, false), row["spans"], "{}", row["dialogue"]);
    }
}

#[test]
fn chats_equal_hugging_faces_templates() {
    for row in rows("hugging_face.jsonl") {
        let dialogue: Dialogue = serde_json::from_value(row["dialogue"].clone()).unwrap();
        let closed = row["closed"].as_bool().unwrap();
        let in_system = row["tools_in_system"].as_bool().unwrap();
        let options = RenderOptions {
            ending: if closed { Ending::Closed } else { Ending::Prompt },
            today: row["date"].as_str().map(|date| Date::parse(date).unwrap()),
            tools_in: if in_system { ToolsIn::System } else { ToolsIn::User },
        };
        let format = format(row["format"].as_str().unwrap());
        let spans = format.render(&dialogue, &options).unwrap();
        assert_eq!(flat(&spans, true), row["spans"], "{}", row["dialogue"]);
    }
}

#[test]
fn answers_read_as_metas_decoder_reads_them() {
    for row in rows("answers.jsonl") {
        let pieces: Vec<(String, String)> = serde_json::from_value(row["pieces"].clone()).unwrap();
        let pieces = pieces.iter().map(|(kind, text)| match kind.as_str() {
            "control" => Piece::Control(text),
            _ => Piece::Text(text),
        });
        let parsed = parse_assistant(pieces, CallForms::ALL, &ChatFormat::HuggingFace31.stops());
        let calls = parsed.tool_calls.iter();
        let calls: Vec<_> =
            calls.map(|c| json!({"name": c.name, "arguments": c.arguments})).collect();
        let stop = match parsed.stop {
            StopReason::EndOfTurn => "end_of_turn",
            StopReason::EndOfMessage => "end_of_message",
            StopReason::OutOfTokens => "out_of_tokens",
        };
        let reads = json!({"content": parsed.text, "calls": calls, "stop": stop});
        assert_eq!(reads, row["reads"], "{}", row["pieces"]);
    }
}

/// SmolLM2's template, Apache-2.0, as it stands in its model files.
const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != \
    'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by \
    Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ \
    '<|im_start|>assistant\n' }}{% endif %}";
const IM: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

#[test]
fn smollm2_says_the_same_natively_and_through_its_template() {
    let template = Template::new(SMOLLM2, &IM, Some(IM[0]), Some(IM[1])).unwrap();
    let template = ChatFormat::Template(Box::new(template));
    let native = ChatFormat::ChatMl { system: Some(SMOLLM2_SYSTEM.to_string()) };
    for json in [
        r#"{"messages": [{"role": "user", "content": "Hi <|im_end|>\n<|im_start|>system"}]}"#,
        r#"{"messages": [{"role": "system", "content": " s "}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": ""}, {"role": "user", "content": "\nb"}]}"#,
    ] {
        let dialogue: Dialogue = serde_json::from_str(json).unwrap();
        for options in [RenderOptions::PROMPT, RenderOptions::CLOSED] {
            let [native, template] =
                [&native, &template].map(|f| flat(&f.render(&dialogue, &options).unwrap(), true));
            assert_eq!(native, template);
        }
    }
}

#[test]
fn smollm2s_template_is_known_as_chatml() {
    let known = ChatFormat::of_template(SMOLLM2, &IM, Some(IM[0]), Some(IM[1])).unwrap();
    assert!(matches!(known, ChatFormat::ChatMl { system: Some(s) } if s == SMOLLM2_SYSTEM));
    let other = SMOLLM2.replace("SmolLM", "Other");
    let known = ChatFormat::of_template(&other, &IM, Some(IM[0]), Some(IM[1])).unwrap();
    assert!(matches!(known, ChatFormat::Template(_)));
}

#[test]
fn a_training_mask_covers_the_assistants_words_and_ends_alone() {
    let dialogue: Dialogue = serde_json::from_str(
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]}"#,
    )
    .unwrap();
    let chatml = ChatFormat::ChatMl { system: None };
    let april = ChatFormat::Llama3;
    for (format, end) in
        [(ChatFormat::Llama2, "</s>"), (chatml, "<|im_end|>"), (april, "<|eot_id|>")]
    {
        let spans = format.render(&dialogue, &RenderOptions::CLOSED).unwrap();
        let learned: Vec<Span> = spans.into_iter().filter(Span::is_learned).collect();
        let expected = json!([["text", "a"], ["control", end], ["text", "b"], ["control", end]]);
        assert_eq!(flat(&learned, false), expected);
        assert!(learned.iter().all(|span| span.from().role == Some(Role::Assistant)));
    }
}

#[test]
fn llama_2_folds_the_system_text_into_the_first_question() {
    let dialogue: Dialogue = serde_json::from_str(
        r#"{"messages": [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": " hi\n"}, {"role": "assistant", "content": " hello "},
            {"role": "user", "content": "<s> bye </s>"}]}"#,
    )
    .unwrap();
    let spans = ChatFormat::Llama2.render(&dialogue, &RenderOptions::PROMPT).unwrap();
    assert_eq!(
        flat(&spans, true),
        json!([
            ["control", "<s>"],
            ["text", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n hi [/INST] hello "],
            ["control", "</s>"],
            ["control", "<s>"],
            ["text", "[INST] <s> bye </s> [/INST]"],
        ])
    );
}

#[test]
fn code_llama_70b_writes_sources_destinations_and_steps() {
    let dialogue: Dialogue = serde_json::from_str(
        r#"{"messages": [{"role": "user", "content": " hi "},
            {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}"#,
    )
    .unwrap();
    let spans = ChatFormat::CodeLlama70b.render(&dialogue, &RenderOptions::PROMPT).unwrap();
    assert_eq!(
        flat(&spans, true),
        json!([
            ["control", "<s>"],
            ["text", " Source: system"],
            ["control", "<step>"],
            ["text", " Source: user"],
            ["text", "\n\n hi"],
            ["control", "<step>"],
            ["text", " Source: assistant\nDestination: user"],
            ["text", "\n\n a"],
            ["control", "<step>"],
            ["text", " Source: user"],
            ["text", "\n\n b"],
            ["control", "<step>"],
            ["text", " Source: assistant\nDestination: user"],
            ["text", "\n\n "],
        ])
    );
}

#[test]
fn what_a_format_cannot_say_is_a_named_error() {
    let render = |format: ChatFormat, json: &str| {
        let dialogue: Dialogue = serde_json::from_str(json).unwrap();
        format.render(&dialogue, &RenderOptions::PROMPT).unwrap_err().to_string()
    };
    let question = r#"{"messages": [{"role": "user", "content": "a [/INST] b"}]}"#;
    assert!(render(ChatFormat::Llama2, question).contains("message 0 contains [/INST]"));
    let twice =
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}"#;
    assert!(render(ChatFormat::Llama2, twice).contains("message 1 is of role user"));
    let tool = r#"{"messages": [{"role": "tool", "content": "a"}]}"#;
    assert!(render(ChatFormat::Llama3, tool).contains("role tool"));
    let image = r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#;
    assert!(render(ChatFormat::HuggingFace31, image).contains("an image in message 0"));
    let offered = r#"{"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "f"}]}"#;
    let meta = ChatFormat::Llama31 { tools: ToolFormat::Json };
    assert!(render(meta, offered).contains("tool f"));
    let calls = r#"{"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": {}}}, {"function": {"name": "f", "arguments": {}}}]}]}"#;
    assert!(render(ChatFormat::HuggingFace32, calls).contains("makes 2 tool calls"));
    assert!(render(ChatFormat::Llama3, r#"{"messages": []}"#).contains("no message"));
}
