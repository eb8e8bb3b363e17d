//! Logits against Hugging Face transformers in f32 (must-hold line 3), on every recorded model.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::fs;
use std::path::Path;

use common::{RECORDED, recorded};
use herd_model::Checkpoint;
use herd_model::convert::{Job, keep, write};
use herd_model::llama::{Adapter, Batch, Llama};
use herd_model::names::Style;
use herd_tensor::files::{Archive, Metadata};
use herd_tensor::ops::KvCache;
use herd_tensor::{Class, Device, Format, KvFormat, KvShape, Sequence, blocks};

/// What the issue asks for. Transformers' own f32 lies within 5e-6 of its f64 on these models.
const DIFFERENCE_MAX: f32 = 1e-4;

/// Recorded as well; no GGUF can hold it, so the tests that convert leave it out.
const NOT_TRUNCATED: &str = "yarn_not_truncated";

/// Token ids, and the logits [T, V] that transformers gives for them.
struct Golden {
    ids: Vec<u32>,
    logits_tv: Vec<f32>,
}

fn golden(name: &str) -> Vec<Golden> {
    golden_in(&recorded(name), &recorded(name))
}

/// Ids of one folder, logits of another.
fn golden_in(ids: &Path, folder: &Path) -> Vec<Golden> {
    let json = fs::read(ids.join("golden.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let sequences: Vec<Vec<u32>> = serde_json::from_value(json["sequences"].clone()).unwrap();
    let archive = Archive::open(folder.join("golden.safetensors")).unwrap();
    let logits = |i: usize| {
        let info = archive.tensor(&format!("logits_{i}")).unwrap();
        let mut numbers = vec![0.0; info.shape.iter().product()];
        blocks::unpack(Format::F32, &archive.bytes(info).unwrap(), &mut numbers);
        numbers
    };
    sequences.into_iter().enumerate().map(|(i, ids)| Golden { ids, logits_tv: logits(i) }).collect()
}

/// Logits of all positions, `chunk` tokens a forward pass.
fn run(model: &Llama, ids: &[u32], chunk: usize) -> Vec<f32> {
    let config = model.config();
    let shape = KvShape {
        format: KvFormat::F32,
        page_len: 16,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
    };
    let pages: Vec<u32> = (0..ids.len().div_ceil(16) as u32).rev().collect();
    let mut cache = KvCache::new(shape, config.layers, pages.len());
    let mut logits_tv = Vec::new();
    for (i, tokens) in ids.chunks(chunk).enumerate() {
        let past = i * chunk;
        let positions: Vec<u32> = (past as u32..).take(tokens.len()).collect();
        let sequences = [Sequence { row: 0, rows: tokens.len(), past, pages: &pages }];
        let batch = Batch { tokens, positions: &positions, sequences: &sequences };
        let x_td = model.forward(&batch, &mut cache);
        logits_tv.extend_from_slice(model.logits(&x_td).data());
    }
    logits_tv
}

#[test]
fn logits_with_an_adapter_equal_pefts_and_the_weights_beside_it_stay_as_they_were() {
    let base = recorded("llama2_gqa");
    let checkpoint = Checkpoint::open(&base).unwrap();
    for class in Class::available() {
        let plain = Llama::load(&checkpoint, &Device::cpu(class, 1), 64).unwrap();
        for name in ["all", "rooted"] {
            let folder = base.join("../../adapters").join(name);
            let adapter = Adapter::open(&folder, &checkpoint.config).unwrap();
            let model = plain.adapted(&adapter);
            for golden in golden_in(&base, &folder) {
                let whole = run(&model, &golden.ids, golden.ids.len());
                assert!(whole == run(&model, &golden.ids, 1), "{name} in {class}");
                let pairs = whole.iter().zip(&golden.logits_tv);
                let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= DIFFERENCE_MAX, "{name} in {class} is off by {off}");
            }
            let ids = [44, 68, 13];
            assert!(run(&model.unadapted(), &ids, 3) == run(&plain, &ids, 3));
            assert!(run(&model, &ids, 3) != run(&plain, &ids, 3));
        }
    }
}

#[test]
fn a_model_that_took_its_adapter_in_has_pefts_logits() {
    let base = recorded("llama2_gqa");
    let checkpoint = Checkpoint::open(&base).unwrap();
    let device = Device::cpu(Class::Portable, 1);
    for name in ["all", "rooted"] {
        let folder = base.join("../../adapters").join(name);
        let adapter = Adapter::open(&folder, &checkpoint.config).unwrap();
        for style in [Style::Hf, Style::Gguf, Style::Meta] {
            let place = tempfile::tempdir().unwrap();
            let out = place.path().join("merged.gguf");
            let plan = keep(&checkpoint, style, Some(Format::F32));
            let (metadata, adapter) = (Metadata::default(), Some(&adapter));
            let job =
                Job { out: &out, style, plan: &plan, metadata: &metadata, files: &[], adapter };
            write(&device, &checkpoint, &job, &mut |_, _| {}).unwrap();
            let merged = Llama::load(&Checkpoint::open(&out).unwrap(), &device, 64).unwrap();
            for golden in golden_in(&base, &folder) {
                let pairs = run(&merged, &golden.ids, golden.ids.len()).into_iter();
                let pairs = pairs.zip(golden.logits_tv);
                let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= DIFFERENCE_MAX, "{name} in {style:?} is off by {off}");
            }
        }
    }
}

#[test]
fn an_adapter_of_another_model_is_refused_by_the_tensor_that_does_not_fit() {
    let folder = recorded("llama2_gqa").join("../../adapters/all");
    let other = Checkpoint::open(recorded("llama1_mha")).unwrap();
    let error = Adapter::open(&folder, &other.config).map(drop).unwrap_err();
    assert!(error.to_string().contains("has the shape"), "{error}");
    let error = Adapter::open(&recorded("llama2_gqa"), &other.config).map(drop).unwrap_err();
    assert!(error.to_string().contains("adapter_config.json"), "{error}");
}

#[test]
fn logits_equal_transformers_in_every_class_whole_and_token_by_token() {
    for name in RECORDED.into_iter().chain([NOT_TRUNCATED]) {
        let checkpoint = Checkpoint::open(recorded(name)).unwrap();
        let goldens = golden(name);
        for class in Class::available() {
            let device = Device::cpu(class, 1);
            for golden in &goldens {
                // Transformers recomputes a dynamic model's frequencies for the length at hand; we
                // ask at load for the longest length, so that no bit depends on how far it got.
                let model = Llama::load(&checkpoint, &device, golden.ids.len()).unwrap();
                let whole = run(&model, &golden.ids, golden.ids.len());
                let single = run(&model, &golden.ids, 1);
                let pairs = whole.iter().zip(&golden.logits_tv);
                let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert_eq!(whole.len(), golden.logits_tv.len(), "{name}");
                assert!(off <= DIFFERENCE_MAX, "{name}, {class}: off by {off:e}");
                let same = whole.iter().zip(&single).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name}, {class}: token by token gives other bits");
                println!("{name:22} {class:8} T = {:2}: {off:.1e}", golden.ids.len());
            }
        }
    }
}

#[test]
fn a_dynamic_model_is_as_trained_within_its_own_context() {
    let checkpoint = Checkpoint::open(recorded("dynamic_ntk")).unwrap();
    let device = Device::cpu(Class::Portable, 1);
    let ids = &golden("dynamic_ntk")[1].ids[..20];
    let [plain, edge, longer] = [20, 32, 41]
        .map(|context| run(&Llama::load(&checkpoint, &device, context).unwrap(), ids, 20));
    assert_eq!(plain, edge);
    assert_ne!(plain, longer);
}
