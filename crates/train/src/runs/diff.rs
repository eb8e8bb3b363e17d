//! Where two runs part: the first line of metrics, the first checkpoint and tensor, the settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use herd_tensor::blocks;
use herd_tensor::files::{Archive, DType, TensorInfo};
use serde::Serialize;
use serde_json::Value;

use super::{METRICS, Run, RunError, Saved, entries, lines, optional};

/// What [`diff`] finds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Settings of the configs that differ; they alone do not make runs differ.
    pub settings: Vec<Setting>,
    /// The first line of metrics that differs.
    pub metrics: Option<Split>,
    /// The first tensor that differs, in the first checkpoint in which one does.
    pub tensor: Option<TensorSplit>,
    /// Checkpoints that both have, up to the first that differs.
    pub compared: Vec<u64>,
    /// Checkpoints that only the first run has.
    pub only_a: Vec<u64>,
    /// Checkpoints that only the second run has.
    pub only_b: Vec<u64>,
}

impl Diff {
    /// No line of metrics and no bit of a checkpoint that both have differs.
    pub fn identical(&self) -> bool {
        self.metrics.is_none() && self.tensor.is_none()
    }
}

/// A setting that differs; `None` where a config does not have it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Dotted, like `optim.lr`.
    pub key: String,
    /// As TOML, in the first run.
    pub a: Option<String>,
    /// As TOML, in the second.
    pub b: Option<String>,
}

/// A line of metrics that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Split {
    /// Its step.
    pub step: u64,
    /// Its number, from 1.
    pub line: usize,
    /// The first field that differs, dotted; `line` where one run has ended, `text` where only the
    /// spelling differs.
    pub field: String,
    /// The value in the first run; null where it has none.
    pub a: Value,
    /// The value in the second.
    pub b: Value,
}

/// A tensor that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSplit {
    /// The step of the checkpoint.
    pub checkpoint: u64,
    /// `model`, or a file such as `state/optimizer.safetensors`.
    pub file: String,
    /// Its name; empty if the whole file is missing from one run.
    pub tensor: String,
    /// The first number that differs, row by row; `None` where type or shape do.
    pub index: Option<usize>,
    /// The number, or the type and shape, in the first run; null where it has none.
    pub a: Value,
    /// The same of the second.
    pub b: Value,
}

/// Compares two runs: every line of metrics, and the checkpoints that both have in ascending order
/// (weights and state), bit for bit.
///
/// Errors: a file cannot be read, or is damaged.
pub fn diff(a: &Run, b: &Run) -> Result<Diff, RunError> {
    let steps = |run: &Run| run.checkpoints.iter().map(|c| c.step).collect::<BTreeSet<u64>>();
    let (steps_a, steps_b) = (steps(a), steps(b));
    let mut found = Diff {
        settings: settings(a, b)?,
        metrics: metrics(&a.path, &b.path)?,
        tensor: None,
        compared: Vec::new(),
        only_a: steps_a.difference(&steps_b).copied().collect(),
        only_b: steps_b.difference(&steps_a).copied().collect(),
    };
    for saved_a in &a.checkpoints {
        let Some(saved_b) = b.checkpoints.iter().find(|c| c.step == saved_a.step) else { continue };
        found.compared.push(saved_a.step);
        found.tensor = checkpoint(saved_a, saved_b)?;
        if found.tensor.is_some() {
            break;
        }
    }
    Ok(found)
}

/// Settings by dotted keys.
fn settings(a: &Run, b: &Run) -> Result<Vec<Setting>, RunError> {
    let (a, b) = (flat(a)?, flat(b)?);
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let setting =
        |key: &String| Setting { key: key.clone(), a: a.get(key).cloned(), b: b.get(key).cloned() };
    Ok(keys.into_iter().map(setting).filter(|s| s.a != s.b).collect())
}

fn flat(run: &Run) -> Result<BTreeMap<String, String>, RunError> {
    fn walk(prefix: &str, table: &toml::Table, out: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                toml::Value::Table(table) => walk(&format!("{key}."), table, out),
                value => drop(out.insert(key, value.to_string())),
            }
        }
    }
    let text = run.config.as_deref().unwrap_or_default();
    let table = text.parse::<toml::Table>().map_err(|source| RunError::Toml {
        path: run.path.join(super::CONFIG),
        source: Box::new(source),
    })?;
    let mut out = BTreeMap::new();
    walk("", &table, &mut out);
    Ok(out)
}

fn metrics(a: &Path, b: &Path) -> Result<Option<Split>, RunError> {
    let [path_a, path_b] = [a, b].map(|run| run.join(METRICS));
    let (bytes_a, bytes_b) = (optional(&path_a)?, optional(&path_b)?);
    let (lines_a, _) = lines::split(&path_a, &bytes_a)?;
    let (lines_b, _) = lines::split(&path_b, &bytes_b)?;
    for i in 0..lines_a.len().max(lines_b.len()) {
        let (a, b) = (lines_a.get(i), lines_b.get(i));
        if a == b {
            continue;
        }
        let parse = |path: &Path, line: &str| -> Result<Value, RunError> {
            serde_json::from_str(line).map_err(|e| RunError::line(path, i + 1, e))
        };
        let a = a.map(|line| parse(&path_a, line)).transpose()?;
        let b = b.map(|line| parse(&path_b, line)).transpose()?;
        return Ok(Some(split(i + 1, a, b)));
    }
    Ok(None)
}

/// Two lines that are not the same, or one without its twin.
fn split(line: usize, a: Option<Value>, b: Option<Value>) -> Split {
    let step = a.as_ref().or(b.as_ref()).and_then(|line| line["step"].as_u64()).unwrap_or(0);
    let kind = |line: &Value| line["kind"].clone();
    let (field, a, b) = match (&a, &b) {
        (Some(a), Some(b)) => first_field(a, b)
            .unwrap_or_else(|| ("text".to_owned(), a.to_string().into(), b.to_string().into())),
        (a, b) => {
            let kind = |line: &Option<Value>| line.as_ref().map_or(Value::Null, kind);
            ("line".to_owned(), kind(a), kind(b))
        }
    };
    Split { step, line, field, a, b }
}

/// The first field of two objects that differs, by its dotted path.
fn first_field(a: &Value, b: &Value) -> Option<(String, Value, Value)> {
    let (Value::Object(fields_a), Value::Object(fields_b)) = (a, b) else {
        return (a != b).then(|| (String::new(), a.clone(), b.clone()));
    };
    let more = fields_b.keys().filter(|key| !fields_a.contains_key(*key));
    fields_a.keys().chain(more).find_map(|key| {
        let (path, a, b) = first_field(&a[key], &b[key])?;
        let dotted = if path.is_empty() { key.clone() } else { format!("{key}.{path}") };
        Some((dotted, a, b))
    })
}

fn checkpoint(a: &Saved, b: &Saved) -> Result<Option<TensorSplit>, RunError> {
    let model = archives("model", &Archive::open(&a.path)?, &Archive::open(&b.path)?)?;
    let found = match model {
        Some(split) => Some(split),
        None => state(&a.path, &b.path)?,
    };
    Ok(found.map(|split| TensorSplit { checkpoint: a.step, ..split }))
}

/// The files of tensors in `state`, by name.
fn state(a: &Path, b: &Path) -> Result<Option<TensorSplit>, RunError> {
    let names = |checkpoint: &Path| -> Result<BTreeSet<String>, RunError> {
        let folder = checkpoint.join("state");
        if !fs::exists(&folder).map_err(RunError::io("open", &folder))? {
            return Ok(BTreeSet::new());
        }
        let paths = entries(&folder)?.into_iter();
        let name = |path: std::path::PathBuf| path.file_name()?.to_str().map(str::to_owned);
        Ok(paths.filter_map(name).filter(|n| n.ends_with(".safetensors")).collect())
    };
    let (names_a, names_b) = (names(a)?, names(b)?);
    for name in names_a.union(&names_b) {
        let file = format!("state/{name}");
        let there = |names: &BTreeSet<String>| match names.contains(name) {
            true => Value::from("there"),
            false => Value::Null,
        };
        if there(&names_a) != there(&names_b) {
            let (a, b) = (there(&names_a), there(&names_b));
            return Ok(Some(found(&file, "", None, a, b)));
        }
        let (a, b) = (Archive::open(a.join(&file))?, Archive::open(b.join(&file))?);
        if let Some(split) = archives(&file, &a, &b)? {
            return Ok(Some(split));
        }
    }
    Ok(None)
}

fn found(file: &str, tensor: &str, index: Option<usize>, a: Value, b: Value) -> TensorSplit {
    let (file, tensor) = (file.to_owned(), tensor.to_owned());
    TensorSplit { checkpoint: 0, file, tensor, index, a, b }
}

/// The first tensor that differs, in the order of the first archive.
fn archives(file: &str, a: &Archive, b: &Archive) -> Result<Option<TensorSplit>, RunError> {
    let kind = |info: &TensorInfo| Value::from(format!("{} {:?}", info.dtype, info.shape));
    for info in a.tensors() {
        let Some(twin) = b.find(&info.name) else {
            return Ok(Some(found(file, &info.name, None, kind(info), Value::Null)));
        };
        if kind(info) != kind(twin) {
            return Ok(Some(found(file, &info.name, None, kind(info), kind(twin))));
        }
        let (bytes_a, bytes_b) = (a.bytes(info)?, b.bytes(twin)?);
        if let Some(at) = first_byte(&bytes_a, &bytes_b) {
            let size = info.dtype.item_bytes().unwrap_or(1);
            let index = at / size;
            let number = |bytes: &[u8]| number(info.dtype, &bytes[index * size..][..size]);
            let (a, b) = (number(&bytes_a), number(&bytes_b));
            return Ok(Some(found(file, &info.name, Some(index), a, b)));
        }
        // What was compared need not stay in memory.
        a.release();
        b.release();
    }
    let more = b.tensors().iter().find(|info| a.find(&info.name).is_none());
    Ok(more.map(|info| found(file, &info.name, None, Value::Null, kind(info))))
}

/// Where two slices of one length first differ.
fn first_byte(a: &[u8], b: &[u8]) -> Option<usize> {
    const BLOCK: usize = 1 << 16; // whole blocks compare at the speed of memory
    let block = a.chunks(BLOCK).zip(b.chunks(BLOCK)).position(|(a, b)| a != b)? * BLOCK;
    a[block..].iter().zip(&b[block..]).position(|(a, b)| a != b).map(|at| block + at)
}

/// One number as JSON; what JSON cannot say (NaN with its bits, blocks) as text.
fn number(dtype: DType, bytes: &[u8]) -> Value {
    let hex = || bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    let wide = || {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(wide)
    };
    let signed = || wide().cast_signed() << (64 - 8 * bytes.len()) >> (64 - 8 * bytes.len());
    let float = |x: f64| match x.is_finite() {
        true => Value::from(x),
        false => Value::from(format!("{x} (0x{})", hex())),
    };
    match dtype {
        DType::Format(format) if format.block_len() == 1 => {
            let mut x = [0.0];
            blocks::unpack(format, bytes, &mut x);
            float(f64::from(x[0]))
        }
        DType::F64 => float(f64::from_bits(wide())),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => Value::from(signed()),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => Value::from(wide()),
        DType::Bool => Value::from(wide() != 0),
        DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E8M0 | DType::C64 => Value::from(hex()),
        DType::Format(_) | DType::Ggml(_) => Value::from(hex()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use herd_tensor::Format;
    use herd_tensor::files::SafetensorsWriter;

    const LINES: &str = concat!(
        r#"{"kind":"step","step":1,"tokens":8,"loss":2.5,"grad_norm":1.0,"lr":0.1,"seq_len":8}"#,
        "\n",
        r#"{"kind":"validation","step":1,"loss":2.0,"bpb":1.0,"by_source":{"books":{"loss":2.0,"bpb":1.0}}}"#,
        "\n",
    );

    fn floats(path: &Path, name: &str, numbers: &[f32]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let dtype = DType::Format(Format::F32);
        let info = TensorInfo { name: name.into(), shape: vec![numbers.len()], dtype };
        let mut writer = SafetensorsWriter::create(path, &[], &[info]).unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write_tensor(name, &bytes).unwrap();
        writer.finish().unwrap();
    }

    /// A run with one checkpoint.
    fn run(folder: &Path, lines: &str, weights: &[f32], moments: &[f32]) -> Run {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(METRICS), lines).unwrap();
        fs::write(folder.join("config.toml"), "seed = 1\n[optim]\nlr = 0.1\n").unwrap();
        let checkpoint = folder.join("checkpoints/step-1");
        floats(&checkpoint.join("model.safetensors"), "w", weights);
        floats(&checkpoint.join("state/optimizer.safetensors"), "w.mean", moments);
        Run::open(folder).unwrap()
    }

    #[test]
    fn equal_runs_are_identical_whatever_their_settings() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let (a, mut b) = (run(&a, LINES, &[1.0], &[2.0]), run(&b, LINES, &[1.0], &[2.0]));
        let same = diff(&a, &b).unwrap();
        assert!(same.identical() && same.settings.is_empty() && same.compared == [1]);
        b.config = Some("seed = 1\nthreads = 2\n[optim]\nlr = 0.2\n".into());
        let same = diff(&a, &b).unwrap();
        assert!(same.identical());
        let setting = |key: &str, a: Option<&str>, b: &str| Setting {
            key: key.into(),
            a: a.map(str::to_owned),
            b: Some(b.into()),
        };
        let expected = [setting("optim.lr", Some("0.1"), "0.2"), setting("threads", None, "2")];
        assert_eq!(same.settings, expected);
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let a = run(&a, LINES, &[1.0], &[2.0]);
        let split = |lines: &str| {
            let split = diff(&a, &run(&b, lines, &[1.0], &[2.0])).unwrap().metrics.unwrap();
            (split.step, split.line, split.field, split.a, split.b)
        };
        let two = LINES.replace("\"loss\":2.5", "\"loss\":2.25");
        assert_eq!(split(&two), (1, 1, "loss".into(), 2.5.into(), 2.25.into()));
        let deep = LINES.replace("2.0,\"bpb\":1.0}}", "2.0,\"bpb\":1.5}}");
        assert_eq!(split(&deep), (1, 2, "by_source.books.bpb".into(), 1.0.into(), 1.5.into()));
        let short = LINES.split_inclusive('\n').next().unwrap();
        assert_eq!(split(short), (1, 2, "line".into(), "validation".into(), Value::Null));
        let spelt = split(&LINES.replace("2.5,", "2.50,"));
        assert_eq!((spelt.1, spelt.2.as_str()), (1, "text"));
    }

    #[test]
    fn the_first_tensor_and_number_that_differ_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let a = run(&a, LINES, &[1.0, 2.0, 0.0], &[2.0]);
        let split = |weights: &[f32], moments: &[f32]| {
            let split = diff(&a, &run(&b, LINES, weights, moments)).unwrap().tensor.unwrap();
            (split.file, split.tensor, split.index, split.a, split.b)
        };
        let model = |index, a: Value, b: Value| ("model".into(), "w".into(), index, a, b);
        assert_eq!(split(&[1.0, 3.0, 0.0], &[2.0]), model(Some(1), 2.0.into(), 3.0.into()));
        assert_eq!(split(&[1.0, 2.0, -0.0], &[2.0]), model(Some(2), 0.0.into(), (-0.0).into()));
        let nan = Value::from("NaN (0x7fc00000)");
        assert_eq!(split(&[f32::NAN, 2.0, 0.0], &[2.0]), model(Some(0), 1.0.into(), nan));
        assert_eq!(split(&[1.0], &[2.0]), model(None, "F32 [3]".into(), "F32 [1]".into()));
        let state = ("state/optimizer.safetensors".into(), "w.mean".into(), Some(0));
        let (file, tensor, index, a, b) = split(&[1.0, 2.0, 0.0], &[2.5]);
        assert_eq!((file, tensor, index), state);
        assert_eq!((a, b), (2.0.into(), 2.5.into()));
    }

    #[test]
    fn a_state_file_or_a_checkpoint_of_one_run_alone_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let (a, b) = (run(&a, LINES, &[1.0], &[2.0]), run(&b, LINES, &[1.0], &[2.0]));
        floats(&a.path.join("checkpoints/step-2/model.safetensors"), "w", &[1.0]);
        let more = Run::open(&a.path).unwrap();
        let found = diff(&more, &b).unwrap();
        assert!(found.identical() && found.only_a == [2] && found.only_b.is_empty());
        fs::remove_file(b.path.join("checkpoints/step-1/state/optimizer.safetensors")).unwrap();
        let split = diff(&a, &b).unwrap().tensor.unwrap();
        assert_eq!((split.a, split.b), ("there".into(), Value::Null));
    }
}
