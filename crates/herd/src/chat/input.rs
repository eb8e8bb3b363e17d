//! What is typed at the prompt: words for the model, or a command that begins with a slash.

use std::path::PathBuf;

use crate::store::distance;

/// One entry at the prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Nothing.
    Empty,
    /// Words for the model.
    Say(String),
    /// A command for the program.
    Command(Slash),
    /// A slash that begins no command, and what to tell the user.
    Unknown(String),
}

/// The commands.
#[derive(Clone, Debug, PartialEq)]
pub enum Slash {
    /// List the commands.
    Help,
    /// Leave.
    Exit,
    /// Show the system message, or set it and begin anew.
    System(Option<String>),
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Take up the conversation of a file.
    Load(PathBuf),
    /// Forget the conversation, not the system message.
    Clear,
    /// Answer the last words again, with other random numbers.
    Regen,
    /// Show the settings, or change one.
    Set(Option<(String, String)>),
    /// Show tokens and times of the last answer.
    Stats,
}

/// What `/help` prints.
pub const HELP: &str = "\
/system TEXT        set the system message and begin anew; without TEXT show it
/save FILE          write the conversation to FILE, as JSON
/load FILE          take up the conversation of FILE
/clear              forget the conversation, keep the system message
/regen              answer the last message again
/set NAME VALUE     change a setting: /set temperature 0.7; without NAME show all
/stats              tokens and times of the last answer
/exit               leave, as Ctrl-D does
Ctrl-C stops an answer. A backslash at the end of a line goes on with the next;
so do three quotes, until three quotes close.";

const NAMES: [&str; 9] =
    ["help", "exit", "system", "save", "load", "clear", "regen", "set", "stats"];

/// Reads an entry. `//` at the start says a slash to the model.
pub fn parse(entry: &str) -> Input {
    let text = entry.trim();
    if text.is_empty() {
        return Input::Empty;
    }
    if let Some(said) = text.strip_prefix('/').filter(|rest| rest.starts_with('/')) {
        return Input::Say(said.to_owned());
    }
    let Some(command) = text.strip_prefix('/') else { return Input::Say(text.to_owned()) };
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let given = (!rest.is_empty()).then(|| rest.to_owned());
    let file = |slash: fn(PathBuf) -> Slash| match &given {
        Some(path) => Input::Command(slash(path.into())),
        None => Input::Unknown(format!("/{name} needs the name of a file")),
    };
    match name {
        "help" | "?" => Input::Command(Slash::Help),
        "exit" | "quit" | "bye" => Input::Command(Slash::Exit),
        "system" => Input::Command(Slash::System(given)),
        "save" => file(Slash::Save),
        "load" => file(Slash::Load),
        "clear" | "reset" => Input::Command(Slash::Clear),
        "regen" | "retry" => Input::Command(Slash::Regen),
        "stats" => Input::Command(Slash::Stats),
        "set" => match rest.split_once(|c: char| c.is_whitespace() || c == '=') {
            Some((key, value)) => {
                Input::Command(Slash::Set(Some((key.to_owned(), value.trim().to_owned()))))
            }
            None if rest.is_empty() => Input::Command(Slash::Set(None)),
            None => Input::Unknown(format!("/set {rest} needs a value")),
        },
        other => {
            let near = NAMES.iter().min_by_key(|known| distance(known, other));
            let near = near.expect("there are commands");
            Input::Unknown(format!("no command /{other}; did you mean /{near}? /help lists all"))
        }
    }
}

/// Joins lines into entries: a backslash at a line's end, or three quotes, go on.
#[derive(Debug, Default)]
pub struct Lines {
    text: String,
    quoted: bool,
    open: bool,
}

impl Lines {
    /// Takes a line; gives the entry if it is complete.
    pub fn push(&mut self, line: &str) -> Option<String> {
        if self.quoted {
            if let Some(last) = line.trim_end().strip_suffix("\"\"\"") {
                self.text += last;
                return Some(self.take());
            }
            self.text += line;
            self.text.push('\n');
            return None;
        }
        let quote = if self.open { None } else { line.trim_start().strip_prefix("\"\"\"") };
        if let Some(first) = quote {
            if let Some(whole) = first.trim_end().strip_suffix("\"\"\"") {
                return Some(whole.to_owned());
            }
            self.quoted = true;
            self.open = true;
            self.text += first;
            if !first.is_empty() {
                self.text.push('\n');
            }
            return None;
        }
        if let Some(begun) = line.strip_suffix('\\') {
            self.open = true;
            self.text += begun;
            self.text.push('\n');
            return None;
        }
        self.text += line;
        Some(self.take())
    }

    /// Whether an entry has begun and is not complete.
    pub fn open(&self) -> bool {
        self.open
    }

    /// Ends the entry, complete or not; empty if none has begun.
    pub fn take(&mut self) -> String {
        (self.quoted, self.open) = (false, false);
        std::mem::take(&mut self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_commands_are_told_apart() {
        assert_eq!(parse("  "), Input::Empty);
        assert_eq!(parse(" hello\n"), Input::Say("hello".into()));
        assert_eq!(parse("//etc"), Input::Say("/etc".into()));
        assert_eq!(parse("/exit"), Input::Command(Slash::Exit));
        assert_eq!(parse("/system You are terse."), {
            Input::Command(Slash::System(Some("You are terse.".into())))
        });
        let set = |k: &str, v: &str| Input::Command(Slash::Set(Some((k.into(), v.into()))));
        assert_eq!(parse("/set temperature 0.7"), set("temperature", "0.7"));
        assert_eq!(parse("/set top_k=40"), set("top_k", "40"));
        assert!(matches!(parse("/set top_k"), Input::Unknown(_)));
        assert!(matches!(parse("/save"), Input::Unknown(_)));
        assert!(matches!(parse("/sytsem"), Input::Unknown(text) if text.contains("/system?")));
    }

    #[test]
    fn a_backslash_goes_on_with_the_next_line() {
        let mut lines = Lines::default();
        assert_eq!(lines.push("one\\"), None);
        assert!(lines.open());
        assert_eq!(lines.push("two"), Some("one\ntwo".into()));
        assert_eq!(lines.push("three"), Some("three".into()));
    }

    #[test]
    fn three_quotes_hold_lines_together() {
        let mut lines = Lines::default();
        assert_eq!(lines.push("\"\"\""), None);
        assert_eq!(lines.push("a\\"), None);
        assert_eq!(lines.push(""), None);
        assert_eq!(lines.push("b\"\"\""), Some("a\\\n\nb".into()));
        assert_eq!(lines.push("\"\"\"one\"\"\""), Some("one".into()));
        assert_eq!(lines.push("\"\"\"x"), None);
        assert_eq!(lines.take(), "x\n");
        assert!(!lines.open());
    }
}
