//! Rendered chats as typed spans: what is a control token, what is text, and where each came from.

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;

use super::{ChatError, Role};

/// What a span is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    /// The frame of the dialogue: its beginning, separators, fixed words between messages.
    Frame,
    /// A message's header: who speaks.
    Header,
    /// Words that the format adds: dates, instructions, tool definitions.
    Preamble,
    /// The message's own content.
    Content,
    /// A tool call.
    Call,
    /// The end of a message.
    End,
}

/// Where a span came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Index of the message; `None` for what belongs to no message of the caller.
    pub message: Option<usize>,
    /// Whose message it is.
    pub role: Option<Role>,
    /// What the span is for.
    pub kind: SpanKind,
}

impl Origin {
    /// The frame, which belongs to no message.
    pub const FRAME: Origin = Origin { message: None, role: None, kind: SpanKind::Frame };

    /// A part of message `index`.
    pub fn of(index: usize, role: Role, kind: SpanKind) -> Origin {
        Origin { message: Some(index), role: Some(role), kind }
    }

    /// A part of a message that the format adds by itself.
    pub fn added(role: Role, kind: SpanKind) -> Origin {
        Origin { message: None, role: Some(role), kind }
    }
}

/// A control token or a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// A control token by name. Only structure makes these, never anybody's words.
    Control {
        /// The token's name in the vocabulary.
        token: Cow<'static, str>,
        /// Where it came from.
        from: Origin,
    },
    /// Text, in which nothing is special.
    Text {
        /// The text; not empty.
        text: String,
        /// Where it came from.
        from: Origin,
        /// Whether it is tokenised in one piece with the text before it.
        joins: bool,
    },
}

impl Span {
    /// Where the span came from.
    pub fn from(&self) -> Origin {
        match self {
            Span::Control { from, .. } | Span::Text { from, .. } => *from,
        }
    }

    /// Whether a model in training learns to write this span: the assistant's own words, calls
    /// and ends.
    pub fn is_learned(&self) -> bool {
        let Origin { role, kind, .. } = self.from();
        role == Some(Role::Assistant)
            && matches!(kind, SpanKind::Content | SpanKind::Call | SpanKind::End)
    }
}

/// Collects spans; `joins` says whether neighbouring texts are tokenised together.
pub(super) struct Writer {
    spans: Vec<Span>,
    joins: bool,
}

impl Writer {
    /// Each text is tokenised by itself, as Meta's code does.
    pub fn apart() -> Writer {
        Writer { spans: Vec::new(), joins: false }
    }

    /// Texts between two control tokens are tokenised together, as templates do.
    pub fn joined() -> Writer {
        Writer { spans: Vec::new(), joins: true }
    }

    pub fn control(&mut self, token: impl Into<Cow<'static, str>>, from: Origin) {
        self.spans.push(Span::Control { token: token.into(), from });
    }

    pub fn text(&mut self, text: impl Into<String>, from: Origin) {
        let text = text.into();
        if !text.is_empty() {
            let after_text = matches!(self.spans.last(), Some(Span::Text { .. }));
            self.spans.push(Span::Text { text, from, joins: self.joins && after_text });
        }
    }

    /// Text that is tokenised together with the text before it, whatever the writer's way.
    pub fn join(&mut self, text: impl Into<String>, from: Origin) {
        let apart = std::mem::replace(&mut self.joins, true);
        self.text(text, from);
        self.joins = apart;
    }

    pub fn finish(self) -> Vec<Span> {
        self.spans
    }
}

/// Ids of a rendered chat, with the spans that each run of them came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded<Id> {
    /// All ids in order.
    pub ids: Vec<Id>,
    /// Runs in order, covering `ids`.
    pub runs: Vec<Run>,
}

/// Spans that were encoded together: one control token, or texts that join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which spans.
    pub spans: Range<usize>,
    /// Which ids.
    pub ids: Range<usize>,
}

/// Encodes spans: control tokens by `control`, texts by `encode`, which must see nothing special.
///
/// Errors: a control token that the vocabulary lacks.
pub fn spans_to_ids<Id>(
    spans: &[Span],
    mut encode: impl FnMut(&str) -> Vec<Id>,
    mut control: impl FnMut(&str) -> Option<Id>,
) -> Result<Encoded<Id>, ChatError> {
    let (mut ids, mut runs) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < spans.len() {
        let (first_span, first_id) = (at, ids.len());
        at += 1;
        match &spans[first_span] {
            Span::Control { token, .. } => {
                let unknown = || ChatError::UnknownControl { name: token.to_string() };
                ids.push(control(token).ok_or_else(unknown)?);
            }
            Span::Text { text, .. } => {
                let mut whole = Cow::Borrowed(text.as_str());
                while let Some(Span::Text { text, joins: true, .. }) = spans.get(at) {
                    whole.to_mut().push_str(text);
                    at += 1;
                }
                ids.extend(encode(&whole));
            }
        }
        runs.push(Run { spans: first_span..at, ids: first_id..ids.len() });
    }
    Ok(Encoded { ids, runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_texts_are_encoded_once_and_apart_texts_each() {
        for (mut writer, calls) in
            [(Writer::joined(), vec!["ab"]), (Writer::apart(), vec!["a", "b"])]
        {
            writer.control("<s>", Origin::FRAME);
            writer.text("a", Origin::FRAME);
            writer.text("", Origin::FRAME);
            writer.text("b", Origin::FRAME);
            let mut seen = Vec::new();
            let encode = |text: &str| {
                seen.push(text.to_string());
                text.bytes().collect()
            };
            let encoded = spans_to_ids(&writer.finish(), encode, |_| Some(1)).unwrap();
            assert_eq!(encoded.ids, [1, b'a', b'b']);
            assert_eq!(encoded.runs.len(), 1 + calls.len());
            assert_eq!(seen, calls);
        }
    }

    #[test]
    fn an_unknown_control_token_is_named() {
        let mut writer = Writer::apart();
        writer.control("<|eom_id|>", Origin::FRAME);
        let error = spans_to_ids(&writer.finish(), |_| vec![0u8], |_| None).unwrap_err();
        assert!(error.to_string().contains("<|eom_id|>"));
    }
}
