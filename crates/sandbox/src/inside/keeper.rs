//! Process 1 behind the walls: builds the root, puts the files there and starts the program.
//!
//! When it ends the kernel kills every process of its namespace. It ends when the program does, when
//! the first stage dies, and when the caller closes its pipe or dies.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::relay::{PIECE, Relay};
use super::{Fault, PATH, Stage, WORK, again, collect, fault, rights, root, start, tell};
use crate::error::Wall;
use crate::wire::{Kind, Request, frame, take_frame};

/// Builds the root, runs the program, reports.
pub fn run(before: &[OsString]) -> Result<(), Fault> {
    set_pdeathsig(Signal::SIGKILL).map_err(fault(Wall::Processes, "prctl"))?;
    let mut inbox = Vec::new();
    let Some(request) = first(&mut inbox).map_err(fault(Wall::Processes, "no request"))? else {
        return Ok(()); // the caller has gone
    };
    root::build(&request.limits, &request.readable)?;
    collect::put(&request.files, &request.limits)?;
    std::env::set_current_dir(WORK).map_err(fault(Wall::Root, "chdir"))?;
    rights::give_up()?;
    tell(&frame(Kind::Ready, &[]));
    let Some(program) = look_up(&request.command[0]) else {
        tell(&frame(Kind::NotFound, request.command[0].as_bytes()));
        return Ok(());
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().map_err(fault(Wall::Processes, "cannot block SIGCHLD"))?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let children = SignalFd::with_flags(&signals, flags);
    let children = children.map_err(fault(Wall::Processes, "signalfd"))?;
    let (child, told) =
        spawn(before, &request, &program).map_err(fault(Wall::Processes, "spawn"))?;
    if !told.is_empty() {
        tell(&told); // a frame of the last stage's: nothing of the program has run
        return Ok(());
    }
    let relay = Relay::new(request, child, inbox).map_err(fault(Wall::Processes, "fcntl"))?;
    relay.run(&children).map_err(fault(Wall::Processes, "the keeper's pipes"))
}

/// Reads the first frame; nothing if the caller hangs up.
fn first(inbox: &mut Vec<u8>) -> Result<Option<Request>, String> {
    let mut piece = vec![0; PIECE];
    loop {
        if let Some((kind, body)) = take_frame(inbox, u64::MAX)? {
            return match kind {
                Kind::Request => Request::decode(&body).map(Some),
                other => Err(format!("{other:?} came first")),
            };
        }
        match nix::unistd::read(io::stdin(), &mut piece).map_err(|e| e.to_string())? {
            0 => return Ok(None),
            n => inbox.extend_from_slice(&piece[..n]),
        }
    }
}

/// The program's path, if it is one that may be run.
fn look_up(name: &str) -> Option<PathBuf> {
    let runs = |path: &Path| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    match name.contains('/') {
        true => Some(Path::new(WORK).join(name)).filter(|path| runs(path)),
        false => PATH.split(':').map(|folder| Path::new(folder).join(name)).find(|p| runs(p)),
    }
}

/// Starts the last stage, which becomes the program; gives what it told if it did not.
fn spawn(before: &[OsString], request: &Request, program: &Path) -> io::Result<(Child, Vec<u8>)> {
    let program = program.to_str().expect("made of texts");
    let (mut report, reporter) = io::pipe()?;
    fcntl(&reporter, FcntlArg::F_SETFD(FdFlag::empty()))?; // the last stage finds it by its number
    let child = again(before, Stage::Start)
        .args(start::arguments(reporter.as_raw_fd(), request, program))
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(reporter);
    let mut told = Vec::new();
    report.read_to_end(&mut told)?; // it ends where the program begins
    Ok((child, told))
}
