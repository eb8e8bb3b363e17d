//! Who is measured: a model of this machine, or one behind an endpoint.

mod endpoint;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use herd_engine::Limits;
use herd_eval::EvalError;
use herd_eval::local::Local;
use herd_eval::query::{Chat, Query, Said, Words, encoder, renderer};

use crate::about::About;
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, range};
use crate::run::{self, Ready};
use endpoint::Endpoint;

/// Which model, and where it is.
#[derive(Clone, Debug, clap::Args)]
pub struct WhomFlags {
    /// The model: a file, a folder, or a name in the store; with --url its name there [default: the endpoint's first]
    #[arg(short, long, required_unless_present = "url")]
    model: Option<String>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N", conflicts_with = "url")]
    threads: Option<usize>,
    /// Tokens of context [default: the model's own]
    #[arg(short, long, visible_aliases = ["context", "max-model-len"], value_name = "N")]
    ctx_size: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS", conflicts_with = "url")]
    class: Option<String>,
    /// The folder of an adapter that stands beside the model, as PEFT and `herd sft` write them
    #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
    lora: Option<PathBuf>,
    /// Store keys and values as f32, f16, i16 or i8 [default: f32 for f32 weights, else f16]
    #[arg(long, visible_alias = "cache-type", value_name = "TYPE", conflicts_with = "url")]
    kv: Option<String>,
    /// An endpoint with OpenAI's /v1/completions, like http://127.0.0.1:8080, in place of a model of this machine
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The endpoint's key
    #[arg(long, value_name = "KEY", requires = "url")]
    api_key: Option<String>,
    /// A tokenizer of this machine (a file or folder), for endpoints without /tokenize
    #[arg(long, value_name = "PATH", requires = "url")]
    tokenizer: Option<PathBuf>,
    /// Times that the endpoint is asked for an answer, with pauses that double
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = range(1, 100), requires = "url")]
    attempts: usize,
    /// Milliseconds before the second time
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = range(0, 60_000), requires = "url")]
    pause_ms: usize,
    /// Seconds that an answer of the endpoint may take
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = range(1, 1 << 20), requires = "url")]
    timeout: usize,
}

/// How it is asked.
pub struct Manner<'a> {
    /// Questions at once.
    pub batch: usize,
    /// Whether questions are messages of a chat.
    pub chat: bool,
    /// How the chat is written, where it is not the model's way.
    pub template: Option<&'a str>,
    /// What the system says.
    pub system: Option<&'a str>,
    /// Whether examples are turns.
    pub turns: bool,
}

/// What names a model that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The hash of its weights; where nobody tells it, what the endpoint calls it.
    pub model: String,
    /// The numeric class, where it is told.
    pub class: Option<String>,
    /// The format of its cache, where it is told.
    pub kv: Option<String>,
    /// Tokens of its context.
    pub context: usize,
    /// Whose endpoint answers, where it is not this version of Herd.
    pub endpoint: Option<String>,
}

/// Who answers.
pub enum Answers {
    /// A model of this machine.
    Local(Box<Local>),
    /// One behind an endpoint.
    Endpoint(Box<Endpoint>),
}

/// A model, ready to be measured.
pub struct Whom {
    /// What names it.
    pub known: Known,
    /// How it reads.
    pub words: Words,
    /// Who answers.
    pub answers: Answers,
}

impl Whom {
    /// Finds the model that the flags name. Errors: there is none, or it cannot be asked in this manner.
    pub fn open(flags: &WhomFlags, manner: &Manner<'_>, offline: bool) -> Result<Whom, Error> {
        match &flags.url {
            Some(url) if offline => Err(Error::Offline { what: format!("the endpoint at {url}") }),
            Some(url) => Endpoint::open(flags, url, manner),
            None => local(flags, manner),
        }
    }
}

impl Answers {
    /// Answers queries in their order; `stop` ends it early.
    pub fn answer(&mut self, queries: &[Query], stop: &AtomicBool) -> Result<Vec<Said>, EvalError> {
        match self {
            Answers::Local(local) => local.answer(queries, stop),
            Answers::Endpoint(endpoint) => endpoint.answer(queries, stop),
        }
    }
}

/// The chat of a manner, written as `render` does.
fn chat(manner: &Manner<'_>, render: Box<herd_eval::query::Render>) -> Chat {
    Chat { render, system: manner.system.map(str::to_owned), turns: manner.turns }
}

fn local(flags: &WhomFlags, manner: &Manner<'_>) -> Result<Whom, Error> {
    let model = ModelFlags {
        model: flags.model.clone().unwrap_or_default(), // clap wants one where there is no --url
        threads: flags.threads,
        ctx_size: flags.ctx_size,
        class: flags.class.clone(),
        lora: flags.lora.clone(),
    };
    let (checkpoint, limits) = run::open(&model, &KvFlag { kv: flags.kv.clone() }, None)?;
    let hash = run::identity(&checkpoint, model.lora.as_deref())?;
    // Pages are short, so that answers to one question share all but its last few tokens.
    let limits = Limits {
        parallel: manner.batch,
        page_len: 16,
        positions: Some(manner.batch * 2048),
        ..limits
    };
    let Ready { about, model, limits } = run::ready(&checkpoint, limits, &model)?;
    let format = manner.chat.then(|| about.chat_format(manner.template)).transpose()?;
    let known = Known {
        model: hash,
        class: Some(model.device().class().name().to_owned()),
        kv: Some(format!("{:?}", limits.kv).to_lowercase()),
        context: limits.context,
        endpoint: None,
    };
    let stops = about.stop_ids(format.as_ref());
    let tokenizer = &about.tokenizer;
    let render = format.map(|format| renderer(format, Arc::clone(tokenizer)));
    let words = Words {
        stops,
        context: limits.context - 1,
        chat: render.map(|render| chat(manner, render)),
        ..read_here(&about)
    };
    let local = Local::new(model, Arc::clone(tokenizer), limits);
    Ok(Whom { known, words, answers: Answers::Local(Box::new(local)) })
}

/// How texts become ids by a tokenizer of this machine.
fn read_here(about: &About) -> Words {
    let tokenizer = Arc::clone(&about.tokenizer);
    let specials = tokenizer.specials();
    Words {
        bos: specials.bos.filter(|_| tokenizer.add_bos()).map(|id| id.0),
        alone: specials.bos.or(specials.eos).map(|id| id.0),
        stops: Vec::new(),
        context: 0,
        chat: None,
        samples: None,
        encode: encoder(tokenizer),
    }
}
