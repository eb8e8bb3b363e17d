//! Checkpoints of every style open with the same parts; wrong ones are refused by name.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::fs;
use std::path::Path;

use common::{RECORDED, Tensor, recorded};
use herd_model::names::{EmbeddingShards, Part, Style, all_parts, name};
use herd_model::{Checkpoint, CheckpointError, Config, RopeScaling};
use herd_tensor::Format;
use herd_tensor::files::{Array, DType, Value};

/// Every part is what [`common::numbers`] says.
fn assert_parts(checkpoint: &Checkpoint, config: &Config) {
    for part in all_parts(config) {
        let stored = checkpoint.part(part).unwrap();
        assert_eq!(stored.shape, part.shape(config));
        assert_eq!(stored.format, Format::F32);
        assert!(*stored.bytes == common::bytes(config, part), "{part:?}");
        assert_eq!(stored.unpack(), common::numbers(config, part));
    }
}

fn error(path: &Path) -> CheckpointError {
    Checkpoint::open(path).map(|checkpoint| checkpoint.config).unwrap_err()
}

/// The error and all its causes.
fn chain(error: &CheckpointError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

#[test]
fn one_model_in_every_style_has_the_same_parts() {
    let config = common::config();
    let folder = tempfile::tempdir().unwrap();
    common::write_hf(folder.path(), &config, &common::tensors(&config, Style::Hf));
    let hf = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((hf.style, &hf.config, hf.folder()), (Style::Hf, &config, folder.path()));
    assert_eq!(hf.generation.bos_token_id, Some(1));
    assert_parts(&hf, &config);
    assert_parts(&Checkpoint::open(folder.path().join("model.safetensors")).unwrap(), &config);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let mut metadata = common::metadata(&config);
    metadata.insert("tokenizer.ggml.eos_token_id", Value::U32(2));
    metadata.insert("llama.attention.head_count", Value::Array(Array::I32(vec![4, 4])));
    common::write_gguf(&path, &metadata, &common::tensors(&config, Style::Gguf));
    for path in [&path, folder.path()] {
        let gguf = Checkpoint::open(path).unwrap();
        assert_eq!(
            (gguf.style, &gguf.config, gguf.folder()),
            (Style::Gguf, &config, folder.path())
        );
        assert_eq!(gguf.generation.eos_token_ids, [2]);
        assert_parts(&gguf, &config);
    }
}

#[test]
fn ranks_are_joined_whichever_way_they_were_cut() {
    let config = common::config();
    let tensors = common::tensors(&config, Style::Meta);
    for cut in [EmbeddingShards::ByVocabulary, EmbeddingShards::ByWidth] {
        for ranks in [1, 2, 4, 8] {
            let folder = tempfile::tempdir().unwrap();
            common::write_meta(folder.path(), &config, &tensors, ranks, cut);
            let meta = Checkpoint::open(folder.path()).unwrap();
            assert_eq!((meta.style, &meta.config), (Style::Meta, &config), "{ranks} {cut:?}");
            assert_parts(&meta, &config);
        }
    }
}

#[test]
fn recorded_folders_open_with_every_part() {
    for folder in RECORDED {
        let checkpoint = Checkpoint::open(recorded(folder)).unwrap();
        let parts = all_parts(&checkpoint.config);
        let sum: usize = parts.iter().map(|p| checkpoint.part(*p).unwrap().unpack().len()).sum();
        assert_eq!(sum as u64, checkpoint.config.params(), "{folder}");
        assert!(checkpoint.notes.is_empty());
        assert_eq!(checkpoint.generation.eos_token_ids, [2], "{folder}");
        // Row 2a + b of each head here is row b K/2 + a there.
        let (q, name) =
            (checkpoint.part(Part::Q(0)).unwrap(), "model.layers.0.self_attn.q_proj.weight");
        let archive = checkpoint.archive();
        let there = archive.bytes(archive.tensor(name).unwrap()).unwrap();
        let (k, row) = (checkpoint.config.head_dim, 4 * checkpoint.config.width);
        for i in 0..checkpoint.config.heads * k {
            let j = i / k * k + (i % 2) * (k / 2) + i % k / 2;
            assert_eq!(q.bytes[i * row..][..row], there[j * row..][..row], "{folder} {i}");
        }
    }
}

#[test]
fn a_second_head_of_a_tied_model_is_not_used() {
    let config = Config { tied: true, ..common::config() };
    let embedding = common::bytes(&config, Part::TokEmbd);
    let shape = Part::Output.shape(&config);
    let head = |style, bytes| {
        Tensor::new(&name(Part::Output, style).unwrap(), &shape, DType::Format(Format::F32), bytes)
    };
    let mut other = embedding.clone();
    other[5] ^= 1;
    for (bytes, notes) in [(embedding.clone(), 0), (other.clone(), 1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = common::tensors(&config, Style::Hf);
        tensors.push(head(Style::Hf, bytes));
        common::write_hf(folder.path(), &config, &tensors);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!((checkpoint.config.tied, checkpoint.notes.len()), (true, notes));
        assert!(checkpoint.part(Part::Output).is_err());
    }
    // Meta's files of 3.2 carry both; only the bytes tell whether they are one.
    for (bytes, ranks, tied) in
        [(&embedding, 1, true), (&embedding, 2, true), (&other, 1, false), (&other, 2, false)]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = common::tensors(&config, Style::Meta);
        tensors.push(head(Style::Meta, bytes.clone()));
        let cut = EmbeddingShards::ByVocabulary;
        common::write_meta(folder.path(), &config, &tensors, ranks, cut);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.config.tied, tied, "{ranks}");
        assert_eq!(checkpoint.part(Part::Output).is_ok(), !tied);
    }
}

#[test]
fn divisors_in_a_gguf_become_the_scaling() {
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let config = Config { rope_scaling: scaling, ..common::config() };
    let divisors = config.rope_scaling.divisors(config.rope_theta, config.head_dim).unwrap();
    let mut tensors = common::tensors(&config, Style::Gguf);
    let bytes = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
    tensors.push(Tensor::new("rope_freqs.weight", &[4], DType::Format(Format::F32), bytes));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    common::write_gguf(&path, &common::metadata(&config), &tensors);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.config, config);
    assert_eq!(checkpoint.part(Part::RopeFreqs).unwrap().unpack(), divisors);
}

#[test]
fn tables_that_the_configuration_gives_are_skipped() {
    let config = common::config();
    let mut tensors = common::tensors(&config, Style::Hf);
    let name = "model.layers.1.self_attn.rotary_emb.inv_freq";
    tensors.push(Tensor::new(name, &[4], DType::F64, vec![0; 32]));
    let folder = tempfile::tempdir().unwrap();
    common::write_hf(folder.path(), &config, &tensors);
    assert_parts(&Checkpoint::open(folder.path()).unwrap(), &config);
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    type Change = fn(&mut Vec<Tensor>);
    let cases: [(Change, &str, Option<&str>); 8] = [
        (|t| drop(t.pop()), "has no tensor lm_head.weight", Some("download")),
        (
            |t| t.push(Tensor::new("model.norm.bias", &[1], DType::F64, vec![0; 8])),
            "did you mean \"model.norm.weight\"?",
            None,
        ),
        (
            |t| {
                let name = "model.layers.2.mlp.up_proj.weight";
                t.push(Tensor::new(name, &[1], DType::F64, vec![0; 8]));
            },
            "model.layers.2.mlp.up_proj.weight is of layer 2, the model has 2",
            None,
        ),
        (
            |t| t[0].info.shape = vec![32, 40],
            "model.embed_tokens.weight has the shape [32, 40], expected [40, 32]",
            None,
        ),
        (
            |t| t[0].info.shape = vec![40, 32, 1],
            "has the shape [40, 32, 1], expected [40, 32]",
            None,
        ),
        (
            |t| {
                t[0].info.dtype = DType::F64;
                t[0].bytes = vec![0; 40 * 32 * 8];
            },
            "model.embed_tokens.weight is stored as F64",
            Some("float32"),
        ),
        (
            |t| {
                t[0].info.dtype = DType::F8_E4M3;
                t[0].bytes.truncate(40 * 32);
            },
            "stored as F8_E4M3",
            Some("8-bit"),
        ),
        (
            |t| {
                t[0].info.dtype = DType::I8;
                t[0].bytes.truncate(40 * 32);
            },
            "stored as I8",
            Some("another quantiser"),
        ),
    ];
    for (change, message, hint) in cases {
        let config = common::config();
        let mut tensors = common::tensors(&config, Style::Hf);
        change(&mut tensors);
        let folder = tempfile::tempdir().unwrap();
        common::write_hf(folder.path(), &config, &tensors);
        let error = error(folder.path());
        assert!(chain(&error).contains(message), "{}", chain(&error));
        let given = error.hint();
        assert_eq!(given.is_some(), hint.is_some(), "{message}: {given:?}");
        assert!(given.unwrap_or_default().contains(hint.unwrap_or_default()), "{given:?}");
    }
}

#[test]
fn a_folder_without_its_configuration_is_refused() {
    let config = common::config();
    let folder = tempfile::tempdir().unwrap();
    common::write_hf(folder.path(), &config, &common::tensors(&config, Style::Hf));
    let path = folder.path().join("config.json");
    fs::write(&path, "{\"model_type\": \"llama\"}").unwrap();
    assert!(chain(&error(folder.path())).contains("config.json has no hidden_size"));
    fs::remove_file(&path).unwrap();
    let missing = error(folder.path());
    assert!(chain(&missing).contains("config.json: No such file"), "{}", chain(&missing));
    assert!(missing.hint().unwrap().contains("same folder"));
    fs::create_dir(&path).unwrap();
    assert!(matches!(error(folder.path()), CheckpointError::NoText { .. }));

    let folder = tempfile::tempdir().unwrap();
    assert!(chain(&error(folder.path())).contains("holds no model"));
    let text = folder.path().join("a.txt");
    fs::write(&text, "once upon a time").unwrap();
    assert!(chain(&error(&text)).contains("not a file of tensors"));
    assert!(chain(&error(&folder.path().join("b"))).contains("cannot open"));
}

#[test]
fn ranks_that_do_not_fit_are_refused() {
    let config = common::config();
    let tensors = common::tensors(&config, Style::Meta);
    let cut = EmbeddingShards::ByWidth;
    let folder = tempfile::tempdir().unwrap();
    common::write_meta(folder.path(), &config, &tensors, 2, cut);
    fs::remove_file(folder.path().join("consolidated.01.pth")).unwrap();
    let text = chain(&error(folder.path()));
    assert!(text.contains("has the shape [40, 16], expected [40, 32]"), "{text}");

    // Of four ranks, three: neither the vocabulary nor the width comes out.
    common::write_meta(folder.path(), &config, &tensors, 4, cut);
    fs::remove_file(folder.path().join("consolidated.03.pth")).unwrap();
    let text = chain(&error(folder.path()));
    assert!(text.contains("tok_embeddings.weight has the shape [40, 8]"), "{text}");

    // One rank is of another model.
    common::write_meta(folder.path(), &config, &tensors, 2, cut);
    common::write_pth(&folder.path().join("consolidated.01.pth"), &tensors);
    fs::remove_file(folder.path().join("consolidated.02.pth")).unwrap();
    let text = chain(&error(folder.path()));
    assert!(text.contains("has the shape [40, 48], expected [40, 32]"), "{text}");
}

#[test]
fn a_gguf_of_another_architecture_or_type_is_refused() {
    let config = common::config();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let mut metadata = common::metadata(&config);
    let mut tensors = common::tensors(&config, Style::Gguf);
    metadata.insert("general.architecture", Value::String("qwen2".into()));
    common::write_gguf(&path, &metadata, &tensors);
    assert!(chain(&error(&path)).contains("general.architecture"));

    let mut metadata = common::metadata(&config);
    metadata.insert("llama.vocab_size", Value::Array(Array::U8(vec![9; 1 << 20])));
    common::write_gguf(&path, &metadata, &tensors);
    assert!(chain(&error(&path)).contains("llama.vocab_size is 9"));

    tensors[1].info.dtype = DType::I8;
    tensors[1].bytes = vec![0; 32];
    common::write_gguf(&path, &common::metadata(&config), &tensors);
    let text = chain(&error(&path));
    assert!(text.contains("blk.0.attn_norm.weight is stored as I8"), "{text}");
}
