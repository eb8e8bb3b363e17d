//! An answer while an engine gives it.

use herd_engine::{Finish, Usage, What};

/// What was said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spoken {
    /// The tokens, what ends it included.
    pub ids: Vec<u32>,
    /// What the trainer would lose on each.
    pub nats: Vec<f32>,
    /// The words.
    pub text: String,
    /// How it ended, if it has.
    pub finish: Option<Finish>,
}

impl Spoken {
    /// Something happened to it; what it used, at its end. Panics if its tokens come without nats.
    pub fn hear(&mut self, what: What) -> Option<Usage> {
        match what {
            What::Prompt(_) | What::Embedding(_) => None,
            What::Token(token) => {
                self.ids.push(token.id);
                self.nats.push(token.nats.expect("they were asked for"));
                self.text.push_str(&token.text);
                None
            }
            What::End { finish, text, usage } => {
                self.text.push_str(&text);
                self.finish = Some(finish);
                Some(usage)
            }
        }
    }

    /// Log-probabilities of its tokens.
    pub fn logps(&self) -> Vec<f32> {
        self.nats.iter().map(|nats| -nats).collect()
    }

    /// `stop`, `length` or `failed`, as rows have it. Panics if it has not ended.
    pub fn finish_name(&self) -> &'static str {
        match self.finish.as_ref().expect("it has ended") {
            Finish::StopToken(_) | Finish::StopString(_) | Finish::Complete => "stop",
            Finish::Length => "length",
            Finish::Failed(_) | Finish::Form(_) | Finish::Cancelled => "failed",
        }
    }
}
