//! The model store: one folder a model, with its files and `source.json`, where they came from.
//!
//! A model is complete when `source.json` stands in its folder under `models`; until then its
//! files grow in a folder under `partial`, which a rename turns into the model.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Where a model came from; the content of `source.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The name in the store.
    pub name: String,
    /// What brought it: a registry package or a hub address.
    pub from: String,
    /// The commit at the hub, or the version of the package.
    pub revision: String,
    /// The licence as its source states it.
    pub licence: Option<String>,
    /// Its files, by path.
    pub files: Vec<SourceFile>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Path inside the model's folder.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// Hash of its content, in hexadecimal.
    pub sha256: String,
}

impl Source {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

/// The folder that holds all models.
#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
}

const SOURCE: &str = "source.json";

impl Store {
    /// The store at `$HERD_HOME`, else at `herd` in the user's data folder.
    pub fn open() -> Result<Store, Error> {
        let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = folder("HERD_HOME")
            .or_else(|| folder("XDG_DATA_HOME").map(|data| data.join("herd")))
            .or_else(|| folder("HOME").map(|home| home.join(".local/share/herd")))
            .ok_or(Error::NoHome)?;
        Ok(Store { home })
    }

    /// Everything that Herd keeps of a user lies below this folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The folder of a model, there or not.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        check_name(name)?;
        Ok(self.home.join("models").join(name))
    }

    /// The models, by name.
    pub fn list(&self) -> Result<Vec<Source>, Error> {
        let mut found = Vec::new();
        for folder in folders(&self.home.join("models"))? {
            if folder.join(SOURCE).is_file() {
                found.push(read_source(&folder)?);
                continue;
            }
            for folder in folders(&folder)? {
                if folder.join(SOURCE).is_file() {
                    found.push(read_source(&folder)?);
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Where the model came from, if it is in the store.
    pub fn find(&self, name: &str) -> Result<Option<Source>, Error> {
        let folder = self.folder(name)?;
        if !folder.join(SOURCE).is_file() {
            return Ok(None);
        }
        read_source(&folder).map(Some)
    }

    /// The file or folder that `-m` means: a path first, then a name in the store.
    pub fn resolve(&self, model: &str) -> Result<PathBuf, Error> {
        let path = Path::new(model);
        if path.is_file() {
            return Ok(path.to_owned());
        }
        if path.is_dir() {
            return model_in_folder(path);
        }
        match self.find(model) {
            Ok(Some(_)) => model_in_folder(&self.folder(model)?),
            Ok(None) | Err(Error::Name { .. }) => Err(self.unknown(model)),
            Err(error) => Err(error),
        }
    }

    /// The same for what need not be a whole model, like a tokenizer: a path is taken as it is.
    pub fn resolve_file(&self, file: &str) -> Result<PathBuf, Error> {
        match Path::new(file).exists() {
            true => Ok(PathBuf::from(file)),
            false => self.resolve(file),
        }
    }

    /// The error for a model that is not there, with the nearest that is.
    pub fn unknown(&self, name: &str) -> Error {
        let nearest = self.nearest(name).unwrap_or(None);
        Error::NoModel { name: name.to_owned(), nearest }
    }

    /// Takes the model out of the store: at once for other readers, then its bytes.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let folder = self.folder(name)?;
        let grave = self.home.join("partial").join(format!("{}.removed", flat(name)));
        if grave.exists() {
            fs::remove_dir_all(&grave).map_err(Error::io("remove", &grave))?;
        }
        make_folder(&self.home.join("partial"))?;
        fs::rename(&folder, &grave).map_err(Error::io("remove", &folder))?;
        fs::remove_dir_all(&grave).map_err(Error::io("remove", &grave))?;
        if let Some(owner) = folder.parent().filter(|_| name.contains('/')) {
            let _ = fs::remove_dir(owner); // stays while it holds other models
        }
        Ok(())
    }

    /// Opens the folder in which a model's files are gathered; one process at a time may.
    pub fn stage(&self, name: &str, revision: &str) -> Result<Stage, Error> {
        check_name(name)?;
        let partial = self.home.join("partial");
        make_folder(&partial)?;
        let lock_path = partial.join(format!("{}.lock", flat(name)));
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        if lock.try_lock().is_err() {
            return Err(Error::Busy { name: name.to_owned() });
        }
        let folder = partial.join(flat(&format!("{name}={revision}")));
        make_folder(&folder)?;
        Ok(Stage { folder, _lock: lock })
    }

    /// Makes the staged files the model, in place of one of that name.
    pub fn install(&self, stage: Stage, source: &Source) -> Result<PathBuf, Error> {
        let folder = self.folder(&source.name)?;
        let text = serde_json::to_string_pretty(source).expect("strings and numbers serialise");
        let note = stage.folder.join(SOURCE);
        fs::write(&note, text + "\n").map_err(Error::io("write", &note))?;
        sync(&note)?;
        sync(&stage.folder)?;
        if folder.exists() {
            self.remove(&source.name)?;
        }
        let parent = folder.parent().expect("models lie under the store");
        make_folder(parent)?;
        fs::rename(&stage.folder, &folder).map_err(Error::io("create", &folder))?;
        sync(parent)?;
        Ok(folder)
    }

    fn nearest(&self, name: &str) -> Result<Option<String>, Error> {
        let names = self.list()?.into_iter().map(|source| source.name);
        let near = names.map(|known| (distance(&known, name), known)).min();
        Ok(near.filter(|(d, known)| *d <= known.chars().count() / 3).map(|(_, known)| known))
    }
}

/// A folder in which a model grows, locked against other processes.
#[derive(Debug)]
pub struct Stage {
    /// Where the files go.
    pub folder: PathBuf,
    _lock: File,
}

/// Syncs a file or folder to the disk.
pub fn sync(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.sync_all().map_err(Error::io("write", path))
}

/// Creates a folder and those above it, for their user alone: conversations lie there.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create", path))
}

/// A path from outside, refused where it would leave the folder it is put into.
pub fn inner_path(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let plain = |part| matches!(part, Component::Normal(_));
    let inside = path.components().count() > 0 && path.components().all(plain);
    inside.then(|| path.to_owned())
}

/// The file to load from a folder: the folder itself where a config lies, else its only GGUF.
pub fn model_in_folder(folder: &Path) -> Result<PathBuf, Error> {
    if ["config.json", "params.json"].iter().any(|name| folder.join(name).is_file()) {
        return Ok(folder.to_owned());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.extension().is_some_and(|e| e == "gguf") {
            files.push(path);
        }
    }
    files.sort();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        [] => Err(Error::NoFile { folder: folder.to_owned() }),
        many => {
            let name = |p: &PathBuf| p.file_name().unwrap_or_default().display().to_string();
            let files = many.iter().map(name).collect();
            Err(Error::ManyFiles { folder: folder.to_owned(), files })
        }
    }
}

fn read_source(folder: &Path) -> Result<Source, Error> {
    let path = folder.join(SOURCE);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    serde_json::from_str(&text).map_err(|e| Error::Json { path, what: format!("damaged ({e})") })
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let paths = entries.map(|e| e.map(|e| e.path()).map_err(Error::io("read", path)));
    let paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    Ok(paths.into_iter().filter(|p| p.is_dir()).collect())
}

/// One or two parts of letters, digits and `._-@`, so that a name is a path inside the store.
fn check_name(name: &str) -> Result<(), Error> {
    let refuse = |reason| Err(Error::Name { name: name.to_owned(), reason });
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        return refuse("it has more than one slash");
    }
    for part in parts {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
        if part.is_empty() || part.starts_with('.') {
            return refuse("a part is empty or begins with a dot");
        }
        if part.len() > 128 {
            return refuse("a part is longer than 128 characters");
        }
        if !part.chars().all(good) {
            return refuse("only letters, digits, '.', '_', '-' and '@' are allowed");
        }
    }
    Ok(())
}

/// The name as one file name: '=' cannot stand in a name, so no two are confused.
fn flat(name: &str) -> String {
    name.replace('/', "=")
}

/// Letters to insert, delete or change between two words (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { home: folder.path().to_owned() };
        (folder, store)
    }

    fn add(store: &Store, name: &str, files: &[&str]) {
        let stage = store.stage(name, "1").unwrap();
        for file in files {
            fs::write(stage.folder.join(file), b"x").unwrap();
        }
        let source = Source {
            name: name.to_owned(),
            from: "a test".to_owned(),
            revision: "1".to_owned(),
            licence: None,
            files: vec![],
        };
        store.install(stage, &source).unwrap();
    }

    #[test]
    fn models_are_listed_found_and_removed() {
        let (_folder, store) = store();
        assert!(store.list().unwrap().is_empty());
        add(&store, "small", &["a.gguf"]);
        add(&store, "meta/large", &["config.json", "b.gguf"]);
        let names: Vec<String> = store.list().unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["meta/large", "small"]);
        assert!(store.resolve("small").unwrap().ends_with("models/small/a.gguf"));
        assert!(store.resolve("meta/large").unwrap().ends_with("models/meta/large"));
        store.remove("meta/large").unwrap();
        assert!(!store.home.join("models/meta").exists());
        assert!(store.find("meta/large").unwrap().is_none());
    }

    #[test]
    fn folders_are_made_for_their_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, store) = store();
        let made = store.home.join("a/b");
        make_folder(&made).unwrap();
        make_folder(&made).unwrap();
        for path in [store.home.join("a"), made] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_second_install_replaces_the_first() {
        let (_folder, store) = store();
        add(&store, "m", &["a.gguf"]);
        add(&store, "m", &["b.gguf"]);
        assert!(store.resolve("m").unwrap().ends_with("b.gguf"));
    }

    #[test]
    fn two_processes_cannot_stage_one_model() {
        let (_folder, store) = store();
        let _first = store.stage("m", "1").unwrap();
        assert!(matches!(store.stage("m", "1"), Err(Error::Busy { .. })));
        assert!(store.stage("n", "1").is_ok());
    }

    #[test]
    fn unknown_names_get_the_nearest() {
        let (_folder, store) = store();
        add(&store, "smollm2", &["a.gguf"]);
        let error = store.resolve("smolm2").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean smollm2?");
        let error = store.resolve("/no/such/../file").unwrap_err();
        assert!(matches!(error, Error::NoModel { nearest: None, .. }));
    }

    #[test]
    fn names_and_paths_cannot_leave_the_store() {
        for name in ["", "..", "a/..", "a/b/c", "/a", "a b", ".hidden", "a\\b", "ä"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for path in ["../x", "/x", "a/../../x", "", "./a"] {
            assert_eq!(inner_path(path), None, "{path:?}");
        }
        assert!(inner_path("original/params.json").is_some());
    }

    #[test]
    fn distances_count_letters() {
        for (a, b, wanted) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)] {
            assert_eq!(distance(a, b), wanted);
        }
    }
}
