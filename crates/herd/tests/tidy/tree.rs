//! The files of the repository, without what .gitignore leaves out.

use std::fs;
use std::path::{Path, PathBuf};

/// A file: its path from the root, with `/` between names, and its bytes as text.
pub struct Page {
    pub path: String,
    pub text: String,
}

/// The repository's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the root").to_path_buf()
}

/// Whether the repository has this file or folder.
pub fn exists(path: &str) -> bool {
    root().join(path).exists()
}

/// The text of one file.
pub fn read(path: &str) -> String {
    let bytes = fs::read(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every path below `folder` ("" is the root), sorted.
pub fn paths(folder: &str) -> Vec<String> {
    let mut ignored: Vec<String> =
        read(".gitignore").lines().filter_map(|l| Some(l.strip_prefix('/')?.to_owned())).collect();
    ignored.push(".git".to_owned());
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the repository") {
            let entry = entry.expect("an entry of that folder");
            let name = entry.file_name().into_string().expect("names are UTF-8");
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match entry.file_type().expect("the kind of that entry") {
                _ if ignored.contains(&path) || path.ends_with("__pycache__") => {}
                kind if kind.is_dir() => open.push(path),
                _ => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// The files below `folder` whose names end in one of `endings`.
pub fn pages(folder: &str, endings: &[&str]) -> Vec<Page> {
    let wanted = |path: &String| endings.iter().any(|ending| path.ends_with(ending));
    let found: Vec<String> = paths(folder).into_iter().filter(wanted).collect();
    assert!(!found.is_empty(), "no {endings:?} below {folder:?}: the rule checks nothing");
    found.into_iter().map(|path| Page { text: read(&path), path }).collect()
}
