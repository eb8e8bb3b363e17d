//! The tokenizer and the chat template on their way into another style of checkpoint.

use std::fs;
use std::path::Path;

use herd_codec::{GgufVocab, TokenKind, Tokenizer};
use herd_model::checkpoint::Checkpoint;
use herd_model::names::Style;
use herd_tensor::files::{Array, Metadata, Value};
use serde_json::json;

use crate::about::{About, TEMPLATE, folder_template, optional};
use crate::error::Error;

/// Files of a folder that go along as they are.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE,
    "LICENSE",
    "LICENSE.txt",
    "USE_POLICY.md",
];

/// The tokenizer and its like, with the chat template of an adapter; where there is none, `lost` is told.
pub fn about(
    checkpoint: &Checkpoint,
    lora: Option<&Path>,
    lost: &mut Vec<String>,
) -> Result<Option<About>, Error> {
    match About::adapted(checkpoint, lora) {
        Ok(about) => Ok(Some(about)),
        Err(Error::NoTokenizer { .. }) => {
            lost.push("no tokenizer lies beside the model: none is written".to_owned());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What a GGUF file says beside weights and configuration; a GGUF source says the rest already.
pub fn metadata(about: &About, checkpoint: &Checkpoint) -> Result<Metadata, Error> {
    let mut metadata = Metadata::default();
    let template = about.template().map(|template| Value::String(template.to_owned()));
    if checkpoint.style == Style::Gguf {
        if let Some(template) = template {
            metadata.insert("tokenizer.chat_template", template);
        }
        return Ok(metadata);
    }
    let vocab = about.tokenizer.to_gguf_vocab();
    let mut vocab =
        vocab.map_err(|source| Error::Tokenizer { path: about.path.clone(), source })?;
    state_specials(&mut vocab, checkpoint, &about.tokenizer)?;
    let folder = fs::canonicalize(checkpoint.folder()).unwrap_or_default();
    if let Some(name) = folder.file_name() {
        let name = name.to_string_lossy().into_owned();
        metadata.insert("general.name", Value::String(name));
    }
    put_vocab(&mut metadata, vocab, checkpoint.config.vocab);
    if let Some(template) = template {
        metadata.insert("tokenizer.chat_template", template);
    }
    Ok(metadata)
}

/// Begin, end and filler: as `tokenizer_config.json` names them, else as the configuration numbers
/// them; a `tokenizer.json` says neither.
fn state_specials(
    vocab: &mut GgufVocab,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
) -> Result<(), Error> {
    let path = checkpoint.folder().join("tokenizer_config.json");
    let config: serde_json::Value = match optional(&path)? {
        None => serde_json::Value::Null,
        Some(text) => serde_json::from_str(&text)
            .map_err(|e| Error::Json { path, what: format!("damaged ({e})") })?,
    };
    let named = |key: &str| {
        let token = config.get(key)?;
        let name = token.get("content").unwrap_or(token).as_str()?;
        tokenizer.special_id(name).map(|id| id.0)
    };
    let ids = &checkpoint.generation;
    vocab.bos = named("bos_token").or(ids.bos_token_id).or(vocab.bos);
    vocab.eos = named("eos_token").or(ids.eos_token_ids.first().copied()).or(vocab.eos);
    vocab.pad = named("pad_token").or(ids.pad_token_id).or(vocab.pad);
    // Of bytes, nothing is unknown: the token that has the name is structure like the others.
    if vocab.model == "gpt2" {
        let (unknown, control) = (TokenKind::Unknown as i32, TokenKind::Control as i32);
        for (name, kind) in vocab.tokens.iter().zip(&mut vocab.token_type) {
            if *kind == unknown && tokenizer.special_id(name).is_some() {
                *kind = control;
            }
        }
    }
    Ok(())
}

/// Files beside the weights in a folder of `style`; `lost` is told what has no form there.
pub fn files(
    about: &About,
    checkpoint: &Checkpoint,
    style: Style,
    lost: &mut Vec<String>,
) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut files = Vec::new();
    if checkpoint.style != Style::Gguf {
        for name in COMPANIONS {
            let path = checkpoint.folder().join(name);
            if path.is_file() {
                files.push((name.to_owned(), fs::read(&path).map_err(Error::io("read", &path))?));
            }
        }
    }
    let has = |files: &[(String, Vec<u8>)], name: &str| files.iter().any(|(n, _)| n == name);
    if checkpoint.style != Style::Gguf
        && let Some(text) = about.template()
        && folder_template(checkpoint.folder())?.as_deref() != Some(text)
    {
        files.retain(|(name, _)| name != TEMPLATE);
        files.push((TEMPLATE.to_owned(), text.as_bytes().to_vec()));
    }
    match style {
        Style::Gguf => {}
        Style::Hf => {
            if !has(&files, "tokenizer.json") {
                let json = about.tokenizer.to_tokenizer_json();
                let json =
                    json.map_err(|source| Error::Tokenizer { path: about.path.clone(), source })?;
                files.push(("tokenizer.json".to_owned(), json.into_bytes()));
            }
            if !has(&files, "tokenizer_config.json") {
                let config = tokenizer_config(&about.tokenizer, about.template());
                files.push(("tokenizer_config.json".to_owned(), config));
            }
        }
        Style::Meta => {
            if !has(&files, "tokenizer.model") {
                match about.tokenizer.to_tiktoken() {
                    Ok(ranks) => files.push(("tokenizer.model".to_owned(), ranks)),
                    Err(error) => {
                        lost.push(format!("the tokenizer stays behind: {error}"));
                        let json = about.tokenizer.to_tokenizer_json();
                        files.extend(json.map(|j| ("tokenizer.json".to_owned(), j.into_bytes())));
                    }
                }
            }
            if about.template().is_some() && checkpoint.style == Style::Gguf {
                lost.push("the chat template has no place in the folder".to_owned());
            }
        }
    }
    Ok(files)
}

/// `tokenizer_config.json`: special tokens by name, and the chat template.
pub fn tokenizer_config(tokenizer: &Tokenizer, template: Option<&str>) -> Vec<u8> {
    let specials = tokenizer.specials();
    let name = |id: Option<herd_codec::TokenId>| {
        id.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned())
    };
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "add_bos_token": tokenizer.add_bos(),
        "add_eos_token": tokenizer.add_eos(),
    });
    let named = [
        ("bos_token", name(specials.bos)),
        ("eos_token", name(specials.eos)),
        ("pad_token", name(specials.pad)),
        ("unk_token", name(specials.unk)),
        ("chat_template", template.map(str::to_owned)),
    ];
    for (key, text) in named {
        if let Some(text) = text {
            config[key] = json!(text);
        }
    }
    serde_json::to_vec_pretty(&config).expect("strings serialise")
}

/// The keys that `vocabulary::gguf_vocab` reads. Rows of the embedding beyond the vocabulary get
/// names, as other readers expect one for each.
fn put_vocab(metadata: &mut Metadata, mut vocab: GgufVocab, rows: usize) {
    let unused = 5;
    for id in vocab.tokens.len()..rows {
        vocab.tokens.push(format!("[PAD{id}]"));
        vocab.token_type.push(unused);
        if !vocab.scores.is_empty() {
            vocab.scores.push(-1e4);
        }
    }
    let mut put = |name: &str, value: Value| {
        metadata.insert(format!("tokenizer.ggml.{name}"), value);
    };
    put("model", Value::String(vocab.model));
    if !vocab.pre.is_empty() {
        put("pre", Value::String(vocab.pre));
    }
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
