//! How strong each model is: the model of Bradley and Terry, with intervals over prompts.
//!
//! ```text
//! P(i beats j) = p_i / (p_i + p_j)        a tie is half a win for each
//! p_i <- W_i / sum over j of n_ij / (p_i + p_j)                           until nothing moves
//! rating_i = 400 / ln 10 * (ln p_i - mean ln p)
//! ```
//!
//! Each pair that met is given one tie more than it had: a model that won every vote would else be infinitely strong.

use std::collections::{BTreeMap, BTreeSet};

use herd_engine::rng::uniform;
use serde::Serialize;

use super::{Vote, outcome};

/// How strong a model is, on the scale of chess: 400 points more are ten wins for one loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rating {
    /// Points above the mean of all models.
    pub points: f64,
    /// The middle 95 % of its ratings over prompts drawn anew.
    pub ci95: (f64, f64),
}

/// Wins of row over column.
type Wins = Vec<Vec<f64>>;

/// Steps of the fit at most; each pair's extra tie makes it converge long before.
const STEPS: usize = 20_000;

/// Ratings of `models` models, with intervals from `draws` drawings of clusters with replacement, by `seed`.
/// `None` if not all models met, over others at least: then nothing says how they compare.
///
/// Source: Hunter, "MM algorithms for generalized Bradley-Terry models" (2004), equation 3.
pub fn ratings(votes: &[Vote], models: usize, draws: usize, seed: u64) -> Option<Vec<Rating>> {
    let votes: Vec<&Vote> = votes.iter().filter(|vote| !vote.again).collect();
    let mut clusters: BTreeMap<&str, Vec<(usize, usize, f64)>> = BTreeMap::new();
    for vote in &votes {
        let (first, second, grade) = vote.ordered();
        let share = f64::from(outcome(grade) + 1) / 2.0;
        clusters.entry(&vote.cluster).or_default().push((first, second, share));
    }
    let clusters: Vec<Vec<(usize, usize, f64)>> = clusters.into_values().collect();
    let mut met = vec![vec![0.0; models]; models];
    for (first, second, _) in clusters.iter().flatten() {
        met[*first][*second] = 0.5;
        met[*second][*first] = 0.5;
    }
    if models == 0 || !connected(&met) {
        return None;
    }
    let points = fit(&wins(&met, clusters.iter()));
    let drawn = |draw: usize| {
        let n = clusters.len();
        let pick = |i: usize| (uniform(seed, draw as u64, i as u64) * n as f64) as usize;
        fit(&wins(&met, (0..n).map(|i| &clusters[pick(i)])))
    };
    let drawn: Vec<Vec<f64>> = (0..draws).map(drawn).collect();
    let rating = |i: usize| {
        let mut sorted: Vec<f64> = drawn.iter().map(|points| points[i]).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied().unwrap_or(points[i])
        };
        Rating { points: points[i], ci95: (at(0.025), at(0.975)) }
    };
    Some((0..models).map(rating).collect())
}

/// Ratings of the models that graded votes, repeats left out, are of; the others have none.
/// `None` if these did not all meet, over others at least.
pub fn rated(
    votes: &[Vote],
    models: usize,
    draws: usize,
    seed: u64,
) -> Option<Vec<Option<Rating>>> {
    let counted = votes.iter().filter(|vote| !vote.again);
    let met: BTreeSet<usize> = counted.flat_map(|vote| [vote.left, vote.right]).collect();
    let places: BTreeMap<usize, usize> = met.into_iter().zip(0..).collect();
    let place = |model: &usize| places.get(model).copied();
    let of_met = |vote: &Vote| {
        Some(Vote { left: place(&vote.left)?, right: place(&vote.right)?, ..vote.clone() })
    };
    let votes: Vec<Vote> = votes.iter().filter_map(of_met).collect();
    let found = ratings(&votes, places.len(), draws, seed)?;
    Some((0..models).map(|model| place(&model).map(|place| found[place])).collect())
}

/// Whether every model met every other, over others at least.
fn connected(met: &Wins) -> bool {
    let mut seen = vec![false; met.len()];
    let mut open = vec![0];
    while let Some(i) = open.pop() {
        if !std::mem::replace(&mut seen[i], true) {
            open.extend((0..met.len()).filter(|&j| met[i][j] > 0.0));
        }
    }
    seen.into_iter().all(|seen| seen)
}

fn wins<'a>(met: &Wins, clusters: impl Iterator<Item = &'a Vec<(usize, usize, f64)>>) -> Wins {
    let mut wins = met.clone();
    for (first, second, share) in clusters.flatten() {
        wins[*first][*second] += share;
        wins[*second][*first] += 1.0 - share;
    }
    wins
}

/// The points of each model.
fn fit(wins: &Wins) -> Vec<f64> {
    let n = wins.len();
    let mut p = vec![1.0f64; n];
    for _ in 0..STEPS {
        let mut next: Vec<f64> = (0..n)
            .map(|i| {
                let games = |j: usize| (wins[i][j] + wins[j][i]) / (p[i] + p[j]);
                let below: f64 = (0..n).filter(|&j| j != i).map(games).sum();
                let won: f64 = wins[i].iter().sum();
                if below > 0.0 { won / below } else { 1.0 }
            })
            .collect();
        let middle = (next.iter().map(|p| p.ln()).sum::<f64>() / n as f64).exp();
        next.iter_mut().for_each(|p| *p /= middle);
        let moved = p.iter().zip(&next).map(|(a, b)| (a.ln() - b.ln()).abs()).fold(0.0, f64::max);
        p = next;
        if moved < 1e-12 {
            break;
        }
    }
    p.into_iter().map(|p| 400.0 / std::f64::consts::LN_10 * p.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::vote;
    use super::*;

    #[test]
    fn two_models_have_the_ratio_of_their_wins() {
        let votes: Vec<Vote> =
            (0..10).map(|i| vote("ann", i, i % 2, 1 - i % 2, [3, -3][i % 2])).collect();
        // Model 0 wins all ten; with half a win for the other: ln(10.5 / 0.5).
        let found = ratings(&votes, 2, 0, 1).unwrap();
        let points = 400.0 * (10.5f64 / 0.5).log10();
        assert!((found[0].points - found[1].points - points).abs() < 1e-6, "{found:?}");
        assert!((found[0].points + found[1].points).abs() < 1e-9);
    }

    #[test]
    fn strengths_that_votes_were_drawn_by_are_found_within_four_standard_errors() {
        let strengths = [1.0, 2.0, 4.0];
        let mut votes = Vec::new();
        for i in 0..3000 {
            let (a, b) = [(0, 1), (1, 2), (2, 0)][i % 3];
            let share = strengths[a] / (strengths[a] + strengths[b]);
            let won = uniform(7, 1, i as u64) < share;
            votes.push(vote("ann", i, a, b, if won { 2 } else { -2 }));
        }
        let found = ratings(&votes, 3, 200, 1).unwrap();
        for (i, strength) in strengths.iter().enumerate() {
            let truth = 400.0 * (strength / 2.0f64).log10();
            let Rating { points, ci95 } = found[i];
            // The information of a thousand games a pair gives 1.96 standard errors of some 11 points.
            let half = (ci95.1 - ci95.0) / 2.0;
            assert!((8.0..16.0).contains(&half) && ci95.0 < points && points < ci95.1, "{ci95:?}");
            assert!((points - truth).abs() < 2.0 * half, "{points} {truth}");
        }
        assert_eq!(found, ratings(&votes, 3, 200, 1).unwrap());
        assert_ne!(found, ratings(&votes, 3, 200, 2).unwrap());
    }

    #[test]
    fn models_that_never_met_are_not_ranked() {
        let votes = [vote("ann", 0, 0, 1, 3), vote("ann", 1, 2, 3, 3)];
        assert_eq!(ratings(&votes, 4, 10, 1), None);
        assert_eq!(ratings(&[], 2, 10, 1), None);
    }

    #[test]
    fn a_model_without_a_vote_takes_no_rating_from_others() {
        // Model 1 has only a repeat; 0, 2 and 3 met.
        let again = Vote { again: true, ..vote("ann", 3, 1, 0, 3) };
        let votes = [vote("ann", 0, 0, 2, 3), vote("ann", 1, 3, 2, 3), again];
        let found = rated(&votes, 4, 20, 1).unwrap();
        let alone = [vote("ann", 0, 0, 1, 3), vote("ann", 1, 2, 1, 3)];
        let alone = ratings(&alone, 3, 20, 1).unwrap();
        assert_eq!(found, [Some(alone[0]), None, Some(alone[1]), Some(alone[2])]);
        assert_eq!(rated(&[vote("ann", 0, 0, 1, 3), vote("ann", 1, 2, 3, 3)], 4, 20, 1), None);
        assert_eq!(rated(&[], 4, 20, 1), None);
    }
}
