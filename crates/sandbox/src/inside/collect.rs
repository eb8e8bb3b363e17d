//! Files in and out of the program's folder. A link is never followed out of it, a pipe never waited for.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::WORK;
use crate::program::Found;

/// Folders below folders that are listed.
const DEPTH: usize = 16;
/// Names that are listed at most.
const NAMES: usize = 10_000;

/// Writes the files that a program starts with.
pub fn put(files: &[(String, Vec<u8>)]) -> io::Result<()> {
    for (name, bytes) in files {
        let path = Path::new(WORK).join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        file.write_all(bytes)?;
    }
    Ok(())
}

/// What lies under `name`, if it is a file of at most `most` bytes.
pub fn get(name: &str, most: u64) -> Found {
    let Ok(folder) = File::open(WORK) else { return Found::Missing };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    let file = match openat2(&folder, name, how) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Found::Missing,
        Err(_) => return Found::NotAFile, // a link, a socket, a file that its maker closed to all
    };
    let Ok(found) = file.metadata() else { return Found::Missing };
    if !found.is_file() {
        return Found::NotAFile;
    }
    if found.size() > most {
        return Found::TooLarge;
    }
    let mut bytes = Vec::new();
    // It may grow while it is read, if the program still runs.
    match file.take(most + 1).read_to_end(&mut bytes) {
        Ok(n) if n as u64 <= most => Found::Bytes(bytes),
        Ok(_) => Found::TooLarge,
        Err(_) => Found::NotAFile,
    }
}

/// The files of the folder with their sizes, in order of their names; those with names that are not
/// UTF-8 cannot be asked for and are left out.
pub fn list() -> Vec<(String, u64)> {
    let mut names = Vec::new();
    list_below(Path::new(WORK), DEPTH, &mut names);
    names.sort();
    names
}

fn list_below(folder: &Path, depth: usize, names: &mut Vec<(String, u64)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if names.len() >= NAMES {
            return;
        }
        let path = entry.path();
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() && depth > 0 {
            list_below(&path, depth - 1, names);
        } else if found.is_file() {
            let name = path.strip_prefix(WORK).ok().and_then(Path::to_str);
            names.extend(name.map(|name| (name.to_owned(), found.size())));
        }
    }
}
