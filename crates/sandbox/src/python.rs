//! Python programs, the most usual of those that nobody has read.

use crate::error::SandboxError;
use crate::host::Sandbox;
use crate::program::{Outcome, Program};

/// How the interpreter is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Python {
    /// The standard library alone; starts fastest.
    Bare,
    /// With the packages that are installed for all users of the machine.
    Packages,
}

impl Python {
    /// The interpreter and its flags: without the user's folders, unbuffered, so that what was
    /// printed before a limit is there. Variables are those of the sandbox: with them sets have one
    /// order, and modules are not looked for beside the program.
    pub(crate) fn command(self) -> Vec<&'static str> {
        let mut command = vec!["python3", "-s", "-u", "-B"];
        match self {
            Python::Bare => command.push("-S"),
            Python::Packages => {}
        }
        command
    }
}

impl Sandbox {
    /// Runs a Python program with this standard input.
    ///
    /// Errors: as [`Sandbox::run`]; without `python3` in `/usr`, [`SandboxError::NotFound`].
    pub fn python(
        &self,
        code: &str,
        stdin: &[u8],
        python: Python,
    ) -> Result<Outcome, SandboxError> {
        let mut command = python.command();
        command.push("main.py");
        let files = [("main.py", code.as_bytes())];
        self.run(&Program { command: &command, stdin, files: &files, ..Program::default() })
    }
}
