//! Supervised fine-tuning: the answers of dialogues, and nothing else of them (arXiv 2407.21783,
//! section 4.1.3).

use crate::config::{ChatConfig, DataConfig, Long, OptimConfig, Packing, RunConfig};
use crate::error::TrainError;
use crate::pretrain::pretrain;
use crate::trainer::Trainer;
use std::path::{Path, PathBuf};

/// Reads the settings of a run over dialogues: the paper's rate of 1e-5, whole dialogues in a row, the tokenizer of
/// the model that it starts from, unless they say otherwise.
///
/// Errors: those of [`RunConfig::read`]; no `model.init`; documents cut or unmasked.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    read_over(path, overrides, |base| base, |_| Ok(()))
}

/// The same of a stage that has settings of its own, which `more` lays on and `check` judges.
pub(crate) fn read_over(
    path: &Path,
    overrides: &[(String, String)],
    more: impl FnOnce(RunConfig) -> RunConfig,
    check: impl FnOnce(&RunConfig) -> Result<(), TrainError>,
) -> Result<RunConfig, TrainError> {
    let config = RunConfig::read_over(path, overrides, |preset| more(base(preset)))?;
    let checked = resolved(config).and_then(|config| check(&config).map(|()| config));
    checked.map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })
}

pub(crate) fn base(preset: RunConfig) -> RunConfig {
    let optim = OptimConfig { lr: 1e-5, ..preset.optim };
    let data = DataConfig { packing: Packing::Whole, long: Long::Refuse, ..preset.data };
    let (tokenizer, chat) = (PathBuf::new(), Some(ChatConfig::default()));
    RunConfig { tokenizer, optim, data, chat, ..preset }
}

pub(crate) fn resolved(mut config: RunConfig) -> Result<RunConfig, TrainError> {
    let Some(init) = &config.model.init else {
        return Err(TrainError::no("model.init", "nothing", "the checkpoint to fine-tune"));
    };
    if config.tokenizer.as_os_str().is_empty() {
        config.tokenizer = init.clone();
    }
    if config.data.packing == Packing::Cut {
        return Err(TrainError::no(
            "data.packing",
            "cut",
            "whole: an answer stays behind its prompt",
        ));
    }
    if config.data.long == Long::Split {
        return Err(TrainError::no(
            "data.long",
            "split",
            "shorten, drop or refuse: an answer stays behind its prompt",
        ));
    }
    if !config.data.document_mask {
        return Err(TrainError::no("data.document_mask", "false", "true: dialogues are strangers"));
    }
    Ok(config)
}

/// Runs to the last step, or until it is asked to stop.
///
/// Errors: those of [`pretrain`].
pub fn sft(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    pretrain(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RunConfig, TrainError> {
        resolved(RunConfig::parse_over(&format!("data.input = [\"a\"]\n{text}"), &[], base)?)
    }

    #[test]
    fn the_papers_rate_whole_rows_and_the_models_tokenizer_stand_unless_the_file_says_otherwise() {
        let config = parse("model.init = \"m\"").unwrap();
        assert_eq!((config.optim.lr, config.data.packing), (1e-5, Packing::Whole));
        assert_eq!((config.data.long, config.tokenizer), (Long::Refuse, "m".into()));
        let config = parse("model.init = \"m\"\ntokenizer = \"t\"\ndata.long = \"drop\"").unwrap();
        assert_eq!((config.data.long, config.tokenizer), (Long::Drop, "t".into()));
    }

    #[test]
    fn settings_that_teach_no_dialogue_are_named() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error("").contains("model.init"));
        assert!(error("model.init = \"m\"\ndata.packing = \"cut\"").contains("data.packing"));
        assert!(error("model.init = \"m\"\ndata.long = \"split\"").contains("data.long"));
        let unmasked = "model.init = \"m\"\ndata.document_mask = false";
        assert!(error(unmasked).contains("data.document_mask"));
        let misspelt = parse("model.init = \"m\"\nchat.shap = \"alpaca\"").unwrap_err();
        assert!(misspelt.to_string().contains("chat.shap"));
        assert_eq!(misspelt.hint().as_deref(), Some("did you mean chat.shape?"));
    }
}
