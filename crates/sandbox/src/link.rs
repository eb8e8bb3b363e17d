//! The caller's end of the pipes to the keeper.

use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
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
    most: u64,
}

impl Link {
    /// Starts the helper, without anything of the caller's environment. No frame of more than `most`
    /// bytes is taken from it.
    pub fn open(helper: &Helper, most: u64) -> Result<Link, SandboxError> {
        let fault = |source| SandboxError::Helper { path: helper.program.clone(), source };
        let mut child = Command::new(&helper.program)
            .args(&helper.arguments)
            .arg(FIRST)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fault)?;
        let to = child.stdin.take().expect("it was piped");
        let from = child.stdout.take().expect("it was piped");
        let set = fcntl(&to, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        let link = Link { child, to: Some(to), from, inbox: Vec::new(), most };
        set.map(|_| link).map_err(|errno| fault(errno.into()))
    }

    /// Sends a frame. The keeper always reads, so this does not wait for the program, and not beyond
    /// `until` for a keeper that is stuck. That it has ended is no error here: what it said before is
    /// still to be read.
    pub fn send(&mut self, kind: Kind, body: &[u8], until: Instant) -> Result<(), SandboxError> {
        let lost = |told: String| Err(SandboxError::Lost { told });
        let to = self.to.as_ref().expect("it is open until the link is dropped");
        let bytes = frame(kind, body);
        let mut left = &bytes[..];
        while !left.is_empty() {
            match nix::unistd::write(to, left) {
                Ok(n) => left = &left[n..],
                Err(Errno::EPIPE) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                    match ready(&mut fds, until) {
                        Ok(true) => {}
                        Ok(false) => return lost(format!("it did not take a {kind:?}")),
                        Err(error) => return lost(error.to_string()),
                    }
                }
                Err(error) => return lost(error.to_string()),
            }
        }
        Ok(())
    }

    /// The next frame; nothing if none has come by `until`. A frame that tells of a missing wall or
    /// program, or of what cannot be done, is the error that it names.
    pub fn receive(&mut self, until: Instant) -> Result<Option<(Kind, Vec<u8>)>, SandboxError> {
        loop {
            let garbled = |what| SandboxError::Garbled { what };
            match take_frame(&mut self.inbox, self.most).map_err(garbled)? {
                Some((Kind::NoWall, body)) => {
                    let (wall, detail) = decode_wall(&body).map_err(garbled)?;
                    return Err(SandboxError::Wall { wall, detail });
                }
                Some((Kind::NotFound, body)) => {
                    let name = String::from_utf8_lossy(&body).into_owned();
                    return Err(SandboxError::NotFound { name });
                }
                Some((Kind::Refused, body)) => {
                    let what = String::from_utf8_lossy(&body).into_owned();
                    return Err(SandboxError::Refused { what });
                }
                Some(other) => return Ok(Some(other)),
                None => {}
            }
            match self.read_until(until) {
                Ok(Some(0)) => {
                    let told = format!("it ended, {} bytes of a frame had come", self.inbox.len());
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
            let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            if !ready(&mut fds, until)? {
                return Ok(None);
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

/// Waits until one of them is ready; false if none is by `until`.
fn ready(fds: &mut [PollFd<'_>], until: Instant) -> Result<bool, Errno> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        match poll(fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if Instant::now() >= until => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
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
