//! Python programs, the most usual of those that nobody has read.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

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

/// As what a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// As `__main__`.
    Main,
    /// As what is imported: what stands behind `if __name__ == "__main__"` does not run.
    Module,
}

/// Runs `main.py` with nothing to read, what it prints dropped, and says the proof when it came to its end.
/// The proof was read before, and `__main__` is another module: who wants it must look through
/// the interpreter's frames or memory.
const DRIVER: &str = "\
import os
import sys
proof = sys.stdin.readline()
with open('main.py', encoding='utf-8') as file:
    program = file.read()
main = sys.modules['__main__'] = type(sys)('__main__')
names = main.__dict__ if sys.argv.pop() == 'main' else {}
sys.stdout = open(os.devnull, 'w', encoding='utf-8', errors='replace')
say, leave = os.write, os._exit
exec(compile(program, 'main.py', 'exec', dont_inherit=True), names)
say(1, b'\\n' + proof.encode())
leave(0)
";

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

    /// Runs a Python program, and says whether it came to its end. That is told by a secret that the program
    /// does not hold: an exit code, or a word that stands in its own file, it could give at any time.
    /// What it prints is dropped.
    ///
    /// Errors: as [`Sandbox::python`].
    pub fn python_to_its_end(
        &self,
        code: &str,
        run_as: RunAs,
        python: Python,
    ) -> Result<(Outcome, bool), SandboxError> {
        let proof = secret() + "\n";
        let mut command = python.command();
        command.push("driver.py");
        command.push(match run_as {
            RunAs::Main => "main",
            RunAs::Module => "module",
        });
        let files = [("main.py", code.as_bytes()), ("driver.py", DRIVER.as_bytes())];
        let stdin = proof.as_bytes();
        let program = Program { command: &command, stdin, files: &files, ..Program::default() };
        let outcome = self.run(&program)?;
        let whole = outcome.succeeded() && outcome.stdout.bytes.ends_with(stdin);
        Ok((outcome, whole))
    }
}

/// A word that nobody can guess. No outcome depends on which it is.
fn secret() -> String {
    let word = || RandomState::new().hash_one(());
    format!("{:016x}{:016x}", word(), word())
}
