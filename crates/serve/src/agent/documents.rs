//! Documents as text, with the place of each part: what is searched, and what Python finds beside a file.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use super::{pdf, xml};

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it stands: `page 3`, `sheet Sales`; empty where lines tell.
    pub place: String,
    /// What it says.
    pub text: String,
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is not what its name says.
    #[error("it is no {kind}: {why}")]
    Damaged {
        /// What its name says.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It unpacks to more than is read.
    #[error("it unpacks to more than {most} bytes")]
    TooLarge {
        /// Bytes at most.
        most: usize,
    },
    /// It holds no text.
    #[error("it is no text: the byte at {at} is not UTF-8")]
    NotText {
        /// Where.
        at: usize,
    },
}

/// Bytes of text that one document unpacks to at most.
pub const UNPACKED_BYTES: usize = 32 << 20;

/// Whether Python needs help to read a file of this name.
pub fn is_packed(name: &str) -> bool {
    matches!(ending(name).as_str(), "docx" | "xlsx" | "pdf")
}

fn ending(name: &str) -> String {
    name.rsplit_once('.').map_or(String::new(), |(_, ending)| ending.to_ascii_lowercase())
}

/// The text of a document, by the ending of its name; unknown endings are read as text.
///
/// Errors: a file that is not what its name says, or unpacks to more than [`UNPACKED_BYTES`]; memory is bounded by that and
/// the file.
pub fn read(name: &str, bytes: &[u8]) -> Result<Vec<Part>, DocumentError> {
    let parts = match ending(name).as_str() {
        "docx" => docx(bytes)?,
        "xlsx" => xlsx(bytes)?,
        "pdf" => pdf::pages(bytes)?
            .into_iter()
            .enumerate()
            .map(|(i, text)| Part { place: format!("page {}", i + 1), text })
            .collect(),
        "html" | "htm" => vec![Part { place: String::new(), text: xml::html_text(text(bytes)?) }],
        _ => vec![Part { place: String::new(), text: text(bytes)?.to_owned() }],
    };
    Ok(parts.into_iter().filter(|part| !part.text.trim().is_empty()).collect())
}

fn text(bytes: &[u8]) -> Result<&str, DocumentError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|e| DocumentError::NotText { at: e.valid_up_to() })
}

/// A file inside a zip archive, as long as all that was unpacked stays within the bound.
struct Unpacker<'a> {
    archive: zip::ZipArchive<Cursor<&'a [u8]>>,
    kind: &'static str,
    left: usize,
}

impl<'a> Unpacker<'a> {
    fn new(bytes: &'a [u8], kind: &'static str) -> Result<Unpacker<'a>, DocumentError> {
        let damaged =
            |e: zip::result::ZipError| DocumentError::Damaged { kind, why: e.to_string() };
        let archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        Ok(Unpacker { archive, kind, left: UNPACKED_BYTES })
    }

    fn get(&mut self, name: &str) -> Result<Option<String>, DocumentError> {
        let damaged = |why: String| DocumentError::Damaged { kind: self.kind, why };
        let file = match self.archive.by_name(name) {
            Ok(file) => file,
            Err(zip::result::ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let mut out = Vec::new();
        let read = file.take(self.left as u64 + 1).read_to_end(&mut out);
        read.map_err(|e| damaged(format!("{name}: {e}")))?;
        if out.len() > self.left {
            return Err(DocumentError::TooLarge { most: UNPACKED_BYTES });
        }
        self.left -= out.len();
        String::from_utf8(out).map(Some).map_err(|_| damaged(format!("{name} is not UTF-8")))
    }

    fn need(&mut self, name: &str) -> Result<String, DocumentError> {
        let (kind, why) = (self.kind, format!("it holds no {name}"));
        self.get(name)?.ok_or(DocumentError::Damaged { kind, why })
    }
}

/// Paragraphs, a line each; the cells of a table's row with tabs between.
fn docx(bytes: &[u8]) -> Result<Vec<Part>, DocumentError> {
    let body = Unpacker::new(bytes, "docx")?.need("word/document.xml")?;
    let (mut text, mut inside) = (String::new(), false);
    for event in xml::events(&body) {
        match event {
            xml::Event::Open { name: "w:t", closed, .. } => inside = !closed,
            xml::Event::Close("w:t") => inside = false,
            xml::Event::Open { name: "w:tab", .. } | xml::Event::Close("w:tc") => text.push('\t'),
            xml::Event::Open { name: "w:br", .. } | xml::Event::Close("w:p") => text.push('\n'),
            xml::Event::Text(words) if inside => text += &xml::unescaped(words),
            _ => {}
        }
    }
    Ok(vec![Part { place: String::new(), text: text.replace("\n\t", "\t") }])
}

/// Cells of a sheet's row at most: columns run to XFD.
const COLUMNS: usize = 16_384;

/// Texts that cells share at most; Excel itself has no sheet with more.
const SHARED_MAX: usize = 1 << 21;

/// Sheets as CSV, values as they are stored (dates are numbers there).
fn xlsx(bytes: &[u8]) -> Result<Vec<Part>, DocumentError> {
    let mut archive = Unpacker::new(bytes, "xlsx")?;
    let shared = archive.get("xl/sharedStrings.xml")?.map_or(Vec::new(), |xml| shared(&xml));
    let workbook = archive.need("xl/workbook.xml")?;
    let relations = archive.get("xl/_rels/workbook.xml.rels")?.unwrap_or_default();
    let mut targets = HashMap::new();
    for event in xml::events(&relations) {
        if let xml::Event::Open { name: "Relationship", attributes, .. } = event
            && let (Some(id), Some(target)) =
                (xml::attribute(attributes, "Id"), xml::attribute(attributes, "Target"))
        {
            targets.entry(id).or_insert(target);
        }
    }
    let mut parts = Vec::new();
    let mut room = UNPACKED_BYTES;
    for event in xml::events(&workbook) {
        let xml::Event::Open { name: "sheet", attributes, .. } = event else { continue };
        let (Some(name), Some(id)) =
            (xml::attribute(attributes, "name"), xml::attribute(attributes, "r:id"))
        else {
            continue;
        };
        let Some(target) = targets.get(&id) else { continue };
        let path = match target.strip_prefix('/') {
            Some(absolute) => absolute.to_owned(),
            None => format!("xl/{target}"),
        };
        let text = sheet(&archive.need(&path)?, &shared, room)?;
        room -= text.len();
        parts.push(Part { place: format!("sheet {name}"), text });
    }
    Ok(parts)
}

fn shared(xml: &str) -> Vec<String> {
    let (mut all, mut inside) = (Vec::new(), false);
    for event in xml::events(xml) {
        match event {
            xml::Event::Open { name: "si", .. } if all.len() < SHARED_MAX => {
                all.push(String::new())
            }
            xml::Event::Open { name: "t", closed, .. } => inside = !closed,
            xml::Event::Close("t") => inside = false,
            xml::Event::Text(words) if inside => {
                if let Some(last) = all.last_mut() {
                    *last += &xml::unescaped(words);
                }
            }
            _ => {}
        }
    }
    all
}

/// Rows of cells as CSV. Shared strings may be named a million times, so what comes of them is bounded by `room`, a row's cells
/// before they are copied.
fn sheet(xml: &str, shared: &[String], room: usize) -> Result<String, DocumentError> {
    let (mut out, mut row) = (String::new(), Vec::<String>::new());
    let too_large = || DocumentError::TooLarge { most: UNPACKED_BYTES };
    let mut row_bytes = 0;
    let (mut kind, mut value, mut inside) = (String::new(), String::new(), false);
    for event in xml::events(xml) {
        match event {
            xml::Event::Open { name: "c", attributes, .. } => {
                kind = xml::attribute(attributes, "t").unwrap_or_default();
                value.clear();
                let column = xml::attribute(attributes, "r").and_then(|place| column(&place));
                let column = column.unwrap_or(row.len()).min(COLUMNS);
                row.resize(column.max(row.len()), String::new());
                row.push(String::new());
                if row.len() > 2 * COLUMNS {
                    return Err(too_large());
                }
            }
            xml::Event::Open { name: "v" | "t", closed, .. } => inside = !closed,
            xml::Event::Close("v" | "t") => inside = false,
            xml::Event::Text(words) if inside => value += &xml::unescaped(words),
            xml::Event::Close("c") => {
                let text = match kind.as_str() {
                    "s" => value.parse().ok().and_then(|i: usize| shared.get(i)),
                    _ => Some(&value),
                };
                let text = text.map(String::as_str).unwrap_or_default();
                row_bytes += text.len();
                if out.len() + row_bytes > room {
                    return Err(too_large());
                }
                if let Some(cell) = row.last_mut() {
                    text.clone_into(cell);
                }
            }
            xml::Event::Close("row") => {
                let cells: Vec<String> = row.drain(..).map(|cell| quoted(&cell)).collect();
                out += &cells.join(",");
                out.push('\n');
                row_bytes = 0;
                // Quotation marks and commas came on top.
                if out.len() > room {
                    return Err(too_large());
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The column of a cell's place: 2 of `C7`.
fn column(place: &str) -> Option<usize> {
    let letters = place.bytes().take_while(u8::is_ascii_uppercase);
    let n = letters.take(4).fold(0usize, |n, letter| n * 26 + usize::from(letter - b'A' + 1));
    n.checked_sub(1)
}

fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_names_one_long_string_again_and_again_is_refused_before_it_ends() {
        let shared = ["x".repeat(1 << 10)];
        let cells = "<c t=\"s\"><v>0</v></c>".repeat(16);
        let too_large = Err(DocumentError::TooLarge { most: UNPACKED_BYTES });
        assert_eq!(sheet(&format!("<row>{cells}"), &shared, 15 << 10), too_large);
        // A cell may be closed more than once.
        let closes = format!("<row><c t=\"s\"><v>0</v>{}", "</c>".repeat(16));
        assert_eq!(sheet(&closes, &shared, 15 << 10), too_large);
        let text = sheet(&format!("<row>{cells}</row>"), &shared, 17 << 10).unwrap();
        assert_eq!(text.len(), 16 * 1025);
    }
}
