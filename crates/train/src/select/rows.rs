//! The dialogues that are selected from, in the order of the input.

use crate::config::ChatConfig;
use crate::error::TrainError;
use herd_codec::chat::{Dialogue, Role};
use herd_data::dialogue::{Shape, answers};
use herd_data::read::{InputFile, Sources, objects};
use herd_data::{DataError, Hash};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A row.
pub(super) struct Read {
    /// Its name in the log: where it stands and what it says.
    pub id: String,
    pub file: String,
    pub row: u64,
    pub value: Value,
    /// What was said, its last answer at the end.
    pub dialogue: Dialogue,
    /// The same as a text.
    pub text: String,
}

impl Read {
    /// What the assistant says, turn by turn.
    pub fn answers(&self) -> impl Iterator<Item = String> + '_ {
        let messages = self.dialogue.messages.iter();
        messages.filter(|message| message.role == Role::Assistant).map(|message| message.text())
    }
}

type Records = Box<dyn Iterator<Item = Result<(u64, Value), DataError>>>;

/// All rows.
pub(super) struct Reader {
    files: std::vec::IntoIter<InputFile>,
    open: Option<(PathBuf, Records)>,
    shape: Option<Shape>,
    skip_bad: bool,
    /// Rows that are no dialogue, by the reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Reader {
    /// Errors: an input that is not there or holds nothing known.
    pub fn open(input: &[PathBuf], chat: &ChatConfig) -> Result<Reader, TrainError> {
        let inputs: Vec<String> = input.iter().map(|path| path.display().to_string()).collect();
        let sources = Sources::find(&inputs)?.sources;
        let files: Vec<InputFile> = sources.into_iter().flat_map(|source| source.files).collect();
        let (shape, skip_bad) = (chat.shape, chat.skip_bad);
        Ok(Reader {
            files: files.into_iter(),
            open: None,
            shape,
            skip_bad,
            dropped: BTreeMap::new(),
        })
    }

    fn read(&mut self) -> Result<Option<Read>, TrainError> {
        loop {
            let Some((path, records)) = &mut self.open else {
                let Some(file) = self.files.next() else { return Ok(None) };
                self.open = Some((file.path.clone(), Box::new(objects(&file)?)));
                continue;
            };
            let Some(record) = records.next() else {
                self.open = None;
                continue;
            };
            let read = record.and_then(|(row, value)| match answers(&value, self.shape) {
                Ok(read) => Ok((row, value, read)),
                Err(fault) => Err(DataError::Record { path: path.clone(), row, fault }),
            });
            let (row, value, read) = match read {
                Ok(read) => read,
                Err(DataError::Record { fault, .. }) if self.skip_bad || fault.is_harmless() => {
                    *self.dropped.entry(fault.reason().to_owned()).or_default() += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut dialogue = read.prompt;
            dialogue.messages.extend(read.answers.into_iter().next());
            let line = |message: &herd_codec::chat::Message| {
                format!("{}: {}\n", message.role.name(), message.text())
            };
            let text: String = dialogue.messages.iter().map(line).collect();
            let id = Hash::of(format!("{file}\n{row}\n{value}").as_bytes()).to_string();
            let id = id[..16].to_owned();
            return Ok(Some(Read { id, file, row, value, dialogue, text }));
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Read, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
