//! `herd tokenizer`: learns a vocabulary, extends one, says how well one fits a text.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use herd_codec::Tokenizer;
use herd_codec::tokenizer::train::{
    Extension, Guard, LLAMA3_TOKEN_BYTES, NewIds, PieceCounts, Split, Trained, Training, extend,
    fold, special_names, train,
};
use herd_tensor::files::NewFolder;
use serde_json::{Value, json};

use crate::carry::tokenizer_config;
use crate::commands::refuse_existing;
use crate::console::{Console, Verdict, bytes, count};
use crate::error::Error;
use crate::fit::{Part, measure};
use crate::store::Store;
use crate::texts::Texts;
use crate::{flags, vocabulary};

/// Flags of `herd tokenizer`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Learn a byte-level vocabulary from texts
    Train(TrainFlags),
    /// Add merges for other languages to a vocabulary; its ids stay
    Extend(ExtendFlags),
    /// Say how well a vocabulary fits texts: by source, language and domain
    Stats(StatsFlags),
}

/// Which texts, and on how many threads.
#[derive(Debug, clap::Args)]
struct InputFlags {
    /// Files or folders: .txt, .jsonl (also .gz, .zst), .parquet
    #[arg(short, long, required = true, num_args = 1.., value_name = "PATH")]
    input: Vec<PathBuf>,
    /// The field of a JSON line, or the column of Parquet, that holds the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    field: String,
    /// Pass over records that hold no text, and count them
    #[arg(long)]
    skip_bad: bool,
    /// Threads that compute; they change nothing [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Debug, clap::Args)]
struct TrainFlags {
    #[command(flatten)]
    input: InputFlags,
    /// Number of ids: 256 bytes, merges and special tokens together
    #[arg(long, value_name = "N")]
    vocab_size: usize,
    /// A new folder for the vocabulary
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// How texts are cut: llama3, qwen2, gpt-2, smollm ..., or a regular expression
    #[arg(long, default_value = "llama3", value_name = "NAME|PATTERN")]
    split: String,
    /// Special tokens: how many by Llama 3's convention, or a file with a name on each line
    #[arg(long, default_value = "256", value_name = "N|FILE")]
    specials: String,
    /// Longest token in bytes
    #[arg(long, default_value_t = LLAMA3_TOKEN_BYTES, value_name = "N")]
    max_token_bytes: usize,
}

#[derive(Debug, clap::Args)]
struct ExtendFlags {
    /// The vocabulary to extend: a folder, a file, or a name in the store
    #[arg(long, value_name = "DIR")]
    base: String,
    #[command(flatten)]
    input: InputFlags,
    /// How many merges to add
    #[arg(long, value_name = "N")]
    add: usize,
    /// A new folder for the vocabulary
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Texts whose ids stay, in place of all text without letters beyond ASCII
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with = "unprotected")]
    protect: Vec<PathBuf>,
    /// Learn whatever is commonest: ids of any text may change
    #[arg(long)]
    unprotected: bool,
    /// Move special tokens behind the new ones, where a rank file wants them
    #[arg(long)]
    specials_last: bool,
    /// Texts to measure besides
    #[arg(long, num_args = 1.., value_name = "PATH")]
    measure: Vec<PathBuf>,
    /// Longest new token in bytes
    #[arg(long, default_value_t = LLAMA3_TOKEN_BYTES, value_name = "N")]
    max_token_bytes: usize,
}

#[derive(Debug, clap::Args)]
struct StatsFlags {
    /// The vocabulary: a folder, a file, or a name in the store
    #[arg(long, visible_alias = "model", value_name = "DIR")]
    tokenizer: String,
    #[command(flatten)]
    input: InputFlags,
}

/// Does what the command line asks.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    match &flags.command {
        Command::Train(flags) => learn(flags, console),
        Command::Extend(flags) => add(flags, console),
        Command::Stats(flags) => stats(flags, console),
    }
}

fn learn(flags: &TrainFlags, console: &Console) -> Result<Verdict, Error> {
    refuse_existing(&flags.out)?;
    let training = Training {
        vocab_size: flags.vocab_size,
        split: Split::new(&flags.split)?,
        specials: specials(&flags.specials)?,
        token_bytes_max: token_bytes(flags.max_token_bytes)?,
    };
    let (texts, threads) = flags.input.open()?;
    let begun = Instant::now();
    let pieces = count_pieces(&texts, &training.split, threads)?;
    let counted = begun.elapsed();
    let mut meter = console.meter("merges", None);
    let trained = train(&pieces, &training, &mut |done, all| meter.step(done, all))?;
    drop(meter);
    let learnt = begun.elapsed() - counted;
    let fit = measure(&texts, &[&trained.tokenizer], threads)?;
    let report = json!({
        "vocab_size": trained.tokenizer.vocab_size(),
        "merges": trained.merges.len(),
        "merges_asked": trained.merges_asked,
        "specials": training.specials.len(),
        "split": flags.split,
        "bytes": pieces.bytes(),
        "pieces": pieces.pieces(),
        "distinct_pieces": pieces.distinct(),
        "tokens": trained.tokens.1,
        "last_count": trained.merges.last().map(|merge| merge.count),
        "seconds": {
            "count": counted.as_secs_f64(),
            "merge": learnt.as_secs_f64(),
            "measure": (begun.elapsed() - counted - learnt).as_secs_f64(),
        },
        "records_skipped": texts.skipped(),
        "compression": fit.json(part_json),
    });
    note_skipped(&texts, console);
    let config = tokenizer_config(&trained.tokenizer, None);
    write(&flags.out, &trained, vec![("tokenizer_config.json", config)], &report, console)?;
    if console.json {
        console.print_json(&report)?;
    } else {
        fit.print(console, &PART_HEAD, part_row)?;
    }
    Ok(Verdict::Done)
}

fn add(flags: &ExtendFlags, console: &Console) -> Result<Verdict, Error> {
    refuse_existing(&flags.out)?;
    let base_path = Store::open()?.resolve_file(&flags.base)?;
    let base = vocabulary::load(&base_path)?;
    let (texts, threads) = flags.input.open()?;
    let split = Split::of(&base);
    let pieces = count_pieces(&texts, &split, threads)?;
    let open = |paths: &[PathBuf]| match paths {
        [] => Ok(None),
        paths => Texts::find(paths, &flags.input.field, flags.input.skip_bad).map(Some),
    };
    let (protected, others) = (open(&flags.protect)?, open(&flags.measure)?);
    let guarded = protected.as_ref().map(|texts| count_pieces(texts, &split, threads));
    let guarded = guarded.transpose()?;
    let extension = Extension {
        add: flags.add,
        ids: if flags.specials_last { NewIds::BeforeSpecials } else { NewIds::Last },
        guard: match (&guarded, flags.unprotected) {
            (Some(pieces), _) => Guard::Text(pieces),
            (None, true) => Guard::Nothing,
            (None, false) => Guard::English,
        },
        token_bytes_max: token_bytes(flags.max_token_bytes)?,
    };
    let mut meter = console.meter("merges", None);
    let trained = extend(&base, &pieces, &extension, &mut |done, all| meter.step(done, all))?;
    drop(meter);
    let mut fit = measure(&texts, &[&base, &trained.tokenizer], threads)?;
    for texts in protected.iter().chain(&others) {
        fit.absorb(measure(texts, &[&base, &trained.tokenizer], threads)?);
    }
    let report = json!({
        "vocab_size": trained.tokenizer.vocab_size(),
        "base_vocab_size": base.vocab_size(),
        "added": trained.merges.len(),
        "asked": trained.merges_asked,
        "first_id": trained.merges.first().map(|merge| merge.id),
        "guard": match extension.guard {
            Guard::English => "english",
            Guard::Text(_) => "protected texts",
            Guard::Nothing => "nothing",
        },
        "records_skipped": texts.skipped(),
        "compression": fit.json(change_json),
    });
    note_skipped(&texts, console);
    let companions = companions(&base_path, &trained.tokenizer, extension.ids)?;
    write(&flags.out, &trained, companions, &report, console)?;
    if console.json {
        console.print_json(&report)?;
    } else {
        fit.print(console, &CHANGE_HEAD, change_row)?;
    }
    Ok(Verdict::Done)
}

fn stats(flags: &StatsFlags, console: &Console) -> Result<Verdict, Error> {
    let tokenizer = vocabulary::load(&Store::open()?.resolve_file(&flags.tokenizer)?)?;
    let (texts, threads) = flags.input.open()?;
    let fit = measure(&texts, &[&tokenizer], threads)?;
    let (unused, text_ids) = fit.unused(&tokenizer);
    note_skipped(&texts, console);
    if console.json {
        let mut report = fit.json(part_json);
        report["vocab_size"] = json!(tokenizer.vocab_size());
        report["text_ids"] = json!(text_ids);
        report["unused_ids"] = json!(unused);
        report["records_skipped"] = json!(texts.skipped());
        console.print_json(&report)?;
    } else {
        fit.print(console, &PART_HEAD, part_row)?;
        let (unused, all) = (count(unused as u64), count(text_ids as u64));
        console.print(format!("{unused} of {all} text tokens occur nowhere"))?;
    }
    Ok(Verdict::Done)
}

/// Says how many records were passed over, if any.
fn note_skipped(texts: &Texts, console: &Console) {
    if texts.skipped() > 0 {
        console.note(format!("passed over {} records without a text", count(texts.skipped())));
    }
}

impl InputFlags {
    fn open(&self) -> Result<(Texts, usize), Error> {
        let texts = Texts::find(&self.input, &self.field, self.skip_bad)?;
        Ok((texts, flags::threads(self.threads)?))
    }
}

/// How often each piece occurs in all texts.
fn count_pieces(texts: &Texts, split: &Split, threads: usize) -> Result<PieceCounts, Error> {
    let chunks = texts.chunks(|text| split.last_cut(text));
    let parts = fold(threads, chunks, PieceCounts::default, |pieces, chunk| {
        texts.each(chunk, |text| Ok(pieces.add(split, &text.text)?))
    })?;
    let mut all = PieceCounts::default();
    parts.into_iter().try_for_each(|part| all.absorb(part))?;
    Ok(all)
}

/// The names of special tokens: a number of Llama 3's, or the lines of a file.
fn specials(number_or_file: &str) -> Result<Vec<String>, Error> {
    let least = special_names(usize::from(u8::MAX))
        .iter()
        .rposition(|name| !name.starts_with("<|reserved"));
    let least = least.map_or(0, |at| at + 1);
    match number_or_file.parse::<usize>() {
        Ok(n) if n == 0 || (least..1 << 16).contains(&n) => Ok(special_names(n)),
        Ok(n) => {
            let expected = format!("0, {least} to 65535, or a file of names");
            Err(Error::Value { what: "--specials", got: n.to_string(), expected })
        }
        Err(_) => {
            let path = Path::new(number_or_file);
            let names = fs::read_to_string(path).map_err(Error::io("read", path))?;
            Ok(names.lines().filter(|name| !name.is_empty()).map(str::to_owned).collect())
        }
    }
}

fn token_bytes(limit: usize) -> Result<usize, Error> {
    match limit {
        2..=1024 => Ok(limit),
        _ => {
            let (got, expected) = (limit.to_string(), "between 2 and 1024".to_owned());
            Err(Error::Value { what: "--max-token-bytes", got, expected })
        }
    }
}

/// What lies beside the base and stays true: its configuration and its chat template.
fn companions(
    base: &Path,
    tokenizer: &Tokenizer,
    ids: NewIds,
) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let folder = if base.is_dir() { base } else { base.parent().unwrap_or(Path::new("")) };
    let read = |name: &'static str| match fs::read(folder.join(name)) {
        Ok(bytes) => Ok(Some((name, bytes))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &folder.join(name))(e)),
    };
    let (name, config) = match read("tokenizer_config.json")? {
        None => ("tokenizer_config.json", tokenizer_config(tokenizer, None)),
        Some((name, bytes)) if ids == NewIds::Last => (name, bytes),
        Some((name, bytes)) => {
            let mut config: Value = serde_json::from_slice(&bytes).map_err(|e| {
                let what = format!("damaged ({e})");
                Error::Json { path: folder.join(name), what }
            })?;
            // It lists special tokens by the ids that they had.
            if let Some(fields) = config.as_object_mut() {
                fields.shift_remove("added_tokens_decoder");
            }
            (name, serde_json::to_vec_pretty(&config).expect("it was JSON before"))
        }
    };
    let others = [read("special_tokens_map.json")?, read("chat_template.jinja")?];
    Ok([(name, config)].into_iter().chain(others.into_iter().flatten()).collect())
}

/// Writes the folder and says what it holds.
fn write(
    out: &Path,
    trained: &Trained,
    companions: Vec<(&'static str, Vec<u8>)>,
    report: &Value,
    console: &Console,
) -> Result<(), Error> {
    let tokenizer = &trained.tokenizer;
    let report = serde_json::to_vec_pretty(report).expect("strings and numbers serialise");
    let json = tokenizer.to_tokenizer_json()?.into_bytes();
    let mut files = vec![("tokenizer.json", json), ("stats.json", report)];
    files.extend(companions);
    match tokenizer.to_tiktoken() {
        Ok(ranks) => files.push(("tokenizer.model", ranks)),
        Err(error) => console.note(format!("no tokenizer.model: {error}")),
    }
    let folder = NewFolder::create(out)?;
    for (name, bytes) in &files {
        folder.write(name, bytes)?;
    }
    folder.publish()?;
    let (got, asked) = (trained.merges.len(), trained.merges_asked);
    if got < asked {
        let (got, asked) = (count(got as u64), count(asked as u64));
        console
            .note(format!("the text gave {got} merges of {asked}: no further pair may be joined"));
    }
    let size = count(tokenizer.vocab_size() as u64);
    console.note(format!("wrote {} with {size} ids", out.display()));
    Ok(())
}

const PART_HEAD: [&str; 5] = ["size", "bytes/token", "chars/token", "tokens/word", "1-byte tokens"];

fn part_row(part: &Part) -> Vec<String> {
    let fit = part.last();
    let figures = [fit.bytes_per_token(), fit.chars_per_token(), fit.tokens_per_word()];
    let figures = figures.map(|figure| format!("{figure:.3}"));
    let single = format!("{:.1} %", 100.0 * fit.single_byte_share());
    [vec![bytes(fit.bytes)], figures.to_vec(), vec![single]].concat()
}

fn part_json(part: &Part) -> Value {
    let fit = part.last();
    json!({
        "texts": part.texts,
        "bytes": fit.bytes,
        "chars": fit.chars,
        "words": fit.words,
        "tokens": fit.tokens,
        "bytes_per_token": fit.bytes_per_token(),
        "chars_per_token": fit.chars_per_token(),
        "tokens_per_word": fit.tokens_per_word(),
        "single_byte_share": fit.single_byte_share(),
    })
}

const CHANGE_HEAD: [&str; 5] = ["size", "bytes/token before", "after", "tokens", "texts changed"];

fn change_row(part: &Part) -> Vec<String> {
    let (before, after) = (part.first(), part.last());
    vec![
        bytes(after.bytes),
        format!("{:.3}", before.bytes_per_token()),
        format!("{:.3}", after.bytes_per_token()),
        format!("{:+.2} %", 100.0 * growth(before.tokens, after.tokens)),
        format!("{} of {}", count(part.changed), count(part.texts)),
    ]
}

fn change_json(part: &Part) -> Value {
    let (before, after) = (part.first(), part.last());
    json!({
        "texts": part.texts,
        "texts_changed": part.changed,
        "bytes": after.bytes,
        "tokens_before": before.tokens,
        "tokens_after": after.tokens,
        "tokens_change": growth(before.tokens, after.tokens),
        "bytes_per_token_before": before.bytes_per_token(),
        "bytes_per_token_after": after.bytes_per_token(),
    })
}

/// How much greater `after` is, as a share of `before`.
fn growth(before: u64, after: u64) -> f64 {
    if before == 0 { 0.0 } else { after as f64 / before as f64 - 1.0 }
}
