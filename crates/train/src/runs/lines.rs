//! The lines of a run's `metrics.jsonl` and `speed.jsonl`: what the trainer writes and all others read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::RunError;

/// A line of `metrics.jsonl`. Nothing in it comes from a clock: a run that was killed and resumed
/// has the same bytes as one that was not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[allow(missing_docs)] // the structs have them
pub enum Line {
    Step(Step),
    Validation(Validation),
    Sample(Sample),
    Spike(Spike),
    Failure(Failure),
}

/// One step of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Counted from 1.
    pub step: u64,
    /// Tokens read since the run began, this step's included.
    pub tokens: u64,
    /// Nats a target.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Norm of the gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Learning rate.
    #[serde(deserialize_with = "number")]
    pub lr: f64,
    /// Tokens in a row.
    pub seq_len: u64,
}

/// The model measured on text that it is not trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// The step after which it was measured.
    pub step: u64,
    /// Nats a target.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Bits a byte of text.
    #[serde(deserialize_with = "number")]
    pub bpb: f64,
    /// The same for each source.
    pub by_source: BTreeMap<String, Score>,
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Nats a target.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Bits a byte of text.
    #[serde(deserialize_with = "number")]
    pub bpb: f64,
}

/// A text that the model went on with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The step after which it was drawn.
    pub step: u64,
    /// What it was given.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
}

/// A loss that leapt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spike {
    /// The step whose loss it is.
    pub step: u64,
    /// The loss; NaN is written as null, here as elsewhere.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// The greatest loss that would have passed.
    #[serde(deserialize_with = "number")]
    pub expected: f64,
    /// The rows of the batch, as the shards identify them.
    pub rows: Vec<serde_json::Value>,
    /// `recorded`, or `rewound to N`: then the steps after N follow once more, on other rows.
    pub action: String,
}

impl Spike {
    /// The step to which the run was rewound, if it was.
    pub fn rewound_to(&self) -> Option<u64> {
        self.action.strip_prefix("rewound to ")?.parse().ok()
    }
}

/// Something beside the training itself that went wrong and did not end the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The step after which it happened.
    pub step: u64,
    /// What was tried: `validation`, `sample`.
    pub what: String,
    /// What it said.
    pub error: String,
}

impl Line {
    /// The step it belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Line::Step(line) => line.step,
            Line::Validation(line) => line.step,
            Line::Sample(line) => line.step,
            Line::Spike(line) => line.step,
            Line::Failure(line) => line.step,
        }
    }

    /// The line as it stands in the file, its end included.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings serialise") + "\n"
    }
}

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

/// JSON has no NaN and no infinity: both are written as null and come back as NaN.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
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
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let torn = Torn { file: name, line: lines.len() + 1, bytes: rest.len() };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of each kind, as the trainer writes them.
    const LINES: &str = r#"{"kind":"step","step":1,"tokens":4096,"loss":10.1,"grad_norm":3.2,"lr":0.0001,"seq_len":256}
{"kind":"validation","step":1,"loss":9.5,"bpb":3.25,"by_source":{"books":{"loss":9.0,"bpb":3.0}}}
{"kind":"sample","step":1,"prompt":"Once","text":" upon"}
{"kind":"spike","step":2,"loss":null,"expected":11.0,"rows":["books:7"],"action":"rewound to 1"}
{"kind":"failure","step":2,"what":"validation","error":"no text"}
"#;

    #[test]
    fn every_kind_of_line_is_read_and_written_back_to_the_byte() {
        let (lines, torn) = parse::<Line>(Path::new("metrics.jsonl"), LINES.as_bytes()).unwrap();
        assert_eq!((lines.len(), torn), (5, None));
        assert_eq!(lines.iter().map(Line::text).collect::<String>(), LINES);
        let Line::Spike(spike) = &lines[3] else { panic!("{:?}", lines[3]) };
        assert!(spike.loss.is_nan() && spike.rewound_to() == Some(1));
    }

    #[test]
    fn a_torn_tail_is_told_and_a_bad_line_is_refused_by_number() {
        let path = Path::new("run/metrics.jsonl");
        for cut in 1..LINES.len() {
            let bytes = &LINES.as_bytes()[..cut];
            let (lines, torn) = parse::<Line>(path, bytes).unwrap();
            let whole: usize = lines.iter().map(|line| line.text().len()).sum();
            assert_eq!(torn.map_or(0, |torn| torn.bytes), cut - whole);
        }
        let wrong = [
            ("{}\n", "kind"),
            ("\n", "EOF"),
            ("{\"kind\":\"dance\",\"step\":1}\n", "dance"),
            ("{\"kind\":\"failure\",\"step\":1,\"what\":\"x\",\"error\":\"y\",\"z\":1}\n", "`z`"),
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
