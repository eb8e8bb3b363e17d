//! `/v1/embeddings` and ollama's `/api/embed` and `/api/embeddings`: a vector for each text.

use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use herd_engine::Request;
use serde_json::{Value, json};

use super::{Exchange, Head, Wire, completions, ollama};
use crate::answer::{Choice, Part};
use crate::ask::Ask;
use crate::fields::{Given, Kind, MODEL, Shape, honoured, only, warned};
use crate::refusal::Refusal;
use crate::served::Served;

/// The fields of OpenAI's shape.
pub static SHAPE: Shape = Shape {
    path: "/v1/embeddings",
    about: "a vector for each text",
    prefix: "embd-",
    groups: &[&[
        MODEL,
        honoured("input", Kind::Any, "a text, texts, token ids, or lists of them"),
        honoured("dimensions", Kind::Whole(1, 1 << 24), "all of them; another number is refused"),
        honoured("normalize", Kind::Flag, "vectors of length 1; true if not given"),
        only("encoding_format", &["\"float\"", "\"base64\""], "numbers, or bytes of f32"),
        warned("user", "no account of users is kept"),
    ]],
    required: &["input", "model"],
};

/// The fields of ollama's.
pub static OLLAMA: Shape = Shape {
    path: "/api/embed",
    about: "a vector for each text, in ollama's shape",
    prefix: "ollama-",
    groups: &[&[
        MODEL,
        honoured("input", Kind::Texts, "a text or a list of texts"),
        honoured("dimensions", Kind::Whole(1, 1 << 24), "all of them; another number is refused"),
        only("truncate", &["false"], "a text beyond the context is refused, not cut"),
        warned("options", "nothing is chosen for a vector"),
        ollama::KEEP_ALIVE,
    ]],
    required: &["input", "model"],
};

/// The fields of ollama's older one.
pub static OLDER: Shape = Shape {
    path: "/api/embeddings",
    about: "a vector for a text, in ollama's older shape",
    prefix: "ollama-",
    groups: &[&[
        MODEL,
        honoured("prompt", Kind::Text, "the text"),
        warned("options", "nothing is chosen for a vector"),
        ollama::KEEP_ALIVE,
    ]],
    required: &["model", "prompt"],
};

/// Texts of one request at most, as OpenAI has it.
const TEXTS: usize = 2048;

/// Reads OpenAI's shape.
pub fn read(given: Given, served: &Served, _: Head) -> Result<Exchange, Refusal> {
    served.check_name(given.text("model").unwrap_or_default())?;
    let base64 = given.text("encoding_format") == Some("base64");
    let normal = given.flag("normalize") != Some(false);
    exchange(given, served, "input", Manner::OpenAi { base64, normal })
}

/// Reads ollama's.
pub fn read_ollama(given: Given, served: &Served, _: Head) -> Result<Exchange, Refusal> {
    ollama::check_name(&given, served)?;
    exchange(given, served, "input", Manner::Ollama)
}

/// Reads ollama's older one.
pub fn read_older(given: Given, served: &Served, _: Head) -> Result<Exchange, Refusal> {
    ollama::check_name(&given, served)?;
    exchange(given, served, "prompt", Manner::Older)
}

fn exchange(
    mut given: Given,
    served: &Served,
    field: &'static str,
    manner: Manner,
) -> Result<Exchange, Refusal> {
    let width = served.facts.width;
    if let Some(dimensions) = given.count("dimensions").filter(|&n| n != width) {
        let message = format!("dimensions is {dimensions}, the model's vectors have {width}");
        return Err(Refusal::field("dimensions", message));
    }
    let inputs = given.take(field).unwrap_or_default();
    let prompts = completions::prompts(inputs, served).map_err(|refusal| Refusal {
        field: Some(field.to_owned()),
        message: refusal.message.replacen("prompt", field, 1),
        ..refusal
    })?;
    if prompts.len() > TEXTS {
        let message = format!("{field} holds {} texts, at most {TEXTS}", prompts.len());
        return Err(Refusal::field(field, message));
    }
    let requests = prompts.into_iter().map(Request::embedding).collect();
    let warnings = std::mem::take(&mut given.warnings);
    let wire = Vectors { manner, model: served.name.clone(), warnings, asked: Instant::now() };
    let ask = Ask { requests, n: 1, calls: None, by_token: false, field };
    Ok(Exchange { ask, wire: Box::new(wire), stream: false })
}

/// Which of the shapes.
#[derive(Clone, Copy, Debug)]
enum Manner {
    OpenAi { base64: bool, normal: bool },
    Ollama,
    Older,
}

/// Writes vectors.
struct Vectors {
    manner: Manner,
    model: String,
    warnings: Vec<String>,
    asked: Instant,
}

/// A vector of length 1 in the same direction; one without a direction stays as it is.
fn unit(x_d: &[f32]) -> Vec<f32> {
    let length = x_d.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 1.0 };
    x_d.iter().map(|&x| (f64::from(x) * scale) as f32).collect()
}

/// Numbers as bytes, in base64.
fn packed(x_d: &[f32]) -> String {
    let bytes: Vec<u8> = x_d.iter().flat_map(|x| x.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

impl Wire for Vectors {
    fn whole(&self, choices: Vec<Choice>, _: &Served) -> Value {
        let prompt: usize = choices.iter().map(|choice| choice.usage.prompt).sum();
        let mut said = match self.manner {
            Manner::OpenAi { base64, normal } => {
                let one = |(index, choice): (usize, &Choice)| {
                    let x_d = match normal {
                        true => unit(&choice.embedding),
                        false => choice.embedding.clone(),
                    };
                    let vector = if base64 { json!(packed(&x_d)) } else { json!(x_d) };
                    json!({ "object": "embedding", "index": index, "embedding": vector })
                };
                json!({
                    "object": "list",
                    "data": choices.iter().enumerate().map(one).collect::<Vec<_>>(),
                    "model": self.model,
                    "usage": { "prompt_tokens": prompt, "total_tokens": prompt },
                })
            }
            Manner::Ollama => {
                let took = u64::try_from(self.asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let all: Vec<_> = choices.iter().map(|choice| unit(&choice.embedding)).collect();
                json!({
                    "model": self.model,
                    "embeddings": all,
                    "total_duration": took,
                    "load_duration": 0,
                    "prompt_eval_count": prompt,
                })
            }
            // The older shape gives vectors of any length.
            Manner::Older => {
                json!({ "embedding": choices.first().map(|choice| choice.embedding.clone()) })
            }
        };
        if !self.warnings.is_empty() {
            said["warnings"] = self.warnings.iter().cloned().collect();
        }
        said
    }

    // Vectors come whole.

    fn open(&mut self, _: &mut String) {}

    fn part(&mut self, _: usize, _: Part, _: &Served, _: &mut String) {}

    fn close(&mut self, _: &mut String) {}

    fn broken(&mut self, _: &Refusal, _: &mut String) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_made_one_long_and_packed_in_little_endian_bytes() {
        assert_eq!(unit(&[3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(unit(&[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(packed(&[1.0]), "AACAPw==");
    }
}
