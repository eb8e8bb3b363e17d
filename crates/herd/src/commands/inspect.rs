//! `herd inspect`: what a model file holds: metadata, tensors, types, sizes.

use herd_tensor::files::{Archive, Array, TensorInfo, Value as Stored};
use indexmap::IndexMap;
use serde_json::{Value, json};

use crate::console::{Console, Verdict, bytes, count};
use crate::error::Error;
use crate::store::Store;

/// Flags of `herd inspect`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// A file or folder of tensors, or a model of the store
    file: String,
    /// Print arrays whole, not only how long they are and how they begin
    #[arg(long)]
    full: bool,
}

/// Values of an array printed without `--full`.
const ARRAY_HEAD: usize = 8;

/// Tensors, numbers and bytes of one storage type.
#[derive(Default)]
struct Sum {
    tensors: usize,
    elements: u64,
    bytes: u64,
}

/// Prints the file's content; reads no weights.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let path = Store::open()?.resolve(&flags.file)?;
    let archive = Archive::open(&path)?;
    let sums = sums(archive.tensors());
    let total = sums.values().fold(Sum::default(), |a, b| Sum {
        tensors: a.tensors + b.tensors,
        elements: a.elements + b.elements,
        bytes: a.bytes + b.bytes,
    });
    if console.json {
        console.print_json(&describe(&archive, &sums, &total, flags.full))?;
        return Ok(Verdict::Done);
    }
    print(&archive, &sums, &total, flags.full, console)?;
    Ok(Verdict::Done)
}

fn sums(tensors: &[TensorInfo]) -> IndexMap<String, Sum> {
    let mut sums: IndexMap<String, Sum> = IndexMap::new();
    for tensor in tensors {
        let sum = sums.entry(tensor.dtype.to_string()).or_default();
        sum.tensors += 1;
        sum.elements += tensor.elements().unwrap_or(0) as u64;
        sum.bytes += tensor.bytes().unwrap_or(0) as u64;
    }
    sums.sort_by(|_, a, _, b| b.bytes.cmp(&a.bytes));
    sums
}

fn describe(archive: &Archive, sums: &IndexMap<String, Sum>, total: &Sum, full: bool) -> Value {
    let metadata: serde_json::Map<String, Value> = archive
        .metadata()
        .iter()
        .map(|(key, value)| (key.to_owned(), to_json(value, full)))
        .collect();
    let of_sum =
        |s: &Sum| json!({ "tensors": s.tensors, "elements": s.elements, "bytes": s.bytes });
    let types: serde_json::Map<String, Value> =
        sums.iter().map(|(name, sum)| (name.clone(), of_sum(sum))).collect();
    let tensor = |t: &TensorInfo| json!({ "name": t.name, "type": t.dtype.to_string(), "shape": t.shape, "bytes": t.bytes() });
    json!({
        "path": archive.path(),
        "kind": archive.kind().to_string(),
        "parameters": total.elements,
        "bytes": total.bytes,
        "types": types,
        "metadata": metadata,
        "tensors": archive.tensors().iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn print(
    archive: &Archive,
    sums: &IndexMap<String, Sum>,
    total: &Sum,
    full: bool,
    console: &Console,
) -> Result<(), Error> {
    let size = bytes(total.bytes);
    console.print(format!("{}: {}", archive.path().display(), archive.kind()))?;
    console.print(format!(
        "{} tensors, {} numbers, {size}",
        total.tensors,
        count(total.elements)
    ))?;
    let mut rows = vec![["TYPE", "TENSORS", "NUMBERS", "SIZE"].map(str::to_owned).to_vec()];
    for (name, sum) in sums {
        let numbers = count(sum.elements);
        rows.push(vec![name.clone(), sum.tensors.to_string(), numbers, bytes(sum.bytes)]);
    }
    console.print("")?;
    console.print_table(&rows)?;
    if !archive.metadata().is_empty() {
        console.print("")?;
        let mut rows = vec![["KEY", "VALUE"].map(str::to_owned).to_vec()];
        for (key, value) in archive.metadata().iter() {
            rows.push(vec![key.to_owned(), one_line(&to_json(value, full), full)]);
        }
        console.print_table(&rows)?;
    }
    console.print("")?;
    let mut rows = vec![["TENSOR", "TYPE", "SHAPE", "SIZE"].map(str::to_owned).to_vec()];
    for tensor in archive.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let size = tensor.bytes().map_or_else(|| "unknown".to_owned(), |n| bytes(n as u64));
        rows.push(vec![tensor.name.clone(), tensor.dtype.to_string(), shape.join(" x "), size]);
    }
    console.print_table(&rows)
}

/// Text without quotes, cut to a line's length unless all is asked for.
fn one_line(value: &Value, full: bool) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(100) {
        Some((end, _)) if !full => format!("{}...", &text[..end]),
        _ => text,
    }
}

fn to_json(value: &Stored, full: bool) -> Value {
    match value {
        Stored::U8(x) => json!(x),
        Stored::I8(x) => json!(x),
        Stored::U16(x) => json!(x),
        Stored::I16(x) => json!(x),
        Stored::U32(x) => json!(x),
        Stored::I32(x) => json!(x),
        Stored::U64(x) => json!(x),
        Stored::I64(x) => json!(x),
        Stored::F32(x) => float(f64::from(*x), x.to_string()),
        Stored::F64(x) => float(*x, x.to_string()),
        Stored::Bool(x) => json!(x),
        Stored::String(x) => json!(x),
        Stored::Array(array) if full || array.len() <= ARRAY_HEAD => {
            items(array, array.len(), full)
        }
        Stored::Array(array) => {
            json!({ "array": array.kind(), "length": array.len(), "head": items(array, ARRAY_HEAD, full) })
        }
    }
}

/// The shortest digits that give the number back; JSON has no NaN, so that becomes text.
fn float(x: f64, text: String) -> Value {
    if !x.is_finite() {
        return json!(text);
    }
    text.parse().ok().map_or(Value::Null, |x: f64| json!(x))
}

fn items(array: &Array, n: usize, full: bool) -> Value {
    macro_rules! head {
        ($items:expr) => {
            $items.iter().take(n).map(|x| json!(x)).collect()
        };
    }
    match array {
        Array::U8(x) => head!(x),
        Array::I8(x) => head!(x),
        Array::U16(x) => head!(x),
        Array::I16(x) => head!(x),
        Array::U32(x) => head!(x),
        Array::I32(x) => head!(x),
        Array::U64(x) => head!(x),
        Array::I64(x) => head!(x),
        Array::Bool(x) => head!(x),
        Array::String(x) => head!(x),
        Array::F32(x) => x.iter().take(n).map(|x| float(f64::from(*x), x.to_string())).collect(),
        Array::F64(x) => x.iter().take(n).map(|x| float(*x, x.to_string())).collect(),
        Array::Array(x) => {
            let inner = |a: &Array| to_json(&Stored::Array(a.clone()), full);
            x.iter().take(n).map(inner).collect()
        }
    }
}
