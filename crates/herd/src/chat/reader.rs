//! Reads entries: with line editing and history on a terminal, line by line elsewhere.

use std::io::{BufRead, IsTerminal, stdin, stdout};
use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use crate::chat::input::Lines;
use crate::error::Error;

/// What the user did at the prompt.
#[derive(Debug, PartialEq)]
pub enum Entry {
    /// Typed this.
    Text(String),
    /// Pressed Ctrl-C.
    Interrupt,
    /// Pressed Ctrl-D, or the input is over.
    End,
}

/// Where entries come from.
#[derive(Debug)]
pub enum Reader {
    /// A terminal.
    Terminal {
        /// The editor of lines.
        editor: Box<Editor<(), FileHistory>>,
        /// Where its history is kept.
        history: PathBuf,
    },
    /// A pipe or a file.
    Plain,
}

/// Entries that the history keeps.
const HISTORY_LEN: usize = 10_000;

impl Reader {
    /// The reader that fits standard input; `history` is the file of past entries.
    pub fn new(history: &Path) -> Result<Reader, Error> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Ok(Reader::Plain);
        }
        let config = Config::builder().auto_add_history(false);
        let config = config.max_history_size(HISTORY_LEN).map_err(terminal)?.build();
        let mut editor = Box::new(Editor::with_config(config).map_err(terminal)?);
        let _ = editor.load_history(history); // there is none the first time
        Ok(Reader::Terminal { editor, history: history.to_owned() })
    }

    /// The next entry, which may be of several lines.
    pub fn next(&mut self) -> Result<Entry, Error> {
        let mut lines = Lines::default();
        loop {
            let line = match self {
                Reader::Plain => plain_line()?,
                Reader::Terminal { editor, .. } => {
                    let prompt = if lines.open() { "... " } else { "> " };
                    match editor.readline(prompt) {
                        Ok(line) => Some(line),
                        Err(ReadlineError::Eof) => None,
                        Err(ReadlineError::Interrupted) => return Ok(Entry::Interrupt),
                        Err(error) => return Err(terminal(error)),
                    }
                }
            };
            let Some(line) = line else {
                let rest = lines.take();
                return Ok(if rest.is_empty() { Entry::End } else { Entry::Text(rest) });
            };
            if let Some(entry) = lines.push(&line) {
                self.remember(&entry);
                return Ok(Entry::Text(entry));
            }
        }
    }

    fn remember(&mut self, entry: &str) {
        if let Reader::Terminal { editor, history } = self
            && !entry.trim().is_empty()
        {
            let _ = editor.add_history_entry(entry);
            // A history that cannot be kept is no reason to stop talking.
            let _ = editor.append_history(history);
        }
    }
}

fn plain_line() -> Result<Option<String>, Error> {
    let mut line = String::new();
    let read = stdin().lock().read_line(&mut line).map_err(Error::Input)?;
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok((read > 0).then_some(line))
}

fn terminal(error: ReadlineError) -> Error {
    Error::Input(std::io::Error::other(error))
}
