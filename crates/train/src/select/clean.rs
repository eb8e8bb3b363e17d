//! Rules against unwanted patterns: answers without words, with too many emojis or exclamation marks.

use crate::error::TrainError;
use crate::select::rows::Read;
use crate::writer::{between, within};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unicode_segmentation::UnicodeSegmentation;

/// Settings of cleaning; all of one answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanConfig {
    /// Emojis at most.
    pub emojis_max: usize,
    /// Exclamation marks at most.
    pub exclamations_max: usize,
    /// Exclamation marks a word at most, of answers with more than two.
    pub exclamation_rate_max: f64,
}

impl CleanConfig {
    pub(super) fn base() -> CleanConfig {
        CleanConfig { emojis_max: 3, exclamations_max: 8, exclamation_rate_max: 0.1 }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("clean.emojis_max", self.emojis_max as u64, 0, 1 << 20)?;
        between("clean.exclamations_max", self.exclamations_max as u64, 0, 1 << 20)?;
        within("clean.exclamation_rate_max", self.exclamation_rate_max, 0.0, 1e6)
    }
}

/// Why a row is not clean, and the number that says so.
pub(super) fn fault(row: &Read, config: Option<&CleanConfig>) -> Option<(&'static str, Value)> {
    let config = config?;
    for answer in row.answers() {
        let words = answer.split_whitespace().count();
        let has_calls = row.dialogue.messages.iter().any(|m| !m.tool_calls.is_empty());
        if words == 0 && !has_calls {
            return Some(("empty", Value::Null));
        }
        // A family, a flag or a hand with its colour is one picture of several letters.
        let emojis = answer.graphemes(true).filter(|sign| sign.chars().any(is_emoji)).count();
        if emojis > config.emojis_max {
            return Some(("emojis", emojis.into()));
        }
        let marks = prose(&answer).chars().filter(|c| matches!(c, '!' | '！' | '¡')).count();
        let rate = marks as f64 / words.max(1) as f64;
        if marks > config.exclamations_max || (marks > 2 && rate > config.exclamation_rate_max) {
            return Some(("exclamations", json!(marks)));
        }
    }
    None
}

/// An answer without its blocks of code, in which `!` means something else.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Pictures, not the letters and signs that texts have: ticks and crosses (U+2713 to U+2718) stand in lists.
fn is_emoji(c: char) -> bool {
    matches!(u32::from(c), 0x1f300..=0x1f64f | 0x1f680..=0x1f6ff | 0x1f900..=0x1faff | 0x1f1e6..=0x1f1ff
        | 0x2600..=0x2712 | 0x2719..=0x27bf | 0x2b50 | 0x2b55)
}

#[cfg(test)]
mod tests {
    use super::*;
    use herd_codec::chat::{Dialogue, Message, Role};

    fn reason(answer: &str) -> Option<&'static str> {
        let messages =
            vec![Message::new(Role::User, "q!!!!!!!!!!"), Message::new(Role::Assistant, answer)];
        let row = Read {
            id: String::new(),
            file: String::new(),
            row: 1,
            value: Value::Null,
            dialogue: Dialogue::from(messages),
            text: String::new(),
        };
        assert_eq!(fault(&row, None), None);
        fault(&row, Some(&CleanConfig::base())).map(|(reason, _)| reason)
    }

    #[test]
    fn answers_that_shout_or_are_pictures_fall() {
        for (answer, wanted) in [
            ("Good. Yes!", None),
            ("Yes!", None),
            (" \n", Some("empty")),
            ("Wow! Great! So good!", Some("exclamations")),
            ("😀😀😀😀 hello", Some("emojis")),
            ("👨\u{200d}👩\u{200d}👧\u{200d}👦 🇫🇷🇩🇪", None),
            ("👍🏽👍🏽👍🏽👍🏽", Some("emojis")),
            ("✓ a\n✓ b\n✔ c\n✗ d", None),
            ("Grüße, 東京 → ok ✓", None),
            ("Use this:\n```\na != b; !c; !d; !e; !f; !g; !h; !i; !j\n```", None),
        ] {
            assert_eq!(reason(answer), wanted, "{answer}");
        }
        let long = format!("{}!!!!!!!!!", "word ".repeat(200));
        assert_eq!(reason(&long), Some("exclamations"));
    }
}
