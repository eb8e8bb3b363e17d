//! Pages, scripts and recorded files: each can be found, and none tells of a developer's machine.

use crate::expect_none;
use crate::tree::{Page, exists, pages, paths, read};

/// The folder of `path`, with `/` at its end; "" at the root.
fn folder(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..=slash])
}

/// The targets of the links of a Markdown text that lie in the repository, from its root.
fn links(page: &Page) -> Vec<String> {
    let targets = page.text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let local = targets.map(|(target, _)| target).filter(|t| !t.contains("://"));
    let files = local.map(|t| t.split('#').next().unwrap_or("")).filter(|t| !t.is_empty());
    let joined = files.map(|t| format!("{}{t}", folder(&page.path)));
    joined.map(|t| t.replace("docs/../", "").replace("testdata/../", "")).collect()
}

/// The files of `folder` that a text names, as `folder/name.ending`.
fn names_in<'a>(text: &'a str, folder: &str) -> Vec<&'a str> {
    let starts = text.match_indices(folder).map(|(at, _)| at);
    let inside = |at: &usize| !text[..*at].ends_with(['/', '.', '-', '_']);
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.');
    let ends = |at: usize| text[at..].find(|c| !part(c)).map_or(text.len(), |n| at + n);
    let whole = starts.filter(inside).map(|at| text[at..ends(at)].trim_end_matches(['.', '/']));
    whole.filter(|name| name.contains('.')).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut breaches = Vec::new();
    for page in pages("", &[".md"]) {
        let lost = links(&page).into_iter().filter(|target| !exists(target));
        breaches.extend(lost.map(|target| format!("{} links to {target}", page.path)));
    }
    for page in pages("", &[".md", ".rs", ".py", ".sh"]) {
        let named = ["docs/", "scripts/"].iter().flat_map(|folder| names_in(&page.text, folder));
        let lost = named.filter(|name| !exists(name));
        breaches.extend(lost.map(|name| format!("{} names {name}", page.path)));
    }
    expect_none("what is named is there", &breaches);
}

#[test]
fn names_are_found_in_prose() {
    assert_eq!(
        names_in("see `books/a-b.md`, books/c.md. my/books/d.md books/", "books/"),
        ["books/a-b.md", "books/c.md"]
    );
}

#[test]
fn every_page_is_linked_from_the_index_and_every_picture_from_a_page() {
    let index = Page { path: "docs/README.md".into(), text: read("docs/README.md") };
    let linked = links(&index);
    let (others, pages_lost): (Vec<_>, Vec<_>) = paths("docs")
        .into_iter()
        .filter(|p| !linked.contains(p))
        .partition(|p| !p.ends_with(".md"));
    let lost = pages_lost.into_iter().filter(|p| *p != index.path);
    expect_none("docs/README.md links every page", &lost.collect::<Vec<_>>());
    let shown: Vec<_> = pages("docs", &[".md"]).iter().flat_map(links).collect();
    let lost = others.into_iter().filter(|p| !shown.contains(p));
    expect_none("a page shows every picture", &lost.collect::<Vec<_>>());
}

#[test]
fn every_script_is_named_in_the_docs() {
    let mut prose = read("README.md");
    pages("docs", &[".md"]).into_iter().for_each(|page| prose += &page.text);
    let lost = paths("scripts").into_iter().filter(|script| !prose.contains(script.as_str()));
    expect_none("README.md or docs/ say what a script is for", &lost.collect::<Vec<_>>());
}

#[test]
fn every_recorded_file_is_explained() {
    let readme = read("testdata/README.md");
    let unexplained = |path: &String| {
        let path = path.trim_start_matches("testdata/");
        let top = path.split('/').next().unwrap_or("");
        let name = if path.contains('/') { format!("{top}/") } else { top.to_owned() };
        path != "README.md" && !readme.contains(&name)
    };
    let lost = paths("testdata").into_iter().filter(unexplained);
    expect_none("testdata/README.md explains every file", &lost.collect::<Vec<_>>());
}

#[test]
fn prose_shows_no_trees_of_files() {
    let trees = pages("", &[".md"]).into_iter().filter(|page| page.text.contains(['├', '└']));
    expect_none("trees of files go stale", &trees.map(|page| page.path).collect::<Vec<_>>());
}

#[test]
fn nothing_tells_of_a_developers_machine() {
    // Put together here, so that this file does not hold what it looks for.
    let homes = ["home", "root", "Users", "work"].map(|name| format!("/{name}/"));
    let hosts = [["npmjs", "org"], ["pythonhosted", "org"], ["debian", "org"], ["crates", "io"]];
    let hosts = hosts.map(|parts| parts.join("."));
    let mut breaches = Vec::new();
    for path in paths("").into_iter().filter(|path| !path.ends_with("Cargo.lock")) {
        let text = read(&path);
        for home in &homes {
            let before = |at: usize| text[..at].chars().next_back();
            let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '}' | '>');
            let mut places = text.match_indices(home).map(|(at, _)| at);
            if places.any(|at| !before(at).is_some_and(part)) {
                breaches.push(format!("{path} names {home}"));
            }
        }
        let named = hosts.iter().filter(|host| text.contains(host.as_str()));
        breaches.extend(named.map(|host| format!("{path} names {host}")));
    }
    expect_none("no path of a machine, no host of a registry", &breaches);
}
