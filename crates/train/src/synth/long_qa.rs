//! Questions about long documents, and their summaries (arXiv 2407.21783, section 4.3.4).
//!
//! ```text
//! document -> chunks of so many tokens -> a question and its answer from a chunk drawn at random
//!          -> summaries of all chunks -> a summary of these, until one chunk holds them
//! row: the whole document and the question -> the answer
//! ```

use crate::error::TrainError;
use crate::synth::items::Item;
use crate::synth::read::{labelled, verdict};
use crate::synth::{Harvest, Shelf, fall, said, say};
use crate::writer::desk::{Ask, Desk, Made, fault, reject};
use crate::writer::prompts::Default;
use crate::writer::{WriterConfig, between};
use herd_codec::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Settings of `long-qa`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongQaConfig {
    /// What counts tokens; the writer's own where it is a checkpoint and nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a chunk.
    pub chunk_tokens: usize,
    /// Tokens of a document: the least and the most.
    pub document_tokens: [usize; 2],
    /// Questions of a document, each from a chunk of its own.
    pub questions: usize,
    /// Whether the judge looks over an answer again, with the chunk before it, or the summaries that it was made from.
    pub check: bool,
    /// Whether a row asks for a summary.
    pub summary: bool,
    /// Questions over the summaries of all chunks.
    pub global_questions: usize,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    Default {
        step: "qa",
        names: &["chunk"],
        text: "{{ chunk }}\n\nWrite one question that this text answers and that stands on its own, and its full answer, in this form:\n\
               Question: ...\nAnswer: ...",
    },
    Default {
        step: "check",
        names: &["chunk", "question", "answer"],
        text: "{{ chunk }}\n\nQuestion: {{ question }}\nAnswer: {{ answer }}\n\nJudged by the text alone, is the answer right and complete? \
               End with `Verdict: yes` or `Verdict: no`.",
    },
    Default {
        step: "summarise",
        names: &["chunk"],
        text: "{{ chunk }}\n\nSummarise this part of a document. Keep names, numbers and what follows from what.",
    },
    Default {
        step: "join",
        names: &["summaries"],
        text: "These are summaries of the parts of one document, in order:\n\n{{ summaries }}\n\nWrite one summary of the whole.",
    },
    Default {
        step: "global_qa",
        names: &["summaries"],
        text: "These are summaries of the parts of one document, in order:\n\n{{ summaries }}\n\nWrite one question that only someone who knows \
               the whole document can answer, and its full answer, in this form:\nQuestion: ...\nAnswer: ...",
    },
    Default {
        step: "ask",
        names: &["document", "question"],
        text: "{{ document }}\n\n{{ question }}",
    },
    Default {
        step: "ask_summary",
        names: &["document"],
        text: "{{ document }}\n\nSummarise this document.",
    },
];

/// Summaries of summaries at most: each is shorter, or nothing comes of it.
const LEVELS: usize = 8;

impl LongQaConfig {
    pub(super) fn base() -> LongQaConfig {
        LongQaConfig {
            tokenizer: None,
            chunk_tokens: 8192,
            document_tokens: [16_384, 131_072],
            questions: 1,
            check: true,
            summary: false,
            global_questions: 0,
        }
    }

    pub(super) fn check(&self, writer: &WriterConfig) -> Result<(), TrainError> {
        between("long_qa.chunk_tokens", self.chunk_tokens as u64, 1, 1 << 24)?;
        between("long_qa.questions", self.questions as u64, 0, 1024)?;
        between("long_qa.global_questions", self.global_questions as u64, 0, 1024)?;
        let [least, most] = self.document_tokens;
        if least > most {
            let value = format!("[{least}, {most}]");
            return Err(TrainError::no("long_qa.document_tokens", value, "[least, most]"));
        }
        if writer.base_url.is_some() && self.tokenizer.is_none() {
            let expected = "a tokenizer's folder: an endpoint brings none";
            return Err(TrainError::no("long_qa.tokenizer", "missing", expected));
        }
        Ok(())
    }
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.long_qa.as_ref().expect("the settings of its kind");
    let words = shelf.tokenizer.expect("a tokenizer is opened for this kind");
    let document = item.text.trim();
    let (chunks, tokens) = chunks(words, document, config.chunk_tokens);
    let [least, most] = config.document_tokens;
    if !(least..=most).contains(&tokens) {
        let reason = if tokens < least { "short" } else { "long" };
        return reject("document", reason, json!({ "tokens": tokens }));
    }
    desk.passed("document");
    let mut harvest = Harvest::default();
    let drawn = draw(desk, chunks.len(), config.questions);
    let asks = drawn.iter().map(|i| Ask::one("qa", json!({ "chunk": chunks[*i] })));
    let said = desk.ask(asks.collect())?;
    let mut found = Vec::new();
    for (i, said) in drawn.iter().zip(said) {
        found.extend(pair(desk, &mut harvest, "qa", &said[0]).map(|pair| (*i, pair)));
    }
    if config.check {
        found = checked(desk, &mut harvest, &chunks, found)?;
    }
    for (chunk, (question, answer)) in found {
        let row = row(desk, "ask", json!({ "document": document, "question": question }), &answer)?;
        harvest.rows.push(told(row, tokens, Some(chunk)));
    }
    if config.summary || config.global_questions > 0 {
        whole(desk, config, words, &mut harvest, (document, tokens, &chunks))?;
    }
    Ok(harvest)
}

/// The rows of the whole document: its summary, and questions over the summaries of its chunks.
fn whole(
    desk: &mut Desk<'_>,
    config: &LongQaConfig,
    words: &Tokenizer,
    harvest: &mut Harvest,
    (document, tokens, chunks): (&str, usize, &[String]),
) -> Made<()> {
    let Some(summaries) = summaries(desk, config, words, harvest, chunks)? else { return Ok(()) };
    if config.summary {
        let with = json!({ "summaries": summaries });
        let summary = match summaries.contains("\n\n") || chunks.len() > 1 {
            true => say(desk, harvest, "join", with)?,
            false => Some(summaries.clone()),
        };
        if let Some(summary) = summary {
            let row = row(desk, "ask_summary", json!({ "document": document }), &summary)?;
            harvest.rows.push(told(row, tokens, None));
        }
    }
    let ask = |_| Ask::one("global_qa", json!({ "summaries": summaries }));
    let mut found = Vec::new();
    for said in desk.ask((0..config.global_questions).map(ask).collect())? {
        found.extend(pair(desk, harvest, "global_qa", &said[0]).map(|pair| (0, pair)));
    }
    if config.check {
        found = checked(desk, harvest, &[summaries], found)?;
    }
    for (_, (question, answer)) in found {
        let row = row(desk, "ask", json!({ "document": document, "question": question }), &answer)?;
        harvest.rows.push(told(row, tokens, None));
    }
    Ok(())
}

/// Summaries of all chunks, and of these, until a chunk holds them; `None` if one cannot be had.
fn summaries(
    desk: &mut Desk<'_>,
    config: &LongQaConfig,
    words: &Tokenizer,
    harvest: &mut Harvest,
    chunks: &[String],
) -> Made<Option<String>> {
    let mut parts = chunks.to_vec();
    for _ in 0..LEVELS {
        let asks = parts.iter().map(|part| Ask::one("summarise", json!({ "chunk": part })));
        let mut shorter = Vec::new();
        for said in desk.ask(asks.collect())? {
            if let Some(reason) = fault(&said[0]) {
                fall(desk, harvest, "summarise", reason, said[0].text.as_str());
                return Ok(None);
            }
            desk.passed("summarise");
            shorter.push(said[0].text.trim().to_owned());
        }
        let joined = shorter.join("\n\n");
        let (next, _) = self::chunks(words, &joined, config.chunk_tokens);
        if next.len() <= 1 {
            return Ok(Some(joined));
        }
        if next.len() >= parts.len() {
            break;
        }
        parts = next;
    }
    fall(desk, harvest, "summarise", "no_shorter", "");
    Ok(None)
}

/// So many chunks, none twice, in the order in which they were drawn.
fn draw(desk: &Desk<'_>, chunks: usize, wanted: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..chunks).collect();
    let mut drawn = Vec::new();
    while drawn.len() < wanted && !left.is_empty() {
        let at = desk.draw(&format!("chunk {}", drawn.len())) % left.len() as u64;
        drawn.push(left.swap_remove(at as usize));
    }
    drawn
}

/// A question and its answer in the writer's words.
fn pair(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    step: &'static str,
    said: &crate::writer::Said,
) -> Option<(String, String)> {
    const LABELS: [&str; 2] = ["Question", "Answer"];
    let part = |label: &str| labelled(&said.text, label, &LABELS);
    match (fault(said), part("Question"), part("Answer")) {
        (None, Some(question), Some(answer)) => {
            desk.passed(step);
            Some((question, answer))
        }
        (Some(reason), ..) => {
            fall(desk, harvest, step, reason, said.text.as_str());
            None
        }
        (None, ..) => {
            fall(desk, harvest, step, "no_pair", said.text.as_str());
            None
        }
    }
}

type Found = Vec<(usize, (String, String))>;

/// Those of some pairs that the judge finds right when it sees the chunk again, or what stands for it.
fn checked(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    chunks: &[String],
    found: Found,
) -> Made<Found> {
    let with = |(chunk, (question, answer)): &(usize, (String, String))| json!({ "chunk": chunks[*chunk], "question": question, "answer": answer });
    let verdicts = desk.verdicts("check", found.iter().map(with).collect())?;
    let mut kept = Vec::new();
    for (pair, said) in found.into_iter().zip(verdicts) {
        let reason = match said.as_deref().and_then(verdict) {
            Some(true) => {
                desk.passed("check");
                kept.push(pair);
                continue;
            }
            Some(false) => "no",
            None => "no_verdict",
        };
        let (question, answer) = pair.1;
        fall(desk, harvest, "check", reason, json!({ "question": question, "answer": answer }));
    }
    Ok(kept)
}

fn row(desk: &Desk<'_>, step: &str, with: Value, answer: &str) -> Made<Value> {
    let asked = desk.room.prompts.render(step, &with)?;
    Ok(json!({ "messages": [said("user", &asked), said("assistant", answer)] }))
}

fn told(mut row: Value, tokens: usize, chunk: Option<usize>) -> Value {
    row["document_tokens"] = tokens.into();
    if let Some(chunk) = chunk {
        row["chunk"] = chunk.into();
    }
    row
}

/// A text as parts of at most so many tokens, cut between lines where lines are short enough; and the tokens of all.
fn chunks(words: &Tokenizer, text: &str, most: usize) -> (Vec<String>, usize) {
    let (mut parts, mut tokens, mut total): (Vec<String>, usize, usize) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n').flat_map(|line| pieces(words, line, most)) {
        let own = words.encode(line).len();
        total += own;
        match parts.last_mut() {
            Some(part) if tokens + own <= most => {
                part.push_str(line);
                tokens += own;
            }
            Some(_) | None => {
                parts.push(line.to_owned());
                tokens = own;
            }
        }
    }
    (parts, total)
}

/// A line in pieces of at most so many tokens, halved until they are; a single letter is never cut.
fn pieces<'a>(words: &Tokenizer, line: &'a str, most: usize) -> Vec<&'a str> {
    // No token is longer than the text: few bytes need no counting.
    if line.len() <= most || words.encode(line).len() <= most {
        return vec![line];
    }
    let middle = line.len() / 2;
    let Some(at) = (middle..line.len()).find(|at| line.is_char_boundary(*at)) else {
        return vec![line];
    };
    if at == 0 {
        return vec![line];
    }
    let (left, right) = line.split_at(at);
    [pieces(words, left, most), pieces(words, right, most)].concat()
}
