//! Pairs of answers, the votes on them, and which annotators are to be heard.
//!
//! An annotator's agreement is the share of the votes of others on the same pairs that are the same as its own. Where the whole
//! 95 % interval of that lies below one half the annotator is against the others: the farthest is no longer
//! heard, and agreement is taken again without it.

use crate::error::TrainError;
use crate::paired::share;
use crate::rejection::SampleRow;
use crate::round::config::CollectConfig;
use herd_engine::rng::uniform;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Two answers to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Its place among those of the round, from 0.
    pub pair: u64,
    /// The messages up to the answers.
    pub prompt: Vec<Value>,
    /// The answers.
    pub answers: [String; 2],
    /// The hashes of the weights that gave them.
    pub policy_hashes: [String; 2],
    /// What scores make of them.
    pub scores: [f64; 2],
}

/// What people see of a pair: not who wrote which, nor what scores make of it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown<'a> {
    pair: u64,
    prompt: &'a [Value],
    answers: &'a [String; 2],
}

impl Pair {
    /// For people.
    pub fn shown(&self) -> Shown<'_> {
        Shown { pair: self.pair, prompt: &self.prompt, answers: &self.answers }
    }
}

/// What an annotator says of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// The pair.
    pub pair: u64,
    /// Who.
    pub annotator: String,
    /// The better answer: 0 or 1.
    pub better: usize,
}

/// What is known of an annotator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Who.
    pub annotator: String,
    /// Votes.
    pub votes: u64,
    /// Votes of others on the same pairs.
    pub compared: u64,
    /// Those that agree.
    pub agreed: u64,
    /// Whether its votes count.
    pub heard: bool,
}

/// Preferences, and what is known of those who gave them.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Rows of preferences: prompt, chosen, rejected, strength, and who made them.
    pub rows: Vec<Value>,
    /// Annotators by name.
    pub annotators: Vec<Quality>,
    /// Pairs on which those who are heard are even, or nobody voted.
    pub undecided: u64,
}

/// The pairs in a file of samples with two answers a prompt, and the file of its best answers. Answers that are the same, or
/// that are to be rejected, make no pair; nor do answers with tools, for which a pair has no place. Which answer
/// comes first is drawn.
///
/// Errors: the files are not of one run.
pub fn pairs(rows: &[SampleRow], best: &Path, seed: u64) -> Result<Vec<Pair>, TrainError> {
    let damaged = |what: String| TrainError::Damaged { path: best.to_owned(), what };
    let text = std::fs::read_to_string(best).map_err(|e| TrainError::io("read", best, e))?;
    // The rows of one prompt say the same up to the answer.
    let mut said: BTreeMap<String, Value> = BTreeMap::new();
    for (i, line) in text.lines().enumerate() {
        let row: Value =
            serde_json::from_str(line).map_err(|e| damaged(format!("line {}: {e}", i + 1)))?;
        said.insert(row["prompt_id"].as_str().unwrap_or_default().to_owned(), row);
    }
    let mut pairs: Vec<Pair> = Vec::new();
    for group in rows.chunk_by(SampleRow::same_prompt) {
        let [a, b] = group else {
            return Err(damaged(format!("{} answers to a prompt, expected 2", group.len())));
        };
        let (Some(first), Some(second), true) = (a.total, b.total, a.text != b.text) else {
            continue;
        };
        if a.rejected.is_some() || b.rejected.is_some() {
            continue;
        }
        let row = said.get(&a.prompt);
        let row = row.ok_or_else(|| damaged(format!("no answer to prompt {:?}", a.prompt)))?;
        if row.get("tools").is_some() || row.get("builtin_tools").is_some() {
            continue;
        }
        let mut prompt = row["messages"].as_array().cloned().unwrap_or_default();
        prompt.pop();
        let mut pair = Pair {
            pair: pairs.len() as u64,
            prompt,
            answers: [a.text.clone(), b.text.clone()],
            policy_hashes: [a.policy_hash.clone(), b.policy_hash.clone()],
            scores: [first, second],
        };
        if uniform(seed, PLACES, pair.pair) < 0.5 {
            pair.answers.reverse();
            pair.policy_hashes.reverse();
            pair.scores.reverse();
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

/// The stream of numbers that decide which answer comes first; annotators have those from 0 on.
const PLACES: u64 = u64::MAX;

/// What simulated annotators say: the answer with the greater score is better, but for the share of their votes that is the wrong way
/// round. Of equal scores nobody says anything. Who judges a pair is drawn.
pub fn simulated(config: &CollectConfig, seed: u64, pairs: &[Pair]) -> Vec<Vote> {
    let mut votes = Vec::new();
    for pair in pairs.iter().filter(|pair| pair.scores[0] != pair.scores[1]) {
        let mut drawn: Vec<(f64, usize)> = (0..config.annotator.len())
            .map(|a| (uniform(seed, a as u64, 2 * pair.pair), a))
            .collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut judges: Vec<usize> =
            drawn.into_iter().take(config.judges).map(|(_, a)| a).collect();
        judges.sort_unstable();
        for a in judges {
            let annotator = &config.annotator[a];
            let better = usize::from(pair.scores[1] > pair.scores[0]);
            let wrong = uniform(seed, a as u64, 2 * pair.pair + 1) < annotator.wrong;
            let better = if wrong { 1 - better } else { better };
            votes.push(Vote { pair: pair.pair, annotator: annotator.name.clone(), better });
        }
    }
    votes
}

/// Preferences of the majority of those who are heard.
///
/// Errors: a vote on a pair that is not there, or for an answer that is not; a second vote on a pair by one annotator.
pub fn judge(pairs: &[Pair], votes: &[Vote]) -> Result<Judged, TrainError> {
    if let Some(vote) = votes.iter().find(|vote| vote.better > 1 || vote.pair >= pairs.len() as u64)
    {
        let value = format!("pair {}, better {}", vote.pair, vote.better);
        return Err(TrainError::no(
            "vote",
            value,
            &format!("a pair below {}, better 0 or 1", pairs.len()),
        ));
    }
    let mut on: BTreeMap<u64, Vec<&Vote>> = BTreeMap::new();
    for vote in votes {
        let others = on.entry(vote.pair).or_default();
        if others.iter().any(|other| other.annotator == vote.annotator) {
            let value = format!("{} on pair {}, again", vote.annotator, vote.pair);
            return Err(TrainError::no("vote", value, "one vote of an annotator on a pair"));
        }
        others.push(vote);
    }
    let annotators = heard(&on);
    let counts =
        |vote: &&&Vote| annotators.iter().any(|a| a.heard && a.annotator == vote.annotator);
    let mut rows = Vec::new();
    for (pair, votes) in &on {
        let of = |answer: usize| {
            votes.iter().filter(counts).filter(|vote| vote.better == answer).count()
        };
        let (first, second) = (of(0), of(1));
        if first == second {
            continue;
        }
        let better = usize::from(second > first);
        let strength = if first == 0 || second == 0 { "significantly_better" } else { "better" };
        rows.push(row(&pairs[*pair as usize], better, strength, votes));
    }
    let undecided = (pairs.len() - rows.len()) as u64;
    Ok(Judged { rows, annotators, undecided })
}

fn row(pair: &Pair, better: usize, strength: &str, votes: &[&Vote]) -> Value {
    let answer = |k: usize| json!([{ "role": "assistant", "content": pair.answers[k] }]);
    json!({
        "prompt": pair.prompt,
        "chosen": answer(better),
        "rejected": answer(1 - better),
        "strength": strength,
        "pair": pair.pair,
        "policy_hashes": [pair.policy_hashes[better], pair.policy_hashes[1 - better]],
        "annotators": votes.iter().map(|vote| &vote.annotator).collect::<Vec<_>>(),
    })
}

/// Who agrees with whom, and who is to be heard. Of two nobody can say who is against whom, nor of those who are equally far from
/// the others.
fn heard(on: &BTreeMap<u64, Vec<&Vote>>) -> Vec<Quality> {
    let mut annotators: BTreeMap<&str, Quality> = BTreeMap::new();
    for vote in on.values().flatten() {
        let new = || Quality {
            annotator: vote.annotator.clone(),
            votes: 0,
            compared: 0,
            agreed: 0,
            heard: true,
        };
        annotators.entry(&vote.annotator).or_insert_with(new).votes += 1;
    }
    loop {
        for quality in annotators.values_mut().filter(|quality| quality.heard) {
            (quality.compared, quality.agreed) = (0, 0);
        }
        for votes in on.values() {
            for (i, vote) in votes.iter().enumerate() {
                if !annotators[vote.annotator.as_str()].heard {
                    continue;
                }
                let others = votes
                    .iter()
                    .enumerate()
                    .filter(|(j, other)| *j != i && annotators[other.annotator.as_str()].heard);
                let (compared, agreed) = others.fold((0, 0), |(all, same), (_, other)| {
                    (all + 1, same + u64::from(other.better == vote.better))
                });
                let quality = annotators.get_mut(vote.annotator.as_str()).expect("it was counted");
                quality.compared += compared;
                quality.agreed += agreed;
            }
        }
        let rate = |quality: &Quality| quality.agreed as f64 / quality.compared as f64;
        let against = |quality: &&Quality| {
            quality.heard && quality.compared > 0 && share(rate(quality), quality.compared).1 < 0.5
        };
        let mut found: Vec<&Quality> = annotators.values().filter(against).collect();
        found.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
        let alone = match found[..] {
            [] => None,
            [one] => Some(one),
            [one, next, ..] => (rate(one) < rate(next)).then_some(one),
        };
        let several = annotators.values().filter(|quality| quality.heard).count() > 2;
        let Some(name) = alone.filter(|_| several).map(|q| q.annotator.clone()) else { break };
        annotators.get_mut(name.as_str()).expect("it was found there").heard = false;
    }
    annotators.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::config::{Annotator, By};

    fn toy(pairs: u64) -> Vec<Pair> {
        let pair = |pair: u64| Pair {
            pair,
            prompt: vec![json!({ "role": "user", "content": "Say it." })],
            answers: ["a".into(), "b".into()],
            policy_hashes: ["p".into(), "q".into()],
            scores: [(pair % 2) as f64, ((pair + 1) % 2) as f64],
        };
        (0..pairs).map(pair).collect()
    }

    fn crowd(wrong: &[f64], judges: usize) -> CollectConfig {
        let annotator =
            |(i, wrong): (usize, &f64)| Annotator { name: format!("a{i}"), wrong: *wrong };
        CollectConfig {
            by: By::Scores,
            annotator: wrong.iter().enumerate().map(annotator).collect(),
            judges,
            score: vec![],
            temperature: 1.0,
            max_tokens: 8,
            context: 64,
            unfinished: crate::rejection::Unfinished::Keep,
        }
    }

    #[test]
    fn an_adversary_is_found_and_honest_annotators_are_not() {
        for seed in 0..20 {
            let pairs = toy(120);
            let votes = simulated(&crowd(&[0.05, 0.1, 1.0, 0.1, 0.2], 3), seed, &pairs);
            let judged = judge(&pairs, &votes).unwrap();
            let silent: Vec<&str> = judged
                .annotators
                .iter()
                .filter(|a| !a.heard)
                .map(|a| a.annotator.as_str())
                .collect();
            assert_eq!(silent, ["a2"], "seed {seed}: {:?}", judged.annotators);
            let right = |row: &&Value| {
                let pair = &pairs[row["pair"].as_u64().unwrap() as usize];
                let best = usize::from(pair.scores[1] > pair.scores[0]);
                row["chosen"][0]["content"] == pair.answers[best].as_str()
            };
            let share = judged.rows.iter().filter(right).count() as f64 / judged.rows.len() as f64;
            assert!(share > 0.93, "seed {seed}: {share}");
        }
    }

    #[test]
    fn honest_crowds_lose_nobody_and_two_adversaries_of_six_are_found() {
        for seed in 0..20 {
            let pairs = toy(150);
            let honest =
                judge(&pairs, &simulated(&crowd(&[0.1, 0.2, 0.1], 3), seed, &pairs)).unwrap();
            assert!(honest.annotators.iter().all(|a| a.heard), "seed {seed}");
            let mixed = crowd(&[0.05, 1.0, 0.05, 0.9, 0.1, 0.05], 4);
            let judged = judge(&pairs, &simulated(&mixed, seed, &pairs)).unwrap();
            let silent: Vec<&str> = judged
                .annotators
                .iter()
                .filter(|a| !a.heard)
                .map(|a| a.annotator.as_str())
                .collect();
            assert_eq!(silent, ["a1", "a3"], "seed {seed}");
        }
    }

    #[test]
    fn of_two_who_never_agree_neither_is_silenced() {
        let votes = (0..21).flat_map(|pair| {
            [("alice", 0), ("mallory", 1)].map(|(annotator, better)| Vote {
                pair,
                annotator: annotator.into(),
                better,
            })
        });
        let judged = judge(&toy(21), &votes.collect::<Vec<_>>()).unwrap();
        assert!(judged.annotators.iter().all(|quality| quality.heard));
        assert_eq!((judged.rows.len(), judged.undecided), (0, 21));
    }

    #[test]
    fn votes_that_cannot_be_are_refused_and_even_ones_decide_nothing() {
        let pairs = toy(3);
        let vote = |pair: u64, annotator: &str, better: usize| Vote {
            pair,
            annotator: annotator.into(),
            better,
        };
        assert!(judge(&pairs, &[vote(3, "x", 0)]).unwrap_err().to_string().contains("pair 3"));
        assert!(judge(&pairs, &[vote(0, "x", 2)]).unwrap_err().to_string().contains("better 2"));
        let twice = judge(&pairs, &[vote(0, "x", 0), vote(0, "y", 0), vote(0, "x", 0)]);
        assert!(twice.unwrap_err().to_string().contains("x on pair 0"));
        let judged = judge(&pairs, &[vote(0, "x", 0), vote(0, "y", 1), vote(1, "x", 1)]).unwrap();
        assert_eq!((judged.rows.len(), judged.undecided), (1, 2));
        assert_eq!(judged.rows[0]["strength"], "significantly_better");
    }
}
