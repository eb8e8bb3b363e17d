//! The lines of a run's files, read strictly, and those of `speed.jsonl`.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::RunError;

/// A line of `speed.jsonl`: clocks and memory. After a resume, steps may come again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// The step, as in the metrics.
    pub step: u64,
    /// Tokens a second.
    #[serde(deserialize_with = "number")]
    pub tok_s: f64,
    /// Share of the machine's measured peak that the model's arithmetic took; NaN if unmeasured.
    #[serde(deserialize_with = "number")]
    pub mfu: f64,
    /// Seconds that the step took.
    #[serde(deserialize_with = "number")]
    pub step_s: f64,
    /// Seconds of it in which it waited for data.
    #[serde(deserialize_with = "number")]
    pub data_wait_s: f64,
    /// The most memory that the process has held.
    pub peak_bytes: u64,
    /// Seconds to the end of the run at this speed.
    #[serde(deserialize_with = "number")]
    pub eta_s: f64,
}

impl Speed {
    /// The line as it stands in the file, its end included.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers serialise") + "\n"
    }
}

/// JSON has no NaN: it is written as null.
pub(crate) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// What stands after the last line end: a line that a kill cut short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Torn {
    /// The file's name.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Its length.
    pub bytes: usize,
}

/// The whole lines of a file, and the torn one, if there is one.
///
/// Errors: a whole line is no UTF-8.
pub(super) fn split<'a>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<(Vec<&'a str>, Option<Torn>), RunError> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let (whole, rest) = bytes.split_at(whole);
    let lines: Vec<&str> = whole
        .split_inclusive(|b| *b == b'\n')
        .enumerate()
        .map(|(i, line)| {
            let error = |e: std::str::Utf8Error| RunError::line(path, i + 1, e);
            std::str::from_utf8(&line[..line.len() - 1]).map_err(error)
        })
        .collect::<Result<_, _>>()?;
    let torn = Torn { file: name(path), line: lines.len() + 1, bytes: rest.len() };
    Ok((lines, (!rest.is_empty()).then_some(torn)))
}

/// Parses every whole line. Errors: one is not what the file holds, by its number.
pub(super) fn parse<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<(Vec<T>, Option<Torn>), RunError> {
    let (lines, torn) = split(path, bytes)?;
    let parse = |(i, line): (usize, &&str)| {
        serde_json::from_str(line).map_err(|e| RunError::line(path, i + 1, e))
    };
    Ok((lines.iter().enumerate().map(parse).collect::<Result<_, _>>()?, torn))
}

/// The lines of speed. The file is only ever added to: after a kill, the next line stands behind a
/// torn one, and both count as torn.
///
/// Errors: a line is no UTF-8.
pub(super) fn parse_speed(path: &Path, bytes: &[u8]) -> Result<(Vec<Speed>, Vec<Torn>), RunError> {
    let (lines, tail) = split(path, bytes)?;
    let (mut speed, mut torn) = (Vec::new(), Vec::new());
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => speed.push(line),
            Err(_) => torn.push(Torn { file: name(path), line: i + 1, bytes: line.len() }),
        }
    }
    torn.extend(tail);
    Ok((speed, torn))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Line;

    /// A line of each kind, as the trainer writes them.
    const LINES: &str = r#"{"kind":"step","step":1,"tokens":4096,"loss":10.1,"grad_norm":3.2,"lr":0.0001,"seq_len":256}
{"kind":"validation","step":1,"loss":9.5,"bpb":3.25,"by_source":{"books":{"loss":9.0,"bpb":3.0}}}
{"kind":"sample","step":1,"prompt":"Once","text":" upon"}
{"kind":"spike","step":2,"what":"loss","loss":null,"expected":11.0,"rows":["books:7"],"action":"rewound to 1"}
{"kind":"failure","step":2,"what":"validation","error":"no text"}
"#;

    #[test]
    fn every_kind_of_line_is_read_to_the_byte() {
        let (lines, torn) = parse::<Line>(Path::new("metrics.jsonl"), LINES.as_bytes()).unwrap();
        assert_eq!((lines.len(), torn), (5, None));
        let text = |line: &Line| serde_json::to_string(line).unwrap() + "\n";
        assert_eq!(lines.iter().map(text).collect::<String>(), LINES);
    }

    #[test]
    fn what_was_not_measured_is_null_in_a_line_of_speed() {
        let (tok_s, step_s, data_wait_s) = (100.0, 0.5, 0.0);
        let (mfu, peak_bytes, eta_s) = (f64::NAN, 1 << 20, 9.5);
        let speed = Speed { step: 1, tok_s, mfu, step_s, data_wait_s, peak_bytes, eta_s };
        let text = speed.text();
        assert!(text.contains("\"mfu\":null") && text.ends_with('\n'), "{text}");
        let (back, _) = parse::<Speed>(Path::new("speed.jsonl"), text.as_bytes()).unwrap();
        assert!(back[0].mfu.is_nan() && back[0].text() == text);
        let misspelt = text.replace("eta", "ate");
        assert!(parse::<Speed>(Path::new("speed.jsonl"), misspelt.as_bytes()).is_err());
        let behind_a_kill = format!("{text}{}{text}{text}{{", &text[..9]);
        let path = Path::new("speed.jsonl");
        let (lines, torn) = parse_speed(path, behind_a_kill.as_bytes()).unwrap();
        assert_eq!((lines.len(), torn.iter().map(|t| t.line).collect()), (2, vec![2, 4]));
    }

    #[test]
    fn a_torn_tail_is_told_and_a_bad_line_is_refused_by_number() {
        let path = Path::new("run/metrics.jsonl");
        for cut in 1..LINES.len() {
            let bytes = &LINES.as_bytes()[..cut];
            let (lines, torn) = parse::<Line>(path, bytes).unwrap();
            let whole: usize = LINES.split_inclusive('\n').take(lines.len()).map(str::len).sum();
            assert_eq!(torn.map_or(0, |torn| torn.bytes), cut - whole);
        }
        let wrong = [
            ("{}\n", "kind"),
            ("\n", "EOF"),
            ("{\"kind\":\"dance\",\"step\":1}\n", "dance"),
            ("{\"kind\":\"failure\",\"step\":1,\"what\":\"x\"}\n", "error"),
            ("{\"kind\":\"failure\",\"step\":-1,\"what\":\"x\",\"error\":\"y\"}\n", "-1"),
        ];
        for (text, word) in wrong {
            let text = format!("{LINES}{text}");
            let error = parse::<Line>(path, text.as_bytes()).unwrap_err();
            let told = format!("{error}: {}", std::error::Error::source(&error).unwrap());
            assert!(told.contains("line 6") && told.contains(word), "{told}");
        }
        assert!(parse::<Line>(path, b"\xff\n").is_err());
    }
}
