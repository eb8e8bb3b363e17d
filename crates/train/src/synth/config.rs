//! What a run of `herd synth` is: one file of settings, strict, as those of training.

use crate::config::{ChatConfig, lay, set};
use crate::error::TrainError;
use crate::synth::Kind;
use crate::synth::backtranslate::BacktranslateConfig;
use crate::synth::code::CodeConfig;
use crate::synth::imports::ImportsConfig;
use crate::synth::long_qa::LongQaConfig;
use crate::synth::maths::MathsConfig;
use crate::synth::probe::ProbeConfig;
use crate::synth::search::SearchConfig;
use crate::synth::steps::StepsConfig;
use crate::synth::tools::ToolsConfig;
use crate::synth::translate_code::TranslateConfig;
use crate::writer::prompts::{Prompts, texts};
use crate::writer::{AskConfig, WriterConfig, between};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Table;

/// All settings of `herd synth`. Paths are relative to the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynthConfig {
    /// Seed of all that is drawn.
    pub seed: u64,
    /// Files or folders of what rows are made from.
    pub input: Vec<PathBuf>,
    /// The field of JSON that holds a document's text.
    pub field: String,
    /// Items made from each record.
    pub copies: u64,
    /// Items at most; all where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items_max: Option<u64>,
    /// Who writes.
    pub writer: WriterConfig,
    /// Who gives verdicts, marks and second looks; the writer itself where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<WriterConfig>,
    /// How they are asked.
    pub sample: AskConfig,
    /// How a checkpoint chats, and how rows of dialogues are read.
    pub chat: ChatConfig,
    /// The template of each step.
    pub prompts: BTreeMap<String, String>,
    /// Of `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeConfig>,
    /// Of `translate-code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translate: Option<TranslateConfig>,
    /// Of `backtranslate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtranslate: Option<BacktranslateConfig>,
    /// Of `maths`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maths: Option<MathsConfig>,
    /// Of `maths-steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<StepsConfig>,
    /// Of `maths-search`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchConfig>,
    /// Of `probe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeConfig>,
    /// Of `long-qa`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_qa: Option<LongQaConfig>,
    /// Of `imports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imports: Option<ImportsConfig>,
    /// Of `tools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<ToolsConfig>,
}

/// Keys that a file may have and the defaults have not.
const OPTIONAL: [&str; 10] = [
    "items_max",
    "judge", // in no defaults, so that it may be misspelt
    "judge.base_url",
    "judge.key_env",
    "writer.base_url",
    "writer.key_env",
    "chat.template",
    "chat.shape",
    "chat.date",
    "long_qa.tokenizer",
];

impl SynthConfig {
    /// What a file need not say.
    fn base(kind: Kind) -> SynthConfig {
        SynthConfig {
            seed: 0,
            input: Vec::new(),
            field: "text".to_owned(),
            copies: 1,
            items_max: None,
            writer: WriterConfig::base(),
            judge: None,
            sample: AskConfig::base(),
            chat: ChatConfig::default(),
            prompts: texts(kind.prompts()),
            code: (kind == Kind::Code).then(CodeConfig::base),
            translate: (kind == Kind::TranslateCode).then(TranslateConfig::base),
            backtranslate: (kind == Kind::Backtranslate).then(BacktranslateConfig::base),
            maths: (kind == Kind::Maths).then(MathsConfig::base),
            steps: (kind == Kind::MathsSteps).then(StepsConfig::base),
            search: (kind == Kind::MathsSearch).then(SearchConfig::base),
            probe: (kind == Kind::Probe).then(ProbeConfig::base),
            long_qa: (kind == Kind::LongQa).then(LongQaConfig::base),
            imports: (kind == Kind::Imports).then(ImportsConfig::base),
            tools: (kind == Kind::Tools).then(ToolsConfig::base),
        }
    }

    /// Reads a file and the `--set` overrides over it.
    ///
    /// Errors: the file cannot be read, is no TOML, has a key that this kind does not have (the nearest is named), a
    /// value of the wrong type or out of bounds, or a prompt that is no template.
    pub fn read(
        kind: Kind,
        path: &Path,
        overrides: &[(String, String)],
    ) -> Result<SynthConfig, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
        SynthConfig::parse(kind, &text, overrides)
            .map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })
    }

    /// The same of a text.
    pub fn parse(
        kind: Kind,
        text: &str,
        overrides: &[(String, String)],
    ) -> Result<SynthConfig, TrainError> {
        let toml = |e: toml::de::Error| TrainError::Toml { source: Box::new(e) };
        let mut given: Table = text.parse().map_err(toml)?;
        for (key, value) in overrides {
            set(&mut given, key, value)?;
        }
        let judge = given.contains_key("judge").then(WriterConfig::base);
        let base = SynthConfig { judge, ..SynthConfig::base(kind) };
        let mut table = Table::try_from(base).expect("a config is a table");
        lay(&mut table, given, "", &OPTIONAL)?;
        let config: SynthConfig = table.try_into().map_err(toml)?;
        config.check(kind)?;
        Ok(config)
    }

    /// The text that gives this config again.
    pub fn write(&self) -> String {
        toml::to_string(self).expect("a config is a table")
    }

    fn check(&self, kind: Kind) -> Result<(), TrainError> {
        if self.input.is_empty() {
            return Err(TrainError::no("input", "[]", "files to make rows from"));
        }
        between("copies", self.copies, 1, 1 << 20)?;
        self.writer.check("writer")?;
        self.judge.as_ref().map_or(Ok(()), |judge| judge.check("judge"))?;
        self.sample.check()?;
        Prompts::new(&self.prompts, kind.prompts())?;
        self.code.as_ref().map_or(Ok(()), CodeConfig::check)?;
        self.translate.as_ref().map_or(Ok(()), TranslateConfig::check)?;
        self.backtranslate.as_ref().map_or(Ok(()), BacktranslateConfig::check)?;
        self.imports.as_ref().map_or(Ok(()), ImportsConfig::check)?;
        self.tools.as_ref().map_or(Ok(()), ToolsConfig::check)?;
        self.maths.as_ref().map_or(Ok(()), MathsConfig::check)?;
        self.steps.as_ref().map_or(Ok(()), StepsConfig::check)?;
        self.search.as_ref().map_or(Ok(()), SearchConfig::check)?;
        self.probe.as_ref().map_or(Ok(()), ProbeConfig::check)?;
        self.long_qa.as_ref().map_or(Ok(()), |config| config.check(&self.writer))
    }
}
