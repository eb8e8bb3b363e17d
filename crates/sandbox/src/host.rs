//! What callers use: a sandbox that was checked once and runs programs one by one or side by side.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{SandboxError, Wall};
use crate::link::Link;
use crate::program::{Ended, Limits, Outcome, Program, Stream, check_name};
use crate::wire::{Kind, Report, Request, decode_file};

/// What building the walls and ending everything may take beyond the wall time.
const SLACK: Duration = Duration::from_secs(10);

/// The executable that the inner stages run in: one that calls [`crate::inside::enter`] when it is
/// started with these arguments and the stage's name. Every user must be able to read and run it
/// when the caller is root, since root becomes nobody first.
#[derive(Clone, Debug)]
pub struct Helper {
    /// Its path.
    pub program: PathBuf,
    /// What stands before the stage's name.
    pub arguments: Vec<OsString>,
}

impl Helper {
    /// The running program, which looks at [`crate::inside::asked`] first of all.
    ///
    /// Fails if the path of the running program cannot be had.
    pub fn this_program() -> Result<Helper, SandboxError> {
        let program = std::env::current_exe().map_err(|source| SandboxError::Helper {
            path: PathBuf::from("/proc/self/exe"),
            source,
        })?;
        Ok(Helper { program, arguments: vec![] })
    }
}

/// Runs programs behind walls. It holds nothing open, and may be shared by threads.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub(crate) helper: Helper,
    pub(crate) limits: Limits,
    pub(crate) readable: Vec<String>,
}

impl Sandbox {
    /// A sandbox whose walls were all seen to stand, by a program that did nothing.
    ///
    /// Errors: a limit that nothing could run in; a helper that cannot be started; a [`Wall`] that
    /// this machine does not offer, in which case nothing is ever run with less.
    pub fn new(helper: Helper, limits: Limits) -> Result<Sandbox, SandboxError> {
        limits.check()?;
        let sandbox = Sandbox { helper, limits, readable: vec![] };
        let outcome = sandbox.run(&Program { command: &["true"], ..Program::default() })?;
        match outcome.ended {
            Ended::Exited(0) => Ok(sandbox),
            // `true` says nothing: what is there was said by the last stage.
            _ => Err(last_stage(&outcome)),
        }
    }

    /// The same sandbox, with these folders of the machine readable under their own names. Below
    /// `/proc`, `/dev`, `/tmp`, `/work` and `/etc` nothing can be shown.
    ///
    /// Errors: a path that is not absolute, not a folder, or not one that can be shown.
    pub fn with_readable(mut self, folders: &[&str]) -> Result<Sandbox, SandboxError> {
        for folder in folders {
            let path = PathBuf::from(folder);
            let plain = folder.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
            let own = ["/proc", "/dev", "/tmp", "/work", "/etc", "/usr", "/scratch"];
            let taken = own.iter().any(|own| path.starts_with(own));
            if !folder.starts_with('/') || !plain || taken || !path.is_dir() {
                let expected = "the absolute path of a folder outside /usr, /etc, /tmp, /work, \
                                /proc and /dev";
                let (what, got) = ("a readable folder", format!("{folder:?}"));
                return Err(SandboxError::Value { what, got, expected: expected.to_owned() });
            }
            self.readable.push((*folder).to_owned());
        }
        Ok(self)
    }

    /// The limits that programs run in.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs a program and waits for its end; nothing of it is left when this returns.
    ///
    /// Errors: names that lead out of the folder, files beyond the limits, a program that is not
    /// there, a wall that has gone. A program that fails or is killed is an [`Outcome`].
    pub fn run(&self, program: &Program<'_>) -> Result<Outcome, SandboxError> {
        let request = self.request(program, false)?;
        let mut link = Link::open(&self.helper)?;
        let began = Instant::now();
        let until = began + self.limits.wall + SLACK;
        link.send(Kind::Request, &request.encode())?;
        let (mut stdout, mut stderr) = (Stream::default(), Stream::default());
        let mut files = Vec::new();
        let garbled = |what| SandboxError::Garbled { what };
        while let Some((kind, body)) = link.receive(until)? {
            match kind {
                Kind::Ready => {}
                Kind::Stdout => stdout.take(&body, self.limits.output_bytes),
                Kind::Stderr => stderr.take(&body, self.limits.output_bytes),
                Kind::File if files.len() < request.collect.len() => {
                    files.push(decode_file(&body).map_err(garbled)?);
                }
                Kind::Ended => {
                    let Report { ended, wall, cpu, dropped } =
                        Report::decode(&body).map_err(garbled)?;
                    stdout.dropped += dropped[0];
                    stderr.dropped += dropped[1];
                    return Ok(Outcome { ended, stdout, stderr, files, wall, cpu });
                }
                other => return Err(garbled(format!("a frame of kind {other:?}"))),
            }
        }
        // The keeper should have ended it. The link kills whatever is left.
        let (wall, cpu) = (began.elapsed(), Duration::ZERO);
        Ok(Outcome { ended: Ended::WallTime, stdout, stderr, files: vec![], wall, cpu })
    }

    /// What the keeper is told, checked.
    pub(crate) fn request(
        &self,
        program: &Program<'_>,
        open: bool,
    ) -> Result<Request, SandboxError> {
        let value = |what, got: String, expected: &str| {
            Err(SandboxError::Value { what, got, expected: expected.to_owned() })
        };
        if program.command.is_empty() {
            return value("the command", "empty".to_owned(), "a program and its arguments");
        }
        let names = program.environment.iter().map(|(name, _)| *name);
        let texts = program.environment.iter().map(|(_, value)| *value);
        let zero = |text: &&str| text.contains('\0');
        let bad = names.clone().find(|name| name.is_empty() || name.contains('='));
        let cut = program.command.iter().copied().chain(names).chain(texts).find(zero);
        if let Some(text) = bad.or(cut) {
            return value("an argument or variable", format!("{text:?}"), "a text without zeros");
        }
        for name in program.files.iter().map(|(name, _)| name).chain(program.collect) {
            check_name(name)?;
        }
        let bytes: u64 = program.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        if bytes > self.limits.disk_bytes {
            let most = format!("at most {}", self.limits.disk_bytes);
            return value("the files' size in bytes", bytes.to_string(), &most);
        }
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Ok(Request {
            command: owned(program.command),
            stdin: program.stdin.to_vec(),
            open,
            environment: program.environment.iter().map(pair).collect(),
            files: program.files.iter().map(|(n, b)| ((*n).to_owned(), b.to_vec())).collect(),
            collect: owned(program.collect),
            readable: self.readable.clone(),
            limits: self.limits.clone(),
        })
    }
}

/// The wall of which the last stage said that it does not stand.
fn last_stage(outcome: &Outcome) -> SandboxError {
    let told = outcome.stderr.text();
    let told = told.trim().strip_prefix("sandbox: ").unwrap_or(told.trim());
    let wall = Wall::ALL.into_iter().find(|wall| told.starts_with(wall.name()));
    match wall {
        Some(wall) => {
            let detail = told[wall.name().len()..].trim_start_matches(": ").to_owned();
            SandboxError::Wall { wall, detail }
        }
        None => SandboxError::Lost { told: format!("`true` ended with {:?}", outcome.ended) },
    }
}
