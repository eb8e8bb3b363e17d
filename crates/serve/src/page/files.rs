//! The files of the page: in the program, no build step, nothing from elsewhere.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use sha2::{Digest, Sha256};

/// A file of a page.
pub struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

impl File {
    /// What is sent at a path, and of which kind it is.
    pub const fn new(path: &'static str, kind: &'static str, bytes: &'static [u8]) -> File {
        File { path, kind, bytes }
    }
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! file {
    ($name:literal, $kind:expr) => {
        File {
            path: concat!("/ui/", $name),
            kind: $kind,
            bytes: include_bytes!(concat!("static/", $name)),
        }
    };
}

const FILES: &[File] = &[
    File {
        path: "/",
        kind: "text/html; charset=utf-8",
        bytes: include_bytes!("static/index.html"),
    },
    file!("icon.svg", "image/svg+xml"),
    file!("style.css", STYLE),
    file!("message.css", STYLE),
    file!("load.css", STYLE),
    file!("main.js", SCRIPT),
    file!("api.js", SCRIPT),
    file!("chat.js", SCRIPT),
    file!("composer.js", SCRIPT),
    file!("dialogs.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("icons.js", SCRIPT),
    file!("load.js", SCRIPT),
    file!("markdown.js", SCRIPT),
    file!("message.js", SCRIPT),
    file!("settings.js", SCRIPT),
    file!("sidebar.js", SCRIPT),
    file!("tokens.js", SCRIPT),
    file!("tools.js", SCRIPT),
    file!("tree.js", SCRIPT),
    file!("words.js", SCRIPT),
    file!("vendor/highlight.js", SCRIPT),
    file!("vendor/marked.js", SCRIPT),
    file!("vendor/purify.js", SCRIPT),
];

/// What the page may load and do: its own files alone. Pictures in answers may stand in their own
/// address (`data:`), so that no answer can tell another server that it was read.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether a path is a file of the page, which everybody may have: it asks for the key itself.
pub fn is_file(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

/// A file of the page, or 304 where the caller has it.
pub fn send(path: &str, asked: &HeaderMap) -> Option<Response> {
    send_file(FILES, path, asked)
}

/// The same of a list of files, under the same policy.
pub fn send_file(files: &[File], path: &str, asked: &HeaderMap) -> Option<Response> {
    let file = files.iter().find(|file| file.path == path)?;
    let hash = Sha256::digest(file.bytes);
    let tag: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str());
    let mut response = Response::new(if known { Body::empty() } else { Body::from(file.bytes) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, file.kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal in quotes"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_sent_and_every_import_is_a_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/page/static");
        for folder in [folder.to_owned(), format!("{folder}/vendor")] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let script = name.ends_with(".js") || name.ends_with(".css");
                assert!(
                    !script || FILES.iter().any(|f| f.path.ends_with(&format!("/{name}"))),
                    "{name}"
                );
            }
        }
        for file in FILES.iter().filter(|file| !file.path.contains("vendor")) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            for (_, rest) in
                text.match_indices(" from \"./").map(|(at, m)| text.split_at(at + m.len()))
            {
                let name = rest.split('"').next().unwrap();
                assert!(is_file(&format!("/ui/{name}")), "{} imports {name}", file.path);
            }
        }
    }

    #[test]
    fn a_file_that_the_caller_has_is_not_sent_again() {
        let first = send("/", &HeaderMap::new()).unwrap();
        assert_eq!(first.status(), StatusCode::OK);
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(send("/", &asked).unwrap().status(), StatusCode::NOT_MODIFIED);
        assert!(send("/ui/../mod.rs", &asked).is_none());
    }

    #[test]
    fn the_page_names_no_other_server_and_has_no_script_or_style_inside() {
        for file in FILES.iter().filter(|file| !file.path.contains("vendor")) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            let names = text.replace("http://www.w3.org/", "");
            assert!(!names.contains("http://") && !names.contains("https://"), "{}", file.path);
        }
        let page = std::str::from_utf8(FILES[0].bytes).unwrap();
        assert!(!page.contains("style=") && !page.contains("<style") && !page.contains(" onclick"));
    }
}
