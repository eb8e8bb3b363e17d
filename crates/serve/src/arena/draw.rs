//! What a judge is shown next: which answers, and which of them stands left.
//!
//! Of answers that the judge has not seen the least seen come first, in an order by the seed. Now and then there is a pair that the
//! judge voted on before, its sides swapped. Which model stands left is drawn for blocks of two prompts of this judge and these
//! two models, one each way, so that a judge's sides differ by one at most; a further judge of the same answers sees them the
//! other way round where that keeps the balance, and such answers come first.

use std::collections::BTreeMap;

use herd_engine::rng::uniform;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::ballots::{
    ArenaError, Ballots, Halt, PROMPT, Prompt, Turn, now, read_json, read_prompt,
};
use crate::refusal::Refusal;

/// How pairs are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// What orders and sides depend on.
    pub seed: u64,
    /// The share of a judge's pairs that are shown again.
    pub repeats: f64,
    /// Votes of different judges on a pair, at most; 0 for no limit.
    pub judges_max: usize,
}

/// Streams of what is drawn.
const REPEATS: u64 = 1 << 62;
const ORDER: u64 = 1 << 61;
const SIDES: u64 = 1 << 63;

/// For so many milliseconds a pair that was shown counts as one that will be judged: who leaves it open longer has left.
const LATELY: i64 = 60 * 60 * 1000;

/// Letters of a judge's name at most.
const NAME_MAX: usize = 40;

/// Two answers side by side.
pub(super) struct Show {
    pub id: i64,
    pub judge: String,
    pub root: i64,
    pub prompt: Prompt,
    pub left_said: Vec<String>,
    pub right_said: Vec<String>,
}

impl Show {
    /// The dialogue of one side.
    pub fn dialogue(&self, said: &[String]) -> Vec<Turn> {
        let mut all = self.prompt.messages.clone();
        for (i, text) in said.iter().enumerate() {
            all.push(Turn::new("assistant", text.clone()));
            if let Some(next) = self.prompt.turns.get(i) {
                all.push(Turn::new("user", next.clone()));
            }
        }
        all
    }

    /// What the page is told: nothing of whose answers they are.
    fn json(&self) -> Value {
        let from = self.prompt.messages.len();
        let side = |said: &[String]| json!(self.dialogue(said)[from..]);
        json!({
            "show": self.id,
            "skill": self.prompt.skill,
            "messages": self.prompt.messages,
            "left": side(&self.left_said),
            "right": side(&self.right_said),
        })
    }
}

/// Finds a show that a condition names.
pub(super) fn find(db: &Connection, id: i64) -> Result<Option<Show>, Halt> {
    let mut find = db.prepare_cached(&format!(
        "SELECT {PROMPT}, s.id, s.judge, p.root, a.said, b.said
         FROM arena_shows AS s JOIN arena_prompts AS p ON p.id = s.prompt
         JOIN arena_answers AS a ON a.prompt = p.id AND a.model = s.left_model
         JOIN arena_answers AS b ON b.prompt = p.id AND b.model = s.right_model
         WHERE s.id = ?"
    ))?;
    let read = |row: &Row<'_>| {
        Ok(Show {
            prompt: read_prompt(row, 0)?,
            id: row.get(5)?,
            judge: row.get(6)?,
            root: row.get(7)?,
            left_said: read_json(row, 8)?,
            right_said: read_json(row, 9)?,
        })
    };
    Ok(find.query_row([id], read).optional()?)
}

/// Answers that could be shown.
struct Candidate {
    prompt: i64,
    first: i64,
    second: i64,
    /// Whether the dialogue grew out of this judge's own vote.
    own: bool,
    /// Judges who graded them, or were shown them of late.
    judges: usize,
    /// Which model the last of these saw left.
    last: Option<i64>,
}

/// How often one of two models stood left before a judge, less how often the other did, and their shows.
#[derive(Clone, Copy, Default)]
struct Sides {
    more: i64,
    shows: u64,
}

/// Checks the name of a judge.
pub(super) fn judge(name: &str) -> Result<&str, Refusal> {
    let name = name.trim();
    let right =
        !name.is_empty() && name.chars().count() <= NAME_MAX && !name.chars().any(char::is_control);
    match right {
        true => Ok(name),
        false => {
            let message = format!("a judge's name has 1 to {NAME_MAX} characters: {name:?}");
            Err(Refusal::field("judge", message))
        }
    }
}

impl Ballots {
    /// What `judge` is shown next, and how far the judge is. The same until there is a vote on it.
    ///
    /// # Errors
    /// A name that is none; SQLite's.
    pub fn next(&self, name: &str, rules: &Rules) -> Result<Value, ArenaError> {
        self.work(|db| {
            let name = judge(name)?;
            let open = match open(db, name)? {
                Some(open) => Some(open),
                None => choose(db, name, rules)?,
            };
            let show = open.map(|id| find(db, id)).transpose()?.flatten();
            let mut told = progress(db, name, rules)?;
            told["pair"] = show.map_or(Value::Null, |show| show.json());
            Ok(told)
        })
    }
}

/// What the judge was shown and has not voted on.
fn open(db: &Connection, judge: &str) -> Result<Option<i64>, Halt> {
    let mut find = db.prepare_cached(
        "SELECT s.id FROM arena_shows AS s
         JOIN arena_models AS a ON a.id = s.left_model JOIN arena_models AS b ON b.id = s.right_model
         WHERE s.judge = ? AND a.serving AND b.serving
           AND NOT EXISTS (SELECT 1 FROM arena_votes WHERE show = s.id) ORDER BY s.id LIMIT 1",
    )?;
    Ok(find.query_row([judge], |row| row.get(0)).optional()?)
}

fn choose(db: &Connection, judge: &str, rules: &Rules) -> Result<Option<i64>, Halt> {
    let shown: u64 = db
        .prepare_cached("SELECT count(*) FROM arena_shows WHERE judge = ?")?
        .query_row([judge], |row| row.get(0))?;
    if uniform(rules.seed, REPEATS ^ key(judge), shown) < rules.repeats
        && let Some(id) = repeat(db, judge)?
    {
        return Ok(Some(id));
    }
    let sides = sides(db, judge)?;
    let best = candidates(db, judge, rules)?.into_iter().map(|c| {
        let sides = sides.get(&(c.first, c.second)).copied().unwrap_or_default();
        let stands = c.first_stands_left(sides, rules.seed, judge);
        // Answers that cannot be swapped without tipping the balance wait for their turn.
        let swapped = c.last.is_none_or(|left| stands == (left != c.first));
        let order = uniform(rules.seed, ORDER ^ pair(c.first, c.second), c.prompt as u64);
        (c, stands, swapped, order)
    });
    let best = best.min_by(|(a, _, a_swapped, a_order), (b, _, b_swapped, b_order)| {
        (!a.own, a.judges, !a_swapped)
            .cmp(&(!b.own, b.judges, !b_swapped))
            .then(a_order.total_cmp(b_order))
    });
    let Some((Candidate { prompt, first, second, .. }, first_left, _, _)) = best else {
        return Ok(None);
    };
    let (left, right) = if first_left { (first, second) } else { (second, first) };
    Ok(Some(show(db, judge, prompt, (left, right), None)?))
}

impl Candidate {
    /// Whether the first model stands left: the other way round than the last judge saw them, unless the judge's own
    /// sides would differ by two; where nobody saw them, as the draw for their block of two says.
    fn first_stands_left(&self, sides: Sides, seed: u64, judge: &str) -> bool {
        match (sides.more, self.last) {
            (1.., _) => false,
            (..0, _) => true,
            (0, Some(left)) => left != self.first,
            (0, None) => {
                let stream = SIDES ^ key(judge) ^ pair(self.first, self.second);
                uniform(seed, stream, sides.shows / 2) < 0.5
            }
        }
    }
}

fn show(
    db: &Connection,
    judge: &str,
    prompt: i64,
    (left, right): (i64, i64),
    again: Option<i64>,
) -> Result<i64, Halt> {
    db.prepare_cached(
        "INSERT INTO arena_shows (judge, prompt, left_model, right_model, again, given)
         VALUES (?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![judge, prompt, left, right, again, now()])?;
    Ok(db.last_insert_rowid())
}

/// Shows again what the judge voted on longest ago, the very last vote never: it is remembered.
fn repeat(db: &Connection, judge: &str) -> Result<Option<i64>, Halt> {
    let mut find = db.prepare_cached(
        "SELECT s.id, s.prompt, s.left_model, s.right_model
         FROM arena_shows AS s JOIN arena_votes AS v ON v.show = s.id
         JOIN arena_models AS a ON a.id = s.left_model JOIN arena_models AS b ON b.id = s.right_model
         WHERE s.judge = ?1 AND s.again IS NULL AND v.grade IS NOT NULL AND a.serving AND b.serving
           AND s.id < (SELECT max(id) FROM arena_shows WHERE judge = ?1)
           AND NOT EXISTS (SELECT 1 FROM arena_shows WHERE again = s.id)
         ORDER BY s.id LIMIT 1",
    )?;
    let found: Option<(i64, i64, i64, i64)> = find
        .query_row([judge], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((first, prompt, left, right)) = found else { return Ok(None) };
    show(db, judge, prompt, (right, left), Some(first)).map(Some)
}

/// All pairs of answers that the judge may be shown.
fn candidates(db: &Connection, judge: &str, rules: &Rules) -> Result<Vec<Candidate>, Halt> {
    // Shows that count: of judges who graded them, or may still do so.
    let counts = "s.prompt = p.id AND s.again IS NULL
         AND min(s.left_model, s.right_model) = a.model AND max(s.left_model, s.right_model) = b.model
         AND (s.given > ?2 OR EXISTS (SELECT 1 FROM arena_votes WHERE show = s.id AND grade IS NOT NULL))";
    let mut find = db.prepare_cached(&format!(
        "SELECT p.id, a.model, b.model, coalesce(g.judge = ?1, 0),
                (SELECT count(DISTINCT s.judge) FROM arena_shows AS s WHERE {counts}),
                (SELECT s.left_model FROM arena_shows AS s WHERE {counts} ORDER BY s.id DESC LIMIT 1)
         FROM arena_prompts AS p
         JOIN arena_answers AS a ON a.prompt = p.id AND a.ended IN ('stop', 'length')
         JOIN arena_answers AS b ON b.prompt = p.id AND b.ended IN ('stop', 'length') AND b.model > a.model
         JOIN arena_models AS x ON x.id = a.model AND x.serving
         JOIN arena_models AS y ON y.id = b.model AND y.serving
         LEFT JOIN arena_shows AS g ON g.id = p.behind
         WHERE NOT EXISTS (SELECT 1 FROM arena_shows WHERE judge = ?1 AND prompt = p.id
             AND min(left_model, right_model) = a.model AND max(left_model, right_model) = b.model)"
    ))?;
    let rows = find.query_map(params![judge, now() - LATELY], |row| {
        Ok(Candidate {
            prompt: row.get(0)?,
            first: row.get(1)?,
            second: row.get(2)?,
            own: row.get(3)?,
            judges: row.get(4)?,
            last: row.get(5)?,
        })
    })?;
    let mut all: Vec<Candidate> = rows.collect::<Result<_, _>>()?;
    all.retain(|c| c.own || rules.judges_max == 0 || c.judges < rules.judges_max);
    Ok(all)
}

/// The sides that a judge was shown, repeats left out, for each two models: the lower number first.
fn sides(db: &Connection, judge: &str) -> Result<BTreeMap<(i64, i64), Sides>, Halt> {
    let mut find = db.prepare_cached(
        "SELECT min(left_model, right_model), max(left_model, right_model),
                sum(CASE WHEN left_model < right_model THEN 1 ELSE -1 END), count(*)
         FROM arena_shows WHERE judge = ? AND again IS NULL GROUP BY 1, 2",
    )?;
    let rows = find.query_map([judge], |row| {
        let sides = Sides { more: row.get(2)?, shows: row.get(3)? };
        Ok(((row.get(0)?, row.get(1)?), sides))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn pair(first: i64, second: i64) -> u64 {
    (first as u64) << 24 ^ second as u64
}

/// A number that belongs to a name (FNV-1a), below the bits of streams.
fn key(name: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, mix) >> 4
}

/// How far a judge is: votes, pairs that could still be shown, and answers that are yet to be made.
fn progress(db: &Connection, judge: &str, rules: &Rules) -> Result<Value, Halt> {
    let votes: usize = db
        .prepare_cached(
            "SELECT count(*) FROM arena_votes AS v JOIN arena_shows AS s ON s.id = v.show WHERE s.judge = ?",
        )?
        .query_row([judge], |row| row.get(0))?;
    let left = candidates(db, judge, rules)?;
    let unmade: usize = db
        .prepare_cached(
            "SELECT count(*) FROM arena_prompts AS p JOIN arena_models AS m ON m.serving
             LEFT JOIN arena_shows AS g ON g.id = p.behind
             WHERE NOT EXISTS (SELECT 1 FROM arena_answers WHERE prompt = p.id AND model = m.id)
               AND (p.behind IS NULL OR m.id IN (g.left_model, g.right_model))",
        )?
        .query_row([], |row| row.get(0))?;
    Ok(json!({ "votes": votes, "left": left.len(), "unmade": unmade }))
}
