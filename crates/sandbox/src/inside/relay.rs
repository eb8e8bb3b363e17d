//! The keeper while the program runs: passes its streams on, watches what it takes, kills all that is
//! left, and only then reads the files that are wanted back. It never waits for one side alone.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus, wait};

use super::collect;
use super::watch::{Watch, waited_for};
use crate::program::{Ended, Found, Limits};
use crate::wire::{Kind, Report, Request, encode_file, encode_names, frame, take_frame};

/// What may wait for the caller before the program's streams are left to fill.
const OUTBOX_BYTES: usize = 1 << 20;
/// What is read at once.
pub const PIECE: usize = 1 << 16;

fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A stream of the program: where it is read, until it ends, and what became of its bytes.
struct Tap {
    kind: Kind,
    from: Option<Box<dyn ReadFd>>,
    kept: u64,
    dropped: u64,
}

/// A pipe to read from.
trait ReadFd: Read + AsFd {}
impl<T: Read + AsFd> ReadFd for T {}

/// The program and its pipes.
pub struct Relay {
    limits: Limits,
    collect: Vec<String>,
    open: bool,
    program: i32,
    stdin: Option<ChildStdin>,
    /// Input that it has not taken yet.
    pending: VecDeque<u8>,
    taps: [Tap; 2],
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    watch: Watch,
    began: Instant,
    looked: Instant,
}

impl Relay {
    /// Of a program that has just started; `inbox` is what the caller said after the request.
    pub fn new(request: Request, mut child: Child, inbox: Vec<u8>) -> io::Result<Relay> {
        let stdin = child.stdin.take().expect("it was piped");
        let stdout = child.stdout.take().expect("it was piped");
        let stderr = child.stderr.take().expect("it was piped");
        let (caller, answers) = (io::stdin(), io::stdout());
        let all = [caller.as_fd(), answers.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        all.into_iter().try_for_each(nonblocking)?;
        let tap = |kind, from| Tap { kind, from: Some(from), kept: 0, dropped: 0 };
        Ok(Relay {
            limits: request.limits,
            collect: request.collect,
            open: request.open,
            program: child.id() as i32,
            stdin: Some(stdin),
            pending: request.stdin.into(),
            taps: [tap(Kind::Stdout, Box::new(stdout)), tap(Kind::Stderr, Box::new(stderr))],
            inbox,
            outbox: VecDeque::new(),
            watch: Watch::default(),
            began: Instant::now(),
            looked: Instant::now(),
        })
    }

    /// Runs until the program has ended, or been ended, and the caller knows.
    pub fn run(mut self, children: &SignalFd) -> io::Result<()> {
        let ended = loop {
            self.wait_for_something(children)?;
            if !self.hear()? {
                return Ok(()); // the caller has gone, and all ends with us
            }
            while matches!(children.read_signal(), Ok(Some(_))) {}
            let status = reap(self.program);
            self.feed();
            for place in 0..self.taps.len() {
                let _ = self.pour(place); // what is left comes in the next round
            }
            self.flush()?;
            if let Some(status) = status {
                break told(status);
            }
            if let Some(ended) = self.beyond() {
                break ended;
            }
        };
        self.finish(ended)
    }

    /// Sleeps until a pipe is ready, a child has ended, or it is time to look.
    fn wait_for_something(&self, children: &SignalFd) -> io::Result<()> {
        let (caller, answers) = (io::stdin(), io::stdout());
        let mut fds = vec![
            PollFd::new(caller.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        if !self.outbox.is_empty() {
            fds.push(PollFd::new(answers.as_fd(), PollFlags::POLLOUT));
        }
        if self.outbox.len() < OUTBOX_BYTES {
            let taps = self.taps.iter().filter_map(|tap| tap.from.as_ref());
            fds.extend(taps.map(|from| PollFd::new(from.as_fd(), PollFlags::POLLIN)));
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.pending.is_empty()) {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
        }
        let mut left = Limits::LOOK.saturating_sub(self.looked.elapsed());
        if !self.open {
            left = left.min(self.limits.wall.saturating_sub(self.began.elapsed()));
        }
        let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what the caller has said into the inbox; false when it has hung up.
    fn listen(&mut self) -> io::Result<bool> {
        let mut piece = vec![0; PIECE];
        loop {
            match nix::unistd::read(io::stdin(), &mut piece) {
                Ok(0) => return Ok(false),
                Ok(n) => self.inbox.extend_from_slice(&piece[..n]),
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Does what the caller says; false when it has hung up.
    fn hear(&mut self) -> io::Result<bool> {
        if !self.listen()? {
            return Ok(false);
        }
        while let Some((kind, body)) =
            take_frame(&mut self.inbox, u64::MAX).map_err(io::Error::other)?
        {
            let text = || String::from_utf8_lossy(&body).into_owned();
            match kind {
                Kind::Input => self.pending.extend(body),
                Kind::Interrupt => {
                    // The group that it leads, as a terminal would; it may have ended.
                    let _ = killpg(Pid::from_raw(self.program), Signal::SIGINT);
                }
                Kind::Fetch => {
                    let found = collect::get(&text(), self.limits.disk_bytes);
                    self.outbox.extend(frame(Kind::File, &encode_file(&text(), &found)));
                }
                Kind::List => {
                    self.outbox
                        .extend(frame(Kind::Names, &encode_names(&collect::list(&self.limits))));
                }
                Kind::Request
                | Kind::Ready
                | Kind::Stdout
                | Kind::Stderr
                | Kind::File
                | Kind::Names
                | Kind::Ended
                | Kind::NoWall
                | Kind::NotFound
                | Kind::Refused => {
                    return Err(io::Error::other(format!("{kind:?} from the caller")));
                }
            }
        }
        Ok(true)
    }

    /// Gives the program what it may take of its input, and then its end.
    fn feed(&mut self) {
        while let Some(stdin) = &mut self.stdin {
            if self.pending.is_empty() {
                if !self.open {
                    self.stdin = None;
                }
                return;
            }
            match stdin.write(self.pending.as_slices().0) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stdin = None, // it reads no more
            }
        }
        self.pending.clear();
    }

    /// Takes what a stream holds now, at most the outbox's worth, so that all get their turn; true
    /// if it may hold more.
    fn pour(&mut self, place: usize) -> bool {
        let tap = &mut self.taps[place];
        let most = if self.open { u64::MAX } else { self.limits.output_bytes };
        let mut piece = vec![0; PIECE];
        for _ in 0..16 {
            let Some(from) = &mut tap.from else { return false };
            if self.outbox.len() >= OUTBOX_BYTES {
                return true;
            }
            match from.read(&mut piece) {
                Ok(0) => tap.from = None,
                Ok(n) => {
                    let keep = (most - tap.kept).min(n as u64) as usize;
                    tap.kept += keep as u64;
                    tap.dropped += (n - keep) as u64;
                    if keep > 0 {
                        self.outbox.extend(frame(tap.kind, &piece[..keep]));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => tap.from = None,
            }
        }
        true
    }

    /// Gives the caller what it takes now.
    fn flush(&mut self) -> io::Result<()> {
        let answers = io::stdout(); // its descriptor alone: a buffer knows no "not now"
        while !self.outbox.is_empty() {
            match nix::unistd::write(&answers, self.outbox.as_slices().0) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The limit that is crossed, if one is.
    fn beyond(&mut self) -> Option<Ended> {
        if !self.open && self.began.elapsed() >= self.limits.wall {
            return Some(Ended::WallTime);
        }
        if self.looked.elapsed() < Limits::LOOK {
            return None;
        }
        let sum = self.watch.look();
        self.looked = Instant::now();
        if sum.memory_bytes > self.limits.memory_bytes {
            return Some(Ended::Memory);
        }
        (sum.cpu >= self.limits.cpu).then_some(Ended::CpuTime)
    }

    /// Kills all, takes what they left, and reports.
    fn finish(mut self, ended: Ended) -> io::Result<()> {
        let seen = self.watch.look().cpu;
        // One call for all of them: a process that is being killed cannot fork.
        while kill(Pid::from_raw(-1), Signal::SIGKILL).is_ok() {
            while let Ok(Some(_)) = wait(WaitOptions::empty()) {}
        }
        let wall = self.began.elapsed();
        let cpu = seen.max(waited_for());
        // Nobody writes any more: what is in the pipes is all there is. Their ends are not waited
        // for: one that was sent over a socket, and is still under way there, outlives us all.
        for place in 0..self.taps.len() {
            while self.pour(place) {
                self.flush_all()?;
            }
        }
        let mut left = self.limits.disk_bytes;
        for name in std::mem::take(&mut self.collect) {
            let found = collect::get(&name, left);
            if let Found::Bytes(bytes) = &found {
                left -= bytes.len() as u64;
            }
            self.outbox.extend(frame(Kind::File, &encode_file(&name, &found)));
            self.flush_all()?;
        }
        let dropped = [self.taps[0].dropped, self.taps[1].dropped];
        let report = Report { ended, wall, cpu, dropped };
        self.outbox.extend(frame(Kind::Ended, &report.encode()));
        self.flush_all()
    }

    /// Waits until the caller has taken all. What it says is read, so that it never waits for us, and
    /// passed over: there is no program any more. That it hangs up is an error.
    fn flush_all(&mut self) -> io::Result<()> {
        loop {
            self.flush()?;
            if self.outbox.is_empty() {
                return Ok(());
            }
            let (caller, answers) = (io::stdin(), io::stdout());
            let mut fds = [
                PollFd::new(caller.as_fd(), PollFlags::POLLIN),
                PollFd::new(answers.as_fd(), PollFlags::POLLOUT),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !self.listen()? {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.inbox.clear();
        }
    }
}

/// Waits for all that have ended; gives the status of `program` if it is among them.
fn reap(program: i32) -> Option<WaitStatus> {
    let mut status = None;
    while let Ok(Some((pid, ended))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == program {
            status = Some(ended);
        }
    }
    status
}

fn told(status: WaitStatus) -> Ended {
    match status.exit_status() {
        Some(code) => Ended::Exited(code),
        None => Ended::Signalled(status.terminating_signal().unwrap_or(0)),
    }
}
