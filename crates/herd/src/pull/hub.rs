//! Pulls a model from a Hugging-Face-style hub: `OWNER/NAME[@REVISION]`.

use std::path::Path;

use serde::Deserialize;

use crate::console::{Console, bytes};
use crate::error::Error;
use crate::pull::download::{Client, Wanted};
use crate::store::{Source, SourceFile, Store, inner_path, make_folder};

/// What to pull from where.
#[derive(Debug)]
pub struct HubModel<'a> {
    /// Base address of the hub.
    pub hub: &'a str,
    /// `OWNER/NAME`.
    pub model: &'a str,
    /// Branch, tag or commit.
    pub revision: &'a str,
    /// The user's choice of files; empty leaves it to [`choose`].
    pub globs: &'a [String],
}

/// The hub's answer on a model, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<Card>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Large>,
}

/// Large files carry their hash.
#[derive(Debug, Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Card {
    license: Option<serde_json::Value>,
}

/// The list of a model of many thousand files is smaller.
const LISTING_BYTES_MAX: u64 = 64 << 20;

/// Brings the chosen files into the store and gives what `source.json` then says.
pub fn pull(store: &Store, wanted: &HubModel, console: &Console) -> Result<Source, Error> {
    let HubModel { model, revision, .. } = wanted;
    let hub = wanted.hub.trim_end_matches('/');
    let name = match *revision {
        "main" => (*model).to_owned(),
        revision => format!("{model}@{revision}"),
    };
    store.folder(&name)?; // refuses odd names before they reach an address
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    let client = Client::new(token);
    let address = format!("{hub}/api/models/{model}/revision/{revision}?blobs=true");
    let listing = client.get_text(&address, LISTING_BYTES_MAX)?;
    let listing: Listing = serde_json::from_str(&listing).map_err(|e| Error::Answer {
        url: address.clone(),
        what: format!("no list of files ({e})"),
    })?;
    check_listing(&listing, &address)?;
    let chosen = choose(&listing, wanted)?;
    if let Some(had) = store.find(&name)?.filter(|had| is_same(had, &listing, &chosen)) {
        return Ok(had);
    }

    let total = chosen.iter().filter_map(|f| f.size()).sum();
    console.note(format!("pulling {} files, {} of {name}", chosen.len(), bytes(total)));
    let stage = store.stage(&name, &listing.sha)?;
    let base = format!("{hub}/{model}/resolve/{}", listing.sha);
    let mut files = Vec::new();
    for file in chosen {
        files.push(fetch(&client, &base, file, &stage.folder, console)?);
    }
    let licence = listing.card.and_then(|card| card.license).map(|text| match text {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    });
    let from = format!("{hub}/{model}");
    let source = Source { name, from, revision: listing.sha, licence, files };
    store.install(stage, &source)?;
    Ok(source)
}

fn fetch(
    client: &Client,
    base: &str,
    file: &Sibling,
    folder: &Path,
    console: &Console,
) -> Result<SourceFile, Error> {
    let inner = inner_path(&file.rfilename).expect("the listing was checked");
    let path = folder.join(inner);
    make_folder(path.parent().expect("the file lies in the folder"))?;
    let url = format!("{base}/{}", escape(&file.rfilename));
    let sha256 = file.lfs.as_ref().map(|large| large.sha256.as_str());
    let wanted = Wanted { url: &url, path: &path, bytes: file.size(), sha256 };
    let (bytes, sha256) = client.fetch(&wanted, console)?;
    console.note(format!("  {} {}", file.rfilename, crate::console::bytes(bytes)));
    Ok(SourceFile { path: file.rfilename.clone(), bytes, sha256 })
}

impl Sibling {
    fn size(&self) -> Option<u64> {
        self.lfs.as_ref().map(|large| large.size).or(self.size)
    }
}

fn check_listing(listing: &Listing, address: &str) -> Result<(), Error> {
    let refuse = |what| Err(Error::Answer { url: address.to_owned(), what });
    let plain = |c: char| c.is_ascii_alphanumeric();
    if listing.sha.is_empty() || listing.sha.len() > 64 || !listing.sha.chars().all(plain) {
        return refuse(format!("a commit named {:?}", listing.sha));
    }
    match listing.siblings.iter().find(|f| inner_path(&f.rfilename).is_none()) {
        Some(file) => refuse(format!("a file named {:?}", file.rfilename)),
        None => Ok(()),
    }
}

fn is_same(had: &Source, listing: &Listing, chosen: &[&Sibling]) -> bool {
    let there = |f: &&Sibling| had.files.iter().any(|h| h.path == f.rfilename);
    had.revision == listing.sha && had.files.len() == chosen.len() && chosen.iter().all(there)
}

/// The files that make a model: those the user named; else safetensors with the small files
/// beside them; else the only GGUF. Several GGUFs are a choice that only the user can make.
fn choose<'a>(listing: &'a Listing, wanted: &HubModel) -> Result<Vec<&'a Sibling>, Error> {
    let model = wanted.model.to_owned();
    let all = &listing.siblings;
    if !wanted.globs.is_empty() {
        let named = |f: &&Sibling| wanted.globs.iter().any(|g| matches_glob(g, &f.rfilename));
        let chosen: Vec<&Sibling> = all.iter().filter(named).collect();
        if chosen.is_empty() {
            let files = all.iter().map(|f| f.rfilename.clone()).collect();
            return Err(Error::NoMatch { model, globs: wanted.globs.join(" "), files });
        }
        return Ok(chosen);
    }
    let ends = |f: &&Sibling, end: &str| f.rfilename.ends_with(end);
    let top = |f: &&Sibling| !f.rfilename.contains('/');
    if all.iter().any(|f| top(&f) && ends(&f, ".safetensors")) {
        let kinds = [".safetensors", ".json", ".jinja", "tokenizer.model"];
        let useful = |f: &&Sibling| {
            let licence = f.rfilename.to_ascii_uppercase().starts_with("LICEN");
            top(f) && (licence || kinds.iter().any(|end| ends(f, end)))
        };
        return Ok(all.iter().filter(useful).collect());
    }
    let ggufs: Vec<&Sibling> = all.iter().filter(|f| ends(f, ".gguf")).collect();
    match ggufs.as_slice() {
        [_] => Ok(ggufs),
        [] => {
            let files = all.iter().map(|f| f.rfilename.clone()).collect();
            Err(Error::NoMatch { model, globs: "*.safetensors or *.gguf".to_owned(), files })
        }
        many => {
            let files = many.iter().map(|f| f.rfilename.clone()).collect();
            Err(Error::Choose { model, files })
        }
    }
}

/// `*` stands for any letters, `?` for one. Goes back to the last star only, which is enough.
fn matches_glob(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if glob.get(g) == Some(&'*') {
            star = Some((g, n));
            g += 1;
        } else if glob.get(g).is_some_and(|&c| c == '?' || c == name[n]) {
            g += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            g = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

/// A path as part of an address.
fn escape(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    path.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(globs: &[&str], files: &[&str]) -> Result<Vec<String>, Error> {
        let sibling = |f: &&str| Sibling { rfilename: f.to_string(), size: Some(1), lfs: None };
        let siblings = files.iter().map(sibling).collect();
        let listing = Listing { sha: "1".into(), siblings, card: None };
        let globs: Vec<String> = globs.iter().map(|g| g.to_string()).collect();
        let wanted = HubModel { hub: "", model: "a/b", revision: "main", globs: &globs };
        let chosen = choose(&listing, &wanted)?;
        Ok(chosen.into_iter().map(|f| f.rfilename.clone()).collect())
    }

    #[test]
    fn the_files_of_a_model_are_chosen() {
        let files = ["LICENSE", "README.md", "config.json", "model.safetensors", "tokenizer.json"];
        let more = ["original/consolidated.00.pth", "original/params.json", "pytorch_model.bin"];
        let all: Vec<&str> = files.into_iter().chain(more).collect();
        let wanted = ["LICENSE", "config.json", "model.safetensors", "tokenizer.json"];
        assert_eq!(names(&[], &all).unwrap(), wanted);
        assert_eq!(names(&["original/*"], &all).unwrap(), more[..2]);
        assert_eq!(names(&[], &["a.gguf", "README.md"]).unwrap(), ["a.gguf"]);
        assert!(matches!(names(&[], &["a.gguf", "b.gguf"]), Err(Error::Choose { .. })));
        assert!(matches!(names(&["*.x"], &["a.gguf"]), Err(Error::NoMatch { .. })));
        assert!(matches!(names(&[], &["a.bin"]), Err(Error::NoMatch { .. })));
    }

    #[test]
    fn globs_match_as_in_a_shell() {
        for (glob, name, wanted) in [
            ("*Q4_K_M.gguf", "m-Q4_K_M.gguf", true),
            ("*Q4_K_M.gguf", "m-Q4_K_S.gguf", false),
            ("a*b*c", "aXbXbc", true),
            ("?.gguf", "ä.gguf", true),
            ("", "", true),
            ("*", "", true),
            ("a", "", false),
        ] {
            assert_eq!(matches_glob(glob, name), wanted, "{glob} {name}");
        }
        let many_stars = "*a".repeat(50) + "b";
        assert!(!matches_glob(&many_stars, &"a".repeat(5000)));
    }

    #[test]
    fn addresses_hold_no_letters_with_a_meaning() {
        assert_eq!(escape("a b/c?#%.json"), "a%20b/c%3F%23%25.json");
    }
}
