//! What the quickstart measures after a stage: held-out text, held-out questions, and what models write.

use std::path::Path;
use std::sync::Arc;

use herd_codec::chat::{ChatFormat, Dialogue, Message, Role};
use herd_codec::{TokenId, Tokenizer};
use herd_engine::sample::Sampling;
use herd_engine::score::Scorer;
use herd_engine::{Engine, Limits, Request, What};
use herd_tensor::{Device, KvFormat};
use herd_train::reward::RewardModel;
use serde::Deserialize;

use crate::about::About;
use crate::chat::session::Session;
use crate::commands::score;
use crate::error::Error;
use crate::flags::{self, KvFlag, ModelFlags};
use crate::run::{self, Ready};
use crate::vocabulary;

use super::Sample;

/// A question, and the word that a right answer has.
#[derive(Debug, Deserialize)]
pub(super) struct Question {
    pub prompt: String,
    pub answer: String,
}

/// Two answers to a question, the better first.
#[derive(Debug, Deserialize)]
pub(super) struct Pair {
    prompt: String,
    chosen: String,
    rejected: String,
}

/// A reward model.
pub(super) struct Reviewer(RewardModel);

impl Reviewer {
    /// Opens a checkpoint.
    pub fn open(path: &Path, machine: &[String]) -> Result<Reviewer, Error> {
        let (threads, class) = lent(machine);
        let device = Device::cpu(flags::class(class.as_deref())?, flags::threads(threads)?);
        Ok(Reviewer(score::open(path, None, None, &device)?))
    }

    /// The reward of an answer to each question.
    pub fn rewards(&self, questions: &[&str], answers: &[String]) -> Result<Vec<f64>, Error> {
        questions.iter().zip(answers).map(|(q, a)| Ok(self.of(q, &[a.as_str()])?[0])).collect()
    }

    /// For each pair 1 if the better answer has the greater reward, else 0.
    pub fn right(&self, pairs: &[Pair]) -> Result<Vec<f64>, Error> {
        let right = |pair: &Pair| {
            let rewards = self.of(&pair.prompt, &[&pair.chosen, &pair.rejected])?;
            Ok(f64::from(u8::from(rewards[0] > rewards[1])))
        };
        pairs.iter().map(right).collect()
    }

    fn of(&self, question: &str, answers: &[&str]) -> Result<Vec<f64>, Error> {
        let prompt = Dialogue::from(vec![Message::new(Role::User, question)]);
        let answers: Vec<Message> =
            answers.iter().map(|answer| Message::new(Role::Assistant, spoken(answer))).collect();
        Ok(self.0.score(&prompt, &answers)?)
    }
}

/// Threads and class among the flags that say how the machine is used.
fn lent(machine: &[String]) -> (Option<usize>, Option<String>) {
    let flag =
        |name: &str| machine.iter().position(|arg| arg == name).map(|at| machine[at + 1].clone());
    (flag("--threads").and_then(|n| n.parse().ok()), flag("--class"))
}

/// What an open model is asked.
pub(super) struct Subject {
    ready: Ready,
}

/// Tokens that a model writes at most.
const ANSWER: usize = 32;

impl Subject {
    /// Opens a checkpoint or a file.
    pub fn open(path: &Path, machine: &[String], context: usize) -> Result<Subject, Error> {
        let (threads, class) = lent(machine);
        let flags = ModelFlags {
            model: path.display().to_string(),
            threads,
            ctx_size: None,
            class,
            lora: None,
        };
        Ok(Subject { ready: run::load(&flags, &KvFlag::default(), Some(context))? })
    }

    /// Parameters.
    pub fn params(&self) -> u64 {
        self.ready.model.config().params()
    }

    /// Bits a byte of each of at most `pieces` pieces of `tokens` tokens, spread over the texts; their first token is given.
    pub fn bits(&self, texts: &[String], tokens: usize, pieces: usize) -> Vec<f64> {
        let tokenizer = &self.ready.about.tokenizer;
        let mut scorer = Scorer::new(&self.ready.model, tokens, 512, KvFormat::F32);
        let bits = |ids: Vec<u32>| {
            let nats: f64 = -scorer.log_probs(&ids, 0).iter().sum::<f64>();
            nats / std::f64::consts::LN_2 / bytes(tokenizer, &ids[1..]) as f64
        };
        pieces_of(tokenizer, texts, tokens, pieces).into_iter().map(bits).collect()
    }

    /// Of each pair, by how many nats the better answer is likelier than the other.
    pub fn leads(&self, pairs: &[Pair]) -> Result<Vec<f64>, Error> {
        let about = &self.ready.about;
        let format = about.chat_format(Some("llama3"))?;
        let mut scorer =
            Scorer::new(&self.ready.model, self.ready.limits.context, 512, KvFormat::F32);
        let lead = |pair: &Pair| {
            let prompt = asked(about, &format, &pair.prompt)?;
            let mut nats = |answer: &str| -> f64 {
                let answer = about.tokenizer.encode(answer).into_iter().map(|id| id.0);
                let ids: Vec<u32> = prompt.iter().copied().chain(answer).collect();
                scorer.log_probs(&ids, prompt.len() - 1).iter().sum()
            };
            Ok(nats(&pair.chosen) - nats(&pair.rejected))
        };
        pairs.iter().map(lead).collect()
    }

    /// What it answers to each question, greedily.
    pub fn answers(&self, questions: &[&str]) -> Result<Vec<String>, Error> {
        let about = &self.ready.about;
        let format = about.chat_format(Some("llama3"))?;
        let stops = about.stop_ids(Some(&format));
        let prompts = questions.iter().map(|question| asked(about, &format, question));
        self.go_on(prompts.collect::<Result<_, _>>()?, &stops)
    }

    /// What it writes behind each beginning, greedily.
    pub fn texts(&self, beginnings: &[&str]) -> Result<Vec<String>, Error> {
        let about = &self.ready.about;
        let prompts = beginnings.iter().map(|text| about.prompt(text, false)).collect();
        self.go_on(prompts, &about.stop_ids(None))
    }

    fn go_on(&self, prompts: Vec<Vec<u32>>, stops: &[u32]) -> Result<Vec<String>, Error> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let limits = Limits { parallel: 32, kv: KvFormat::F32, ..Limits::single(longest + ANSWER) };
        let tokenizer = Some(Arc::clone(&self.ready.about.tokenizer));
        let mut engine = Engine::new(Arc::clone(&self.ready.model), tokenizer, limits);
        let mut texts = vec![String::new(); prompts.len()];
        let mut ids = Vec::new();
        for prompt in prompts {
            let mut request = Request::new(prompt, Sampling::GREEDY);
            (request.max_tokens, request.stop_tokens) = (Some(ANSWER), stops.to_vec());
            ids.push(engine.submit(request)?);
        }
        let mut events = Vec::new();
        while !engine.is_idle() {
            engine.step(&mut events);
            for event in events.drain(..) {
                let at =
                    ids.iter().position(|id| *id == event.id).expect("an event of these requests");
                match event.what {
                    What::Prompt(_) | What::Embedding(_) => {}
                    What::Token(token) => texts[at] += &token.text,
                    What::End { text, .. } => texts[at] += &text,
                }
            }
        }
        Ok(texts)
    }

    /// What it writes for the report: beginnings of texts, or answers.
    pub fn samples(&self, chats: bool) -> Result<Vec<Sample>, Error> {
        const BEGINNINGS: [&str; 2] =
            ["The people of the United States", "Fellow citizens, the year"];
        const QUESTIONS: [&str; 4] = [
            "What is two and three?",
            "What is the capital of Italy?",
            "Name the opposite of cold.",
            "Who are you?",
        ];
        let (prompts, texts) = match chats {
            true => (&QUESTIONS[..], self.answers(&QUESTIONS)?),
            false => (&BEGINNINGS[..], self.texts(&BEGINNINGS)?),
        };
        let sample =
            |(prompt, text): (&&str, String)| Sample { prompt: (*prompt).to_owned(), text };
        Ok(prompts.iter().zip(texts).map(sample).collect())
    }
}

fn asked(about: &About, format: &ChatFormat, question: &str) -> Result<Vec<u32>, Error> {
    let mut session = Session::new(None);
    session.ask(question);
    about.render(format, &session)
}

/// Bits a byte of the same pieces for one who takes every token to be as likely.
pub(super) fn bits_of_nothing(
    words: &Path,
    texts: &[String],
    tokens: usize,
    pieces: usize,
) -> Result<Vec<f64>, Error> {
    let tokenizer = vocabulary::load(words)?;
    let token_bits = (tokenizer.vocab_size() as f64).log2();
    let bits =
        |ids: Vec<u32>| (ids.len() - 1) as f64 * token_bits / bytes(&tokenizer, &ids[1..]) as f64;
    Ok(pieces_of(&tokenizer, texts, tokens, pieces).into_iter().map(bits).collect())
}

/// Bytes a token of each text.
pub(super) fn fit(words: &Path, texts: &[String]) -> Result<Vec<f64>, Error> {
    let tokenizer = vocabulary::load(words)?;
    Ok(texts.iter().map(|text| text.len() as f64 / tokenizer.encode(text).len() as f64).collect())
}

fn bytes(tokenizer: &Tokenizer, ids: &[u32]) -> usize {
    ids.iter().map(|id| tokenizer.token_bytes(TokenId(*id)).len()).sum()
}

/// At most so many whole pieces, evenly over all there are.
fn pieces_of(tokenizer: &Tokenizer, texts: &[String], tokens: usize, most: usize) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    for text in texts {
        let ids: Vec<u32> = tokenizer.encode(text).into_iter().map(|id| id.0).collect();
        all.extend(ids.chunks_exact(tokens).map(<[u32]>::to_vec));
    }
    let every = all.len().div_ceil(most.max(1)).max(1);
    all.into_iter().step_by(every).collect()
}

/// An answer of no words is no message: a mark stands for it.
fn spoken(answer: &str) -> &str {
    if answer.trim().is_empty() { "-" } else { answer }
}
