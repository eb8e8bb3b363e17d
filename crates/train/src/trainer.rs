//! A run under way: its model, its data, its folder, and the parts of a step that all stages share.

use crate::config::{Precision, RunConfig, SpikePolicy};
use crate::distill::{Distill, Learnt};
use crate::dpo::{Dpo, Preferences};
use crate::error::TrainError;
use crate::extend_context::Verdict;
use crate::metrics::{FILE as METRICS, Line, Metrics, StepLine};
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::policy::Moved;
use crate::reference::Ask;
use crate::reward::{RewardConfig, RewardModel};
use crate::rollout::{Opening, Player, Rollouts};
pub use crate::settings::keep_settings;
pub(crate) use crate::settings::{keep_config, keep_run, replace, take_lock, told};
use crate::shards::{loader, open_corpus};
use crate::spikes::Spike;
use crate::state::{self, Progress, Provenance, Snapshot};
use crate::step::{Packed, Sums, accumulate};
use crate::value::Valued;
use crate::words::Words;
use crate::{adapter, init, sample, schedule, validate};
use herd_data::disk::make_folder;
use herd_data::{Batch, Corpus, Cursor, Hash, Ledger, Loader, Validation};
use herd_model::llama::{Llama, Piece, Training};
use herd_model::names::Part;
use herd_model::{Checkpoint, Config, Head, RopeScaling};
use herd_tensor::{Device, Format, Tape};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a run tells while it goes on. The caller has the clock.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The run begins, or is taken up, after this many steps.
    Begin {
        /// Steps done.
        step: u64,
        /// Tokens read.
        tokens: u64,
        /// The network.
        shape: &'a Config,
        /// The settings.
        config: &'a RunConfig,
    },
    /// The reference of `dpo` has read some of all prompts.
    Reference {
        /// So many.
        done: u64,
        /// Of so many.
        all: u64,
    },
    /// The teacher of `distill` has read some of all targets.
    Teacher {
        /// So many.
        done: u64,
        /// Of so many.
        all: u64,
    },
    /// A batch has been read; computing begins.
    Batch,
    /// A line went to the metrics.
    Line(&'a Line),
    /// A checkpoint stands at this path.
    Saved(&'a Path),
    /// A round of a stage of `extend-context` was judged.
    Judged(&'a Verdict),
}

/// What a stage needs from outside.
pub struct Inputs<'a> {
    /// The verb, for the provenance of checkpoints.
    pub stage: &'static str,
    /// The settings.
    pub config: RunConfig,
    /// The tokenizer.
    pub words: Words,
    /// The run's folder.
    pub out: &'a Path,
    /// The folder of shards; stages over prompts read none.
    pub shards: &'a Path,
    /// The reward models of the settings' judges, in their order, each with what [`RewardModel::hash`] makes of its weights.
    pub rewards: Vec<(Hash, Arc<RewardModel>)>,
    /// Where it runs.
    pub device: &'a Device,
    /// Set from outside to end the run after the step at hand, with a checkpoint.
    pub stop: &'a AtomicBool,
}

/// A run under way.
pub struct Trainer<'a> {
    /// The settings.
    pub config: RunConfig,
    pub(crate) model: Arc<Llama>,
    pub(crate) tape: Arc<Tape>,
    pub(crate) words: Words,
    pub(crate) objective: Objective,
    optimizer: Optimizer,
    /// Shards and their batches, of stages that read them.
    shards: Option<(Arc<Corpus>, Loader)>,
    progress: Progress,
    pub(crate) metrics: Metrics,
    provenance: Provenance,
    pub(crate) folder: PathBuf,
    pub(crate) checkpoints: PathBuf,
    saved: Option<u64>,
    stop: &'a AtomicBool,
    watch: &'a mut dyn FnMut(Event<'_>),
    _lock: File,
}

/// What a run learns from.
pub(crate) enum Objective {
    /// Tokens that follow.
    Tokens,
    /// Which of two answers is better, by their log-probabilities.
    Pairs(Dpo),
    /// The same, by their rewards.
    Rewards(RewardConfig),
    /// Tokens that follow, and what a teacher says of them.
    Taught(Box<Distill>),
    /// Its own answers to prompts, by what they are worth.
    Rollouts(Box<Rollouts>),
}

impl Objective {
    /// That of a run over shards.
    ///
    /// Errors: what it is measured by cannot be opened or made.
    fn over_shards(
        ask: &Ask<'_>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Objective, TrainError> {
        if let Some(reward) = &ask.config.reward {
            return Ok(Objective::Rewards(reward.clone()));
        }
        if let Some(dpo) = Dpo::open(ask, watch)? {
            return Ok(Objective::Pairs(dpo));
        }
        let distill = Distill::open(ask, watch)?;
        Ok(distill.map_or(Objective::Tokens, |distill| Objective::Taught(Box::new(distill))))
    }

    /// That of a run over prompts, taken up where `saved` has it.
    ///
    /// Errors: those of [`Rollouts::open`].
    fn over_prompts(opening: &Opening<'_>, saved: &Progress) -> Result<Objective, TrainError> {
        let rollouts = Rollouts::open(opening, saved.rollouts.as_ref())?;
        Ok(Objective::Rollouts(Box::new(rollouts)))
    }
}

/// What is known of a batch once the gradient of its loss is summed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradient {
    /// Nats a target, or what a pair loses.
    pub loss: f64,
    /// The norm of the gradient before clipping.
    pub norm: f64,
    /// What was met of pairs.
    pub preferences: Option<Preferences>,
    /// The parts of what a teacher's loss is made of.
    pub taught: Option<Learnt>,
    /// What was met of the tokens of a policy's answers.
    pub moved: Option<Moved>,
    /// What was met of their values.
    pub valued: Option<Valued>,
}

/// Batches that are read before they are asked for.
const AHEAD: usize = 2;

impl<'a> Trainer<'a> {
    /// Begins a run in `inputs.out`, or takes up what is there.
    ///
    /// Errors: the folder holds a run of another config, or is in use; data or a checkpoint is
    /// damaged or of another tokenizer; the shape is impossible.
    pub fn open(
        inputs: Inputs<'a>,
        watch: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Trainer<'a>, TrainError> {
        let Inputs { stage, config, words, out, shards, rewards, device, stop } = inputs;
        make_folder(out).map_err(|e| TrainError::io("make", out, e))?;
        let lock = take_lock(out)?;
        let origin = &keep_run(&config, device, out)?;
        // What a reference or a teacher says is made before the model takes its memory.
        let read = match config.rollout {
            None => {
                let (config, words) = (&config, &words);
                let corpus = &Arc::new(open_corpus(config, words, shards)?);
                let ask = Ask { config, words, corpus, device, origin, out, stop };
                Some((Arc::clone(corpus), Objective::over_shards(&ask, watch)?))
            }
            Some(_) => None,
        };
        let tape = Arc::new(Tape::default());
        let model = with_values(&config, build(&config, &words, device, &tape)?, &tape)?;
        let mut optimizer = Optimizer::new(&model, optimizer_config(&config));
        let checkpoints = out.join("checkpoints");
        make_folder(&checkpoints).map_err(|e| TrainError::io("make", &checkpoints, e))?;
        let saved = state::steps(&checkpoints)?.pop();
        let mut progress = match saved {
            Some(step) => {
                let path = state::step_folder(&checkpoints, step);
                state::load(&path, &model, &mut optimizer)?
            }
            None => Progress::NEW,
        };
        let opening = Opening { config: &config, words: &words, device, out, rewards: &rewards };
        let (shards, objective) = match read {
            Some((corpus, objective)) => {
                let loader = loader(&config, &corpus, &words, progress.cursor.take())?;
                progress.cursor = Some(loader.cursor().clone());
                (Some((corpus, loader)), objective)
            }
            None => (None, Objective::over_prompts(&opening, &progress)?),
        };
        let data = match (&shards, &objective) {
            (_, Objective::Rollouts(rollouts)) => rollouts.hash(),
            (Some((corpus, _)), _) => corpus.hash(),
            (None, _) => unreachable!("all other stages read shards"),
        };
        let metrics = Metrics::open(&out.join(METRICS), progress.metrics_bytes)?;
        let provenance = provenance(stage, progress.step, &config, out, data, device);
        let Progress { step, tokens, .. } = progress;
        watch(Event::Begin { step, tokens, shape: model.config(), config: &config });
        Ok(Trainer {
            config,
            model: Arc::new(model),
            tape,
            words,
            objective,
            optimizer,
            shards: shards.map(|(corpus, loader)| (corpus, loader.ahead(AHEAD))),
            progress,
            metrics,
            provenance,
            folder: out.to_owned(),
            checkpoints,
            saved,
            stop,
            watch,
            _lock: lock,
        })
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.progress.step
    }

    /// What packing did with the documents so far, where it reads shards.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.progress.cursor.as_ref().map(Cursor::ledger)
    }

    /// Rows of prompts that are left out, by the reason, where it answers such.
    pub fn dropped_prompts(&self) -> Option<&std::collections::BTreeMap<String, u64>> {
        match &self.objective {
            Objective::Rollouts(rollouts) => Some(rollouts.dropped()),
            Objective::Tokens | Objective::Pairs(_) => None,
            Objective::Rewards(_) | Objective::Taught(_) => None,
        }
    }

    /// The shards that it reads. Panics in stages over prompts.
    pub(crate) fn corpus(&self) -> &Arc<Corpus> {
        let (corpus, _) = self.shards.as_ref().expect("a stage over prompts asks for no shards");
        corpus
    }

    /// Whether steps are left to do and nobody asked to stop.
    pub fn goes_on(&self) -> bool {
        self.progress.step < self.config.optim.steps && !self.stop.load(Ordering::Relaxed)
    }

    /// The batch of the next step; `None` when every source was read as often as it may.
    ///
    /// Errors: a shard cannot be read, or no token of the batch counts.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, TrainError> {
        let batch = match (&mut self.objective, &mut self.shards) {
            (Objective::Rollouts(_), _) => return self.answers(),
            (_, Some((_, loader))) => loader.next_batch()?,
            (_, None) => unreachable!("all other stages read shards"),
        };
        if batch.as_ref().is_some_and(|batch| batch.weight_t.iter().all(|w| *w == 0.0)) {
            return Err(TrainError::NothingLearnt { step: self.progress.step + 1 });
        }
        if let (Objective::Taught(distill), Some(batch)) = (&mut self.objective, &batch) {
            distill.prepare(batch)?;
        }
        (self.watch)(Event::Batch);
        Ok(batch)
    }

    /// The answers of the next step; a line tells of those that are new.
    fn answers(&mut self) -> Result<Option<Batch>, TrainError> {
        let Trainer { objective, config, words, model, tape, progress, .. } = self;
        let Objective::Rollouts(rollouts) = objective else { return Ok(None) };
        let player = Player { config, words, model, tape, step: progress.step };
        let Some((batch, met)) = rollouts.batch(player)? else { return Ok(None) };
        if let Some(met) = met {
            self.write(&Line::Rollouts(met))?;
        }
        (self.watch)(Event::Batch);
        Ok(Some(batch))
    }

    /// The policy as it is.
    pub(crate) fn player(&self) -> Player<'_> {
        let Trainer { config, words, model, tape, progress, .. } = self;
        Player { config, words, model, tape, step: progress.step }
    }

    /// Sums the gradient of a batch into the model's parameters.
    pub fn gradient(&mut self, batch: &Batch) -> Gradient {
        let rows = (self.config.batch.micro_tokens / batch.seq_len).clamp(1, batch.rows);
        let packed = Packed::of(batch, self.config.data.document_mask);
        let (mut preferences, mut taught, mut moved, mut valued) = (None, None, None, None);
        let loss = match &self.objective {
            Objective::Tokens => self.token_gradient(batch, &packed, rows).loss(),
            Objective::Pairs(dpo) => {
                let sums = dpo.gradient(self, batch, &packed, rows);
                preferences = Some(sums.preferences());
                sums.loss()
            }
            Objective::Rewards(reward) => {
                let sums = reward.gradient(self, batch, &packed, rows);
                preferences = Some(sums.preferences());
                sums.loss()
            }
            Objective::Taught(distill) => {
                let sums = distill.gradient(self, batch, &packed, rows);
                taught = Some(sums.learnt());
                sums.loss(&distill.config)
            }
            Objective::Rollouts(rollouts) => {
                let sums = rollouts.gradient(self, batch, &packed, rows);
                moved = Some(sums.moved(rollouts.on_policy()));
                valued = sums.valued();
                sums.loss()
            }
        };
        let norm = self.optimizer.grad_norm(&self.model);
        Gradient { loss, norm, preferences, taught, moved, valued }
    }

    /// The same of the tokens that follow, `rows` rows at a time.
    fn token_gradient(&self, batch: &Batch, packed: &Packed, rows: usize) -> Sums {
        let weights: f64 = batch.weight_t.iter().map(|w| f64::from(*w)).sum();
        let scale = (1.0 / weights) as f32;
        let mut sums = Sums::default();
        for first in (0..batch.rows).step_by(rows) {
            let micro = packed.rows(batch, first, rows.min(batch.rows - first));
            accumulate(&self.model, &self.tape, &micro.borrow(), scale, &mut sums);
        }
        sums
    }

    /// Whether the loss leapt, or a number is none. A loss that did neither joins the running mean.
    pub fn judge(&mut self, gradient: &Gradient) -> Option<Spike> {
        let Gradient { loss, norm, .. } = *gradient;
        match &self.objective {
            Objective::Rollouts(_) => self.progress.watch.judge_numbers(loss, norm),
            Objective::Tokens
            | Objective::Pairs(_)
            | Objective::Rewards(_)
            | Objective::Taught(_) => self.progress.watch.judge(loss, norm, &self.config.spikes),
        }
    }

    /// Answers a spike by the policy: writes it down, or goes back to the last checkpoint and
    /// leaves out the batches since. Says whether the step may be made.
    ///
    /// Errors: the run ends, which is written down too: what leapt is no number and the policy is
    /// to record, or it went back as often as it may.
    pub fn answer(&mut self, spike: Spike, batch: &Batch) -> Result<bool, TrainError> {
        let step = self.progress.step + 1;
        let (what, value) = spike.value();
        let rewinds = self.progress.rewinds;
        let policy = self.config.spikes.policy;
        let end = match policy {
            SpikePolicy::Record if value.is_finite() => None,
            SpikePolicy::Record => Some(TrainError::NotFinite { step, what: what.into(), value }),
            SpikePolicy::Rewind if rewinds < self.config.spikes.rewinds_max => None,
            SpikePolicy::Rewind => Some(TrainError::Spikes { step, what, value, rewinds }),
        };
        let action = match policy {
            _ if end.is_some() => "ended the run".to_owned(),
            SpikePolicy::Record => "recorded".to_owned(),
            SpikePolicy::Rewind => {
                self.rewind()?;
                format!("rewound to {}", self.progress.step)
            }
        };
        let rows = match &self.objective {
            Objective::Rollouts(rollouts) => rollouts.origins(batch),
            Objective::Tokens
            | Objective::Pairs(_)
            | Objective::Rewards(_)
            | Objective::Taught(_) => {
                let rows = batch.origins(self.corpus())?;
                rows.iter().map(|(source, row)| format!("{source} {row:?}")).collect()
            }
        };
        let loss = Some(spike.loss).filter(|loss| loss.is_finite());
        let (what, expected) = (spike.what, spike.expected);
        self.write(&Line::Spike { step, what, loss, expected, rows, action })?;
        end.map_or(Ok(policy == SpikePolicy::Record), Err)
    }

    /// Takes up the last checkpoint again, or the first weights, but not its place in the data.
    /// The lines of the steps since stay in the metrics, with the spike that took them back.
    fn rewind(&mut self) -> Result<(), TrainError> {
        for named in self.model.params() {
            named.param.clear_gradient();
        }
        let rewinds = self.progress.rewinds + 1;
        match self.saved {
            Some(step) => {
                let path = state::step_folder(&self.checkpoints, step);
                self.progress = state::load(&path, &self.model, &mut self.optimizer)?;
            }
            None => {
                first_masters(&self.config, &self.model)?;
                self.optimizer = Optimizer::new(&self.model, self.optimizer.config);
                let Progress { cursor, .. } = self.progress.clone();
                self.progress = Progress { cursor, ..Progress::NEW };
            }
        }
        self.progress.rewinds = rewinds;
        if let Objective::Rollouts(rollouts) = &mut self.objective {
            rollouts.forget();
        }
        Ok(())
    }

    /// Makes the step at the learning rate of the schedule. Panics if the gradient is no number.
    pub fn update(&mut self, gradient: &Gradient, batch: &Batch) -> Result<(), TrainError> {
        let step = self.progress.step + 1;
        let Gradient { loss, norm: grad_norm, preferences, taught, moved, valued } = *gradient;
        let lr = schedule::lr(&self.config.optim, step);
        self.optimizer.step(&self.model, lr, grad_norm);
        self.progress.step = step;
        self.progress.tokens += (batch.rows * batch.seq_len) as u64;
        self.progress.cursor = self.shards.as_ref().map(|(_, loader)| loader.cursor().clone());
        if let Objective::Rollouts(rollouts) = &self.objective {
            self.progress.rollouts = Some(rollouts.place());
        }
        let (tokens, seq_len) = (self.progress.tokens, batch.seq_len);
        self.write(&Line::Step(StepLine {
            step,
            tokens,
            loss,
            grad_norm,
            lr,
            seq_len,
            preferences,
            taught,
            moved,
            valued,
        }))
    }

    /// Measures held-out text if it is time to. A failure is written down and ends nothing.
    pub fn validate_when_due(&mut self) -> Result<(), TrainError> {
        if !self.is_due(self.config.validation.every) {
            return Ok(());
        }
        let step = self.progress.step;
        let line = guarded(step, "validation", || validate::line(self));
        line.map_or(Ok(()), |line| self.write(&line))
    }

    /// Measures what is held out before the first step of a run that has done none.
    pub(crate) fn validate_first(&mut self) -> Result<(), TrainError> {
        if self.progress.step > 0 {
            return Ok(());
        }
        let line = guarded(0, "validation", || validate::line(self));
        line.map_or(Ok(()), |line| self.write(&line))
    }

    /// Lets the model write if it is time to. A failure is written down and ends nothing.
    pub fn sample_when_due(&mut self) -> Result<(), TrainError> {
        let SampleDue { every, prompts } = SampleDue::of(&self.config);
        if every == 0 || !self.is_due(every) {
            return Ok(());
        }
        let step = self.progress.step;
        for (i, prompt) in prompts.into_iter().enumerate() {
            let line = guarded(step, "sample", || {
                let text = sample::write(self, &prompt, i as u64)?;
                Ok(Some(Line::Sample { step, prompt: prompt.clone(), text }))
            });
            line.map_or(Ok(()), |line| self.write(&line))?;
        }
        Ok(())
    }

    /// Writes a checkpoint if it is time to, and removes those that need not be kept.
    pub fn save_when_due(&mut self) -> Result<(), TrainError> {
        let due = self.is_due(self.config.checkpoint.every) || !self.goes_on();
        if due { self.save_done() } else { Ok(()) }
    }

    /// Writes a checkpoint of the steps that are done, unless it is there.
    pub(crate) fn save_done(&mut self) -> Result<(), TrainError> {
        let step = self.progress.step;
        if step > 0 && self.saved != Some(step) { self.save() } else { Ok(()) }
    }

    /// Writes the checkpoint of a run that has done no step, unless it is there.
    pub(crate) fn save_first(&mut self) -> Result<(), TrainError> {
        if self.saved.is_none() { self.save() } else { Ok(()) }
    }

    /// The batches of the run from its first step on.
    pub(crate) fn first_loader(&self) -> Result<Loader, TrainError> {
        loader(&self.config, self.corpus(), &self.words, None)
    }

    /// The held-out text, as each measurement reads it.
    pub(crate) fn held_out(&self) -> Result<Validation, TrainError> {
        validate::held_out(&self.config, self.corpus(), self.words.ends)
    }

    /// The run's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.checkpoints.parent().expect("checkpoints lie in the run's folder")
    }

    fn save(&mut self) -> Result<(), TrainError> {
        if let Some((name, value)) = state::no_number(&self.model, &self.optimizer) {
            let (step, what) = (self.progress.step, format!("checkpoint's {name}"));
            return Err(TrainError::NotFinite { step, what, value });
        }
        self.metrics.sync()?;
        if let Objective::Rollouts(rollouts) = &mut self.objective {
            rollouts.keep()?;
        }
        self.progress.metrics_bytes = self.metrics.bytes();
        let step = self.progress.step;
        let path = state::step_folder(&self.checkpoints, step);
        let base = self.provenance.parent.as_deref().unwrap_or_default();
        let snapshot = Snapshot {
            model: &self.model,
            adapter: self.config.model.lora.as_ref().map(|lora| (lora, base)),
            format: format(&self.config),
            optimizer: &self.optimizer,
            progress: &self.progress,
            words: &self.words,
            provenance: &Provenance { step, ..self.provenance.clone() },
        };
        state::save(&path, &snapshot)?;
        self.saved = Some(step);
        (self.watch)(Event::Saved(&path));
        for old in state::outlived(&self.config.checkpoint, &state::steps(&self.checkpoints)?) {
            state::remove(&self.checkpoints, old)?;
        }
        Ok(())
    }

    /// The checkpoint written last.
    pub fn last_checkpoint(&self) -> Option<PathBuf> {
        self.saved.map(|step| state::step_folder(&self.checkpoints, step))
    }

    fn is_due(&self, every: u64) -> bool {
        let step = self.progress.step;
        step == self.config.optim.steps || (every > 0 && step.is_multiple_of(every))
    }

    pub(crate) fn write(&mut self, line: &Line) -> Result<(), TrainError> {
        self.metrics.write(line)?;
        (self.watch)(Event::Line(line));
        Ok(())
    }
}

/// Where the checkpoints of a run come from.
fn provenance(
    stage: &str,
    step: u64,
    config: &RunConfig,
    out: &Path,
    data: Hash,
    device: &Device,
) -> Provenance {
    let config = told(config, out);
    Provenance {
        stage: stage.to_owned(),
        step,
        parent: config.model.init.as_ref().map(|path| path.display().to_string()),
        data: data.to_string(),
        config: config.write(),
        class: device.class().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

struct SampleDue {
    every: u64,
    prompts: Vec<String>,
}

impl SampleDue {
    fn of(config: &RunConfig) -> SampleDue {
        SampleDue { every: config.samples.every, prompts: config.samples.prompts.clone() }
    }
}

/// What `f` gives, or the line that says why it failed; a panic is a failure too.
pub(crate) fn guarded(
    step: u64,
    what: &str,
    f: impl FnOnce() -> Result<Option<Line>, TrainError>,
) -> Option<Line> {
    let failure = |error: String| Some(Line::Failure { step, what: what.to_owned(), error });
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => failure(error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            failure(text.unwrap_or_else(|| "a panic without words".into()))
        }
    }
}

fn format(config: &RunConfig) -> Format {
    match config.precision.weights {
        Precision::Bf16 => Format::BF16,
        Precision::F32 => Format::F32,
    }
}

fn optimizer_config(config: &RunConfig) -> OptimizerConfig {
    let optim = &config.optim;
    OptimizerConfig {
        beta1: optim.beta1,
        beta2: optim.beta2,
        eps: optim.eps,
        weight_decay: optim.weight_decay,
        max_grad_norm: optim.max_grad_norm,
    }
}

/// The shape of the network: that of the checkpoint it starts from, or the config's own.
fn shape(config: &RunConfig, words: &Words) -> Result<Config, TrainError> {
    let model = &config.model;
    let ramps = config.batch.ramp.iter().map(|ramp| ramp.seq_len);
    let context = ramps.fold(config.batch.seq_len, usize::max);
    let shape = Config {
        layers: model.layers,
        width: model.width,
        heads: model.heads,
        kv_heads: model.kv_heads,
        head_dim: model.width / model.heads.max(1),
        ffn_width: model.ffn_width,
        vocab: words.tokenizer.vocab_size(),
        norm_eps: model.norm_eps as f32,
        rope_theta: model.rope_theta,
        rope_scaling: RopeScaling::None,
        context,
        tied: model.tied,
        head: Head::Language,
    };
    shape.validate()?;
    Ok(shape)
}

/// The shape of the network that a run trains.
///
/// Errors: the shape is impossible, or the checkpoint that it starts from cannot be opened.
pub fn network(config: &RunConfig, words: &Words) -> Result<Config, TrainError> {
    match &config.model.init {
        None => shape(config, words),
        Some(path) => Ok(open_init(config, path)?.1),
    }
}

/// The checkpoint that a run starts from, and the shape that it trains: `reward` puts a head that scores in the place
/// of a language model's.
///
/// Errors: it cannot be opened, or is a reward model where a language model is wanted.
fn open_init(config: &RunConfig, path: &Path) -> Result<(Checkpoint, Config), TrainError> {
    let (checkpoint, head) = match config.reward {
        None => (Checkpoint::open(path)?, Head::Language),
        Some(_) => (Checkpoint::open_any(path)?, Head::Score),
    };
    let shape = Config { head, ..checkpoint.config.clone() };
    Ok((checkpoint, shape))
}

/// The first numbers of a part: the checkpoint's, but for a head that it has not.
fn first_numbers(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    part: Part,
) -> Result<Vec<f32>, TrainError> {
    match &config.reward {
        Some(reward) if part == Part::Score && checkpoint.config.head == Head::Language => {
            Ok(reward.head.numbers(&checkpoint.config, config.seed))
        }
        Some(_) | None => state::first_numbers(checkpoint, part),
    }
}

pub(crate) fn build(
    config: &RunConfig,
    words: &Words,
    device: &Device,
    tape: &Arc<Tape>,
) -> Result<Llama, TrainError> {
    let recompute = config.precision.recompute;
    let training = Training { tape: Arc::clone(tape), format: format(config), recompute };
    match &config.model.init {
        None => {
            let shape = shape(config, words)?;
            let (std, seed) = (config.model.init_std, config.seed);
            Llama::trainable(&shape, device, shape.context, &training, |part| {
                Ok(init::numbers(&shape, part, std, seed))
            })
        }
        Some(path) => {
            let (mut checkpoint, mut shape) = open_init(config, path)?;
            shape.rope_theta = config.model.init_rope_theta.unwrap_or(shape.rope_theta);
            shape.context = shape.context.max(config.batch.seq_len);
            if let Some(lora) = &config.model.lora {
                let scores = config.reward.is_some();
                let head = scores.then(|| first_numbers(config, &checkpoint, Part::Score));
                let head = head.transpose()?;
                checkpoint.config = shape;
                return adapter::build(config, lora, &checkpoint, device, &training, head);
            }
            Llama::trainable(&shape, device, shape.context, &training, |part| {
                first_numbers(config, &checkpoint, part)
            })
        }
    }
}

/// The same with a value head, where the run teaches one.
fn with_values(
    config: &RunConfig,
    mut model: Llama,
    tape: &Arc<Tape>,
) -> Result<Llama, TrainError> {
    if let Some(ppo) = &config.ppo {
        let numbers = ppo.first_values(model.config(), config.seed)?;
        model.add_score(tape, numbers);
    }
    Ok(model)
}

/// Sets the masters to those that the run began with.
fn first_masters(config: &RunConfig, model: &Llama) -> Result<(), TrainError> {
    let init = config.model.init.as_ref();
    let checkpoint =
        init.map(|path| Ok::<_, TrainError>(open_init(config, path)?.0)).transpose()?;
    for named in model.params() {
        if let (Part::Score, Some(ppo)) = (named.part, &config.ppo) {
            named.param.set_master(&ppo.first_values(model.config(), config.seed)?);
            continue;
        }
        let len = named.param.rows() * named.param.cols();
        let numbers = match (&checkpoint, &config.model.lora) {
            (_, Some(lora)) if named.piece != Piece::Whole => {
                init::lora(model.config(), named.part, named.piece, lora.rank, len, config.seed)
            }
            (None, _) => {
                init::numbers(model.config(), named.part, config.model.init_std, config.seed)
            }
            (Some(checkpoint), _) => first_numbers(config, checkpoint, named.part)?,
        };
        named.param.set_master(&numbers);
    }
    Ok(())
}
