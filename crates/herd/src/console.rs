//! What commands print: answers to standard output, progress and notes to standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Error;

/// How the user wants to be told.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Answers as JSON.
    pub json: bool,
    /// Answers only, no progress or notes.
    pub quiet: bool,
    /// No answers: the verb runs inside another.
    pub mute: bool,
}

/// What a command that could do its work answers; an error is exit code 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, or yes: exit code 0.
    Done,
    /// The answer is no: exit code 1.
    No,
}

impl Console {
    /// Prints text to standard output, and a line end.
    pub fn print(&self, text: impl Display) -> Result<(), Error> {
        match self.mute {
            true => Ok(()),
            false => writeln!(stdout().lock(), "{text}").map_err(Error::Output),
        }
    }

    /// Prints one JSON value to standard output, over many lines where a person reads it.
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), Error> {
        let text = match stdout().is_terminal() {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        self.print(text.expect("strings and numbers serialise"))
    }

    /// Says something beside the answer, on standard error.
    pub fn note(&self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(stderr().lock(), "{text}"); // nobody is left to tell
        }
    }

    /// Rows as columns: the first row is the head, numbers (as they look) stand right.
    pub fn print_table(&self, rows: &[Vec<String>]) -> Result<(), Error> {
        let visible = |row: &Vec<String>| row.iter().map(|cell| visible(cell)).collect();
        self.print(table(&rows.iter().map(visible).collect::<Vec<_>>()))
    }

    /// A meter for a transfer of `total` bytes, where that is known.
    pub fn meter(&self, label: &str, total: Option<u64>) -> Meter {
        let every = match (self.quiet, stderr().is_terminal()) {
            (true, _) => None,
            (false, true) => Some(Duration::from_millis(100)),
            (false, false) => Some(Duration::from_secs(10)),
        };
        let now = Instant::now();
        let label = label.to_owned();
        Meter { label, total, every, begun: now, shown: now, start: None, lines: 0 }
    }
}

/// Files are not trusted with the terminal: control characters are spelt out.
pub fn visible(text: &str) -> String {
    let spell = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(spell).collect()
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let numeric = |c: usize| {
        let starts = |t: &String| t.starts_with(|x: char| x.is_ascii_digit());
        rows.len() > 1 && rows[1..].iter().filter_map(|r| r.get(c)).all(starts)
    };
    let right: Vec<bool> = (0..columns).map(numeric).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            let cell = if right[c] { pad + cell } else { format!("{cell}{pad}") };
            line += &cell;
            line += "  ";
        }
        text += line.trim_end();
        text.push('\n');
    }
    text.pop();
    text
}

/// The progress of a transfer: one line rewritten on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub struct Meter {
    label: String,
    total: Option<u64>,
    every: Option<Duration>,
    begun: Instant,
    shown: Instant,
    /// Bytes that were there before: they do not count for the speed.
    start: Option<u64>,
    lines: usize,
}

impl Meter {
    /// `done` bytes are there now.
    pub fn at(&mut self, done: u64) {
        let start = *self.start.get_or_insert(done);
        let Some(every) = self.every else { return };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let speed = (done.saturating_sub(start)) as f64 / self.begun.elapsed().as_secs_f64();
        let mut line = format!("{}  {}", self.label, bytes(done));
        if let Some(total) = self.total {
            let left = total.saturating_sub(done) as f64 / speed.max(1.0);
            let share = 100.0 * done as f64 / total.max(1) as f64;
            line += &format!(" of {} ({share:.0} %), {left:.0} s left", bytes(total));
        }
        line += &format!(", {}/s", bytes(speed as u64));
        let end = if stderr().is_terminal() { "\x1b[K\r" } else { "\n" };
        let _ = write!(stderr().lock(), "{line}{end}");
        self.lines += 1;
    }
}

impl Meter {
    /// `done` of `all` steps are done.
    pub fn step(&mut self, done: usize, all: usize) {
        if self.every.is_none_or(|every| self.shown.elapsed() < every) {
            return;
        }
        self.shown = Instant::now();
        let end = if stderr().is_terminal() { "\x1b[K\r" } else { "\n" };
        let _ = write!(stderr().lock(), "{} {done} of {all}{end}", self.label);
        self.lines += 1;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.lines > 0 && stderr().is_terminal() {
            let _ = write!(stderr().lock(), "\x1b[K");
        }
    }
}

/// A size for people: `93.8 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A count for people: `49,152`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_are_readable() {
        let sizes = [0, 1023, 1024, 98_362_432, (1 << 20) - 1, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "93.8 MiB", "1.0 MiB", "16384.0 PiB"]);
        assert_eq!(
            [0, 999, 1000, 49_152, 1_234_567].map(count).join(" "),
            "0 999 1,000 49,152 1,234,567"
        );
    }

    #[test]
    fn numbers_stand_right_and_words_left() {
        let rows = [["name", "size"], ["a", "10"], ["longer", "9"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|r| r.iter().map(|t| t.to_string()).collect()).collect();
        assert_eq!(table(&rows), "name    size\na         10\nlonger     9");
    }
}
