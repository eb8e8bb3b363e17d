//! `herd detokenize`: token ids to the bytes they stand for.

use std::io::{Read, Write, stdin, stdout};

use herd_codec::TokenId;
use serde_json::json;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::store::Store;
use crate::vocabulary;

/// Flags of `herd detokenize`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// A model, or a tokenizer file
    #[arg(short, long)]
    model: String,
    /// The ids, with spaces or commas between [default: standard input]
    #[arg(long)]
    ids: Option<String>,
}

/// Writes the bytes of the ids, and nothing else.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let tokenizer = vocabulary::load(&Store::open()?.resolve_file(&flags.model)?)?;
    let text = match &flags.ids {
        Some(ids) => ids.clone(),
        None => {
            let mut text = String::new();
            stdin().lock().read_to_string(&mut text).map_err(Error::Input)?;
            text
        }
    };
    let ids = parse_ids(&text, tokenizer.vocab_size())?;
    let bytes = tokenizer.decode(&ids.into_iter().map(TokenId).collect::<Vec<_>>());
    if console.json {
        console.print_json(&json!({ "text": String::from_utf8_lossy(&bytes) }))?;
    } else {
        let mut out = stdout().lock();
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(Error::Output)?;
    }
    Ok(Verdict::Done)
}

/// Ids with spaces or commas between, each below `vocab`.
pub fn parse_ids(text: &str, vocab: usize) -> Result<Vec<u32>, Error> {
    let separates = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
    let id = |word: &str| {
        word.parse().ok().filter(|id| (*id as usize) < vocab).ok_or_else(|| Error::Value {
            what: "a token id",
            got: word.to_owned(),
            expected: format!("a number below {vocab}"),
        })
    };
    text.split(separates).filter(|word| !word.is_empty()).map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_lines_and_json_lists() {
        assert_eq!(parse_ids("1 2\n3\n", 10).unwrap(), [1, 2, 3]);
        assert_eq!(parse_ids("[1, 2,3]", 10).unwrap(), [1, 2, 3]);
        assert_eq!(parse_ids(" \n", 10).unwrap(), [0; 0]);
    }

    #[test]
    fn what_is_no_token_is_named() {
        for wrong in ["1 10", "x", "-1", "99999999999"] {
            let error = parse_ids(wrong, 10).unwrap_err().to_string();
            assert!(error.contains("expected a number below 10"), "{error}");
        }
    }
}
