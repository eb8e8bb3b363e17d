//! How a run of training is told: a line a step, `speed.jsonl`, and the events of TensorBoard.
//!
//! What has to do with clocks and memory is known here alone. Failing to write it ends no run.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use herd_kernels::probe;
use herd_model::Config;
use herd_tensor::Device;
use herd_train::config::Precision;
use herd_train::distill::Learnt;
use herd_train::dpo::Preferences;
use herd_train::metrics::{Line, StepLine};
use herd_train::rollout::{Evaluation, Generation};
use herd_train::runs::Speed;
use herd_train::spikes::Leapt;
use herd_train::tensorboard::EventWriter;
use herd_train::{Event, RunConfig, schedule};

use crate::console::{Console, visible};
use crate::error::Error;
use crate::live::{self, Live, columns};
use crate::machine;

/// Tells of one run.
pub struct Teller<'a> {
    console: &'a Console,
    config: RunConfig,
    device: Device,
    /// Operations a second that the machine reaches in the products of this run; measured when
    /// the run has gone on for some seconds.
    peak_flops: Option<f64>,
    /// Multiply-adds, as two operations, of a token: by row length.
    flops_a_token: Box<dyn Fn(usize) -> f64>,
    speed: File,
    /// The folder of TensorBoard's events, and its file once the run has begun.
    events_folder: PathBuf,
    events: Option<EventWriter>,
    live: Live,
    begun: Instant,
    step_begun: Instant,
    waited_s: f64,
    first_step: u64,
    first_tokens: u64,
    tokens: u64,
    bpb: Option<f64>,
}

impl<'a> Teller<'a> {
    /// For a run in the folder `out`, which exists.
    ///
    /// Errors: `speed.jsonl` cannot be opened.
    pub fn new(
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
            events_folder: out.join("events"),
            events: None,
            live: Live::new(stderr().is_terminal()),
            begun: now,
            step_begun: now,
            waited_s: 0.0,
            first_step: 0,
            first_tokens: 0,
            tokens: 0,
            bpb: None,
        })
    }

    /// A probe takes a second: too long for a run that has hardly begun.
    fn peak_flops(&mut self) -> Option<f64> {
        const AFTER_S: f64 = 5.0;
        if self.peak_flops.is_none() && self.begun.elapsed().as_secs_f64() > AFTER_S {
            let cpu = self.device.kernels();
            self.peak_flops = Some(match self.config.precision.weights {
                Precision::Bf16 => probe::product_flops(cpu),
                Precision::F32 => probe::f32_flops(cpu),
            });
        }
        self.peak_flops
    }

    /// Takes an event.
    pub fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Begin { step, tokens, shape, config } => {
                self.config = (*config).clone();
                self.tell_beginning(*step, *tokens, shape);
            }
            Event::Reference { done, all } => {
                self.say(&format!("the reference has read {done} of {all} prompts"));
            }
            Event::Teacher { done, all } => {
                self.say(&format!("the teacher has read {done} of {all} tokens"));
            }
            Event::Batch => self.waited_s = self.step_begun.elapsed().as_secs_f64(),
            Event::Line(Line::Step(step)) => self.tell_step(step),
            Event::Line(Line::Validation { step, loss, bpb, preferences, taught, .. }) => {
                let parts = taught.as_ref();
                self.tell_validation((*step, *loss, *bpb), preferences.as_ref(), parts);
            }
            Event::Line(Line::Average { of, loss, bpb, .. }) => {
                let n = of.len();
                self.say(&format!("mean of {n}: loss {loss:.4}, {bpb:.4} bits per byte"));
            }
            Event::Line(Line::Rollouts(met)) => self.tell_generation(met),
            Event::Line(Line::Evaluation(met)) => self.tell_evaluation(met),
            Event::Line(Line::Sample { text, .. }) => {
                self.say(&format!("sample: {}", visible(text)));
            }
            Event::Line(Line::Spike { step, what, loss, expected, action, .. }) => {
                let told = match (what, loss) {
                    (Leapt::Loss, Some(loss)) => format!("loss {loss:.3} above {expected:.3}"),
                    (Leapt::Loss, None) => "the loss is no number".to_owned(),
                    (Leapt::Gradient, _) => "the gradient is no number".to_owned(),
                };
                self.say(&format!("spike at step {step}: {told}; {action}"));
            }
            Event::Line(Line::Failure { what, error, .. }) => {
                self.say(&format!("{what} failed: {error}"));
            }
            Event::Judged(verdict) => {
                let what = if verdict.passed() { "passed" } else { "did not pass" };
                let failed = verdict.failed.iter().map(|why| format!("; {why}"));
                self.say(&format!(
                    "stage {} ({} tokens), round {}: {what}{}",
                    verdict.stage,
                    verdict.seq_len,
                    verdict.round,
                    failed.collect::<String>()
                ));
                self.step_begun = Instant::now();
            }
            Event::Saved(path) => {
                self.say(&format!("saved {}", path.display()));
                self.step_begun = Instant::now();
            }
        }
    }

    fn tell_beginning(&mut self, step: u64, tokens: u64, shape: &Config) {
        let params = shape.params() as f64;
        let (layers, width) = (shape.layers as f64, shape.width as f64);
        self.flops_a_token =
            Box::new(move |seq_len| 6.0 * params + 6.0 * layers * width * seq_len as f64);
        (self.first_step, self.first_tokens, self.tokens) = (step, tokens, tokens);
        let steps = self.config.optim.steps;
        let what = if step == 0 { "begins" } else { "goes on" };
        self.say(&format!(
            "{:.1}M parameters; the run {what} after step {step} of {steps}",
            params / 1e6
        ));
        if self.events.is_none() {
            let events = EventWriter::create(&self.events_folder, wall_time(), step + 1);
            self.events = events.ok();
        }
        self.begun = Instant::now();
        self.step_begun = self.begun;
    }

    fn tell_validation(
        &mut self,
        (step, loss, bpb): (u64, f64, Option<f64>),
        pairs: Option<&Preferences>,
        taught: Option<&Learnt>,
    ) {
        self.bpb = bpb;
        self.record(step, &[("validation/loss", loss)]);
        let mut told = format!("validation: loss {loss:.4}");
        if let Some(bpb) = bpb {
            self.record(step, &[("validation/bpb", bpb)]);
            told.push_str(&format!(", {bpb:.4} bits per byte"));
        }
        if let Some(pairs) = pairs {
            self.record_pairs(step, "validation", pairs);
            let (right, margin) = (100.0 * pairs.accuracy, pairs.margin);
            told.push_str(&format!(", {right:.1} % of pairs right, margin {margin:.4}"));
        }
        if let Some(Learnt { ce, kl }) = taught {
            self.record(step, &[("validation/ce", *ce), ("validation/kl", *kl)]);
            told.push_str(&format!(", divergence {kl:.4}"));
        }
        self.say(&told);
    }

    fn tell_generation(&mut self, met: &Generation) {
        let numbers = [
            ("train/reward", met.reward),
            ("train/reward_std", met.reward_std),
            ("train/frac_reward_zero_std", met.frac_reward_zero_std),
            ("train/completions/mean_length", met.mean_length),
            ("train/completions/clipped_ratio", met.clipped),
        ];
        self.record(met.step, &numbers);
        let (answers, reward) = (met.answers, met.reward);
        let (std, tokens) = (met.reward_std, met.mean_length);
        self.say(&format!(
            "answers: {answers}, reward {reward:.4} (deviation {std:.4}), {tokens:.1} tokens each"
        ));
    }

    fn tell_evaluation(&mut self, met: &Evaluation) {
        self.record(met.step, &[("validation/reward", met.eval_reward)]);
        let interval = met.low.zip(met.high);
        let interval = interval.map(|(low, high)| format!(" (95 %: {low:.4} to {high:.4})"));
        let (prompts, reward) = (met.prompts, met.eval_reward);
        let interval = interval.unwrap_or_default();
        self.say(&format!("validation: reward {reward:.4}{interval} of {prompts} prompts"));
    }

    fn tell_step(&mut self, step: &StepLine) {
        let step_s = self.step_begun.elapsed().as_secs_f64();
        // After a rewind a run has read less than before.
        let tok_s = step.tokens.saturating_sub(self.tokens) as f64 / step_s;
        self.tokens = step.tokens;
        let flops = tok_s * (self.flops_a_token)(step.seq_len);
        let mfu = self.peak_flops().map_or(f64::NAN, |peak| flops / peak);
        let share_left = self.share_left(step);
        let speed = Speed {
            step: step.step,
            tok_s,
            mfu,
            step_s,
            data_wait_s: self.waited_s,
            peak_bytes: machine::peak_bytes(),
            eta_s: share_left * self.begun.elapsed().as_secs_f64(),
        };
        // A full disk stops the run at its own files, with a proper error.
        let _ = self.speed.write_all(speed.text().as_bytes());
        let scalars = [
            ("train/loss", step.loss),
            ("train/grad_norm", step.grad_norm),
            ("train/lr", step.lr),
            ("speed/tok_s", tok_s),
            ("speed/mfu", mfu),
        ];
        self.record(step.step, &scalars);
        if let Some(pairs) = &step.preferences {
            self.record_pairs(step.step, "train", pairs);
        }
        if let Some(Learnt { ce, kl }) = step.taught {
            self.record(step.step, &[("train/ce", ce), ("train/kl", kl)]);
        }
        let line = live::StepLine {
            step: step.step,
            steps: self.config.optim.steps,
            tokens: step.tokens,
            loss: step.loss,
            bpb: self.bpb,
            grad_norm: step.grad_norm,
            lr: step.lr,
            tok_s,
            mfu,
            peak_bytes: speed.peak_bytes,
            data_wait_share: self.waited_s / step_s,
            eta_s: speed.eta_s,
        };
        let text = self.live.step(&line, columns(&stderr()));
        self.show(&text);
        self.step_begun = Instant::now();
    }

    /// What is left to do, over what was done since the run began here.
    fn share_left(&self, step: &StepLine) -> f64 {
        let steps = self.config.optim.steps;
        if self.config.rollout.is_some() {
            // What steps will read nobody knows.
            return (steps - step.step) as f64 / (step.step - self.first_step) as f64;
        }
        let read = (step.tokens - self.first_tokens) as f64;
        let all = schedule::tokens_in_all(&self.config.batch, steps);
        all.saturating_sub(step.tokens) as f64 / read
    }

    /// A line above the curve.
    fn say(&mut self, text: &str) {
        let text = self.live.say(text, columns(&stderr()));
        self.show(&text);
    }

    /// Takes the curve away, so that others may print.
    pub fn end(&mut self) {
        let text = self.live.erase();
        self.show(&text);
    }

    fn show(&self, text: &str) {
        if !self.console.quiet {
            let _ = stderr().lock().write_all(text.as_bytes()); // nobody is left to tell
        }
    }

    /// Numbers of pairs for TensorBoard.
    fn record_pairs(&mut self, step: u64, of: &str, pairs: &Preferences) {
        let numbers = [
            ("rewards/chosen", pairs.chosen),
            ("rewards/rejected", pairs.rejected),
            ("rewards/margins", pairs.margin),
            ("rewards/accuracies", pairs.accuracy),
        ];
        let nll = pairs.nll.map(|nll| ("nll_loss", nll));
        for (name, number) in numbers.into_iter().chain(nll) {
            self.record(step, &[(&format!("{of}/{name}"), number)]);
        }
    }

    /// Numbers for TensorBoard.
    fn record(&mut self, step: u64, scalars: &[(&str, f64)]) {
        if let Some(events) = &mut self.events {
            let _ = events.scalars(wall_time(), step, scalars); // as `speed.jsonl`
        }
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
