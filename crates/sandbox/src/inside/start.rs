//! The last stage: closes the walls that go with a process, and becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::sys::resource::{Resource, setrlimit};

use super::root::SCRATCH;
use super::{Fault, calls, fault};
use crate::error::Wall;
use crate::program::Limits;

/// The newest rules of Landlock that are asked for; a kernel gives those that it knows.
const NEWEST: ABI = ABI::V7;
/// Files that one process may have open.
const OPEN_FILES: u64 = 128;
/// The stack of one process; threads take theirs from the memory.
const STACK_BYTES: u64 = 8 << 20;

/// The arguments by which the keeper says what is to be started.
pub fn arguments(limits: &Limits, program: &str, rest: &[String]) -> Vec<OsString> {
    let numbers = [
        limits.memory_bytes,
        limits.cpu.as_secs() + 1, // the keeper ends them all earlier
        limits.disk_bytes,
        // The keeper and the first stage count as well.
        u64::from(limits.processes) + 2,
    ];
    let numbers = numbers.map(|n| OsString::from(n.to_string())).into_iter();
    numbers.chain([program.into()]).chain(rest.iter().map(OsString::from)).collect()
}

/// Becomes the program; comes back only with what kept it from that.
pub fn run(arguments: &[OsString]) -> Fault {
    let [memory, cpu, disk, processes, program, rest @ ..] = arguments else {
        return Fault(Wall::Limits, "the keeper named no program".to_owned());
    };
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
    let numbers = [memory, cpu, disk, processes].map(number);
    let [Some(memory), Some(cpu), Some(disk), Some(processes)] = numbers else {
        return Fault(Wall::Limits, format!("limits that read {arguments:?}"));
    };
    let limits = [
        (Resource::RLIMIT_AS, memory),
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
    ];
    let close = || {
        close_files()?;
        for (resource, most) in limits {
            setrlimit(resource, most, most)
                .map_err(|e| Fault(Wall::Limits, format!("{resource:?}: {e}")))?;
        }
        calls::close()
    };
    if let Err(fault) = close() {
        return fault;
    }
    fault(Wall::Root, "cannot run it")(Command::new(program).args(rest).exec())
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
            Err(Fault(Wall::Landlock, "the kernel does not offer it".to_owned()))
        }
    }
}
