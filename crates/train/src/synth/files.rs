//! Files as they are: repositories of Python code, and what a user uploads.

use crate::error::TrainError;
use herd_data::{DataError, Fault, Hash};
use serde_json::{Map, Value};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a file of a repository ends in.
pub(super) const PYTHON: &[&str] = &["py"];

/// What an uploaded file may end in: texts that Python's standard library reads.
pub(super) const UPLOADS: &[&str] =
    &["csv", "tsv", "txt", "json", "jsonl", "py", "html", "xml", "md", "toml"];

/// Bytes of a repository, and of its files in a row of input, at most.
pub(super) const REPOSITORY_BYTES_MAX: u64 = 1 << 24;

/// Folders in one another at most.
const DEPTH: usize = 64;

/// The file at a path, or those below it with these endings, in the order of their names.
///
/// What is hidden is left out, and links: they may lead out of the folder. Errors: a path that is not there or cannot be read; a file
/// that is named itself and ends in something else.
pub(super) fn find(path: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, TrainError> {
    let kind = fs::metadata(path).map_err(|e| TrainError::io("read", path, e))?;
    let mut found = Vec::new();
    match kind.is_dir() {
        true => walk(path, endings, 0, &mut found)?,
        false if ends(path, endings) => found.push(path.to_owned()),
        false => {
            let expected =
                "a folder, or a file of csv, tsv, txt, json, jsonl, py, html, xml, md or toml";
            return Err(TrainError::no("input", path.display(), expected));
        }
    }
    Ok(found)
}

fn ends(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known))
}

fn walk(
    folder: &Path,
    endings: &[&str],
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), TrainError> {
    if depth == DEPTH {
        return Ok(());
    }
    let error = |e| TrainError::io("list", folder, e);
    let entries: Result<Vec<fs::DirEntry>, _> = fs::read_dir(folder).map_err(error)?.collect();
    let mut entries = entries.map_err(error)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().map_err(error)?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            walk(&path, endings, depth + 1, found)?;
        } else if kind.is_file() && ends(&path, endings) {
            found.push(path);
        }
    }
    Ok(())
}

/// The text of a file of at most so many bytes. A file that is none is a record without a text.
pub(super) fn text(path: &Path, most: u64) -> Result<String, DataError> {
    let io = |source| DataError::Io { action: "read", path: path.to_owned(), source };
    let fault = |fault| DataError::Record { path: path.to_owned(), row: 1, fault };
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(fault(Fault::TooLong { limit: most }));
    }
    let at = |e: std::string::FromUtf8Error| Fault::NotUtf8 { at: e.utf8_error().valid_up_to() };
    let text = String::from_utf8(bytes).map_err(|e| fault(at(e)))?;
    if text.trim().is_empty() { Err(fault(Fault::Empty)) } else { Ok(text) }
}

/// The repository in a folder, as an object of paths and texts. Empty files are part of it.
pub(super) fn repository(folder: &Path) -> Result<Value, DataError> {
    let other = |e: TrainError| match e {
        TrainError::Io { action, path, source } => DataError::Io { action, path, source },
        error => {
            let (action, path) = ("read", folder.to_owned());
            DataError::Io { action, path, source: std::io::Error::other(error) }
        }
    };
    let (mut files, mut left) = (Map::new(), REPOSITORY_BYTES_MAX);
    for path in find(folder, PYTHON).map_err(other)? {
        let text = match text(&path, left) {
            Err(DataError::Record { fault: Fault::Empty, .. }) => String::new(),
            text => text?,
        };
        left -= text.len() as u64;
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        files.insert(name, text.into());
    }
    Ok(Value::Object(files))
}

/// The files in a row of input: an object of paths and texts, or a list of objects with `path` and `text`.
pub(super) fn given(row: &Value) -> Result<Value, Fault> {
    let field = || "files".to_owned();
    let mut files = Map::new();
    match row.get("files") {
        None => return Err(Fault::NoField { field: field() }),
        Some(Value::Object(object)) => files = object.clone(),
        Some(Value::Array(list)) => {
            for file in list {
                let path = file.get("path").and_then(Value::as_str);
                let path = path.ok_or(Fault::NoField { field: "files.path".to_owned() })?;
                let text = file.get("text").cloned();
                let text = text.ok_or(Fault::NoField { field: "files.text".to_owned() })?;
                files.insert(path.to_owned(), text);
            }
        }
        Some(_) => return Err(Fault::NotText { field: field() }),
    }
    if files.values().any(|text| !text.is_string()) {
        return Err(Fault::NotText { field: field() });
    }
    files.retain(|path, _| ends(Path::new(path), PYTHON));
    let bytes: usize = files.values().filter_map(Value::as_str).map(str::len).sum();
    match bytes as u64 > REPOSITORY_BYTES_MAX {
        true => Err(Fault::TooLong { limit: REPOSITORY_BYTES_MAX }),
        false => Ok(Value::Object(files)),
    }
}

/// The hash of all files below some paths: their names from there and their bytes.
pub(super) fn hash(paths: &[PathBuf], endings: &[&str]) -> Result<Hash, TrainError> {
    let mut all = String::new();
    for top in paths {
        for path in find(top, endings)? {
            let below = path.strip_prefix(top).ok().filter(|rest| !rest.as_os_str().is_empty());
            let name = below.or(path.file_name().map(Path::new)).unwrap_or(&path).display();
            let name = name.to_string();
            all += &format!("{name:?} {}\n", Hash::of_file(&path)?);
        }
    }
    Ok(Hash::of(all.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_are_found_in_order_without_what_is_hidden_or_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("b/.git")).unwrap();
        for name in ["b/z.py", "a.py", "b/.git/h.py", ".hidden.py", "b/notes.md"] {
            fs::write(path(name), "x = 1\n").unwrap();
        }
        std::os::unix::fs::symlink(path("a.py"), path("link.py")).unwrap();
        std::os::unix::fs::symlink(folder.path(), path("loop")).unwrap();
        assert_eq!(find(folder.path(), PYTHON).unwrap(), [path("a.py"), path("b/z.py")]);
        let before = hash(&[folder.path().to_owned()], PYTHON).unwrap();
        fs::rename(path("b/z.py"), path("b/y.py")).unwrap();
        assert_ne!(hash(&[folder.path().to_owned()], PYTHON).unwrap(), before);
        assert_eq!(
            repository(folder.path()).unwrap(),
            json!({ "a.py": "x = 1\n", "b/y.py": "x = 1\n" })
        );
        assert!(find(&path("b/notes.md"), PYTHON).is_err() && find(&path("c"), PYTHON).is_err());
    }

    #[test]
    fn texts_that_are_none_are_faults_of_their_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for (bytes, reason) in
            [(&b"a\xffb"[..], "not_utf8"), (b"12345", "too_long"), (b"\n", "empty")]
        {
            fs::write(&path, bytes).unwrap();
            match text(&path, 4) {
                Err(DataError::Record { fault, .. }) => assert_eq!(fault.reason(), reason),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn repositories_in_rows_have_either_shape() {
        let wanted = json!({ "a.py": "x" });
        let object = json!({ "files": { "a.py": "x", "b.md": "y" } });
        let list = json!({ "files": [{ "path": "a.py", "text": "x" }] });
        assert_eq!((given(&object), given(&list)), (Ok(wanted.clone()), Ok(wanted)));
        for wrong in [
            json!({}),
            json!({ "files": 1 }),
            json!({ "files": [{}] }),
            json!({ "files": { "a.py": 1 } }),
        ] {
            assert!(given(&wrong).is_err(), "{wrong}");
        }
    }
}
