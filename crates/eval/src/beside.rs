//! Models side by side: what each can hold, how good, how fast and how dear it is, with where each figure is from.
//!
//! ```text
//! cost of 1e6 tokens = cost of an hour / (3600 * tokens a second) * 1e6
//! energy of a token  = watts * seconds / tokens                           or joules counted / tokens
//! blended price      = (3 * input + output) / 4                           three tokens read for one written
//! ```

mod page;
mod plot;

pub use page::{csv, html, markdown};
pub use plot::{Axis, Point, plot};

use std::collections::BTreeMap;

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
    /// Tokens a second of one answer, from its first token on: the median.
    pub output_tok_s: Option<f64>,
    /// Milliseconds to the first token: median and 95th of a hundred.
    pub ttft_ms: (Option<f64>, Option<f64>),
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
    /// Joules of a token written that were counted.
    pub joules_per_token: Option<Figure>,
}

/// A model among others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What was given and measured.
    pub known: Known,
    /// The mean of the tasks that all models have, each counting the same.
    pub quality: Option<Mean>,
    /// Tokens a second of one answer alone, from its first token on.
    pub speed: Option<Figure>,
    /// Milliseconds to the first token of one answer alone.
    pub ttft_ms: Option<Figure>,
    /// What a million tokens cost: the blended price, else the cost at the highest throughput.
    pub price: Option<Figure>,
    /// Joules of a token written.
    pub energy: Option<Figure>,
}

/// Puts models side by side, in their order; the tasks that `quality` is the mean of.
pub fn beside(models: Vec<(String, Known)>) -> (Vec<String>, Vec<Column>) {
    let tasks = common(&models);
    let column = |(name, known): (String, Known)| {
        let of: Vec<Mean> = tasks.iter().map(|task| known.quality[task]).collect();
        let alone = known.loads.iter().min_by_key(|load| load.concurrency);
        let at = |load: &Load| format!("{}, {} at once", known.loads_from, load.concurrency);
        Column {
            quality: (!of.is_empty()).then(|| mean_of_groups(&of)),
            speed: alone.and_then(|load| Some(Figure::new(load.output_tok_s?, at(load)))),
            ttft_ms: alone.and_then(|load| Some(Figure::new(load.ttft_ms.0?, at(load)))),
            price: price(&known),
            energy: energy(&known),
            name,
            known,
        }
    };
    (tasks.clone(), models.into_iter().map(column).collect())
}

/// Tasks that every model was measured on.
fn common(models: &[(String, Known)]) -> Vec<String> {
    let Some((_, first)) = models.first() else { return Vec::new() };
    let all = |task: &&String| models.iter().all(|(_, known)| known.quality.contains_key(*task));
    first.quality.keys().filter(all).cloned().collect()
}

/// The load with the highest throughput.
fn busiest(known: &Known) -> Option<&Load> {
    known.loads.iter().max_by(|a, b| a.tok_s.total_cmp(&b.tok_s)).filter(|load| load.tok_s > 0.0)
}

fn price(known: &Known) -> Option<Figure> {
    if let (Some(input), Some(output)) = (&known.price_input, &known.price_output) {
        let blended = (3.0 * input.value + output.value) / 4.0;
        return Some(Figure::new(blended, "given, three tokens read for one written"));
    }
    let load = busiest(known)?;
    let cost = known.cost_per_hour? / (3600.0 * load.tok_s) * 1e6;
    let from = format!(
        "{} an hour at {:.1} tokens/s written, {} at once",
        known.cost_per_hour?, load.tok_s, load.concurrency
    );
    Some(Figure::new(cost, from))
}

fn energy(known: &Known) -> Option<Figure> {
    if known.joules_per_token.is_some() {
        return known.joules_per_token.clone();
    }
    let (watts, load) = (known.watts?, busiest(known)?);
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
        output_tok_s: Some(output),
        ttft_ms: (Some(40.0), Some(80.0)),
    };
    let small = Known {
        context: Some(Figure::new(8192.0, "the model's files")),
        quality: [("arc".to_owned(), score(0.4)), ("mmlu".to_owned(), score(0.3))].into(),
        loads: vec![load(1, 90.0, 100.0), load(8, 400.0, 60.0)],
        loads_from: "herd bench serve".to_owned(),
        cost_per_hour: Some(0.36),
        watts: Some(40.0),
        ..Known::default()
    };
    let large = Known {
        quality: [("arc".to_owned(), score(0.6))].into(),
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
        // 0.36 an hour is 0.0001 a second; 400 tokens a second: 0.25 a million.
        assert!((small.price.as_ref().unwrap().value - 0.25).abs() < 1e-12);
        assert!((small.energy.as_ref().unwrap().value - 0.1).abs() < 1e-12);
        assert_eq!(large.price.as_ref().unwrap().value, 2.0);
        assert_eq!((&large.speed, &large.energy), (&None, &None));
    }

    #[test]
    fn counted_energy_stands_before_watts_that_were_given() {
        let mut models = example();
        models[0].1.joules_per_token = Some(Figure::new(0.5, "RAPL"));
        let (_, columns) = beside(models);
        assert_eq!(columns[0].energy, Some(Figure::new(0.5, "RAPL")));
    }
}
