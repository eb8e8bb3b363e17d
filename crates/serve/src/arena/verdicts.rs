//! What models that judge are asked, and what they said.

use rusqlite::params;

use super::ballots::{ArenaError, Ballots, PROMPT, Prompt, now, read_json, read_prompt};

/// Two answers in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The number of the prompt.
    pub prompt_id: i64,
    /// What was answered.
    pub prompt: Prompt,
    /// The number of the model whose answer comes first.
    pub left: i64,
    /// The number of the other.
    pub right: i64,
    /// What the first said.
    pub left_said: Vec<String>,
    /// What the other said.
    pub right_said: Vec<String>,
}

/// Where a pair stands among all: the numbers of its prompt, of the first model, of the other. All are above 0.
pub type Place = (i64, i64, i64);

impl Pair {
    /// Where it stands among all.
    pub fn place(&self) -> Place {
        (self.prompt_id, self.left, self.right)
    }
}

/// Pairs of answers that judge ?1 has no verdict on, of those that people graded alone if ?2, behind the place ?3, ?4, ?5.
const UNJUDGED: &str = "
    FROM arena_prompts AS p
    JOIN arena_answers AS a ON a.prompt = p.id AND a.ended IN ('stop', 'length')
    JOIN arena_answers AS b ON b.prompt = p.id AND b.ended IN ('stop', 'length') AND b.model != a.model
    WHERE (p.id, a.model, b.model) > (?3, ?4, ?5)
      AND NOT EXISTS (SELECT 1 FROM arena_verdicts WHERE judge = ?1 AND prompt = p.id
          AND left_model = a.model AND right_model = b.model AND grade IS NOT NULL)
      AND (NOT ?2 OR EXISTS (SELECT 1 FROM arena_shows AS s JOIN arena_votes AS v ON v.show = s.id
          WHERE s.prompt = p.id AND v.grade IS NOT NULL
          AND min(s.left_model, s.right_model) = min(a.model, b.model)
          AND max(s.left_model, s.right_model) = max(a.model, b.model)))";

/// What a model said of two answers in one order.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Names the judge and its weights.
    pub judge: String,
    /// The number of the prompt.
    pub prompt_id: i64,
    /// The prompt that the dialogue began with.
    pub root: i64,
    /// Its place in the taxonomy.
    pub skill: String,
    /// The name of the model whose answer came first.
    pub left: String,
    /// The name of the other.
    pub right: String,
    /// As of a vote; nothing where its words have no verdict.
    pub grade: Option<i8>,
}

impl Ballots {
    /// How many pairs of answers, each order counted, a judge has given no verdict on that can be read.
    pub fn unjudged_count(&self, judge: &str, voted: bool) -> Result<usize, ArenaError> {
        self.work(|db| {
            let mut find = db.prepare(&format!("SELECT count(*) {UNJUDGED}"))?;
            Ok(find.query_row(params![judge, voted, 0, 0, 0], |row| row.get(0))?)
        })
    }

    /// These pairs behind `after` in the order of [`Pair::place`], so many at most; those that people voted on alone if
    /// `voted`. Words without a verdict are asked for again, so the next piece is asked for behind the last of this one.
    pub fn unjudged(
        &self,
        judge: &str,
        voted: bool,
        after: Place,
        most: usize,
    ) -> Result<Vec<Pair>, ArenaError> {
        self.work(|db| {
            let mut find = db.prepare(&format!(
                "SELECT {PROMPT}, p.id, a.model, b.model, a.said, b.said {UNJUDGED}
                 ORDER BY p.id, a.model, b.model LIMIT ?6"
            ))?;
            let (prompt, left, right) = after;
            let rows = find.query_map(params![judge, voted, prompt, left, right, most], |row| {
                Ok(Pair {
                    prompt: read_prompt(row, 0)?,
                    prompt_id: row.get(5)?,
                    left: row.get(6)?,
                    right: row.get(7)?,
                    left_said: read_json(row, 8)?,
                    right_said: read_json(row, 9)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Keeps what a judge said.
    pub fn say(
        &self,
        judge: &str,
        pair: &Pair,
        grade: Option<i8>,
        words: &str,
    ) -> Result<(), ArenaError> {
        self.work(|db| {
            db.prepare_cached(
                "INSERT OR REPLACE INTO arena_verdicts VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                judge,
                pair.prompt_id,
                pair.left,
                pair.right,
                grade,
                words,
                now()
            ])?;
            Ok(())
        })
    }

    /// All that models said, judge by judge.
    pub fn verdicts(&self) -> Result<Vec<Verdict>, ArenaError> {
        self.work(|db| {
            let mut find = db.prepare(
                "SELECT v.judge, p.id, p.root, p.skill, l.name, r.name, v.grade
                 FROM arena_verdicts AS v JOIN arena_prompts AS p ON p.id = v.prompt
                 JOIN arena_models AS l ON l.id = v.left_model JOIN arena_models AS r ON r.id = v.right_model
                 ORDER BY v.judge, p.id, v.left_model, v.right_model",
            )?;
            let rows = find.query_map([], |row| {
                Ok(Verdict {
                    judge: row.get(0)?,
                    prompt_id: row.get(1)?,
                    root: row.get(2)?,
                    skill: row.get(3)?,
                    left: row.get(4)?,
                    right: row.get(5)?,
                    grade: row.get(6)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
