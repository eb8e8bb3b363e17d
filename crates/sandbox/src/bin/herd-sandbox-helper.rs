//! The inner stages as a program of their own, for programs that have no hidden verb for them.

use std::process::ExitCode;

fn main() -> ExitCode {
    herd_sandbox::inside::enter()
}
