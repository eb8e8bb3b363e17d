//! Texts that the model writes while it is trained; answers, where it learns from dialogues.

use crate::error::TrainError;
use crate::trainer::Trainer;
use crate::words::Chat;
use herd_codec::Tokenizer;
use herd_codec::chat::{Dialogue, Message, Role};
use herd_data::dialogue::Encoder;
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request, What};
use std::sync::Arc;

/// What the model goes on with after `prompt`; the same for the same weights, prompt and `stream`.
///
/// Errors: the prompt is empty and documents have no beginning, or it is longer than the context.
pub fn write(run: &Trainer<'_>, prompt: &str, stream: u64) -> Result<String, TrainError> {
    let samples = &run.config.samples;
    let fails = |error: String| TrainError::Sample { error };
    let (prompt, stops) = match &run.words.chat {
        Some(chat) => asked(&run.words.tokenizer, chat, prompt).map_err(fails)?,
        None => begun(run, prompt),
    };
    let context = prompt.len() + samples.tokens;
    let limits = Limits { page_len: 16, ..Limits::single(context) };
    let tokenizer = Some(Arc::clone(&run.words.tokenizer));
    let seed = run.config.seed ^ run.step() ^ stream << 48;
    let sampling = Sampling { temperature: samples.temperature as f32, seed, ..Sampling::GREEDY };
    let mut request = Request::new(prompt, sampling);
    request.max_tokens = Some(samples.tokens);
    request.stop_tokens = stops;
    run.tape.paused(|| {
        let mut engine = Engine::new(Arc::clone(&run.model), tokenizer, limits);
        engine.submit(request).map_err(|e| fails(e.to_string()))?;
        let (mut events, mut text) = (Vec::new(), String::new());
        while !engine.is_idle() {
            engine.step(&mut events);
            for event in events.drain(..) {
                match event.what {
                    What::Prompt(_) | What::Embedding(_) => {}
                    What::Token(token) => text.push_str(&token.text),
                    What::End { text: rest, .. } => text.push_str(&rest),
                }
            }
        }
        Ok(text)
    })
}

/// The beginning of a document, and what ends one.
fn begun(run: &Trainer<'_>, text: &str) -> (Vec<u32>, Vec<u32>) {
    let ends = run.words.ends;
    let mut ids: Vec<u32> = ends.bos.into_iter().collect();
    ids.extend(run.words.tokenizer.encode(text).iter().map(|id| id.0));
    if ids.is_empty() {
        // A document that has no beginning of its own begins where another ended.
        ids.extend(ends.eos);
    }
    (ids, ends.eos.into_iter().collect())
}

/// A user's question as the prompt for its answer, and what ends that.
fn asked(
    tokenizer: &Tokenizer,
    chat: &Chat,
    question: &str,
) -> Result<(Vec<u32>, Vec<u32>), String> {
    let encoder = Encoder { format: &chat.format, tokenizer, options: chat.options() };
    let dialogue = Dialogue::from(vec![Message::new(Role::User, question)]);
    let ids = encoder.prompt(&dialogue).map_err(|e| e.to_string())?;
    let stops = chat.format.stops().into_iter().filter_map(|name| tokenizer.special_id(name));
    Ok((ids.into_iter().map(|id| id.0).collect(), stops.map(|id| id.0).collect()))
}
