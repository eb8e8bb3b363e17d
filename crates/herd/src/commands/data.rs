//! `herd data`: raw files to shards of tokens, and what is in them.

use std::path::{Path, PathBuf};

use herd_codec::Tokenizer;
use herd_data::corpus::{CorpusSource, Documents};
use herd_data::disk::RealDisk;
use herd_data::manifest::SourceReport;
use herd_data::read::{ReadOptions, Sources};
use herd_data::{Check, Corpus, Counts, DataError, Progress, TokenizeOptions};
use serde_json::{Value, json};

use crate::console::{Console, Meter, Verdict, bytes, count};
use crate::error::Error;
use crate::flags;
use crate::store::Store;
use crate::vocabulary;

/// Flags of `herd data`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

/// What is to be done with data.
#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make shards of tokens; run again, it goes on where it was stopped
    Tokenize(TokenizeFlags),
    /// Check shards and say what is in them
    Inspect(InspectFlags),
    /// Count the tokens of each source, writing nothing
    Count(CountFlags),
}

#[derive(Debug, clap::Args)]
struct TokenizeFlags {
    #[command(flatten)]
    input: InputFlags,
    /// The folder for the shards
    #[arg(short, long, value_name = "SHARDS")]
    output: PathBuf,
    /// Tokens of a shard at most, unless one document alone has more
    #[arg(long, value_name = "N", default_value_t = 1 << 25)]
    shard_tokens: u64,
}

#[derive(Debug, clap::Args)]
struct CountFlags {
    #[command(flatten)]
    input: InputFlags,
}

#[derive(Debug, clap::Args)]
struct InspectFlags {
    /// A folder of shards
    shards: PathBuf,
}

/// What is read, and how.
#[derive(Debug, clap::Args)]
struct InputFlags {
    /// A tokenizer: a folder or file that holds one, or a model
    #[arg(long, value_name = "DIR")]
    tokenizer: String,
    /// Files or folders of .txt, .jsonl (also .gz, .zst) or .parquet; each file is a source, and
    /// NAME=PATH makes one of all files of a path
    #[arg(long, value_name = "PATHS", num_args = 1.., required = true)]
    input: Vec<String>,
    /// The JSON field or Parquet column with the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    field: String,
    /// Cut text files into documents at the first line end after N bytes [default: a file is one
    /// document]
    #[arg(long, value_name = "N")]
    text_bytes: Option<u64>,
    /// Hold out this share of the documents, by the hash of their text
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    validation: f64,
    /// Count records that are no documents, rather than stop at the first
    #[arg(long)]
    skip_bad: bool,
    /// Threads that encode; changes no byte [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
}

/// Does what the verb says.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    match &flags.verb {
        Verb::Tokenize(flags) => tokenize(flags, console),
        Verb::Inspect(flags) => inspect(flags, console),
        Verb::Count(flags) => count_tokens(flags, console),
    }
}

fn tokenize(flags: &TokenizeFlags, console: &Console) -> Result<Verdict, Error> {
    let (tokenizer, sources, mut options) = flags.input.open(console)?;
    options.shard_tokens = flags.shard_tokens;
    let mut progress = progress(console);
    let manifest = herd_data::tokenize(
        &tokenizer,
        &sources,
        &options,
        &flags.output,
        &RealDisk,
        &mut progress,
    )?;
    drop(progress);
    report(&manifest.sources, Some(&flags.output), console)
}

fn count_tokens(flags: &CountFlags, console: &Console) -> Result<Verdict, Error> {
    let (tokenizer, sources, options) = flags.input.open(console)?;
    let mut progress = progress(console);
    let reports = herd_data::count(&tokenizer, &sources, &options, &mut progress)?;
    drop(progress);
    report(&reports, None, console)
}

fn inspect(flags: &InspectFlags, console: &Console) -> Result<Verdict, Error> {
    let corpus = Corpus::open(&flags.shards, Check::Contents)?;
    let reports = &corpus.manifest().sources;
    let settings = &corpus.manifest().settings;
    if console.json {
        let mut sources = Vec::new();
        for (at, (report, source)) in reports.iter().zip(corpus.sources()).enumerate() {
            let mut value = json!(report);
            value["first"] = first(&corpus, at, source)?;
            sources.push(value);
        }
        let mut answer = summary(reports);
        answer["path"] = json!(flags.shards);
        answer["verified"] = json!(true);
        answer["sha256"] = json!(corpus.hash());
        answer["settings"] = json!(settings);
        answer["sources"] = json!(sources);
        console.print_json(&answer)?;
        return Ok(Verdict::Done);
    }
    let shards = reports.iter().flat_map(SourceReport::parts).map(|part| part.shards.len());
    let shards: usize = shards.sum();
    console.print(format!("{shards} shards, all as they were written"))?;
    let vocabulary = settings.tokenizer;
    let ids = count(vocabulary.size);
    console.print(format!("tokenizer {} of {ids} ids", vocabulary.sha256))?;
    report(reports, None, console)
}

impl InputFlags {
    fn open(&self, console: &Console) -> Result<(Tokenizer, Sources, TokenizeOptions), Error> {
        let options = TokenizeOptions {
            read: ReadOptions {
                field: self.field.clone(),
                text_bytes: self.text_bytes,
                ..ReadOptions::new()
            },
            validation: self.validation,
            skip_bad: self.skip_bad,
            ..TokenizeOptions::new(flags::threads(self.threads)?)
        };
        let sources = Sources::find(&self.input)?;
        for path in &sources.ignored {
            console.note(format!("not read: {}", crate::console::visible(&path.to_string_lossy())));
        }
        let path = Store::open()?.resolve_file(&self.tokenizer)?;
        Ok((vocabulary::load(&path)?, sources, options))
    }
}

/// A meter of the bytes of text taken in.
fn progress(console: &Console) -> impl FnMut(Progress<'_>) {
    let mut meter: Meter = console.meter("tokenized", None);
    move |progress| meter.at(progress.done.bytes)
}

/// Where the first documents of a source came from, and how they begin.
fn first(corpus: &Corpus, at: usize, source: &CorpusSource) -> Result<Value, DataError> {
    const DOCUMENTS: u64 = 2;
    const TOKENS: usize = 16;
    let mut all = Vec::new();
    let sides: [(&str, &Documents); 2] =
        [("train", &source.train), ("validation", &source.validation)];
    for (side, documents) in sides {
        for document in 0..documents.counts().documents.min(DOCUMENTS) {
            let mut ids = Vec::new();
            documents.read(document, 0..documents.tokens(document).min(TOKENS), &mut ids)?;
            let (row, text_bytes) = documents.row(document)?;
            all.push(json!({
                "side": side,
                "file": corpus.file_of(at, &row),
                "row": row.row,
                "bytes": [row.bytes.start, row.bytes.end],
                "text_bytes": text_bytes,
                "tokens": documents.tokens(document),
                "ids": ids,
            }));
        }
    }
    Ok(json!(all))
}

fn total(reports: &[SourceReport], side: impl Fn(&SourceReport) -> Counts) -> Counts {
    let mut total = Counts::default();
    reports.iter().for_each(|report| total += side(report));
    total
}

fn dropped(report: &SourceReport) -> u64 {
    report.dropped.values().sum()
}

fn summary(reports: &[SourceReport]) -> Value {
    let train = total(reports, |report| report.train.counts);
    json!({
        "documents": train.documents,
        "tokens": train.tokens,
        "bytes": train.bytes,
        "validation": total(reports, |report| report.validation.counts),
        "dropped": reports.iter().map(dropped).sum::<u64>(),
    })
}

fn report(
    reports: &[SourceReport],
    folder: Option<&Path>,
    console: &Console,
) -> Result<Verdict, Error> {
    if console.json {
        let mut answer = summary(reports);
        if let Some(folder) = folder {
            answer["path"] = json!(folder);
        }
        answer["sources"] = json!(reports);
        console.print_json(&answer)?;
        return Ok(Verdict::Done);
    }
    let head = ["SOURCE", "DOCUMENTS", "TOKENS", "SIZE", "BYTES/TOKEN", "HELD OUT", "DROPPED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut row = |name: &str, train: Counts, validation: Counts, dropped: u64| {
        let per_token = train.bytes as f64 / train.tokens.max(1) as f64;
        rows.push(vec![
            name.to_owned(),
            count(train.documents),
            count(train.tokens),
            bytes(train.bytes),
            format!("{per_token:.3}"),
            count(validation.tokens),
            count(dropped),
        ]);
    };
    for report in reports {
        row(&report.name, report.train.counts, report.validation.counts, dropped(report));
    }
    if reports.len() > 1 {
        let train = total(reports, |report| report.train.counts);
        let validation = total(reports, |report| report.validation.counts);
        row("all", train, validation, reports.iter().map(dropped).sum());
    }
    console.print_table(&rows)?;
    for report in reports {
        for record in &report.dropped_first {
            console.note(format!("dropped: {}", crate::console::visible(record)));
        }
        if report.unspelt_bytes > 0 {
            let (lost, name) = (count(report.unspelt_bytes), &report.name);
            console.note(format!("{name}: {lost} bytes that the vocabulary cannot spell"));
        }
    }
    Ok(Verdict::Done)
}
