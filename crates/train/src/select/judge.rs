//! What a writer says of a row: topics, intentions, difficulty, marks; and which rows are of high quality.

use crate::error::TrainError;
use crate::select::rows::Read;
use crate::select::{Entry, SelectConfig, Summary};
use crate::synth::read::{labelled, mark};
use crate::writer::desk::{Desk, Made};
use crate::writer::prompts::Default as Prompt;
use crate::writer::within;
use herd_model::nearest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Settings of tagging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagsConfig {
    /// Coarse topics; the writer names fine ones itself.
    pub topics: Vec<String>,
    /// Whether difficulty is asked for, in three points.
    pub difficulty: bool,
}

/// Settings of quality: a row is of high quality where the reward or the judge says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityConfig {
    /// A reward model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<PathBuf>,
    /// The share of rows with the greatest rewards.
    pub top_share: f64,
    /// Whether the writer gives marks: of three points, of dialogues with code of two; all of them are high quality.
    pub judge: bool,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Prompt] = &[
    Prompt {
        step: "tags",
        names: &["dialogue", "topics"],
        text: "{{ dialogue }}\n\nThat was a dialogue. Say what it is about, in this form:\nTopic: one of {{ topics | join(\", \") }}\n\
               Subtopic: a few words\nIntentions: all that the user wants, a few words each, with commas between",
    },
    Prompt {
        step: "difficulty",
        names: &["dialogue"],
        text: "{{ dialogue }}\n\nThat was a dialogue. How hard is what the user asks: 1 (easy), 2 (medium) or 3 (hard)? End with `Score: N`.",
    },
    Prompt {
        step: "general",
        names: &["dialogue"],
        text: "{{ dialogue }}\n\nThat was a dialogue. Give the assistant a point for each that holds: what it says is accurate; it does what \
               was asked; tone and presentation are good. End with `Score: N`, N from 0 to 3.",
    },
    Prompt {
        step: "code",
        names: &["dialogue"],
        text: "{{ dialogue }}\n\nThat was a dialogue. Give the assistant a point for each that holds: its code has no bug; it serves what the \
               user wants. End with `Score: N`, N from 0 to 2.",
    },
];

impl TagsConfig {
    pub(super) fn base() -> TagsConfig {
        let topics =
            ["general", "mathematical reasoning", "coding", "science", "writing", "tools", "other"];
        TagsConfig { topics: topics.map(str::to_owned).to_vec(), difficulty: true }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        match self.topics.is_empty() {
            true => Err(TrainError::no("tags.topics", "[]", "names of topics")),
            false => Ok(()),
        }
    }
}

impl QualityConfig {
    pub(super) fn base() -> QualityConfig {
        QualityConfig { reward_model: None, top_share: 0.25, judge: true }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        within("quality.top_share", self.top_share, 0.0, 1.0)?;
        if self.judge || self.reward_model.is_some() {
            return Ok(());
        }
        Err(TrainError::no("quality.judge", false, "true, or a quality.reward_model"))
    }
}

/// What the writer said of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub topic: Option<String>,
    pub subtopic: Option<String>,
    pub intentions: Vec<String>,
    /// 1 to 3.
    pub difficulty: Option<u32>,
    /// Points, of how many.
    pub points: Option<(u32, u32)>,
    /// Steps whose answer could not be read.
    pub unread: Vec<&'static str>,
}

impl Marks {
    /// Adds what is known.
    pub fn tell(&self, told: &mut Value) {
        if self.topic.is_some() || self.subtopic.is_some() || !self.intentions.is_empty() {
            told["tags"] = json!({ "topic": self.topic, "subtopic": self.subtopic, "intentions": self.intentions });
        }
        if let Some(difficulty) = self.difficulty {
            told["difficulty"] = difficulty.into();
        }
        if let Some((points, of)) = self.points {
            told["points"] = json!([points, of]);
        }
    }
}

/// Asks all that the settings want to know of a row, at once.
pub(super) fn marks(desk: &mut Desk<'_>, config: &SelectConfig, row: &Read) -> Made<Marks> {
    let dialogue = || json!({ "dialogue": row.text });
    let judged = if row.text.contains("```") { ("code", 2) } else { ("general", 3) };
    let mut wanted: Vec<(&'static str, Value)> = Vec::new();
    if let Some(tags) = &config.tags {
        wanted.push(("tags", json!({ "dialogue": row.text, "topics": tags.topics })));
        if tags.difficulty {
            wanted.push(("difficulty", dialogue()));
        }
    }
    if config.quality.as_ref().is_some_and(|quality| quality.judge) {
        wanted.push((judged.0, dialogue()));
    }
    let asks =
        wanted.iter().map(|(step, with)| crate::writer::desk::Ask::verdict(step, with.clone()));
    let said = desk.ask(asks.collect())?;
    let mut marks = Marks::default();
    for ((step, _), said) in wanted.iter().zip(said) {
        let text = &said[0].text;
        let read = match *step {
            "tags" => marks.tags(text, config.tags.as_ref().expect("it was asked for")),
            "difficulty" => {
                marks.difficulty = mark(text, "score", 3).filter(|mark| *mark > 0);
                marks.difficulty.is_some()
            }
            _ => {
                marks.points = mark(text, "score", judged.1).map(|points| (points, judged.1));
                marks.points.is_some()
            }
        };
        if !read {
            marks.unread.push(step);
        }
    }
    Ok(marks)
}

/// Intentions of a row at most: what a writer repeats without an end is no intention.
const INTENTIONS_MAX: usize = 16;

impl Marks {
    /// Reads tags; whether there were any.
    fn tags(&mut self, text: &str, config: &TagsConfig) -> bool {
        const LABELS: [&str; 3] = ["Topic", "Subtopic", "Intentions"];
        let part = |label: &str| labelled(text, label, &LABELS);
        let named = part("Topic").map(|topic| topic.trim_end_matches('.').to_lowercase());
        self.topic = named.and_then(|named: String| {
            let same = config.topics.iter().find(|topic| topic.to_lowercase() == named);
            let topics = config.topics.iter().map(String::as_str);
            same.cloned().or_else(|| nearest(&named, topics).map(str::to_owned))
        });
        self.subtopic = part("Subtopic");
        for intention in part("Intentions").unwrap_or_default().split([',', '\n', ';']) {
            let plain = intention.trim().trim_start_matches(['-', '*', ' ']).to_lowercase();
            let full = self.intentions.len() == INTENTIONS_MAX;
            if !plain.is_empty() && !full && !self.intentions.contains(&plain) {
                self.intentions.push(plain);
            }
        }
        self.topic.is_some()
    }
}

/// Keeps rows that the reward or the judge finds of high quality (their union: the two disagree often).
pub(super) fn quality(config: &QualityConfig, entries: &mut [Entry], summary: &mut Summary) {
    let mut rewards: Vec<f64> =
        entries.iter().filter(|e| e.dropped.is_none()).filter_map(|e| e.reward).collect();
    rewards.sort_by(|a, b| b.total_cmp(a));
    let top = (config.top_share * rewards.len() as f64).ceil() as usize;
    let reward_min = top.checked_sub(1).and_then(|last| rewards.get(last)).copied();
    let mut counts = [0; 3];
    for entry in entries.iter_mut().filter(|entry| entry.dropped.is_none()) {
        let by_reward = entry.reward.zip(reward_min).is_some_and(|(r, least)| r >= least);
        let by_judge = entry.marks.points.is_some_and(|(points, of)| points == of);
        // Ranks, not values: rewards have no scale.
        let below = |r: f64| rewards.len() - rewards.partition_point(|other| *other > r);
        let rank = entry.reward.map(|r| below(r) as f64 / rewards.len() as f64);
        let points = entry.marks.points.map(|(points, of)| f64::from(points) / f64::from(of));
        let known: Vec<f64> = rank.into_iter().chain(points).collect();
        entry.quality = known.iter().sum::<f64>() / known.len().max(1) as f64;
        match (by_reward, by_judge) {
            (true, false) => counts[0] += 1,
            (false, true) => counts[1] += 1,
            (true, true) => counts[2] += 1,
            (false, false) => {
                let by_judge = config.judge && entry.marks.points.is_none();
                let by_reward = config.reward_model.is_some() && entry.reward.is_none();
                // Who could not read a row has not found it bad.
                let reason = if by_judge || by_reward { "unread" } else { "quality" };
                let quality = (!known.is_empty()).then_some(entry.quality);
                entry.drop(reason, json!({ "quality": quality }));
            }
        }
    }
    (summary.reward_min, summary.quality) = (reward_min, Some(counts));
}
