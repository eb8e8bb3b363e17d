//! A folder that is written beside its place and renamed into it when it is whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::FileError;

/// A folder under way, called `.NAME.part`. Dropped unfinished, it is removed; after a kill it stays
/// and the next writer of the same folder begins it anew.
#[derive(Debug)]
pub struct NewFolder {
    path: PathBuf,
    part: PathBuf,
}

impl NewFolder {
    /// Starts a folder. Errors: something is at `path` already, or the folder cannot be made.
    pub fn create(path: impl AsRef<Path>) -> Result<NewFolder, FileError> {
        let path = path.as_ref();
        let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if path.exists() && !is_empty() {
            return Err(FileError::Exists { path: path.to_owned() });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".{name}.part"));
        let made = match fs::remove_dir_all(&part) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => fs::create_dir(&part),
        };
        made.map_err(|e| FileError::io(&part, "write", e))?;
        Ok(NewFolder { path: path.to_owned(), part })
    }

    /// Where its files are written for now.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Makes a folder inside it.
    pub fn make(&self, name: &str) -> Result<(), FileError> {
        let path = self.part.join(name);
        fs::create_dir(&path).map_err(|e| FileError::io(&path, "write", e))
    }

    /// Writes a file of it, to the disk. `name` may lie in a folder that was made.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.part.join(name);
        let done = fs::write(&path, bytes).and_then(|()| File::open(&path)?.sync_all());
        done.map_err(|e| FileError::io(&path, "write", e))
    }

    /// Puts it in its place. Its files are on the disk, by [`NewFolder::write`] or the writers of
    /// this module; this brings the folders there, and then the new name.
    pub fn publish(self) -> Result<(), FileError> {
        let done = sync_folders(&self.part).and_then(|()| fs::rename(&self.part, &self.path));
        done.map_err(|e| FileError::io(&self.path, "write", e))?;
        super::pending::sync_folder(&self.path).map_err(|e| FileError::io(&self.path, "sync", e))
    }
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // Gone after `publish`; a failure leaves a folder that the next run takes over.
        let _ = fs::remove_dir_all(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_written_whole_and_never_over_another() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out");
        fs::create_dir(home.path().join(".out.part")).unwrap();
        fs::write(home.path().join(".out.part/left"), "by a kill").unwrap();
        let folder = NewFolder::create(&path).unwrap();
        folder.make("state").unwrap();
        folder.write("a", b"1").unwrap();
        folder.write("state/b", b"2").unwrap();
        assert!(!path.exists(), "nothing stands there before it is whole");
        folder.publish().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(NewFolder::create(&path).is_err());
        assert_eq!(fs::read(path.join("a")).unwrap(), b"1");
        assert!(NewFolder::create(home.path().join("no/such/folder")).is_err());
        drop(NewFolder::create(home.path().join("given up")).unwrap());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
