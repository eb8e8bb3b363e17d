//! Answers that are spans or options: the F1 of SQuAD 1.1, QuAC's with what its scorer leaves out, and the letter that
//! InfiniteBench finds.

use serde_json::Value;

use super::{Worth, plain_words, share, shared};

/// What is said where a passage has no answer.
const CANNOT: &str = "CANNOTANSWER";
/// What QuAC gives.
pub const QUAC: [&str; 2] = ["f1", "heq"];

/// The words shared with the best of the references, nothing where none is shared: as SQuAD 1.1, SCROLLS and
/// InfiniteBench score answers.
pub fn f1(text: &str, references: &[String]) -> Worth {
    let best = references.iter().map(|reference| words_shared(text, reference)).fold(0.0, f64::max);
    Worth::of([("f1", best)], text.trim())
}

fn words_shared(text: &str, reference: &str) -> f64 {
    shared(&plain_words(text), &plain_words(reference))
}

/// QuAC's F1: with several references the mean of those without one of them each, as a person is
/// compared; `heq` is whether it is at least a person's.
pub fn quac(text: &str, references: &[String]) -> Worth {
    let (text, references) = (text.trim(), spans(references));
    let one = |reference: &String| match reference == CANNOT {
        true => share(text == CANNOT),
        false => words_shared(text, reference),
    };
    let each: Vec<f64> = references.iter().map(one).collect();
    let f1 = match each[..] {
        [only] => only,
        _ => mean((0..each.len()).map(|i| without(&each, i))),
    };
    Worth::of([("f1", f1), ("heq", share(f1 >= agreement(&references)))], text)
}

/// How well people agree on an answer: QuAC's human F1, each against the best of the others; 1 of one answer.
/// Quadratic in the answers; they are few.
pub fn agreement(references: &[String]) -> f64 {
    let references = spans(references);
    if references.len() == 1 {
        return 1.0;
    }
    mean((0..references.len()).map(|i| {
        let each: Vec<f64> =
            references.iter().map(|other| words_shared(&references[i], other)).collect();
        without(&each, i)
    }))
}

/// The answers that count: none of the passage where as many say so as do not, else the spans.
fn spans(references: &[String]) -> Vec<String> {
    let spans: Vec<String> = references.iter().filter(|r| *r != CANNOT).cloned().collect();
    if references.len() >= 2 * spans.len() { vec![CANNOT.to_owned()] } else { spans }
}

/// The greatest but for one.
fn without(all: &[f64], left: usize) -> f64 {
    let others = all.iter().enumerate().filter(|(i, _)| *i != left);
    others.map(|(_, x)| *x).fold(0.0, f64::max)
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = numbers.len() as f64;
    numbers.sum::<f64>() / n
}

/// What stands before a letter, in the order in which it is looked for.
const BEFORE: [&str; 4] = ["answer is:", "answer:", "answer is", "option is"];

/// Whether one of the texts that are right is what an answer says: by its first letter, else behind words that announce it,
/// else by the first word of the letters A to D. As InfiniteBench scores En.MC, with what is odd in it.
pub fn option(text: &str, right: &[String]) -> Worth {
    let is_right = |said: &str| right.iter().any(|right| right == said);
    let letters = |said: &str| !said.is_empty() && "ABCD".contains(said);
    let first: String = text.chars().take(1).collect();
    if letters(&first) {
        return Worth::of([("acc", share(is_right(&first)))], first);
    }
    let mut plain = text.replace(['\n', '"', '\'', '.', ',', '?', '!', '{', '}'], " ");
    while plain.contains("  ") {
        plain = plain.replace("  ", " ");
    }
    for before in BEFORE {
        let Some((_, behind)) = plain.split_once(before) else { continue };
        let mut behind = behind.chars();
        let said = behind.next().map(|_| behind.as_str());
        let holds = said.is_some_and(|said| right.iter().any(|right| said.starts_with(right)));
        return Worth::of([("acc", share(holds))], said.unwrap_or_default());
    }
    let word = super::text::split(&plain).find(|word| letters(word)).unwrap_or_default();
    Worth::of([("acc", share(is_right(word)))], word)
}

/// Whether a reference is a list of texts, with one at least.
pub fn check(reference: &Value) -> Result<(), String> {
    let texts = reference.as_array().filter(|all| !all.is_empty());
    match texts.is_some_and(|all| all.iter().all(Value::is_string)) {
        true => Ok(()),
        false => Err(format!("the reference is {reference}, no list of texts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn each_reference_is_left_out_once() {
        // Against the others at best 2/3, 1 and 1.
        let worth = quac(" the red cat", &texts(&["red cat", "cat", "a red"]));
        let (red_cat, cat) = (1.0, 2.0 / 3.0);
        assert!((worth.scores["f1"] - (cat + red_cat + red_cat) / 3.0).abs() < 1e-12);
        assert_eq!(quac("CANNOTANSWER", &texts(&["x", "CANNOTANSWER"])).scores["f1"], 1.0);
        assert_eq!(quac("CANNOTANSWER", &texts(&["x", "y", "CANNOTANSWER"])).scores["f1"], 0.0);
        assert_eq!(agreement(&texts(&["x", "CANNOTANSWER", "y"])), 0.0);
        assert_eq!(agreement(&texts(&["x", "y", "x"])), 2.0 / 3.0);
        assert_eq!(quac("x", &texts(&["x"])).scores["heq"], 1.0);
    }

    #[test]
    fn an_option_is_found_by_its_letter_or_its_text() {
        let right = texts(&["Tom", "B"]);
        let acc = |text: &str| option(text, &right).scores["acc"];
        for good in
            ["B", "Because", " B. Tom", "The answer is: B", "the option is Tom.", "I say B!"]
        {
            assert_eq!(acc(good), 1.0, "{good}");
        }
        for bad in ["A. Tom", "", "Tom", "answer:", "the answer is", "AB", "b", "I say AB then B"] {
            assert_eq!(acc(bad), 0.0, "{bad}");
        }
    }
}
