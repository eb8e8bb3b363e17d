//! Finds and reads the tokenizer that belongs to a model, or that is a file of its own.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use herd_codec::{CodecError, GgufVocab, SpecialTable, Tokenizer};
use herd_tensor::files::{Archive, FileError, Metadata};

use crate::error::Error;
use crate::store::model_in_folder;

/// Files beside this are no tokenizers, whatever their names: the largest known have 35 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Reads the tokenizer of a GGUF file, of a checkpoint folder, or from a tokenizer file.
pub fn load(path: &Path) -> Result<Tokenizer, Error> {
    if path.is_dir() {
        return load(&find(path)?);
    }
    let read = |result: Result<Tokenizer, CodecError>| {
        result.map_err(|source| Error::Tokenizer { path: path.to_owned(), source })
    };
    if starts_with_gguf(path)? {
        let archive = Archive::open(path)?;
        return read(Tokenizer::from_gguf_vocab(&gguf_vocab(archive.metadata())?));
    }
    let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
    if length > FILE_BYTES_MAX {
        let expected = format!("at most {FILE_BYTES_MAX} bytes");
        return Err(Error::Value { what: "the tokenizer file", got: length.to_string(), expected });
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        return read(Tokenizer::from_tokenizer_json(&bytes));
    }
    if is_rank_file(&bytes) {
        return read(Tokenizer::from_tiktoken(&bytes, special_table(path)));
    }
    read(Tokenizer::from_sentencepiece(&bytes))
}

/// The tokenizer file of a checkpoint folder, else its only GGUF.
fn find(folder: &Path) -> Result<PathBuf, Error> {
    let names = ["tokenizer.json", "tokenizer.model"];
    if let Some(file) = names.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        return Ok(file);
    }
    let model = model_in_folder(folder).ok().filter(|model| model.is_file());
    model.ok_or_else(|| Error::NoTokenizer { folder: folder.to_owned() })
}

fn starts_with_gguf(path: &Path) -> Result<bool, Error> {
    let mut magic = Vec::new();
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    file.by_ref().take(4).read_to_end(&mut magic).map_err(Error::io("read", path))?;
    Ok(magic == b"GGUF")
}

/// A line of base64, a space and a number: what tiktoken writes and no protobuf begins with.
fn is_rank_file(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut parts = line.trim_ascii_end().split(|&b| b == b' ');
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
    let token = parts.next().is_some_and(|t| !t.is_empty() && t.iter().all(base64));
    let rank = parts.next().is_some_and(|r| !r.is_empty() && r.iter().all(u8::is_ascii_digit));
    token && rank && parts.next().is_none()
}

/// The names of the special tokens, which a rank file does not have: `params.json` beside it
/// tells Llama 3 (no scaled RoPE) from 3.1 and later, whose names are taken where none is there.
fn special_table(path: &Path) -> SpecialTable {
    let params = fs::read_to_string(path.with_file_name("params.json")).unwrap_or_default();
    let params: serde_json::Value = serde_json::from_str(&params).unwrap_or_default();
    match params.get("vocab_size").is_some() && params.get("use_scaled_rope").is_none() {
        true => SpecialTable::Llama3,
        false => SpecialTable::Llama31,
    }
}

/// The keys of a GGUF file that describe its vocabulary.
pub fn gguf_vocab(metadata: &Metadata) -> Result<GgufVocab, FileError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let strings = |name: &str| -> Result<Vec<String>, FileError> {
        Ok(metadata.find::<&[String]>(&key(name))?.unwrap_or_default().to_vec())
    };
    let id = |name: &str| metadata.find::<u32>(&key(name));
    let flag = |name: &str| metadata.find::<bool>(&key(name));
    Ok(GgufVocab {
        model: metadata.get::<&str>(&key("model"))?.to_owned(),
        pre: metadata.find::<&str>(&key("pre"))?.unwrap_or_default().to_owned(),
        tokens: strings("tokens")?,
        scores: metadata.find::<&[f32]>(&key("scores"))?.unwrap_or_default().to_vec(),
        token_type: token_types(metadata, &key("token_type"))?,
        merges: strings("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}

/// Kinds beyond 32 bits become -1, which the tokenizer refuses by name.
fn token_types(metadata: &Metadata, key: &str) -> Result<Vec<i32>, FileError> {
    let types = metadata.find::<Vec<i64>>(key)?.unwrap_or_default();
    Ok(types.into_iter().map(|t| i32::try_from(t).unwrap_or(-1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_files_are_told_from_protobufs() {
        assert!(is_rank_file(b"IQ== 0\nIg== 1\n"));
        assert!(is_rank_file(b"IQ== 0"));
        for other in [&b"\n\x0e\n\x05<unk>"[..], b"", b"{}", b"hello world", b"a b 1"] {
            assert!(!is_rank_file(other), "{other:?}");
        }
    }
}
