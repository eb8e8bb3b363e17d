//! Runs programs that nobody has read, and gives back what they wrote.
//!
//! A program runs behind walls: namespaces of its own, a file system that holds the machine's `/usr`
//! read-only and a scratch folder, no network, a list of system calls, limits on time, memory,
//! processes and files. `docs/sandbox.md` says what each wall keeps off and what none promises.
//! Where a wall cannot be had, nothing runs.
//!
//! ```text
//! caller   Sandbox, Session          knows the limits; trusts nothing that comes back
//!   helper   walls                   leaves root, makes the namespaces          inside/walls.rs
//!     keeper   process 1 in there    builds the root; watches, kills, collects   inside/{keeper,relay}.rs
//!       program                      behind Landlock, seccomp and rlimits        inside/start.rs
//! ```
//!
//! The three inner stages are one executable that the caller names ([`Helper`]) and that does nothing
//! but call [`inside::enter`]: the crate has no `unsafe`, so it cannot fork, only run itself again.

pub mod error;
mod host;
pub mod inside;
mod link;
mod program;
mod python;
mod session;
mod wire;

pub use error::{SandboxError, Wall};
pub use host::{Helper, Sandbox};
pub use program::{Ended, Found, Limits, Outcome, Program, Stream};
pub use python::{Python, RunAs};
pub use session::{Answer, Session};
