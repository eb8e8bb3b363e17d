//! Votes: taken from the page, and given to those who count them.

use rusqlite::{OptionalExtension, Row, params};
use serde::Deserialize;

use super::ballots::{
    ArenaError, Ballots, PROMPT, Prompt, Turn, insert_prompt, now, read_json, read_prompt,
};
use super::draw::{Show, find, judge};
use crate::refusal::Refusal;

/// Bytes of an edited answer, or of what is said next, at most.
const TEXT_MAX: usize = 256 << 10;
/// What a user says in a dialogue, at most: the paper's dialogues have up to 11 turns.
const TURNS_MAX: usize = 11;

/// A vote as the page sends it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voted {
    /// Who votes.
    pub judge: String,
    /// On what.
    pub show: i64,
    /// From 3, left is much better, to -3, right is; nothing where the judge cannot say.
    pub grade: Option<i8>,
    /// How long the judge looked.
    pub seconds: f64,
    /// The better answer, made better still.
    pub edited: Option<String>,
    /// What the judge says next to the better answer; both models answer it.
    pub follow: Option<String>,
}

/// A vote for those who count.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Who voted.
    pub judge: String,
    /// What was answered.
    pub prompt: Prompt,
    /// The prompt that the dialogue began with.
    pub root: i64,
    /// The number of the prompt.
    pub prompt_id: i64,
    /// The name of the model that stood left.
    pub left: String,
    /// The name of the other.
    pub right: String,
    /// What they said.
    pub left_said: Vec<String>,
    /// What they said.
    pub right_said: Vec<String>,
    /// As in [`Voted`].
    pub grade: Option<i8>,
    /// As in [`Voted`].
    pub seconds: f64,
    /// As in [`Voted`].
    pub edited: Option<String>,
    /// Whether the judge had voted on these answers before.
    pub again: bool,
}

impl Ballots {
    /// Keeps a vote; when this returns it is on the disk. The same vote again changes nothing.
    ///
    /// # Errors
    /// No such pair of this judge, another vote on it, or what a vote cannot say.
    pub fn vote(&self, vote: &Voted) -> Result<(), ArenaError> {
        let grown = self.work(|db| {
            let name = judge(&vote.judge)?;
            let show = find(db, vote.show)?.filter(|show| show.judge == name);
            let none = || Refusal::field("show", format!("{name} was not shown {}", vote.show));
            let show = show.ok_or_else(|| Refusal { status: 404, ..none() })?;
            check(vote, &show)?;
            let known: Option<(Option<i8>, Option<String>, Option<String>)> = db
                .prepare_cached("SELECT grade, edited, follow FROM arena_votes WHERE show = ?")?
                .query_row([show.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            if let Some(known) = known {
                return match known == (vote.grade, vote.edited.clone(), vote.follow.clone()) {
                    true => Ok(false),
                    false => Err(Refusal::new(409, "there is another vote on this pair").into()),
                };
            }
            db.prepare_cached(
                "INSERT INTO arena_votes (show, grade, seconds, edited, follow, made) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![show.id, vote.grade, vote.seconds, vote.edited, vote.follow, now()])?;
            if let Some(follow) = &vote.follow {
                let prompt = grow(vote, &show, follow);
                insert_prompt(db, &prompt, Some((show.root, show.id)))?;
            }
            Ok(vote.follow.is_some())
        })?;
        if grown {
            self.wake();
        }
        Ok(())
    }

    /// All votes, in the order in which they were given.
    pub fn votes(&self) -> Result<Vec<Counted>, ArenaError> {
        self.work(|db| {
            let mut find = db.prepare(&format!(
                "SELECT {PROMPT}, s.judge, p.root, p.id, l.name, r.name, a.said, b.said,
                        v.grade, v.seconds, v.edited, s.again IS NOT NULL
                 FROM arena_votes AS v JOIN arena_shows AS s ON s.id = v.show
                 JOIN arena_prompts AS p ON p.id = s.prompt
                 JOIN arena_models AS l ON l.id = s.left_model JOIN arena_models AS r ON r.id = s.right_model
                 JOIN arena_answers AS a ON a.prompt = p.id AND a.model = l.id
                 JOIN arena_answers AS b ON b.prompt = p.id AND b.model = r.id
                 ORDER BY v.made, v.show"
            ))?;
            let rows = find.query_map([], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Counted> {
    Ok(Counted {
        prompt: read_prompt(row, 0)?,
        judge: row.get(5)?,
        root: row.get(6)?,
        prompt_id: row.get(7)?,
        left: row.get(8)?,
        right: row.get(9)?,
        left_said: read_json(row, 10)?,
        right_said: read_json(row, 11)?,
        grade: row.get(12)?,
        seconds: row.get(13)?,
        edited: row.get(14)?,
        again: row.get(15)?,
    })
}

/// Errors: what a vote cannot say.
fn check(vote: &Voted, show: &Show) -> Result<(), Refusal> {
    if vote.grade.is_some_and(|grade| !(-3..=3).contains(&grade)) {
        let message = format!("a grade is from -3 to 3: {}", vote.grade.unwrap_or_default());
        return Err(Refusal::field("grade", message));
    }
    if !(vote.seconds.is_finite() && (0.0..=1e7).contains(&vote.seconds)) {
        return Err(Refusal::field("seconds", format!("no time of a vote: {}", vote.seconds)));
    }
    for (name, text) in [("edited", &vote.edited), ("follow", &vote.follow)] {
        let Some(text) = text else { continue };
        if vote.grade.unwrap_or(0) == 0 {
            let message = format!("{name} needs an answer that is better");
            return Err(Refusal::field(name, message));
        }
        if text.trim().is_empty() || text.len() > TEXT_MAX {
            let message = format!("{name} has 1 to {TEXT_MAX} bytes, not {}", text.len());
            return Err(Refusal::field(name, message));
        }
    }
    let said = show.prompt.messages.iter().filter(|turn| turn.role == "user").count();
    if vote.follow.is_some() && said + show.prompt.turns.len() >= TURNS_MAX {
        return Err(Refusal::field("follow", format!("a dialogue has {TURNS_MAX} turns at most")));
    }
    Ok(())
}

/// The dialogue with the better answer, edited if it was, and what is said next.
fn grow(vote: &Voted, show: &Show, follow: &str) -> Prompt {
    let left = vote.grade.unwrap_or(0) > 0;
    let mut messages = show.dialogue(if left { &show.left_said } else { &show.right_said });
    if let (Some(edited), Some(last)) = (&vote.edited, messages.last_mut()) {
        last.content.clone_from(edited);
    }
    messages.push(Turn::new("user", follow));
    Prompt {
        name: format!("{} > {}", show.prompt.name, show.id),
        messages,
        turns: Vec::new(),
        ..show.prompt.clone()
    }
}
