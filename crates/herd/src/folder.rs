//! A folder of small files that is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::Error;

/// Writes `files` (name, bytes) into a new folder: under the name `.NAME.part` first, synced, then
/// renamed. What a killed run left under that name is thrown away.
///
/// Errors if something is at `path`, but for an empty folder, or a file cannot be written.
pub fn write(path: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), Error> {
    crate::commands::refuse_existing(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part"));
    let done = fill(&part, files).and_then(|()| {
        fs::rename(&part, path)?;
        sync_folder(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    });
    done.map_err(|e| {
        let _ = fs::remove_dir_all(&part); // the next run takes over what cannot be removed
        Error::io("write", path)(e)
    })
}

fn fill(part: &Path, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    match fs::remove_dir_all(part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => fs::create_dir(part)?,
    }
    for (name, bytes) in files {
        let mut file = File::create(part.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    sync_folder(part)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
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
        write(&path, &[("a", b"1".to_vec()), ("b", b"2".to_vec())]).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(write(&path, &[("a", b"3".to_vec())]).is_err());
        assert_eq!(fs::read(path.join("a")).unwrap(), b"1");
        assert!(write(&home.path().join("no/such/folder"), &[]).is_err());
    }
}
