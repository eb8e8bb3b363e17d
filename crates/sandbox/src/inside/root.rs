//! The files that the program sees: the machine's programs read-only, and scratch folders in memory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;

use super::walls::INNER;
use super::{Fault, WORK, fault};
use crate::error::Wall;
use crate::program::Limits;

/// Where the new root is built; any folder that every machine has.
const BASE: &str = "/tmp";
/// What is shown of the machine.
const SHOWN: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What is copied of its `/etc`: where libraries are and what time it is. Nothing tells of people.
const COPIED: [&str; 2] = ["ld.so.cache", "localtime"];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Folders that may be written to, all in one file system of limited size.
pub const SCRATCH: [&str; 3] = [WORK, "/tmp", "/dev/shm"];

/// Replaces the root. Afterwards nothing of the old one has a name.
pub fn build(limits: &Limits, readable: &[String]) -> Result<(), Fault> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(fault(Wall::Mounts, "cannot part the mounts from the machine's"))?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    memory(BASE, plain, "size=16m,nr_inodes=4096,mode=755")?;
    let base = Path::new(BASE);
    show(base, readable)?;
    write_etc(&base.join("etc")).map_err(fault(Wall::Root, "cannot write its /etc"))?;
    devices(&base.join("dev"))?;
    scratch(base, limits)?;
    let proc = base.join("proc");
    folder(&proc)?;
    mount(Some("proc"), &proc, Some("proc"), plain | MsFlags::MS_NOEXEC, Some("subset=pid"))
        .map_err(fault(Wall::Root, "cannot mount /proc"))?;
    std::env::set_current_dir(base).map_err(fault(Wall::Root, "chdir"))?;
    pivot_root(".", ".").map_err(fault(Wall::Root, "pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(fault(Wall::Root, "cannot leave the old root"))?;
    std::env::set_current_dir("/").map_err(fault(Wall::Root, "chdir"))?;
    close_to_writing()
}

fn memory(path: impl AsRef<Path>, flags: MsFlags, options: &str) -> Result<(), Fault> {
    let path = path.as_ref();
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))
        .map_err(fault(Wall::Root, "cannot mount a file system in memory"))
}

fn folder(path: &Path) -> Result<(), Fault> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|e| Fault::Wall(Wall::Root, format!("cannot make {}: {e}", path.display())))
}

/// Shows `from`, with what is mounted below it, as `to`.
fn bind(from: &Path, to: &Path) -> Result<(), Fault> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .map_err(|e| Fault::Wall(Wall::Root, format!("cannot show {}: {e}", from.display())))
}

fn show(base: &Path, readable: &[String]) -> Result<(), Fault> {
    let own = SHOWN.into_iter().map(|name| Path::new("/").join(name));
    for from in own.chain([PathBuf::from("/etc/alternatives")]) {
        let to = within(base, &from);
        match fs::symlink_metadata(&from) {
            Ok(found) if found.is_symlink() => {
                let target = fs::read_link(&from).map_err(fault(Wall::Root, "readlink"))?;
                symlink(target, to).map_err(fault(Wall::Root, "symlink"))?;
            }
            Ok(_) => {
                folder(&to)?;
                bind(&from, &to)?;
            }
            // A machine need not have all of them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let detail = format!("cannot see {}: {error}", from.display());
                return Err(Fault::Wall(Wall::Root, detail));
            }
        }
    }
    for from in readable.iter().map(Path::new) {
        let to = within(base, from);
        folder(&to).and_then(|()| bind(from, &to)).map_err(|fault| match fault {
            Fault::Wall(_, detail) => {
                let name = from.display();
                Fault::Asked(format!("show {name} (may every user read it?): {detail}"))
            }
            asked @ Fault::Asked(_) => asked,
        })?;
    }
    Ok(())
}

/// Where a folder of the machine lies below the root that is built.
fn within(base: &Path, from: &Path) -> PathBuf {
    base.join(from.strip_prefix("/").unwrap_or(from))
}

fn write_etc(etc: &Path) -> io::Result<()> {
    fs::create_dir_all(etc)?;
    fs::write(etc.join("passwd"), format!("user:x:{INNER}:{INNER}::{WORK}:/bin/sh\n"))?;
    fs::write(etc.join("group"), format!("user:x:{INNER}:\n"))?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost sandbox\n")?;
    fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files\n")?;
    for name in COPIED {
        if let Ok(bytes) = fs::read(Path::new("/etc").join(name)) {
            fs::write(etc.join(name), bytes)?;
        }
    }
    Ok(())
}

fn devices(dev: &Path) -> Result<(), Fault> {
    folder(dev)?;
    for name in DEVICES {
        let to = dev.join(name);
        File::create(&to).map_err(fault(Wall::Root, "cannot make a place for a device"))?;
        bind(&Path::new("/dev").join(name), &to)?;
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), dev.join(name))
            .map_err(fault(Wall::Root, "symlink"))?;
    }
    Ok(())
}

/// One file system in memory, seen in three places.
fn scratch(base: &Path, limits: &Limits) -> Result<(), Fault> {
    let whole = base.join("scratch");
    folder(&whole)?;
    // Three folders, the root and what tmpfs counts besides.
    let inodes = u64::from(limits.files) + 8;
    let options = format!("size={},nr_inodes={inodes},mode=755", limits.disk_bytes);
    memory(&whole, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &options)?;
    for (number, place) in SCRATCH.into_iter().enumerate() {
        let (part, to) = (whole.join(number.to_string()), base.join(&place[1..]));
        folder(&part)?;
        folder(&to)?;
        bind(&part, &to)?;
    }
    umount2(&whole, MntFlags::MNT_DETACH).map_err(fault(Wall::Root, "umount"))?;
    fs::remove_dir(&whole).map_err(fault(Wall::Root, "rmdir"))
}

/// Remounts all that is no scratch read-only, one by one: a flag does not reach what is mounted below.
fn close_to_writing() -> Result<(), Fault> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(fault(Wall::Root, "cannot read the table of mounts"))?;
    for line in table.lines() {
        let mut fields = line.split(' ').skip(4);
        let (Some(path), Some(options)) = (fields.next(), fields.next()) else {
            return Err(Fault::Wall(Wall::Root, format!("a mount that reads {line:?}")));
        };
        let path = unescape(path);
        if SCRATCH.iter().any(|place| path == Path::new(place)) || path == Path::new("/proc") {
            continue;
        }
        let device = path.parent() == Some(Path::new("/dev"));
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | kept(options);
        // Devices stay devices and are written to; a read-only mount would not forbid that anyway.
        flags |= if device { MsFlags::MS_NOEXEC } else { MsFlags::MS_NODEV };
        flags |= MsFlags::MS_RDONLY;
        mount(None::<&str>, &path, None::<&str>, flags, None::<&str>).map_err(|e| {
            Fault::Wall(Wall::Root, format!("cannot close {}: {e}", path.display()))
        })?;
    }
    Ok(())
}

/// The flags of a mount that the machine's owner set, and that must stay.
fn kept(options: &str) -> MsFlags {
    let flag = |option| match option {
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        _ => MsFlags::empty(),
    };
    options.split(',').map(flag).fold(MsFlags::empty(), |all, flag| all | flag)
}

/// A path of the table of mounts, where `\040` is a blank.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..3).and_then(|d| u8::from_str_radix(str::from_utf8(d).ok()?, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_table_of_mounts_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134"), Path::new("/a b\\"));
        assert_eq!(unescape("/a\\04"), Path::new("/a\\04"));
    }

    #[test]
    fn flags_of_the_owner_stay() {
        assert_eq!(kept("rw,noexec,relatime"), MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME);
    }
}
