//! The inner form of an answer: parts as they come, and the whole, from one reader, so that a
//! stream and a whole answer cannot differ.

use std::time::Instant;

use herd_codec::chat::{CallForms, Delta, Piece, StreamParser, ToolCall};
use herd_codec::{TokenId, Tokenizer};
use herd_engine::{Finish, PromptToken, Token, Usage, What};

use crate::ask::Ask;
use crate::refusal::Refusal;
use crate::served::Served;

/// Something to tell of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A token of the prompt was read.
    Prompt(PromptToken),
    /// The prompt's vector, of D numbers.
    Embedding(Vec<f32>),
    /// Text that is certain, and the tokens chosen since the last part. Either may be empty.
    Text {
        /// The text.
        text: String,
        /// The tokens.
        tokens: Vec<Chosen>,
    },
    /// A whole call.
    Call {
        /// Which of the answer's calls.
        index: usize,
        /// The call.
        call: ToolCall,
    },
    /// The answer is over.
    End {
        /// Why.
        ending: Ending,
        /// Its tokens.
        usage: Usage,
    },
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// As the engine has it.
    pub token: Token,
    /// Whether it ended the answer, and so has no text.
    pub ends: bool,
}

/// Why an answer is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it.
    Model,
    /// This text came.
    Text(String),
    /// It holds calls.
    Calls,
    /// No more tokens were allowed.
    Length,
}

/// An answer as a whole.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Tokens of the prompt, where they were asked for.
    pub prompt: Vec<PromptToken>,
    /// The prompt's vector, where it was asked for.
    pub embedding: Vec<f32>,
    /// Its text, calls apart.
    pub text: String,
    /// Its tokens, the last included.
    pub tokens: Vec<Chosen>,
    /// Its calls.
    pub calls: Vec<ToolCall>,
    /// Why it is over, once it is.
    pub ending: Option<Ending>,
    /// Its tokens in numbers.
    pub usage: Usage,
    /// When the first of it came.
    pub begun: Option<Instant>,
}

impl Choice {
    /// Takes a part in.
    pub fn take(&mut self, part: Part) {
        self.begun.get_or_insert_with(Instant::now);
        match part {
            Part::Prompt(token) => self.prompt.push(token),
            Part::Embedding(x_d) => self.embedding = x_d,
            Part::Text { text, tokens } => {
                self.text += &text;
                self.tokens.extend(tokens);
            }
            Part::Call { call, .. } => self.calls.push(call),
            Part::End { ending, usage } => (self.ending, self.usage) = (Some(ending), usage),
        }
    }
}

/// Reads one answer: events in, parts out.
pub struct Reader {
    parser: Option<StreamParser>,
    by_token: bool,
    stops: Vec<u32>,
    /// Tokens whose text is not certain yet.
    tokens: Vec<Chosen>,
}

impl Reader {
    /// A reader of answers to this request of `ask`.
    pub fn new(ask: &Ask, request: usize) -> Reader {
        let forms = ask.calls.as_ref().map(|format| format.call_forms());
        Reader::of_calls(ask, request, forms.unwrap_or(CallForms::NONE))
    }

    /// The same where calls, if any are looked for, may be of these forms.
    pub fn of_calls(ask: &Ask, request: usize, forms: CallForms) -> Reader {
        let parser = ask.calls.as_ref();
        let parser = parser.map(|format| StreamParser::new(forms, &format.stops()));
        let stops = ask.requests[request].stop_tokens.clone();
        Reader { parser, by_token: ask.by_token, stops, tokens: Vec::new() }
    }

    /// Takes an event. Errors: the engine could choose no token, or gave the answer up.
    pub fn take(&mut self, what: What, served: &Served) -> Result<Vec<Part>, Refusal> {
        match what {
            What::Prompt(token) => Ok(vec![Part::Prompt(token)]),
            What::Embedding(x_d) => Ok(vec![Part::Embedding(x_d)]),
            What::Token(token) => Ok(self.token(token, &served.tokenizer).into_iter().collect()),
            What::End { finish, text, usage } => self.end(finish, text, usage),
        }
    }

    fn token(&mut self, mut token: Token, tokenizer: &Tokenizer) -> Option<Part> {
        let ends = self.stops.contains(&token.id);
        let mut text = std::mem::take(&mut token.text);
        if let Some(parser) = &mut self.parser {
            let id = TokenId(token.id);
            let delta = match tokenizer.is_control(id) {
                true => {
                    let name = String::from_utf8_lossy(tokenizer.token_bytes(id));
                    parser.push(Piece::Control(&name))
                }
                false => parser.push(Piece::Text(&text)),
            };
            text = words(delta);
        }
        self.tokens.push(Chosen { token, ends });
        if text.is_empty() && !self.by_token {
            self.tokens.clear();
            return None;
        }
        Some(Part::Text { text, tokens: std::mem::take(&mut self.tokens) })
    }

    fn end(
        &mut self,
        finish: Finish,
        mut text: String,
        usage: Usage,
    ) -> Result<Vec<Part>, Refusal> {
        let mut parts = Vec::new();
        let mut called = false;
        if let Some(mut parser) = self.parser.take() {
            text = words(parser.push(Piece::Text(&text)));
            for delta in parser.finish().0 {
                match delta {
                    Delta::Text(more) => text += &more,
                    Delta::Call { index, call } => {
                        called = true;
                        parts.push(Part::Call { index, call });
                    }
                }
            }
        }
        if !text.is_empty() {
            let tokens = std::mem::take(&mut self.tokens);
            parts.insert(0, Part::Text { text, tokens });
        }
        let ending = match finish {
            Finish::Failed(error) => return Err(Refusal::of_sampling(&error)),
            Finish::Form(error) => {
                return Err(Refusal::new(500, format!("the answer left its form: {error}")));
            }
            Finish::Cancelled => return Err(Refusal::new(503, "the server ended this answer")),
            Finish::Length => Ending::Length,
            Finish::StopToken(_) | Finish::StopString(_) | Finish::Complete if called => {
                Ending::Calls
            }
            Finish::StopToken(_) | Finish::Complete => Ending::Model,
            Finish::StopString(text) => Ending::Text(text),
        };
        parts.push(Part::End { ending, usage });
        Ok(parts)
    }
}

fn words(delta: Option<Delta>) -> String {
    match delta {
        Some(Delta::Text(text)) => text,
        Some(Delta::Call { .. }) | None => String::new(), // calls come at the end
    }
}
