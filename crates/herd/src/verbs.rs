//! Verbs that are run by other verbs: as a user would, and once.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, stderr};
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use herd_data::disk::{RealDisk, make_folder, replace};
use herd_eval::EvalError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::pull::download::hex;

/// A command line of this program.
pub struct Verb {
    /// What stands behind `herd`.
    pub args: Vec<String>,
    /// What it makes, whole or not at all: where that is there it need not run.
    pub makes: PathBuf,
    /// What it writes at last of all, if that is something else: where it is not there the verb runs once more.
    pub tells: Option<PathBuf>,
    /// Whether it is there before it is whole: then the verb runs, and sees itself what is left to do.
    pub early: bool,
}

impl Verb {
    /// One that is known by what it makes alone.
    pub fn new(args: Vec<String>, makes: PathBuf) -> Verb {
        Verb { args, makes, tells: None, early: false }
    }

    /// A verb with settings, that writes to `out` and makes `makes`; most that train tell of it.
    pub fn with_settings(verb: &str, config: &Path, out: &Path, makes: PathBuf) -> Verb {
        let tells = (!matches!(verb, "sample" | "extend-context")).then(|| out.join("report.md"));
        let (config, out) = (config.display().to_string(), out.display().to_string());
        let args = [verb, "--config", &config, "--out", &out].map(str::to_owned).to_vec();
        Verb { args, makes, tells, early: false }
    }

    /// Runs it with those flags of `machine` that it knows behind, unless what it makes is there, and says so. Whether that is
    /// there now: it is not where the verb was asked to stop.
    pub fn run(&self, machine: &[String], console: &Console) -> Result<bool, Error> {
        let mut ends = [Some(&self.makes), self.tells.as_ref()].into_iter().flatten();
        if self.early || !ends.all(|path| path.exists()) {
            let machine = known(&self.args, machine);
            let args: Vec<String> = self.args.iter().cloned().chain(machine).collect();
            console.note(format!("          herd {}", args.join(" ")));
            let quiet = console.quiet || !stderr().is_terminal();
            match run(&args, &Console { json: false, quiet, mute: true }) {
                // Others say nothing when they are asked to stop.
                Err(Error::Eval(EvalError::Stopped)) => {}
                ended => drop(ended?),
            }
        }
        Ok(self.makes.exists())
    }
}

/// Of pairs of flags and values, those that a verb has.
fn known(args: &[String], flags: &[String]) -> Vec<String> {
    let program = crate::Cli::command();
    let inner = |verb, arg: &String| clap::Command::find_subcommand(verb, arg);
    let verb = args.iter().try_fold(&program, |verb, arg| inner(verb, arg).ok_or(verb));
    let (Ok(verb) | Err(verb)) = verb;
    let has =
        |flag: &str| verb.get_arguments().any(|arg| arg.get_long() == flag.strip_prefix("--"));
    flags.chunks(2).filter(|pair| has(&pair[0])).flatten().cloned().collect()
}

/// Runs one command line of this program.
pub fn run(args: &[String], console: &Console) -> Result<Verdict, Error> {
    let line = std::iter::once("herd".to_owned()).chain(args.iter().cloned());
    let cli = crate::Cli::try_parse_from(line).expect("verbs spell each other's flags rightly");
    cli.command.run(console, true)
}

/// The flags that say how the machine is used, for the verbs that are run.
pub fn machine(threads: Option<usize>, class: Option<&str>) -> Vec<String> {
    let threads = threads.map(|n| ["--threads".to_owned(), n.to_string()]);
    let class = class.map(|name| ["--class".to_owned(), name.to_owned()]);
    threads.into_iter().chain(class).flatten().collect()
}

/// Puts a small file in its place, whole or not at all; its folder is made.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folder(folder).map_err(Error::io("make", folder))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(replace(&RealDisk, folder, &name, &[bytes])?)
}

/// The same of something as JSON.
pub fn save(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("numbers and texts serialise");
    write(path, format!("{text}\n").as_bytes())
}

/// What such a file says; nothing if it is not there.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
            let what = format!("damaged ({e})");
            Error::Json { path: path.to_owned(), what }
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// sha256 of a file, in hexadecimal digits.
pub fn hash(path: &Path) -> Result<String, Error> {
    let file = fs::File::open(path).map_err(Error::io("read", path))?;
    let (mut file, mut hash) = (BufReader::with_capacity(1 << 20, file), Sha256::new());
    loop {
        let bytes = file.fill_buf().map_err(Error::io("read", path))?;
        if bytes.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(bytes);
        let read = bytes.len();
        file.consume(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_gets_the_flags_of_the_machine_that_it_has() {
        let of = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            known(&args, &machine(Some(2), Some("avx2"))).join(" ")
        };
        assert_eq!(of(&["sft", "--out", "average"]), "--threads 2 --class avx2");
        assert_eq!(of(&["tokenizer", "train", "--out", "x"]), "--threads 2");
        assert_eq!(of(&["average", "sft", "--out", "x"]), "");
    }
}
