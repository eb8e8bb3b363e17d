//! Files in and out of the program's folder. A link is never followed out of it, a pipe never waited for.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::{Fault, WORK};
use crate::program::{Found, Limits, check_name};

/// Writes the files that a program starts with. Each may be run, since nobody says which may.
pub fn put(files: &[(String, Vec<u8>)], limits: &Limits) -> Result<(), Fault> {
    for (name, bytes) in files {
        put_file(&Path::new(WORK).join(name), bytes).map_err(|error| {
            let Limits { files, disk_bytes, .. } = limits;
            Fault::Asked(format!(
                "put {name:?} into the program's folder, which takes {files} files and folders, \
                 and {disk_bytes} bytes: {error}"
            ))
        })?;
    }
    Ok(())
}

fn put_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let mut file = File::options().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(bytes)
}

/// Opens what lies under `name`, below the program's folder and by way of no link.
fn open(name: &str, kind: OFlag) -> Result<File, Errno> {
    let folder = File::open(WORK).map_err(|_| Errno::ENOENT)?;
    let how = OpenHow::new()
        .flags(kind | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    openat2(&folder, name, how).map(File::from)
}

/// What lies under `name`, if it is a file of at most `most` bytes.
pub fn get(name: &str, most: u64) -> Found {
    let file = match open(name, OFlag::empty()) {
        Ok(file) => file,
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

/// The files of the folder with their sizes, in order of their names; those that cannot be asked for
/// by name ([`check_name`]) are left out. No more are looked at than the limit lets be there at a
/// time: a program that runs may move them before us for ever.
pub fn list(limits: &Limits) -> Vec<(String, u64)> {
    let mut left = u64::from(limits.files) + 8;
    let (mut folders, mut names) = (vec![".".to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let Ok(opened) = open(&folder, OFlag::O_DIRECTORY) else { continue };
        // The descriptor, not the path: another folder, or a link, may lie there by now.
        let Ok(entries) = fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd())) else {
            continue;
        };
        for entry in entries.flatten() {
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => return sorted(names),
            };
            let (Ok(found), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else {
                continue;
            };
            let name = if folder == "." { name } else { format!("{folder}/{name}") };
            if check_name(&name).is_err() {
                continue;
            }
            if found.is_dir() {
                folders.push(name);
            } else if found.is_file() {
                names.push((name, found.size()));
            }
        }
    }
    sorted(names)
}

fn sorted(mut names: Vec<(String, u64)>) -> Vec<(String, u64)> {
    names.sort();
    names
}
