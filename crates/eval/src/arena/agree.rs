//! How far judges can be trusted: with themselves, with one another, with where an answer stands.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Vote, outcome};
use crate::stats::{Difference, Mean, difference, mean};

/// How often two votes on the same answers say the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Pairs of votes.
    pub n: usize,
    /// Share that says the same of win, tie and loss.
    pub same: f64,
    /// The same beyond chance: Cohen's kappa of the three outcomes. None where all votes say one thing.
    pub kappa: Option<f64>,
    /// Kappa of the seven grades, far misses weighing as the square of their distance.
    pub weighted_kappa: Option<f64>,
}

impl Agreement {
    /// Of pairs of grades, each of the same answers in the same order. `None` of no pairs.
    pub fn of(pairs: &[(i8, i8)]) -> Option<Agreement> {
        if pairs.is_empty() {
            return None;
        }
        let n = pairs.len();
        let same = pairs.iter().filter(|(a, b)| outcome(*a) == outcome(*b)).count();
        let outcomes: Vec<(i8, i8)> =
            pairs.iter().map(|(a, b)| (outcome(*a), outcome(*b))).collect();
        let unequal = |a: i8, b: i8| f64::from(u8::from(a != b));
        let squared = |a: i8, b: i8| f64::from(a - b) * f64::from(a - b);
        Some(Agreement {
            n,
            same: same as f64 / n as f64,
            kappa: kappa(&outcomes, unequal),
            weighted_kappa: kappa(pairs, squared),
        })
    }
}

/// 1 - (mean cost of the pairs) / (mean cost if the two sides were independent).
///
/// Source: Cohen, "Weighted kappa" (1968).
fn kappa(pairs: &[(i8, i8)], cost: impl Fn(i8, i8) -> f64) -> Option<f64> {
    let n = pairs.len() as f64;
    let observed = pairs.iter().map(|(a, b)| cost(*a, *b)).sum::<f64>() / n;
    let share = |of: fn(&(i8, i8)) -> i8| {
        let mut shares = BTreeMap::new();
        pairs.iter().for_each(|pair| *shares.entry(of(pair)).or_insert(0.0) += 1.0 / n);
        shares
    };
    let (first, second) = (share(|pair| pair.0), share(|pair| pair.1));
    let both = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    let chance: f64 = both.map(|((a, p), (b, q))| p * q * cost(*a, *b)).sum();
    (chance > 1e-12).then(|| 1.0 - observed / chance)
}

/// What is known of a judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judge {
    /// Votes, repeats left out.
    pub votes: usize,
    /// Of pairs that were shown again, the sides swapped.
    pub own: Option<Agreement>,
    /// With the votes of others on the same answers.
    pub others: Option<Agreement>,
    /// Half of the votes took no longer.
    pub seconds_median: f64,
    /// One vote of twenty took no longer.
    pub seconds_p5: f64,
    /// Where the winners stood.
    pub position: Position,
}

/// What is known of each judge, by name.
pub fn judges(votes: &[Vote]) -> BTreeMap<String, Judge> {
    let mut first: BTreeMap<(&str, usize, usize), Vec<&Vote>> = BTreeMap::new();
    for vote in votes.iter().filter(|vote| !vote.again) {
        first.entry(vote.matter()).or_default().push(vote);
    }
    let against = |vote: &Vote, own: bool| -> Vec<(i8, i8)> {
        let others = first.get(&vote.matter()).into_iter().flatten();
        let others = others.filter(|other| (other.judge == vote.judge) == own);
        others.map(|other| (vote.ordered().2, other.ordered().2)).collect()
    };
    let mut apart: BTreeMap<&str, Vec<&Vote>> = BTreeMap::new();
    votes.iter().for_each(|vote| apart.entry(&vote.judge).or_default().push(vote));
    let judge = |of: &[&Vote]| {
        let pairs = |again: bool| -> Vec<(i8, i8)> {
            let votes = of.iter().filter(|vote| vote.again == again);
            votes.flat_map(|vote| against(vote, again)).collect()
        };
        let mut seconds: Vec<f64> = of.iter().map(|vote| vote.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| seconds[((share * seconds.len() as f64).ceil() as usize).max(1) - 1];
        let counted: Vec<&Vote> = of.iter().copied().filter(|vote| !vote.again).collect();
        Judge {
            votes: counted.len(),
            own: Agreement::of(&pairs(true)),
            others: Agreement::of(&pairs(false)),
            seconds_median: at(0.5),
            seconds_p5: at(0.05),
            position: position(of.iter().copied()).expect("a judge has a vote"),
        }
    };
    apart.into_iter().map(|(name, of)| (name.to_owned(), judge(&of))).collect()
}

/// Whether the left answer is preferred for standing left. Sides are balanced, so nobody should prefer one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Position {
    /// Share of votes by which left is better or much better.
    pub left: f64,
    /// The same of right.
    pub right: f64,
    /// The mean grade of left, with how often it would be so far from 0 by chance.
    pub grade: Difference,
}

/// Of all votes, repeats as well: their sides are swapped. `None` of no votes.
pub fn position<'a>(votes: impl IntoIterator<Item = &'a Vote>) -> Option<Position> {
    let votes: Vec<&Vote> = votes.into_iter().collect();
    if votes.is_empty() {
        return None;
    }
    let share = |wanted: i8| {
        let found = votes.iter().filter(|vote| outcome(vote.grade) == wanted).count();
        found as f64 / votes.len() as f64
    };
    let grades: Vec<f64> = votes.iter().map(|vote| f64::from(vote.grade)).collect();
    let clusters: Vec<String> = votes.iter().map(|vote| vote.cluster.clone()).collect();
    let grade = difference(&vec![0.0; grades.len()], &grades, Some(&clusters));
    Some(Position { left: share(1), right: share(-1), grade })
}

/// How far a model that judges agrees with people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Pairs of answers on which it gave a verdict in both orders.
    pub pairs: usize,
    /// Share of these on which both orders say the same of win, tie and loss.
    pub consistent: f64,
    /// Where its winners stood.
    pub position: Option<Position>,
    /// With each vote of people on the same answers; its verdict is the mean of both orders, and a tie where they differ in who wins.
    pub people: Option<Agreement>,
    /// Share of people's votes whose better answer it finds better too, by how much better it was to them: 1 slightly, 3 much. No
    /// preference of its own counts half.
    pub accuracy: BTreeMap<u8, Mean>,
    /// People with one another, for comparison.
    pub people_others: Option<Agreement>,
}

/// Calibrates the verdicts of one judge, `left` and `right` as in votes and both orders of each pair, against people's votes.
pub fn calibration(verdicts: &[Vote], people: &[Vote]) -> Calibration {
    let mut orders: BTreeMap<(&str, usize, usize), Vec<i8>> = BTreeMap::new();
    for verdict in verdicts {
        orders.entry(verdict.matter()).or_default().push(verdict.ordered().2);
    }
    orders.retain(|_, grades| grades.len() == 2);
    let consistent = orders.values().filter(|of| outcome(of[0]) == outcome(of[1])).count();
    let combined: BTreeMap<(&str, usize, usize), i8> =
        orders.iter().map(|(matter, of)| (*matter, combine(of[0], of[1]))).collect();
    let (mut pairs, mut right) = (Vec::new(), BTreeMap::new());
    for vote in people.iter().filter(|vote| !vote.again) {
        let Some(&verdict) = combined.get(&vote.matter()) else { continue };
        let (_, _, grade) = vote.ordered();
        pairs.push((grade, verdict));
        if grade != 0 {
            let of: &mut (Vec<f64>, Vec<String>) = right.entry(grade.unsigned_abs()).or_default();
            let sign = verdict.signum() * grade.signum();
            of.0.push(f64::from(sign + 1) / 2.0);
            of.1.push(vote.cluster.clone());
        }
    }
    let accuracy = right
        .into_iter()
        .map(|(strength, (hits, clusters))| (strength, mean(&hits, Some(&clusters))));
    Calibration {
        pairs: orders.len(),
        consistent: consistent as f64 / orders.len().max(1) as f64,
        position: position(verdicts),
        people: Agreement::of(&pairs),
        accuracy: accuracy.collect(),
        people_others: among(people),
    }
}

/// The verdict of two orders: their mean, toward 0; 0 if they contradict each other.
fn combine(a: i8, b: i8) -> i8 {
    if a.signum() * b.signum() < 0 { 0 } else { (a + b) / 2 }
}

/// People with one another: each pair of votes by different judges on the same answers.
pub fn among(people: &[Vote]) -> Option<Agreement> {
    let mut apart: BTreeMap<(&str, usize, usize), Vec<&Vote>> = BTreeMap::new();
    for vote in people.iter().filter(|vote| !vote.again) {
        apart.entry(vote.matter()).or_default().push(vote);
    }
    let mut pairs = Vec::new();
    for of in apart.values() {
        for (i, a) in of.iter().enumerate() {
            let others = of[i + 1..].iter().filter(|b| b.judge != a.judge);
            // Both ways round, so that it does not matter who came first.
            pairs.extend(others.flat_map(|b| {
                let (a, b) = (a.ordered().2, b.ordered().2);
                [(a, b), (b, a)]
            }));
        }
    }
    let agreement = Agreement::of(&pairs);
    agreement.map(|agreement| Agreement { n: agreement.n / 2, ..agreement })
}

#[cfg(test)]
mod tests {
    use super::super::vote;
    use super::*;

    #[test]
    fn kappa_is_agreement_beyond_chance() {
        // Cohen's example of two by two: 20 both yes, 15 both no, 5 and 10 apart; kappa is 0.4.
        let mut pairs = vec![(3, 3); 20];
        pairs.extend([(3, -3); 5].into_iter().chain([(-3, 3); 10]).chain([(-3, -3); 15]));
        let Agreement { n, same, kappa, weighted_kappa } = Agreement::of(&pairs).unwrap();
        assert_eq!((n, same), (50, 0.7));
        assert!(
            (kappa.unwrap() - 0.4).abs() < 1e-12 && (weighted_kappa.unwrap() - 0.4).abs() < 1e-12
        );
        // A near miss costs less than a far one.
        let near = Agreement::of(&[(3, 2), (-3, -3), (0, 0)]).unwrap().weighted_kappa.unwrap();
        let far = Agreement::of(&[(3, -2), (-3, -3), (0, 0)]).unwrap().weighted_kappa.unwrap();
        assert!(near > 0.9 && far < 0.5, "{near} {far}");
        assert_eq!(Agreement::of(&[(1, 0)]).unwrap().kappa, None);
        assert_eq!(Agreement::of(&[]), None);
    }

    #[test]
    fn a_judge_is_held_against_repeats_and_against_others() {
        let votes = [
            vote("ann", 0, 0, 1, 3),
            vote("ann", 1, 0, 1, -2),
            Vote { again: true, seconds: 2.0, ..vote("ann", 0, 1, 0, -3) }, // the same, swapped
            Vote { again: true, ..vote("ann", 1, 1, 0, -2) },               // now the other way
            vote("bob", 0, 1, 0, -2),
        ];
        let found = judges(&votes);
        let ann = &found["ann"];
        assert_eq!((ann.votes, ann.seconds_median, ann.seconds_p5), (2, 10.0, 2.0));
        assert_eq!(ann.own.map(|own| (own.n, own.same)), Some((2, 0.5)));
        assert_eq!(ann.others.map(|others| (others.n, others.same)), Some((1, 1.0)));
        assert_eq!(found["bob"].own, None);
        let all = among(&votes).unwrap();
        assert_eq!((all.n, all.same), (1, 1.0));
    }

    #[test]
    fn a_judge_who_looks_left_alone_is_found_out() {
        let votes: Vec<Vote> = (0..40).map(|i| vote("ann", i, i % 2, 1 - i % 2, 2)).collect();
        let found = position(&votes).unwrap();
        assert_eq!((found.left, found.right, found.grade.difference), (1.0, 0.0, 2.0));
        assert!(found.grade.p < 1e-6);
        let fair: Vec<Vote> =
            (0..40).map(|i| vote("ann", i, i % 2, 1 - i % 2, [2, -2][i % 2])).collect();
        assert_eq!(position(&fair).unwrap().grade.difference, 0.0);
    }

    #[test]
    fn a_model_is_calibrated_against_people() {
        let people = [
            vote("ann", 0, 0, 1, 3),
            vote("ann", 1, 0, 1, 3),
            vote("ann", 2, 0, 1, -1),
            vote("ann", 3, 0, 1, 0),
            vote("ann", 4, 0, 1, 2),
        ];
        let verdict = |prompt, left: i8, right: i8| {
            [vote("model", prompt, 0, 1, left), vote("model", prompt, 1, 0, right)]
        };
        // Right in both orders, left in both orders, right, a tie, and only one order.
        let mut verdicts =
            [verdict(0, 3, -3), verdict(1, 2, 2), verdict(2, -2, 3), verdict(3, 0, 0)].concat();
        verdicts.push(vote("model", 4, 0, 1, 2));
        let found = calibration(&verdicts, &people);
        assert_eq!((found.pairs, found.consistent), (4, 0.75));
        assert_eq!((found.accuracy[&3].value, found.accuracy[&3].n), (0.75, 2));
        assert_eq!((found.accuracy[&1].value, found.accuracy.contains_key(&2)), (1.0, false));
        assert_eq!(found.people.map(|people| (people.n, people.same)), Some((4, 0.5)));
    }
}
