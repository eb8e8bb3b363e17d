//! Logits against Hugging Face transformers in f32 (must-hold line 3), on every recorded model.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::fs;

use common::{RECORDED, recorded};
use herd_model::Checkpoint;
use herd_model::llama::{Batch, Llama};
use herd_tensor::files::Archive;
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
    let folder = recorded(name);
    let json = fs::read(folder.join("golden.json")).unwrap();
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
