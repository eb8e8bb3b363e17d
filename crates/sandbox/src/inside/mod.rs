//! The stages between the caller and the program; each runs the executable again.

mod calls;
mod collect;
mod keeper;
mod relay;
mod rights;
mod root;
mod start;
mod walls;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

use crate::error::Wall;
use crate::wire::{Kind, encode_wall, frame};

/// Where the program works.
const WORK: &str = "/work";
/// The programs' folders, in the order in which names are looked up.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// What keeps a stage from its work.
enum Fault {
    /// A wall that does not stand, and why.
    Wall(Wall, String),
    /// Something that the caller asked for cannot be done: what, and why.
    Asked(String),
}

impl Fault {
    /// The frame that tells the caller.
    fn frame(&self) -> Vec<u8> {
        match self {
            Fault::Wall(wall, detail) => frame(Kind::NoWall, &encode_wall(*wall, detail)),
            Fault::Asked(what) => frame(Kind::Refused, what.as_bytes()),
        }
    }
}

/// Turns an error into the fault of a wall.
fn fault<E: std::fmt::Display>(wall: Wall, doing: &str) -> impl FnOnce(E) -> Fault {
    move |error| Fault::Wall(wall, format!("{doing}: {error}"))
}

/// Writes frames for the caller, whole.
fn tell(frames: &[u8]) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(frames).and_then(|()| out.flush()); // the caller may be gone
}

/// The stages, each named by an argument of the executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Walls,
    Keeper,
    Start,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Walls, Stage::Keeper, Stage::Start];

    fn name(self) -> &'static str {
        match self {
            Stage::Walls => "sandbox-walls",
            Stage::Keeper => "sandbox-keeper",
            Stage::Start => "sandbox-start",
        }
    }
}

/// The argument by which a caller asks for the first stage.
pub(crate) const FIRST: &str = "sandbox-walls";

fn stage(argument: &OsString) -> Option<Stage> {
    Stage::ALL.into_iter().find(|stage| *argument == *stage.name())
}

/// Whether the first argument names an inner stage: a program that is its own helper looks before
/// it reads its flags, and then does nothing but [`enter`].
pub fn asked() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| stage(&argument).is_some())
}

/// Runs the inner stage that the program's arguments name: the whole of a helper's `main`.
///
/// It must be called before the program starts a thread or opens a file: this process gives up its
/// rights, closes what it has open and becomes someone else.
pub fn enter() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // The first one: what comes after `sandbox-start` is the program's.
    let mut places = arguments.iter().enumerate().skip(1);
    let found = places.find_map(|(place, argument)| Some((stage(argument)?, place)));
    let Some((stage, place)) = found else {
        eprintln!("error: this program is run by Herd's sandbox, not by hand");
        return ExitCode::from(2);
    };
    let result = match stage {
        Stage::Walls => walls::run(&arguments[1..place]),
        Stage::Keeper => keeper::run(&arguments[1..place]),
        Stage::Start => return start::run(&arguments[place + 1..]),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            tell(&fault.frame());
            ExitCode::from(2)
        }
    }
}

/// This executable again, as another stage. `before` are the arguments that lead to [`enter`].
fn again(before: &[OsString], stage: Stage) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(before).arg(stage.name()).env_clear();
    command
}
