//! The folder of a quickstart: whose it is, and the files that come with Herd.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use herd_data::Hash;
use herd_data::read::{InputFile, ReadOptions, documents};
use serde::de::DeserializeOwned;

use super::measure::{Pair, Question};
use super::stages::{Size, stages};
use crate::error::Error;
use crate::verbs::write;

const CORPUS: &[u8] = include_bytes!("../../../../examples/speeches.jsonl.zst");
const QUESTIONS: &str = include_str!("../../../../examples/quickstart/questions.jsonl");
const HELD: &str = include_str!("../../../../examples/quickstart/held.jsonl");
const FILES: [(&str, &str); 5] = [
    ("dialogues.jsonl", include_str!("../../../../examples/quickstart/dialogues.jsonl")),
    ("comparisons.jsonl", include_str!("../../../../examples/quickstart/comparisons.jsonl")),
    ("prompts.jsonl", include_str!("../../../../examples/quickstart/prompts.jsonl")),
    ("questions.jsonl", QUESTIONS),
    ("held.jsonl", HELD),
];
/// The page by which `herd eval run` asks the held-out questions.
pub(super) const PAGE: &str = include_str!("../../../../examples/quickstart/questions.toml");

/// Every so many'th text of the corpus is held out.
const HELD_OUT: usize = 10;

/// What tells that a folder is a quickstart's: its size, and the hash of all its settings.
const SIZE: &str = "size";

/// Takes a folder that holds nothing, or that was begun at this size with these settings.
///
/// Errors: its name has a comma; it is of another size or of other settings, or holds what no quickstart made.
pub(super) fn keep(size: Size, out: &Path) -> Result<(), Error> {
    let name = out.display().to_string();
    if name.contains(',') {
        let expected = "a path without commas: `herd eval` is given a list of paths".to_owned();
        return Err(Error::Value { what: "--out", got: name, expected });
    }
    let (path, told) = (out.join(SIZE), format!("{} {}", size.name(), settings(size)));
    let taken = |holds| Error::Taken { folder: out.to_owned(), holds };
    match fs::read_to_string(&path) {
        Ok(was) if was.trim() == told => Ok(()),
        Ok(was) if was.split_whitespace().next() == Some(size.name()) => {
            Err(taken("a quickstart of other settings than this program has".to_owned()))
        }
        Ok(was) => {
            let was = was.split_whitespace().next().unwrap_or_default();
            let expected = format!("{was}, as {} began", out.display());
            Err(Error::Value { what: "--size", got: size.name().to_owned(), expected })
        }
        Err(e) if e.kind() == ErrorKind::NotFound => match foreign(out)? {
            Some(name) => Err(taken(format!("{name:?}, and no quickstart began there"))),
            None => write(&path, told.as_bytes()),
        },
        Err(e) => Err(Error::io("read", &path)(e)),
    }
}

/// Something in a folder, if it is there and holds anything.
fn foreign(out: &Path) -> Result<Option<String>, Error> {
    let entries = match fs::read_dir(out) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(Error::io("read", out))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::io("read", out))?.file_name();
        // Left by a kill while the first file of a quickstart was written.
        if name != format!(".{SIZE}.part").as_str() {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// The hash of all that decides what comes of a size: settings, command lines, data, numbers.
fn settings(size: Size) -> Hash {
    let (configs, stages) = stages(size, Path::new(""));
    let mut all = CORPUS.to_vec();
    let mut put = |text: &str| all.extend([text.as_bytes(), &[0]].concat());
    put(&format!("{:?}", size.numbers()));
    FILES.iter().for_each(|(_, text)| put(text));
    configs.iter().for_each(|(path, text)| put(&format!("{}\n{text}", path.display())));
    stages.iter().flat_map(|stage| &stage.verbs).for_each(|verb| put(&verb.args.join("\n")));
    Hash::of(&all)
}

/// Writes what comes with Herd into `data/`; the texts held out.
pub(super) fn lay_out(out: &Path) -> Result<Vec<String>, Error> {
    let data = out.join("data");
    let corpus = data.join("corpus.jsonl.zst");
    write(&corpus, CORPUS)?;
    for (name, text) in FILES {
        write(&data.join(name), text.as_bytes())?;
    }
    let (mut train, mut held) = (String::new(), Vec::new());
    for (i, record) in documents(&InputFile::new(&corpus)?, &ReadOptions::new())?.enumerate() {
        let text = record?.text;
        match i % HELD_OUT {
            0 => held.push(text),
            _ => train += &format!("{}\n", serde_json::json!({ "text": text })),
        }
    }
    write(&data.join("train.jsonl"), train.as_bytes())?;
    Ok(held)
}

/// The held-out questions of a size.
pub(super) fn questions(size: Size) -> Vec<Question> {
    rows(QUESTIONS, size)
}

/// The held-out pairs of answers of a size.
pub(super) fn pairs(size: Size) -> Vec<Pair> {
    rows(HELD, size)
}

fn rows<T: DeserializeOwned>(text: &str, size: Size) -> Vec<T> {
    let row = |line| serde_json::from_str(line).expect("the files that come with Herd are whole");
    text.lines().take(size.numbers().questions).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_that_is_empty_or_was_begun_with_the_same_settings() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        fs::write(out.join(".size.part"), "left by a kill").unwrap();
        keep(Size::Smoke, out).unwrap();
        keep(Size::Smoke, out).unwrap();
        assert_eq!(fs::read_dir(out).unwrap().count(), 1);
        let other = keep(Size::Small, out).unwrap_err();
        assert!(matches!(other, Error::Value { what: "--size", .. }), "{other}");
        keep(Size::Smoke, &out.join("a/new/one")).unwrap();
    }

    #[test]
    fn a_folder_of_other_settings_or_of_other_things_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        for was in ["smoke", "smoke 0123456789abcdef"] {
            fs::write(out.join(SIZE), was).unwrap();
            let error = keep(Size::Smoke, out).unwrap_err();
            assert!(error.to_string().contains("other settings"), "{error}");
        }
        fs::remove_file(out.join(SIZE)).unwrap();
        fs::create_dir(out.join("tokenizer")).unwrap();
        let error = keep(Size::Smoke, out).unwrap_err();
        assert!(error.to_string().contains("\"tokenizer\""), "{error}");
        assert!(error.hint().unwrap().contains("--out") && !out.join(SIZE).exists());
        assert_ne!(settings(Size::Small), settings(Size::Large));
        assert!(keep(Size::Smoke, &out.join("a,b")).is_err());
    }
}
