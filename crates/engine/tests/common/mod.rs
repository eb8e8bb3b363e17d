//! Small models for the engine's tests, and a driver that keeps what each request got.

#![allow(dead_code)] // each test file uses a part of this

#[path = "../../../model/tests/common/mod.rs"]
pub mod files;

use std::sync::Arc;

use herd_engine::{Engine, Event, Finish, PromptToken, RequestId, Usage, What};
use herd_model::llama::Llama;
use herd_model::names::{self, Part, Style};
use herd_model::{Checkpoint, Config, RopeScaling};
use herd_tensor::files::DType;
use herd_tensor::{Class, Device, Format, blocks};

/// One layer whose inputs are all 256 wide, as the K formats ask for.
pub fn wide_config() -> Config {
    Config {
        layers: 1,
        width: 256,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        ffn_width: 256,
        vocab: 80,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context: 512,
        tied: false,
        head: herd_model::Head::Language,
    }
}

/// Random weights of the size that training begins with.
pub fn weights(config: &Config, part: Part) -> Vec<f32> {
    let shape = part.shape(config);
    let numbers = files::numbers(config, part);
    match shape[..] {
        [_, inputs] => {
            let scale = (3.0 / inputs as f32).sqrt();
            numbers.into_iter().map(|x| x * scale).collect()
        }
        _ => numbers.into_iter().map(|x| 1.0 + x / 2.0).collect(),
    }
}

/// The model's tensors for a GGUF, matrices in `format`; `edit` may change the stored bytes.
pub fn tensors(
    config: &Config,
    format: Format,
    edit: impl Fn(Part, &mut Vec<u8>),
) -> Vec<files::Tensor> {
    let tensor = |part: Part| {
        let (numbers, shape) = (weights(config, part), part.shape(config));
        let format = if shape.len() == 2 { format } else { Format::F32 };
        let mut bytes = vec![0; format.bytes(numbers.len()).unwrap()];
        blocks::quantise(format, &numbers, &mut bytes).unwrap();
        edit(part, &mut bytes);
        let name = names::name(part, Style::Gguf).unwrap();
        files::Tensor::new(&name, &shape, DType::Format(format), bytes)
    };
    names::all_parts(config).into_iter().map(tensor).collect()
}

/// A GGUF of such a model, opened.
pub fn gguf(config: &Config, format: Format, edit: impl Fn(Part, &mut Vec<u8>)) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    files::write_gguf(&path, &files::metadata(config), &tensors(config, format, edit));
    // The file stays mapped after its folder is gone.
    Checkpoint::open(path).unwrap()
}

pub fn load(checkpoint: &Checkpoint, class: Class, threads: usize, context: usize) -> Arc<Llama> {
    Arc::new(Llama::load(checkpoint, &Device::cpu(class, threads), context).unwrap())
}

/// Everything that one request got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub ids: Vec<u32>,
    /// For each token, the bits of its log-probability, then ids and bits of the likeliest.
    pub bits: Vec<Vec<u64>>,
    pub text: String,
    /// Tokens of the prompt, where they were asked for.
    pub prompt: Vec<PromptToken>,
    pub end: Option<(Finish, Usage)>,
}

impl Answer {
    pub fn finish(&self) -> &Finish {
        &self.end.as_ref().expect("the request ended").0
    }

    pub fn usage(&self) -> Usage {
        self.end.as_ref().expect("the request ended").1
    }

    pub fn take(&mut self, what: What) {
        assert!(self.end.is_none(), "an event after the end");
        match what {
            What::Prompt(token) => self.prompt.push(token),
            What::Embedding(_) => {}
            What::Token(token) => {
                self.ids.push(token.id);
                self.text.push_str(&token.text);
                let mut bits: Vec<u64> = token.log_prob.iter().map(|p| p.to_bits()).collect();
                bits.extend(token.nats.iter().map(|n| u64::from(n.to_bits())));
                for top in token.top {
                    bits.extend([u64::from(top.id), top.log_prob.to_bits()]);
                }
                self.bits.push(bits);
            }
            What::End { finish, text, usage } => {
                self.text.push_str(&text);
                self.end = Some((finish, usage));
            }
        }
    }
}

/// Steps until nothing is left to do; the answers of `ids`, in their order.
pub fn finish(engine: &mut Engine, ids: &[RequestId]) -> Vec<Answer> {
    let mut answers = vec![Answer::default(); ids.len()];
    let mut events = Vec::new();
    for _ in 0..100_000 {
        engine.step(&mut events);
        sort(&mut events, ids, &mut answers);
        if engine.is_idle() {
            return answers;
        }
    }
    panic!("the engine does not come to an end");
}

/// Gives each event to its request.
pub fn sort(events: &mut Vec<Event>, ids: &[RequestId], answers: &mut [Answer]) {
    for event in events.drain(..) {
        let i = ids.iter().position(|&id| id == event.id).expect("a request of ours");
        answers[i].take(event.what);
    }
}
