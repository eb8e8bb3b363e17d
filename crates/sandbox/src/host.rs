//! What callers use: a sandbox that was checked once and runs programs one by one or side by side.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::SandboxError;
use crate::link::Link;
use crate::program::{Ended, Limits, Outcome, Program, Stream, check_name};
use crate::wire::{Kind, Report, Request, decode_file};

/// What building the walls and ending everything may take beyond the wall time.
const SLACK: Duration = Duration::from_secs(10);
/// What looking whether the walls stand may take at least.
const PROBE: Duration = Duration::from_secs(10);
/// Bytes that pass the pipes in a millisecond at least; a machine at rest moves many times as many.
const PACE: u64 = 20_000;
/// What a frame holds beside files and names: a piece of a stream, a message.
const FRAME_BYTES: u64 = 1 << 17;
/// One argument, with its end: the kernel's MAX_ARG_STRLEN, in pages of 4096 bytes.
const ARGUMENT_BYTES: u64 = 32 << 12;
/// All arguments and variables: the kernel takes a quarter of the stack, 2 MiB.
const ARGUMENTS_BYTES: u64 = 1 << 20;
/// Names in a folder to be shown that are looked at for pipes: a tenth of a second.
const NAMES: usize = 100_000;

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
    /// Errors: a limit that nothing could run in; a helper that cannot be started; a [`crate::Wall`]
    /// that this machine does not offer, in which case nothing is ever run with less.
    pub fn new(helper: Helper, limits: Limits) -> Result<Sandbox, SandboxError> {
        limits.check()?;
        // Whether they stand is not a matter of the program's time.
        let (wall, cpu) = (limits.wall.max(PROBE), limits.cpu.max(PROBE));
        let patient = Limits { wall, cpu, ..limits.clone() };
        let probe = Sandbox { helper, limits: patient, readable: vec![] };
        let outcome = probe.run(&Program { command: &["true"], ..Program::default() })?;
        match outcome.ended {
            Ended::Exited(0) => Ok(Sandbox { limits, ..probe }),
            ended => Err(SandboxError::Lost { told: format!("`true` ended with {ended:?}") }),
        }
    }

    /// The same sandbox, with these folders of the machine readable under their own names. Below
    /// `/proc`, `/dev`, `/tmp`, `/work` and `/etc` nothing can be shown. A program that sees one may
    /// make pairs of sockets alone: a server may listen in there.
    ///
    /// Errors: a path that is not absolute, not a folder, not its real path (by way of a link), or
    /// not one that can be shown; a named pipe in it, as far as it is looked through.
    pub fn with_readable(mut self, folders: &[&str]) -> Result<Sandbox, SandboxError> {
        let own =
            ["/", "/proc", "/dev", "/tmp", "/work", "/etc", "/usr", "/scratch"].map(Path::new);
        for folder in folders {
            let path = Path::new(folder);
            let taken = own[1..].iter().any(|own| path.starts_with(own)) || path == own[0];
            let expected = match path.canonicalize() {
                Ok(real) if real == path && real.is_dir() && !taken => match pipe_below(path) {
                    Some(pipe) => format!("one without named pipes; it holds {}", pipe.display()),
                    None => {
                        self.readable.push(real.display().to_string());
                        continue;
                    }
                },
                Ok(real) if real != path => format!("its real path, {}", real.display()),
                Ok(_) | Err(_) => "the absolute path of a folder outside /usr, /etc, /tmp, /work, \
                                   /proc and /dev"
                    .to_owned(),
            };
            let (what, got) = ("a readable folder", format!("{folder:?}"));
            return Err(SandboxError::Value { what, got, expected });
        }
        // Those above come first, and hold those below.
        self.readable.sort_by(|a, b| Path::new(a).cmp(Path::new(b)));
        self.readable.dedup_by(|below, above| Path::new(below).starts_with(&*above));
        Ok(self)
    }

    /// The same sandbox with other limits. Errors: one that nothing could run in.
    pub fn within(mut self, limits: Limits) -> Result<Sandbox, SandboxError> {
        limits.check()?;
        self.limits = limits;
        Ok(self)
    }

    /// The limits that programs run in.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs a program and waits for its end; nothing of it is left when this returns.
    ///
    /// Errors: names that lead out of the folder, files beyond the limits, a program that is not
    /// there or cannot be run, a wall that has gone. A program that fails or is killed is an
    /// [`Outcome`].
    pub fn run(&self, program: &Program<'_>) -> Result<Outcome, SandboxError> {
        let request = self.request(program, false)?;
        let bytes = request.encode();
        let mut link = Link::open(&self.helper, self.frame_bytes())?;
        let moved = (bytes.len() as u64).saturating_add(self.limits.disk_bytes);
        let until = Instant::now() + self.limits.wall + SLACK + Duration::from_millis(moved / PACE);
        link.send(Kind::Request, &bytes, until)?;
        let (mut stdout, mut stderr) = (Stream::default(), Stream::default());
        let mut files = Vec::new();
        let garbled = |what| SandboxError::Garbled { what };
        while let Some((kind, body)) = link.receive(until)? {
            match kind {
                Kind::Ready => {}
                Kind::Stdout => stdout.take(&body, self.limits.output_bytes),
                Kind::Stderr => stderr.take(&body, self.limits.output_bytes),
                Kind::File => {
                    let (name, found) = decode_file(&body).map_err(garbled)?;
                    if request.collect.get(files.len()) != Some(&name) {
                        return Err(garbled(format!("the file {name:?}, which is not its turn")));
                    }
                    files.push((name, found));
                }
                Kind::Ended if files.len() < request.collect.len() => {
                    return Err(garbled(format!("{} files and no more", files.len())));
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
        Err(SandboxError::Lost { told: "its time is over".to_owned() })
    }

    /// The longest frame that a keeper has reason to send: a file, or the names of all.
    pub(crate) fn frame_bytes(&self) -> u64 {
        let names = (u64::from(self.limits.files) + 8) * 4096;
        self.limits.disk_bytes.max(names) + FRAME_BYTES
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
        let pairs = program.environment.iter().map(|(name, value)| name.len() + 1 + value.len());
        let sizes = program.command.iter().map(|text| text.len()).chain(pairs);
        let sizes = sizes.map(|bytes| bytes as u64 + 1); // each ends in a zero
        let longest = sizes.clone().max().unwrap_or(0);
        if longest > ARGUMENT_BYTES {
            let most = format!("at most {ARGUMENT_BYTES}");
            return value("the bytes of an argument or variable", longest.to_string(), &most);
        }
        let sum: u64 = sizes.map(|bytes| bytes + 8).sum(); // and takes a pointer
        if sum > ARGUMENTS_BYTES {
            let most = format!("at most {ARGUMENTS_BYTES}");
            return value("the bytes of all arguments and variables", sum.to_string(), &most);
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

/// A named pipe among the first names below a folder: neither a read-only mount nor Landlock keeps a program from reading
/// what was written for another. What cannot be listed cannot be opened inside either.
fn pipe_below(folder: &Path) -> Option<PathBuf> {
    let mut open = vec![folder.to_owned()];
    let mut left = NAMES;
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            left = left.checked_sub(1)?;
            match entry.file_type() {
                Ok(kind) if kind.is_fifo() => return Some(entry.path()),
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Ended, Found};
    use crate::wire::{encode_file, frame};

    /// What comes of a keeper that says this, whatever it is asked.
    fn told(frames: &[Vec<u8>]) -> Result<Outcome, SandboxError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames");
        fs::write(&path, frames.concat()).unwrap();
        let arguments = ["-c".into(), format!("cat '{}'", path.display()).into()].to_vec();
        let helper = Helper { program: "/bin/sh".into(), arguments };
        let sandbox = Sandbox { helper, limits: Limits::USUAL, readable: vec![] };
        sandbox.run(&Program { command: &["true"], collect: &["a", "b"], ..Program::default() })
    }

    #[test]
    fn a_keeper_is_taken_at_nothing_but_what_was_asked() {
        let file = |name: &str| frame(Kind::File, &encode_file(name, &Found::Missing));
        let (wall, cpu) = (Duration::ZERO, Duration::ZERO);
        let report = Report { ended: Ended::Exited(0), wall, cpu, dropped: [0, 0] };
        let end = frame(Kind::Ended, &report.encode());
        assert!(told(&[file("a"), file("b"), end.clone()]).unwrap().succeeded());
        let long = vec![b'x'; (Limits::USUAL.disk_bytes + FRAME_BYTES + 1) as usize];
        for wrong in [
            vec![file("a"), file("../b"), end.clone()],
            vec![file("b"), file("a"), end.clone()],
            vec![file("a"), file("b"), file("b"), end.clone()],
            vec![file("a"), end.clone()],
            vec![frame(Kind::Stdout, &long), end],
        ] {
            let result = told(&wrong);
            assert!(matches!(result, Err(SandboxError::Garbled { .. })), "{result:?}");
        }
    }
}
