//! A model that judges the answers of an arena, each pair in both orders.

use std::sync::atomic::{AtomicBool, Ordering};

use herd_codec::chat::{Message, Role};
use herd_serve::arena::{Ballots, Pair, Turn};
use herd_train::TrainError;
use herd_train::writer::{Question, Said, SaidEnd};

use crate::error::Error;
use crate::writer::Source;

/// What a judge may answer, with its grade for the first answer.
const WORDS: [(&str, i8); 7] = [
    ("A is much better", 3),
    ("A is slightly better", 1),
    ("A is better", 2),
    ("about the same", 0),
    ("B is much better", -3),
    ("B is slightly better", -1),
    ("B is better", -2),
];

/// Pairs that are in memory at once.
const PIECE: usize = 4096;

/// What a judge is asked about, and how.
pub struct Asked<'a> {
    /// Names the judge and its weights.
    pub name: &'a str,
    /// Whether it is asked only about what people voted on.
    pub voted: bool,
    /// Tokens of a verdict at most.
    pub max_tokens: usize,
}

/// Asks a judge about all pairs that it has no verdict on, each once; how many of its answers had one, and how many had none.
///
/// Errors: the judge cannot be asked; the file.
pub fn ask(
    ballots: &Ballots,
    asked: &Asked<'_>,
    source: &mut Source,
    stop: &AtomicBool,
) -> Result<(usize, usize), Error> {
    let (mut read, mut unread, mut after) = (0, 0, (0, 0, 0));
    while !stop.load(Ordering::Relaxed) {
        let pairs = ballots.unjudged(asked.name, asked.voted, after, PIECE)?;
        let Some(last) = pairs.last() else { break };
        after = last.place(); // what had no verdict again is not asked a third time
        let questions: Vec<Question> =
            pairs.iter().map(|pair| question(pair, asked.max_tokens)).collect();
        source.answer(&questions, stop, &mut |i, said: Vec<Said>| {
            let Said { text, end } = &said[0];
            let grade = match end {
                SaidEnd::Stop | SaidEnd::Length => grade(text),
                SaidEnd::TooLong | SaidEnd::Failed => None,
            };
            *(if grade.is_some() { &mut read } else { &mut unread }) += 1;
            let kept = ballots.say(asked.name, &pairs[i], grade, text);
            kept.map_err(|error| TrainError::Writer { source: Box::new(error) })
        })?;
    }
    Ok((read, unread))
}

/// The grade in a judge's words: that of the last of its phrases. `None` if there is none.
fn grade(text: &str) -> Option<i8> {
    let plain = text.replace(['*', '_', '`'], " ").to_lowercase();
    let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let plain = plain.replace("answer a ", "a ").replace("answer b ", "b ");
    let place = |(words, grade): (&str, i8)| {
        let words = words.to_lowercase();
        let whole = |at: usize| !plain[..at].ends_with(char::is_alphanumeric);
        plain.rmatch_indices(&words).map(|(at, _)| at).find(|at| whole(*at)).map(|at| (at, grade))
    };
    WORDS.into_iter().filter_map(place).max().map(|(_, grade)| grade)
}

fn question(pair: &Pair, max_tokens: usize) -> Question {
    let text = |turns: &[Turn]| {
        let line = |turn: &Turn| format!("[{}]\n{}\n", turn.role, turn.content);
        turns.iter().map(line).collect::<String>()
    };
    let answer = |said: &[String]| {
        let mut all = String::new();
        for (i, words) in said.iter().enumerate() {
            all += &format!("{words}\n");
            if let Some(next) = pair.prompt.turns.get(i) {
                all += &format!("[user]\n{next}\n[assistant]\n");
            }
        }
        all
    };
    let asked = format!(
        "Two assistants answered the same dialogue. Say which answer is better for the user: correct, complete, clear, \
         to the point, and as it was asked for. Neither order nor length counts.\n\n\
         <dialogue>\n{}</dialogue>\n<answer A>\n{}</answer A>\n<answer B>\n{}</answer B>\n\n\
         Say briefly why. Then end with one of these lines: A is much better. A is better. A is slightly better. \
         They are about the same. B is slightly better. B is better. B is much better.",
        text(&pair.prompt.messages),
        answer(&pair.left_said),
        answer(&pair.right_said),
    );
    Question {
        messages: vec![Message::new(Role::User, asked)],
        n: 1,
        temperature: 0.0,
        top_p: 1.0,
        max_tokens,
        stop: Vec::new(),
        seed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_verdict_counts_and_words_without_one_have_none() {
        for (text, expected) in [
            ("A is much better.", Some(3)),
            ("B is fluent, but wrong.\n**A is better**", Some(2)),
            ("At first A is better, yet in the end B is slightly better.", Some(-1)),
            ("They are about the same", Some(0)),
            ("Answer B is better.", Some(-2)),
            ("answer a  is\nmuch better", Some(3)),
            ("Both are good.", None),
            ("", None),
            ("Data is better", None),
        ] {
            assert_eq!(grade(text), expected, "{text}");
        }
    }
}
