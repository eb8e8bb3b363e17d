//! Which files make up a model: one file, shards named by an index, a split GGUF, or Meta's ranks.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use herd_kernels::Mapped;
use indexmap::IndexMap;
use serde::Deserialize;

use super::FileError;
use super::archive::Contents;

/// The files of a model, in order.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    pub files: Vec<PathBuf>,
    /// Tensor name to file name, if an index says so.
    pub weight_map: Option<IndexMap<String, String>>,
    /// Whether each file holds a part of every tensor.
    pub ranks: bool,
}

#[derive(Deserialize)]
struct Index {
    weight_map: IndexMap<String, String>,
}

/// The files behind a path, which may be a file or a folder.
pub(super) fn layout(path: &Path) -> Result<Layout, FileError> {
    let metadata = fs::metadata(path).map_err(|e| FileError::io(path, "open", e))?;
    if metadata.is_dir() {
        return folder(path);
    }
    if path.extension().is_some_and(|extension| extension == "json") {
        return indexed(path);
    }
    Ok(Layout { files: split_parts(path), weight_map: None, ranks: false })
}

/// The model in a folder: the first of these that is there.
fn folder(path: &Path) -> Result<Layout, FileError> {
    let entries = fs::read_dir(path).map_err(|e| FileError::io(path, "list", e))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|e| FileError::io(path, "list", e))?;
        names.extend(entry.file_name().into_string());
    }
    let one = |name: &str| -> Option<PathBuf> { names.contains(name).then(|| path.join(name)) };
    let all = |start: &str, end: &str| -> Vec<PathBuf> {
        let fits = |name: &&String| name.starts_with(start) && name.ends_with(end);
        names.iter().filter(fits).map(|name| path.join(name)).collect()
    };
    let plain = |files| Ok(Layout { files, weight_map: None, ranks: false });

    if let Some(index) = one("model.safetensors.index.json") {
        return indexed(&index);
    }
    if let Some(file) = one("model.safetensors") {
        return plain(vec![file]);
    }
    let ranks = all("consolidated.", ".pth");
    if !ranks.is_empty() {
        let several = ranks.len() > 1;
        check_rank_names(path, &ranks)?;
        return Ok(Layout { files: ranks, weight_map: None, ranks: several });
    }
    if let Some(index) = one("pytorch_model.bin.index.json") {
        return indexed(&index);
    }
    if let Some(file) = one("pytorch_model.bin") {
        return plain(vec![file]);
    }
    for end in [".safetensors", ".gguf"] {
        let files = all("", end);
        if let Some(first) = files.first() {
            let parts = split_parts(first);
            if files.len() == 1 || parts == files {
                return plain(parts);
            }
            let (what, got) = (format!("the number of {end} files"), files.len());
            return Err(FileError::field(path, what, "1, or shards and their index", got));
        }
    }
    let expected =
        "model.safetensors (or its index), consolidated.*.pth, pytorch_model.bin, *.gguf";
    Err(FileError::NoModel { path: path.to_owned(), expected })
}

/// Ranks are numbered from 00 without a gap.
fn check_rank_names(folder: &Path, ranks: &[PathBuf]) -> Result<(), FileError> {
    for (i, rank) in ranks.iter().enumerate() {
        let name = format!("consolidated.{i:02}.pth");
        if !rank.ends_with(&name) {
            return Err(FileError::field(folder, format!("rank {i}"), name, rank.display()));
        }
    }
    Ok(())
}

/// The shards that an index names, in the order of their names.
fn indexed(path: &Path) -> Result<Layout, FileError> {
    let text = Mapped::open(path).map_err(|e| FileError::io(path, "open", e))?;
    let index: Index = serde_json::from_slice(text.as_slice()).map_err(|source| {
        FileError::Json { path: path.to_owned(), what: "the index of shards", source }
    })?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        // A shard lies beside its index; nothing may lead out of the folder.
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', '\0']) {
            return Err(FileError::field(path, "a shard's name", "a plain file name", name));
        }
        files.push(folder.join(name));
    }
    if files.is_empty() {
        return Err(FileError::field(path, "the number of shards", "at least 1", 0));
    }
    Ok(Layout { files, weight_map: Some(index.weight_map), ranks: false })
}

/// Checks that each shard has the tensors that the index places there.
pub(super) fn check_index(
    path: &Path,
    weight_map: &IndexMap<String, String>,
    files: &[PathBuf],
    parts: &[Contents],
) -> Result<(), FileError> {
    let held: HashSet<(&str, &str)> = files
        .iter()
        .zip(parts)
        .flat_map(|(file, part)| {
            let file = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            part.tensors.iter().map(move |(info, _)| (info.name.as_str(), file))
        })
        .collect();
    for (tensor, file) in weight_map {
        if !held.contains(&(tensor.as_str(), file.as_str())) {
            let path = path.parent().filter(|_| !path.is_dir()).unwrap_or(path).join(file);
            return Err(FileError::NoTensor { path, tensor: tensor.clone() });
        }
    }
    Ok(())
}

/// All parts of a split GGUF (`name-00001-of-00003.gguf`), or the file itself.
fn split_parts(path: &Path) -> Vec<PathBuf> {
    let parts = || -> Option<Vec<PathBuf>> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (start, count) = stem.rsplit_once("-of-")?;
        let (name, number) = start.rsplit_once('-')?;
        let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(number) || !digits(count) {
            return None;
        }
        let last: u32 = count.parse().ok()?;
        let part = |i| path.with_file_name(format!("{name}-{i:05}-of-{count}.gguf"));
        let parts: Vec<PathBuf> = (1..=last).map(part).collect();
        parts.iter().any(|part| part == path).then_some(parts)
    };
    parts().unwrap_or_else(|| vec![path.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_split_gguf_names_all() {
        let parts = split_parts(Path::new("a/m-00002-of-00003.gguf"));
        let names =
            ["a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf"];
        assert_eq!(parts, names.map(PathBuf::from));
        for plain in ["a/m.gguf", "m-0001-of-0002.gguf", "m-00004-of-00003.gguf", "-of-.gguf"] {
            assert_eq!(split_parts(Path::new(plain)), [PathBuf::from(plain)]);
        }
    }

    #[test]
    fn a_shard_may_not_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        for name in ["../x", "/etc/passwd", "a/b", "", "."] {
            let json = serde_json::json!({ "weight_map": { "w": name } });
            fs::write(&index, json.to_string()).unwrap();
            let error = layout(folder.path()).unwrap_err().to_string();
            assert!(error.contains("expected a plain file name"), "{error}");
        }
    }

    #[test]
    fn ranks_are_numbered_without_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["consolidated.00.pth", "consolidated.02.pth"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let error = layout(folder.path()).unwrap_err().to_string();
        assert!(error.contains("rank 1 is") && error.contains("expected consolidated.01.pth"));
    }
}
