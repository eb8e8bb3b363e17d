//! The lines of a batch's file: read within bounds, and what each must hold.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Rows of a batch at most, as OpenAI has it.
const ROWS: u64 = 50_000;

/// Faults that are told at most.
const FAULTS: usize = 100;

/// Characters of a row's own name at most.
const NAME: usize = 512;

/// A request in a batch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What its answer is found by.
    pub custom_id: String,
    method: String,
    url: String,
    /// What is asked.
    pub body: Map<String, Value>,
}

/// The lines of a file that are not blank, with their numbers from 1.
pub struct Lines {
    reader: BufReader<File>,
    line: u64,
    /// Bytes of a line at most.
    most: usize,
}

/// A line, or why it is none: it is longer than it may be.
pub type Line = (u64, Result<Vec<u8>, String>);

impl Lines {
    /// The lines of a file.
    pub fn new(file: File, most: usize) -> Lines {
        Lines { reader: BufReader::new(file), line: 0, most }
    }

    /// The next line.
    pub fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let most = self.most as u64 + 1;
            if (&mut self.reader).take(most).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            } else if bytes.len() > self.most {
                self.reader.skip_until(b'\n')?;
                let message = format!("the line exceeds {} bytes", self.most);
                return Ok(Some((self.line, Err(message))));
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some((self.line, Ok(bytes))));
            }
        }
    }
}

impl Request {
    /// Reads a line of a batch for this path.
    pub fn read(line: &[u8], endpoint: &str) -> Result<Request, String> {
        let request: Request =
            serde_json::from_slice(line).map_err(|e| format!("the line is no request: {e}"))?;
        let Request { custom_id, method, url, .. } = &request;
        if custom_id.is_empty() || custom_id.chars().count() > NAME {
            return Err(format!("custom_id has 1 to {NAME} characters"));
        }
        if method != "POST" {
            return Err(format!("method is {method:?}, taken is \"POST\""));
        }
        if url != endpoint {
            return Err(format!("url is {url:?}, the batch is for {endpoint:?}"));
        }
        Ok(request)
    }
}

/// Reads a whole file: how many rows it has, or what is wrong with it.
pub fn check(mut lines: Lines, endpoint: &str) -> io::Result<Result<u64, Vec<Value>>> {
    let (mut names, mut faults, mut rows) = (HashSet::new(), Vec::new(), 0);
    let fault = |code: &str, line: Option<u64>, message: String| json!({ "code": code, "line": line, "message": message, "param": null });
    while let Some((line, bytes)) = lines.next()? {
        rows += 1;
        if rows > ROWS {
            faults.push(fault("too_many_rows", Some(line), format!("more than {ROWS} requests")));
            break;
        }
        match bytes.and_then(|bytes| Request::read(&bytes, endpoint)) {
            Ok(request) => {
                if !names.insert(request.custom_id.clone()) {
                    let message = format!("custom_id {:?} stands twice", request.custom_id);
                    faults.push(fault("duplicate_custom_id", Some(line), message));
                }
            }
            Err(message) => faults.push(fault("invalid_request", Some(line), message)),
        }
        if faults.len() >= FAULTS {
            break;
        }
    }
    if rows == 0 {
        faults.push(fault("empty_file", None, "the file holds no request".into()));
    }
    Ok(if faults.is_empty() { Ok(rows) } else { Err(faults) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    const PATH: &str = "/v1/completions";

    fn checked(text: &str) -> Result<u64, Vec<Value>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        check(Lines::new(file, 100), PATH).unwrap()
    }

    fn row(name: &str) -> String {
        format!(r#"{{"custom_id":"{name}","method":"POST","url":"{PATH}","body":{{}}}}"#)
    }

    #[test]
    fn rows_are_counted_and_blank_lines_are_none() {
        let text = format!("{}\n\n  \r\n{}", row("a"), row("b"));
        assert_eq!(checked(&text).unwrap(), 2);
    }

    #[test]
    fn faults_are_told_with_their_lines() {
        let long = format!("{}{}", row("l"), " ".repeat(100));
        let text =
            format!("{}\n{}\nno\n{long}\n{}", row("a"), row("a"), row("b").replace("POST", "GET"));
        let faults = checked(&text).unwrap_err();
        let told: Vec<(u64, &str)> = faults
            .iter()
            .map(|fault| (fault["line"].as_u64().unwrap(), fault["code"].as_str().unwrap()))
            .collect();
        let bad = "invalid_request";
        assert_eq!(told, [(2, "duplicate_custom_id"), (3, bad), (4, bad), (5, bad)]);
        assert_eq!(checked("\n \n").unwrap_err()[0]["code"], "empty_file");
        let other = row("a").replace(PATH, "/v1/embeddings");
        assert!(
            checked(&other).unwrap_err()[0]["message"]
                .as_str()
                .unwrap()
                .contains("the batch is for")
        );
    }
}
