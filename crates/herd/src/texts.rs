//! Texts to learn from and to measure, in chunks, so that memory does not grow with the corpus.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use herd_data::read::{InputFile, Kind, Labelled, Packing, Raw, ReadOptions, Records, Sources};
use herd_data::{DataError, Fault};

use crate::error::Error;

/// Bytes read before a chunk is handed out.
const CHUNK_BYTES: u64 = 1 << 20;

/// The files of a corpus in the order in which they are read.
#[derive(Debug)]
pub struct Texts {
    files: Vec<InputFile>,
    names: Vec<String>,
    options: ReadOptions,
    skip_bad: bool,
    /// Records without a text that the last pass went over.
    skipped: AtomicU64,
}

/// Part of a file: whole records, or text up to a place where it may be cut.
pub struct Chunk {
    file: usize,
    body: Body,
}

enum Body {
    Records(Vec<Raw>),
    Text(String),
}

impl Texts {
    /// The files at `paths`; folders are searched for `.txt`, `.jsonl`, `.ndjson`, also with `.gz`
    /// or `.zst` behind, and `.parquet`. A file that is named may have any other ending: it is plain text.
    ///
    /// Records without a text are passed over and counted with `skip_bad`, errors without.
    ///
    /// Errors if a path cannot be read or there is no file at all.
    pub fn find(paths: &[PathBuf], field: &str, skip_bad: bool) -> Result<Texts, Error> {
        let mut files = Vec::new();
        for path in paths {
            match Sources::default().files(path) {
                Ok(found) => files.extend(found),
                Err(DataError::Kind { .. }) => {
                    let (path, kind, packing) = (path.clone(), Kind::Text, Packing::Plain);
                    files.push(InputFile { path, kind, packing });
                }
                Err(error) => return Err(error.into()),
            }
        }
        if files.is_empty() {
            let what: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(DataError::NoDocuments { what: what.join(", ") }.into());
        }
        let names = files.iter().map(InputFile::stem).collect();
        let (field, text_bytes) = (field.to_owned(), Some(CHUNK_BYTES));
        let options = ReadOptions { field, text_bytes, ..ReadOptions::new() };
        Ok(Texts { files, names, options, skip_bad, skipped: AtomicU64::new(0) })
    }

    /// Records that the last pass over all chunks left out.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// The name of a chunk's file without its endings.
    pub fn source(&self, chunk: &Chunk) -> &str {
        &self.names[chunk.file]
    }

    /// All of it, chunk by chunk. `last_cut` gives the last place where a text may be cut.
    pub fn chunks<'a>(
        &'a self,
        last_cut: impl Fn(&[u8]) -> Option<usize> + Send + 'a,
    ) -> impl Iterator<Item = Result<Chunk, Error>> + Send + 'a {
        self.skipped.store(0, Ordering::Relaxed);
        let mut files = self.files.iter().enumerate();
        let mut open: Option<Open> = None;
        std::iter::from_fn(move || {
            loop {
                if let Some(file) = &mut open {
                    match self.next(file, &last_cut).transpose() {
                        Some(chunk) => return Some(chunk),
                        None => open = None,
                    }
                }
                let (number, file) = files.next()?;
                match Records::open(file, 0, &self.options) {
                    Ok(records) => open = Some(Open { number, records, rest: String::new() }),
                    Err(error) => return Some(Err(error.into())),
                }
            }
        })
    }

    /// The next chunk of a file; none at its end.
    fn next(
        &self,
        open: &mut Open,
        last_cut: &dyn Fn(&[u8]) -> Option<usize>,
    ) -> Result<Option<Chunk>, Error> {
        let file = open.number;
        if self.files[file].kind != Kind::Text {
            let (mut records, mut bytes) = (Vec::new(), 0);
            while bytes < CHUNK_BYTES {
                let Some(record) = open.records.next().transpose()? else { break };
                // A record counts at least so much: a row without text needs memory too.
                bytes += record.len().max(64) as u64;
                records.push(record);
            }
            let body = Body::Records(records);
            return Ok(body.is_full().then_some(Chunk { file, body }));
        }
        let mut text = std::mem::take(&mut open.rest);
        let mut searched = 0;
        while let Some(piece) = open.records.next().transpose()? {
            let row = piece.id.row;
            match piece.parse("") {
                Ok(piece) => text += &piece,
                Err(fault) => self.pass_over(file, row, fault)?,
            }
            // Twice as much each time, so that searching for a place to cut stays linear.
            if text.len() >= 2 * searched {
                searched = text.len();
                if let Some(cut) = last_cut(text.as_bytes()) {
                    open.rest = text.split_off(cut);
                    break;
                }
            }
            self.within_bounds(file, row, &text)?;
        }
        let body = Body::Text(text);
        Ok(body.is_full().then_some(Chunk { file, body }))
    }

    /// Calls `each` with every text of a chunk.
    ///
    /// Errors if a record has no text; or as `each` does.
    pub fn each(
        &self,
        chunk: Chunk,
        mut each: impl FnMut(Labelled) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match chunk.body {
            Body::Text(text) => each(Labelled { text, ..Labelled::default() })?,
            Body::Records(records) => {
                for record in records {
                    let row = record.id.row;
                    match record.labelled(&self.options.field) {
                        Ok(text) => each(text)?,
                        Err(fault) => self.pass_over(chunk.file, row, fault)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Errors if a text without a place to cut has grown too long.
    fn within_bounds(&self, file: usize, row: u64, text: &str) -> Result<(), Error> {
        let limit = self.options.record_bytes_max;
        match text.len() as u64 > limit {
            true => Err(self.error(file, row, Fault::TooLong { limit })),
            false => Ok(()),
        }
    }

    /// Counts a record without a text, if that is asked; an empty one does not count.
    fn pass_over(&self, file: usize, row: u64, fault: Fault) -> Result<(), Error> {
        if !fault.is_harmless() {
            if !self.skip_bad {
                return Err(self.error(file, row, fault));
            }
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn error(&self, file: usize, row: u64, fault: Fault) -> Error {
        let path = self.files[file].path.clone();
        DataError::Record { path, row, fault }.into()
    }
}

impl Body {
    fn is_full(&self) -> bool {
        match self {
            Body::Records(records) => !records.is_empty(),
            Body::Text(text) => !text.is_empty(),
        }
    }
}

/// A file under way.
struct Open {
    number: usize,
    records: Records,
    /// Text that was read, but not yet handed out.
    rest: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Write;

    fn all(paths: &[PathBuf], cut: fn(&[u8]) -> Option<usize>) -> Result<Vec<String>, Error> {
        let texts = Texts::find(paths, "text", false)?;
        let mut all = Vec::new();
        for chunk in texts.chunks(cut) {
            texts.each(chunk?, |text| {
                all.push(text.text);
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
        assert!(jsonl.len() as u64 > 2 * CHUNK_BYTES, "more than one chunk");
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
        assert!(bad.contains("row 2 of") && bad.contains("not UTF-8 at byte 9"), "{bad}");
        for (bytes, what) in [
            (&b"{\"text\":\"a\"}\n\n{\"txt\":1}\n"[..], "row 3 of "),
            (b"{\"text\":5}", "row 1 of "),
            (b"{\"text\":\"\\ud800\"}", "row 1 of "),
            (b"[1]", "row 1 of "),
            (b"{\"text\":\"a\"} {}", "row 1 of "),
            (b"{\"text\":\"a", "row 1 of "),
        ] {
            let told = told(bytes);
            assert!(told.contains(what) && told.contains("x.jsonl"), "{told}");
        }
        assert!(all(&[home.path().join("no.txt")], at_lines).is_err());
        fs::remove_file(&path).unwrap();
        let none = all(&[home.path().to_owned()], at_lines).unwrap_err().line();
        assert!(none.contains("no documents"), "{none}");
        fs::write(home.path().join("y.jsonl.zst"), b"no zstd").unwrap();
        assert!(all(&[home.path().to_owned()], at_lines).is_err());
    }
}
