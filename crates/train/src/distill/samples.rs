//! Distillation from samples: the settings of `herd sample`, by which the teacher answers, and of `herd sft`, by which the
//! student learns its answers; as files that can be run by hand.

use crate::config::{DataConfig, RunConfig};
use crate::error::TrainError;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The settings of both runs. Paths are absolute, but for that of the answers, which leads from the folder of these files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taught {
    /// The teacher answers.
    pub sample: String,
    /// The student learns its best answers.
    pub sft: String,
}

/// Where the answers lie, seen from the folder of the settings.
const ANSWERS: &str = "../samples.best.jsonl";
/// Answers a prompt where they are judged, and where they are not.
const K: [i64; 2] = [16, 1];

/// Those of a run.
///
/// Errors: it names shards, whose prompts nobody can ask, or a folder that is not there.
pub fn settings(config: &RunConfig) -> Result<Taught, TrainError> {
    let distill = config.distill.as_ref().expect("asked of a run with a teacher");
    if config.data.shards.is_some() {
        let expected = "data.input: rows whose prompts are asked";
        return Err(TrainError::no("data.shards", "given", expected));
    }
    let text = |path: &Path| Ok::<_, TrainError>(absolute(path)?.display().to_string());
    let k = if distill.score.is_empty() { K[1] } else { K[0] };
    let mut sample = Table::new();
    sample.insert("k".to_owned(), k.into());
    sample.insert("policies".to_owned(), vec![Value::from(text(&distill.teacher)?)].into());
    sample.extend(distill.sample.clone().unwrap_or_default());
    let input: Vec<Value> = config
        .data
        .input
        .iter()
        .map(|path| Ok(text(path)?.into()))
        .collect::<Result<_, TrainError>>()?;
    let mut asking = Table::new();
    asking.insert("seed".to_owned(), Value::from((config.seed & 0x7fff_ffff) as i64));
    asking.insert("input".to_owned(), input.into());
    let chat = config.chat.clone().unwrap_or_default();
    asking.insert("chat".to_owned(), Value::try_from(&chat).expect("settings are TOML"));
    asking.insert("sample".to_owned(), sample.into());
    if !distill.score.is_empty() {
        asking.insert("score".to_owned(), distill.score.clone().into());
    }
    let mut student = RunConfig {
        data: DataConfig { input: vec![ANSWERS.into()], ..config.data.clone() },
        tokenizer: absolute(&config.tokenizer)?,
        distill: None,
        ..config.clone()
    };
    student.model.init = student.model.init.as_deref().map(absolute).transpose()?;
    let head = |name: &str| format!("# {name}: written by `herd distill`.\n");
    let asking = toml::to_string(&asking).expect("a table is TOML");
    Ok(Taught {
        sample: head("the teacher answers") + &asking,
        sft: head("the student learns") + &student.write(),
    })
}

fn absolute(path: &Path) -> Result<PathBuf, TrainError> {
    std::path::absolute(path).map_err(|e| TrainError::io("find", path, e))
}
