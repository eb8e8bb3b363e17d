//! What a source file looks like: its first line, its length, the length of its functions.

use crate::expect_none;
use crate::tree::{Page, pages};

/// Lines of a function at most.
const FUNCTION_LINES: usize = 70;
/// Lines of a file at most.
const FILE_LINES: usize = 800;
/// Longer functions, with the lines they may have. This list only shrinks.
const LONG_FUNCTIONS: &[(&str, &str, usize)] =
    &[("crates/kernels/src/attention.rs", "attention", 86)];
/// Longer files, with the lines they may have. This list only shrinks.
const LONG_FILES: &[(&str, usize)] = &[];

/// The functions of a source with their lines, from `fn` to the closing brace. It relies on
/// rustfmt: the brace that closes a function stands under its first letter.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let header = lines[first..].iter().position(|line| line.ends_with(['{', '}', ';']));
        let body = first + header.unwrap_or(0);
        if lines[body].ends_with(';') {
            continue; // a declaration
        }
        let closes = |line: &&str| line.strip_prefix(indent).is_some_and(|l| l.starts_with('}'));
        let last = match lines[body].ends_with('}') {
            true => body,
            false => body + lines[body..].iter().position(closes).unwrap_or(0),
        };
        found.push((name, last - first + 1));
    }
    found
}

/// The name of the function that begins on this line.
fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let begins = |word: &str| {
        matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"") || word.starts_with("pub")
    };
    let before = before.replace("(in ", "(");
    let ends = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (ends > 0 && before.split_whitespace().all(begins)).then(|| &after[..ends])
}

#[test]
fn the_scanner_sees_every_kind_of_function() {
    let text = "\
fn one() {}
impl X {
    pub(crate) unsafe fn three<T>(
        t: T,
    ) {
        // two fn calls
    }

    fn declared(
        t: u8,
    );
    let fn_pointer: fn (u8);
}";
    assert_eq!(functions(text), [("one", 1), ("three", 5)]);
}

#[test]
fn functions_are_short() {
    let (mut breaches, mut excused) = (Vec::new(), Vec::new());
    for Page { path, text } in pages("crates", &[".rs"]) {
        for (name, lines) in functions(&text).into_iter().filter(|f| f.1 > FUNCTION_LINES) {
            let known = LONG_FUNCTIONS.iter().find(|l| (l.0, l.1) == (path.as_str(), name));
            excused.extend(known);
            if known.is_none_or(|long| lines > long.2) {
                breaches.push(format!("{path}: {name} has {lines} lines"));
            }
        }
    }
    let stale = LONG_FUNCTIONS.iter().filter(|long| !excused.contains(long));
    breaches.extend(stale.map(|long| format!("{} is short now: remove it from the list", long.1)));
    expect_none("functions have at most 70 lines", &breaches);
}

#[test]
fn files_are_short() {
    let (mut breaches, mut excused) = (Vec::new(), Vec::new());
    for Page { path, text } in pages("crates", &[".rs"]) {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            let known = LONG_FILES.iter().find(|long| long.0 == path);
            excused.extend(known);
            if known.is_none_or(|long| lines > long.1) {
                breaches.push(format!("{path} has {lines} lines"));
            }
        }
    }
    let stale = LONG_FILES.iter().filter(|long| !excused.contains(long));
    breaches.extend(stale.map(|long| format!("{} is short now: remove it from the list", long.0)));
    expect_none("files have at most 800 lines", &breaches);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent =
        pages("crates", &[".rs"]).into_iter().filter(|page| !page.text.starts_with("//! "));
    expect_none(
        "the first line is `//! ` and the file's duty",
        &silent.map(|p| p.path).collect::<Vec<_>>(),
    );
}

#[test]
fn nothing_is_left_undone() {
    // Written in two parts, so that this file does not hold what it looks for.
    let marks = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!"));
    let ignored = format!("#[ignore{}", "]");
    let mut breaches = Vec::new();
    for Page { path, text } in pages("crates", &[".rs"]) {
        for (i, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) || line.contains(&ignored) {
                breaches.push(format!("{path}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    expect_none("nothing unfinished, no test ignored without a reason", &breaches);
}
