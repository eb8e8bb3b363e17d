//! Python that remembers, behind the sandbox's walls: what was defined stays, what was written comes back.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use herd_codec::chat::ToolCall;
use herd_sandbox::{Answer, Found, Python, Sandbox, SandboxError, Session};

use super::documents;
use super::event::FileOut;
use super::tools::{Given, Ran, Tool, one_text, text_of};

/// Bytes of files that come back from one call at most; larger ones are named.
const FILES_BYTES: usize = 16 << 20;

const ABOUT: &str = "Runs Python and gives back what it prints and the value of its last line. Names stay defined from call \
    to call. Files lie in the working folder, and files written there come back. There is no network.";

/// The tool `python`. The interpreter starts with the first call; one that was killed is followed by a new one.
pub(super) fn tool(sandbox: Sandbox, files: Vec<Given>) -> Tool {
    let files = with_texts(files);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let about = match names.is_empty() {
        true => ABOUT.to_owned(),
        false => format!("{ABOUT} Files there: {}.", names.join(", ")),
    };
    let state = Mutex::new(State { sandbox, files, session: None, known: BTreeMap::new() });
    let hand = move |call: &ToolCall| match text_of(call, "code") {
        None => Ran::failed("no code was given"),
        Some(code) => state.lock().unwrap_or_else(PoisonError::into_inner).run(&code),
    };
    Tool::new("python", &about, one_text("code", "The program"), Box::new(hand))
}

/// The files, and beside each document that Python cannot read by itself its text.
fn with_texts(files: Vec<Given>) -> Vec<Given> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        let texts = match documents::is_packed(&name) {
            true => documents::read(&name, &bytes).unwrap_or_default(),
            false => Vec::new(),
        };
        out.push((name.clone(), bytes));
        if texts.is_empty() {
            continue;
        }
        if name.ends_with(".xlsx") {
            for part in texts {
                let sheet = part.place.replace(['/', '\0'], "_");
                out.push((
                    format!("{name}.{}.csv", sheet.trim_start_matches("sheet ")),
                    part.text.into_bytes(),
                ));
            }
        } else {
            let all: Vec<String> = texts.into_iter().map(|part| part.text).collect();
            out.push((format!("{name}.txt"), all.join("\n\n").into_bytes()));
        }
    }
    out
}

struct State {
    sandbox: Sandbox,
    files: Vec<Given>,
    session: Option<Session>,
    /// Files that were seen, with a hash of what they hold.
    known: BTreeMap<String, u64>,
}

impl State {
    fn run(&mut self, code: &str) -> Ran {
        match self.try_run(code) {
            Ok(ran) => ran,
            Err(error) => {
                self.session = None;
                self.known.clear();
                let lost = "the interpreter was ended, and all that was defined is lost";
                Ran::failed(format!("{error}; {lost}"))
            }
        }
    }

    fn try_run(&mut self, code: &str) -> Result<Ran, SandboxError> {
        if self.session.is_none() {
            let files: Vec<(&str, &[u8])> =
                self.files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
            self.session = Some(Session::open(&self.sandbox, Python::Packages, &files)?);
            self.known =
                self.files.iter().map(|(name, bytes)| (name.clone(), hash(bytes))).collect();
        }
        let session = self.session.as_mut().expect("it was opened above");
        let answer = session.execute(code)?;
        let (files, note) = written(session, &mut self.known)?;
        let mut text = say(&answer);
        text += &note;
        Ok(Ran { ok: answer.error.is_none() && !answer.interrupted, text, files })
    }
}

/// What a piece of code said, as a notebook shows it.
fn say(answer: &Answer) -> String {
    let mut parts = Vec::new();
    for stream in [&answer.stdout, &answer.stderr] {
        let text = stream.text();
        if !text.trim_end().is_empty() {
            parts.push(text.trim_end().to_owned());
        }
        if stream.dropped > 0 {
            parts.push(format!("[{} more bytes were dropped]", stream.dropped));
        }
    }
    parts.extend(answer.result.clone());
    parts.extend(answer.error.as_ref().map(|error| error.trim_end().to_owned()));
    if answer.interrupted {
        parts.push("[it was interrupted: its time was over; names are still defined]".to_owned());
    }
    if parts.is_empty() { "(nothing was printed)".to_owned() } else { parts.join("\n") }
}

/// Files that are new or hold something else than before.
fn written(
    session: &mut Session,
    known: &mut BTreeMap<String, u64>,
) -> Result<(Vec<FileOut>, String), SandboxError> {
    let (mut files, mut note, mut total) = (Vec::new(), String::new(), 0);
    for (name, size) in session.files()? {
        if total + size as usize > FILES_BYTES {
            note += &format!("\n[{name} has {size} bytes and does not come back]");
            continue;
        }
        let Found::Bytes(bytes) = session.file(&name)? else { continue };
        total += bytes.len();
        let hash = hash(&bytes);
        if known.insert(name.clone(), hash) != Some(hash) {
            note += &format!("\n[file {name}, {} bytes]", bytes.len());
            files.push(FileOut { name, bytes, url: None });
        }
    }
    Ok((files, note))
}

/// FNV-1a: it tells changes, not attacks.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
