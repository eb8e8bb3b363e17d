//! `herd tokenize`: text to token ids.

use std::fs;
use std::io::{Read, stdin};
use std::path::PathBuf;

use herd_codec::{SpecialSet, TokenId, Tokenizer};
use serde_json::json;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::store::Store;
use crate::vocabulary;

/// Flags of `herd tokenize`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// A model, or a tokenizer file
    #[arg(short, long)]
    model: String,
    /// Print the ids on one line, with spaces between, instead of a line per token
    #[arg(long)]
    ids: bool,
    /// Put the begin-of-text token in front
    #[arg(long)]
    bos: bool,
    /// Take special strings in the text for the control tokens they name
    #[arg(long)]
    special: bool,
    /// The text itself [default: standard input]
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,
    /// A file with the text
    #[arg(short, long)]
    file: Option<PathBuf>,
}

/// Prints the ids of the text; nothing is added to it unless asked for.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let tokenizer = vocabulary::load(&Store::open()?.resolve_file(&flags.model)?)?;
    let text = match (&flags.prompt, &flags.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => fs::read(path).map_err(Error::io("read", path))?,
        (None, None) => {
            let mut text = Vec::new();
            stdin().lock().read_to_end(&mut text).map_err(Error::Input)?;
            text
        }
    };
    let mut ids = Vec::new();
    if flags.bos {
        ids.push(tokenizer.specials().bos.ok_or_else(|| Error::Value {
            what: "the begin-of-text token",
            got: "absent".to_owned(),
            expected: "in the vocabulary where --bos is given".to_owned(),
        })?);
    }
    ids.extend(encode(&tokenizer, &text, flags.special)?);
    if console.json {
        console.print_json(&json!({ "ids": ids, "pieces": pieces(&tokenizer, &ids) }))?;
    } else if flags.ids {
        let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        console.print(ids.join(" "))?;
    } else {
        for (id, piece) in ids.iter().zip(pieces(&tokenizer, &ids)) {
            console.print(format!("{:>6}  {}", id.0, piece.escape_debug()))?;
        }
    }
    Ok(Verdict::Done)
}

fn encode(tokenizer: &Tokenizer, text: &[u8], special: bool) -> Result<Vec<TokenId>, Error> {
    if !special {
        return Ok(tokenizer.encode_bytes(text));
    }
    let text = std::str::from_utf8(text).map_err(|e| Error::Value {
        what: "the text",
        got: format!("not UTF-8 at byte {}", e.valid_up_to()),
        expected: "UTF-8 where --special is given".to_owned(),
    })?;
    Ok(tokenizer.encode_with_specials(text, &SpecialSet::All))
}

fn pieces(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<String> {
    let piece = |id: &TokenId| String::from_utf8_lossy(tokenizer.token_bytes(*id)).into_owned();
    ids.iter().map(piece).collect()
}
