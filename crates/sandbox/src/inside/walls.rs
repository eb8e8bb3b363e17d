//! The first stage: leaves root, closes what was left open, makes the namespaces.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::process::Stdio;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, close, setgroups, sethostname, setresgid, setresuid, setsid};

use super::{Fault, Stage, again, fault, rights};
use crate::error::Wall;

/// Whom root becomes: nobody, whom root's limits on processes do not spare.
const NOBODY: u32 = 65534;
/// User and group of the program as it sees them.
pub const INNER: u32 = 1000;

/// Makes the walls, starts the keeper behind them and waits for it.
pub fn run(before: &[OsString]) -> Result<(), Fault> {
    let identity = |error: io::Error| Fault::Wall(Wall::Identity, error.to_string());
    close_inherited().map_err(identity)?;
    let _ = setsid(); // away from the caller's terminal; fails only for one who has left it already
    umask(Mode::from_bits_truncate(0o022)); // the caller's may close files to ourselves
    // Better this than the caller, when the machine's memory runs out.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let (uid, gid) = leave_root()?;
    let namespaces = [
        (CloneFlags::CLONE_NEWUSER, Wall::Users),
        (CloneFlags::CLONE_NEWNS, Wall::Mounts),
        (CloneFlags::CLONE_NEWPID, Wall::Processes),
        (CloneFlags::CLONE_NEWNET, Wall::Network),
        (CloneFlags::CLONE_NEWIPC, Wall::Rest),
        (CloneFlags::CLONE_NEWUTS, Wall::Rest),
        (CloneFlags::CLONE_NEWCGROUP, Wall::Rest),
    ];
    for (flag, wall) in namespaces {
        unshare(flag).map_err(fault(wall, "unshare"))?;
        if wall == Wall::Users {
            write_maps(uid, gid).map_err(fault(Wall::Users, "cannot write the maps of users"))?;
        }
    }
    sethostname("sandbox").map_err(fault(Wall::Rest, "sethostname"))?;
    rights::hand_on()?;
    let mut keeper = again(before, Stage::Keeper);
    keeper.stdin(Stdio::inherit()).stdout(Stdio::inherit());
    let status = keeper.status().map_err(fault(
        Wall::Processes,
        "cannot run the helper again (may every user read and run it?)",
    ))?;
    match status.success() {
        true => Ok(()),
        false => Err(Fault::Wall(Wall::Processes, format!("the keeper ended with {status}"))),
    }
}

/// Closes all but the standard streams: what the caller had open is not the program's.
fn close_inherited() -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for fd in numbers.filter(|fd| *fd > 2) {
        let _ = close(fd); // the one that listed them is closed already
    }
    Ok(())
}

/// Becomes nobody if this is root; gives user and group.
fn leave_root() -> Result<(Uid, Gid), Fault> {
    if Uid::effective().is_root() || Uid::current().is_root() {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[]).map_err(fault(Wall::Identity, "setgroups"))?;
        setresgid(gid, gid, gid).map_err(fault(Wall::Identity, "setresgid"))?;
        setresuid(uid, uid, uid).map_err(fault(Wall::Identity, "setresuid"))?;
        // The kernel has taken /proc/self from us; the maps below are written there.
        set_dumpable(true).map_err(fault(Wall::Identity, "prctl"))?;
    }
    Ok((Uid::current(), Gid::current()))
}

fn write_maps(uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{INNER} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{INNER} {gid} 1"))
}
