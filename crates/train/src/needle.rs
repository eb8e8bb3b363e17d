//! A needle in a haystack, for base models: a sentence is hidden in held-out text, and the model
//! must say again what it said.
//!
//! ```text
//! prompt = bos | hay | sentence(key, value) | hay | question(key)      length tokens with the answer
//! found  = the greedy answer is answer(value), token by token
//! ```

use crate::config::NeedleConfig;
use crate::error::TrainError;
use crate::words::Words;
use herd_codec::TokenId;
use herd_data::Corpus;
use herd_engine::rng::philox;
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request, What};
use herd_model::llama::Llama;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How often needles were found at a length and a depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Tokens of prompt and answer.
    pub length: usize,
    /// Where the needle lay: 0 at the beginning of the haystack, 1 at its end.
    pub depth: f64,
    /// Needles found.
    pub found: usize,
    /// Needles asked for.
    pub asked: usize,
}

/// The share found at a length, over all depths; 0 if none was asked for.
pub fn rate(found: &[Found], length: usize) -> f64 {
    let here = found.iter().filter(|f| f.length == length);
    let (found, asked) = here.fold((0, 0), |(f, a), x| (f + x.found, a + x.asked));
    found as f64 / asked.max(1) as f64
}

/// At least `tokens` tokens of held-out text, its documents one after another and, where they are
/// too few, again from the first. Documents that hold needles themselves are passed over: theirs
/// would be other answers to the same question.
///
/// Errors: none of the sources in `config.haystack` (all, where it is empty) has any held out.
pub fn haystack(
    corpus: &Corpus,
    words: &Words,
    config: &NeedleConfig,
    tokens: usize,
) -> Result<Vec<u32>, TrainError> {
    let names = &config.haystack;
    let (mut hay, mut blades) = (Vec::new(), Vec::new());
    for source in corpus.sources() {
        if !names.is_empty() && !names.contains(&source.name) {
            continue;
        }
        let held = &source.validation;
        for document in 0..held.counts().documents {
            if hay.len() < tokens {
                blades.clear();
                held.read(document, 0..held.tokens(document), &mut blades)?;
                let ids: Vec<TokenId> = blades.iter().map(|id| TokenId(*id)).collect();
                let text = words.tokenizer.decode(&ids);
                if !holds_needles(&config.sentence, &String::from_utf8_lossy(&text)) {
                    hay.extend(&blades);
                }
            }
        }
    }
    if hay.is_empty() {
        let expected = "sources with held-out text that holds no needles";
        return Err(TrainError::no("context.needle.haystack", names.join(", "), expected));
    }
    let all = hay.len();
    hay.extend_from_within(..all.min(tokens.saturating_sub(all)));
    while hay.len() < tokens {
        hay.extend_from_within(..all.min(tokens - hay.len()));
    }
    Ok(hay)
}

/// Whether a text has the words with which the sentence begins.
fn holds_needles(sentence: &str, text: &str) -> bool {
    let head = sentence.split('{').next().unwrap_or_default().trim();
    !head.is_empty() && text.contains(head)
}

/// Hides and asks for needles at every length and depth; the same for the same arguments.
///
/// Errors: a length leaves no room for the sentence and its question, or the answer does not begin
/// at a token's border.
pub fn measure(
    model: &Arc<Llama>,
    words: &Words,
    hay: &[u32],
    config: &NeedleConfig,
    lengths: &[usize],
) -> Result<Vec<Found>, TrainError> {
    let mut all = Vec::new();
    for &length in lengths {
        for (d, &depth) in config.depths.iter().enumerate() {
            let mut found = 0;
            for sample in 0..config.samples {
                let place = [sample as u32, d as u32, length as u32];
                let needle = Needle::draw(config, words, place)?;
                let prompt = needle.hide(hay, words, length, depth, sample)?;
                found += usize::from(answer(model, prompt, needle.answer.len())? == needle.answer);
            }
            all.push(Found { length, depth, found, asked: config.samples });
        }
    }
    Ok(all)
}

/// A needle in tokens.
struct Needle {
    sentence: Vec<u32>,
    question: Vec<u32>,
    answer: Vec<u32>,
}

impl Needle {
    /// The needle of a place: key and value are drawn by it.
    fn draw(
        config: &NeedleConfig,
        words: &Words,
        [sample, depth, length]: [u32; 3],
    ) -> Result<Needle, TrainError> {
        const STREAM: u32 = 0x6e65_6564; // apart from other uses of the generator
        let drawn = philox([sample, depth, length, 0], [STREAM, 0]);
        let key = &config.keys[drawn[0] as usize % config.keys.len()];
        let least = 10u64.pow(config.digits as u32 - 1);
        let value = least + (u64::from(drawn[1]) << 32 | u64::from(drawn[2])) % (9 * least);
        let fill = |text: &str| text.replace("{key}", key).replace("{value}", &value.to_string());
        let encode = |text: &str| -> Vec<u32> {
            words.tokenizer.encode(text).iter().map(|id| id.0).collect()
        };
        let (question, answer) = (fill(&config.question), fill(&config.answer));
        let (asked, whole) = (encode(&question), encode(&format!("{question}{answer}")));
        match whole.strip_prefix(asked.as_slice()) {
            Some(answer) if !answer.is_empty() => Ok(Needle {
                sentence: encode(&fill(&config.sentence)),
                answer: answer.to_vec(),
                question: asked,
            }),
            Some(_) | None => {
                let expected = "an answer that begins at a token's border";
                Err(TrainError::no("context.needle.answer", format!("{answer:?}"), expected))
            }
        }
    }

    /// The prompt: with the answer it has `length` tokens.
    fn hide(
        &self,
        hay: &[u32],
        words: &Words,
        length: usize,
        depth: f64,
        sample: usize,
    ) -> Result<Vec<u32>, TrainError> {
        let mut prompt: Vec<u32> = words.ends.bos.into_iter().collect();
        let taken = prompt.len() + self.sentence.len() + self.question.len() + self.answer.len();
        let Some(room) = length.checked_sub(taken) else {
            let expected = format!("at least {taken} tokens, for a needle and its question");
            return Err(TrainError::no("context.stage.seq_len", length, &expected));
        };
        // Each needle lies in other hay.
        const STRIDE: usize = 977;
        let mut blades = hay.iter().copied().cycle().skip(sample * STRIDE % hay.len());
        let before = (room as f64 * depth).round() as usize;
        prompt.extend(blades.by_ref().take(before));
        prompt.extend(&self.sentence);
        prompt.extend(blades.take(room - before));
        prompt.extend(&self.question);
        Ok(prompt)
    }
}

/// The `tokens` likeliest tokens after a prompt, one after another.
fn answer(model: &Arc<Llama>, prompt: Vec<u32>, tokens: usize) -> Result<Vec<u32>, TrainError> {
    let limits = Limits { page_len: 16, ..Limits::single(prompt.len() + tokens) };
    let mut engine = Engine::new(Arc::clone(model), None, limits);
    let mut request = Request::new(prompt, Sampling::GREEDY);
    request.max_tokens = Some(tokens);
    engine.submit(request).map_err(|e| TrainError::Sample { error: e.to_string() })?;
    let (mut events, mut ids) = (Vec::new(), Vec::new());
    while !engine.is_idle() {
        engine.step(&mut events);
        for event in events.drain(..) {
            match event.what {
                What::Token(token) => ids.push(token.id),
                What::Prompt(_) | What::Embedding(_) | What::End { .. } => {}
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_length_is_over_all_its_depths() {
        let at = |length, depth, found| Found { length, depth, found, asked: 4 };
        let all = [at(64, 0.0, 4), at(64, 1.0, 2), at(128, 0.0, 1)];
        assert_eq!(rate(&all, 64), 0.75);
        assert_eq!(rate(&all, 128), 0.25);
        assert_eq!(rate(&all, 256), 0.0);
    }

    #[test]
    fn texts_with_needles_are_no_hay() {
        let sentence = "\nThe secret number of {key} is {value}.\n";
        assert!(holds_needles(sentence, "hay\nThe secret number of Rome is 5.\n"));
        assert!(!holds_needles(sentence, "A number of {key} secrets"));
        assert!(!holds_needles("\n{key}: {value}\n", "any text"));
    }

    #[test]
    fn questions_and_answers_are_tokens_of_the_sentence() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tokenizer/tokenizer.json");
        let file = std::fs::read(file).unwrap();
        let words = Words {
            tokenizer: Arc::new(herd_codec::Tokenizer::from_tokenizer_json(&file).unwrap()),
            files: vec![],
            generation: Default::default(),
            ends: Default::default(),
            chat: None,
        };
        let default = crate::extend_context::needle();
        let adjacent = NeedleConfig {
            sentence: "\nThe password is {key}{value}.\n".into(),
            question: "\nThe password is {key}".into(),
            answer: "{value}".into(),
            ..default.clone()
        };
        for config in [default, adjacent] {
            for sample in 0..20 {
                let needle = Needle::draw(&config, &words, [sample, 0, 64]).unwrap();
                let said = [needle.question, needle.answer].concat();
                assert!(needle.sentence.starts_with(&said), "{said:?} in {:?}", needle.sentence);
                // So they are in the midst of a text that is trained on.
                let ids: Vec<TokenId> = needle.sentence.iter().map(|id| TokenId(*id)).collect();
                let sentence = String::from_utf8(words.tokenizer.decode(&ids)).unwrap();
                let text = format!("Once upon a time{sentence}and so on");
                let ids: Vec<u32> = words.tokenizer.encode(&text).iter().map(|id| id.0).collect();
                assert!(ids.windows(said.len()).any(|at| at == said), "{said:?} in {ids:?}");
            }
        }
    }
}
