//! Just enough XML and HTML to take text out of documents: tags as they come, nothing built, nothing fetched.

/// Something in a text of XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// `<name attributes>`, or with `/` at its end.
    Open { name: &'a str, attributes: &'a str, closed: bool },
    /// `</name>`.
    Close(&'a str),
    /// What stands between tags, as it is written.
    Text(&'a str),
}

/// The tags and texts of a document, in order; comments and declarations are passed over. A tag without an end ends it.
pub(super) fn events(text: &str) -> impl Iterator<Item = Event<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let Some(tag) = rest.strip_prefix('<') else {
                let end = rest.find('<').unwrap_or(rest.len());
                let words = &rest[..end];
                rest = &rest[end..];
                return Some(Event::Text(words));
            };
            let (end, skip) = match () {
                () if tag.starts_with("!--") => ("-->", true),
                () if tag.starts_with("![CDATA[") => {
                    let (words, after) = tag[8..].split_once("]]>").unwrap_or((&tag[8..], ""));
                    rest = after;
                    return Some(Event::Text(words));
                }
                () if tag.starts_with(['!', '?']) => (">", true),
                () => (">", false),
            };
            let Some((inner, after)) = tag.split_once(end) else {
                rest = "";
                continue;
            };
            rest = after;
            if skip {
                continue;
            }
            if let Some(name) = inner.strip_prefix('/') {
                return Some(Event::Close(name.trim()));
            }
            let closed = inner.ends_with('/');
            let inner = inner.strip_suffix('/').unwrap_or(inner);
            let (name, attributes) =
                inner.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((inner, ""));
            return Some(Event::Open { name, attributes, closed });
        }
    })
}

/// The value of an attribute, its references resolved.
pub(super) fn attribute(attributes: &str, name: &str) -> Option<String> {
    let mut rest = attributes;
    loop {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, next) = after[1..].split_once(quote)?;
        if key.trim() == name {
            return Some(unescaped(value));
        }
        rest = next;
    }
}

/// Longest reference that is looked for.
const REFERENCE_BYTES: usize = 10;

/// A text with its references resolved; those that are unknown stay.
pub(super) fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out += before;
        let end = after.bytes().take(REFERENCE_BYTES).position(|byte| byte == b';');
        let resolved = end.and_then(|end| Some((reference(&after[..end])?, end)));
        match resolved {
            Some((c, end)) => {
                out.push(c);
                rest = &after[end + 1..];
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out + rest
}

fn reference(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "mdash" => '\u{2014}',
        "ndash" => '\u{2013}',
        _ => {
            let code = name.strip_prefix('#')?;
            let code = match code.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => code.parse().ok()?,
            };
            char::from_u32(code)?
        }
    })
}

/// The words of a page, without scripts and styles; a line for each block.
pub(super) fn html_text(page: &str) -> String {
    const BLOCKS: [&str; 16] = [
        "p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article",
        "pre", "table", "title",
    ];
    let (mut out, mut hidden): (String, Option<String>) = (String::new(), None);
    for event in events(page) {
        match event {
            Event::Open { name, closed, .. } => {
                let name = name.to_ascii_lowercase();
                if hidden.is_none() && !closed && matches!(name.as_str(), "script" | "style") {
                    hidden = Some(name);
                } else if BLOCKS.contains(&name.as_str()) {
                    out.push('\n');
                } else if matches!(name.as_str(), "td" | "th") {
                    out.push('\t');
                }
            }
            Event::Close(name) => {
                let name = name.to_ascii_lowercase();
                if hidden.as_ref() == Some(&name) {
                    hidden = None;
                } else if BLOCKS.contains(&name.as_str()) {
                    out.push('\n');
                }
            }
            Event::Text(words) if hidden.is_none() => {
                let mut words = words.split_whitespace().peekable();
                if words.peek().is_some() && !out.ends_with(['\n', '\t', ' ']) {
                    out.push(' ');
                }
                out += &unescaped(&words.collect::<Vec<_>>().join(" "));
            }
            Event::Text(_) => {}
        }
    }
    let lines = out.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}
