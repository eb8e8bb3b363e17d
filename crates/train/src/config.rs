//! What a run is: one file of settings, strict, with every number in the open.

use crate::distill::DistillConfig;
use crate::dpo::DpoConfig;
use crate::error::TrainError;
use crate::grpo::GrpoConfig;
use crate::ppo::PpoConfig;
use crate::presets;
use crate::rejection::ScoreConfig;
use crate::reward::RewardConfig;
use crate::rollout::RolloutConfig;
use herd_data::LongDocuments;
use herd_data::dialogue::Shape;
use herd_model::nearest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// All settings of a stage. Texts of TOML are laid over a preset, so a file names what differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of initial weights, of the order of the data, and of samples.
    pub seed: u64,
    /// Folder or file of the tokenizer.
    pub tokenizer: PathBuf,
    /// The network.
    pub model: ModelConfig,
    /// What it reads.
    pub data: DataConfig,
    /// How much of it a step takes.
    pub batch: BatchConfig,
    /// The optimiser and its schedule.
    pub optim: OptimConfig,
    /// Number formats and memory.
    pub precision: PrecisionConfig,
    /// What is kept.
    pub checkpoint: CheckpointConfig,
    /// What is measured while training.
    pub validation: ValidationConfig,
    /// What is written while training.
    pub samples: SampleConfig,
    /// What happens when the loss leaps.
    pub spikes: SpikeConfig,
    /// Of `anneal`: whose mean the model is in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<AverageConfig>,
    /// Of `extend-context`: its stages, and what each must pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextConfig>,
    /// Of stages that learn from dialogues: how these are read and rendered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatConfig>,
    /// Of `dpo`: its loss, and which pairs it learns from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpo: Option<DpoConfig>,
    /// Of `reward`: its loss, and which pairs it learns from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardConfig>,
    /// Of `distill`: its teacher and its loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// Of stages that learn from answers of their own: how these are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutConfig>,
    /// Of `grpo`: its loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpo: Option<GrpoConfig>,
    /// Of `ppo`: its loss and its value head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo: Option<PpoConfig>,
    /// Of stages that learn from answers of their own: what these are judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Vec<ScoreConfig>>,
}

/// How dialogues are read and rendered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatConfig {
    /// A format's name, or a file with a template; the model's own where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The shape of the rows; told by their keys where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// The day that formats name, as 2024-07-26; the template's own where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Whether rows that are no dialogue are counted, rather than an error.
    pub skip_bad: bool,
}

/// The network: from numbers, or from a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A checkpoint whose weights and shape the run starts from; the shape below is not read then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Base of the RoPE frequencies instead of the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_rope_theta: Option<f64>,
    /// L.
    pub layers: usize,
    /// D.
    pub width: usize,
    /// H.
    pub heads: usize,
    /// G.
    pub kv_heads: usize,
    /// F.
    pub ffn_width: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Inside the root of the norms.
    pub norm_eps: f64,
    /// Standard deviation of initial weights; projections back into the residual stream have it
    /// divided by sqrt(2 L).
    pub init_std: f64,
    /// LoRA instead of training all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// Additions of low rank beside frozen weights; rank 8, alpha 16, everywhere unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank.
    pub rank: usize,
    /// The addition counts alpha / rank.
    pub alpha: f64,
    /// Of `q k v o gate up down`.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets = ["q", "k", "v", "o", "gate", "up", "down"].map(str::to_owned).to_vec();
        LoraConfig { rank: 8, alpha: 16.0, targets }
    }
}

/// Token shards and how rows are made of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Folder of shards that `herd data tokenize` wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<PathBuf>,
    /// Instead of shards: files of text, tokenized into the run's folder first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub input: Vec<PathBuf>,
    /// Share of documents of `input` held out for validation.
    pub validation_share: f64,
    /// `cut`: documents go on in the next row; `whole`: rows hold whole documents, and are padded.
    pub packing: Packing,
    /// What becomes of documents that are longer than a row, where rows hold whole ones.
    pub long: Long,
    /// Whether attention and positions end with a document.
    pub document_mask: bool,
    /// Weight of each source; sources that are not named have none. Empty: by their size.
    pub mix: BTreeMap<String, f64>,
    /// Other mixes from some number of tokens on.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub changes: Vec<MixChange>,
    /// A source that was read this many times is an error.
    pub epochs_max: f64,
}

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Documents go on in the next row.
    Cut,
    /// Rows hold whole documents where these fit, and are padded.
    Whole,
}

/// What becomes of documents that are longer than a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Long {
    /// They go on in other rows.
    Split,
    /// Their beginning is kept.
    Shorten,
    /// They are left out.
    Drop,
    /// They are an error.
    Refuse,
}

impl Long {
    /// As packing has it; of those that are refused there are none.
    pub(crate) fn documents(self) -> LongDocuments {
        match self {
            Long::Split => LongDocuments::Split,
            Long::Shorten => LongDocuments::Shorten,
            Long::Drop | Long::Refuse => LongDocuments::Drop,
        }
    }
}

/// Another mix from some number of tokens on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixChange {
    /// From this many tokens on.
    pub from_tokens: u64,
    /// The weights from then on.
    pub mix: BTreeMap<String, f64>,
}

/// How much a step takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// Tokens a step: a multiple of `seq_len`.
    pub tokens: usize,
    /// Tokens a row.
    pub seq_len: usize,
    /// Tokens that pass through the model at once; changes no bit. The largest number of rows
    /// that fits, but at least one.
    pub micro_tokens: usize,
    /// Other sizes from some number of tokens on, ascending.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ramp: Vec<Ramp>,
}

impl BatchConfig {
    /// Rows of this length that pass through the model at once outside of steps: no more tokens than in a step.
    pub(crate) fn rows_at_once(&self, seq_len: usize) -> usize {
        let most = self.ramp.iter().map(|ramp| ramp.tokens).fold(self.tokens, usize::max);
        (self.micro_tokens.min(most) / seq_len).max(1)
    }
}

/// Other sizes from some number of tokens on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// From this many tokens on.
    pub from_tokens: u64,
    /// Tokens a step.
    pub tokens: usize,
    /// Tokens a row.
    pub seq_len: usize,
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Steps in all.
    pub steps: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// Of the peak, where the schedule ends.
    pub min_lr_ratio: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// The curve after warm-up.
    pub decay: Decay,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// The gradient's norm is cut to this.
    pub max_grad_norm: f64,
}

/// The curve of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Half a cosine down to the least rate.
    Cosine,
    /// A line down to the least rate.
    Linear,
    /// None.
    Constant,
}

/// Number formats and memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecisionConfig {
    /// How products see weights and activations: masters, sums and norms are f32 either way.
    pub weights: Precision,
    /// Keep a block's input alone and run the block again for its gradient.
    pub recompute: bool,
}

/// How products see weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Rounded to bf16, sums in f32.
    Bf16,
    /// As they are.
    F32,
}

/// What is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints.
    pub every: u64,
    /// The last so many are kept.
    pub keep_last: usize,
    /// Those whose step is a multiple of this stay for good; 0: none but the last.
    pub keep_every: u64,
}

/// What is measured while training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// Steps between measurements; 0: only at the end.
    pub every: u64,
    /// Tokens that a measurement reads at most.
    pub tokens: usize,
}

/// What is written while training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Steps between samples; 0: none.
    pub every: u64,
    /// Tokens a sample.
    pub tokens: usize,
    /// Sampling temperature.
    pub temperature: f64,
    /// What the model goes on from; an empty text is the beginning of a document.
    pub prompts: Vec<String>,
}

/// What happens when the loss leaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpikeConfig {
    /// What is done.
    pub policy: SpikePolicy,
    /// A loss this many standard deviations above its running mean is a spike.
    pub deviations: f64,
    /// Steps that the running mean looks back.
    pub window: u64,
    /// After this many the run stops.
    pub rewinds_max: u64,
}

/// What is done about a spike. A loss is one, or a gradient's norm, that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpikePolicy {
    /// It is written down. What is no number ends the run.
    Record,
    /// The last checkpoint is taken up again, and the batches since are skipped.
    Rewind,
}

/// Whose mean the model of `anneal` is in the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// Checkpoints whose step is a multiple of this, and the last; 0: all of them.
    pub every: u64,
}

/// The stages of `extend-context`, and what each must pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextConfig {
    /// The loss at `batch.seq_len` may be greater by this share than before the first stage.
    pub loss_tolerance: f64,
    /// The share of needles that must be found at each length up to the new one.
    pub needle_rate: f64,
    /// A stage that did not pass goes on, so many rounds in all.
    pub rounds_max: u64,
    /// How needles are hidden and asked for.
    pub needle: NeedleConfig,
    /// The stages; none: the paper's six, from `batch.seq_len` to 16 times that.
    pub stage: Vec<ContextStage>,
}

/// A length to learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextStage {
    /// Tokens a row, and the model's new context.
    pub seq_len: usize,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Steps of a round.
    pub steps: u64,
}

/// How needles are hidden and asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeedleConfig {
    /// The sentence that is hidden, with `{key}` and `{value}`.
    pub sentence: String,
    /// What stands at the end, with `{key}`.
    pub question: String,
    /// What the model must go on with, with `{value}`.
    pub answer: String,
    /// Sources whose held-out text is the haystack; none: all.
    pub haystack: Vec<String>,
    /// The keys that are drawn from.
    pub keys: Vec<String>,
    /// Digits of a value.
    pub digits: usize,
    /// Where needles lie, as shares of the haystack.
    pub depths: Vec<f64>,
    /// Needles at each length and depth.
    pub samples: usize,
}

/// Keys that a file may have and a preset need not.
const OPTIONAL: [&str; 16] = [
    "model.init",
    "model.init_rope_theta",
    "model.lora",
    "data.shards",
    "data.input",
    "data.changes",
    "batch.ramp",
    "chat.template",
    "chat.shape",
    "chat.date",
    "dpo.reference",
    "distill.sample",
    "distill.score",
    "grpo.epsilon_high",
    "ppo.missing_eos_penalty",
    "ppo.value_model",
];

/// Tokens a step at most, so that a slip of the pen takes no terabytes.
const TOKENS_MAX: usize = 1 << 28;

/// Tokens a sample at most.
const SAMPLE_MAX: usize = 1 << 16;

/// The first parts of all keys that a file of settings and the overrides over it have: they tell which verb it is for.
///
/// Errors: the file cannot be read, or is no TOML.
pub fn keys(path: &Path, overrides: &[(String, String)]) -> Result<BTreeSet<String>, TrainError> {
    let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
    let given: Table = text.parse().map_err(|e: toml::de::Error| {
        let source = Box::new(TrainError::Toml { source: Box::new(e) });
        TrainError::InFile { path: path.into(), source }
    })?;
    let first = |(key, _): &(String, String)| key.split('.').next().unwrap_or(key).to_owned();
    Ok(given.into_iter().map(|(key, _)| key).chain(overrides.iter().map(first)).collect())
}

impl RunConfig {
    /// Reads a file and the `--set` overrides over it; paths in the file are relative to it.
    ///
    /// `preset = "NAME"` in the file says what it is laid over; without it, `tiny`.
    /// Errors: the file cannot be read, is no TOML, has a key that does not exist (the nearest is
    /// named), or a value of the wrong type or out of bounds.
    pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
        RunConfig::read_over(path, overrides, |preset| preset)
    }

    /// The same over what `base` makes of the preset.
    pub fn read_over(
        path: &Path,
        overrides: &[(String, String)],
        base: impl FnOnce(RunConfig) -> RunConfig,
    ) -> Result<RunConfig, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
        let config = RunConfig::parse_over(&text, overrides, base)
            .map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })?;
        Ok(config.relative_to(path.parent().unwrap_or(Path::new("."))))
    }

    /// The same of a text.
    pub fn parse(text: &str, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
        RunConfig::parse_over(text, overrides, |preset| preset)
    }

    /// The same of a text, over what `base` makes of the preset.
    pub fn parse_over(
        text: &str,
        overrides: &[(String, String)],
        base: impl FnOnce(RunConfig) -> RunConfig,
    ) -> Result<RunConfig, TrainError> {
        let mut given: Table =
            text.parse().map_err(|e: toml::de::Error| TrainError::Toml { source: Box::new(e) })?;
        for (key, value) in overrides {
            set(&mut given, key, value)?;
        }
        let preset = match given.remove("preset") {
            None => "tiny".to_owned(),
            Some(Value::String(name)) => name,
            Some(other) => return Err(TrainError::value("preset", &other, "a name")),
        };
        let base = base(presets::named(&preset)?);
        let mut table = Table::try_from(&base).expect("a config is a table");
        lay(&mut table, given, "", &OPTIONAL)?;
        let config: RunConfig = table
            .try_into()
            .map_err(|e: toml::de::Error| TrainError::Toml { source: Box::new(e) })?;
        config.check()?;
        if config.model.lora.is_some() && config.model.init.is_none() {
            let expected = "the checkpoint that model.lora stands beside";
            return Err(TrainError::no("model.init", "nothing", expected));
        }
        Ok(config)
    }

    /// The text that gives this config again.
    pub fn write(&self) -> String {
        toml::to_string(self).expect("a config is a table")
    }

    /// The reward models that judge.
    pub(crate) fn judges(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let scores = self.score.iter_mut().flatten();
        scores.filter_map(|score| score.judge.model_mut())
    }

    pub(crate) fn relative_to(mut self, folder: &Path) -> RunConfig {
        let at = |path: &mut PathBuf| *path = folder.join(&*path);
        if !self.tokenizer.as_os_str().is_empty() {
            at(&mut self.tokenizer);
        }
        self.model.init.iter_mut().for_each(at);
        self.dpo.iter_mut().filter_map(|dpo| dpo.reference.as_mut()).for_each(at);
        self.distill.iter_mut().for_each(|distill| distill.relative_to(folder));
        self.ppo.iter_mut().filter_map(|ppo| ppo.value_model.as_mut()).for_each(at);
        self.judges().for_each(at);
        self.data.shards.iter_mut().for_each(at);
        self.data.input.iter_mut().for_each(at);
        self
    }

    /// Tokens of a step as the settings have them; where it learns from answers, these say how many it takes.
    fn tokens_said(&self) -> usize {
        if self.rollout.is_some() { self.batch.seq_len } else { self.batch.tokens }
    }

    /// Errors: a number is out of bounds, or two contradict each other.
    fn check(&self) -> Result<(), TrainError> {
        let no = |key: &'static str, value: String, expected: &'static str| {
            Err(TrainError::Value { key: key.into(), value, expected: expected.into() })
        };
        let sizes = [(self.tokens_said(), self.batch.seq_len)];
        let ramps = self.batch.ramp.iter().map(|r| (r.tokens, r.seq_len));
        for (tokens, seq_len) in sizes.into_iter().chain(ramps) {
            if seq_len == 0 || tokens == 0 || tokens > TOKENS_MAX || tokens % seq_len != 0 {
                let value = format!("{tokens} in rows of {seq_len}");
                return no(
                    "batch.tokens",
                    value,
                    "whole rows of batch.seq_len tokens, from one row to 2^28",
                );
            }
        }
        let ModelConfig { width, heads, .. } = self.model;
        if heads == 0 || width % heads != 0 {
            let value = format!("{heads} for a width of {width}");
            return no("model.heads", value, "a divisor of model.width");
        }
        if !self.batch.ramp.is_sorted_by_key(|r| r.from_tokens) {
            return no("batch.ramp", "unsorted".into(), "from_tokens ascending");
        }
        if self.data.shards.is_some() != self.data.input.is_empty() {
            return no("data", "both or neither".into(), "either `shards` or `input`");
        }
        let shares = [
            ("data.validation_share", self.data.validation_share, 0.0..=0.5),
            ("optim.min_lr_ratio", self.optim.min_lr_ratio, 0.0..=1.0),
            ("optim.lr", self.optim.lr, 0.0..=10.0),
            ("optim.beta1", self.optim.beta1, 0.0..=0.999_999),
            ("optim.beta2", self.optim.beta2, 0.0..=0.999_999_9),
            ("optim.eps", self.optim.eps, 1e-30..=1.0),
            ("optim.weight_decay", self.optim.weight_decay, 0.0..=10.0),
            ("optim.max_grad_norm", self.optim.max_grad_norm, 1e-12..=f64::MAX),
            ("model.init_std", self.model.init_std, 0.0..=100.0),
            ("samples.temperature", self.samples.temperature, 0.0..=100.0),
            ("spikes.deviations", self.spikes.deviations, 1.0..=f64::MAX),
        ];
        for (key, value, range) in shares {
            if !range.contains(&value) {
                let expected = format!("{} to {}", range.start(), range.end());
                return Err(TrainError::Value {
                    key: key.into(),
                    value: value.to_string(),
                    expected,
                });
            }
        }
        for (key, value) in [
            ("optim.steps", self.optim.steps),
            ("checkpoint.every", self.checkpoint.every),
            ("checkpoint.keep_last", self.checkpoint.keep_last as u64),
            ("spikes.window", self.spikes.window),
        ] {
            if value == 0 {
                return no(key, "0".into(), "at least 1");
            }
        }
        let samples = self.samples.tokens;
        if self.samples.every > 0 && !(1..=SAMPLE_MAX).contains(&samples) {
            return no("samples.tokens", samples.to_string(), "1 to 65536");
        }
        if self.optim.warmup_steps > self.optim.steps {
            let value = self.optim.warmup_steps.to_string();
            return no("optim.warmup_steps", value, "at most optim.steps");
        }
        Ok(())
    }
}

/// Puts `value`, in TOML's own spelling or as bare text, at a dotted key.
pub(crate) fn set(table: &mut Table, key: &str, value: &str) -> Result<(), TrainError> {
    let parsed = format!("x = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut table = table;
    for part in parts {
        let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else {
            return Err(TrainError::Key { key: key.into(), nearest: None });
        };
        table = inner;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// Lays `over` on `base`, key by key; `optional` keys need not be in `base`.
pub(crate) fn lay(
    base: &mut Table,
    over: Table,
    prefix: &str,
    optional: &[&str],
) -> Result<(), TrainError> {
    for (key, value) in over {
        let full = format!("{prefix}{key}");
        let free = matches!(full.as_str(), "data.mix");
        let known = base.contains_key(&key) || optional.contains(&full.as_str());
        if !known {
            let optional = optional.iter().filter_map(|o| o.strip_prefix(prefix));
            let names = base.keys().map(String::as_str).chain(optional);
            let nearest = nearest(&key, names).map(|name| format!("{prefix}{name}"));
            return Err(TrainError::Key { key: full, nearest });
        }
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) if !free => {
                lay(inner, over, &format!("{full}."), optional)?;
            }
            (Some(Value::Table(_)), other) if !free => {
                return Err(TrainError::value(&full, &other, "a table"));
            }
            // A whole number stands for a float.
            (Some(Value::Float(old)), Value::Integer(new)) => *old = new as f64,
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
    Ok(())
}
