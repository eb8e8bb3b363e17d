//! A small tokenizer, texts made from a seed, and folders compared byte by byte.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part; helpers panic as tests do

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use herd_codec::{SpecialTable, Tokenizer};
use herd_data::disk::RealDisk;
use herd_data::read::Sources;
use herd_data::{Check, Corpus, TokenizeOptions};

/// A file of testdata.
pub fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// The smallest tokenizer there: 512 ids and more.
pub fn tokenizer() -> Tokenizer {
    let ranks = fs::read(testdata("tokenizer/small.tiktoken")).unwrap();
    Tokenizer::from_tiktoken(&ranks, SpecialTable::Llama31).unwrap()
}

/// The number that follows in a sequence; the same on every machine.
pub fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// A text of up to `words` words in several scripts.
pub fn text(seed: &mut u64, words: u64) -> String {
    const WORDS: [&str; 12] = [
        "the ",
        "herd ",
        "goes ",
        "on\n",
        "und ",
        "über ",
        "漢字",
        "1984 ",
        "<|eot_id|>",
        "\"x\" ",
        "\u{1F999} ",
        "naïve\r\n",
    ];
    let n = 1 + next(seed) % words;
    (0..n).map(|_| WORDS[next(seed) as usize % WORDS.len()]).collect()
}

/// A file of JSON lines with these texts.
pub fn write_lines(path: &Path, texts: &[String]) {
    let line = |(i, text): (usize, &String)| {
        format!("{}\n", serde_json::json!({ "id": i, "text": text, "more": [text] }))
    };
    fs::write(path, texts.iter().enumerate().map(line).collect::<String>()).unwrap();
}

/// Writes a file that was not there; some file systems are slow to overwrite one that was.
pub fn write_anew(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// The sources at these paths.
pub fn sources(inputs: &[&Path]) -> Sources {
    let inputs: Vec<String> = inputs.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
    Sources::find(&inputs).unwrap()
}

/// Small shards on two threads, a fifth held out.
pub fn options() -> TokenizeOptions {
    TokenizeOptions { validation: 0.2, shard_tokens: 2000, ..TokenizeOptions::new(2) }
}

/// The content of every file of a folder.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let file =
        |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    entries.map(file).collect()
}

/// Texts of a source: as many as asked for, of up to 60 words.
pub fn texts(seed: u64, n: usize) -> Vec<String> {
    let mut seed = seed;
    // The number in front keeps them apart: equal texts would be held out together.
    (0..n).map(|i| format!("{i} {}", text(&mut seed, 60))).collect()
}

/// Tokenizes the sources, each a name and its texts, below `folder`, and opens the shards.
pub fn corpus(folder: &Path, parts: &[(&str, Vec<String>)]) -> Corpus {
    let shards = folder.join("shards");
    let paths: Vec<PathBuf> = parts
        .iter()
        .map(|(name, texts)| {
            let path = folder.join(format!("{name}.jsonl"));
            write_lines(&path, texts);
            path
        })
        .collect();
    let sources = sources(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    herd_data::tokenize(&tokenizer(), &sources, &options(), &shards, &RealDisk, &mut |_| {})
        .unwrap();
    Corpus::open(&shards, Check::Contents).unwrap()
}
