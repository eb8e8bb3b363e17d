//! The caller's end of the pipes to the keeper.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::SandboxError;
use crate::host::Helper;
use crate::inside::FIRST;
use crate::wire::{Kind, decode_wall, frame, take_frame};

/// How long the helper may take to end once it was told to.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is read at once.
const PIECE: usize = 1 << 16;

/// A running helper. When it is dropped, the helper and all behind it are gone.
pub struct Link {
    child: Child,
    to: Option<ChildStdin>,
    from: ChildStdout,
    inbox: Vec<u8>,
}

impl Link {
    /// Starts the helper, without anything of the caller's environment.
    pub fn open(helper: &Helper) -> Result<Link, SandboxError> {
        let mut child = Command::new(&helper.program)
            .args(&helper.arguments)
            .arg(FIRST)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| SandboxError::Helper { path: helper.program.clone(), source })?;
        let to = child.stdin.take();
        let from = child.stdout.take().expect("it was piped");
        Ok(Link { child, to, from, inbox: Vec::new() })
    }

    /// Sends a frame. The keeper always reads, so this does not wait for the program. That it has
    /// ended is no error here: what it said before is still to be read.
    pub fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), SandboxError> {
        let to = self.to.as_mut().expect("it is open until the link is dropped");
        match to.write_all(&frame(kind, body)) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(SandboxError::Lost { told: error.to_string() })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The next frame; nothing if none has come by `until`. A frame that tells of a missing wall or
    /// program is the error that it names.
    pub fn receive(&mut self, until: Instant) -> Result<Option<(Kind, Vec<u8>)>, SandboxError> {
        loop {
            let garbled = |what| SandboxError::Garbled { what };
            match take_frame(&mut self.inbox).map_err(garbled)? {
                Some((Kind::NoWall, body)) => {
                    let (wall, detail) = decode_wall(&body).map_err(garbled)?;
                    return Err(SandboxError::Wall { wall, detail });
                }
                Some((Kind::NotFound, body)) => {
                    let name = String::from_utf8_lossy(&body).into_owned();
                    return Err(SandboxError::NotFound { name });
                }
                Some(other) => return Ok(Some(other)),
                None => {}
            }
            match self.read_until(until) {
                Ok(Some(0)) => {
                    let told = format!("{} bytes of a report had come", self.inbox.len());
                    return Err(SandboxError::Lost { told });
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(error) => return Err(SandboxError::Lost { told: error.to_string() }),
            }
        }
    }

    /// Reads some bytes; 0 at the end, nothing if none came by `until`.
    fn read_until(&mut self, until: Instant) -> Result<Option<usize>, Errno> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if Instant::now() >= until => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error),
            }
            let mut piece = vec![0; PIECE];
            match nix::unistd::read(&self.from, &mut piece) {
                Ok(n) => {
                    self.inbox.extend_from_slice(&piece[..n]);
                    return Ok(Some(n));
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Link {
    /// Hangs up. The keeper ends at that, and the kernel kills all that it kept; the first stage
    /// ends after it. The end of their pipe says that both are gone.
    fn drop(&mut self) {
        self.to = None;
        let until = Instant::now() + FAREWELL;
        loop {
            match self.read_until(until) {
                Ok(Some(0)) => break,
                Ok(Some(_)) => self.inbox.clear(),
                Ok(None) | Err(_) => {
                    let _ = self.child.kill(); // the keeper dies with it
                    break;
                }
            }
        }
        let _ = self.child.wait(); // it was started, so there is one to wait for
    }
}
