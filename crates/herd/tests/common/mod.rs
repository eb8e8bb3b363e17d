//! Runs the built program in a store of its own.

#![allow(dead_code)] // each test file uses a part

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A command line with an empty environment, so that nothing of the user's leaks in.
pub fn herd(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.env_clear().env("HERD_HOME", home).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs `herd ARGS` and gives its exit code, standard output and standard error.
pub fn run(home: &Path, args: &[&str]) -> (i32, String, String) {
    told(herd(home).args(args).output().expect("the program starts"))
}

/// Exit code, standard output and standard error.
pub fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}
