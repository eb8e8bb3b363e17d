//! How work that asks is written: from top to bottom, as if every answer were there.
//!
//! A piece of work is a function of its item and of answers. It is run from its start; where an answer is not in the log yet
//! it ends with [`Halt::Waits`], and is run again when the answer is there. So many items wait side by side, and taking up a run that
//! was killed is nothing else.

use crate::error::TrainError;
use crate::writer::log::{Id, Log};
use crate::writer::prompts::Prompts;
use crate::writer::settings::AskConfig;
use crate::writer::{Question, Said, SaidEnd, Writer};
use herd_codec::chat::{Message, Role};
use herd_data::Hash;
use herd_sandbox::{Ended, Program, Sandbox, SandboxError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

/// Why work ended without a result.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Answers are to come.
    Waits,
    /// The item is no good.
    Rejected(Rejected),
    /// Nothing can go on.
    Failed(TrainError),
}

impl<E: Into<TrainError>> From<E> for Halt {
    fn from(error: E) -> Halt {
        Halt::Failed(error.into())
    }
}

/// Where, why and how an item fell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    pub step: &'static str,
    pub reason: String,
    /// What was at fault.
    pub what: Value,
}

/// The result of work, or why there is none.
pub(crate) type Made<T> = Result<T, Halt>;

/// Rejects an item at a step.
pub(crate) fn reject<T>(
    step: &'static str,
    reason: impl Into<String>,
    what: impl Into<Value>,
) -> Made<T> {
    Err(Halt::Rejected(Rejected { step, reason: reason.into(), what: what.into() }))
}

/// What all work of a run shares.
pub(crate) struct Room<'a> {
    pub prompts: &'a Prompts,
    pub ask: &'a AskConfig,
    pub seed: u64,
    /// Names the writer and its weights in the log: answers of another are not its own.
    pub writer: &'a str,
    /// Names who gives verdicts; the writer's name where it judges itself.
    pub judge: &'a str,
    /// Where programs run.
    pub sandbox: Option<Sandbox>,
}

/// A question in the making.
pub(crate) struct Ask {
    pub step: &'static str,
    /// What its template names.
    pub with: Value,
    /// Answers wanted.
    pub n: usize,
    /// Whether verdicts are wanted, of the judge: one is its likeliest answer, several are drawn.
    pub judges: bool,
}

impl Ask {
    /// One answer to a step's template.
    pub fn one(step: &'static str, with: Value) -> Ask {
        Ask { step, with, n: 1, judges: false }
    }

    /// One verdict.
    pub fn verdict(step: &'static str, with: Value) -> Ask {
        Ask { judges: true, ..Ask::one(step, with) }
    }
}

/// What came of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ran {
    /// `exit N`, `signal N`, `time` or `memory`.
    pub ended: String,
    pub stdout: String,
    pub stderr: String,
    /// Bytes of both that came after what is kept.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub dropped: [u64; 2],
    /// Whether standard output was no UTF-8: then other bytes may read the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub garbled: bool,
}

fn is_nothing(dropped: &[u64; 2]) -> bool {
    *dropped == [0, 0]
}

impl Ran {
    /// Why `stdout` is not all that the program printed.
    pub fn lossy(&self) -> Option<&'static str> {
        match self.dropped[0] {
            0 => self.garbled.then_some("not_utf8"),
            _ => Some("long_output"),
        }
    }

    /// Whether it ended by itself with code 0.
    pub fn succeeded(&self) -> bool {
        self.ended == "exit 0"
    }
}

/// A question whose answer is not in the log yet.
struct Waiting {
    /// What the log calls it.
    wanted: Value,
    question: Question,
    judges: bool,
}

/// Those who answer.
pub(crate) struct Voices<'v, 'a> {
    pub writer: &'v mut Writer<'a>,
    /// Who gives verdicts; the writer where nobody is named.
    pub judge: Option<&'v mut Writer<'a>>,
}

/// One item's work.
pub(crate) struct Desk<'a> {
    pub room: &'a Room<'a>,
    log: &'a mut Log,
    /// The item's key.
    item: &'a str,
    asked: u64,
    waiting: Vec<Waiting>,
    /// Entries of the log that it used, in order.
    pub trace: Vec<Id>,
    /// What became of each step.
    pub steps: Vec<(&'static str, Option<String>)>,
}

impl<'a> Desk<'a> {
    pub fn new(room: &'a Room<'a>, log: &'a mut Log, item: &'a str) -> Desk<'a> {
        let (waiting, trace, steps) = (Vec::new(), Vec::new(), Vec::new());
        Desk { room, log, item, asked: 0, waiting, trace, steps }
    }

    /// A number that depends on the item and on what it is for alone.
    pub fn draw(&self, what: &str) -> u64 {
        Hash::of(format!("{} {} {what}", self.room.seed, self.item).as_bytes()).word()
    }

    /// The answers to some questions; those not known yet are waited for together.
    pub fn ask(&mut self, asks: Vec<Ask>) -> Made<Vec<Vec<Said>>> {
        let mut known = Vec::with_capacity(asks.len());
        for ask in asks {
            let question = self.question(&ask)?;
            let Ask { step, judges, .. } = ask;
            let (item, who) = (self.item, if judges { self.room.judge } else { self.room.writer });
            let wanted = json!({ "item": item, "step": step, "writer": who, "question": question });
            match self.known(&wanted)? {
                Some(said) => known.push(said),
                None => self.waiting.push(Waiting { wanted, question, judges }),
            }
        }
        if self.waiting.is_empty() { Ok(known) } else { Err(Halt::Waits) }
    }

    /// What stands in the log for this.
    fn known<T: for<'de> Deserialize<'de>>(&mut self, wanted: &Value) -> Made<Option<T>> {
        let id = Id::of(wanted);
        let Some(got) = self.log.get(id)? else { return Ok(None) };
        self.trace.push(id);
        let error = |e: serde_json::Error| TrainError::Writer { source: e.into() };
        Ok(Some(serde_json::from_value(got).map_err(error)?))
    }

    /// The one answer to a step; one that is cut off or empty is rejected.
    pub fn say(&mut self, step: &'static str, with: Value) -> Made<String> {
        let said = self.ask(vec![Ask::one(step, with)])?.remove(0).remove(0);
        match fault(&said) {
            None => Ok(said.text.trim().to_owned()),
            Some(reason) => reject(step, reason, said.text),
        }
    }

    /// The words of verdicts, cut off or not: `None` of those that never began.
    pub fn verdicts(&mut self, step: &'static str, with: Vec<Value>) -> Made<Vec<Option<String>>> {
        let asks = with.into_iter().map(|with| Ask::verdict(step, with)).collect();
        let said = self.ask(asks)?;
        let words = |mut said: Vec<Said>| match said.remove(0) {
            Said { text, end: SaidEnd::Stop | SaidEnd::Length } => Some(text),
            Said { end: SaidEnd::TooLong | SaidEnd::Failed, .. } => None,
        };
        Ok(said.into_iter().map(words).collect())
    }

    fn question(&mut self, ask: &Ask) -> Made<Question> {
        let AskConfig { temperature, top_p, max_tokens, .. } = *self.room.ask;
        let system = self.room.prompts.system()?;
        let system = system.map(|system| Message::new(Role::System, system));
        let user = Message::new(Role::User, self.room.prompts.render(ask.step, &ask.with)?);
        self.asked += 1;
        Ok(Question {
            messages: system.into_iter().chain([user]).collect(),
            n: ask.n,
            temperature: if ask.judges && ask.n == 1 { 0.0 } else { temperature },
            top_p,
            max_tokens,
            stop: Vec::new(),
            seed: self.draw(&format!("{} {}", ask.step, self.asked)) >> 11, // exact in JSON
        })
    }

    /// Runs a program, or gives what came of it before.
    ///
    /// Panics if the room has no sandbox: kinds that run programs open one.
    pub fn run(&mut self, command: &[&str], files: &[(&str, &str)]) -> Made<Ran> {
        self.run_over(command, files, &[])
    }

    /// The same with files that the item brings: the log has their hashes alone.
    pub fn run_over(
        &mut self,
        command: &[&str],
        files: &[(&str, &str)],
        given: &[(&str, &str)],
    ) -> Made<Ran> {
        let told: serde_json::Map<String, Value> =
            files.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        let mut wanted = json!({ "item": self.item, "run": command, "files": told });
        for (name, text) in given {
            wanted["given"][*name] = Hash::of(text.as_bytes()).to_string().into();
        }
        if let Some(ran) = self.known(&wanted)? {
            return Ok(ran);
        }
        let files = files.iter().chain(given).map(|(name, text)| (*name, text.as_bytes()));
        let files: Vec<(&str, &[u8])> = files.collect();
        let sandbox = self.room.sandbox.as_ref().expect("this kind runs programs");
        let outcome = sandbox.run(&Program { command, files: &files, ..Program::default() });
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if is_items(&error) => {
                return reject("program", "refused", error.to_string());
            }
            Err(error) => return Err(error.into()),
        };
        let ended = match outcome.ended {
            Ended::Exited(code) => format!("exit {code}"),
            Ended::Signalled(signal) => format!("signal {signal}"),
            Ended::WallTime | Ended::CpuTime => "time".to_owned(),
            Ended::Memory => "memory".to_owned(),
        };
        let (stdout, stderr) = (outcome.stdout.text(), outcome.stderr.text());
        let dropped = [outcome.stdout.dropped, outcome.stderr.dropped];
        let garbled = std::str::from_utf8(&outcome.stdout.bytes).is_err();
        let ran = Ran { ended, stdout, stderr, dropped, garbled };
        self.trace.push(self.log.put(&wanted, json!(ran))?);
        Ok(ran)
    }

    /// Counts a step that went well.
    pub fn passed(&mut self, step: &'static str) {
        self.steps.push((step, None));
    }

    /// Counts a step that did not, where the item goes on nevertheless.
    pub fn failed(&mut self, step: &'static str, reason: impl Into<String>) {
        self.steps.push((step, Some(reason.into())));
    }
}

/// Whether it is the item's fault that nothing ran: what the sandbox does not take are its files and their names. Another
/// try would end the same.
fn is_items(error: &SandboxError) -> bool {
    use SandboxError::{Name, Refused, Value};
    matches!(error, Value { .. } | Name { .. } | Refused { .. })
}

/// Why an answer is of no use, whatever it says.
pub(crate) fn fault(said: &Said) -> Option<&'static str> {
    match said.end {
        SaidEnd::Length => Some("cut_off"),
        SaidEnd::TooLong => Some("too_long"),
        SaidEnd::Failed => Some("failed"),
        SaidEnd::Stop => said.text.trim().is_empty().then_some("empty"),
    }
}

/// Does the work of all items until nothing waits: what they ask comes from the writer and the judge, many at once. Whether all
/// is there; it is not where one of them or the caller was stopped.
pub(crate) fn answer_all<I>(
    room: &Room<'_>,
    log: &mut Log,
    items: &mut dyn Iterator<Item = Result<(String, I), TrainError>>,
    work: &dyn Fn(&mut Desk<'_>, &I) -> Made<()>,
    voices: Voices<'_, '_>,
    stop: &AtomicBool,
) -> Result<bool, TrainError> {
    let Voices { writer, mut judge } = voices;
    let mut open: Vec<(String, I)> = Vec::new();
    loop {
        let mut questions: Vec<Waiting> = Vec::new();
        let mut still = Vec::new();
        let mut waiting = open.into_iter();
        // Twice as many items as questions at once: some end while others go on.
        while questions.len() < 2 * room.ask.parallel {
            let next = match waiting.next() {
                Some(item) => item,
                None => match items.next() {
                    Some(item) => item?,
                    None => break,
                },
            };
            let mut desk = Desk::new(room, log, &next.0);
            match work(&mut desk, &next.1) {
                Err(Halt::Waits) => {
                    questions.append(&mut desk.waiting);
                    still.push(next);
                }
                Ok(()) | Err(Halt::Rejected(_)) => {}
                Err(Halt::Failed(error)) => return Err(error),
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
        }
        still.extend(waiting);
        open = still;
        if questions.is_empty() {
            return Ok(true);
        }
        let (verdicts, others): (Vec<Waiting>, Vec<Waiting>) =
            questions.into_iter().partition(|waiting| waiting.judges && judge.is_some());
        put(log, writer, others)?;
        if let Some(judge) = &mut judge
            && !stop.load(Ordering::Relaxed)
        {
            put(log, *judge, verdicts)?;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
    }
}

/// Has all of these answered, and the answers put into the log as they come.
fn put(log: &mut Log, voice: &mut Writer<'_>, questions: Vec<Waiting>) -> Result<(), TrainError> {
    if questions.is_empty() {
        return Ok(());
    }
    let (wanted, asked): (Vec<Value>, Vec<Question>) =
        questions.into_iter().map(|waiting| (waiting.wanted, waiting.question)).unzip();
    voice(&asked, &mut |i, said| log.put(&wanted[i], json!(said)).map(|_| ()))
}
