//! Texts to learn from and to measure: files and folders of plain text and JSON lines, packed or
//! not, read in chunks so that memory does not grow with the corpus.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::Error;

/// Bytes read before a chunk is handed out.
const CHUNK_BYTES: usize = 1 << 20;
/// The longest text or line: whole ones must fit into memory.
const TEXT_BYTES_MAX: usize = 1 << 30;

/// The files of a corpus in the order in which they are read.
#[derive(Debug)]
pub struct Texts {
    files: Vec<TextFile>,
    /// The field of a JSON line that holds the text.
    field: String,
}

#[derive(Debug)]
struct TextFile {
    path: PathBuf,
    source: String,
    kind: Kind,
    packing: Packing,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One text.
    Text,
    /// A JSON object on each line.
    Lines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

/// A text, or a part of one, with what is known of it.
pub struct Text<'a> {
    /// The text.
    pub text: Cow<'a, str>,
    /// Number of its file in [`Texts::sources`].
    pub source: usize,
    /// Its record's `lang` or `language`.
    pub language: Option<String>,
    /// Its record's `domain`.
    pub domain: Option<String>,
}

/// Part of a file: whole lines of JSON, or text up to a place where it may be cut.
pub struct Chunk {
    file: usize,
    /// Where it begins in the unpacked file.
    offset: u64,
    /// Number of its first line, from 1.
    line: u64,
    bytes: Vec<u8>,
}

impl Texts {
    /// The files at `paths`; folders are searched for `.txt` and `.jsonl`, also with `.gz` or
    /// `.zst` behind. A file that is named may have any other ending: it is plain text.
    ///
    /// Errors if a path cannot be read or there is no file at all.
    pub fn find(paths: &[PathBuf], field: &str) -> Result<Texts, Error> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                search(path, &mut files)?;
                continue;
            }
            fs::metadata(path).map_err(Error::io("read", path))?;
            files.push(known(path).unwrap_or_else(|| TextFile {
                path: path.clone(),
                source: name(path).to_owned(),
                kind: Kind::Text,
                packing: Packing::None,
            }));
        }
        if files.is_empty() {
            let got: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            let expected = "files, or folders that hold .txt or .jsonl (.gz, .zst)".to_owned();
            return Err(Error::Value { what: "the input", got: got.join(" "), expected });
        }
        Ok(Texts { files, field: field.to_owned() })
    }

    /// The names of the files without their endings.
    pub fn sources(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.source.as_str()).collect()
    }

    /// All of it, chunk by chunk. `last_cut` gives the last place where a text may be cut.
    pub fn chunks<'a>(
        &'a self,
        last_cut: impl Fn(&[u8]) -> Option<usize> + Send + 'a,
    ) -> impl Iterator<Item = Result<Chunk, Error>> + Send + 'a {
        let mut files = self.files.iter().enumerate();
        let mut open: Option<Open<'_>> = None;
        std::iter::from_fn(move || {
            loop {
                if let Some(file) = &mut open {
                    match file.next(&last_cut) {
                        Ok(Some(chunk)) => return Some(Ok(chunk)),
                        Ok(None) => open = None,
                        Err(error) => return Some(Err(error)),
                    }
                }
                let (number, file) = files.next()?;
                match Open::new(number, file) {
                    Ok(file) => open = Some(file),
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Calls `each` with every text of a chunk.
    ///
    /// Errors if the chunk is not UTF-8 or a line is no object with a text; or as `each` does.
    pub fn each(
        &self,
        chunk: &Chunk,
        mut each: impl FnMut(Text<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let file = &self.files[chunk.file];
        let text = std::str::from_utf8(&chunk.bytes).map_err(|e| {
            let offset = chunk.offset + e.valid_up_to() as u64;
            Error::Utf8 { path: file.path.clone(), offset }
        })?;
        if file.kind == Kind::Text {
            let (text, source) = (Cow::Borrowed(text), chunk.file);
            return each(Text { text, source, language: None, domain: None });
        }
        for (line, record) in (chunk.line..).zip(text.split('\n')) {
            if record.trim_ascii().is_empty() {
                continue;
            }
            let Record { text, language, domain } = self.record(record).map_err(|e| {
                let what = e.to_string();
                Error::Record { path: file.path.clone(), line, what }
            })?;
            each(Text { text, source: chunk.file, language, domain })?;
        }
        Ok(())
    }

    fn record<'a>(&self, line: &'a str) -> Result<Record<'a>, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(line);
        let record = RecordSeed(&self.field).deserialize(&mut json)?;
        json.end()?;
        Ok(record)
    }
}

/// Adds the texts below a folder, in the order of their names.
fn search(folder: &Path, files: &mut Vec<TextFile>) -> Result<(), Error> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = entries.map_err(Error::io("read", folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type());
        if name(&path).starts_with('.') {
            continue;
        }
        // Links to folders are not followed: they may lead in circles.
        if kind.map_err(Error::io("read", &path))?.is_dir() {
            search(&path, files)?;
        } else if path.is_file() {
            files.extend(known(&path));
        }
    }
    Ok(())
}

/// The file at `path` if its ending tells what it holds.
fn known(path: &Path) -> Option<TextFile> {
    let name = name(path);
    let (name, packing) = match name.rsplit_once('.') {
        Some((name, "gz")) => (name, Packing::Gzip),
        Some((name, "zst")) => (name, Packing::Zstd),
        _ => (name, Packing::None),
    };
    let (source, kind) = match name.rsplit_once('.') {
        Some((source, "txt")) => (source, Kind::Text),
        Some((source, "jsonl")) => (source, Kind::Lines),
        _ => return None,
    };
    Some(TextFile { path: path.to_owned(), source: source.to_owned(), kind, packing })
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// A file under way.
struct Open<'a> {
    number: usize,
    file: &'a TextFile,
    reader: Box<dyn Read + Send>,
    /// Read, but not yet handed out.
    rest: Vec<u8>,
    offset: u64,
    line: u64,
}

impl<'a> Open<'a> {
    fn new(number: usize, file: &'a TextFile) -> Result<Self, Error> {
        let opened = File::open(&file.path).map_err(Error::io("open", &file.path))?;
        let reader: Box<dyn Read + Send> = match file.packing {
            Packing::None => Box::new(opened),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(opened)),
            Packing::Zstd => Box::new(
                zstd::stream::read::Decoder::new(opened)
                    .map_err(Error::io("unpack", &file.path))?,
            ),
        };
        Ok(Self { number, file, reader, rest: Vec::new(), offset: 0, line: 1 })
    }

    /// The next chunk; none at the end of the file.
    fn next(&mut self, last_cut: &dyn Fn(&[u8]) -> Option<usize>) -> Result<Option<Chunk>, Error> {
        let mut bytes = std::mem::take(&mut self.rest);
        loop {
            // Twice as much each time, so that searching for a place to cut stays linear.
            let wanted = bytes.len().max(CHUNK_BYTES);
            let read = (&mut self.reader).take(wanted as u64).read_to_end(&mut bytes);
            let read = read.map_err(Error::io("read", &self.file.path))?;
            let cut = match self.file.kind {
                _ if read < wanted => Some(bytes.len()),
                Kind::Lines => bytes.iter().rposition(|&b| b == b'\n').map(|at| at + 1),
                Kind::Text => last_cut(&bytes),
            };
            if let Some(cut) = cut {
                self.rest = bytes.split_off(cut);
                break;
            }
            if bytes.len() > TEXT_BYTES_MAX {
                let (path, offset) = (self.file.path.clone(), self.offset);
                return Err(Error::Uncut { path, offset, limit: TEXT_BYTES_MAX });
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let (file, offset, line) = (self.number, self.offset, self.line);
        self.offset += bytes.len() as u64;
        if self.file.kind == Kind::Lines {
            self.line += bytes.iter().filter(|&&b| b == b'\n').count() as u64;
        }
        Ok(Some(Chunk { file, offset, line, bytes }))
    }
}

struct Record<'a> {
    text: Cow<'a, str>,
    language: Option<String>,
    domain: Option<String>,
}

/// Reads an object whose text is in the field with this name.
struct RecordSeed<'f>(&'f str);

/// A string that is borrowed where it has no escapes.
#[derive(Deserialize)]
struct Str<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for RecordSeed<'_> {
    type Value = Record<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Record<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_> {
    type Value = Record<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a string {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record<'de>, A::Error> {
        let (mut text, mut language, mut domain) = (None, None, None);
        while let Some(Str(key)) = map.next_key()? {
            if key == self.0 {
                let Str(value) = map.next_value()?;
                text = Some(value);
                continue;
            }
            let about = match key.as_ref() {
                "lang" | "language" => &mut language,
                "domain" => &mut domain,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value: serde_json::Value = map.next_value()?;
            *about = value.as_str().map(str::to_owned);
        }
        let text = text.ok_or_else(|| A::Error::custom(format!("it has no {:?}", self.0)))?;
        Ok(Record { text, language, domain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(paths: &[PathBuf], cut: fn(&[u8]) -> Option<usize>) -> Result<Vec<String>, Error> {
        let texts = Texts::find(paths, "text")?;
        let mut all = Vec::new();
        for chunk in texts.chunks(cut) {
            texts.each(&chunk?, |text| {
                all.push(text.text.into_owned());
                Ok(())
            })?;
        }
        Ok(all)
    }

    fn at_lines(text: &[u8]) -> Option<usize> {
        text.iter().rposition(|&b| b == b'\n').map(|at| at + 1)
    }

    #[test]
    fn packed_and_plain_files_of_a_folder_give_the_same_texts() {
        let home = tempfile::tempdir().unwrap();
        let dots = ".".repeat(40);
        let line = |i| format!("line \u{e9} {i} \"x\" {dots}\n");
        let lines: Vec<String> = (0..40_000).map(line).collect();
        let json = |l: &String| serde_json::json!({"id": 1, "lang": "de", "text": l}).to_string();
        let jsonl = lines.iter().map(json).collect::<Vec<_>>().join("\n");
        assert!(jsonl.len() > 2 * CHUNK_BYTES, "more than one chunk");
        let gz = File::create(home.path().join("b.jsonl.gz")).unwrap();
        let mut gz = flate2::write::GzEncoder::new(gz, flate2::Compression::fast());
        gz.write_all(jsonl.as_bytes()).unwrap();
        gz.finish().unwrap();
        fs::write(home.path().join("a.jsonl"), &jsonl).unwrap();
        fs::create_dir(home.path().join("c")).unwrap();
        let zst = zstd::encode_all(jsonl.as_bytes(), 1).unwrap();
        fs::write(home.path().join("c/c.jsonl.zst"), zst).unwrap();
        fs::write(home.path().join("c/text.txt"), lines.concat()).unwrap();
        fs::write(home.path().join("c/other.bin"), [0xFF]).unwrap();
        let got = all(&[home.path().to_owned()], at_lines).unwrap();
        assert_eq!(got[..40_000], lines);
        assert_eq!(got[40_000..80_000], lines);
        assert_eq!(got[80_000..120_000], lines);
        assert!(got.len() > 120_001, "the text came in parts");
        assert_eq!(got[120_000..].concat(), lines.concat());
        let whole = all(&[home.path().join("c/text.txt")], |_| None).unwrap();
        assert_eq!(whole, [lines.concat()]);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_place() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.jsonl");
        let told = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            all(std::slice::from_ref(&path), at_lines).unwrap_err().line()
        };
        let bad = told(b"{\"text\":\"a\"}\n{\"text\":\"\xFF\"}");
        assert!(bad.contains("x.jsonl is not UTF-8 at byte 22"), "{bad}");
        for (bytes, what) in [
            (&b"{\"text\":\"a\"}\n\n{\"txt\":1}\n"[..], "line 3 "),
            (b"{\"text\":5}", "line 1 "),
            (b"{\"text\":\"\\ud800\"}", "line 1 "),
            (b"[1]", "line 1 "),
            (b"{\"text\":\"a\"} {}", "line 1 "),
            (b"{\"text\":\"a", "line 1 "),
        ] {
            let told = told(bytes);
            assert!(told.contains(what) && told.contains("x.jsonl"), "{told}");
        }
        assert!(all(&[home.path().join("no.txt")], at_lines).is_err());
        fs::remove_file(&path).unwrap();
        let none = all(&[home.path().to_owned()], at_lines).unwrap_err().line();
        assert!(none.contains("the input"), "{none}");
        fs::write(home.path().join("y.jsonl.zst"), b"no zstd").unwrap();
        assert!(all(&[home.path().to_owned()], at_lines).is_err());
    }
}
