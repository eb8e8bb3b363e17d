//! Recipes give every tensor the type that llama.cpp's llama-quantize gives it.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;

use herd_model::Config;
use herd_model::names::{Part, Style, all_parts, name};
use herd_model::presets::LLAMA3_8B;
use herd_model::recipe::Recipe;

const RECORDED: &str = include_str!("../../../testdata/recipes.txt");

/// The shape of a line `model NAME layers width heads kv_heads ffn_width vocab tied`.
fn shape(line: &str) -> Config {
    let numbers: Vec<usize> = line.split(' ').skip(2).map(|n| n.parse().unwrap()).collect();
    let [layers, width, heads, kv_heads, ffn_width, vocab, tied] = numbers[..] else {
        panic!("{line}")
    };
    let (head_dim, tied) = (width / heads, tied == 1);
    Config { layers, width, heads, kv_heads, head_dim, ffn_width, vocab, tied, ..LLAMA3_8B }
}

/// `attn_q` of `blk.3.attn_q.weight`.
fn kind(part: Part) -> String {
    let name = name(part, Style::Gguf).unwrap();
    let name = name.strip_suffix(".weight").unwrap();
    name.rsplit('.').next().unwrap().to_owned()
}

/// Types of each kind in the order of the layers, as the file has them.
fn types(recipe: Recipe, config: &Config) -> BTreeMap<String, String> {
    let mut runs: BTreeMap<String, Vec<(&str, usize)>> = BTreeMap::new();
    for part in all_parts(config).into_iter().filter(|p| p.shape(config).len() == 2) {
        let format = recipe.format(part, config).name();
        let runs = runs.entry(kind(part)).or_default();
        match runs.last_mut() {
            Some((last, count)) if *last == format => *count += 1,
            _ => runs.push((format, 1)),
        }
    }
    let print = |runs: Vec<(&str, usize)>| -> String {
        runs.iter().map(|(format, count)| format!(" {format}x{count}")).collect()
    };
    runs.into_iter().map(|(kind, runs)| (kind, print(runs))).collect()
}

#[test]
fn every_tensor_gets_the_type_that_llama_quantize_gives() {
    let (mut config, mut model, mut compared) = (LLAMA3_8B, "", 0);
    for line in RECORDED.lines() {
        if line.starts_with("model ") {
            (config, model) = (shape(line), line);
            continue;
        }
        let (recipe, rest) = line.split_once(' ').unwrap();
        let (kind, runs) = rest.split_at(rest.find(' ').unwrap());
        let own = types(Recipe::named(recipe).unwrap(), &config);
        assert_eq!(own[kind], runs, "{recipe} {kind} of {model}");
        compared += 1;
    }
    assert_eq!(compared, RECORDED.lines().filter(|l| !l.starts_with("model")).count());
    assert!(compared > 1400);
}
