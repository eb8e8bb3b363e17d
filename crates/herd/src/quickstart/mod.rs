//! The whole life of a model, small: the verbs of this program one after another, and what each of them gained.
//!
//! `configs/` holds the settings of every run, so that each can be repeated by hand. A stage that is done has a file in
//! `stages/`; the others run again, which their verbs take up where they stopped.

mod folder;
mod measure;
mod report;
mod stages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use herd_eval::results::Scores;
use herd_train::paired::Gain;
use herd_train::rejection::{SampleRow, ends_with};
use herd_train::round::rows;
use herd_train::scaling::{Power, Trial, best};
use serde::{Deserialize, Serialize};

use self::measure::{Pair, Question, Reviewer, Subject, bits_of_nothing, fit};
pub use self::stages::Size;
use self::stages::{CONTEXT, Measure, Numbers, Stage, TextBefore, stages};
use crate::commands::eval;
use crate::console::Console;
use crate::error::Error;
use crate::verbs::{hash, load, save, write};

/// What a stage came to: `stages/NAME.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    name: String,
    title: String,
    /// What it gained.
    figures: Vec<Figure>,
    /// Other numbers worth knowing.
    facts: BTreeMap<String, f64>,
    /// What the model wrote before, where no earlier stage tells it, and what it writes now.
    before: Vec<Sample>,
    samples: Vec<Sample>,
    /// Of each thing that was measured, its number: what the next stage is compared with.
    values: BTreeMap<String, Vec<f64>>,
    /// Its answers to the held-out questions.
    answers: Vec<String>,
    /// sha256 of what it made.
    hashes: BTreeMap<String, String>,
}

/// A mean before and after a stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figure {
    what: String,
    gain: Gain,
    /// Whether less is better.
    less: bool,
}

/// Something that a model wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    prompt: String,
    text: String,
}

/// Goes through all stages in `out`, or goes on where it stopped; `machine` are the flags that say how the machine is used.
/// The model that came of it; none if it was asked to stop.
pub fn run(
    size: Size,
    out: &Path,
    machine: &[String],
    console: &Console,
) -> Result<Option<PathBuf>, Error> {
    folder::keep(size, out)?;
    let held = folder::lay_out(out)?;
    let (configs, stages) = stages(size, out);
    for (path, text) in &configs {
        write(path, text.as_bytes())?;
    }
    let (questions, pairs) = (folder::questions(size), folder::pairs(size));
    let way = Walk { out, machine, console, numbers: size.numbers(), held, questions, pairs };
    let mut records: Vec<Record> = Vec::new();
    for (i, stage) in stages.iter().enumerate() {
        let begun = Instant::now();
        let passed = way.pass(stage, &records, i + 1, stages.len())?;
        way.note_time(stage.name, begun.elapsed().as_secs_f64())?;
        let Some(record) = passed else {
            console.note("stopped; the same command goes on");
            return Ok(None);
        };
        records.push(record);
    }
    report::write(out, size, &records)?;
    console.note(format!("{} and report.html tell of it", out.join("report.md").display()));
    if console.json {
        console.print_json(
            &records.iter().map(|r| (&r.name, &r.figures)).collect::<BTreeMap<_, _>>(),
        )?;
    }
    Ok(Some(out.join("model.gguf")))
}

/// What the stages share.
struct Walk<'a> {
    out: &'a Path,
    machine: &'a [String],
    console: &'a Console,
    numbers: Numbers,
    held: Vec<String>,
    questions: Vec<Question>,
    pairs: Vec<Pair>,
}

impl Walk<'_> {
    /// Does a stage, or finds it done. `None`: it was asked to stop.
    fn pass(
        &self,
        stage: &Stage,
        done: &[Record],
        i: usize,
        of: usize,
    ) -> Result<Option<Record>, Error> {
        let path = self.out.join(format!("stages/{i:02}-{}.json", stage.name));
        if let Some(record) = load(&path)? {
            return Ok(Some(record));
        }
        self.console.note(format!("[{i:2} of {of}] {}: {}", stage.name, stage.title));
        for verb in &stage.verbs {
            if !verb.run(self.machine, self.console)? {
                return Ok(None);
            }
        }
        let mut record = self.measure(stage, done)?;
        (record.name, record.title) = (stage.name.to_owned(), stage.title.to_owned());
        for made in &stage.made {
            let name = made.strip_prefix(self.out).unwrap_or(made).display().to_string();
            record.hashes.insert(name, hash(made)?);
        }
        for figure in &record.figures {
            self.console.note(format!("          {}", report::line(figure)));
        }
        save(&path, &record)?;
        Ok(Some(record))
    }

    fn measure(&self, stage: &Stage, done: &[Record]) -> Result<Record, Error> {
        match &stage.measure {
            Measure::Vocabulary(words) => self.vocabulary(words),
            Measure::Shards => Ok(Record::default()),
            Measure::Sweep { trials, next } => self.sweep(trials, next),
            Measure::Text { model, tokens, before } => self.text(model, *tokens, before, done),
            Measure::Rewards(model) => self.rewards(model),
            Measure::Samples(file) => samples(file),
            Measure::Answers(model) => self.answers(model, done),
            Measure::Preferences { model, before } => {
                let mut record = self.answers(model, done)?;
                record.figures.push(self.preferences(model, before)?);
                Ok(record)
            }
            Measure::Evaluation(folders) => evaluation(folders),
            Measure::Small(model) => {
                let mut record = self.answers(model, done)?;
                let bytes = fs::metadata(model).map_err(Error::io("read", model))?.len();
                record.facts.insert("bytes of the file".to_owned(), bytes as f64);
                Ok(record)
            }
        }
    }

    fn vocabulary(&self, words: &Path) -> Result<Record, Error> {
        let after = fit(words, &self.held)?;
        let gain = Gain::of(&vec![1.0; after.len()], &after);
        let what = "bytes a token of held-out text".to_owned();
        Ok(Record { figures: vec![Figure { what, gain, less: false }], ..Record::default() })
    }

    fn sweep(&self, trials: &[(PathBuf, f64, f64)], next: &Trial) -> Result<Record, Error> {
        let mut record = Record::default();
        let mut all = Vec::new();
        for (model, flops, params) in trials {
            let bits = self.bits(model, CONTEXT)?;
            let loss = bits.iter().sum::<f64>() / bits.len() as f64;
            all.push(Trial { flops: *flops, params: *params, loss });
        }
        let best = best(&all);
        let points = |y: fn(&herd_train::scaling::Best) -> f64| -> Vec<(f64, f64)> {
            best.iter().map(|best| (best.flops, y(best))).collect()
        };
        if let Some(law) = Power::fit(&points(|best| best.loss)) {
            record.facts.insert("bits a byte foretold".to_owned(), law.at(next.flops));
        }
        if let Some(law) = Power::fit(&points(|best| best.params)) {
            record.facts.insert("parameters advised".to_owned(), law.at(next.flops));
        }
        record.facts.insert("parameters taken".to_owned(), next.params);
        record.facts.insert("operations of the model".to_owned(), next.flops);
        let column = |of: fn(&Trial) -> f64| all.iter().map(of).collect::<Vec<f64>>();
        record.values.insert("flops".to_owned(), column(|trial| trial.flops));
        record.values.insert("params".to_owned(), column(|trial| trial.params));
        record.values.insert("bits".to_owned(), column(|trial| trial.loss));
        Ok(record)
    }

    fn bits(&self, model: &Path, tokens: usize) -> Result<Vec<f64>, Error> {
        let subject = Subject::open(model, self.machine, tokens)?;
        Ok(subject.bits(&self.held, tokens, self.numbers.pieces * CONTEXT / tokens))
    }

    fn text(
        &self,
        model: &Path,
        tokens: usize,
        before: &TextBefore,
        done: &[Record],
    ) -> Result<Record, Error> {
        let pieces = self.numbers.pieces * CONTEXT / tokens;
        let before = match before {
            TextBefore::Nothing => {
                bits_of_nothing(&self.out.join("tokenizer"), &self.held, tokens, pieces)?
            }
            TextBefore::Model(model) => self.bits(model, tokens)?,
        };
        let subject = Subject::open(model, self.machine, tokens)?;
        let after = subject.bits(&self.held, tokens, pieces);
        let what = format!("bits a byte of held-out text, pieces of {tokens} tokens");
        let mut record = Record {
            figures: vec![Figure { what, gain: Gain::of(&before, &after), less: true }],
            samples: subject.samples(false)?,
            ..Record::default()
        };
        record.facts.insert("parameters".to_owned(), subject.params() as f64);
        if let Some(foretold) = done.last().and_then(|last| last.facts.get("bits a byte foretold"))
        {
            record.facts.insert("bits a byte foretold".to_owned(), *foretold);
        }
        Ok(record)
    }

    fn answers(&self, model: &Path, done: &[Record]) -> Result<Record, Error> {
        let subject = Subject::open(model, self.machine, CONTEXT)?;
        let asked: Vec<&str> =
            self.questions.iter().map(|question| question.prompt.as_str()).collect();
        let after = subject.answers(&asked)?;
        let (before, wrote) = match done.iter().rev().find(|record| !record.answers.is_empty()) {
            Some(before) => (before.answers.clone(), Vec::new()),
            None => {
                let model = self.out.join("anneal/model");
                let parent = Subject::open(&model, self.machine, CONTEXT)?;
                (parent.answers(&asked)?, parent.samples(true)?)
            }
        };
        let right = |answers: &[String]| -> Vec<f64> {
            self.questions
                .iter()
                .zip(answers)
                .map(|(q, a)| f64::from(ends_with(a, &q.answer)))
                .collect()
        };
        let figure = |what: &str, gain| Figure { what: what.to_owned(), gain, less: false };
        let gain = Gain::of(&right(&before), &right(&after));
        let mut figures = vec![figure("held-out questions answered rightly", gain)];
        if done.iter().any(|record| record.name == "reward") {
            let judge = self.judge()?;
            let rewards = |answers: &[String]| judge.rewards(&asked, answers);
            figures.push(figure(
                "reward of the answers",
                Gain::of(&rewards(&before)?, &rewards(&after)?),
            ));
        }
        let samples = subject.samples(true)?;
        Ok(Record { figures, before: wrote, samples, answers: after, ..Record::default() })
    }

    /// The reward model of the quickstart.
    fn judge(&self) -> Result<Reviewer, Error> {
        let model = self.out.join(format!("reward/checkpoints/step-{}", self.numbers.reward_steps));
        Reviewer::open(&model, self.machine)
    }

    /// Of held-out pairs, those it has right; a coin has half of them.
    fn rewards(&self, model: &Path) -> Result<Record, Error> {
        let right = Reviewer::open(model, self.machine)?.right(&self.pairs)?;
        let gain = Gain::of(&vec![0.5; right.len()], &right);
        let what = "held-out pairs whose better answer has the greater reward".to_owned();
        Ok(Record { figures: vec![Figure { what, gain, less: false }], ..Record::default() })
    }

    /// Of held-out pairs, the nats by which a model finds the better answer the likelier one.
    fn preferences(&self, model: &Path, before: &Path) -> Result<Figure, Error> {
        let leads = |model| Subject::open(model, self.machine, CONTEXT)?.leads(&self.pairs);
        let gain = Gain::of(&leads(before)?, &leads(model)?);
        let what = "nats by which the better of held-out answers leads".to_owned();
        Ok(Figure { what, gain, less: false })
    }

    /// Seconds of a stage, over all the times that it was taken up.
    fn note_time(&self, name: &str, seconds: f64) -> Result<(), Error> {
        let path = self.out.join("times.json");
        let mut times: BTreeMap<String, f64> = load(&path)?.unwrap_or_default();
        *times.entry(name.to_owned()).or_default() += seconds;
        save(&path, &times)
    }
}

/// What `herd eval compare` says of two folders of results, and the scores of each with their intervals.
fn evaluation([before, after]: &[PathBuf; 2]) -> Result<Record, Error> {
    let (first, second) = (eval::scores(before)?, eval::scores(after)?);
    let mut record = Record::default();
    for (task, (metric, d)) in eval::differences(before, after)? {
        let [a, b] = [&first[&task], &second[&task]].map(Scores::main);
        let gain = Gain { before: a.value, after: b.value, low: d.ci95.0, high: d.ci95.1, of: d.n };
        let what = format!("{task}, {metric} by `herd eval`, before: after sft");
        record.figures.push(Figure { what, gain, less: false });
        for (folder, mean) in [(before, a), (after, b)] {
            let of = folder.file_name().unwrap_or_default().display();
            let ends = [("", mean.value), (", 95 % from", mean.ci95.0), (", 95 % to", mean.ci95.1)];
            let facts = ends.map(|(end, value)| (format!("{metric} of {of}{end}"), value));
            record.facts.extend(facts);
        }
    }
    Ok(record)
}

/// By the reward model: the best of K answers to a prompt against the mean of them.
fn samples(file: &Path) -> Result<Record, Error> {
    let rows = rows(file)?;
    let (mut one, mut best, mut right, mut prompts) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for group in rows.chunk_by(SampleRow::same_prompt) {
        // Answers that say nothing have no reward.
        let reward = |row: &SampleRow| row.scores.get("reward").copied();
        let rewards: Vec<f64> = group.iter().filter_map(reward).collect();
        if let Some(most) = rewards.iter().copied().max_by(f64::total_cmp) {
            one.push(rewards.iter().sum::<f64>() / rewards.len() as f64);
            best.push(most);
        }
        right += f64::from(u8::from(group.iter().any(|row| row.rejected.is_none())));
        prompts += 1.0;
    }
    let what = "reward of the best of K answers, before: of any of them (a choice, so never less)"
        .to_owned();
    let figure = |gain| Figure { what, gain, less: false };
    let figures = (!one.is_empty()).then(|| figure(Gain::of(&one, &best))).into_iter().collect();
    let mut record = Record { figures, ..Record::default() };
    record.facts.insert("prompts with a right answer among K".to_owned(), right / prompts);
    Ok(record)
}
