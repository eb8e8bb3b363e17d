//! The inner form of a request: what every shape becomes.

use std::sync::Arc;

use herd_codec::chat::ChatFormat;
use herd_engine::Request;
use herd_engine::sample::Sampling;

use crate::fields::Given;
use crate::refusal::Refusal;
use crate::served::Served;

/// Prompts to go on with, and how.
#[derive(Clone, Debug)]
pub struct Ask {
    /// For each prompt, a request.
    pub requests: Vec<Request>,
    /// Answers to each prompt.
    pub n: usize,
    /// The format whose calls an answer may hold; `None` takes all text for text.
    pub calls: Option<Arc<ChatFormat>>,
    /// Whether what is chosen is told token by token, even where no text is certain yet.
    pub by_token: bool,
    /// The field that brought the prompts, for errors.
    pub field: &'static str,
}

/// Answers to one request of HTTP at most.
pub const ANSWERS_MAX: u64 = 128;

/// How tokens are chosen: what the request says, else the model's defaults. A seed is drawn where
/// nobody gives one.
pub fn sampling(given: &Given, served: &Served) -> Result<Sampling, Refusal> {
    let base = &served.sampling;
    let number = |name, or| given.number(name).map_or(or, |x| x as f32);
    Ok(Sampling {
        temperature: number("temperature", base.temperature),
        temperature_at: base.temperature_at,
        // 0 and -1 keep all, as in other servers.
        top_k: match given.whole("top_k") {
            Some(k) => usize::try_from(k).ok().filter(|&k| k > 0),
            None => base.top_k,
        },
        typical_p: number("typical_p", base.typical_p),
        top_p: number("top_p", base.top_p),
        min_p: number("min_p", base.min_p),
        repetition_penalty: number("repetition_penalty", base.repetition_penalty),
        presence_penalty: number("presence_penalty", base.presence_penalty),
        frequency_penalty: number("frequency_penalty", base.frequency_penalty),
        repeat_last_n: match given.whole("repeat_last_n") {
            Some(n) => usize::try_from(n).unwrap_or(usize::MAX), // -1 for all
            None => base.repeat_last_n,
        },
        logit_bias: biases(given)?,
        seed: given.whole("seed").map(|seed| seed as u64).or(served.seed).unwrap_or_else(draw),
        stream: base.stream,
    })
}

/// `{"token id": bias}`, as OpenAI has it. There 100 is meant to force a token and -100 to forbid it:
/// that far from any other logit they do, so they are added as they are.
fn biases(given: &Given) -> Result<Vec<(u32, f32)>, Refusal> {
    let Some(biases) = given.object("logit_bias") else { return Ok(Vec::new()) };
    let one = |(id, bias): (&String, &serde_json::Value)| {
        let bad = || {
            let message =
                format!("logit_bias has {id:?}: {bias}, expected a token id and a number");
            Refusal::field("logit_bias", message)
        };
        let bias = bias.as_f64().filter(|b| b.abs() <= 100.0).ok_or_else(bad)?;
        Ok((id.parse::<u32>().map_err(|_| bad())?, bias as f32))
    };
    biases.iter().map(one).collect()
}

/// A seed that differs from request to request, from the randomness that keys the library's maps.
fn draw() -> u64 {
    fresh() >> 32 // short enough to type again
}

/// A number that has not been seen before.
pub fn fresh() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

/// Texts and tokens at which an answer ends; `own` are the model's.
pub fn stops(given: &Given, own: &[u32]) -> (Vec<String>, Vec<u32>) {
    stops_under(given, "stop", own)
}

/// The same where the texts stand under another name.
pub fn stops_under(given: &Given, name: &str, own: &[u32]) -> (Vec<String>, Vec<u32>) {
    let mut ids = match given.flag("ignore_eos") {
        Some(true) => Vec::new(),
        Some(false) | None => own.to_vec(),
    };
    ids.extend(given.wholes("stop_token_ids").into_iter().filter_map(|id| u32::try_from(id).ok()));
    (given.texts(name), ids)
}
