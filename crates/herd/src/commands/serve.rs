//! `herd serve`: answers over HTTP.

use std::fs;
use std::io::{Write, stderr};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use herd_serve::agent::AgentError;
use herd_serve::agent::benches::{Benches, Make};
use herd_serve::files::{Files, FilesError};
use herd_serve::keys::Keys;
use herd_serve::roster::{Roster, Rules};
use herd_serve::tls::Tls;
use herd_serve::{Door, DoorError, Inside, LogFormat, Settings};
use herd_tensor::Device;

use crate::aids::AidFlags;
use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{KvFlag, SamplingFlags, class, range, threads};
use crate::machine::machine;
use crate::models::{House, Stock, Wish, wishes};
use crate::running::Running;
use crate::store::{Store, make_folder};
use crate::toolbox::{ToolFlags, Toolbox};

/// Flags of `herd serve`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// A model: a file, a folder, or a name in the store; may be given more than once. The first is
    /// loaded at once, the others when they are asked for
    #[arg(short, long, required_unless_present = "models")]
    model: Vec<String>,
    /// More models: a folder that holds them, or a TOML file with a [models.NAME] for each
    #[arg(long, value_name = "FOLDER|FILE")]
    models: Option<PathBuf>,
    /// An adapter beside the first model, served as a model of this name; may be given more than once
    #[arg(long, value_name = "NAME=FOLDER", value_parser = lora)]
    lora: Vec<(String, PathBuf)>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// Tokens of context [default: each model's own]
    #[arg(short, long, visible_aliases = ["context", "max-model-len"], value_name = "N")]
    ctx_size: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    #[command(flatten)]
    kv: KvFlag,
    /// Unload a model that nobody has asked for so many seconds [default: models stay]
    #[arg(long, visible_alias = "keep-alive", value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Megabytes that all loaded models may take together [default: what is free at the start]
    #[arg(long, value_name = "N", value_parser = range(1, 1 << 30))]
    memory_mb: Option<usize>,
    /// The port; 0 lets the system choose
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// A name of this machine that callers without a key may use; may be given more than once
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// A key that callers must have; may be given more than once
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// A TOML file of keys and their limits: a [keys.NAME] for each
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Serve over TLS with this chain of certificates (PEM); SIGHUP reads it again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that requests call a model by, in the order of -m [default: the file's]
    #[arg(short, long, visible_alias = "served-model-name", value_name = "NAME")]
    alias: Vec<String>,
    /// Answers of a model that run at once
    #[arg(long, visible_alias = "np", default_value_t = 32, value_name = "N")]
    #[arg(value_parser = range(1, 4096))]
    parallel: usize,
    /// Answers that may wait beside them; more are sent away with 429
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = range(0, 1 << 20))]
    queue: usize,
    /// Tokens that a model's cache holds [default: N full contexts, or its share of half the free memory]
    #[arg(long, value_name = "N", value_parser = range(1, 1 << 32))]
    cache_tokens: Option<usize>,
    /// Tokens of one step at most
    #[arg(short, long, default_value_t = 512, value_name = "N", value_parser = range(1, 1 << 20))]
    batch_size: usize,
    /// An origin whose pages may ask from a browser, * for all; may be given more than once
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Megabytes of a request at most
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = range(1, 1 << 12))]
    body_mb: usize,
    /// Seconds that a head, a body, or a caller who takes nothing of its answer may take [default: 30, 60 and 60]
    #[arg(long, value_name = "SECONDS", value_parser = range(1, 1 << 20))]
    patience: Option<usize>,
    /// Where files and batches are kept [default: a folder in Herd's home, if no other server has it]
    #[arg(long, value_name = "FOLDER")]
    files_dir: Option<PathBuf>,
    /// Megabytes of a file at most
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = range(1, 1 << 16))]
    file_mb: usize,
    /// Megabytes of all files at most
    #[arg(long, default_value_t = 10_240, value_name = "N", value_parser = range(1, 1 << 30))]
    files_mb: usize,
    /// How lines of the log look: json or text
    #[arg(long, default_value = "json", value_name = "FORMAT", value_parser = log_format)]
    log_format: LogFormat,
    /// How models chat: llama2, llama3, llama3.1, llama3.1-hf, code-llama-70b, chatml, or a file with a
    /// template [default: as each model says]
    #[arg(long, visible_alias = "chat-template-file", value_name = "FORMAT")]
    chat_template: Option<String>,
    /// The file that keeps the page's conversations [default: herd.sqlite in Herd's home]
    #[arg(long, value_name = "FILE.sqlite")]
    data: Option<PathBuf>,
    /// Conversations end with the server
    #[arg(long, conflicts_with = "data")]
    no_data: bool,
    #[command(flatten)]
    tools: ToolFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    aids: AidFlags,
}

fn lora(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(folder)))
        }
        _ => Err("expected NAME=FOLDER".to_owned()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("expected json or text".to_owned()),
    }
}

/// Serves until a signal ends it.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    let settings = Settings { tools: tools(flags, offline, console)?, ..settings(flags, console)? };
    let secure = if settings.tls.is_some() { "https" } else { "http" };
    let door = Door::open(settings)?;
    let (address, inside) = (door.address(), door.inside());
    // The door is open while the model is loaded, so that callers can be told.
    let serving = thread::spawn(move || door.serve());
    let (line, names) = load(flags, &inside, console)?;
    let url = format!("{secure}://{address}");
    let running = Running::begin(&url, names);
    if let Err(error) = &running {
        console.note(format!("`herd ps` will not list this server: {}", error.line()));
    }
    console.note(format!("{line}; listening on {url}, Ctrl-C ends"));
    serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Verdict::Done)
}

fn settings(flags: &Flags, console: &Console) -> Result<Settings, Error> {
    let log = if console.quiet { |_: &str| {} } else { log_line };
    let tls = match (&flags.tls_cert, &flags.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(Arc::new(Tls::open(certificate, key).map_err(DoorError::from)?))
        }
        _ => None,
    };
    let base = Settings::new(SocketAddr::new(flags.host, flags.port), log);
    let patience = flags.patience.map(|seconds| Duration::from_secs(seconds as u64));
    Ok(Settings {
        head_time: patience.unwrap_or(base.head_time),
        body_time: patience.unwrap_or(base.body_time),
        stall_time: patience.unwrap_or(base.stall_time),
        keys: keys(flags)?,
        origins: flags.cors.clone(),
        names: flags.name.clone(),
        waiting: flags.queue,
        body_bytes: flags.body_mb << 20,
        tls,
        files: files(flags, console)?,
        file_bytes: flags.file_mb << 20,
        log_format: flags.log_format,
        data: data(flags)?,
        ..base
    })
}

/// The tools that the server runs, if any are named; each conversation gets its own.
fn tools(flags: &Flags, offline: bool, console: &Console) -> Result<Option<Arc<Benches>>, Error> {
    let ToolFlags { tools, files, approve, tools_config } = &flags.tools;
    if tools.is_empty() {
        if !files.is_empty() || !approve.is_empty() || tools_config.is_some() {
            let expected = "a list of tools beside --files, --approve or --tools-config".to_owned();
            return Err(Error::Value { what: "--tools", got: String::new(), expected });
        }
        return Ok(None);
    }
    let toolbox = Toolbox::open(&flags.tools, None, offline, console)?;
    let make: Make = Box::new(move |files| {
        toolbox.tools(files, None).map_err(|error| match error {
            Error::Agent(error) => error,
            Error::Value { what, got, expected } => AgentError::Value { what, got, expected },
            error => AgentError::Tool { name: "list".to_owned(), why: error.line() },
        })
    });
    Ok(Some(Arc::new(Benches::new(make)?)))
}

fn keys(flags: &Flags) -> Result<Keys, Error> {
    let mut keys = Keys::default();
    for (i, key) in flags.api_key.iter().enumerate() {
        keys.add(format!("key-{}", i + 1), key).map_err(DoorError::ApiKey)?;
    }
    if let Some(path) = &flags.api_key_file {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let wrong = |source| DoorError::Keys { path: path.clone(), source };
        keys.add_file(&text).map_err(wrong)?;
        if keys.is_empty() {
            // An empty list would let everybody in.
            let what = "a file without [keys.NAME]".to_owned();
            return Err(Error::Json { path: path.clone(), what });
        }
    }
    Ok(keys)
}

/// The folder of files: the one that was asked for, else Herd's own, if it can be had.
fn files(flags: &Flags, console: &Console) -> Result<Option<Arc<Files>>, Error> {
    let most = (flags.files_mb as u64) << 20;
    if let Some(folder) = &flags.files_dir {
        return Ok(Some(Arc::new(Files::open(folder, most).map_err(DoorError::from)?)));
    }
    match Files::open(&Store::open()?.home().join("files"), most) {
        Ok(files) => Ok(Some(Arc::new(files))),
        Err(FilesError::Taken(_)) => {
            console.note(
                "another server has the files: no /v1/files and /v1/batches here (--files-dir)",
            );
            Ok(None)
        }
        Err(error) => {
            console.note(format!("no /v1/files and /v1/batches here: {error}"));
            Ok(None)
        }
    }
}

/// The file of conversations, its folder made; none if none is wanted.
fn data(flags: &Flags) -> Result<Option<PathBuf>, Error> {
    if flags.no_data || flags.data.is_some() {
        return Ok(flags.data.clone());
    }
    let store = Store::open()?;
    make_folder(store.home())?;
    Ok(Some(store.home().join("herd.sqlite")))
}

fn log_line(line: &str) {
    let _ = writeln!(stderr().lock(), "{line}"); // nobody is left to tell
}

/// Puts the models behind the door, the first of them loaded; what there is, in a line, and their names.
fn load(flags: &Flags, inside: &Inside, console: &Console) -> Result<(String, Vec<String>), Error> {
    let device = Device::cpu(class(flags.class.as_deref())?, threads(flags.threads)?);
    let free = machine().memory_available_bytes as usize;
    let memory = flags.memory_mb.map_or(if free == 0 { usize::MAX } else { free }, |mb| mb << 20);
    let (class, threads) = (device.class(), device.threads());
    let house = House {
        device,
        kv: KvFlag { kv: flags.kv.kv.clone() },
        context: flags.ctx_size,
        parallel: flags.parallel,
        batch: flags.batch_size,
        cache_tokens: flags.cache_tokens,
        ttl: flags.ttl.map(Duration::from_secs),
        sampling: flags.sampling.clone(),
        aids: flags.aids.clone(),
        log: log_line,
    };
    let wished = wished(flags)?;
    let (stock, cards, notes) = Stock::new(house, wished)?;
    notes.iter().for_each(|note| console.note(note));
    let names: Vec<String> = cards.iter().map(|card| card.name.clone()).collect();
    let at_once: Vec<bool> = names.iter().map(|name| stock.at_once(name)).collect();
    let stock = Arc::new(stock);
    let loader = Arc::clone(&stock);
    let rules = Rules { memory, waiting: flags.queue };
    let roster = Arc::new(Roster::new(cards, rules, Box::new(move |name| loader.load(name))));
    for (name, _) in names.iter().zip(&at_once).filter(|(_, at_once)| **at_once) {
        stock.check(name)?;
        let refused =
            |refusal: herd_serve::refusal::Refusal| Error::Command { problem: refusal.message };
        roster.load_now(name).map_err(refused)?;
    }
    let of = |limits: herd_engine::Limits| {
        let held = limits.pages() * limits.page_len;
        let (context, parallel) = (limits.context, limits.parallel);
        format!("context {context}, {parallel} answers at once, {held} tokens in the cache")
    };
    let mut line = format!("{} in class {class} on {threads} threads", names[0]);
    if let Ok(ready) = roster.first() {
        line = format!("{line}, {}", of(ready.served.limits));
    }
    if names.len() > 1 {
        line = format!("{line}, {} models in all", names.len());
    }
    inside.ready(roster);
    Ok((line, names))
}

/// The models that the flags ask for; adapters stand beside the first.
fn wished(flags: &Flags) -> Result<Vec<Wish>, Error> {
    let mut wished: Vec<Wish> = Vec::new();
    for (i, model) in flags.model.iter().enumerate() {
        let name = flags.alias.get(i).cloned();
        wished.push(Wish { name, model: model.clone(), load: i == 0, ..Wish::default() });
    }
    if let Some(path) = &flags.models {
        wished.extend(wishes(path)?);
    }
    let first = wished[0].clone();
    for (name, folder) in &flags.lora {
        let lora = Some((folder.clone(), first.name.clone()));
        wished.push(Wish { name: Some(name.clone()), lora, load: false, ..first.clone() });
    }
    for wish in &mut wished {
        wish.chat_template = wish.chat_template.take().or_else(|| flags.chat_template.clone());
    }
    Ok(wished)
}
