//! Which crate uses which, which lints hold, and why each dependency is there.

use crate::expect_none;
use crate::tree::{Page, pages, read};
use std::collections::BTreeMap;

/// For each crate of ARCHITECTURE.md's table, in its order, the crates it may use.
fn allowed() -> Vec<(String, Vec<String>)> {
    let text = read("ARCHITECTURE.md");
    let table = text.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let mut crates: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let uses = match cells[3] {
            "all" => crates.iter().map(|(name, _)| name.clone()).collect(),
            names => names.split(' ').filter(|n| *n != "-").map(str::to_owned).collect(),
        };
        crates.push((cells[1].trim_matches('`').to_owned(), uses));
    }
    assert!(crates.len() >= 6, "the table of crates in ARCHITECTURE.md is gone");
    crates
}

/// The crates of the workspace that a manifest depends on, tests included.
fn used(manifest: &str) -> Vec<String> {
    let names = manifest.lines().filter_map(|line| line.strip_prefix("herd-"));
    names.map(|rest| rest.split(['.', ' ', '=']).next().unwrap_or("").to_owned()).collect()
}

fn manifests() -> BTreeMap<String, Page> {
    let found = pages("crates", &["/Cargo.toml"]).into_iter();
    found.map(|page| (page.path.split('/').nth(1).unwrap_or("").to_owned(), page)).collect()
}

#[test]
fn crates_use_only_what_the_architecture_lists() {
    let allowed: BTreeMap<_, _> = allowed().into_iter().collect();
    let mut breaches = Vec::new();
    for (name, page) in manifests() {
        let Some(uses) = allowed.get(&name) else {
            breaches.push(format!("{name} is not in the table of crates"));
            continue;
        };
        let wrong = used(&page.text).into_iter().filter(|other| !uses.contains(other));
        breaches.extend(wrong.map(|other| format!("{name} uses {other}")));
    }
    expect_none("crates use only what ARCHITECTURE.md lists", &breaches);
}

#[test]
fn the_table_of_crates_only_looks_down() {
    let mut below: Vec<String> = Vec::new();
    let mut breaches = Vec::new();
    for (name, uses) in allowed() {
        let wrong = uses.iter().filter(|other| !below.contains(other));
        breaches.extend(wrong.map(|other| format!("{name} uses {other}, which is not above it")));
        below.push(name);
    }
    expect_none("a crate uses crates that stand before it in the table", &breaches);
}

#[test]
fn lints_hold_in_every_crate() {
    let mut breaches = Vec::new();
    let mut need = |path: &str, text: &str, line: &str| {
        if !text.lines().any(|l| l.split('#').next().is_some_and(|l| l.trim() == line)) {
            breaches.push(format!("{path} lacks {line:?}"));
        }
    };
    let workspace = read("Cargo.toml");
    need("Cargo.toml", &workspace, "unsafe_code = \"forbid\"");
    need("Cargo.toml", &workspace, "missing_docs = \"warn\"");
    for (name, page) in manifests() {
        if name == "kernels" {
            need(&page.path, &page.text, "undocumented_unsafe_blocks = \"deny\"");
            need(&page.path, &page.text, "unsafe_op_in_unsafe_fn = \"deny\"");
            need(&page.path, &page.text, "missing_docs = \"warn\"");
        } else {
            let lints = page.text.replace("[lints]\nworkspace = true", "[lints] workspace");
            need(&page.path, &lints, "[lints] workspace");
        }
    }
    expect_none("`unsafe` lives in kernels, argued; public items are explained", &breaches);
}

#[test]
fn every_dependency_says_why() {
    let text = read("Cargo.toml");
    let table = text.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let lines: Vec<&str> = table.take_while(|line| !line.starts_with('[')).collect();
    let foreign = |line: &&str| !line.is_empty() && !line.starts_with("herd-");
    assert!(lines.len() > 6, "the table of dependencies is gone");
    let silent = lines.into_iter().filter(foreign).filter(|line| !line.contains("# "));
    expect_none("a dependency says why", &silent.map(str::to_owned).collect::<Vec<_>>());
    let own = manifests().into_values().flat_map(|page| {
        let version = |line: &str| line.contains("version = \"") || line.contains("path = \"");
        let lines = page.text.lines().filter(|line| version(line));
        lines.map(|line| format!("{}: {line}", page.path)).collect::<Vec<_>>()
    });
    expect_none("versions stand in the root's table alone", &own.collect::<Vec<_>>());
}
