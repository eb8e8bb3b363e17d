//! A Python that remembers: code by code, in one interpreter, behind the same walls.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::SandboxError;
use crate::host::Sandbox;
use crate::link::Link;
use crate::program::{Found, Program, Stream, check_name};
use crate::python::Python;
use crate::wire::{Kind, Report, decode_file, decode_names};

/// Reads a line, runs it, writes a line; see there.
const DRIVER: &str = include_str!("driver.py");
/// How long code may take to stop after SIGINT before all is killed.
const GRACE: Duration = Duration::from_secs(1);
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
    link: Link,
    limits: crate::program::Limits,
    /// Bytes of an answer that is not whole yet.
    line: Vec<u8>,
    over: Option<String>,
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
        let mut link = Link::open(&sandbox.helper)?;
        link.send(Kind::Request, &sandbox.request(&program, true)?.encode())?;
        let limits = sandbox.limits.clone();
        let mut session = Session { link, limits, line: vec![], over: None };
        // The first answer says that the interpreter is up; what it takes is not the code's time.
        match session.ask("None", Instant::now() + START)? {
            Some(_) => Ok(session),
            None => Err(SandboxError::Lost { told: "the interpreter did not start".to_owned() }),
        }
    }

    /// Runs a piece of code. At the limit of time it is interrupted, as by Ctrl-C; if it goes on
    /// nevertheless, all is killed.
    ///
    /// Errors: [`SandboxError::Over`] if the session has ended, now or before.
    pub fn execute(&mut self, code: &str) -> Result<Answer, SandboxError> {
        if let Some(why) = &self.over {
            return Err(SandboxError::Over { why: why.clone() });
        }
        if let Some(answer) = self.ask(code, Instant::now() + self.limits.wall)? {
            return Ok(answer);
        }
        self.link.send(Kind::Interrupt, &[])?;
        match self.answer(Instant::now() + GRACE)? {
            Some(answer) => Ok(Answer { interrupted: true, ..answer }),
            None => Err(self.end("the code ran beyond its time and did not stop".to_owned())),
        }
    }

    /// The files of its folder with their sizes, by name.
    ///
    /// Errors: [`SandboxError::Over`] if the session has ended.
    pub fn files(&mut self) -> Result<Vec<(String, u64)>, SandboxError> {
        let body = self.about_files(Kind::List, &[], Kind::Names)?;
        decode_names(&body).map_err(|what| SandboxError::Garbled { what })
    }

    /// What lies under a name in its folder.
    ///
    /// Errors: a name that leads out of it; [`SandboxError::Over`] if the session has ended.
    pub fn file(&mut self, name: &str) -> Result<Found, SandboxError> {
        check_name(name)?;
        let body = self.about_files(Kind::Fetch, name.as_bytes(), Kind::File)?;
        let (_, found) = decode_file(&body).map_err(|what| SandboxError::Garbled { what })?;
        Ok(found)
    }

    /// Ends it and all that it started, as dropping it does.
    pub fn close(self) {}

    fn ask(&mut self, code: &str, until: Instant) -> Result<Option<Answer>, SandboxError> {
        let mut line = Value::from(code).to_string();
        line.push('\n');
        self.link.send(Kind::Input, line.as_bytes())?;
        self.answer(until)
    }

    /// The next answer; nothing if none has come by `until`.
    fn answer(&mut self, until: Instant) -> Result<Option<Answer>, SandboxError> {
        // Six bytes of JSON for one of text at worst, four texts.
        let most = 24 * self.limits.output_bytes as usize + 4096;
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return match read(&line, self.limits.output_bytes) {
                    Some(answer) => Ok(Some(answer)),
                    None => Err(self.end("it wrote an answer of its own".to_owned())),
                };
            }
            if self.line.len() > most {
                return Err(self.end("it wrote an answer without an end".to_owned()));
            }
            match self.link.receive(until)? {
                Some((Kind::Stdout, body)) => self.line.extend(body),
                Some((kind, body)) => self.other(kind, &body)?,
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
        if let Some(why) = &self.over {
            return Err(SandboxError::Over { why: why.clone() });
        }
        self.link.send(ask, body)?;
        let until = Instant::now() + FILES;
        loop {
            match self.link.receive(until)? {
                Some((kind, body)) if kind == wanted => return Ok(body),
                // Nobody has asked it anything: whatever it writes is no answer.
                Some((Kind::Stdout, _)) => {}
                Some((kind, body)) => self.other(kind, &body)?,
                None => return Err(self.end("its keeper does not answer".to_owned())),
            }
        }
    }

    /// Frames that may come at any time.
    fn other(&mut self, kind: Kind, body: &[u8]) -> Result<(), SandboxError> {
        match kind {
            Kind::Ready | Kind::Stderr => Ok(()),
            Kind::Ended => {
                let ended = Report::decode(body).map(|report| format!("{:?}", report.ended));
                let ended = ended.map_err(|what| SandboxError::Garbled { what })?;
                Err(self.end(format!("the interpreter ended: {ended}")))
            }
            other => Err(SandboxError::Garbled { what: format!("a frame of kind {other:?}") }),
        }
    }

    fn end(&mut self, why: String) -> SandboxError {
        self.over = Some(why.clone());
        SandboxError::Over { why }
    }
}

/// The answer in a line of the driver's, or of code that poses as the driver.
fn read(line: &[u8], most: u64) -> Option<Answer> {
    let value: Value = serde_json::from_slice(line).ok()?;
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
