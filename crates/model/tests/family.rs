//! The family table of docs/model.md is the presets.

use herd_model::RopeScaling;
use herd_model::presets::{CARDS, Card};

const PAGE: &str = include_str!("../../../docs/model.md");

fn row(card: &Card) -> String {
    let c = &card.config;
    let scaling = match c.rope_scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Llama3 { factor, .. } => format!(" x{factor}"),
        ref other => panic!("{}: no preset has {other:?}", card.name),
    };
    let theta = c.rope_theta;
    let eps = format!("{:e}", c.norm_eps);
    let tied = if c.tied { "yes" } else { "" };
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {theta}{scaling} | {eps} | {} | {tied} | {} | {} | {} |",
        card.name,
        card.release,
        c.layers,
        c.width,
        c.heads,
        c.kv_heads,
        c.head_dim,
        c.ffn_width,
        c.vocab,
        c.context,
        c.params(),
        card.tokens,
        card.licence,
    )
}

#[test]
fn the_page_lists_every_preset_and_no_other() {
    for card in &CARDS {
        assert!(PAGE.contains(&row(card)), "docs/model.md lacks\n{}", row(card));
    }
    let rows = PAGE.lines().filter(|line| line.contains("| 202")).count();
    assert_eq!(rows, CARDS.len(), "docs/model.md has rows without a preset");
}
