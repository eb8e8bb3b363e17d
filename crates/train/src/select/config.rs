//! What a run of `herd select` is: one file of settings, strict, as those of training. A part is done where its table is there.

use crate::config::{ChatConfig, lay, set};
use crate::error::TrainError;
use crate::select::judge::PROMPTS;
use crate::select::{CleanConfig, DedupConfig, PhrasesConfig, QualityConfig, TagsConfig};
use crate::writer::prompts::{Prompts, texts};
use crate::writer::{AskConfig, WriterConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Table;

/// All settings of `herd select`. Paths are relative to the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectConfig {
    /// Seed of all that is drawn.
    pub seed: u64,
    /// Files or folders of dialogues.
    pub input: Vec<PathBuf>,
    /// Who tags and judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<WriterConfig>,
    /// How it is asked.
    pub sample: AskConfig,
    /// How dialogues are read, and how a checkpoint chats.
    pub chat: ChatConfig,
    /// The template of each step.
    pub prompts: BTreeMap<String, String>,
    /// Rules against unwanted patterns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean: Option<CleanConfig>,
    /// Topics and difficulty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<TagsConfig>,
    /// Rewards and marks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityConfig>,
    /// Duplicates in meaning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupConfig>,
    /// Over-used phrases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phrases: Option<PhrasesConfig>,
}

/// Keys that a file may have and the defaults have not.
const OPTIONAL: [&str; 14] = [
    "writer",
    "clean",
    "tags",
    "quality",
    "dedup",
    "phrases",
    "writer.base_url",
    "writer.key_env",
    "chat.template",
    "chat.shape",
    "chat.date",
    "quality.reward_model",
    "dedup.base_url",
    "dedup.key_env",
];

impl SelectConfig {
    /// What a file with these tables need not say.
    fn base(given: &Table) -> SelectConfig {
        let has = |name: &str| given.contains_key(name);
        SelectConfig {
            seed: 0,
            input: Vec::new(),
            writer: has("writer").then(WriterConfig::base),
            sample: AskConfig { max_tokens: 200, ..AskConfig::base() },
            chat: ChatConfig::default(),
            prompts: texts(PROMPTS),
            clean: has("clean").then(CleanConfig::base),
            tags: has("tags").then(TagsConfig::base),
            quality: has("quality").then(QualityConfig::base),
            dedup: has("dedup").then(DedupConfig::base),
            phrases: has("phrases").then(PhrasesConfig::base),
        }
    }

    /// Reads a file and the `--set` overrides over it.
    ///
    /// Errors: the file cannot be read, is no TOML, has a key that does not exist (the nearest is named), a value of
    /// the wrong type or out of bounds, or a prompt that is no template.
    pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<SelectConfig, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
        SelectConfig::parse(&text, overrides)
            .map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })
    }

    /// The same of a text.
    pub fn parse(text: &str, overrides: &[(String, String)]) -> Result<SelectConfig, TrainError> {
        let toml = |e: toml::de::Error| TrainError::Toml { source: Box::new(e) };
        let mut given: Table = text.parse().map_err(toml)?;
        for (key, value) in overrides {
            set(&mut given, key, value)?;
        }
        let mut table = Table::try_from(SelectConfig::base(&given)).expect("a config is a table");
        lay(&mut table, given, "", &OPTIONAL)?;
        let config: SelectConfig = table.try_into().map_err(toml)?;
        config.check()?;
        Ok(config)
    }

    /// The text that gives this config again.
    pub fn write(&self) -> String {
        toml::to_string(self).expect("a config is a table")
    }

    /// Whether anything in it is asked of a writer.
    pub fn asks(&self) -> bool {
        self.tags.is_some() || self.quality.as_ref().is_some_and(|quality| quality.judge)
    }

    fn check(&self) -> Result<(), TrainError> {
        if self.input.is_empty() {
            return Err(TrainError::no("input", "[]", "files of dialogues"));
        }
        self.sample.check()?;
        Prompts::new(&self.prompts, PROMPTS)?;
        match &self.writer {
            Some(writer) => writer.check("writer")?,
            None if self.asks() => {
                let expected = "a table: tags and marks come from a writer";
                return Err(TrainError::no("writer", "missing", expected));
            }
            None => {}
        }
        self.clean.as_ref().map_or(Ok(()), CleanConfig::check)?;
        self.tags.as_ref().map_or(Ok(()), TagsConfig::check)?;
        self.quality.as_ref().map_or(Ok(()), QualityConfig::check)?;
        self.dedup.as_ref().map_or(Ok(()), DedupConfig::check)?;
        self.phrases.as_ref().map_or(Ok(()), PhrasesConfig::check)
    }
}
