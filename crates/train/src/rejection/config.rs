//! What a run of `herd sample` is: one file of settings, strict, as those of training.

use crate::config::{ChatConfig, lay, set};
use crate::error::TrainError;
use crate::rejection::score::{ScoreConfig, check_all};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Table;

/// All settings of `herd sample`. Paths are relative to the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectionConfig {
    /// Seed of all that is drawn.
    pub seed: u64,
    /// Files or folders of rows whose last question is answered.
    pub input: Vec<PathBuf>,
    /// How answers are sampled.
    pub sample: SampleConfig,
    /// How dialogues are read and rendered.
    pub chat: ChatConfig,
    /// Which answers are written for `herd sft`.
    pub best: BestConfig,
    /// Which pairs are written for `herd dpo` and `herd reward`.
    pub pairs: PairsConfig,
    /// What answers are judged by; their total is the sum of weight times score.
    pub score: Vec<ScoreConfig>,
}

/// How answers are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Answers a prompt: K.
    pub k: usize,
    /// Checkpoints that answer.
    pub policies: Vec<PathBuf>,
    /// What several policies do with K.
    pub share: Share,
    /// One temperature, or the two ends that it is drawn between.
    pub temperature: Temperature,
    /// For what a temperature is drawn.
    pub draw: Draw,
    /// The nucleus.
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Tokens of prompt and answer at most.
    pub context: usize,
    /// Answers of a policy under way at once, at most; fewer where memory says so. Changes no bit.
    pub parallel: usize,
    /// System prompts, of which each answer draws one.
    pub system: Vec<String>,
    /// Whether they stay in the rows that are trained on.
    pub keep_system: bool,
    /// What becomes of prompts that leave no room for an answer.
    pub long: LongPrompt,
    /// What becomes of answers that did not end by themselves.
    pub unfinished: Unfinished,
}

/// What several policies do with K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// They share it, in turn.
    Split,
    /// Each gives K answers.
    Each,
}

/// One temperature, or the two ends that it is drawn between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Temperature {
    /// The same for all.
    Fixed(f64),
    /// Drawn evenly from low to high.
    Between([f64; 2]),
}

/// For what a temperature is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Draw {
    /// Once for all answers to a prompt.
    Prompt,
    /// For each answer.
    Sample,
}

/// What becomes of prompts that leave no room for an answer of `max_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongPrompt {
    /// They are left out, and counted.
    Drop,
    /// They are an error.
    Refuse,
}

/// What becomes of answers that did not end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unfinished {
    /// They are kept, but never chosen.
    Reject,
    /// They are as good as others.
    Keep,
}

/// Which answers are written for `herd sft`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestConfig {
    /// The least total; any where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_min: Option<f64>,
}

/// Which pairs are written for `herd dpo` and `herd reward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsConfig {
    /// What the best answer is held against.
    pub against: Against,
    /// The least total of the best answer; any where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_min: Option<f64>,
    /// The least difference of totals; equals are never a pair.
    pub gap_min: f64,
}

/// What the best answer is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The worst.
    Worst,
    /// The next one that is worse.
    Next,
}

/// Keys that a file may have and the defaults have not.
const OPTIONAL: [&str; 5] =
    ["chat.template", "chat.shape", "chat.date", "best.score_min", "pairs.score_min"];

impl RejectionConfig {
    /// What a file need not say: K = 16 (arXiv 2407.21783, section 4.2.2: 10 to 30).
    fn base() -> RejectionConfig {
        let sample = SampleConfig {
            k: 16,
            policies: Vec::new(),
            share: Share::Split,
            temperature: Temperature::Fixed(0.7),
            draw: Draw::Sample,
            top_p: 1.0,
            max_tokens: 512,
            context: 2048,
            parallel: 32,
            system: Vec::new(),
            keep_system: true,
            long: LongPrompt::Drop,
            unfinished: Unfinished::Reject,
        };
        let pairs = PairsConfig { against: Against::Worst, score_min: None, gap_min: 0.0 };
        RejectionConfig {
            seed: 0,
            input: Vec::new(),
            sample,
            chat: ChatConfig::default(),
            best: BestConfig { score_min: None },
            pairs,
            score: Vec::new(),
        }
    }

    /// Reads a file and the `--set` overrides over it.
    ///
    /// Errors: the file cannot be read, is no TOML, has a key that does not exist (the nearest is named), or a
    /// value of the wrong type or out of bounds.
    pub fn read(
        path: &Path,
        overrides: &[(String, String)],
    ) -> Result<RejectionConfig, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
        RejectionConfig::parse(&text, overrides)
            .map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })
    }

    /// The same of a text.
    pub fn parse(
        text: &str,
        overrides: &[(String, String)],
    ) -> Result<RejectionConfig, TrainError> {
        let toml = |e: toml::de::Error| TrainError::Toml { source: Box::new(e) };
        let mut given: Table = text.parse().map_err(toml)?;
        for (key, value) in overrides {
            set(&mut given, key, value)?;
        }
        let mut table = Table::try_from(RejectionConfig::base()).expect("a config is a table");
        lay(&mut table, given, "", &OPTIONAL)?;
        let config: RejectionConfig = table.try_into().map_err(toml)?;
        config.check()?;
        Ok(config)
    }

    /// The text that gives this config again.
    pub fn write(&self) -> String {
        toml::to_string(self).expect("a config is a table")
    }

    /// Answers a prompt from all policies.
    pub fn answers(&self) -> usize {
        match self.sample.share {
            Share::Split => self.sample.k,
            Share::Each => self.sample.k * self.sample.policies.len(),
        }
    }

    fn check(&self) -> Result<(), TrainError> {
        let s = &self.sample;
        if s.policies.is_empty() {
            return Err(TrainError::no("sample.policies", "[]", "the checkpoints that answer"));
        }
        if self.input.is_empty() {
            return Err(TrainError::no("input", "[]", "files of prompts"));
        }
        for (key, value, most) in [
            ("sample.k", s.k, 1024),
            ("sample.max_tokens", s.max_tokens, 1 << 20),
            ("sample.context", s.context, 1 << 24),
            ("sample.parallel", s.parallel, 4096),
        ] {
            if !(1..=most).contains(&value) {
                return Err(TrainError::no(key, value, &format!("1 to {most}")));
            }
        }
        if s.max_tokens >= s.context {
            let value = format!("{} of {}", s.max_tokens, s.context);
            return Err(TrainError::no("sample.max_tokens", value, "less than sample.context"));
        }
        if s.share == Share::Split && s.k < s.policies.len() {
            let expected = format!("at least the {} policies that share it", s.policies.len());
            return Err(TrainError::no("sample.k", s.k, &expected));
        }
        let (low, high) = match s.temperature {
            Temperature::Fixed(t) => (t, t),
            Temperature::Between([low, high]) => (low, high),
        };
        if !(0.0 <= low && low <= high && high <= 100.0) {
            let value = if low == high { low.to_string() } else { format!("[{low}, {high}]") };
            let expected = "0 to 100, or [low, high] of these";
            return Err(TrainError::no("sample.temperature", value, expected));
        }
        for (key, value, range) in
            [("sample.top_p", s.top_p, 0.0..=1.0), ("pairs.gap_min", self.pairs.gap_min, 0.0..=1e9)]
        {
            if !range.contains(&value) {
                let expected = format!("{} to {}", range.start(), range.end());
                return Err(TrainError::no(key, value, &expected));
            }
        }
        check_all(&self.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "input = [\"p\"]\nsample.policies = [\"m\"]\n";

    fn parse(more: &str) -> Result<RejectionConfig, TrainError> {
        RejectionConfig::parse(&format!("{LEAST}{more}"), &[])
    }

    #[test]
    fn a_config_that_is_written_reads_the_same() {
        let config = parse(
            "sample.temperature = [0.2, 1]\nbest.score_min = 0.5\n\
             [[score]]\nkind = \"number\"\nfield = \"answer\"\nrequire = 1\n\
             [[score]]\nkind = \"format\"\nname = \"short\"\nwords_max = 20\nweight = 0.5\n",
        )
        .unwrap();
        assert_eq!(config.sample.temperature, Temperature::Between([0.2, 1.0]));
        assert_eq!((config.sample.k, config.score.len()), (16, 2));
        assert_eq!((&config.score[0].name[..], &config.score[1].name[..]), ("number", "short"));
        assert_eq!(RejectionConfig::parse(&config.write(), &[]).unwrap(), config);
        let overrides = [("sample.k".to_owned(), "4".to_owned())];
        assert_eq!(RejectionConfig::parse(LEAST, &overrides).unwrap().sample.k, 4);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, told) in [
            ("sample.k = 0", "sample.k"),
            ("sample.temperature = [1, 0.5]", "sample.temperature"),
            ("sample.temperature = -1", "sample.temperature"),
            ("sample.top_p = 2", "sample.top_p"),
            ("sample.max_tokens = 2048", "sample.max_tokens"),
            ("sample.shares = \"each\"", "sample.shares"),
            ("sample.share = \"none\"", "none"),
            ("pairs.gap_min = -1", "pairs.gap_min"),
            ("[[score]]\nkind = \"taste\"", "taste"),
            ("[[score]]\nkind = \"number\"", "field"),
            ("[[score]]\nkind = \"number\"\nfield = \"a\"\nfeild = \"b\"", "feild"),
            ("[[score]]\nkind = \"regex\"\npattern = \"(\"", "pattern"),
            ("[[score]]\nkind = \"length\"\nwords = [3, 2]", "words"),
            ("[[score]]\nkind = \"length\"\nwords = [1, 2]\nweight = \"x\"", "weight"),
            (
                "[[score]]\nkind = \"length\"\nwords = [1, 2]\n[[score]]\nkind = \"length\"\nwords = [1, 3]",
                "score.name",
            ),
        ] {
            let error = parse(text).unwrap_err();
            let mut said = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(error) = cause {
                said += &error.to_string();
                cause = error.source();
            }
            assert!(said.contains(told), "{text}: {said}");
        }
        let error = parse("sample.polices = []").unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean sample.policies?"));
        let two = "input = [\"p\"]\nsample.policies = [\"m\", \"n\"]\nsample.k = 1";
        let error = RejectionConfig::parse(two, &[]).unwrap_err().to_string();
        assert!(error.contains("at least the 2 policies"), "{error}");
        assert!(RejectionConfig::parse("", &[]).unwrap_err().to_string().contains("policies"));
    }
}
