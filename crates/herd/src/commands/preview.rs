//! `herd preview`: dialogues, or the texts that a teacher is asked of, as the tokens that training would see, each with
//! its speaker and weight.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

use herd_codec::chat::{ChatFormat, Origin, RenderOptions, Role, SpanKind};
use herd_codec::{TokenId, Tokenizer};
use herd_data::dialogue::{Compare, Encoder, Row, Shape, comparison, lesson};
use herd_data::read::{InputFile, ReadOptions, Sources, documents, objects};
use herd_data::{DataError, Document, Ends, Fault};
use herd_model::checkpoint::Checkpoint;
use herd_train::config::ChatConfig;
use herd_train::dpo::{self, DpoConfig};
use herd_train::reward::RewardConfig;
use serde_json::{Value, json};

use crate::about::About;
use crate::console::{Console, Verdict, count, visible};
use crate::error::Error;
use crate::store::Store;
use crate::{flags, training};

/// Flags of `herd preview`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The settings of a run over dialogues, in place of the flags below
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "input", "shape", "chat_template", "date"])]
    config: Option<PathBuf>,
    /// The model whose vocabulary and chat format count
    #[arg(short, long, required_unless_present = "config")]
    model: Option<String>,
    /// Files or folders of dialogues: .jsonl, .json (also .gz, .zst), .parquet
    #[arg(short, long, required_unless_present = "config", num_args = 1.., value_name = "PATH")]
    input: Vec<String>,
    /// How many rows to print; all are counted
    #[arg(long, default_value_t = 3, value_name = "N")]
    rows: u64,
    /// The shape of the rows: messages, sharegpt, alpaca, prompt_completion, preference, hh_rlhf [default: by their keys]
    #[arg(long, value_name = "SHAPE")]
    shape: Option<String>,
    /// llama2, llama3, llama3.1, llama3.1-hf, code-llama-70b, chatml, or a file with a template [default: the model's]
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// The day that formats name, as 2024-07-26
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
    /// Count rows that are no dialogue, rather than stop at the first
    #[arg(long)]
    skip_bad: bool,
}

/// What was met in all rows.
#[derive(Default)]
struct Totals {
    rows: u64,
    sequences: u64,
    tokens: u64,
    learnt: u64,
    longest: usize,
    dropped: BTreeMap<&'static str, u64>,
}

/// Prints the first rows token by token, and counts all.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let asked = flags.asked()?;
    let shown = asked.shown()?;
    let (mut totals, mut printed) = (Totals::default(), Vec::new());
    for file in Sources::find(&asked.input)?.sources.iter().flat_map(|source| &source.files) {
        for found in shown.rows(file, &asked.about.tokenizer)? {
            match found {
                Ok(Found { row, rows, similar }) => {
                    totals.add(&rows);
                    if similar > 0 {
                        *totals.dropped.entry("similar_answer").or_default() += similar;
                    }
                    if totals.rows <= flags.rows {
                        let place = format!("{}:{row}", file.path.display());
                        show(&place, &rows, &asked.about.tokenizer, console, &mut printed)?;
                    }
                }
                Err(DataError::Record { fault, .. })
                    if asked.chat.skip_bad || fault.is_harmless() =>
                {
                    totals.drop(&fault);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    totals.tell(printed, console)?;
    Ok(Verdict::Done)
}

/// What is learnt of a row of a file, and how many of its answers were left out.
struct Found {
    row: u64,
    rows: Vec<Row>,
    similar: u64,
}

/// How rows become tokens.
enum Shown {
    /// As dialogues, or as answers that are compared.
    Dialogues {
        format: ChatFormat,
        options: RenderOptions,
        shape: Option<Shape>,
        compare: Option<Compare>,
    },
    /// As plain texts between these.
    Texts(Ends),
}

impl Shown {
    fn rows<'a>(
        &'a self,
        file: &InputFile,
        tokenizer: &'a Tokenizer,
    ) -> Result<Box<dyn Iterator<Item = Result<Found, DataError>> + 'a>, DataError> {
        let path = file.path.clone();
        Ok(match self {
            Shown::Dialogues { format, options, shape, compare } => {
                let encoder = Encoder { format, tokenizer, options: *options };
                Box::new(objects(file)?.map(move |record| {
                    let (row, value) = record?;
                    let rows = match compare {
                        Some(compare) => comparison(&value, *shape)
                            .and_then(|comparison| encoder.compare(&comparison, compare))
                            .map(|compared| (compared.rows, compared.similar)),
                        None => lesson(&value, *shape)
                            .and_then(|lesson| encoder.lesson(&lesson))
                            .map(|rows| (rows, 0)),
                    };
                    match rows {
                        Ok((rows, similar)) => Ok(Found { row, rows, similar }),
                        Err(fault) => Err(DataError::Record { path: path.clone(), row, fault }),
                    }
                }))
            }
            Shown::Texts(ends) => {
                Box::new(documents(file, &ReadOptions::new())?.map(move |document| {
                    let Document { text, id } = document?;
                    let encoded = tokenizer.try_encode(&text).map_err(|source| {
                        DataError::Encode { path: path.clone(), row: id.row, source }
                    })?;
                    Ok(Found { row: id.row, rows: vec![plain(encoded, *ends)], similar: 0 })
                }))
            }
        })
    }
}

/// A text between its ends: all of it is learnt but the first token, which nothing foretells.
fn plain(text: Vec<TokenId>, ends: Ends) -> Row {
    let said = Origin { message: None, role: None, kind: SpanKind::Content };
    let end = |id: Option<u32>| id.map(|id| (TokenId(id), Origin::FRAME));
    let text = text.into_iter().map(|id| (id, said));
    let (ids, origins): (Vec<_>, Vec<_>) =
        end(ends.bos).into_iter().chain(text).chain(end(ends.eos)).unzip();
    let weights = (0..ids.len()).map(|at| if at > 0 { 1.0 } else { 0.0 }).collect();
    Row { ids, weights, origins }
}

/// What is to be shown, by flags or by a config.
struct Asked {
    about: About,
    input: Vec<String>,
    chat: ChatConfig,
    /// Where all answers of a row are learnt from.
    compare: Option<Compare>,
    /// Where plain texts are, what they lie between.
    texts: Option<Ends>,
}

impl Asked {
    fn shown(&self) -> Result<Shown, Error> {
        if let Some(ends) = self.texts {
            return Ok(Shown::Texts(ends));
        }
        let format = self.about.chat_format(self.chat.template.as_deref())?;
        let today = self.chat.date.as_deref().map(flags::day).transpose()?;
        let options = RenderOptions { today, ..RenderOptions::CLOSED };
        let (shape, compare) = (self.chat.shape, self.compare);
        Ok(Shown::Dialogues { format, options, shape, compare })
    }
}

impl Flags {
    fn asked(&self) -> Result<Asked, Error> {
        if let Some(file) = &self.config {
            let config = dpo::read_either(file, &[])?;
            if config.rollout.is_some() {
                let got = format!("{}: it learns from its own answers", file.display());
                let expected = "settings of sft, dpo or reward".to_owned();
                return Err(Error::Value { what: "--config", got, expected });
            }
            let compare = config.dpo.as_ref().map(DpoConfig::compare);
            let compare = config.reward.as_ref().map(RewardConfig::compare).or(compare);
            let input = config.data.input.iter().map(|path| path.display().to_string()).collect();
            let about = About::of_run(&config)?;
            let texts = match config.chat {
                Some(_) => None,
                None => Some(training::words(&config.tokenizer)?.ends),
            };
            let mut chat = config.chat.unwrap_or_default();
            chat.skip_bad |= self.skip_bad;
            return Ok(Asked { about, input, chat, compare, texts });
        }
        let model = self.model.as_deref().expect("clap demands it");
        let chat = ChatConfig {
            template: self.chat_template.clone(),
            shape: self.shape.as_deref().map(shape).transpose()?,
            date: self.date.clone(),
            skip_bad: self.skip_bad,
        };
        let about = About::read(&Checkpoint::open(&Store::open()?.resolve(model)?)?)?;
        Ok(Asked { about, input: self.input.clone(), chat, compare: None, texts: None })
    }
}

fn shape(name: &str) -> Result<Shape, Error> {
    serde_json::from_value(Value::String(name.to_owned())).map_err(|_| {
        let expected =
            "messages, sharegpt, alpaca, prompt_completion, preference or hh_rlhf".to_owned();
        Error::Value { what: "--shape", got: name.to_owned(), expected }
    })
}

impl Totals {
    fn add(&mut self, rows: &[Row]) {
        self.rows += 1;
        self.sequences += rows.len() as u64;
        for row in rows {
            self.tokens += row.ids.len() as u64;
            self.learnt += row.learnt() as u64;
            self.longest = self.longest.max(row.ids.len());
        }
    }

    fn drop(&mut self, fault: &Fault) {
        *self.dropped.entry(fault.reason()).or_default() += 1;
    }

    fn tell(&self, shown: Vec<Value>, console: &Console) -> Result<(), Error> {
        if console.json {
            return console.print_json(&json!({
                "shown": shown,
                "rows": self.rows,
                "sequences": self.sequences,
                "tokens": self.tokens,
                "tokens_learnt": self.learnt,
                "longest": self.longest,
                "dropped": self.dropped,
            }));
        }
        let share = 100.0 * self.learnt as f64 / self.tokens.max(1) as f64;
        let (rows, sequences) = (count(self.rows), count(self.sequences));
        let (tokens, learnt) = (count(self.tokens), count(self.learnt));
        console.print(format!(
            "{rows} rows in {sequences} sequences: {tokens} tokens, {learnt} learnt ({share:.1} %), the longest sequence {}",
            count(self.longest as u64)
        ))?;
        for (reason, rows) in &self.dropped {
            console.print(format!("left out: {} rows ({reason})", count(*rows)))?;
        }
        Ok(())
    }
}

/// Prints the sequences of a row, or keeps them for the JSON.
fn show(
    place: &str,
    rows: &[Row],
    tokenizer: &Tokenizer,
    console: &Console,
    shown: &mut Vec<Value>,
) -> Result<(), Error> {
    for (number, row) in rows.iter().enumerate() {
        let pieces: Vec<String> = row
            .ids
            .iter()
            .map(|id| String::from_utf8_lossy(tokenizer.token_bytes(*id)).into_owned())
            .collect();
        if console.json {
            let kinds: Vec<_> = row.origins.iter().map(|o| (o.role, o.kind)).collect();
            let ids: Vec<u32> = row.ids.iter().map(|id| id.0).collect();
            shown.push(json!({
                "row": place, "ids": ids, "weights": row.weights, "pieces": pieces,
                "roles": kinds.iter().map(|k| k.0).collect::<Vec<_>>(),
                "kinds": kinds.iter().map(|k| k.1).collect::<Vec<_>>(),
            }));
            continue;
        }
        let of = if rows.len() > 1 { format!(", answer {}", number + 1) } else { String::new() };
        let (tokens, learnt) = (row.ids.len(), row.learnt());
        console.print(format!("{}{of}: {tokens} tokens, {learnt} learnt", visible(place)))?;
        match stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            true => console.print(coloured(row, &pieces))?,
            false => console.print_table(&table(row, &pieces))?,
        }
    }
    Ok(())
}

/// The row as running text: what is learnt bold, each speaker in a colour, tokens underlined in turn.
fn coloured(row: &Row, pieces: &[String]) -> String {
    let mut text = String::new();
    for (i, piece) in pieces.iter().enumerate() {
        let colour = match (row.origins[i].role, row.origins[i].kind) {
            (_, SpanKind::Header | SpanKind::Frame) | (None, _) => "90",
            (Some(Role::System), _) => "35",
            (Some(Role::User), _) => "36",
            (Some(Role::Assistant), _) => "32",
            (Some(Role::Tool), _) => "33",
        };
        let learnt = if row.weights[i] > 0.0 { ";1" } else { "" };
        let line = if i % 2 == 1 { ";4" } else { "" };
        let shown = visible(piece).replace("\\n", "\u{21b5}\n");
        text.push_str(&format!("\x1b[{colour}{learnt}{line}m{shown}\x1b[0m"));
    }
    text
}

fn table(row: &Row, pieces: &[String]) -> Vec<Vec<String>> {
    let head = ["id", "weight", "role", "kind", "token"].map(str::to_owned).to_vec();
    let line = |(i, piece): (usize, &String)| {
        let origin = &row.origins[i];
        vec![
            row.ids[i].0.to_string(),
            row.weights[i].to_string(),
            origin.role.map_or("-", Role::name).to_owned(),
            format!("{:?}", origin.kind).to_lowercase(),
            piece.escape_debug().to_string(),
        ]
    };
    std::iter::once(head).chain(pieces.iter().enumerate().map(line)).collect()
}
