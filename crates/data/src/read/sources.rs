//! Which files make which source.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::DataError;

/// What a file holds, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `.txt`: one document, or pieces of it.
    Text,
    /// `.json`: a list of JSON objects, or one on each line.
    Json,
    /// `.jsonl`, `.ndjson`: a JSON object on each line.
    JsonLines,
    /// `.parquet`: a column of texts, or rows of many.
    Parquet,
}

/// How a file is packed, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

/// A file of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it holds.
    pub kind: Kind,
    /// How it is packed.
    pub packing: Packing,
}

const ENDINGS: &str = ".txt, .jsonl, .ndjson, .json (also .gz, .zst) or .parquet";

impl InputFile {
    /// The file at `path`. Errors: its name does not say what it holds.
    pub fn new(path: &Path) -> Result<InputFile, DataError> {
        let kind = name_parts(path);
        kind.map(|(_, kind, packing)| InputFile { path: path.to_owned(), kind, packing })
            .ok_or_else(|| DataError::Kind { path: path.to_owned(), expected: ENDINGS })
    }

    /// The file's name without the endings that say what it holds.
    pub fn stem(&self) -> String {
        match name_parts(&self.path) {
            Some((stem, ..)) => stem,
            None => self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

/// The stem of a file's name, and what its endings say.
fn name_parts(path: &Path) -> Option<(String, Kind, Packing)> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let (name, packing) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem.to_owned(), Packing::Gzip),
        (stem, "zst") => (stem.to_owned(), Packing::Zstd),
        _ => (name, Packing::Plain),
    };
    let (stem, ending) = name.rsplit_once('.')?;
    let kind = match (ending, packing) {
        ("txt", _) => Kind::Text,
        ("json", _) => Kind::Json,
        ("jsonl" | "ndjson", _) => Kind::JsonLines,
        ("parquet", Packing::Plain) => Kind::Parquet,
        _ => return None,
    };
    (!stem.is_empty()).then(|| (stem.to_owned(), kind, packing))
}

/// A named part of the data, whose weight in the mix can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The name: a file's stem, or what the user says.
    pub name: String,
    /// Its files, in the order they are read.
    pub files: Vec<InputFile>,
}

/// The sources of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// In the order they were named.
    pub sources: Vec<Source>,
    /// Files in folders whose names do not say what they hold.
    pub ignored: Vec<PathBuf>,
}

impl Sources {
    /// The sources that `inputs` name: files, folders (every file below them, in the order of
    /// their names), or `NAME=PATH`, which makes one source of all files of that path.
    ///
    /// Errors: a path that is not there, a file that holds nothing known, two files of one name,
    /// no file at all.
    pub fn find(inputs: &[String]) -> Result<Sources, DataError> {
        let mut found = Sources::default();
        let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
        for input in inputs {
            let (name, path) = match input.split_once('=') {
                Some((name, path)) if !Path::new(input).exists() => (Some(name), Path::new(path)),
                _ => (None, Path::new(input.as_str())),
            };
            let files = found.files(path)?;
            match name {
                Some(name) => found.add(&mut seen, name.to_owned(), path, files)?,
                None => {
                    for file in files {
                        let path = file.path.clone();
                        found.add(&mut seen, file.stem(), &path, vec![file])?;
                    }
                }
            }
        }
        if found.sources.iter().all(|source| source.files.is_empty()) {
            return Err(DataError::NoDocuments { what: inputs.join(", ") });
        }
        Ok(found)
    }

    fn add(
        &mut self,
        seen: &mut BTreeMap<String, PathBuf>,
        name: String,
        path: &Path,
        files: Vec<InputFile>,
    ) -> Result<(), DataError> {
        let reason = match name.chars().next() {
            None => Some("it is empty"),
            Some('.') => Some("it begins with a dot"),
            _ if name.chars().any(|c| c.is_control() || "/\\:".contains(c)) => {
                Some("it holds a slash, a colon or a control character")
            }
            _ if name.len() > 180 => Some("it is longer than 180 bytes"),
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(DataError::Name { name, reason });
        }
        if let Some(first) = seen.insert(name.clone(), path.to_owned()) {
            return Err(DataError::SameName { name, first, second: path.to_owned() });
        }
        self.sources.push(Source { name, files });
        Ok(())
    }

    /// The files at `path`: itself, or those below it in the order of their names; adds what it
    /// leaves out to `ignored`. Errors: what cannot be read; a file that holds nothing known.
    pub fn files(&mut self, path: &Path) -> Result<Vec<InputFile>, DataError> {
        if !fs::metadata(path).map_err(DataError::io("read", path))?.is_dir() {
            return Ok(vec![InputFile::new(path)?]);
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(DataError::io("list", path))? {
            entries.push(entry.map_err(DataError::io("list", path))?);
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            // A link to a folder is not followed: it may lead back here.
            let kind = entry.file_type().map_err(DataError::io("read", &path))?;
            match InputFile::new(&path) {
                _ if hidden => {}
                _ if kind.is_dir() => files.extend(self.files(&path)?),
                Ok(file) if path.is_file() => files.push(file),
                _ => self.ignored.push(path),
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sources: &Sources) -> Vec<&str> {
        sources.sources.iter().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn names_tell_what_files_hold() {
        let kind = |name: &str| name_parts(Path::new(name));
        let of = |stem: &str, kind, packing| Some((stem.to_owned(), kind, packing));
        assert_eq!(kind("d/a.b.jsonl.zst"), of("a.b", Kind::JsonLines, Packing::Zstd));
        assert_eq!(kind("a.txt.gz"), of("a", Kind::Text, Packing::Gzip));
        assert_eq!(kind("a.parquet"), of("a", Kind::Parquet, Packing::Plain));
        assert_eq!(kind("a.json"), of("a", Kind::Json, Packing::Plain));
        for other in ["a", "a.md", "a.zst", "a.parquet.gz", ".txt", "a.csv"] {
            assert_eq!(kind(other), None, "{other}");
        }
    }

    #[test]
    fn folders_give_their_files_in_order_and_say_what_they_leave_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("deep")).unwrap();
        for name in ["b.txt", "a.jsonl.gz", "deep/c.parquet", "README.md", ".hidden.txt"] {
            fs::write(path(name), "").unwrap();
        }
        let whole = folder.path().to_str().unwrap().to_owned();
        let found = Sources::find(std::slice::from_ref(&whole)).unwrap();
        assert_eq!(names(&found), ["a", "b", "c"]);
        assert_eq!(found.ignored, [path("README.md")]);
        let found = Sources::find(&[format!("web={whole}")]).unwrap();
        assert_eq!(names(&found), ["web"]);
        assert_eq!(found.sources[0].files.len(), 3);

        let b = path("b.txt").to_str().unwrap().to_owned();
        let twice = Sources::find(&[whole.clone(), b.clone()]).unwrap_err();
        assert!(matches!(twice, DataError::SameName { .. }), "{twice}");
        assert!(Sources::find(&[whole, format!("other={b}")]).is_ok());
        assert!(matches!(Sources::find(&[format!("a/b={b}")]), Err(DataError::Name { .. })));
        let readme = path("README.md").to_str().unwrap().to_owned();
        assert!(matches!(Sources::find(&[readme]), Err(DataError::Kind { .. })));
        let empty = tempfile::tempdir().unwrap();
        let empty = empty.path().to_str().unwrap().to_owned();
        assert!(matches!(Sources::find(&[empty]), Err(DataError::NoDocuments { .. })));
    }
}
