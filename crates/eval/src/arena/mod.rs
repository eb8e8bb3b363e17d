//! Votes between pairs of answers, counted as the paper counts (arXiv 2407.21783, section 5.3).
//!
//! ```text
//! votes -> tallies: wins, ties, losses, each with its interval     here
//!       -> ratings: Bradley-Terry, intervals over prompts          rank
//!       -> judges: with themselves, with others, how long          agree
//! ```

mod agree;
mod rank;
mod skills;

pub use agree::{Agreement, Calibration, Judge, Position, among, calibration, judges, position};
pub use rank::{Rating, rated, ratings};
pub use skills::Taxonomy;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::stats::{Mean, mean};

/// A grade of the seven-point scale from which on an answer wins: "better". Below it are ties.
pub const WIN: i8 = 2;

/// What somebody said of two answers that stood side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    /// Who.
    pub judge: String,
    /// What was answered.
    pub prompt: String,
    /// What stands and falls together: the prompt that a dialogue began with.
    pub cluster: String,
    /// The prompt's place in the taxonomy.
    pub skill: String,
    /// How hard the prompt is, where that is said.
    pub difficulty: Option<String>,
    /// The model whose answer stood left.
    pub left: usize,
    /// The other model.
    pub right: usize,
    /// From 3, left is much better, by 0, about the same, to -3, right is much better.
    pub grade: i8,
    /// How long it took.
    pub seconds: f64,
    /// Whether the judge had voted on these answers before. Such votes say how steady a judge is, and count nowhere else.
    pub again: bool,
}

impl Vote {
    /// The two models, the lower number first, and the grade of the first over the second.
    fn ordered(&self) -> (usize, usize, i8) {
        match self.left < self.right {
            true => (self.left, self.right, self.grade),
            false => (self.right, self.left, -self.grade),
        }
    }

    /// What was compared: votes on the same thing agree or do not.
    fn matter(&self) -> (&str, usize, usize) {
        let (first, second, _) = self.ordered();
        (&self.prompt, first, second)
    }
}

/// 1 for a win, 0 for a tie, -1 for a loss of the side that a grade speaks for.
pub fn outcome(grade: i8) -> i8 {
    if grade.abs() >= WIN { grade.signum() } else { 0 }
}

/// How one model fared against another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tally {
    /// The model that wins or loses.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// Share of votes by which the first is better or much better.
    pub win: Mean,
    /// Share of "about the same" and "slightly better", for either.
    pub tie: Mean,
    /// Share of votes by which the second is better or much better.
    pub loss: Mean,
    /// Votes by grade, from much worse to much better.
    pub grades: [usize; 7],
}

/// The tallies of all pairs that met, votes of one cluster counted as one draw; repeats are left out.
pub fn tallies<'a>(votes: impl IntoIterator<Item = &'a Vote>) -> Vec<Tally> {
    let mut apart: BTreeMap<(usize, usize), Vec<(i8, String)>> = BTreeMap::new();
    for vote in votes.into_iter().filter(|vote| !vote.again) {
        let (first, second, grade) = vote.ordered();
        apart.entry((first, second)).or_default().push((grade, vote.cluster.clone()));
    }
    let tally = |((first, second), graded): ((usize, usize), Vec<(i8, String)>)| {
        let clusters: Vec<String> = graded.iter().map(|(_, cluster)| cluster.clone()).collect();
        let share = |wanted: i8| {
            let is = |grade: i8| f64::from(u8::from(outcome(grade) == wanted));
            let numbers: Vec<f64> = graded.iter().map(|(grade, _)| is(*grade)).collect();
            mean(&numbers, Some(&clusters))
        };
        let mut grades = [0; 7];
        graded.iter().for_each(|(grade, _)| grades[(grade + 3) as usize] += 1);
        Tally { first, second, win: share(1), tie: share(0), loss: share(-1), grades }
    };
    apart.into_iter().map(tally).collect()
}

/// The skills that votes are of, each with its tallies.
pub fn by_skill(votes: &[Vote]) -> BTreeMap<String, Vec<Tally>> {
    let skills: BTreeSet<&str> = votes.iter().map(|vote| vote.skill.as_str()).collect();
    let of = |skill: &str| tallies(votes.iter().filter(|vote| vote.skill == skill));
    skills.into_iter().map(|skill| (skill.to_owned(), of(skill))).collect()
}

/// How hard prompts are that votes are of, where that is said, each with its tallies.
pub fn by_difficulty(votes: &[Vote]) -> BTreeMap<String, Vec<Tally>> {
    let told: BTreeSet<&str> = votes.iter().filter_map(|vote| vote.difficulty.as_deref()).collect();
    let of =
        |hard: &str| tallies(votes.iter().filter(|vote| vote.difficulty.as_deref() == Some(hard)));
    told.into_iter().map(|hard| (hard.to_owned(), of(hard))).collect()
}

#[cfg(test)]
pub(crate) fn vote(judge: &str, prompt: usize, left: usize, right: usize, grade: i8) -> Vote {
    Vote {
        judge: judge.to_owned(),
        prompt: prompt.to_string(),
        cluster: prompt.to_string(),
        skill: "coding".to_owned(),
        difficulty: None,
        left,
        right,
        grade,
        seconds: 10.0,
        again: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slightly_better_is_a_tie_and_sides_are_undone() {
        let mut votes: Vec<Vote> =
            (-3..=3).map(|grade| vote("ann", (grade + 3) as usize, 0, 1, grade)).collect();
        votes.push(vote("ann", 9, 1, 0, -3)); // right, which is 0, is much better
        votes.push(Vote { again: true, ..vote("ann", 9, 0, 1, -3) });
        let found = tallies(&votes);
        assert_eq!(found.len(), 1);
        let Tally { first, second, win, tie, loss, grades } = &found[0];
        assert_eq!((*first, *second, win.n), (0, 1, 8));
        assert_eq!((win.value, tie.value, loss.value), (3.0 / 8.0, 3.0 / 8.0, 2.0 / 8.0));
        assert_eq!(*grades, [1, 1, 1, 1, 1, 1, 2]);
        // The paper's interval of a share, all prompts being different ones.
        let s: f64 = 3.0 / 8.0;
        assert!((win.stderr - (s * (1.0 - s) / 8.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn skills_are_counted_apart() {
        let other = Vote { skill: "reasoning".to_owned(), ..vote("ann", 1, 0, 1, 3) };
        let found = by_skill(&[vote("ann", 0, 0, 1, -3), other]);
        assert_eq!(found["coding"][0].loss.value, 1.0);
        assert_eq!(found["reasoning"][0].win.value, 1.0);
    }

    #[test]
    fn difficulties_are_counted_apart_where_they_are_said() {
        let hard = Vote { difficulty: Some("hard".to_owned()), ..vote("ann", 1, 0, 1, 3) };
        let found = by_difficulty(&[vote("ann", 0, 0, 1, -3), hard]);
        assert_eq!((found.len(), found["hard"][0].win.value, found["hard"][0].win.n), (1, 1.0, 1));
    }
}
