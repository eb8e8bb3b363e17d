//! A loaded model that answers one prompt after another, and keeps what they share.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use herd_engine::{Engine, Finish, Grammar, Grammars, Request, Token, What};
use herd_tensor::Class;
use serde::{Serialize, Serializer};

use crate::about::About;
use crate::error::Error;
use crate::flags::{FormFlags, KvFlag, ModelFlags};
use crate::run::{self, Ready};

/// A model and its engine.
pub struct Speaker {
    /// Its tokenizer and manners.
    pub about: Arc<About>,
    engine: Engine,
}

/// An answer, when it is over.
#[derive(Debug)]
pub struct Spoken {
    /// Why it is over.
    pub finish: Finish,
    /// Text that was held back and belongs to it.
    pub text: String,
    /// What it took.
    pub times: Times,
}

impl Spoken {
    /// Nothing, or why no token could be chosen.
    pub fn finish(self) -> Result<(), Error> {
        match self.finish {
            Finish::Failed(error) => Err(error.into()),
            Finish::Form(error) => Err(error.into()),
            Finish::StopToken(_) | Finish::StopString(_) | Finish::Complete => Ok(()),
            Finish::Length | Finish::Cancelled => Ok(()),
        }
    }
}

impl Speaker {
    /// Loads the model that the flags name.
    pub fn load(flags: &ModelFlags, kv: &KvFlag) -> Result<Speaker, Error> {
        let Ready { about, model, limits } = run::load(flags, kv, None)?;
        let engine = Engine::new(model, Some(Arc::clone(&about.tokenizer)), limits);
        Ok(Speaker { about, engine })
    }

    /// The form that the flags ask for, made ready for this model.
    pub fn grammar(&self, flags: &FormFlags) -> Result<Option<Grammar>, Error> {
        let form = flags.form()?;
        let compile = |form| Grammars::new(&self.about.tokenizer, self.vocab()).compile(form);
        Ok(form.map(compile).transpose()?)
    }

    /// Tokens that the model knows.
    pub fn vocab(&self) -> usize {
        self.engine.model().config().vocab
    }

    /// The numeric class that it runs in.
    pub fn class(&self) -> Class {
        self.engine.model().device().class()
    }

    /// How it runs, in a few words.
    pub fn line(&self) -> String {
        let (device, limits) = (self.engine.model().device(), self.engine.limits());
        let (class, threads) = (device.class(), device.threads());
        format!("{class} on {threads} threads, context {}", limits.context)
    }

    /// Answers the request. `take` gets each token as it is chosen and may end the answer, as
    /// `interrupt` does from elsewhere.
    pub fn speak(
        &mut self,
        request: Request,
        interrupt: &AtomicBool,
        take: &mut dyn FnMut(&Token) -> ControlFlow<()>,
    ) -> Result<Spoken, Error> {
        let started = Instant::now();
        let mut first = None;
        let id = self.engine.submit(request)?;
        let mut events = Vec::new();
        loop {
            if interrupt.load(Ordering::SeqCst) {
                self.engine.cancel(id, &mut events);
            } else {
                self.engine.step(&mut events);
            }
            for event in std::mem::take(&mut events) {
                match event.what {
                    What::Prompt(_) | What::Embedding(_) => {}
                    What::Token(token) => {
                        first.get_or_insert_with(Instant::now);
                        if take(&token).is_break() {
                            interrupt.store(true, Ordering::SeqCst);
                        }
                    }
                    What::End { finish, text, usage } => {
                        let now = Instant::now();
                        let first = first.unwrap_or(now);
                        let times = Times {
                            prompt_tokens: usage.prompt,
                            reused_tokens: usage.cached,
                            prompt_time: first - started,
                            tokens: usage.generated,
                            answer_time: now - first,
                            context: self.engine.limits().context,
                        };
                        return Ok(Spoken { finish, text, times });
                    }
                }
            }
        }
    }
}

/// The reason's name in JSON.
pub fn name(finish: &Finish) -> &'static str {
    match finish {
        Finish::StopToken(_) => "stop",
        Finish::StopString(_) => "stop_string",
        Finish::Complete => "complete",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
        Finish::Failed(_) | Finish::Form(_) => "failed",
    }
}

/// What speaking took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that an earlier prompt had brought into the cache.
    pub reused_tokens: usize,
    /// From the question to the first token of the answer.
    #[serde(rename = "prompt_ms", serialize_with = "milliseconds")]
    pub prompt_time: Duration,
    /// Tokens of the answer.
    pub tokens: usize,
    /// From the first token to the last.
    #[serde(rename = "answer_ms", serialize_with = "milliseconds")]
    pub answer_time: Duration,
    /// Tokens of the context.
    pub context: usize,
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64() * 1e3)
}

impl Times {
    /// One line in the spirit of llama.cpp's timings.
    pub fn line(&self) -> String {
        let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
        let read = self.prompt_tokens - self.reused_tokens;
        // The first token of the answer comes with the prompt.
        let written = self.tokens.saturating_sub(1);
        let reused = match self.reused_tokens {
            0 => String::new(),
            n => format!(" ({n} more reused)"),
        };
        format!(
            "prompt {read} tokens{reused}, {:.1} ms, {:.1} tokens/s | answer {} tokens, {:.1} ms, \
             {:.1} tokens/s | context {} of {}",
            self.prompt_time.as_secs_f64() * 1e3,
            rate(read, self.prompt_time),
            self.tokens,
            self.answer_time.as_secs_f64() * 1e3,
            rate(written, self.answer_time),
            self.prompt_tokens + self.tokens,
            self.context,
        )
    }
}
