//! A Python that remembers: code by code, in one interpreter, behind the same walls.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::SandboxError;
use crate::host::Sandbox;
use crate::link::Link;
use crate::program::{Found, Limits, Program, Stream, check_name};
use crate::python::Python;
use crate::wire::{Kind, Report, decode_file, decode_names};

/// Reads a line, runs it, writes a line; see there.
const DRIVER: &str = include_str!("driver.py");
/// How long code may take to stop after SIGINT before all is killed.
const GRACE: Duration = Duration::from_secs(3);
/// What building the walls and starting the interpreter may take.
const START: Duration = Duration::from_secs(30);
/// What the keeper may take to answer about files.
const FILES: Duration = Duration::from_secs(10);

/// What one piece of code did. None of it is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it wrote to standard output, from subprocesses as well.
    pub stdout: Stream,
    /// What it wrote to standard error.
    pub stderr: Stream,
    /// The `repr` of its last expression, if it ends in one that is not `None`.
    pub result: Option<String>,
    /// The traceback, if it failed.
    pub error: Option<String>,
    /// Whether it was interrupted at the limit of time; the state is still there.
    pub interrupted: bool,
}

/// An interpreter behind the walls. Dropping it kills it and all that it started.
pub struct Session {
    /// The interpreter; or why there is none any more.
    live: Result<Live, String>,
}

/// An interpreter that runs.
struct Live {
    link: Link,
    limits: Limits,
    /// Of the last request: an answer says which one it answers.
    number: u64,
    /// Bytes of an answer that is not whole yet.
    line: Vec<u8>,
}

impl Session {
    /// Starts an interpreter. `files` are put into its folder.
    ///
    /// The sandbox's wall time limits each call, its processor time the whole session.
    /// Errors: as [`Sandbox::run`].
    pub fn open(
        sandbox: &Sandbox,
        python: Python,
        files: &[(&str, &[u8])],
    ) -> Result<Session, SandboxError> {
        let most = sandbox.limits.output_bytes.to_string();
        let mut command = python.command();
        command.extend(["-c", DRIVER, &most]);
        let program = Program { command: &command, files, ..Program::default() };
        let request = sandbox.request(&program, true)?.encode();
        let mut link = Link::open(&sandbox.helper, sandbox.frame_bytes())?;
        let until = Instant::now() + START;
        link.send(Kind::Request, &request, until)?;
        let limits = sandbox.limits.clone();
        let mut live = Live { link, limits, number: 0, line: vec![] };
        // The first answer says that the interpreter is up; what it takes is not the code's time.
        match live.ask("None", until)? {
            Some(_) => Ok(Session { live: Ok(live) }),
            None => Err(SandboxError::Lost { told: "the interpreter did not start".to_owned() }),
        }
    }

    /// Runs a piece of code. At the limit of time it is interrupted, as by Ctrl-C; if it goes on
    /// nevertheless, all is killed.
    ///
    /// Errors: [`SandboxError::Over`] if the session has ended, now or before.
    pub fn execute(&mut self, code: &str) -> Result<Answer, SandboxError> {
        self.with(|live| live.execute(code))
    }

    /// The files of its folder with their sizes, by name. Names that [`Session::file`] refuses, or
    /// that are not UTF-8, are left out.
    ///
    /// Errors: [`SandboxError::Over`] if the session has ended.
    pub fn files(&mut self) -> Result<Vec<(String, u64)>, SandboxError> {
        self.with(|live| {
            let body = live.about_files(Kind::List, &[], Kind::Names)?;
            let names = decode_names(&body).map_err(garbled)?;
            match names.iter().find(|(name, _)| check_name(name).is_err()) {
                Some((name, _)) => Err(garbled(format!("the name {name:?}"))),
                None => Ok(names),
            }
        })
    }

    /// What lies under a name in its folder.
    ///
    /// Errors: a name that leads out of it; [`SandboxError::Over`] if the session has ended.
    pub fn file(&mut self, name: &str) -> Result<Found, SandboxError> {
        check_name(name)?;
        self.with(|live| {
            let body = live.about_files(Kind::Fetch, name.as_bytes(), Kind::File)?;
            let (got, found) = decode_file(&body).map_err(garbled)?;
            match got == name {
                true => Ok(found),
                false => Err(garbled(format!("the file {got:?}, which was not asked for"))),
            }
        })
    }

    /// Ends it and all that it started, as dropping it does.
    pub fn close(self) {}

    /// Asks the interpreter. After an error nothing it says can be matched to a question: it ends.
    fn with<T>(
        &mut self,
        ask: impl FnOnce(&mut Live) -> Result<T, SandboxError>,
    ) -> Result<T, SandboxError> {
        let live = self.live.as_mut().map_err(|why| SandboxError::Over { why: why.clone() })?;
        let answer = ask(live);
        if let Err(error) = &answer {
            self.live = Err(match error {
                SandboxError::Over { why } => why.clone(),
                other => other.to_string(),
            });
        }
        answer
    }
}

impl Live {
    fn execute(&mut self, code: &str) -> Result<Answer, SandboxError> {
        if let Some(answer) = self.ask(code, Instant::now() + self.limits.wall)? {
            return Ok(answer);
        }
        let until = Instant::now() + GRACE;
        self.link.send(Kind::Interrupt, &[], until)?;
        match self.answer(until)? {
            Some(answer) => Ok(Answer { interrupted: true, ..answer }),
            None => over("the code ran beyond its time and did not stop"),
        }
    }

    fn ask(&mut self, code: &str, until: Instant) -> Result<Option<Answer>, SandboxError> {
        self.number += 1;
        let line = format!("{}\n", json!([self.number, code]));
        self.link.send(Kind::Input, line.as_bytes(), until)?;
        self.answer(until)
    }

    /// The next answer; nothing if none has come by `until`.
    fn answer(&mut self, until: Instant) -> Result<Option<Answer>, SandboxError> {
        // Six bytes of JSON for one of text at worst, four texts.
        let most = 24 * self.limits.output_bytes as usize + 4096;
        let mut searched = 0;
        loop {
            if let Some(end) = self.line[searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=searched + end).collect();
                return match read(&line, self.number, self.limits.output_bytes) {
                    Some(answer) => Ok(Some(answer)),
                    None => over("it wrote an answer of its own"),
                };
            }
            searched = self.line.len();
            if searched > most {
                return over("it wrote an answer without an end");
            }
            match self.link.receive(until)? {
                Some((Kind::Stdout, body)) => self.line.extend(body),
                Some((kind, body)) => other(kind, &body)?,
                None => return Ok(None),
            }
        }
    }

    fn about_files(
        &mut self,
        ask: Kind,
        body: &[u8],
        wanted: Kind,
    ) -> Result<Vec<u8>, SandboxError> {
        let until = Instant::now() + FILES;
        self.link.send(ask, body, until)?;
        loop {
            match self.link.receive(until)? {
                Some((kind, body)) if kind == wanted => return Ok(body),
                // Nobody has asked it anything: whatever it writes is no answer.
                Some((Kind::Stdout, _)) => {}
                Some((kind, body)) => other(kind, &body)?,
                None => return over("its keeper does not answer"),
            }
        }
    }
}

/// Frames that may come at any time.
fn other(kind: Kind, body: &[u8]) -> Result<(), SandboxError> {
    match kind {
        Kind::Ready | Kind::Stderr => Ok(()),
        Kind::Ended => {
            let Report { ended, .. } = Report::decode(body).map_err(garbled)?;
            over(&format!("the interpreter ended: {ended:?}"))
        }
        other => Err(garbled(format!("a frame of kind {other:?}"))),
    }
}

fn over<T>(why: &str) -> Result<T, SandboxError> {
    Err(SandboxError::Over { why: why.to_owned() })
}

fn garbled(what: String) -> SandboxError {
    SandboxError::Garbled { what }
}

/// The answer to the request of that number, in a line of the driver's or of code that poses as it.
fn read(line: &[u8], number: u64, most: u64) -> Option<Answer> {
    let value: Value = serde_json::from_slice(line).ok()?;
    if value["number"].as_u64() != Some(number) {
        return None;
    }
    let stream = |name: &str, place: usize| {
        let mut stream = Stream::default();
        stream.take(value[name].as_str()?.as_bytes(), 3 * most); // U+FFFD takes three
        stream.dropped += value["dropped"][place].as_u64()?;
        Some(stream)
    };
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Some(Answer {
        stdout: stream("stdout", 0)?,
        stderr: stream("stderr", 1)?,
        result: text("result"),
        error: text("error"),
        interrupted: false,
    })
}
