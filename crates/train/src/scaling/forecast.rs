//! Forecasts: what a sweep says of a run that is not there yet, written down, and judged when it is.
//!
//! `forecasts.jsonl` only grows. Each line holds the hash of the one before it and its own, so that none can be changed or
//! taken out without changing all behind it.

use crate::error::TrainError;
use crate::scaling::isoflop::{self, IsoFlops, Optimum};
use crate::scaling::law::{self, Fitted, Interval, Law};
use crate::scaling::sweep::Done;
use crate::scaling::task::{Answered, TaskForecast, TaskLaw};
use crate::scaling::{Trial, parabola};
use crate::settings::replace;
use herd_data::Hash;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Draws of the bootstrap.
pub const DRAWS: u64 = 4000;

/// All that is known of a mix.
#[derive(Clone, Debug)]
pub struct Study {
    /// The mix, if there are several.
    pub mix: Option<String>,
    /// Its runs.
    pub runs: Vec<Done>,
    /// L(N, D).
    pub law: Fitted,
    /// The best size of each budget; `None` of a single budget.
    pub curves: Option<IsoFlops>,
    /// Benchmarks that enough models answered.
    pub tasks: BTreeMap<String, TaskLaw>,
}

/// What other models answered, by benchmark.
pub type Others = BTreeMap<String, Vec<Answered>>;

/// Fits each mix of a sweep; `others` count for the second step of benchmarks.
///
/// Errors: too few runs, of other data than each other, or such that no law fits.
pub fn studies(runs: &[Done], others: &Others, seed: u64) -> Result<Vec<Study>, TrainError> {
    let mut data = runs.iter().map(|run| &run.data).collect::<BTreeSet<_>>().into_iter();
    if let (Some(first), Some(second)) = (data.next(), data.next()) {
        let value = format!("of shards {first} and {second}");
        return Err(TrainError::no("trials", value, "runs on the same shards"));
    }
    let mixes: BTreeSet<&Option<String>> = runs.iter().map(|run| &run.mix).collect();
    if mixes.is_empty() {
        return Err(TrainError::no("trials", "none", "finished runs"));
    }
    mixes.into_iter().map(|mix| study(mix, runs, others, seed)).collect()
}

fn study(
    mix: &Option<String>,
    runs: &[Done],
    others: &Others,
    seed: u64,
) -> Result<Study, TrainError> {
    let runs: Vec<Done> = runs.iter().filter(|run| run.mix == *mix).cloned().collect();
    let points: Vec<_> = runs.iter().map(Done::point).collect();
    let Some(law) = law::fit(&points) else {
        let of = mix.as_ref().map(|mix| format!(" of mix {mix}")).unwrap_or_default();
        let value = format!("{} runs{of}", runs.len());
        let expected = "at least 6, whose loss falls with parameters and with tokens";
        return Err(TrainError::no("trials", value, expected));
    };
    let trials: Vec<Trial> = runs.iter().map(Done::trial).collect();
    let curves = isoflop::fit(&trials, seed, DRAWS);
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.tasks.keys()).collect();
    let tasks = names.into_iter().filter_map(|name| {
        let own = runs.iter().filter_map(|run| run.tasks.get(name));
        let all: Vec<Answered> =
            own.chain(others.get(name).into_iter().flatten()).copied().collect();
        let best = best_answers(&runs, curves.as_ref()?, name);
        Some((name.clone(), TaskLaw::fit(&best, &all)?))
    });
    let tasks = tasks.collect();
    Ok(Study { mix: mix.clone(), runs, law, curves, tasks })
}

/// Of each budget, the nats a character that its best model has: from a parabola over ln N where there are three sizes, else
/// those of the nearest model.
fn best_answers(runs: &[Done], curves: &IsoFlops, task: &str) -> Vec<(f64, f64)> {
    let of = |best: &crate::scaling::Best| {
        let here = runs.iter().filter(|run| run.budget == best.flops);
        let points: Vec<(f64, f64)> = here
            .filter_map(|run| Some((run.params.ln(), run.tasks.get(task)?.nll_per_char)))
            .collect();
        let x = best.params.ln();
        let near = points.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs()))?;
        Some((best.flops, parabola(&points).map_or(near.1, |curve| curve.at(x))))
    };
    curves.minima.iter().filter_map(of).collect()
}

/// A forecast: a line of `forecasts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Forecast {
    /// When it was made, in seconds since 1970.
    pub registered: u64,
    /// sha256 of `trials.jsonl`.
    pub trials: String,
    /// The hash of the shards.
    pub data: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<String>,
    pub params: f64,
    pub tokens: f64,
    /// 6 N D.
    pub flops: f64,
    /// Nats a token of the sweep's held-out text.
    pub loss: Interval,
    /// What so many operations should be spent on, by the curves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimum: Option<Optimum>,
    /// The same parameters by L(N, D).
    pub optimum_by_law: f64,
    pub law: Law,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, TaskForecast>,
    /// The hash of the line before it; empty in the first.
    pub previous: String,
    /// sha256 of this line with an empty hash.
    pub hash: String,
}

impl Study {
    /// What N and D of a budget should be: the curves say it, or the law where there are none.
    pub fn optimal_params(&self, flops: f64) -> f64 {
        let by_law = self.law.law.optimal_params(flops);
        // Minima at the edge say where the sizes end, not where the best is.
        let sure = |curves: &&IsoFlops| curves.inside() >= 2;
        let curves = self.curves.as_ref().filter(sure);
        curves.map_or(by_law, |curves| curves.params.power.at(flops))
    }

    /// A forecast, not yet registered; `trials` is the hash of their file.
    pub fn forecast(&self, params: f64, tokens: f64, trials: &str) -> Forecast {
        let flops = 6.0 * params * tokens;
        let tasks = self.tasks.iter();
        Forecast {
            registered: 0,
            trials: trials.to_owned(),
            data: self.runs.first().map(|run| run.data.clone()).unwrap_or_default(),
            mix: self.mix.clone(),
            params,
            tokens,
            flops,
            loss: self.law.forecast(params, tokens),
            optimum: self.curves.as_ref().map(|curves| curves.optimum(flops)),
            optimum_by_law: self.law.law.optimal_params(flops),
            law: self.law.law,
            tasks: tasks.map(|(name, law)| (name.clone(), law.forecast(flops))).collect(),
            previous: String::new(),
            hash: String::new(),
        }
    }
}

/// The file of forecasts in a sweep's folder.
pub const FORECASTS: &str = "forecasts.jsonl";

/// Writes a forecast down behind those that are there, with the time and both hashes.
///
/// Errors: the file is damaged; the disk.
pub fn register(folder: &Path, mut forecast: Forecast, now: u64) -> Result<Forecast, TrainError> {
    let before = registered(folder)?;
    forecast.registered = now;
    forecast.previous = before.last().map(|last| last.hash.clone()).unwrap_or_default();
    forecast.hash = hash(&forecast);
    let line = serde_json::to_string(&forecast).expect("a forecast serialises");
    if serde_json::from_str::<Forecast>(&line).is_err() {
        let value = "of numbers that are none".to_owned();
        return Err(TrainError::no("forecast", value, "a size that the laws can tell of"));
    }
    let mut text = String::new();
    for line in before.iter().chain([&forecast]) {
        text += &(serde_json::to_string(line).expect("a forecast serialises") + "\n");
    }
    replace(&folder.join(FORECASTS), text.as_bytes())?;
    Ok(forecast)
}

/// The forecasts of a sweep; none where there is no file.
///
/// Errors: a line was changed, or one before it taken out; the disk.
pub fn registered(folder: &Path) -> Result<Vec<Forecast>, TrainError> {
    let path = folder.join(FORECASTS);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(TrainError::io("read", &path, e)),
    };
    let mut forecasts: Vec<Forecast> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let damaged = |what: String| {
            let value = format!("line {}: {what}", i + 1);
            TrainError::no(&path.display().to_string(), value, "the line as it was registered")
        };
        let forecast: Forecast = serde_json::from_str(line).map_err(|e| damaged(e.to_string()))?;
        let previous = forecasts.last().map(|last| last.hash.as_str()).unwrap_or_default();
        if forecast.previous != previous {
            return Err(damaged("it follows another line than the one before it".to_owned()));
        }
        if forecast.hash != hash(&forecast) {
            return Err(damaged("it is not what its hash says".to_owned()));
        }
        forecasts.push(forecast);
    }
    Ok(forecasts)
}

fn hash(forecast: &Forecast) -> String {
    let bare = Forecast { hash: String::new(), ..forecast.clone() };
    Hash::of(&serde_json::to_vec(&bare).expect("a forecast serialises")).to_string()
}

/// A run that a forecast is judged by.
#[derive(Clone, Debug)]
pub struct Finished {
    /// N.
    pub params: f64,
    /// D.
    pub tokens: f64,
    /// Nats a token of held-out text after its last step.
    pub loss: f64,
    /// The hash of its shards.
    pub data: String,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// Its mix, if the sweep has several.
    pub mix: Option<String>,
    /// What it answered.
    pub tasks: BTreeMap<String, Answered>,
}

/// How a forecast turned out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Judged {
    /// The hash of the forecast.
    pub forecast: String,
    pub registered: u64,
    pub began: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<String>,
    pub foretold: Interval,
    pub loss: f64,
    /// By how much the loss is beyond what was foretold, as a share of it.
    pub off: f64,
    /// Whether it lies in the interval.
    pub inside: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, JudgedTask>,
}

/// How a benchmark turned out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct JudgedTask {
    pub foretold: TaskForecast,
    pub answered: Answered,
    pub nll_inside: bool,
    pub acc_inside: bool,
}

/// Parameters and tokens of a run may be off by this share of those of its forecast.
const SAME: f64 = 0.005;

/// Judges the last forecast of a run of this size, on these shards, that was registered before it began.
///
/// Errors: there is none; the message says what comes nearest.
pub fn judge(forecasts: &[Forecast], run: &Finished) -> Result<Judged, TrainError> {
    let near = |a: f64, b: f64| (a / b).ln().abs() < SAME;
    let no = |value: String, expected: &str| Err(TrainError::no("forecast", value, expected));
    let of = |f: &&Forecast| {
        f.mix == run.mix && near(f.params, run.params) && near(f.tokens, run.tokens)
    };
    let same: Vec<&Forecast> = forecasts.iter().filter(of).collect();
    let Some(last) = same.last() else {
        let value = format!("none of {} of this size", forecasts.len());
        let expected =
            format!("one of {:.4e} parameters and {:.4e} tokens", run.params, run.tokens);
        return no(value, &expected);
    };
    if last.data != run.data {
        let value = format!("of the shards {}", last.data);
        return no(value, &format!("one of the run's, {}", run.data));
    }
    let before = same.iter().rev().find(|f| f.data == run.data && f.registered < run.began);
    let Some(forecast) = before else {
        let value = format!("registered at {}", last.registered);
        return no(value, &format!("one from before the run began, at {}", run.began));
    };
    let tasks = forecast.tasks.iter().filter_map(|(name, foretold)| {
        let answered = *run.tasks.get(name)?;
        let judged = JudgedTask {
            foretold: *foretold,
            answered,
            nll_inside: foretold.nll_per_char.holds(answered.nll_per_char),
            acc_inside: foretold.acc.holds(answered.acc),
        };
        Some((name.clone(), judged))
    });
    Ok(Judged {
        forecast: forecast.hash.clone(),
        registered: forecast.registered,
        began: run.began,
        mix: forecast.mix.clone(),
        foretold: forecast.loss,
        loss: run.loss,
        off: run.loss / forecast.loss.value - 1.0,
        inside: forecast.loss.holds(run.loss),
        tasks: tasks.collect(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scaling::chance::Draw;

    const LAW: Law = Law { e: 1.9, a: 40.0, alpha: 0.22, b: 60.0, beta: 0.26 };

    /// Finished runs of three budgets and five sizes, with a task that falls with the loss.
    pub(crate) fn done(mix: Option<&str>, shift: f64) -> Vec<Done> {
        let run = |i: usize| {
            let mut draw = Draw::new(5, i as u64);
            let budget = [1e12, 4e12, 1.6e13][i / 5];
            let params = LAW.optimal_params(budget) * 2f64.powi(i as i32 % 5 - 2);
            let tokens = budget / 6.0 / params;
            let loss = shift + LAW.at(params, tokens) * (1.0 + 0.003 * draw.normal());
            let nll = 0.3 * loss;
            let acc = 0.25 + 0.6 / (1.0 + (8.0 * (nll - 1.2)).exp());
            let answered = Answered { nll_per_char: nll, acc, chance: 0.25, n: 400 };
            Done {
                name: format!("{i}"),
                mix: mix.map(str::to_owned),
                budget,
                params,
                tokens,
                flops: budget,
                steps: 100,
                batch_tokens: 1024,
                lr: 1e-3,
                layers: 2,
                width: 64,
                loss,
                bpb: loss,
                by_source: BTreeMap::new(),
                tasks: BTreeMap::from([("pick".to_owned(), answered)]),
                data: "shards".to_owned(),
                metrics: String::new(),
            }
        };
        (0..15).map(run).collect()
    }

    fn finished(params: f64, tokens: f64, began: u64) -> Finished {
        let (data, tasks) = ("shards".to_owned(), BTreeMap::new());
        let loss = LAW.at(params, tokens);
        Finished { params, tokens, loss, data, began, mix: None, tasks }
    }

    #[test]
    fn a_forecast_stands_before_its_run_and_is_judged_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let study = &studies(&done(None, 0.0), &Others::new(), 1).unwrap()[0];
        let forecast = study.forecast(1e7, 1e8, "trials");
        assert!(forecast.tasks["pick"].acc.holds(forecast.tasks["pick"].acc.value));
        let first = register(folder.path(), forecast.clone(), 1000).unwrap();
        let second = register(folder.path(), forecast, 2000).unwrap();
        assert_eq!((first.previous.as_str(), &second.previous), ("", &first.hash));
        let all = registered(folder.path()).unwrap();
        // The last that stood before the run.
        let judged = judge(&all, &finished(1.001e7, 1e8, 2000)).unwrap();
        assert_eq!((&judged.forecast, judged.inside), (&first.hash, true));
        assert_eq!(judge(&all, &finished(1e7, 1e8, 3000)).unwrap().forecast, second.hash);
        for (run, told) in [
            (finished(1e7, 1e8, 1000), "before the run began"),
            (finished(2e7, 1e8, 3000), "none of 2"),
            (Finished { data: "others".into(), ..finished(1e7, 1e8, 3000) }, "shards"),
        ] {
            let error = judge(&all, &run).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_forecast_that_was_changed_or_taken_out_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let study = &studies(&done(None, 0.0), &Others::new(), 1).unwrap()[0];
        for now in 1..=3 {
            register(folder.path(), study.forecast(1e7, 1e8, ""), now).unwrap();
        }
        let path = folder.path().join(FORECASTS);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for bad in [
            [lines[0], lines[2]].join("\n"),
            text.replacen("\"registered\":2", "\"registered\":1", 1),
            text[..text.len() - 9].to_owned(),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(registered(folder.path()).unwrap_err().to_string().contains("line"));
        }
    }

    #[test]
    fn the_better_mix_is_foretold_to_be_better() {
        let runs = [done(Some("good"), 0.0), done(Some("poor"), 0.5)].concat();
        let studies = studies(&runs, &Others::new(), 1).unwrap();
        let loss = |i: usize| studies[i].forecast(1e7, 1e8, "").loss;
        assert_eq!(studies[1].mix.as_deref(), Some("poor"));
        assert!(loss(0).high < loss(1).low, "{:?} {:?}", loss(0), loss(1));
    }

    #[test]
    fn runs_of_other_data_and_too_few_runs_make_no_study() {
        let mut runs = done(None, 0.0);
        let error = |runs: &[Done]| studies(runs, &Others::new(), 1).unwrap_err().to_string();
        assert!(error(&runs[..5]).contains("5 runs") && error(&[]).contains("none"));
        runs[3].data = "others".to_owned();
        assert!(error(&runs).contains("same shards"));
    }
}
