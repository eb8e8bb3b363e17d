//! What is asked of the engine, and what it answers.

use crate::grammar::{Grammar, GrammarError};
use crate::sample::{SampleError, Sampling};
use crate::softmax::LogProb;
use crate::stop::StopError;

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens to generate at most; `None` goes on to the end of the context, 0 only computes the
    /// prompt.
    pub max_tokens: Option<usize>,
    /// Tokens that end the answer; they are not part of its text.
    pub stop_tokens: Vec<u32>,
    /// Strings that end the answer; they are not part of its text.
    pub stop: Vec<String>,
    /// With each token, the log-probabilities of so many likeliest tokens.
    pub log_probs: Option<usize>,
    /// The same for each token of the prompt from this place on, by [`What::Prompt`]; of the first nothing can be said.
    /// Known pages are taken over only before the token that the place follows. Without `log_probs` nothing comes of it.
    pub prompt_log_probs: Option<usize>,
    /// With each token, what training on it would lose: the bits of `Llama::loss`. The head runs a second time for it.
    pub nats: bool,
    /// The mean of the hidden states of the prompt's tokens, behind the last norm, by [`What::Embedding`]; no page that
    /// is known is taken over then.
    pub embed: bool,
    /// The form that the answer must have; log-probabilities are still those of all tokens.
    pub grammar: Option<Grammar>,
    /// The higher runs first, and takes the pages of the lower where they run out.
    pub priority: i32,
    /// Who asks: those of one priority are let in in turn.
    pub tenant: u32,
}

impl Request {
    /// A request with nothing but a prompt and how to sample.
    pub fn new(prompt: Vec<u32>, sampling: Sampling) -> Request {
        Request {
            prompt,
            sampling,
            max_tokens: None,
            stop_tokens: Vec::new(),
            stop: Vec::new(),
            log_probs: None,
            prompt_log_probs: None,
            nats: false,
            embed: false,
            grammar: None,
            priority: 0,
            tenant: 0,
        }
    }

    /// A request for the prompt's vector alone.
    pub fn embedding(prompt: Vec<u32>) -> Request {
        Request { max_tokens: Some(0), embed: true, ..Request::new(prompt, Sampling::GREEDY) }
    }

    /// The place of the prompt from which on something is asked of its tokens.
    pub(crate) fn told_from(&self) -> Option<usize> {
        if self.embed { Some(0) } else { self.prompt_log_probs }
    }
}

/// Names a request in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Whose.
    pub id: RequestId,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A token of the prompt was read, in order.
    Prompt(PromptToken),
    /// The prompt was read: the mean of its hidden states, D numbers.
    Embedding(Vec<f32>),
    /// A token was chosen.
    Token(Token),
    /// The request is over; nothing follows.
    End {
        /// Why.
        finish: Finish,
        /// Text that was held back and belongs to the answer.
        text: String,
        /// Tokens read and written.
        usage: Usage,
    },
}

/// A token of the prompt, where its log-probability was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// Its id.
    pub id: u32,
    /// Its log-probability after the tokens before it, and the likeliest tokens there; nothing is said of the first.
    pub said: Option<(f64, Vec<LogProb>)>,
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The log-probability of the token under the raw distribution, where asked for.
    pub log_prob: Option<f64>,
    /// Minus its log-probability as training has it, where asked for: over a cache of f32 the same bits as `nats_t` of the
    /// loss of the whole text.
    pub nats: Option<f32>,
    /// The likeliest tokens there, where asked for.
    pub top: Vec<LogProb>,
    /// Text that is now certain: whole characters that cannot begin a stop string.
    pub text: String,
}

/// Why a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Finish {
    /// A stop token came.
    StopToken(u32),
    /// A stop string came.
    StopString(String),
    /// `max_tokens`, or the context was full.
    Length,
    /// The form is complete and allows nothing more.
    Complete,
    /// The caller cancelled it.
    Cancelled,
    /// No token could be chosen.
    Failed(SampleError),
    /// The answer could not be held to its form.
    Form(GrammarError),
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of these, tokens found in the cache.
    pub cached: usize,
    /// Tokens generated, a stop token included.
    pub generated: usize,
}

/// Why a request was refused.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    Empty,
    /// A token that the model does not know.
    #[error("token {id} at place {at} of the prompt, the vocabulary has {vocab}")]
    Vocabulary {
        /// The token.
        id: u32,
        /// Its place.
        at: usize,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, the context {context}")]
    Context {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// No answer is wanted.
    #[error("0 answers are wanted, at least 1")]
    NoAnswer,
    /// The sampling settings are wrong.
    #[error(transparent)]
    Sampling(#[from] SampleError),
    /// The stop strings are wrong.
    #[error(transparent)]
    Stop(#[from] StopError),
}
