//! What rounds are: one file of settings, strict, as those of training.

use crate::config::{ChatConfig, lay, set};
use crate::error::TrainError;
use crate::rejection::{ScoreConfig, Unfinished};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Table;

/// All settings of `herd round`. Paths are relative to the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundConfig {
    /// Seed of all that is drawn.
    pub seed: u64,
    /// How many.
    pub rounds: u64,
    /// Folder or file of the tokenizer.
    pub tokenizer: PathBuf,
    /// The policy that the first round begins with.
    pub policy: PathBuf,
    /// What reward models are trained on.
    pub base: PathBuf,
    /// What fine-tuning starts from.
    pub start: Start,
    /// Prompts that are answered and learnt from.
    pub prompts: Vec<PathBuf>,
    /// Prompts that decide whether a round goes on; nothing learns from them.
    pub held: Vec<PathBuf>,
    /// Dialogues that every fine-tuning reads as well.
    pub dialogues: Vec<PathBuf>,
    /// How dialogues are read and rendered.
    pub chat: ChatConfig,
    /// Whose preferences are learnt.
    pub collect: CollectConfig,
    /// What decides whether a round goes on.
    pub gate: GateConfig,
    /// What is laid over the settings of each stage.
    pub stages: StageTables,
}

/// What fine-tuning starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// `base`, every round anew, as the paper has it.
    Base,
    /// The policy of the round before.
    Policy,
}

/// Whose preferences are learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectConfig {
    /// Who judges: `people` wait for a file of votes, `scores` are simulated from `collect.score`.
    pub by: By,
    /// Simulated annotators.
    pub annotator: Vec<Annotator>,
    /// Annotators a pair, at most.
    pub judges: usize,
    /// What simulated annotators go by.
    pub score: Vec<ScoreConfig>,
    /// The temperature of the answers.
    pub temperature: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Tokens of prompt and answer at most; no more than the policies' context.
    pub context: usize,
    /// What becomes of answers that did not end by themselves; those of the gate count as they are.
    pub unfinished: Unfinished,
}

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A file of votes, made elsewhere.
    People,
    /// Scores.
    Scores,
}

/// A simulated annotator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotator {
    /// Its name.
    pub name: String,
    /// The share of its votes that are the wrong way round.
    #[serde(default)]
    pub wrong: f64,
}

/// What decides whether a round goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// Answers a held prompt, of each policy.
    pub k: usize,
    /// Their temperature.
    pub temperature: f64,
    /// The mean score must rise by so much.
    pub min_gain: f64,
    /// What they are judged by: where nothing is said, what simulated annotators go by. Where people judge it must be said:
    /// the round's own reward model chose what was learnt.
    pub score: Vec<ScoreConfig>,
}

/// What is laid over the settings of each stage, as their own files would say it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTables {
    /// Of `herd reward`.
    pub reward: Table,
    /// Of `herd sample`.
    pub sample: Table,
    /// Of `herd sft`.
    pub sft: Table,
    /// Of `herd dpo`.
    pub dpo: Table,
}

/// Keys that a file may have and the defaults have not.
const OPTIONAL: [&str; 3] = ["chat.template", "chat.shape", "chat.date"];

/// Tables that hold whatever their stage's own settings have.
const FREE: [&str; 4] = ["reward", "sample", "sft", "dpo"];

impl RoundConfig {
    fn base() -> RoundConfig {
        let annotators =
            ["one", "two", "three"].map(|name| Annotator { name: name.into(), wrong: 0.0 });
        RoundConfig {
            seed: 1,
            rounds: 6,
            tokenizer: PathBuf::new(),
            policy: PathBuf::new(),
            base: PathBuf::new(),
            start: Start::Base,
            prompts: Vec::new(),
            held: Vec::new(),
            dialogues: Vec::new(),
            chat: ChatConfig::default(),
            collect: CollectConfig {
                by: By::Scores,
                annotator: annotators.to_vec(),
                judges: 3,
                score: Vec::new(),
                temperature: 1.0,
                max_tokens: 256,
                context: 2048,
                unfinished: Unfinished::Reject,
            },
            gate: GateConfig { k: 4, temperature: 0.6, min_gain: 0.0, score: Vec::new() },
            stages: StageTables::default(),
        }
    }

    /// Reads a file and the `--set` overrides over it.
    ///
    /// Errors: the file cannot be read, is no TOML, has a key that does not exist (the nearest is named), or a value of the
    /// wrong type or out of bounds.
    pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RoundConfig, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
        let config = RoundConfig::parse(&text, overrides)
            .map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })?;
        config.absolute(path.parent().unwrap_or(Path::new(".")))
    }

    /// The same of a text; paths stay as they are.
    pub fn parse(text: &str, overrides: &[(String, String)]) -> Result<RoundConfig, TrainError> {
        let toml = |e: toml::de::Error| TrainError::Toml { source: Box::new(e) };
        let mut given: Table = text.parse().map_err(toml)?;
        for (key, value) in overrides {
            set(&mut given, key, value)?;
        }
        let mut stages = Table::new();
        if let Some(toml::Value::Table(table)) = given.remove("stages") {
            for (key, value) in table {
                if !FREE.contains(&key.as_str()) {
                    let nearest =
                        herd_model::nearest(&key, FREE).map(|name| format!("stages.{name}"));
                    return Err(TrainError::Key { key: format!("stages.{key}"), nearest });
                }
                stages.insert(key, value);
            }
        }
        let mut table = Table::try_from(RoundConfig::base()).expect("a config is a table");
        table.remove("stages");
        lay(&mut table, given, "", &OPTIONAL)?;
        for name in FREE {
            stages.entry(name).or_insert_with(|| Table::new().into());
        }
        table.insert("stages".to_owned(), stages.into());
        let config: RoundConfig = table.try_into().map_err(toml)?;
        config.check()?;
        Ok(config)
    }

    /// The text that gives this config again.
    pub fn write(&self) -> String {
        toml::to_string(self).expect("a config is a table")
    }

    /// Paths as they lead from anywhere. Errors: one leads nowhere.
    fn absolute(mut self, folder: &Path) -> Result<RoundConfig, TrainError> {
        let single = [&mut self.tokenizer, &mut self.policy, &mut self.base].into_iter();
        let many = [&mut self.prompts, &mut self.held, &mut self.dialogues].into_iter().flatten();
        for path in single.chain(many) {
            let full = folder.join(&*path);
            *path = std::fs::canonicalize(&full).map_err(|e| TrainError::io("find", &full, e))?;
        }
        Ok(self)
    }

    fn check_stages(&self) -> Result<(), TrainError> {
        // Each stage begins from whole weights.
        for (name, stage) in
            [("reward", &self.stages.reward), ("sft", &self.stages.sft), ("dpo", &self.stages.dpo)]
        {
            if stage.get("model").is_some_and(|model| model.get("lora").is_some()) {
                let key = format!("stages.{name}.model.lora");
                return Err(TrainError::no(
                    &key,
                    "an adapter",
                    "nothing: rounds train all weights",
                ));
            }
        }
        // The policy is the mean of the last two checkpoints of `dpo`.
        let kept = |key: &str| self.stages.dpo.get("checkpoint")?.get(key)?.as_integer();
        for (key, least) in [("keep_last", 2), ("every", 1)] {
            if let Some(value) = kept(key).filter(|value| *value < least) {
                let key = format!("stages.dpo.checkpoint.{key}");
                return Err(TrainError::no(&key, value, &format!("at least {least}")));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TrainError> {
        let CollectConfig { annotator, judges, temperature, .. } = &self.collect;
        for (key, path) in
            [("tokenizer", &self.tokenizer), ("policy", &self.policy), ("base", &self.base)]
        {
            if path.as_os_str().is_empty() {
                return Err(TrainError::no(key, "nothing", "a path"));
            }
        }
        for (key, paths) in [("prompts", &self.prompts), ("held", &self.held)] {
            if paths.is_empty() {
                return Err(TrainError::no(key, "empty", "files of prompts"));
            }
        }
        if self.rounds == 0 {
            return Err(TrainError::no("rounds", 0, "at least 1"));
        }
        if self.collect.by == By::Scores && self.collect.score.is_empty() {
            return Err(TrainError::no(
                "collect.score",
                "empty",
                "what simulated annotators go by",
            ));
        }
        if self.collect.by == By::People && self.gate.score.is_empty() {
            let expected = "judges that chose nothing of what is learnt: [[gate.score]]";
            return Err(TrainError::no("gate.score", "empty where people judge", expected));
        }
        if *judges == 0 || annotator.is_empty() {
            return Err(TrainError::no("collect.judges", judges, "at least 1, and an annotator"));
        }
        let twice = |(i, a): &(usize, &Annotator)| annotator[..*i].iter().any(|b| b.name == a.name);
        if let Some((_, a)) = annotator.iter().enumerate().find(twice) {
            return Err(TrainError::no("collect.annotator.name", &a.name, "a name of its own"));
        }
        self.check_stages()?;
        if let Some(a) = annotator.iter().find(|a| !(0.0..=1.0).contains(&a.wrong)) {
            return Err(TrainError::no("collect.annotator.wrong", a.wrong, "0 to 1"));
        }
        for (key, value) in
            [("collect.temperature", *temperature), ("gate.temperature", self.gate.temperature)]
        {
            if !(0.0..=100.0).contains(&value) {
                return Err(TrainError::no(key, value, "0 to 100"));
            }
        }
        if self.gate.k == 0 || !self.gate.min_gain.is_finite() {
            return Err(TrainError::no(
                "gate",
                format!("k {}, min_gain {}", self.gate.k, self.gate.min_gain),
                "k of at least 1, a number",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "tokenizer = \"t\"\npolicy = \"p\"\nbase = \"b\"\nprompts = [\"q\"]\nheld = [\"h\"]\n\
                        [[collect.score]]\nkind = \"length\"\nwords = [1, 9]\n";

    #[test]
    fn what_is_laid_over_a_stage_is_any_table_and_the_rest_is_strict() {
        let config =
            RoundConfig::parse(&format!("{HEAD}[stages.sft.optim]\nsteps = 7\n"), &[]).unwrap();
        assert_eq!(config.stages.sft["optim"]["steps"].as_integer(), Some(7));
        assert_eq!(RoundConfig::parse(&config.write(), &[]).unwrap(), config);
        let error = |text: &str| RoundConfig::parse(&format!("{HEAD}{text}"), &[]).unwrap_err();
        let nearest = |error| match error {
            TrainError::Key { nearest, .. } => nearest,
            other => panic!("{other}"),
        };
        assert_eq!(nearest(error("[stages.stf]\n")).as_deref(), Some("stages.sft"));
        assert_eq!(nearest(error("[gate]\nmin_gains = 1\n")).as_deref(), Some("gate.min_gain"));
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let error = |set: &str, value: &str| {
            RoundConfig::parse(HEAD, &[(set.to_owned(), value.to_owned())]).unwrap_err().to_string()
        };
        assert!(error("rounds", "0").contains("rounds"));
        assert!(error("held", "[]").contains("held"));
        assert!(error("gate.k", "0").contains("gate"));
        assert!(error("collect.by", "people").contains("`gate.score` is empty"));
        assert!(error("stages.dpo.checkpoint.keep_last", "1").contains("at least 2"));
        let twice = "[{name = \"x\"}, {name = \"x\"}]";
        assert!(error("collect.annotator", twice).contains("a name of its own"));
        assert!(error("collect.annotator", "[{name = \"x\", wrong = 2.0}]").contains("2"));
    }
}
