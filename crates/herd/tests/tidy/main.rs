//! The rules of the house, checked on its own files: what ARCHITECTURE.md says of crates, what a
//! source may look like, and that every page, script and recorded file can be found.

mod manifests;
mod pages;
mod sources;
mod tree;

/// Fails with one line for each breach of a rule.
fn expect_none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}
