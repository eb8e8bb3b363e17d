//! The small runs of a sweep, made by the verbs that a user would take, and what each came to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use herd_data::Manifest;
use herd_data::disk::make_folder;
use herd_eval::item::{Drawn, items};
use herd_eval::right::right;
use herd_eval::{catalogue, suite};
use herd_model::Checkpoint;
use herd_train::config::RunConfig;
use herd_train::runs::Run;
use herd_train::scaling::forecast::Others;
use herd_train::scaling::params;
use herd_train::scaling::sweep::{Done, Planned, SweepConfig, TRIALS, TasksConfig};
use herd_train::scaling::task::Answered;
use herd_train::state::{Provenance, step_folder};
use herd_train::{TrainError, keep_settings};

use crate::console::{Console, count};
use crate::error::Error;
use crate::training;
use crate::verbs::{self, Verb, load, save, write};

/// A sweep's settings, resolved.
pub const SETTINGS: &str = "sweep.toml";
/// What other models answered.
pub const MODELS: &str = "models.json";

/// Makes the runs of a sweep in `out`, or goes on where it stopped; `None` if it was asked to stop.
pub fn run(
    config: &SweepConfig,
    out: &Path,
    machine: &[String],
    console: &Console,
) -> Result<Option<Vec<Done>>, Error> {
    make_folder(out).map_err(Error::io("make", out))?;
    keep(config, out)?;
    let shared = config.shared()?;
    let sweep = Sweep { config, shared, out, machine, console };
    if !sweep.shards()? {
        return Ok(None);
    }
    let vocab = training::words(&sweep.shared.tokenizer)?.tokenizer.vocab_size();
    let (mut runs, left) = config.plan(vocab)?;
    let before = finished(out);
    runs.sort_by_key(|run| before.iter().position(|name| *name == run.name).unwrap_or(usize::MAX));
    for left in &left {
        let (budget, params, steps) = (left.budget, count(left.params as u64), left.steps);
        console
            .note(format!("left out: {params} parameters at {budget:e}, of {steps} steps alone"));
    }
    let there = sweep.tokens()?;
    for run in &runs {
        let tokens = run.config.optim.steps * run.config.batch.tokens as u64;
        if let Some(there) = there.filter(|there| tokens > *there) {
            let (name, epochs) = (&run.name, tokens as f64 / there as f64);
            console.note(format!("{name} reads its data {epochs:.1} times: such runs bend curves"));
        }
    }
    let mut done: Vec<Done> = Vec::new();
    for (i, planned) in runs.iter().enumerate() {
        console.note(format!("[{:2} of {}] {}", i + 1, runs.len(), planned.name));
        let Some(one) = sweep.one(planned)? else { return Ok(None) };
        console.note(format!("          loss {:.4}", one.loss));
        done.push(one);
        let lines = done.iter().map(|one| serde_json::to_string(one).expect("a run serialises"));
        let text: String = lines.map(|line| line + "\n").collect();
        // Of a sweep that is done again from its folders the file never has fewer lines than before.
        let whole = fs::read_to_string(out.join(TRIALS)).unwrap_or_default();
        if !whole.starts_with(&text) {
            write(&out.join(TRIALS), text.as_bytes())?;
        }
    }
    if let Some(tasks) = config.tasks.as_ref().filter(|tasks| !tasks.models.is_empty()) {
        let Some(others) = sweep.others(tasks)? else { return Ok(None) };
        save(&out.join(MODELS), &others)?;
    }
    Ok(Some(done))
}

/// Keeps the settings. Those that only add runs take the place of the old ones.
fn keep(config: &SweepConfig, out: &Path) -> Result<(), Error> {
    let (path, text) = (out.join(SETTINGS), config.write());
    let was = fs::read_to_string(&path).ok();
    let was = was.and_then(|was| SweepConfig::parse(&was, &[], out).ok());
    match was.is_some_and(|was| config.extends(&was)) {
        true => write(&path, text.as_bytes()),
        false => Ok(keep_settings(&path, &text, out)?),
    }
}

/// The names of the runs that are told of: in a sweep that grows they stay the first.
fn finished(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join(TRIALS)).unwrap_or_default();
    let name = |line| serde_json::from_str::<Done>(line).ok().map(|one| one.name);
    text.lines().map_while(name).collect()
}

struct Sweep<'a> {
    config: &'a SweepConfig,
    shared: RunConfig,
    out: &'a Path,
    machine: &'a [String],
    console: &'a Console,
}

impl Sweep<'_> {
    /// Where the tokens of all runs are: shards that are named, or those made of the input, once.
    fn folder(&self) -> PathBuf {
        self.shared.data.shards.clone().unwrap_or_else(|| self.out.join("shards"))
    }

    /// Tokens to train on, where shards say how many they hold.
    fn tokens(&self) -> Result<Option<u64>, Error> {
        let manifest = Manifest::find(&self.folder())?;
        let of =
            |manifest: Manifest| manifest.sources.iter().map(|of| of.train.counts.tokens).sum();
        Ok(manifest.map(of))
    }

    /// Sees to it that there are shards with held-out text; whether there are, or it was asked to stop.
    fn shards(&self) -> Result<bool, Error> {
        let folder = self.folder();
        if self.shared.data.shards.is_none() {
            let share = self.shared.data.validation_share.to_string();
            let (words, to) =
                (self.shared.tokenizer.display().to_string(), folder.display().to_string());
            let head = ["data", "tokenize", "--tokenizer", &words, "--validation", &share];
            let inputs = self.shared.data.input.iter().map(|path| path.display().to_string());
            let mut args: Vec<String> = head.map(str::to_owned).to_vec();
            args.extend(["-o".to_owned(), to, "--input".to_owned()]);
            args.extend(inputs);
            let verb = Verb { early: true, ..Verb::new(args, folder.join("manifest.json")) };
            if !verb.run(self.machine, self.console)? {
                return Ok(false);
            }
        }
        let manifest = Manifest::find(&folder)?;
        let held = |manifest: &Manifest| {
            manifest.sources.iter().map(|source| source.validation.counts.documents).sum::<u64>()
        };
        match manifest {
            Some(manifest) if !manifest.complete => Ok(false),
            Some(manifest) if held(&manifest) == 0 => {
                let value = format!("no held-out text in {}", folder.display());
                let expected =
                    "a validation_share above 0: the loss of held-out text is what is fitted";
                let (key, expected) = ("run.data".to_owned(), expected.to_owned());
                Err(TrainError::Value { key, value, expected }.into())
            }
            Some(_) | None => Ok(true),
        }
    }

    /// Makes a run, or finds it made.
    fn one(&self, planned: &Planned) -> Result<Option<Done>, Error> {
        let mut config = planned.config.clone();
        // Paths of a sweep are absolute; shards of its own lie beside the settings.
        config.data.shards.get_or_insert_with(|| PathBuf::from("../shards"));
        config.data.input.clear();
        let settings = self.out.join(format!("configs/{}.toml", planned.name));
        write(&settings, config.write().as_bytes())?;
        let folder = self.out.join("runs").join(&planned.name);
        let model = step_folder(&folder.join("checkpoints"), config.optim.steps);
        let verb = Verb::with_settings("pretrain", &settings, &folder, model.clone());
        if !verb.run(self.machine, self.console)? {
            return Ok(None);
        }
        let tasks = match &self.config.tasks {
            None => BTreeMap::new(),
            Some(tasks) => {
                let to = folder.join("eval");
                match answers(tasks, &model.display().to_string(), &to, self.machine, self.console)?
                {
                    Some(tasks) => tasks,
                    None => return Ok(None),
                }
            }
        };
        let made = Made::read(&folder)?;
        Ok(Some(Done {
            name: planned.name.clone(),
            mix: planned.mix.clone(),
            budget: planned.budget,
            params: planned.params,
            tokens: made.tokens,
            flops: 6.0 * planned.params * made.tokens,
            steps: config.optim.steps,
            batch_tokens: config.batch.tokens,
            lr: config.optim.lr,
            layers: config.model.layers,
            width: config.model.width,
            loss: made.loss,
            bpb: made.bpb,
            by_source: made.by_source,
            tasks,
            data: made.data,
            metrics: verbs::hash(&folder.join("metrics.jsonl"))?,
        }))
    }

    /// What the other models answer.
    fn others(&self, tasks: &TasksConfig) -> Result<Option<Others>, Error> {
        let mut others = Others::new();
        for (i, model) in tasks.models.iter().enumerate() {
            self.console.note(format!("[{:2} of {}] {model}", i + 1, tasks.models.len()));
            let to = self.out.join(format!("models/{i}"));
            let Some(answered) = answers(tasks, model, &to, self.machine, self.console)? else {
                return Ok(None);
            };
            for (name, answered) in answered {
                others.entry(name).or_default().push(answered);
            }
        }
        Ok(Some(others))
    }
}

/// What a finished run tells of itself.
pub struct Made {
    /// N.
    pub params: f64,
    /// D.
    pub tokens: f64,
    /// Nats a token of held-out text after the last step.
    pub loss: f64,
    bpb: f64,
    by_source: BTreeMap<String, f64>,
    /// The hash of its shards.
    pub data: String,
    /// Its last checkpoint.
    pub model: PathBuf,
    /// Its settings.
    pub config: RunConfig,
}

impl Made {
    /// Reads a run's folder. Errors: it is not at its end, or measured nothing there.
    pub fn read(folder: &Path) -> Result<Made, Error> {
        let run = Run::open(folder)?;
        let no = |value: String, expected: &str| {
            let (key, expected) = (folder.display().to_string(), expected.to_owned());
            Error::from(TrainError::Value { key, value, expected })
        };
        let config = RunConfig::read(&folder.join("config.toml"), &[])?;
        let steps = config.optim.steps;
        let last = run.steps.last().filter(|last| last.step == steps);
        let Some(last) = last else {
            let done = run.steps.last().map_or(0, |last| last.step);
            return Err(no(format!("a run of {done} steps"), &format!("all {steps} steps")));
        };
        let Some(held) = run.validations.last().filter(|held| held.step == steps) else {
            return Err(no("a run that measured no held-out text".to_owned(), "one that did"));
        };
        let model = step_folder(&folder.join("checkpoints"), steps);
        let path = model.join("herd.json");
        let Some(made): Option<Provenance> = load(&path)? else {
            return Err(no("a run without its last checkpoint".to_owned(), "one with it"));
        };
        let shape = Checkpoint::open(&model)?.config;
        let own = herd_train::config::ModelConfig {
            layers: shape.layers,
            width: shape.width,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            ffn_width: shape.ffn_width,
            tied: shape.tied,
            ..config.model.clone()
        };
        Ok(Made {
            params: params(&own, shape.vocab),
            tokens: last.tokens as f64,
            loss: held.loss,
            bpb: held.bpb,
            by_source: held.by_source.iter().map(|(name, of)| (name.clone(), of.bpb)).collect(),
            data: made.data,
            model,
            config,
        })
    }
}

/// What a model answers to the benchmarks of a sweep; `None` if it was asked to stop.
pub fn answers(
    tasks: &TasksConfig,
    model: &str,
    out: &Path,
    machine: &[String],
    console: &Console,
) -> Result<Option<BTreeMap<String, Answered>>, Error> {
    let (names, data) = (tasks.names.join(","), tasks.data.display().to_string());
    let to = out.display().to_string();
    let line = ["eval", "run", "-m", model, "--tasks", &names, "--data", &data, "--out", &to];
    let mut args: Vec<String> = line.map(str::to_owned).to_vec();
    for (flag, number) in [("--limit", tasks.limit), ("--num-fewshot", tasks.num_fewshot)] {
        args.extend(number.iter().flat_map(|n| [flag.to_owned(), n.to_string()]));
    }
    if !Verb::new(args, out.join("results.json")).run(machine, console)? {
        return Ok(None);
    }
    let mut answered = BTreeMap::new();
    for name in &tasks.names {
        let task = catalogue::find(name)?;
        let (rows, shots) = (task.rows(&tasks.data)?, task.shot_rows(&tasks.data)?);
        let drawn = Drawn { number: tasks.num_fewshot.unwrap_or(task.shots.number), seed: 1234 };
        let items = items(&task, &rows, shots.as_deref(), drawn, tasks.limit)?;
        let receipts = suite::receipts(&out.join("samples").join(format!("{}.jsonl", task.name)))?;
        let Some(right) = right(&items, &receipts) else {
            let (key, value) = ("tasks.names".to_owned(), name.clone());
            let expected =
                "a task of choices: others have no likelihood of right answers".to_owned();
            return Err(TrainError::Value { key, value, expected }.into());
        };
        let scores = receipts.iter().filter_map(|receipt| receipt.scores.get(&task.metric));
        let acc = scores.sum::<f64>() / right.n as f64;
        let (nll_per_char, chance, n) = (right.nll_per_char, right.chance, right.n);
        answered.insert(task.name.clone(), Answered { nll_per_char, acc, chance, n });
    }
    Ok(Some(answered))
}
