//! What the votes in an arena's file amount to.

use std::collections::{BTreeMap, BTreeSet};

use herd_eval::arena::{
    Agreement, Calibration, Judge, Position, Rating, Tally, Vote, among, by_difficulty, by_skill,
    calibration, judges, position, rated, tallies,
};
use herd_eval::stats::Mean;
use herd_serve::arena::{Ballots, Counted, Verdict};
use serde::Serialize;

use crate::console::{Console, visible};
use crate::error::Error;

/// All that is counted.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Models, in the order of their numbers below.
    pub models: Vec<String>,
    /// Votes that say something, repeats left out.
    pub votes: usize,
    /// Votes on pairs that the judge had voted on before.
    pub repeats: usize,
    /// Votes that say nothing of which answer is better.
    pub passed: usize,
    /// Each pair of models.
    pub tallies: Vec<Tally>,
    /// The same by skill.
    pub skills: BTreeMap<String, Vec<Tally>>,
    /// The same by how hard prompts are, where that is said.
    pub difficulties: BTreeMap<String, Vec<Tally>>,
    /// Bradley and Terry's, of each model that votes are of; none at all where some of these never met.
    pub ratings: Option<Vec<Option<Rating>>>,
    /// How the ratings' intervals were drawn.
    pub bootstrap: Bootstrap,
    /// Each judge.
    pub judges: BTreeMap<String, Judge>,
    /// Judges with one another.
    pub agreement: Option<Agreement>,
    /// Whether left is preferred for standing left.
    pub position: Option<Position>,
    /// Judges who were left out of all this, with how many votes or verdicts each gave.
    pub without: BTreeMap<String, usize>,
    /// Models that judge, held against people.
    pub models_that_judge: BTreeMap<String, Machine>,
}

/// How intervals were drawn.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bootstrap {
    /// Drawings of the prompts.
    pub draws: usize,
    /// What they depend on.
    pub seed: u64,
}

/// A model that judges.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Verdicts that could be read.
    pub read: usize,
    /// Words without a verdict.
    pub unread: usize,
    /// Against people.
    pub calibration: Calibration,
    /// What its verdicts alone would say of each pair of models, both orders counted.
    pub tallies: Vec<Tally>,
}

impl Report {
    /// Counts the votes of a file, but for those of the judges `without`.
    ///
    /// Errors: it cannot be read; nobody of such a name judged.
    pub fn of(
        ballots: &Ballots,
        bootstrap: Bootstrap,
        without: &[String],
    ) -> Result<Report, Error> {
        let (mut counted, mut verdicts) = (ballots.votes()?, ballots.verdicts()?);
        let judges_of_all = counted.iter().map(|vote| &vote.judge);
        let without =
            left_out(judges_of_all.chain(verdicts.iter().map(|verdict| &verdict.judge)), without)?;
        counted.retain(|vote| !without.contains_key(&vote.judge));
        verdicts.retain(|verdict| !without.contains_key(&verdict.judge));
        let names = counted.iter().flat_map(|vote| [&vote.left, &vote.right]);
        let names =
            names.chain(verdicts.iter().flat_map(|verdict| [&verdict.left, &verdict.right]));
        let models: Vec<String> =
            names.cloned().collect::<BTreeSet<String>>().into_iter().collect();
        let votes: Vec<Vote> = counted.iter().filter_map(|vote| of_person(vote, &models)).collect();
        let repeats = votes.iter().filter(|vote| vote.again).count();
        let mut machines: BTreeMap<String, (usize, Vec<Vote>)> = BTreeMap::new();
        for verdict in &verdicts {
            let (unread, read) = machines.entry(verdict.judge.clone()).or_default();
            match of_model(verdict, &models) {
                Some(vote) => read.push(vote),
                None => *unread += 1,
            }
        }
        let machine = |(name, (unread, read)): (String, (usize, Vec<Vote>))| {
            let calibration = calibration(&read, &votes);
            let machine =
                Machine { read: read.len(), unread, calibration, tallies: tallies(&read) };
            (name, machine)
        };
        Ok(Report {
            votes: votes.len() - repeats,
            repeats,
            passed: counted.len() - votes.len(),
            tallies: tallies(&votes),
            skills: by_skill(&votes),
            difficulties: by_difficulty(&votes),
            ratings: rated(&votes, models.len(), bootstrap.draws, bootstrap.seed),
            bootstrap,
            judges: judges(&votes),
            agreement: among(&votes),
            position: position(&votes),
            without,
            models_that_judge: machines.into_iter().map(machine).collect(),
            models,
        })
    }

    /// Prints it for people.
    ///
    /// Errors: nobody reads.
    pub fn print(&self, console: &Console) -> Result<(), Error> {
        let Report { votes, repeats, passed, .. } = self;
        console.print(format!("{votes} votes, {repeats} repeats, {passed} without a verdict"))?;
        for (name, votes) in &self.without {
            console.print(format!("left out: {votes} of {}", visible(name)))?;
        }
        if *votes > 0 {
            let mut table =
                vec![head(&["prompts", "model", "against", "votes", "win", "tie", "loss"])];
            table.extend(self.tallies.iter().map(|tally| self.row("all", tally)));
            for (skill, tallies) in self.skills.iter().filter(|_| self.skills.len() > 1) {
                table.extend(tallies.iter().map(|tally| self.row(skill, tally)));
            }
            for (hard, tallies) in &self.difficulties {
                let of = format!("difficulty {hard}");
                table.extend(tallies.iter().map(|tally| self.row(&of, tally)));
            }
            console.print_table(&table)?;
            self.print_ratings(console)?;
            self.print_judges(console)?;
        }
        self.print_machines(console)
    }

    fn row(&self, prompts: &str, tally: &Tally) -> Vec<String> {
        vec![
            prompts.to_owned(),
            self.models[tally.first].clone(),
            self.models[tally.second].clone(),
            tally.win.n.to_string(),
            share(tally.win),
            share(tally.tie),
            share(tally.loss),
        ]
    }

    fn print_ratings(&self, console: &Console) -> Result<(), Error> {
        let Some(ratings) = &self.ratings else {
            return console.print("no ratings: not all models met, over others at least");
        };
        let all = self.models.iter().zip(ratings);
        let (mut rows, mut none) = (Vec::new(), Vec::new());
        for (name, rating) in all {
            match rating {
                Some(rating) => rows.push((name, rating)),
                None => none.push(visible(name)),
            }
        }
        rows.sort_by(|a: &(&String, &Rating), b| b.1.points.total_cmp(&a.1.points));
        let mut table = vec![head(&["model", "rating", "95 % from", "to"])];
        table.extend(rows.into_iter().map(|(name, rating)| {
            let points = [rating.points, rating.ci95.0, rating.ci95.1];
            [vec![name.clone()], points.map(|x| format!("{x:+.0}")).to_vec()].concat()
        }));
        console.print_table(&table)?;
        match none.is_empty() {
            true => Ok(()),
            false => console.print(format!("not rated, for want of votes: {}", none.join(", "))),
        }
    }

    fn print_judges(&self, console: &Console) -> Result<(), Error> {
        let names = [
            "judge",
            "votes",
            "with themselves",
            "kappa",
            "with others",
            "kappa",
            "median s",
            "5 % s",
            "left",
            "right",
        ];
        let mut table = vec![head(&names)];
        for (name, judge) in &self.judges {
            let mut row = vec![name.clone(), judge.votes.to_string()];
            row.extend(agreed(judge.own));
            row.extend(agreed(judge.others));
            row.extend([judge.seconds_median, judge.seconds_p5].map(|s| format!("{s:.1}")));
            let Position { left, right, .. } = judge.position;
            row.extend([left, right].map(|share| format!("{:.0} %", 100.0 * share)));
            table.push(row);
        }
        console.print_table(&table)?;
        if let Some(Position { left, right, grade }) = self.position {
            let (left, right, mean, p) = (100.0 * left, 100.0 * right, grade.difference, grade.p);
            console.print(format!(
                "position: left wins {left:.1} %, right {right:.1} %; mean grade of left {mean:+.2}, p {p:.3}"
            ))?;
        }
        Ok(())
    }

    /// Prints what is known of models that judge.
    pub fn print_machines(&self, console: &Console) -> Result<(), Error> {
        for (name, machine) in &self.models_that_judge {
            let Machine { read, unread, calibration, .. } = machine;
            console.print(format!(
                "{}: {read} verdicts, {unread} unreadable; {} pairs in both orders, {:.0} % of them alike",
                visible(name), calibration.pairs, 100.0 * calibration.consistent
            ))?;
            let [same, kappa] = agreed(calibration.people);
            let [people, _] = agreed(calibration.people_others);
            console.print(format!(
                "  with people: {same}, kappa {kappa}; people with one another: {people}"
            ))?;
            for (strength, accuracy) in &calibration.accuracy {
                let word = ["", "slightly better", "better", "much better"][usize::from(*strength)];
                console.print(format!("  right where people say {word}: {}", share(*accuracy)))?;
            }
            if let Some(Position { left, right, .. }) = calibration.position {
                console.print(format!(
                    "  the first wins {:.0} %, the second {:.0} %",
                    100.0 * left,
                    100.0 * right
                ))?;
            }
        }
        Ok(())
    }
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn share(mean: Mean) -> String {
    let share = format!("{:.1}", 100.0 * mean.value);
    match mean.interval() {
        Some((low, high)) => format!("{share} +- {:.1} %", 50.0 * (high - low)),
        None => format!("{share} %"),
    }
}

/// The judges whose votes do not count, each with how many there are. Errors: a name that nobody judged under.
pub fn left_out<'a>(
    judges: impl Iterator<Item = &'a String>,
    without: &[String],
) -> Result<BTreeMap<String, usize>, Error> {
    let mut known: BTreeMap<&String, usize> = BTreeMap::new();
    judges.for_each(|judge| *known.entry(judge).or_default() += 1);
    let find = |name: &String| match known.get(name) {
        Some(votes) => Ok((name.clone(), *votes)),
        None => {
            let names: Vec<&str> = known.keys().map(|judge| judge.as_str()).collect();
            let expected = format!("judges of this file: {}", names.join(", "));
            Err(Error::Value { what: "--without", got: name.clone(), expected })
        }
    };
    without.iter().map(find).collect()
}

fn agreed(agreement: Option<Agreement>) -> [String; 2] {
    let none = || "-".to_owned();
    let same = agreement.map_or_else(none, |a| format!("{:.0} % of {}", 100.0 * a.same, a.n));
    let kappa = agreement.and_then(|a| a.kappa).map_or_else(none, |kappa| format!("{kappa:.2}"));
    [same, kappa]
}

fn place(models: &[String], name: &String) -> usize {
    models.binary_search(name).expect("all names were gathered")
}

/// A vote that says something.
pub fn of_person(vote: &Counted, models: &[String]) -> Option<Vote> {
    Some(Vote {
        judge: vote.judge.clone(),
        prompt: vote.prompt_id.to_string(),
        cluster: vote.root.to_string(),
        skill: vote.prompt.skill.clone(),
        difficulty: vote.prompt.difficulty.clone(),
        left: place(models, &vote.left),
        right: place(models, &vote.right),
        grade: vote.grade?,
        seconds: vote.seconds,
        again: vote.again,
    })
}

fn of_model(verdict: &Verdict, models: &[String]) -> Option<Vote> {
    Some(Vote {
        judge: verdict.judge.clone(),
        prompt: verdict.prompt_id.to_string(),
        cluster: verdict.root.to_string(),
        skill: verdict.skill.clone(),
        difficulty: None,
        left: place(models, &verdict.left),
        right: place(models, &verdict.right),
        grade: verdict.grade?,
        seconds: 0.0,
        again: false,
    })
}
