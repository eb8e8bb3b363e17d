//! What is learnt of a dialogue is token for token what the engine would see and produce.

#![allow(clippy::unwrap_used)]

use herd_codec::chat::{
    ChatFormat, Dialogue, Message, RenderOptions, Role, SMOLLM2_SYSTEM, SpanKind, ToolFormat,
};
use herd_codec::tokenizer::train::{PieceCounts, Split, Training, train};
use herd_codec::{TokenId, Tokenizer};
use herd_data::dialogue::{
    Compare, Comparison, Counting, Encoder, Lesson, Lessons, Mark, Row, Standing, Strength, lesson,
    similarity,
};
use herd_data::disk::RealDisk;
use herd_data::read::Sources;
use herd_data::shard::{Shard, ShardBuilder};
use herd_data::{
    Check, Corpus, Ends, Loader, LoaderConfig, LongDocuments, Mixture, Phase, Policy, Ramp,
    TokenizeOptions, tokenize,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Words of the training text, what makes tokens straddle, and what spells control tokens.
const WORDS: [&str; 16] = [
    "the ",
    "people",
    " of",
    "\n",
    "\n\n",
    " ",
    "  ",
    "a",
    ".",
    "é",
    "<|eot_id|>",
    "<|im_end|>",
    "</s>",
    "assistant",
    "\t\n ",
    "12",
];

fn tokenizer() -> Tokenizer {
    let text = include_str!("../../../testdata/tokenizer/train.txt");
    let split = Split::new("llama3").unwrap();
    let mut pieces = PieceCounts::default();
    pieces.add(&split, &text.repeat(2).replace(". ", ".\n\n").replace("the", "\n\n\nthe")).unwrap();
    let names = [
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
    ];
    let specials = names.map(str::to_owned).to_vec();
    let training = Training { vocab_size: 600, split, specials, token_bytes_max: 16 };
    train(&pieces, &training, &mut |_, _| {}).unwrap().tokenizer
}

fn formats(tokenizer: &Tokenizer) -> Vec<ChatFormat> {
    let template = "{% for m in messages %}{{ bos_token + m.role + ': ' + m.content + eos_token }}\n{% endfor %}\
        {% if add_generation_prompt %}{{ bos_token + 'assistant: ' }}{% endif %}";
    let controls = ["<s>", "</s>"];
    let other = ChatFormat::of_template(template, &controls, Some("<s>"), Some("</s>")).unwrap();
    assert!(matches!(other, ChatFormat::Template(_)) && tokenizer.special_id("<s>").is_some());
    vec![
        ChatFormat::Llama2,
        ChatFormat::Llama3,
        ChatFormat::Llama31 { tools: ToolFormat::Json },
        ChatFormat::HuggingFace31,
        ChatFormat::HuggingFace32,
        ChatFormat::ChatMl { system: Some(SMOLLM2_SYSTEM.to_owned()) },
        other,
    ]
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&WORDS[..]), 1..8).prop_map(|w| w.concat())
}

/// Runs of learnt ids with what stands before each.
fn learnt(row: &Row) -> Vec<(Vec<TokenId>, Vec<TokenId>, f32)> {
    let mut out: Vec<(Vec<TokenId>, Vec<TokenId>, f32)> = Vec::new();
    for (i, (&id, &weight)) in row.ids.iter().zip(&row.weights).enumerate() {
        let begins = i == 0 || row.weights[i - 1] != weight;
        match out.last_mut() {
            _ if weight == 0.0 => {}
            Some((_, ids, _)) if !begins => ids.push(id),
            _ => out.push((row.ids[..i].to_vec(), vec![id], weight)),
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn each_answer_is_learnt_once_behind_the_prompt_that_the_engine_sees(
        system in proptest::option::of(text()),
        turns in proptest::collection::vec((text(), text(), prop_oneof![Just(0.0f32), Just(0.5), Just(1.0)]), 1..4),
    ) {
        let tokenizer = tokenizer();
        for format in formats(&tokenizer) {
            let mut messages: Vec<Message> =
                system.iter().map(|text| Message::new(Role::System, text)).collect();
            let mut weights = vec![0.0; messages.len()];
            for (question, answer, weight) in &turns {
                messages.push(Message::new(Role::User, question));
                messages.push(Message::new(Role::Assistant, answer));
                weights.extend([0.0, *weight]);
            }
            let given = Lesson { dialogue: Dialogue::from(messages.clone()), weights: weights.clone() };
            let options = RenderOptions::PROMPT;
            let encoder = Encoder { format: &format, tokenizer: &tokenizer, options };
            let rows = match encoder.lesson(&given) {
                Ok(rows) => rows,
                Err(fault) => {
                    // Nothing to learn, or a format that cannot say it (a mark of Llama 2 in a text, an empty answer).
                    let why = fault.to_string();
                    let none = weights.iter().all(|w| *w == 0.0) && why.contains("no answer in it");
                    let refused = format.render(&given.dialogue, &RenderOptions::CLOSED).is_err();
                    let border = matches!(format, ChatFormat::Template(_)) && why.contains("otherwise");
                    prop_assert!(none || refused || border || why.contains("is empty"), "{format:?}: {why}");
                    continue;
                }
            };
            let taught: Vec<usize> = (0..messages.len()).filter(|m| weights[*m] > 0.0).collect();
            let found: Vec<_> = rows.iter().flat_map(learnt).collect();
            prop_assert_eq!(found.len(), taught.len(), "{:?}", &format);
            for ((before, ids, weight), message) in found.into_iter().zip(taught) {
                let prompt = Dialogue::from(messages[..message].to_vec());
                prop_assert_eq!(before, encoder.prompt(&prompt).unwrap(), "{:?}", &format);
                prop_assert_eq!(weight, weights[message]);
                let stop = ids.last().copied().unwrap();
                prop_assert!(format.stops().iter().any(|name| tokenizer.special_id(name) == Some(stop)));
                let said = tokenizer.decode_lossy(&ids[..ids.len() - 1]);
                let given = messages[message].text();
                prop_assert_eq!(said.trim(), given.trim(), "{:?}", &format);
            }
            for row in &rows {
                prop_assert_eq!((row.ids.len(), row.ids.len()), (row.weights.len(), row.origins.len()));
                for (origin, weight) in row.origins.iter().zip(&row.weights) {
                    let own = matches!(origin.kind, SpanKind::Content | SpanKind::Call | SpanKind::End);
                    prop_assert!(*weight == 0.0 || (own && origin.role == Some(Role::Assistant)));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn of_answers_that_are_compared_all_but_format_tokens_count(
        system in proptest::option::of(text()),
        turns in proptest::collection::vec((text(), text()), 0..2),
        question in text(),
        answers in proptest::collection::vec(text(), 2..4),
    ) {
        let tokenizer = tokenizer();
        for format in formats(&tokenizer) {
            let mut messages: Vec<Message> =
                system.iter().map(|text| Message::new(Role::System, text)).collect();
            for (question, answer) in &turns {
                messages.push(Message::new(Role::User, question));
                messages.push(Message::new(Role::Assistant, answer));
            }
            messages.push(Message::new(Role::User, &question));
            let given = Comparison {
                prompt: Dialogue::from(messages),
                answers: answers.iter().map(|text| Message::new(Role::Assistant, text)).collect(),
                strength: Some(Strength::Better),
            };
            let encoder =
                Encoder { format: &format, tokenizer: &tokenizer, options: RenderOptions::PROMPT };
            let compare = |counts: Counting| Compare {
                counts,
                strength_min: Strength::Better,
                similar: 1.0,
            };
            let (masked, bare) =
                (encoder.compare(&given, &compare(Counting::Words)), encoder.compare(&given, &compare(Counting::All)));
            let (Ok(masked), Ok(bare)) = (masked, bare) else { continue };
            let prompt = encoder.prompt(&given.prompt).unwrap();
            prop_assert_eq!(masked.rows.len() + masked.similar as usize, answers.len());
            for (masked, bare) in masked.rows.iter().zip(&bare.rows) {
                prop_assert!(masked.ids == bare.ids && masked.ids.starts_with(&prompt));
                let own = prompt.len()..masked.ids.len();
                for i in 0..masked.ids.len() {
                    let end = format.stops().iter().any(|s| tokenizer.special_id(s) == Some(masked.ids[i]));
                    let answer = own.contains(&i);
                    prop_assert_eq!(bare.weights[i], if answer { 1.0 } else { 0.0 }, "{:?}", &format);
                    let counts = answer && !end;
                    prop_assert_eq!(masked.weights[i], if counts { 1.0 } else { 0.0 }, "{:?} {}", &format, i);
                }
                let counted: Vec<TokenId> =
                    own.filter(|i| masked.weights[*i] > 0.0).map(|i| masked.ids[i]).collect();
                let said = tokenizer.decode_lossy(&counted);
                prop_assert!(answers.iter().any(|answer| answer.trim() == said.trim()), "{:?}", &format);
            }
        }
    }
}

#[test]
fn weak_and_similar_answers_are_left_out_and_the_others_share_a_document() {
    let folder = tempfile::tempdir().unwrap();
    let (input, shards) = (folder.path().join("pairs.jsonl"), folder.path().join("shards"));
    let row = |i: usize, strength: &str, chosen: &str, rejected: &str, edited: Option<&str>| {
        let prompt = format!("{i}");
        serde_json::json!({"prompt": prompt, "chosen": chosen, "rejected": rejected, "strength": strength, "edited": edited}).to_string()
    };
    let rows = [
        row(0, "better", "the people", "a", None),
        row(1, "slightly better", "the people", "a", None),
        row(2, "significantly better", "the  people ", "the people", None),
        row(3, "better", "the people", "a", Some("of the people")),
        row(4, "better", "the people", "a", Some("the people")),
    ];
    std::fs::write(&input, rows.join("\n")).unwrap();
    let tokenizer = tokenizer();
    let (format, options) = (ChatFormat::Llama3, RenderOptions::CLOSED);
    let compare = Compare { counts: Counting::Words, strength_min: Strength::Better, similar: 0.9 };
    let lessons = Some(Lessons { shape: None, format, options, compare: Some(compare) });
    let options = TokenizeOptions { lessons, ..TokenizeOptions::new(2) };
    let sources = Sources::find(&[input.display().to_string()]).unwrap();
    let manifest =
        tokenize(&tokenizer, &sources, &options, &shards, &RealDisk, &mut |_| {}).unwrap();
    let report = &manifest.sources[0];
    let dropped: Vec<(&str, u64)> = report.dropped.iter().map(|(k, n)| (k.as_str(), *n)).collect();
    assert_eq!(dropped, [("similar", 1), ("similar_answer", 1), ("weak", 1)]);
    assert_eq!(report.train.counts.documents, 2 + 3 + 2);
    let corpus = Arc::new(Corpus::open(&shards, Check::Contents).unwrap());
    let documents = &corpus.sources()[0].train;
    assert_eq!((documents.counts().documents, documents.sequences_in_all()), (3, 7));
    assert_eq!(documents.sequences(1), 2..5);
    let source = |name: &str| {
        let name = name.to_owned();
        herd_data::MixSource { name, weight: 1.0, epochs_max: Some(1.0) }
    };
    let mixture = Mixture { sources: vec![source(&corpus.sources()[0].name)] };
    let config = LoaderConfig {
        phases: vec![Phase { from_tokens: 0, mixture }],
        ramps: vec![Ramp { from_step: 0, seq_len: 128, rows: 1 }],
        policy: Policy::Whole(LongDocuments::Drop),
        ends: Ends::default(),
    };
    let mut loader = Loader::new(corpus.clone(), config, 1).unwrap();
    let mut met = Vec::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        for answers in batch.spans.chunk_by(|_, next| next.from > 0) {
            let rows = answers.iter().map(|span| span.at.start / batch.seq_len);
            assert!(rows.clone().eq(vec![rows.clone().next().unwrap(); answers.len()]));
            let document = answers[0].document;
            let lengths: Vec<usize> = documents.lengths(document).collect();
            assert_eq!(lengths.len(), answers.len());
            for (span, len) in answers.iter().zip(&lengths) {
                // The last token of the last answer is a target alone; of others it is an input to nothing.
                assert!(span.at.len() == *len || span.at.len() + 1 == *len);
                assert_eq!(batch.tokens_t[span.at.start], batch.tokens_t[answers[0].at.start]);
            }
            met.push(document);
        }
    }
    met.sort_unstable();
    assert_eq!(met, [0, 1, 2]);
    assert!(similarity("the people", "a") < 0.5);
}

#[test]
fn a_token_over_the_border_of_an_answer_gives_each_answer_a_row() {
    let tokenizer = tokenizer();
    let format = ChatFormat::ChatMl { system: None };
    let encoder =
        Encoder { format: &format, tokenizer: &tokenizer, options: RenderOptions::PROMPT };
    let rows = |answer: &str| {
        let row = serde_json::json!({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": answer},
            {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]});
        encoder.lesson(&lesson(&row, None).unwrap()).unwrap()
    };
    assert_eq!(rows("the people").len(), 1);
    let two = rows("\n\nthe people");
    assert_eq!(two.len(), 2);
    assert!(two[0].learnt() > 1 && two[1].learnt() == 2);
}

/// Dialogues of one to three answers, of which some begin with line ends.
fn dialogues(n: usize) -> Vec<serde_json::Value> {
    let word = |i: usize| ["the people", "of the", "\n\nthe", "a"][i % 4];
    let messages = |i: usize| {
        let turn = |t: usize| {
            [
                serde_json::json!({"role": "user", "content": format!("{i} {}", word(i + t))}),
                serde_json::json!({"role": "assistant", "content": word(i / 4 + t), "weight": 1.0 - 0.5 * (t % 2) as f32}),
            ]
        };
        (0..1 + i % 3).flat_map(turn).collect::<Vec<_>>()
    };
    (0..n).map(|i| serde_json::json!({"messages": messages(i)})).collect()
}

/// The ids and the bits of the weights of rows, with how often each comes.
type Taught = BTreeMap<(Vec<u32>, Vec<u32>), usize>;

/// The rows that teach dialogues, and whether one of these gives several.
fn taught(encoder: &Encoder<'_>, rows: &[serde_json::Value]) -> (Taught, bool) {
    let (mut expected, mut many) = (BTreeMap::new(), false);
    for row in rows {
        let taught = encoder.lesson(&lesson(row, None).unwrap()).unwrap();
        many |= taught.len() > 1;
        for row in taught {
            let ids = row.ids.iter().map(|id| id.0).collect();
            let weights = row.weights.iter().map(|w| w.to_bits()).collect();
            *expected.entry((ids, weights)).or_default() += 1;
        }
    }
    (expected, many)
}

#[test]
fn batches_of_dialogues_hold_each_row_once_with_its_weights_and_a_run_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (input, shards) = (folder.path().join("chats.jsonl"), folder.path().join("shards"));
    let rows = dialogues(120);
    std::fs::write(&input, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let tokenizer = tokenizer();
    let format = ChatFormat::ChatMl { system: None };
    let options = RenderOptions::CLOSED;
    let encoder = Encoder { format: &format, tokenizer: &tokenizer, options };
    let (expected, many) = taught(&encoder, &rows);
    assert!(many, "the test needs dialogues that give several rows");

    let lessons = Some(Lessons { shape: None, format: format.clone(), options, compare: None });
    let options = TokenizeOptions { lessons, shard_tokens: 900, ..TokenizeOptions::new(2) };
    let sources = Sources::find(&[input.to_str().unwrap().to_owned()]).unwrap();
    let run = || tokenize(&tokenizer, &sources, &options, &shards, &RealDisk, &mut |_| {}).unwrap();
    let manifest = run();
    let files = |folder: &std::path::Path| -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .collect()
    };
    let whole = files(&shards);
    let names: Vec<String> =
        manifest.sources[0].train.shards.iter().map(|s| s.file.clone()).collect();
    assert!(names.len() > 3);
    // As a run leaves it that was killed after so many shards.
    for kept in 0..names.len() {
        let begun = String::from_utf8(whole["manifest.json"].clone()).unwrap();
        let mut begun: serde_json::Value = serde_json::from_str(&begun).unwrap();
        begun["complete"] = false.into();
        begun["sources"] = serde_json::json!([]);
        std::fs::write(shards.join("manifest.json"), begun.to_string()).unwrap();
        for name in &names[kept..] {
            std::fs::remove_file(shards.join(name)).unwrap();
        }
        run();
        assert!(files(&shards) == whole, "after {kept} shards");
    }

    let corpus = Arc::new(Corpus::open(&shards, Check::Contents).unwrap());
    let mut mixture = Mixture::natural(&corpus);
    mixture.sources[0].epochs_max = Some(1.0);
    let config = LoaderConfig {
        phases: vec![Phase { from_tokens: 0, mixture }],
        ramps: vec![Ramp { from_step: 0, seq_len: 96, rows: 4 }],
        policy: Policy::Whole(LongDocuments::Drop),
        ends: Ends::default(),
    };
    let mut loader = Loader::new(Arc::clone(&corpus), config, 7).unwrap();
    let mut met = BTreeMap::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        for span in &batch.spans {
            assert_eq!(span.from, 0, "rows are whole");
            let first = batch.tokens_t[span.at.start];
            let ids: Vec<u32> = std::iter::once(first)
                .chain(batch.targets_t[span.at.clone()].iter().copied())
                .collect();
            let weights = batch.weight_t[span.at.clone()].iter().map(|w| w.to_bits());
            let weights: Vec<u32> = std::iter::once(0.0f32.to_bits()).chain(weights).collect();
            *met.entry((ids, weights)).or_default() += 1;
        }
    }
    assert!(met == expected);
}

#[test]
fn long_dialogues_are_shortened_or_left_out_and_no_row_is_without_a_lesson() {
    let folder = tempfile::tempdir().unwrap();
    let (input, shards) = (folder.path().join("chats.jsonl"), folder.path().join("shards"));
    let mut rows = dialogues(150);
    for row in rows.iter_mut().step_by(5) {
        row["messages"][0]["content"] = "the people of the ".repeat(6).into();
    }
    let lines = rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    std::fs::write(&input, lines).unwrap();
    let tokenizer = tokenizer();
    let (format, options) = (ChatFormat::Llama3, RenderOptions::CLOSED);
    let lessons = Some(Lessons { shape: None, format, options, compare: None });
    let options = TokenizeOptions { lessons: lessons.clone(), ..TokenizeOptions::new(1) };
    let sources = Sources::find(&[input.to_str().unwrap().to_owned()]).unwrap();
    tokenize(&tokenizer, &sources, &options, &shards, &RealDisk, &mut |_| {}).unwrap();
    let corpus = Arc::new(Corpus::open(&shards, Check::Contents).unwrap());
    corpus.expect_lessons(lessons.as_ref()).unwrap();
    assert!(corpus.expect_lessons(None).unwrap_err().to_string().contains("plain texts"));
    let documents = &corpus.sources()[0].train;
    for long in [LongDocuments::Shorten, LongDocuments::Drop] {
        let mut mixture = Mixture::natural(&corpus);
        mixture.sources[0].epochs_max = Some(2.0);
        // Some prompts alone are longer than the first rows, and no dialogue than the last.
        let ramp = |from_step, seq_len| Ramp { from_step, seq_len, rows: 3 };
        let config = LoaderConfig {
            phases: vec![Phase { from_tokens: 0, mixture }],
            ramps: vec![ramp(0, 22), ramp(9, 48), ramp(18, 200)],
            policy: Policy::Whole(long),
            ends: Ends::default(),
        };
        let mut loader = Loader::new(Arc::clone(&corpus), config, 7).unwrap();
        while let Some(batch) = loader.next_batch().unwrap() {
            for span in &batch.spans {
                assert_eq!(span.from, 0);
                let whole = documents.tokens(span.document) - 1;
                let cut = span.at.len() < whole;
                assert!(!cut || (long == LongDocuments::Shorten && span.at.len() == batch.seq_len));
                let learnt = batch.weight_t[span.at.clone()].iter().filter(|w| **w > 0.0).count();
                assert!(learnt > 0, "{long:?}: {span:?} of {whole}");
            }
        }
        let ledger = loader.ledger();
        let dropped: u64 = ledger.dropped.values().map(|dropped| dropped.tokens).sum();
        let left = ledger.unpredicted + ledger.shortened + dropped;
        assert_eq!((ledger.documents, ledger.tokens), (300, ledger.kept + left));
        let reason = match long {
            LongDocuments::Shorten => "nothing_learnt",
            _ => "too_long",
        };
        assert_eq!(ledger.dropped.keys().collect::<Vec<_>>(), [reason]);
        assert_eq!(ledger.shortened > 0, long == LongDocuments::Shorten);
    }
}

#[test]
fn answers_that_share_a_prompt_are_one_document_in_an_order_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (input, shards) = (folder.path().join("pairs.jsonl"), folder.path().join("shards"));
    let row = |i: usize| {
        let prompt = format!("{i}");
        let edited = i.is_multiple_of(2).then_some("of the people");
        serde_json::json!({"prompt": prompt, "chosen": "the people", "rejected": "a a", "strength": "better", "edited": edited}).to_string()
    };
    std::fs::write(&input, (0..40).map(row).collect::<Vec<_>>().join("\n")).unwrap();
    let tokenizer = tokenizer();
    let (format, options) = (ChatFormat::Llama3, RenderOptions::CLOSED);
    let compare = Compare { counts: Counting::End, strength_min: Strength::Better, similar: 0.9 };
    let lessons = Lessons { shape: None, format: format.clone(), options, compare: Some(compare) };
    let made = TokenizeOptions { lessons: Some(lessons), ..TokenizeOptions::new(2) };
    let sources = Sources::find(&[input.display().to_string()]).unwrap();
    tokenize(&tokenizer, &sources, &made, &shards, &RealDisk, &mut |_| {}).unwrap();
    let corpus = Arc::new(Corpus::open(&shards, Check::Contents).unwrap());
    let documents = &corpus.sources()[0].train;
    assert_eq!(documents.sequences_in_all(), 20 * 4 + 20 * 3);
    let source = |name: &str| {
        let name = name.to_owned();
        herd_data::MixSource { name, weight: 1.0, epochs_max: Some(1.0) }
    };
    let mixture = Mixture { sources: vec![source(&corpus.sources()[0].name)] };
    let config = LoaderConfig {
        phases: vec![Phase { from_tokens: 0, mixture }],
        ramps: vec![Ramp { from_step: 0, seq_len: 128, rows: 1 }],
        policy: Policy::Whole(LongDocuments::Drop),
        ends: Ends::default(),
    };
    let mut loader = Loader::new(corpus.clone(), config, 1).unwrap();
    let encoder = Encoder { format: &format, tokenizer: &tokenizer, options };
    let (mut orders, mut met) = (BTreeMap::new(), 0);
    while let Some(batch) = loader.next_batch().unwrap() {
        let mut marked: Vec<usize> =
            (0..batch.weight_t.len()).filter(|t| batch.weight_t[*t] != 0.0).collect();
        for spans in batch.spans.chunk_by(|_, next| next.from > 0) {
            let ids = |span: &herd_data::Span| batch.tokens_t[span.at.clone()].to_vec();
            let (row, _) = documents.row(spans[0].document).unwrap();
            let prompt = Dialogue::from(vec![Message::new(Role::User, format!("{}", row.row - 1))]);
            let said = |standing: Standing| match standing {
                Standing::Edited => "of the people",
                Standing::Chosen => "the people",
                Standing::Rejected => "a a",
            };
            let mut order = Vec::new();
            for span in &spans[1..] {
                // The end of each answer is a place of its own, and its target weighs what the answer is.
                let mark = Mark::of_weight(batch.weight_t[span.at.end - 1]).unwrap();
                marked.retain(|t| *t != span.at.end - 1);
                assert_eq!(mark.strength, Some(Strength::Better));
                let answer = Message::new(Role::Assistant, said(mark.standing));
                let (stem, answers) = encoder.answers(&prompt, &[answer]).unwrap();
                let plain = |ids: &[TokenId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
                assert_eq!((ids(&spans[0]), ids(span)), (plain(&stem), plain(&answers[0])));
                order.push(mark.standing);
            }
            *orders.entry(order).or_insert(0) += 1;
            met += 1;
        }
        assert!(marked.is_empty(), "{marked:?} weigh something");
    }
    assert_eq!(met, 40);
    // Of two answers both orders, of three most of six.
    assert!(orders.len() >= 6, "{orders:?}");
}

/// What becomes of the ids and weights of a sequence.
type Change<'a> = &'a dyn Fn(usize, &mut Vec<u32>, &mut Vec<f32>);

fn changed(shard: &Shard, change: Change<'_>) -> ShardBuilder {
    let mut builder = ShardBuilder::new(shard.vocabulary(), true);
    for at in 0..shard.documents() {
        let (mut ids, mut weights) = (Vec::new(), vec![0.0; shard.len(at)]);
        shard.read(at, 0..shard.len(at), &mut ids).unwrap();
        shard.weights(at, 0..weights.len(), &mut weights).unwrap();
        change(at, &mut ids, &mut weights);
        let (row, bytes) = shard.row(at).unwrap();
        builder.push(&ids, &weights, bytes, &row);
    }
    builder
}

#[test]
fn marks_that_are_none_are_told_even_where_the_hashes_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let (input, shards) = (folder.path().join("pairs.jsonl"), folder.path().join("shards"));
    let row = serde_json::json!({"prompt": "a", "chosen": "the people", "rejected": "of the"});
    std::fs::write(&input, row.to_string()).unwrap();
    let (tokenizer, options) = (tokenizer(), RenderOptions::CLOSED);
    let compare = Compare { counts: Counting::End, strength_min: Strength::Better, similar: 0.9 };
    let format = ChatFormat::Llama3;
    let lessons = Lessons { shape: None, format, options, compare: Some(compare) };
    let made = TokenizeOptions { lessons: Some(lessons.clone()), ..TokenizeOptions::new(1) };
    let sources = Sources::find(&[input.display().to_string()]).unwrap();
    let manifest = tokenize(&tokenizer, &sources, &made, &shards, &RealDisk, &mut |_| {}).unwrap();
    let corpus = Corpus::open(&shards, Check::Contents).unwrap();
    corpus.expect_lessons(Some(&lessons)).unwrap();
    let name = &manifest.sources[0].train.shards[0].file;
    let (whole, told) = (
        Shard::open(&shards.join(name)).unwrap(),
        std::fs::read_to_string(shards.join("manifest.json")).unwrap(),
    );
    // The prompt, an answer, and another with a place of its own behind it.
    let other = |change: Change<'_>| {
        let builder = changed(&whole, change);
        std::fs::remove_file(shards.join(name)).unwrap();
        let hash = builder.write(&RealDisk, &shards, name).unwrap();
        let mut told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let part = &mut told["sources"][0]["train"];
        part["shards"][0]["sha256"] = hash.to_string().into();
        for counts in ["/counts", "/shards/0/counts", "/shards/0"] {
            let tokens = part.pointer_mut(counts).and_then(|counts| counts.get_mut("tokens"));
            tokens.into_iter().for_each(|tokens| *tokens = builder.counts().tokens.into());
        }
        std::fs::write(shards.join("manifest.json"), told.to_string()).unwrap();
        let corpus = Corpus::open(&shards, Check::Contents).unwrap();
        corpus.expect_lessons(Some(&lessons)).map_err(|e| e.to_string())
    };
    let set = |document: usize, place: isize, weight: f32| {
        move |at: usize, _: &mut Vec<u32>, weights: &mut Vec<f32>| {
            if at == document {
                let place = place.rem_euclid(weights.len() as isize) as usize;
                weights[place] = weight;
            }
        }
    };
    other(&|_, _, _| {}).unwrap();
    for (change, expected) in [
        (set(2, 0, 0.5), "the mark of an answer should be 1 to 15, got 0.5"),
        (set(2, -1, 0.0), "the mark of an answer should be 1 to 15, got 0"),
        (set(0, 0, 1.0), "the weight of what is no mark should be 0, got 1"),
    ] {
        let error = other(&change).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let alike = |at: usize, _: &mut Vec<u32>, weights: &mut Vec<f32>| {
        weights.iter_mut().filter(|w| at == 2 && **w != 0.0).for_each(|w| *w = 1.0);
    };
    assert!(other(&alike).unwrap_err().contains("2 of one standing"));
    let short = |at: usize, ids: &mut Vec<u32>, weights: &mut Vec<f32>| {
        if at == 2 {
            ids.truncate(1);
            weights.truncate(1);
        }
    };
    assert!(other(&short).unwrap_err().contains("2 answers in"));
}
