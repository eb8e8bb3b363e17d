//! `herd chat`: talks with a model at the terminal, or line by line through a pipe.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use herd_codec::chat::{ChatFormat, Delta, Piece, StreamParser};
use herd_codec::{TokenId, Tokenizer};
use herd_engine::sample::Sampling;
use herd_engine::{Finish, Request, Token};

use crate::about::About;
use crate::chat::input::{HELP, Input, Slash, parse};
use crate::chat::reader::{Entry, Reader};
use crate::chat::session::Session;
use crate::chat::settings;
use crate::console::{Console, Verdict, visible};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, SamplingFlags};
use crate::speak::{Speaker, Times};
use crate::store::{Store, make_folder};

/// Flags of `herd chat`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
    /// Ask this, print the answer, and leave
    #[arg(short, long)]
    prompt: Option<String>,
    /// The system message
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    /// Stop an answer after N tokens
    #[arg(short, long, visible_alias = "predict", value_name = "N")]
    n_predict: Option<usize>,
    /// How the model chats: llama2, llama3, llama3.1, llama3.1-hf, code-llama-70b, chatml, or a file with a
    /// template [default: as the model says]
    #[arg(long, visible_alias = "chat-template-file", value_name = "FORMAT")]
    chat_template: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// Everything between two prompts.
struct Chat<'a> {
    console: &'a Console,
    speaker: Speaker,
    about: Arc<About>,
    format: ChatFormat,
    session: Session,
    sampling: Sampling,
    answer_tokens_max: Option<usize>,
    interrupt: Arc<AtomicBool>,
    times: Option<Times>,
    /// Somebody sits at the terminal: figures and notes are welcome.
    attended: bool,
}

/// Talks until the user leaves.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let speaker = Speaker::load(&flags.model, &flags.kv)?;
    let about = Arc::clone(&speaker.about);
    let mut chat = Chat {
        console,
        format: about.chat_format(flags.chat_template.as_deref())?,
        session: Session::new(flags.system.as_deref()),
        sampling: flags.sampling.sampling(&about.defaults)?,
        answer_tokens_max: flags.n_predict,
        interrupt: Arc::new(AtomicBool::new(false)),
        times: None,
        attended: stdin().is_terminal() && stdout().is_terminal() && flags.prompt.is_none(),
        speaker,
        about,
    };
    chat.sampling.check(chat.speaker.vocab())?;
    if let Some(text) = &flags.prompt {
        chat.catch_interrupts();
        chat.session.ask(text);
        chat.answer()?;
        return Ok(Verdict::Done);
    }
    let store = Store::open()?;
    make_folder(store.home())?;
    let mut reader = Reader::new(&store.home().join("history"))?;
    chat.catch_interrupts(); // after the reader, which sets a handler of its own
    if chat.attended {
        let path = visible(&chat.about.path.display().to_string());
        let (line, seed) = (chat.speaker.line(), chat.sampling.seed);
        console.note(format!("{path}, {line}, seed {seed}; /help lists commands, Ctrl-D leaves"));
    }
    loop {
        let input = match reader.next()? {
            Entry::Text(text) => parse(&text),
            Entry::Interrupt => {
                console.note("Ctrl-D or /exit leaves");
                continue;
            }
            Entry::End => return Ok(Verdict::Done),
        };
        match chat.take(input) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(Verdict::Done),
            Err(error @ Error::Output(_)) => return Err(error),
            // At a terminal an error is an answer; in a pipe nobody would see that it is one.
            Err(error) if chat.attended => {
                console.note(format!("error: {}", error.line()));
                if let Some(hint) = error.hint() {
                    console.note(format!("hint: {hint}"));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

impl Chat<'_> {
    fn take(&mut self, input: Input) -> Result<ControlFlow<()>, Error> {
        match input {
            Input::Empty => {}
            Input::Say(text) => {
                self.session.ask(&text);
                let answered = self.answer();
                if answered.is_err() {
                    self.session.take_back_question();
                }
                answered?;
            }
            Input::Command(Slash::Exit) => return Ok(ControlFlow::Break(())),
            Input::Command(slash) => self.obey(slash)?,
            Input::Unknown(problem) => return Err(Error::Command { problem }),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn obey(&mut self, slash: Slash) -> Result<(), Error> {
        match slash {
            Slash::Help => self.console.note(HELP),
            Slash::Exit => {}
            Slash::System(Some(text)) => {
                self.session = Session::new(Some(&text));
                self.console.note("the conversation begins anew");
            }
            Slash::System(None) => {
                let system = self.session.system();
                let system = system.unwrap_or_else(|| "no system message of yours".to_owned());
                self.console.note(visible(&system));
            }
            Slash::Save(path) => {
                self.session.save(&path)?;
                self.console.note(format!("saved to {}", path.display()));
            }
            Slash::Load(path) => {
                self.session = Session::load(&path)?;
                let count = self.session.dialogue().messages.len();
                self.console.note(format!("{count} messages taken up"));
            }
            Slash::Clear => {
                self.session.clear();
                self.console.note("the conversation is forgotten");
            }
            Slash::Regen => {
                if !self.session.take_back_answer() {
                    self.console.note("nothing was asked yet");
                    return Ok(());
                }
                // The same seed would give the same answer.
                self.sampling.seed = self.sampling.seed.wrapping_add(1);
                self.answer()?;
            }
            Slash::Set(None) => {
                self.console.note(settings::show(&self.sampling, self.answer_tokens_max));
            }
            Slash::Set(Some((name, value))) => {
                let (sampling, n) = (&mut self.sampling, &mut self.answer_tokens_max);
                let changed = settings::change(sampling, n, self.speaker.vocab(), &name, &value);
                changed.map_err(|problem| Error::Command { problem })?;
            }
            Slash::Stats => {
                let line = self.times.as_ref().map(Times::line);
                self.console.note(line.unwrap_or_else(|| "nothing was answered yet".to_owned()));
            }
        }
        Ok(())
    }

    /// Answers the conversation so far, as it comes, and adds the answer to it.
    fn answer(&mut self) -> Result<(), Error> {
        let prompt = self.about.render(&self.format, &self.session)?;
        let request = Request {
            max_tokens: self.answer_tokens_max,
            stop_tokens: self.about.stop_ids(Some(&self.format)),
            ..Request::new(prompt, self.sampling.clone())
        };
        let mut parser = StreamParser::new(self.format.call_forms(), &self.format.stops());
        self.interrupt.store(false, Ordering::SeqCst);
        let mut shown = Ok(());
        let about = &self.about;
        let spoken = self.speaker.speak(request, &self.interrupt, &mut |token| {
            shown = take(&mut parser, &about.tokenizer, token);
            if shown.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        shown?;
        if let Some(delta) = parser.push(Piece::Text(&spoken.text)) {
            show(&delta)?;
        }
        let (deltas, message) = parser.finish();
        deltas.iter().try_for_each(show)?;
        self.session.answer(message.into_message());
        self.console.print("")?;
        if self.attended {
            let end = match spoken.finish {
                Finish::StopToken(_) | Finish::StopString(_) | Finish::Complete => "",
                Finish::Length => " | cut: no more tokens",
                Finish::Cancelled => " | stopped",
                Finish::Failed(_) | Finish::Form(_) => " | failed",
            };
            self.console.note(format!("[{}{end}]", spoken.times.line()));
        }
        self.times = Some(spoken.times);
        spoken.finish()
    }

    /// Ctrl-C stops the answer; a second one, if the first was not heard, the program.
    fn catch_interrupts(&self) {
        let interrupt = Arc::clone(&self.interrupt);
        let caught = ctrlc::set_handler(move || {
            if interrupt.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        if caught.is_err() {
            self.console.note("Ctrl-C cannot be caught here: it ends the program");
        }
    }
}

/// A token on its way to the terminal, and into a message.
fn take(parser: &mut StreamParser, tokenizer: &Tokenizer, token: &Token) -> Result<(), Error> {
    let id = TokenId(token.id);
    let delta = match tokenizer.is_control(id) {
        true => parser.push(Piece::Control(&String::from_utf8_lossy(tokenizer.token_bytes(id)))),
        false => parser.push(Piece::Text(&token.text)),
    };
    delta.map_or(Ok(()), |delta| show(&delta))
}

/// Prints a part of the answer at once. Control characters of the model do not reach a terminal.
fn show(delta: &Delta) -> Result<(), Error> {
    let text = match delta {
        Delta::Text(text) => text.clone(),
        Delta::Call { call, .. } => format!("[{}({})]\n", call.name, call.arguments_json()),
    };
    let quiet = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let mut stdout = stdout().lock();
    let text = match stdout.is_terminal() {
        true => text.chars().filter(|&c| !quiet(c)).collect(),
        false => text,
    };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}
