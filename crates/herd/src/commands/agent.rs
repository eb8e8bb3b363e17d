//! `herd agent`: a model that uses tools, at the terminal; recorded, replayed, exported as rows to learn from.

use std::fs;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herd_codec::chat::{Dialogue, Message, Role, ToolCall};
use herd_serve::Host;
use herd_serve::agent::event::{Event, Reason};
use herd_serve::agent::records::{self, AboutRun, Recorder};
use herd_serve::agent::run::{Agent, Limits, run as run_agent};
use herd_serve::agent::search::Embed;
use herd_serve::agent::tools::Tools;
use herd_serve::agent::voice::{self, Manners, Voice};
use herd_serve::agent::wording::Manner;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::about::{About, today};
use crate::chat::reader::{Entry, Reader};
use crate::console::{Console, Verdict, visible};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, SamplingFlags, range};
use crate::run::{self, Ready};
use crate::store::{Store, make_folder};
use crate::toolbox::{ToolFlags, Toolbox};

/// Flags of `herd agent`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
    /// Ask this, print what happens, and leave
    #[arg(short, long)]
    prompt: Option<String>,
    /// The system message
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    tools: ToolFlags,
    /// Search by the model's vectors as well as by words
    #[arg(long, help_heading = "Tools")]
    embed: bool,
    /// Turns of the model for one question
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = range(1, 1000))]
    max_steps: usize,
    /// Tokens that the model writes for one question
    #[arg(short, long, visible_alias = "predict", default_value_t = 4096, value_name = "N")]
    #[arg(value_parser = range(1, 1 << 24))]
    n_predict: usize,
    /// Seconds for one question, looked at between steps
    #[arg(long, default_value_t = 600, value_name = "N", value_parser = range(1, 1 << 20))]
    max_seconds: usize,
    /// Where files that tools write are put
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Keep every step in this file of SQLite
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Ask again for every turn of a recorded run, and say where it first differs
    #[arg(long, value_name = "ID", requires = "record", conflicts_with = "prompt")]
    replay: Option<i64>,
    /// Write the runs of --record as rows to learn from; without --prompt nothing else is done
    #[arg(long, value_name = "FILE", requires = "record")]
    export: Option<PathBuf>,
    /// How the model chats: llama2, llama3, llama3.1, llama3.1-hf, code-llama-70b, chatml, or a file with a
    /// template [default: as the model says]
    #[arg(long, visible_alias = "chat-template-file", value_name = "FORMAT")]
    chat_template: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// All between two questions.
struct Talk<'a> {
    flags: &'a Flags,
    console: &'a Console,
    voice: Voice,
    tools: Tools,
    dialogue: Dialogue,
    recorder: Option<Recorder>,
    stop: Arc<AtomicBool>,
    calls: usize,
}

/// Talks until the user leaves, or answers the one question.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    if let (Some(out), None, None) = (&flags.export, &flags.prompt, flags.replay) {
        return export(flags, out, console);
    }
    let (ready, host) = load(flags)?;
    let Ready { about, model, .. } = &ready;
    if let Some(id) = flags.replay {
        return replay(flags, console, about, host, id);
    }
    let format = about.chat_format(flags.chat_template.as_deref())?;
    let (embedder, tokenizer) = (host.clone(), Arc::clone(&about.tokenizer));
    let embed = move |text: &str| voice::embed(&embedder, &tokenizer, text);
    let embed: Option<Embed> = flags.embed.then(|| Box::new(embed) as Embed);
    let toolbox = Toolbox::open(&flags.tools, embed.as_ref(), offline, console)?;
    let tools = toolbox.tools(&[], embed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let sampling = flags.sampling.sampling(&about.defaults)?;
    sampling.check(model.config().vocab)?;
    let run_about = AboutRun {
        model: about.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        fingerprint: fingerprint(&about.path)?,
        class: model.device().class().name().to_owned(),
        manner: Manner::of(&format),
        today: today().and_then(|day| day.format("%Y-%m-%d").ok()),
        sampling: json!({
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": sampling.seed,
        }),
        tools: tools.definitions(),
    };
    let recorder = match &flags.record {
        Some(path) => Some(Recorder::begin(path, &run_about)?),
        None => None,
    };
    let manners = Manners {
        tokenizer: Arc::clone(&about.tokenizer),
        stops: about.stop_ids(Some(&format)),
        format,
        sampling,
        today: today(),
        tools: tools.definitions(),
    };
    let voice = Voice::new(host, manners, Arc::clone(&stop));
    let dialogue = Dialogue::default();
    let mut talk = Talk { flags, console, voice, tools, dialogue, recorder, stop, calls: 0 };
    if let Some(system) = &flags.system {
        talk.say(Message::new(Role::System, system.clone()))?;
    }
    let verdict = match &flags.prompt {
        Some(prompt) => {
            talk.catch_interrupts();
            talk.answer(prompt)?
        }
        None => talk.converse()?,
    };
    if let Some(recorder) = &talk.recorder {
        console.note(format!("recorded as run {}", recorder.id()));
    }
    match &flags.export {
        Some(out) => export(flags, out, console),
        None => Ok(verdict),
    }
}

fn load(flags: &Flags) -> Result<(Ready, Host), Error> {
    let ready = run::load(&flags.model, &flags.kv, None)?;
    let tokenizer = Arc::clone(&ready.about.tokenizer);
    let host = Host::start(Arc::clone(&ready.model), tokenizer, ready.limits, 1);
    Ok((ready, host))
}

impl Talk<'_> {
    fn converse(&mut self) -> Result<Verdict, Error> {
        let store = Store::open()?;
        make_folder(store.home())?;
        let mut reader = Reader::new(&store.home().join("agent-history"))?;
        self.catch_interrupts(); // after the reader, which sets a handler of its own
        if stdin().is_terminal() {
            let names = self.tools.names().join(", ");
            self.console.note(format!("tools: {}; Ctrl-D leaves", visible(&names)));
        }
        loop {
            match reader.next()? {
                Entry::Text(text) if text.trim().is_empty() => {}
                Entry::Text(text) => drop(self.answer(&text)?),
                Entry::Interrupt => self.console.note("Ctrl-D leaves"),
                Entry::End => return Ok(Verdict::Done),
            }
        }
    }

    fn say(&mut self, message: Message) -> Result<(), Error> {
        if let Some(recorder) = &mut self.recorder {
            recorder.said(&message)?;
        }
        self.dialogue.messages.push(message);
        Ok(())
    }

    /// Answers a question; no if a limit or an error ended it.
    fn answer(&mut self, question: &str) -> Result<Verdict, Error> {
        self.say(Message::new(Role::User, question))?;
        self.stop.store(false, Ordering::SeqCst);
        let (flags, console) = (self.flags, self.console);
        let limits = Limits {
            steps: flags.max_steps,
            wall: Duration::from_secs(flags.max_seconds as u64),
            tokens: flags.n_predict,
            ..Limits::USUAL
        };
        let (voice, tools, recorder) = (&self.voice, &self.tools, &mut self.recorder);
        let mut failed = None;
        let mut calls = 0;
        let mut tell = |event: Event| {
            calls += usize::from(matches!(event, Event::Call(_)));
            let kept = recorder.as_mut().map_or(Ok(()), |r| r.event(&event).map_err(Error::from));
            let shown = kept.and_then(|()| show(&event, flags, console));
            if let Err(error) = shown {
                failed.get_or_insert(error);
                self.stop.store(true, Ordering::SeqCst);
            }
        };
        let reason = run_agent(
            &mut Agent {
                speak: &mut |dialogue, room, tell| voice.turn(dialogue, room, tell),
                hands: &|call| tools.run(call),
                tool: &|name| tools.own(name),
                rule: &|own| tools.rule(own),
                approve: &mut |call| approve(call, console),
                tell: &mut tell,
                limits,
                stop: &self.stop,
                calls: self.calls,
            },
            &mut self.dialogue,
        );
        self.calls += calls;
        match (failed, reason) {
            (Some(error), _) => Err(error),
            (None, Reason::Error(why)) => Err(Error::Command { problem: why }),
            (None, Reason::Limit(_)) => Ok(Verdict::No),
            (None, Reason::Stop | Reason::Length | Reason::Cancelled) => Ok(Verdict::Done),
        }
    }

    /// Ctrl-C stops the answer; a second one, if the first was not heard, the program.
    fn catch_interrupts(&self) {
        let stop = Arc::clone(&self.stop);
        let caught = ctrlc::set_handler(move || {
            if stop.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        if caught.is_err() {
            self.console.note("Ctrl-C cannot be caught here: it ends the program");
        }
    }
}

/// Asks at the terminal; without one the answer is no.
fn approve(call: &ToolCall, console: &Console) -> bool {
    let what = visible(&format!("{}({})", call.name, call.arguments_json()));
    if !stdin().is_terminal() {
        console.note(format!("not run, since nobody can be asked: {what}; see --approve"));
        return false;
    }
    console.note(format!("run {what}? [y/N]"));
    let mut line = String::new();
    stdin().read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// Prints an event: a line of JSON, or text as it comes and calls as notes.
fn show(event: &Event, flags: &Flags, console: &Console) -> Result<(), Error> {
    if let Event::Result(result) = event
        && let Some(folder) = &flags.out
    {
        for file in &result.files {
            let path = folder.join(&file.name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            fs::write(&path, &file.bytes).map_err(Error::io("write", &path))?;
        }
    }
    if console.json {
        return match event.json() {
            Some(json) => console.print(json),
            None => Ok(()),
        };
    }
    match event {
        Event::Text(text) => print_text(text),
        Event::Turn(turn) if turn.message.text().is_empty() => Ok(()),
        Event::Turn(_) => console.print(""),
        Event::Call(call) => {
            console.note(format!(
                "> {}",
                visible(&format!("{}({})", call.name, call.arguments_json()))
            ));
            Ok(())
        }
        Event::Result(result) => {
            let mark = if result.ok { "<" } else { "< failed:" };
            for line in result.text.lines() {
                console.note(format!("{mark} {}", visible(line)));
            }
            Ok(())
        }
        Event::End { reason, .. } => {
            if let Reason::Limit(note) = reason {
                console.note(format!("ended: {}", visible(note)));
            }
            Ok(())
        }
        Event::Ask(_) => Ok(()),
    }
}

/// Prints a part of an answer at once. Control characters of the model do not reach a terminal.
fn print_text(text: &str) -> Result<(), Error> {
    let quiet = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let mut stdout = stdout().lock();
    let text = match stdout.is_terminal() {
        true => text.chars().filter(|&c| !quiet(c)).collect(),
        false => text.to_owned(),
    };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

/// A hash of the names, sizes, beginnings and ends of a model's files: it tells models apart, not attacks.
fn fingerprint(path: &Path) -> Result<String, Error> {
    let mut files = Vec::new();
    match path.is_dir() {
        true => {
            let entries = fs::read_dir(path).map_err(Error::io("read", path))?;
            files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()));
            files.sort();
        }
        false => files.push(path.to_owned()),
    }
    let mut hash = Sha256::new();
    for file in files {
        use std::io::{Read, Seek, SeekFrom};
        let mut open = fs::File::open(&file).map_err(Error::io("read", &file))?;
        let size = open.metadata().map_err(Error::io("read", &file))?.len();
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(size.to_le_bytes());
        for from in [0, size.saturating_sub(1 << 20)] {
            let mut part = Vec::new();
            open.seek(SeekFrom::Start(from))
                .and_then(|_| (&mut open).take(1 << 20).read_to_end(&mut part))
                .map_err(Error::io("read", &file))?;
            hash.update(&part);
        }
    }
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

fn replay(
    flags: &Flags,
    console: &Console,
    about: &About,
    host: Host,
    id: i64,
) -> Result<Verdict, Error> {
    let path = flags.record.as_deref().expect("--replay requires --record");
    let recording = records::read(path, id)?;
    let recorded = &recording.about;
    if recorded.fingerprint != fingerprint(&about.path)? {
        console.note(format!("another model than the recorded {}", visible(&recorded.model)));
    }
    let format = about.chat_format(flags.chat_template.as_deref())?;
    let mut sampling = flags.sampling.sampling(&about.defaults)?;
    let number = |name: &str| recorded.sampling[name].as_f64().map(|x| x as f32);
    sampling.temperature = number("temperature").unwrap_or(sampling.temperature);
    sampling.top_p = number("top_p").unwrap_or(sampling.top_p);
    sampling.min_p = number("min_p").unwrap_or(sampling.min_p);
    sampling.repetition_penalty =
        number("repetition_penalty").unwrap_or(sampling.repetition_penalty);
    sampling.top_k = recorded.sampling["top_k"].as_u64().map(|k| k as usize);
    sampling.seed = recorded.sampling["seed"].as_u64().unwrap_or(sampling.seed);
    let day = recorded.today.as_deref().and_then(herd_codec::chat::Date::parse);
    let manners = Manners {
        tokenizer: Arc::clone(&about.tokenizer),
        stops: about.stop_ids(Some(&format)),
        format,
        sampling,
        today: day,
        tools: recorded.tools.clone(),
    };
    let voice = Voice::new(host, manners, Arc::new(AtomicBool::new(false)));
    let mut speak =
        |dialogue: &Dialogue, room, tell: &mut dyn FnMut(&str)| voice.turn(dialogue, room, tell);
    let (equal, difference) = records::replay(&recording, &mut speak)?;
    let told = difference.as_ref().map(|d| {
        json!({"turn": d.turn, "what": d.what, "at": d.at, "recorded": d.recorded, "got": d.got})
    });
    match (console.json, &difference) {
        (true, _) => console.print_json(&json!({"equal": equal, "difference": told}))?,
        (false, None) => console.print(format!("{equal} turns, all equal"))?,
        (false, Some(d)) => {
            let at = d.at.map_or(String::new(), |at| format!(" at place {at}"));
            let line = format!(
                "{equal} turns equal; turn {} differs in its {}{at}: recorded {}, got {}",
                d.turn, d.what, d.recorded, d.got
            );
            console.print(visible(&line))?;
        }
    }
    Ok(if difference.is_none() { Verdict::Done } else { Verdict::No })
}

fn export(flags: &Flags, out: &Path, console: &Console) -> Result<Verdict, Error> {
    let path = flags.record.as_deref().expect("--export requires --record");
    let rows = records::rows(path)?;
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(out, text).map_err(Error::io("write", out))?;
    console.note(format!("{} rows in {}", rows.len(), out.display()));
    Ok(Verdict::Done)
}
