//! The last stage: closes the walls that go with a process, and becomes the program.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::close as close_number;

use super::calls::{self, Sockets};
use super::root::SCRATCH;
use super::{Fault, PATH, WORK, fault};
use crate::error::Wall;
use crate::wire::Request;

/// The newest rules of Landlock that are asked for; a kernel gives those that it knows.
const NEWEST: ABI = ABI::V7;
/// Files that one process may have open.
const OPEN_FILES: u64 = 128;
/// What every program has in its environment, unless the caller says otherwise.
const VARIABLES: [(&str, &str); 8] = [
    ("PATH", PATH),
    ("HOME", WORK),
    ("TMPDIR", "/tmp"),
    ("LANG", "C.UTF-8"),
    // The same program prints the same each time.
    ("PYTHONHASHSEED", "0"),
    ("PYTHONSAFEPATH", "1"),
    // One for each core of a large machine would take all the address space there is.
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
];
/// The stack of one process; threads take theirs from the memory.
const STACK_BYTES: u64 = 8 << 20;

/// The arguments by which the keeper says what is to be started, and where a fault is told: the
/// number of a pipe's end. Variables are among them, so that they wait for the walls.
pub fn arguments(report: i32, request: &Request, program: &str) -> Vec<OsString> {
    let limits = &request.limits;
    let variables = VARIABLES.map(|(name, value)| format!("{name}={value}")).into_iter();
    let variables = variables.chain(request.environment.iter().map(|(n, v)| format!("{n}={v}")));
    let variables: Vec<String> = variables.collect();
    let numbers = [
        report as u64,
        limits.memory_bytes,
        limits.cpu.as_secs() + 1, // the keeper ends them all earlier
        limits.disk_bytes,
        // The keeper and the first stage count as well.
        u64::from(limits.processes) + 2,
        u64::from(!request.readable.is_empty()),
        variables.len() as u64,
    ];
    let texts = variables.into_iter().chain([program.to_owned()]);
    let texts = texts.chain(request.command[1..].iter().cloned());
    numbers.iter().map(u64::to_string).chain(texts).map(OsString::from).collect()
}

/// Becomes the program; comes back only with what kept it from that, which the keeper is told.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let number = |text: &OsString| text.to_str()?.parse::<u64>().ok();
    let report = arguments.first().and_then(number).and_then(|fd| reopen(fd).ok());
    let numbers: Option<Vec<u64>> = arguments.iter().take(7).map(number).collect();
    let (Some(mut report), Some(&[_, memory, cpu, disk, processes, shown, variables])) =
        (report, numbers.as_deref())
    else {
        eprintln!("error: this program is run by Herd's sandbox, not by hand");
        return ExitCode::from(126);
    };
    let limits = [
        (Resource::RLIMIT_CPU, cpu),
        (Resource::RLIMIT_FSIZE, disk),
        (Resource::RLIMIT_NPROC, processes),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
        (Resource::RLIMIT_STACK, STACK_BYTES.min(memory)),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 1 << 16),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_SIGPENDING, 256),
        (Resource::RLIMIT_NICE, 0),
        (Resource::RLIMIT_RTPRIO, 0),
        (Resource::RLIMIT_AS, memory), // last: this stage may hold more
    ];
    let sockets = if shown == 0 { Sockets::Own } else { Sockets::Pairs };
    let fault = match close(&limits, sockets) {
        Ok(()) => become_program(&arguments[7..], variables as usize),
        Err(fault) => fault,
    };
    let _ = report.write_all(&fault.frame()); // the keeper waits for it
    ExitCode::from(126)
}

/// The end of the keeper's pipe of that number, so that it closes where the program begins.
fn reopen(fd: u64) -> io::Result<File> {
    let report = File::options().write(true).open(format!("/proc/self/fd/{fd}"))?;
    close_number(i32::try_from(fd).map_err(io::Error::other)?)?;
    Ok(report)
}

/// Closes all walls that go with a process.
fn close(limits: &[(Resource, u64)], sockets: Sockets) -> Result<(), Fault> {
    // The keeper blocks SIGCHLD, and who knows what the caller blocks.
    SigSet::empty().thread_set_mask().map_err(fault(Wall::Processes, "sigprocmask"))?;
    close_files()?;
    let list = calls::list(sockets)?;
    for (resource, most) in limits {
        setrlimit(*resource, *most, *most)
            .map_err(|e| Fault::Wall(Wall::Limits, format!("{resource:?}: {e}")))?;
    }
    calls::close(&list)
}

/// Runs the program, whose name and arguments stand behind so many variables.
fn become_program(texts: &[OsString], variables: usize) -> Fault {
    let Some((variables, [program, rest @ ..])) = texts.split_at_checked(variables) else {
        return Fault::Asked("run nothing".to_owned());
    };
    let pairs = variables.iter().filter_map(|text| text.to_str()?.split_once('='));
    let error = Command::new(program).args(rest).env_clear().envs(pairs).exec();
    Fault::Asked(format!("run {}: {error}", program.display()))
}

/// Landlock: reading and running anywhere in the new root, writing in the scratch folders alone, no
/// TCP, no signals and no abstract sockets across.
fn close_files() -> Result<(), Fault> {
    let rules = || -> Result<RulesetStatus, RulesetError> {
        let devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V1))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(["/"], AccessFs::from_read(NEWEST)))?
            .add_rules(path_beneath_rules(SCRATCH, AccessFs::from_all(NEWEST)))?
            .add_rules(path_beneath_rules(devices, AccessFs::WriteFile | AccessFs::ReadFile))?
            .restrict_self()?;
        Ok(status.ruleset)
    };
    match rules().map_err(fault(Wall::Landlock, "cannot apply its rules"))? {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => {
            Err(Fault::Wall(Wall::Landlock, "the kernel does not offer it".to_owned()))
        }
    }
}
