//! What the verbs of training share: flags, the tokenizer and shards of a run, and how it is told.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use herd_codec::Tokenizer;
use herd_codec::chat::ChatFormat;
use herd_data::disk::{RealDisk, make_folder};
use herd_data::read::Sources;
use herd_data::{Ends, Ledger, TokenizeOptions, tokenize};
use herd_model::{Config, GenerationDefaults};
use herd_tensor::Device;
use herd_train::config::ChatConfig;
use herd_train::dpo::DpoConfig;
use herd_train::plan::{plan, savings};
use herd_train::reward::RewardConfig;
use herd_train::runs::Run;
use herd_train::{Chat, Event, Inputs, RunConfig, TrainError, Trainer, Words, network, report};

use crate::about::{About, TEMPLATE};
use crate::commands::sample::rewards;
use crate::console::{Console, count};
use crate::error::Error;
use crate::teller::Teller;
use crate::{flags, machine, vocabulary};

/// Flags of every stage.
#[derive(Debug, clap::Args)]
pub struct RunFlags {
    /// The settings, in TOML
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The run's folder; the same command takes up what it finds there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Override a setting: `--set optim.lr=3e-4`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
}

/// Flags of a stage whose batches another program can repeat.
#[derive(Debug, clap::Args)]
pub struct StageFlags {
    #[command(flatten)]
    pub run: RunFlags,
    /// Train nothing: write the first weights into checkpoints/step-0, and the batches of the first
    /// N steps and of the validation into batches.safetensors
    #[arg(long, value_name = "N")]
    export: Option<u64>,
}

/// `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// Opens a run, does with it what `stage` says (a loop over its steps), and tells how it goes.
pub fn run(
    flags: &RunFlags,
    config: RunConfig,
    name: &'static str,
    stage: impl FnOnce(&mut Trainer<'_>) -> Result<(), TrainError>,
    console: &Console,
) -> Result<(), Error> {
    with_inputs(flags, config, name, console, |inputs, watch| {
        let mut trainer = Trainer::open(inputs, watch)?;
        stage(&mut trainer)?;
        for told in trainer.ledger().into_iter().flat_map(left_out) {
            console.note(told);
        }
        for (reason, rows) in trainer.dropped_prompts().into_iter().flatten() {
            console.note(format!("left out: {} rows ({reason})", count(*rows)));
        }
        if let Some(path) = trainer.last_checkpoint() {
            console.note(format!("the model stands in {}", path.display()));
        }
        Ok(())
    })?;
    let report = Run::open(&flags.out).and_then(|run| report::write(&run));
    match report {
        Ok(()) => {
            console.note(format!("{} tells of the run", flags.out.join("report.md").display()))
        }
        Err(error) => console.note(format!("no report: {error}")), // the run itself is whole
    }
    Ok(())
}

/// What packing left out of the documents that were drawn, in words.
fn left_out(ledger: &Ledger) -> Vec<String> {
    let dropped = ledger.dropped.iter().map(|(reason, dropped)| {
        let (documents, tokens) = (count(dropped.documents), count(dropped.tokens));
        format!("left out: {documents} documents of {tokens} tokens ({reason})")
    });
    let shortened = (ledger.shortened > 0).then(|| {
        format!("left out: {} tokens behind the ends of rows (shortened)", count(ledger.shortened))
    });
    dropped.chain(shortened).collect()
}

/// The same, or in place of training what another program needs to repeat it.
pub fn run_or_export(
    flags: &StageFlags,
    config: RunConfig,
    name: &'static str,
    stage: impl FnOnce(&mut Trainer<'_>) -> Result<(), TrainError>,
    console: &Console,
) -> Result<(), Error> {
    let Some(steps) = flags.export else { return run(&flags.run, config, name, stage, console) };
    let export = |run: &mut Trainer<'_>| {
        let path = herd_train::export(run, steps)?;
        console.note(format!("wrote {}", path.display()));
        Ok(())
    };
    run(&flags.run, config, name, export, console)
}

/// Makes ready what a stage needs and gives it to `f`, with the one who tells how it goes.
pub fn with_inputs<T>(
    flags: &RunFlags,
    config: RunConfig,
    name: &'static str,
    console: &Console,
    f: impl FnOnce(Inputs<'_>, &mut dyn FnMut(Event<'_>)) -> Result<T, TrainError>,
) -> Result<T, Error> {
    let device = Device::cpu(flags::class(flags.class.as_deref())?, flags::threads(flags.threads)?);
    let mut words = words(&config.tokenizer)?;
    if let Some(chat) = &config.chat {
        teach_chat(&config, chat, &mut words)?;
    }
    make_folder(&flags.out).map_err(Error::io("make", &flags.out))?;
    refuse_what_does_not_fit(&config, &network(&config, &words)?, device.threads())?;
    let shards = match config.rollout {
        None => shards(&config, &words, &flags.out, device.threads(), console)?,
        Some(_) => PathBuf::new(),
    };
    let rewards = match (&config.score, &config.chat) {
        (Some(scores), Some(chat)) => rewards(scores, Path::new(""), chat, &device)?,
        _ => Vec::new(),
    };
    let stop = stop_on_interrupt(console);
    let mut teller = Teller::new(&config, &device, &flags.out, console)?;
    let out = &flags.out;
    let inputs = Inputs {
        stage: name,
        config,
        words,
        out,
        shards: &shards,
        rewards,
        device: &device,
        stop: &stop,
    };
    let mut watch = |event: Event<'_>| teller.tell(&event);
    let done = f(inputs, &mut watch);
    teller.end();
    Ok(done?)
}

/// Errors: the plan of a run of a network of this shape exceeds the memory that is free; the
/// cheapest change that would do is named.
pub fn refuse_what_does_not_fit(
    config: &RunConfig,
    shape: &Config,
    threads: usize,
) -> Result<(), Error> {
    let available = machine::machine().memory_available_bytes;
    let needed = plan(config, shape, threads).peak();
    if available == 0 || needed <= available {
        return Ok(());
    }
    let mut savings = savings(config, shape, threads).into_iter();
    let change = savings.find(|(_, plan)| plan.peak() <= available).map(|(change, _)| change);
    Err(Error::RunMemory { needed, available, change })
}

/// The tokenizer at `path`, its files, and what begins and ends documents.
pub fn words(path: &Path) -> Result<Words, Error> {
    const FILES: [&str; 5] = [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        TEMPLATE,
    ];
    let tokenizer = vocabulary::load(path)?;
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let own = path.file_name().filter(|_| path.is_file());
    let mut files = Vec::new();
    for name in FILES {
        let file = folder.join(name);
        if file.is_file() && own.is_none_or(|own| own == name) {
            files.push((name.to_owned(), std::fs::read(&file).map_err(Error::io("read", &file))?));
        }
    }
    let specials = tokenizer.specials();
    let ends = Ends { bos: specials.bos.map(|id| id.0), eos: specials.eos.map(|id| id.0) };
    let generation = GenerationDefaults {
        bos_token_id: ends.bos,
        eos_token_ids: ends.eos.into_iter().collect(),
        ..GenerationDefaults::default()
    };
    Ok(Words { tokenizer: Arc::new(tokenizer), files, generation, ends, chat: None })
}

/// Makes the words of a run those of dialogues: their format, and no other ends.
///
/// Errors: nothing names a chat format, or what should cannot be opened.
fn teach_chat(config: &RunConfig, chat: &ChatConfig, words: &mut Words) -> Result<(), Error> {
    let about = About::of_run(config)?;
    let format = about.chat_format(chat.template.as_deref())?;
    let today = chat.date.as_deref().map(flags::day).transpose()?;
    words.generation.eos_token_ids = about.stop_ids(Some(&format));
    words.ends = Ends::default();
    let has = |words: &Words, name: &str| words.files.iter().any(|(file, _)| file == name);
    if !has(words, "tokenizer.json") {
        let json = words.tokenizer.to_tokenizer_json()?.into_bytes();
        words.files.push(("tokenizer.json".to_owned(), json));
    }
    let template = about.template_for(chat.template.as_deref(), &format)?;
    words.files.retain(|(name, _)| name != TEMPLATE || template.is_none());
    words.files.extend(template.map(|text| (TEMPLATE.to_owned(), text.into_bytes())));
    if config.reward.is_some() {
        words.generation.pad_token_id = filler(&words.tokenizer, &format);
    }
    let compare = config.dpo.as_ref().map(DpoConfig::compare);
    let compare = config.reward.as_ref().map(RewardConfig::compare).or(compare);
    words.chat = Some(Chat { format, today, shape: chat.shape, compare });
    Ok(())
}

/// A token that fills rows behind answers, for readers of a reward model: they take the score at the last token
/// that is not it, so that it must end no answer.
pub fn filler(tokenizer: &Tokenizer, format: &ChatFormat) -> Option<u32> {
    let specials = tokenizer.specials();
    let named = tokenizer.special_id("<|finetune_right_pad_id|>");
    let known = [specials.pad, named, specials.eos, specials.unk, specials.bos];
    let ends: Vec<_> =
        format.stops().into_iter().filter_map(|name| tokenizer.special_id(name)).collect();
    known.into_iter().flatten().find(|id| !ends.contains(id)).map(|id| id.0)
}

/// The shards of a run: those it names, or its input tokenized into its folder.
fn shards(
    config: &RunConfig,
    words: &Words,
    out: &Path,
    threads: usize,
    console: &Console,
) -> Result<PathBuf, Error> {
    if let Some(shards) = &config.data.shards {
        return Ok(shards.clone());
    }
    let folder = out.join("data");
    let inputs: Vec<String> = config.data.input.iter().map(|p| p.display().to_string()).collect();
    let sources = Sources::find(&inputs).map_err(TrainError::from)?;
    let lessons = words.chat.as_ref().map(Chat::lessons);
    let options = TokenizeOptions {
        lessons,
        validation: config.data.validation_share,
        skip_bad: config.chat.as_ref().is_some_and(|chat| chat.skip_bad),
        ..TokenizeOptions::new(threads)
    };
    let mut meter = console.meter("tokenized", None);
    let mut progress = |progress: herd_data::Progress<'_>| meter.at(progress.done.bytes);
    tokenize(&words.tokenizer, &sources, &options, &folder, &RealDisk, &mut progress)
        .map_err(TrainError::from)?;
    words.tokenizer.forget(); // training needs the memory, and encodes little
    Ok(folder)
}

/// What Ctrl-C sets: one for the whole program, since a handler can be set but once.
pub fn stop_on_interrupt(console: &Console) -> Arc<AtomicBool> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let stop = STOP.get_or_init(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&stop);
        let caught = ctrlc::set_handler(move || {
            if set.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
        if caught.is_err() {
            console.note("Ctrl-C cannot be caught here: it ends the run without a checkpoint");
        }
        stop
    });
    Arc::clone(stop)
}
