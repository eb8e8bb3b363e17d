//! `herd serve`: answers over HTTP.

use std::io::{Write, stderr};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::UNIX_EPOCH;

use herd_engine::Limits;
use herd_engine::plan::Plan;
use herd_model::checkpoint::Checkpoint;
use herd_serve::forms::Forms;
use herd_serve::served::Facts;
use herd_serve::{Door, Inside, Served, Settings};

use crate::about::{About, today};
use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, SamplingFlags, range};
use crate::machine::machine;
use crate::run::{self, Ready};

/// Flags of `herd serve`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
    /// The port; 0 lets the system choose
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// A key that callers must have; may be given more than once
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// The name that requests call the model by [default: the file's]
    #[arg(short, long, visible_alias = "served-model-name", value_name = "NAME")]
    alias: Option<String>,
    /// Answers that run at once
    #[arg(long, visible_alias = "np", default_value_t = 32, value_name = "N")]
    #[arg(value_parser = range(1, 4096))]
    parallel: usize,
    /// Answers that may wait beside them; more are sent away with 429
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = range(0, 1 << 20))]
    queue: usize,
    /// Tokens that the cache holds in all [default: N full contexts, or what half the free memory holds]
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
    /// How the model chats: llama2, llama3, llama3.1, llama3.1-hf, code-llama-70b, chatml, or a file with a
    /// template [default: as the model says]
    #[arg(long, visible_alias = "chat-template-file", value_name = "FORMAT")]
    chat_template: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// Serves until a signal ends it.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let door = Door::open(settings(flags, console))?;
    let (address, inside) = (door.address(), door.inside());
    // The door is open while the model is loaded, so that callers can be told.
    let serving = thread::spawn(move || door.serve());
    let line = load(flags, &inside)?;
    console.note(format!("{line}; listening on http://{address}, Ctrl-C ends"));
    serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Verdict::Done)
}

fn settings(flags: &Flags, console: &Console) -> Settings {
    let log = if console.quiet { |_: &str| {} } else { log_line };
    Settings {
        keys: flags.api_key.clone(),
        origins: flags.cors.clone(),
        waiting: flags.queue,
        body_bytes: flags.body_mb << 20,
        ..Settings::new(SocketAddr::new(flags.host, flags.port), log)
    }
}

fn log_line(line: &str) {
    let _ = writeln!(stderr().lock(), "{line}"); // nobody is left to tell
}

/// Loads the model and puts it behind the door; what was loaded, in a line.
fn load(flags: &Flags, inside: &Inside) -> Result<String, Error> {
    let (checkpoint, limits) = run::open(&flags.model, &flags.kv, None)?;
    let limits = limits_of(flags, &checkpoint, limits)?;
    let Ready { about, model, limits } = run::ready(&checkpoint, limits, &flags.model)?;
    let format = match (&flags.chat_template, about.template()) {
        (None, None) => None,
        _ => Some(about.chat_format(flags.chat_template.as_deref())?),
    };
    let sampling = flags.sampling.sampling(&about.defaults)?;
    let config = model.config();
    let vocab = config.vocab;
    sampling.check(vocab)?;
    let served = Served {
        name: flags.alias.clone().unwrap_or_else(|| name_of(&about)),
        created: created(&about.path),
        tokenizer: Arc::clone(&about.tokenizer),
        text_stops: about.stop_ids(None),
        chat_stops: about.stop_ids(format.as_ref()),
        format,
        sampling,
        seed: flags.sampling.seed,
        limits,
        vocab,
        forms: Arc::new(Forms::new(Arc::clone(&about.tokenizer), vocab)),
        class: model.device().class().name(),
        facts: Facts {
            parameters: config.params(),
            bytes: model.weight_bytes(),
            width: config.width,
            format: model.format().name(),
            container: container(&about.path),
        },
        kept: Arc::default(),
        today,
    };
    let device = model.device();
    let (class, threads) = (device.class(), device.threads());
    let held = limits.pages() * limits.page_len;
    let line = format!(
        "{} in class {class} on {threads} threads, context {}, {} answers at once, {held} tokens in the cache",
        served.name, limits.context, limits.parallel
    );
    let tokenizer = Arc::clone(&about.tokenizer);
    inside.ready(served, model, tokenizer, limits);
    Ok(line)
}

/// The engine's limits: the cache takes what was asked for, else as much of all contexts as half
/// of the free memory holds, and a context at least.
fn limits_of(flags: &Flags, checkpoint: &Checkpoint, limits: Limits) -> Result<Limits, Error> {
    let (parallel, batch) = (flags.parallel, flags.batch_size);
    let limits = Limits { parallel, batch, positions: flags.cache_tokens, ..limits };
    if flags.cache_tokens.is_some() {
        return Ok(limits);
    }
    let plan = Plan::new(checkpoint, limits)?;
    let free = machine().memory_available_bytes as usize;
    let room = (free / 2).saturating_sub(plan.peak() - plan.cache);
    if free == 0 || plan.cache <= room {
        return Ok(limits);
    }
    let position = plan.cache.div_ceil(limits.pages() * limits.page_len);
    Ok(Limits { positions: Some(room / position), ..limits })
}

/// The file's or folder's name without its ending.
fn name_of(about: &About) -> String {
    let name = about.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_suffix(".gguf").map_or(name.clone(), str::to_owned)
}

/// The kind of a model's file, by its ending.
fn container(path: &Path) -> &'static str {
    if path.extension().is_some_and(|ending| ending == "gguf") { "gguf" } else { "safetensors" }
}

/// When a file was written, in seconds since 1970; 0 where the system does not say.
fn created(path: &Path) -> u64 {
    let written = path.metadata().and_then(|data| data.modified()).ok();
    written.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
}
