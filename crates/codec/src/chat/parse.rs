//! The model's answer as a message: text, tool calls, and why it ended; whole or as it streams.
//!
//! An answer is text, then calls to its end, then a stop token. Text that only looks like the
//! beginning of a call is held back until it is one or is not.

use serde_json::Value;

use super::calls::{CallForms, Search, read_tagged};
use super::python::Found;
use super::{Block, EndOf, Message, Role, Span, ToolCall};

/// A piece of an answer: what the vocabulary marks as control, or decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A control token by name.
    Control(&'a str),
    /// Text, in which nothing is special.
    Text(&'a str),
}

/// The pieces of rendered spans.
pub fn pieces(spans: &[Span]) -> impl Iterator<Item = Piece<'_>> {
    spans.iter().map(|span| match span {
        Span::Control { token, .. } => Piece::Control(token),
        Span::Text { text, .. } => Piece::Text(text),
    })
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop token that ends the turn.
    EndOfTurn,
    /// `<|eom_id|>`: the assistant goes on after the tools.
    EndOfMessage,
    /// No stop token came.
    OutOfTokens,
}

impl StopReason {
    /// How the message ends, if it ended.
    pub fn end(self) -> Option<EndOf> {
        match self {
            StopReason::EndOfTurn => Some(EndOf::Turn),
            StopReason::EndOfMessage => Some(EndOf::Message),
            StopReason::OutOfTokens => None,
        }
    }
}

/// An answer taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedMessage {
    /// The words before any call.
    pub text: String,
    /// The calls; they have no ids yet.
    pub tool_calls: Vec<ToolCall>,
    /// Why the answer ended.
    pub stop: StopReason,
}

impl ParsedMessage {
    /// The assistant's message; one cut short counts as a whole turn.
    pub fn into_message(self) -> Message {
        let mut message = Message::new(Role::Assistant, "");
        message.content.clear();
        if !self.text.is_empty() {
            message.content.push(Block::Text { text: self.text });
        }
        message.tool_calls = self.tool_calls;
        message.end = self.stop.end().unwrap_or(EndOf::Turn);
        message
    }
}

/// What a stream brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// More text.
    Text(String),
    /// A whole call.
    Call {
        /// Which call of the message.
        index: usize,
        /// The call.
        call: ToolCall,
    },
}

/// Takes a whole answer apart: see [`StreamParser`].
pub fn parse_assistant<'a>(
    pieces: impl IntoIterator<Item = Piece<'a>>,
    forms: CallForms,
    stops: &[&str],
) -> ParsedMessage {
    let mut parser = StreamParser::new(forms, stops);
    for piece in pieces {
        parser.take(piece);
    }
    parser.finish().1
}

/// Takes an answer apart as it comes; how it is cut changes nothing in the result.
///
/// Cost: a held text is read again each time it has doubled, so linear in all.
#[derive(Clone, Debug)]
pub struct StreamParser {
    forms: CallForms,
    stops: Vec<String>,
    /// All text before `<|python_tag|>`.
    text: String,
    /// All text behind it.
    tagged: Option<String>,
    /// Bytes of `text` that went out.
    sent: usize,
    /// Bytes of `text` at the last look for calls.
    looked: usize,
    header: Header,
    stop: Option<StopReason>,
}

/// Where the parser stands in a header that the model repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    None,
    Inside,
    /// Behind it, with so many line breaks still to drop.
    Behind(usize),
}

impl StreamParser {
    /// A parser that looks for calls of these forms and ends at these control tokens.
    pub fn new(forms: CallForms, stops: &[&str]) -> StreamParser {
        StreamParser {
            forms,
            stops: stops.iter().map(|stop| stop.to_string()).collect(),
            text: String::new(),
            tagged: None,
            sent: 0,
            looked: 0,
            header: Header::None,
            stop: None,
        }
    }

    /// Takes the next piece and gives the text that is certain by now.
    ///
    /// What comes after a stop token is not part of the answer.
    pub fn push(&mut self, piece: Piece) -> Option<Delta> {
        self.take(piece);
        let held = self.text.len() - self.sent;
        if self.stop.is_some() || self.text.len() == self.looked {
            return None;
        }
        // The early looks are cheap; after them the text must double.
        if held > 256 && held < 2 * (self.looked - self.sent) {
            return None;
        }
        self.looked = self.text.len();
        let certain = match Search::new(&self.text, self.forms).next(self.sent) {
            Some((at, _)) => at,
            None => self.text.len(),
        };
        self.send(certain)
    }

    /// Ends the answer: what was held back, and the whole.
    pub fn finish(mut self) -> (Vec<Delta>, ParsedMessage) {
        let mut from = self.sent;
        let mut tool_calls = Vec::new();
        let mut end = self.text.len();
        match &self.tagged {
            Some(tagged) => tool_calls = read_tagged(tagged, self.forms),
            None => {
                let mut search = Search::new(&self.text, self.forms);
                while let Some((at, found)) = search.next(from) {
                    if let Found::Whole(calls, _) = found {
                        (tool_calls, end) = (calls, at);
                        break;
                    }
                    from = at + 1;
                }
            }
        }
        let mut deltas: Vec<Delta> = self.send(end).into_iter().collect();
        self.text.truncate(end);
        let calls = tool_calls.iter().cloned().enumerate();
        deltas.extend(calls.map(|(index, call)| Delta::Call { index, call }));
        let stop = self.stop.unwrap_or(StopReason::OutOfTokens);
        (deltas, ParsedMessage { text: self.text, tool_calls, stop })
    }

    fn send(&mut self, end: usize) -> Option<Delta> {
        let text = self.text[self.sent..end].to_string();
        self.sent = end;
        (!text.is_empty()).then_some(Delta::Text(text))
    }

    fn take(&mut self, piece: Piece) {
        if self.stop.is_some() {
            return;
        }
        match piece {
            Piece::Control(name) if self.stops.iter().any(|stop| stop == name) => {
                let eom = name == "<|eom_id|>";
                let stop = if eom { StopReason::EndOfMessage } else { StopReason::EndOfTurn };
                self.stop = Some(stop);
            }
            Piece::Control("<|start_header_id|>") => self.header = Header::Inside,
            Piece::Control("<|end_header_id|>") => self.header = Header::Behind(2),
            Piece::Control("<|python_tag|>") if self.tagged.is_none() => {
                self.tagged = Some(String::new());
            }
            // A control token without a place here is shown, not lost.
            Piece::Control(name) => self.say(name),
            Piece::Text(text) => self.take_text(text),
        }
    }

    fn take_text(&mut self, mut text: &str) {
        match self.header {
            Header::None => {}
            Header::Inside => return,
            Header::Behind(mut breaks) => {
                while let (true, Some(rest)) = (breaks > 0, text.strip_prefix('\n')) {
                    (text, breaks) = (rest, breaks - 1);
                }
                let more = text.is_empty() && breaks > 0;
                self.header = if more { Header::Behind(breaks) } else { Header::None };
            }
        }
        self.say(text);
    }

    fn say(&mut self, text: &str) {
        self.tagged.as_mut().unwrap_or(&mut self.text).push_str(text);
    }
}

impl ToolCall {
    /// The arguments as one JSON text, as OpenAI's API carries them.
    pub fn arguments_json(&self) -> String {
        Value::Object(self.arguments.clone()).to_string()
    }
}
