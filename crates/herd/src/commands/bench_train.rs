//! `herd bench train`: what a step of training costs, by part, on random tokens.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use herd_engine::bench::Bench;
use herd_kernels::probe::peaks;
use herd_model::llama::{Llama, Training};
use herd_model::{Config, Head, RopeScaling};
use herd_tensor::ops::{Documents, Targets};
use herd_tensor::{Device, Format, KvFormat, Tape, blocks_of};
use herd_train::config::Precision;
use herd_train::{Optimizer, OptimizerConfig, RunConfig, first_numbers, presets};
use serde_json::json;

use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::training::refuse_what_does_not_fit;
use crate::{flags, machine};

/// Flags of `herd bench train`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The network: 15m or 110m
    #[arg(long, default_value = "15m")]
    shape: String,
    /// Tokens a row [default: the preset's]
    #[arg(long, value_name = "N", value_parser = flags::range(16, 1 << 20))]
    seq: Option<usize>,
    /// Tokens a step [default: 4096, or one row]
    #[arg(long, value_name = "N", value_parser = flags::range(16, 1 << 24))]
    tokens: Option<usize>,
    /// Tokens that pass through the model at once [default: all of a step]
    #[arg(long, value_name = "N", value_parser = flags::range(16, 1 << 24))]
    micro_tokens: Option<usize>,
    /// Ids of the vocabulary
    #[arg(long, value_name = "N", default_value_t = 32_000, value_parser = flags::range(2, 1 << 20))]
    vocab: usize,
    /// How products see the weights: bf16 or f32
    #[arg(long, default_value = "bf16", value_parser = ["bf16", "f32"])]
    weights: String,
    /// Run each block again for its gradient
    #[arg(long)]
    recompute: bool,
    /// Steps that are measured, after one that is not
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = flags::range(1, 1000))]
    repetitions: usize,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

/// Seconds of the parts of a step, in their order.
#[derive(Clone, Copy, Default)]
struct Seconds {
    forward: f64,
    /// The head, its loss, and the gradients of both.
    loss: f64,
    backward: f64,
    optimizer: f64,
}

impl Seconds {
    fn all(&self) -> f64 {
        self.forward + self.loss + self.backward + self.optimizer
    }
}

/// Measures steps and prints the medians.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let run = presets::named(&flags.shape)?;
    let seq_len = flags.seq.unwrap_or(run.batch.seq_len);
    let tokens = flags.tokens.unwrap_or(4096).next_multiple_of(seq_len);
    let shape = Config {
        layers: run.model.layers,
        width: run.model.width,
        heads: run.model.heads,
        kv_heads: run.model.kv_heads,
        head_dim: run.model.width / run.model.heads,
        ffn_width: run.model.ffn_width,
        vocab: flags.vocab,
        norm_eps: run.model.norm_eps as f32,
        rope_theta: run.model.rope_theta,
        rope_scaling: RopeScaling::None,
        context: seq_len,
        tied: run.model.tied,
        head: Head::Language,
    };
    let device = Device::cpu(flags::class(flags.class.as_deref())?, flags::threads(flags.threads)?);
    let format = if flags.weights == "f32" { Format::F32 } else { Format::BF16 };
    let micro = flags.micro_tokens.unwrap_or(tokens).min(tokens) / seq_len * seq_len;
    let micro = micro.max(seq_len);
    let mut run = run;
    (run.batch.tokens, run.batch.seq_len, run.batch.micro_tokens) = (tokens, seq_len, micro);
    (run.precision.recompute, run.batch.ramp) = (flags.recompute, vec![]);
    refuse_what_does_not_fit(&run, &shape, device.threads())?;
    let tape = Arc::new(Tape::default());
    let training = Training { tape: Arc::clone(&tape), format, recompute: flags.recompute };
    let numbers = |part| Ok::<_, Infallible>(first_numbers(&shape, part, 0.02, 1));
    let Ok(model) = Llama::trainable(&shape, &device, seq_len, &training, numbers);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let mut seconds = Vec::new();
    for _ in 0..=flags.repetitions {
        let batch = Random { tokens, micro, seq_len, vocab: flags.vocab as u32 };
        seconds.push(step(&model, &tape, &mut optimizer, &batch));
    }
    let seconds = medians(&seconds[1..]);
    report(&shape, &device, format, (tokens, seq_len), &seconds, console)
}

/// Seconds a token of a run, foretold from one step of a network of the same width with at most two
/// layers and a small vocabulary, by the arithmetic that each has.
pub fn seconds_a_token(run: &RunConfig, shape: &Config, device: &Device) -> f64 {
    let small = small(shape);
    let seq_len = run.batch.seq_len;
    let format = match run.precision.weights {
        Precision::Bf16 => Format::BF16,
        Precision::F32 => Format::F32,
    };
    let tape = Arc::new(Tape::default());
    let recompute = run.precision.recompute;
    let training = Training { tape: Arc::clone(&tape), format, recompute };
    let numbers = |part| Ok::<_, Infallible>(first_numbers(&small, part, 0.02, 1));
    let Ok(model) = Llama::trainable(&small, device, seq_len, &training, numbers);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let tokens = 1024usize.next_multiple_of(seq_len);
    let batch = Random { tokens, micro: tokens, seq_len, vocab: small.vocab as u32 };
    let _ = step(&model, &tape, &mut optimizer, &batch); // the first allocates
    let seconds = step(&model, &tape, &mut optimizer, &batch);
    let work = |shape: &Config| flops_a_token(shape, seq_len).values().sum::<f64>();
    let passing = seconds.forward + seconds.loss + seconds.backward;
    // The optimiser's time goes with the parameters, and its step with the tokens of a batch.
    let per_param = seconds.optimizer / small.params() as f64;
    passing / tokens as f64 / work(&small) * work(shape)
        + per_param * shape.params() as f64 / run.batch.tokens as f64
}

/// Seconds a token of answers of which `parallel` are under way, foretold from a network of the same width as above.
pub fn seconds_an_answered_token(shape: &Config, parallel: usize, device: &Device) -> f64 {
    const AT: usize = 64; // positions that a token looks back on
    let small = small(shape);
    let training = Training { tape: Arc::default(), format: Format::BF16, recompute: false };
    let numbers = |part| Ok::<_, Infallible>(first_numbers(&small, part, 0.02, 1));
    let Ok(model) = Llama::trainable(&small, device, 2 * AT, &training, numbers);
    let mut bench = Bench::new(&model, parallel, 2 * AT, KvFormat::F32);
    bench.token(AT); // the first allocates
    let begun = Instant::now();
    let steps = 8;
    (1..=steps).for_each(|step| bench.token(AT + step));
    let seconds = begun.elapsed().as_secs_f64() / (steps * parallel) as f64;
    let work = |shape: &Config| {
        let flops = flops_a_token(shape, AT);
        flops["forward"] + flops["loss"] / 3.0
    };
    seconds / work(&small) * work(shape)
}

/// The same with at most two layers and a small vocabulary.
fn small(shape: &Config) -> Config {
    Config { layers: shape.layers.min(2), vocab: shape.vocab.min(4096), ..shape.clone() }
}

struct Random {
    tokens: usize,
    micro: usize,
    seq_len: usize,
    vocab: u32,
}

fn step(model: &Llama, tape: &Tape, optimizer: &mut Optimizer, batch: &Random) -> Seconds {
    let mut seconds = Seconds::default();
    let mut at = Instant::now();
    let mut lap = |part: &mut f64| {
        let now = Instant::now();
        *part += (now - at).as_secs_f64();
        at = now;
    };
    let config = model.config();
    for first in (0..batch.tokens).step_by(batch.micro) {
        let n = batch.micro.min(batch.tokens - first);
        let id = |i: usize| ((first + i) as u32).wrapping_mul(2_654_435_761) >> 8;
        let ids: Vec<u32> = (0..=n).map(|i| id(i) % batch.vocab).collect();
        let positions: Vec<u32> = (0..n).map(|t| (t % batch.seq_len) as u32).collect();
        let spans = (0..n).step_by(batch.seq_len).map(|t| t..t + batch.seq_len).collect();
        let documents = Arc::new(Documents::new(spans, config.kv_heads, config.head_dim));
        tape.begin(blocks_of(n / batch.seq_len, batch.seq_len));
        let x_td = model.forward_documents(&ids[..n], &positions, &documents);
        lap(&mut seconds.forward);
        let (weights, scale) = (vec![1.0; n], 1.0 / batch.tokens as f32);
        match config.head {
            Head::Language => {
                let targets = Targets { ids: &ids[1..], weights: &weights, scale, z_loss: 0.0 };
                let loss = model.loss(&x_td, &targets);
                lap(&mut seconds.loss);
                loss.backward();
            }
            Head::Score => model.scores(&x_td).backward(&weights),
        }
        lap(&mut seconds.backward);
    }
    let grad_norm = optimizer.grad_norm(model);
    optimizer.step(model, 1e-4, grad_norm);
    lap(&mut seconds.optimizer);
    seconds
}

fn medians(seconds: &[Seconds]) -> Seconds {
    let median = |part: fn(&Seconds) -> f64| {
        let mut all: Vec<f64> = seconds.iter().map(part).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Seconds {
        forward: median(|s| s.forward),
        loss: median(|s| s.loss),
        backward: median(|s| s.backward),
        optimizer: median(|s| s.optimizer),
    }
}

/// Multiply-adds as two operations of a token's step: 6 N and the causal half of attention.
fn flops_a_token(shape: &Config, seq_len: usize) -> BTreeMap<&'static str, f64> {
    let attention = (shape.layers * shape.heads * shape.head_dim * seq_len) as f64;
    let matrix = (shape.vocab * shape.width) as f64;
    let (head, matrices) = match shape.head {
        Head::Language if shape.tied => (matrix, 1.0),
        Head::Language => (matrix, 2.0),
        Head::Score => (shape.width as f64, 1.0),
    };
    let blocks = shape.params() as f64 - matrix * matrices;
    BTreeMap::from([
        ("forward", 2.0 * blocks + 2.0 * attention),
        ("loss", 6.0 * head),
        ("backward", 4.0 * blocks + 4.0 * attention),
    ])
}

fn report(
    shape: &Config,
    device: &Device,
    format: Format,
    (tokens, seq_len): (usize, usize),
    seconds: &Seconds,
    console: &Console,
) -> Result<Verdict, Error> {
    let peaks = peaks(device.kernels());
    let peak = match format {
        Format::F32 => peaks.f32_flops,
        _ => peaks.bf16_flops.max(peaks.f32_flops),
    };
    let flops = flops_a_token(shape, seq_len);
    let share = |part: &str, s: f64| flops[part] * tokens as f64 / s / peak;
    let (tok_s, all) = (tokens as f64 / seconds.all(), flops.values().sum::<f64>());
    let mfu = tok_s * all / peak;
    // Masters, moments, gradients and their square root pass once; the products' copy is written.
    let moved = shape.params() as f64 * (4.0 * 8.0 + 4.0);
    let optimizer_share = moved / seconds.optimizer / peaks.read_bytes_per_s;
    let peak_bytes = machine::peak_bytes();
    if console.json {
        console.print_json(&json!({
            "shape": { "params": shape.params(), "layers": shape.layers, "width": shape.width },
            "tokens": tokens,
            "seq_len": seq_len,
            "threads": device.threads(),
            "class": device.class().name(),
            "tok_s": tok_s,
            "mfu": mfu,
            "peak_flops": peak,
            "peak_bytes": peak_bytes,
            "forward_s": seconds.forward,
            "loss_s": seconds.loss,
            "backward_s": seconds.backward,
            "optimizer_s": seconds.optimizer,
            "forward_share": share("forward", seconds.forward),
            "loss_share": share("loss", seconds.loss),
            "backward_share": share("backward", seconds.backward),
            "optimizer_bandwidth_share": optimizer_share,
        }))?;
        return Ok(Verdict::Done);
    }
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let row = |name: &str, s: f64, share: f64| {
        vec![name.to_owned(), format!("{s:.4}"), percent(s / seconds.all()), percent(share)]
    };
    console.print_table(&[
        ["part", "seconds", "of the step", "of its bound"].map(String::from).to_vec(),
        row("forward", seconds.forward, share("forward", seconds.forward)),
        row("head and loss", seconds.loss, share("loss", seconds.loss)),
        row("backward", seconds.backward, share("backward", seconds.backward)),
        row("optimizer", seconds.optimizer, optimizer_share),
    ])?;
    console.print(format!(
        "{tok_s:.0} tok/s, MFU {} of {:.0} GFLOP/s, peak memory {}",
        percent(mfu),
        peak / 1e9,
        bytes(peak_bytes)
    ))?;
    Ok(Verdict::Done)
}
