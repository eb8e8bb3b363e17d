//! Reads the folder of a training run: its config, its lines, its checkpoints.
//!
//! ```text
//! RUN/config.toml           all settings, resolved
//! RUN/metrics.jsonl         what was computed: steps, validations, samples, spikes, failures
//! RUN/speed.jsonl           how fast, and in how much memory
//! RUN/checkpoints/step-N/   Hugging Face folders, with herd.json and state/
//! ```
//!
//! Reading is strict: a line that is not what the trainer writes is an error with its number. Only what
//! a kill leaves is put up with, and told: a tail without a line end, and in `speed.jsonl`, which is
//! never cut back, the line that was written behind such a tail.

mod diff;
mod lines;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use herd_data::DataError;
use herd_tensor::files::FileError;

use crate::distill::Learnt;
use crate::dpo::Preferences;
use crate::metrics::{Line, Measured, StepLine};
use crate::rollout::{Evaluation, Generation};
use crate::spikes::Leapt;

pub use diff::{Diff, Setting, Split, TensorSplit, diff};
pub(crate) use lines::number;
pub use lines::{Speed, Torn};

/// Why a run could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names its fields
pub enum RunError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("{} is no run: it has neither metrics.jsonl nor config.toml", path.display())]
    NoRun { path: PathBuf },

    #[error("{} line {line} is not what a run writes", path.display())]
    Line { path: PathBuf, line: usize, source: Box<dyn std::error::Error + Send + Sync> },

    #[error("{} line {line}: step {step} comes after step {last}", path.display())]
    Order { path: PathBuf, line: usize, step: u64, last: u64 },

    #[error("{} is no TOML", path.display())]
    Toml { path: PathBuf, source: Box<toml::de::Error> },

    #[error(transparent)]
    File(#[from] FileError),

    #[error(transparent)]
    Data(#[from] DataError),
}

impl RunError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
        let path = path.to_owned();
        move |source| RunError::Io { action, path, source }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RunError::NoRun { .. } => Some("`herd runs list DIR` shows the runs of a folder"),
            RunError::File(error) => error.hint(),
            RunError::Data(error) => error.hint(),
            RunError::Io { .. } | RunError::Line { .. } => None,
            RunError::Order { .. } | RunError::Toml { .. } => None,
        }
    }

    fn line(
        path: &Path,
        line: usize,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> RunError {
        RunError::Line { path: path.to_owned(), line, source: Box::new(source) }
    }
}

/// A run as its folder tells of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub path: PathBuf,
    /// `config.toml`, if it is there.
    pub config: Option<String>,
    /// The steps that stand: a step that was rewound and came again is there as it came last.
    pub steps: Vec<StepLine>,
    /// The validations that stand.
    pub validations: Vec<Validation>,
    /// The mean of checkpoints, measured at the end of annealing.
    pub average: Option<Validation>,
    /// What the answers were worth that it learnt from.
    pub generations: Vec<Generation>,
    /// What those to held-out prompts were.
    pub evaluations: Vec<Evaluation>,
    /// All samples.
    pub samples: Vec<Sample>,
    /// All spikes.
    pub spikes: Vec<Spike>,
    /// All failures.
    pub failures: Vec<Failure>,
    /// All lines of speed, in the order of the clock.
    pub speed: Vec<Speed>,
    /// Lines that a kill cut short.
    pub torn: Vec<Torn>,
    /// Checkpoints, in ascending order of steps.
    pub checkpoints: Vec<Saved>,
}

/// The model measured on text that it is not trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// The step after which it was measured.
    pub step: u64,
    /// Nats a token.
    pub loss: f64,
    /// Bits a byte; NaN of a reward model.
    pub bpb: f64,
    /// The same for each source.
    pub by_source: BTreeMap<String, Measured>,
    /// Of `dpo` and `reward`: what was met of pairs.
    pub preferences: Option<Preferences>,
    /// Of `distill`: the parts of the loss.
    pub taught: Option<Learnt>,
}

/// A text that the model wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The step after which it was drawn.
    pub step: u64,
    /// What it went on from.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
}

/// A loss that leapt, or a gradient that was no number.
#[derive(Clone, Debug, PartialEq)]
pub struct Spike {
    /// The step that it would have been.
    pub step: u64,
    /// What leapt.
    pub what: Leapt,
    /// The loss, if it was a number.
    pub loss: Option<f64>,
    /// The greatest loss that would have passed.
    pub expected: f64,
    /// The documents of the batch.
    pub rows: Vec<String>,
    /// What was done.
    pub action: String,
}

/// Something beside the training itself that went wrong and did not end the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The step after which it happened.
    pub step: u64,
    /// What was tried.
    pub what: String,
    /// What it said.
    pub error: String,
}

/// A checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The step after which it was written.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
}

const METRICS: &str = "metrics.jsonl";
const SPEED: &str = "speed.jsonl";
const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";

impl Run {
    /// Reads a run's folder. A run that has only begun may have no lines yet.
    ///
    /// Errors: see [`RunError`]; steps ascend, except after a spike that was rewound.
    pub fn open(path: impl AsRef<Path>) -> Result<Run, RunError> {
        let path = path.as_ref();
        if !is_run(path) {
            return Err(RunError::NoRun { path: path.to_owned() });
        }
        let (metrics, speed) = (path.join(METRICS), path.join(SPEED));
        let (lines, torn_metrics) = lines::parse(&metrics, &optional(&metrics)?)?;
        let (speed, torn_speed) = lines::parse_speed(&speed, &optional(&speed)?)?;
        let mut run = Run {
            path: path.to_owned(),
            config: config(path)?,
            steps: Vec::new(),
            validations: Vec::new(),
            average: None,
            generations: Vec::new(),
            evaluations: Vec::new(),
            samples: Vec::new(),
            spikes: Vec::new(),
            failures: Vec::new(),
            speed,
            torn: torn_metrics.into_iter().chain(torn_speed).collect(),
            checkpoints: checkpoints(path)?,
        };
        for (i, line) in lines.into_iter().enumerate() {
            run.take(&metrics, i + 1, line)?;
        }
        Ok(run)
    }

    /// Takes in a line of metrics.
    fn take(&mut self, path: &Path, number: usize, line: Line) -> Result<(), RunError> {
        match line {
            Line::Step(step) => {
                let last = self.steps.last().map_or(0, |last| last.step);
                if step.step <= last {
                    let (path, step) = (path.to_owned(), step.step);
                    return Err(RunError::Order { path, line: number, step, last });
                }
                self.steps.push(step);
            }
            Line::Validation { step, loss, bpb, by_source, preferences, taught } => {
                let bpb = bpb.unwrap_or(f64::NAN);
                let line = Validation { step, loss, bpb, by_source, preferences, taught };
                self.validations.push(line);
            }
            Line::Average { step, of: _, loss, bpb, by_source } => {
                let (preferences, taught) = (None, None);
                self.average = Some(Validation { step, loss, bpb, by_source, preferences, taught });
            }
            Line::Rollouts(met) => self.generations.push(met),
            Line::Evaluation(met) => self.evaluations.push(met),
            Line::Sample { step, prompt, text } => self.samples.push(Sample { step, prompt, text }),
            Line::Spike { step, what, loss, expected, rows, action } => {
                if let Some(to) = rewound_to(&action) {
                    self.steps.retain(|step| step.step <= to);
                    self.validations.retain(|validation| validation.step <= to);
                    self.generations.retain(|met| met.step < to);
                    self.evaluations.retain(|met| met.step <= to);
                }
                self.spikes.push(Spike { step, what, loss, expected, rows, action });
            }
            Line::Failure { step, what, error } => {
                self.failures.push(Failure { step, what, error });
            }
        }
        Ok(())
    }

    /// The validation with the fewest bits a byte.
    pub fn best(&self) -> Option<&Validation> {
        let measured = self.validations.iter().filter(|v| !v.bpb.is_nan());
        measured.min_by(|a, b| a.bpb.total_cmp(&b.bpb))
    }

    /// Seconds that its steps took, those that were done again too.
    pub fn seconds(&self) -> f64 {
        self.speed.iter().map(|s| s.step_s).filter(|s| s.is_finite()).sum()
    }

    /// A metric over steps, without numbers that are not finite.
    pub fn series(&self, metric: Metric) -> Vec<(f64, f64)> {
        let steps = |y: fn(&StepLine) -> f64| -> Vec<(f64, f64)> {
            self.steps.iter().map(|s| (s.step as f64, y(s))).collect()
        };
        let validations = |y: fn(&Validation) -> f64| -> Vec<(f64, f64)> {
            self.validations.iter().map(|v| (v.step as f64, y(v))).collect()
        };
        let generations = |y: fn(&Generation) -> f64| -> Vec<(f64, f64)> {
            self.generations.iter().map(|met| (met.step as f64, y(met))).collect()
        };
        let speed = |y: fn(&Speed) -> f64| -> Vec<(f64, f64)> {
            let mut points: Vec<_> = self.speed.iter().map(|s| (s.step, y(s))).collect();
            points.sort_by_key(|(step, _)| *step); // stable: of a step done again, the last stands
            points.reverse();
            points.dedup_by_key(|(step, _)| *step);
            points.into_iter().rev().map(|(step, y)| (step as f64, y)).collect()
        };
        let mut points = match metric {
            Metric::Loss => steps(|s| s.loss),
            Metric::Lr => steps(|s| s.lr),
            Metric::GradNorm => steps(|s| s.grad_norm),
            Metric::Tokens => steps(|s| s.tokens as f64),
            Metric::SeqLen => steps(|s| s.seq_len as f64),
            Metric::Margin => steps(|s| s.preferences.map_or(f64::NAN, |pairs| pairs.margin)),
            Metric::Accuracy => steps(|s| s.preferences.map_or(f64::NAN, |pairs| pairs.accuracy)),
            Metric::ValidationMargin => {
                validations(|v| v.preferences.map_or(f64::NAN, |pairs| pairs.margin))
            }
            Metric::ValidationAccuracy => {
                validations(|v| v.preferences.map_or(f64::NAN, |pairs| pairs.accuracy))
            }
            Metric::Kl => steps(|s| {
                let moved = s.moved.and_then(|moved| moved.kl);
                s.taught.map(|taught| taught.kl).or(moved).unwrap_or(f64::NAN)
            }),
            Metric::ValidationKl => validations(|v| v.taught.map_or(f64::NAN, |taught| taught.kl)),
            Metric::Reward => generations(|met| met.reward),
            Metric::AnswerTokens => generations(|met| met.mean_length),
            Metric::EvalReward => {
                self.evaluations.iter().map(|met| (met.step as f64, met.eval_reward)).collect()
            }
            Metric::ValidationLoss => validations(|v| v.loss),
            Metric::Bpb => validations(|v| v.bpb),
            Metric::TokS => speed(|s| s.tok_s),
            Metric::Mfu => speed(|s| s.mfu),
            Metric::StepS => speed(|s| s.step_s),
            Metric::DataWaitS => speed(|s| s.data_wait_s),
            Metric::PeakBytes => speed(|s| s.peak_bytes as f64),
        };
        points.retain(|(_, y)| y.is_finite());
        points
    }
}

/// A number that a run tells over its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields of the lines have them
pub enum Metric {
    Loss,
    ValidationLoss,
    Bpb,
    Lr,
    GradNorm,
    TokS,
    Mfu,
    StepS,
    DataWaitS,
    PeakBytes,
    Tokens,
    SeqLen,
    Margin,
    Accuracy,
    ValidationMargin,
    ValidationAccuracy,
    Kl,
    ValidationKl,
    Reward,
    EvalReward,
    AnswerTokens,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 21] = [
        Metric::Loss,
        Metric::ValidationLoss,
        Metric::Bpb,
        Metric::Lr,
        Metric::GradNorm,
        Metric::TokS,
        Metric::Mfu,
        Metric::StepS,
        Metric::DataWaitS,
        Metric::PeakBytes,
        Metric::Tokens,
        Metric::SeqLen,
        Metric::Margin,
        Metric::Accuracy,
        Metric::ValidationMargin,
        Metric::ValidationAccuracy,
        Metric::Kl,
        Metric::ValidationKl,
        Metric::Reward,
        Metric::EvalReward,
        Metric::AnswerTokens,
    ];

    /// Its name, that of the field.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Loss => "loss",
            Metric::ValidationLoss => "validation_loss",
            Metric::Bpb => "bpb",
            Metric::Lr => "lr",
            Metric::GradNorm => "grad_norm",
            Metric::TokS => "tok_s",
            Metric::Mfu => "mfu",
            Metric::StepS => "step_s",
            Metric::DataWaitS => "data_wait_s",
            Metric::PeakBytes => "peak_bytes",
            Metric::Tokens => "tokens",
            Metric::SeqLen => "seq_len",
            Metric::Margin => "margin",
            Metric::Accuracy => "accuracy",
            Metric::ValidationMargin => "validation_margin",
            Metric::ValidationAccuracy => "validation_accuracy",
            Metric::Kl => "kl",
            Metric::ValidationKl => "validation_kl",
            Metric::Reward => "reward",
            Metric::EvalReward => "eval_reward",
            Metric::AnswerTokens => "answer_tokens",
        }
    }

    /// The metric with this name.
    pub fn from_name(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|metric| metric.name() == name)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A run's folder, and what it holds.
pub type Listed = (PathBuf, Result<Run, RunError>);

/// The runs at or directly in `folder`, by name; one that cannot be read does not hide the others.
///
/// Errors: the folder cannot be listed.
pub fn list(folder: &Path) -> Result<Vec<Listed>, RunError> {
    let mut paths = match is_run(folder) {
        true => vec![folder.to_owned()],
        false => entries(folder)?.into_iter().filter(|path| is_run(path)).collect(),
    };
    paths.sort();
    Ok(paths.into_iter().map(|path| (path.clone(), Run::open(path))).collect())
}

fn is_run(path: &Path) -> bool {
    path.join(METRICS).is_file() || path.join(CONFIG).is_file()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, RunError> {
    let entries = fs::read_dir(folder).map_err(RunError::io("list", folder))?;
    let path = |entry: io::Result<fs::DirEntry>| Ok(entry?.path());
    entries.map(path).collect::<io::Result<_>>().map_err(RunError::io("list", folder))
}

/// The bytes of a file; none if it is not there.
fn optional(path: &Path) -> Result<Vec<u8>, RunError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(RunError::io("read", path)),
    }
}

fn config(run: &Path) -> Result<Option<String>, RunError> {
    let path = run.join(CONFIG);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(RunError::io("read", &path)),
    }
}

/// Folders named `step-N`; what has another name is under way or not the trainer's.
fn checkpoints(run: &Path) -> Result<Vec<Saved>, RunError> {
    let folder = run.join(CHECKPOINTS);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let saved = |path: PathBuf| {
        let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
        path.is_dir().then_some(Saved { step, path })
    };
    let mut found: Vec<Saved> = entries(&folder)?.into_iter().filter_map(saved).collect();
    found.sort_by_key(|saved| saved.step);
    Ok(found)
}

/// The step to which a spike took the run back, if it did.
fn rewound_to(action: &str) -> Option<u64> {
    action.strip_prefix("rewound to ")?.parse().ok()
}

/// An exponential mean over about `window` points; young means are plain means.
pub fn smoothed(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let mut mean = 0.0;
    let smooth = |(i, (x, y)): (usize, &(f64, f64))| {
        let share = (2.0 / (window as f64 + 1.0)).max(1.0 / (i + 1) as f64);
        mean += share * (y - mean);
        (*x, mean)
    };
    points.iter().enumerate().map(smooth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: f64) -> Line {
        let (tokens, grad_norm, lr, seq_len) = (step * 10, 1.0, 1e-3, 8);
        Line::Step(StepLine {
            step,
            tokens,
            loss,
            grad_norm,
            lr,
            seq_len,
            preferences: None,
            taught: None,
            moved: None,
            valued: None,
        })
    }

    fn spike(step: u64, action: &str) -> Line {
        let (rows, action) = (Vec::new(), action.to_owned());
        Line::Spike { step, what: Leapt::Loss, loss: Some(99.0), expected: 5.0, rows, action }
    }

    fn write(folder: &Path, lines: &[Line]) {
        fs::create_dir_all(folder).unwrap();
        let text = |line| serde_json::to_string(line).unwrap() + "\n";
        let text: String = lines.iter().map(text).collect();
        fs::write(folder.join(METRICS), text).unwrap();
    }

    #[test]
    fn steps_that_were_rewound_do_not_stand() {
        let folder = tempfile::tempdir().unwrap();
        let again = [step(1, 5.0), step(2, 4.0), step(3, 9.0), spike(4, "rewound to 2")];
        write(folder.path(), &[&again[..], &[step(3, 3.0), spike(3, "recorded")]].concat());
        let run = Run::open(folder.path()).unwrap();
        assert_eq!(run.series(Metric::Loss), [(1.0, 5.0), (2.0, 4.0), (3.0, 3.0)]);
        assert_eq!(run.spikes.len(), 2);
        write(folder.path(), &[step(1, 5.0), step(2, 4.0), spike(3, "recorded"), step(2, 3.0)]);
        let error = Run::open(folder.path()).unwrap_err();
        assert!(matches!(error, RunError::Order { line: 4, step: 2, last: 2, .. }), "{error}");
    }

    #[test]
    fn a_folder_lists_its_runs_and_those_that_are_damaged() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("b"), &[step(1, 5.0)]);
        write(&folder.path().join("a"), &[step(1, 5.0), step(1, 5.0)]);
        fs::create_dir(folder.path().join("no run")).unwrap();
        let runs = list(folder.path()).unwrap();
        let names: Vec<_> = runs.iter().map(|(p, _)| p.file_name().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(runs[0].1.is_err() && runs[1].1.is_ok());
        assert!(matches!(Run::open(folder.path()), Err(RunError::NoRun { .. })));
        assert_eq!(list(&folder.path().join("b")).unwrap().len(), 1);
    }

    #[test]
    fn of_a_step_done_again_the_last_speed_stands_and_all_time_counts() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[]);
        let line = |step, tok_s| {
            let (mfu, peak_bytes) = (f64::NAN, 1);
            let speed =
                Speed { step, tok_s, mfu, step_s: 2.0, data_wait_s: 0.0, peak_bytes, eta_s: 1.0 };
            speed.text()
        };
        let text = [line(1, 10.0), line(2, 20.0), line(2, 30.0), line(3, 40.0)].concat();
        fs::write(folder.path().join(SPEED), text + "{\"step").unwrap();
        for name in ["step-20", "step-3", ".step-40.part", "step-x"] {
            fs::create_dir_all(folder.path().join(CHECKPOINTS).join(name)).unwrap();
        }
        let run = Run::open(folder.path()).unwrap();
        assert_eq!(run.series(Metric::TokS), [(1.0, 10.0), (2.0, 30.0), (3.0, 40.0)]);
        assert_eq!((run.series(Metric::Mfu).len(), run.seconds()), (0, 8.0));
        assert_eq!(run.torn, [Torn { file: SPEED.into(), line: 5, bytes: 6 }]);
        assert_eq!(run.checkpoints.iter().map(|c| c.step).collect::<Vec<_>>(), [3, 20]);
    }

    #[test]
    fn smoothing_begins_as_a_plain_mean_and_forgets() {
        let points: Vec<(f64, f64)> = [4.0, 2.0, 3.0].iter().map(|y| (0.0, *y)).collect();
        let mean: Vec<f64> = smoothed(&points, 100).iter().map(|p| p.1).collect();
        assert_eq!(mean, [4.0, 3.0, 3.0]);
        let far: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i / 500))).collect();
        assert!((smoothed(&far, 20).last().unwrap().1 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn metrics_are_found_by_their_names() {
        for metric in Metric::ALL {
            assert_eq!(Metric::from_name(metric.name()), Some(metric));
        }
        assert_eq!(Metric::from_name("los"), None);
    }
}
