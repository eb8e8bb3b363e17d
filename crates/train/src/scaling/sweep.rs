//! Which small runs a sweep makes: budgets times sizes, for each mix of data; and what each came to.
//!
//! ```text
//! steps = C / (6 N batch)        a cosine as long as the run; peak rate by N, batch by C
//! ```

use crate::config::{Decay, ModelConfig, RunConfig, lay, set};
use crate::error::TrainError;
use crate::presets;
use crate::scaling::task::Answered;
use crate::scaling::{Point, Trial, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The settings of a sweep: a file of TOML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Operations of a run, 6 N D, ascending.
    pub budgets: Vec<f64>,
    /// Parameters of the models, aimed at; empty: `sizes_per_budget` about `tokens_per_param`.
    pub sizes: Vec<f64>,
    /// Sizes of each budget where `sizes` is empty, a factor of two apart.
    pub sizes_per_budget: usize,
    /// Tokens a parameter of the size in the middle, where `sizes` is empty.
    pub tokens_per_param: f64,
    /// Peak rates: pairs of parameters and rate, ascending; between them a line of logarithms.
    pub lr: Vec<[f64; 2]>,
    /// Tokens a step: pairs of operations from which on, and tokens; before the first, `run.batch.tokens`.
    pub batch: Vec<[f64; 2]>,
    /// Steps of warm-up, as a share of all.
    pub warmup: f64,
    /// Runs of fewer steps are left out.
    pub steps_min: u64,
    /// Mixes of the sources to choose from; none: that of `run.data.mix`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub mix: Vec<MixConfig>,
    /// Benchmarks that each model answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<TasksConfig>,
    /// What all runs share: the settings of `herd pretrain`, of which model, mix, rate, batch and steps are set by the sweep.
    pub run: Table,
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixConfig {
    /// Its name.
    pub name: String,
    /// Weight of each source.
    pub weights: BTreeMap<String, f64>,
}

/// Benchmarks, as `herd eval run` asks them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TasksConfig {
    /// Names of tasks of choices, or their files.
    pub names: Vec<String>,
    /// The folder of their rows.
    pub data: PathBuf,
    /// Items of each at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Examples before a question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Other models, for the second step alone: files or folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

/// Keys that a file may have.
const OPTIONAL: [&str; 4] = ["mix", "tasks", "run", "budgets"];

/// A run of the sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The name of its folder.
    pub name: String,
    /// The mix, if there are several.
    pub mix: Option<String>,
    /// The budget that it belongs to.
    pub budget: f64,
    /// Its N.
    pub params: f64,
    /// Its settings.
    pub config: RunConfig,
}

/// A run that a sweep leaves out.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOut {
    /// Its budget.
    pub budget: f64,
    /// Its N.
    pub params: f64,
    /// Steps that it would have.
    pub steps: u64,
}

/// A finished run: a line of `trials.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Done {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<String>,
    pub budget: f64,
    pub params: f64,
    pub tokens: f64,
    /// 6 N D.
    pub flops: f64,
    pub steps: u64,
    pub batch_tokens: usize,
    pub lr: f64,
    pub layers: usize,
    pub width: usize,
    /// Nats a token of held-out text, after the last step.
    pub loss: f64,
    pub bpb: f64,
    /// Bits a byte by source.
    pub by_source: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, Answered>,
    /// The hash of the shards.
    pub data: String,
    /// sha256 of the run's metrics.jsonl.
    pub metrics: String,
}

impl Done {
    /// As IsoFLOP curves see it.
    pub fn trial(&self) -> Trial {
        Trial { flops: self.budget, params: self.params, loss: self.loss }
    }

    /// As the law of the loss sees it.
    pub fn point(&self) -> Point {
        Point { params: self.params, tokens: self.tokens, loss: self.loss }
    }
}

impl SweepConfig {
    /// What stands where a file says nothing.
    fn base() -> SweepConfig {
        SweepConfig {
            budgets: vec![],
            sizes: vec![],
            sizes_per_budget: 5,
            tokens_per_param: 20.0,
            // To 1e7 as `herd pretrain --depth` has it; from 4e7 on the paper's 4e-4 to 2e-4.
            lr: vec![[1e5, 7e-3], [1e6, 4e-3], [1e7, 2.5e-3], [4e7, 4e-4], [1.6e10, 2e-4]],
            batch: vec![],
            warmup: 0.1,
            steps_min: 100,
            mix: vec![],
            tasks: None,
            run: Table::new(),
        }
    }

    /// Reads a file and the `--set` overrides over it; paths in the file are relative to it, and are made absolute.
    ///
    /// Errors: the file cannot be read, is no TOML, has a key that does not exist, or a value out of bounds.
    pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<SweepConfig, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
        let whole = std::path::absolute(path).map_err(|e| TrainError::io("find", path, e))?;
        let folder = whole.parent().unwrap_or(Path::new("/"));
        SweepConfig::parse(&text, overrides, folder)
            .map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })
    }

    /// The same of a text, whose paths are relative to a folder.
    pub fn parse(
        text: &str,
        overrides: &[(String, String)],
        folder: &Path,
    ) -> Result<SweepConfig, TrainError> {
        let wrong = |e: toml::de::Error| TrainError::Toml { source: Box::new(e) };
        let mut given: Table = text.parse().map_err(wrong)?;
        for (key, value) in overrides {
            set(&mut given, key, value)?;
        }
        let run = match given.remove("run") {
            None => Table::new(),
            Some(Value::Table(run)) => run,
            Some(other) => return Err(TrainError::value("run", &other, "a table")),
        };
        let mut table = Table::try_from(SweepConfig::base()).expect("a config is a table");
        lay(&mut table, given, "", &OPTIONAL)?;
        table.insert("run".to_owned(), Value::Table(run));
        whole_as_float(&mut table);
        let mut config: SweepConfig = table.try_into().map_err(wrong)?;
        if let Some(tasks) = &mut config.tasks {
            tasks.data = folder.join(&tasks.data);
        }
        config.check()?;
        let run = config.shared()?.relative_to(folder);
        config.run = Table::try_from(&run).expect("a config is a table");
        Ok(config)
    }

    /// The text that gives this again.
    pub fn write(&self) -> String {
        toml::to_string(self).expect("a config is a table")
    }

    /// Whether it is the other one with more budgets, sizes or mixes, so that each run of that one is a run of this one.
    pub fn extends(&self, other: &SweepConfig) -> bool {
        fn within<T: PartialEq>(fewer: &[T], more: &[T]) -> bool {
            fewer.is_empty() == more.is_empty() && fewer.iter().all(|one| more.contains(one))
        }
        let SweepConfig { budgets, sizes, mix, .. } = other.clone();
        let more = within(&budgets, &self.budgets) && within(&sizes, &self.sizes);
        more && within(&mix, &self.mix)
            && SweepConfig { budgets, sizes, mix, ..self.clone() } == *other
    }

    /// What all runs share.
    ///
    /// Errors: it is no run's settings.
    pub fn shared(&self) -> Result<RunConfig, TrainError> {
        let text = toml::to_string(&self.run).expect("a table is TOML");
        let still = |mut base: RunConfig| {
            // Nothing but the loss at the end is asked of a run of a sweep.
            (base.samples.every, base.validation.every, base.checkpoint.keep_last) = (0, 0, 1);
            base
        };
        RunConfig::parse_over(&text, &[], still)
    }

    fn check(&self) -> Result<(), TrainError> {
        let no =
            |key: &str, value: String, expected: &str| Err(TrainError::no(key, value, expected));
        let above = |numbers: &[f64]| numbers.iter().all(|x| x.is_finite() && *x > 0.0);
        let rising = |numbers: &[f64]| numbers.is_sorted_by(|a, b| a < b);
        for (key, numbers) in [("budgets", &self.budgets), ("sizes", &self.sizes)] {
            if !above(numbers) || !rising(numbers) {
                return no(key, format!("{numbers:?}"), "numbers above zero, ascending");
            }
        }
        if self.budgets.is_empty() {
            return no("budgets", "[]".to_owned(), "operations of the small runs, as [1e13, 3e13]");
        }
        for (key, pairs) in [("lr", &self.lr), ("batch", &self.batch)] {
            let (at, to): (Vec<f64>, Vec<f64>) = pairs.iter().map(|[at, to]| (*at, *to)).unzip();
            let least = |x: &f64| if key == "lr" { *x > 0.0 } else { *x >= 0.0 };
            if !above(&to) || !rising(&at) || !at.iter().all(least) {
                return no(key, format!("{pairs:?}"), "pairs of numbers, the first ascending");
            }
        }
        if self.lr.is_empty() {
            return no("lr", "[]".to_owned(), "pairs of parameters and peak rate");
        }
        if !(0.0..=0.5).contains(&self.warmup) {
            return no("warmup", self.warmup.to_string(), "0 to 0.5");
        }
        if !(1..=50).contains(&self.sizes_per_budget) {
            return no("sizes_per_budget", self.sizes_per_budget.to_string(), "1 to 50");
        }
        if !above(&[self.tokens_per_param]) {
            return no("tokens_per_param", self.tokens_per_param.to_string(), "above 0");
        }
        if self.steps_min == 0 {
            return no("steps_min", "0".to_owned(), "at least 1");
        }
        let mut names = BTreeSet::new();
        for mix in &self.mix {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
            let plain = !mix.name.is_empty() && mix.name.chars().all(plain);
            if !plain || mix.name.starts_with('.') || !names.insert(&mix.name) {
                return no("mix.name", mix.name.clone(), "letters, digits, _ and ., once each");
            }
            if mix.weights.is_empty() {
                return no("mix.weights", "{}".to_owned(), "a weight for each source");
            }
        }
        Ok(())
    }

    /// The runs, the cheapest first, and those that are left out; `vocab` ids are what the tokenizer has.
    ///
    /// Errors: the shared settings are none; no run is left.
    pub fn plan(&self, vocab: usize) -> Result<(Vec<Planned>, Vec<LeftOut>), TrainError> {
        let shared = self.shared()?;
        let (mut runs, mut out) = (Vec::new(), Vec::new());
        let mixes: Vec<Option<&MixConfig>> =
            if self.mix.is_empty() { vec![None] } else { self.mix.iter().map(Some).collect() };
        for budget in &self.budgets {
            let middle = (budget / 6.0 / self.tokens_per_param).sqrt();
            let chosen = (0..self.sizes_per_budget)
                .map(|i| middle * 2f64.powf(i as f64 - (self.sizes_per_budget as f64 - 1.0) / 2.0));
            let aims: Vec<f64> =
                if self.sizes.is_empty() { chosen.collect() } else { self.sizes.clone() };
            let mut shapes: Vec<ModelConfig> = Vec::new();
            for shape in aims.iter().map(|aim| shape(*aim, vocab, &shared.model)) {
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
            for shape in shapes {
                let params = params(&shape, vocab);
                let (config, steps) = self.settings(&shared, shape, vocab, *budget);
                if steps < self.steps_min {
                    out.push(LeftOut { budget: *budget, params, steps });
                    continue;
                }
                for mix in &mixes {
                    let mut config = config.clone();
                    let ModelConfig { layers, width, .. } = config.model;
                    let mut name = format!("{budget:e}-{layers}x{width}");
                    if let Some(mix) = mix {
                        name = format!("{}-{name}", mix.name);
                        config.data.mix.clone_from(&mix.weights);
                    }
                    let mix = mix.map(|mix| mix.name.clone());
                    runs.push(Planned { name, mix, budget: *budget, params, config });
                }
            }
        }
        if runs.is_empty() {
            let value = format!("{:e} operations at most", self.budgets[self.budgets.len() - 1]);
            let expected = format!("room for {} steps", self.steps_min);
            return Err(TrainError::no("budgets", value, &expected));
        }
        Ok((runs, out))
    }

    /// The settings of a run of so many operations by the rules of the sweep, and its steps.
    pub fn settings(
        &self,
        shared: &RunConfig,
        shape: ModelConfig,
        vocab: usize,
        flops: f64,
    ) -> (RunConfig, u64) {
        let mut config = shared.clone();
        let params = params(&shape, vocab);
        let batch = self.batch.iter().rev().find(|[from, _]| *from <= flops);
        if let Some([_, tokens]) = batch {
            let rows = (tokens / config.batch.seq_len as f64).round().max(1.0);
            config.batch.tokens = rows as usize * config.batch.seq_len;
        }
        let steps = (flops / 6.0 / params / config.batch.tokens as f64).round();
        let steps = steps.clamp(0.0, 1e15) as u64;
        config.model = shape;
        config.optim.steps = steps.max(1);
        config.optim.warmup_steps = (self.warmup * steps as f64) as u64;
        config.optim.decay = Decay::Cosine;
        config.optim.lr = between(&self.lr, params);
        config.checkpoint.every = (steps / 4).max(50);
        (config, steps)
    }
}

/// Whole numbers stand for floats in lists of numbers.
fn whole_as_float(table: &mut Table) {
    fn float(value: &mut Value) {
        match value {
            Value::Integer(whole) => *value = Value::Float(*whole as f64),
            Value::Array(list) => list.iter_mut().for_each(float),
            Value::Table(table) => table.iter_mut().for_each(|(_, value)| float(value)),
            Value::Float(_) | Value::String(_) | Value::Boolean(_) | Value::Datetime(_) => {}
        }
    }
    for key in ["budgets", "sizes", "lr", "batch", "mix"] {
        table.get_mut(key).into_iter().for_each(float);
    }
}

/// A line of logarithms between points; beyond them the last one holds.
fn between(points: &[[f64; 2]], x: f64) -> f64 {
    let after = points.iter().position(|[at, _]| *at >= x);
    match after {
        Some(0) => points[0][1],
        None => points[points.len() - 1][1],
        Some(i) => {
            let ([x0, y0], [x1, y1]) = (points[i - 1], points[i]);
            let share = (x / x0).ln() / (x1 / x0).ln();
            (y0.ln() + share * (y1 / y0).ln()).exp()
        }
    }
}

/// A network of about so many parameters, norms left out: of the widths in whole 32s and all depths the one nearest to
/// `aim`, and of those the one nearest to a width of 48 a layer. Heads are 32 wide up to a width of 256, then 64, from 2048 on
/// 128; half as many hold keys where that is a whole number; SwiGLU is 8/3 of the width in whole 32s.
pub fn shape(aim: f64, vocab: usize, base: &ModelConfig) -> ModelConfig {
    let of = |layers: usize, width: usize| {
        let head = match width {
            0..=256 => 32,
            _ if width.is_multiple_of(128) && width >= 2048 => 128,
            _ if width.is_multiple_of(64) => 64,
            _ => 32,
        };
        let heads = width / head;
        let kv_heads = if heads.is_multiple_of(2) { heads / 2 } else { heads };
        let ffn_width = (8 * width / 3).next_multiple_of(32);
        ModelConfig { layers, width, heads, kv_heads, ffn_width, init: None, ..base.clone() }
    };
    let cost = |model: &ModelConfig| {
        let off = (params(model, vocab) / aim).ln().abs();
        let lean = (model.width as f64 / (48.0 * model.layers as f64)).ln().abs();
        off + 0.1 * lean
    };
    let mut best = of(1, 32);
    for width in (1..=512).map(|i| 32 * i) {
        if (vocab * width) as f64 > 2.0 * aim && width > 32 {
            break;
        }
        // Few depths are near the aim: those about the one that would meet it.
        let rest = (aim - params(&of(0, width), vocab)).max(0.0);
        let layer = params(&of(1, width), vocab) - params(&of(0, width), vocab);
        let depth = (rest / layer).clamp(1.0, 200.0);
        for layers in [depth.floor(), depth.ceil()].map(|layers| layers as usize) {
            let model = of(layers, width);
            if cost(&model) < cost(&best) {
                best = model;
            }
        }
    }
    best
}

/// The runs of a sweep that are done.
///
/// Errors: the file cannot be read, or holds something else.
pub fn read(folder: &Path) -> Result<Vec<Done>, TrainError> {
    let path = folder.join(TRIALS);
    let text = std::fs::read_to_string(&path).map_err(|e| TrainError::io("read", &path, e))?;
    let line = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| TrainError::Damaged {
            path: path.clone(),
            what: format!("line {}: {e}", i + 1),
        })
    };
    text.lines().enumerate().map(line).collect()
}

/// The file of finished runs in a sweep's folder.
pub const TRIALS: &str = "trials.jsonl";

/// What `herd pretrain` starts from where nothing is said.
pub fn preset() -> RunConfig {
    presets::tiny()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "budgets = [1e12, 4e12]\n[run]\ntokenizer = \"words\"\ndata.shards = \"shards\"\n";

    fn parse(text: &str) -> Result<SweepConfig, TrainError> {
        SweepConfig::parse(text, &[], Path::new("/at"))
    }

    fn error(text: &str) -> String {
        let error = parse(text).unwrap_err();
        std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    }

    #[test]
    fn runs_spend_their_budget_and_rates_fall_with_the_size() {
        let config = parse(&format!("batch = [[0, 1024], [2e12, 2048]]\n{FILE}")).unwrap();
        let (runs, out) = config.plan(1024).unwrap();
        // Sizes that are too near to each other are one.
        assert!((8..=10).contains(&(runs.len() + out.len())));
        assert_eq!(runs[0].config.batch.tokens, 1024);
        for run in &runs {
            let RunConfig { optim, batch, model, .. } = &run.config;
            let flops = 6.0 * run.params * (optim.steps as usize * batch.tokens) as f64;
            assert!((flops / run.budget - 1.0).abs() < 0.01, "{}: {flops}", run.name);
            assert_eq!(params(model, 1024), run.params);
            assert_eq!((optim.decay, optim.warmup_steps), (Decay::Cosine, optim.steps / 10));
            assert_eq!(run.config.data.shards.as_deref(), Some(Path::new("/at/shards")));
        }
        assert!(
            runs.is_sorted_by(|a, b| a.budget < b.budget || a.config.optim.lr >= b.config.optim.lr)
        );
        assert_eq!(runs.last().unwrap().config.batch.tokens, 2048);
        assert_eq!(SweepConfig::parse(&config.write(), &[], Path::new("/")).unwrap(), config);
    }

    #[test]
    fn shapes_are_near_the_parameters_that_are_aimed_at() {
        for (aim, vocab) in [(1e5, 1024), (1e6, 2048), (1e7, 4096), (4e7, 32_000), (8e9, 128_256)] {
            let got = params(&shape(aim, vocab, &preset().model), vocab);
            assert!((got / aim).ln().abs() < 0.25, "{aim:e}: {got:e}");
        }
    }

    #[test]
    fn mixes_are_runs_of_their_own() {
        let mixes = "[[mix]]\nname = \"a\"\nweights = { web = 1 }\n[[mix]]\nname = \"b\"\nweights = { web = 0.5, code = 0.5 }\n";
        let config = parse(&format!("sizes = [1e5]\n{FILE}{mixes}")).unwrap();
        let (runs, _) = config.plan(1024).unwrap();
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names.len(), 4);
        assert!(names[0].starts_with("a-1e12-") && names[1].starts_with("b-1e12-"));
        assert_eq!(runs[1].config.data.mix["code"], 0.5);
    }

    #[test]
    fn what_is_no_sweep_is_refused_by_name() {
        assert!(error("budgets = []\n").contains("budgets"));
        assert!(error(&FILE.replace("4e12", "4e11")).contains("ascending"));
        assert!(error(&format!("budget = 1\n{FILE}")).contains("budget"));
        assert!(error(&format!("lr = []\n{FILE}")).contains("`lr`"));
        assert!(error(&FILE.replace("tokenizer", "tokeniser")).contains("tokeniser"));
        assert!(
            error(&format!("{FILE}[[mix]]\nname = \"a/b\"\nweights = {{ a = 1 }}\n"))
                .contains("mix.name")
        );
        let few = parse(&FILE.replace("1e12, 4e12", "1e9")).unwrap().plan(1024).unwrap_err();
        assert!(few.to_string().contains("steps"), "{few}");
    }

    #[test]
    fn rates_are_lines_of_logarithms() {
        let points = [[1e5, 8e-3], [1e7, 2e-3]];
        for (x, y) in [(1e4, 8e-3), (1e5, 8e-3), (1e6, 4e-3), (1e9, 2e-3)] {
            assert!((between(&points, x) / y - 1.0).abs() < 1e-12);
        }
    }
}
