//! `herd arena`: people, and models in their place, say which of two answers is better.

use std::io::{Write, stderr};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use clap::builder::PossibleValuesParser;
use herd_eval::arena::Taxonomy;
use herd_model::checkpoint::Checkpoint;
use herd_serve::Settings;
use herd_serve::arena::{Arena, Ballots, Rules};
use herd_tensor::Device;
use herd_train::config::ChatConfig;
use herd_train::writer::{AskConfig, WriterConfig};
use serde_json::json;

use crate::arena::answers::{Manner, Named, answer};
use crate::arena::judge::Asked;
use crate::arena::prompts::{Fields, read};
use crate::arena::report::{Bootstrap, Report};
use crate::arena::{export, judge, open};
use crate::console::{Console, Verdict, count};
use crate::error::Error;
use crate::flags::{class, range, threads};
use crate::training::stop_on_interrupt;
use crate::writer::{self, Source, Wanted, find};

/// Flags of `herd arena`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Serve a page on which people say which of two answers is better
    Serve(Box<ServeFlags>),
    /// Count the votes: wins, ratings, judges
    Report(ReportFlags),
    /// Write the votes as preference rows for `herd reward` and `herd dpo`
    Export(ExportFlags),
    /// Let a model judge, and hold it against people
    Judge(Box<JudgeFlags>),
}

/// How models run.
#[derive(Debug, clap::Args)]
struct MachineFlags {
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Tokens of prompt and answer at most [default: 4096, or the model's own if that is less]
    #[arg(short, long, visible_alias = "context", default_value_t = 4096, value_name = "N")]
    #[arg(value_parser = range(2, 1 << 24))]
    ctx_size: usize,
    /// Answers that are made at once; changes no bit
    #[arg(long, visible_alias = "np", default_value_t = 16, value_name = "N")]
    #[arg(value_parser = range(1, 4096))]
    parallel: usize,
    /// How models chat: a format's name, or a file with a template [default: as each model says]
    #[arg(long, value_name = "FORMAT")]
    chat_template: Option<String>,
}

/// Flags of `herd arena serve`.
#[derive(Debug, clap::Args)]
struct ServeFlags {
    /// The models, two or more: files, folders, or names in the store; NAME=MODEL names one for reports
    #[arg(long, required = true, value_delimiter = ',', value_name = "A,B,..", value_parser = named)]
    models: Vec<Named>,
    /// What they answer: rows of prompts, messages or turns
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The file of answers and votes; what is there is gone on with
    #[arg(long, value_name = "FILE.sqlite")]
    db: PathBuf,
    /// The field of a row that names its skill
    #[arg(long, default_value = "skill", value_name = "NAME")]
    skill_field: String,
    /// The skills there are: any, Llama 3.1's capabilities, or the use cases of Llama 3's launch
    #[arg(long, default_value = "any", value_name = "NAME")]
    #[arg(value_parser = PossibleValuesParser::new(Taxonomy::ALL.map(|(name, _)| name)))]
    taxonomy: String,
    /// Divides the logits; 0 takes the likeliest token
    #[arg(long, visible_alias = "temperature", default_value_t = 0.6, value_name = "T")]
    temp: f64,
    /// Keep the likeliest tokens that hold this mass
    #[arg(long, default_value_t = 0.9, value_name = "P")]
    top_p: f64,
    /// Tokens of an answer at most
    #[arg(short = 'n', long, default_value_t = 512, value_name = "N", value_parser = range(1, 1 << 20))]
    max_tokens: usize,
    /// What answers, orders and sides are drawn by
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// The share of a judge's pairs that are shown again, the sides swapped
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    repeats: f64,
    /// Judges who see a pair at most [default: no limit]
    #[arg(long, value_name = "N", value_parser = range(1, 1 << 20))]
    judges: Option<usize>,
    /// Keep all models in memory, and let them answer by turns [default: one model after another]
    #[arg(long)]
    together: bool,
    /// Make the answers and end, without a page
    #[arg(long)]
    only_answers: bool,
    /// The port; 0 lets the system choose
    #[arg(long, default_value_t = 8090)]
    port: u16,
    /// The address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// A name of this machine that judges' browsers may call it by; may be given more than once
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    #[command(flatten)]
    machine: MachineFlags,
}

/// Flags of `herd arena report`.
#[derive(Debug, clap::Args)]
struct ReportFlags {
    /// The file of votes
    #[arg(value_name = "FILE.sqlite")]
    db: PathBuf,
    /// Drawings of the prompts that ratings' intervals come from
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = range(20, 1 << 20))]
    bootstrap: usize,
    /// What they depend on
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Judges whose votes do not count
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    without: Vec<String>,
}

/// Flags of `herd arena export`.
#[derive(Debug, clap::Args)]
struct ExportFlags {
    /// The file of votes
    #[arg(value_name = "FILE.sqlite")]
    db: PathBuf,
    /// The rows
    #[arg(short, long, value_name = "ROWS.jsonl")]
    out: PathBuf,
    /// Judges whose votes become no rows
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    without: Vec<String>,
}

/// Flags of `herd arena judge`.
#[derive(Debug, clap::Args)]
struct JudgeFlags {
    /// The file of answers and votes
    #[arg(value_name = "FILE.sqlite")]
    db: PathBuf,
    /// The judge: a file, a folder, or a name in the store; with --url the name of the endpoint's model
    #[arg(short, long)]
    model: String,
    /// An endpoint of OpenAI's kind, such as http://127.0.0.1:8080/v1
    #[arg(long)]
    url: Option<String>,
    /// The variable of the environment that holds the endpoint's key
    #[arg(long, requires = "url", value_name = "NAME")]
    key_env: Option<String>,
    /// Judge only what people voted on
    #[arg(long)]
    voted: bool,
    /// Tokens of a verdict at most
    #[arg(short = 'n', long, default_value_t = 256, value_name = "N", value_parser = range(1, 1 << 20))]
    max_tokens: usize,
    #[command(flatten)]
    machine: MachineFlags,
}

/// `NAME=MODEL`, or a model that is called as its file is.
fn named(text: &str) -> Result<Named, String> {
    let (name, model) = match text.split_once('=') {
        Some((name, model)) => (name.to_owned(), model.to_owned()),
        None => {
            let file = Path::new(text).file_name().unwrap_or_default().to_string_lossy();
            (file.strip_suffix(".gguf").unwrap_or(&file).to_owned(), text.to_owned())
        }
    };
    match name.trim().is_empty() || model.is_empty() || name.chars().any(char::is_control) {
        true => Err("expected a model, or NAME=MODEL".to_owned()),
        false => Ok(Named { name, model }),
    }
}

/// Does what the verb says.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    match &flags.verb {
        Verb::Serve(flags) => serve(flags, console),
        Verb::Report(flags) => report(flags, console),
        Verb::Export(flags) => export(flags, console),
        Verb::Judge(flags) => judge(flags, console, offline),
    }
}

/// Errors: a number out of its bounds.
fn within(what: &'static str, value: f64, most: f64) -> Result<f64, Error> {
    if (0.0..=most).contains(&value) {
        return Ok(value);
    }
    let expected = format!("between 0 and {most}");
    Err(Error::Value { what, got: value.to_string(), expected })
}

impl MachineFlags {
    fn device(&self) -> Result<Device, Error> {
        Ok(Device::cpu(class(self.class.as_deref())?, threads(self.threads)?))
    }

    fn chat(&self) -> ChatConfig {
        ChatConfig { template: self.chat_template.clone(), ..ChatConfig::default() }
    }

    fn ask(&self, (temperature, top_p): (f64, f64), max_tokens: usize) -> AskConfig {
        let MachineFlags { ctx_size: context, parallel, .. } = *self;
        AskConfig { temperature, top_p, max_tokens, context, parallel }
    }
}

fn serve(flags: &ServeFlags, console: &Console) -> Result<Verdict, Error> {
    let models = check_names(&flags.models)?;
    let rules = Rules {
        seed: flags.seed,
        repeats: within("--repeats", flags.repeats, 0.9)?,
        judges_max: flags.judges.unwrap_or(0),
    };
    let sampling = (within("--temp", flags.temp, 100.0)?, within("--top-p", flags.top_p, 1.0)?);
    let manner = Manner {
        ask: flags.machine.ask(sampling, flags.max_tokens),
        chat: flags.machine.chat(),
        seed: flags.seed,
        device: flags.machine.device()?,
        together: flags.together,
    };
    let taxonomy = Taxonomy::ALL.into_iter().find(|(name, _)| *name == flags.taxonomy);
    let (_, taxonomy) = taxonomy.expect("the flag's parser lets these names through");
    let prompts = read(&flags.prompts, &Fields { skill: &flags.skill_field, taxonomy })?;
    let contestants: Vec<_> =
        models.iter().map(|model| model.contestant(&manner)).collect::<Result<_, _>>()?;
    let ballots = Arc::new(Ballots::open(&flags.db)?);
    ballots.fix("seed", &flags.seed.to_string())?;
    let total = ballots.add(&prompts)?;
    let ids = ballots.serve(&contestants)?;
    let models: Vec<(i64, Named)> = ids.into_iter().zip(models.iter().cloned()).collect();
    if flags.only_answers {
        let stop = stop_on_interrupt(console);
        answer(&ballots, &models, &manner, true, &stop, console)?;
        let over = if stop.load(Ordering::Relaxed) {
            "stopped; the same command goes on"
        } else {
            "all answers are made"
        };
        console.note(over);
        return Ok(Verdict::Done);
    }
    let settings = Settings {
        names: flags.name.clone(),
        ..Settings::new(SocketAddr::new(flags.host, flags.port), log_line)
    };
    let arena = Arena::open(settings, Arc::clone(&ballots), rules)?;
    console.note(format!(
        "{} prompts; listening on http://{}, Ctrl-C ends",
        count(total as u64),
        arena.address()
    ));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            let done = answer(&ballots, &models, &manner, false, &stop, console);
            if let Err(error) = &done {
                console.note(format!("no more answers are made: {}", error.line()));
            }
            done
        });
        let served = arena.serve();
        stop.store(true, Ordering::Relaxed);
        let made = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        served?;
        made.map(|()| Verdict::Done)
    })
}

fn log_line(line: &str) {
    let _ = writeln!(stderr().lock(), "{line}"); // nobody is left to tell
}

/// Errors: fewer than two models, or two of one name.
fn check_names(models: &[Named]) -> Result<&[Named], Error> {
    let refused = |got: String, expected: &str| {
        Err(Error::Value { what: "--models", got, expected: expected.to_owned() })
    };
    for (i, model) in models.iter().enumerate() {
        if models[..i].iter().any(|other| other.name == model.name) {
            return refused(model.name.clone(), "a name for each, as NAME=MODEL");
        }
    }
    match models.len() {
        0 | 1 => refused(models[0].name.clone(), "two models or more"),
        _ => Ok(models),
    }
}

fn report(flags: &ReportFlags, console: &Console) -> Result<Verdict, Error> {
    let bootstrap = Bootstrap { draws: flags.bootstrap, seed: flags.seed };
    let report = Report::of(&open(&flags.db)?, bootstrap, &flags.without)?;
    if console.json {
        console.print_json(&report)?;
    } else {
        report.print(console)?;
    }
    Ok(Verdict::Done)
}

fn export(flags: &ExportFlags, console: &Console) -> Result<Verdict, Error> {
    let summary = export::write(&open(&flags.db)?.votes()?, &flags.without, &flags.out)?;
    if console.json {
        console.print_json(&summary)?;
        return Ok(Verdict::Done);
    }
    let (rows, edited) = (summary.rows, summary.edited);
    console
        .print(format!("{rows} rows in {}, {edited} with an edited answer", flags.out.display()))?;
    for (reason, votes) in &summary.dropped {
        console.print(format!("left out: {votes} votes ({reason})"))?;
    }
    Ok(Verdict::Done)
}

fn judge(flags: &JudgeFlags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    let ballots = open(&flags.db)?;
    let (device, chat) = (flags.machine.device()?, flags.machine.chat());
    let mut ask = flags.machine.ask((0.0, 1.0), flags.max_tokens);
    let writer = WriterConfig {
        model: PathBuf::from(&flags.model),
        base_url: flags.url.clone(),
        key_env: flags.key_env.clone(),
        ..WriterConfig::base()
    };
    let base = Path::new(".");
    if flags.url.is_none() {
        ask.context =
            ask.context.min(Checkpoint::open(&find(&writer.model, base)?)?.config.context);
    }
    let wanted = Wanted { writer: &writer, ask: &ask, chat: &chat, base, device: &device, offline };
    let mut source = writer::open(&wanted, console)?;
    let name = match &source {
        Source::Local(_) => format!("{} {}", flags.model, &source.hash()[..12]),
        Source::Endpoint(_) => writer.name(),
    };
    let left = ballots.unjudged_count(&name, flags.voted)?;
    console.note(format!("{} verdicts are asked for, one for each order", count(left as u64)));
    let stop = stop_on_interrupt(console);
    let asked = Asked { name: &name, voted: flags.voted, max_tokens: flags.max_tokens };
    let (read, unread) = judge::ask(&ballots, &asked, &mut source, &stop)?;
    if stop.load(Ordering::Relaxed) {
        console.note("stopped; the same command goes on");
        return Ok(Verdict::Done);
    }
    let report = Report::of(&ballots, Bootstrap { draws: 20, seed: 1 }, &[])?;
    let told = report.models_that_judge.get(&name);
    if console.json {
        console.print_json(
            &json!({ "judge": name, "asked": read + unread, "unread": unread, "told": told }),
        )?;
    } else {
        console.print(format!("{} verdicts, {unread} unreadable", read + unread))?;
        if unread > 0 {
            console.note("the same command asks for these again; a larger -c or -n may help");
        }
        report.print_machines(console)?;
    }
    Ok(Verdict::Done)
}
