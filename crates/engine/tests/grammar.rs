//! Answers have the form that was asked for, or say that they were cut; what is no form is refused.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
mod schemas;

use std::path::Path;
use std::sync::Arc;

use common::{Answer, finish, gguf, load, sort, wide_config};
use herd_codec::Tokenizer;
use herd_engine::sample::Sampling;
use herd_engine::{
    Engine, Finish, Form, Function, Grammars, Limits, Proposer, Request, Speculation,
};
use herd_model::Config;
use herd_model::llama::Llama;
use herd_tensor::{Class, Format};
use schemas::{Dice, holds, schema};
use serde_json::{Value, json};

fn tokenizer() -> Arc<Tokenizer> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tokenizer/tokenizer.json");
    Arc::new(Tokenizer::from_tokenizer_json(&std::fs::read(path).unwrap()).unwrap())
}

/// Random weights, and more rows than the tokenizer has tokens.
fn model(tokenizer: &Tokenizer) -> Arc<Llama> {
    let config = Config { vocab: tokenizer.vocab_size() + 3, ..wide_config() };
    load(&gguf(&config, Format::F32, |_, _| {}), Class::best(), 2, 512)
}

/// A model, what makes forms for it, and a token that ends an answer.
struct House {
    tokenizer: Arc<Tokenizer>,
    model: Arc<Llama>,
    grammars: Grammars,
    stop: u32,
}

impl House {
    fn new() -> House {
        let tokenizer = tokenizer();
        let model = model(&tokenizer);
        let vocab = model.config().vocab;
        let grammars = Grammars::new(&tokenizer, vocab);
        House { tokenizer, model, grammars, stop: vocab as u32 - 1 }
    }

    fn engine(&self) -> Engine {
        let limits = Limits { parallel: 8, ..Limits::single(256) };
        Engine::new(self.model.clone(), Some(self.tokenizer.clone()), limits)
    }

    fn request(&self, form: Form, seed: u64) -> Request {
        let sampling = Sampling { temperature: 5.0, seed, ..Sampling::GREEDY };
        Request {
            grammar: Some(self.grammars.compile(form).unwrap()),
            max_tokens: Some(200),
            stop_tokens: vec![self.stop],
            ..Request::new(vec![1, 2, 3], sampling)
        }
    }

    fn answer(&self, form: Form, seed: u64) -> Answer {
        let mut engine = self.engine();
        let id = engine.submit(self.request(form, seed)).unwrap();
        finish(&mut engine, &[id]).remove(0)
    }
}

fn ended(answer: &Answer, stop: u32) -> bool {
    match answer.finish() {
        Finish::StopToken(id) => *id == stop,
        Finish::Complete => true,
        Finish::Length => false,
        other => panic!("{other:?} after {:?}", answer.text),
    }
}

#[test]
fn answers_of_a_random_model_at_temperature_five_satisfy_their_schemas() {
    let house = House::new();
    let mut engine = house.engine();
    let (mut asked, mut ids) = (Vec::new(), Vec::new());
    // `HERD_SCHEMAS=5000` asks for more.
    let cases = std::env::var("HERD_SCHEMAS").map_or(200, |cases| cases.parse().unwrap());
    for seed in 0..cases {
        let schema = schema(&mut Dice::new(seed), 3);
        let request = house.request(Form::JsonSchema(schema.clone()), seed);
        ids.push(engine.submit(request).unwrap());
        asked.push(schema);
    }
    let mut whole = 0;
    for (answer, schema) in finish(&mut engine, &ids).iter().zip(&asked) {
        if ended(answer, house.stop) {
            match serde_json::from_str::<Value>(&answer.text) {
                Ok(value) => assert!(holds(schema, schema, &value), "{schema} gave {value}"),
                // JSON's numbers have no bounds, those of this machine have.
                Err(error) if error.to_string().starts_with("number out of range") => {}
                Err(error) => panic!("{error}: {:?} for {schema}", answer.text),
            }
            whole += 1;
        }
    }
    assert!(2 * whole > cases, "{whole} of {cases} came to their end");
    println!("{whole} of {cases} came to their end, the others were cut");
}

#[test]
fn the_check_of_schemas_catches_an_answer_that_is_wrong() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer", "minimum": 3 } },
        "required": ["a"], "additionalProperties": false });
    assert!(holds(&schema, &schema, &json!({ "a": 3 })));
    for wrong in
        [json!({ "a": 2 }), json!({}), json!({ "a": 3, "b": 1 }), json!([]), json!({ "a": "3" })]
    {
        assert!(!holds(&schema, &schema, &wrong), "{wrong}");
    }
}

#[test]
fn a_regular_expression_a_choice_and_a_grammar_hold() {
    let house = House::new();
    for seed in 0..8 {
        let answer = house.answer(Form::Regex("[ab]{2,4}x?".into()), seed);
        let letters = answer.text.trim_end_matches('x');
        assert!((2..=4).contains(&letters.len()), "{:?}", answer.text);
        assert!(letters.chars().all(|c| "ab".contains(c)) && answer.text.len() - letters.len() < 2);

        let texts = ["yes \"sir\"".to_owned(), "no".into(), "no, never\n".into()];
        let answer = house.answer(Form::Choice(texts.to_vec()), seed);
        assert!(texts.contains(&answer.text), "{:?}", answer.text);
        assert!(ended(&answer, house.stop));

        let lark = "start: \"a\" start \"b\" | \"c\"".to_owned();
        let answer = house.answer(Form::Lark(lark), seed);
        let depth = answer.text.find('c').unwrap_or(answer.text.len());
        if ended(&answer, house.stop) {
            assert_eq!(answer.text, format!("{}c{}", "a".repeat(depth), "b".repeat(depth)));
        }
        let answer = house.answer(Form::JsonObject, seed);
        if ended(&answer, house.stop) {
            assert!(serde_json::from_str::<Value>(&answer.text).unwrap().is_object());
        }
    }
}

#[test]
fn a_form_that_is_complete_ends_the_answer_without_a_stop_token() {
    let house = House::new();
    let mut engine = house.engine();
    let form = Form::Choice(vec!["abc".into()]);
    let request = Request { stop_tokens: Vec::new(), ..house.request(form, 1) };
    let id = engine.submit(request).unwrap();
    let answer = finish(&mut engine, &[id]).remove(0);
    assert_eq!((answer.text.as_str(), answer.finish()), ("abc", &Finish::Complete));
}

#[test]
fn no_form_lets_a_control_token_through() {
    let house = House::new();
    let control = (0..house.tokenizer.vocab_size() as u32)
        .find(|&id| house.tokenizer.is_control(herd_codec::TokenId(id)));
    let control = control.unwrap_or(house.stop);
    let form = Form::Lark(format!("start: <[{control}]> | \"a\""));
    // It may be refused; if it is not, the other branch is taken.
    if let Ok(grammar) = house.grammars.compile(form) {
        let request = Request {
            grammar: Some(grammar),
            stop_tokens: Vec::new(),
            ..house.request(Form::JsonObject, 5)
        };
        let mut engine = house.engine();
        let id = engine.submit(request).unwrap();
        assert_eq!(finish(&mut engine, &[id]).remove(0).text, "a");
    }
}

#[test]
fn an_answer_in_a_form_is_the_same_alone_and_in_company() {
    let house = House::new();
    let form = || Form::JsonSchema(json!({ "type": "array", "items": { "type": "integer" } }));
    let alone: Vec<Answer> = (0..6).map(|seed| house.answer(form(), seed)).collect();
    let mut engine = house.engine();
    let ids: Vec<_> =
        (0..6).map(|seed| engine.submit(house.request(form(), seed)).unwrap()).collect();
    for (alone, together) in alone.iter().zip(finish(&mut engine, &ids)) {
        assert_eq!((&alone.ids, &alone.text), (&together.ids, &together.text));
    }
}

#[test]
fn what_is_no_form_is_refused_and_says_why() {
    let house = House::new();
    let refused =
        |form: Form| house.grammars.compile(form.clone()).expect_err(&format!("{form:?}"));
    let wrong = [
        json!(3),
        json!({ "type": "strung" }),
        json!({ "type": "object", "propertees": 1, "if": { "type": "object" } }),
        json!({ "$ref": "#/$defs/missing" }),
        json!({ "$ref": "https://elsewhere.example/schema.json" }),
        json!({ "type": "string", "pattern": "(" }),
        json!({ "type": "integer", "minimum": 5, "maximum": 3 }),
        json!({ "not": { "type": "string" } }),
        json!({ "x-guidance": { "lenient": true } }),
        json!(false),
    ];
    for schema in wrong {
        let error = refused(Form::JsonSchema(schema.clone()));
        assert!(!error.to_string().is_empty(), "{schema}");
    }
    refused(Form::Regex("(".into()));
    refused(Form::Lark("start: missing".into()));
    refused(Form::Choice(Vec::new()));
}

#[test]
fn forms_that_are_huge_or_deep_are_refused_or_followed_but_never_endless() {
    let house = House::new();
    let mut deep = json!({ "type": "integer" });
    for _ in 0..120 {
        deep = json!({ "type": "array", "items": deep });
    }
    let letters = "a".repeat(40_000);
    let forms = [
        Form::Regex("((a{1,1000}){1,1000}){1,1000}".into()),
        Form::Regex("(a|b)*a(a|b){40}".into()),
        Form::Regex(letters.clone()),
        Form::Choice(vec![letters]),
        Form::JsonSchema(deep),
        Form::Lark("start: start start | \"a\" | \"\"".into()),
    ];
    for form in forms {
        let Ok(grammar) = house.grammars.compile(form.clone()) else { continue };
        let request = Request {
            grammar: Some(grammar),
            max_tokens: Some(40),
            ..house.request(Form::JsonObject, 1)
        };
        let mut engine = house.engine();
        let id = engine.submit(request).unwrap();
        let answer = finish(&mut engine, &[id]).remove(0);
        assert!(answer.ids.len() <= 40, "{form:?}");
    }
}

/// Functions as Llama 3.1 is told to call them, one with a schema that refers to itself.
fn functions() -> Vec<Function> {
    let function = |name: &str, arguments: Value| Function {
        before: format!("{{\"name\": \"{name}\", \"parameters\": "),
        arguments,
        after: "}".into(),
    };
    let city = json!({ "$defs": { "city": { "enum": ["Paris", "Rome"] } }, "type": "object",
        "properties": { "city": { "$ref": "#/$defs/city" } }, "required": ["city"], "additionalProperties": false });
    vec![
        function("weather", city),
        function("now", json!({ "properties": {}, "additionalProperties": false })),
    ]
}

#[test]
fn a_forced_call_is_a_call_of_one_of_the_functions() {
    let house = House::new();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let form = Form::Call { functions: functions(), words: false, many: false };
        let answer = house.answer(form, seed);
        if ended(&answer, house.stop) {
            let call: Value = serde_json::from_str(&answer.text).unwrap();
            match call["name"].as_str().unwrap() {
                "weather" => assert!(
                    ["Paris", "Rome"].contains(&call["parameters"]["city"].as_str().unwrap())
                ),
                name => assert_eq!((name, &call["parameters"]), ("now", &json!({}))),
            }
            seen.insert(call["name"].to_string());
        }
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn calls_follow_one_another_where_many_are_allowed() {
    let house = House::new();
    let mut most = 0;
    for seed in 0..30 {
        let form = Form::Call { functions: functions(), words: false, many: true };
        let answer = house.answer(form, seed);
        if ended(&answer, house.stop) {
            let mut calls = answer.text.as_str();
            let mut count = 0;
            while !calls.is_empty() {
                let mut values = serde_json::Deserializer::from_str(calls).into_iter::<Value>();
                assert!(values.next().unwrap().unwrap()["name"].is_string(), "{}", answer.text);
                calls = calls[values.byte_offset()..].trim_start_matches([';', ' ', '\n']);
                count += 1;
            }
            most = most.max(count);
        }
    }
    assert!(most > 1, "{most} calls at most");
}

#[test]
fn words_before_a_call_begin_no_json() {
    let house = House::new();
    let mut braces = 0;
    for seed in 0..60 {
        let form = Form::Call { functions: functions(), words: true, many: false };
        // A brace wherever one may stand.
        let brace = house.tokenizer.encode("{")[0].0;
        let mut request = house.request(form, seed);
        request.sampling.logit_bias =
            vec![(brace, 30.0), (house.tokenizer.encode("\"")[0].0, 20.0)];
        request.max_tokens = Some(60);
        let mut engine = house.engine();
        let id = engine.submit(request).unwrap();
        let text = finish(&mut engine, &[id]).remove(0).text;
        let begins =
            text.match_indices('{').find(|(at, _)| text[at + 1..].trim_start().starts_with('"'));
        braces += text.matches('{').count();
        if let Some((at, _)) = begins {
            let call = functions().into_iter().any(|f| {
                let rest = &text[at..];
                rest.starts_with(&f.before) || f.before.starts_with(rest)
            });
            assert!(call, "{text}");
        }
    }
    assert!(braces > 60);
}

#[test]
fn what_cannot_be_called_is_no_form() {
    let house = House::new();
    let one = |arguments| Form::Call {
        functions: vec![Function { before: "f".into(), arguments, after: String::new() }],
        words: false,
        many: false,
    };
    for form in [
        Form::Call { functions: Vec::new(), words: true, many: true },
        one(json!(true)),
        one(json!({ "type": "array" })),
        one(json!({ "type": ["object", "null"] })),
        one(json!({ "x-guidance": {} })),
        one(json!({ "not": 3 })),
    ] {
        assert!(house.grammars.compile(form.clone()).is_err(), "{form:?}");
    }
}

/// Forms of every kind; one admits whatever a model proposes that likes nothing but a and b.
fn forms() -> Vec<Form> {
    let list = json!({ "type": "array", "items": { "enum": ["one", "two"] } });
    let arguments = json!({ "type": "object", "properties": { "a": { "type": "integer" } },
        "required": ["a"], "additionalProperties": false });
    vec![
        Form::JsonSchema(list),
        Form::JsonObject,
        Form::Regex("[ab]{20,60}".to_owned()),
        Form::Regex("(ab|cd){10,40}".to_owned()),
        Form::Lark("start: \"x\" (\"yes \" | \"no \")+ \"z\"".to_owned()),
        Form::Choice(vec!["yes and yes and yes".to_owned(), "no and no and no".to_owned()]),
        Form::JsonSchema(arguments),
    ]
}

#[test]
fn what_is_proposed_changes_no_bit_of_an_answer_that_has_a_form() {
    let house = House::new();
    let asked = |seed: u64| forms().into_iter().map(move |form| (form, seed));
    let biased = |letter: &str| (house.tokenizer.id_of(letter.as_bytes()).unwrap().0, 50.0);
    let logit_bias = ["a", "b"].map(biased).to_vec();
    let requests: Vec<Request> = (0..3)
        .flat_map(asked)
        .map(|(form, seed)| {
            let mut request = Request { log_probs: Some(2), ..house.request(form, seed) };
            request.sampling.temperature = seed as f32;
            request.sampling.logit_bias = logit_bias.clone();
            request
        })
        .collect();
    for by in [Proposer::Lookup, Proposer::Draft(house.model.clone())] {
        let (mut accepted, mut rejected) = (0, 0);
        for request in &requests {
            let answer = |speculation: Option<Speculation>, counts: &mut (usize, usize)| {
                let mut engine = house.engine();
                speculation.iter().for_each(|speculation| engine.speculate(speculation));
                let id = engine.submit(request.clone()).unwrap();
                let (mut answers, mut events) = ([Answer::default()], Vec::new());
                while !engine.is_idle() {
                    let step = engine.step(&mut events);
                    counts.0 += step.accepted;
                    counts.1 += step.proposed - step.accepted;
                    sort(&mut events, &[id], &mut answers);
                }
                let [answer] = answers;
                answer
            };
            let mut counts = (0, 0);
            let plain = answer(None, &mut counts);
            assert_eq!(counts, (0, 0));
            let helped = answer(Some(Speculation { by: by.clone(), most: 7 }), &mut counts);
            assert_eq!(helped, plain);
            (accepted, rejected) = (accepted + counts.0, rejected + counts.1);
        }
        assert!(accepted > 20 && rejected > 20, "{accepted} accepted, {rejected} rejected");
    }
}
