//! What is run, within which limits, and what came of it.

use std::time::Duration;

use crate::error::SandboxError;

/// How much a program may take. All its processes together, where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time on the wall until everything is killed; in a session, of one call.
    pub wall: Duration,
    /// Processor time; in a session, of its whole life.
    pub cpu: Duration,
    /// Memory. No process may map more; the sum of what they hold is looked at every
    /// [`Limits::LOOK`], and beyond it all are killed.
    pub memory_bytes: u64,
    /// Processes and threads at a time.
    pub processes: u32,
    /// Files in its scratch folders, which lie in memory and come on top of `memory_bytes`.
    pub disk_bytes: u64,
    /// Files and folders there, counted.
    pub files: u32,
    /// What is kept of standard output, and as much of standard error; the rest is counted.
    pub output_bytes: u64,
}

impl Limits {
    /// Enough for a unit test or a sum, little enough for a laptop that runs several.
    pub const USUAL: Limits = Limits {
        wall: Duration::from_secs(10),
        cpu: Duration::from_secs(10),
        memory_bytes: 512 << 20,
        processes: 32,
        disk_bytes: 64 << 20,
        files: 1024,
        output_bytes: 1 << 20,
    };

    /// How often memory and processor time are looked at. Two cores fill some 4 GB/s: the sum may
    /// overshoot by 80 MB in between.
    pub const LOOK: Duration = Duration::from_millis(20);

    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        let within = |what, got: u64, least: u64, most: u64| match (least..=most).contains(&got) {
            true => Ok(()),
            false => {
                let expected = format!("{least} to {most}");
                Err(SandboxError::Value { what, got: got.to_string(), expected })
            }
        };
        let day = 24 * 3600 * 1000;
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        within("the wall time in ms", millis(self.wall), 1, 7 * day)?;
        within("the processor time in ms", millis(self.cpu), 1, 7 * day)?;
        within("the memory in bytes", self.memory_bytes, 16 << 20, 1 << 50)?;
        within("the number of processes", self.processes.into(), 1, 1 << 15)?;
        within("the bytes of files", self.disk_bytes, 1 << 12, 1 << 40)?;
        within("the number of files", self.files.into(), 1, 1 << 24)?;
        within("the bytes of output", self.output_bytes, 0, 1 << 30)
    }
}

/// A program, what it finds in its folder, and what is wanted back.
#[derive(Clone, Debug, Default)]
pub struct Program<'a> {
    /// Its name or path and its arguments. Names are looked up in `/usr/local/bin`, `/usr/bin`,
    /// `/bin`, `/usr/sbin` and `/sbin`.
    pub command: &'a [&'a str],
    /// What it reads on standard input.
    pub stdin: &'a [u8],
    /// Variables of its environment, beside `PATH`, `HOME`, `TMPDIR`, `LANG`, and one thread for
    /// OpenMP and OpenBLAS.
    pub environment: &'a [(&'a str, &'a str)],
    /// Files of its folder `/work`: relative names, with `/` between folders, and their bytes.
    pub files: &'a [(&'a str, &'a [u8])],
    /// Names of files that are wanted back.
    pub collect: &'a [&'a str],
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Killed at the limit of time on the wall.
    WallTime,
    /// Killed at the limit of processor time.
    CpuTime,
    /// Killed at the limit of memory.
    Memory,
}

/// What was written to one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The first bytes of it.
    pub bytes: Vec<u8>,
    /// Bytes that came after them and were dropped.
    pub dropped: u64,
}

impl Stream {
    /// The bytes as text; what is not UTF-8 becomes U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn take(&mut self, bytes: &[u8], most: u64) {
        let room = most.saturating_sub(self.bytes.len() as u64).min(bytes.len() as u64) as usize;
        self.bytes.extend_from_slice(&bytes[..room]);
        self.dropped += (bytes.len() - room) as u64;
    }
}

/// What was found under a name that was wanted back. Links are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file.
    Bytes(Vec<u8>),
    /// Nothing.
    Missing,
    /// A folder, a link, a pipe: no file.
    NotAFile,
    /// A file beyond what `disk_bytes` lets all collected files hold.
    TooLarge,
}

/// What came of a program. None of it is to be trusted.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote to standard output.
    pub stdout: Stream,
    /// What it wrote to standard error.
    pub stderr: Stream,
    /// Each name that was wanted back, in that order.
    pub files: Vec<(String, Found)>,
    /// Time on the wall.
    pub wall: Duration,
    /// Processor time of all its processes.
    pub cpu: Duration,
}

impl Outcome {
    /// Whether it ended by itself with code 0.
    pub fn succeeded(&self) -> bool {
        self.ended == Ended::Exited(0)
    }
}

/// Refuses what could leave the folder.
pub(crate) fn check_name(name: &str) -> Result<(), SandboxError> {
    let fault = |reason| Err(SandboxError::Name { name: name.to_owned(), reason });
    if name.len() > 4000 {
        return fault("it is longer than 4000 bytes");
    }
    if name.contains('\0') {
        return fault("it holds a zero byte");
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > 255) {
        return fault("parts are not empty, not `.` or `..`, and at most 255 bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "a/b.txt", "..a", "new\nline", "ü"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn limits_that_nothing_could_run_in_are_refused() {
        assert!(Limits::USUAL.check().is_ok());
        assert!(Limits { processes: 0, ..Limits::USUAL }.check().is_err());
        assert!(Limits { memory_bytes: 1, ..Limits::USUAL }.check().is_err());
        assert!(Limits { wall: Duration::MAX, ..Limits::USUAL }.check().is_err());
    }

    #[test]
    fn a_stream_keeps_the_first_bytes_and_counts_the_rest() {
        let mut stream = Stream::default();
        stream.take(b"abc", 4);
        stream.take(b"def", 4);
        assert_eq!(stream, Stream { bytes: b"abcd".to_vec(), dropped: 2 });
    }
}
