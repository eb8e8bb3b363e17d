//! `manifest.json` of a folder of shards: what they were made of, and what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};
use crate::shard::{Counts, Vocabulary};
use crate::{DataError, Hash};

/// The name of the file.
pub const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// Larger manifests are refused unread.
const BYTES_MAX: u64 = 1 << 30;

/// All that is known of a folder of shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Whether every shard is there; a run that was stopped leaves false.
    pub complete: bool,
    /// What decides the shards' content.
    pub settings: Settings,
    /// What came of each source; empty while not complete.
    pub sources: Vec<SourceReport>,
}

/// What decides the shards' content, byte by byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The tokenizer.
    pub tokenizer: Vocabulary,
    /// The field or column with the text.
    pub field: String,
    /// Where text files are cut, if they are.
    pub text_bytes: Option<u64>,
    /// Longest record.
    pub record_bytes_max: u64,
    /// Share of documents that are held out.
    pub validation: f64,
    /// Tokens of a shard at most.
    pub shard_tokens: u64,
    /// Whether records that are no documents are counted rather than refused.
    pub skip_bad: bool,
    /// How dialogues are read and rendered, where rows are dialogues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lessons: Option<Hash>,
    /// Whether the documents of a row are answers to one prompt, the best first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compared: bool,
    /// The sources, in order.
    pub inputs: Vec<SourceInput>,
}

/// A source before it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceInput {
    /// Its name.
    pub name: String,
    /// Its files, in order.
    pub files: Vec<FileInput>,
}

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileInput {
    /// The path, as it was given.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its content.
    pub sha256: Hash,
}

/// What came of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// What there is to train on.
    pub train: Part,
    /// What is held out.
    pub validation: Part,
    /// Records that became no documents, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The first of them, as `file:row: reason`.
    pub dropped_first: Vec<String>,
    /// Bytes of the texts that the vocabulary cannot spell and that its tokens therefore lack.
    pub unspelt_bytes: u64,
}

/// Documents in shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// All of them together.
    pub counts: Counts,
    /// The files, in order.
    pub shards: Vec<ShardEntry>,
}

/// A shard, as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Its name within the folder.
    pub file: String,
    /// The hash of its content.
    pub sha256: Hash,
    /// What is in it.
    pub counts: Counts,
}

impl Manifest {
    /// A manifest of a run that has just begun.
    pub fn begun(settings: Settings) -> Manifest {
        Manifest { format: FORMAT, complete: false, settings, sources: Vec::new() }
    }

    /// The manifest of a folder; none where there is no such file.
    pub fn find(folder: &Path) -> Result<Option<Manifest>, DataError> {
        let path = folder.join(MANIFEST);
        let wrong = |what, expected: String, got: String| DataError::Format {
            path: path.clone(),
            what,
            expected,
            got,
        };
        let length = match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(DataError::io("read", &path))?.len(),
        };
        if length > BYTES_MAX {
            return Err(wrong("the length", format!("at most {BYTES_MAX}"), length.to_string()));
        }
        let bytes = fs::read(&path).map_err(DataError::io("read", &path))?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| wrong("the content", "a manifest of shards".into(), e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(wrong("the format", FORMAT.to_string(), manifest.format.to_string()));
        }
        let shards = manifest.sources.iter().flat_map(|s| s.parts()).flat_map(|p| &p.shards);
        if let Some(shard) = shards.into_iter().find(|s| s.file.contains(['/', '\\'])) {
            let expected = "a name without folders".to_owned();
            return Err(wrong("the file of a shard", expected, shard.file.clone()));
        }
        Ok(Some(manifest))
    }

    /// Writes it into the folder, there whole or not at all.
    pub fn write(&self, disk: &dyn Disk, folder: &Path) -> Result<(), DataError> {
        let mut text = serde_json::to_vec_pretty(self).expect("a manifest serialises");
        text.push(b'\n');
        disk::replace(disk, folder, MANIFEST, &[&text])
    }
}

impl SourceReport {
    /// Training and validation.
    pub fn parts(&self) -> [&Part; 2] {
        [&self.train, &self.validation]
    }
}

impl Settings {
    /// Errors: a folder begun with these settings cannot be gone on with `wanted`; names the first
    /// difference.
    pub fn expect_same(&self, wanted: &Settings, folder: &Path) -> Result<(), DataError> {
        let (got, expected) = (fields(self), fields(wanted));
        for (what, got) in &got {
            let expected = expected.get(what).map_or("nothing", String::as_str);
            if got != expected {
                let (what, expected, got) = (what.clone(), expected.to_owned(), got.clone());
                return Err(DataError::OtherRun { folder: folder.into(), what, expected, got });
            }
        }
        match expected.into_iter().find(|(what, _)| !got.contains_key(what)) {
            None => Ok(()),
            Some((what, expected)) => {
                let got = "nothing".to_owned();
                Err(DataError::OtherRun { folder: folder.into(), what, expected, got })
            }
        }
    }
}

/// Every setting under a name that a person understands.
fn fields(settings: &Settings) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::from([
        ("the tokenizer".to_owned(), settings.tokenizer.sha256.to_string()),
        ("the vocabulary size".to_owned(), settings.tokenizer.size.to_string()),
        ("the field".to_owned(), settings.field.clone()),
        ("the bytes of a text".to_owned(), format!("{:?}", settings.text_bytes)),
        ("the longest record".to_owned(), settings.record_bytes_max.to_string()),
        ("the validation share".to_owned(), settings.validation.to_string()),
        ("the tokens of a shard".to_owned(), settings.shard_tokens.to_string()),
        ("skip-bad".to_owned(), settings.skip_bad.to_string()),
    ]);
    let lessons = settings.lessons.map(|hash| hash.to_string());
    fields.extend(lessons.map(|hash| ("the rendering of dialogues".to_owned(), hash)));
    for (i, source) in settings.inputs.iter().enumerate() {
        fields.insert(format!("source {i}"), source.name.clone());
        for (j, file) in source.files.iter().enumerate() {
            let content = format!("sha256 {} of {} bytes", file.sha256, file.bytes);
            fields.insert(format!("{} (file {j} of {})", file.path, source.name), content);
        }
    }
    fields
}
