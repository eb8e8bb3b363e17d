//! Longer context in stages, each of which must pass before the next (arXiv 2407.21783, section
//! 3.4.2): the loss on short texts has recovered, and needles are found up to the new length.
//!
//! ```text
//! passed = loss_short <= (1 + tolerance) loss_short_before  and  min_length rate(length) >= needle_rate
//! ```

use crate::config::{ContextConfig, ContextStage, NeedleConfig, RunConfig};
use crate::error::TrainError;
use crate::needle::{self, Found};
use crate::pretrain::pretrain;
use crate::runs::number;
use crate::trainer::{Event, Inputs, Trainer, keep_config, replace, take_lock};
use crate::validate;
use herd_data::disk::make_folder;
use herd_data::{Check, Corpus};
use herd_model::Checkpoint;
use herd_model::llama::Llama;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The verb, for the provenance of checkpoints.
pub const STAGE: &str = "extend-context";

/// How a round of a stage ended: `verdict.json` in its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The stage, from 1.
    pub stage: usize,
    /// The round of this stage, from 1.
    pub round: u64,
    /// Tokens a row.
    pub seq_len: usize,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Nats a token at the short length before the first stage.
    pub short_loss_before: f64,
    /// The same now; NaN if it is no number.
    #[serde(deserialize_with = "number")]
    pub short_loss: f64,
    /// Needles at every length up to the new one.
    pub needles: Vec<Found>,
    /// The criteria that were not met; empty: the stage has passed.
    pub failed: Vec<String>,
}

impl Verdict {
    /// Whether the next stage may begin.
    pub fn passed(&self) -> bool {
        self.failed.is_empty()
    }
}

/// What [`Before`] stands in.
const BEFORE: &str = "before.json";

/// The model before the first stage: `before.json` in the folder of all stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// Nats a token at the short length.
    pub short_loss: f64,
    /// Needles at every length.
    pub needles: Vec<Found>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All stages passed; the model stands here.
    Extended(PathBuf),
    /// It was asked to stop.
    Stopped,
    /// A stage has not passed after its last round.
    Failed(Verdict),
}

/// Reads the settings of an extension.
///
/// Errors: those of [`RunConfig::read`]; no `model.init`, stages that do not grow, or needles that
/// cannot be made.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    let mut config = RunConfig::read_over(path, overrides, base)?;
    let in_file = |e| TrainError::InFile { path: path.into(), source: Box::new(e) };
    resolve(&mut config).map_err(in_file)?;
    Ok(config)
}

fn base(preset: RunConfig) -> RunConfig {
    let context = ContextConfig {
        loss_tolerance: 0.01,
        needle_rate: 1.0,
        rounds_max: 3,
        needle: needle(),
        stage: vec![],
    };
    RunConfig { context: Some(context), ..preset }
}

/// The needles of a file that says nothing of them.
pub(crate) fn needle() -> NeedleConfig {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    NeedleConfig {
        sentence: "\nThe secret number of {key} is {value}.\n".into(),
        question: "\nThe secret number of {key} is".into(),
        answer: " {value}".into(),
        haystack: vec![],
        keys: words("Paris London Berlin Rome Madrid Vienna Oslo Cairo Lima Tokyo"),
        digits: 4,
        depths: vec![0.0, 0.25, 0.5, 0.75, 1.0],
        samples: 4,
    }
}

/// The six stages from 8K to 128K as multiples of the short length. The base of RoPE grows so that
/// its lowest frequency shrinks as the context grows: theta s^(K / (K - 2)) (choice; the paper
/// publishes neither lengths nor bases).
pub fn six_stages(
    seq_len: usize,
    rope_theta: f64,
    head_dim: usize,
    steps: u64,
) -> Vec<ContextStage> {
    let power = head_dim as f64 / (head_dim.max(3) - 2) as f64;
    let stage = |times: usize| ContextStage {
        seq_len: times * seq_len,
        rope_theta: (rope_theta * (times as f64).powf(power)).round(),
        steps,
    };
    [2, 4, 6, 8, 12, 16].map(stage).into()
}

fn resolve(config: &mut RunConfig) -> Result<(), TrainError> {
    let Some(init) = &config.model.init else {
        return Err(TrainError::no("model.init", "nothing", "the checkpoint to extend"));
    };
    if config.model.lora.is_some() {
        return Err(TrainError::no("model.lora", "given", "nothing: all weights learn"));
    }
    let context = config.context.as_mut().expect("the base has one");
    if context.stage.is_empty() {
        let shape = Checkpoint::open(init)?.config;
        let (seq_len, steps) = (config.batch.seq_len, config.optim.steps);
        context.stage = six_stages(seq_len, shape.rope_theta, shape.head_dim, steps);
    }
    check(context, config.batch.seq_len)
}

fn check(context: &ContextConfig, short: usize) -> Result<(), TrainError> {
    let mut last = short;
    for ContextStage { seq_len, rope_theta, steps } in &context.stage {
        if *seq_len <= last {
            return Err(TrainError::no("context.stage.seq_len", seq_len, &format!("over {last}")));
        }
        if !(rope_theta.is_finite() && *rope_theta >= 1.0) {
            return Err(TrainError::no("context.stage.rope_theta", rope_theta, "at least 1"));
        }
        if *steps == 0 {
            return Err(TrainError::no("context.stage.steps", steps, "at least 1"));
        }
        last = *seq_len;
    }
    let ContextConfig { loss_tolerance, needle_rate, rounds_max, needle, .. } = context;
    if loss_tolerance.is_nan() || *loss_tolerance < 0.0 {
        return Err(TrainError::no("context.loss_tolerance", loss_tolerance, "at least 0"));
    }
    if !(0.0..=1.0).contains(needle_rate) {
        return Err(TrainError::no("context.needle_rate", needle_rate, "0 to 1"));
    }
    if *rounds_max == 0 {
        return Err(TrainError::no("context.rounds_max", rounds_max, "at least 1"));
    }
    if needle.keys.is_empty() || needle.samples == 0 {
        return Err(TrainError::no("context.needle", "empty", "keys, and samples of at least 1"));
    }
    if !(1..=18).contains(&needle.digits) {
        return Err(TrainError::no("context.needle.digits", needle.digits, "1 to 18"));
    }
    match needle.depths.iter().find(|depth| !(0.0..=1.0).contains(*depth)) {
        Some(depth) => Err(TrainError::no("context.needle.depths", depth, "0 to 1")),
        None if needle.depths.is_empty() => {
            Err(TrainError::no("context.needle.depths", "empty", "at least one"))
        }
        None => Ok(()),
    }
}

/// Goes through the stages in `inputs.out`, or goes on where it stopped. What a killed run had
/// judged is not judged again.
///
/// Errors: those of [`Trainer::open`] and [`pretrain`]; no text is held out.
pub fn extend_context(
    inputs: Inputs<'_>,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let out = inputs.out;
    make_folder(out).map_err(|e| TrainError::io("make", out, e))?;
    let _lock = take_lock(out)?;
    keep_config(&inputs.config, out, out.join(BEFORE).exists())?;
    let context = inputs.config.context.clone().expect("the base has one");
    let judge = Judge::new(&inputs, &context)?;
    let mut model = inputs.config.model.init.clone().expect("was checked when read");
    let before = judge.before(&model)?;
    for (i, stage) in context.stage.iter().enumerate() {
        for round in 1.. {
            let folder = round_folder(out, i + 1, round);
            let run = Round { stage, number: i + 1, round, folder: &folder };
            let file = folder.join("verdict.json");
            let verdict = match load(&file)? {
                Some(verdict) => verdict,
                None => {
                    if !run.train(&inputs, &model, watch)? {
                        return Ok(Outcome::Stopped);
                    }
                    let verdict = judge.verdict(&run, &before)?;
                    save(&file, &verdict)?;
                    watch(Event::Judged(&verdict));
                    verdict
                }
            };
            model = run.model();
            if verdict.passed() {
                break;
            }
            if round == context.rounds_max {
                return Ok(Outcome::Failed(verdict));
            }
        }
    }
    Ok(Outcome::Extended(model))
}

/// `stage-N` of the first round, `stage-N.R` of later ones.
fn round_folder(out: &Path, stage: usize, round: u64) -> PathBuf {
    out.join(if round == 1 { format!("stage-{stage}") } else { format!("stage-{stage}.{round}") })
}

/// A round of a stage: a run of its own.
struct Round<'a> {
    stage: &'a ContextStage,
    number: usize,
    round: u64,
    folder: &'a Path,
}

impl Round<'_> {
    /// Trains from `init` to the last step; false if it was asked to stop.
    fn train(
        &self,
        inputs: &Inputs<'_>,
        init: &Path,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, TrainError> {
        let inputs = Inputs {
            stage: inputs.stage,
            config: self.config(&inputs.config, init),
            words: inputs.words.clone(),
            out: self.folder,
            shards: inputs.shards,
            rewards: inputs.rewards.clone(),
            device: inputs.device,
            stop: inputs.stop,
        };
        let mut run = Trainer::open(inputs, watch)?;
        pretrain(&mut run)?;
        Ok(run.step() == run.config.optim.steps)
    }

    fn config(&self, config: &RunConfig, init: &Path) -> RunConfig {
        let mut run = RunConfig { context: None, ..config.clone() };
        run.model.init = Some(init.to_owned());
        run.model.init_rope_theta = Some(self.stage.rope_theta);
        // Each round reads in another order.
        run.seed = config.seed.wrapping_add((self.number as u64) << 16 | self.round);
        let seq_len = self.stage.seq_len;
        run.batch.tokens = (config.batch.tokens / seq_len).max(1) * seq_len;
        (run.batch.seq_len, run.batch.ramp) = (seq_len, vec![]);
        run.optim.steps = self.stage.steps;
        run.optim.warmup_steps = config.optim.warmup_steps.min(self.stage.steps);
        run
    }

    /// Its last checkpoint.
    fn model(&self) -> PathBuf {
        crate::state::step_folder(&self.folder.join("checkpoints"), self.stage.steps)
    }
}

/// What models are measured with.
struct Judge<'a> {
    inputs: &'a Inputs<'a>,
    context: &'a ContextConfig,
    corpus: Arc<Corpus>,
    hay: Vec<u32>,
}

impl<'a> Judge<'a> {
    fn new(inputs: &'a Inputs<'a>, context: &'a ContextConfig) -> Result<Judge<'a>, TrainError> {
        let corpus = Arc::new(Corpus::open(inputs.shards, Check::Contents)?);
        corpus.expect_tokenizer(herd_data::Hash::of_tokenizer(&inputs.words.tokenizer))?;
        let longest = context.stage.last().map_or(0, |stage| stage.seq_len);
        // Needles at one length and depth lie in different hay where there is enough of it.
        let hay = needle::haystack(&corpus, &inputs.words, &context.needle, 4 * longest)?;
        Ok(Judge { inputs, context, corpus, hay })
    }

    /// The short length, and those of the stages up to `stage`.
    fn lengths(&self, stage: usize) -> Vec<usize> {
        let stages = self.context.stage[..stage].iter().map(|stage| stage.seq_len);
        std::iter::once(self.inputs.config.batch.seq_len).chain(stages).collect()
    }

    /// The model before the first stage, at all lengths; measured once.
    fn before(&self, model: &Path) -> Result<Before, TrainError> {
        let file = self.inputs.out.join(BEFORE);
        if let Some(before) = load(&file)? {
            return Ok(before);
        }
        let (short_loss, needles) = self.measure(model, self.context.stage.len())?;
        if !short_loss.is_finite() {
            let what = format!("loss of {}", model.display());
            return Err(TrainError::NotFinite { step: 0, what, value: short_loss });
        }
        let before = Before { short_loss, needles };
        save(&file, &before)?;
        Ok(before)
    }

    fn measure(&self, model: &Path, stages: usize) -> Result<(f64, Vec<Found>), TrainError> {
        let Inputs { config, words, device, .. } = self.inputs;
        let lengths = self.lengths(stages);
        let context = lengths.last().copied().unwrap_or(0);
        let model = Arc::new(Llama::load(&Checkpoint::open(model)?, device, context)?);
        let short = validate::measure_model(&model, config, &self.corpus, words.ends)?;
        let Some(short) = short else {
            let (key, value) = ("data.validation_share", config.data.validation_share);
            return Err(TrainError::no(key, value, "enough for some held-out text"));
        };
        let needle = &self.context.needle;
        Ok((short.all().loss, needle::measure(&model, words, &self.hay, needle, &lengths)?))
    }

    fn verdict(&self, run: &Round<'_>, before: &Before) -> Result<Verdict, TrainError> {
        let (short_loss, needles) = self.measure(&run.model(), run.number)?;
        let mut failed = Vec::new();
        let most = before.short_loss * (1.0 + self.context.loss_tolerance);
        // A loss that is no number is above everything.
        if short_loss.is_nan() || short_loss > most {
            failed.push(format!("short-context loss {short_loss:.4}, expected at most {most:.4}"));
        }
        for length in self.lengths(run.number) {
            let (rate, least) = (needle::rate(&needles, length), self.context.needle_rate);
            if rate < least {
                failed.push(format!("needles at {length} tokens {rate:.3}, expected {least:.3}"));
            }
        }
        let ContextStage { seq_len, rope_theta, .. } = *run.stage;
        let (stage, round, short_loss_before) = (run.number, run.round, before.short_loss);
        Ok(Verdict {
            stage,
            round,
            seq_len,
            rope_theta,
            short_loss_before,
            short_loss,
            needles,
            failed,
        })
    }
}

fn load<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, TrainError> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| TrainError::Damaged { path: file.to_owned(), what: e.to_string() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(TrainError::io("read", file, e)),
    }
}

fn save(file: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let mut text = serde_json::to_vec_pretty(value).expect("numbers and texts serialise");
    text.push(b'\n');
    replace(file, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_stages_go_from_8k_to_128k() {
        let stages = six_stages(8192, 500_000.0, 128, 1000);
        let lengths: Vec<usize> = stages.iter().map(|stage| stage.seq_len / 1024).collect();
        assert_eq!(lengths, [16, 32, 48, 64, 96, 128]);
        // The lowest frequency, theta^-(K-2)/K, shrinks as the context grows.
        let lowest = |theta: f64| theta.powf(-126.0 / 128.0);
        let shrunk = lowest(500_000.0) / lowest(stages[5].rope_theta);
        assert!((shrunk - 16.0).abs() < 1e-3, "{shrunk}");
    }

    #[test]
    fn stages_that_do_not_grow_and_needles_that_cannot_be_made_are_named() {
        let context = |change: fn(&mut ContextConfig)| {
            let mut context = base(crate::presets::tiny()).context.unwrap();
            context.stage = six_stages(64, 10_000.0, 32, 5);
            change(&mut context);
            check(&context, 64).map_err(|e| e.to_string())
        };
        assert_eq!(context(|_| ()), Ok(()));
        assert!(context(|c| c.stage[0].seq_len = 64).unwrap_err().contains("expected over 64"));
        assert!(context(|c| c.stage[2].rope_theta = 0.0).unwrap_err().contains("rope_theta"));
        assert!(context(|c| c.needle.depths = vec![1.5]).unwrap_err().contains("1.5"));
        assert!(context(|c| c.needle.digits = 40).unwrap_err().contains("40"));
        assert!(context(|c| c.needle.keys.clear()).unwrap_err().contains("needle"));
        assert!(context(|c| c.rounds_max = 0).unwrap_err().contains("rounds_max"));
    }
}
