//! Solutions of hard problems, found step by step: a tree search that a stepwise judge guides (arXiv 2407.21783, section 4.3.3).
//!
//! ```text
//! node = steps so far;  value of a step = share of the judge's yeses;  of one that ends the solution: 1 if the answer is right, else 0
//! UCT(node) = Q + c sqrt(ln N_parent / N),  Q = sum of values below / N
//! again and again: go down to the open leaf of the greatest UCT -> k next steps -> their values -> add them to Q and N on the way up
//! ```
//!
//! The paper names the method and no numbers; the formula is UCT's (Kocsis and Szepesvári 2006). What counts as found has the right
//! answer and no step of little value. Only problems that are not solved at once are searched.

use crate::error::TrainError;
use crate::rejection::{last_number, near};
use crate::synth::items::Item;
use crate::synth::read::verdict;
use crate::synth::steps::{SOLVE, STEP, asked, steps, wanted};
use crate::synth::{Harvest, Shelf, fall, said};
use crate::writer::desk::{Ask, Desk, Made, fault, reject};
use crate::writer::prompts::Default;
use crate::writer::{between, within};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Settings of `maths-search`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// The field of a row that holds the right answer; dots lead into objects and lists.
    pub answer: String,
    /// Solutions that are tried first: a problem is searched if none has the right answer.
    pub tries: usize,
    /// Leaves that are gone on from, at most.
    pub expansions: usize,
    /// Next steps of a leaf.
    pub k: usize,
    /// Verdicts on a step: one is the judge's likeliest, several are drawn and their share counts.
    pub looks: usize,
    /// The weight of what was seldom tried.
    pub c: f64,
    /// Steps of a solution at most.
    pub steps_max: usize,
    /// The least value that a step of a solution may have.
    pub least_min: f64,
    /// Solutions of a problem; the search ends with the last.
    pub keep: usize,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    SOLVE,
    Default {
        step: "next",
        names: &["problem", "steps"],
        text: "{{ problem }}\n\nThe solution so far:\n{% for step in steps %}{{ step }}\n{% else %}(nothing)\n{% endfor %}\n\nWrite the next step alone, in \
               one line, its calculation as an equation. If the solution is complete, write the line `#### ANSWER` with the final number instead.",
    },
    STEP,
];

impl SearchConfig {
    pub(super) fn base() -> SearchConfig {
        let (answer, tries, expansions, k, looks) = ("answer".to_owned(), 4, 32, 4, 1);
        let (c, steps_max, least_min, keep) = (1.0, 16, 0.5, 1);
        SearchConfig { answer, tries, expansions, k, looks, c, steps_max, least_min, keep }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("search.tries", self.tries as u64, 0, 1024)?;
        between("search.expansions", self.expansions as u64, 1, 4096)?;
        between("search.k", self.k as u64, 1, 256)?;
        between("search.looks", self.looks as u64, 1, 256)?;
        between("search.steps_max", self.steps_max as u64, 1, 256)?;
        between("search.keep", self.keep as u64, 1, 1024)?;
        within("search.c", self.c, 0.0, 1e3)?;
        within("search.least_min", self.least_min, 0.0, 1.0)
    }
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.search.as_ref().expect("the settings of its kind");
    let problem = &item.text;
    let wanted = wanted(item, &config.answer)?;
    let right = |text: &str| last_number(text).is_some_and(|number| near(number, wanted));
    if config.tries > 0 {
        let n = config.tries;
        let solve = Ask { n, ..Ask::one("solve", json!({ "problem": problem })) };
        let tried = desk.ask(vec![solve])?.remove(0);
        if tried.iter().any(|said| fault(said).is_none() && right(&said.text)) {
            return reject("problem", "easy", problem.as_str());
        }
    }
    desk.passed("problem");
    let (mut harvest, mut tree) = (Harvest::default(), Tree::new());
    for _ in 0..config.expansions {
        let Some(leaf) = tree.best(config.c) else { break };
        for (step, value) in next(desk, config, &mut harvest, problem, &tree.steps(leaf), &right)? {
            let ends = is_end(&step) || tree.depth(leaf) + 1 == config.steps_max;
            let solves = is_end(&step) && value == 1.0;
            let node = tree.add(leaf, step, value, ends);
            let (steps, values) = (tree.steps(node), tree.values(node));
            if !solves {
                continue;
            }
            if values.iter().any(|value| *value < config.least_min) {
                let what = json!({ "solution": steps.join("\n"), "values": values });
                fall(desk, &mut harvest, "solution", "step", what);
                continue;
            }
            desk.passed("solution");
            let messages = [said("user", problem), said("assistant", &steps.join("\n"))];
            harvest.rows.push(json!({ "messages": messages, "values": values }));
            harvest.told.push("found");
            if harvest.rows.len() == config.keep {
                return Ok(harvest);
            }
        }
        tree.close_if_done(leaf);
    }
    if harvest.rows.is_empty() {
        fall(desk, &mut harvest, "search", "not_found", problem.as_str());
    }
    Ok(harvest)
}

/// Whether a step says the answer.
fn is_end(step: &str) -> bool {
    step.lines().any(|line| line.starts_with("####"))
}

/// Next steps behind some others, each once, with their values.
fn next(
    desk: &mut Desk<'_>,
    config: &SearchConfig,
    harvest: &mut Harvest,
    problem: &str,
    before: &[String],
    right: &dyn Fn(&str) -> bool,
) -> Made<Vec<(String, f64)>> {
    let with = json!({ "problem": problem, "steps": before });
    let answers = desk.ask(vec![Ask { n: config.k, ..Ask::one("next", with) }])?.remove(0);
    let mut found: Vec<String> = Vec::new();
    for answer in answers {
        let mut lines = steps(&answer.text).into_iter();
        let (step, whole) = (lines.next(), lines.next().is_some());
        // A step that others follow is whole, wherever they were cut off.
        let reason = fault(&answer).filter(|reason| *reason != "cut_off" || !whole);
        match (reason, step) {
            (None, Some(step)) if found.contains(&step) => desk.failed("next", "duplicate"),
            (None, Some(step)) => {
                desk.passed("next");
                found.push(step);
            }
            (reason, _) => fall(desk, harvest, "next", reason.unwrap_or("empty"), answer.text),
        }
    }
    let looks = |step: &&String| !is_end(step);
    let ask = |step: &String| Ask {
        n: config.looks,
        ..Ask::verdict("step", asked(problem, before, step))
    };
    let mut said = desk.ask(found.iter().filter(looks).map(ask).collect())?.into_iter();
    let mut valued = Vec::new();
    for step in found {
        if is_end(&step) {
            let value = f64::from(u8::from(right(&step)));
            valued.push((step, value));
            continue;
        }
        let said = said.next().unwrap_or_default();
        let verdicts: Vec<bool> = said.iter().filter_map(|said| verdict(&said.text)).collect();
        if verdicts.is_empty() {
            fall(desk, harvest, "step", "no_verdict", step);
            continue;
        }
        desk.passed("step");
        let yes = verdicts.iter().filter(|yes| **yes).count();
        valued.push((step, yes as f64 / verdicts.len() as f64));
    }
    Ok(valued)
}

/// The prefixes that were looked at; the first is empty.
struct Tree {
    nodes: Vec<Node>,
}

struct Node {
    step: String,
    value: f64,
    parent: usize,
    children: Vec<usize>,
    visits: f64,
    /// Sum of the values of what was visited here and below.
    total: f64,
    /// Nothing is left to look at here and below.
    closed: bool,
}

impl Tree {
    fn new() -> Tree {
        let (step, children) = (String::new(), Vec::new());
        let root =
            Node { step, value: 1.0, parent: 0, children, visits: 1.0, total: 0.0, closed: false };
        Tree { nodes: vec![root] }
    }

    /// The open leaf that the greatest UCT leads to; of equals the first. `None` if all is closed.
    fn best(&self, c: f64) -> Option<usize> {
        let mut at = 0;
        if self.nodes[at].closed {
            return None;
        }
        while !self.nodes[at].children.is_empty() {
            let above = self.nodes[at].visits.ln();
            let uct = |node: &Node| node.total / node.visits + c * (above / node.visits).sqrt();
            let open = self.nodes[at].children.iter().filter(|child| !self.nodes[**child].closed);
            at = *open
                .rev()
                .max_by(|a, b| uct(&self.nodes[**a]).total_cmp(&uct(&self.nodes[**b])))?;
        }
        Some(at)
    }

    /// Adds a step behind a node, and its value to all above.
    fn add(&mut self, parent: usize, step: String, value: f64, ends: bool) -> usize {
        let (node, children) = (self.nodes.len(), Vec::new());
        self.nodes.push(Node {
            step,
            value,
            parent,
            children,
            visits: 0.0,
            total: 0.0,
            closed: ends,
        });
        self.nodes[parent].children.push(node);
        let mut at = node;
        loop {
            self.nodes[at].visits += 1.0;
            self.nodes[at].total += value;
            if at == 0 {
                return node;
            }
            at = self.nodes[at].parent;
        }
    }

    /// Closes a node that was gone on from and has nothing open below, and those above it that have nothing open either.
    fn close_if_done(&mut self, mut at: usize) {
        while self.nodes[at].children.iter().all(|child| self.nodes[*child].closed) {
            self.nodes[at].closed = true;
            if at == 0 {
                return;
            }
            at = self.nodes[at].parent;
        }
    }

    /// The nodes from the first step to this one.
    fn path(&self, mut at: usize) -> Vec<&Node> {
        let mut path = Vec::new();
        while at != 0 {
            path.push(&self.nodes[at]);
            at = self.nodes[at].parent;
        }
        path.reverse();
        path
    }

    fn steps(&self, at: usize) -> Vec<String> {
        self.path(at).into_iter().map(|node| node.step.clone()).collect()
    }

    fn values(&self, at: usize) -> Vec<f64> {
        self.path(at).into_iter().map(|node| node.value).collect()
    }

    fn depth(&self, at: usize) -> usize {
        self.path(at).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_follows_value_and_what_was_seldom_tried_and_ends_when_all_is_closed() {
        let mut tree = Tree::new();
        assert_eq!(tree.best(1.0), Some(0));
        let good = tree.add(0, "good".to_owned(), 1.0, false);
        let poor = tree.add(0, "poor".to_owned(), 0.5, false);
        assert_eq!(tree.best(1.0), Some(good));
        // Two worthless steps behind the good one: its mean falls to 1/3, and 1/3 + sqrt(ln 5 / 3) < 1/2 + sqrt(ln 5).
        let first = tree.add(good, "a".to_owned(), 0.0, false);
        tree.add(good, "b".to_owned(), 0.0, true);
        assert_eq!((tree.best(1.0), tree.best(0.0)), (Some(poor), Some(poor)));
        assert_eq!(
            (tree.steps(first), tree.values(first)),
            (vec!["good".into(), "a".into()], vec![1.0, 0.0])
        );
        let end = tree.add(poor, "#### 7".to_owned(), 1.0, true);
        tree.close_if_done(poor);
        assert_eq!((tree.best(1.0), tree.depth(end)), (Some(first), 2));
        tree.close_if_done(first); // nothing came of it
        assert_eq!(tree.best(1.0), None);
    }
}
