//! Carries a model's tokenizer and chat template into another style of checkpoint.
//!
//! | from, to | what is written |
//! |---|---|
//! | same style | the same files or metadata |
//! | GGUF | `tokenizer.ggml.*` and `tokenizer.chat_template` |
//! | Hugging Face | `tokenizer.json`, `tokenizer_config.json` |
//! | Meta | `tokenizer.model` where the vocabulary is Llama 3's, else `tokenizer.json` |

use std::fs;
use std::path::Path;

use herd_codec::{GgufVocab, Specials, TokenId, TokenKind, Tokenizer};
use herd_model::checkpoint::Checkpoint;
use herd_model::names::Style;
use herd_tensor::files::{Array, Metadata, Value};
use serde_json::json;

use crate::about::{About, optional};
use crate::error::Error;

/// What goes along with the weights.
#[derive(Debug, Default)]
pub struct Carried {
    /// For GGUF.
    pub metadata: Metadata,
    /// For folders, by name.
    pub files: Vec<(String, Vec<u8>)>,
    /// What has no place, in words.
    pub lost: Vec<String>,
}

/// Files of a tokenizer, its settings and its chat template.
const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Reads what lies beside the weights and writes it as `to` has it.
///
/// Errors: files that cannot be read or are no tokenizer.
pub fn carry(checkpoint: &Checkpoint, to: Style) -> Result<Carried, Error> {
    if checkpoint.style == to {
        return match to {
            Style::Gguf => Ok(Carried::default()), // the metadata goes along
            Style::Hf | Style::Meta => same_files(checkpoint.folder()),
        };
    }
    let about = match About::read(checkpoint) {
        Err(Error::NoTokenizer { .. }) => {
            let lost = vec!["no tokenizer lies beside the model: none is written".to_owned()];
            return Ok(Carried { lost, ..Carried::default() });
        }
        other => other?,
    };
    match to {
        Style::Gguf => into_gguf(checkpoint, &about),
        Style::Hf => into_hf(checkpoint, &about),
        Style::Meta => into_meta(checkpoint, &about),
    }
}

fn same_files(folder: &Path) -> Result<Carried, Error> {
    let mut files = Vec::new();
    for name in FILES {
        files.extend(read_file(folder, name)?);
    }
    Ok(Carried { files, ..Carried::default() })
}

fn read_file(folder: &Path, name: &str) -> Result<Option<(String, Vec<u8>)>, Error> {
    let path = folder.join(name);
    match path.is_file() {
        true => Ok(Some((name.to_owned(), fs::read(&path).map_err(Error::io("read", &path))?))),
        false => Ok(None),
    }
}

fn into_gguf(checkpoint: &Checkpoint, about: &About) -> Result<Carried, Error> {
    let mut carried = Carried::default();
    let folder = fs::canonicalize(checkpoint.folder()).unwrap_or_default();
    if let Some(name) = folder.file_name() {
        let name = Value::String(name.to_string_lossy().into_owned());
        carried.metadata.insert("general.name", name);
    }
    let mut vocab = match about.tokenizer.to_gguf_vocab() {
        Ok(vocab) => vocab,
        Err(error) => {
            carried.lost.push(format!("the tokenizer has no place in GGUF: {error}"));
            return Ok(carried);
        }
    };
    let specials = stated_specials(checkpoint, &about.tokenizer)?;
    let id = |id: Option<TokenId>| id.map(|id| id.0);
    (vocab.bos, vocab.eos, vocab.pad) = (id(specials.bos), id(specials.eos), id(specials.pad));
    pad(&mut vocab, checkpoint.config.vocab);
    if vocab.tokens.len() > checkpoint.config.vocab {
        let (tokens, rows) = (vocab.tokens.len(), checkpoint.config.vocab);
        let note = format!("the tokenizer has {tokens} tokens, the embedding {rows} rows");
        carried.lost.push(note);
    }
    put_vocab(&mut carried.metadata, vocab);
    if let Some(template) = &about.template {
        let template = Value::String(template.clone());
        carried.metadata.insert("tokenizer.chat_template", template);
    }
    Ok(carried)
}

/// The special tokens: as `tokenizer_config.json` names them, else as the ids of the
/// configuration, else by their usual names.
fn stated_specials(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Specials, Error> {
    let path = checkpoint.folder().join("tokenizer_config.json");
    let config: serde_json::Value = match optional(&path)? {
        None => serde_json::Value::Null,
        Some(text) => serde_json::from_str(&text)
            .map_err(|e| Error::Json { path, what: format!("damaged ({e})") })?,
    };
    let named = |key: &str| {
        let token = config.get(key)?;
        let name = token.get("content").unwrap_or(token).as_str()?;
        tokenizer.special_id(name)
    };
    let ids = &checkpoint.generation;
    let mut specials = *tokenizer.specials();
    let first_end = ids.eos_token_ids.first().copied().map(TokenId);
    let pick = |key, stated: Option<TokenId>, usual| named(key).or(stated).or(usual);
    specials.bos = pick("bos_token", ids.bos_token_id.map(TokenId), specials.bos);
    specials.eos = pick("eos_token", first_end, specials.eos);
    specials.pad = pick("pad_token", ids.pad_token_id.map(TokenId), specials.pad);
    Ok(specials)
}

/// GGUF readers want as many tokens as the embedding has rows.
fn pad(vocab: &mut GgufVocab, rows: usize) {
    for id in vocab.tokens.len()..rows {
        vocab.tokens.push(format!("[PAD{id}]"));
        if !vocab.token_type.is_empty() {
            vocab.token_type.push(TokenKind::Unused as i32);
        }
        if !vocab.scores.is_empty() {
            vocab.scores.push(-1000.0);
        }
    }
}

/// The keys that `vocabulary::gguf_vocab` reads.
fn put_vocab(metadata: &mut Metadata, vocab: GgufVocab) {
    let mut put = |name: &str, value: Value| {
        metadata.insert(format!("tokenizer.ggml.{name}"), value);
    };
    put("model", Value::String(vocab.model));
    put("pre", Value::String(vocab.pre));
    put("tokens", Value::Array(Array::String(vocab.tokens)));
    if !vocab.scores.is_empty() {
        put("scores", Value::Array(Array::F32(vocab.scores)));
    }
    put("token_type", Value::Array(Array::I32(vocab.token_type)));
    if !vocab.merges.is_empty() {
        put("merges", Value::Array(Array::String(vocab.merges)));
    }
    let ids = [
        ("bos_token_id", vocab.bos),
        ("eos_token_id", vocab.eos),
        ("eot_token_id", vocab.eot),
        ("eom_token_id", vocab.eom),
        ("unknown_token_id", vocab.unk),
        ("padding_token_id", vocab.pad),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            put(name, Value::U32(id));
        }
    }
    let flags = [
        ("add_bos_token", vocab.add_bos),
        ("add_eos_token", vocab.add_eos),
        ("add_space_prefix", vocab.add_space_prefix),
    ];
    for (name, flag) in flags {
        if let Some(flag) = flag {
            put(name, Value::Bool(flag));
        }
    }
}

fn into_hf(checkpoint: &Checkpoint, about: &About) -> Result<Carried, Error> {
    let mut carried = Carried::default();
    match about.tokenizer.to_tokenizer_json() {
        Ok(text) => carried.files.push(("tokenizer.json".to_owned(), text.into_bytes())),
        Err(error) => {
            carried.lost.push(format!("the tokenizer has no place in tokenizer.json: {error}"));
        }
    }
    if checkpoint.style == Style::Meta {
        carried.files.extend(read_file(checkpoint.folder(), "tokenizer.model")?);
    }
    let specials = about.tokenizer.specials();
    let name = |id: Option<TokenId>| {
        id.map(|id| String::from_utf8_lossy(about.tokenizer.token_bytes(id)).into_owned())
    };
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name(specials.bos),
        "eos_token": name(specials.eos),
        "pad_token": name(specials.pad),
        "unk_token": name(specials.unk),
        "clean_up_tokenization_spaces": false,
        "model_max_length": checkpoint.config.context,
    });
    if let Some(template) = &about.template {
        config["chat_template"] = template.as_str().into();
    }
    let text = format!("{config:#}\n");
    carried.files.push(("tokenizer_config.json".to_owned(), text.into_bytes()));
    Ok(carried)
}

fn into_meta(checkpoint: &Checkpoint, about: &About) -> Result<Carried, Error> {
    let mut carried = Carried::default();
    let own = match checkpoint.style {
        Style::Hf => read_file(checkpoint.folder(), "tokenizer.model")?,
        Style::Gguf | Style::Meta => None,
    };
    let model = || about.tokenizer.to_tiktoken().ok().map(|file| ("tokenizer.model".into(), file));
    match own.or_else(model) {
        Some(file) => carried.files.push(file),
        None => {
            let lost = "Meta's code reads tokenizer.model alone, which cannot hold this vocabulary: \
                        tokenizer.json is written";
            carried.lost.push(lost.to_owned());
            match about.tokenizer.to_tokenizer_json() {
                Ok(text) => carried.files.push(("tokenizer.json".to_owned(), text.into_bytes())),
                Err(error) => carried.lost.push(format!("nor can tokenizer.json: {error}")),
            }
        }
    }
    if let Some(template) = &about.template {
        let file = ("chat_template.jinja".to_owned(), template.clone().into_bytes());
        carried.files.push(file);
    }
    Ok(carried)
}
