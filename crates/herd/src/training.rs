//! What the verbs of training share: flags, the tokenizer and shards of a run, and how it is told.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use herd_data::disk::RealDisk;
use herd_data::read::Sources;
use herd_data::{Ends, TokenizeOptions, tokenize};
use herd_model::GenerationDefaults;
use herd_tensor::Device;
use herd_train::config::Precision;
use herd_train::extend_context::Verdict;
use herd_train::metrics::{Line, StepLine};
use herd_train::{Event, Inputs, RunConfig, TrainError, Trainer, Words, schedule};
use serde_json::json;

use crate::console::{Console, bytes};
use crate::error::Error;
use crate::{flags, machine, vocabulary};

/// Flags of every stage.
#[derive(Debug, clap::Args)]
pub struct RunFlags {
    /// The settings, in TOML
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The run's folder; the same command takes up what it finds there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Override a setting: `--set optim.lr=3e-4`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// A loop over the steps of a stage.
type Stage = fn(&mut Trainer<'_>) -> Result<(), TrainError>;

/// Runs a stage to its end, and tells how it goes.
pub fn run(
    flags: &RunFlags,
    config: RunConfig,
    name: &'static str,
    stage: Stage,
    console: &Console,
) -> Result<(), Error> {
    with_inputs(flags, config, name, console, |inputs, watch| {
        let mut trainer = Trainer::open(inputs, watch)?;
        stage(&mut trainer)?;
        if let Some(path) = trainer.last_checkpoint() {
            console.note(format!("the model stands in {}", path.display()));
        }
        Ok(())
    })
}

/// Makes ready what a stage needs and gives it to `f`, with the one who tells how it goes.
pub fn with_inputs<T>(
    flags: &RunFlags,
    config: RunConfig,
    name: &'static str,
    console: &Console,
    f: impl FnOnce(Inputs<'_>, &mut dyn FnMut(Event<'_>)) -> Result<T, TrainError>,
) -> Result<T, Error> {
    let device = Device::cpu(flags::class(flags.class.as_deref())?, flags::threads(flags.threads)?);
    let words = words(&config.tokenizer)?;
    std::fs::create_dir_all(&flags.out).map_err(Error::io("make", &flags.out))?;
    let shards = shards(&config, &words, &flags.out, device.threads(), console)?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_interrupt(&stop, console);
    let mut teller = Teller::new(&config, &device, &flags.out, console)?;
    let out = &flags.out;
    let inputs =
        Inputs { stage: name, config, words, out, shards: &shards, device: &device, stop: &stop };
    let mut watch = |event: Event<'_>| teller.tell(&event);
    Ok(f(inputs, &mut watch)?)
}

/// The tokenizer at `path`, its files, and what begins and ends documents.
pub fn words(path: &Path) -> Result<Words, Error> {
    const FILES: [&str; 5] = [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ];
    let tokenizer = vocabulary::load(path)?;
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let own = path.file_name().filter(|_| path.is_file());
    let mut files = Vec::new();
    for name in FILES {
        let file = folder.join(name);
        if file.is_file() && own.is_none_or(|own| own == name) {
            files.push((name.to_owned(), std::fs::read(&file).map_err(Error::io("read", &file))?));
        }
    }
    let specials = tokenizer.specials();
    let ends = Ends { bos: specials.bos.map(|id| id.0), eos: specials.eos.map(|id| id.0) };
    let generation = GenerationDefaults {
        bos_token_id: ends.bos,
        eos_token_ids: ends.eos.into_iter().collect(),
        ..GenerationDefaults::default()
    };
    Ok(Words { tokenizer: Arc::new(tokenizer), files, generation, ends })
}

/// The shards of a run: those it names, or its input tokenized into its folder.
fn shards(
    config: &RunConfig,
    words: &Words,
    out: &Path,
    threads: usize,
    console: &Console,
) -> Result<PathBuf, Error> {
    if let Some(shards) = &config.data.shards {
        return Ok(shards.clone());
    }
    let folder = out.join("data");
    let inputs: Vec<String> = config.data.input.iter().map(|p| p.display().to_string()).collect();
    let sources = Sources::find(&inputs).map_err(TrainError::from)?;
    let options = TokenizeOptions {
        validation: config.data.validation_share,
        ..TokenizeOptions::new(threads)
    };
    let mut meter = console.meter("tokenized", None);
    let mut progress = |progress: herd_data::Progress<'_>| meter.at(progress.done.bytes);
    tokenize(&words.tokenizer, &sources, &options, &folder, &RealDisk, &mut progress)
        .map_err(TrainError::from)?;
    Ok(folder)
}

fn stop_on_interrupt(stop: &Arc<AtomicBool>, console: &Console) {
    let stop = Arc::clone(stop);
    let caught = ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if caught.is_err() {
        console.note("Ctrl-C cannot be caught here: it ends the run without a checkpoint");
    }
}

/// Prints a line a step, and writes what has to do with clocks into `speed.jsonl`.
struct Teller<'a> {
    console: &'a Console,
    config: RunConfig,
    device: Device,
    /// Operations a second that the machine reaches in the products of this run; measured when
    /// the run has gone on for some seconds.
    peak_flops: Option<f64>,
    /// Multiply-adds, as two operations, of a token: by row length.
    flops_a_token: Box<dyn Fn(usize) -> f64>,
    speed: File,
    begun: Instant,
    step_begun: Instant,
    waited_s: f64,
    first_tokens: u64,
    tokens: u64,
    bpb: Option<f64>,
}

impl<'a> Teller<'a> {
    fn new(
        config: &RunConfig,
        device: &Device,
        out: &Path,
        console: &'a Console,
    ) -> Result<Teller<'a>, Error> {
        let path = out.join("speed.jsonl");
        let speed = OpenOptions::new().create(true).append(true).open(&path);
        let now = Instant::now();
        Ok(Teller {
            console,
            config: config.clone(),
            device: device.clone(),
            peak_flops: None,
            flops_a_token: Box::new(|_| f64::NAN),
            speed: speed.map_err(Error::io("open", &path))?,
            begun: now,
            step_begun: now,
            waited_s: 0.0,
            first_tokens: 0,
            tokens: 0,
            bpb: None,
        })
    }

    /// A probe takes a second: too long for a run that has hardly begun.
    fn peak_flops(&mut self) -> Option<f64> {
        const AFTER_S: f64 = 5.0;
        if self.peak_flops.is_none() && self.begun.elapsed().as_secs_f64() > AFTER_S {
            let peaks = herd_kernels::probe::peaks(self.device.kernels());
            self.peak_flops = Some(match self.config.precision.weights {
                Precision::Bf16 => peaks.bf16_flops.max(peaks.f32_flops),
                Precision::F32 => peaks.f32_flops,
            });
        }
        self.peak_flops
    }

    fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Begin { step, tokens, shape, config } => {
                self.config = (*config).clone();
                let params = shape.params() as f64;
                let (layers, width) = (shape.layers as f64, shape.width as f64);
                self.flops_a_token =
                    Box::new(move |seq_len| 6.0 * params + 6.0 * layers * width * seq_len as f64);
                (self.first_tokens, self.tokens) = (*tokens, *tokens);
                let steps = self.config.optim.steps;
                let what = if *step == 0 { "begins" } else { "goes on" };
                self.console.note(format!(
                    "{:.1}M parameters; the run {what} after step {step} of {steps}",
                    params / 1e6
                ));
                self.begun = Instant::now();
                self.step_begun = self.begun;
            }
            Event::Batch => self.waited_s = self.step_begun.elapsed().as_secs_f64(),
            Event::Line(Line::Step(step)) => self.tell_step(step),
            Event::Line(Line::Validation { loss, bpb, .. }) => {
                self.bpb = Some(*bpb);
                self.console.note(format!("validation: loss {loss:.4}, {bpb:.4} bits per byte"));
            }
            Event::Line(Line::Average { of, loss, bpb, .. }) => {
                let n = of.len();
                self.console.note(format!("mean of {n}: loss {loss:.4}, {bpb:.4} bits per byte"));
            }
            Event::Line(Line::Sample { text, .. }) => {
                self.console.note(format!("sample: {}", crate::console::visible(text)));
            }
            Event::Line(Line::Spike { step, loss, expected, action, .. }) => {
                self.console
                    .note(format!("spike at step {step}: {loss:?} above {expected:.3}; {action}"));
            }
            Event::Line(Line::Failure { what, error, .. }) => {
                self.console.note(format!("{what} failed: {error}"));
            }
            Event::Judged(verdict) => self.tell_verdict(verdict),
            Event::Saved(path) => {
                self.console.note(format!("saved {}", path.display()));
                self.step_begun = Instant::now();
            }
        }
    }

    fn tell_step(&mut self, step: &StepLine) {
        let step_s = self.step_begun.elapsed().as_secs_f64();
        let tok_s = (step.tokens - self.tokens) as f64 / step_s;
        self.tokens = step.tokens;
        let peak_flops = self.peak_flops();
        let mfu = peak_flops.map(|peak| tok_s * (self.flops_a_token)(step.seq_len) / peak);
        let mean_tok_s =
            (step.tokens - self.first_tokens) as f64 / self.begun.elapsed().as_secs_f64();
        let all = schedule::tokens_in_all(&self.config.batch, self.config.optim.steps);
        let eta_s = all.saturating_sub(step.tokens) as f64 / mean_tok_s;
        let peak = machine::peak_bytes();
        let line = json!({
            "step": step.step, "tok_s": tok_s, "mfu": mfu, "step_s": step_s,
            "data_wait_s": self.waited_s, "peak_bytes": peak, "eta_s": eta_s,
        });
        // A full disk stops the run at its own files, with a proper error.
        let _ = writeln!(self.speed, "{line}");
        let mfu = mfu.map_or(String::new(), |mfu| format!(" mfu {:.1} %", 100.0 * mfu));
        let bpb = self.bpb.map_or(String::new(), |bpb| format!(" bpb {bpb:.4}"));
        self.console.note(format!(
            "step {}/{} loss {:.4}{bpb} grad {:.3} lr {:.3e} {:.0} tok/s{mfu} {} data {:.0} % eta {:.0} s",
            step.step,
            self.config.optim.steps,
            step.loss,
            step.grad_norm,
            step.lr,
            tok_s,
            bytes(peak),
            100.0 * self.waited_s / step_s,
            eta_s,
        ));
        self.step_begun = Instant::now();
    }

    fn tell_verdict(&mut self, verdict: &Verdict) {
        let what = if verdict.passed() { "passed" } else { "did not pass" };
        let failed = verdict.failed.iter().map(|why| format!("; {why}"));
        self.console.note(format!(
            "stage {} ({} tokens), round {}: {what}{}",
            verdict.stage,
            verdict.seq_len,
            verdict.round,
            failed.collect::<String>()
        ));
        self.step_begun = Instant::now();
    }
}
