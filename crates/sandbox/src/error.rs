//! Why nothing ran, or nothing came back.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A wall that the machine must offer. All of them stand, or nothing runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// A user without rights: root becomes one first.
    Identity,
    /// A user namespace, in which the others are made.
    Users,
    /// A mount namespace.
    Mounts,
    /// A process namespace, whose end is the end of all in it.
    Processes,
    /// A network namespace without a network.
    Network,
    /// Namespaces of System V objects, host names and control groups.
    Rest,
    /// The root of files that the program sees.
    Root,
    /// Capabilities given up for good.
    Capabilities,
    /// Landlock's rules over files.
    Landlock,
    /// The list of system calls.
    Calls,
    /// Limits of resources.
    Limits,
}

impl Wall {
    /// All of them; a place in this list is the number that stages tell each other.
    pub(crate) const ALL: [Wall; 11] = [
        Wall::Identity,
        Wall::Users,
        Wall::Mounts,
        Wall::Processes,
        Wall::Network,
        Wall::Rest,
        Wall::Root,
        Wall::Capabilities,
        Wall::Landlock,
        Wall::Calls,
        Wall::Limits,
    ];

    /// What it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Wall::Identity => "a user without rights",
            Wall::Users => "a user namespace",
            Wall::Mounts => "a mount namespace",
            Wall::Processes => "a process namespace",
            Wall::Network => "a network namespace",
            Wall::Rest => "namespaces of ipc, names and control groups",
            Wall::Root => "a root of its own",
            Wall::Capabilities => "capabilities given up",
            Wall::Landlock => "Landlock",
            Wall::Calls => "a list of system calls",
            Wall::Limits => "limits of resources",
        }
    }

    /// What the owner of the machine may do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Wall::Identity => "root needs CAP_SETUID and CAP_SETGID; or run as an ordinary user",
            Wall::Users | Wall::Mounts | Wall::Processes | Wall::Network | Wall::Rest => {
                "allow user namespaces: sysctl user.max_user_namespaces, \
                 kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; \
                 in a container, its seccomp profile must let `unshare` through"
            }
            Wall::Root => {
                "mounts inside a user namespace must be allowed and /proc must not be masked, \
                 as it is in most containers"
            }
            Wall::Capabilities | Wall::Limits => "Linux 5.14 or later is needed",
            Wall::Landlock => "Linux 5.13 or later with `landlock` in its lsm= list is needed",
            Wall::Calls => "a kernel with seccomp filters on x86-64 or aarch64 is needed",
        }
    }
}

/// Why nothing ran, or nothing came back.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each message names its fields
pub enum SandboxError {
    #[error("the sandbox lacks a wall, {}: {detail}", wall.name())]
    Wall { wall: Wall, detail: String },

    #[error("cannot start the sandbox's helper {}", path.display())]
    Helper { path: PathBuf, source: io::Error },

    #[error("the sandbox's helper did not report: {told}")]
    Lost { told: String },

    #[error("the sandbox's helper sent {what}")]
    Garbled { what: String },

    #[error("there is no program {name:?} in the sandbox")]
    NotFound { name: String },

    #[error("the sandbox cannot {what}")]
    Refused { what: String },

    #[error("{what} is {got}, expected {expected}")]
    Value { what: &'static str, got: String, expected: String },

    #[error("{name:?} is not a name in the sandbox's folder: {reason}")]
    Name { name: String, reason: &'static str },

    #[error("the session is over: {why}")]
    Over { why: String },
}

impl SandboxError {
    /// What to try, where something is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SandboxError::Wall { wall, .. } => Some(wall.hint()),
            SandboxError::NotFound { .. } => {
                Some("programs come from /usr, /bin and /sbin of this machine; is it installed?")
            }
            SandboxError::Over { .. } => Some("open another session; its state is gone"),
            SandboxError::Helper { .. }
            | SandboxError::Lost { .. }
            | SandboxError::Garbled { .. }
            | SandboxError::Refused { .. }
            | SandboxError::Value { .. }
            | SandboxError::Name { .. } => None,
        }
    }
}
