//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::DataError;

/// The steps by which a file appears. Tests put in disks that fill up, or lose what was not synced.
pub trait Disk: Sync {
    /// Makes or empties the file and writes the parts one behind the other.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;
    /// Brings a file's content to the medium.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name in its folder, in the place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Brings a folder's names to the medium.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The disk of the machine.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = File::create(path)?;
        parts.iter().try_for_each(|part| file.write_all(part))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    }
}

/// Puts a file with this content at `folder/name`: written beside it as `.NAME.part`, synced,
/// renamed, the folder synced. A part that a kill left is taken over by the next writer.
pub fn replace(
    disk: &dyn Disk,
    folder: &Path,
    name: &str,
    parts: &[&[u8]],
) -> Result<(), DataError> {
    let path = folder.join(name);
    let part = folder.join(format!(".{name}.part"));
    let written = disk.write(&part, parts).and_then(|()| disk.sync(&part));
    if written.is_err() {
        let _ = fs::remove_file(&part); // gives back the room; the error below is what counts
    }
    written.map_err(DataError::io("write", &path))?;
    disk.rename(&part, &path).map_err(DataError::io("replace", &path))?;
    disk.sync_folder(folder).map_err(DataError::io("sync", folder))
}

/// Brings the name of a file to the medium.
pub fn sync_name(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    RealDisk.sync_folder(folder.unwrap_or(Path::new(".")))
}

/// Makes a folder and those it lies in, unless they are there, and brings the new names to the medium.
pub fn make_folder(path: &Path) -> io::Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(missing).collect();
    fs::create_dir_all(path)?;
    missing.into_iter().rev().try_for_each(sync_name)
}

/// Keeps other writers out of a folder until it is dropped.
#[derive(Debug)]
pub struct FolderLock(#[allow(dead_code)] Option<File>);

impl FolderLock {
    /// Errors: another process has it. Where the system cannot lock a folder, all are let in.
    pub fn take(folder: &Path) -> Result<FolderLock, DataError> {
        let Ok(file) = File::open(folder) else { return Ok(FolderLock(None)) };
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Err(DataError::Busy { folder: folder.into() }),
            Err(fs::TryLockError::Error(_)) | Ok(()) => Ok(FolderLock(Some(file))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_there_is_replaced_at_once_and_parts_are_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".a.part"), "left by a kill, and longer").unwrap();
        replace(&RealDisk, folder.path(), "a", &[b"o", b"ld"]).unwrap();
        replace(&RealDisk, folder.path(), "a", &[b"new"]).unwrap();
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_writer_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        assert!(matches!(FolderLock::take(folder.path()), Err(DataError::Busy { .. })));
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
}
