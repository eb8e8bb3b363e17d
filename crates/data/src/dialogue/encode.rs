//! A dialogue as the ids that the engine would see and produce, and the weight of each one's loss.
//!
//! Let p(k) be the ids of the prompt that asks for answer k, a(k) those of the answer with its end, and w the
//! ids of the whole dialogue. Where every p(k) a(k) begins w, one row teaches all answers; where a template writes
//! history otherwise, or a token would straddle the border of an answer, each answer has a row p(k) a(k) of its own.

use std::ops::Range;

use herd_codec::chat::{
    ChatFormat, Dialogue, Encoded, Message, Origin, RenderOptions, Role, Span, SpanKind,
    spans_to_ids,
};
use herd_codec::{TokenId, Tokenizer};

use super::Lesson;
use super::shape::no_dialogue;
use crate::Fault;

/// Ids and what is learnt of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The ids.
    pub ids: Vec<TokenId>,
    /// The weight of each id's loss as a target; 0 for what is given.
    pub weights: Vec<f32>,
    /// Where each id came from.
    pub origins: Vec<Origin>,
}

impl Row {
    /// Ids that are learnt.
    pub fn learnt(&self) -> usize {
        self.weights.iter().filter(|weight| **weight > 0.0).count()
    }
}

/// Renders dialogues in one format with one vocabulary.
#[derive(Clone, Debug)]
pub struct Encoder<'a> {
    /// The format.
    pub format: &'a ChatFormat,
    /// The vocabulary.
    pub tokenizer: &'a Tokenizer,
    /// The day and where tools stand; its ending is not used.
    pub options: RenderOptions,
}

/// One answer: where it stands, and its ids behind those of its prompt.
pub(super) struct Answer {
    message: usize,
    pub ids: Vec<TokenId>,
    pub origins: Vec<Origin>,
    pub at: Range<usize>,
}

/// What a row must know of an answer that a longer one begins with.
struct Taught {
    message: usize,
    at: Range<usize>,
    origins: Vec<Origin>,
}

impl Answer {
    /// What is its own of it: a dialogue of many answers would not fit with the prompt of each.
    fn own(self) -> Taught {
        let origins = self.origins[self.at.clone()].to_vec();
        Taught { message: self.message, at: self.at, origins }
    }

    /// The row that teaches it alone.
    fn row(self, weight: f32) -> Row {
        let mut weights = vec![0.0; self.ids.len()];
        weights[self.at].fill(weight);
        Row { ids: self.ids, weights, origins: self.origins }
    }
}

impl Encoder<'_> {
    /// The rows that teach a lesson: one, or one for each answer.
    ///
    /// Errors: the format cannot say it, or nothing in it is learnt.
    pub fn lesson(&self, lesson: &Lesson) -> Result<Vec<Row>, Fault> {
        let Lesson { dialogue, weights } = lesson;
        let taught = |m: &usize| weights[*m] > 0.0 && dialogue.messages[*m].role == Role::Assistant;
        let taught: Vec<usize> = (0..dialogue.messages.len()).filter(taught).collect();
        let alone = |m: &usize| Ok(self.answer(dialogue, *m)?.row(weights[*m]));
        let (mut whole, mut earlier): (Option<Answer>, Vec<Taught>) = (None, Vec::new());
        for m in &taught {
            let answer = self.answer(dialogue, *m)?;
            match whole.take() {
                None => {}
                Some(before) if answer.ids.starts_with(&before.ids) => earlier.push(before.own()),
                Some(_) => return taught.iter().map(alone).collect(),
            }
            whole = Some(answer);
        }
        let Some(whole) = whole else {
            return Err(no_dialogue("no answer in it is learnt"));
        };
        let weight = weights[whole.message];
        let mut row = whole.row(weight);
        for Taught { message, at, origins } in earlier {
            row.weights[at.clone()].fill(weights[message]);
            row.origins[at].copy_from_slice(&origins);
        }
        Ok(vec![row])
    }

    /// The ids of the prompt that asks for an answer after `dialogue`.
    ///
    /// Errors: the format cannot say it.
    pub fn prompt(&self, dialogue: &Dialogue) -> Result<Vec<TokenId>, Fault> {
        Ok(self.encode(&self.render(dialogue, RenderOptions::PROMPT)?)?.ids)
    }

    /// The ids of a prompt, and those of each answer behind it, its end with them.
    ///
    /// Errors: the format cannot say one of them, or it is empty.
    pub fn answers(
        &self,
        prompt: &Dialogue,
        answers: &[Message],
    ) -> Result<(Vec<TokenId>, Vec<Vec<TokenId>>), Fault> {
        let said = answers.iter().map(|answer| {
            let mut dialogue = prompt.clone();
            dialogue.messages.push(answer.clone());
            let Answer { ids, at, .. } = self.answer(&dialogue, prompt.messages.len())?;
            Ok(ids[at].to_vec())
        });
        let said = said.collect::<Result<_, _>>()?;
        Ok((self.prompt(prompt)?, said))
    }

    /// Message `message` behind the prompt that asks for it.
    ///
    /// Errors: the format cannot say it, or it is empty.
    pub(super) fn answer(&self, dialogue: &Dialogue, message: usize) -> Result<Answer, Fault> {
        let upto = |n: usize| Dialogue {
            messages: dialogue.messages[..n].to_vec(),
            tools: dialogue.tools.clone(),
            builtin_tools: dialogue.builtin_tools.clone(),
        };
        if message == 0 {
            return Err(no_dialogue("it begins with an answer"));
        }
        let before = self.render(&upto(message), RenderOptions::PROMPT)?;
        let prompt = self.encode(&before)?;
        let spans = self.render(&upto(message + 1), RenderOptions::CLOSED)?;
        let own = |span: &Span| span.from().message == Some(message) && span.is_learned();
        let written: Vec<Span> = spans.iter().filter(|span| own(span)).cloned().collect();
        let content = Origin::of(message, Role::Assistant, SpanKind::Content);
        let (answer, from) = match written.is_empty() {
            false => {
                let encoded = self.encode(&written)?;
                let from = self.origins(&written, &encoded);
                (encoded.ids, from)
            }
            true => {
                let ids = self.difference(&prompt.ids, &self.encode(&spans)?.ids)?;
                let from = vec![content; ids.len()];
                (ids, from)
            }
        };
        if answer.is_empty() {
            return Err(no_dialogue(format!("answer {message} is empty")));
        }
        let at = prompt.ids.len()..prompt.ids.len() + answer.len();
        let mut origins = self.origins(&before, &prompt);
        origins.extend(from);
        let mut ids = prompt.ids;
        ids.extend(answer);
        if self.tokenizer.is_control(ids[at.end - 1]) {
            origins[at.end - 1].kind = SpanKind::End;
        }
        Ok(Answer { message, ids, origins, at })
    }

    /// What a template writes behind the prompt, up to the token that ends the answer.
    fn difference(&self, prompt: &[TokenId], whole: &[TokenId]) -> Result<Vec<TokenId>, Fault> {
        let Some(rest) = whole.strip_prefix(prompt) else {
            let reason = "the template writes the dialogue otherwise than its prompt";
            return Err(no_dialogue(format!("{reason}; {{% generation %}} marks would tell")));
        };
        let stops: Vec<TokenId> =
            self.format.stops().iter().filter_map(|name| self.tokenizer.special_id(name)).collect();
        let end = rest.iter().rposition(|id| stops.contains(id)).map_or(rest.len(), |at| at + 1);
        Ok(rest[..end].to_vec())
    }

    /// Where each id came from: of texts that were encoded in one piece, the one it begins in.
    fn origins(&self, spans: &[Span], encoded: &Encoded<TokenId>) -> Vec<Origin> {
        let mut origins = vec![Origin::FRAME; encoded.ids.len()];
        for run in &encoded.runs {
            let (mut span, mut at) = (run.spans.start, 0);
            for i in run.ids.clone() {
                origins[i] = spans[span].from();
                at += self.tokenizer.token_bytes(encoded.ids[i]).len();
                while let Span::Text { text, .. } = &spans[span]
                    && at >= text.len()
                    && span + 1 < run.spans.end
                {
                    at -= text.len();
                    span += 1;
                }
            }
        }
        origins
    }

    fn render(&self, dialogue: &Dialogue, ending: RenderOptions) -> Result<Vec<Span>, Fault> {
        let options = RenderOptions { ending: ending.ending, ..self.options };
        self.format.render(dialogue, &options).map_err(|e| no_dialogue(e.to_string()))
    }

    fn encode(&self, spans: &[Span]) -> Result<Encoded<TokenId>, Fault> {
        let control = |name: &str| self.tokenizer.special_id(name);
        spans_to_ids(spans, |text| self.tokenizer.encode(text), control)
            .map_err(|e| no_dialogue(e.to_string()))
    }
}
