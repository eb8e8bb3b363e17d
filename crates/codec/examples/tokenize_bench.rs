//! Encodes, decodes and times, for scripts/check-tokenizer.py and scripts/bench-tokenizer.py.
//!
//! ```text
//! tokenize_bench ids TOKENIZER < texts.jsonl     # a JSON string a line in, ids a line out
//! tokenize_bench time TOKENIZER TEXTS.jsonl THREADS PASSES
//! tokenize_bench json TOKENIZER                  # tokenizer.json on standard output
//! ```
//!
//! TOKENIZER is a tiktoken rank file, a tokenizer.json, a SentencePiece model, or a GGUF

use std::error::Error;
use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::time::Instant;

use herd_codec::{Batch, GgufVocab, SpecialTable, TokenId, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["ids", tokenizer] => print_ids(&load(tokenizer)?),
        ["json", tokenizer] => {
            println!("{}", load(tokenizer)?.to_tokenizer_json()?);
            Ok(())
        }
        ["time", tokenizer, texts, threads, passes] => {
            time(&load(tokenizer)?, texts, threads.parse()?, passes.parse()?)
        }
        _ => {
            Err("usage: ids TOKENIZER | json TOKENIZER | time TOKENIZER TEXTS THREADS PASSES"
                .into())
        }
    }
}

fn load(path: &str) -> Result<Tokenizer, Box<dyn Error>> {
    let file = std::fs::read(path)?;
    if file.starts_with(b"{\"model\":") {
        return Ok(Tokenizer::from_gguf_vocab(&serde_json::from_slice::<GgufVocab>(&file)?)?);
    }
    if file.starts_with(b"{") {
        return Ok(Tokenizer::from_tokenizer_json(&file)?);
    }
    if file.starts_with(b"\n") {
        return Ok(Tokenizer::from_sentencepiece(&file)?);
    }
    Ok(Tokenizer::from_tiktoken(&file, SpecialTable::Llama31)?)
}

fn print_ids(tokenizer: &Tokenizer) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(stdout().lock());
    let missing = tokenizer.missing_bytes();
    for line in stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let ids = tokenizer.encode(&text);
        let spelt = text.bytes().all(|byte| !missing.contains(&byte));
        if spelt && tokenizer.decode(&ids) != text.as_bytes() {
            eprintln!("decode(encode(x)) differs from x = {text:?}");
        }
        let ids: Vec<String> = ids.iter().map(TokenId::to_string).collect();
        writeln!(out, "{}", ids.join(" "))?;
    }
    Ok(out.flush()?)
}

/// Prints one JSON line: megabytes (10^6) a second of each pass, encoding and decoding.
fn time(
    tokenizer: &Tokenizer,
    texts: &str,
    threads: usize,
    passes: usize,
) -> Result<(), Box<dyn Error>> {
    let file = std::fs::read_to_string(texts)?;
    let texts: Vec<String> = file.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let megabytes = texts.iter().map(|text| text.len()).sum::<usize>() as f64 / 1e6;
    let (mut encode, mut encode_cpu, mut decode) = (Vec::new(), Vec::new(), Vec::new());
    let mut ids = Batch::default();
    for _ in 0..passes {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        ids = tokenizer.encode_batch(&texts, threads);
        encode.push(megabytes / start.elapsed().as_secs_f64());
        encode_cpu.extend(cpu.zip(cpu_seconds()).map(|(from, to)| megabytes / (to - from)));
    }
    for _ in 0..passes {
        let start = Instant::now();
        let bytes: usize = ids.iter().map(|ids| tokenizer.decode(ids).len()).sum();
        decode.push(megabytes / start.elapsed().as_secs_f64());
        assert_eq!(bytes as f64 / 1e6, megabytes, "decoding lost bytes");
    }
    let tokens: usize = ids.tokens();
    let report = serde_json::json!({
        "encode": encode,
        "encode_cpu": encode_cpu,
        "decode": decode,
        "tokens": tokens,
    });
    println!("{report}");
    Ok(())
}

/// Time the main thread has spent computing: on a shared machine steadier than the clock.
fn cpu_seconds() -> Option<f64> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(times.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}
