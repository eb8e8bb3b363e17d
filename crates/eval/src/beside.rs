//! Models side by side: what each can hold, how good, how fast and how dear it is, with where each figure is from.
//!
//! ```text
//! cost of 1e6 tokens = cost of an hour / (3600 * tokens a second) * 1e6   of tokens written, and of all, read or written
//! energy of a token  = watts * seconds / tokens                           or joules counted / tokens
//! blended price      = (3 * input + output) / 4                           three tokens read for one written
//! ```

mod page;
mod plot;

pub use page::{csv, html, markdown};
pub use plot::{Axis, Point, plot};

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::stats::{Mean, mean_of_groups};

/// A figure, and how it was got.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// Where it is from, in words.
    pub from: String,
}

impl Figure {
    /// A number and where it is from.
    pub fn new(value: f64, from: impl Into<String>) -> Figure {
        Figure { value, from: from.into() }
    }
}

/// What a model gave under load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Requests at once.
    pub concurrency: usize,
    /// Tokens a second of all answers together.
    pub tok_s: f64,
    /// The same with the tokens that were read.
    pub total_tok_s: Option<f64>,
    /// Tokens a second of one answer, from its first token on: the median.
    pub output_tok_s: Option<f64>,
    /// Milliseconds to the first token: median and 95th of a hundred.
    pub ttft_ms: (Option<f64>, Option<f64>),
    /// Joules of a token written, where they were counted.
    pub joules_per_token: Option<f64>,
}

/// How a score was got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Way {
    /// Somebody says so.
    Given,
    /// On a benchmark; scores that differ in any of these are not alike.
    Measured {
        /// The score that stands for the task.
        metric: String,
        /// Examples before each question.
        shots: usize,
        /// The version of the task's page.
        version: u32,
        /// The version of the scorers.
        scorer_version: u32,
        /// Items.
        items: usize,
    },
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Given => write!(f, "given, without an interval"),
            Way::Measured { metric, shots, version, scorer_version, items } => {
                let examples = if *shots == 1 { "example" } else { "examples" };
                write!(
                    f,
                    "{metric}, {shots} {examples}, {items} items, version {version} of the task, {scorer_version} of the scorers"
                )
            }
        }
    }
}

/// What is known of a model before anything is derived.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Known {
    /// Tokens of context.
    pub context: Option<Figure>,
    /// Tokens of an answer at most.
    pub output_limit: Option<Figure>,
    /// Parameters.
    pub parameters: Option<Figure>,
    /// The score that stands for each task.
    pub quality: BTreeMap<String, Mean>,
    /// How each of these was got.
    pub quality_from: BTreeMap<String, Way>,
    /// Loads, by concurrency.
    pub loads: Vec<Load>,
    /// How they were measured.
    pub loads_from: String,
    /// The price of a million tokens read.
    pub price_input: Option<Figure>,
    /// The price of a million tokens written.
    pub price_output: Option<Figure>,
    /// What an hour of the machine costs.
    pub cost_per_hour: Option<f64>,
    /// Watts that the machine takes.
    pub watts: Option<f64>,
}

/// A model among others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What was given and measured.
    pub known: Known,
    /// The mean of the tasks that all models with results have, each counting the same.
    pub quality: Option<Mean>,
    /// Tokens a second of one answer alone, from its first token on.
    pub speed: Option<Figure>,
    /// Milliseconds to the first token of one answer alone.
    pub ttft_ms: Option<Figure>,
    /// Tokens written a second at the load that gives most.
    pub throughput: Option<Figure>,
    /// The blended price of a million tokens, three read for one written.
    pub blended: Option<Figure>,
    /// What the machine's hours cost for a million tokens written.
    pub cost_written: Option<Figure>,
    /// The same for a million tokens read or written: what a blended price may be held against.
    pub cost_all: Option<Figure>,
    /// Joules of a token written.
    pub energy: Option<Figure>,
}

impl Column {
    /// What a million tokens cost, read or written: the blended price, else the machine's hours.
    pub fn price(&self) -> Option<&Figure> {
        self.blended.as_ref().or(self.cost_all.as_ref())
    }
}

/// Puts models side by side, in their order; the tasks that `quality` is the mean of.
pub fn beside(models: Vec<(String, Known)>) -> (Vec<String>, Vec<Column>) {
    let tasks = common(&models);
    let column = |(name, known): (String, Known)| {
        let alone = known.loads.iter().min_by_key(|load| load.concurrency);
        let most = busiest(&known);
        let at = |load: &Load| format!("{}, {} at once", known.loads_from, load.concurrency);
        Column {
            quality: quality(&tasks, &known),
            speed: alone.and_then(|load| Some(Figure::new(load.output_tok_s?, at(load)))),
            ttft_ms: alone.and_then(|load| Some(Figure::new(load.ttft_ms.0?, at(load)))),
            throughput: most.map(|load| Figure::new(load.tok_s, at(load))),
            blended: blended(&known),
            cost_written: cost(&known, "tokens written a second", |load| Some(load.tok_s)),
            cost_all: cost(&known, "tokens read or written a second", |load| load.total_tok_s),
            energy: energy(&known),
            name,
            known,
        }
    };
    (tasks.clone(), models.into_iter().map(column).collect())
}

/// Tasks of which every model that has results has one.
fn common(models: &[(String, Known)]) -> Vec<String> {
    let with: Vec<&Known> =
        models.iter().map(|(_, known)| known).filter(|known| !known.quality.is_empty()).collect();
    let Some(first) = with.first() else { return Vec::new() };
    let all = |task: &&String| with.iter().all(|known| known.quality.contains_key(*task));
    first.quality.keys().filter(all).cloned().collect()
}

/// The mean of some tasks; without an interval if one of them has none.
fn quality(tasks: &[String], known: &Known) -> Option<Mean> {
    let of: Vec<Mean> = tasks.iter().filter_map(|task| known.quality.get(task)).copied().collect();
    if of.is_empty() {
        return None;
    }
    let mean = mean_of_groups(&of);
    let given = |task: &String| known.quality_from.get(task) == Some(&Way::Given);
    match tasks.iter().any(given) {
        true => Some(Mean { stderr: 0.0, ci95: (mean.value, mean.value), ..mean }),
        false => Some(mean),
    }
}

/// The first task that two models were measured on in two ways, with both; scores that are given are not measured.
pub fn unlike(models: &[(String, Known)]) -> Option<String> {
    let mut ways: BTreeMap<&String, (&String, &Way)> = BTreeMap::new();
    for (name, known) in models {
        for (task, way) in known.quality_from.iter().filter(|(_, way)| **way != Way::Given) {
            let (first, before) = *ways.entry(task).or_insert((name, way));
            if before != way {
                return Some(format!("{task} of {first} is {before}; of {name} it is {way}"));
            }
        }
    }
    None
}

/// The load with the highest throughput.
fn busiest(known: &Known) -> Option<&Load> {
    known.loads.iter().max_by(|a, b| a.tok_s.total_cmp(&b.tok_s)).filter(|load| load.tok_s > 0.0)
}

fn blended(known: &Known) -> Option<Figure> {
    let (input, output) = (known.price_input.as_ref()?, known.price_output.as_ref()?);
    let blended = (3.0 * input.value + output.value) / 4.0;
    Some(Figure::new(blended, "prices given, three tokens read for one written"))
}

/// What a million tokens cost by the machine's hours, at the highest throughput.
fn cost(known: &Known, of: &str, tok_s: impl Fn(&Load) -> Option<f64>) -> Option<Figure> {
    let (hour, load) = (known.cost_per_hour?, busiest(known)?);
    let tok_s = tok_s(load).filter(|tok_s| *tok_s > 0.0)?;
    let from = format!("{hour} an hour at {tok_s:.1} {of}, {} at once", load.concurrency);
    Some(Figure::new(hour / (3600.0 * tok_s) * 1e6, from))
}

/// Counted at the load that gives most, else the watts given there.
fn energy(known: &Known) -> Option<Figure> {
    let load = busiest(known)?;
    if let Some(joules) = load.joules_per_token {
        let from = format!("counted by RAPL, the whole processor, {} at once", load.concurrency);
        return Some(Figure::new(joules, from));
    }
    let watts = known.watts?;
    let from = format!("{watts} W given, {:.1} tokens/s, {} at once", load.tok_s, load.concurrency);
    Some(Figure::new(watts / load.tok_s, from))
}

#[cfg(test)]
pub(crate) fn example() -> Vec<(String, Known)> {
    let score =
        |value: f64| Mean { value, stderr: 0.02, ci95: (value - 0.04, value + 0.04), n: 100 };
    let load = |concurrency, tok_s, output| Load {
        concurrency,
        tok_s,
        total_tok_s: Some(3.0 * tok_s),
        output_tok_s: Some(output),
        ttft_ms: (Some(40.0), Some(80.0)),
        joules_per_token: None,
    };
    let way = || Way::Measured {
        metric: "acc".to_owned(),
        shots: 5,
        version: 1,
        scorer_version: 2,
        items: 100,
    };
    let small = Known {
        context: Some(Figure::new(8192.0, "the model's files")),
        quality: [("arc".to_owned(), score(0.4)), ("mmlu".to_owned(), score(0.3))].into(),
        quality_from: [("arc".to_owned(), way()), ("mmlu".to_owned(), way())].into(),
        parameters: Some(Figure::new(134_515_008.0, "the model's files")),
        loads: vec![load(1, 90.0, 100.0), load(8, 400.0, 60.0)],
        loads_from: "herd bench serve".to_owned(),
        cost_per_hour: Some(0.36),
        watts: Some(40.0),
        ..Known::default()
    };
    let large = Known {
        quality: [("arc".to_owned(), score(0.6))].into(),
        quality_from: [("arc".to_owned(), way())].into(),
        price_input: Some(Figure::new(1.0, "given")),
        price_output: Some(Figure::new(5.0, "given")),
        ..Known::default()
    };
    vec![("small".to_owned(), small), ("large <1>".to_owned(), large)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_what_is_known() {
        let (tasks, columns) = beside(example());
        assert_eq!(tasks, ["arc"]); // what both have
        let [small, large] = &columns[..] else { panic!("two") };
        assert_eq!(small.quality.map(|quality| quality.value), Some(0.4));
        assert_eq!(small.speed.as_ref().map(|speed| speed.value), Some(100.0));
        assert_eq!(small.throughput.as_ref().map(|most| most.value), Some(400.0));
        // 0.36 an hour is 0.0001 a second; 400 tokens a second: 0.25 a million written, a third of it of all.
        assert!((small.cost_written.as_ref().unwrap().value - 0.25).abs() < 1e-12);
        assert!((small.cost_all.as_ref().unwrap().value - 0.25 / 3.0).abs() < 1e-12);
        assert!((small.energy.as_ref().unwrap().value - 0.1).abs() < 1e-12);
        assert_eq!((&small.blended, small.price()), (&None, small.cost_all.as_ref()));
        assert_eq!(large.blended.as_ref().unwrap().value, 2.0);
        assert_eq!(large.price(), large.blended.as_ref());
        assert_eq!((&large.speed, &large.energy, &large.cost_all), (&None, &None, &None));
    }

    #[test]
    fn energy_is_counted_where_throughput_is_highest_and_before_watts_that_were_given() {
        let mut models = example();
        models[0].1.loads[0].joules_per_token = Some(9.0);
        let energy = |models: &[(String, Known)]| {
            beside(models.to_vec()).1[0].energy.as_ref().map(|energy| energy.value)
        };
        assert_eq!(energy(&models), Some(0.1)); // counted at the other load alone: the watts given
        models[0].1.loads[1].joules_per_token = Some(0.5);
        assert_eq!(energy(&models), Some(0.5));
    }

    #[test]
    fn a_model_without_results_leaves_the_mean_to_the_others() {
        let mut models = example();
        models.push(("bare".to_owned(), Known::default()));
        models.rotate_right(1);
        let (tasks, columns) = beside(models);
        assert_eq!(tasks, ["arc"]);
        assert_eq!(columns.iter().filter(|column| column.quality.is_some()).count(), 2);
        assert_eq!(columns[0].quality, None);
    }

    #[test]
    fn scores_of_two_ways_are_told_and_given_ones_have_no_interval() {
        let mut models = example();
        assert_eq!(unlike(&models), None);
        let Some(Way::Measured { shots, .. }) = models[1].1.quality_from.get_mut("arc") else {
            panic!("measured")
        };
        *shots = 0;
        let told = unlike(&models).unwrap();
        assert!(told.contains("arc of small is acc, 5 examples, 100 items"), "{told}");
        assert!(told.contains("of large <1> it is acc, 0 examples"), "{told}");
        models[1].1.quality_from.insert("arc".to_owned(), Way::Given);
        assert_eq!(unlike(&models), None);
        let (_, columns) = beside(models);
        assert!(columns[0].quality.unwrap().interval().is_some());
        assert_eq!(columns[1].quality.unwrap().interval(), None);
    }
}
